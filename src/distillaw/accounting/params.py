"""How many parameters a model has, in every convention that the literature uses.

Three counts go by the name "parameters" (docs/accounting.md):

    N              every weight but the look-up tables and the output head; norm gains are in (laws).
    N + one matrix the N_total of the distillation paper's table (arXiv 2502.08606v2, Table 13).
    all weights    N + tables + head: two matrices if untied. The axis of the capacity-gap work.

Nothing here adds or compares counts of different conventions; see conventions.py for that.
"""

from dataclasses import dataclass

from distillaw.accounting.architecture import Block, Model, as_architecture


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
        >>> from distillaw.accounting.shapes import Shape
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
    return (
        block.norm_params + block.attention.bias_params + block.attention.norm_params + block.ffn.bias_params
    )


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
