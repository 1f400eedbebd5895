"""Start points: variable projection for the supervised laws, scaled random points for the rest.

Given (alpha, beta) the Chinchilla form is linear in E, A', B'; a grid of exponents with a small non-negative
least-squares problem at each is a global search that costs a few matrix products (spec fitting.md section
4.1). Ranges of the random points are those of section 4.3.
"""

import numpy as np

from distillaw.laws.base import Array

_GRID = np.exp(np.linspace(np.log(0.05), np.log(1.2), 24))


def variable_projection(n: Array, d: Array, y: Array, weights: Array) -> Array:
    """The best Chinchilla point on a 24 x 24 grid of exponents, as SUPERVISED parameters (eta = 1).

    Args:
        n: centred ln N, shape (n,).
        d: centred ln D, shape (n,).
        y: ln of the losses.
        weights: weights of the rows, shape (n,).
    """
    w = np.sqrt(weights) * np.exp(-y)  # residuals relative to the loss
    size, data = np.exp(-np.outer(_GRID, n)) * w, np.exp(-np.outer(_GRID, d)) * w
    target = w * np.exp(y)
    ss, dd, sd = (size * size).sum(1), (data * data).sum(1), size @ data.T
    s1, d1, one = size @ w, data @ w, w @ w
    st, dt, t1 = size @ target, data @ target, w @ target
    G, K = np.meshgrid(np.arange(24), np.arange(24), indexing="ij")
    normal = np.empty((24, 24, 3, 3))
    normal[..., 0, 0] = one
    normal[..., 0, 1] = normal[..., 1, 0] = s1[G]
    normal[..., 0, 2] = normal[..., 2, 0] = d1[K]
    normal[..., 1, 1], normal[..., 2, 2] = ss[G], dd[K]
    normal[..., 1, 2] = normal[..., 2, 1] = sd
    right = np.stack([np.full((24, 24), t1), st[G], dt[K]], axis=-1)
    normal += 1e-10 * np.einsum("...ii->...i", normal)[..., :, None] * np.eye(3)
    solution = np.linalg.solve(normal, right[..., None])[..., 0]
    gain = np.where((solution > 0).all(axis=-1), (solution * right).sum(axis=-1), -np.inf)
    i, j = np.unravel_index(int(np.argmax(gain)), gain.shape)
    if not np.isfinite(gain[i, j]):
        return np.array([np.min(y) - 0.5, np.mean(y) - 1.0, 0.0, 0.3, 0.3, 0.0])
    E, A, B = solution[i, j]
    return np.array([np.log(E), np.log(A + B), np.log(A / B), _GRID[i], _GRID[j], 0.0])


def random_supervised(rng: np.random.Generator, y: Array, count: int) -> Array:
    """Scaled random SUPERVISED parameters."""
    theta = np.empty((count, 6))
    theta[:, 0] = np.min(y) + np.log(rng.uniform(0.1, 0.95, count))
    theta[:, 1] = np.mean(y) + np.log(rng.uniform(0.05, 0.8, count))
    theta[:, 2] = rng.normal(size=count)
    theta[:, 3:5] = rng.uniform(0.03, 0.6, (count, 2))
    theta[:, 5] = rng.uniform(-1.2, 1.5, count)
    return theta


def random_student(rng: np.random.Generator, form: str, count: int) -> Array:
    """Scaled random STUDENT parameters; those that the form does not fit at their null values."""
    theta = np.empty((count, 9))
    theta[:, 0] = rng.uniform(-2, 3, count)
    theta[:, 1] = rng.normal(size=count)
    theta[:, 2] = rng.uniform(0.03, 0.6, count)
    theta[:, 3] = rng.uniform(0.03, 0.8, count)
    theta[:, 4] = rng.uniform(-1, 1, count)
    theta[:, 5] = rng.uniform(0, 4, count)
    theta[:, 6] = rng.uniform(-1, 2, count)
    theta[:, 7] = rng.uniform(-3.2, -0.5, count)
    theta[:, 8] = rng.uniform(0.0, 0.3, count)
    if form in ("reduced", "reduced-q"):
        theta[:, 1] = theta[:, 4] = 0.0
    if form == "reduced":
        theta[:, 3] = 0.0
    if form != "full":
        theta[:, 8] = 1e-4
    return theta
