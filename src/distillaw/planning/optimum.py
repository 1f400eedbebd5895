"""The best teacher to train or take, and the tokens left for the student, at a given compute.

    minimise over N_T, D_T   mean over laws of L_S(N_S, D_S, L(N_T, D_T))
    with                     C = 3 F(N_S) D_S + F(N_T) (delta_Lgt D_S + delta_Pre 3 D_T)

    optimal_distillation(ensemble, student_params=1e9, compute=1e21, shares=Scenario.INFERENCE.value)

Source: arXiv 2502.08606v2, total-compute objective. The paper searches with SLSQP from one start and can land in a
local optimum: weak and strong teachers are two valleys. Here a grid over the whole range comes first:

    teacher free to train   one coordinate, along a path of teachers
        cheapest                for every loss, the teacher that reaches it with the least compute (logits free too)
        overtrained             the most tokens allowed, else the smallest size
    teacher paid for        two, ln N_T and the odds of teacher training in the budget; and the edges of the box,
                            for plans that end at a bound

With the odds z = ln(teacher training / the rest) every point divides the budget: none is out of reach, and few
tokens on either side are as finely resolved as many. Budgets lie on the last axis, laws on the first.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.accounting.family import FixedAspect
from distillaw.accounting.flops import TRAINING_FACTOR
from distillaw.accounting.scenarios import CostShares
from distillaw.errors import ConfigError
from distillaw.laws.base import Array, Indices, Mask, log_positive
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.search import deepest_valleys, last_true, lowest, newton

Transform = Callable[[Array], Array]

PAPER_BOUNDS = (1e6, 1e17)
"""N_T, D_T (and D_S) of the paper's search."""
SHORT_OF_STUDENT = "the compute does not pay for the fewest student tokens"
SHORT_OF_TEACHER = "no teacher within the bounds leaves compute for the fewest student tokens"
_AT_BOUND = 1e-6
"""E-folds from a bound within which an optimum lies at it: nobody builds a model to a millionth."""
_WORK = 1_000_000
"""Evaluations at a time: enough that numpy is busy, in arrays of a few megabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimalPlan:
    """The best distillation for each cell; arrays of one shape, nan where `reason` says why there is none."""

    student_params: Array
    compute: Array
    student_tokens: Array
    teacher_params: Array
    teacher_tokens: Array
    teacher_loss: Array
    """L_T, nats/token, mean over the laws."""
    student_loss: Array
    """L_S, nats/token, mean over the laws: what was minimised."""
    supervised_tokens: Array
    """Tokens of the same student trained without a teacher on the whole compute."""
    supervised_loss: Array
    """Its loss, mean over the laws."""
    student_share: Array
    """Share of the compute for training the student; the three shares sum to 1."""
    logits_share: Array
    teacher_share: Array
    student_tokens_at_bound: Indices
    """-1 where the student is left the fewest tokens allowed: the law then says that the teacher is the better use of
    all compute, since it lets a student copy a weak teacher without data. No plan for a student."""
    reason: NDArray[np.str_]
    """Why there is no plan; empty where there is one."""
    student_loss_by_law: Array | None = None
    """Shape (m, *cells), if asked for."""
    supervised_loss_by_law: Array | None = None

    @property
    def is_feasible(self) -> Mask:
        """True where there is a plan."""
        return np.asarray(self.reason == "")

    @property
    def gain(self) -> Array:
        """Supervised minus distilled loss on the same compute, nats/token, mean over the laws."""
        return self.supervised_loss - self.student_loss


def optimal_distillation(
    ensemble: LawEnsemble,
    *,
    student_params: ArrayLike,
    compute: ArrayLike,
    shares: CostShares,
    forward: Callable[[Array], Array] | None = None,
    effective_tokens: Transform | None = None,
    teacher_params_bounds: tuple[float, float] = PAPER_BOUNDS,
    teacher_tokens_bounds: tuple[float, float] = PAPER_BOUNDS,
    min_student_tokens: float = PAPER_BOUNDS[0],
    by_law: bool = False,
) -> OptimalPlan:
    """The plan with the lowest loss for each student and compute: one plan for all laws, by their mean.

    With a free teacher (delta_Lgt = delta_Pre = 0) only its loss is determined; the cheapest teacher with that loss
    is given. With free training (delta_Pre = 0) the teacher takes the most tokens allowed.

    Args:
        ensemble: laws with a distillation half, believed at once.
        student_params: N_S; broadcasts with `compute` to the shape of the cells.
        compute: C, FLOP.
        shares: what the student pays of its teacher; any shares in [0, 1].
        forward: F(N), FLOP per token, of an array of sizes; by default the distillation paper's family.
        effective_tokens: ln D' of ln D where data are repeated (`laws/repetition.py`), for student and teacher alike.
        teacher_params_bounds: smallest and largest N_T; equal for a given size.
        teacher_tokens_bounds: fewest and most D_T; equal where they are given.
        min_student_tokens: fewest D_S that count as training.
        by_law: also keep the losses under each law.

    Raises:
        ConfigError: bounds that hold nothing, or laws without a distillation half.
        DataError: sizes or compute that are not positive and finite.
    """
    if not ensemble.student:
        raise ConfigError("these laws have no distillation half, so no teacher can be chosen by them")
    bounds = Bounds(
        params=_log_bounds("teacher_params_bounds", teacher_params_bounds),
        tokens=_log_bounds("teacher_tokens_bounds", teacher_tokens_bounds),
    )
    fewest = float(log_positive("min_student_tokens", min_student_tokens))
    n, c = np.broadcast_arrays(log_positive("student_params", student_params), log_positive("compute", compute))
    price = forward or FixedAspect().forward_flops
    cells = StudentBudgets(
        ensemble=ensemble,
        n=n.ravel(),
        compute=np.exp(c.ravel()),
        training=TRAINING_FACTOR * price(np.exp(n.ravel())),
        shares=shares,
        fewest=fewest,
        forward=price,
        repeats=effective_tokens,
    )
    size = max(1, _WORK // (1000 * min(ensemble.size, 16)))
    starts = range(0, max(1, n.size), size)
    return _joined([_plans(cells.pick(slice(at, at + size)), bounds, by_law=by_law) for at in starts], n.shape)


# --- what a teacher costs and brings ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The teachers allowed: natural logarithms of the smallest and largest size and tokens."""

    params: tuple[float, float]
    tokens: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class StudentBudgets:
    """Students with their budgets, k of them, and what a teacher (ln N_T, ln D_T) costs each and brings."""

    ensemble: LawEnsemble
    n: Array
    """Ln N_S, shape (k,)."""
    compute: Array
    """C, FLOP, shape (k,)."""
    shares: CostShares
    fewest: float
    """Ln of the fewest student tokens."""
    forward: Transform
    """F(N), FLOP per token."""
    repeats: Transform | None
    """Ln D' of ln D; None where tokens are as many as one likes."""
    training: Array
    """3 F(N_S), FLOP per token, shape (k,)."""

    def pick(self, index: Indices | slice) -> "StudentBudgets":
        """Some of the cells."""
        return replace(self, n=self.n[index], compute=self.compute[index], training=self.training[index])

    def effective(self, log_tokens: Array) -> Array:
        """Ln D' of ln D."""
        return log_tokens if self.repeats is None else self.repeats(log_tokens)

    def per_token(self, price: Array) -> Array:
        """FLOP per student token, its training and what it pays of the logits, at F(N_T) = price."""
        return self.training + self.shares.delta_lgt * price

    def teacher_training(self, price: Array, d: Array) -> Array:
        """What is charged of 3 F(N_T) D_T, FLOP."""
        return self.shares.delta_pre * TRAINING_FACTOR * price * np.exp(d)

    def student_tokens(self, price: Array, d: Array) -> Array:
        """Ln D_S that the teacher leaves; one below the fewest where it leaves less than that."""
        left = (self.compute - self.teacher_training(price, d)) / self.per_token(price)
        return np.log(np.maximum(left, np.exp(self.fewest - 1)))

    def divided(self, n: Array, y: Array) -> tuple[Array, Array]:
        """Ln D_T and ln D_S of a teacher size and the second coordinate of the search.

        Args:
            n: ln N_T.
            y: the odds of teacher training in the budget; ln D_T itself where teacher training is free.
        """
        price = self.price(n)
        student = np.log(self.compute / self.per_token(price))
        if not self.shares.delta_pre:
            return y, student + np.zeros_like(y)
        teacher = np.log(self.compute / (self.shares.delta_pre * TRAINING_FACTOR * price))
        return teacher - np.logaddexp(0.0, -y), student - np.logaddexp(0.0, y)

    def is_paid(self, student_tokens: Array) -> Mask:
        """True where the student gets the fewest tokens."""
        return student_tokens >= self.fewest - 1e-6

    def price(self, n: Array) -> Array:
        """F(N), FLOP per token."""
        return self.forward(np.exp(n))

    def teacher(self, n: Array, d: Array) -> Array:
        """Ln L_T by law."""
        return self.ensemble.log_supervised(n[None], self.effective(d)[None])

    def distilled(self, n: Array, d: Array, student_tokens: Array) -> Array:
        """Ln L_S by law."""
        d_student = self.effective(student_tokens)
        own = self.n.reshape((1,) * d_student.ndim + (-1,))
        return self.ensemble.log_distilled(own, d_student[None], self.teacher(n, d))

    def at_teacher(self, n: Array, d: Array) -> Array:
        """Mean L_S with the tokens that this teacher leaves.

        Where it leaves too few: above every loss, and the higher the more is overspent, so that a search between
        two such points turns back.
        """
        price = self.price(n)
        tokens = self.student_tokens(price, d)
        spent = self.teacher_training(price, d) + self.per_token(price) * np.exp(self.fewest)
        too_much = _UNPAID * np.maximum(spent / self.compute, 1.0)
        return np.where(self.is_paid(tokens), self.loss(n, d, tokens), too_much)

    def loss(self, n: Array, d: Array, student_tokens: Array) -> Array:
        """Mean L_S; inf where the student gets too few tokens."""
        return np.where(self.is_paid(student_tokens), np.exp(self.distilled(n, d, student_tokens)).mean(0), np.inf)


