r"""docs/worlds-study.md: what one world with an exact oracle says about distillation.

for s in causal causal-ways causal-trained causal-large-batch causal-rate-half causal-rate-double surface \
    weight-05-1 weight-1-2; do distillaw study run studies/worlds/$s.toml --out out/worlds-study; done
distillaw study run studies/worlds/hmm-a.toml --out out/hmm-a
python -m benchmarks.worlds_study.run --runs out/worlds-study out/hmm-a      # runs -> worlds_study.csv and .npz
python -m benchmarks.worlds_study.run                            # these -> worlds_study.json, tables and figures

The .csv has one line per run, the .npz its held-out loss document by document: all that the page says can be computed
again without the folder of runs. A student whose logits were divided by its own best temperature is one more line
(`set` = rescaled).
"""

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np

from benchmarks import RESULTS
from distillaw.runs.files import read_json, write_json, write_with
from distillaw.runs.paired import read_scores

FILE = RESULTS / "worlds_study.json"
TABLE, SCORES = FILE.with_suffix(".csv"), FILE.with_suffix(".npz")
RATE, BATCH = 0.0055, 512
"""Of all runs but those that check the rate."""
COLUMNS = (
    "world",
    "run_id",
    "group",
    "set",
    "role",
    "size",
    "params",
    "tokens",
    "budget",
    "teacher",
    "teacher_loss",
    "lambda",
    "temperature",
    "seed",
    "peak_lr",
    "batch_tokens",
    "rescaled",
    "loss",
    "loss_se",
    "seconds",
)
IDENTITY = ("world", "role", "size", "budget", "teacher", "lambda", "temperature", "seed", "peak_lr", "batch_tokens")
RESCALED = (
    "none",
    "oracle",
    "oracle:window=4",
    "oracle:window=3",
    "oracle:loss=3.568,by=noise",
    "oracle:loss=3.568,by=temperature",
    "oracle:loss=3.568,by=uniform",
)
"""Teachers whose students are scored again, each with its own best temperature."""
RESCALED_AT = ("0.1M", 300_000)


def collect(folders: list[Path]) -> None:
    """Read every finished run, score some again, and write the table and the scores."""
    rows, sums, seen = [], [], set()
    for folder in folders:
        world = read_json(folder / "study.json")["data"]["corpus"]
        for path in sorted(folder.glob("runs/*/result.json")):
            row = {"world": world} | row_of(read_json(path), read_json(path.parent / "spec.json"), folder)
            row["set"] = set_of(row) if folder == folders[0] else "other"
            if (what := tuple(row[key] for key in IDENTITY)) in seen:
                continue  # a student without a teacher is the same run whatever lambda its file names
            seen.add(what)
            scores = read_scores(path.parent / "heldout.parquet")
            rows.append(row)
            sums.append(scores.loss_sum)
            if folder == folders[0] and is_rescaled(row):
                rows.append(rescaled(row, path.parent, folder, sums))
    known = {row["teacher"] for row in rows if row["set"] == "rescaled"} - {"none"}
    rows += [rescaled_teacher(name, rows[0]["world"], folders[0], sums) for name in RESCALED if name in known]
    write_rows(rows)
    write_with(SCORES, lambda p: save_scores(p, np.float32(sums), scores.tokens), known=True)


def save_scores(path: Path, sums, tokens) -> None:
    """One row of `sums` per line of the table."""
    with path.open("wb") as file:
        np.savez_compressed(file, sums=sums, tokens=np.int32(tokens))


def row_of(result, spec, folder: Path) -> dict:
    """One line of the table."""
    row = {key: result[key] for key in COLUMNS if key in result}
    if result["teacher_run"] is None:
        row["temperature"] = 1.0
    row["size"], row["budget"] = spec["label"], int(str(result["run_id"]).rsplit("-", 1)[1].rstrip("t"))
    row["teacher"] = teacher_name(result["teacher_run"], folder)
    row["rescaled"] = 1.0
    return row


def teacher_name(run: str | None, folder: Path) -> str:
    """`none`, the oracle's name, or size and tokens of a trained one."""
    if run is None or run.startswith("oracle"):
        return run or "none"
    spec = read_json(folder / "runs" / run / "spec.json")
    return f"{spec['label']}@{round(spec['tokens'] / 1000):d}k"


def set_of(row) -> str:
    """Which question a run belongs to: the laws are fitted to the set `windows`."""
    if row["role"] == "teacher":
        return "teachers"
    if row["peak_lr"] != RATE or row["batch_tokens"] != BATCH:
        return "rate"
    if row["lambda"] not in (0.0, 1.0) or row["temperature"] != 1.0:
        return "weight"
    plain = row["teacher"] in ("none", "oracle") or "window" in row["teacher"]
    return "windows" if plain else "ways"


def is_rescaled(row) -> bool:
    """Whether this student is scored again."""
    return (
        row["set"] in ("windows", "ways") and (row["size"], row["budget"]) == RESCALED_AT and row["teacher"] in RESCALED
    )


def rescaled(row, run: Path, folder: Path, sums: list) -> dict:
    """The student's line with its logits divided by the temperature that is best for it on the held-out text."""
    from benchmarks.worlds_study.rescale import rescaled_student

    scale, loss_sum, loss = rescaled_student(run, folder / "data")
    sums.append(loss_sum)
    return row | {"run_id": row["run_id"] + "-rescaled", "set": "rescaled", "rescaled": scale, "loss": loss}


def rescaled_teacher(name: str, world: str, folder: Path, sums: list) -> dict:
    """A line for an oracle with its own best temperature."""
    from benchmarks.worlds_study.rescale import rescaled_oracle

    scale, loss_sum, loss = rescaled_oracle(name, folder / "data")
    sums.append(loss_sum)
    line = dict.fromkeys(COLUMNS) | {"run_id": f"{name}-rescaled", "role": "teacher", "set": "rescaled"}
    return line | {"world": world, "teacher": name, "rescaled": scale, "loss": loss}


def write_rows(rows) -> None:
    """The table, as CSV."""

    def save(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: "" if row[k] is None else row[k] for k in COLUMNS} for row in rows)

    write_with(TABLE, save, known=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", help="folders of studies, the page's own first: read them anew")
    arguments = parser.parse_args()
    if arguments.runs:
        collect(arguments.runs)
        return
    from benchmarks.worlds_study.answers import answers
    from benchmarks.worlds_study.figures import draw
    from benchmarks.worlds_study.page import PAGE, TABLES, filled
    from benchmarks.worlds_study.pairs import read_study

    began = time.process_time()
    found = answers(read_study(TABLE, SCORES), TABLE)
    write_json(FILE, found)
    found = json.loads(FILE.read_text(encoding="utf-8"))
    if PAGE.exists():
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found, TABLES), encoding="utf-8")
    draw(found)
    print(f"{FILE}: {time.process_time() - began:.0f} s of CPU time")


if __name__ == "__main__":
    main()
