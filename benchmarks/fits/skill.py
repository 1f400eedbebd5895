"""From held-out loss to tasks: fit the laws that `plan --metric` asks, and judge them on corpora they have not seen.

    python -m benchmarks.fits.skill RUNS ../shared/data/lawruns

-> src/distillaw/laws/data/skill.json, benchmarks/results/skill.json. RUNS holds checkouts of four public repositories:
mlfoundations/scaling (arXiv 2403.08540: 104 models of three corpora), brendel-group/llm-line (2502.12120: public models
of five corpora), mcleish7/gemstone-scaling-laws (2502.06857: 22 shapes of one; losses are in LAWRUNS), and
mlfoundations/dclm (2406.11794), whose nine models with losses are in no fit. Losses are nats/token, as printed:
C4 by mlfoundations and llm-line, on scales of their own (models of 1B to 3B are at 2.4 to 2.8 there and at 3.1 to 3.7
here), own text by Gemstones. Such differences are among what a user's are.

Every corpus is left out in turn, then every collection. Peers: the line through the other corpora's runs, and their
mean. Of a corpus left out: mean absolute error of scores and of differences between its models less than half a nat
apart, and how often 90 % intervals hold; `anchored` has been told the score of its median model.
"""

import argparse
import csv
import json
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks import ROOT
from benchmarks.fits.skill_law import Corpora, Runs, fit_skill
from benchmarks.result_file import save, typed
from distillaw.laws.skill import SkillLaw
from distillaw.runs.files import write_text

SHIPPED = ROOT / "src" / "distillaw" / "laws" / "data" / "skill.json"
CHECKPOINTS = 6
"""Most of one run that are read, spread over its losses."""
NEAR = 0.5
"""Nats between two models whose difference in score is asked."""
SIX = ("arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande", "openbookqa")
TASKS = {  # task: chance; names in mlfoundations' evaluations, in llm-line, in Gemstones
    "arc_easy": (1 / 4, "arc_easy", "ARC-Easy", "arc:easy"),
    "arc_challenge": (1 / 4, "arc_challenge", "ARC-Challenge", "arc:challenge"),
    "hellaswag": (1 / 4, "hellaswag_zeroshot", "HellaSwag", "hellaswag"),
    "piqa": (1 / 2, "piqa", "PIQA", "piqa"),
    "winogrande": (1 / 2, "winogrande", "Winogrande", "winogrande"),
    "openbookqa": (1 / 4, "openbook_qa", "OpenBookQA", "openbookqa"),
    "commonsense_qa": (1 / 5, "commonsense_qa", "CommonSenseQA", "commonsense_qa"),
    "mmlu": (1 / 4, "mmlu", "MMLU", "mmlu"),
}
AVERAGE = "six_tasks"
"""Mean of `SIX`, as many papers print."""

Judged = dict[str, dict[str, float]]
Table = dict[tuple[str, str], list[dict]]
"""(collection, corpus) -> rows: run, loss, score by task or None, and `TASK loss` where it is known."""