def _plans(cells: StudentBudgets, bounds: Bounds, *, by_law: bool) -> OptimalPlan:
    """Plans of cells on one axis."""
    n, d, best = search(cells, bounds)
    known = np.isfinite(best)
    supervised_tokens = np.log(cells.compute / cells.training)
    supervised = np.exp(cells.ensemble.log_supervised(cells.n[None], cells.effective(supervised_tokens)[None]))
    can_train = supervised_tokens >= cells.fewest - 1e-9
    reason = np.where(known, "", np.where(can_train, SHORT_OF_TEACHER, SHORT_OF_STUDENT))
    price = cells.price(n)
    student = cells.student_tokens(price, d)
    training = cells.teacher_training(price, d)
    logits = cells.shares.delta_lgt * price * np.exp(student)
    distilled = np.exp(cells.distilled(n, d, student))

    def shown(values: Array) -> Array:
        return np.where(known, values, np.nan)

    return OptimalPlan(
        student_params=np.exp(cells.n),
        compute=cells.compute,
        student_tokens=shown(np.exp(student)),
        teacher_params=shown(np.exp(n)),
        teacher_tokens=shown(np.exp(d)),
        teacher_loss=shown(np.exp(cells.teacher(n, d)).mean(0)),
        student_loss=shown(distilled.mean(0)),
        supervised_tokens=np.exp(supervised_tokens),
        supervised_loss=supervised.mean(0),
        student_share=shown(1 - (logits + training) / cells.compute),
        logits_share=shown(logits / cells.compute),
        teacher_share=shown(training / cells.compute),
        reason=reason,
        student_tokens_at_bound=np.where(student <= cells.fewest + _AT_BOUND, -1, 0),
        student_loss_by_law=shown(distilled) if by_law else None,
        supervised_loss_by_law=supervised if by_law else None,
    )


