"""What a study saves against running each of its cells alone, and whether the losses stay the same.

    python -m benchmarks.studies.saving --out benchmarks/results/study_saving.json            # about 15 CPU minutes
    python -m benchmarks.studies.saving --folder out/mine --out ...                           # FLOP of a study on disk
    python -m benchmarks.studies.saving --shipped                        # what each way saves in the studies we ship

Measured: a small study on the shipped speeches is run by `distillaw study run`, then every cell of it again by
`distillaw train`, one after another, with the teacher, rate and batch that the study found. CPU seconds of the whole
process tree, from the operating system; both read the same token shards, so tokenising is counted for neither.
Counted: FLOP of every study given, executed against each cell alone, and against what one would spend who runs each
cell alone as carefully: a rate search per cell, and every seed everywhere.

Equivalence: two one-sided tests, paired by held-out document, with a quarter of the smallest gain that the study
reports as the margin.
"""

import argparse
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from scipy import stats

from benchmarks import SHIPPED
from distillaw.data.prepare import prepare_data
from distillaw.figures.compute import compute_spent
from distillaw.runs.files import write_json
from distillaw.runs.paired import DocumentScores, PairedDifference, paired_difference, read_scores, t_quantile
from distillaw.runs.record import Run, StudyRecord, read_study
from distillaw.sweep.checks import load_study

WAYS = (("branches", True, False), ("shared_forward", False, True), ("both", True, True))
"""What a study does that cells run alone do not."""
COOLDOWN = 0.2
"""Share of a budget that its branch trains again."""
SEARCH_RUNS = 3
"""Rates that one tries at least for a cell run alone: the best and its two neighbours."""
STUDY = """
name = "saving"
batch_tokens = 256
peak_lr = 0.011
data = { corpus = "sotu", vocab_size = 512 }
students = { params = ["0.08M", "0.15M"], tokens = ["26k", "51k", "102k", "205k"] }
teachers = [{ params = "0.15M", tokens = "102k" },
  { params = "0.3M", tokens = "205k" }, { params = "0.3M", tokens = "410k" }]
tuning = { enabled = false }
target = { params = "0.15M", tokens = "205k" }
"""


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, action="append", default=[], help="count the FLOP of this study too")
    parser.add_argument("--shipped", action="store_true", help="only count what each way saves in shipped studies")
    parser.add_argument("--counted-only", action="store_true", help="do not train anything")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.shipped:
        print(json.dumps([apart(name) for name in ("pocket", "open", "capacity_gap")], indent=2))
        return
    found: dict[str, object] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": platform.processor(),
        "cores": os.cpu_count(),
    }
    if not args.counted_only:
        with tempfile.TemporaryDirectory() as temporary:
            found["measured"] = measure(Path(temporary))
    found["counted"] = [count(folder) for folder in args.folder]
    if args.out:
        write_json(args.out, found)
    print(json.dumps(found, indent=2))


# --- measured ---------------------------------------------------------------------------------------------------


def measure(home: Path) -> dict[str, object]:
    """The small study, then each of its cells alone."""
    file, shared = home / "study.toml", home / "shared"
    file.write_text(STUDY)
    spec = load_study(file)
    prepare_data(spec.data, shared / "data")
    study_seconds = cpu_seconds("study", "run", str(file), "--out", str(shared), "--quiet", "--workers", "1")
    record = read_study(shared)
    alone_seconds, gaps = 0.0, []
    for number, run in enumerate([*record.students, *record.teachers.values()]):
        folder = home / f"alone-{number}"
        seconds = run_alone(run, shared, folder)
        alone_seconds += seconds
        print(f"{run.run_id}: {seconds:.1f} CPU s alone", file=sys.stderr)
        if run.row["role"] == "student":  # alone, a teacher reads the students' half
            gaps.append(paired_difference(scores_of(run.folder), scores_of(next(folder.glob("runs/*")))))
    gain = smallest_gain(record)
    return {
        "cells": len(record.runs),
        "study_cpu_seconds": study_seconds,
        "alone_cpu_seconds": alone_seconds,
        "cpu_ratio": study_seconds / alone_seconds,
        **count(shared),
        "smallest_gain": gain,
        "largest_difference": max(abs(gap.mean) for gap in gaps),
        "equivalence_p": max(equivalence_p(gap, gain / 4) for gap in gaps),
    }


def run_alone(run: Run, shared: Path, folder: Path) -> float:
    """One cell by `distillaw train`, with the study's tokens, teacher, rate and batch; its CPU seconds."""
    shutil.copytree(shared / "data", folder / "data")
    lines = [
        'name = "alone"',
        f'params = "{run.label}"',
        f"tokens = {run.tokens}",
        f"peak_lr = {run.row['peak_lr']!r}",
        f"batch_tokens = {run.row['batch_tokens']}",
        f"seed = {run.seed}",
        'data = { corpus = "sotu", vocab_size = 512 }',
    ]
    if run.teacher_run:
        lines.append(f'teacher = "{shared / "runs" / run.teacher_run}"')
    file = folder.with_suffix(".toml")
    file.write_text("\n".join(lines))
    return cpu_seconds("train", str(file), "--out", str(folder), "--quiet")


