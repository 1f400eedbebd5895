"""How far a study's rates may lie from the best ones, from what laws/rates.py says of its own errors."""

import math

from distillaw.laws.rates import BOTH, CAUTION, FORM, LATTICE, SIZE

SHRUNK = 0.5 * FORM**2 / (FORM**2 + LATTICE**2)
"""Octaves by which the lowest point of a noiseless parabola is drawn to the lattice, at most: half a step times
1 - 1 / (1 + FORM^2 / LATTICE^2)."""


def octaves_off(sizes: float = 0.0, tokens: float = 0.0) -> float:
    """Octaves between the rate that is set and the best one, in a world where the best rate depends on tokens alone.

    Args:
        sizes: doublings of size from the one that was searched.
        tokens: doublings of tokens from the search's budget.
    """
    mean = abs(SIZE[0] * sizes + BOTH[0] * sizes * tokens)
    sd = math.hypot(SIZE[1] * sizes, BOTH[1] * sizes * tokens, FORM)
    return SHRUNK + mean + CAUTION * sd
