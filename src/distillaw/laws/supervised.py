"""The supervised law L(N, D): free outer exponent, with the Chinchilla form as gamma = 1.

Busbridge et al. 2025, arXiv:2502.08606v2, Eq. 1 and Hoffmann et al. 2022, arXiv:2203.15556, Eq. 2.
E = 0 and beta = 1 is the form of Kaplan et al. 2020, arXiv:2001.08361, Eq. 1.5. Evaluated in log space only,
inverted in closed form. Repeated data is `laws/repetition.py`; coefficients live in `laws/published.py`.

    python -c "import distillaw as dl; print(dl.published('busbridge2025').supervised(params=1e9, tokens=2e10))"
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.laws.base import Array, Box, log_or_unlimited, log_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The best split of a compute budget between size and tokens."""

    params: Array
    tokens: Array
    loss: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedLaw:
    """Cross-entropy of a model trained on data, in nats per token.

        L(N, D) = E + ( A / N^alpha + B / D^beta )^gamma

    gamma = 1 is the Hoffmann ("Chinchilla") form; E = 0, beta = 1 the Kaplan form.

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
        reducible = self.log_reducible(log_params, log_tokens)
        return np.logaddexp(np.log(self.E), reducible) if self.E else reducible

    def log_reducible(self, log_params: Array, log_tokens: Array) -> Array:
        """Ln (L - E) from ln N and ln D."""
        return self.gamma * np.logaddexp(*self._log_parts(log_params, log_tokens))

    def log_slopes(self, log_params: Array, log_tokens: Array) -> tuple[Array, Array]:
        """Derivatives of ln L by ln N and by ln D, from ln N and ln D, unchecked."""
        size, data = self._log_parts(log_params, log_tokens)
        inner = np.logaddexp(size, data)
        share = self.gamma * np.exp(self.gamma * inner - self.log_loss(log_params, log_tokens) - inner)
        return -self.alpha * share * np.exp(size), -self.beta * share * np.exp(data)

    def _log_parts(self, n: Array, d: Array) -> tuple[Array, Array]:
        return np.log(self.A) - self.alpha * n, np.log(self.B) - self.beta * d

    def data_share(self, *, params: ArrayLike, tokens: ArrayLike) -> Array:
        """Share of the data term B/D^beta in the inner sum; near 0 the tokens do not inform the answer."""
        size, data = self._log_parts(log_positive("params", params), log_positive("tokens", tokens))
        return np.exp(data - np.logaddexp(size, data))

    def gradient(self, *, params: ArrayLike, tokens: ArrayLike) -> dict[str, Array]:
        """Partial derivatives of L: by `params`, by `tokens`, and by each coefficient."""
        n, d = log_positive("params", params), log_positive("tokens", tokens)
        size, data = self._log_parts(n, d)
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

    def limit(self, *, params: ArrayLike | None = None, tokens: ArrayLike | None = None) -> Array:
        """The loss where what is not given is unlimited: E of nothing, E + (A/N^alpha)^gamma of a size alone.

        Args:
            params: N; None for a model of any size.
            tokens: D; None for any number of tokens.
        """
        n, d = log_or_unlimited("params", params), log_or_unlimited("tokens", tokens)
        return self.E + np.exp(self.log_reducible(n, d))

    def tokens_for_loss(self, *, params: ArrayLike, loss: ArrayLike) -> Array:
        """D at which ordinary training reaches a loss; inf where the size alone keeps it above.

            D = [ B / ( (L - E)^(1/gamma) - A / N^alpha ) ]^(1/beta)

        Args:
            params: N, > 0.
            loss: L to reach, nats per token.
        """
        size, _ = self._log_parts(log_positive("params", params), np.asarray(0.0))
        return self._other_term(loss, size, self.B, self.beta)

    def params_for_loss(self, *, tokens: ArrayLike, loss: ArrayLike) -> Array:
        """N at which a model trained on D tokens reaches a loss; inf where the data alone keep it above."""
        _, data = self._log_parts(np.asarray(0.0), log_positive("tokens", tokens))
        return self._other_term(loss, data, self.A, self.alpha)

    def _other_term(self, loss: ArrayLike, log_known: Array, coefficient: float, exponent: float) -> Array:
        """The argument of one power, given the loss and the logarithm of the other power."""
        gap = np.exp(log_positive("loss", loss)) - self.E
        rest = np.where(gap > 0, np.abs(gap) ** (1 / self.gamma), 0.0) - np.exp(log_known)
        reachable = rest > 0
        return np.where(reachable, (coefficient / np.where(reachable, rest, 1.0)) ** (1 / exponent), np.inf)

    def compute_optimal(self, *, compute: ArrayLike, flop_per_param_token: float = 6.0) -> Allocation:
        """N*, D* and the loss at a budget, under C = 6 N D.

            N* = G (C/6)^(beta/(alpha+beta)),  G = (alpha A / (beta B))^(1/(alpha+beta))   (gamma does not enter)

        Args:
            compute: C, FLOP.
            flop_per_param_token: 6 for training; the approximation leaves out attention and the head.
        """
        c = log_positive("compute", compute) - np.log(flop_per_param_token)
        n = self._log_balance + self.beta * c / (self.alpha + self.beta)
        return Allocation(params=np.exp(n), tokens=np.exp(c - n), loss=np.exp(self.log_loss(n, c - n)))

    def params_for_tokens(self, *, tokens: ArrayLike) -> Array:
        """N for which D tokens are the compute-optimal number, under C = 6 N D."""
        d = log_positive("tokens", tokens)
        return np.exp((self._log_balance * (self.alpha + self.beta) + self.beta * d) / self.alpha)

    @property
    def _log_balance(self) -> float:
        """Ln G of `compute_optimal`."""
        ratio = np.log(self.alpha * self.A) - np.log(self.beta * self.B)
        return float(ratio / (self.alpha + self.beta))

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
