"""Repeated data: how many fresh tokens a token seen again is worth, and the same for excess parameters.

Muennighoff et al. 2023, arXiv:2305.16264, Eqs. 5-6. The constants decay the value of repeats; they are
weakly identified on the public runs, so treat them as a correction with a wide interval, and refit them where you can.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import DataError
from distillaw.laws.base import Array, Box, Mask, log_positive
from distillaw.laws.search import LOG_TOKENS, last_true
from distillaw.laws.supervised import SupervisedLaw


@dataclass(frozen=True, slots=True, kw_only=True)
class RepetitionCorrection:
    """Effective tokens of a run that repeats its data.

        D' = U + U R* (1 - e^(-R / R*)),    R = D / U - 1 repeats beyond the first pass

    Limits: D' = D for one pass or less; U (1 + R*) however often the data are repeated.

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
        return _decayed(D, np.exp(log_positive("unique_tokens", unique_tokens)), self.repeat_scale)

    def effective_params(self, *, params: ArrayLike, optimal_params: ArrayLike) -> Array:
        """N', the parameters that N are worth when only `optimal_params` suit the unique tokens."""
        if self.excess_scale is None:
            raise DataError("this correction has no constant for excess parameters (excess_scale)")
        N = np.exp(log_positive("params", params))
        return _decayed(N, np.exp(log_positive("optimal_params", optimal_params)), self.excess_scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedDataLaw:
    """Cross-entropy of a model trained on U unique tokens seen more than once, in nats per token.

        L(N, D, U) = E + ( A / N'^alpha + B / D'^beta )^gamma

    D' as in `RepetitionCorrection`; N' counts parameters beyond those that suit the U tokens
    (`SupervisedLaw.params_for_tokens`) the same way, or is N where the correction has no `excess_scale`.
    """

    supervised: SupervisedLaw
    correction: RepetitionCorrection

    def loss(self, *, params: ArrayLike, tokens: ArrayLike, unique_tokens: ArrayLike) -> Array:
        """L(N, D, U), nats per token; arguments broadcast.

        Args:
            params: N, > 0.
            tokens: D, tokens trained on, repeats included, > 0.
            unique_tokens: U, distinct tokens, > 0; as many as `tokens` or more is one pass.
        """
        D = self.correction.effective_tokens(tokens=tokens, unique_tokens=unique_tokens)
        N = self._effective_params(params, tokens, unique_tokens)
        return self.supervised(params=N, tokens=D)

    __call__ = loss

    def tokens_for_loss(self, *, params: ArrayLike, unique_tokens: ArrayLike, loss: ArrayLike) -> Array:
        """D, repeats included, at which a size reaches a loss; inf where no number of repeats does."""
        given = {"params": params, "unique_tokens": unique_tokens, "loss": loss}
        N, U, target = np.broadcast_arrays(*(np.exp(log_positive(k, value)) for k, value in given.items()))

        def above(d: Array) -> Mask:
            return self.loss(params=N, tokens=np.exp(d), unique_tokens=U) > target

        few, many = (np.full(target.shape, end) for end in LOG_TOKENS)
        return np.where(above(many), np.inf, np.exp(last_true(above, low=few, high=many)))

    def limit(self, *, params: ArrayLike, unique_tokens: ArrayLike) -> Array:
        """The loss of a size that repeats U tokens without end."""
        U = np.exp(log_positive("unique_tokens", unique_tokens))
        most = U * (1 + self.correction.repeat_scale)
        return self.supervised(params=self._effective_params(params, U, U), tokens=most)

    def inside(self, *, params: ArrayLike, tokens: ArrayLike) -> NDArray[np.bool_]:
        """True where size and tokens lie in the fitted range."""
        return self.range.inside({"params": params, "tokens": tokens})

    @property
    def range(self) -> Box:
        """Where it was fitted: the range of the supervised law."""
        return self.supervised.range

    @property
    def coefficients(self) -> dict[str, float]:
        """Those of the supervised law, then the scales of the correction."""
        excess = self.correction.excess_scale
        scales = {"repeat_scale": self.correction.repeat_scale}
        return self.supervised.coefficients | scales | ({} if excess is None else {"excess_scale": excess})

    def _suited_params(self, tokens: ArrayLike, unique_tokens: ArrayLike) -> Array:
        """The compute-optimal size for the unique tokens that a run sees."""
        seen = np.minimum(np.exp(log_positive("tokens", tokens)), np.exp(log_positive("unique_tokens", unique_tokens)))
        return self.supervised.params_for_tokens(tokens=seen)

    def _effective_params(self, params: ArrayLike, tokens: ArrayLike, unique_tokens: ArrayLike) -> Array:
        if self.correction.excess_scale is None:
            return np.exp(log_positive("params", params))
        most = self._suited_params(tokens, unique_tokens)
        return self.correction.effective_params(params=params, optimal_params=most)


def _decayed(total: Array, useful: Array, scale: float) -> Array:
    """U + U R* (1 - e^(-R/R*)) with R = total / U - 1, and U no more than the total."""
    U = np.minimum(useful, total)
    return U - U * scale * np.expm1(-(total / U - 1) / scale)
