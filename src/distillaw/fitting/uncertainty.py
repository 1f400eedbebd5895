"""What a law does not know of itself, linearised: covariance of its parameters and gradients of its predictions.

The parameters are those of the curve and, where a supervised law was fitted behind Ltilde_S, of that law too: a run
without a teacher then informs a distilled prediction, and the difference of the two is one gradient. Covariances come
from bootstrap replicates, or for a guessed law from a weak prior and the runs already made. What a law misses beyond
its runs is `Calibration`; how it is found is in calibrate.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import ConfigError, FitError
from distillaw.fitting.curve import FittedCurve, student_curve, supervised_curve
from distillaw.fitting.models import FREE
from distillaw.laws.base import Array, log_positive
from distillaw.laws.distillation import StudentLaw
from distillaw.laws.published import PublishedLaw
from distillaw.laws.supervised import SupervisedLaw

DEFAULT_AT_EDGE, DEFAULT_PER_DECADE = 0.002, 0.008
DEFAULT_PER_LOSS, DEFAULT_PER_EXCESS = 0.08, 0.12
"""s_model where the data cannot tell: 0.8 % of L per decade beyond the runs, 0.8 % per 0.1 of ln L_T outside the
teachers, an eighth of what a run lies above the best of its compute (docs/fitting.md)."""
UNTRIED = 0.025
"""Per decade of compute, size or tokens beyond what hold-outs of a law without teachers reached: by the interval score
of public collections, with whichever one left out (0.025 to 0.03; docs/fitting.md)."""
AXES = ("compute", "params", "tokens", "smaller", "teacher_loss", "excess")
"""Ways out of the runs: more compute, parameters or tokens; fewer of either; a better or worse teacher; and, within
them too, away from the best allocation of the compute, which a law of few numbers follows at the cost of the rest."""
_SAME = (1.6, 1.3, 1.3, 1.005)
"""Compute, sizes, tokens and teachers' losses within these factors are one level."""
FEW_LEVELS = 3
"""A curve of three parameters goes through so many, whatever lies beyond them."""
_FEW = 2.0
"""Of `unsure`, chosen on public runs (docs/fitting.md)."""
_ALONG = np.linspace(-4, 4, 41)
"""ln of the factors by which a size is changed at equal compute to find its best."""


def extent_of(params: Array, tokens: Array, teacher_loss: Array | None = None, excess: Array | None = None) -> Array:
    """What runs are far out by, (..., 5): compute 6 N D, parameters, tokens, teacher's loss, excess (NaN: unknown).

    `excess` is ln L above the law's best at that compute (`above_best`).
    """
    rest = [np.array(np.nan) if column is None else column for column in (teacher_loss, excess)]
    return np.stack(np.broadcast_arrays(6 * params * tokens, params, tokens, *rest), axis=-1)


