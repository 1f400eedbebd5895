"""What is packed is what is unpacked, whatever it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillaw.targets import codec
from distillaw.targets.manifest import Scheme

VOCABULARIES = st.sampled_from([1, 2, 300, 1024, 49_152, 128_256, 1 << 24])


@given(st.data(), st.integers(0, codec.MAX_WIDTH), st.integers(0, 70))
def test_fields_of_fixed_width(data, width, count):
    values = np.array(data.draw(st.lists(st.integers(0, 2**width - 1), min_size=count, max_size=count)), dtype=np.int64)
    packed = codec.pack_fixed(values, width)
    assert len(packed) == -(-count * width // 8)
    np.testing.assert_array_equal(codec.unpack_fixed(packed, count, width), values)


@st.composite
def sets(draw):
    """Sorted distinct ids per position, of any vocabulary."""
    vocab = draw(VOCABULARIES)
    rows = draw(
        st.lists(st.sets(st.integers(0, vocab - 1), min_size=1, max_size=min(vocab, 12)), min_size=1, max_size=9)
    )
    return [sorted(row) for row in rows]


@given(sets())
def test_sets_of_ids(rows):
    counts = np.array([len(row) for row in rows])
    starts = np.cumsum(counts) - counts
    ids = np.concatenate(rows)
    packed = np.frombuffer(codec.pack_sets(ids, starts), np.uint8)
    np.testing.assert_array_equal(codec.unpack_sets(packed, starts, counts), ids)


@given(st.integers(1, 40), st.integers(1, 9), VOCABULARIES, st.integers(0, 1000))
def test_sampled_blocks(samples, positions, vocab, seed):
    rng = np.random.default_rng(seed)
    drawn = np.sort((vocab * rng.random((positions, samples)) ** 4).astype(np.int64), axis=1)
    entropy, loss = rng.random(positions) * 9, rng.random(positions) * 30
    block = np.frombuffer(codec.encode_sampled(drawn, entropy, loss), np.uint8)
    targets = codec.decode_targets(block, positions, Scheme(samples=samples))
    first = np.cumsum(targets.counts) - targets.counts
    for position, start in enumerate(first):
        mine = slice(start, start + targets.counts[position])
        ids, counts = np.unique(drawn[position], return_counts=True)
        np.testing.assert_array_equal(targets.ids[mine], ids)
        np.testing.assert_array_equal(targets.weights[mine], counts.astype(np.float32) / np.float32(samples))
    scores = codec.decode_scores(block, positions)
    np.testing.assert_allclose(scores.entropy, entropy, atol=codec.NATS_PER_STEP * 0.51)
    np.testing.assert_allclose(scores.loss, loss, atol=codec.NATS_PER_STEP * 0.51)


@given(sets(), st.booleans())
def test_top_blocks(rows, equal):
    if equal:
        rows = [rows[0]] * len(rows)
    counts, ids = np.array([len(row) for row in rows]), np.concatenate(rows)
    nats = np.linspace(0, 31, len(ids))
    zeros = np.zeros(len(rows))
    scheme = Scheme(estimator="top-k", k=len(rows[0])) if equal else Scheme(estimator="top-p", k=len(ids), p=0.9)
    block = codec.encode_top(ids, nats, counts, fixed=equal, entropy_P=zeros, loss_P=zeros)
    targets = codec.decode_targets(np.frombuffer(block, np.uint8), len(rows), scheme)
    np.testing.assert_array_equal(targets.ids, ids)
    np.testing.assert_array_equal(targets.counts, counts)
    np.testing.assert_allclose(targets.weights, np.exp(-nats), rtol=2.6e-4)


def test_bytes_of_another_number_of_ids_are_refused():
    ids, starts = np.array([3, 7, 9]), np.array([0, 2])
    packed = np.frombuffer(codec.pack_sets(ids, starts), np.uint8)
    with pytest.raises(ValueError, match="3 ids where 2 belong"):
        codec.unpack_sets(packed, np.array([0, 1]), np.array([1, 1]))


def test_the_code_of_ids_is_close_to_the_smallest_possible():
    """log2 of the number of sets: what any code needs on average when all sets are equally likely."""
    from math import comb, log2

    rng, vocab, size, positions = np.random.default_rng(0), 49_152, 20, 256
    rows = np.sort(rng.permuted(np.tile(np.arange(vocab), (8, 1)), axis=1)[:, :size], axis=1)
    ids = np.tile(rows, (positions // 8, 1)).ravel()
    packed = codec.pack_sets(ids, np.arange(positions) * size)
    least = positions * log2(comb(vocab, size)) / 8
    assert least < len(packed) < 1.06 * least


def test_losses_beyond_the_range_are_stored_as_its_end():
    steps = codec.to_steps(np.array([0.0, -1e-6, 31.9, 40.0, np.inf]))
    np.testing.assert_array_equal(steps, [0, 0, round(31.9 * 2048), 65535, 65535])
