"""FLOP from N alone, for a family of models whose aspect ratio is fixed.

    F(N) = 2 N (1 + sigma1 n_ctx / N^(1/3) + sigma2 n_vocab / N^(2/3))
    omega  = 2 + 2/g_size + n_ffn rho_ffn        sigma1 = (1 / (rho omega^2))^(1/3)
    n_layers = (N / (rho^2 omega))^(1/3)         sigma2 = (rho / omega)^(1/3)
    d_model  = (N rho / omega)^(1/3)

Source: arXiv 2502.08606v2, appendix on FLOPs. Within 0.32 % of the published
table of that paper's family and context; with another aspect ratio use a shape (flops.py) or set the
family's numbers. The paper's c1 = sigma1 n_ctx and c2 = sigma2 n_vocab are no coefficients of a law.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from distillaw.accounting.architecture import ParamConvention, Params, as_non_embedding
from distillaw.accounting.flops import FlopParts
from distillaw.errors import ConfigError
from distillaw.shapes import FFN_RATIO, Shape

PAPER_CONTEXT = 4096
"""n_ctx of the distillation paper's family."""
PAPER_VOCAB = 32768
"""n_vocab of that family: what its table implies; its text says 32168."""

_LARGEST_RATIO = 1e6
"""No family of models has a larger ratio; powers of it stay finite."""

Number = TypeVar("Number", float, NDArray[np.float64])


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedAspect:
    """A family of decoders with d_model = rho n_layers; the defaults are the distillation paper's family."""

    aspect: float = 128.0
    """rho = d_model / n_layers."""
    group_size: float = 1.0
    """g_size: query heads per key-value head."""
    ffn_matrices: float = 3.0
    """n_ffn: 3 if gated."""
    ffn_ratio: float = FFN_RATIO
    """rho_ffn = d_ff / d_model."""
    head_dim: int = 128
    """Width of a head; enters the softmax count and memory only. The paper does not state it."""

    def __post_init__(self) -> None:
        """Refuse ratios that no model has."""
        for name in ("aspect", "group_size", "ffn_matrices", "ffn_ratio", "head_dim"):
            value = getattr(self, name)
            if not 0 < value <= _LARGEST_RATIO:
                raise ConfigError(f"{name} = {value!r}: it must be positive and at most {_LARGEST_RATIO:g}")

    @property
    def omega(self) -> float:
        """Weights of one layer over d_model^2."""
        return 2 + 2 / self.group_size + self.ffn_matrices * self.ffn_ratio

    @property
    def sigma1(self) -> float:
        """Coefficient of the context."""
        return (1 / (self.aspect * self.omega**2)) ** (1 / 3)

    @property
    def sigma2(self) -> float:
        """Coefficient of the vocabulary."""
        return (self.aspect / self.omega) ** (1 / 3)

    def layers(self, params: Number) -> Number:
        """n_layers as a real number."""
        return (params / (self.aspect**2 * self.omega)) ** (1 / 3)

    def width(self, params: Number) -> Number:
        """d_model as a real number."""
        return (params * self.aspect / self.omega) ** (1 / 3)

    def forward_flops(
        self, params: Number | Params, *, context: float = PAPER_CONTEXT, vocab: float = PAPER_VOCAB
    ) -> Number:
        """F(N), forward FLOP per token.

        Args:
            params: N, non-embedding parameters, scalar or array, > 0.
            context: n_ctx, tokens.
            vocab: n_vocab, entries.

        Raises:
            UnitError: parameters of another convention.
            ConfigError: not positive and finite.

        Example:
            >>> f"{FixedAspect().forward_flops(1e9):.5e}"
            '2.45439e+09'
        """
        # pyrefly: ignore[bad-argument-type]  # arrays pass through unchanged; the signature of one number stays simple
        N = _positive(as_non_embedding(params, purpose="F(N)"))
        _positive(context), _positive(vocab)
        return 2 * N * (1 + self.sigma1 * context / N ** (1 / 3) + self.sigma2 * vocab / N ** (2 / 3))

    def forward_parts(
        self, params: float | Params, *, context: float = PAPER_CONTEXT, vocab: float = PAPER_VOCAB
    ) -> FlopParts:
        """F(N) by part; 2 N splits between attention and FFN as omega does."""
        N = _positive(as_non_embedding(params, purpose="F(N)"))
        ffn_share = self.ffn_matrices * self.ffn_ratio / self.omega
        width, layers = self.width(N), self.layers(N)
        return FlopParts(
            attention_projections=2 * N * (1 - ffn_share),
            ffn=2 * N * ffn_share,
            router=0.0,
            vectors=0.0,
            attention_scores=2 * layers * context * width,
            head=2 * vocab * width,
            softmax=2.5 * layers * context * width / self.head_dim,
            embedding=2 * width,
            causal=True,
        )

    def nearest_shape(self, params: float | Params, *, context: int = PAPER_CONTEXT, vocab: int = PAPER_VOCAB) -> Shape:
        """A whole-number shape near N, for what N alone does not give (memory, key-value cache). Tied."""
        N = _positive(as_non_embedding(params, purpose="a shape"))
        layers = max(1, round(self.layers(N)))
        # With the number of layers rounded, the width that brings N back; then whole heads in whole groups.
        group = max(1, round(self.group_size))
        step = self.head_dim * group
        width = max(step, round((N / (layers * self.omega)) ** 0.5 / step) * step)
        heads = width // self.head_dim
        return Shape(
            layers=layers,
            width=width,
            ffn=round(self.ffn_ratio * self.ffn_matrices / 3 * width),
            heads=heads,
            kv_heads=heads // group,
            head_dim=self.head_dim,
            vocab=vocab,
            context=context,
            tied=True,
        )

    def convert(self, params: Params, to: ParamConvention, *, vocab: float = PAPER_VOCAB, matrices: int = 1) -> Params:
        """A count in another convention, for a member of this family.

            N_total = N + m n_vocab (N rho / omega)^(1/3)       m = 1, or `matrices` for all weights

        Args:
            params: the count and its convention.
            to: the convention wanted.
            vocab: n_vocab.
            matrices: 1 if the head is tied to the embedding, 2 if not.
        """
        if matrices not in (1, 2):
            raise ConfigError(f"matrices = {matrices}: 1 if the head is tied to the embedding, 2 if not")
        held = {ParamConvention.NON_EMBEDDING: 0, ParamConvention.ONE_MATRIX: 1}
        slope = _positive(vocab) * (self.aspect / self.omega) ** (1 / 3)
        N = _solve_cubic(held.get(params.convention, matrices) * slope, _positive(params.value))
        return Params(N + held.get(to, matrices) * slope * N ** (1 / 3), to)


def _solve_cubic(slope: float, total: float) -> float:
    """N > 0 with N + slope N^(1/3) = total: the one real root of a depressed cubic in N^(1/3), in hyperbolic sines."""
    if not slope:
        return total
    unit = math.sqrt(slope / 3)
    return (2 * unit * math.sinh(math.asinh(total / (2 * unit**3)) / 3)) ** 3


def _positive(value: Number) -> Number:
    array = np.asarray(value, dtype=np.float64)
    if not np.all(np.isfinite(array) & (array > 0)):
        raise ConfigError(f"got {value!r}: parameters, context and vocabulary must be positive and finite")
    return value
