"""Several laws as one: every coefficient is an array over members, so that one call evaluates them all.

Members are whatever is believed at once: bootstrap replicates of a fit, contradicting published sets, or a single
law. Every form of the distillation law is written in the re-parameterised full form:

    ln T = gamma LSE(ln A - alpha ln N_S, ln B - beta ln D_S) - q ln D_S
    h    = ln(1 + eps u) / eps,   u = kappa (L_T / Ltilde_S)^(1/f1)        (eps = 0: h = u)

    LawEnsemble.of([published(name) for name in ("surrogate-s1", "surrogate-s2", "surrogate-s3")])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from distillaw.errors import DataError
from distillaw.laws.base import Array, log_positive
from distillaw.laws.distillation import DistillationLaw, KappaDistillationLaw, ReducedDistillationLaw
from distillaw.laws.student import StudentLaw
from distillaw.laws.supervised import SupervisedLaw

SUPERVISED = ("log_E", "log_A", "log_B", "alpha", "beta", "gamma")
STUDENT = ("log_A", "log_B", "alpha", "beta", "gamma", "q", "c0", "log_kappa", "f1", "eps")
_CAP = 50.0
"""exp(-exp(50)) is zero to rounding, and exp(50) does not overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LawEnsemble:
    """m laws, each a supervised law with the distillation law that goes with it."""

    plain: Mapping[str, Array]
    """Supervised coefficients named in `SUPERVISED`, each of shape (m,)."""
    student: Mapping[str, Array]
    """Distillation coefficients named in `STUDENT`, each of shape (m,); empty for laws without this half."""

    @classmethod
    def of(cls, laws: Sequence[tuple[SupervisedLaw, StudentLaw | None]]) -> "LawEnsemble":
        """The ensemble of given law objects.

        Raises:
            DataError: no law at all, or some have a distillation half and others not.
        """
        if not laws or len({student is None for _, student in laws}) > 1:
            raise DataError("an ensemble needs laws, all of them with a distillation half or none")
        plain = [plain_coefficients(_supervised_numbers(law)) for law, _ in laws]
        student = [student_coefficients(_student_numbers(law)) for _, law in laws if law is not None]
        return cls(plain=_stack(plain, SUPERVISED), student=_stack(student, STUDENT) if student else {})

    @property
    def size(self) -> int:
        """M, the number of members."""
        return len(self.plain["alpha"])

    @property
    def irreducible(self) -> Array:
        """E of each member, nats/token, shape (m,)."""
        return np.exp(self.plain["log_E"])

    def take(self, members: ArrayLike) -> "LawEnsemble":
        """The ensemble of the members with these indices; repeats are allowed."""
        index = np.atleast_1d(members)
        return LawEnsemble(plain={k: v[index] for k, v in self.plain.items()},
                           student={k: v[index] for k, v in self.student.items()})  # fmt: skip

    def supervised(self, *, params: ArrayLike, tokens: ArrayLike) -> Array:
        """L(N, D) by member, nats/token.

        Args:
            params: N, non-embedding parameters; arguments broadcast to a shape s.
            tokens: D.

        Returns:
            Shape (m, *s).
        """
        n, d = _member_axis(params=params, tokens=tokens)
        return np.exp(self.log_supervised(n, d))

    def distillation(
        self, *, student_params: ArrayLike, student_tokens: ArrayLike, teacher_loss: ArrayLike
    ) -> Array:
        """L_S(N_S, D_S, L_T) by member, nats/token, shape (m, *s).

        Args:
            student_params: N_S; arguments broadcast to a shape s.
            student_tokens: D_S.
            teacher_loss: L_T, nats/token. For a loss that differs by member use `log_distilled`.
        """
        n, d, t = _member_axis(
            student_params=student_params, student_tokens=student_tokens, teacher_loss=teacher_loss
        )
        with np.errstate(
            over="ignore"
        ):  # a teacher far below the law's floor: who asks refuses what is not finite
            return np.exp(self.log_distilled(n, d, t))

    def log_supervised(self, n: Array, d: Array) -> Array:
        """Ln L from ln N, ln D, unchecked; each has a first axis of length m or 1 for the members."""
        c = _columns(self.plain, n, d)
        return np.logaddexp(c["log_E"], _log_power_term(c, n, d))

    def log_tokens_for(self, n: Array, loss: Array) -> Array:
        """Ln D at which supervised training of size N reaches a loss, from ln N and ln L; inf where it never does.

        D = (B / (((L - E)^(1/gamma) - A / N^alpha))^(1/beta)
        """
        c = _columns(self.plain, n, loss)
        with np.errstate(invalid="ignore", divide="ignore"):
            inner = np.log(np.exp(loss) - np.exp(c["log_E"])) / c["gamma"]
            data = np.log(np.exp(inner) - np.exp(c["log_A"] - c["alpha"] * n))
        d = (c["log_B"] - data) / c["beta"]
        return np.where(np.isnan(d), np.inf, d)

    def log_distilled(self, n: Array, d: Array, t: Array) -> Array:
        """Ln L_S from ln N_S, ln D_S, ln L_T, unchecked; first axes as in `log_supervised`."""
        c = _columns(self.student, n, d, t)
        beyond = _log_power_term(c, n, d) - c["c0"] * t - _break(c, t - self.log_supervised(n, d))
        if np.any(c["q"]):
            beyond = beyond - c["q"] * d
        return np.logaddexp(t, beyond)

    def break_factor(self, x: Array) -> Array:
        """exp(-h) at x = ln(L_T / Ltilde_S), in front of the student's term; first axis as in `log_supervised`."""
        return np.exp(-_break(_columns(self.student, x), x))


