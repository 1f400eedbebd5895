"""Bounds that hold at every look: a belief's mean and standard deviations, at levels that the looks share.

One looks after every stage. The i-th look may fail with probability alpha w_i, and the w_i sum to one over any number
of looks, so the chance that any bound ever fails is at most alpha, whenever one stops:

    w_1 .. w_4 = 1/5 each (the rungs of a budget), then 1/10, 1/20, ... (a budget that is raised)

At four looks this is sharper than bounds for looking all the time: 2.05 standard deviations instead of about 3 for a
prior-posterior ratio (Waudby-Smith and Ramdas, arXiv:2006.04347) at alpha = 0.1.
"""

from statistics import NormalDist

PLANNED = 4
"""Looks that share most of the errors allowed."""


def look_alpha(alpha: float, look: int) -> float:
    """The chance of error that a look has, counted from 1.

    Args:
        alpha: of all looks together.
        look: which one.
    """
    share = 1 / (PLANNED + 1)
    return alpha * (share if look <= PLANNED else share * 0.5 ** (look - PLANNED))


def quantile(alpha: float) -> float:
    """Standard deviations that a Gaussian exceeds with this chance, on one side."""
    return NormalDist().inv_cdf(1 - alpha)
