"""What must be known of a decoder to count its FLOP and memory, and its parameters: plain integers, no torch.

`Shape` (shapes.py) describes the Llama family that we train; `Architecture` describes everything we can
count: grouped-query attention, sliding windows, gated and plain FFN, biases, mixtures of experts, learned
positions, layers that differ. Every count in this package takes either.

Three counts go by the name "parameters" (docs/accounting.md):

    N              every weight but the look-up tables and the output head; norm gains are in (laws).
    N + one matrix the N_total of the distillation paper's table (arXiv 2502.08606v2, Table 13).
    all weights    N + tables + head: two matrices if untied. The axis of the capacity-gap work.

A plain float named `params` is N, non-embedding, everywhere in this package (interface contract). A number that is
something else travels as a `Params`; mixing two kinds raises `UnitError` with the conversion to use.

The compute axis of "score against training compute" plots of released models is not model FLOP:

    x = 6 N D                                 ordinary training
    x = 6 N_S D + 2 N_T D                     distillation: student training + teacher forward
    x = 6 N_active D                          mixture of experts
    x = x_base + x_added                      continued training, upcycling

N is all weights, there is no attention term, and teacher training, vocabulary adaptation, pruning, evaluation and
synthetic data are not counted unless asked for. Source: the code and figures of arXiv:2311.07052.
"""

from dataclasses import dataclass, fields
from enum import StrEnum

