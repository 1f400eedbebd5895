"""Which of the behaviours that a distillation law ought to have a fitted one does have.

Perfect imitation, useless teachers and "never below the teacher" are built into the form;
the capacity gap and the infinite-data limit hold for some coefficients only and are reported, not assumed.
"""

import numpy as np

from distillaw.fitting.problem import Observations
from distillaw.laws.distillation import ReducedDistillationLaw, StudentLaw

_PLENTY = 1e30
"""Tokens that stand for infinity."""
_FEWEST_REPEATS = 5
"""Repeated runs needed for a noise estimate."""


def behaviours(law: StudentLaw) -> dict[str, float | bool | None]:
    """Diagnostics at the middle of the fitted range.

    Returns:
        By name: `capacity_gap`, True if within the fitted teachers a better one ends up making the student worse;
        `break`, L_T / Ltilde_S at which the break factor is 1/e; `infinite_data_error`, the relative difference
        between the best student on infinite data and the supervised limit of its size (None for the reduced form,
        whose data term is left out).
    """
    box = law.range.as_dict()
    size, tokens = (float(np.sqrt(np.prod(box[name]))) for name in ("student_params", "student_tokens"))
    teachers = np.linspace(*box["teacher_loss"], 400)
    found: dict[str, float | bool | None] = {"capacity_gap": None, "infinite_data_error": None}
    found["break"] = float(law.derived["break"])
    if law.supervised is None:
        return found
    losses = law.distillation(student_params=size, student_tokens=tokens, teacher_loss=teachers)
    found["capacity_gap"] = bool(0 < int(np.argmin(losses)) < len(teachers) - 1)
    if not isinstance(law, ReducedDistillationLaw):
        limit = float(law.supervised(params=size, tokens=_PLENTY))
        grid = np.linspace(law.supervised.E * 1.001, box["teacher_loss"][1], 2000)
        best = law.distillation(student_params=size, student_tokens=_PLENTY, teacher_loss=grid).min()
        found["infinite_data_error"] = float(best / limit - 1)
    return found


def students_above_teachers(rows: Observations) -> str | None:
    """A note if some students beat their teacher, which no form of the law can describe."""
    better = int((rows.loss < rows.teacher_loss).sum())
    if not better:
        return None
    return f"{better} of {len(rows)} students have a lower loss than their teacher, which no form of this law allows"


def seed_noise(rows: Observations) -> dict[str, float] | None:
    """Spread of ln L between runs of one cell (same size, tokens and teacher), the noise without any misfit.

    Returns:
        `sd` in ln L, `num_cells` repeated, and `spare` degrees of freedom; None with fewer than five of these.
    """
    if len(rows) - len(np.unique(rows.params + 1j * rows.tokens)) < _FEWEST_REPEATS:
        return None  # the usual case, decided cheaply
    key = np.column_stack([rows.params, rows.tokens, np.nan_to_num(rows.teacher_loss), rows.loss])
    distinct = np.unique(key, axis=0)  # an exact copy of a row is not a second run
    cell = np.unique(distinct[:, :3], axis=0, return_inverse=True)[1].reshape(-1)
    y, count = np.log(distinct[:, 3]), np.bincount(cell)
    spare = int((count - 1).sum())
    if spare < _FEWEST_REPEATS:
        return None
    within = y - (np.bincount(cell, y) / count)[cell]
    return {
        "sd": float(np.sqrt((within**2).sum() / spare)),
        "num_cells": int((count > 1).sum()),
        "spare": spare,
    }
