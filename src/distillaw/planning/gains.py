"""How sure a gain is: the posterior of measured gains, and the pool of what several sources believe.

gain = loss without a teacher minus loss with it, nats/token. Three things make a naive "mean over its standard
error" of runs too sure, and each is met here: the gains of several teachers share the run without a teacher and the
held-out documents (joint covariance); training noise is known from a handful of seeds (t tails); and the best
of several noisy gains is best partly by luck (shrinkage towards their mean, integrated over how far teachers
may really differ). Which runs are compared is decided in measured.py; what to do with the answer in decision.py.

A source's belief about a gain is a mixture of Student t densities: a centre per member of its ensemble, a scale for
what the ensemble does not show, few degrees of freedom because that scale is itself uncertain. Sources are taken as
independent witnesses of one true gain, so their densities are multiplied: a logarithmic opinion pool (Genest & Zidek
1986, Statist. Sci. 1:114), whose weights are the powers. Where they agree it is narrower than each; where they disagree
by more than their scales the heavy tails leave it wide, even with two humps: an outlying law is outvoted, never
averaged in (O'Hagan 1979, J. R. Statist. Soc. B 41:358: t tails reject outliers).

Draws for several options are put together with the order of the most trusted source's draws, so that options which
move together there still do (the Schaake shuffle; Clark et al. 2004, J. Hydrometeor. 5:243).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillaw.laws.base import Array
from distillaw.runs.paired import clustered_cov, effective_dof, unexplained

DRAWS = 20_000
"""A probability of one half is then known to 0.35 % (one binomial standard deviation)."""
ASSUMED_SEED_SD = 0.003
"""Seed noise of one run, as a share of its loss, before a study measured any. Repeated cells of the open and the pocket
study: 0.13, 0.19, 0.35, 0.37, 0.38 and 0.56 %, pooled 0.36 % with 26 degrees of freedom."""
ASSUMED_DOF = 3.0
"""How many of the study's own degrees of freedom that is worth."""
TEACHER_SPREAD = 0.0025
"""Scale of the half-Cauchy prior on how much gains differ between teachers, as a share of the loss: the margin
of a verdict. Its heavy tail lets teachers differ by far more when they do."""
SHARED_SEED_VARIANCE = 0.4
"""What a seed does to all runs of a cell alike, at least, as a share of the variance of what it does to one: between
-0.3 and 1.9 in six repeated cells of the open and the pocket study, mostly with few degrees of freedom; 0.4 pooled."""
CURVE_DOF = 8.0
"""Degrees of freedom of the variance of curves and rates, which was learnt from eight collections of runs."""
LEAST_SEED_SHARE = 0.5
"""Of the seed variance seen, never less than this share is kept: a handful of seeds cannot prove it away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNoise:
    """Training noise of one run that pairing does not remove."""

    sd: float
    """Standard deviation of one run's loss beyond what all runs of one seed share and beyond what the sample of
    documents explains, nats/token."""
    seen: float
    """The same as it shows on these documents: what a table of losses lets one see."""
    dof: float
    source: str
    """`cell` (repeated here), `study` (borrowed from repeated cells elsewhere), `arm` (one arm was repeated, so
    what a seed does to both is in it), `assumed`."""
    shared: float = 0.0
    """Standard deviation of what a seed does to all arms alike, nats/token; it cancels where both have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GainPosterior:
    """Draws of the gain of each candidate, joint over candidates."""

    draws: Array
    """Shape (R, candidates), nats/token."""
    estimate: Array
    """Gains as measured, before shrinkage, shape (candidates,)."""
    se: Array
    """Standard errors of `estimate`, documents and seeds, shape (candidates,)."""
    dof: float = float("inf")
    """Degrees of freedom of `se`."""

    @property
    def mean(self) -> Array:
        """Posterior means, shape (candidates,)."""
        return self.draws.mean(0)

    @property
    def best(self) -> int:
        """The candidate with the highest posterior mean."""
        return int(np.argmax(self.mean))

    def share_best(self) -> Array:
        """Probability of each candidate to be the best one, shape (candidates,)."""
        return np.bincount(self.draws.argmax(1), minlength=self.draws.shape[1]) / len(self.draws)


