"""Two or more budgets of a student, and a third beyond them: does the line drawn through them hold?

    python -m benchmarks.fits.paired_extrapolation [../shared/data/lawruns] [--study NAME=DIR] --out FILE

Every curve over tokens of the studies in this tree and, where the folder is given, of two public collections is cut
after each of its budgets; the loss at the next budgets, up to 3.4 times the largest that is left, is predicted as
`plan` does. For studies with students with and without a teacher the gain is predicted too, with its 90 % interval, and
compared with the difference of the runs that were held back (their own noise counted).

The share of an extrapolated change that is its standard deviation, and the floors, were chosen on these numbers
(`planning/measured.py`); `--study` adds a folder that they were not chosen on.
"""

import argparse
import itertools
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks import RESULTS, SHIPPED
from benchmarks.result_file import save, typed
from distillaw.planning.arms import DISTILLED_FLOOR, SUPERVISED_FLOOR, student_arms
from distillaw.planning.measured import measure_gain
from distillaw.runs.record import Run, StudyRecord, read_study
from distillaw.runs.table import read_table

WIDEST, NEXT = 9.5, (1.3, 3.4)
"""Ratio of the two budgets a line is drawn through, at most; of the one predicted to the larger of them."""
LEVEL = 0.9


def record_of(rows):
    """A study in memory, losses only."""
    runs = [Run(row={"purpose": "grid", "teacher_run": None, **row}, folder=None) for row in rows]
    return StudyRecord(folder=Path(), info={}, runs=runs, unfinished=(), tuning={}, problems=())


def shipped(name):
    """A table of this package: fresh students taught by the teacher alone, or by none."""
    rows = pq.read_table(SHIPPED / f"{name}_runs.parquet").to_pylist()
    split = max({r.get("split") for r in rows}, key=lambda s: sum(r.get("split") == s for r in rows))
    keep = [
        r
        for r in rows
        if r["role"] == "teacher"
        or (r["init"] == "fresh" and r["lambda"] in (0, 1) and r.get("split") == split)
    ]
    return record_of(keep)


def worlds():
    """Students of every world, by the set of arms they belong to."""
    table = read_table(RESULTS / "worlds_study.csv")
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    for world in sorted({r["world"] for r in rows}):
        keep = [
            r
            for r in rows
            if r["world"] == world
            and r["role"] == "student"
            and float(r["lambda"]) in (0, 1)
            and float(r["temperature"]) == 1
            and float(r["rescaled"]) == 1
            and r["set"] in ("windows", "other")
        ]
        found = [
            {
                "run_id": r["run_id"],
                "role": "student",
                "params": int(r["params"]),
                "tokens": int(r["tokens"]),
                "teacher_run": None if r["teacher"] == "none" else f"{r['teacher']}",
                "teacher_loss": float(r["teacher_loss"] or "nan"),
                "lambda": float(r["lambda"]),
                "seed": int(r["seed"]),
                "loss": float(r["loss"]),
                "loss_se": 0.0,
            }
            for r in keep
        ]
        if found:
            yield f"world {world}", record_of(found)


def public(folder):
    """(collection, {tokens: loss}) of curves that were trained to each budget anew."""
    grid = [read_table(folder / "active-sl-scalebench" / f"farseer_{part}.csv") for part in ("train", "test")]
    N, D, L = (np.concatenate([t[k] for t in grid]).astype(float) for k in ("N", "D", "loss"))
    yield from (("farseer", dict(zip(D[N == n], L[N == n], strict=True))) for n in np.unique(N))
    t = read_table(folder / "mlfoundations-scaling" / "overtraining_losses.csv")
    keep = np.array([v.startswith("c4_val") for v in t["val"]])
    names, (N, D, L) = t["dataset"][keep], (t[k][keep].astype(float) for k in ("N", "D", "loss"))
    for key in sorted(set(zip(names, N, strict=True))):
        at = (names == key[0]) & (key[1] == N)
        yield "mlfoundations", dict(zip(D[at], L[at], strict=True))


def triples(budgets):
    """Two budgets and one to predict."""
    for a, b, c in itertools.combinations(sorted(budgets), 3):
        if NEXT[0] < b / a < WIDEST and NEXT[0] < c / b < NEXT[1]:
            yield a, b, c


def miss(curve, a, b, c, floor):
    """Error of the line as a share of the change that it predicts, and in nats; None where the loss rose."""
    if curve[b] >= curve[a]:
        return None
    share = math.log(c / a) / math.log(b / a)
    found = floor + math.exp((1 - share) * math.log(curve[a] - floor) + share * math.log(curve[b] - floor))
    return (curve[c] - found) / (curve[b] - found), curve[c] - found


