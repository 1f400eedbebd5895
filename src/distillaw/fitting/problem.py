"""What is to be minimised, and where to begin: rows, model, start points and weak prior of each family.

`supervised` and `chinchilla` use the rows without a teacher; the distillation families use the rows with one and need
Ltilde_S: from a given supervised law, from a joint fit with the no-teacher rows, or measured. Supervised laws start
from a variable projection: given (alpha, beta) the Chinchilla form is linear in E, A, B, and given E and gamma the
gamma law is linear in A, B after a power, so that a grid with a small least-squares problem at each point is a global
search that costs a few matrix products. The other laws start from scaled random points. The prior on
exponents is learnt from collections of public runs (`benchmarks.fits.learn`), each judged without itself
(docs/fitting.md).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import ConfigError
from distillaw.fitting.curve import FittedCurve
from distillaw.fitting.models import FREE, JointModel, Model, StudentModel, SupervisedModel, TiedModel, tied
from distillaw.fitting.newton import Objective, Prior
from distillaw.fitting.observations import Observations
from distillaw.laws.base import Array
from distillaw.quantities import did_you_mean

FORMS = {
    "distillation": "full",
    "distillation-kappa": "kappa",
    "distillation-reduced": "reduced",
    "distillation-reduced-q": "reduced-q",
}
"""Family -> form of the distillation law."""
FAMILIES = ("supervised", "chinchilla", *FORMS, "distillation-auto", "capacity-gap", "pruned")


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSearch:
    """How an estimate goes from many start points to one minimum: thresholds fall, and few starts go on."""

    keep: int
    """Starts that survive the first stage."""
    stages: tuple[float, ...]
    """Thresholds before the final one."""
    within: float = np.inf
    """Starts that are this many times worse than the best after a stage are given up."""
    passing: int = 30
    """Most iterations of a stage before the last."""
    rescue: int = 0
    """Random starts of a wider search where the first one ends in doubt; 0 where the first is as wide."""


# benchmarks/answers/fit_speed.py compares the ends of these searches with those of long multi-starts
_FROM_GRID = StartSearch(keep=4, stages=(0.08, 0.02, 0.006, 0.002, 6e-4, 2e-4), within=1.2, passing=7, rescue=30)
_FROM_RANDOM = StartSearch(keep=8, stages=(0.3, 0.03))
_FROM_SEPARATE_FITS = StartSearch(keep=4, stages=(0.03,))


_FREEDOM = 4.0
"""Degrees of freedom of the prior: collections differ more than a normal says, and one on code or on another language
must not be forced to the slopes of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A law on checked rows, ready to be minimised."""

    model: Model
    y: Array
    """ln of the observed losses, shape (n,)."""
    weight: Array
    group: NDArray[np.int64]
    starts: Callable[[np.random.Generator], Array]
    """Start points (S, k) for a fit from nothing."""
    random_starts: Callable[[np.random.Generator, int], Array]
    """Scaled random points (count, k) for checks that must not share the starts of the estimate."""
    search: StartSearch
    prior_mean: Array
    prior_sd: Array
    """Weak prior on the parameters; infinite where there is none. Its strength scales with the noise."""
    restarts: int
    """Extra starts of each bootstrap replicate where the check shows that warm starts are not enough."""
    curve: Callable[..., FittedCurve]
    """Of theta=(k,) and replicates=(R, k)."""

    @classmethod
    def of(cls, model: Model, rows: Observations, prior: Mapping[str, tuple[float, float]], **how: Any) -> "Problem":
        """A law on some rows with (mean, sd) of some of its parameters; those that are not fitted have no prior."""
        known = [prior.get(name) if i in model.free else None for i, name in enumerate(model.names)]
        mean, sd = np.array([(0.0, np.inf) if each is None else each for each in known]).T
        by_row = {"y": np.log(rows.loss), "weight": rows.weight, "group": rows.group}
        return cls(model=model, **by_row, prior_mean=mean, prior_sd=sd, **how)

    @property
    def num_free(self) -> int:
        """Number of fitted parameters."""
        return len(self.model.free)

    @property
    def ngroups(self) -> int:
        """Number of independent runs."""
        return len(np.unique(self.group))

    def prior(self, noise: float, theta: Array | None = None) -> Prior | None:
        """The prior at a noise scale, or None where no parameter has one.

        Its tails are those of Student's t: at parameters (k,) far from the centre it gives way to the runs.
        """
        if not np.isfinite(self.prior_sd).any():
            return None
        precision = (noise / self.prior_sd) ** 2
        if theta is not None:
            away = (theta - self.prior_mean) / self.prior_sd
            precision = precision * (_FREEDOM + 1) / (_FREEDOM + away**2)
        return Prior(mean=self.prior_mean, precision=precision)

    def objective(self, delta: float, prior: Prior | None = None, *, weights: Array | None = None) -> Objective:
        """What is minimised at a threshold; `weights` of replicates (R, n) in the place of the rows' own."""
        own = self.weight[None] if weights is None else weights
        return Objective(model=self.model, y=self.y, weights=own, delta=delta, prior=prior)


