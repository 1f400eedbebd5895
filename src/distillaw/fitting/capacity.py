"""`capacity-gap`: best teacher size against student size, from (student, tokens, teacher size, loss) rows of one arm.

Each student's optimum is a likelihood over ln T, not a number: a student whose optimum is only known to
lie above its largest teacher still counts as that. It is a local fit in t = ln T of its losses with teachers of
several sizes:

    L(t) = m + h g(t - t*),    g(x) = (exp(-k x) + k x - 1) / k^2,    h >= 0

A parabola for k = 0. Gaining a power of T while the bottom rises slowly gives k > 0, which the curves of the
distillation law have (about 1.5 near T = 7 S); a parabola through such a curve has its bottom 1.5 times too high. One k
serves all students of a fit and is averaged over, since one student's runs do not tell it; level, depth and t* are each
student's own. With t* and k held, the rest is linear least squares, so that the sum of squares over t* is exact: an
interval from it (Fieller's, for k = 0) is open where the runs do not bound the optimum. Runs of one seed share a level,
so that what a seed does to all teachers of a student cancels. Teachers far from the bottom fade out (tricube weights;
Cleveland 1979, JASA 74:829), since no curve is a U of this form everywhere.

Students of one budget (equal tokens, or equal tokens per parameter)
give

    T = ratio S        and        T = slope S + intercept,        each optimum off by a factor exp(N(0, scatter^2))

with flat priors on the logarithms of T at the smallest and the largest student (of the ratio), a half-normal one on the
scatter, and the U's skew averaged over. The line may slope either way there: the share of it that does not rise with
the student is the test of "no dependence on size", and one on which T rises as fast as S goes through the origin. Fewer
than four bracketed student sizes give TOO_FEW_RUNS, optima that do not rise with the student NO_LINE; neither predicts.
The width of the window, coverage and false lines: `benchmarks/capacity_gap/simulated.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import DataError
from distillaw.fitting.curve import FittedCurve
from distillaw.fitting.observations import Observations
from distillaw.fitting.result import FitResult, FitStatus, Judgement
from distillaw.fitting.solve import Request, refused_result
from distillaw.fitting.uncertainty import Calibration
from distillaw.laws.base import Array, Box
from distillaw.quantities import format_count

SKEWS = np.arange(-0.5, 3.1, 0.25)
"""k; curves of `surrogate-s1` to `-s3` and `busbridge2025` have -0.3 to 1.6."""
WINDOW = float(np.log(8))
"""Distance in ln T from the bottom at which a teacher no longer counts; the benchmark compares others."""
FEWEST_TEACHERS = 4
"""Sizes that a window holds at least: one more than level, depth and t* need."""
STEP = 0.04
"""Of the grid in ln T: an optimum is not told closer than 4 %."""
_PAD = float(np.log(8))
"""How far beyond the teachers tried an optimum is looked for; what lies there is a bound, not a number."""
_PLACINGS = 2
"""Of placing the windows."""
_SMALLEST_NOISE = 1e-6
"""Nats, below what a float32 loss resolves: curves without noise have an interval of one step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The runs of one student on one number of tokens."""

    params: float
    tokens: float
    t: Array
    """ln of the teacher's size, (n,)."""
    loss: Array
    block: NDArray[np.int64]
    """Runs that share a level: those of one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiles:
    """How well each t* fits each cell, for each k."""

    grid: Array
    """t*, (G,)."""
    skews: Array
    """k, (K,)."""
    squares: Array
    """Weighted sum of squares, scaled so that its rise over noise^2 is chi-squared, (cells, K, G)."""
    depth: Array
    """h at its best, same shape; 0 where no U with its bottom there fits."""
    weights: Sequence[Array]
    """Of each cell's runs, (n,): 0 outside its window."""
    noise: float
    """Standard deviation of a run about its curve, nats."""
    dof: float
    """Degrees of freedom behind it; infinite where it was given."""