def _joined(parts: list[OptimalPlan], shape: tuple[int, ...]) -> OptimalPlan:
    """One plan from parts of the cells, in the shape asked for."""
    columns = {}
    for field in fields(OptimalPlan):
        values = [getattr(part, field.name) for part in parts]
        if values[0] is not None:
            whole = np.concatenate(values, axis=-1)
            columns[field.name] = whole.reshape(whole.shape[:-1] + shape)
    return OptimalPlan(**columns)


def _log_bounds(name: str, bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(log_positive(name, value)) for value in bounds)
    if low > high:
        raise ConfigError(f"{name} = {bounds}: the first is the smallest value allowed, the second the largest")
    return low, high


# --- where to look for the best one -------------------------------------------------------------------------

_PATH_SPACING = 0.25
"""Distance of the vertices of a path in e-folds."""

_GRID_SPACING = 0.7
"""E-folds between teacher sizes of the grid."""
_ODDS = 28
"""Divisions of the budget on the grid."""
_VALLEYS = 3
"""Valleys that are followed: weak and strong teachers are two, and one is to spare."""
_SCOUTS = 16
"""Laws of a large ensemble that look for valleys; all of them then decide."""
_EDGE_POINTS = 41
"""Points of the grid on each edge."""
_NEAR = 0.03
"""Lines whose grid is worse than the best known by this share are left alone: no valley dips so far between points."""
_UNPAID = 1e30
"""Above every loss."""
_BEYOND = 0.3
"""E-folds outside the bounds at which a search inside the box is given up."""