def check_family(family: str) -> None:
    """Refuse an unknown family with the nearest known one."""
    if family not in FAMILIES:
        raise ConfigError(f"family: unknown {family!r}{did_you_mean(family, FAMILIES)}; known: {', '.join(FAMILIES)}")


def specify_supervised(
    rows: Observations,
    *,
    form: str,
    prior: dict[str, tuple[float, float]],
    centre: tuple[float, float] | None = None,
    tie: bool = False,
) -> Problem:
    """The gamma law (`form="supervised"`) or the Chinchilla form on rows without a teacher; `tie`: alpha = beta."""
    n, d, y = np.log(rows.params), np.log(rows.tokens), np.log(rows.loss)
    centre = (float(n.mean()), float(d.mean())) if centre is None else centre
    n, d = n - centre[0], d - centre[1]
    free_gamma = form == "supervised"
    model = (TiedModel if tie else SupervisedModel)(n, d, gamma_free=free_gamma)

    def curve(theta: Array, replicates: Array) -> FittedCurve:
        if tie:
            theta, replicates = tied(theta), tied(replicates)
        return FittedCurve(form=form, theta=theta, replicates=replicates, centre=centre)

    return Problem.of(
        model,
        rows,
        prior,
        starts=lambda rng: _variable_projection(n, d, y, rows.weight, gamma_free=free_gamma, tie=tie, count=2),
        random_starts=lambda rng, count: _random_supervised(rng, y, count, gamma_free=free_gamma),
        search=_FROM_GRID,
        restarts=3,
        curve=curve,
    )


def specify_student(
    rows: Observations,
    *,
    form: str,
    log_supervised: Array,
    behind: FittedCurve | None,
    prior: dict[str, tuple[float, float]],
) -> Problem:
    """A distillation form with ln Ltilde_S of each row given, (n,) or one row per replicate (R, n)."""
    n, d = np.log(rows.params), np.log(rows.tokens)
    centre = (float(n.mean()), float(d.mean()))
    model = StudentModel(n - centre[0], d - centre[1], np.log(rows.teacher_loss), log_supervised, form=form)
    few = form in ("reduced", "reduced-q")
    return Problem.of(
        model,
        rows,
        prior,
        starts=lambda rng: _random_student(rng, form, 32 if few else 64),
        random_starts=lambda rng, count: _random_student(rng, form, count),
        search=_FROM_RANDOM if few else replace(_FROM_RANDOM, keep=12),
        restarts=3,
        curve=partial(FittedCurve, form=form, centre=centre, behind=behind),
    )


