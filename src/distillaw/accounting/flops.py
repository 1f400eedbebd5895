"""FLOP per token, by part: the forward pass, training and distillation of a model whose shape is known.

Conventions (arXiv 2502.08606v2, appendix on FLOPs): a multiply-add is 2 FLOP,
attention is causal (half of the square), look-ups are free, the output head counts, backward = 2 forward.

    F = 2 N_active + 2 n_layers n_ctx d_model + 2 n_vocab d_model

is `FlopParts.total`, the compute axis of every law and budget here. Softmax and the scaling of embeddings
are in the paper's "full count" only (`FlopParts.full_count`). Activation recomputation is hardware work and
in no compute axis. The family for which F follows from N alone is in family.py.
"""

from dataclasses import asdict, dataclass

from distillaw.accounting.architecture import (
    Attention,
    Block,
    Model,
    as_architecture,
    expert_weights,
    projection_weights,
    router_weights,
    shared_weights,
    vector_params,
)
from distillaw.errors import ConfigError

TRAINING_FACTOR = 3
"""FLOP of a training step over those of a forward pass: forward F, backward 2 F."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopParts:
    """Forward FLOP per token, by part. `total` is the sum of the first six."""

    attention_projections: float
    """Query, key, value and output matrices."""
    attention_scores: float
    """Queries times keys, and weights times values."""
    ffn: float
    """Feed-forward matrices that the token passes: its experts and the shared one."""
    router: float
    """The matrix that chooses experts."""
    vectors: float
    """Gains and biases at 2 FLOP an element: the 2 N of the formula covers them."""
    head: float
    """The output head, tied or not."""
    softmax: float
    """2.5 n_heads n_ctx per layer, not halved: the paper's full count; outside `total`."""
    embedding: float
    """2 d_model: the paper's full count; outside `total`."""
    causal: bool
    """Whether attention counts half of the square (True) or all of it, as torch's counter does."""

    @property
    def matmuls(self) -> float:
        """Matrix products only: with `causal=False`, what torch's counter sees."""
        return self.attention_projections + self.attention_scores + self.ffn + self.router + self.head

    @property
    def total(self) -> float:
        """F, model FLOP per token: matrix products, gains and biases."""
        return self.matmuls + self.vectors

    @property
    def full_count(self) -> float:
        """The paper's full count: F plus softmax plus embedding."""
        return self.total + self.softmax + self.embedding


def forward_flops(model: Model, *, context: int | None = None, causal: bool = True) -> FlopParts:
    """Forward FLOP per token of a shape or an architecture, averaged over a sequence.

    Args:
        model: a `Shape` or an `Architecture`.
        context: n_ctx, tokens of one sequence; the model's own by default.
        causal: count half of the attention square (model FLOP); False counts all of it (what a dense
            kernel executes and torch's counter reports).

    Returns:
        The parts, in FLOP per token; `.total` is F.

    Raises:
        ConfigError: the context is not a positive whole number.
    Source:
        arXiv 2502.08606v2, appendix on FLOPs (F_shape).

    Example:
        >>> from distillaw.shapes import Shape
        >>> parts = forward_flops(Shape(layers=14, width=1792, ffn=4864, heads=14, kv_heads=14, head_dim=128,
        ...                             vocab=32768, context=4096))
        >>> f"{parts.total:.4e}"
        '1.4149e+09'
    """
    arch = as_architecture(model)
    tokens = arch.context if context is None else context
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise ConfigError(f"context = {tokens!r}: it must be a whole number of tokens of at least 1")
    blocks, width = arch.blocks, arch.width
    top_vectors = arch.final_norm_params + arch.head_bias_params

    def scores(of: Attention) -> float:
        """Two products (queries x keys, weights x values) of 2 FLOP per head, dimension and key seen."""
        return 2 * 2.0 * of.heads * of.head_dim * mean_keys(tokens, window=of.window, causal=causal)

    def ffn_weights(block: Block) -> int:
        """FFN weights that one token passes in one layer."""
        return block.ffn.active_experts * expert_weights(block, width) + shared_weights(block, width)

    return FlopParts(
        attention_projections=2.0 * sum(b.count * projection_weights(b, width) for b in blocks),
        attention_scores=sum(b.count * scores(b.attention) for b in blocks),
        ffn=2.0 * sum(b.count * ffn_weights(b) for b in blocks),
        router=2.0 * sum(b.count * router_weights(b, width) for b in blocks),
        vectors=2.0 * (top_vectors + sum(b.count * vector_params(b) for b in blocks)),
        head=2.0 * arch.vocab * width,
        softmax=sum(2.5 * b.count * b.attention.heads * tokens for b in blocks),
        embedding=2.0 * width,
        causal=causal,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationFlops:
    """Where the compute of a distillation goes, in FLOP."""

    student_training: float
    teacher_logits: float
    teacher_training: float

    @property
    def total(self) -> float:
        """C, the whole budget."""
        return self.student_training + self.teacher_logits + self.teacher_training

    @property
    def shares(self) -> dict[str, float]:
        """Fractions of the total; they sum to 1."""
        return {name: part / self.total for name, part in asdict(self).items()}


def mean_keys(tokens: int, *, window: int | None = None, causal: bool = True) -> float:
    """Keys that a query sees on average over a sequence of `tokens`, in the paper's continuous convention.

        n_ctx / 2;  with a window w < n_ctx:  w - w^2 / (2 n_ctx);  not causal: n_ctx (a dense kernel)

    The exact discrete mean is (n_ctx + 1) / 2; the paper drops the diagonal's half key.
    """
    if not causal:
        return float(tokens)
    if window is None or window >= tokens:
        return tokens / 2
    return window - window**2 / (2 * tokens)
