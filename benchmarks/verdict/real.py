"""Real cells: the pocket study that the package ships, planned for one student size from the others."""

from importlib.resources import files

import numpy as np
import pyarrow.parquet as pq

import distillaw as dl
from benchmarks.verdict.scores import brier, coverage
from distillaw.errors import DistillawError
from distillaw.planning.situation import Teacher

FAMILIES = ("distillation-kappa", "distillation-reduced")
BOOTSTRAP = 100
SEED_SD = 0.01
"""Seed noise of one run of the pocket study, relative; a gain of two runs has about 1.4 times that."""


def pocket_rows():
    """The runs of the study without its searches."""
    rows = pq.read_table(files("distillaw") / "studies" / "pocket_runs.parquet").to_pylist()
    return [row for row in rows if row["purpose"] != "tuning"]


def leave_one_size_out():
    """For every size: fit without it, plan at its cells, compare with the gains measured there."""
    rows = pocket_rows()
    sizes = sorted({row["params"] for row in rows if row["role"] == "student"})
    found = [left_out(rows, size) for size in sizes]
    cells = [cell for part in found for cell in part["cells"]]
    gains = [gain for cell in cells for gain in cell["gains"] if "refused" not in gain]
    singles = {
        side: brier([g[side] for g in gains], [g[f"came_{side}"] for g in gains]) for side in ("distil", "pretrain")
    }
    inside = coverage([g["lower"] <= g["gain"] <= g["upper"] for g in gains])
    return {"cells": len(cells), "gains": len(gains), "singles": singles, "coverage": inside, "sizes": found}


def left_out(rows, size):
    """Fits without any run of this size, and what they make of its cells."""
    kept = [row for row in rows if row["params"] != size]
    fits, grouped = fit_all(kept)
    teachers = {row["run_id"]: row for row in rows if row["role"] == "teacher"}
    cells = []
    for tokens in sorted({row["tokens"] for row in rows if row["role"] == "student"}):
        cells.append(plan_cell(rows, teachers, fits, size, tokens))
    return {
        "left_out": size,
        "fits": {f: fit.status.name for f, fit in fits.items()},
        "grouped": grouped,
        "cells": cells,
        "text": describe(fits, grouped, cells),
    }


def fit_all(rows):
    """Usable fits with a supervised law behind them; branches of a trunk count as runs where trunks are too few."""
    table = {key: np.array([row[key] for row in rows]) for key in ("params", "tokens", "loss", "group")}
    table["teacher_loss"] = np.array([row["teacher_loss"] or np.nan for row in rows], dtype=float)
    for group in (None, "none"):
        found = {}
        for family in FAMILIES:
            try:
                fit = dl.fit(table, family=family, bootstrap=BOOTSTRAP, check=False, group=group)
            except DistillawError:
                continue
            if fit.is_usable and fit.curve.behind is not None:
                found[family] = fit
        if found:
            return found, group is None
    return {}, False


def plan_cell(rows, teachers, fits, size, tokens):
    """The verdict on one real cell beside what was measured there."""
    here = [row for row in rows if row["role"] == "student" and (row["params"], row["tokens"]) == (size, tokens)]
    alone = [row for row in here if row["teacher_run"] is None]
    own = float(np.mean([row["loss"] for row in alone]))
    measured, spread = {}, {}
    for run_id in teachers:
        taught = [row["loss"] for row in here if row["teacher_run"] == run_id]
        measured[run_id] = own - float(np.mean(taught))
        spread[run_id] = SEED_SD * own * np.sqrt(1 / len(alone) + 1 / len(taught))
    asked = [Teacher(name=t, params=r["params"], tokens=r["tokens"], loss=r["loss"]) for t, r in teachers.items()]
    gains = []
    for teacher in asked:
        row = {
            "teacher": teacher.name,
            "ratio": teacher.loss / own,
            "measured": measured[teacher.name],
            "noise": spread[teacher.name],
            "predicted": predict(fits, size, tokens, teacher.loss),
        }
        gains.append(row | answer(fits, size, tokens, [teacher], measured))
    whole = answer(fits, size, tokens, asked, measured)
    top = max(0.0, *measured.values())
    chosen = whole.get("best") if whole.get("verdict") != "pretrain" else None
    return {
        "tokens": tokens,
        "loss": own,
        "gains": gains,
        **whole,
        "regret": top - (measured[chosen] if chosen else 0.0),
        "never": top,
        "best_loss": top - measured[min(teachers, key=lambda t: teachers[t]["loss"])],
    }


def answer(fits, size, tokens, asked, measured):
    """What the planner says of these teachers, and whether it was so; why not where it refuses."""
    try:
        verdict = dl.plan(
            size,
            student_tokens=tokens,
            teachers=asked,
            law=list(fits.values()),
            published=False,
            scenario="best-case",
            vocab=1024,
            context=128,
            with_flips=False,
        )
    except DistillawError as error:
        return {"refused": str(error)}
    gain = measured[verdict.headline.best.teacher.name]
    return {
        "verdict": verdict.verdict,
        "best": verdict.headline.best.teacher.name,
        "distil": verdict.call.distil,
        "pretrain": verdict.call.pretrain,
        "came_distil": gain > verdict.margin,
        "came_pretrain": -gain > verdict.margin,
        "gain": gain,
        "lower": verdict.gain.lower,
        "upper": verdict.gain.upper,
    }


def predict(fits, size, tokens, teacher_loss):
    """The gain by family: law at its estimate."""
    return {
        family: float(
            fit.law.supervised(params=size, tokens=tokens)
            - fit.law(student_params=size, student_tokens=tokens, teacher_loss=teacher_loss)
        )
        for family, fit in fits.items()
    }


def describe(fits, grouped, cells):
    """One line for the table."""
    if not fits:
        return "no law: too few runs without a teacher are left"
    parts = [
        f"fits {', '.join(f'{f} {fit.status.name}' for f, fit in fits.items())}"
        f"{'' if grouped else ' (branches counted as runs: too few trunks)'}"
    ]
    for family in fits:
        error = [100 * (g["predicted"][family] - g["measured"]) / c["loss"] for c in cells for g in c["gains"]]
        parts.append(
            f"{family}: gain off by {np.sqrt(np.mean(np.square(error))):.2f} % rms, {np.mean(error):+.2f} mean"
        )
    judged = [c for c in cells if "refused" not in c]
    if judged:
        said = [f"{c['distil']:.2f} {'came' if c['came_distil'] else 'did not'}" for c in judged]
        inside = [c["lower"] <= c["gain"] <= c["upper"] for c in judged]
        lost = [f"{c['regret']:.3f} (best-loss {c['best_loss']:.3f}, none {c['never']:.3f})" for c in judged]
        parts.append(
            f"P(distil) {', '.join(said)}; {sum(inside)} of {len(judged)} gains inside; regret {', '.join(lost)}"
        )
    return "; ".join(parts)