Found: TypeAlias = tuple[Array, Array, Array]
"""Ln N_T, ln D_T, mean student loss, each with the cells on its last axis."""


def agree_on_teachers(ensemble: LawEnsemble) -> bool:
    """True if all laws have one supervised half, so that a teacher's loss stands for its size and tokens."""
    return all(np.all(values == values[0]) for values in ensemble.plain.values())


def _cheapest(cells: StudentBudgets, bounds: Bounds) -> tuple[Array, Array]:
    """Ln N_T and ln D_T of compute-optimal teachers of growing compute; where a bound is met, along the bound.

        alpha A / N^alpha = (d ln F / d ln N) (d ln D' / d ln D) beta B / D'^beta

    Laws that disagree give each its own tokens for a size; the path takes the mean of their logarithms.
    """
    (small, large), (few, many) = bounds.params, bounds.tokens
    n, h = _steps(small, large) if large > small else np.array([small]), 1e-4
    slope = (np.log(cells.price(n + h)) - np.log(cells.price(n - h))) / (2 * h)
    c = {k: v[:, None] for k, v in cells.ensemble.plain.items()}
    ratio = c["log_B"] + np.log(c["beta"]) - c["log_A"] - np.log(c["alpha"])
    d = fresh = np.mean((c["alpha"] * n + ratio + np.log(slope)) / c["beta"], axis=0)
    if cells.repeats is not None:
        beta = float(np.mean(cells.ensemble.plain["beta"]))

        def falls_short(x: Array) -> np.ndarray:
            """Whether D' and the worth of one more token are below what balances as fresh tokens would."""
            worth = np.maximum((cells.effective(x + h) - cells.effective(x - h)) / (2 * h), 1e-300)
            return cells.effective(x) - np.log(worth) / beta < fresh

        d = last_true(falls_short, low=np.full_like(d, few), high=np.full_like(d, many))
    d = np.clip(d, few, many)
    before, after = _steps(few, float(d[0]))[:-1], _steps(float(d[-1]), many)[1:]
    n = np.concatenate([np.full_like(before, small), n, np.full_like(after, large)])
    d = np.concatenate([before, d, after])
    return (n, d) if len(n) > 1 else (n.repeat(2), d.repeat(2))


def _steps(low: float, high: float) -> Array:
    """Points from low to high; one if they are the same."""
    return np.linspace(low, high, int(np.ceil((high - low) / _PATH_SPACING)) + 1)


def search(cells: StudentBudgets, bounds: Bounds) -> Found:
    """Ln N_T, ln D_T and the mean student loss of the best teacher of each cell; the loss is inf where none is."""
    (small, large), (few, many) = bounds.params, bounds.tokens
    if not cells.shares.delta_pre and not cells.shares.delta_lgt:
        return _along(cells, *_cheapest(cells, bounds))
    largest = np.clip(_largest_paid(cells, bounds), small, large)
    if not cells.shares.delta_pre and agree_on_teachers(cells.ensemble):
        return _on_rim(_Rim(cells, bounds, largest, _OVERTRAINED))
    rim = _Rim(cells, bounds, largest, _ALL_EDGES)
    if not (small < large and few < many):  # size or tokens are given: every teacher lies on the edge
        return _on_rim(rim)
    inside = _inside(cells, bounds)
    return _lowest_of([inside, _on_rim(rim, within=inside[2])])


def _along(cells: StudentBudgets, path_n: Array, path_d: Array) -> Found:
    """The best teacher on a polygon, whose vertices are close enough to be the grid of a search."""
    vertices = np.arange(len(path_n))

    def at(x: Array) -> tuple[Array, Array]:
        return np.interp(x, vertices, path_n), np.interp(x, vertices, path_d)

    high = float(vertices[-1])
    x = lowest(lambda x: cells.at_teacher(*at(x)), low=0.0, high=high, ndim=1, points=len(vertices))
    n, d = at(np.broadcast_to(x, cells.n.shape))
    return _lowest_of([(n, d, cells.at_teacher(n, d))])