def main() -> None:
    """Fit, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("lawruns", type=Path)
    typed_in = parser.parse_args()
    table = {**mlfoundations(typed_in.runs / "scaling"), **llm_line(typed_in.runs / "llm-line")}
    table |= gemstones(typed_in.runs / "gemstone-scaling-laws", typed_in.lawruns / "gemstones")
    fresh = mlfoundations(typed_in.runs / "dclm")
    laws, judged, on_fresh, kept = {}, {}, {}, []
    for task in (*TASKS, AVERAGE):
        corpora, chance = of_task(table, task), chance_of(task)
        names = list(dict.fromkeys(collection for collection, _ in corpora))
        found = {
            "corpus": judge(task, corpora, chance, [[name] for name in corpora]),
            "collection": judge(task, corpora, chance, [[k for k in corpora if k[0] == n] for n in names]),
            "ladder": ladder(table, task, chance),
        }
        differences = {name: row["gain_error"] for name, row in found["corpus"].items()}
        peers = min(differences["linear"], differences["constant"])
        status = "CONVERGED" if differences["law"] < peers else "WEAKLY_IDENTIFIED"
        laws[task] = fit_skill(task, corpora, chance=chance, status=status)
        if differences["anchored"] < peers:
            kept.append(task)
        judged[task] = found
        on_fresh[task] = _mean([_told(laws[task], corpora, {k: v}) for k, v in of_task(fresh, task).items()])
        print(show(laws[task], found, on_fresh[task]), flush=True)
    record = {"command": typed(), "date": time.strftime("%Y-%m-%d"), "sources": SOURCES}
    fields = {task: _plain(laws[task]) for task in kept}
    write_text(SHIPPED, json.dumps(record | {"laws": fields}, indent=1) + "\n", known=True)
    save(
        ROOT / "benchmarks" / "results" / "skill.json",
        typed(),
        left_out=judged,
        fresh=on_fresh,
        not_shipped=sorted(set(laws) - set(kept)),
    )


SOURCES = [
    "mlfoundations/scaling at a003c49 (MIT), arXiv 2403.08540: exp_data/models and exp_data/evals",
    "brendel-group/llm-line at e57749d (MIT), arXiv 2502.12120: data/latest_pm_hf.csv",
    "mcleish7/gemstone-scaling-laws at 5f42047 (MIT), arXiv 2502.06857: "
    "benchmarks/light_eval_df.parquet, wandb_dfs hot_100b+",
]


def _plain(law: SkillLaw) -> dict:
    fields = asdict(law)
    return {name: fields[name] for name in fields if name not in ("task", "anchors")}


# --- tables ---------------------------------------------------------------------------------------------------


def mlfoundations(folder: Path) -> Table:
    """Models of a repository of this laboratory that have a C4 loss and scores, by corpus."""
    evaluations: dict[str, dict] = {}
    for path in sorted((folder / "exp_data" / "evals").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        scores = record["eval_metrics"]["icl"]
        evaluations[path.stem.removeprefix("evaluation_").removesuffix("_heavy")] = scores
        evaluations.setdefault(str(record.get("model_uuid")), scores)
    table: Table = defaultdict(list)
    for path in sorted((folder / "exp_data" / "models").glob("*.json")):
        model = json.loads(path.read_text(encoding="utf-8"))
        losses = [r["loss"] for r in model["results"] or [] if "c4_val" in str(r["val_data"])]
        scores = evaluations.get(model["name"]) or evaluations.get(str(model.get("uuid")))
        if losses and scores:
            row = {"run": model["name"], "loss": losses[0]}
            row |= {task: scores.get(name) for task, (_, name, *_) in TASKS.items() if name}
            table[folder.name, model["dataset_name"]].append(row)
    return table


def llm_line(folder: Path) -> Table:
    """Public models by pretraining corpus; checkpoints of one model are one run."""
    table: Table = defaultdict(list)
    text = (folder / "data" / "latest_pm_hf.csv").read_text(encoding="utf-8")
    for line in csv.DictReader(text.splitlines()):
        if not line["C4 Validation Loss"]:
            continue
        row: dict = {"run": line["Name"], "loss": float(line["C4 Validation Loss"])}
        for task, (_, _, name, _) in TASKS.items():
            if name:
                row[task] = float(line[f"{name} Accuracy"]) if line[f"{name} Accuracy"] else None
                row[f"{task} loss"] = float(line[f"{name} BPB"] or "nan")
        table[folder.name, line["Pretraining Data"]].append(row)
    return table


def gemstones(folder: Path, losses: Path) -> Table:
    """Checkpoints of 22 shapes: losses on their own text, scores of lighteval."""
    import pandas as pd

    read = pd.read_csv(losses / "hot_100b+.csv")
    by_step = {(r.width, r.depth, r.step): r.final_loss for r in read.itertuples()}
    last = int(read.step.max())
    table: Table = defaultdict(list)
    for name, scores in pd.read_parquet(folder / "benchmarks" / "light_eval_df.parquet").iterrows():
        width, depth, step = re.fullmatch(r"Gemstone-(\d+)x(\d+)-(?:step_(\d+)|main)", str(name)).groups()
        row = {"run": f"{width}x{depth}", "loss": by_step[int(width), int(depth), int(step or last)]}
        row |= {task: float(scores[theirs]) for task, (*_, theirs) in TASKS.items() if theirs}
        table["gemstones", "dolma"].append(row)
    return table


def of_task(table: Table, task: str) -> dict[tuple[str, str], Runs]:
    """Losses and scores of one task by corpus, a few checkpoints of each run."""
    found = {}
    for corpus, rows in table.items():
        by_run: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for row in rows:
            score = (
                row.get(task)
                if task != AVERAGE
                else None
                if any(row.get(t) is None for t in SIX)
                else np.mean([row[t] for t in SIX])
            )
            if score is not None:
                by_run[row["run"]].append((row["loss"], float(score)))
        kept = [pair for pairs in by_run.values() for pair in thinned(sorted(pairs))]
        if kept:
            loss, score = np.array(sorted(kept)).T
            found[corpus] = Runs(loss, score)
    return found


def thinned(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `CHECKPOINTS` of them, the ends among them."""
    at = np.unique(np.linspace(0, len(pairs) - 1, min(CHECKPOINTS, len(pairs))).round().astype(int))
    return [pairs[j] for j in at]


