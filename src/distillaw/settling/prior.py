"""What laws allow before anything is run: losses at every scale, without a teacher and with each candidate.

Without a teacher, the usual supervised law through the first measured loss L0 at (N0, D0):

    L(N, D)      = E + (L0 - E) (w (N0/N)^(alpha/gamma) + (1 - w) (D0/D)^(beta/gamma))^gamma

With one, two forms, since nobody knows which holds at the scale at hand:

    law    L_a   = L_T + (L0 - E) r (w' (N0/N)^.. + (1 - w') (D0/D)^..)^gamma (L_T/L_0)^-c0 exp(-kappa (L_T/L)^(1/f1))
    soft   L_a   = ( (soft strain)^k + (b L_T)^k )^(1/k)

`law` is the distillation law (arXiv:2502.08606v2, Eq. 8, in its kappa form; laws/equation.py). In `soft` a student
learns from soft targets as from data with less left to learn of each kind, ln strain =
S softplus(ln(soft/L_T) - gap) is what a teacher too far ahead costs, and a student hardly beats its teacher (k, b).
In both, e_a (ln loss) is what is peculiar to a teacher beside its loss. Every coefficient has a scale that is known
in advance, which those of a law on another text have not, and pilots do the rest.

The ranges are assumptions of this package, not estimates. c0, kappa and f1 are centred near the set printed in
arXiv:2502.08606v2, Table 6 (2.55; c1 f1 d1^(-1/f1) = 2.2; 0.09). The others were widened until least squares put
the pocket study's 54 cells (0.3 % rms), the surrogates S1 to S3 and a Farseer-shaped surface (0.3 to 1 % rms over
64x in size) within about three spreads of their centres (dev/LOG.md, 2026-11-21): runs of 0.03M to 1B parameters.
Shape suffixes: M member, C cell, A arm (0: no teacher), Z coefficient.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillaw.laws import equation
from distillaw.laws.base import Array

OWN = {
    # name: (centre, spread) of a Gaussian; the logarithm is Gaussian for those in POSITIVE
    "level": (0.0, 0.01),  # ln of L0 over the loss first measured
    "floor": (0.4, 1.0),  # logit of E / the lowest loss known
    "share": (0.0, 1.2),  # logit of w
    "alpha": (math.log(0.26), 0.3),
    "beta": (math.log(0.26), 0.3),
    "gamma": (math.log(0.75), 0.35),
    "alpha_shift": (0.0, 0.25),  # alpha' / alpha, with a teacher
    "beta_shift": (0.1, 0.35),  # beta' / beta
}
"""What is assumed of the student, whatever the form."""
TAUGHT = {
    "soft": {
        "size_left": (0.0, 0.2),  # ln of what size leaves to learn, over that without a teacher
        "data_left": (-0.5, 0.5),
        "strain": (math.log(0.12), 0.8),
        "gap": (0.2, 0.1),
        "sharp": (math.log(40.0), 0.6),
        "beat": (0.002, 0.004),  # 1 - b
    },
    "law": {
        "left": (0.0, 0.5),  # ln r
        "tilt": (0.0, 0.7),  # logit of w' - logit of w
        "c0": (2.0, 1.0),
        "kappa": (math.log(2.0), 0.5),
        "f1": (math.log(0.09), 0.35),
    },
}
"""What is assumed of learning from a teacher, by form."""
POSITIVE = ("alpha", "beta", "gamma", "alpha_shift", "beta_shift", "strain", "sharp", "kappa", "f1")
WIDTH = 0.03
"""Over which the strain of a strong teacher sets in, in ln(soft / L_T)."""
PECULIAR = 0.01
"""Spread of e_a, ln loss: assumed. Students of teachers of one loss differed by 0.5 % (trained teachers) to 3 %
(tempered oracles) in docs/worlds-study.md, by 1 % at most among the pocket study's teachers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """What the losses are counted from."""

    params: float
    tokens: float
    loss: float
    """First measured without a teacher, nats/token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Losses as a function of standard normal coefficients, in one form."""

    form: str
    """One of TAUGHT."""
    anchor: Anchor
    teacher_losses: NDArray[np.float64]
    """(A - 1,), nats/token."""

    @property
    def priors(self) -> dict[str, tuple[float, float]]:
        """What is assumed of each coefficient, in order."""
        return OWN | TAUGHT[self.form]

    @property
    def num_coefficients(self) -> int:
        """Those of `priors`, and one per candidate."""
        return len(self.priors) + len(self.teacher_losses)

    def log_losses(self, z_MZ: Array, params: Sequence[float], tokens: Sequence[float]) -> Array:
        """Ln of the loss of every arm at every cell.

        Args:
            z_MZ: coefficients in units of their spread from their centre.
            params: N of each cell.
            tokens: D of each cell.

        Returns:
            (M, C, A).
        """
        priors = enumerate(self.priors.items())
        c = {name: (centre + spread * z_MZ[:, [i]]) for i, (name, (centre, spread)) in priors}
        c |= {name: np.exp(c[name]) for name in POSITIVE if name in c}
        n = np.log(np.divide(params, self.anchor.params))
        d = np.log(np.divide(tokens, self.anchor.tokens))
        lowest = min([self.anchor.loss * 0.98, *self.teacher_losses])
        c["E"] = lowest / (1 + np.exp(-c["floor"]))
        c["beyond"] = np.maximum(self.anchor.loss * np.exp(c["level"]) - c["E"], 1e-3 * self.anchor.loss)
        own_MC = equation.log_supervised(_power(c, c["share"], (0.0, 0.0), (1.0, 1.0)), n, d)
        if not len(self.teacher_losses):
            return own_MC[:, :, None]
        taught_MCA = _FORMS[self.form](c, n, d, np.log(self.teacher_losses), own_MC)
        peculiar_MA = PECULIAR * z_MZ[:, len(self.priors) :]
        return np.concatenate([own_MC[:, :, None], taught_MCA + peculiar_MA[:, None, :]], axis=2)


