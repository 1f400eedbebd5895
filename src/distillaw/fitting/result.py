"""What a fit returns: values with their doubt, validity first.

`predict` gives intervals of a new run: bootstrap of the parameters, noise, and the misspecification term of
`calibrate.py`. A result without a usable estimate refuses to predict. Text and HTML are in `summary.py`,
JSON in `serialise.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import FitError
from distillaw.fitting.curve import Curve, log_coordinates
from distillaw.fitting.misfit import Calibration
from distillaw.fitting.status import FitStatus
from distillaw.laws.base import Array, Box
from distillaw.laws.capacity import CapacityGapLine
from distillaw.laws.distillation import DistillationLaw, KappaDistillationLaw, ReducedDistillationLaw
from distillaw.laws.published import PublishedLaw
from distillaw.laws.supervised import SupervisedLaw

if TYPE_CHECKING:
    from distillaw.fitting.design import Design


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A predicted loss (or teacher size) with its interval, arrays of the broadcast shape."""

    mean: Array
    """The law at the estimate."""
    lower: Array
    upper: Array
    level: float
    inside_range: NDArray[np.bool_]
    """False: outside the runs that were fitted; the interval is wider there but still a guess."""
    fit_status: FitStatus = FitStatus.CONVERGED
    """Of the fit behind it."""

    @property
    def status(self) -> FitStatus:
        """EXTRAPOLATED where any point lies outside the fitted range, otherwise the status of the fit."""
        return self.fit_status if bool(np.all(self.inside_range)) else FitStatus.EXTRAPOLATED


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """A fitted law with its status, intervals, range and provenance."""

    family: str
    status: FitStatus
    remedy: str
    """What to do about the status, with the values seen."""
    curve: Curve | None
    """None where no estimate was possible."""
    nobs: int
    ngroups: int
    objective: float | None
    """Sum of the Huber terms of the log residuals at `delta`, without any prior."""
    delta: float | None
    level: float
    noise: float
    """Robust scale of the residuals in ln L."""
    condition_number: float | None
    solver_disagreement: float | None
    """(this solver - an independent one) / that one, in the minimised objective; above 1e-6 is a warning."""
    fitted_range: Box
    calibration: Calibration
    seconds: float
    seed: int
    provenance: Mapping[str, object] = field(default_factory=dict)
    resid: Array = field(default_factory=lambda: np.empty(0))
    """ln predicted - ln observed of each fitted row."""
    fitted_rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Index in the given table of each fitted row, aligned with `resid`."""
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further evidence of the family: the ladder's scores, bracketed students of the capacity gap."""

    @property
    def is_usable(self) -> bool:
        """True where predictions may be made at all."""
        return self.status.is_usable and self.curve is not None

    @property
    def params_convention(self) -> str:
        """What the law's parameter counts hold: non-embedding or total."""
        return str(self.provenance.get("params_convention", "non-embedding"))

    @property
    def failed_controls(self) -> tuple[str, ...]:
        """Controls that failed in the study whose runs were fitted (`distillaw study check`)."""
        return tuple(self.details.get("controls", {}).get("failed", ()))

    @property
    def params(self) -> dict[str, float]:
        """Coefficients at the estimate, under the names of `distillaw fit --json`; empty where there is none."""
        if self.curve is None:
            return {}
        return {name: float(value[0]) for name, value in self.curve.coefficients().items()}

    @property
    def law(
        self,
    ) -> (
        SupervisedLaw
        | DistillationLaw
        | KappaDistillationLaw
        | ReducedDistillationLaw
        | CapacityGapLine
        | None
    ):
        """The law object at the estimate; None where the fit is not usable."""
        if not self.is_usable or self.curve is None:
            return None
        return self.curve.law(box=self.fitted_range)

    @property
    def derived(self) -> dict[str, object]:
        """Better identified combinations: slopes p and q, allocation exponents, the effective break."""
        law = self.law
        if law is None or isinstance(law, CapacityGapLine) or self.curve is None:
            return {}
        out: dict[str, object] = dict(law.derived)
        if self.curve.behind is not None:
            out["supervised"] = {k: float(v[0]) for k, v in self.curve.behind.coefficients().items()}
        return out

    def conf_int(
        self, level: float | None = None, *, method: Literal["bootstrap", "profile"] = "bootstrap"
    ) -> dict[str, tuple[float | None, float | None]]:
        """Interval of each coefficient; empty where there is none.

        Args:
            level: coverage, by default that of the fit (the only one that profiles have).
            method: "bootstrap" is percentile pairs by run; "profile" is profile likelihood for E, gamma,
                p, q, c0, kappa, f1, with None for an end that the runs do not bound.
        """
        if method == "profile":
            return {
                name: (found["low"], found["high"]) for name, found in self.details.get("profile", {}).items()
            }
        if not self.is_usable or self.curve is None or not len(self.curve.replicates):
            return {}
        tail = 50 * (1 - (self.level if level is None else level))
        values = self.curve.coefficients(replicates=True)
        return {
            name: (float(np.percentile(v, tail)), float(np.percentile(v, 100 - tail)))
            for name, v in values.items()
        }

    def predict(self, *, level: float | None = None, **coords: ArrayLike) -> Prediction:
        """Prediction with the interval of a new run at these coordinates.

        s^2 = s_param^2 (bootstrap) + s_noise^2 + s_model(h)^2, the last growing with the decades of compute
        beyond the fitted runs.

        Args:
            level: coverage of the interval, by default that of the fit.
            coords: `params`, `tokens` for supervised laws; `student_params`, `student_tokens`,
                `teacher_loss` (and optionally `supervised_loss`) for distillation laws;
                `student_params` for the capacity-gap line. Arrays broadcast.

        Raises:
            FitError: the fit is not usable (says what to do).
            DataError: a coordinate is missing, unknown or not positive.
        """
        curve = self._usable_curve()
        logs, shape = log_coordinates(curve, dict(coords))
        mean = curve.log_value(logs, replicates=False)[0]
        level = self.level if level is None else level
        spread = _normal_quantile(0.5 + level / 2) * self._extra_spread(logs)
        low, high = -spread, spread
        if len(curve.replicates):
            tail = 50 * (1 - level)
            ends = np.percentile(curve.log_value(logs, replicates=True), [tail, 100 - tail], axis=0)
            low = -np.hypot(np.maximum(mean - ends[0], 0.0), spread)
            high = np.hypot(np.maximum(ends[1] - mean, 0.0), spread)
        return Prediction(
            mean=np.exp(mean).reshape(shape), lower=np.exp(mean + low).reshape(shape),
            upper=np.exp(mean + high).reshape(shape), level=level,
            inside_range=self.fitted_range.inside({k: np.exp(v) for k, v in logs.items()}).reshape(shape),
            fit_status=self.status,
        )  # fmt: skip

    def draws(self, *, noise: bool = True, **coords: ArrayLike) -> Array:
        """Bootstrap draws of the loss at these coordinates, shape (R, n), for probabilities.

        Args:
            noise: add the noise and misspecification terms, one draw per replicate and decade scale, the
                same for all coordinates of a replicate (misspecification moves neighbouring points together).
            coords: as in `predict`, flattened to n points.
        """
        curve = self._usable_curve()
        if not len(curve.replicates):
            raise FitError("this fit has no bootstrap replicates; fit again with bootstrap=1000")
        logs, _ = log_coordinates(curve, dict(coords))
        values = curve.log_value(logs, replicates=True)
        if noise:
            rng = np.random.default_rng([self.seed, 7])
            values = values + rng.standard_normal((len(values), 1)) * self._extra_spread(logs)
        return np.exp(values)

    def supervised_draws(self, *, params: ArrayLike, tokens: ArrayLike) -> Array:
        """Draws (R, n) of the supervised law behind a distillation fit, paired with `draws` by replicate.

        A law that was taken as known gives the same row R times.
        """
        curve = self._usable_curve()
        if not curve.is_student or curve.behind is None:
            raise FitError(
                "no supervised law stands behind this fit; fit a distillation family with supervised rows"
            )
        logs, _ = log_coordinates(curve.behind, {"params": params, "tokens": tokens})
        values = np.exp(curve.behind.log_value(logs, replicates=len(curve.behind.replicates) > 0))
        return np.broadcast_to(values, (max(len(curve.replicates), 1), values.shape[1]))

    def next_runs(
        self, *, target: Mapping[str, ArrayLike], budget: float, against: Mapping[str, ArrayLike] | None = None,
        candidates: Mapping[str, ArrayLike] | None = None, level: float | None = None, most: int = 40,
    ) -> "Design":  # fmt: skip
        """The runs that shrink the uncertainty of a prediction most per FLOP.

        Args:
            target: params, tokens and, for a distilled student, teacher_loss.
            budget: FLOP that may be spent.
            against: another allocation, as `target`: what shrinks is then the difference.
            candidates: runs that could be made; by default a grid from the smallest run to the target.
            level: coverage of the interval, by default that of the fit.
            most: runs proposed at most.

        Raises:
            FitError: the fit is not usable, or has no bootstrap replicates.
            ConfigError: the question is incomplete, or the budget buys no candidate.
        """
        from distillaw.fitting.next_runs import next_runs

        return next_runs(
            self, target=target, budget=budget, against=against, candidates=candidates, most=most,
            level=self.level if level is None else level, params_convention=self.params_convention,
        )  # fmt: skip

    def raise_for_status(self) -> "FitResult":
        """Self if the status is CONVERGED; otherwise an error with the remedy, for scripts.

        Raises:
            FitError: any other status.
        """
        if self.status is not FitStatus.CONVERGED:
            raise FitError(f"fit of {self.family}: {self.status.name}: {self.remedy}")
        return self

    def summary(self) -> str:
        """Plain text: validity, then values with intervals, then where they come from."""
        from distillaw.fitting.summary import summarise

        return summarise(self)

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        from distillaw.fitting.summary import summarise_html

        return summarise_html(self)

    def to_json(self) -> dict[str, object]:
        """Everything needed to predict again, as plain JSON values."""
        from distillaw.fitting.serialise import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> "FitResult":
        """The result that `to_json` wrote."""
        from distillaw.fitting.serialise import from_json

        return from_json(document)

    def save(self, path: str | Path) -> Path:
        """Write the result as one JSON file, atomically."""
        from distillaw.fitting.serialise import save

        return save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> "FitResult":
        """Read a result that `save` wrote."""
        from distillaw.fitting.serialise import load

        return load(path)

    def _usable_curve(self) -> Curve:
        if self.curve is None or not self.is_usable:
            raise FitError(f"fit of {self.family}: {self.status.name}, no prediction is made: {self.remedy}")
        return self.curve

    def _extra_spread(self, logs: dict[str, Array]) -> Array:
        """Noise and misspecification of a new run, standard deviation in ln L, per point."""
        names = ("student_params", "student_tokens") if "student_params" in logs else ("params", "tokens")
        top = self.fitted_range.as_dict().get("compute", (0.0, float("inf")))[1]
        decades = np.zeros(len(logs[names[0]]))
        if names[1] in logs:
            decades = (np.log(6.0) + logs[names[0]] + logs[names[1]] - np.log(top)) / np.log(10.0)
        return np.hypot(self.noise, self.calibration.spread(decades))


def convention_of(law: FitResult | PublishedLaw | SupervisedLaw) -> str | None:
    """What a law's parameter counts hold; None where it does not say, or not in these words."""
    if isinstance(law, FitResult):
        return law.params_convention
    if isinstance(law, PublishedLaw):
        return next(
            (c for c in ("non-embedding", "total") if law.record.params_convention.startswith(c)), None
        )
    return None


def _normal_quantile(probability: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(probability)
