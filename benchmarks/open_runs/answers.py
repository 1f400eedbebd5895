"""What the open runs answer, as one document: a key per question of docs/open-runs.md."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from scipy import stats

from benchmarks.open_runs.data import OpenRuns
from distillaw.runs.spec import executed_tokens

SAME_LOSS = 0.08
"""Teachers whose losses differ by less, nats/token, are set against each other."""


def answers(runs: OpenRuns) -> dict:
    """All of them, the fits apart."""
    return {
        "rows": len(runs.rows),
        "trunks": len({row["group"] for row in runs.rows}),
        "trained_tokens": trained_tokens(runs),
        "flop": spent(runs),
        "heldout": [len(runs.tokens), int(runs.tokens.sum())],
        "teachers": teachers(runs),
        "noise": noise(runs),
        "cells": cells(runs),
        "best": best(runs),
        "pruned": pruned(runs),
        "equal_loss": equal_loss(runs),
        "size_beside_loss": size_beside_loss(runs),
        "controls": controls(runs),
        "approach": approach(runs),
    }


def trained_tokens(runs: OpenRuns) -> int:
    """Tokens trained on: the constant-rate part of each trunk once, and every cooldown."""
    trunks: dict[str, list[dict]] = {}
    for row in runs.rows:
        trunks.setdefault(row["group"], []).append(row)
    return round(
        sum(executed_tokens([row["tokens"] for row in found], found[0]["cooldown"]) for found in trunks.values())
    )


def spent(runs: OpenRuns) -> float:
    """FLOP of all runs one by one, teachers' forward passes included (executed together they cost less)."""
    return float(sum(row["train_flops"] + (row["teacher_flops"] or 0.0) for row in runs.rows))


def teachers(runs: OpenRuns) -> dict[str, dict]:
    """Size, tokens and loss, best first."""
    return {t: {key: row[key] for key in ("params", "tokens", "loss", "loss_se")} for t, row in runs.teachers.items()}


def noise(runs: OpenRuns) -> list[dict]:
    """Spread between seeds, of losses and of paired differences."""
    found = []
    for size, budget in grid(runs):
        for teacher in ("none", *runs.teachers):
            cell = runs.cell(size, budget, teacher)
            if len(cell) > 2:
                sd = float(np.std([runs.rows[i]["loss"] for i in cell.values()], ddof=1))
                found.append({"size": size, "budget": budget, "teacher": teacher, "seeds": len(cell), "sd": sd})
    pairs = [
        {"params": k[0], "tokens": k[1], "against_none": k[2], "sd": math.sqrt(v), "dof": dof}
        for k, (v, dof) in runs.seed_noise.items()
    ]
    return [*found, *pairs]


def grid(runs: OpenRuns) -> Iterator[tuple[str, int]]:
    """Every size and budget."""
    for size in runs.sizes:
        for budget in runs.budgets(size):
            yield size, budget


def cells(runs: OpenRuns) -> list[dict]:
    """Mean loss by teacher, and the gain over training alone."""
    found = []
    for size, budget in grid(runs):
        alone = runs.cell(size, budget, "none")
        taught = {t: cell for t in runs.teachers if (cell := runs.cell(size, budget, t))}
        if alone:
            found.append(
                {
                    "size": size,
                    "budget": budget,
                    "alone": runs.loss(alone),
                    "taught": {t: runs.loss(cell) for t, cell in taught.items()},
                    "gain": {t: runs.difference(alone, cell).document() for t, cell in taught.items()},
                    "held_out": any(runs.rows[i]["purpose"] == "holdout" for i in alone.values()),
                }
            )
    return found


