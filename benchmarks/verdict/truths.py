"""Truths that are not the planner's own: loss surfaces for benchmarks/verdict/run.py, with correlated misfit.

    python -m benchmarks.verdict.truths ../shared/data/lawruns/active-sl-scalebench    # where FARSEER comes from

Four surfaces. The surrogates S1-S3 share the form that the package fits (with more
coefficients than a small study can). `farseer` does not: its supervised part has coefficients that depend on size,
its teacher acts like more tokens through a logistic in L_T / L_S, its students may beat
their teacher slightly, and its benefit fades as a power of tokens per parameter. Every truth is moved by smooth
Gaussian fields of 0.5 to 1 %, in part common to both arms.
"""

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import distillaw as dl

TRUTHS = ("surrogate-s1", "surrogate-s2", "surrogate-s3", "farseer")

FARSEER = (
    -1.43871319,
    0.0358007385,
    2.21696508,
    112.752753,
    -0.147180619,
    -0.647386941,
    -7.39152521,
    0.0146752102,
    8.80946039,
)
"""a3 g b3 a2 b b2 a1 al b1, fitted to the 411 public runs (rms 0.18 %), bits per byte."""
NATS_PER_TOKEN = 3.1
"""Bits per byte to nats per token at 4.5 bytes per token."""
SPREAD = (2.5, 2.5, 0.25)
"""Correlation lengths of the misfit, e-folds of N, D and L_T."""
SHARED = 0.5
"""Share of the misfit's variance that both arms have in common."""
OTHER_TEXT = 0.3
"""Spread of ln of what a parameter is worth on the user's text and architecture, beside those of the surface."""
WAVES = 200
"""Random Fourier features of a field: enough that its values are Gaussian."""


@dataclass(frozen=True)
class Field:
    """A smooth Gaussian random function with a squared-exponential kernel, by random Fourier features."""

    frequency: np.ndarray
    """Shape (WAVES, k)."""
    phase: np.ndarray
    sd: float

    @classmethod
    def draw(cls, rng, num_inputs, sd):
        """A field of the first `num_inputs` of (ln N, ln D, ln L_T)."""
        frequency = rng.standard_normal((WAVES, num_inputs)) / np.array(SPREAD[:num_inputs])
        return cls(frequency, rng.uniform(0, 2 * np.pi, WAVES), sd)

    def __call__(self, *logs):
        """The field at ln N, ln D(, ln L_T), arrays that broadcast."""
        inputs = np.stack(np.broadcast_arrays(*logs), axis=-1)
        return self.sd * np.sqrt(2 / WAVES) * np.cos(inputs @ self.frequency.T + self.phase).sum(-1)


@dataclass(frozen=True)
class Truth:
    """What a run's expected loss is. Sizes, tokens and losses are in the units of the text at hand."""

    name: str
    base_alone: Callable
    base_taught: Callable
    size_unit: float
    """Parameters of the base surface per parameter here: one surface serves pocket and pilot scales."""
    token_unit: float
    loss_unit: float
    """Nats here per nat of the base surface: another text, another tokenizer."""
    common: Field
    own: Field
    taught_own: Field

    def alone(self, N, D):
        """Expected loss without a teacher, nats/token."""
        n, d = np.log(N), np.log(D)
        base = self.loss_unit * self.base_alone(N * self.size_unit, D * self.token_unit)
        return base * np.exp(self.common(n, d) + self.own(n, d))

    def taught(self, N, D, L_T, N_T=None):
        """Expected loss after distillation from a teacher of loss L_T, nats/token; its size N_T does nothing."""
        n, d, t = np.log(N), np.log(D), np.log(L_T)
        base = self.base_taught(N * self.size_unit, D * self.token_unit, L_T / self.loss_unit)
        return self.loss_unit * base * np.exp(self.common(n, d) + self.taught_own(n, d, t))