def losses(curves):
    """Rows by collection and arm: how far the line misses."""
    found = {}
    for name, arm, curve, teacher_loss in curves:
        for a, b, c in triples(curve):
            least = min(curve[a], curve[b])
            held = arm == "distilled" and least > 1.005 * DISTILLED_FLOOR * teacher_loss
            error = miss(curve, a, b, c, DISTILLED_FLOOR * teacher_loss if held else SUPERVISED_FLOOR * least)
            if error is not None:
                found.setdefault((name, arm), []).append(error)
    rows = []
    for (name, arm), errors in found.items():
        share, nats = np.array(errors).T
        rows.append(
            {
                "collection": name,
                "arm": arm,
                "n": len(nats),
                "bias_nats": float(nats.mean()),
                "rms_nats": float(np.sqrt((nats**2).mean())),
                "rms_share": float(np.sqrt(np.minimum(share**2, 4).mean())),
            }
        )
    return rows


def own_curves(name, record):
    """Every seed of every arm as a curve."""
    for size in sorted({run.params for run in record.students}):
        for arm in student_arms(record, size):
            seeds = {seed for runs in arm.runs.values() for seed in runs}
            for seed in seeds:
                curve = {b: runs[seed].loss for b, runs in arm.runs.items() if seed in runs}
                kind = "supervised" if arm.teacher is None else "distilled"
                yield name, kind, curve, arm.teacher.loss if arm.teacher else math.nan


def gains(name, record):
    """Gains beyond the budgets that are left, with their intervals, against the runs held back."""
    rng = np.random.default_rng(0)
    for size in sorted({run.params for run in record.students}):
        full = student_arms(record, size)
        if full[0].teacher is not None:
            continue
        for last in sorted(full[0].runs)[1:-1]:
            kept = [r for r in record.runs if r.row.get("role") == "teacher" or r.tokens <= 1.01 * last]
            cut = record_of([r.row for r in kept])
            arms = {arm.name: arm for arm in student_arms(cut, size)}
            for held in (b for b in full[0].runs if NEXT[0] < b / last <= 3.03):
                truth = full[0].at(held)
                for arm in full[1:]:
                    then, now = arm.at(held), arms.get(arm.name)
                    ends = (arms[full[0].name].at(held), now.at(held) if now else None)
                    if (
                        then is None
                        or then.basis != "measured"
                        or None in ends
                        or ends[1].basis != "extrapolated"
                    ):
                        continue
                    said = measure_gain(cut, ends[0], [ends[1]], rng=rng)
                    seen = measure_gain(record, truth, [then], rng=rng)
                    if said is None or seen is None:
                        continue
                    band, outcome = said.interval(0, LEVEL), seen.interval(0, LEVEL)
                    half = math.hypot(band.upper - band.mean, outcome.upper - outcome.mean)
                    yield {
                        "study": name,
                        "params": size,
                        "teacher": arm.name,
                        "ratio": held / last,
                        "said": band.mean,
                        "half": half,
                        "seen": outcome.mean,
                        "holds": abs(band.mean - outcome.mean) <= half,
                    }


def collection(name):
    """Worlds are one."""
    return "worlds" if name.startswith("world ") else name


def main():
    """Print both tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lawruns", nargs="?", type=Path)
    parser.add_argument("--study", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    records = {"open": shipped("open"), "pocket": shipped("pocket"), **dict(worlds())}
    records |= {n: read_study(Path(d)) for n, d in (pair.split("=", 1) for pair in options.study)}
    curves = [(collection(n), *rest) for n, record in records.items() for _, *rest in own_curves(n, record)]
    if options.lawruns:
        curves += [(name, "supervised", curve, math.nan) for name, curve in public(options.lawruns)]
    table = losses(curves)
    for row in table:
        print(
            "{collection:14} {arm:10} n {n:5}".format(**row),
            "bias {bias_nats:+.4f} rms {rms_nats:.4f} share {rms_share:.2f}".format(**row),
        )
    found = sorted(
        (row for n, r in records.items() for row in gains(n, r)), key=lambda r: collection(r["study"])
    )
    summary = []
    for name, group in itertools.groupby(found, key=lambda r: collection(r["study"])):
        rows = list(group)
        error = np.array([r["said"] - r["seen"] for r in rows])
        summary.append(
            {
                "study": name,
                "n": len(rows),
                "rms": float(np.sqrt((error**2).mean())),
                "bias": float(error.mean()),
                "holds": float(np.mean([r["holds"] for r in rows])),
                "half": float(np.median([r["half"] for r in rows])),
            }
        )
        print(
            "gain {study:10} n {n:4} rms {rms:.4f} bias {bias:+.4f}".format(**summary[-1]),
            "inside 90 % {holds:.0%} half width {half:.4f}".format(**summary[-1]),
        )
    if options.out:
        save(options.out, typed(), losses=table, gains=summary)


if __name__ == "__main__":
    main()
