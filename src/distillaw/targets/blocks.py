"""One block: the targets of one window (`context` positions), to bytes and back.

    sampled   entropy u16[P]  loss u16[P]  runs bits[P N]  ids
    top-k     entropy u16[P]  loss u16[P]  value u16[I]    ids
    top-p     entropy u16[P]  loss u16[P]  count u16[P]    value u16[I]  ids
    full      entropy u16[P]  loss u16[P]  logits float32[P V]

`entropy` is that of the stored distribution, `loss` the teacher's negative log-probability of the token that follows
(temperature 1), `value` a kept id's negative log-probability; all in steps of 1/2048 nats (codec.py, which also has
the code of the ids). Everything is little-endian.
Shape suffixes: P position, N sample, K slot, I kept id (all positions one after another), V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillaw.targets import codec
from distillaw.targets.scheme import Scheme


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
    runs = codec.pack_runs(ids_PN)
    first = codec.unpack_runs(np.frombuffer(runs, np.uint8), *ids_PN.shape)
    starts = _starts(np.bincount(first // ids_PN.shape[1], minlength=len(ids_PN)))
    return _scores(entropy_P, loss_P) + runs + codec.pack_sets(ids_PN.ravel()[first], starts)


def encode_top(
    ids_I: NDArray[np.integer], nats_I: NDArray, counts_P: NDArray[np.integer], *, fixed: bool,
    entropy_P: NDArray, loss_P: NDArray,
) -> bytes:  # fmt: skip
    """A block of most likely ids, ascending within a position; `fixed`: every position has equally many."""
    counts = b"" if fixed else counts_P.astype("<u2").tobytes()
    values = codec.to_steps(nats_I).tobytes()
    return _scores(entropy_P, loss_P) + counts + values + codec.pack_sets(ids_I, _starts(counts_P))


def encode_full(logits_PV: NDArray[np.float32], entropy_P: NDArray, loss_P: NDArray) -> bytes:
    """A block of logits as they are."""
    return _scores(entropy_P, loss_P) + logits_PV.astype("<f4").tobytes()


def decode_full(block: codec.Bytes, positions: int) -> NDArray[np.float32]:
    """The logits of a block of `full`, shape (P, V)."""
    return block[4 * positions :].view("<f4").reshape(positions, -1)


def decode_scores(block: codec.Bytes, positions: int) -> BlockScores:
    """Entropy and teacher loss of a block."""
    steps = block[: 4 * positions].view("<u2").astype(np.float32) * np.float32(codec.NATS_PER_STEP)
    return BlockScores(entropy=steps[:positions], loss=steps[positions:])


def decode_targets(block: codec.Bytes, positions: int, scheme: Scheme) -> BlockTargets:
    """The sparse targets of a block.

    Raises:
        ValueError: the bytes do not hold what the scheme says.
    """
    body = block[4 * positions :]
    if scheme.estimator == "sampled":
        return _decode_sampled(body, positions, scheme.samples)
    if scheme.estimator == "top-k":
        return _decode_top(body, np.full(positions, scheme.k, dtype=np.int64))
    counts = body[: 2 * positions].view("<u2").astype(np.int64)
    return _decode_top(body[2 * positions :], counts)


def _decode_sampled(body: codec.Bytes, positions: int, samples: int) -> BlockTargets:
    size = -(-positions * samples // 8)
    first = codec.unpack_runs(body[:size], positions, samples)
    counts = np.bincount(first // samples, minlength=positions)
    ids = codec.unpack_sets(body[size:], _starts(counts), counts)
    repeats = np.diff(first, append=positions * samples)
    return BlockTargets(ids=ids, weights=repeats.astype(np.float32) / np.float32(samples), counts=counts)


def _decode_top(body: codec.Bytes, counts: NDArray[np.int64]) -> BlockTargets:
    total = int(counts.sum())
    weights = codec.PROBABILITY[body[: 2 * total].view("<u2")]
    ids = codec.unpack_sets(body[2 * total :], _starts(counts), counts)
    return BlockTargets(ids=ids, weights=weights, counts=counts)


def _starts(counts_P: NDArray[np.integer]) -> NDArray[np.int64]:
    return (np.cumsum(counts_P) - counts_P).astype(np.int64)


def _scores(entropy_P: NDArray, loss_P: NDArray) -> bytes:
    return codec.to_steps(entropy_P).tobytes() + codec.to_steps(loss_P).tobytes()
