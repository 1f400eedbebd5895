"""What a map stands on: its laws, the terms on which teachers are had, and best teachers on a fine grid.

Laws are published ones together, each as good as the others, or one fitted law. By default the three surrogates of the
distillation law, which are not published: together they are a rough band. The printed set is drawn if asked for, with
the warning that must go with it.

Best teachers are solved exactly on a coarse grid and joined by cubic splines in logarithms. What is interpolated is the
teacher, not the loss: with the teacher at hand the loss is evaluated exactly, so that it is never too low and its error
is of second order. It is measured by solving the middle of every mesh as well. Where it is not small, the best teacher
jumps from one valley to another; there the exact teachers around are tried in turn.

Losses of a million cells (`grid_losses`) take a fraction of a second: an ensemble law by law, in blocks that stay in
the cache. The equation is that of `laws/equation.py`, which takes rows against columns by a power per row and per
column.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from distillaw.accounting.family import FixedAspect
from distillaw.accounting.flops import TRAINING_FACTOR
from distillaw.accounting.scenarios import CostShares, Scenario
from distillaw.errors import ConfigError
from distillaw.fitting.query import load_law
from distillaw.fitting.result import FitResult
from distillaw.laws import equation
from distillaw.laws.base import Array, Box, Indices, Mask
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.published import PublishedLaw
from distillaw.planning.optimum import PAPER_BOUNDS, OptimalPlan, agree_on_teachers, optimal_distillation
from distillaw.planning.voices import SURROGATES, Voice, fitted_voice, published_voice

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
    """The losses of every cell."""
    parts = [x for x in (cells.n, cells.d, cells.supervised, cells.teacher_n, cells.teacher_loss) if x is not None]
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


REFUSED = (
    "DO NOT PLAN WITH THIS MAP: the printed distillation coefficients of {} contradict its own paper's planning "
    "figures; far too low losses are predicted for students on few tokens"
)
_MOST_MEMBERS = 32
"""Replicates of a fit that a map is averaged over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Laws:
    """The laws of a map and where they were fitted."""

    ensemble: LawEnsemble
    names: tuple[str, ...]
    range: Box = field(default_factory=Box)
    """In student_params, student_tokens, tokens_per_param and teacher_loss; empty: nothing is inside."""
    warnings: tuple[str, ...] = ()
    voice: Voice | None = None
    """Knows where a plan decides nothing by them; None: everywhere it might."""

    def beyond(self, params: Array, tokens: Array, teacher_loss: Array) -> Mask:
        """True where `plan` decides nothing by these laws (`Voice.is_beyond`)."""
        shape = np.broadcast_shapes(np.shape(params), np.shape(tokens), np.shape(teacher_loss))
        found = False if self.voice is None else self.voice.beyond(params, tokens, teacher_loss)
        return np.broadcast_to(found, shape)

    def inside(self, params: Array, tokens: Array, teacher_loss: Array) -> Mask:
        """True where a cell lies in the fitted range."""
        return self.range.inside({"student_params": params, "student_tokens": tokens, "teacher_loss": teacher_loss})

    @property
    def meta(self) -> dict[str, object]:
        """For the meta data of a map."""
        return {
            "laws": list(self.names),
            "members": self.ensemble.size,
            "warnings": list(self.warnings),
            "fitted_range": {k: list(v) for k, v in self.range.as_dict().items()},
        }


def laws_for_map(names: Sequence[str]) -> Laws:
    """The laws asked for, or the three surrogates.

    Args:
        names: published names, or one file of a fitted law.

    Raises:
        ConfigError: an unknown law, one without a distillation half, or fitted and published ones mixed.
    """
    names = tuple(names) or SURROGATES
    found = [load_law(name) for name in names]
    fitted = [law for law in found if isinstance(law, FitResult)]
    published = [law for law in found if isinstance(law, PublishedLaw)]
    if fitted and len(found) > 1:
        raise ConfigError(
            f"--law: got {', '.join(names)}; a fitted law speaks through many replicates and would drown the others. "
            "Draw one map for each fitted law, or published laws together"
        )
    if fitted:
        return _of_voice(fitted_voice(fitted[0], names[0]), names)
    for name, law in zip(names, published, strict=True):
        if law.distillation is None or law.supervised is None:
            raise ConfigError(f"law {name!r} has no distillation part: no map of teachers can be drawn by it")
    laws = _of_voice(published_voice(", ".join(names), published), names)
    return replace(laws, range=_common([law.distillation.range for law in published if law.distillation is not None]))


