"""A fitted curve: parameters with their bootstrap replicates, evaluated at any coordinates.

Converts between the fitted (power-mean, centred) parameters and the coefficients of the papers, in both directions. A
distillation curve carries the supervised curve behind Ltilde_S, replicate by replicate, so that its uncertainty is
never frozen silently.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distillaw.errors import DataError
from distillaw.fitting.models import FREE, StudentModel, SupervisedModel
from distillaw.laws.base import Array, Box, log_positive
from distillaw.laws.capacity import CapacityGapLine
from distillaw.laws.distillation import DistillationLaw, KappaDistillationLaw, ReducedDistillationLaw, StudentLaw
from distillaw.laws.starts import StartLaw
from distillaw.laws.supervised import SupervisedLaw

COEFFICIENTS = {
    "chinchilla": ("E", "A", "B", "alpha", "beta"),
    "supervised": ("E", "A", "B", "alpha", "beta", "gamma"),
    "reduced": ("s0", "p", "c0", "kappa", "f1"),
    "reduced-q": ("s0", "p", "q", "c0", "kappa", "f1"),
    "kappa": ("A", "B", "alpha", "beta", "gamma", "c0", "kappa", "f1"),
    "full": ("A", "B", "alpha", "beta", "gamma", "c0", "c1", "f1", "d1", "kappa"),
    "capacity-gap": ("slope", "intercept", "ratio"),
    "pruned": ("share", "taught", "power"),
}
"""Reported names of each form; `kappa` of the full form is derived from the others."""


_FAR = 1e4
"""Parameters are logarithms and exponents; the bounds of every fit lie far inside. An intercept counts millions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedCurve:
    """A law's parameters and their replicates, in the fitted parameterisation."""

    form: str
    """chinchilla, supervised, reduced, reduced-q, kappa, full, capacity-gap or pruned."""
    theta: Array
    """(k,)."""
    replicates: Array
    """(R, k); (0, k) without a bootstrap."""
    centre: tuple[float, float] = (0.0, 0.0)
    """Means of ln N and ln D that were subtracted."""
    behind: "FittedCurve | None" = None
    """The supervised curve behind Ltilde_S, with as many replicates, or one if it is taken as known; of `pruned` the
    distillation curve of random starts."""

    @property
    def is_student(self) -> bool:
        """True for a distillation law."""
        return self.form in FREE

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the coordinates of a prediction."""
        if self.form == "capacity-gap":
            return ("student_params",)
        if self.form == "pruned":
            return ("student_params", "student_tokens", "teacher_loss", "start_params", "start_tokens")
        return ("student_params", "student_tokens", "teacher_loss") if self.is_student else ("params", "tokens")

    def log_value(self, coords: dict[str, Array], *, replicates: bool) -> Array:
        """Ln of the prediction: (1, n) at the estimate, (R, n) for the replicates.

        Args:
            coords: natural logs of the coordinates, flat arrays of equal length; `supervised_loss` may
                give Ltilde_S itself.
            replicates: evaluate every bootstrap replicate instead of the estimate.
        """
        theta = self.replicates if replicates else self.theta[None]
        if self.form == "capacity-gap":
            T = theta[:, :1] * np.exp(coords["student_params"]) + theta[:, 1:2] * 1e6
            return np.log(np.maximum(T, 1.0))
        if self.form == "pruned":
            return self._log_begun(coords, theta, replicates=replicates)
        if not self.is_student:
            n, d = coords["params"] - self.centre[0], coords["tokens"] - self.centre[1]
            return SupervisedModel(n, d, gamma_free=True).value(theta)
        n, d = coords["student_params"] - self.centre[0], coords["student_tokens"] - self.centre[1]
        s = self._log_supervised(coords, replicates=replicates)
        return StudentModel(n, d, coords["teacher_loss"], s, form=self.form).value(theta)

    def line_and_power(self, log_student: Array, students: tuple[float, float]) -> Array:
        """Ln of the best teacher by each replicate (2, R, n): its line, and beyond the fitted students a power of S.

        The power goes through the line's ends at the smallest and the largest student: the runs tell the two apart
        between them at best, and beyond them not at all.
        """
        _, (low, high), power = self._ends(students)
        near = np.clip(log_student, low, high)
        by_power = self.log_value({"student_params": near}, replicates=True) + power * (log_student - near)
        return np.stack([self.log_value({"student_params": log_student}, replicates=True), by_power])

    def students_of(self, log_teacher: float, students: tuple[float, float]) -> Array:
        """`line_and_power` turned round, (2, R): ln of the student that a teacher is best for, or infinite."""
        ends, (low, high), power = self._ends(students)
        slope, intercept = self.replicates[:, 0], self.replicates[:, 1] * 1e6
        with np.errstate(divide="ignore", invalid="ignore"):
            line = np.log(np.maximum(np.exp(log_teacher) - intercept, 1.0) / slope)
            beyond = np.where(
                log_teacher > ends[:, 1], log_teacher - ends[:, 1], np.minimum(log_teacher - ends[:, 0], 0)
            )
            by_power = np.where(beyond == 0, line, np.where(beyond > 0, high, low) + beyond / power[:, 0])
        return np.where([slope > 0, power[:, 0] > 0], [line, by_power], np.inf)

    def _ends(self, students: tuple[float, float]) -> tuple[Array, Array, Array]:
        """Of the fitted students: ln T at both ends by replicate (R, 2), ln S there (2,), the power between (R, 1)."""
        at = np.log(students)
        ends = self.log_value({"student_params": at}, replicates=True)
        return ends, at, np.diff(ends) / np.diff(at)

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        arrays = {"theta": self.theta.tolist(), "replicates": self.replicates.tolist(), "centre": list(self.centre)}
        return {"form": self.form, **arrays, "behind": None if self.behind is None else self.behind.to_json()}

    @classmethod
    def from_json(cls, document: Mapping) -> "FittedCurve":
        """The curve that `to_json` wrote.

        Raises:
            ValueError: not the parameters of a known form, or numbers no fit gives.
        """
        theta, form = np.array(document["theta"], dtype=np.float64), document["form"]
        replicates = np.array(document["replicates"], dtype=np.float64).reshape(-1, len(theta))
        size = len(COEFFICIENTS[form]) if form in ("capacity-gap", "pruned") else 9 if form in FREE else 6
        if form == "capacity-gap" and len(theta) == 2:
            raise DataError("a capacity-gap law of an earlier version, whose intervals were too short; fit it again")
        if form not in COEFFICIENTS or len(theta) != size:
            raise ValueError(f"{len(theta)} parameters of the form {form!r:.60}")
        far = _FAR * (1e6 if form == "capacity-gap" else 1)
        if not all((np.abs(values) < far).all() for values in (theta, replicates)):
            raise ValueError(f"a parameter is not finite, or beyond {far:g}")
        centre, behind = document["centre"], document["behind"]
        return cls(
            form=form,
            theta=theta,
            replicates=replicates,
            centre=(float(centre[0]), float(centre[1])),
            behind=None if behind is None else cls.from_json(behind),
        )

    def _log_begun(self, coords: dict[str, Array], theta: Array, *, replicates: bool) -> Array:
        """Ln L of taught students that begin as cuts: of random starts, a head start later."""
        assert self.behind is not None
        lost = coords["student_params"] - coords["start_params"]
        ahead = theta[:, 1:2] + coords["start_tokens"] + theta[:, 2:] * lost
        begun = {name: value for name, value in coords.items() if not name.startswith("start_")}
        begun["student_tokens"] = np.logaddexp(coords["student_tokens"], ahead)  # (R, n), a row per replicate
        begun["student_params"] = np.broadcast_to(coords["student_params"], ahead.shape)
        return self.behind.log_value(begun, replicates=replicates and len(self.behind.replicates) > 0)

    def _log_supervised(self, coords: dict[str, Array], *, replicates: bool) -> Array:
        if "supervised_loss" in coords:
            return coords["supervised_loss"]
        if self.behind is None:
            raise DataError(
                "this distillation law was fitted on measured supervised losses and has no supervised law; "
                "pass supervised_loss=... for the student, or fit with supervised=LAW"
            )
        cells = {"params": coords["student_params"], "tokens": coords["student_tokens"]}
        return self.behind.log_value(cells, replicates=replicates and len(self.behind.replicates) > 0)

    def coefficients(self, *, replicates: bool = False) -> dict[str, Array]:
        """Coefficients of the paper's form, each (1,) or (R,)."""
        return _coefficients(self.form, self.replicates if replicates else self.theta[None], self.centre)

    def law(self, *, box: Box) -> SupervisedLaw | StudentLaw | CapacityGapLine | StartLaw:
        """The law object at the estimate, valid in `box`."""
        values = {name: float(value[0]) for name, value in self.coefficients().items()}
        if self.form == "capacity-gap":
            return CapacityGapLine(slope=values["slope"], intercept=values["intercept"], range=box)
        if self.form == "pruned":
            return StartLaw(**values, range=box)
        if not self.is_student:
            return SupervisedLaw(**values, range=box)
        behind = self.behind.law(box=Box()) if self.behind is not None else None
        assert behind is None or isinstance(behind, SupervisedLaw)
        if self.form == "full":
            values.pop("kappa")  # follows from the others
        form = {"full": DistillationLaw, "kappa": KappaDistillationLaw}.get(self.form, ReducedDistillationLaw)
        return form(**values, supervised=behind, range=box)


