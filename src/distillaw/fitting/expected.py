"""What runs would identify, before they are made: standard errors from the information matrix at a guessed law.

Linearised at the guess with the weak prior of `uncertainty.py`. Two forms of the distillation law are asked, those a
study fits: `reduced` with five parameters and `kappa` with eight. Branches of one trunk share half of their error's
variance; that and the size of the error are set so that the pocket study's predicted errors come near its bootstrap
(docs/protocols.md).

The guesses are the surrogates, moved to the study's scale (`prior_laws`). The shape of the distillation law is known
only from models of 143M parameters on. Small studies on few tokens still follow it: with every size taken 635 times and
every token count 396 times as large, the published supervised law meets the 20 supervised losses of the shipped pocket
study (0.1M to 0.8M parameters, 0.2M to 4M tokens, vocabulary 512) within 0.6 % rms, and the surrogates its 51 distilled
ones within 1.5 to 1.9 %, the student's term moved by the factors below. On four cells of the open study, which it had
not seen, it was off by 0.1 to 1.3 %. It stays a guess: good for the spread of ratios L_T / L_S and for the errors of a
design, not for a loss that anybody should quote.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from distillaw.fitting.curve import FittedCurve
from distillaw.fitting.models import FREE, StudentModel
from distillaw.fitting.uncertainty import DesignPoints, LinearBelief, guessed_belief, guessed_curve
from distillaw.laws.base import Array
from distillaw.laws.distillation import DistillationLaw, KappaDistillationLaw
from distillaw.laws.published import PublishedLaw, published

NOISE = 0.005
"""Spread of a run's ln loss about the law that is fitted, what the law misses included."""
SHARED = 0.5
"""Share of that variance which all branches of one trunk have in common."""
_GRID = 161
"""Teacher losses tried for the best one."""
_STEP = 0.01
"""Of ln L_T, in the curvature at the best teacher."""
PAPER_SIZE = 143e6
"""Smallest size the laws were made for, arXiv:2502.08606v2: taken as they are from here on."""
SMALL_SIZE = 0.2e6
"""Middle size of the pocket study: moved in full up to here, in between by a share in ln N."""
SIZE_FACTOR, TOKEN_FACTOR = 635.0, 396.0
"""Least squares on ln L of the pocket study's supervised runs and teachers (studies/pocket_runs.parquet)."""
TERM_FACTOR = {"surrogate-s1": 0.076, "surrogate-s2": 0.158, "surrogate-s3": 0.230}
"""ln of the factor on the student's term, from the pocket study's distilled runs."""
POCKET = {
    "A": 1408223.1,
    "B": 118592629400987.64,
    "alpha": 0.5985982,
    "beta": 2.0416703,
    "gamma": 0.4280068,
    "c0": 3.0776261,
    "kappa": 2.7648189,
    "f1": 0.1775516,
}
"""`distillaw fit` of that table with --law distillation-kappa: CONVERGED, 71 rows in 26 trunks, c0 within -0.6 to 4.0.
The one guess from small models: its best teachers are weaker (a break at 0.83, against 0.93)."""


def prior_laws(params: Array) -> dict[str, PublishedLaw]:
    """The surrogates S1 to S3 (not published values) and the pocket study's law, at the scale of a study.

    At the papers' own scale the pocket study has no say.

    Args:
        params: N of the study's students, non-embedding, (m,); their middle in ln N sets the scale.
    """
    middle = float(np.log(params).mean())
    share = (np.log(PAPER_SIZE) - middle) / (np.log(PAPER_SIZE) - np.log(SMALL_SIZE))
    share = float(np.clip(share, 0.0, 1.0))
    laws = {name: _moved(published(name), share, term) for name, term in TERM_FACTOR.items()}
    return laws | ({"pocket": _pocket(laws["surrogate-s1"], 1 - share)} if share > 0 else {})


def _moved(law: PublishedLaw, share: float, term: float) -> PublishedLaw:
    """The law with N and D multiplied, and ln of its student's term raised, by a share of the factors."""
    own, taught = law.supervised, law.distillation
    assert own is not None and isinstance(taught, DistillationLaw)
    size, tokens = SIZE_FACTOR**share, TOKEN_FACTOR**share
    raised = float(np.exp(share * term / taught.gamma))
    own = replace(own, A=own.A * size**-own.alpha, B=own.B * tokens**-own.beta)
    A, B = taught.A * size**-taught.alpha, taught.B * tokens**-taught.beta
    taught = replace(taught, supervised=own, A=raised * A, B=raised * B)
    return replace(law, supervised=own, distillation=taught)


