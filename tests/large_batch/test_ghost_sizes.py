"""The policy for every batch: each sample in one ghost, never a ghost of a single value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillaw.errors import ConfigError, DataError
from distillaw.large_batch.ghost import REMAINDERS, ghost_blocks, ghost_sizes


@pytest.mark.parametrize(
    ("batch", "ghost", "remainder", "values", "sizes"),
    [
        (256, 128, "keep", 1, [128, 128]),
        (130, 128, "keep", 1, [128, 2]),
        (257, 128, "keep", 1, [128, 129]),
        (257, 128, "keep", 4, [128, 128, 1]),
        (101, 10, "keep", 1, [10] * 9 + [11]),
        (385, 128, "keep", 1, [128, 128, 129]),
        (130, 128, "merge", 1, [130]),
        (300, 128, "merge", 1, [128, 172]),
        (130, 128, "balanced", 1, [65, 65]),
        (385, 128, "balanced", 1, [97, 96, 96, 96]),
        (3, 2, "balanced", 1, [3]),
        (256, 128, "error", 1, [128, 128]),
        (100, 128, "error", 1, [100]),
        (1, 128, "keep", 9, [1]),
        (3, 1, "keep", 9, [1, 1, 1]),
    ],
)
def test_ghosts_of_known_batches(batch, ghost, remainder, values, sizes):
    assert ghost_sizes(batch, ghost=ghost, remainder=remainder, values=values) == sizes


@given(st.integers(2, 2000), st.integers(1, 300), st.sampled_from(REMAINDERS), st.sampled_from([1, 2, 9]))
def test_every_sample_lies_in_one_ghost_that_has_a_variance(batch, ghost, remainder, values):
    if (remainder == "error" and batch > ghost and batch % ghost) or (ghost * values == 1):
        with pytest.raises((ConfigError, DataError)):
            ghost_sizes(batch, ghost=ghost, remainder=remainder, values=values)
        return
    sizes = ghost_sizes(batch, ghost=ghost, remainder=remainder, values=values)
    assert sum(sizes) == batch
    assert min(sizes) * values > 1
    assert all(size == ghost for size in sizes[:-1]) or remainder == "balanced"
    if remainder == "balanced":
        assert max(sizes) - min(sizes) <= 1


def test_refusals_name_the_numbers_and_the_way_out():
    with pytest.raises(
        DataError, match=r"batch of 130 is no multiple of ghost_batch_size=128 \(2 left over\).*drop_last"
    ):
        ghost_sizes(130, ghost=128, remainder="error")
    with pytest.raises(ConfigError, match=r"one value per channel in each of the 8 ghosts.*ghost_batch_size >= 2"):
        ghost_sizes(8, ghost=1)


@given(st.lists(st.integers(1, 4), max_size=40), st.integers(1, 5))
def test_blocks_hold_the_same_ghosts_in_order(sizes, at_once):
    blocks = ghost_blocks(sizes, at_once=at_once)
    assert [size for ghosts, size in blocks for _ in range(ghosts)] == sizes
    assert all(1 <= ghosts <= at_once for ghosts, _ in blocks)