_OVERTRAINED = ("smallest", "most tokens", "fewest student tokens")
_ALL_EDGES = ("smallest", "most tokens", "fewest tokens", "largest", "fewest student tokens")
"""Lines of teachers: those of one bound of the box, and those that leave the student its fewest tokens and no more."""


@dataclass(frozen=True, slots=True)
class _Rim:
    """The edges of what is allowed; the coordinate along each goes from 0 to 1."""

    cells: StudentBudgets
    bounds: Bounds
    largest: Array
    """Ln N_T of the largest teacher that can be paid, shape (k,)."""
    chosen: tuple[str, ...]
    """Lines to look at, of `_ALL_EDGES`."""

    def at(self, x: Array) -> tuple[Array, Array]:
        """Ln N_T and ln D_T, with the lines on the last axis but one; x there has all of them, or one for all."""
        shape = (*x.shape[:-2], len(self.chosen), len(self.largest))
        n, d = np.empty(shape), np.empty(shape)
        for i, line in enumerate(self.chosen):
            n[..., i, :], d[..., i, :] = self._line(line, x[..., min(i, x.shape[-2] - 1), :])
        return n, d

    def part(self, index: Indices, chosen: Indices) -> "_Rim":
        """Some cells and some lines."""
        lines = tuple(self.chosen[i] for i in chosen)
        return replace(self, cells=self.cells.pick(index), largest=self.largest[index], chosen=lines)

    def _line(self, line: str, x: Array) -> tuple[Array, Array]:
        (small, large), (few, many) = self.bounds.params, self.bounds.tokens
        if line in ("smallest", "largest"):
            return (small if line == "smallest" else large) + 0 * x, few + (many - few) * x
        if line in ("fewest tokens", "most tokens"):
            return small + (large - small) * x, (few if line == "fewest tokens" else many) + 0 * x
        if not self.cells.shares.delta_pre:  # the line of the fewest student tokens, as far as it is within the bounds
            return self.largest + 0 * x, few + (many - few) * x
        n = small + (self.largest - small) * x
        price = self.cells.price(n)
        left = self.cells.compute - self.cells.per_token(price) * np.exp(self.cells.fewest)
        tokens = left / self.cells.teacher_training(price, np.asarray(0.0))
        return n, np.clip(np.log(np.maximum(tokens, np.exp(few))), few, many)


def _on_rim(rim: _Rim, within: Array | None = None) -> Found:
    """The best teacher on any of its lines; loss inf for cells where a grid on them comes nowhere near `within`."""
    cells = rim.cells
    n, d, loss = cells.n.copy(), cells.n.copy(), np.full(cells.n.shape, np.inf)
    grid = np.linspace(0.0, 1.0, _EDGE_POINTS)[:, None, None]
    lowest_of_grid = _scouts(cells).at_teacher(*rim.at(grid)).min(axis=0)  # lines x cells
    bound = lowest_of_grid.min(axis=0) if within is None else np.minimum(within, lowest_of_grid.min(axis=0))
    is_near = (1 - _NEAR) * lowest_of_grid < bound
    some = np.flatnonzero(is_near.any(axis=0))
    if len(some):
        part = rim.part(some, np.flatnonzero(is_near[:, some].any(axis=1)))
        x = lowest(lambda x: part.cells.at_teacher(*part.at(x)), low=0.0, high=1.0, ndim=2, points=_EDGE_POINTS)
        near_n, near_d = part.at(np.broadcast_to(x, (len(part.chosen), len(some))))
        on_lines = zip(near_n, near_d, part.cells.at_teacher(near_n, near_d), strict=True)
        n[some], d[some], loss[some] = _lowest_of(list(on_lines))
    return n, d, loss


def _scouts(cells: StudentBudgets) -> StudentBudgets:
    """The cells under a few of the laws."""
    some = np.unique(np.linspace(0, cells.ensemble.size - 1, _SCOUTS).astype(int))
    return replace(cells, ensemble=cells.ensemble.take(some))


