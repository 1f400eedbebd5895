"""Two to four budgets of a student, and one up to ten times beyond them: does the curve drawn through them hold?

    python -m benchmarks.fits.paired_extrapolation ../shared/data/lawruns [MORE ...] [--study NAME=DIR] --out FILE

Curves over tokens of the studies in this tree and of public collections of runs that ended their schedules (folders as
`benchmarks/fits/lawruns.py` reads them) lose their largest budgets; the loss there is predicted as `plan` does, and by
the straight line in ln(loss - floor) through the last two budgets that it had before (docs/verdict.md). For studies
with students with and without a teacher the gain is predicted too, with its 90 % interval, and compared with the
difference of the runs that were held back (their own noise counted).

Priors and drift of `planning/arms.py` were chosen on `CHOSEN`; what else is read judges them.
"""

import argparse
import itertools
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks import RESULTS, SHIPPED
from benchmarks.fits.lawruns import read_folder
from benchmarks.result_file import save, typed
from benchmarks.trunks import world_students
from distillaw.planning.arms import NOISE, REACH, draw_on, student_arms
from distillaw.planning.gains import CURVE_DOF
from distillaw.planning.measured import measure_gain
from distillaw.runs.paired import t_quantile
from distillaw.runs.record import Run, StudyRecord, read_study

CHOSEN = ("farseer", "gemstones", "kyo-takano-chinchilla", "mlfoundations", "open", "worlds")
OWN = ("open", "worlds", "pocket", "capacity_gap", "wager")
BANDS = {"1.5": (1.2, 2.2), "3": (2.2, 5.0), "10": (5.0, 1.1 * REACH)}
"""Ratios of the budget that is predicted to the largest that is left, by what they stand for."""
DRAWS, MOST = 6, 60
"""Cuts tried of one curve; trials of one collection and arm in a band."""
LEVEL = 0.9


def record_of(rows):
    """A study in memory, losses only: what rates may cost is another doubt (docs/rates.md)."""
    unsaid = {"peak_lr": None, "branch_lr": None}
    runs = [Run(row={"purpose": "grid", "teacher_run": None, **row, **unsaid}, folder=None) for row in rows]
    return StudyRecord(folder=Path(), info={}, runs=runs, unfinished=(), tuning={}, problems=())


def tabled(path):
    """A table of a study's runs: fresh students taught by the teacher alone, or by none."""
    rows = pq.read_table(path).to_pylist()
    split = max({r.get("split") for r in rows}, key=lambda s: sum(r.get("split") == s for r in rows))
    keep = [
        r
        for r in rows
        if r["role"] == "teacher" or (r["init"] == "fresh" and r["lambda"] in (0, 1) and r.get("split") == split)
    ]
    return record_of(keep)


def worlds():
    """Students of every world, by the set of arms they belong to."""
    rows = list(world_students("windows", "other"))
    for world in sorted({r["world"] for r in rows}):
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
            for r in rows
            if r["world"] == world
        ]
        yield f"world {world}", record_of(found)


def public(folder):
    """(collection, size, {tokens: loss}) of curves whose every run ended its schedule."""
    for runs in read_folder(folder):
        if runs.collection == "mlfoundations-scaling" and "c4_val" not in runs.name:
            continue
        if runs.collection == "gemstones" and not runs.name.startswith("cool_end"):
            continue
        if not runs.name.startswith("data_constrained"):
            name = {"mlfoundations-scaling": "mlfoundations", "active-sl-scalebench": "farseer"}
            for size in np.unique(runs.N):
                at = size == runs.N
                curve = {}
                for tokens, loss in zip(runs.D[at], runs.L[at], strict=True):
                    curve[tokens] = min(loss, curve.get(tokens, math.inf))
                yield name.get(runs.collection, runs.collection), size, curve


def band_of(ratio):
    """Its name in `BANDS`."""
    return next(name for name, (low, high) in BANDS.items() if low < ratio <= high)


