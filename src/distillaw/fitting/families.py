"""Which rows, model, starts and prior each family of the interface means.

`supervised` and `chinchilla` use the rows without a teacher; the distillation families use the rows with one
and need Ltilde_S: from a given supervised law, from a joint fit with the no-teacher rows, or measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distillaw.errors import ConfigError
from distillaw.fitting import starts
from distillaw.fitting.curve import Curve
from distillaw.fitting.estimate import Problem
from distillaw.fitting.models import FREE, JointModel, StudentModel, SupervisedModel, TiedModel, tied
from distillaw.fitting.problem import Observations
from distillaw.laws.base import Array, Indices
from distillaw.quantities import did_you_mean

FAMILIES = (
    "supervised", "chinchilla", "distillation", "distillation-kappa", "distillation-reduced", "distillation-reduced-q",
    "distillation-auto", "capacity-gap",
)  # fmt: skip
FORMS = {
    "distillation": "full",
    "distillation-kappa": "kappa",
    "distillation-reduced": "reduced",
    "distillation-reduced-q": "reduced-q",
}
_SUPERVISED_PRIOR = {"le": (-np.log(0.6), 0.4)}
"""gamma near 0.6 within a factor 1.5: the weak prior."""
_STUDENT_PRIOR = {
    "s0": (1.0, 2.0), "lw": (0.0, 2.0), "p": (0.25, 0.3), "q": (0.3, 0.3), "le": (0.0, 0.7), "c0": (2.5, 2.0),
    "lk": (0.8, 1.0), "lf": (np.log(0.1), 0.5), "eps": (0.02, 0.05),
}  # fmt: skip
"""For the forms with a data term."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Specified:
    """A problem, and how its parameter vector becomes a curve."""

    problem: Problem
    form: str
    centre: tuple[float, float]
    behind: Curve | None = None
    """A given supervised curve."""
    tie: bool = False
    """alpha = beta: q of every parameter vector is its p."""
    behind_centre: tuple[float, float] | None = None
    """Centre of the jointly fitted supervised law: the first six parameters are its own."""

    def curve(self, theta: Array, replicates: Array) -> Curve:
        """The curve at theta (k,) with replicates (R, k)."""
        if self.tie:
            theta, replicates = tied(theta), tied(replicates)
        if self.behind_centre is None:
            return Curve(
                form=self.form, theta=theta, replicates=replicates, centre=self.centre, behind=self.behind
            )
        behind = Curve(
            form="supervised", theta=theta[:6], replicates=replicates[:, :6], centre=self.behind_centre
        )
        return Curve(
            form=self.form, theta=theta[6:], replicates=replicates[:, 6:], centre=self.centre, behind=behind
        )


def check_family(family: str) -> None:
    """Refuse an unknown family with the nearest known one."""
    if family not in FAMILIES:
        raise ConfigError(
            f"family: unknown {family!r}{did_you_mean(family, FAMILIES)}; known: {', '.join(FAMILIES)}"
        )


def specify_supervised(
    rows: Observations,
    *,
    form: str,
    prior: dict[str, tuple[float, float]],
    centre: tuple[float, float] | None = None,
    tie: bool = False,
) -> Specified:
    """The gamma law (`form="supervised"`) or the Chinchilla form on rows without a teacher; `tie`: alpha = beta."""
    n, d, y = np.log(rows.params), np.log(rows.tokens), np.log(rows.loss)
    centre = (float(n.mean()), float(d.mean())) if centre is None else centre
    n, d = n - centre[0], d - centre[1]
    free_gamma = form == "supervised"
    model = (TiedModel if tie else SupervisedModel)(n, d, gamma_free=free_gamma)

    def start(rng: np.random.Generator) -> Array:
        return starts.variable_projection(n, d, y, rows.weight, gamma_free=free_gamma, tie=tie, count=2)

    mean, sd = _prior_arrays(model.names, prior, model.free)
    problem = Problem(
        model=model, y=y, weight=rows.weight, group=rows.group, starts=start, keep=4,
        random_starts=lambda rng, count: _with_gamma(starts.random_supervised(rng, y, count), free_gamma),
        stages=(0.08, 0.02, 0.006, 0.002, 6e-4, 2e-4), within=1.2, passing=7, prior_mean=mean,
        prior_sd=sd, restarts=3, rescue=30,
    )  # fmt: skip
    return Specified(problem=problem, form=form, centre=centre, tie=tie)


