"""Best teachers on a fine grid: solved exactly on a coarse one, joined by cubic splines in logarithms.

What is interpolated is the teacher, not the loss: with the teacher at hand the loss is evaluated exactly, so that it
is never too low and its error is of second order. It is measured by solving the middle of every mesh as well. Where
it is not small, the best teacher jumps from one valley to another; there the exact teachers around are tried in turn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from distillaw.laws.base import Array, Indices, Mask
from distillaw.planning.optimum import OptimalPlan

SAMPLED = 64
TOLERANCE = 1e-5
"""Relative excess of the loss above which a mesh is not interpolated."""

_UNPAYABLE = 80.0
"""Ln of a size and of tokens that no budget pays for: where nothing can be paid anywhere."""

Solve = Callable[[Array, Array], OptimalPlan]
"""Exact optima of rows y and columns x, natural logarithms."""
Loss = Callable[[Array, Array, Array, Array], Array]
"""Mean student loss at (y, x, ln N_T, ln D_T), each of shape (r, c) or one that broadcasts to it; inf if unpaid."""

Teachers: TypeAlias = tuple[Array, Array]
"""Ln N_T and ln D_T, of one shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherField:
    """The best teacher of every cell of a grid (r, c), and how well it was found."""

    n: Array
    """Ln N_T."""
    d: Array
    """Ln D_T."""
    solved: int
    """Optima solved exactly, checks included."""
    largest_error: float
    """Largest relative excess of the loss in the middle of a mesh that was interpolated."""
    jumps: Mask
    """Cells in meshes that were not interpolated."""
    largest_error_at_jumps: float
    """The same at up to `SAMPLED` of those cells, solved exactly."""