def _member_axis(**coords: ArrayLike) -> list[Array]:
    """Checked logs of one number of axes, with an axis for the members in front."""
    logs = [log_positive(name, value) for name, value in coords.items()]
    axes = max(x.ndim for x in logs)
    return [x.reshape((1,) * (1 + axes - x.ndim) + x.shape) for x in logs]


def _columns(coefficients: Mapping[str, Array], *coords: Array) -> dict[str, Array]:
    """Coefficients of shape (m, 1, ..., 1), as many axes as the coordinates have."""
    axes = max(np.ndim(x) for x in coords) - 1
    return {k: v.reshape((-1,) + (1,) * axes) for k, v in coefficients.items()}


def plain_coefficients(numbers: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """Supervised coefficients E A B alpha beta [gamma] as an ensemble holds them."""
    with np.errstate(divide="ignore"):  # E = 0, the Kaplan form: ln E = -inf is what LSE needs
        logs = {f"log_{k}": np.log(np.asarray(numbers[k], dtype=np.float64)) for k in ("E", "A", "B")}
    return logs | {k: np.asarray(numbers.get(k, 1.0), dtype=np.float64) for k in ("alpha", "beta", "gamma")}


def student_coefficients(numbers: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """Coefficients of any form of the distillation law, named as in the papers, as an ensemble holds them."""
    given = {k: np.asarray(v, dtype=np.float64) for k, v in numbers.items()}
    kappa, f1, zero = given["kappa"], given["f1"], np.zeros_like(given["kappa"])
    found = {"q": given.get("q", zero), "c0": given["c0"], "log_kappa": np.log(kappa), "f1": f1,
             "eps": 1 / (given["c1"] * f1) if "c1" in given else zero}  # fmt: skip
    if "s0" in given:
        return found | {"log_A": given["s0"], "alpha": given["p"], "log_B": zero - np.inf, "beta": zero,
                        "gamma": zero + 1}  # fmt: skip
    power = {k: given[k] for k in ("alpha", "beta", "gamma")}
    return found | power | {f"log_{k}": np.log(given[k]) for k in ("A", "B")}


def _supervised_numbers(law: SupervisedLaw) -> dict[str, float]:
    return {"E": law.E, "A": law.A, "B": law.B, "alpha": law.alpha, "beta": law.beta, "gamma": law.gamma}


def _student_numbers(law: StudentLaw) -> Mapping[str, float]:
    assert isinstance(law, DistillationLaw | KappaDistillationLaw | ReducedDistillationLaw)
    return law.coefficients


def _stack(members: Sequence[Mapping[str, Array]], names: Sequence[str]) -> dict[str, Array]:
    return {name: np.concatenate([np.atleast_1d(one[name]) for one in members]) for name in names}


def _log_power_term(c: Mapping[str, Array], n: Array, d: Array) -> Array:
    return c["gamma"] * np.logaddexp(c["log_A"] - c["alpha"] * n, c["log_B"] - c["beta"] * d)


def _break(c: Mapping[str, Array], x: Array) -> Array:
    """H at x = ln(L_T / Ltilde_S)."""
    u = np.exp(np.minimum(c["log_kappa"] + x / c["f1"], _CAP))
    eps = c["eps"]
    if not np.any(eps):
        return u
    small = eps < 1e-12  # the kappa form beside the full one
    return np.where(small, u, np.log1p(eps * u) / np.where(small, 1.0, eps))
