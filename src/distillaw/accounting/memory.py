"""Bytes to train and to serve a model, and of stored teacher targets.

Weights, gradients, states and the key-value cache are exact for the precision named. Activations are an estimate: what
autograd of an unfused Llama block keeps per token and layer (checked against torch's saved tensors), without allocator
overhead, fragmentation or communication buffers, on one device without sharding. Sources: 16 bytes per parameter,
arXiv:1910.02054 section 3.1; recomputation, arXiv:2205.05198; the vocabulary loss, docs/engine.md.

Stored teacher targets, per token and in total, for every scheme in use:

    sparse:  ceil(k (ceil(log2 V) + value_bits) / 8)     (+4 logsumexp, +4 gold log-probability)
    store:   ceil((U (log2(V / U) + 2) + N) / 8) + 4     (`distillaw cache build`: N samples on U ids; docs/targets.md)
    dense:   V value_bytes

Bytes only: which scheme is biased and what that costs is in docs/targets.md; renormalised top-k needs a CE term. Stored
targets that n students read count as delta_Lgt = 1/n (scenarios.py). Compression after the fact is not included.
"""

import math
import re
from dataclasses import dataclass
from enum import Enum

from distillaw.accounting.architecture import Architecture, Block, Model, as_architecture, count_params
from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean

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
    per_sequence = 0
    for block in arch.blocks:
        attention = block.attention
        held = tokens if attention.window is None else min(tokens, attention.window)
        per_sequence += block.count * 2 * attention.kv_heads * attention.head_dim * held
    return ServingMemory(weights=count * weight_bytes, kv_cache=sequences * per_sequence * cache_bytes)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetScheme:
    """How the teacher's distribution at one position is written down."""

    name: str
    entries: int | None
    """k, ids kept; None for the full distribution."""
    value_bits: int
    """Bits of one probability, logit or count."""
    id_bits: int | None = None
    """Bits of one id; None for the fewest that hold the vocabulary, packed."""
    samples: int | None = None
    """N of `distillaw cache build`: ids are coded as a sorted set, with one bit per sample; None for the others."""
    extra_bytes: int = 0
    """Per token: logsumexp, gold-token log-probability, coefficients of a tail."""
    meaning: str = ""

    def bytes_per_token(self, vocab: int) -> int:
        """Bytes for one position.

        Raises:
            ConfigError: more entries than the vocabulary has, or ids too narrow for it.
        """
        if vocab < 2:
            raise ConfigError(f"vocab = {vocab}: it must be at least 2")
        if self.entries is None:
            return math.ceil(vocab * self.value_bits / 8) + self.extra_bytes
        needed = (vocab - 1).bit_length()
        bits = needed if self.id_bits is None else self.id_bits
        if self.samples is not None:
            ids = min(self.entries, vocab)
            return math.ceil((ids * (math.log2(vocab / ids) + 2) + self.samples) / 8) + self.extra_bytes
        if self.entries > vocab or bits < needed:
            raise ConfigError(
                f"{self.name}: {self.entries} ids of {bits} bits do not fit a vocabulary of {vocab} "
                f"({needed} bits each). Keep fewer entries or use wider ids"
            )
        return math.ceil(self.entries * (bits + self.value_bits) / 8) + self.extra_bytes


