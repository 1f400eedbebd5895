"""The best teacher to train or take, and the tokens left for the student, at a given compute.

    minimise over N_T, D_T   mean over laws of L_S(N_S, D_S, L(N_T, D_T))
    with                     C = 3 F(N_S) D_S + F(N_T) (delta_Lgt D_S + delta_Pre 3 D_T)

Source: arXiv 2502.08606v2, total-compute objective. The paper searches with SLSQP
from one start and can land in a local optimum: weak and strong teachers are two valleys. Here a grid over the whole
range comes first, and the budget is divided by shares, so that every point tried inside the range can be paid for.

    optimal_distillation(ensemble, student_params=1e9, compute=1e21, shares=Scenario.INFERENCE.value)
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.accounting.family import FixedAspect
from distillaw.accounting.flops import TRAINING_FACTOR
from distillaw.accounting.scenarios import CostShares
from distillaw.errors import ConfigError
from distillaw.laws.base import Array, Mask, log_positive
from distillaw.laws.ensemble import LawEnsemble
from distillaw.planning.optimum_search import Bounds, StudentBudgets, Transform, search

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
    params_at_bound: NDArray[np.int8]
    """-1 at the smallest teacher allowed, 1 at the largest, else 0."""
    tokens_at_bound: NDArray[np.int8]
    """The same for the teacher's tokens."""
    student_tokens_at_bound: NDArray[np.int8]
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
    n, c = np.broadcast_arrays(
        log_positive("student_params", student_params), log_positive("compute", compute)
    )
    price = forward or FixedAspect().forward_flops
    cells = StudentBudgets(
        ensemble=ensemble,
        n=n.ravel(),
        compute=np.exp(c.ravel()),
        training=TRAINING_FACTOR * price(np.exp(n.ravel())),
        shares=shares,
        fewest=fewest,
        forward=price,
        effective=effective_tokens or _as_they_are,
    )
    size = max(1, _WORK // (1000 * min(ensemble.size, 16)))
    parts = [
        _plans(part, bounds, is_repeated=effective_tokens is not None, by_law=by_law)
        for part in cells.split(size)
    ]
    return _joined(parts, n.shape)


def _plans(cells: StudentBudgets, bounds: Bounds, *, is_repeated: bool, by_law: bool) -> OptimalPlan:
    """Plans of cells on one axis."""
    n, d, best = search(cells, bounds, is_repeated=is_repeated)
    known = np.isfinite(best)
    supervised_tokens = np.log(cells.compute / cells.training)
    supervised = np.exp(cells.supervised(supervised_tokens))
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
        params_at_bound=_at_bound(n, bounds.params),
        tokens_at_bound=_at_bound(d, bounds.tokens),
        student_tokens_at_bound=_at_bound(student, (cells.fewest, np.inf)),
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
        raise ConfigError(
            f"{name} = {bounds}: the first is the smallest value allowed, the second the largest"
        )
    return low, high


def _at_bound(x: Array, bounds: tuple[float, float]) -> NDArray[np.int8]:
    low, high = bounds
    return np.where(x >= high - _AT_BOUND, 1, np.where(x <= low + _AT_BOUND, -1, 0)).astype(np.int8)


def _as_they_are(log_tokens: Array) -> Array:
    return log_tokens