def _coefficients(form: str, theta: Array, centre: tuple[float, float]) -> dict[str, Array]:
    if form == "capacity-gap":
        return dict(zip(COEFFICIENTS[form], theta.T, strict=True))
    if form == "pruned":
        return {"share": np.exp(theta[:, 0]), "taught": np.exp(theta[:, 1]), "power": theta[:, 2]}
    offset = 0 if form in FREE else 1
    s0, lw, p, q, le = (theta[:, offset + i] for i in range(5))
    if form in ("reduced", "reduced-q"):
        out = {"s0": s0 + p * centre[0] + q * centre[1], "p": p}
        out |= {"q": q} if form == "reduced-q" else {}
    else:
        eta = np.exp(le)
        log_a = -np.logaddexp(0.0, -lw) + eta * (s0 + p * centre[0])
        log_b = -np.logaddexp(0.0, lw) + eta * (s0 + q * centre[1])
        with np.errstate(over="ignore"):  # a coefficient beyond 1e308 is still a correct answer: inf
            out = {"A": np.exp(log_a), "B": np.exp(log_b), "alpha": eta * p, "beta": eta * q}
        out |= {} if form == "chinchilla" else {"gamma": 1 / eta}
    if form not in FREE:
        return {"E": np.exp(theta[:, 0])} | out
    kappa, f1 = np.exp(theta[:, 6]), np.exp(theta[:, 7])
    out |= {"c0": theta[:, 5]}
    if form == "full":
        eps = theta[:, 8]
        with np.errstate(over="ignore"):
            out |= {"c1": 1 / (eps * f1), "f1": f1, "d1": np.exp(-f1 * np.log(eps * kappa)), "kappa": kappa}
    else:
        out |= {"kappa": kappa, "f1": f1}
    return out