def specify_joint(
    plain: Observations,
    rows: Observations,
    *,
    form: str,
    supervised_theta: Array,
    student_starts: Array,
    prior: dict[str, tuple[float, float]],
    supervised_prior: dict[str, tuple[float, float]],
) -> Problem:
    """Supervised and distilled rows together; starts come from the two separate fits."""
    centre = (float(np.log(plain.params).mean()), float(np.log(plain.tokens).mean()))
    own = (float(np.log(rows.params).mean()), float(np.log(rows.tokens).mean()))
    n, d = np.log(rows.params), np.log(rows.tokens)
    model = JointModel(
        SupervisedModel(np.log(plain.params) - centre[0], np.log(plain.tokens) - centre[1], gamma_free=True),
        SupervisedModel(n - centre[0], d - centre[1], gamma_free=True),
        StudentModel(n - own[0], d - own[1], np.log(rows.teacher_loss), np.zeros(len(n)), form=form),
    )
    start = np.concatenate([np.repeat(supervised_theta[None], len(student_starts), axis=0), student_starts], axis=1)

    def shaken(rng: np.random.Generator, count: int) -> Array:
        """Random picks of the start points, each fitted parameter moved by 20 %."""
        theta = start[rng.integers(len(start), size=count)].copy()
        theta[:, model.free] *= 1 + 0.2 * rng.standard_normal((count, len(model.free)))
        return theta

    def curve(theta: Array, replicates: Array) -> FittedCurve:
        behind = FittedCurve(form="supervised", theta=theta[:6], replicates=replicates[:, :6], centre=centre)
        return FittedCurve(form=form, theta=theta[6:], replicates=replicates[:, 6:], centre=own, behind=behind)

    return Problem.of(
        model,
        plain.followed_by(rows),
        prior | {f"sup_{name}": each for name, each in supervised_prior.items()},
        starts=lambda rng: start,
        random_starts=shaken,
        search=_FROM_SEPARATE_FITS,
        restarts=2,
        curve=curve,
    )


_SUPERVISED_PRIOR = {"le": (-np.log(0.6), 0.4)}
"""gamma near 0.6 within a factor 1.5: the weak prior of runs smaller than those that exponents were learnt from."""
_STUDENT_PRIOR = {
    "s0": (1.0, 2.0),
    "lw": (0.0, 2.0),
    "p": (0.25, 0.3),
    "q": (0.3, 0.3),
    "le": (0.0, 0.7),
    "c0": (2.5, 2.0),
    "lk": (0.8, 1.0),
    "lf": (np.log(0.1), 0.5),
    "eps": (0.02, 0.05),
}
"""For the forms with a data term: c0, ln kappa and ln f1 centred near the set of arXiv:2502.08606v2, Table 6 (2.55,
0.79, ln 0.09); the others wide enough not to be felt by runs that see the term at all."""
_PUBLIC_PRIOR = {
    **{"E": ("e", True), "gamma": ("le", True), "kappa": ("lk", True), "f1": ("lf", True)},
    **{name: (name, False) for name in ("p", "q", "c0")},
}
"""Reported name -> name in the fit, and whether the fit has its logarithm."""


SMALLEST = (5e6, 3e7)
"""Parameters and tokens (geometric means) from which the prior holds: the smallest runs that were learnt from. Models
of some 0.1M parameters on some 1M tokens gain far more from tokens (q = 0.87 in the pocket study)."""


@cache
def learnt_exponents(without: str | None = None) -> dict[str, tuple[float, float]]:
    """Centre and standard deviation of p, q and gamma (of whose logarithm), as `fit(priors=...)` takes them.

    `exponents.json` holds the slopes p = gamma alpha and q = gamma beta and ln gamma of every set of public runs, by
    collection (`benchmarks.fits.learn` writes it and says how they are pooled; docs/fitting.md names the collections).

    Args:
        without: a collection that is left out, since its runs are to be judged.
    """
    text = (files("distillaw.fitting") / "exponents.json").read_text(encoding="utf-8")
    collections = [
        sets for name, sets in json.loads(text)["collections"].items() if name.lower() != (without or "").lower()
    ]
    found = {}
    for name in ("p", "q", "log_gamma"):
        by_collection = [np.array([one[name] for one in sets]) for sets in collections]
        centre = float(np.mean([values.mean() for values in by_collection]))
        square = np.mean([((values - centre) ** 2).mean() for values in by_collection])
        found[name] = (centre, float(np.sqrt(square * len(collections) / (len(collections) - 1))))
    centre, sd = found.pop("log_gamma")
    return found | {"gamma": (float(np.exp(centre)), sd)}


