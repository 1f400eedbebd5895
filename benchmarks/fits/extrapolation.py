"""How far a fitted law can be trusted: hold out the largest runs of other people's tables, fit the rest, compare.

    python -m benchmarks.fits.extrapolation --folder FOLDER [--folder MORE...] [--out FILE] [--markdown docs/fitting.md]

A FOLDER holds one folder of CSV files per collection, as ../shared/data/lawruns does (`lawruns.py`). Files and sets
that cannot be judged are named on standard error with the reason, and the rest goes on. Of every set the largest fifth
of the runs by compute, by size and by tokens is held out in turn, and what its publication held out. A collection that
the prior was learnt from is judged with the prior of the others. One row per collection: geometric means over its
trials. Peers on the same rows, in the same run (`peers.py`): gamma = 1 with the field's threshold and a bootstrap by
row, variable projection, least squares on a quadratic; `best` is the best of the three in hindsight, trial by trial.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import distillaw as dl
from benchmarks.fits import peers
from benchmarks.fits.lawruns import FEWEST, Trial, read_folder, trials
from benchmarks.result_file import save, typed
from benchmarks.worlds_study.page import filled
from distillaw.errors import DataError, DistillawError
from distillaw.fitting.problem import learnt_exponents
from distillaw.fitting.result import FitResult
from distillaw.table import Table, number, text

NEAR = 0.15
"""Of ln compute: runs that one budget would buy."""


def ours(trial: Trial) -> tuple[np.ndarray, np.ndarray, np.ndarray, FitResult]:
    """Losses everywhere, ends of the held-out intervals, and the fit, at the defaults but for the prior's own runs."""
    prior = learnt_exponents(trial.runs.collection)
    result = dl.fit(trial.table(), family="supervised", check=False, bootstrap=400, priors=prior)
    runs, held = trial.runs, trial.held
    p = result.predict(params=runs.N[held], tokens=runs.D[held], level=peers.LEVEL)
    return result.law(params=runs.N, tokens=runs.D), p.lower, p.upper, result


def rms(trial: Trial, predicted: np.ndarray) -> float:
    """Root mean square error of ln L over the held-out rows, per cent."""
    held = trial.held
    return 100 * float(np.sqrt(np.mean(np.log(predicted[held] / trial.runs.L[held]) ** 2)))


