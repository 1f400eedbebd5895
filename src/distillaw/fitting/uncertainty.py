"""What a law does not know of itself, linearised: covariance of its parameters and gradients of its predictions.

The parameters are those of the curve and, where a supervised law was fitted behind Ltilde_S, of that law too:
a run without a teacher then informs a distilled prediction, and the difference of the two is one gradient.
Covariances come from bootstrap replicates, or for a guessed law from a weak prior and the runs already made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import ConfigError, FitError
from distillaw.fitting.curve import Curve
from distillaw.fitting.misfit import Calibration
from distillaw.fitting.models import FREE
from distillaw.fitting.result import FitResult
from distillaw.laws.base import Array, log_positive

_STEP = 1e-5
_SUPERVISED_SD = (0.5, 1.0, 1.5, 0.3, 0.3, 0.4)
"""Weak prior of a supervised law: ln E, ln S at the centre, logit w, p, q, ln eta."""
_STUDENT_SD = (2.0, 2.0, 0.3, 0.3, 0.7, 2.0, 1.0, 0.5, 0.05)
"""Of a distillation law: s0, logit w, p, q, ln eta, c0, ln kappa, ln f1, eps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Runs or predictions by their coordinates, arrays of equal length (m,)."""

    params: Array
    tokens: Array
    teacher_loss: Array
    """NaN for a run without a teacher."""

    @classmethod
    def of(cls, table: Mapping[str, ArrayLike], *, what: str) -> "Cells":
        """From columns params, tokens and, where there are teachers, teacher_loss (NaN or 0 without).

        Raises:
            ConfigError: params or tokens is missing.
            DataError: a value is not positive and finite.
        """
        missing = [name for name in ("params", "tokens") if table.get(name) is None]
        if missing:
            raise ConfigError(f"{what}: missing {', '.join(missing)}; give params, tokens and, with a teacher, "
                              f"teacher_loss")  # fmt: skip
        given = table.get("teacher_loss")
        teacher = np.array(np.nan if given is None else given, dtype=np.float64)
        params, tokens = (np.exp(log_positive(name, table[name])) for name in ("params", "tokens"))
        params, tokens, teacher = np.broadcast_arrays(*np.atleast_1d(params, tokens, teacher))
        known = np.isfinite(teacher) & (teacher != 0)
        log_positive("teacher_loss", teacher[known])
        return cls(params=params.ravel(), tokens=tokens.ravel(),
                   teacher_loss=np.where(known, teacher, np.nan).ravel())  # fmt: skip

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.params)

    @property
    def taught(self) -> NDArray[np.bool_]:
        """True where there is a teacher."""
        return np.isfinite(self.teacher_loss)

    @property
    def compute(self) -> Array:
        """6 N D, the axis of extrapolation."""
        return 6 * self.params * self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """A law with the covariance of its parameters, the noise of a run, and what it misses beyond its runs."""

    curve: Curve
    covariance: Array
    """(k, k) of the curve's parameters, then of the supervised law's behind it where that is uncertain."""
    noise: float
    """Standard deviation of one run, in ln L."""
    calibration: Calibration
    largest: float
    """Largest compute among the runs made; 0 without any."""

    def log_loss(self, cells: Cells) -> Array:
        """Ln L of each cell at the estimate, (m,)."""
        return self._values(cells, self._theta[None])[0]

    def gradient(self, cells: Cells) -> Array:
        """D ln L / d parameters of each cell by central difference, (m, k)."""
        theta = self._theta
        step = _STEP * np.eye(len(theta))
        return (self._values(cells, theta + step) - self._values(cells, theta - step)).T / (2 * _STEP)

    def informed_by(self, cells: Cells) -> "Belief":
        """The belief after runs at these cells, their noise independent."""
        if not len(cells):
            return self
        J = self.gradient(cells)
        CJ = self.covariance @ J.T
        seen = np.linalg.solve(J @ CJ + max(self.noise, 1e-6) ** 2 * np.eye(len(J)), CJ.T)
        return replace(self, covariance=self.covariance - CJ @ seen,
                       largest=max(self.largest, float(cells.compute.max())))  # fmt: skip

    @property
    def _theta(self) -> Array:
        behind = self.curve.behind
        if behind is None or len(self.covariance) == len(self.curve.theta):  # taken as known
            return self.curve.theta
        return np.concatenate([self.curve.theta, behind.theta])

    def _values(self, cells: Cells, theta: Array) -> Array:
        """Ln L, shape (R, m), for parameter vectors (R, k)."""
        own = len(self.curve.theta)
        curve, behind = replace(self.curve, replicates=theta[:, :own]), self.curve.behind
        if behind is not None:
            rows = (
                theta[:, own:] if theta.shape[1] > own else np.repeat(behind.theta[None], len(theta), axis=0)
            )
            behind = replace(behind, replicates=rows)
            curve = replace(curve, behind=behind)
        n, d, taught = np.log(cells.params), np.log(cells.tokens), cells.taught
        if not curve.is_student:
            if taught.any():
                raise ConfigError(
                    "a supervised law says nothing of distilled runs; fit a distillation family"
                )
            return curve.log_value({"params": n, "tokens": d}, replicates=True)
        if behind is None:
            raise FitError(
                "this distillation law was fitted on measured supervised losses and has none for new students; "
                "fit with rows without a teacher, or with --supervised LAW"
            )
        out = behind.log_value({"params": n, "tokens": d}, replicates=True)
        if taught.any():
            at = {"student_params": n[taught], "student_tokens": d[taught],
                  "teacher_loss": np.log(cells.teacher_loss[taught])}  # fmt: skip
            out[:, taught] = curve.log_value(at, replicates=True)
        return out


def fitted_belief(result: FitResult) -> Belief:
    """What a fit knows: the covariance of its bootstrap replicates, kept proper by the weak prior.

    Raises:
        FitError: the fit is not usable, or has no replicates.
        ConfigError: a capacity-gap line, of which runs at other cells say nothing.
    """
    curve = result.curve
    if curve is None or not result.is_usable:
        raise FitError(
            f"next runs: the fit is {result.status.name}. {result.remedy} Or design from a guessed law"
        )
    if curve.form == "capacity-gap":
        raise ConfigError(
            "next runs: not defined for the capacity-gap line; add teachers on the open side instead"
        )
    if len(curve.replicates) < 2:
        raise FitError(
            "next runs: the fit has no bootstrap replicates; fit with bootstrap=1000 (--bootstrap 1000)"
        )
    parts, behind = [curve.replicates], curve.behind
    if behind is not None and len(behind.replicates) == len(curve.replicates):
        parts.append(behind.replicates)
    draws = np.concatenate(parts, axis=1)
    spread = central_covariance(draws)
    # (S^-1 + P^-1)^-1 without inverting S, which is singular where parameters are tied or fixed
    prior = np.diag(np.square(_prior_sd(curve, both=len(parts) > 1)))
    covariance = spread - spread @ np.linalg.solve(spread + prior, spread)
    top = result.fitted_range.as_dict().get("compute", (0.0, 0.0))[1]
    return Belief(
        curve=curve, covariance=covariance, noise=result.noise, calibration=result.calibration, largest=top
    )


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


def guessed_belief(curve: Curve, *, noise: float, runs: Cells | None = None) -> Belief:
    """What a guessed law and the runs made so far leave open: a weak prior, informed by those runs.

    Args:
        curve: the guess (`guess.py`).
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
    belief = Belief(curve=curve, covariance=covariance, noise=noise, calibration=Calibration(), largest=0.0)
    return belief if runs is None else belief.informed_by(runs)


def _prior_sd(curve: Curve, *, both: bool) -> Array:
    own = _STUDENT_SD if curve.is_student else _SUPERVISED_SD
    return np.array((*own, *_SUPERVISED_SD) if both else own)