def best(runs: OpenRuns, purposes=("grid", "holdout")) -> list[dict]:
    """The best teacher of each size and budget, and how much worse the strongest and the weakest one are."""
    found = []
    for size, budget in grid(runs):
        taught = {t: cell for t in runs.teachers if (cell := runs.cell(size, budget, t, purposes))}
        if len(taught) < 3:
            continue
        first = min(taught, key=lambda t: runs.loss(taught[t]))
        strongest, weakest = next(iter(taught)), list(taught)[-1]
        row, alone = runs.teachers[first], runs.loss(runs.cell(size, budget, "none"))
        params = runs.rows[next(iter(taught[first].values()))]["params"]
        found.append(
            {
                "size": size,
                "budget": budget,
                "best": first,
                "teacher_loss": row["loss"],
                "size_ratio": row["params"] / params,
                "loss_ratio": row["loss"] / alone,
                "strongest": strongest,
                "weakest": weakest,
                "strongest_ratio": runs.teachers[strongest]["loss"] / alone,
                "weakest_ratio": runs.teachers[weakest]["loss"] / alone,
                "behind_strongest": runs.difference(taught[strongest], taught[first]).document(),
                "behind_weakest": runs.difference(taught[weakest], taught[first]).document(),
            }
        )
    return found


def approach(runs: OpenRuns) -> list[dict]:
    """How students close in on their teachers: ln (L_S - L_T) as a line in ln D, its slope and what it misses."""
    found = []
    for size, t in itertools.product(runs.sizes, runs.teachers):
        seen = [(b, runs.loss(cell)) for b in runs.budgets(size) if (cell := runs.cell(size, b, t))]
        above = [(math.log(b), loss, loss - runs.teachers[t]["loss"]) for b, loss in seen]
        if len(above) < 3 or min(excess for _, _, excess in above) <= 0:
            continue
        x, losses, excess = np.array(above).T
        line = np.polynomial.Polynomial.fit(x, np.log(excess), deg=1)
        missed = runs.teachers[t]["loss"] + np.exp(line(x)) - losses
        found.append(
            {
                "size": size,
                "teacher": t,
                "budgets": [b for b, _ in seen],
                "excess": excess.tolist(),
                "slope": float(line.deriv()(0.0)),
                "rms": float(np.sqrt(np.mean(missed**2))),
            }
        )
    return found


def pruned(runs: OpenRuns) -> list[dict]:
    """Students cut out of the teacher they learn from, beside fresh ones of the same teacher."""
    found = []
    for size, budget in grid(runs):
        for teacher in runs.teachers:
            cut = runs.cell(size, budget, teacher, ("control:pruned",))
            fresh = {s: i for s, i in runs.cell(size, budget, teacher).items() if s in cut}
            if cut and fresh:
                ratio = runs.teachers[teacher]["params"] / runs.rows[next(iter(cut.values()))]["params"]
                found.append(
                    {
                        "size": size,
                        "budget": budget,
                        "teacher": teacher,
                        "size_ratio": ratio,
                        "pruned": runs.loss(cut),
                        "fresh": runs.loss(fresh),
                        "gain": runs.difference(fresh, cut).document(),
                    }
                )
    return found


def equal_loss(runs: OpenRuns) -> list[dict]:
    """Students of teachers of nearly one loss and different size; what is left of the loss is taken out by slope."""
    found = []
    for a, b in itertools.combinations(runs.teachers, 2):
        first, second = runs.teachers[a], runs.teachers[b]
        if abs(first["loss"] - second["loss"]) > SAME_LOSS or first["params"] == second["params"]:
            continue
        for size, budget in grid(runs):
            one, other = runs.cell(size, budget, a), runs.cell(size, budget, b)
            if one and other:
                middle = (first["loss"] + second["loss"]) / 2
                owed = slope(runs, size, budget, middle) * (first["loss"] - second["loss"])
                gap = runs.difference(one, other)
                found.append(
                    {
                        "first": a,
                        "second": b,
                        "size": size,
                        "budget": budget,
                        "owed": owed,
                        "adjusted": gap.mean - owed,
                        **gap.document(),
                    }
                )
    return found


