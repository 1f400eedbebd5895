"""`pruned`: the head start of students that begin as cuts, from the runs of such students beside random starts.

    ln L_cut(N, D) = ln L_random(N, D + D0)        D0 = share D_T (N / T)^power

with a share of their own for taught students. The law of random starts stands behind it: given, or fitted to the fresh
students of the same table. Only its slope in tokens matters where the same cell (size, tokens, teacher) was run from
random weights too: what it misses of that run is taken off both. The estimate minimises Huber terms of ln L; replicates
draw trunks with replacement, each with its own replicate of the law behind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from distillaw.errors import ConfigError, DataError
from distillaw.fitting.curve import FittedCurve, student_curve, supervised_curve
from distillaw.fitting.estimate import FIRST, FLOOR, MATCHED, cluster_weights, robust_scale
from distillaw.fitting.newton import huber_sum
from distillaw.fitting.observations import Observations
from distillaw.fitting.result import FitResult, FitStatus, Judgement
from distillaw.fitting.solve import SPARE_RUNS, Request, refused_result
from distillaw.laws.base import Array, Box
from distillaw.laws.published import PublishedLaw
from distillaw.laws.starts import CUTS

NAMES = ("share", "taught", "power")
START = np.array([np.log(CUTS.share), np.log(CUTS.taught), CUTS.power])
"""Logarithms of both shares, and power: where the search begins. A share of which the table has no run stays there."""
LOWER, UPPER = np.array([-10.0, -10.0, -3.0]), np.array([6.0, 6.0, 6.0])
"""Beyond them a start is worth nothing, or more than any run could tell."""
DECADE = np.log(10.0)
"""A head start known to less than a factor of 10 either way is weakly identified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """Runs that begin as cuts, with what they were cut from; arrays (n,)."""

    rows: Observations
    source_params: Array
    source_tokens: Array
    random: Array
    """Mean ln L of the random starts of the same cell; NaN where none was run."""

    @property
    def logs(self) -> tuple[Array, Array, Array, Array, Array]:
        """ln of N, D, L_T (NaN alone), T and D_T."""
        n, d, t = np.log(self.rows.params), np.log(self.rows.tokens), np.log(self.rows.teacher_loss)
        return n, d, t, np.log(self.source_params), np.log(self.source_tokens)


def read_cuts(table: Mapping[str, ArrayLike], rows: Observations, fresh: Observations) -> Cuts:
    """The sources of cut students: `start_params` and `start_tokens`, or the run `start_run`; else the teacher.

    Raises:
        DataError: a source is not known, or no larger than its student.
    """
    data = {str(name): np.asarray(values, dtype=object) for name, values in table.items()}
    tokens_of = dict(zip(data.get("run_id", ()), data.get("tokens", ()), strict=False))

    def of(i: int, *names: str) -> float:
        found = (data[name][i] for name in names if name in data)
        return next((float(v) for v in found if v is not None and v != "" and float(v) > 0), np.nan)

    params = np.array([of(i, "start_params", "teacher_params") for i in rows.row])
    run = data.get("start_run", np.full(len(next(iter(data.values()))), None, dtype=object))
    tokens = np.array(
        [of(i, "start_tokens") if not tokens_of.get(run[i]) else float(tokens_of[run[i]]) for i in rows.row]
    )
    tokens = np.where(np.isfinite(tokens), tokens, [of(i, "teacher_tokens") for i in rows.row])
    for bad, what in (
        (
            ~np.isfinite(params + tokens),
            "its source's size and tokens are not known: give start_params and start_tokens",
        ),
        (params < rows.params, "it is larger than what it was cut out of; correct arm, params or start_params"),
    ):
        if bad.any():
            raise DataError(f"row {rows.row[int(bad.argmax())] + 1}: a student that begins as a cut, and {what}")
    cells: dict[tuple[float, ...], list[float]] = {}
    for key, loss in zip(_cells(fresh), fresh.loss, strict=True):
        cells.setdefault(key, []).append(float(np.log(loss)))
    random = np.array([float(np.mean(cells.get(key, [np.nan]))) for key in _cells(rows)])
    return Cuts(rows=rows, source_params=params, source_tokens=tokens, random=random)


def _cells(rows: Observations) -> list[tuple[float, ...]]:
    """Size, tokens and teacher's loss of each row; 0 alone."""
    return list(zip(rows.params, rows.tokens, np.nan_to_num(rows.teacher_loss), strict=True))