def holds_for(params: Array, tokens: Array) -> bool:
    """True where runs are as large as those that were learnt from."""
    middle = np.exp(np.log(params).mean()), np.exp(np.log(tokens).mean())
    return bool(middle[0] >= SMALLEST[0] and middle[1] >= SMALLEST[1])


def weak_prior(form: str, rows: Observations) -> dict[str, tuple[float, float]]:
    """The default weak prior of a form on these rows; empty for those whose parameters the data always show."""
    if form == "supervised":
        learnt = holds_for(rows.params, rows.tokens)
        return _internal(learnt_exponents()) if learnt else dict(_SUPERVISED_PRIOR)
    return dict(_STUDENT_PRIOR) if form in ("kappa", "full") else {}


def read_priors(
    priors: str | Mapping[str, tuple[float, float]] | None, *, form: str, delta: float | str, rows: Observations
) -> dict[str, tuple[float, float]]:
    """Internal priors from what the user asked for.

    Args:
        priors: "auto" (weak priors when delta is auto, none at a fixed delta, which is for reproducing the
            field's fits), "weak", "none" / None, or {coefficient: (centre, sd)}; for E, gamma, kappa and
            f1 the sd is of the logarithm.
    """
    if priors is None or priors == "none" or (priors == "auto" and delta != "auto"):
        return {}
    if priors in ("auto", "weak"):
        return weak_prior(form, rows)
    if isinstance(priors, str):
        raise ConfigError(
            f"priors: unknown {priors!r}; known: auto, weak, none, or a mapping such as {{'gamma': (0.6, 0.4)}}"
        )
    return _internal(priors)


