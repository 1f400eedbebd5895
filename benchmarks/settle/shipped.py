"""Decisions from tables of trained runs in this tree: students of three shipped studies and of two worlds."""

from pathlib import Path

import pyarrow.parquet as pq

from benchmarks import SHIPPED
from benchmarks.settle.worlds import World, world_decisions_of
from benchmarks.trunks import world_students
from distillaw.runs.record import Run, StudyRecord

FLOPS = 7.5
"""Training FLOP per parameter and token, where a table has none."""


def shipped_decisions(most):
    """Decisions of every table, at most so many of each, evenly."""
    for name, rows in tables():
        found = list(world_decisions_of(world(rows), name))
        count = min(len(found), most)
        yield from (found[i * len(found) // count] for i in range(count))


def tables():
    """(name, students) of every table."""
    yield from ((name, study(name)) for name in ("pocket", "open", "capacity_gap"))
    yield from worlds()


def study(name):
    """Students of a shipped study that began at random and learnt from the teacher alone, or from none."""
    table = pq.read_table(SHIPPED / f"{name}_runs.parquet").to_pylist()
    return [
        row | {"label": str(row["params"]), "purpose": "grid", "teacher_flops": row["teacher_flops"] or 0.0}
        for row in table
        if row["role"] == "student"
        and row["init"] == "fresh"
        and row["split"] == "student"
        and row["purpose"] in ("grid", "holdout")
        and row["lambda"] in (0, 1)
    ]


def worlds():
    """(world, its students) of benchmarks/worlds_study/run.py."""
    rows = list(world_students("windows", "other"))
    for name in sorted({row["world"] for row in rows}):
        yield name, [_row(row) for row in rows if row["world"] == name]


def _row(row):
    params, tokens = int(row["params"]), int(row["tokens"])
    teacher = None if row["teacher"] == "none" else str(row["teacher"])
    return {
        "run_id": f"{row['run_id']}-{teacher}",
        "role": "student",
        "purpose": "grid",
        "params": params,
        "tokens": tokens,
        "loss": float(row["loss"]),
        "seed": int(row["seed"]),
        "teacher_run": teacher,
        "teacher_loss": float(row["teacher_loss"] or "nan"),
        "teacher_flops": 0.0,
        "group": str(row["group"]),
        "train_flops": FLOPS * params * tokens,
        "batch_tokens": int(row["batch_tokens"]),
        "label": str(row["size"]),
    }


def world(rows):
    """A table as a world's study."""
    runs = [Run(row=row, folder=None) for row in rows]
    for run in runs:
        run.__dict__["label"] = run.row["label"]  # a table has no folders to read it from
    record = StudyRecord(folder=Path(), info={}, runs=runs, unfinished=(), tuning={}, problems=())
    return World(record)