def document_part(cells: Sequence[tuple[Sequence[tuple[str, int]], Array]], tokens: NDArray[np.int64]) -> float:
    """How much of that variance comes from the choice of held-out documents, shape as `runs.paired.seed_noise`.

    Runs differ on some documents more than on others; the part of e_ak that another sample of documents would
    change is in the document variance of a gain already, and must not be counted twice. `cells` has per cell the
    (arm, seed) of each run and their loss sums by document (runs, n), `tokens` the scored tokens of each (n,).
    """
    found, dof = 0.0, 0.0
    for names, sums in cells:
        residual, free = unexplained(names, sums)
        if free:
            found += float(np.trace(clustered_cov(residual.T, tokens)))
            dof += free
    return found / dof if dof else 0.0


def seed_covariance(baseline: Mapping[int, float], candidates: Sequence[Mapping[int, float]], noise: RunNoise) -> Array:
    """Covariance of the measured gains that seeds leave, shape (m, m).

        gain_j = sum_k a_k (u_k + e_0k) - sum_k b_jk (u_k + e_jk)
        cov_jl = shared^2 (a - b_j) . (a - b_l) + sd^2 (a . a + [j = l] b_j . b_j)

    With the same seeds in both arms what they share cancels; the run without a teacher stays in every gain. Arms are
    {seed: its weight in the arm's loss}: one over their number, more where a line is drawn on.
    """
    names = sorted(set(baseline).union(*candidates))
    own = np.array([baseline.get(k, 0.0) for k in names])
    theirs = np.array([[weights.get(k, 0.0) for k in names] for weights in candidates])
    left = own - theirs
    return noise.shared**2 * left @ left.T + noise.sd**2 * (own @ own + np.diag((theirs**2).sum(1)))


def gain_posterior(
    gain: Array, covariance: Array, *, dof: float, spread: float, rng: np.random.Generator, draws: int = DRAWS
) -> GainPosterior:
    """Joint posterior of the candidates' gains, shrunk towards their mean as far as the noise asks for.

        gain_j ~ N(mu, tau^2),   measured | gain ~ N(gain, covariance),   mu flat,   tau half-Cauchy(spread)

    One candidate needs no shrinkage. With several, tau is integrated on a grid, so that teachers which differ
    clearly are left alone and teachers which differ by noise share one gain. Deviations are scaled to a t
    distribution with `dof` degrees of freedom.

    Args:
        gain: measured gains, nats/token, shape (m,).
        covariance: of the measured gains, shape (m, m).
        dof: degrees of freedom of the covariance.
        spread: scale of the prior on tau, nats/token.
        rng: source of the draws.
        draws: how many.
    """
    centre, deviation = _shrunk(gain, covariance, spread, rng, draws)
    tails = np.sqrt(dof / rng.chisquare(dof, size=(draws, 1)))
    return GainPosterior(draws=centre + deviation * tails, estimate=gain, se=np.sqrt(np.diag(covariance)), dof=dof)


def _shrunk(gain: Array, cov: Array, spread: float, rng: np.random.Generator, draws: int) -> tuple[Array, Array]:
    """Posterior means and normal deviations, each of shape (draws, m)."""
    m = len(gain)
    if m == 1:
        return np.broadcast_to(gain, (draws, 1)), rng.normal(size=(draws, 1)) * np.sqrt(cov[0, 0])
    taus = spread * np.geomspace(1e-2, 1e2, 61)
    ones = np.ones(m)
    log_weight, parts = [], []
    for tau in taus:
        inverse = np.linalg.inv(cov + tau**2 * np.eye(m))
        precision = ones @ inverse @ ones
        mu = ones @ inverse @ gain / precision
        off = gain - mu
        # d tau on a log grid brings a factor tau; half-Cauchy density is 1 / (1 + (tau / spread)^2)
        log_weight.append(
            0.5 * (np.linalg.slogdet(inverse)[1] - np.log(precision) - off @ inverse @ off)
            + np.log(tau)
            - np.log1p((tau / spread) ** 2)
        )
        keep = tau**2 * inverse  # how much of its own measurement each candidate keeps
        pull = ones - keep @ ones  # what an error of mu moves
        spread_cov = keep @ cov + np.outer(pull, pull) / precision
        parts.append((mu + keep @ off, (spread_cov + spread_cov.T) / 2))
    weight = np.exp(np.array(log_weight) - max(log_weight))
    counts = rng.multinomial(draws, weight / weight.sum())
    centres = [np.broadcast_to(centre, (n, m)) for (centre, _), n in zip(parts, counts, strict=True)]
    deviations = [
        rng.multivariate_normal(np.zeros(m), c, size=n, method="eigh") if n else np.empty((0, m))
        for (_, c), n in zip(parts, counts, strict=True)
    ]
    return np.concatenate(centres), np.concatenate(deviations)