from distillaw.errors import ConfigError, UnitError
from distillaw.shapes import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Softmax attention with `heads` query heads and `kv_heads` key-value heads."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None
    """Keys that one query may see at most (sliding window); None is the whole context."""
    bias_params: int = 0
    """Biases of the four projections, elements of one layer."""
    norm_params: int = 0
    """Gains of query and key norms, elements of one layer."""

    def __post_init__(self) -> None:
        """Refuse what no model can have."""
        _check_counts(self, optional=("window",), may_be_zero=("bias_params", "norm_params"))
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"heads = {self.heads} is not a multiple of kv_heads = {self.kv_heads}; "
                "each key-value head serves the same number of query heads. Change one of the two."
            )

    @property
    def group_size(self) -> int:
        """g_size: query heads per key-value head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForward:
    """A feed-forward part: `matrices` matrices of d_model x `width`, once or once per expert."""

    width: int
    """d_ff; of one expert in a mixture."""
    matrices: int = 3
    """3 if gated (SwiGLU, GeGLU), 2 if plain."""
    bias_params: int = 0
    """Biases, elements of one layer (all experts together)."""
    experts: int = 1
    active_experts: int = 1
    """Experts that one token visits."""
    shared_width: int = 0
    """Width of the expert that every token visits besides the routed ones; 0 if none."""
    shared_gate: bool = False
    """True if a d_model vector gates the shared expert (Qwen2-MoE)."""

    def __post_init__(self) -> None:
        """Refuse what no model can have."""
        _check_counts(self, may_be_zero=("bias_params", "shared_width"))
        if self.active_experts > self.experts:
            raise ConfigError(
                f"active experts = {self.active_experts} of {self.experts}: a token cannot visit more "
                "experts than there are. Lower the first or raise the second."
            )

    @property
    def is_mixture(self) -> bool:
        """True if a router chooses among experts."""
        return self.experts > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """`count` equal layers."""

    count: int
    attention: Attention
    ffn: FeedForward
    norm_params: int
    """Gains and biases of the layer's norms (query and key norms excepted), elements of one layer."""

    def __post_init__(self) -> None:
        """Refuse what no model can have."""
        _check_counts(self, may_be_zero=("norm_params",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A decoder-only language model, as far as its counts need it."""

    name: str
    width: int
    """d_model."""
    vocab: int
    """Rows of the embedding matrix, padding rows included."""
    context: int
    """Tokens of one sequence; counts take another one on request."""
    blocks: tuple[Block, ...]
    tied: bool = False
    positions: int = 0
    """Rows of a learned position table; 0 with rotary positions."""
    final_norm_params: int = 0
    head_bias_params: int = 0

    def __post_init__(self) -> None:
        """Refuse what no model can have."""
        _check_counts(self, may_be_zero=("positions", "final_norm_params", "head_bias_params"))
        if not self.blocks:
            raise ConfigError("an architecture needs at least one layer")

    @property
    def layers(self) -> int:
        """n_layers."""
        return sum(block.count for block in self.blocks)


Model = Shape | Architecture
"""What every count takes."""


def as_architecture(model: Model) -> Architecture:
    """The full description of a model; a `Shape` is a Llama with gated FFN, RMSNorm and no biases."""
    if isinstance(model, Architecture):
        return model
    _check_counts(model)
    attention = Attention(heads=model.heads, kv_heads=model.kv_heads, head_dim=model.head_dim)
    block = Block(
        count=model.layers, attention=attention, ffn=FeedForward(width=model.ffn), norm_params=2 * model.width
    )
    return Architecture(
        name="llama",
        width=model.width,
        vocab=model.vocab,
        context=model.context,
        blocks=(block,),
        tied=model.tied,
        final_norm_params=model.width,
    )


def _check_counts(part: object, *, optional: tuple[str, ...] = (), may_be_zero: tuple[str, ...] = ()) -> None:
    """Every integer field is a positive whole number, unless it is named as one that may be zero or None."""
    for field in fields(part):  # type: ignore[arg-type]
        if field.type not in (int, int | None):
            continue
        value = getattr(part, field.name)
        if value is None and field.name in optional:
            continue
        lowest = 0 if field.name in may_be_zero else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise ConfigError(
                f"{field.name} = {value!r} in {type(part).__name__}: it must be a whole number of at least {lowest}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamCount:
    """Parameters of one model, as the module has them; `non_embedding + embedding + head == total`."""

    non_embedding: int
    """N: neither token embedding nor learned positions nor output head; norm gains and biases are in."""
    embedding: int
    """Look-up tables: the token embedding and, where positions are learned, their table."""
    head: int
    """The output head; 0 if it is the embedding matrix."""
    total: int
    """All weights."""
    one_matrix: int
    """N_total of the distillation paper: N plus one vocabulary x width matrix, tied or not."""
    active_non_embedding: int
    """N without the experts that a token does not visit; equal to `non_embedding` outside mixtures."""
    active_total: int
    """All weights without the experts that a token does not visit."""


def count_params(model: Model) -> ParamCount:
    """Count the parameters of a shape or an architecture in every convention.

        N = n_layers * ((2 + 2/g_size) d_model^2 + n_ffn d_model d_ff + 2 d_model) + d_model     (Llama)

    Args:
        model: a `Shape`, or an `Architecture` (for instance from a Hugging Face config).

    Returns:
        Integers equal to `sum(p.numel())` over the parts of the real module.
    Source:
        arXiv 2502.08606v2, appendix on parameters and FLOPs.

    Example:
        >>> from distillaw.shapes import Shape
        >>> count_params(Shape(layers=21, width=2688, ffn=7168, heads=21, kv_heads=21, head_dim=128,
        ...                    vocab=32768, context=4096)).non_embedding
        1820902272
    """
    arch = as_architecture(model)
    matrix = arch.vocab * arch.width
    embedding = matrix + arch.positions * arch.width
    head = (0 if arch.tied else matrix) + arch.head_bias_params
    everything = arch.final_norm_params + sum(b.count * _block_params(b, arch.width) for b in arch.blocks)
    active = everything - sum(b.count * _idle_params(b, arch.width) for b in arch.blocks)
    return ParamCount(
        non_embedding=everything,
        embedding=embedding,
        head=head,
        total=everything + embedding + head,
        one_matrix=everything + matrix,
        active_non_embedding=active,
        active_total=active + embedding + head,
    )


def projection_weights(block: Block, width: int) -> int:
    """Elements of the query, key, value and output matrices of one layer."""
    attention = block.attention
    return 2 * width * (attention.heads + attention.kv_heads) * attention.head_dim


def expert_weights(block: Block, width: int) -> int:
    """Elements of the matrices of one expert, or of the whole FFN where there is no mixture."""
    return block.ffn.matrices * width * block.ffn.width


def shared_weights(block: Block, width: int) -> int:
    """Elements of the matrices that every token passes besides its experts, the shared gate included."""
    return block.ffn.matrices * width * block.ffn.shared_width + (width if block.ffn.shared_gate else 0)


def router_weights(block: Block, width: int) -> int:
    """Elements of the matrix that chooses experts; 0 without a mixture."""
    return width * block.ffn.experts if block.ffn.is_mixture else 0


def vector_params(block: Block) -> int:
    """Gains and biases of one layer."""
    return block.norm_params + block.attention.bias_params + block.attention.norm_params + block.ffn.bias_params


def _block_params(block: Block, width: int) -> int:
    return (
        projection_weights(block, width)
        + block.ffn.experts * expert_weights(block, width)
        + shared_weights(block, width)
        + router_weights(block, width)
        + vector_params(block)
    )


def _idle_params(block: Block, width: int) -> int:
    """Weights of the experts that one token does not visit (their biases, where they have any, are kept)."""
    return (block.ffn.experts - block.ffn.active_experts) * expert_weights(block, width)


class ParamConvention(StrEnum):
    """What a parameter count includes (docs/accounting.md)."""

    NON_EMBEDDING = "non-embedding"
    """N: neither look-up tables nor output head. The laws of arXiv 2502.08606."""
    ONE_MATRIX = "one-matrix"
    """N plus one vocabulary x width matrix: N_total in that paper's table."""
    ALL_WEIGHTS = "all-weights"
    """N plus look-up tables plus output head: the axis of arXiv 2311.07052."""


@dataclass(frozen=True, slots=True)
class Params:
    """A parameter count and what it includes."""

    value: float
    convention: ParamConvention

    def require(self, convention: ParamConvention, *, purpose: str) -> float:
        """The value, if it is of the convention that `purpose` needs.

        Raises:
            UnitError: it is of another one.
        """
        if self.convention is not convention:
            raise UnitError(
                f"{purpose} needs {convention} parameters, got {self.value:g} {self.convention}. Counts of the "
                "two kinds differ by 5-30 %; convert with `FixedAspect.convert`, or count from the shape with "
                "`count_params`"
            )
        return self.value


def params_of(count: ParamCount, convention: ParamConvention, *, active: bool = False) -> Params:
    """One of the conventions of an exact count; `active` leaves out experts that a token does not visit."""
    value = {
        ParamConvention.NON_EMBEDDING: count.active_non_embedding if active else count.non_embedding,
        ParamConvention.ALL_WEIGHTS: count.active_total if active else count.total,
        ParamConvention.ONE_MATRIX: count.one_matrix - (count.total - count.active_total if active else 0),
    }[convention]
    return Params(float(value), convention)


def as_non_embedding(params: float | Params, *, purpose: str) -> float:
    """N of a plain number (which is N by contract) or of a `Params` that says so.

    Raises:
        UnitError: a `Params` of another convention.
    """
    if isinstance(params, Params):
        return params.require(ParamConvention.NON_EMBEDDING, purpose=purpose)
    return params


PRINTED_UNIT = 1e21
"""FLOP in one unit of the published axis, "1e9 TFLOPs"."""


def training_axis(params: Params, tokens: float) -> float:
    """FLOP of ordinary training on that axis, 6 N D; pass active weights for a mixture of experts.

    Raises:
        UnitError: a plain number, which is non-embedding, or a `Params` of another convention.

    Example:
        >>> round(training_axis(Params(7e9, ParamConvention.ALL_WEIGHTS), 2e12) / PRINTED_UNIT, 1)
        84.0
    """
    return 6 * _all_weights(params) * tokens


def distillation_axis(student: Params, teacher: Params, tokens: float, *, teacher_tokens: float = 0.0) -> float:
    """6 N_S D + 2 N_T D, plus 6 N_T D_T if the teacher's training is to be shown (off by default); as above."""
    flop = (6 * _all_weights(student) + 2 * _all_weights(teacher)) * tokens
    return flop + 6 * _all_weights(teacher) * teacher_tokens


def _all_weights(params: Params) -> float:
    if not isinstance(params, Params):
        raise UnitError(
            f"got the bare number {params!r}; this axis counts all weights, plain numbers are non-embedding. "
            "Pass Params(value, ParamConvention.ALL_WEIGHTS)"
        )
    return params.require(ParamConvention.ALL_WEIGHTS, purpose="the 6 N D axis")