LOGSUMEXP_AND_GOLD = 8
"""4 bytes logsumexp, which other temperatures need, and 4 of the gold token: the teacher's CE for free."""
NAMED_SCHEMES = {
    "dense-fp32": TargetScheme(name="dense-fp32", entries=None, value_bits=32, meaning="full distribution"),
    "dense-bf16": TargetScheme(name="dense-bf16", entries=None, value_bits=16, meaning="full distribution"),
    "megatron-64": TargetScheme(
        name="megatron-64", entries=64, id_bits=24, value_bits=16, meaning="Megatron-LM: 5 B an entry before zstd"
    ),
    "distillkit-128": TargetScheme(
        name="distillkit-128",
        entries=128,
        value_bits=0,
        extra_bytes=16 * 2 + 6 * 4,
        meaning="DistillKit: 128 ids, 16 exact bf16 values, 6 coefficients for the rest",
    ),
    "distillkit-50": TargetScheme(
        name="distillkit-50",
        entries=50,
        value_bits=0,
        extra_bytes=1 * 2 + 3 * 4,
        meaning="DistillKit: 50 ids, 1 exact bf16 value, 3 coefficients for the rest",
    ),
}
"""Schemes without a free number."""
DISTINCT = (1.46, 0.712)
"""U = 1.46 N^0.712 distinct ids among N systematic samples: fitted at N 22 to 127 on Zipf-like distributions of 3.6
nats (U 13.2 to 46.2; benchmarks/targets/estimators.py). Other texts differ: `distillaw cache build --dry-run` tells."""
STORE_EXTRAS = 4
"""2 bytes of entropy and 2 of the gold token's log-probability, in fixed point."""
_PATTERN = re.compile(r"^(top|sampled|systematic)-(\d+)(?:-(packed|int32|int64|uint16|count32))?(\+extras)?$")
_TOP_LAYOUTS = {None: (None, 16), "packed": (None, 16), "int32": (32, 16), "uint16": (16, 16), "int64": (64, 32)}
_SAMPLED_LAYOUTS = {None: (None, 7), "packed": (None, 7), "count32": (32, 32)}
"""Bits of an id (None: the fewest) and of a value, by the word after the number."""
_FORMS = "top-K, top-K-int32, top-K-int64, top-K-uint16, sampled-N, sampled-N-count32 (any with +extras), systematic-N"
DEFAULT_SCHEME = "top-64+extras"
"""Packed ids with bf16 values, logsumexp and gold token: enough for a ghost token and other temperatures."""


def target_scheme(name: str) -> TargetScheme:
    """The scheme with a name such as `top-64`, `top-128-int32`, `sampled-12`, `dense-bf16`.

        top-K          packed ids, bf16 values         top-K-int32   int32 ids, fp16 values
        top-K-uint16   16-bit ids, fp16 values         top-K-int64   int64 ids, fp32 values
        sampled-N      N unique ids, 7-bit counts      sampled-N-count32   int32 ids, 32-bit counts
        systematic-N   N systematic samples as `distillaw cache build` writes them, entropy and gold token included
        +extras        logsumexp and gold token, 8 bytes more

    Raises:
        ConfigError: no such scheme.
    """
    if name in NAMED_SCHEMES:
        return NAMED_SCHEMES[name]
    match = _PATTERN.match(name)
    layouts = {("top", name): bits for name, bits in _TOP_LAYOUTS.items()}
    layouts |= {("sampled", name): bits for name, bits in _SAMPLED_LAYOUTS.items()}
    if match and match[1] == "systematic" and not match[3] and not match[4] and int(match[2]) >= 1:
        return _systematic(int(match[2]))
    if match is None or (match[1], match[3]) not in layouts or int(match[2]) < 1:
        known = ", ".join(sorted(NAMED_SCHEMES))
        raise ConfigError(
            f"cache scheme {name!r} is not known{did_you_mean(name, NAMED_SCHEMES)}. Write {_FORMS}, or one of {known}"
        )
    kind, entries = match[1], int(match[2])
    id_bits, value_bits = layouts[kind, match[3]]
    what = "most likely ids" if kind == "top" else "unique sampled ids with counts (arXiv 2503.16870)"
    return TargetScheme(
        name=name,
        entries=entries,
        id_bits=id_bits,
        value_bits=value_bits,
        extra_bytes=LOGSUMEXP_AND_GOLD if match[4] else 0,
        meaning=f"{entries} {what}",
    )


def _systematic(samples: int) -> TargetScheme:
    ids = max(1, min(samples, round(DISTINCT[0] * samples ** DISTINCT[1])))
    return TargetScheme(
        name=f"systematic-{samples}",
        entries=ids,
        value_bits=0,
        samples=samples,
        extra_bytes=STORE_EXTRAS,
        meaning=f"{samples} systematic samples on about {ids} ids (docs/targets.md)",
    )