def gain_dof(document_var: float, documents: int, seed_var: float, noise: RunNoise, *, curves: float) -> float:
    """Degrees of freedom of a gain's variance: documents are many; seeds, and what curves were learnt from, are few."""
    return effective_dof((document_var, documents - 1.0), (seed_var, noise.dof), (curves, CURVE_DOF))


LAW_DOF = 4.0
"""Degrees of freedom of a law's discrepancy: its size is known to a factor of about two."""
LAW_SCALE = 1.6449 / 2.1318
"""Scale of a t kernel with LAW_DOF whose central 90 % are as wide as those of a normal of standard deviation 1."""
POINTS = 2001
"""Of the grid of a pooled density: 83 to the scale of a belief with one centre, whose span is 24 of them."""
TAIL = 12
"""Scales of a belief on either side of its centres that the grid spans: a t density of LAW_DOF leaves 3e-4 of its mass
beyond."""
NEAR = 8
"""Scales of the narrowest belief around its middle where the grid has as many points again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GainBelief:
    """A mixture of t densities over the gain of one option, nats/token."""

    centres: Array
    """(m,)."""
    scale: float
    """Of the t kernel."""
    dof: float
    rates: float = 0.0
    """Standard deviation of what learning rates may have cost the runs behind it, beside `scale`: all sources of a
    study have it in common, so that agreeing makes it no smaller."""

    @classmethod
    def of_law(cls, centres: Array, sd: float, *, rates: float = 0.0) -> "GainBelief":
        """By member of an ensemble, with the standard deviation that the ensemble does not show."""
        return cls(centres=centres, scale=LAW_SCALE * sd, dof=LAW_DOF, rates=rates)

    def log_density(self, grid: Array) -> Array:
        """Ln density up to a constant on a grid of gains, shape of the grid."""
        z = (grid[:, None] - self.centres) / self.scale
        logs = -(self.dof + 1) / 2 * np.log1p(z**2 / self.dof)
        top = logs.max(1, keepdims=True)
        return top[:, 0] + np.log(np.exp(logs - top).mean(1))

    def span(self) -> tuple[float, float]:
        """Where nearly all of it lies."""
        return float(self.centres.min() - TAIL * self.scale), float(self.centres.max() + TAIL * self.scale)


def pooled_draws(beliefs: Sequence[GainBelief], order: Array, weights: Sequence[float] | None = None) -> Array:
    """Draws of the gain that several sources agree on, in the order of given draws.

    Args:
        beliefs: what each source believes of this option.
        order: draws of the most trusted source, shape (R,); the result has the same ranks.
        weights: powers of the densities; 1 for a full witness.

    Returns:
        (R,), quantiles of the product density at (k + 1/2) / R.
    """
    ends = [b.span() for b in beliefs]
    grid = np.linspace(min(e[0] for e in ends), max(e[1] for e in ends), POINTS)
    grid = _refined(beliefs, grid)
    powers = np.ones(len(beliefs)) if weights is None else np.asarray(weights, dtype=np.float64)
    logs = np.sum([w * b.log_density(grid) for w, b in zip(powers, beliefs, strict=True)], axis=0)
    density = np.exp(logs - logs.max())
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))])
    probability = (np.arange(len(order)) + 0.5) / len(order)
    quantiles = np.interp(probability, mass / mass[-1], grid)
    agreed = quantiles[np.argsort(np.argsort(order))]
    if rates := max(b.rates for b in beliefs):
        noise = np.random.default_rng(0).standard_t(CURVE_DOF, size=len(order))
        agreed = agreed + rates * np.sqrt(1 - 2 / CURVE_DOF) * noise
    return agreed


def _refined(beliefs: Sequence[GainBelief], grid: Array) -> Array:
    """The grid with points close together around the narrowest belief, which the wide ones would step over."""
    finest = min(beliefs, key=lambda b: b.scale)
    middle = float(np.median(finest.centres))
    reach = NEAR * (finest.scale + float(finest.centres.std()))
    return np.union1d(grid, np.linspace(middle - reach, middle + reach, POINTS))