def cuts(curve, rng):
    """Up to four budgets of a curve and one beyond them."""
    found, budgets = set(), sorted(curve)
    for _ in range(DRAWS if len(budgets) > 2 else 0):
        left = int(rng.integers(2, min(4, len(budgets) - 1) + 1))
        last = int(rng.integers(left - 1, len(budgets) - 1))
        kept = *(budgets[i] for i in sorted(rng.choice(last, size=left - 1, replace=False))), budgets[last]
        beyond = [b for b in budgets if BANDS["1.5"][0] < b / kept[-1] < BANDS["10"][1]]
        if beyond and 1.5 < kept[-1] / kept[0] < 40:
            found.add((kept, float(rng.choice(beyond))))
    return sorted(found)


def line(budgets, losses, tokens, teacher_loss):
    """What `plan` did before: loss and standard deviation of its curve."""
    (a, b), least = losses[-2:], min(losses)
    floor = 0.99 * (teacher_loss or 0.0)
    floor = floor if least > 1.005 * floor > 0 else 0.7 * least
    share = math.log(tokens / budgets[-2]) / math.log(budgets[-1] / budgets[-2])
    found = floor + math.exp((1 - share) * math.log(a - floor) + share * math.log(b - floor))
    slopes = (1 - share) / (a - floor), share / (b - floor)
    ends = NOISE * b * (found - floor) * math.hypot(*slopes)
    return found, math.hypot(0.3 * (found - b), ends)


def losses(curves):
    """Rows by collection, arm and band: how far curve and line miss, relative, and how often 90 % intervals hold."""
    tried = {}
    for k, (name, arm, params, curve, teacher_loss) in enumerate(curves):
        rng = np.random.default_rng(k)
        teacher = teacher_loss if arm == "distilled" else None
        for kept, beyond in cuts(curve, rng):
            seen, before = curve[beyond], [curve[b] for b in kept]
            row = []
            for said, sd, *_ in (
                draw_on(kept, before, beyond, params=params, teacher_loss=teacher),
                line(kept, before, beyond, teacher),
            ):
                half = t_quantile(0.5 + LEVEL / 2, CURVE_DOF) * math.hypot(sd, NOISE * seen)
                row.append((said / seen - 1, abs(said - seen) < half, sd / seen))
            tried.setdefault((name, arm, band_of(beyond / kept[-1])), []).append(row)
    rows = []
    for (name, arm, band), found in sorted(tried.items()):
        keep = np.random.default_rng(0).permutation(len(found))[:MOST]
        (miss, holds, sd), (miss_line, holds_line, _) = np.array(found, dtype=float)[keep].transpose(1, 2, 0)
        rows.append(
            {
                "collection": name,
                "is_judge": name not in CHOSEN,
                "arm": arm,
                "times": band,
                "n": len(miss),
                "rms": float(np.sqrt((miss**2).mean())),
                "bias": float(miss.mean()),
                "holds": float(holds.mean()),
                "sd": float(np.median(sd)),
                "line_rms": float(np.sqrt((miss_line**2).mean())),
                "line_holds": float(holds_line.mean()),
            }
        )
    return rows


def markdown(rows):
    """The table of docs/verdict.md: collections of one kind together, each trial counting once."""
    lines = ["| curves | times | n | error (line) | inside 90 % (line) |", "| --- | --- | --- | --- | --- |"]
    for (is_judge, kind), group in itertools.groupby(sorted(rows, key=_kind), key=_kind):
        group = list(group)
        names = ", ".join(sorted({row["collection"] for row in group}))
        for times in BANDS:
            part = [row for row in group if row["times"] == times]
            n = np.array([row["n"] for row in part])
            if not part:
                continue
            mean = {key: float(n @ [row[key] for row in part] / n.sum()) for key in ("holds", "line_holds")}
            rms = {k: math.sqrt(n @ [row[k] ** 2 for row in part] / n.sum()) for k in ("rms", "line_rms")}
            what = f"{kind}, {'judged' if is_judge else 'chosen on'} ({names})"
            lines.append(
                f"| {what} | {times} | {n.sum()} | {rms['rms']:.2%} ({rms['line_rms']:.2%}) | "
                f"{mean['holds']:.0%} ({mean['line_holds']:.0%}) |".replace("%", " %")
            )
    return lines