def measure(cells: Sequence[Cell], *, noise: float | None = None) -> Profiles:
    """Profiles of students, with windows about the bottoms found.

    Args:
        cells: students with three teachers or more.
        noise: of a run, for cells that leave no degree of freedom to measure it.
    """
    every = np.concatenate([cell.t for cell in cells])
    grid = np.arange(every.min() - _PAD, every.max() + _PAD, STEP)
    weights = [np.ones(len(cell.t)) for cell in cells]
    for _ in range(_PLACINGS):
        squares, _ = _scan(cells, weights, grid)
        best = _best_skew(squares)
        tried = [
            np.where((grid >= c.t.min()) & (grid <= c.t.max()), s[best], np.inf)
            for c, s in zip(cells, squares, strict=True)
        ]
        weights = [_tricube(c.t - grid[row.argmin()]) for c, row in zip(cells, tried, strict=True)]
    squares, depth = _scan(cells, weights, grid)
    best = _best_skew(squares)
    spare, gain = np.transpose(
        [
            _spare(cell, w, float(grid[rows[best].argmin()]), float(SKEWS[best]))
            for cell, w, rows in zip(cells, weights, squares, strict=True)
        ]
    )
    dof = spare.sum() - 1  # for k
    if dof < 1:
        found = float("nan") if noise is None else max(noise, _SMALLEST_NOISE)
        dof = 0.0 if noise is None else float("inf")
    else:
        found = max(float(np.sqrt(squares[:, best].min(axis=-1).sum() / dof)), _SMALLEST_NOISE)
    return Profiles(
        grid=grid,
        skews=SKEWS,
        squares=squares * gain[:, None, None],
        depth=depth,
        weights=weights,
        noise=found,
        dof=float(dof),
    )


def shape(x: Array, skew: float) -> Array:
    """g, a U with its bottom at 0 and g'' = 1 there."""
    return x * x / 2 if abs(skew) < 1e-6 else (np.exp(-skew * x) + skew * x - 1) / skew**2


def _scan(cells: Sequence[Cell], weights: Sequence[Array], grid: Array) -> tuple[Array, Array]:
    """Sum of squares and depth at every t* and k, (cells, K, G) each."""
    squares, depths = [], []
    for cell, weight in zip(cells, weights, strict=True):
        within = np.eye(len(cell.t))
        for block in np.unique(cell.block):
            member = cell.block == block
            if (total := weight[member].sum()) > 0:
                within[np.ix_(member, member)] -= weight[member] / total
        left = within @ cell.loss
        x = cell.t - grid[:, None]
        g = np.stack([shape(x, skew) for skew in SKEWS]) @ within.T
        along = (g * (weight * left)).sum(axis=-1)
        depths.append(np.maximum(along, 0.0) / np.maximum((g * g * weight).sum(axis=-1), 1e-30))
        squares.append(np.maximum((weight * left**2).sum() - depths[-1] * along, 0.0))
    return np.stack(squares), np.stack(depths)


def _best_skew(squares: Array) -> int:
    return int(squares.min(axis=-1).sum(axis=0).argmin())


def _tricube(x: Array) -> Array:
    """Weights by the distance from the bottom; the window widens until it holds `FEWEST_TEACHERS` sizes."""
    away = np.sort(np.abs(np.unique(x)))
    width = max(WINDOW, 1.2 * away[min(FEWEST_TEACHERS, len(away)) - 1])
    return np.clip(1 - (np.abs(x) / width) ** 3, 0.0, None) ** 3


def _spare(cell: Cell, weight: Array, at: float, skew: float) -> tuple[float, float]:
    """Degrees of freedom that a weighted fit of level, depth and t* leaves, E[sum of squares] / noise^2; and its gain.

    The gain is the variance of t* read off the weighted squares over its own: weights that fade out are no variances.
    """
    x = cell.t - at
    slope = x if abs(skew) < 1e-6 else (1 - np.exp(-skew * x)) / skew
    levels = (cell.block[:, None] == np.unique(cell.block)).astype(float)
    design = np.column_stack([levels, shape(x, skew), slope])
    inverse = np.linalg.pinv((design.T * weight) @ design)
    middle = inverse @ ((design.T * weight**2) @ design)
    own = (middle @ inverse)[-1, -1]
    spare = max(0.0, float(weight.sum() - np.trace(middle)))
    return spare, float(inverse[-1, -1] / own) if own > 0 else 1.0


