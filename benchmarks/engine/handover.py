"""What is left of the gain of distilling when a run ends on the text alone, from the runs of studies/handover.toml.

    python -m benchmarks.engine.handover FOLDER... --out benchmarks/results/handover.json

Every way has the best of its rates by the mean over seeds, which flatters all ways alike.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.result_file import save, typed
from distillaw.runs.files import read_json


def losses(folder: Path) -> dict[tuple[int, tuple[float, ...] | None], dict[float, dict[int, float]]]:
    """(tokens, shares of them between which lambda falls, or None without a teacher) -> rate -> seed -> loss."""
    found: dict = defaultdict(lambda: defaultdict(dict))
    for file in sorted(folder.glob("runs/*/result.json")):
        result = read_json(file)
        if result["role"] != "student":
            continue
        recipe, tokens = read_json(file.with_name("spec.json"))["recipe"], result["tokens"]
        way = tuple(round(place / tokens, 2) for place in recipe["distill_until"]) if result["teacher_run"] else None
        found[tokens, way][result["peak_lr"]][result["seed"]] = result["loss"]
    return found


def teacher(folder: Path) -> float:
    """Held-out loss of the one teacher."""
    (loss,) = {read_json(file)["loss"] for file in folder.glob("runs/teacher-*/result.json")}
    return loss


def table(folder: Path) -> list[dict[str, object]]:
    """A row for each budget and way."""
    found, rows = losses(folder), []
    seeds = max(len(runs) for rates in found.values() for runs in rates.values())
    best = {
        key: min((float(np.mean(list(runs.values()))), rate) for rate, runs in rates.items() if len(runs) == seeds)
        for key, rates in found.items()
    }
    for (tokens, way), (loss, rate) in sorted(best.items(), key=lambda item: (item[0][0], str(item[0][1]))):
        alone, taught = best[tokens, None][0], best[tokens, ()][0]
        by_rate = {f"{lr:.4g}": dict(sorted(found[tokens, way][lr].items())) for lr in sorted(found[tokens, way])}
        rows.append(
            {
                "tokens": tokens,
                "lambda_falls": "no teacher" if way is None else list(way) or "never",
                "peak_lr": rate,
                "at_edge": rate in (min(found[tokens, way]), max(found[tokens, way])),
                "loss": loss,
                "gain": alone - loss,
                "kept": (alone - loss) / (alone - taught),
                "losses": by_rate,
            }
        )
        print(f"{tokens:8,} {rows[-1]['lambda_falls']!s:14} {loss:.3f} {alone - loss:+.3f} {rows[-1]['kept']:.2f}")
    return rows


def main() -> None:
    """The table of docs/verdict.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found = {folder.name: {"teacher": teacher(folder), "rows": table(folder)} for folder in asked.folders}
    if asked.out:
        save(asked.out, typed(), study="studies/handover.toml", texts=found)


if __name__ == "__main__":
    main()
