"""Which size for a given bill? Chosen by a law of the smaller runs of public tables, and by 20 tokens per parameter.

    python -m benchmarks.fits.sizes --folder FOLDER [--folder MORE...] [--out FILE]

Folders as for `fits.extrapolation`. Of every set the largest fifth by compute is held out; a bill is that of held-out
runs of at least three sizes at nearly equal compute, of which one must be taken, for training alone or with serving,
which costs as much. Regret: ln of the loss of the run that is taken over the best, per cent, mean over a collection's
bills. Chosen as `plan` does: by the law, where nothing is served with its weak pull towards 20 tokens per parameter.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

import distillaw as dl
from benchmarks.fits import peers
from benchmarks.fits.lawruns import Trial, read_folder, trials
from benchmarks.result_file import save, typed
from distillaw.errors import DistillawError
from distillaw.fitting.problem import learnt_exponents
from distillaw.planning.options import SIZE_PRIOR, USUAL_RATIO
from distillaw.table import Table, number, text

NEAR = 0.15
"""Of ln compute: runs that one bill would buy."""
APART = 0.1
"""Of ln N: other sizes."""
SERVING = {"alone": 0.0, "served": 3.0}
"""Tokens served, of the median tokens of training: three times cost as much as training."""
WAYS = ("law", "quadratic", "20 tokens per parameter")


def regrets(trial: Trial) -> dict[str, list[dict[str, Any]]]:
    """By kind of bill one row each: what each way loses, per cent, and the tokens per parameter of the best run."""
    runs, index = trial.runs, np.flatnonzero(trial.held)
    prior = learnt_exponents(runs.collection)
    law = dl.fit(trial.table(), family="supervised", check=False, bootstrap=20, priors=prior).law
    N, D, L = runs.N[index], runs.D[index], runs.L[index]
    by_law, by_quadratic = law(params=N, tokens=D), peers.quadratic(trial)[0][index]
    away = np.log(D / N / USUAL_RATIO)
    found = {}
    for kind, served in SERVING.items():
        pull = 1 + (0 if served else SIZE_PRIOR) * away**2
        ways = dict(zip(WAYS, (by_law * pull, by_quadratic, np.abs(away)), strict=True))
        found[kind] = []
        for level in bills(6 * N * D + 2 * N * served * np.median(D), N):
            best = level[np.argmin(L[level])]
            lost = {way: 100 * float(np.log(L[level][np.argmin(s[level])] / L[best])) for way, s in ways.items()}
            known = {"collection": runs.collection, "set": runs.name, "ratio": float(D[best] / N[best])}
            found[kind].append(known | lost)
    return found


def bills(flop: np.ndarray, N: np.ndarray) -> list[np.ndarray]:
    """Runs of nearly equal compute, at least three sizes each."""
    found, left = [], list(np.argsort(flop))
    while left:
        level = np.array([i for i in left if np.log(flop[i] / flop[left[0]]) <= NEAR])
        left = left[len(level) :]
        if len(np.unique(np.round(np.log(N[level]) / APART))) >= 3:
            found.append(level)
    return found


def by_collection(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means of each collection, and of these."""
    found = []
    for name in dict.fromkeys(row["collection"] for row in rows):
        own = [row for row in rows if row["collection"] == name]
        means = {way: float(np.mean([row[way] for row in own])) for way in WAYS}
        found.append(
            {"collection": name, "bills": len(own), "ratio": float(np.median([r["ratio"] for r in own]))} | means
        )
    means = {way: float(np.mean([row[way] for row in found])) for way in WAYS}
    return [*found, {"collection": f"all {len(found)}", "bills": len(rows), "ratio": None} | means]


def table(found: dict[str, list[dict[str, Any]]]) -> Table:
    """Both bills, one below the other."""
    columns = [text("bill"), text("collection"), number("bills"), text("tokens per parameter of the best", missing="-")]
    rows = [
        (bill, r["collection"], r["bills"], r["ratio"] and f"{r['ratio']:.0f}", *(f"{r[way]:.2f}" for way in WAYS))
        for bill, part in found.items()
        for r in part
    ]
    return Table([*columns, *(text(f"{way}, regret %") for way in WAYS)], rows)


def main() -> None:
    """Every set of every folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, help="keep the rows of every bill")
    args = parser.parse_args()
    split = [t for folder in args.folder for runs in read_folder(folder) for t in trials(runs) if t.split == "compute"]
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in SERVING}
    for trial in split:
        try:
            for kind, rows in regrets(trial).items():
                found[kind] += rows
        except DistillawError as error:
            print(f"{trial.runs.collection} {trial.runs.name}: refused, {error}")
    means = {kind: by_collection(rows) for kind, rows in found.items() if rows}
    if not means:
        sys.exit("nothing to judge: no held-out runs of three sizes at one compute (as of isoFLOP curves)")
    print(table(means).markdown())
    if args.out:
        save(args.out, typed(), collections=means, bills=found)


if __name__ == "__main__":
    main()
