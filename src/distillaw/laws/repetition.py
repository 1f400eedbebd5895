"""Repeated data: how many fresh tokens a token seen again is worth, and the same for excess parameters.

Muennighoff et al. 2023, arXiv:2305.16264, Eqs. 5-6. The constants decay the value of repeats; they are
weakly identified on the public runs (spec fitting.md section 11.4), so treat them as a correction with a
wide interval, and refit them where you can.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from distillaw.errors import DataError
from distillaw.laws.base import Array, log_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class RepetitionCorrection:
    """Effective tokens of a run that repeats its data.

        D' = U + U R* (1 - e^(-R / R*)),    R = D / U - 1 repeats beyond the first pass

    Example:
        >>> correct = RepetitionCorrection(repeat_scale=15.39)
        >>> round(float(correct.effective_tokens(tokens=4e9, unique_tokens=1e9)) / 1e9, 3)
        3.725
    """

    repeat_scale: float
    """R*_D: repeats after which 63 % of the value of repeating is used up."""
    excess_scale: float | None = None
    """R*_N: the same for parameters beyond the compute-optimal size for the unique tokens."""

    def effective_tokens(self, *, tokens: ArrayLike, unique_tokens: ArrayLike) -> Array:
        """D', the fresh tokens that D tokens over U unique ones are worth; D where D <= U.

        Args:
            tokens: D, tokens trained on, > 0.
            unique_tokens: U, distinct tokens, > 0.
        """
        D = np.exp(log_positive("tokens", tokens))
        U = np.minimum(np.exp(log_positive("unique_tokens", unique_tokens)), D)
        repeats = D / U - 1
        return U - U * self.repeat_scale * np.expm1(-repeats / self.repeat_scale)

    def effective_params(self, *, params: ArrayLike, optimal_params: ArrayLike) -> Array:
        """N', the parameters that N are worth when only `optimal_params` suit the unique tokens."""
        if self.excess_scale is None:
            raise DataError("this correction has no constant for excess parameters (excess_scale)")
        N = np.exp(log_positive("params", params))
        U = np.minimum(np.exp(log_positive("optimal_params", optimal_params)), N)
        return U - U * self.excess_scale * np.expm1(-(N / U - 1) / self.excess_scale)
