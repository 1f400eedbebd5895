"""The supervised law L(N, D): free outer exponent, with the Chinchilla form as gamma = 1.

Busbridge et al. 2025, arXiv:2502.08606v2, Eq. 1 and Hoffmann et al. 2022, arXiv:2203.15556, Eq. 2.
E = 0 and beta = 1 is the form of Kaplan et al. 2020, arXiv:2001.08361, Eq. 1.5. Evaluated in `laws/equation.py`,
inverted in closed form. Repeated data is `laws/repetition.py`; coefficients live in `laws/published.py`.

    python -c "import distillaw as dl; print(dl.published('busbridge2025').supervised(params=1e9, tokens=2e10))"
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.laws import equation
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
        return equation.supervised(self.standard, log_positive("params", params), log_positive("tokens", tokens))

    __call__ = supervised

    @property
    def standard(self) -> dict[str, Array]:
        """The coefficients as `laws/equation.py` takes them."""
        return equation.supervised_coefficients(self.coefficients)

    def data_share(self, *, params: ArrayLike, tokens: ArrayLike) -> Array:
        """Share of the data term B/D^beta in the inner sum; near 0 the tokens do not inform the answer."""
        return equation.data_share(self.standard, log_positive("params", params), log_positive("tokens", tokens))

    def limit(self, *, params: ArrayLike | None = None, tokens: ArrayLike | None = None) -> Array:
        """The loss where what is not given is unlimited: E of nothing, E + (A/N^alpha)^gamma of a size alone.

        Args:
            params: N; None for a model of any size.
            tokens: D; None for any number of tokens.
        """
        n, d = log_or_unlimited("params", params), log_or_unlimited("tokens", tokens)
        return equation.supervised(self.standard, n, d)

    def tokens_for_loss(self, *, params: ArrayLike, loss: ArrayLike) -> Array:
        """D at which ordinary training reaches a loss; inf where the size alone keeps it above.

            D = [ B / ( (L - E)^(1/gamma) - A / N^alpha ) ]^(1/beta)

        Args:
            params: N, > 0.
            loss: L to reach, nats per token.
        """
        n, target = log_positive("params", params), log_positive("loss", loss)
        return np.exp(equation.log_tokens_for(self.standard, n, target))

    def compute_optimal(self, *, compute: ArrayLike, flop_per_param_token: float = 6.0) -> Allocation:
        """N*, D* and the loss at a budget, under C = 6 N D.

            N* = G (C/6)^(beta/(alpha+beta)),  G = (alpha A / (beta B))^(1/(alpha+beta))   (gamma does not enter)

        Args:
            compute: C, FLOP.
            flop_per_param_token: 6 for training; the approximation leaves out attention and the head.
        """
        c = log_positive("compute", compute) - np.log(flop_per_param_token)
        n = self._log_balance + self.beta * c / (self.alpha + self.beta)
        loss = equation.supervised(self.standard, n, c - n)
        return Allocation(params=np.exp(n), tokens=np.exp(c - n), loss=loss)

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
        return {name: getattr(self, name) for name in ("E", "A", "B", "alpha", "beta", "gamma")}

    @property
    def derived(self) -> dict[str, float]:
        """What data pins down better than the coefficients: slopes p, q and the allocation exponents.

        p = gamma alpha, q = gamma beta; under C = 6 N D the optimum goes as N* ~ C^a with
        a = beta / (alpha + beta), D* ~ C^b with b = 1 - a (gamma does not enter).
        """
        a = self.beta / (self.alpha + self.beta)
        return {"p": self.gamma * self.alpha, "q": self.gamma * self.beta, "a": a, "b": 1 - a}