def curve_behind(law: PublishedLaw | FitResult) -> FittedCurve:
    """A law of random starts, taught ones too, as the curve behind.

    Raises:
        ConfigError: it has no distillation half, or may not be used.
    """
    if isinstance(law, FitResult):
        if law.curve is None or not law.is_usable or not law.curve.is_student or law.curve.behind is None:
            raise ConfigError(
                f"supervised: the law of starts stands on a usable distillation fit with its supervised half, got "
                f"{law.family} ({law.status.name})"
            )
        return law.curve
    if law.distillation is None or law.supervised is None:
        raise ConfigError(f"supervised: {law.name} has no distillation half; the law of starts needs both halves")
    return replace(student_curve(law.distillation, (0.0, 0.0)), behind=supervised_curve(law.supervised))


def log_random(curve: FittedCurve, n: Array, d: Array, t: Array, *, replicates: bool = False) -> Array:
    """ln L of random starts, (R, n): alone where ln L_T is NaN, else taught.

    Args:
        curve: the distillation curve with its supervised one.
        n: ln N, (n,).
        d: ln D, (R, n): a row per replicate.
        t: ln L_T, (n,).
        replicates: each row by its own replicate of the curve, where it has some.
    """
    assert curve.behind is not None
    n, taught = np.broadcast_to(n, d.shape), np.isfinite(t)
    own = replicates and len(curve.replicates) > 0
    coords = {"student_params": n, "student_tokens": d, "teacher_loss": np.where(taught, t, 0.0)}
    alone = curve.behind.log_value({"params": n, "tokens": d}, replicates=own and len(curve.behind.replicates) > 0)
    return np.where(taught, curve.log_value(coords, replicates=own), alone)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CutFit:
    """What is minimised, for R estimates at once."""

    cuts: Cuts
    behind: FittedCurve
    delta: float
    replicates: bool = False
    shift: Array = field(default_factory=lambda: np.zeros((1, 1)))
    """Added to ln L of the random starts, (R, n) or less."""

    def misses(self, theta: Array) -> tuple[Array, Array]:
        """ln predicted - ln observed (R, n), and its derivatives (R, 3, n), for theta (R, 3)."""
        n, d, t, T, s = self.cuts.logs
        taught = np.isfinite(t)
        ahead = np.where(taught, theta[:, 1:2], theta[:, :1]) + s + theta[:, 2:] * (n - T)
        begun = np.logaddexp(d, ahead)
        now = np.broadcast_to(d, begun.shape)
        at = partial(log_random, self.behind, n, t=t, replicates=self.replicates)
        moved, random = at(d=begun), self.cuts.random
        level = np.where(np.isfinite(random), random + self.shift - at(d=now), 0.0)
        slope = (at(d=begun + _STEP) - moved) / _STEP * np.exp(ahead - begun)
        value = moved + level - np.log(self.cuts.rows.loss)
        return value, np.stack([slope * ~taught, slope * taught, slope * (n - T)], axis=1)

    def solve(self, theta: Array, weight: Array) -> Array:
        """Estimates (R, 3) from starts (R, 3) with weights (R, n): Levenberg-Marquardt, each with its own damping."""
        every = np.arange(theta.shape[1])
        damping = np.full(len(theta), 1e-2)
        miss, J = self.misses(theta)
        best = huber_sum(miss, weight, self.delta)
        for _ in range(_STEPS):
            size = np.maximum(np.abs(miss), 1e-300)
            w = weight * np.minimum(1.0, self.delta / size)
            H = (J * w[:, None, :]) @ J.transpose(0, 2, 1)
            gradient = (J @ (w * miss)[:, :, None])[:, :, 0]
            H[:, every, every] *= 1 + damping[:, None]
            H[:, every, every] += 1e-12  # a share without runs stays where it is
            step = np.linalg.solve(H, gradient[:, :, None])[:, :, 0]
            tried = np.minimum(np.maximum(theta - step, LOWER), UPPER)
            new_miss, new_J = self.misses(tried)
            value = huber_sum(new_miss, weight, self.delta)
            better = value <= best
            theta, miss = np.where(better[:, None], tried, theta), np.where(better[:, None], new_miss, miss)
            J, best = np.where(better[:, None, None], new_J, J), np.where(better, value, best)
            damping = np.clip(np.where(better, damping / 10, damping * 10), 1e-9, 1e9)
        return theta


_STEP = 1e-6
"""Of a forward difference in ln D: an error of 1e-6 in a slope of order 0.1."""
_STEPS = 30
"""Three parameters and a smooth curve: ends agree to 1e-6 after ten on the runs of `benchmarks/capacity_gap`."""