def _internal(priors: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Of the fit's own parameters."""
    out = {}
    for name, (centre, sd) in priors.items():
        if name not in _PUBLIC_PRIOR:
            raise ConfigError(
                f"priors: no prior on {name!r}{did_you_mean(name, _PUBLIC_PRIOR)}; known: {', '.join(_PUBLIC_PRIOR)}"
            )
        inner, is_log = _PUBLIC_PRIOR[name]
        if sd <= 0 or (is_log and centre <= 0):
            raise ConfigError(
                f"priors: {name} = ({centre}, {sd}); the sd must be positive, and the centre of a logarithm too"
            )
        mean = float(np.log(centre)) if is_log else float(centre)
        out[inner] = (-mean if inner == "le" else mean, float(sd))
    return out


_SLOPES = np.exp(np.linspace(np.log(0.04), np.log(1.2), 12))
"""Slopes p and q of the grid: ln S falls by this much per unit of ln N or ln D."""
_FLOORS = np.array([0.02, 0.2, 0.4, 0.6, 0.75, 0.86, 0.93, 0.97])
"""E as a share of the lowest loss."""
_GAMMAS = np.array([0.25, 0.4, 0.6, 1.0])
"""Below and above the published 0.452 (arXiv 2502.08606v2, Table 6) to Chinchilla's 1; Newton goes on from there."""


def _variable_projection(
    n: Array, d: Array, y: Array, weights: Array, *, gamma_free: bool, tie: bool = False, count: int = 3
) -> Array:
    """The best points of a grid over (E, gamma, p, q), as SUPERVISED parameters, shape (count, 6).

    With E and gamma fixed, (L - E)^(1/gamma) = A x + B z is linear in A and B; the rows are weighted so that
    the residual is relative to the loss to first order. The best point of each gamma is a candidate.

    Args:
        n: centred ln N, shape (n,).
        d: centred ln D, shape (n,).
        y: ln of the losses.
        weights: weights of the rows, shape (n,).
        gamma_free: False keeps gamma = 1.
    """
    L = np.exp(y)
    E = _FLOORS * L.min()
    found = []
    for gamma in _GAMMAS if gamma_free else np.ones(1):
        z = (L - E[:, None]) ** (1 / gamma)
        relative = weights * (gamma * (L - E[:, None]) / (z * L)) ** 2  # dL = gamma (L - E)/z dz
        score, a, b, p, q = _best_linear(n / gamma, d / gamma, z, relative, tie=tie)
        best = int(np.argmin(score))
        if np.isfinite(score[best]):
            A, B = a[best], b[best]
            theta = [np.log(E[best]), gamma * np.log(A + B), np.log(A / B), p[best], q[best], -np.log(gamma)]
            found.append((score[best], theta))
    if not found:  # no point with a falling size term and a falling data term: start from a mild one
        return np.array([[np.min(y) - 0.5, np.mean(y) - 1.0, 0.0, 0.3, 0.3, 0.0]])
    found.sort(key=lambda pair: pair[0])
    return np.array([theta for _, theta in found[:count]])


def _best_linear(n: Array, d: Array, z: Array, w: Array, *, tie: bool) -> tuple[Array, Array, Array, Array, Array]:
    """For each row of z (e, n) with weights w, the best a x + b v over the grid of slopes.

    Returns:
        weighted residual sum of squares (inf where no positive a, b exist), a, b, p, q, each (e,).
    """
    x, v = np.exp(-np.outer(_SLOPES, n)), np.exp(-np.outer(_SLOPES, d))
    k = len(_SLOPES)
    xx, vv = (w @ (x * x).T)[:, :, None], (w @ (v * v).T)[:, None, :]
    xv = (w @ (x[:, None] * v[None]).reshape(k * k, -1).T).reshape(-1, k, k)
    xz, vz = ((w * z) @ x.T)[:, :, None], ((w * z) @ v.T)[:, None, :]
    det = xx * vv - xv * xv
    det = np.where(det > 1e-12 * xx * vv, det, np.inf)
    a, b = (xz * vv - vz * xv) / det, (vz * xx - xz * xv) / det
    score = (w * z * z).sum(axis=1)[:, None, None] - a * xz - b * vz
    allowed = (a > 0) & (b > 0)
    if tie:
        allowed &= np.eye(k, dtype=bool)
    score = np.where(allowed, score, np.inf).reshape(len(z), -1)
    at = np.argmin(score, axis=1)
    row = np.arange(len(z))
    return (
        score[row, at],
        a.reshape(len(z), -1)[row, at],
        b.reshape(len(z), -1)[row, at],
        _SLOPES[at // k],
        _SLOPES[at % k],
    )


def _random_supervised(rng: np.random.Generator, y: Array, count: int, *, gamma_free: bool) -> Array:
    """Scaled random SUPERVISED parameters (count, 6); ln eta = 0 where gamma is not fitted."""
    e = float(np.min(y)) + np.log(rng.uniform(0.1, 0.95, count))
    s0 = float(np.mean(y)) + np.log(rng.uniform(0.05, 0.8, count))
    lw, slopes, le = rng.normal(size=count), rng.uniform(0.03, 0.6, (count, 2)), rng.uniform(-1.2, 1.5, count)
    return np.column_stack([e, s0, lw, slopes, le if gamma_free else np.zeros(count)])


_STUDENT_RANGES = ((-2, 3), None, (0.03, 0.6), (0.03, 0.8), (-1, 1), (0, 4), (-1, 2), (-3.2, -0.5), (0.0, 0.3))
"""Of STUDENT; None: normal."""
_STUDENT_NULL = np.array([*[0.0] * 8, 1e-4])
"""Of those that a form does not fit."""


def _random_student(rng: np.random.Generator, form: str, count: int) -> Array:
    """Scaled random STUDENT parameters, (count, 9); those that the form does not fit at their null values."""
    drawn = [rng.normal(size=count) if ends is None else rng.uniform(*ends, count) for ends in _STUDENT_RANGES]
    return np.where(np.isin(np.arange(9), FREE[form]), np.column_stack(drawn), _STUDENT_NULL)
