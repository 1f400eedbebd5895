"""Losses of a million cells in a fraction of a second: an ensemble law by law, in blocks that stay in the cache.

The equation is that of `laws/equation.py`, which takes rows against columns by a power per row and per column.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from distillaw.laws import equation
from distillaw.laws.base import Array
from distillaw.laws.ensemble import LawEnsemble
from distillaw.planning.optimum import agree_on_teachers

_BLOCK = 16_384
"""Cells at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridLosses:
    """Nats/token on a grid of shape (r, c); means are over the laws."""

    teacher: Array
    student: Array
    supervised: Array
    """Supervised loss of the student on the tokens it has without a teacher."""
    lowest_gain: Array
    """`supervised` minus `student` under the law that likes distillation least."""
    highest_gain: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class GridCells:
    """What the laws are asked; logarithms, rows are student sizes."""

    n: Array
    """Ln N_S, shape (r, 1)."""
    d: Array
    """Ln D_S, shape (r or 1, c)."""
    supervised: Array | None = None
    """Ln of the tokens without a teacher, shape (r or 1, c); None: the same tokens."""
    teacher_n: Array | None = None
    """Ln N_T, shape (r or 1, c or 1); with `teacher_d`, or `teacher_loss` instead of both."""
    teacher_d: Array | None = None
    teacher_loss: Array | None = None
    """Ln L_T, the same for all laws."""

    def rows(self, part: slice) -> "GridCells":
        """Some of the rows."""
        tables = {name: getattr(self, name) for name in self.__slots__}
        return replace(self, **{name: x[part] for name, x in tables.items() if x is not None and len(x) > 1})


def grid_losses(ensemble: LawEnsemble, cells: GridCells) -> GridLosses:
    """The losses of every cell.

    Args:
        ensemble: laws with a distillation half.
        cells: the grid.
    """
    parts = [
        x for x in (cells.n, cells.d, cells.supervised, cells.teacher_n, cells.teacher_loss) if x is not None
    ]
    shape = np.broadcast_shapes(*(x.shape for x in parts))
    found = [np.empty(shape) for _ in range(5)]
    step = max(1, _BLOCK // shape[1])
    for start in range(0, shape[0], step):
        part = slice(start, start + step)
        for whole, block in zip(found, _block(ensemble, cells.rows(part)), strict=True):
            whole[part] = block
    return GridLosses(**dict(zip(GridLosses.__slots__, found, strict=True)))


def _block(ensemble: LawEnsemble, cells: GridCells) -> tuple[Array, Array, Array, Array, Array]:
    agree = agree_on_teachers(ensemble)
    sums: list[Array] = []
    plain: tuple[Array, Array, Array, Array] | None = None
    lowest = highest = np.asarray(0.0)
    for k in range(ensemble.size):
        if plain is None or not agree:
            plain = _plain({name: v[k] for name, v in ensemble.plain.items()}, cells)
        teacher, log_teacher, log_own, supervised = plain
        c = {name: v[k] for name, v in ensemble.student.items()}
        student = np.exp(equation.log_lag(c, cells.n, cells.d, log_teacher, log_own))
        student += teacher
        gain = supervised - student
        if not sums:
            sums, lowest, highest = [teacher.copy(), student, supervised.copy()], gain, gain.copy()
            continue
        for total, value in zip(sums, (teacher, student, supervised), strict=True):
            total += value
        np.minimum(lowest, gain, out=lowest)
        np.maximum(highest, gain, out=highest)
    teacher, student, supervised = (total / ensemble.size for total in sums)
    return teacher, student, supervised, lowest, highest


def _plain(c: Mapping[str, Array], cells: GridCells) -> tuple[Array, Array, Array, Array]:
    """L_T, ln L_T, ln Ltilde_S on the student's tokens, and the loss without a teacher, under one law."""
    own = equation.supervised(c, cells.n, cells.d)
    supervised = own if cells.supervised is None else equation.supervised(c, cells.n, cells.supervised)
    if cells.teacher_loss is not None:
        return np.exp(cells.teacher_loss), cells.teacher_loss, np.log(own), supervised
    assert cells.teacher_n is not None and cells.teacher_d is not None
    teacher = equation.supervised(c, cells.teacher_n, cells.teacher_d)
    return teacher, np.log(teacher), np.log(own), supervised
