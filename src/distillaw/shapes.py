"""The shape of a decoder, and the shape that a target size derives.

A shape is plain integers: no torch, no config class. Models are built from it, parameters and FLOPs are
counted from it, and both counts are checked against the real module in the tests.
"""

import math
from dataclasses import dataclass

from distillaw.errors import ConfigError

HEAD_DIM = 16
"""Default head dimension for fresh small models; 64 or 128 are usual from 100M parameters on."""
ASPECT = 16.0
"""Default width / layers for fresh small models; 128 in the distillation paper's family (143M-12.6B)."""
FFN_RATIO = 8 / 3
"""d_ff / d_model of the gated FFN before rounding up (arXiv 2502.08606v2, appendix on architectures)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Integers that fix a Llama-family decoder: gated FFN, RMSNorm, rotary positions, no biases."""

    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    tied: bool = False
    """True if the output head is the embedding matrix; ours are untied unless said otherwise."""


def ffn_width(width: int, *, ratio: float = FFN_RATIO, multiple: int = 8) -> int:
    """FFN width: ratio * width rounded up to a multiple (the paper's family uses 8/3 and 128)."""
    return math.ceil(width * ratio / multiple - 1e-9) * multiple


def count_non_embedding(shape: Shape) -> int:
    """N: every weight but the token embedding and the output head; norm gains are counted.

    N = layers * (2 d (h + h_kv) d_head + 3 d d_ff + 2 d) + d    (exact for Llama)
    """
    attention = 2 * shape.width * (shape.heads + shape.kv_heads) * shape.head_dim
    return shape.layers * (attention + 3 * shape.width * shape.ffn + 2 * shape.width) + shape.width


def shape_for_params(
    params: float, *, vocab: int, context: int, head_dim: int = HEAD_DIM, aspect: float = ASPECT, tied: bool = False
) -> Shape:
    """The shape whose non-embedding size is nearest to `params` at the family's fixed aspect rule.

    Every number of layers is tried with every width that is a multiple of the head dimension; the choice
    minimises |ln(N / target)| + 0.25 |ln((width / layers) / aspect)|, so size comes first and the aspect
    stays near the rule. Multi-head attention (one key-value head per query head).

    Args:
        params: target N, non-embedding parameters, > 0.
        vocab: vocabulary size (does not enter N).
        context: training context in tokens.
        head_dim: width of one head; the width is a multiple of it.
        aspect: width / layers of the family.
        tied: whether the head is the embedding matrix.

    Raises:
        ConfigError: the nearest shape is more than a factor 1.5 away from the target.
    """

    def made(layers: int, heads: int) -> Shape:
        width = heads * head_dim
        of_heads = {"heads": heads, "kv_heads": heads, "head_dim": head_dim}
        own = {"layers": layers, "width": width, "ffn": ffn_width(width), **of_heads}
        return Shape(**own, vocab=vocab, context=context, tied=tied)

    best: tuple[float, Shape] | None = None
    centre = max(1.0, (params / (12 * aspect**2)) ** (1 / 3))
    for layers in range(max(1, int(centre / 2)), int(centre * 2) + 3):
        guess = math.sqrt(params / (12 * layers)) / head_dim
        for heads in range(max(1, int(guess) - 1), int(guess) + 3):
            shape = made(layers, heads)
            miss = abs(math.log(count_non_embedding(shape) / params))
            cost = miss + 0.25 * abs(math.log(shape.width / layers / aspect))
            if best is None or cost < best[0]:
                best = (cost, shape)
    assert best is not None
    actual = count_non_embedding(best[1])
    if not 1 / 1.5 < actual / params < 1.5:
        raise ConfigError(
            f"params = {params:g}: the nearest shape with head_dim {head_dim} has {actual} non-embedding "
            f"parameters, more than a factor 1.5 away. Choose a size of at least {count_non_embedding(made(1, 1))} "
            "or a smaller head_dim."
        )
    return best[1]