def interval_score(L: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """Mean interval score of ln L in per cent: width plus 2/alpha times the miss; lower is better."""
    y, a, b = np.log(L), np.log(lower), np.log(upper)
    miss = np.maximum(a - y, 0) + np.maximum(y - b, 0)
    return 100 * float(np.mean(b - a + 2 / (1 - peers.LEVEL) * miss))


def equivalent_compute(trial: Trial, law: Any, predicted: np.ndarray) -> float:
    """Error in decades of compute, median: of ln loss over the fitted slope of ln L along compute at fixed D/N."""
    N, D, step = trial.runs.N[trial.held], trial.runs.D[trial.held], 0.01
    ends = [np.log(law(params=N * np.exp(s), tokens=D * np.exp(s))) for s in (-step / 2, step / 2)]
    slope = (ends[1] - ends[0]) / (2 * step)  # per unit of ln C = ln N + ln D
    error = np.log(predicted[trial.held] / trial.runs.L[trial.held]) / slope
    return float(np.median(np.abs(error)) / np.log(10))


def right_signs(trial: Trial, laws: Sequence[np.ndarray]) -> list[float] | None:
    """Share of pairs of held-out runs of nearly equal compute whose better one each law names; None without pairs."""
    runs, index = trial.runs, np.flatnonzero(trial.held)
    C, n = np.log(runs.compute), np.log(runs.N)
    i, j = (index[part] for part in np.triu_indices(len(index), k=1))
    keep = (np.abs(C[i] - C[j]) < NEAR) & (np.abs(n[i] - n[j]) >= 0.1)
    i, j = i[keep], j[keep]
    if not len(i):
        return None
    true = np.log(runs.L[i] / runs.L[j])
    return [float(np.mean(true * np.log(law[i] / law[j]) > 0)) for law in laws]


def best_runs(trial: Trial) -> np.ndarray:
    """Held-out rows that are the best of their level of compute (half a decade)."""
    level = np.floor(2 * np.log10(trial.runs.compute))
    held = np.flatnonzero(trial.held)
    return np.array([min(held[level[held] == x], key=lambda k: trial.runs.L[k]) for x in np.unique(level[held])])


def evaluate(trial: Trial) -> dict[str, Any]:
    """Everything of one trial."""
    mine, lower, upper, result = ours(trial)
    theirs, low, high, _ = peers.chinchilla(trial)
    projected = peers.variable_projection(trial)
    curved, below, above = peers.quadratic(trial)
    held = trial.runs.L[trial.held]
    errors = [rms(trial, law) for law in (mine, theirs, projected, curved)]
    scores = [interval_score(held, *ends) for ends in ((lower, upper), (low, high), (below, above))]
    inside = [float(np.mean((held >= a) & (held <= b))) for a, b in ((lower, upper), (low, high))]
    best, frontier = best_runs(trial), peers.frontier(trial)
    at_best = [100 * float(np.sqrt(np.mean(np.log(p[best] / trial.runs.L[best]) ** 2))) for p in (mine, frontier)]
    signs = right_signs(trial, (mine, theirs, curved))
    return {
        "collection": trial.runs.collection,
        "set": trial.runs.name,
        "split": trial.split,
        "held": int(trial.held.sum()),
        "errors": errors,
        "bias": 100 * float(np.mean(np.log(mine[trial.held] / held))),
        "scores": scores,
        "inside": inside,
        "decades": equivalent_compute(trial, result.law, mine),
        "best_runs": at_best,
        "signs": signs,
        "status": result.status.name,
        "gamma": result.params["gamma"],
    }


def geometric(values: Sequence[float]) -> float:
    """Geometric mean."""
    return float(np.exp(np.mean(np.log(np.maximum(values, 1e-3)))))


def by_collection(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per collection, and one of all of them, each counting once."""
    found = []
    for name in dict.fromkeys(row["collection"] for row in rows):
        own = [row for row in rows if row["collection"] == name]
        signs = [row["signs"] for row in own if row["signs"]]
        held = np.array([row["held"] for row in own])
        found.append(
            {
                "collection": name,
                "trials": len(own),
                "error": [geometric([row["errors"][k] for row in own]) for k in range(4)],
                "bias": float(np.mean([row["bias"] for row in own])),
                "hindsight": geometric([min(row["errors"][1:]) for row in own]),
                "decades": geometric([row["decades"] for row in own]),
                "inside": [float(np.average([row["inside"][k] for row in own], weights=held)) for k in (0, 1)],
                "worst": min(row["inside"][0] for row in own),
                "score": [geometric([row["scores"][k] for row in own]) for k in range(3)],
                "hindsight_score": geometric([min(row["scores"][1:]) for row in own]),
                "best_runs": [geometric([row["best_runs"][k] for row in own]) for k in (0, 1)],
                "signs": [float(np.mean([s[k] for s in signs])) for k in range(3)] if signs else None,
            }
        )
    every: dict[str, Any] = {"collection": f"all {len(found)}", "trials": len(rows)}
    for key in ("error", "score", "best_runs"):
        every[key] = [geometric(column) for column in zip(*(row[key] for row in found), strict=True)]
    for key in ("hindsight", "decades", "hindsight_score"):
        every[key] = geometric([row[key] for row in found])
    every["inside"] = [float(np.mean(column)) for column in zip(*(row["inside"] for row in found), strict=True)]
    every["bias"] = float(np.mean([row["bias"] for row in found]))
    every["worst"] = min(row["worst"] for row in found)
    signs = [row["signs"] for row in found if row["signs"]]
    every["signs"] = [float(np.mean(column)) for column in zip(*signs, strict=True)] if signs else None
    return [*found, every]


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Markdown of `by_collection`."""

    def of(values: Sequence[float] | None, digits: int) -> str | None:
        return None if values is None else " / ".join(f"{value:.{digits}f}" for value in values)

    columns = [
        text("collection"),
        number("trials"),
        text("error %: ours / gamma = 1 / varpro / quadratic (best)"),
        text("signed %"),
        text("decades of C"),
        text("in 90 %: ours (worst trial) / gamma = 1"),
        text("interval score: ours / gamma = 1 / quadratic (best)"),
        text("best run per level, %: ours / frontier"),
        text("right sign: ours / gamma = 1 / quadratic", missing="-"),
    ]
    cells = [
        (
            row["collection"],
            row["trials"],
            f"{of(row['error'], 2)} ({row['hindsight']:.2f})",
            f"{row['bias']:+.2f}",
            f"{row['decades']:.2f}",
            f"{row['inside'][0]:.2f} ({row['worst']:.2f}) / {row['inside'][1]:.2f}",
            f"{of(row['score'], 1)} ({row['hindsight_score']:.1f})",
            of(row["best_runs"], 2),
            of(row["signs"], 2),
        )
        for row in by_collection(rows)
    ]
    return Table(columns, cells)


def main() -> None:
    """Run every trial, print the table, keep what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--folder", type=Path, action="append", default=[], help="one more of them")
    parser.add_argument("--markdown", type=Path, help="replace the table `extrapolation` of this page")
    parser.add_argument("--out", type=Path, help="keep the rows of every trial")
    args = parser.parse_args()
    rows, refused = [], []
    try:
        every = [runs for folder in (*args.folders, *args.folder) for runs in read_folder(folder)]
    except DataError as error:
        sys.exit(str(error))
    for trial in (trial for runs in every for trial in trials(runs)):
        name = f"{trial.runs.collection} {trial.runs.name}, {trial.split}"
        try:
            rows.append(row := evaluate(trial))
        except DistillawError as error:  # no law of ours, so nothing to judge
            refused.append({"trial": name, "reason": str(error)})
            sys.stderr.write(f"{name}: refused, {error}\n")
            continue
        said = f"error {row['errors'][0]:.2f} % ({min(row['errors'][1:]):.2f}), inside {row['inside'][0]:.2f}"
        sys.stderr.write(f"{name}: {said}, {row['status']}\n")
    if not rows:
        sys.exit(
            f"nothing to judge in {len(every)} sets; a set needs {FEWEST} independent runs of three sizes, with "
            "columns params, tokens and loss, at two levels of compute or more"
        )
    print(table(rows).markdown())
    if args.out:
        save(args.out, typed(), collections=by_collection(rows), refused=refused, trials=rows)
    if args.markdown:
        args.markdown.write_text(
            filled(args.markdown.read_text(), rows, {"extrapolation": lambda rows: table(rows).markdown()})
        )


if __name__ == "__main__":
    main()