Terms = dict[str, Array]


def _power(
    c: Terms, share: Array, left: tuple[Array | float, ...], shift: tuple[Array | float, ...]
) -> Terms:
    """What there is to learn, in the coefficients of laws/equation.py, with sizes and tokens counted from the anchor.

    Args:
        c: coefficients.
        share: logit of w.
        left: ln of what size and of what data leave, over their part of L0 - E.
        shift: factors on alpha and beta.
    """
    g = c["gamma"]
    whole = np.log(c["beyond"])
    return {
        "log_E": np.log(c["E"]),
        "log_A": (whole + left[0]) / g - _softplus(-share),
        "log_B": (whole + left[1]) / g - _softplus(share),
        "alpha": c["alpha"] * shift[0] / g,
        "beta": c["beta"] * shift[1] / g,
        "gamma": g,
    }


def _soft(c: Terms, n: Array, d: Array, t: Array, own_MC: Array) -> Array:
    """(M, C, A - 1); t is ln L_T."""
    shift = c["alpha_shift"], c["beta_shift"]
    power = _power(c, c["share"], (c["size_left"], c["data_left"]), shift)
    soft_MCA = equation.log_supervised(power, n, d)[:, :, None]
    strain, gap, sharp, beat = (c[name][:, :, None] for name in ("strain", "gap", "sharp", "beat"))
    strained = soft_MCA + strain * WIDTH * _softplus((soft_MCA - t - gap) / WIDTH)
    return np.logaddexp(sharp * strained, sharp * (t + np.log1p(-beat))) / sharp


def _law(c: Terms, n: Array, d: Array, t: Array, own_MC: Array) -> Array:
    """(M, C, A - 1); t is ln L_T."""
    shift = c["alpha_shift"], c["beta_shift"]
    power = _power(c, c["share"] + c["tilt"], (c["left"], c["left"]), shift)
    breaks = {"c0": c["c0"], "log_kappa": np.log(c["kappa"]), "f1": c["f1"], "eps": np.zeros_like(c["f1"])}
    law = {name: value[:, :, None] for name, value in (power | breaks).items()}
    # (L_T / mean L_T)^-c0: the mean of ln L_T goes into the coefficients
    level = law["c0"] * t.mean() / law["gamma"]
    law |= {name: law[name] + level for name in ("log_A", "log_B")}
    return equation.log_student(law, n[:, None], d[:, None], t, own_MC[:, :, None])


_FORMS: dict[str, Callable[[Terms, Array, Array, Array, Array], Array]] = {"soft": _soft, "law": _law}


def _softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)