def specify_student(
    rows: Observations,
    *,
    form: str,
    log_supervised: Array,
    behind: Curve | None,
    prior: dict[str, tuple[float, float]],
) -> Specified:
    """A distillation form with ln Ltilde_S of each row given, (n,) or one row per replicate (R, n)."""
    n, d, y = np.log(rows.params), np.log(rows.tokens), np.log(rows.loss)
    centre = (float(n.mean()), float(d.mean()))
    model = StudentModel(n - centre[0], d - centre[1], np.log(rows.teacher_loss), log_supervised, form=form)
    few = form in ("reduced", "reduced-q")

    def start(rng: np.random.Generator) -> Array:
        return starts.random_student(rng, form, 32 if few else 64)

    mean, sd = _prior_arrays(model.names, prior, model.free)
    problem = Problem(
        model=model, y=y, weight=rows.weight, group=rows.group, starts=start, keep=8 if few else 12,
        random_starts=lambda rng, count: starts.random_student(rng, form, count),
        stages=(0.3, 0.03), within=np.inf, passing=30, prior_mean=mean, prior_sd=sd, restarts=3,
    )  # fmt: skip
    return Specified(problem=problem, form=form, centre=centre, behind=behind)


def specify_joint(
    plain: Observations, rows: Observations, *, form: str, supervised_theta: Array, student_starts: Array,
    prior: dict[str, tuple[float, float]],
) -> Specified:  # fmt: skip
    """Supervised and distilled rows together; starts come from the two separate fits."""
    centre = (float(np.log(plain.params).mean()), float(np.log(plain.tokens).mean()))
    own = (float(np.log(rows.params).mean()), float(np.log(rows.tokens).mean()))
    n, d = np.log(rows.params), np.log(rows.tokens)
    model = JointModel(
        SupervisedModel(np.log(plain.params) - centre[0], np.log(plain.tokens) - centre[1], gamma_free=True),
        SupervisedModel(n - centre[0], d - centre[1], gamma_free=True),
        StudentModel(n - own[0], d - own[1], np.log(rows.teacher_loss), np.zeros(len(n)), form=form),
    )
    start = np.concatenate(
        [np.repeat(supervised_theta[None], len(student_starts), axis=0), student_starts], axis=1
    )
    sup_mean, sup_sd = _prior_arrays(SupervisedModel.names, _SUPERVISED_PRIOR if prior else {}, np.arange(6))
    mean, sd = _prior_arrays(StudentModel.names, prior, np.array(FREE[form]))
    problem = Problem(
        model=model, y=np.concatenate([np.log(plain.loss), np.log(rows.loss)]),
        weight=np.concatenate([plain.weight, rows.weight]), group=np.concatenate([plain.group, rows.group]),
        starts=lambda rng: start, random_starts=lambda rng, count: _shaken(start, model.free, rng, count),
        keep=4, stages=(0.03,), within=np.inf, passing=30, prior_mean=np.concatenate([sup_mean, mean]),
        prior_sd=np.concatenate([sup_sd, sd]), restarts=2,
    )  # fmt: skip
    return Specified(problem=problem, form=form, centre=own, behind_centre=centre)


def _with_gamma(theta: Array, free: bool) -> Array:
    if not free:
        theta[:, 5] = 0.0
    return theta


def _shaken(start: Array, free: Indices, rng: np.random.Generator, count: int) -> Array:
    """Random picks of the start points, each fitted parameter moved by 20 %."""
    theta = start[rng.integers(len(start), size=count)].copy()
    theta[:, free] *= 1 + 0.2 * rng.standard_normal((count, len(free)))
    return theta


def weak_prior(form: str) -> dict[str, tuple[float, float]]:
    """The default weak prior of a form; empty for those whose parameters the data always show."""
    if form == "supervised":
        return dict(_SUPERVISED_PRIOR)
    return dict(_STUDENT_PRIOR) if form in ("kappa", "full") else {}


_PUBLIC_PRIOR = {"E": ("e", True), "gamma": ("le", True), "kappa": ("lk", True), "f1": ("lf", True),
                 "p": ("p", False), "q": ("q", False), "c0": ("c0", False)}  # fmt: skip


def read_priors(
    priors: str | Mapping[str, tuple[float, float]] | None, *, form: str, delta: float | str
) -> dict:
    """Internal priors from what the user asked for.

    Args:
        priors: "auto" (weak priors when delta is auto, none at a fixed delta, which is for reproducing the
            field's fits), "weak", "none" / None, or {coefficient: (centre, sd)}; for E, gamma, kappa and
            f1 the sd is of the logarithm.
        form: the form that is fitted.
        delta: the threshold asked for.
    """
    if priors is None or priors == "none" or (priors == "auto" and delta != "auto"):
        return {}
    if priors in ("auto", "weak"):
        return weak_prior(form)
    if isinstance(priors, str):
        raise ConfigError(
            f"priors: unknown {priors!r}; known: auto, weak, none, or a mapping such as {{'gamma': (0.6, 0.4)}}"
        )
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


def _prior_arrays(
    names: tuple[str, ...], prior: dict[str, tuple[float, float]], free: Indices
) -> tuple[Array, Array]:
    mean, sd = np.zeros(len(names)), np.full(len(names), np.inf)
    for i in free:
        if names[i] in prior:
            mean[i], sd[i] = prior[names[i]]
    return mean, sd
