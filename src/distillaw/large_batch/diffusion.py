"""How far weights wander: ||w_t - w_0|| against log t, and against a power of t.

    a + b ln t        ultra-slow diffusion (Hoffer et al. 2017, arXiv 1705.08741: seen for every batch size)
    c t^p             ordinary (p = 1/2) or anomalous diffusion

The law is for the initial phase at a high, constant rate; a log curve alone is no proof of a random landscape
(separable logistic regression has one too). Both are least squares in distance, so that their R^2 compare; points of
one curve are correlated, so standard errors are those of the scatter about the line only, and too small.

The logarithm is what a random potential of exponent alpha = 2 gives (E[(L(w1) - L(w2))^2] ~ ||w1 - w2||^alpha, so that
||w_t - w_0|| ~ (log t)^(2/alpha)). `fit_alpha` is the paper's own test of that exponent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.errors import ConfigError, DataError

FEWEST_POINTS = 5
"""Different steps of a fit: three degrees of freedom for the scatter about a curve of two parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionFit:
    """Both curves on the points of one window of steps."""

    a: float
    b: float
    """Slope per unit of ln t."""
    b_se: float
    log_r2: float
    c: float
    p: float
    p_se: float
    power_r2: float
    """R^2 in distance, as `log_r2`."""
    points: int
    first_step: int
    last_step: int

    def line(self, t: np.ndarray | float) -> np.ndarray:
        """Distances a + b ln t, of the shape of `t`."""
        return self.a + self.b * np.log(t)

    def power(self, t: np.ndarray | float) -> np.ndarray:
        """Distances c t^p, of the shape of `t`."""
        return self.c * np.power(t, self.p)

    @property
    def better(self) -> str:
        """`log` or `power`: the smaller sum of squares; both have two parameters."""
        return "log" if self.log_r2 >= self.power_r2 else "power"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaFit:
    """Exponent of a random potential from losses at random distances of one point."""

    alpha: float
    """Twice the slope of ln std against ln distance."""
    interval: tuple[float, float]
    """95 %, bootstrap over the steps."""
    bins: tuple[tuple[float, float, float, int], ...]
    """(root mean square distance, standard deviation of the loss difference, its mean, steps) of each bin."""


DRAWS = 1000
"""Of the bootstrap: ends of a 95 % interval are then good to a twentieth of its width."""
FEWEST_STEPS = 8
"""Of a bin: below, the logarithm of a standard deviation has an error above a quarter."""


def fit_alpha(distances: np.ndarray, differences: np.ndarray, *, bins: int = 10) -> AlphaFit:
    """The exponent alpha of std(L(w_0 + z v) - L(w_0)) ~ z^(alpha/2), from bins of equal width in z.

    Args:
        distances: z > 0 of each step, shape (N,).
        differences: loss there less loss at the start, nats, shape (N,).
        bins: how many; those of fewer than `FEWEST_STEPS` steps are left out.

    Raises:
        DataError: lists of different length, fewer than three bins left, losses that are not finite or do not differ.
    """
    if distances.shape != differences.shape or not np.isfinite(differences).all():
        raise DataError(f"{len(distances)} distances, {len(differences)} differences: one each, all finite")
    index = np.minimum((distances / distances.max() * bins).astype(int), bins - 1)
    kept = [i for i in range(bins) if (index == i).sum() >= FEWEST_STEPS]
    if len(kept) < 3:
        raise DataError(f"{len(distances)} steps leave {len(kept)} bins of {FEWEST_STEPS}: a slope needs three")
    groups = [np.flatnonzero(index == i) for i in kept]
    rows = [
        (
            float(np.sqrt((distances[group] ** 2).mean())),
            float(differences[group].std(ddof=1)),
            float(differences[group].mean()),
            len(group),
        )
        for group in groups
    ]
    if min(row[1] for row in rows) == 0:
        raise DataError("losses of a bin are all the same: the model does not see its weights move")
    random = np.random.default_rng(0)
    spreads = [differences[random.choice(group, (DRAWS, len(group)))].std(1, ddof=1) for group in groups]
    low, high = np.quantile(_alpha(rows, np.array(spreads)), [0.025, 0.975])
    (alpha,) = _alpha(rows, np.array([[row[1]] for row in rows]))
    return AlphaFit(alpha=float(alpha), interval=(float(low), float(high)), bins=tuple(rows))


