"""A student's loss against its teacher: over teacher sizes, and over teacher losses; where the bottom is, how flat.

    size:  L_S( N_S, D_S, L(N_T, D_T) )   with D_T fixed, or D_T = M_T N_T
    loss:  L_S( N_S, D_S, L_T )           teachers of any loss above the irreducible one, free of charge

Every member of an ensemble has its own curve; the recommended teacher is at the bottom of their mean. The optimum is
searched between grid points, and stands beside what half, twice, 1, 2.5 and 100 times its size would cost: the bottom
is flat, so the exact ratio seldom matters (docs/gap.md); a verdict that names a teacher says how flat. No cost of the
teacher is counted here.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from distillaw.errors import ConfigError
from distillaw.laws.base import Array, log_positive
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.search import last_true, lowest
from distillaw.planning.bills import student_tokens_worth
from distillaw.planning.evidence import Strategy
from distillaw.planning.phrases import say
from distillaw.planning.situation import Situation
from distillaw.planning.voices import Voice
from distillaw.quantities import format_size

FLAT = 0.005
"""Share of the loss within which teachers count as equally good."""
RATIOS = (1.0, 2.5, 100.0)
"""Teacher over student sizes whose cost is always told; 2.5 is the rule of Zhang et al. (2023, arXiv:2311.07052)."""
_POINTS = 257
"""Of the grid: 25 to an e-fold of the teacher's size over the whole span."""
_SPAN = (1 / 8, 4096.0)
"""Teacher over student sizes searched by default."""
_WORST = 1.5
"""The worst teacher loss considered, over the student's own supervised loss: the student copies it exactly."""
_EDGE = 1e-6
"""Share of the range searched within which an optimum counts as lying at its end."""