FEWEST_SIZES = 4
"""Bracketed student sizes below which no line is drawn: two more than a line has parameters."""
LEVEL = 0.9
"""At which a student counts as bracketed, each side at 5 %; and of the optima's intervals."""
NO_DEPENDENCE = 0.01
"""Probability that optima do not rise with the student above which no line is given. Of 120 simulated studies whose
optima go with nothing 6 were given one (18 at 0.05), of 240 on lines 208 (209 at 0.05; seeds 0 to 119 of
benchmarks/capacity_gap/simulated.py)."""
NOT_CONSTANT = 0.05
"""Two-sided p of a constant ratio below which a note says that `ratio` is no law."""
SAME_BUDGET = 0.02
"""Of ln tokens: budgets are met in whole batches, so that students of one differ by up to a batch in fifty."""
WITHIN = 0.005
"""Share of the loss within which teachers count as equally good, as in `distillaw gap`."""
SCATTERS = np.array([0.04, 0.08, 0.15, 0.3, 0.5])
"""Of the optima about their line in ln T; roughly equal steps of a factor 2 up from one step of the grid."""
_SCATTER = 0.15
"""Scale of the half-normal prior: surrogates' own optima lie within a factor 1.3 of a line over a decade of sizes."""
_POINTS, _ROUNDS = 33, 3
"""Points a side of the grid over the line's two ends, and how often it closes in on where the mass is."""
_MASS = 7.0
"""Log posterior below the top at which the grid ends: the corner beyond holds less than a thousandth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Posterior:
    """Lines that the optima allow, on a grid over their two ends."""

    smallest: float
    largest: float
    """Student sizes at the ends."""
    ends: tuple[Array, Array]
    """ln T at the smallest and at the largest student, (P, P) each."""
    weight: Array
    """(P, P), summing to 1."""
    log_ratio: Array
    ratio_weight: Array
    scatter: float
    """Posterior mean."""

    @property
    def line(self) -> Array:
        """Slope and intercept (millions) at the posterior mean of the ends."""
        return self.lines(*(np.array([(u * self.weight).sum()]) for u in self.ends))[0]

    def teacher(self, student_params: float) -> float:
        """Of `line`, parameters."""
        slope, intercept = self.line
        return float(slope * student_params + intercept * 1e6)

    @property
    def ratio(self) -> float:
        """Posterior mean, of the logarithm."""
        return float(np.exp((self.log_ratio * self.ratio_weight).sum()))

    def lines(self, low: Array, high: Array) -> Array:
        """(n, 2) slopes and intercepts (millions) through ends (n,)."""
        slope = (np.exp(high) - np.exp(low)) / (self.largest - self.smallest)
        return np.column_stack([slope, (np.exp(low) - slope * self.smallest) / 1e6])

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """(count, 3): slope, intercept (millions), ratio; the ratio is of its own model."""
        at = rng.choice(self.weight.size, size=count, p=self.weight.ravel())
        low, high = (
            u.ravel()[at] + step * rng.uniform(-0.5, 0.5, count)
            for u, step in zip(self.ends, (np.diff(self.ends[0][:2, 0]), np.diff(self.ends[1][0, :2])), strict=True)
        )
        step = self.log_ratio[1] - self.log_ratio[0]
        ratio = rng.choice(self.log_ratio, size=count, p=self.ratio_weight) + step * rng.uniform(-0.5, 0.5, count)
        return np.column_stack([self.lines(low, high), np.exp(ratio)])

    def tests(self) -> dict[str, float]:
        """Posterior probability of no rise with size; of a line through the origin a two-sided p, no probability."""
        rise = (self.ends[1] - self.ends[0]) / np.log(self.largest / self.smallest)
        above = float(self.weight[rise > 1].sum())
        value, low, high = _quantiles(rise, self.weight, (0.5, 0.05, 0.95))
        return {
            "no_dependence": float(self.weight[rise <= 0].sum()),
            "constant_ratio": 2 * min(above, 1 - above),
            "elasticity": value,
            "elasticity_low": low,
            "elasticity_high": high,
        }


def fit_capacity(rows: Observations, request: Request) -> FitResult:
    """The line of the largest budget that has one; every budget's answer is in `details["budgets"]`.

    Raises:
        DataError: a row without the teacher's size, or a pruned student larger than the teacher it was cut out of.
    """
    if not np.isfinite(rows.teacher_params).all():
        raise DataError(
            "capacity-gap needs the teacher's size in every row; name it with --columns teacher_params=COLUMN"
        )
    if rows.arm == "pruned" and (larger := rows.params > rows.teacher_params).any():
        i = int(larger.argmax())
        raise DataError(
            f"row {rows.row[i] + 1}: a pruned student of {format_count(rows.params[i])} is larger than its "
            f"teacher ({format_count(rows.teacher_params[i])}), its source; correct arm, params or teacher_params"
        )
    budgets = [_fit_budget(rows.rows(index), request, name) for name, index in _budgets(rows)]
    chosen = max(budgets, key=lambda each: (each.is_usable, each.details["budget"]))
    documents = [
        {"status": each.status.name, "remedy": each.remedy, "params": each.params, "conf_int": each.conf_int()}
        | {"level": each.level, **each.details}
        for each in budgets
    ]
    details = {key: chosen.details[key] for key in ("budget", "budget_unit")} | {"budgets": documents}
    return replace(chosen, nobs=len(rows), ngroups=rows.ngroups, details=details)


def _budgets(rows: Observations) -> list[tuple[dict[str, float | str], np.ndarray]]:
    """Rows by tokens or by tokens per parameter, whichever makes fewer groups; ascending."""
    ways = []
    for unit, value in (("tokens", rows.tokens), ("tokens_per_param", rows.tokens / rows.params)):
        order = np.argsort(value, kind="stable")
        cuts = np.flatnonzero(np.diff(np.log(value[order])) > SAME_BUDGET) + 1
        groups = [np.sort(group) for group in np.split(order, cuts)]
        ways.append([({"budget": float(np.median(value[index])), "budget_unit": unit}, index) for index in groups])
    return min(ways, key=len)


def _fit_budget(rows: Observations, request: Request, budget: Mapping[str, object]) -> FitResult:
    cells = _cells(rows)
    enough = [cell for cell in cells if len(np.unique(cell.t)) >= 3]
    given = rows.loss_se[np.isfinite(rows.loss_se)]
    profiles = measure(enough, noise=float(np.median(given)) if len(given) else None) if enough else None
    optima = [_few(cell) for cell in cells if len(np.unique(cell.t)) < 3]
    is_measured = profiles is not None and bool(np.isfinite(profiles.noise))
    if profiles is not None and is_measured:
        likelihood = _likelihoods(profiles)
        optima += [_describe(profiles, likelihood, i, cell) for i, cell in enumerate(enough)]
    optima.sort(key=lambda each: (each["student_params"], each["student_tokens"]))
    bracketed = [each for each in optima if each["status"] == "bracketed"]
    sizes = sorted({each["student_params"] for each in bracketed})
    details: dict[str, Any] = {
        **budget,
        "optima_level": LEVEL,
        "noise": profiles.noise if profiles is not None and is_measured else None,
        "optima": optima,
    }
    remedy = f"The best teacher is bracketed for {len(sizes)} student sizes"
    shown = sizes or [float(rows.params.min()), float(rows.params.max())]
    unit, value = str(budget["budget_unit"]), rows.tokens
    value = value if unit == "tokens" else value / rows.params
    about = float(value.min()) * np.exp(-SAME_BUDGET), float(value.max()) * np.exp(SAME_BUDGET)
    box = Box.of({"student_params": (min(shown), max(shown)), "student_tokens" if unit == "tokens" else unit: about})

    def refused(status: FitStatus, why: str) -> FitResult:
        found = refused_result(rows, request, Judgement(status, why))
        return replace(found, details=details, fitted_range=box)

    if profiles is not None and not is_measured:
        return refused(
            FitStatus.TOO_FEW_RUNS,
            "The noise between runs is not known: three teachers a student leave nothing to measure it by. Add a "
            "teacher size, a second seed of every run, or a column loss_se.",
        )
    if len(sizes) < FEWEST_SIZES or profiles is None:
        problems = _problems(optima)
        because = f" ({problems})" if problems else ""
        return refused(
            FitStatus.TOO_FEW_RUNS,
            f"{remedy}, {FEWEST_SIZES} are needed{because}. Add students, teachers on the open side, or seeds.",
        )
    posterior = _posterior([cell.params for cell in enough], profiles)
    tests = posterior.tests()
    details |= {"tests": tests, "scatter": posterior.scatter, "r_squared": _r_squared(bracketed, posterior)}
    if tests["no_dependence"] > NO_DEPENDENCE:
        return refused(
            FitStatus.NO_LINE,
            f"{remedy}, and they do not tell a line from one best teacher for all (probability "
            f"{tests['no_dependence']:.2g}; T goes as S to the {tests['elasticity_low']:.2f} to "
            f"{tests['elasticity_high']:.2f}). Add students further apart, or seeds.",
        )
    replicates = posterior.draw(request.bootstrap, np.random.default_rng(request.seed))
    notes = rows.notes
    if tests["constant_ratio"] < NOT_CONSTANT:
        ends = ", ".join(f"{posterior.teacher(S) / S:.3g} at {format_count(S)}" for S in (min(sizes), max(sizes)))
        notes = (
            *notes,
            f"the ratio is not constant (two-sided p {tests['constant_ratio']:.2g}): by the line it is {ends}; `ratio` "
            "averages over these students and its interval is of that average, so use slope and intercept",
        )
    return replace(
        refused(FitStatus.CONVERGED, f"{remedy}."),
        curve=FittedCurve(form="capacity-gap", theta=np.r_[posterior.line, posterior.ratio], replicates=replicates),
        noise=posterior.scatter,
        notes=notes,
        calibration=Calibration(at_edge=0.0, per_decade=0.0),
        resid=np.array([_miss(each, posterior) for each in bracketed]),
        fitted_rows=np.empty(0, dtype=np.int64),
    )


def _cells(rows: Observations) -> list[Cell]:
    """The students of one budget."""
    _, member = np.unique(rows.params, return_inverse=True)
    found = []
    for index in (np.flatnonzero(member == cell) for cell in range(member.max() + 1)):
        block, tokens = rows.seed[index], float(np.median(rows.tokens[index]))
        _, which, size = np.unique(block, return_inverse=True, return_counts=True)
        if (size[which.reshape(-1)] == 1).mean() > 0.5:  # a seed of its own for every run: no level is shared
            block = np.zeros(len(index), dtype=np.int64)
        of_runs = {"t": np.log(rows.teacher_params[index]), "loss": rows.loss[index], "block": block}
        found.append(Cell(params=float(rows.params[index[0]]), tokens=tokens, **of_runs))
    return found


def _likelihoods(profiles: Profiles) -> Array:
    """Of t* for each cell and skew, (cells, K, G), relative to the cell's best.

    A noise from few degrees of freedom is widened towards what 90 % of Student's t would cover.
    """
    log = -profiles.squares / (2 * profiles.noise**2 * _widening(profiles.dof))
    return np.exp(np.maximum(log - log.max(axis=(1, 2), keepdims=True), -200.0))


def _widening(dof: float) -> float:
    """(t quantile / normal quantile)^2 at 95 %, by two terms of Abramowitz and Stegun 26.7.5.

    From 3 degrees of freedom on within 2 % of the quantile; below too small (at 1 it is 4.6 for 6.3).
    """
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    t = z + (z**3 + z) / (4 * dof) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)
    return float((t / z) ** 2)


def _skew_weights(likelihood: Array) -> Array:
    """Probability of each k from all cells at their best."""
    log = np.log(likelihood.max(axis=-1)).sum(axis=0)
    weight = np.exp(log - log.max())
    return weight / weight.sum()


def _describe(profiles: Profiles, likelihood: Array, i: int, cell: Cell) -> dict[str, Any]:
    """The optimum of one student in words and numbers, as `fit --json` has it."""
    weights, grid = _skew_weights(likelihood), profiles.grid
    p = weights @ (likelihood[i] / likelihood[i].max(axis=-1, keepdims=True))
    top = int(p.argmax())
    limit = p[top] * np.exp(-0.5 * NormalDist().inv_cdf(0.5 + LEVEL / 2) ** 2)
    inside = grid[p >= limit]
    low, high = float(inside[0]) - STEP / 2, float(inside[-1]) + STEP / 2
    ends = cell.t.min(), cell.t.max()
    above, below = low > ends[0], high < ends[1]
    status = "bracketed" if above and below else "at least" if above else "at most" if below else "unknown"
    k = int(weights.argmax())
    rise = profiles.depth[i, k, top] * shape(grid - grid[top], float(profiles.skews[k]))
    above_bottom = _above_bottom(cell, profiles.weights[i], np.interp(cell.t, grid, rise))
    depths: list[float | None] = [None, None]
    if status == "bracketed":
        known = [values[np.isfinite(values)] for values in (above_bottom[cell.t == end] for end in ends)]
        depths = [float(values.mean()) if len(values) else None for values in known]
    means = [cell.loss[cell.t == t].mean() for t in np.unique(cell.t)]
    tried = (grid >= ends[0]) & (grid <= ends[1])
    return {
        "student_params": cell.params,
        "student_tokens": cell.tokens,
        "status": status,
        "best_teacher_params": float(np.exp(grid[top])) if status == "bracketed" else None,
        "interval": [float(np.exp(low)) if above else None, float(np.exp(high)) if below else None],
        "lowest_loss": float(min(means)),
        "depth_below": depths[0],
        "depth_above": depths[1],
        "within_noise": _flat(grid, rise <= profiles.noise, tried),
        "within_half_per_cent": _flat(grid, rise <= WITHIN * min(means), tried),
        "num_teachers": len(means),
        "num_runs": len(cell.t),
        "problem": {
            "at least": f"the best teacher is at least {format_count(float(np.exp(low)))}, try larger ones",
            "at most": f"the best teacher is at most {format_count(float(np.exp(high)))}, try smaller ones",
            "unknown": "no bottom stands out of the noise",
        }.get(status, ""),
    }


def _above_bottom(cell: Cell, weight: Array, rise: Array) -> Array:
    """Each run's own loss above the fitted bottom of its seed, (n,): the U itself holds in its window alone.

    NaN where none of the seed's runs lies there.
    """
    found = np.full(len(cell.t), np.nan)
    for block in np.unique(cell.block):
        member = cell.block == block
        if (share := weight[member]).sum() > 0:
            found[member] = cell.loss[member] - np.average((cell.loss - rise)[member], weights=share)
    return found


def _flat(grid: Array, flat: NDArray[np.bool_], tried: NDArray[np.bool_]) -> list[float | None]:
    """Teacher sizes between which the curve is flat; None where it still is at the last teacher."""
    inside = grid[flat & tried]
    if not len(inside):
        return [None, None]
    low, high = inside[0] > grid[tried][0], inside[-1] < grid[tried][-1]
    return [float(np.exp(inside[0])) if low else None, float(np.exp(inside[-1])) if high else None]


def _problems(optima: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with which students, each problem once."""
    students: dict[str, list[str]] = {}
    for each in optima:
        students.setdefault(each["problem"], []).append(format_count(each["student_params"]))
    return "; ".join(f"{', '.join(sizes)}: {problem}" for problem, sizes in students.items() if problem)


