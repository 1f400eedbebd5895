"""A published law as a guess to design runs with: the same curve in the fitted parameterisation."""

from dataclasses import replace

import numpy as np

from distillaw.errors import ConfigError
from distillaw.fitting.curve import Curve
from distillaw.fitting.uncertainty import Cells
from distillaw.laws.base import Array
from distillaw.laws.distillation import ReducedDistillationLaw, StudentLaw
from distillaw.laws.published import PublishedLaw
from distillaw.laws.supervised import SupervisedLaw


def guessed_curve(law: PublishedLaw | SupervisedLaw | StudentLaw, *, around: Cells, taught: bool) -> Curve:
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
    behind = _supervised(supervised, centre)
    if not taught:
        return behind
    if not isinstance(student, StudentLaw):
        raise ConfigError("guess: the law has no distillation half; surrogate-s2 and busbridge2025 have one")
    return replace(_student(student, centre), behind=behind)


def scaled_to(curve: Curve, cells: Cells, loss: Array) -> Curve:
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


def _supervised(law: SupervisedLaw, centre: tuple[float, float]) -> Curve:
    theta = np.r_[np.log(law.E), _power_mean(law.A, law.B, law.alpha, law.beta, law.gamma, centre)]
    return Curve(form="supervised", theta=theta, replicates=np.empty((0, 6)), centre=centre)


def _student(law: StudentLaw, centre: tuple[float, float]) -> Curve:
    c, theta = law.coefficients, np.zeros(9)
    if isinstance(law, ReducedDistillationLaw):
        form = "reduced-q" if law.q else "reduced"
        theta[[0, 2, 3]] = law.s0 - law.p * centre[0] - law.q * centre[1], law.p, law.q
    else:
        form = "full" if "c1" in c else "kappa"
        theta[:5] = _power_mean(c["A"], c["B"], c["alpha"], c["beta"], c["gamma"], centre)
    theta[5:8] = c["c0"], np.log(c["kappa"]), np.log(c["f1"])
    theta[8] = 1 / (c["c1"] * c["f1"]) if form == "full" else 0.0
    return Curve(form=form, theta=theta, replicates=np.empty((0, 9)), centre=centre)


def _power_mean(
    A: float, B: float, alpha: float, beta: float, gamma: float, centre: tuple[float, float]
) -> Array:
    """(s0, logit w, p, q, ln eta) at the centre."""
    log_a, log_b = np.log(A) - alpha * centre[0], np.log(B) - beta * centre[1]
    return np.array(
        [gamma * np.logaddexp(log_a, log_b), log_a - log_b, gamma * alpha, gamma * beta, -np.log(gamma)]
    )