def above_best(curve: FittedCurve, log_params: Array, log_tokens: Array) -> Array | None:
    """ln L above the law's own best at the compute of each point, (n,); None of laws with teachers and lines.

    Args:
        curve: a law of params and tokens.
        log_params: ln N, (n,).
        log_tokens: ln D, (n,).
    """
    if curve.is_student or curve.form not in ("supervised", "chinchilla"):
        return None
    n, d = (log_params + _ALONG[:, None]).ravel(), (log_tokens - _ALONG[:, None]).ravel()
    value = curve.log_value({"params": n, "tokens": d}, replicates=False)[0].reshape(len(_ALONG), -1)
    return value[len(_ALONG) // 2] - value.min(axis=0)


def outside(extent: Array, top: Array, low: Array | None = None) -> Array:
    """How far beyond the runs fitted along each of `AXES`, (..., 6): decades, of losses e-folds; 0 within.

    Args:
        extent: of the points, (..., 5) as `extent_of` gives it.
        top: the largest among the runs, (..., 5), of which that of the excess is not used; 0 where there is none.
        low: the smallest, likewise; where none is given, nothing lies below.
    """
    extent, top = np.broadcast_arrays(extent, top)
    placed, excess, top = extent[..., :4], extent[..., 4], top[..., :4]
    above = np.log(placed / np.where(top > 0, top, placed))
    least = np.zeros(4) if low is None else low[..., :4]
    below = np.log(np.where(least > 0, least, placed) / placed)
    teacher = np.maximum(above[..., 3], below[..., 3])
    decades = [*np.moveaxis(above[..., :3], -1, 0), below[..., 1:3].max(axis=-1)]
    found = np.stack([*(d / np.log(10) for d in decades), teacher, excess], axis=-1)
    return np.maximum(np.nan_to_num(found), 0.0)


def range_of(fitted_range: Mapping[str, tuple[float, float]]) -> tuple[Array, Array]:
    """Least and largest (5,) of a fitted range, as `outside` takes them; 0 where it does not say."""
    nothing = (0.0, 0.0)
    found = [fitted_range.get("compute", nothing)]
    found += [fitted_range.get(n, fitted_range.get(f"student_{n}", nothing)) for n in ("params", "tokens")]
    low, top = zip(*found, fitted_range.get("teacher_loss", nothing), nothing, strict=True)
    return np.array(low), np.array(top)


def num_levels(extent: Array) -> Array:
    """Distinct levels of compute, size, tokens and teachers' losses among runs (n, 5); (4,)."""
    found = []
    for column, same in zip(extent.T[:4], _SAME, strict=True):
        levels, last = 0, -np.inf
        for value in np.unique(np.log(column[np.isfinite(column)])):
            if value > last + np.log(same):
                levels, last = levels + 1, value
        found.append(levels)
    return np.array(found)


def unsure(levels: Array) -> Array:
    """How much more a law may be wrong beyond few levels, along each of `AXES`, (6,): 3 times for three, 1.3 for ten.

    Sizes and tokens count no more levels than there are of compute. Learnt on runs without a teacher; the few sizes of
    distilled runs stand beside as many of training alone, and 1 is taken for their laws.
    """
    compute, params, tokens, teachers = levels
    if teachers:
        return np.ones(len(AXES))
    each = np.array([compute, min(compute, params), min(compute, tokens), min(params, tokens)])
    return np.concatenate([1 + _FEW / np.maximum(each - FEW_LEVELS + 1, 1), [1.0, 1.0]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """s_model(x) = at_edge + max over the axes of slope x, in ln L, and where it comes from."""

    at_edge: float = DEFAULT_AT_EDGE
    per_decade: float = DEFAULT_PER_DECADE
    """Of compute beyond the runs."""
    per_params: float | None = None
    """Per decade of size, where it is not that of compute; so are those below."""
    per_tokens: float | None = None
    per_smaller: float | None = None
    """Per decade of size or tokens below the runs; None in files that knew of none."""
    per_loss: float | None = None
    """Per unit of ln L_T outside the teachers; None in files that knew of none."""
    per_excess: float | None = None
    """Per unit of ln L above the law's best at the same compute; None in files that knew of none."""
    tried: Sequence[float] | None = None
    """Decades of compute, size, tokens and below that hold-outs reached, (4,): beyond, a slope is `UNTRIED` at least.
    None of laws with teachers and in files that knew of none."""
    num_held_out: int = 0
    """Held-out rows it was calibrated on; 0 is the default."""
    max_decades: float = 0.0
    """Largest extrapolation that was tried; beyond it the term keeps growing and the prediction is flagged."""
    nominal: float = 0.9
    obtained: float | None = None
    """Share of the held-out rows inside their nominal intervals, with this term."""
    obtained_without: float | None = None
    """The same without it: parameters and noise alone."""
    error: float | None = None
    """Root mean square error of the held-out predictions, in ln L."""

    @property
    def slopes(self) -> Array:
        """Along `AXES`, (6,)."""
        sizes = [self.per_decade if x is None else x for x in (self.per_params, self.per_tokens)]
        rest = [x or 0.0 for x in (self.per_smaller, self.per_loss, self.per_excess)]
        return np.array([self.per_decade, *sizes, *rest])

    def spread(self, beyond: Array) -> Array:
        """s_model that far outside the fitted runs (`outside`, shape (..., 6))."""
        slopes = self.slopes
        each = slopes * beyond
        if self.tried is not None:
            untried = np.maximum(beyond[..., :4] - self.tried, 0.0)
            each[..., :4] += np.maximum(UNTRIED - slopes[:4], 0.0) * untried
        return self.at_edge + each.max(axis=-1)

    @property
    def label(self) -> str:
        """What to say beside an interval."""
        if not self.num_held_out:
            return "default, not calibrated"
        if self.max_decades < _NOWHERE:
            return f"calibrated on {self.num_held_out} held-out predictions, none beyond the runs: a default there"
        return f"calibrated on {self.num_held_out} held-out predictions up to {self.max_decades:.1f} decades"


_NOWHERE = 0.05
"""Decades that are no extrapolation."""
_STEP = 1e-5
"""Of central differences in parameters of order 1: near the cube root of float64's precision, where they err least."""
_SUPERVISED_SD = (0.5, 1.0, 1.5, 0.3, 0.3, 0.4)
"""Weak prior of a supervised law: ln E, ln S at the centre, logit w, p, q, ln eta."""
_STUDENT_SD = (2.0, 2.0, 0.3, 0.3, 0.7, 2.0, 1.0, 0.5, 0.05)
"""Of a distillation law: s0, logit w, p, q, ln eta, c0, ln kappa, ln f1, eps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignPoints:
    """Runs or predictions by their coordinates, arrays of equal length (m,)."""

    params: Array
    tokens: Array
    teacher_loss: Array
    """NaN for a run without a teacher."""

    @classmethod
    def of(cls, table: Mapping[str, ArrayLike], *, what: str) -> "DesignPoints":
        """From columns params, tokens and, where there are teachers, teacher_loss (NaN or 0 without).

        Raises:
            ConfigError: params or tokens is missing.
            DataError: a value is not positive and finite.
        """
        missing = [name for name in ("params", "tokens") if table.get(name) is None]
        if missing:
            raise ConfigError(
                f"{what}: missing {', '.join(missing)}; give params, tokens and, with a teacher, teacher_loss"
            )
        given = table.get("teacher_loss")
        teacher = np.array(np.nan if given is None else given, dtype=np.float64)
        params, tokens = (np.exp(log_positive(name, table[name])) for name in ("params", "tokens"))
        params, tokens, teacher = np.broadcast_arrays(*np.atleast_1d(params, tokens, teacher))
        known = np.isfinite(teacher) & (teacher != 0)
        log_positive("teacher_loss", teacher[known])
        teacher = np.where(known, teacher, np.nan)
        return cls(params=params.ravel(), tokens=tokens.ravel(), teacher_loss=teacher.ravel())

    def rows(self, keep: NDArray) -> "DesignPoints":
        """Those where `keep` (mask or indices)."""
        return DesignPoints(**{name: getattr(self, name)[keep] for name in DesignPoints.__slots__})

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.params)

    @property
    def taught(self) -> NDArray[np.bool_]:
        """True where there is a teacher."""
        return np.isfinite(self.teacher_loss)

    @property
    def extent(self) -> Array:
        """(m, 5), what extrapolation is measured on."""
        return extent_of(self.params, self.tokens, self.teacher_loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearBelief:
    """A law with the covariance of its parameters, the noise of a run, and what it misses beyond its runs."""

    curve: FittedCurve
    covariance: Array
    """(k, k) of the curve's parameters, then of the supervised law's behind it where that is uncertain."""
    noise: float
    """Standard deviation of one run, in ln L."""
    calibration: Calibration
    largest: Array
    """(5,): the largest of each column of `extent_of` among the runs made; 0 without any."""

    def log_loss(self, cells: DesignPoints) -> Array:
        """Ln L of each cell at the estimate, (m,)."""
        return self._values(cells, self._theta[None])[0]

    def gradient(self, cells: DesignPoints) -> Array:
        """D ln L / d parameters of each cell by central difference, (m, k)."""
        theta = self._theta
        step = _STEP * np.eye(len(theta))
        return (self._values(cells, theta + step) - self._values(cells, theta - step)).T / (2 * _STEP)

    def informed_by(self, cells: DesignPoints) -> "LinearBelief":
        """The belief after runs at these cells, their noise independent."""
        if not len(cells):
            return self
        J = self.gradient(cells)
        CJ = self.covariance @ J.T
        seen = np.linalg.solve(J @ CJ + max(self.noise, 1e-6) ** 2 * np.eye(len(J)), CJ.T)
        largest = np.fmax(self.largest, np.fmax.reduce(cells.extent, axis=0))
        return replace(self, covariance=self.covariance - CJ @ seen, largest=largest)

    @property
    def _theta(self) -> Array:
        behind = self.curve.behind
        if behind is None or len(self.covariance) == len(self.curve.theta):  # taken as known
            return self.curve.theta
        return np.concatenate([self.curve.theta, behind.theta])

    def _values(self, cells: DesignPoints, theta: Array) -> Array:
        """Ln L, shape (R, m), for parameter vectors (R, k)."""
        own = len(self.curve.theta)
        curve, behind = replace(self.curve, replicates=theta[:, :own]), self.curve.behind
        if behind is not None:
            rows = theta[:, own:] if theta.shape[1] > own else np.repeat(behind.theta[None], len(theta), axis=0)
            behind = replace(behind, replicates=rows)
            curve = replace(curve, behind=behind)
        n, d, taught = np.log(cells.params), np.log(cells.tokens), cells.taught
        if not curve.is_student:
            if taught.any():
                raise ConfigError("a supervised law says nothing of distilled runs; fit a distillation family")
            return curve.log_value({"params": n, "tokens": d}, replicates=True)
        if behind is None:
            raise FitError(
                "this distillation law was fitted on measured supervised losses and has none for new students; "
                "fit with rows without a teacher, or with --supervised LAW"
            )
        out = behind.log_value({"params": n, "tokens": d}, replicates=True)
        if taught.any():
            at = {"student_params": n[taught], "student_tokens": d[taught]}
            at["teacher_loss"] = np.log(cells.teacher_loss[taught])
            out[:, taught] = curve.log_value(at, replicates=True)
        return out


def fitted_belief(
    curve: FittedCurve, *, noise: float, calibration: Calibration, fitted_range: Mapping[str, tuple[float, float]]
) -> LinearBelief:
    """What a fit knows: the covariance of its bootstrap replicates, kept proper by the weak prior.

    Args:
        curve: the fit, with replicates.
        noise: standard deviation of one run, in ln L.
        fitted_range: {coordinate: (lowest, highest)} of the runs.

    Raises:
        FitError: the curve has no replicates.
        ConfigError: a capacity-gap line or a law of starts, whose runs are chosen otherwise.
    """
    if curve.form in ("capacity-gap", "pruned"):
        remedy = (
            "teachers on the open side" if curve.form == "capacity-gap" else "small budgets, from a cut and at random,"
        )
        raise ConfigError(f"next runs: not defined for the family {curve.form}; add {remedy} instead")
    if len(curve.replicates) < 2:
        raise FitError("next runs: the fit has no bootstrap replicates; fit with bootstrap=1000 (--bootstrap 1000)")
    parts, behind = [curve.replicates], curve.behind
    if behind is not None and len(behind.replicates) == len(curve.replicates):
        parts.append(behind.replicates)
    spread = central_covariance(np.concatenate(parts, axis=1))
    # (S^-1 + P^-1)^-1 without inverting S, which is singular where parameters are tied or fixed
    prior = np.diag(np.square(_prior_sd(curve, both=len(parts) > 1)))
    covariance = spread - spread @ np.linalg.solve(spread + prior, spread)
    _, top = range_of(fitted_range)
    return LinearBelief(curve=curve, covariance=covariance, noise=noise, calibration=calibration, largest=top)


def central_covariance(draws: Array) -> Array:
    """Covariance (k, k) of replicates (R, k) without those that ran away down a flat valley.

    Linearisation holds near the estimate only, where a few runaways would dominate every variance. From the half
    of the replicates nearest the median, those within the 97.5 % ellipsoid are kept, three times over.
    """
    varies = draws.std(axis=0) > 1e-12
    k = int(varies.sum())
    out = np.zeros((draws.shape[1], draws.shape[1]))
    if not k:
        return out
    x = draws[:, varies] - np.median(draws[:, varies], axis=0)
    scale = np.median(np.abs(x), axis=0)
    distance = np.square(x / np.where(scale > 0, scale, x.std(axis=0))).max(axis=1)
    kept, limit = distance <= np.median(distance), _chi_square(k)
    for _ in range(3):
        covariance = np.atleast_2d(np.cov(x[kept].T))
        centred = x - x[kept].mean(axis=0)
        distance = np.einsum("rk,kl,rl->r", centred, np.linalg.pinv(covariance, rcond=1e-12), centred)
        kept = distance <= limit * np.median(distance) / _chi_square(k, 0.0)
    out[np.ix_(varies, varies)] = np.atleast_2d(np.cov(x[kept].T))
    return out


def _chi_square(k: int, z: float = 1.96) -> float:
    """Quantile of chi-square with k degrees at a normal quantile z, after Wilson and Hilferty."""
    return float(k * (1 - 2 / (9 * k) + z * np.sqrt(2 / (9 * k))) ** 3)


def guessed_curve(law: PublishedLaw | SupervisedLaw | StudentLaw, *, around: DesignPoints, taught: bool) -> FittedCurve:
    """The law as a curve without replicates, centred on the cells it will be asked about.

    Args:
        law: a published law, or one made up by hand.
        around: cells whose mean ln N and ln D become the centre of the parameters.
        taught: distilled runs are in question; otherwise the supervised half will do.

    Raises:
        ConfigError: the law lacks the half that is needed.
    """
    centre = (float(np.log(around.params).mean()), float(np.log(around.tokens).mean()))
    student = law.distillation if isinstance(law, PublishedLaw) else law
    supervised = law.supervised if isinstance(law, PublishedLaw | StudentLaw) else law
    if not isinstance(supervised, SupervisedLaw):
        raise ConfigError("guess: the law has no supervised half; known ones: `distillaw laws`")
    behind = supervised_curve(supervised, centre)
    if not taught:
        return behind
    if not isinstance(student, StudentLaw):
        raise ConfigError("guess: the law has no distillation half; surrogate-s2 and busbridge2025 have one")
    return replace(student_curve(student, centre), behind=behind)


def scaled_to(curve: FittedCurve, cells: DesignPoints, loss: Array) -> FittedCurve:
    """The guess moved to the mean level of measured losses without a teacher: E and S by one factor.

    The text of the user's runs is as easy as it is; the shape of the guess stays.
    """
    plain = ~cells.taught
    if not plain.any():
        return curve
    level = curve.behind or curve
    at = {"params": np.log(cells.params[plain]), "tokens": np.log(cells.tokens[plain])}
    shift = float(np.mean(np.log(loss[plain]) - level.log_value(at, replicates=False)[0]))
    moved = replace(level, theta=level.theta + shift * np.array([1.0, 1.0, 0, 0, 0, 0]))
    if curve.behind is None:
        return moved
    theta = curve.theta.copy()
    theta[0] += shift * (1 + theta[5])  # the student's term is divided by L_T^c0, and L_T moves as well
    return replace(curve, theta=theta, behind=moved)


def guessed_belief(curve: FittedCurve, *, noise: float, runs: DesignPoints | None = None) -> LinearBelief:
    """What a guessed law and the runs made so far leave open: a weak prior, informed by those runs.

    Args:
        noise: standard deviation of a run in ln L.
        runs: runs already made; their losses are not needed.
    """
    if not 0 < noise < 1:
        raise ConfigError(f"noise: got {noise}; the spread of one run's ln loss, e.g. 0.003 for 0.3 %")
    both = curve.behind is not None
    free = np.zeros(len(curve.theta), dtype=bool)
    free[list(FREE[curve.form]) if curve.is_student else range(5 if curve.form == "chinchilla" else 6)] = True
    mask = np.concatenate([free, np.ones(6, dtype=bool)]) if both else free
    covariance = np.diag(np.where(mask, np.square(_prior_sd(curve, both=both)), 0.0))
    belief = LinearBelief(
        curve=curve, covariance=covariance, noise=noise, calibration=Calibration(), largest=np.zeros(5)
    )
    return belief if runs is None else belief.informed_by(runs)


def _prior_sd(curve: FittedCurve, *, both: bool) -> Array:
    own = _STUDENT_SD if curve.is_student else _SUPERVISED_SD
    return np.array((*own, *_SUPERVISED_SD) if both else own)
