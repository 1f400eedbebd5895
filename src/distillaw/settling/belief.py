"""Losses at the target as they are believed after some pilots: an ensemble of members of the family, with misfit.

The posterior of the family's coefficients is sampled by importance: proposals are Student-t around its mode with the
curvature there (Laplace), then once more around what those found, weighted by the exact posterior and resampled. So is
the size of the misfit: every form is taken with every size, by prior and evidence, which is what later pilots had of
being foreseen from earlier ones. What the members leave unexplained is carried on by the misfit's process.

Before anything is run laws allow losses at every scale, without a teacher and with each candidate (the prior).
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

Shape suffixes: M member, C cell, A arm (0: no teacher), Z coefficient, R run, Q place that is asked about.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from distillaw.laws import equation
from distillaw.laws.base import Array
from distillaw.settling.noise import MISFITS, PilotPoints, misfit_cov, rate_cov, seed_cov, seed_sd
from distillaw.settling.question import NONE, PilotQuestion, PilotRun

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


def _power(c: Terms, share: Array, left: tuple[Array | float, ...], shift: tuple[Array | float, ...]) -> Terms:
    """What there is to learn, in the coefficients of laws/equation.py, with sizes and tokens counted from the anchor.

    Args:
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


SEED = 0
"""Of the draws: the same runs always say the same."""
MEMBERS = 1000
"""Of a belief: its quantiles at 5 and 95 % are then known to 0.7 % of the probability."""
PROPOSALS = 4000
"""Proposals that the MEMBERS draws of a belief are resampled from: a standard deviation is then known to about 2 %."""
ROUNDS = 2
"""The first proposals are made around the mode, the others around what those before found."""
LEAST_SAMPLES = 10
"""Samples per coefficient that the next proposals are made from, by flattening the weights if need be."""
TAIL = 8.0
"""Degrees of freedom of the proposals."""
STARTS = 3
"""Of the search for the mode: the prior's centre and draws of the prior."""
LEAST = 0.1
"""Share that a form and a size of the misfit keep at least: pilots on a corner of the plane rule out none."""
LOWEST = 600.0
"""Nats of evidence below the best, at most: e to minus that is still a number."""
STEP = 1e-4
"""Of numeric slopes, in units of the prior's spread: losses bend little over it, and rounding is below 1e-10."""
RECIPE = 0.015
"""Error of taking a teacher trained on the same text and recipe for a run without a teacher, ln loss: assumed, five
seed noises, since the teacher's seed and text order are its own."""
UNSEEN = 1.02
"""A student that was never trained is taken to lose this much more than the weakest teacher, until it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A form and a size of the misfit, with members."""

    family: Family
    misfit: float
    """Standard deviation, ln loss."""
    z_MZ: Array

    def cov(self, question: PilotQuestion, one: PilotPoints, other: PilotPoints) -> Array:
        """Covariance, ln loss, of how far runs of two lists lie from the form, rates included, (R, R')."""
        smooth = misfit_cov(one, other, np.log(self.family.teacher_losses), sd=self.misfit)
        if question.rates is None:
            return smooth
        return smooth + rate_cov(question.rates, one, other, loss=self.family.anchor.loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotBelief:
    """The forms with their members, before and after the runs."""

    question: PilotQuestion
    prior: tuple[Part, ...]
    """Before any run."""
    parts: tuple[Part, ...]
    """Now: every form with every misfit, with as many members as its weight gives it."""
    measured: PilotPoints
    log_losses_R: Array
    noise_RR: Array
    sd: float
    """Seed noise of one run, ln loss."""

    def ask(self, places: PilotPoints, rng: np.random.Generator, *, before: bool = False) -> Array:
        """Draws of the ln loss at some places, jointly, without the noise of seeds, (M, Q).

        Args:
            before: as believed before any run.
        """
        is_before = before or not len(self.measured.arm)
        parts = self.prior if is_before else self.parts
        draws = [self._draws(part, places, rng, is_before=is_before) for part in parts]
        return np.concatenate(draws)

    def _draws(self, part: Part, places: PilotPoints, rng: np.random.Generator, *, is_before: bool) -> Array:
        draws_MQ = _at(part.family, part.z_MZ, places)
        left_QQ = part.cov(self.question, places, places)
        if not is_before:
            across_QR = part.cov(self.question, places, self.measured)
            seen_RR = part.cov(self.question, self.measured, self.measured) + self.noise_RR
            gain_QR = np.linalg.solve(seen_RR, across_QR.T).T
            off_MR = self.log_losses_R - _at(part.family, part.z_MZ, self.measured)
            draws_MQ = draws_MQ + off_MR @ gain_QR.T
            left_QQ = left_QQ - gain_QR @ across_QR.T
        return draws_MQ + normal_draws(left_QQ, len(draws_MQ), rng)

    @property
    def misfits(self) -> dict[float, float]:
        """Share of each size of the misfit."""
        counts = {sd: sum(len(part.z_MZ) for part in self.parts if part.misfit == sd) for sd in MISFITS}
        return {sd: count / sum(counts.values()) for sd, count in counts.items()}

    def misfit(self, one: PilotPoints, other: PilotPoints) -> Array:
        """Covariance, ln loss, of how far runs of two lists lie from the laws, rates included, (R, R').

        Of all sizes of the misfit together, by their shares.
        """
        sd = math.sqrt(sum(share * sd**2 for sd, share in self.misfits.items()))
        return replace(self.parts[0], misfit=sd).cov(self.question, one, other)


def believe(question: PilotQuestion, runs: Sequence[PilotRun]) -> PilotBelief:
    """What finite losses of some runs say, any number of them."""
    return _believe(question, tuple(runs))


def log_evidence(question: PilotQuestion, runs: Sequence[PilotRun]) -> dict[float, float]:
    """Ln of how likely some runs are under each size of the misfit, forms alike, but for what all sizes share."""
    rng = np.random.default_rng(SEED)
    found: dict[float, float] = {}
    for part, log_share in _conditioned(_begun(question, tuple(runs), rng), rng):
        found[part.misfit] = np.logaddexp(found.get(part.misfit, -math.inf), log_share)
    return found


@lru_cache(maxsize=64)  # every look asks again what was believed before each stage
def _believe(question: PilotQuestion, runs: tuple[PilotRun, ...]) -> PilotBelief:
    rng = np.random.default_rng(SEED)
    belief = _begun(question, runs, rng)
    return replace(belief, parts=_parts(belief, rng)) if any(np.isfinite(run.loss) for run in runs) else belief


def _begun(question: PilotQuestion, runs: tuple[PilotRun, ...], rng: np.random.Generator) -> PilotBelief:
    """The belief before the runs, beside them."""
    pilots = [run for run in runs if np.isfinite(run.loss)]
    relatives = _relatives(question) if pilots else []
    losses = np.array([c.loss for c in question.candidates])
    anchor = _anchor(question, pilots)
    families = [Family(form=form, anchor=anchor, teacher_losses=losses) for form in TAUGHT]
    prior = tuple(
        Part(
            family=family,
            misfit=sd,
            z_MZ=rng.standard_normal((round(MEMBERS * share / len(families)), family.num_coefficients)),
        )
        for family in families
        for sd, share in MISFITS.items()
    )
    own = _points(question, pilots)
    sd = seed_sd(np.log([run.loss for run in pilots]), own)
    noise_RR = RECIPE**2 / 2 * (1 + np.eye(len(pilots) + len(relatives)))  # half of it is common to all relatives
    noise_RR[: len(pilots)] = noise_RR[:, : len(pilots)] = 0.0
    noise_RR[: len(pilots), : len(pilots)] = seed_cov(own, sd, _text_errors(question.arms, pilots))
    return PilotBelief(
        question=question,
        prior=prior,
        parts=prior,
        measured=_points(question, [*pilots, *relatives]),
        log_losses_R=np.log([run.loss for run in (*pilots, *relatives)]),
        noise_RR=noise_RR,
        sd=sd,
    )


def _relatives(question: PilotQuestion) -> list[PilotRun]:
    """Candidates that are of the target's kind, as the runs without a teacher that they once were."""
    return [
        PilotRun(candidate=NONE, params=c.params, tokens=c.tokens, seed=-1 - i, loss=c.loss)
        for i, c in enumerate(question.candidates)
        if c.params and c.tokens
    ]


def _points(question: PilotQuestion, runs: Sequence[PilotRun]) -> PilotPoints:
    places = ((run.params, run.tokens, question.arms.index(run.candidate)) for run in runs)
    return question.points(places, [run.seed for run in runs])


def _conditioned(belief: PilotBelief, rng: np.random.Generator) -> list[tuple[Part, float]]:
    """Every part with MEMBERS members of its posterior, and its ln evidence."""
    found, modes = [], dict[str, Array]()
    for part in belief.prior:
        form, num = part.family.form, part.family.num_coefficients
        draws = np.concatenate([np.zeros((1, num)), rng.standard_normal((STARTS - 1, num))])
        starts = modes.get(form, draws)  # with another misfit the mode is near
        new, log_share, modes[form] = _posterior(belief, part, starts, rng)
        found.append((new, log_share))
    return found


def _parts(belief: PilotBelief, rng: np.random.Generator) -> tuple[Part, ...]:
    """The parts after the runs, with as many members as prior and evidence give each."""
    found = _conditioned(belief, rng)
    evidence = np.array([log_share + math.log(MISFITS[part.misfit]) for part, log_share in found])
    shares = np.exp(np.maximum(evidence - evidence.max(), -LOWEST))
    shares = _kept(shares, [part.misfit for part, _ in found])
    shares = _kept(shares, [part.family.form for part, _ in found])
    counts = np.round(MEMBERS * shares / shares.sum()).astype(int)
    kept = [
        replace(part, z_MZ=part.z_MZ[np.arange(count) * len(part.z_MZ) // count])  # evenly
        for (part, _), count in zip(found, counts, strict=True)
        if count
    ]
    return tuple(kept)


def _kept(shares: Array, kinds: Sequence[float | str]) -> Array:
    """The shares of parts, with LEAST at least for every kind."""
    _, kind = np.unique(kinds, return_inverse=True)
    total = np.bincount(kind, shares / shares.sum())
    return shares * (np.maximum(total, LEAST) / total)[kind]


def _posterior(belief: PilotBelief, part: Part, starts: Array, rng: np.random.Generator) -> tuple[Part, float, Array]:
    """The part with MEMBERS members drawn from the posterior, its ln evidence but for what all parts share, its mode.

    Args:
        starts: of the search for the mode, (S, Z).
    """
    family, points, y_R = part.family, belief.measured, belief.log_losses_R
    root_RR = np.linalg.cholesky(belief.noise_RR + part.cov(belief.question, points, points))
    whiten_RR = np.linalg.inv(root_RR)
    num = family.num_coefficients

    def rest(z_MZ: Array) -> Array:
        """What the sum of squares is made of: data in units of their noise, and the coefficients, (M, R + Z)."""
        off_MR = (y_R - _at(family, z_MZ, points)) @ whiten_RR.T
        return np.concatenate([off_MR, z_MZ], axis=1)

    found = [_mode(rest, start) for start in starts]
    centre_Z, slope_RZ, _ = min(found, key=lambda one: one[2])
    mode_Z = centre_Z
    root_ZZ = np.linalg.inv(np.linalg.cholesky(slope_RZ.T @ slope_RZ)).T.astype(np.float64)
    z_MZ, log_w_M = _propose(rest, centre_Z, root_ZZ, rng)
    for _ in range(ROUNDS - 1):  # again around what the first proposals found
        weights = _tempered(log_w_M, LEAST_SAMPLES * num)
        centre_Z = weights @ z_MZ
        off_MZ = z_MZ - centre_Z
        root_ZZ = np.linalg.cholesky((off_MZ * weights[:, None]).T @ off_MZ + 1e-9 * np.eye(num)).astype(np.float64)
        z_MZ, log_w_M = _propose(rest, centre_Z, root_ZZ, rng)
    weights = np.exp(log_w_M - log_w_M.max())
    evidence = float(log_w_M.max() + np.log(weights.mean()) - np.log(np.diag(root_RR)).sum())
    return replace(part, z_MZ=z_MZ[_resample(weights, MEMBERS, rng)]), evidence, mode_Z[None]


def _propose(
    rest: Callable[[Array], Array], centre_Z: Array, root_ZZ: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Student-t proposals around a centre, (M, Z), and the ln of their importance weights, (M,)."""
    num = len(centre_Z)
    t_MZ = rng.standard_normal((PROPOSALS, num)) * np.sqrt(TAIL / rng.chisquare(TAIL, PROPOSALS))[:, None]
    z_MZ = centre_Z + t_MZ @ root_ZZ.T
    at_centre = math.lgamma((TAIL + num) / 2) - math.lgamma(TAIL / 2) - 0.5 * num * math.log(TAIL * math.pi)
    log_q_M = at_centre - 0.5 * (TAIL + num) * np.log1p((t_MZ**2).sum(1) / TAIL)
    log_q_M = log_q_M - math.log(abs(np.linalg.det(root_ZZ)))
    log_p_M = -0.5 * (rest(z_MZ) ** 2).sum(1) - 0.5 * num * math.log(2 * math.pi)
    return z_MZ, np.where(np.isfinite(log_p_M), log_p_M - log_q_M, -np.inf)


def _tempered(log_w_M: Array, least: float) -> Array:
    """Weights, flattened until they are worth at least so many samples; they sum to one."""
    for power in (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05):
        weights = np.exp(power * (log_w_M - log_w_M.max()))
        weights /= weights.sum()
        if 1 / (weights**2).sum() >= least:
            break
    return weights


def _mode(rest: Callable[[Array], Array], start: Array) -> tuple[Array, Array, float]:
    """Where the sum of squares is least, its slope there, and its value."""
    steps = np.eye(len(start)) * STEP

    def slope(z_Z: Array) -> Array:
        return ((rest(z_Z + steps) - rest(z_Z - steps)) / (2 * STEP)).T

    found = least_squares(lambda z_Z: rest(z_Z[None])[0], start, jac=slope, max_nfev=60)
    return found.x, slope(found.x), float(found.cost)


def _resample(weights: Array, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices drawn by weight, systematically."""
    edges = np.cumsum(weights) / weights.sum()
    return np.searchsorted(edges, (np.arange(count) + rng.random()) / count).clip(0, len(weights) - 1)


def _at(family: Family, z_MZ: Array, points: PilotPoints) -> Array:
    """Ln loss of every member at every run of a list, (M, R)."""
    where, index = np.unique(np.stack([points.log_params, points.log_tokens]), axis=1, return_inverse=True)
    table_MCA = family.log_losses(z_MZ, np.exp(where[0]), np.exp(where[1]))
    return table_MCA[:, index.reshape(-1), points.arm]


def _anchor(question: PilotQuestion, runs: Sequence[PilotRun]) -> Anchor:
    alone = [run for run in runs if run.candidate == NONE]
    if not alone:
        loss = UNSEEN * max(c.loss for c in question.candidates)
        return Anchor(params=question.sizes[0].params, tokens=float(question.least_tokens), loss=loss)
    first = alone[0]
    here = [run.loss for run in alone if (run.params, run.tokens) == (first.params, first.tokens)]
    return Anchor(params=first.params, tokens=first.tokens, loss=float(np.mean(here)))


def _text_errors(names: Sequence[str], runs: Sequence[PilotRun]) -> Array:
    """By arm, the usual error of its gains from the choice of held-out documents, ln loss; 0 without a teacher."""
    found = np.zeros(len(names))
    for i, name in enumerate(names):
        errors = [run.gain_se / run.loss for run in runs if run.candidate == name and run.gain_se > 0]
        found[i] = float(np.median(errors)) if errors else 0.0
    return found


def normal_draws(cov: NDArray[np.float64], draws: int, rng: np.random.Generator) -> Array:
    """Gaussian draws of a covariance that may be singular, (draws, n)."""
    values, vectors = np.linalg.eigh(cov)
    return rng.standard_normal((draws, len(cov))) @ (vectors * np.sqrt(np.maximum(values, 0))).T
