"""`capacity-gap`: the line from (student size, teacher size, loss) rows, through the best teacher of each student.

Each student's curve is a parabola in ln T through its lowest points, never the argmin of the grid; a minimum counts
only where a worse teacher was tried on both sides ("bracketed"). Fewer than four bracketed student sizes give
TOO_FEW_RUNS and no line, with what was found in `details["best_teachers"]`.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np

from distillaw.errors import DataError
from distillaw.fitting.curve import FittedCurve
from distillaw.fitting.diagnostics import DesignVerdict
from distillaw.fitting.observations import Observations
from distillaw.fitting.result import FitResult, FitStatus
from distillaw.fitting.solve import Request, refused_result
from distillaw.fitting.uncertainty import Calibration
from distillaw.laws.base import Array, Box

FEWEST_SIZES = 4
"""Bracketed student sizes below which no line is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestTeacher:
    """The best teacher of one student cell."""

    student_params: float
    student_tokens: float
    best_teacher_params: float | None
    """Vertex of the parabola; None where the minimum is at an end of the teachers tried."""
    lowest_loss: float
    num_teachers: int
    problem: str = ""


def fit_capacity(rows: Observations, request: Request) -> FitResult:
    """The line T* = slope S + intercept (millions) through the best teachers, where four sizes are bracketed.

    The bootstrap moves each loss by its standard error (or by the spread of repeated runs) and resamples student sizes.
    """
    if not np.isfinite(rows.teacher_params).all():
        raise DataError(
            "capacity-gap needs the teacher's size in every row; name it with --columns teacher_params=COLUMN"
        )
    students = _students(rows)
    best = [_describe(rows, index, rows.loss) for index in students]
    found = [i for i, one in enumerate(best) if one.best_teacher_params is not None]
    sizes = np.array([best[i].student_params for i in found])
    num_sizes = len(np.unique(sizes))
    shown = list(sizes) or list(rows.params)
    common = {
        "details": {"best_teachers": [asdict(one) for one in best]},
        "fitted_range": Box.of({"student_params": (min(shown), max(shown))}),
    }
    remedy = f"The best teacher is bracketed for {num_sizes} student sizes"
    if num_sizes < FEWEST_SIZES:
        problems = "; ".join(sorted({one.problem for one in best if one.problem}))
        because = f" ({problems})" if problems else ""
        remedy += f", {FEWEST_SIZES} are needed{because}. Add students, or teachers on the open side."
        verdict = DesignVerdict(status=FitStatus.TOO_FEW_RUNS, remedy=remedy)
        return replace(refused_result(rows, request, verdict, students=False), **common)
    teachers = np.array([best[i].best_teacher_params for i in found], dtype=np.float64)
    theta = _line(sizes, teachers, np.ones(len(sizes)))
    rng, around = np.random.default_rng(request.seed), [students[i] for i in found]
    replicates = _bootstrap(rows, around, sizes, _loss_error(rows), request.bootstrap, rng)
    resid = np.log((theta[0] * sizes + theta[1] * 1e6) / teachers)
    verdict = DesignVerdict(status=FitStatus.CONVERGED, remedy=f"{remedy}.")
    return replace(
        refused_result(rows, request, verdict, students=False),
        curve=FittedCurve(form="capacity-gap", theta=theta, replicates=replicates),
        ngroups=num_sizes,
        noise=float(np.sqrt((resid**2).sum() / max(len(resid) - 2, 1))),
        calibration=Calibration(at_edge=0.0, per_decade=0.0),
        resid=resid,
        fitted_rows=np.empty(0, dtype=np.int64),
        **common,
    )


def _students(rows: Observations) -> list[np.ndarray]:
    key = np.column_stack([rows.params, rows.tokens])
    _, member = np.unique(key, axis=0, return_inverse=True)
    member = member.reshape(-1)
    return [np.flatnonzero(member == cell) for cell in range(member.max() + 1)]