def _pocket(beside: PublishedLaw, share: float) -> PublishedLaw:
    """The pocket study's law, N and D divided by a share of the factors, with the supervised half of another guess."""
    taught = KappaDistillationLaw(**POCKET, supervised=beside.supervised)
    size, tokens = SIZE_FACTOR**share, TOKEN_FACTOR**share
    taught = replace(taught, A=taught.A * size**taught.alpha, B=taught.B * tokens**taught.beta)
    return replace(beside, name="pocket", distillation=taught)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRuns:
    """Runs by their cells (m,), and which of them are branches of one trunk."""

    cells: DesignPoints
    trunk: NDArray[np.int64]
    """(m,): runs with the same number are correlated."""

    def taught(self) -> DesignPoints:
        """The distilled ones."""
        return self.cells.rows(self.cells.taught)

    def followed_by(self, cells: DesignPoints) -> "PlannedRuns":
        """These and further runs, each of a trunk of its own."""
        both = {
            name: np.concatenate([getattr(self.cells, name), getattr(cells, name)]) for name in DesignPoints.__slots__
        }
        fresh = np.arange(len(cells)) + (self.trunk.max() + 1 if len(self.trunk) else 0)
        return PlannedRuns(cells=DesignPoints(**both), trunk=np.concatenate([self.trunk, fresh]))


@dataclass(frozen=True, slots=True, kw_only=True)
class BestRatio:
    """L_T* / Ltilde_S of one student cell: the teacher that would serve it best, over the loss it reaches alone."""

    params: float
    tokens: float
    ratio: float
    error: float
    """Standard error of the ratio; infinite where the best of the runs' teachers is at an end of their range."""

    @property
    def is_bracketed(self) -> bool:
        """Whether the runs have teachers on both sides of the best."""
        return bool(np.isfinite(self.error))


@dataclass(frozen=True, slots=True, kw_only=True)
class FormErrors:
    """What one form, fitted to the runs, is expected to know."""

    form: str
    values: Mapping[str, float]
    """Of the guess, in this form."""
    errors: Mapping[str, float]
    """Standard errors by the same names."""
    best: tuple[BestRatio, ...] = ()
    """Of every distilled student cell, shortest first."""


def expect(
    law: PublishedLaw, runs: PlannedRuns, *, form: str, noise: float = NOISE, shared: float = SHARED, best: bool = True
) -> FormErrors:
    """Standard errors that a form would have after the runs, if the guess were the truth.

    Args:
        law: the guess (`prior_laws`); of the supervised form only its supervised half matters.
        runs: the runs in question, those without a teacher included: they inform Ltilde_S.
        form: `supervised`, `reduced` or `kappa`.
        noise: standard deviation of a run, in ln L.
        shared: share of its variance that branches of one trunk have in common.
    """
    if form == "supervised":
        plain = ~runs.cells.taught
        runs = PlannedRuns(cells=runs.cells.rows(plain), trunk=runs.trunk[plain])
    curve = _curve(law, runs.cells, form)
    prior = guessed_belief(curve, noise=noise)
    belief = replace(prior, covariance=_after(prior, runs, shared))
    values, gradients = _coefficients(curve, len(belief.covariance))
    errors = {name: _error(belief, gradient) for name, gradient in gradients.items()}
    ratios = best_ratios(belief, runs.taught()) if best and curve.is_student else ()
    return FormErrors(form=form, values=values, errors=errors, best=ratios)


def _curve(law: PublishedLaw, cells: DesignPoints, form: str) -> FittedCurve:
    """The guess in the form that is fitted."""
    curve = guessed_curve(law, around=cells, taught=form != "supervised")
    if form == "supervised":
        return curve
    # eps -> 0 at fixed kappa: the eight-parameter form keeps the guess's c0, kappa and f1
    curve = replace(curve, form="kappa", theta=np.r_[curve.theta[:8], 0.0])
    return curve if form == "kappa" else _reduced(curve, cells.rows(cells.taught))


def _reduced(curve: FittedCurve, cells: DesignPoints) -> FittedCurve:
    """The five-parameter form nearest to a curve at some cells: damped Gauss-Newton on ln L."""
    n, d = np.log(cells.params) - curve.centre[0], np.log(cells.tokens) - curve.centre[1]
    assert curve.behind is not None
    alone = {"params": np.log(cells.params), "tokens": np.log(cells.tokens)}
    t, s = np.log(cells.teacher_loss), curve.behind.log_value(alone, replicates=False)[0]
    at = {"student_params": np.log(cells.params), "student_tokens": np.log(cells.tokens), "teacher_loss": t}
    y = curve.log_value(at, replicates=False)[0]
    model = StudentModel(n, d, t, s, form="reduced")
    free = list(FREE["reduced"])
    theta = np.where(np.isin(np.arange(9), free), curve.theta, 0.0)
    damping, residual = 1e-2, model.value(theta[None])[0] - y
    for _ in range(60):
        J = model.evaluate(theta[None]).gradient[0, free]
        A = J @ J.T
        step = np.linalg.solve(A + damping * (np.diag(np.diag(A)) + 1e-9 * np.eye(len(A))), J @ residual)
        moved = theta.copy()
        moved[free] = np.clip(theta[free] - step, model.lower[free], model.upper[free])
        new = model.value(moved[None])[0] - y
        better = new @ new < residual @ residual
        damping *= 0.3 if better else 8.0
        if better:
            theta, residual = moved, new
        if damping > 1e8:
            break
    return replace(curve, form="reduced", theta=theta)