def log_coordinates(curve: FittedCurve, coords: dict) -> tuple[dict[str, Array], tuple[int, ...]]:
    """Checked natural logs of a prediction's coordinates, flattened, with the shape to give back.

    Raises:
        DataError: a coordinate is missing, unknown, or not positive and finite.
    """
    allowed = curve.coordinates + (("supervised_loss",) if curve.is_student else ())
    missing = [name for name in curve.coordinates if coords.get(name) is None]
    unknown = [name for name in coords if name not in allowed]
    if missing or unknown:
        problem = f"missing {', '.join(missing)}" if missing else f"unknown {', '.join(unknown)}"
        raise DataError(f"predict: {problem}; this law takes {', '.join(allowed)}")
    logs = {name: log_positive(name, value) for name, value in coords.items() if value is not None}
    shape = np.broadcast_shapes(*(value.shape for value in logs.values()))
    return {name: np.broadcast_to(value, shape).reshape(-1) for name, value in logs.items()}, shape


def supervised_curve(law: SupervisedLaw, centre: tuple[float, float] = (0.0, 0.0)) -> FittedCurve:
    """A given supervised law as a curve without replicates: taken as known."""
    theta = np.r_[np.log(law.E), _power_mean(law.A, law.B, law.alpha, law.beta, law.gamma, centre)]
    return FittedCurve(form="supervised", theta=theta, replicates=np.empty((0, 6)), centre=centre)


def student_curve(law: StudentLaw, centre: tuple[float, float]) -> FittedCurve:
    """A given distillation law as a curve without replicates, without the supervised curve behind it."""
    c, theta = law.coefficients, np.zeros(9)
    if isinstance(law, ReducedDistillationLaw):
        form = "reduced-q" if law.q else "reduced"
        theta[[0, 2, 3]] = law.s0 - law.p * centre[0] - law.q * centre[1], law.p, law.q
    else:
        form = "full" if "c1" in c else "kappa"
        theta[:5] = _power_mean(c["A"], c["B"], c["alpha"], c["beta"], c["gamma"], centre)
    theta[5:8] = c["c0"], np.log(c["kappa"]), np.log(c["f1"])
    theta[8] = 1 / (c["c1"] * c["f1"]) if form == "full" else 0.0
    return FittedCurve(form=form, theta=theta, replicates=np.empty((0, 9)), centre=centre)


def _power_mean(A: float, B: float, alpha: float, beta: float, gamma: float, centre: tuple[float, float]) -> Array:
    """(s0, logit w, p, q, ln eta) at the centre."""
    log_a, log_b = np.log(A) - alpha * centre[0], np.log(B) - beta * centre[1]
    return np.array([gamma * np.logaddexp(log_a, log_b), log_a - log_b, gamma * alpha, gamma * beta, -np.log(gamma)])