def _loss_error(rows: Observations) -> Array:
    """Standard error of each loss: given, else the pooled spread of repeated (student, teacher) cells, else 0."""
    key = np.column_stack([rows.params, rows.tokens, rows.teacher_params])
    _, member = np.unique(key, axis=0, return_inverse=True)
    member = member.reshape(-1)
    count = np.bincount(member)
    mean = np.bincount(member, rows.loss) / count
    spare = int((count - 1).sum())
    pooled = float(np.sqrt(((rows.loss - mean[member]) ** 2).sum() / spare)) if spare else 0.0
    given = np.where(np.isfinite(rows.loss_se), rows.loss_se, 0.0)
    return np.maximum(given, pooled)


def _curve(rows: Observations, index: np.ndarray, loss: Array) -> tuple[Array, Array]:
    """Ln T and mean loss per teacher of one student cell, sorted by size."""
    teachers, member = np.unique(rows.teacher_params[index], return_inverse=True)
    member = member.reshape(-1)
    return np.log(teachers), np.bincount(member, loss[index]) / np.bincount(member)


def _vertex(t: Array, loss: Array) -> float | None:
    """Ln T at the bottom of the parabola through the lowest point and its neighbours; None at an end."""
    i = int(np.argmin(loss))
    if i in (0, len(t) - 1):
        return None
    x, y = t[i - 1 : i + 2] - t[i], loss[i - 1 : i + 2]
    a, b, _ = np.polyfit(x, y, 2)
    return float(t[i] - b / (2 * a)) if a > 0 else None


def _describe(rows: Observations, index: np.ndarray, loss: Array) -> BestTeacher:
    t, mean = _curve(rows, index, loss)
    at = _vertex(t, mean) if len(t) >= 3 else None
    problem = ""
    if len(t) < 3:
        problem = f"{len(t)} teacher sizes, at least 3 needed"
    elif at is None:
        end = "smallest" if np.argmin(mean) == 0 else "largest"
        problem = f"the {end} teacher is best: try {'smaller' if end == 'smallest' else 'larger'} ones"
    return BestTeacher(
        student_params=float(rows.params[index[0]]),
        student_tokens=float(rows.tokens[index[0]]),
        best_teacher_params=None if at is None else float(np.exp(at)),
        lowest_loss=float(mean.min()),
        num_teachers=len(t),
        problem=problem,
    )


def _line(S: Array, T: Array, weight: Array) -> Array:
    """Slope and intercept (millions) by relative least squares: errors of a best size are multiplicative."""
    w = np.sqrt(weight) / T
    design = np.column_stack([S * w, 1e6 * w])
    return np.asarray(np.linalg.lstsq(design, T * w, rcond=None)[0], dtype=np.float64)


def _bootstrap(
    rows: Observations,
    students: list[np.ndarray],
    sizes: Array,
    error: Array,
    count: int,
    rng: np.random.Generator,
) -> Array:
    """Replicates of the line; a shaken curve without a bottom leaves its student out of that replicate."""
    unique, member = np.unique(sizes, return_inverse=True)
    out = np.empty((count, 2))
    for r in range(count):
        loss = rows.loss + error * rng.standard_normal(len(rows))
        counts = rng.multinomial(len(unique), np.full(len(unique), 1 / len(unique)))
        weight = counts[member.reshape(-1)].astype(float)
        at = [_vertex(*_curve(rows, index, loss)) for index in students]
        ok = np.array([a is not None for a in at]) & (weight > 0)
        if len(np.unique(sizes[ok])) < 2:  # all weight on one size: no line in this replicate, draw again
            ok = np.array([a is not None for a in at])
            weight = np.ones(len(at))
        if len(np.unique(sizes[ok])) < 2:
            out[r] = np.nan
            continue
        T = np.exp(np.array([a for a, good in zip(at, ok, strict=True) if good], dtype=np.float64))
        out[r] = _line(sizes[ok], T, weight[ok])
    return out[np.isfinite(out).all(axis=1)]