def _alpha(rows: Sequence[tuple[float, float, float, int]], spreads_KD: np.ndarray) -> np.ndarray:
    """Twice the slope for each of D draws of K bins; the variance of ln std goes as one over the steps of its bin."""
    distance, _, _, count = np.array(rows).T
    return 2 * np.polyfit(np.log(distance), np.log(spreads_KD), 1, w=np.sqrt(count))[0]


def log_steps(last: int, *, per_decade: int = 16) -> list[int]:
    """Steps 1 .. last, about so many per decade, each once; the last is among them.

    Raises:
        ConfigError: a count below one.
    """
    if last < 1 or per_decade < 1:
        raise ConfigError(f"{per_decade} points per decade up to step {last}: both must be at least 1")
    points = math.ceil(per_decade * math.log10(last)) + 1
    grid = {min(last, round(10 ** (i / per_decade))) for i in range(points)}
    return sorted(grid | {last})


def fit_diffusion(
    steps: Sequence[int], distances: Sequence[float], *, first: int = 1, last: int | None = None
) -> DiffusionFit:
    """Fit both curves within a window, which must be one phase of constant rate.

    Args:
        steps: t >= 1.
        distances: ||w_t - w_0|| at those steps.
        first: first step of the window: after warm-up.
        last: last step of it: before the rate falls; None: the last there is.

    Raises:
        DataError: lists of different length, fewer than `FEWEST_POINTS` different steps in the window, a distance that
            is not positive and finite.
    """
    if len(steps) != len(distances):
        raise DataError(f"{len(steps)} steps and {len(distances)} distances: one distance for each step")
    end = math.inf if last is None else last
    kept = [(t, d) for t, d in zip(steps, distances, strict=True) if max(1, first) <= t <= end]
    if len({t for t, _ in kept}) < FEWEST_POINTS:
        raise DataError(
            f"{len(kept)} points between steps {first} and {end:g}: a fit needs {FEWEST_POINTS} different steps"
        )
    t, d = (np.array(column, dtype=np.float64) for column in zip(*kept, strict=True))
    if not (np.isfinite(d) & (d > 0)).all():
        raise DataError("a distance in the window is zero or not finite: at step 1 or later weights have moved")
    line = np.stack([np.ones_like(t), np.log(t)], axis=1)
    (a, b), log_rss, log_se = _linear(line, d)
    c, p, p_se, power_rss = _power(t, d)
    total = float(((d - d.mean()) ** 2).sum())
    if total == 0:
        raise DataError("all distances in the window are equal: the weights do not move there")
    return DiffusionFit(
        a=a,
        b=b,
        b_se=log_se,
        log_r2=1 - log_rss / total,
        c=c,
        p=p,
        p_se=p_se,
        power_r2=1 - power_rss / total,
        points=len(t),
        first_step=int(t.min()),
        last_step=int(t.max()),
    )


def _linear(design: np.ndarray, d: np.ndarray) -> tuple[tuple[float, float], float, float]:
    """((intercept, slope), sum of squares, standard error of the slope)."""
    solution = np.linalg.lstsq(design, d, rcond=None)[0]
    rss = float(((d - design @ solution) ** 2).sum())
    return (float(solution[0]), float(solution[1])), rss, _error(design, rss)


def _power(t: np.ndarray, d: np.ndarray) -> tuple[float, float, float, float]:
    """(c, p, standard error of p, sum of squares in distance), from the start that the logarithms give.

    The curve is scaled at the geometric mean step, where c and p are nearly uncorrelated.
    """
    from scipy.optimize import least_squares  # half a second, which training would spend for nothing

    middle = np.exp(np.log(t).mean())
    (start, slope), _, _ = _linear(np.stack([np.ones_like(t), np.log(t / middle)], axis=1), np.log(d))
    solved = least_squares(
        lambda x: np.exp(x[0] + x[1] * np.log(t / middle)) - d, x0=(start, slope), method="lm", xtol=1e-14, ftol=1e-14
    )
    rss = float((solved.fun**2).sum())
    log_c = solved.x[0] - solved.x[1] * math.log(middle)
    return math.exp(log_c), float(solved.x[1]), _error(solved.jac, rss), rss


def _error(jacobian: np.ndarray, rss: float) -> float:
    """Standard error of the second parameter."""
    points = len(jacobian)
    return math.sqrt(rss / (points - 2) * np.linalg.inv(jacobian.T @ jacobian)[1, 1])