def _inside(cells: StudentBudgets, bounds: Bounds) -> Found:
    """The best teacher that touches no bound; a loss of inf where there is none."""
    starts = _starts(cells, bounds)
    if starts is None:
        return cells.n.copy(), cells.n.copy(), np.full(cells.n.shape, np.inf)
    n, odds = (start.ravel() for start in starts)
    cell = np.tile(np.arange(len(cells.n)), _VALLEYS)

    def surface(x: Array, y: Array, index: Indices) -> Array:
        chosen = cells.pick(cell[index])
        return chosen.loss(x, *chosen.divided(x, y))

    def is_lost(x: Array, y: Array, index: Indices) -> Mask:
        return _outside(x, cells.pick(cell[index]).divided(x, y)[0], bounds, _BEYOND)

    n, odds, loss = newton(surface, n, odds, is_lost=is_lost)
    many = cells.pick(cell)
    d, _ = many.divided(n, odds)
    loss[_outside(n, d, bounds, 0.0)] = np.inf
    shape = (_VALLEYS, len(cells.n))
    return _lowest_of(list(zip(n.reshape(shape), d.reshape(shape), loss.reshape(shape), strict=True)))


def _starts(cells: StudentBudgets, bounds: Bounds) -> tuple[Array, Array] | None:
    """Sizes and odds at the deepest valleys of a grid, each of shape (valleys, k)."""
    cells = _scouts(cells)
    low, high = bounds.params
    highest = np.clip(_largest_paid(cells, bounds), low, high)
    points = max(6, int(np.ceil((highest.max() - low) / _GRID_SPACING)))
    at = ((np.arange(points) + 0.5) / points)[:, None, None]
    n = low + at * (highest - low)
    first, last, is_open = _range_of_division(cells, bounds, cells.price(n))
    y = first + ((np.arange(_ODDS) + 0.5) / _ODDS)[:, None] * (last - first)
    loss = np.where(is_open, cells.loss(n, *cells.divided(n, y)), np.inf)
    if not np.isfinite(loss).any():
        return None
    i, j = deepest_valleys(loss, count=_VALLEYS)
    k = np.arange(len(cells.n))
    return np.broadcast_to(n, loss.shape)[i, j, k], y[i, j, k]


def _range_of_division(cells: StudentBudgets, bounds: Bounds, price: Array) -> tuple[Array, Array, Mask]:
    """Range of the second coordinate of `StudentBudgets.divided` at each teacher size, and where there is any."""
    least = np.exp(cells.fewest) * cells.per_token(price) / cells.compute  # the student's share, however small
    most = 1 - least
    if not cells.shares.delta_pre:
        few, many = (np.broadcast_to(d, price.shape) for d in bounds.tokens)
        return few, many, most > 0
    low, high = (cells.teacher_training(price, np.asarray(d)) / cells.compute for d in bounds.tokens)
    high = np.minimum(high, most)
    is_open = high > low
    first, last = (  # ln of the odds; `least` is the rest of a share so near one that 1 - share is rounded to nothing
        np.log(np.where(is_open, share, 0.5)) - np.log(np.where(is_open, np.maximum(1 - share, least), 0.5))
        for share in (low, high)
    )
    return first, last, is_open


def _largest_paid(cells: StudentBudgets, bounds: Bounds) -> Array:
    """Ln N_T of the largest teacher that leaves compute for the fewest tokens; -inf where none does."""
    sizes = np.linspace(*bounds.params, 257)
    each = cells.shares.delta_lgt * np.exp(cells.fewest)
    each += cells.teacher_training(np.asarray(1.0), np.asarray(bounds.tokens[0]))
    left = np.maximum(cells.compute - cells.training * np.exp(cells.fewest), 0.0) / each
    return np.interp(left, cells.forward(np.exp(sizes)), sizes)


def _outside(n: Array, d: Array, bounds: Bounds, by: float) -> Mask:
    (small, large), (few, many) = bounds.params, bounds.tokens
    return (n < small - by) | (n > large + by) | (d < few - by) | (d > many + by)


def _lowest_of(found: list[Found]) -> Found:
    """Of several answers for each cell the one with the lowest loss, the first of equals."""
    best = np.argmin([loss for _, _, loss in found], axis=0)
    n, d, loss = (np.choose(best, [answer[i] for answer in found]) for i in range(3))
    return n, d, np.where(loss < _UNPAID, loss, np.inf)
