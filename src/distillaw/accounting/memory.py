"""Bytes to train and to serve a model: weights, gradients, AdamW states, activations, key-value cache.

Weights, gradients, states and the key-value cache are exact for the precision named. Activations are an
estimate: what autograd of an unfused Llama block keeps per token and layer (checked against torch's saved
tensors), without allocator overhead, fragmentation or communication buffers, on one device
without sharding. Sources: 16 bytes per parameter, arXiv 1910.02054 section 3.1; recomputation,
arXiv 2205.05198; the vocabulary loss, docs/engine.md.
"""

from dataclasses import dataclass
from enum import Enum

from distillaw.accounting.architecture import Architecture, Attention, Block, Model, as_architecture
from distillaw.accounting.params import count_params
from distillaw.errors import ConfigError

CACHE_BYTES = 2.0
"""Bytes per number of a key-value cache in 16 bits."""


@dataclass(frozen=True, slots=True)
class BytesPerNumber:
    """Bytes per parameter, and per stored activation."""

    weights: int
    gradients: int
    optimizer: int
    """AdamW: two moments, and a 32-bit copy of the weights where they are 16-bit."""
    activations: int


class Precision(Enum):
    """How training keeps its numbers."""

    FP32 = BytesPerNumber(4, 4, 8, 4)
    """Everything in 32 bits: 16 bytes per parameter."""
    MIXED = BytesPerNumber(2, 2, 12, 2)
    """16-bit weights and gradients, 32-bit master copy and moments: 16 bytes per parameter."""
    BF16 = BytesPerNumber(2, 2, 4, 2)
    """Everything in 16 bits: 8 bytes per parameter."""

    @classmethod
    def named(cls, name: str) -> "Precision":
        """The precision called `fp32`, `mixed` or `bf16`."""
        try:
            return cls[name.upper()]
        except KeyError:
            raise ConfigError(f"precision {name!r}: one of fp32, mixed, bf16") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """Bytes on one device during training, by part."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    """Estimate, see the module."""
    logits: float
    """Estimate: logits, log-softmax and gradient of a dense vocabulary loss; teacher's too when it is present."""
    teacher: float
    """Weights of a teacher that runs in the same process."""

    @property
    def total(self) -> float:
        """Sum of the parts."""
        parts = (self.weights, self.gradients, self.optimizer, self.activations, self.logits, self.teacher)
        return sum(parts)


def training_memory(
    model: Model,
    *,
    sequences: int = 1,
    context: int | None = None,
    precision: Precision = Precision.MIXED,
    recompute: bool = False,
    eager_attention: bool = False,
    online_teacher_params: float | None = None,
    total_params: float | None = None,
) -> TrainingMemory:
    """Bytes to train a model with AdamW on one device.

    Args:
        model: a `Shape` or an `Architecture`.
        sequences: sequences of one micro-batch on the device.
        context: tokens of one sequence; the model's own by default.
        precision: how numbers are kept.
        recompute: keep only each layer's input and recompute the rest in the backward pass.
        eager_attention: keep the attention matrix, as attention without a fused kernel does.
        online_teacher_params: all weights of a teacher in the same process; None without one.
        total_params: all weights, where they are known better than from the shape.

    Returns:
        The parts in bytes. For a mixture of experts all experts have states, active ones activations.
    """
    arch = as_architecture(model)
    tokens = _tokens(arch, context)
    size = precision.value
    count = count_params(arch).total if total_params is None else total_params
    layers = [
        (block.count, _saved_bytes(arch, block, tokens, size.activations, eager=eager_attention))
        for block in arch.blocks
    ]
    if recompute:
        kept = arch.layers * arch.width * size.activations + max(saved for _, saved in layers)
    else:
        kept = sum(number * saved for number, saved in layers)
    has_teacher = online_teacher_params is not None
    of_loss = (size.activations + 8) + (size.activations + 4 if has_teacher else 0)
    return TrainingMemory(
        weights=count * size.weights,
        gradients=count * size.gradients,
        optimizer=count * size.optimizer,
        activations=sequences * tokens * kept,
        logits=sequences * tokens * arch.vocab * of_loss,
        teacher=(online_teacher_params or 0.0) * size.weights,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingMemory:
    """Bytes to hold a model and the sequences it is working on."""

    weights: float
    kv_cache: float

    @property
    def total(self) -> float:
        """Sum of the parts."""
        return self.weights + self.kv_cache


def serving_memory(
    model: Model,
    *,
    sequences: int = 1,
    context: int | None = None,
    weight_bytes: float = 2,
    cache_bytes: float = CACHE_BYTES,
    total_params: float | None = None,
) -> ServingMemory:
    """Bytes to serve a model: weights, and keys and values of every token in flight.

        n_kv = 2 sum_layers kv_heads head_dim min(context, window)

    Args:
        model: a `Shape` or an `Architecture`.
        sequences: sequences served at once.
        context: tokens each of them may hold; the model's own by default.
        weight_bytes: bytes per weight: 2 for 16-bit, 1 for 8-bit, 0.5 for 4-bit.
        cache_bytes: bytes per number of the cache.
        total_params: all weights, where they are known better than from the shape.
    """
    arch = as_architecture(model)
    count = count_params(arch).total if total_params is None else total_params
    tokens = _tokens(arch, context)
    per_sequence = sum(block.count * _cached_numbers(block.attention, tokens) for block in arch.blocks)
    return ServingMemory(weights=count * weight_bytes, kv_cache=sequences * per_sequence * cache_bytes)


def _cached_numbers(attention: Attention, tokens: int) -> int:
    held = tokens if attention.window is None else min(tokens, attention.window)
    return 2 * attention.kv_heads * attention.head_dim * held


def _saved_bytes(arch: Architecture, block: Block, tokens: int, size: int, *, eager: bool) -> int:
    """Bytes autograd keeps for one token in one layer of an unfused Llama block.

    Two norms keep their input in 32 bits, its normalised form and their output; projections, rotary
    attention and the gated FFN keep what their gradients need. Exact for Llama, an estimate for others.
    """
    attention, ffn = block.attention, block.ffn
    queries, keys = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    if eager:
        # Keys and values are repeated for every query head; the softmax is kept in 32 bits and as used.
        numbers = 4 * queries
        extra = attention.heads * tokens * (4 if size == 4 else 4 + size)
    else:
        numbers = 2 * queries + 2 * keys
        extra = 4 * attention.heads
    hidden = ffn.active_experts * ffn.width + ffn.shared_width
    numbers += 4 * arch.width + (4 if ffn.matrices == 3 else 2) * hidden
    return numbers * size + 2 * 4 * (arch.width + 1) + extra


def _tokens(arch: Architecture, context: int | None) -> int:
    tokens = arch.context if context is None else context
    if tokens < 1:
        raise ConfigError(f"context = {tokens}: it must be at least 1 token")
    return tokens