def draw_truth(name, *, largest, rng, in_place):
    """A truth for studies whose largest student has `largest` parameters.

    Args:
        name: one of TRUTHS.
        largest: where on the surface the study lies is drawn so that this size is 0.2B to 2B of the surface.
        rng: of units, misfit and the teacher's effect.
        in_place: for studies at the scale of the surface itself: its own units up to OTHER_TEXT.
    """
    misfit = rng.uniform(0.005, 0.01)
    common = Field.draw(rng, 2, misfit * np.sqrt(SHARED))
    own, taught_own = (Field.draw(rng, k, misfit * np.sqrt(1 - SHARED)) for k in (2, 3))
    where = rng.normal(0, OTHER_TEXT) if in_place else rng.uniform(np.log(2e8), np.log(2e9)) - np.log(largest)
    size_unit = np.exp(where)
    token_unit = size_unit * np.exp(rng.normal(0, 0.4))
    if name == "farseer":
        alone, taught = farseer_alone, Effect.draw(rng).taught
    else:
        law = dl.published(name)
        alone, taught = surrogate_alone(law), surrogate_taught(law)
    return Truth(
        name, alone, taught, size_unit, token_unit, float(np.exp(rng.uniform(-0.1, 0.1))), common, own, taught_own
    )


def surrogate_alone(law):
    """The surrogate's supervised law."""
    return lambda N, D: law.supervised(params=N, tokens=D)


def surrogate_taught(law):
    """The surrogate's distillation law."""
    return lambda N, D, L_T: law.distillation(student_params=N, student_tokens=D, teacher_loss=L_T)


def farseer_alone(N, D, coefficients=FARSEER):
    """exp(a3 N^g + b3) + exp(a2 N^b + b2) D^(-exp(a1 N^al + b1)), nats/token (Farseer, arXiv:2506.10972)."""
    a3, g, b3, a2, b, b2, a1, al, b1 = coefficients
    slope = np.exp(a1 * N**al + b1)
    return NATS_PER_TOKEN * (np.exp(a3 * N**g + b3) + np.exp(a2 * N**b + b2 - slope * np.log(D)))


@dataclass(frozen=True)
class Effect:
    """A teacher that acts like more tokens.

        own = L(N, D (1 + boost (D / 20 N)^-decay logistic)) (1 + strain softplus)
        L_S = ( own^sharp + (L_T (1 - beat))^sharp )^(1 / sharp)

    The logistic falls from 1 to 0 as L_T passes L_S; the softplus rises when the teacher is better by more than `gap`.
    """

    centre: float
    width: float
    boost: float
    decay: float
    strain: float
    gap: float
    beat: float
    sharp: float

    @classmethod
    def draw(cls, rng):
        """From hardly worth it to three times the tokens."""
        return cls(
            centre=rng.uniform(-0.08, 0.0),
            width=rng.uniform(0.03, 0.08),
            boost=rng.uniform(0.2, 2.0),
            decay=rng.uniform(0.1, 0.6),
            strain=rng.uniform(0.0, 0.2),
            gap=rng.uniform(0.15, 0.35),
            beat=rng.uniform(0.003, 0.012),
            sharp=rng.uniform(20, 40),
        )

    def taught(self, N, D, L_T):
        """Loss after distillation on the farseer surface."""
        x = np.log(L_T / farseer_alone(N, D))
        logistic = 1 / (1 + np.exp((x - self.centre) / self.width))
        more = 1 + self.boost * (D / (20 * N)) ** -self.decay * logistic
        strain = self.strain * self.width * np.logaddexp(0, (-x - self.gap) / self.width)
        own = farseer_alone(N, D * more) * (1 + strain)
        return np.exp(np.logaddexp(self.sharp * np.log(own), self.sharp * np.log(L_T * (1 - self.beat))) / self.sharp)


def fit_farseer(folder):
    """The coefficients from the public runs: (coefficients, rms error in ln L)."""
    from scipy.optimize import least_squares

    rows = [row for part in ("train", "test") for row in csv.DictReader((folder / f"farseer_{part}.csv").open())]
    N, D, L = (np.array([float(row[key]) for row in rows]) for key in ("N", "D", "loss"))

    def error(x):
        return np.log(farseer_alone(N, D, x) / NATS_PER_TOKEN / L)

    found = least_squares(error, FARSEER, x_scale=np.abs(FARSEER), loss="soft_l1", f_scale=0.003, max_nfev=20_000)
    return found.x, float(np.sqrt(np.mean(error(found.x) ** 2)))


if __name__ == "__main__":
    values, rms = fit_farseer(Path(sys.argv[1]))
    print(f"{', '.join(f'{v:.9g}' for v in values)}   rms {100 * rms:.2f} %")