def slope(runs: OpenRuns, size: str, budget: int, at: float) -> float:
    """dL_S / dL_T of a cell: of the parabola through its students over the teachers' losses."""
    points = [(runs.teachers[t]["loss"], runs.loss(c)) for t in runs.teachers if (c := runs.cell(size, budget, t))]
    curve = np.polynomial.Polynomial.fit(*np.array(points).T, deg=min(2, len(points) - 1))
    return float(curve.deriv()(at))


def size_beside_loss(runs: OpenRuns) -> dict[str, float]:
    """What ln N_T adds, nats per e-fold of the teacher's size, once every cell has a parabola in L_T of its own."""
    rows, target = [], []
    where = [cell for cell in grid(runs) if sum(bool(runs.cell(*cell, t)) for t in runs.teachers) >= 5]
    for k, (size, budget) in enumerate(where):
        for t, teacher in runs.teachers.items():
            if cell := runs.cell(size, budget, t):
                own = np.zeros(3 * len(where))
                own[3 * k : 3 * k + 3] = teacher["loss"] ** np.arange(3)
                rows.append([*own, math.log(teacher["params"])])
                target.append(runs.loss(cell))
    X, y = np.array(rows), np.array(target)
    coefficients, *_ = np.linalg.lstsq(X, y, rcond=None)
    residual = y - X @ coefficients
    dof = len(y) - X.shape[1]
    variance = float(residual @ residual) / dof
    se = math.sqrt(variance * np.linalg.pinv(X.T @ X)[-1, -1])
    half = float(stats.t.ppf(0.95, dof)) * se
    return {"per_efold": float(coefficients[-1]), "half": half, "rms": math.sqrt(variance), "rows": len(y), "dof": dof}


def controls(runs: OpenRuns) -> list[dict]:
    """Runs that differ from the grid in one thing, against the grid's own: positive where the control is better."""
    names = sorted({row["purpose"] for row in runs.rows if row["purpose"].startswith("control:")} - {"control:pruned"})
    found = []
    for purpose, (size, budget) in itertools.product(names, grid(runs)):
        for teacher in ("none", *runs.teachers):
            rates = sorted({row["peak_lr"] for row in runs.rows if row["purpose"] == purpose and row["label"] == size})
            usual = runs.cell(size, budget, teacher)
            for rate in rates:
                cell = runs.cell(size, budget, teacher, (purpose,), peak_lr=rate)
                if cell and usual:
                    factor = rate / runs.rows[usual[min(usual)]]["peak_lr"]
                    found.append(
                        {
                            "control": purpose.removeprefix("control:"),
                            "size": size,
                            "budget": budget,
                            "teacher": teacher,
                            "rate": round(factor, 3),
                            "better_by": runs.difference(usual, cell).document(),
                        }
                    )
    return [*found, *text(runs)]


def text(runs: OpenRuns) -> list[dict]:
    """Is the teacher more than its text? A student alone on both texts, and a teacher that read its student's text."""
    found = []
    for row in runs.rows:
        if row["role"] == "student" and row["split"] == "union":
            for teacher, t in runs.teachers.items():
                for budget in runs.budgets(row["label"]):
                    cell = runs.cell(row["label"], budget, teacher)
                    if abs(t["tokens"] + budget - row["tokens"]) < 0.02 * row["tokens"] and cell:
                        gap = runs.difference({row["seed"]: runs.by_id[row["run_id"]]}, cell)
                        found.append(
                            {
                                "control": "union",
                                "size": row["label"],
                                "budget": budget,
                                "teacher": teacher,
                                "tokens": row["tokens"],
                                "taught_better_by": gap.document(),
                            }
                        )
        if row["role"] == "student" and row["purpose"] == "control:seen":
            seen = runs.teacher(row)
            usual = runs.cell(row["label"], row["budget"], seen.removesuffix(" on student text"))
            gap = runs.difference(usual, {row["seed"]: runs.by_id[row["run_id"]]})
            found.append(
                {
                    "control": "seen",
                    "size": row["label"],
                    "budget": row["budget"],
                    "teacher": seen,
                    "better_by": gap.document(),
                }
            )
    return found
