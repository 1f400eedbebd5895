"""Losses of a million cells in a fraction of a second: the equations of an ensemble, written for whole grids.

What `LawEnsemble` evaluates in log space with one array per step is done here in blocks that stay in the cache and
in plain powers: over the sizes and tokens of a map nothing overflows, and a power of a size is the same for a whole
row. Agreement with `LawEnsemble` to 1e-12 is tested.
"""

from dataclasses import dataclass

import numpy as np

from distillaw.laws.base import Array
from distillaw.laws.ensemble import LawEnsemble
from distillaw.planning.optimum_search import agree_on_teachers

_BLOCK = 16_384
"""Cells at a time."""
_CAP = 50.0
"""As in `LawEnsemble`: exp(-exp(50)) is zero to rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridLosses:
    """Nats/token on a grid of shape (r, c); means are over the laws."""

    teacher: Array
    student: Array
    alone: Array
    """Supervised loss of the student on the tokens it has without a teacher."""
    lowest_gain: Array
    """`alone` minus `student` under the law that likes distillation least."""
    highest_gain: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class GridCells:
    """What the laws are asked; logarithms, rows are student sizes."""

    n: Array
    """Ln N_S, shape (r, 1)."""
    d: Array
    """Ln D_S, shape (r or 1, c)."""
    alone: Array | None = None
    """Ln of the tokens without a teacher, shape (r or 1, c); None: the same tokens."""
    teacher_n: Array | None = None
    """Ln N_T, shape (r or 1, c or 1); with `teacher_d`, or `teacher_loss` instead of both."""
    teacher_d: Array | None = None
    teacher_loss: Array | None = None
    """Ln L_T, the same for all laws."""

    def rows(self, part: slice) -> "GridCells":
        """Some of the rows."""

        def cut(x: Array | None) -> Array | None:
            return x if x is None or len(x) == 1 else x[part]

        return GridCells(n=self.n[part], d=self.d if len(self.d) == 1 else self.d[part], alone=cut(self.alone),
                         teacher_n=cut(self.teacher_n), teacher_d=cut(self.teacher_d),
                         teacher_loss=cut(self.teacher_loss))  # fmt: skip


def grid_losses(ensemble: LawEnsemble, cells: GridCells) -> GridLosses:
    """The losses of every cell.

    Args:
        ensemble: laws with a distillation half.
        cells: the grid.
    """
    parts = [x for x in (cells.n, cells.d, cells.alone, cells.teacher_n, cells.teacher_loss) if x is not None]
    shape = np.broadcast_shapes(*(x.shape for x in parts))
    found = [np.empty(shape) for _ in range(5)]
    step = max(1, _BLOCK // shape[1])
    for start in range(0, shape[0], step):
        part = slice(start, start + step)
        for whole, block in zip(found, _block(ensemble, cells.rows(part)), strict=True):
            whole[part] = block
    return GridLosses(teacher=found[0], student=found[1], alone=found[2], lowest_gain=found[3],
                      highest_gain=found[4])  # fmt: skip


def _block(ensemble: LawEnsemble, cells: GridCells) -> tuple[Array, Array, Array, Array, Array]:
    agree = agree_on_teachers(ensemble)
    sums: list[Array] = []
    plain: tuple[Array, Array, Array, Array] | None = None
    lowest = highest = np.asarray(0.0)
    for k in range(ensemble.size):
        if plain is None or not agree:
            plain = _plain({name: float(v[k]) for name, v in ensemble.plain.items()}, cells)
        teacher, log_teacher, log_own, alone = plain
        student = _student(
            {name: float(v[k]) for name, v in ensemble.student.items()}, cells, log_teacher, log_own
        )
        student += teacher
        gain = alone - student
        if not sums:
            sums, lowest, highest = [teacher.copy(), student, alone.copy()], gain, gain.copy()
            continue
        for total, value in zip(sums, (teacher, student, alone), strict=True):
            total += value
        np.minimum(lowest, gain, out=lowest)
        np.maximum(highest, gain, out=highest)
    teacher, student, alone = (total / ensemble.size for total in sums)
    return teacher, student, alone, lowest, highest


def _plain(c: dict[str, float], cells: GridCells) -> tuple[Array, Array, Array, Array]:
    """L_T, ln L_T, ln Ltilde_S on the student's tokens, and the loss without a teacher, under one law."""
    own = _supervised(c, cells.n, cells.d)
    alone = own.copy() if cells.alone is None else _supervised(c, cells.n, cells.alone)
    if cells.teacher_loss is not None:
        log_teacher = cells.teacher_loss
        teacher = np.exp(log_teacher)
    else:
        assert cells.teacher_n is not None and cells.teacher_d is not None
        teacher = _supervised(c, cells.teacher_n, cells.teacher_d)
        log_teacher = np.log(teacher)
    return teacher, log_teacher, np.log(own, out=own), alone


def _supervised(c: dict[str, float], n: Array, d: Array) -> Array:
    loss = _power(c, n, d)
    np.exp(loss, out=loss)
    loss += np.exp(c["log_E"])
    return loss


def _power(c: dict[str, float], n: Array, d: Array) -> Array:
    """Gamma ln( A/N^alpha + B/D^beta )."""
    total = np.exp(c["log_A"] - c["alpha"] * n) + np.exp(c["log_B"] - c["beta"] * d)
    np.log(total, out=total)
    total *= c["gamma"]
    return total


def _student(c: dict[str, float], cells: GridCells, log_teacher: Array, log_own: Array) -> Array:
    """What the student's loss lies above its teacher's, under one law."""
    u = log_teacher - log_own
    u /= c["f1"]
    u += c["log_kappa"]
    np.minimum(u, _CAP, out=u)
    np.exp(u, out=u)
    if c["eps"] > 0:
        u *= c["eps"]
        np.log1p(u, out=u)
        u /= c["eps"]
    beyond = _power(c, cells.n, cells.d) - u
    beyond -= c["c0"] * log_teacher
    if c["q"]:
        beyond -= c["q"] * cells.d
    return np.exp(beyond, out=beyond)