def _after(belief: LinearBelief, runs: PlannedRuns, shared: float) -> Array:
    """Covariance (k, k) after the runs, branches of one trunk correlated."""
    J = belief.gradient(runs.cells)
    CJ = belief.covariance @ J.T
    same = runs.trunk[:, None] == runs.trunk[None, :]
    spread = belief.noise**2 * ((1 - shared) * np.eye(len(J)) + shared * same)
    return belief.covariance - CJ @ np.linalg.solve(J @ CJ + spread, CJ.T)


def _coefficients(curve: FittedCurve, size: int) -> tuple[dict[str, float], dict[str, Array]]:
    """Identified quantities of a curve and their gradients (size,) by its parameters."""
    unit, theta = np.eye(size), curve.theta
    own = len(curve.theta) if curve.is_student else 0
    level = curve.behind if curve.is_student else curve
    values, gradients = {}, {}
    if curve.is_student:
        edge = float(np.exp(-np.exp(theta[7]) * theta[6]))  # kappa^-f1
        values = {"c0": theta[5], "break": edge, "f1": float(np.exp(theta[7])), "p": theta[2]}
        bend = -np.exp(theta[7]) * (unit[6] + theta[6] * unit[7])
        gradients = {"c0": unit[5], "break": edge * bend, "f1": np.exp(theta[7]) * unit[7], "p": unit[2]}
        if curve.form == "kappa":
            values["q"], gradients["q"] = theta[3], unit[3]
    if level is not None and size > own:
        e = float(np.exp(level.theta[0]))
        values |= {"supervised E": e, "supervised p": level.theta[3], "supervised q": level.theta[4]}
        gradients |= {"supervised E": e * unit[own], "supervised p": unit[own + 3], "supervised q": unit[own + 4]}
    return {name: float(value) for name, value in values.items()}, gradients


def _error(belief: LinearBelief, gradient: Array) -> float:
    return float(np.sqrt(max(gradient @ belief.covariance @ gradient, 0.0)))


def best_ratios(belief: LinearBelief, taught: DesignPoints) -> tuple[BestRatio, ...]:
    """The best L_T / Ltilde_S of every student cell within the range of teachers, with its standard error.

    At the best teacher d ln L_S / dt = 0 with t = ln L_T, so t* moves by -(d2 / dt dtheta) / (d2 / dt2) per parameter.
    """
    if not len(taught):
        return ()
    d, n = np.unique(np.stack([taught.tokens, taught.params], axis=1), axis=0).T
    low, high = np.log(taught.teacher_loss.min()), np.log(taught.teacher_loss.max())
    alone = DesignPoints.of({"params": n, "tokens": d}, what="students")

    def at(t: Array) -> DesignPoints:
        """Each student with teachers of its own, shape (students, teachers), as cells."""
        table = {"params": n[:, None], "tokens": d[:, None], "teacher_loss": np.exp(t)}
        return DesignPoints.of(table, what="students")

    tried = np.linspace(low, high, _GRID)
    best = belief.log_loss(at(np.tile(tried, (len(n), 1)))).reshape(len(n), _GRID).argmin(axis=1)
    t = tried[best]
    ratio = np.exp(t - belief.log_loss(alone))
    near = at(t[:, None] + _STEP * np.array([-1, 0, 1]))
    f = belief.log_loss(near).reshape(-1, 3)
    G = belief.gradient(near).reshape(len(n), 3, -1)
    curvature = np.maximum((f[:, 0] - 2 * f[:, 1] + f[:, 2]) / _STEP**2, 1e-6)
    slopes = -(G[:, 2] - G[:, 0]) / (2 * _STEP) / curvature[:, None] - belief.gradient(alone)
    outside = np.isin(best, (0, _GRID - 1))
    errors = [np.inf if out else r * _error(belief, g) for out, r, g in zip(outside, ratio, slopes, strict=True)]
    return tuple(
        BestRatio(params=float(n[i]), tokens=float(d[i]), ratio=float(ratio[i]), error=float(errors[i]))
        for i in range(len(n))
    )