def _of_voice(voice: Voice, names: tuple[str, ...]) -> Laws:
    ensemble = voice.ensemble
    if ensemble is None:
        raise ConfigError(f"law {voice.source} cannot draw a map: {voice.status}: {voice.note}")
    if ensemble.size > _MOST_MEMBERS:
        ensemble = ensemble.take(np.linspace(0, ensemble.size - 1, _MOST_MEMBERS).astype(int))
    refused = [REFUSED.format(voice.source)] if voice.is_refused else []
    warnings = (*refused, *voice.warnings)
    return Laws(ensemble=ensemble, names=names, range=voice.range, warnings=warnings, voice=voice)


def _common(boxes: Sequence[Box]) -> Box:
    """The range that all boxes share."""
    names = set.intersection(*({name for name, _, _ in box.bounds} for box in boxes))
    ranges = [box.as_dict() for box in boxes]
    return Box.of({n: (max(r[n][0] for r in ranges), min(r[n][1] for r in ranges)) for n in sorted(names)})


SAMPLED = 64
"""Cells of meshes not interpolated that are checked: were one in twenty off, that would be seen with 96 %."""
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
    jumps: Mask
    """Cells in meshes that were not interpolated."""
    largest_error: float = 0.0
    """Largest relative excess of the loss in the middle of a mesh that was interpolated."""
    largest_error_at_jumps: float = 0.0
    """The same at up to `SAMPLED` of those cells, solved exactly."""


