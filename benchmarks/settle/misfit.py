"""Learn how far runs lie from the forms: how likely each size of the misfit is before any pilot of `settle`.

    python -m benchmarks.settle.misfit ../shared/data/lawruns --out benchmarks/results/settle_misfit.json

Every table of trained runs with teachers (shipped.py) is asked how likely it is under each size, coefficients of the
forms integrated out. The weights are those under which the tables together are most likely, with half a table for every
size added. It also says how much of the misfit all arms have in common. Other people's runs without teachers
(fits/lawruns.py) are shown beside them: where nothing was repeated or the losses are read off a picture, what looks
like misfit may be noise, so they have no vote.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.fits.lawruns import read_folder
from benchmarks.result_file import save, typed
from benchmarks.settle.shipped import tables, world
from benchmarks.settle.worlds import make_question
from distillaw.settling import noise
from distillaw.settling.belief import log_evidence
from distillaw.settling.question import NONE, PilotQuestion, PilotRun, Size

MOST = 160
"""Rows of a set, evenly: more say the same at the cube of the time."""
SHARES = (0.25, 0.5, 0.75, 0.9)
"""Of the misfit's variance, that all arms have in common."""
ADDED = 0.5


def own_tables():
    """(collection, question, runs) of the trained students of this tree, with teachers and without."""
    for name, rows in tables():
        source = world(rows)
        largest = source.sizes[-1]
        tokens = max(tokens for label, tokens in source.cells if label == largest.label)
        runs = [
            PilotRun(candidate=teacher, params=float(run.params), tokens=float(run.tokens), seed=seed, loss=run.loss)
            for cell in source.cells.values()
            for (teacher, seed), run in cell.items()
        ]
        yield name, make_question(source, largest, tokens, source.candidates, runs[0].loss), runs


def public_sets(folder):
    """The same of other people's runs, which have no teachers."""
    for found in read_folder(folder):
        order = np.argsort(found.compute)
        rows = found.take(order[np.linspace(0, len(order) - 1, min(len(order), MOST)).astype(int)])
        size = Size(label="largest", params=float(rows.N.max()), flops=6 * float(rows.N.max()))
        question = PilotQuestion(
            target=size,
            tokens=float(rows.D.max()),
            candidates=(),
            budget=1.0,
            margin=0.0,
            sizes=(size,),
            least_tokens=1,
            batch_tokens=1,
        )
        runs = [
            PilotRun(candidate=NONE, params=float(n), tokens=float(d), seed=0, loss=float(loss))
            for n, d, loss in zip(rows.N, rows.D, rows.L, strict=True)
        ]
        yield found.collection, question, runs


def shared_evidence(question, runs):
    """(S, K): ln evidence by share that arms have in common and by size of the misfit."""
    found, usual = [], noise.SHARED_MISFIT
    for share in SHARES if question.candidates else (usual,):
        noise.SHARED_MISFIT = share
        found.append(list(log_evidence(question, runs).values()))
    noise.SHARED_MISFIT = usual
    return np.array(found)


def softmax(x):
    """Shares of what is given in logarithms."""
    shares = np.exp(x - x.max())
    return shares / shares.sum()


def weights_of(chances):
    """Weights (K,) of the sizes, given ln evidence of each table (T, K)."""
    weights = np.full(chances.shape[1], 1 / chances.shape[1])
    for _ in range(200):
        given = np.array([softmax(row + np.log(weights)) for row in chances])
        weights = given.sum(0) + ADDED
        weights /= weights.sum()
    return weights


def main():
    """Ask every table, learn the weights, write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows, sizes = [], np.array(list(noise.MISFITS))
    for name, question, runs in [*own_tables(), *(one for f in args.folders for one in public_sets(f))]:
        table = shared_evidence(question, runs)
        usual = np.abs(np.array(SHARES[: len(table)]) - noise.SHARED_MISFIT).argmin()
        row = {"collection": name, "runs": len(runs), "log_evidence": list(table[usual] - table[usual].max())}
        if len(table) > 1:
            joint = softmax(table)
            row["shared"] = float(joint.sum(1) @ SHARES)
            row["misfit"] = float(np.sqrt(joint.sum(0) @ sizes**2))
            row["misfit_of_gain"] = float(np.sqrt((joint * (2 * (1 - np.array(SHARES)[:, None])) * sizes**2).sum()))
        rows.append(row)
        print({k: np.round(v, 4).tolist() if k != "collection" else v for k, v in row.items()}, flush=True)
    voting = np.array([row["log_evidence"] for row in rows if "shared" in row])
    learnt = dict(zip(sizes.tolist(), weights_of(voting).round(2).tolist(), strict=True))
    print(learnt)
    if args.out:
        save(args.out, typed(), misfits=learnt, sets=rows)


if __name__ == "__main__":
    main()