def _few(cell: Cell) -> dict[str, Any]:
    count = len(np.unique(cell.t))
    empty = ("best_teacher_params", "depth_below", "depth_above")
    return {
        "student_params": cell.params,
        "student_tokens": cell.tokens,
        "status": "unknown",
        **dict.fromkeys(empty),
        **{name: [None, None] for name in ("interval", "within_noise", "within_half_per_cent")},
        "lowest_loss": float(cell.loss.min()),
        "num_teachers": count,
        "num_runs": len(cell.t),
        "problem": f"{count} teacher sizes, at least 3 needed",
    }


def _posterior(sizes: Sequence[float], profiles: Profiles) -> _Posterior:
    """Over (ends of the line, skew, scatter) and over (ratio, skew, scatter), on grids."""
    S, grid, likelihood = np.array(sizes), profiles.grid, _likelihoods(profiles)
    weights = _skew_weights(likelihood)
    kept = weights > 1e-2 * weights.max()
    apart = (grid[:, None] - grid) ** 2
    blurred = []
    for scatter in SCATTERS:
        kernel = np.exp(np.maximum(-apart / (2 * scatter**2), -200.0))
        blurred.append(likelihood[:, kept] @ (kernel / kernel.sum(axis=1)).T)
    log = np.log(np.maximum(np.stack(blurred, axis=1), 1e-80))  # (cells, scatters, K, G)
    log = np.ascontiguousarray(np.moveaxis(log.reshape(len(S), -1, len(grid)), 1, 2))
    width = np.gradient(SCATTERS) * np.exp(-(SCATTERS**2) / (2 * _SCATTER**2))
    prior = np.repeat(np.log(width), int(kept.sum()))

    def posterior(at: Array) -> Array:
        """Log posterior (..., scatters x K) of optima at ln T `at` (..., cells)."""
        total = np.broadcast_to(prior, (*at.shape[:-1], len(prior))).copy()
        x = np.clip((at - grid[0]) / STEP, 0.0, len(grid) - 1.001)
        j = x.astype(int)
        share = (x - j)[..., None]
        for i in range(len(S)):
            row, s = log[i], share[..., i, :]
            total += row[j[..., i]] * (1 - s) + row[j[..., i] + 1] * s
        return total

    along = (S - S.min()) / (S.max() - S.min())

    def lattice(low: Array, high: Array) -> tuple[Array, Array, Array]:
        """Both ends of the line and the log posterior there."""
        u, v = np.meshgrid(*(np.linspace(*ends, _POINTS) for ends in zip(low, high, strict=True)), indexing="ij")
        return u, v, posterior(np.log(np.exp(u)[..., None] * (1 - along) + np.exp(v)[..., None] * along))

    u, v, value = lattice(np.full(2, grid[0]), np.full(2, grid[-1]))
    for _ in range(_ROUNDS - 1):
        top = value.max(axis=-1)
        near = top > top.max() - _MASS
        step = np.array([u[1, 0] - u[0, 0], v[0, 1] - v[0, 0]])
        ends = np.array([u[near], v[near]])
        u, v, value = lattice(ends.min(axis=1) - step, ends.max(axis=1) + step)
    share = np.exp(np.maximum(value - value.max(), -200.0))
    scatter = share.sum(axis=(0, 1)).reshape(len(SCATTERS), -1).sum(axis=1)
    weight = share.sum(axis=-1)
    ratios = np.arange(grid[0] - np.log(S.max()), grid[-1] - np.log(S.min()), STEP / 4)
    own = posterior(ratios[:, None] + np.log(S))
    ratio_weight = np.exp(np.maximum(own - own.max(), -200.0)).sum(axis=-1)
    return _Posterior(
        smallest=float(S.min()),
        largest=float(S.max()),
        ends=(u, v),
        weight=weight / weight.sum(),
        log_ratio=ratios,
        ratio_weight=ratio_weight / ratio_weight.sum(),
        scatter=float(scatter @ SCATTERS / scatter.sum()),
    )


def _miss(optimum: Mapping[str, Any], posterior: _Posterior) -> float:
    """ln of the line over the optimum."""
    return float(np.log(posterior.teacher(optimum["student_params"]) / optimum["best_teacher_params"]))


def _r_squared(bracketed: Sequence[Mapping[str, Any]], posterior: _Posterior) -> float:
    """Of ln T about the line; over a decade of sizes it is high almost whatever the scatter."""
    found = np.log([each["best_teacher_params"] for each in bracketed])
    misses = np.array([_miss(each, posterior) for each in bracketed])
    return float(1 - (misses**2).sum() / max(((found - found.mean()) ** 2).sum(), 1e-30))


def _quantiles(value: Array, weight: Array, at: Sequence[float]) -> list[float]:
    order = np.argsort(value, axis=None)
    total = np.cumsum(weight.ravel()[order]) - weight.ravel()[order] / 2
    return [float(q) for q in np.interp(at, total, value.ravel()[order])]