def teacher_field(solve: Solve, loss: Loss, y: Array, x: Array, *, nodes: int) -> TeacherField:
    """The best teacher of every cell, rows y and columns x ascending.

    `nodes` optima are solved along each axis, and the middles between them; smaller grids are solved whole.
    """
    from scipy.interpolate import CubicSpline  # here, so that figures of laws need not wait for it

    if len(y) * len(x) <= 2 * nodes**2:
        n, d = _teachers(solve(y[:, None], x))
        return TeacherField(n=n, d=d, solved=n.size, jumps=np.zeros(n.shape, bool))
    nodes_y, nodes_x = np.linspace(y[0], y[-1], nodes), np.linspace(x[0], x[-1], nodes)
    n_nodes, d_nodes = _teachers(solve(nodes_y[:, None], nodes_x))
    middle_y, middle_x = (nodes_y[1:] + nodes_y[:-1]) / 2, (nodes_x[1:] + nodes_x[:-1]) / 2
    exact = solve(middle_y[:, None], middle_x)

    def between(known: Array, at_y: Array, at_x: Array) -> Array:
        smooth = CubicSpline(nodes_x, CubicSpline(nodes_y, known)(at_y), axis=1)(at_x)
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
        at_y, at_x, middle = mesh_y[i], mesh_x[j], _teachers(exact)
        tries = [(n[i, j], d[i, j]), (middle[0][at_y, at_x], middle[1][at_y, at_x])]
        corners = [(at_y + a, at_x + b) for a in (0, 1) for b in (0, 1)]
        tries += [(n_nodes[corner], d_nodes[corner]) for corner in corners]
        best = np.argmin([_loss_of(loss, y[i], x[j], teachers) for teachers in tries], axis=0)
        n[i, j], d[i, j] = (np.choose(best, values) for values in zip(*tries, strict=True))
        i, j = (k[:: -(-len(k) // SAMPLED)] for k in (i, j))
        worst = _excess(solve(y[i], x[j]), _loss_of(loss, y[i], x[j], (n[i, j], d[i, j]))).max()
    return TeacherField(
        n=n,
        d=d,
        solved=nodes**2 + (nodes - 1) ** 2,
        jumps=jumps,
        largest_error_at_jumps=float(worst),
        largest_error=float(np.max(np.where(is_rough, 0.0, error))),
    )


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


def _loss_of(loss: Loss, y: Array, x: Array, teachers: Teachers) -> Array:
    """The loss of single cells, all arrays of shape (k,)."""
    n, d = teachers
    return loss(y[:, None], x[:, None], n[:, None], d[:, None])[:, 0]


def _excess(exact: OptimalPlan, reached: Array) -> Array:
    """Relative excess over the exact optimum; 0 where there is no plan."""
    return np.where(exact.is_feasible, reached / exact.student_loss - 1, 0.0)


Flops = Callable[[Array], Array]
_SMALLEST, _MOST = PAPER_BOUNDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms asked for; what is None follows from the smallest student of the map."""

    scenario: Scenario | CostShares
    """What a student pays of its teacher."""
    forward: Flops = field(default_factory=lambda: FixedAspect().forward_flops)
    """F(N), FLOP per token; by default the distillation paper's family."""
    teacher_params: tuple[float | None, float] = (None, _MOST)
    """Smallest and largest N_T."""
    teacher_tokens: tuple[float | None, float] = (None, _MOST)
    """Fewest and most D_T."""

    @property
    def shares(self) -> CostShares:
        """(delta_Lgt, delta_Pre)."""
        return self.scenario.value if isinstance(self.scenario, Scenario) else self.scenario

    def budget(self, ensemble: LawEnsemble, smallest: float) -> "Budget":
        """The terms with every bound known; `smallest` is N_S of the smallest student."""
        least = min(_SMALLEST, smallest)
        size, tokens = self.teacher_params, self.teacher_tokens
        return Budget(
            ensemble=ensemble,
            shares=self.shares,
            forward=self.forward,
            min_student_tokens=least,
            teacher_params=(least / 10 if size[0] is None else size[0], size[1]),
            teacher_tokens=(least if tokens[0] is None else tokens[0], tokens[1]),
        )

    @property
    def meta(self) -> dict[str, object]:
        """For the meta data of a map."""
        known = {s.value: s.name.lower().replace("_", "-") for s in Scenario}
        shares = self.shares
        name = known.get(shares, f"{shares.delta_lgt:g}-{shares.delta_pre:g}")
        return {"scenario": name, "delta_lgt": shares.delta_lgt, "delta_pre": shares.delta_pre}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The budget equation on whole grids, and exact optima under it."""

    ensemble: LawEnsemble
    shares: CostShares
    forward: Flops
    teacher_params: tuple[float, float]
    teacher_tokens: tuple[float, float]
    min_student_tokens: float

    def solve(self, N: Array, C: Array, *, by_law: bool = False) -> OptimalPlan:
        """Exact optima of students N at budgets C."""
        return optimal_distillation(
            self.ensemble,
            student_params=N,
            compute=C,
            shares=self.shares,
            forward=self.forward,
            by_law=by_law,
            teacher_params_bounds=self.teacher_params,
            teacher_tokens_bounds=self.teacher_tokens,
            min_student_tokens=self.min_student_tokens,
        )

    def divide(self, N: Array, C: Array, n: Array, d: Array) -> tuple[Array, Mapping[str, Array]]:
        """Student tokens (too few: 1, and not paid), and the shares of the compute, with teachers ln N_T, ln D_T."""
        size = self.forward(np.exp(n))
        training = self.training(N)
        teacher = (self.shares.delta_pre * TRAINING_FACTOR) * size * np.exp(d) / C
        per_token = training + self.shares.delta_lgt * size
        rest = 1 - teacher
        student = rest * training / per_token
        shares = {"student_share": student, "logits_share": rest - student, "teacher_share": teacher}
        tokens = rest * C / per_token
        return np.where(tokens >= self.min_student_tokens, tokens, np.nan), shares

    def training(self, N: Array) -> Array:
        """3 F(N_S), FLOP per token."""
        return TRAINING_FACTOR * self.forward(N)

    def loss(self, y: Array, x: Array, n: Array, d: Array) -> Array:
        """Mean loss of students ln N_S at ln C with given teachers; inf where they cannot be paid."""
        tokens, _ = self.divide(np.exp(y), np.exp(x), n, d)
        is_paid = np.isfinite(tokens)
        cells = GridCells(n=y, d=np.log(np.where(is_paid, tokens, 1.0)), teacher_n=n, teacher_d=d)
        return np.where(is_paid, grid_losses(self.ensemble, cells).student, np.inf)
