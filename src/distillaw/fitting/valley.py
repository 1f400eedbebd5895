"""How a step of the solver is bent so that it follows the valley of the supervised law.

No derivatives and no damping here; `newton.py` and `single.py` decide the step, the model bends it.
"""

from math import exp, log1p

import numpy as np

from distillaw.laws.base import Array


def along_valley(theta: Array, step: Array) -> Array:
    """The step bent so that what the runs fix stays fixed; equal to `step` to first order.

    The objective of the power-mean law has a curved valley: E can fall if S rises. A straight step leaves it
    and is refused. Along this one the loss at the centre, e^e + e^s0, and its slopes, (share of S) p and
    (share of S) q, move by their first-order change exactly. A Newton step that is bent in this way converges
    as fast at the end, and from far it takes a third of the evaluations. Held parameters (step 0) stay.

    Args:
        theta: (R, 6), SUPERVISED.
        step: (R, 6).
    """
    e, s0 = theta[:, 0], theta[:, 1]
    move = step[:, 1] - step[:, 0]
    P = 1 / (1 + np.exp(e - s0))
    centre = np.logaddexp(e, s0) + step[:, 0] + P * move
    odds = np.clip(s0 - e + move, -30.0, 30.0)
    bent = step.copy()
    bent[:, 0] = centre - np.logaddexp(0.0, odds) - e
    bent[:, 1] = bent[:, 0] + e + odds - s0
    ratio = np.clip(P * (1 + np.exp(-odds)), 0.25, 4.0)[:, None]
    slopes = theta[:, 3:5]
    bent[:, 3:5] = ratio * (step[:, 3:5] + slopes * (1 + (1 - P) * move)[:, None]) - slopes
    held = step == 0
    held[:, :2] = held[:, :1] | held[:, 1:2]  # e and s0 bend together or not at all
    held[:, 3:5] |= held[:, :1]
    return np.where(held, step, bent)


def along_valley_one(theta: Array, step: Array) -> Array:
    """`along_valley` for one vector."""
    e, s0, _, p, q, _ = theta.tolist()
    de, ds, dlw, dp, dq, dle = step.tolist()
    if de == 0.0 or ds == 0.0:
        return step
    move = ds - de
    P = 1 / (1 + exp(min(e - s0, 700.0)))
    odds = min(max(s0 - e + move, -30.0), 30.0)
    e_new = max(e, s0) + log1p(exp(-abs(e - s0))) + de + P * move - max(odds, 0.0) - log1p(exp(-abs(odds)))
    ratio, stretch = min(max(P * (1 + exp(-odds)), 0.25), 4.0), 1 + (1 - P) * move
    return np.array([
        e_new - e, e_new + odds - s0, dlw,
        ratio * (dp + p * stretch) - p if dp else 0.0, ratio * (dq + q * stretch) - q if dq else 0.0, dle,
    ])  # fmt: skip
