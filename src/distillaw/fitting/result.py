"""What a fit returns: values with their doubt, validity first; as text, and as a JSON file.

`predict` gives intervals of a new run: bootstrap of the parameters, noise, and the misspecification term
(`uncertainty.Calibration`). A result without a usable estimate refuses to predict.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import CacheError, DataError, FitError
from distillaw.fitting.curve import FittedCurve, log_coordinates
from distillaw.fitting.summary import UNUSABLE, coefficient_table, summarise, summarise_html
from distillaw.fitting.uncertainty import (
    Calibration,
    LinearBelief,
    above_best,
    extent_of,
    fitted_belief,
    outside,
    range_of,
)
from distillaw.laws.base import Array, Box
from distillaw.laws.capacity import CapacityGapLine
from distillaw.laws.distillation import StudentLaw
from distillaw.laws.published import PublishedLaw
from distillaw.laws.starts import StartLaw
from distillaw.laws.supervised import SupervisedLaw
from distillaw.runs.files import parse_json, read_text, sealed, unsealed, write_text
from distillaw.runs.places import check_file
from distillaw.table import Table


class FitStatus(Enum):
    """Outcome of a fit. Soft outcomes are statuses, not errors; `raise_for_status()` makes them errors."""

    CONVERGED = "Both solvers agree and the runs identify every reported parameter."
    AT_BOUND = "A parameter sits at the end of its range; fix or drop that term, or add runs that inform it."
    WEAKLY_IDENTIFIED = (
        "The runs do not separate the parameters; trust predictions inside the fitted range, "
        "not single coefficients, and add runs away from the present line in (ln params, ln tokens)."
    )
    MISFIT = (
        "The law does not describe these runs, and its intervals are of a law that does; part the table, or fit the "
        "runs that the law holds for."
    )
    EXTRAPOLATED = "Outside the fitted range; widen the runs towards the target or trust only the wide interval."
    TOO_FEW_RUNS = "Fewer independent runs than parameters + 3; add runs, no curve is drawn through these."
    NO_LINE = "The best teacher does not rise with the student in these runs; add students further apart, or seeds."
    SEED_NOISE_UNKNOWN = "No repeated cell; run a few cells with a second seed to measure the noise."
    ONE_COMPUTE_LEVEL = (
        "All runs lie on one compute level, where size and tokens cannot be separated; "
        "add runs at a second budget, at least 3x larger or smaller."
    )

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        """Also to its word, as `--json` has it."""
        return self is other or self.name == other

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def is_usable(self) -> bool:
        """False where no prediction may be made."""
        return self.name not in UNUSABLE


class Judgement(NamedTuple):
    """A status and what to do about it, with the values seen."""

    status: FitStatus
    remedy: str


FORMAT = "distillaw-fit"
VERSION = 1
"""Of the file's keys: raised when a reader of older files would misread newer ones."""
_PLAIN = (
    *("family", "remedy", "nobs", "ngroups", "objective", "delta", "level", "noise"),
    *("condition_number", "solver_disagreement", "seconds", "seed"),
)
"""Fields that are plain JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedLoss:
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
    curve: FittedCurve | None = None
    """None where no estimate was possible."""
    nobs: int
    ngroups: int
    objective: float | None = None
    """Sum of the Huber terms of the log residuals at `delta`, with the weights given (1 each), without any prior."""
    delta: float | None = None
    level: float
    noise: float = 0.0
    """Robust scale of the residuals in ln L."""
    condition_number: float | None = None
    solver_disagreement: float | None = None
    """(this solver - an independent one) / that one, in the minimised objective; above 1e-6 is a warning."""
    fitted_range: Box
    calibration: Calibration = field(default_factory=Calibration)
    seconds: float = 0.0
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
    def law(self) -> SupervisedLaw | StudentLaw | CapacityGapLine | StartLaw | None:
        """The law object at the estimate; None where the fit is not usable."""
        if not self.is_usable or self.curve is None:
            return None
        law = self.curve.law(box=self.fitted_range)
        if isinstance(law, CapacityGapLine):
            return replace(law, of_cuts=self.provenance.get("arm") == "pruned")
        return law

    @property
    def derived(self) -> dict[str, object]:
        """Better identified combinations: slopes p and q, allocation exponents, the effective break."""
        law = self.law
        if law is None or isinstance(law, CapacityGapLine | StartLaw) or self.curve is None:
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
            return {name: (found["low"], found["high"]) for name, found in self.details.get("profile", {}).items()}
        if not self.is_usable or self.curve is None or not len(self.curve.replicates):
            return {}
        tail = 50 * (1 - (self.level if level is None else level))
        values = self.curve.coefficients(replicates=True)
        return {
            name: (float(np.percentile(v, tail)), float(np.percentile(v, 100 - tail))) for name, v in values.items()
        }

    def predict(self, *, level: float | None = None, **coords: ArrayLike) -> PredictedLoss:
        """PredictedLoss with the interval of a new run at these coordinates.

        s^2 = s_param^2 (bootstrap) + s_noise^2 + s_model(h)^2, the last growing with the decades of compute
        beyond the fitted runs. Of a capacity-gap law, beyond its students: the widest of line and power
        (`FittedCurve.line_and_power`).

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
        spread = NormalDist().inv_cdf(0.5 + level / 2) * self._extra_spread(logs)
        low, high = -spread, spread
        if len(curve.replicates):
            tail = 50 * (1 - level)
            if curve.form == "capacity-gap":
                students = self.fitted_range.as_dict()["student_params"]
                values = curve.line_and_power(logs["student_params"], students)
            else:
                values = curve.log_value(logs, replicates=True)[None]
            ends = np.percentile(values, [tail, 100 - tail], axis=1)  # (2, forms, n)
            low = -np.hypot(np.maximum(mean - ends[0].min(axis=0), 0.0), spread)
            high = np.hypot(np.maximum(ends[1].max(axis=0) - mean, 0.0), spread)
        inside = self.fitted_range.inside({name: np.exp(value) for name, value in logs.items()})
        return PredictedLoss(
            mean=np.exp(mean).reshape(shape),
            lower=np.exp(mean + low).reshape(shape),
            upper=np.exp(mean + high).reshape(shape),
            level=level,
            inside_range=inside.reshape(shape),
            fit_status=self.status,
        )

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
            raise FitError("no supervised law stands behind this fit; fit a distillation family with supervised rows")
        logs, _ = log_coordinates(curve.behind, {"params": params, "tokens": tokens})
        values = np.exp(curve.behind.log_value(logs, replicates=len(curve.behind.replicates) > 0))
        return np.broadcast_to(values, (max(len(curve.replicates), 1), values.shape[1]))

    def belief(self) -> LinearBelief:
        """What the fit knows, linearised: to design runs with.

        Raises:
            FitError: the fit is not usable, or has no bootstrap replicates.
            ConfigError: a capacity-gap line, of which runs at other points say nothing.
        """
        if self.curve is None or not self.is_usable:
            raise FitError(f"next runs: the fit is {self.status.name}. {self.remedy} Or design from a guessed law")
        ranges = self.fitted_range.as_dict()
        return fitted_belief(self.curve, noise=self.noise, calibration=self.calibration, fitted_range=ranges)

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
        return summarise(self._described())

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return summarise_html(self._described())

    def coefficient_table(self) -> Table:
        """Estimates with their intervals, rounded to the error."""
        return coefficient_table(self._described())

    def _described(self) -> dict[str, object]:
        """The document with what JSON cannot hold."""
        condition = {"condition_number": self.condition_number}
        calibration = {"calibration": asdict(self.calibration) | {"label": self.calibration.label}}
        return self.to_json() | condition | calibration

    def to_json(self) -> dict[str, object]:
        """Everything needed to predict again, as plain JSON values; infinities are null."""
        return {
            "format": FORMAT,
            "schema_version": VERSION,
            "status": self.status.name,
            "params_convention": self.params_convention,
            **{name: _plain(getattr(self, name)) for name in _PLAIN},
            "params": _plain(self.params),
            "conf_int": _plain(self.conf_int()),
            "derived": _plain(self.derived),
            "curve": None if self.curve is None else self.curve.to_json(),
            "fitted_range": _plain(self.fitted_range.as_dict()),
            "calibration": asdict(self.calibration),
            "provenance": _plain(self.provenance),
            "resid": self.resid.tolist(),
            "fitted_rows": self.fitted_rows.tolist(),
            "notes": list(self.notes),
            "details": _plain(self.details),
        }

    @classmethod
    def from_json(cls, document: Mapping) -> "FitResult":
        """The result that `to_json` wrote.

        Raises:
            DataError: not a fit of this format and version.
        """
        if document.get("format") != FORMAT:
            raise DataError(f'not a fitted law: expected "format": "{FORMAT}", got {document.get("format")!r}')
        if (version := document.get("schema_version")) != VERSION:
            raise DataError(f"fitted law of version {version}; this program reads {VERSION}")
        try:
            plain = {name: document[name] for name in _PLAIN}
            if plain["condition_number"] is None and document["curve"] is not None:
                plain["condition_number"] = float("inf")
            _check_plain({**plain, **document["calibration"]})
            if not isinstance(document["provenance"], Mapping) or not isinstance(document["details"], Mapping):
                raise TypeError("its provenance or details are no table")
            curve = document["curve"]
            return cls(
                status=FitStatus[document["status"]],
                curve=None if curve is None else FittedCurve.from_json(curve),
                fitted_range=Box.of({k: (v[0], v[1]) for k, v in document["fitted_range"].items()}),
                calibration=Calibration(**document["calibration"]),
                provenance=document["provenance"],
                resid=np.array(document["resid"], dtype=np.float64),
                fitted_rows=np.array(document["fitted_rows"], dtype=np.int64),
                notes=tuple(map(str, document["notes"])),
                details=document["details"],
                **plain,
            )
        except DataError:
            raise
        except KeyError as error:
            raise DataError(f"fitted law is incomplete: no {error}") from None
        except (TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
            raise DataError(f"fitted law is damaged: {error}") from None

    def save(self, path: str | Path) -> Path:
        """Write the result as one JSON file, atomically.

        Raises:
            ConfigError: another file than a fitted law is there.
            RunError: the folder cannot be written; a previous file is intact.
        """
        path = Path(path)
        check_file(path)
        write_text(path, json.dumps(sealed(self.to_json()), allow_nan=False))
        return path

    @classmethod
    def load(cls, path: str | Path) -> "FitResult":
        """Read a result that `save` wrote.

        Raises:
            DataError: missing, not JSON, or not a fitted law.
        """
        path = Path(path)
        remedy = f"`distillaw fit TABLE --law FAMILY --out {path}` writes one"
        if not path.is_file():
            raise DataError(
                f"{path}: no such file; write one with `distillaw fit TABLE --law FAMILY --out {path.name}`"
            )
        try:
            document = parse_json(read_text(path))
        except ValueError as error:
            raise DataError(f"{path}: not a JSON file ({error}); {remedy}") from None
        if not isinstance(document, dict):
            raise DataError(f"{path}: not a fitted law")
        try:
            return cls.from_json(unsealed(document, path))
        except CacheError as error:
            raise DataError(str(error)) from None
        except DataError as error:
            raise DataError(f"{path}: {error}; {remedy} that is read") from None

    def _usable_curve(self) -> FittedCurve:
        if self.curve is None or not self.is_usable:
            raise FitError(f"fit of {self.family}: {self.status.name}, no prediction is made: {self.remedy}")
        return self.curve

    def _extra_spread(self, logs: dict[str, Array]) -> Array:
        """Noise and misspecification of a new run, standard deviation in ln L, per point."""
        prefix = "student_" if "student_params" in logs else ""
        names = [name for name in (f"{prefix}params", f"{prefix}tokens", "teacher_loss") if name in logs]
        if f"{prefix}tokens" not in names:
            return np.hypot(self.noise, np.full(len(logs[f"{prefix}params"]), self.calibration.at_edge))
        low, top = range_of(self.fitted_range.as_dict())
        excess = None if self.curve is None else above_best(self.curve, logs[names[0]], logs[names[1]])
        beyond = outside(extent_of(*(np.exp(logs[name]) for name in names), excess=excess), top, low)
        return np.hypot(self.noise, self.calibration.spread(beyond))


def convention_of(law: FitResult | PublishedLaw | SupervisedLaw) -> str | None:
    """What a law's parameter counts hold; None where it does not say, or not in these words."""
    if isinstance(law, FitResult):
        return law.params_convention
    if isinstance(law, PublishedLaw):
        return next((c for c in ("non-embedding", "total") if law.record.params_convention.startswith(c)), None)
    return None


def _check_plain(plain: Mapping[str, object]) -> None:
    """Refuse what the rest of the package would take for a number or a text."""
    for name, value in plain.items():
        if name in ("family", "remedy"):
            is_right = isinstance(value, str)
        elif name == "tried" and isinstance(value, list):
            is_right = len(value) == 4 and all(type(x) in (int, float) and x >= 0 for x in value)
        elif name in ("nobs", "ngroups", "seed"):
            is_right = isinstance(value, int) and not isinstance(value, bool)
        else:
            is_right = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        if not is_right:
            raise DataError(f"fitted law is damaged: {name} is {value!r:.60}")
    if not (isinstance(plain["level"], float) and 0 < plain["level"] < 1):
        raise DataError(f"fitted law is damaged: level is {plain['level']!r}")


def _plain(value: object) -> object:
    """The value in plain JSON types; what is not finite is null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
