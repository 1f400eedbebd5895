"""One block, the targets of one window (`context` positions), to bytes and back. numpy only.

    sampled   entropy u16[P]  loss u16[P]  runs bits[P N]  ids
    top-k     entropy u16[P]  loss u16[P]  value u16[I]    ids
    top-p     entropy u16[P]  loss u16[P]  count u16[P]    value u16[I]  ids
    full      entropy u16[P]  loss u16[P]  logits float32[P V]

`entropy` is that of the stored distribution, `loss` the teacher's negative log-probability of the token that follows
(temperature 1), `value` a kept id's negative log-probability; all in steps of 1/2048 nats. Everything is little-endian.

A position keeps a sorted set of ids. Its low bits stand side by side at a fixed width; the high bits are a unary code
of their increments (Elias 1974, Fano 1971), which starts afresh at every position. With U ids out of V that is about
U (log2(V / U) + 2) bits, within half a bit per id of what any code for unstructured sets needs. Both parts run over a
whole block, so that a block is decoded by a dozen numpy calls whatever it holds.
Shape suffixes: P position, N sample, K slot, I kept id (all positions one after another), V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillaw.targets.manifest import Scheme

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

MAX_WIDTH = 24
"""Widest fixed-width field, bits: a field that starts at any bit of a byte must lie within four bytes."""

NATS_PER_STEP = 1 / 2048
"""Resolution of entropies and negative log-probabilities in 16 bits: up to 32 nats, rounding below 0.00025."""
MAX_NATS = 65535 * NATS_PER_STEP
PROBABILITY = np.exp(-np.arange(1 << 16) * NATS_PER_STEP).astype(np.float32)
"""The probability that each 16-bit negative log-probability stands for."""

_COLUMNS = np.arange(8)


def pack_fixed(values_I: NDArray[np.integer], width: int) -> Bytes:
    """The low `width` bits of each value, side by side, least significant bit first."""
    bits = (values_I[:, None] >> np.arange(width)) & 1
    return np.packbits(bits.astype(np.uint8).ravel(), bitorder="little")


def unpack_fixed(packed: Bytes, count: int, width: int) -> NDArray[np.uint32]:
    """The `count` values that `pack_fixed` wrote, shape (count,).

    Eight fields of w bits fill w bytes exactly, so the bytes are rows of w in which each field has its own place.
    """
    if not width:
        return np.zeros(count, dtype=np.uint32)
    rows = -(-count // 8)
    padded = np.zeros(rows * width + 4, dtype=np.uint8)  # the last field's four bytes may reach beyond the end
    used = min(len(packed), rows * width)
    padded[:used] = packed[:used]
    words = np.ndarray((rows, width), dtype="<u4", buffer=padded, strides=(width, 1))
    first = _COLUMNS * width
    fields = words[:, first >> 3] >> (first & 7).astype(np.uint32)
    return (fields & np.uint32((1 << width) - 1)).ravel()[:count]


def pack_sets(ids_I: NDArray[np.integer], starts_P: Ints) -> bytes:
    """Encode sorted ids; each position begins at its entry of `starts_P` and holds at least one.

    Layout: one byte w; the low w bits of every id; then per id (increment of the high bits) zeros and a one.
    """
    ids = ids_I.astype(np.int64)
    width = _best_width(ids, starts_P)
    steps = _increments(ids >> width, starts_P)
    unary = np.zeros(int(steps.sum()) + len(ids), dtype=np.uint8)
    unary[np.cumsum(steps + 1) - 1] = 1
    return bytes([width]) + pack_fixed(ids, width).tobytes() + np.packbits(unary).tobytes()


def unpack_sets(packed: Bytes, starts_P: Ints, counts_P: Ints) -> Ints:
    """The ids that `pack_sets` wrote, shape (I,); ValueError: the bytes hold another number of ids."""
    total, width = int(counts_P.sum()), int(packed[0])
    split = 1 + -(-total * width // 8)
    low = unpack_fixed(packed[1:split], total, width)
    ones = np.flatnonzero(np.unpackbits(packed[split:]).view(np.bool_))
    if len(ones) != total:
        raise ValueError(f"{len(ones)} ids where {total} belong")
    zeros = ones - np.arange(total)  # zeros so far, over all positions
    before = np.concatenate([[0], zeros[starts_P[1:] - 1]])
    return ((zeros - np.repeat(before, counts_P)) << width) + low


def _increments(high_I: Ints, starts_P: Ints) -> Ints:
    steps = np.diff(high_I, prepend=0)
    steps[starts_P] = high_I[starts_P]
    return steps


def _best_width(ids: Ints, starts_P: Ints) -> int:
    """The width with the fewest bits: an id costs its low bits and one, a position the high bits of its last id."""
    last = ids[np.append(starts_P[1:], len(ids)) - 1]
    widths = range(min(int(ids.max()).bit_length(), MAX_WIDTH) + 1)
    return min(widths, key=lambda width: len(ids) * width + int((last >> width).sum()))


def pack_runs(ids_PN: NDArray[np.integer]) -> bytes:
    """One bit per sorted sample: is it the first of its id? Says how many ids a position has, and their counts."""
    first = np.ones(ids_PN.shape, dtype=np.uint8)
    first[:, 1:] = ids_PN[:, 1:] != ids_PN[:, :-1]
    return np.packbits(first).tobytes()


def unpack_runs(packed: Bytes, positions: int, samples: int) -> Ints:
    """Index of each first sample among positions x samples, ascending, shape (I,)."""
    return np.flatnonzero(np.unpackbits(packed, count=positions * samples).view(np.bool_))


def to_steps(nats: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Losses or entropies, nats, in 16-bit fixed point; what lies beyond `MAX_NATS` is stored as that."""
    return np.rint(np.clip(nats, 0, MAX_NATS) / NATS_PER_STEP).astype("<u2")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTargets:
    """Sparse targets of one window: position i holds `counts_P[i]` ids, ascending."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockScores:
    """What the teacher says of each position besides its targets, nats."""

    entropy: NDArray[np.float32]
    loss: NDArray[np.float32]


def encode_sampled(ids_PN: NDArray[np.integer], entropy_P: NDArray, loss_P: NDArray) -> bytes:
    """A block of sorted samples."""
    runs = pack_runs(ids_PN)
    first = unpack_runs(np.frombuffer(runs, np.uint8), *ids_PN.shape)
    starts = _starts(np.bincount(first // ids_PN.shape[1], minlength=len(ids_PN)))
    return _scores(entropy_P, loss_P) + runs + pack_sets(ids_PN.ravel()[first], starts)


def encode_top(
    ids_I: NDArray[np.integer],
    nats_I: NDArray,
    counts_P: NDArray[np.integer],
    *,
    fixed: bool,
    entropy_P: NDArray,
    loss_P: NDArray,
) -> bytes:
    """A block of most likely ids, ascending within a position; `fixed`: every position has equally many."""
    counts = b"" if fixed else counts_P.astype("<u2").tobytes()
    values = to_steps(nats_I).tobytes()
    return _scores(entropy_P, loss_P) + counts + values + pack_sets(ids_I, _starts(counts_P))


def encode_full(logits_PV: NDArray[np.float32], entropy_P: NDArray, loss_P: NDArray) -> bytes:
    """A block of logits as they are."""
    return _scores(entropy_P, loss_P) + logits_PV.astype("<f4").tobytes()


def decode_full(block: Bytes, positions: int) -> NDArray[np.float32]:
    """The logits of a block of `full`, shape (P, V)."""
    return block[4 * positions :].view("<f4").reshape(positions, -1)


def decode_scores(block: Bytes, positions: int) -> BlockScores:
    """Entropy and teacher loss of a block."""
    steps = block[: 4 * positions].view("<u2").astype(np.float32) * np.float32(NATS_PER_STEP)
    return BlockScores(entropy=steps[:positions], loss=steps[positions:])


def decode_targets(block: Bytes, positions: int, scheme: Scheme) -> BlockTargets:
    """The sparse targets of a block; ValueError: the bytes do not hold what the scheme says."""
    body = block[4 * positions :]
    if scheme.estimator == "sampled":
        return _decode_sampled(body, positions, scheme.samples)
    if scheme.estimator == "top-k":
        return _decode_top(body, np.full(positions, scheme.k, dtype=np.int64))
    counts = body[: 2 * positions].view("<u2").astype(np.int64)
    return _decode_top(body[2 * positions :], counts)


def _decode_sampled(body: Bytes, positions: int, samples: int) -> BlockTargets:
    size = -(-positions * samples // 8)
    first = unpack_runs(body[:size], positions, samples)
    counts = np.bincount(first // samples, minlength=positions)
    ids = unpack_sets(body[size:], _starts(counts), counts)
    repeats = np.diff(first, append=positions * samples)
    return BlockTargets(ids=ids, weights=repeats.astype(np.float32) / np.float32(samples), counts=counts)


def _decode_top(body: Bytes, counts: NDArray[np.int64]) -> BlockTargets:
    total = int(counts.sum())
    weights = PROBABILITY[body[: 2 * total].view("<u2")]
    ids = unpack_sets(body[2 * total :], _starts(counts), counts)
    return BlockTargets(ids=ids, weights=weights, counts=counts)


def _starts(counts_P: NDArray[np.integer]) -> NDArray[np.int64]:
    return (np.cumsum(counts_P) - counts_P).astype(np.int64)


def _scores(entropy_P: NDArray, loss_P: NDArray) -> bytes:
    return to_steps(entropy_P).tobytes() + to_steps(loss_P).tobytes()