Losses = Callable[[Array], Array]
"""Student losses (m, k) at the teachers x, shape (m or 1, k): x is ln N_T or ln L_T."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatRange:
    """The teachers around the best one whose students are within a share of the best loss."""

    within: float
    """Share of the best mean loss."""
    lower: float
    upper: float
    """Parameters or nats/token, as the curve."""
    is_open_below: bool
    is_open_above: bool
    """True where the range searched ends before the student gets worse."""
    is_connected: bool
    """False: teachers elsewhere are as good, beyond a hump."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Valley:
    """The bottom of the mean curve, and of each member's own."""

    at: float
    """Teacher size or loss at the bottom of the mean."""
    student_loss: float
    """Mean over members there, nats/token."""
    at_edge: bool
    """The curve still falls at the end of the range searched: a better teacher may lie beyond."""
    at_by_member: Array
    """(m,)."""
    flat: FlatRange
    """Within `FLAT`."""
    within_margin: FlatRange
    """Within the margin asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCost:
    """What one other teacher costs the student, against the recommended one."""

    name: str
    params: float
    teacher_loss: float
    """Mean over members, nats/token."""
    nats: float
    """Mean loss of the student above the best; never negative but for rounding."""
    per_cent: float
    """The same in per cent of the best loss."""
    nats_by_member: Array
    """(m,); negative where a member prefers this teacher."""

    def to_json(self, scale: float = 1.0) -> dict[str, object]:
        """Numbers and the span over members; losses in a text's nats that is so much harder, shares as they are."""
        by_member = scale * self.nats_by_member
        return {
            "name": self.name,
            "teacher_params": self.params,
            "teacher_loss": scale * self.teacher_loss,
            "nats": scale * self.nats,
            "per_cent": self.per_cent,
            "nats_span": {"lower": float(by_member.min()), "upper": float(by_member.max())},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentCurve:
    """A student's loss over p teachers: m members of an ensemble."""

    teacher_loss: Array
    """(p,) or (m, p), nats/token."""
    student_loss: Array
    """(m, p), nats/token."""
    supervised_loss: Array
    """(m,), Ltilde_S, the student's own loss without a teacher."""
    best: Valley

    @property
    def mean(self) -> Array:
        """(p,), mean over members of `student_loss`."""
        return self.student_loss.mean(0)

    @property
    def gain(self) -> float:
        """Mean loss without a teacher minus mean loss with the best one, nats/token."""
        return float(self.supervised_loss.mean()) - self.best.student_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCurve(StudentCurve):
    """Over teacher sizes."""

    student_params: float
    sizes: Array
    """(p,) teacher sizes N_T, ascending."""
    teacher_tokens: Array
    """(p,)."""
    best_teacher_tokens: float
    best_teacher_loss: float
    """L_T of the recommended teacher, mean over members."""
    costs: tuple[TeacherCost, ...]
    """Half, twice, and `RATIOS` times the student's size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherLossCurve(StudentCurve):
    """Over teacher losses, ascending."""

    break_ratio: Array
    """(m,), kappa^(-f1): L_T / Ltilde_S at which a student takes up 1/e of what it could."""

    @property
    def ratio(self) -> float:
        """Best L_T over the mean Ltilde_S."""
        return self.best.at / float(self.supervised_loss.mean())

    def to_json(self) -> dict[str, object]:
        """The best loss and its standing."""
        return {
            "best_teacher_loss": self.best.at,
            "ratio_to_supervised": self.ratio,
            "supervised_loss": float(self.supervised_loss.mean()),
            "break": float(self.break_ratio.mean()),
            "flat": asdict(self.best.flat),
        }


def teacher_curve(
    ensemble: LawEnsemble,
    *,
    student_params: float,
    student_tokens: float,
    teacher_tokens: float | None = None,
    teacher_tokens_per_param: float | None = None,
    sizes: ArrayLike | None = None,
    margin: float = FLAT,
) -> TeacherCurve:
    """The student's loss against the size of its teacher.

    Args:
        ensemble: m laws with both halves.
        student_params: N_S, non-embedding.
        student_tokens: D_S.
        teacher_tokens: D_T, the same for every size; or
        teacher_tokens_per_param: M_T, so that D_T = M_T N_T.
        sizes: (p,) teacher sizes, ascending; the search stays between their ends. By default 1/8 to 4096 times N_S.
        margin: share of the loss for `best.within_margin`.

    Raises:
        ConfigError: not exactly one of the two token options, fewer than three sizes, sizes not ascending, or an
            ensemble without a distillation half.
        DataError: a number is not positive and finite.
    """
    _check(ensemble, margin)
    if (teacher_tokens is None) == (teacher_tokens_per_param is None):
        raise ConfigError("give either teacher_tokens or teacher_tokens_per_param, not both and not none")
    n, d = _student(student_params, student_tokens)
    given = np.geomspace(_SPAN[0], _SPAN[1], _POINTS) * student_params if sizes is None else sizes
    x = _axis(given, name="sizes")
    fixed = log_positive("teacher_tokens", 1.0 if teacher_tokens is None else teacher_tokens)
    per_param = log_positive("teacher_tokens_per_param", teacher_tokens_per_param or 1.0)

    def log_tokens(at: Array) -> Array:
        return np.full_like(at, fixed) if teacher_tokens is not None else at + per_param

    def log_teacher(at: Array) -> Array:
        return ensemble.log_supervised(at, log_tokens(at))

    def losses(at: Array) -> Array:
        return np.exp(ensemble.log_distilled(n, d, log_teacher(at)))

    best = _valley(losses, low=float(x[0]), high=float(x[-1]), margin=margin)
    at = np.log(best.at).reshape(1, 1)
    return TeacherCurve(
        student_params=float(student_params),
        sizes=np.exp(x),
        teacher_tokens=np.exp(log_tokens(x)),
        teacher_loss=np.exp(log_teacher(x[None])),
        student_loss=losses(x[None]),
        supervised_loss=np.exp(ensemble.log_supervised(n, d))[:, 0],
        best=best,
        best_teacher_tokens=float(np.exp(log_tokens(at)).item()),
        best_teacher_loss=float(np.exp(log_teacher(at)).mean()),
        costs=_costs(losses, log_teacher, best.at, float(student_params)),
    )


def teacher_loss_curve(
    ensemble: LawEnsemble,
    *,
    student_params: float,
    student_tokens: float,
    losses: ArrayLike | None = None,
    margin: float = FLAT,
) -> TeacherLossCurve:
    """The student's loss against the loss of its teacher, whatever the teacher's size.

    Args:
        ensemble: m laws with both halves.
        student_params: N_S.
        student_tokens: D_S.
        losses: (p,) teacher losses, ascending; by default from just above the largest irreducible loss of the members
            to half again the student's own supervised loss.
        margin: share of the loss for `best.within_margin`.

    Raises:
        ConfigError: as in `teacher_curve`, or a loss at or below a member's irreducible loss.
    """
    _check(ensemble, margin)
    n, d = _student(student_params, student_tokens)
    supervised = np.exp(ensemble.log_supervised(n, d))[:, 0]
    floor = float(np.exp(ensemble.plain["log_E"]).max())
    if losses is None:
        losses = np.linspace(
            max(floor * 1.0001, 0.2 * float(supervised.min())), _WORST * float(supervised.max()), _POINTS
        )
    x = _axis(losses, name="losses")
    if np.exp(x[0]) <= floor:
        raise ConfigError(
            f"losses start at {np.exp(x[0]):.4g}, at or below the irreducible loss {floor:.4g}: no teacher gets there"
        )

    def curve(at: Array) -> Array:
        return np.exp(ensemble.log_distilled(n, d, at))

    return TeacherLossCurve(
        teacher_loss=np.exp(x),
        student_loss=curve(x[None]),
        supervised_loss=supervised,
        best=_valley(curve, low=float(x[0]), high=float(x[-1]), margin=margin),
        break_ratio=np.exp(-ensemble.student["f1"] * ensemble.student["log_kappa"]),
    )


def _valley(losses: Losses, *, low: float, high: float, margin: float) -> Valley:
    def mean(x: Array) -> Array:
        return losses(np.atleast_1d(x)[None]).mean(0).reshape(np.shape(x))

    def by_member(x: Array) -> Array:
        return losses(x.T).T if x.ndim == 2 else losses(x[:, None])[:, 0]

    at = lowest(mean, low=low, high=high, ndim=0, points=_POINTS)
    own = lowest(by_member, low=low, high=high, ndim=1, points=_POINTS)
    near = _EDGE * (high - low)
    flat = _flat(mean, float(at), low, high, FLAT)
    return Valley(
        at=float(np.exp(at)),
        student_loss=float(mean(at)),
        at_by_member=np.exp(own),
        flat=flat,
        at_edge=bool(at - low < near or high - at < near),
        within_margin=flat if margin == FLAT else _flat(mean, float(at), low, high, margin),
    )


def _flat(mean: Losses, at: float, low: float, high: float, within: float) -> FlatRange:
    """The range around `at` in which the mean stays within a share of its lowest value."""
    bound = (1 + within) * float(mean(np.asarray(at)))
    inside, outside, is_open, is_connected = [], [], [], True
    for end in (low, high):  # on either side: the points between which the mean leaves the range
        grid = np.linspace(at, end, _POINTS)
        out = np.flatnonzero(mean(grid) > bound)
        first = int(out[0]) if len(out) else _POINTS
        inside.append(grid[first - 1])
        outside.append(grid[min(first, _POINTS - 1)])
        is_open.append(not len(out))
        is_connected &= len(out) == _POINTS - first  # else it comes back
    ends = last_true(lambda x: mean(x) <= bound, low=np.array(inside), high=np.array(outside))
    lower, upper = np.exp(ends).tolist()
    return FlatRange(
        within=within,
        lower=lower,
        upper=upper,
        is_open_below=is_open[0],
        is_open_above=is_open[1],
        is_connected=is_connected,
    )


def _costs(
    losses: Losses, log_teacher: Callable[[Array], Array], best: float, student_params: float
) -> tuple[TeacherCost, ...]:
    """Cost of half and twice the best size, and of `RATIOS` times the student's."""
    others = [("half the best", best / 2), ("twice the best", 2 * best)]
    others += [(f"{ratio:g} x the student", ratio * student_params) for ratio in RATIOS]
    x = np.log([best, *(size for _, size in others)])[None]
    student, teacher = losses(x), np.exp(log_teacher(x)).mean(0)
    extra, scale = student[:, 1:] - student[:, :1], float(student[:, 0].mean())
    return tuple(
        TeacherCost(
            name=name,
            params=size,
            teacher_loss=float(loss),
            nats=float(by_member.mean()),
            per_cent=100 * float(by_member.mean()) / scale,
            nats_by_member=by_member,
        )
        for (name, size), loss, by_member in zip(others, teacher[1:], extra.T, strict=True)
    )


def _check(ensemble: LawEnsemble, margin: float) -> None:
    if not ensemble.student:
        raise ConfigError("these laws have no distillation half: a teacher does not enter them")
    if not 0 < margin < 1:
        raise ConfigError(f"margin: got {margin:g}; it is a share of the loss between 0 and 1, e.g. 0.005")


def _student(params: float, tokens: float) -> tuple[Array, Array]:
    """Logs of N_S and D_S, each (1, 1)."""
    n, d = log_positive("student_params", params), log_positive("student_tokens", tokens)
    return n.reshape(1, 1), d.reshape(1, 1)


def _axis(values: ArrayLike, *, name: str) -> Array:
    """Logs of ascending values, (p,)."""
    x = log_positive(name, values)
    if x.ndim != 1 or len(x) < 3 or not (np.diff(x) > 0).all():
        raise ConfigError(f"{name}: give at least three values in ascending order")
    return x


TOKENS_PER_PARAM = 20.0
"""Of teachers whose training tokens are not known: about compute-optimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRange:
    """The curve over teacher sizes, for teachers trained like the one chosen."""

    curve: TeacherCurve
    """In the nats of the law's text."""
    tokens_per_param: float
    scale: float = 1.0
    """The user's losses over the law's."""

    def to_json(self) -> dict[str, object]:
        """Best size, flat range, what other sizes cost, and the curve itself; losses on the user's text."""
        best, scale = self.curve.best, self.scale
        return {
            "best": best.at,
            "student_loss": scale * best.student_loss,
            "at_edge": best.at_edge,
            "within": FLAT,
            "flat": asdict(best.flat),
            "tokens_per_param": self.tokens_per_param,
            "costs": [cost.to_json(scale) for cost in self.curve.costs],
            "sizes": self.curve.sizes.tolist(),
            "losses": (scale * self.curve.mean).tolist(),
        }

    @property
    def sentence(self) -> str:
        """For people."""
        best, flat = self.curve.best, self.curve.best.flat
        low = say("smallest searched") if flat.is_open_below else format_size(flat.lower)
        high = say("largest searched") if flat.is_open_above else format_size(flat.upper)
        edge = say("or beyond") if best.at_edge else ""
        found = {"best": best.at, "edge": edge, "low": low, "high": high, "flat": 100 * FLAT}
        return say("teacher size", ratio=self.tokens_per_param, **found)


def teacher_range(situation: Situation, voice: Voice, row: Strategy, *, scale: float) -> TeacherRange:
    """The curve for the student of a strategy, over teachers trained on as many tokens per parameter as its own."""
    assert voice.ensemble is not None
    teacher = row.teacher
    known = teacher is not None and teacher.params and teacher.tokens
    ratio = teacher.tokens / teacher.params if known else TOKENS_PER_PARAM  # type: ignore[union-attr, operator]
    tokens = float(student_tokens_worth(situation, row.student_tokens, taught=True))
    curve = teacher_curve(
        voice.ensemble, student_params=row.student_params, student_tokens=tokens, teacher_tokens_per_param=ratio
    )
    return TeacherRange(curve=curve, tokens_per_param=ratio, scale=scale)
