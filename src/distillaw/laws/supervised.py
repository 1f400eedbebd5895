"""The supervised law L(N, D): free outer exponent, with the Chinchilla form as gamma = 1.

Busbridge et al. 2025, arXiv:2502.08606v2, Eq. 1 and Hoffmann et al. 2022, arXiv:2203.15556, Eq. 2.
Evaluated in log space only. Repeated data is `laws/repetition.py`; inversion and compute-optimal
allocation are `laws/optimum.py`; coefficients live in `laws/published.py`.

    python -c "import distillaw as dl; print(dl.published('busbridge2025').supervised(params=1e9, tokens=2e10))"
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.laws.base import Array, Box, log_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedLaw:
    """Cross-entropy of a model trained on data, in nats per token.

        L(N, D) = E + ( A / N^alpha + B / D^beta )^gamma

    gamma = 1 is the Hoffmann ("Chinchilla") form.

    Example:
        >>> law = SupervisedLaw(E=1.220, A=3355, B=18186, alpha=0.408, beta=0.431, gamma=0.452)
        >>> round(float(law.supervised(params=0.546e9, tokens=20 * 0.546e9)), 3)
        2.515
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    gamma: float = 1.0
    range: Box = field(default_factory=Box)
    """Where it was fitted, in `params`, `tokens` and derived coordinates."""

    def supervised(self, *, params: ArrayLike, tokens: ArrayLike) -> Array:
        """L(N, D), nats per token; arguments broadcast.

        Args:
            params: N, parameters in the convention of the fit (non-embedding unless stated), > 0.
            tokens: D, training tokens, > 0.

        Raises:
            DataError: an argument is not positive or not finite (names the first offending entry).
        """
        return np.exp(self.log_loss(log_positive("params", params), log_positive("tokens", tokens)))

    __call__ = supervised

    def log_loss(self, log_params: Array, log_tokens: Array) -> Array:
        """Ln L from ln N and ln D, unchecked: the inner loop of searches and of the other laws."""
        return np.logaddexp(np.log(self.E), self.log_reducible(log_params, log_tokens))

    def log_reducible(self, log_params: Array, log_tokens: Array) -> Array:
        """Ln (L - E) from ln N and ln D."""
        return self.gamma * np.logaddexp(
            np.log(self.A) - self.alpha * log_params, np.log(self.B) - self.beta * log_tokens
        )

    def data_share(self, *, params: ArrayLike, tokens: ArrayLike) -> Array:
        """Share of the data term B/D^beta in the inner sum; near 0 the tokens do not inform the answer."""
        size = np.log(self.A) - self.alpha * log_positive("params", params)
        data = np.log(self.B) - self.beta * log_positive("tokens", tokens)
        return np.exp(data - np.logaddexp(size, data))

    def gradient(self, *, params: ArrayLike, tokens: ArrayLike) -> dict[str, Array]:
        """Partial derivatives of L: by `params`, by `tokens`, and by each coefficient."""
        n, d = log_positive("params", params), log_positive("tokens", tokens)
        size, data = np.log(self.A) - self.alpha * n, np.log(self.B) - self.beta * d
        inner = np.logaddexp(size, data)
        S = np.exp(self.gamma * inner)
        by_size = self.gamma * S * np.exp(size - inner)  # dL / d(size)
        by_data = self.gamma * S * np.exp(data - inner)
        return {
            "params": -self.alpha * by_size * np.exp(-n),
            "tokens": -self.beta * by_data * np.exp(-d),
            "E": np.ones_like(S),
            "A": by_size / self.A,
            "B": by_data / self.B,
            "alpha": -n * by_size,
            "beta": -d * by_data,
            "gamma": inner * S,
        }

    def inside(self, *, params: ArrayLike, tokens: ArrayLike) -> NDArray[np.bool_]:
        """True where the point lies in the fitted range."""
        return self.range.inside({"params": params, "tokens": tokens})

    @property
    def coefficients(self) -> dict[str, float]:
        """E A B alpha beta gamma."""
        return {
            "E": self.E,
            "A": self.A,
            "B": self.B,
            "alpha": self.alpha,
            "beta": self.beta,
            "gamma": self.gamma,
        }

    @property
    def derived(self) -> dict[str, float]:
        """What data pins down better than the coefficients: slopes p, q and the allocation exponents.

        p = gamma alpha, q = gamma beta; under C = 6 N D the optimum goes as N* ~ C^a with
        a = beta / (alpha + beta), D* ~ C^b with b = 1 - a (gamma does not enter).
        """
        a = self.beta / (self.alpha + self.beta)
        return {"p": self.gamma * self.alpha, "q": self.gamma * self.beta, "a": a, "b": 1 - a}