def _kind(row):
    own = "text, own studies" if row["collection"] in OWN else "text, public"
    return row["is_judge"], "from a teacher" if row["arm"] == "distilled" else own


def own_curves(name, record):
    """Every seed of every arm as a curve."""
    for size in sorted({run.params for run in record.students}):
        for arm in student_arms(record, size):
            seeds = {seed for runs in arm.runs.values() for seed in runs}
            for seed in seeds:
                curve = {b: runs[seed].loss for b, runs in arm.runs.items() if seed in runs}
                kind = "supervised" if arm.teacher is None else "distilled"
                yield name, kind, size, curve, arm.teacher.loss if arm.teacher else math.nan


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
            for held in (b for b in full[0].runs if BANDS["1.5"][0] < b / last <= REACH):
                truth = full[0].at(held)
                for arm in full[1:]:
                    then, now = arm.at(held), arms.get(arm.name)
                    ends = (arms[full[0].name].at(held), now.at(held) if now else None)
                    if then is None or then.basis != "measured" or None in ends or ends[1].basis != "extrapolated":
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
                        "times": band_of(held / last),
                        "said": band.mean,
                        "half": half,
                        "seen": outcome.mean,
                        "holds": abs(band.mean - outcome.mean) <= half,
                    }


def collection(name):
    """Worlds are one."""
    return "worlds" if name.startswith("world ") else name


def _place(row):
    return collection(row["study"]), row["times"]


def main():
    """Print both tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--study", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tables = {name: SHIPPED / f"{name}_runs.parquet" for name in ("open", "pocket", "capacity_gap")}
    tables["wager"] = RESULTS.parents[1] / "studies" / "wager_runs.parquet"
    records = {name: tabled(path) for name, path in tables.items()} | dict(worlds())
    records |= {n: read_study(Path(d)) for n, d in (pair.split("=", 1) for pair in options.study)}
    curves = [(collection(n), *rest) for n, record in records.items() for _, *rest in own_curves(n, record)]
    for folder in options.folders:
        curves += [(name, "supervised", size, curve, math.nan) for name, size, curve in public(folder)]
    table = losses(curves)
    for row in table:
        print(
            "{collection:20} {arm:10} x{times:4} n {n:3} bias {bias:+.4f} rms {rms:.4f}".format(**row),
            "(line {line_rms:.4f}) inside {holds:.0%} ({line_holds:.0%}) sd {sd:.4f}".format(**row),
            "judge" * row["is_judge"],
        )
    print("", *markdown(table), "", sep="\n")
    found = sorted((row for n, r in records.items() for row in gains(n, r)), key=_place)
    summary = []
    for (name, times), group in itertools.groupby(found, key=_place):
        rows = list(group)
        error = np.array([r["said"] - r["seen"] for r in rows])
        summary.append(
            {
                "study": name,
                "is_judge": name not in CHOSEN,
                "times": times,
                "n": len(rows),
                "rms": float(np.sqrt((error**2).mean())),
                "bias": float(error.mean()),
                "holds": float(np.mean([r["holds"] for r in rows])),
                "half": float(np.median([r["half"] for r in rows])),
            }
        )
        print(
            "gain {study:12} x{times:4} n {n:3} rms {rms:.4f} bias {bias:+.4f}".format(**summary[-1]),
            "inside {holds:.0%} half width {half:.4f}".format(**summary[-1]),
        )
    if options.out:
        save(options.out, typed(), losses=table, gains=summary)


if __name__ == "__main__":
    main()
