"""A study that was trained again, beside the table of its first run: losses, gains, best teachers, what laws foresaw.

    python -m benchmarks.studies.again src/distillaw/studies/pocket_runs.parquet out/pocket

The laws are fitted to the first table alone, so the second run judges them on runs that they have not seen (of the same
text and sizes; rates, teachers and chance are new). Cells are matched by size, budget, teacher and seed.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.result_file import save, typed
from distillaw.fitting.api import fit
from distillaw.quantities import format_count

LAWS = ("supervised", "distillation-reduced")
LEVEL = 0.9


def main() -> None:
    """Match, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path, help="runs.parquet")
    parser.add_argument("again", type=Path, help="folder of the second run")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    first, again = cells(arguments.first), cells(arguments.again / "runs.parquet")
    shared = sorted(first.keys() & again.keys(), key=str)
    table = [line(key, first[key], again[key]) for key in shared]
    gains = np.array([gain_pair(key, first, again) for key in shared if key[2] != "none"])
    found = {
        "cells": table,
        "only_once": sorted(map(str, first.keys() ^ again.keys())),
        "losses": spread([again[key]["loss"] - first[key]["loss"] for key in shared]),
        "gains": spread(gains[:, 1] - gains[:, 0]),
        "best_teachers": best_teachers(first, again),
        "laws": {law: held(law, arguments.first, again) for law in LAWS},
    }
    for key, value in found.items():
        print(f"{key}:", *(value if isinstance(value, list) else [value]), sep="\n  ")
    if arguments.out:
        save(arguments.out, typed(), **found)


def cells(path: Path) -> dict[tuple, dict]:
    """Runs of the grid by (size, budget, teacher, seed)."""
    rows = pq.read_table(path).to_pylist()
    return {
        (count(row["params"]), count(row["tokens"]), teacher(row), row["seed"]): row
        for row in rows
        if row["purpose"] in ("grid", "teacher")
    }


def count(value: float) -> str:
    """As people say it: whole batches make 199,936 of 200k."""
    return format_count(float(f"{value:.2g}"))


def teacher(row: dict) -> str:
    """`none` for a student alone, `teacher` for a teacher's own training."""
    if row["purpose"] == "teacher":
        return "teacher"
    return f"{count(row['teacher_params'])}@{count(row['teacher_tokens'])}" if row["teacher_run"] else "none"


def line(key: tuple, first: dict, again: dict) -> dict:
    """One cell, both times."""
    size, tokens, name, seed = key
    return {
        "params": size,
        "tokens": tokens,
        "teacher": name,
        "seed": seed,
        "first": first["loss"],
        "again": again["loss"],
        "first_rate": first["peak_lr"],
        "again_rate": again["peak_lr"],
    }


def gain_pair(key: tuple, first: dict, again: dict) -> tuple[float, float]:
    """The gain over no teacher, then and now; NaN where the student alone was not run."""
    alone = (key[0], key[1], "none", key[3])
    if key[2] == "teacher" or alone not in first or alone not in again:
        return math.nan, math.nan
    return first[alone]["loss"] - first[key]["loss"], again[alone]["loss"] - again[key]["loss"]


def spread(values) -> dict:
    """Mean, root mean square and largest of differences, nats/token."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    largest = float(values[np.abs(values).argmax()])
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "rms": float(np.sqrt((values**2).mean())),
        "largest": largest,
    }


def best_teachers(first: dict, again: dict) -> list[dict]:
    """By size and budget of seed 0: the best teacher then and now, and what following the first costs in the second."""
    found = []
    for size, tokens in sorted({key[:2] for key in first.keys() & again.keys() if key[2] not in ("teacher",)}, key=str):
        mine = [k for k in first if k[:2] == (size, tokens) and k[3] == 0 and k[2] != "teacher" and k in again]
        if len(mine) < 2:
            continue
        then, now = (min(mine, key=lambda k, runs=runs: runs[k]["loss"]) for runs in (first, again))
        regret = again[then]["loss"] - again[now]["loss"]
        found.append({"params": size, "tokens": tokens, "then": then[2], "now": now[2], "regret": regret})
    return found


def held(law: str, first: Path, again: dict) -> dict:
    """How often 90 % intervals of a law that was fitted to the first table hold the second run's losses."""
    fitted = fit(first, family=law)
    rows = [row for key, row in again.items() if key[2] != "teacher" and (key[2] == "none") == (law == "supervised")]
    off, inside = [], []
    for row in rows:
        asked = {"params": row["params"], "tokens": row["tokens"]}
        if law != "supervised":
            asked = {f"student_{name}": value for name, value in asked.items()} | {"teacher_loss": row["teacher_loss"]}
        said = fitted.predict(**asked, level=LEVEL)
        off.append(math.log(row["loss"] / float(said.mean)))
        inside.append(float(said.lower) <= row["loss"] <= float(said.upper))
    return {
        "status": str(fitted.status),
        "n": len(rows),
        "inside": float(np.mean(inside)),
        "rms_ln": float(np.sqrt(np.mean(np.square(off)))),
    }


if __name__ == "__main__":
    main()