def chance_of(task: str) -> float:
    """Score of guessing."""
    return float(np.mean([TASKS[t][0] for t in SIX])) if task == AVERAGE else TASKS[task][0]


# --- judging --------------------------------------------------------------------------------------------------


def judge(task: str, corpora: Corpora, chance: float, groups: list[list]) -> Judged:
    """Every group left out in turn: errors in points and coverage, mean over corpora left out."""
    rows = []
    for group in groups:
        others = {key: runs for key, runs in corpora.items() if key not in group}
        law = fit_skill(task, others, chance=chance)
        rows += [_told(law, others, {key: corpora[key]}) for key in group]
    return _mean(rows)


def _told(law: SkillLaw, others: Corpora, new: Corpora) -> Judged:
    """What the law, the law with one score, the line and the constant make of a corpus that they have not seen."""
    loss, score = (np.concatenate([getattr(r, name) for r in others.values()]) for name in ("loss", "score"))
    slope, height = np.polyfit(loss, score, 1)
    scatter = float(np.std(score - height - slope * loss, ddof=2))
    x, y = (np.concatenate([getattr(r, name) for r in new.values()]) for name in ("loss", "score"))
    middle = int(np.argsort(x)[len(x) // 2])
    rest = np.arange(len(x)) != middle
    anchored = law.anchored((float(x[middle]), float(y[middle])))
    found = {"law": _errors(*_of_law(law, x), x, y), "anchored": _errors(*_of_law(anchored, x), x, y, rest)}
    for name, at, wide in (("linear", slope, scatter), ("constant", 0.0, float(score.std(ddof=1)))):
        level = height + slope * x if name == "linear" else np.full(len(x), score.mean())
        gains = [at * (x[j] - x[i]) for i, j in _pairs(x)]
        found[name] = _errors(_band(level, wide), _band(np.array(gains), wide * np.sqrt(2)), x, y)
    return found


def _of_law(law: SkillLaw, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    levels = [law.score((v, v, v)) for v in x]
    gains = [law.gain((x[i],) * 3, (x[i] - x[j],) * 3) for i, j in _pairs(x)]
    return tuple(np.array([(s.median, s.lower, s.upper) for s in found]).reshape(-1, 3) for found in (levels, gains))


def _band(mean: np.ndarray, sd: float) -> np.ndarray:
    return np.stack([mean, mean - 1.645 * sd, mean + 1.645 * sd], axis=1)


def _pairs(x: np.ndarray) -> list[tuple[int, int]]:
    """(worse, better) models less than `NEAR` nats apart; at most 100 of them."""
    pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if 0 < x[i] - x[j] < NEAR]
    return pairs[:: max(1, len(pairs) // 100)]


def _errors(levels: np.ndarray, gains: np.ndarray, x, y, among=slice(None)) -> dict[str, float]:
    """Mean absolute errors in points, coverage and width of 90 % intervals, of scores and of differences."""
    pairs = _pairs(x)
    true = np.array([y[j] - y[i] for i, j in pairs])

    def of(found: np.ndarray, truth: np.ndarray) -> list[float]:
        if not len(truth):
            return [float("nan")] * 3
        mean, lower, upper = found.T
        held = (truth >= lower) & (truth <= upper)
        return [100 * float(np.abs(mean - truth).mean()), float(held.mean()), 100 * float((upper - lower).mean())]

    names = ("error", "held", "width")
    row = dict(zip(names, of(levels[among], y[among]), strict=True))
    return row | {f"gain_{name}": value for name, value in zip(names, of(gains, true), strict=True)}


def _mean(rows: list[Judged]) -> Judged:
    """The mean over corpora that have a figure."""
    return {
        way: {name: float(np.nanmean([row[way][name] for row in rows])) for name in errors}
        for way, errors in (rows[0] if rows else {}).items()
    }


def ladder(table: Table, task: str, chance: float) -> dict[str, float] | None:
    """Held-out loss -> task loss -> score against the sigmoid in held-out loss, on corpora left out; points.

    Of the collection that has task losses (bits per byte of the right answer).
    """
    rows = {
        key: [r for r in found if r.get(task) and np.isfinite(r.get(f"{task} loss", np.nan))]
        for key, found in table.items()
    }
    rows = {key: found for key, found in rows.items() if found}
    if not rows:
        return None
    errors: dict[str, list[float]] = defaultdict(list)
    columns = {k: np.array([(r["loss"], r[f"{task} loss"], r[task]) for r in v]).T for k, v in rows.items()}
    for key in rows:
        others = {k: v for k, v in columns.items() if k != key}
        # each corpus its own collection: how far they differ is all that there is to learn here
        second = fit_skill(task, {(k[1], ""): Runs(v[1], v[2]) for k, v in others.items()}, chance=chance)
        direct = fit_skill(task, {(k[1], ""): Runs(v[0], v[2]) for k, v in others.items()}, chance=chance)
        slope, height = np.polyfit(*np.concatenate([v[:2] for v in others.values()], axis=1), 1)
        loss, task_loss, score = columns[key]
        for name, law, at in (
            ("from task loss", second, task_loss),
            ("two steps", second, height + slope * loss),
            ("one step", direct, loss),
        ):
            guess = np.array([law.score((v, v, v)).median for v in at])
            errors[name].append(100 * float(np.abs(guess - score).mean()))
    return {name: float(np.mean(values)) for name, values in errors.items()}


def show(law: SkillLaw, found: dict, fresh: Judged) -> str:
    """The rows of one task."""
    lines = [
        f"{law.task}: {law.status}, {len(law.corpora)} corpora, {law.models} models, "
        f"scatter {100 * law.scatter:.1f} points"
    ]
    for what, by in (("corpus", found["corpus"]), ("collection", found["collection"]), ("fresh", fresh)):
        for name, row in by.items():
            lines.append(
                f"  {what:10s} {name:9s} score {row['error']:5.1f} held {row['held']:4.0%} width {row['width']:5.1f}"
                f"   difference {row['gain_error']:5.2f} held {row['gain_held']:4.0%} width {row['gain_width']:5.1f}"
            )
    if found["ladder"]:
        lines.append("  ladder     " + ", ".join(f"{k} {v:.1f}" for k, v in found["ladder"].items()))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
