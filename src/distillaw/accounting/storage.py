"""Bytes of stored teacher targets, per token and in total, for every scheme in use.

    sparse:  ceil(k (ceil(log2 V) + value_bits) / 8)     (+4 logsumexp, +4 gold log-probability)
    store:   ceil((U (log2(V / U) + 2) + N) / 8) + 4     (`distillaw cache build`: N samples on U ids; docs/targets.md)
    dense:   V value_bytes

Bytes only: which scheme is biased and what that
costs is in docs/targets.md; renormalised top-k needs a CE term. Stored targets that n students read
count as delta_Lgt = 1/n (scenarios.py). Compression after the fact (zstd) is not included.
"""

import math
import re
from dataclasses import dataclass

from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean


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


def cache_bytes(scheme: TargetScheme, *, vocab: int, tokens: float) -> float:
    """Bytes of the targets of `tokens` positions."""
    return scheme.bytes_per_token(vocab) * tokens


LOGSUMEXP_AND_GOLD = 8
"""4 bytes logsumexp, which other temperatures need, and 4 of the gold token: the teacher's CE for free."""

NAMED_SCHEMES = {
    "dense-fp32": TargetScheme(name="dense-fp32", entries=None, value_bits=32, meaning="full distribution"),
    "dense-bf16": TargetScheme(name="dense-bf16", entries=None, value_bits=16, meaning="full distribution"),
    "megatron-64": TargetScheme(
        name="megatron-64", entries=64, id_bits=24, value_bits=16, meaning="Megatron-LM: 5 B an entry before zstd"
    ),
    "distillkit-128": TargetScheme(
        name="distillkit-128", entries=128, value_bits=0, extra_bytes=16 * 2 + 6 * 4,
        meaning="DistillKit: 128 ids, 16 exact bf16 values, 6 coefficients for the rest",
    ),
    "distillkit-50": TargetScheme(
        name="distillkit-50", entries=50, value_bits=0, extra_bytes=1 * 2 + 3 * 4,
        meaning="DistillKit: 50 ids, 1 exact bf16 value, 3 coefficients for the rest",
    ),
}  # fmt: skip
"""Schemes without a free number."""

DISTINCT = (1.46, 0.712)
"""U = 1.46 N^0.712 distinct ids among N systematic samples: fitted at N 22 to 127 on Zipf-like distributions of 3.6
nats (U 13.2 to 46.2; benchmarks/targets/estimators.py). Other texts differ: `distillaw cache build --dry-run` tells."""
STORE_EXTRAS = 4
"""2 bytes of entropy and 2 of the gold token's log-probability, in fixed point."""

_PATTERN = re.compile(r"^(top|sampled|systematic)-(\d+)(?:-(packed|int32|int64|uint16|count32))?(\+extras)?$")
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
    layouts = {
        ("top", None): (None, 16), ("top", "packed"): (None, 16), ("top", "int32"): (32, 16),
        ("top", "uint16"): (16, 16), ("top", "int64"): (64, 32),
        ("sampled", None): (None, 7), ("sampled", "packed"): (None, 7), ("sampled", "count32"): (32, 32),
    }  # fmt: skip
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
        name=name, entries=entries, id_bits=id_bits, value_bits=value_bits,
        extra_bytes=LOGSUMEXP_AND_GOLD if match[4] else 0, meaning=f"{entries} {what}",
    )  # fmt: skip


def _systematic(samples: int) -> TargetScheme:
    ids = max(1, min(samples, round(DISTINCT[0] * samples ** DISTINCT[1])))
    return TargetScheme(
        name=f"systematic-{samples}", entries=ids, value_bits=0, samples=samples, extra_bytes=STORE_EXTRAS,
        meaning=f"{samples} systematic samples on about {ids} ids (docs/targets.md)",
    )  # fmt: skip