def fit_cuts(cuts: Cuts, behind: FittedCurve, request: Request) -> FitResult:
    """The law of starts with the loss law behind it."""
    rows = cuts.rows
    least = len(START) + SPARE_RUNS
    box = box_of_cuts(cuts)
    if rows.ngroups < least:
        few = Judgement(
            FitStatus.TOO_FEW_RUNS,
            f"{rows.ngroups} independent runs begin as cuts, and {least} are needed. Add students, sources or seeds.",
        )
        return replace(refused_result(rows, request, few), fitted_range=box)
    is_auto = request.delta == "auto"
    fit = _CutFit(cuts=cuts, behind=behind, delta=FIRST if is_auto else float(request.delta))
    found = fit.solve(START[None], rows.weight[None])
    if is_auto:  # the threshold from the residuals
        fit = replace(fit, delta=max(MATCHED * robust_scale(fit.misses(found)[0][0]), FLOOR))
        found = fit.solve(found, rows.weight[None])
    theta = found[0]
    resid = fit.misses(theta[None])[0][0]
    noise = robust_scale(resid) * np.sqrt(len(resid) / max(len(resid) - len(theta), 1))
    replicates, halves = _replicates(fit, theta, noise, request)
    curve = FittedCurve(form="pruned", theta=theta, replicates=replicates, behind=halves)
    return replace(
        refused_result(rows, request, _verdict(theta, replicates, cuts)),
        curve=curve,
        delta=fit.delta,
        objective=float(huber_sum(resid, rows.weight, fit.delta)),
        noise=noise,
        fitted_range=box,
        resid=resid,
        notes=(*rows.notes, *_unseen(cuts)),
        details={"cells_run_from_random": int(np.isfinite(cuts.random).sum())},
    )


def _replicates(fit: _CutFit, theta: Array, noise: float, request: Request) -> tuple[Array, FittedCurve]:
    """Estimates on trunks drawn with replacement, and the curve behind with the replicates that go with them.

    A residual has the noise of two runs; that of the random start, which cuts of one cell share, is drawn beside.
    """
    behind, rows, count = fit.behind, fit.cuts.rows, request.bootstrap
    assert behind.behind is not None
    if not count:
        return np.empty((0, len(theta))), behind
    if len(behind.replicates):
        own, inner = np.arange(count) % len(behind.replicates), behind.behind
        inner = replace(inner, replicates=inner.replicates[own]) if len(inner.replicates) else inner
        behind = replace(behind, replicates=behind.replicates[own], behind=inner)
    rng = np.random.default_rng(request.seed)
    weights = cluster_weights(rows.group, count, rng)
    cells, cell = np.unique(fit.cuts.random, return_inverse=True)
    shift = noise / np.sqrt(2) * rng.standard_normal((count, len(cells)))[:, cell]
    found = replace(fit, behind=behind, replicates=True, shift=shift).solve(
        np.broadcast_to(theta, (count, len(theta))), rows.weight * weights
    )
    return found, behind


def _verdict(theta: Array, replicates: Array, cuts: Cuts) -> Judgement:
    at_end = (theta < LOWER + 0.01) | (theta > UPPER - 0.01)
    if at_end.any():
        return Judgement(
            FitStatus.AT_BOUND,
            f"{NAMES[int(at_end.argmax())]} is at its bound: the cuts are worth nothing, or more than these "
            "runs can tell; add smaller budgets, where starts differ.",
        )
    kept = np.log(cuts.rows.params / cuts.source_params)
    column = np.where(np.isfinite(cuts.rows.teacher_loss), 1, 0)
    ahead = replicates[:, column] + replicates[:, 2:] * kept if len(replicates) else np.zeros((1, 1))
    wide = float(np.ptp(np.percentile(ahead, [5, 95], axis=0), axis=0).max()) / 2
    if wide > DECADE:
        return Judgement(
            FitStatus.WEAKLY_IDENTIFIED,
            f"The head start is known to a factor {np.exp(wide):.2g} either way; add runs of fewer tokens, "
            "where starts differ most, and random starts of the same cells.",
        )
    return Judgement(FitStatus.CONVERGED, "The runs tell the head start and how it falls with the cut.")


def _unseen(cuts: Cuts) -> tuple[str, ...]:
    """What is said of a share of which there is no run."""
    taught = np.isfinite(cuts.rows.teacher_loss)
    missing = () if taught.any() and not taught.all() else ("share",) if taught.all() else ("taught",)
    return tuple(f"no cut student of the kind behind {name}: it is that of the law shipped" for name in missing)


def box_of_cuts(cuts: Cuts) -> Box:
    """The range of the runs, with the share that is kept and the tokens of the sources."""
    rows = cuts.rows
    ranges = rows.box().as_dict() if np.isfinite(rows.teacher_loss).any() else {}
    kept = rows.params / cuts.source_params
    ranges |= {"kept": (float(kept.min()), float(kept.max()))}
    ranges |= {"start_tokens": (float(cuts.source_tokens.min()), float(cuts.source_tokens.max()))}
    return Box.of({name: ends for name, ends in ranges.items() if np.isfinite(ends).all()})