def teacher_field(solve: Solve, loss: Loss, y: Array, x: Array, *, nodes: int) -> TeacherField:
    """The best teacher of every cell.

    Args:
        solve: exact optima, for a few cells.
        loss: the loss with a given teacher, for many.
        y: ascending coordinates of the rows.
        x: of the columns.
        nodes: exact optima along each axis; the middles between them are solved too. Smaller grids are solved whole.
    """
    if len(y) * len(x) <= 2 * nodes**2:
        n, d = _teachers(solve(y[:, None], x))
        return TeacherField(n=n, d=d, solved=n.size, largest_error=0.0, largest_error_at_jumps=0.0,
                            jumps=np.zeros(n.shape, bool))  # fmt: skip
    nodes_y, nodes_x = np.linspace(y[0], y[-1], nodes), np.linspace(x[0], x[-1], nodes)
    n_nodes, d_nodes = _teachers(solve(nodes_y[:, None], nodes_x))
    middle_y, middle_x = (nodes_y[1:] + nodes_y[:-1]) / 2, (nodes_x[1:] + nodes_x[:-1]) / 2
    exact = solve(middle_y[:, None], middle_x)

    def between(known: Array, at_y: Array, at_x: Array) -> Array:
        smooth = spline_weights(nodes_y, at_y) @ known @ spline_weights(nodes_x, at_x).T
        return np.clip(smooth, known.min(), known.max())

    guess_n, guess_d = between(n_nodes, middle_y, middle_x), between(d_nodes, middle_y, middle_x)
    reached = loss(middle_y[:, None], middle_x[None], guess_n, guess_d)
    error = _excess(exact, reached)
    is_rough = error > TOLERANCE
    n, d = between(n_nodes, y, x), between(d_nodes, y, x)
    mesh_y, mesh_x = _mesh_of(nodes_y, y), _mesh_of(nodes_x, x)
    jumps = is_rough[mesh_y[:, None], mesh_x]
    worst = 0.0
    if is_rough.any():
        i, j = np.nonzero(jumps)
        around = _around(mesh_y[i], mesh_x[j], (n_nodes, d_nodes), _teachers(exact))
        n[i, j], d[i, j] = _best_of(loss, y[i], x[j], [(n[i, j], d[i, j]), *around])
        i, j = (k[:: -(-len(k) // SAMPLED)] for k in (i, j))
        worst = _excess(solve(y[i], x[j]), _loss_of(loss, y[i], x[j], (n[i, j], d[i, j]))).max()
    return TeacherField(n=n, d=d, solved=nodes**2 + (nodes - 1) ** 2, jumps=jumps, largest_error_at_jumps=float(worst),
                        largest_error=float(np.max(np.where(is_rough, 0.0, error))))  # fmt: skip


def spline_weights(nodes: Array, points: Array) -> Array:
    """The not-a-knot cubic spline through values at equidistant nodes, as a matrix on the values.

    Args:
        nodes: ascending, equidistant, shape (q,), q >= 4.
        points: within the nodes, shape (p,).

    Returns:
        W of shape (p, q): the spline through v takes the values W @ v at the points.
    """
    q, h = len(nodes), nodes[1] - nodes[0]
    # second derivatives s from values v: s[i-1] + 4 s[i] + s[i+1] = 6 / h^2 (v[i-1] - 2 v[i] + v[i+1])
    left, right = np.zeros((q, q)), np.zeros((q, q))
    for i in range(1, q - 1):
        left[i, i - 1 : i + 2] = 1, 4, 1
        right[i, i - 1 : i + 2] = 6 / h**2, -12 / h**2, 6 / h**2
    left[0, :3], left[-1, -3:] = (1, -2, 1), (1, -2, 1)  # the third derivative goes on across the second node
    second = np.linalg.solve(left, right)
    cell = _mesh_of(nodes, points)
    b = (points - nodes[cell]) / h
    a = 1 - b
    weights = np.zeros((len(points), q))
    row = np.arange(len(points))
    weights[row, cell] += a
    weights[row, cell + 1] += b
    bend = h**2 / 6 * np.stack([a**3 - a, b**3 - b])
    return weights + bend[0][:, None] * second[cell] + bend[1][:, None] * second[cell + 1]


def _teachers(plan: OptimalPlan) -> Teachers:
    """Ln N_T and ln D_T; cells without a plan take the teacher of the nearest row entry with one."""
    n, d = np.log(plan.teacher_params), np.log(plan.teacher_tokens)
    for values in (n, d):
        for axis in (values, values.T):
            for line in axis:
                known = np.isfinite(line)
                if known.any():
                    line[:] = np.interp(np.arange(len(line)), np.flatnonzero(known), line[known])
        values[~np.isfinite(values)] = _UNPAYABLE
    return n, d


def _mesh_of(nodes: Array, points: Array) -> Indices:
    return np.clip(np.searchsorted(nodes, points, side="right") - 1, 0, len(nodes) - 2)


def _around(i: Indices, j: Indices, nodes: Teachers, middles: Teachers) -> list[Teachers]:
    """The exact teachers in the middle and at the corners of meshes (i, j)."""
    corners = [(nodes[0][i + a, j + b], nodes[1][i + a, j + b]) for a in (0, 1) for b in (0, 1)]
    return [(middles[0][i, j], middles[1][i, j]), *corners]


def _best_of(loss: Loss, y: Array, x: Array, tries: list[Teachers]) -> Teachers:
    """Of several teachers of each cell (y, x), all of shape (k,), the one with the lowest loss."""
    best = np.argmin([_loss_of(loss, y, x, teachers) for teachers in tries], axis=0)
    return np.choose(best, [n for n, _ in tries]), np.choose(best, [d for _, d in tries])


def _loss_of(loss: Loss, y: Array, x: Array, teachers: Teachers) -> Array:
    """The loss of single cells, all arrays of shape (k,)."""
    n, d = teachers
    return loss(y[:, None], x[:, None], n[:, None], d[:, None])[:, 0]


def _excess(exact: OptimalPlan, reached: Array) -> Array:
    """Relative excess over the exact optimum; 0 where there is no plan."""
    return np.where(exact.is_feasible, reached / exact.student_loss - 1, 0.0)