def cpu_seconds(*words: str) -> float:
    """CPU seconds of a distillaw command and all its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "distillaw", *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def scores_of(folder: Path | None) -> DocumentScores:
    """Held-out losses by document."""
    assert folder is not None
    return read_scores(folder / "heldout.parquet")


def smallest_gain(record: StudyRecord) -> float:
    """The smallest difference from training alone that the study tells from zero at 90 %, nats/token."""
    alone = {(run.params, run.tokens, run.seed): run for run in record.students if run.teacher_run is None}
    gains = []
    for run in record.students:
        if run.teacher_run is not None:
            base = alone[run.params, run.tokens, run.seed]
            gap = paired_difference(scores_of(run.folder), scores_of(base.folder))
            if abs(gap.mean) > t_quantile(0.95, gap.dof) * gap.se:
                gains.append(abs(gap.mean))
    return min(gains)


def equivalence_p(gap: PairedDifference, margin: float) -> float:
    """P value of two one-sided t tests that the difference lies within +- margin."""
    if gap.se == 0:
        return 0.0 if abs(gap.mean) < margin else 1.0
    return float(stats.t.sf((margin - abs(gap.mean)) / gap.se, gap.dof))


# --- counted ----------------------------------------------------------------------------------------------------


def count(folder: Path) -> dict[str, object]:
    """FLOP of a study as executed, of its cells one by one, and of the same with a search and all seeds per cell."""
    record = read_study(folder)
    executed = sum(part.flop for part in compute_spent(record))
    search = sum(lone_flop(run) for run in record.runs if run.purpose == "tuning")
    cells = [run for run in record.runs if run.purpose != "tuning"]
    alone = sum(lone_flop(run) for run in cells) + search
    distinct = {(run.params, run.tokens, run.teacher_run, run.purpose): run for run in cells}
    seeds = max(run.seed for run in cells) - min(run.seed for run in cells) + 1
    careful = sum(lone_flop(run) for run in distinct.values()) * (seeds + SEARCH_RUNS - 1)
    return {
        "study": record.name,
        "runs": len(record.runs),
        "flop": executed,
        "flop_alone": alone,
        "flop_ratio": executed / alone,
        "seeds": seeds,
        "flop_careful": careful,
        "flop_ratio_careful": executed / careful,
    }


def lone_flop(run: Run) -> float:
    """FLOP of a run by itself: its training, and its teacher's forward pass over every token of it."""
    teacher = run.number("teacher_flops")
    return run.number("train_flops") + (teacher if math.isfinite(teacher) else 0.0)


def apart(name: str) -> dict[str, object]:
    """What each way saves of the FLOP of a shipped study's students (random starts, lambda 0 or 1), each cell alone: 1.

    A trunk's runs share size, teacher, seed and rate; a teacher's text is read once a seed. The search is what it cost,
    and what the same runs at every size of the study would have.
    """
    rows = pq.read_table(SHIPPED / f"{name}_runs.parquet").to_pylist()
    cells = [
        row
        for row in rows
        if (row["role"], row["init"]) == ("student", "fresh")
        and row["purpose"] in ("grid", "holdout")
        and row["lambda"] in (0, 1)
    ]
    trunks: dict[tuple[object, ...], list[dict[str, Any]]] = {}
    for row in cells:
        trunks.setdefault((row["params"], row["teacher_run"], row["seed"], row["peak_lr"]), []).append(row)
    alone = sum(row["train_flops"] + (row["teacher_flops"] or 0.0) for row in cells)
    found = {way: _flop(trunks, branches=b, shared=s) / alone for way, b, s in WAYS}
    searched = [row for row in rows if row["role"] == "student" and row["purpose"] == "tuning"]
    at = {row["params"] for row in searched if row["init"] == "fresh"}
    search = sum(row["train_flops"] for row in searched if row["init"] == "fresh") / alone
    sizes = sum({row["params"] for row in cells}) / sum(at)
    return {"study": name, "cells": len(cells), **found, "search": search, "search_at_every_size": search * sizes}


def _flop(trunks: dict[tuple[object, ...], list[dict[str, Any]]], *, branches: bool, shared: bool) -> float:
    """FLOP of students and of their teachers' forward passes."""
    total, read = 0.0, dict[tuple[object, object], float]()
    for (_, teacher, seed, _), runs in trunks.items():
        tokens = [row["tokens"] for row in runs]
        paid = (1 - COOLDOWN) * max(tokens) + COOLDOWN * sum(tokens) if branches else sum(tokens)
        total += runs[0]["train_flops"] / runs[0]["tokens"] * paid
        forward = (runs[0]["teacher_flops"] or 0.0) / runs[0]["tokens"]
        if not shared:
            total += forward * paid
        elif teacher is not None:
            longest = paid if branches else max(tokens)
            read[teacher, seed] = max(read.get((teacher, seed), 0.0), forward * longest)
    return total + sum(read.values())


if __name__ == "__main__":
    main()
