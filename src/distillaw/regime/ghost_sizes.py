"""How a batch is cut into ghosts: the stated policy for every batch size, ragged ones included. Torch-free.

Ghosts are contiguous slices (Hoffer et al. 2017, arXiv:1705.08741, Algorithm 1), never interleaved samples. Every
sample lies in exactly one ghost, and no ghost holds a single value per channel, which has no variance.
"""

from itertools import groupby
from typing import Literal, get_args

from distillaw.errors import ConfigError, DataError

Remainder = Literal["keep", "merge", "balanced", "error"]
REMAINDERS: tuple[str, ...] = get_args(Remainder)


def ghost_sizes(batch: int, *, ghost: int, remainder: Remainder = "keep", values: int = 1) -> list[int]:
    """Samples of each ghost, in order; they sum to the batch.

    A batch of at most one ghost is one ghost. Otherwise, with r = batch mod ghost left over:

        keep      full ghosts and a last one of r samples
        merge     full ghosts, the last one with the r samples on top
        balanced  ceil(batch / ghost) ghosts whose sizes differ by one at most, the larger ones first
        error     refused

    A last ghost of a single value per channel joins the one before it, under every policy.

    Args:
        batch: samples, >= 0.
        ghost: samples per ghost, >= 1.
        remainder: the policy for a batch that is no multiple of the ghost.
        values: values per sample and channel: 1 for features, height times width for maps.

    Raises:
        ConfigError: ghosts of one sample with one value per channel.
        DataError: a ragged batch under "error".
    """
    if batch <= ghost:
        return [batch]
    if ghost * values == 1:
        raise ConfigError(
            f"ghost batch norm: ghost_batch_size=1 leaves one value per channel in each of the {batch} ghosts (inputs "
            "without spatial extent), and one value has no variance; choose ghost_batch_size >= 2"
        )
    full, left = batch // ghost, batch % ghost  # torch.compile traces these, not divmod
    if not left:
        return [ghost] * full
    if remainder == "error":
        raise DataError(
            f'ghost batch norm: a batch of {batch} is no multiple of ghost_batch_size={ghost} ({left} left over) and '
            'remainder="error"; drop the last batch (DataLoader(drop_last=True)) or choose remainder="keep", "merge" '
            'or "balanced"'
        )  # fmt: skip
    return _with_company(_cut(batch, full, ghost, remainder), values)


def _cut(batch: int, full: int, ghost: int, remainder: Remainder) -> list[int]:
    left = batch - full * ghost
    if remainder == "merge":
        return [ghost] * (full - 1) + [ghost + left]
    if remainder == "balanced":
        size, larger = batch // (full + 1), batch % (full + 1)
        return [size + 1] * larger + [size] * (full + 1 - larger)
    return [ghost] * full + [left]


def _with_company(sizes: list[int], values: int) -> list[int]:
    """The same ghosts, but none of a single value per channel; only the last can be one."""
    if sizes[-1] * values > 1:
        return sizes
    return [*sizes[:-2], sizes[-2] + sizes[-1]]


def ghost_blocks(sizes: list[int], *, at_once: int) -> list[tuple[int, int]]:
    """Runs of equal ghosts, as (ghosts, samples per ghost), at most `at_once` ghosts each."""
    blocks = []
    for size, run in groupby(sizes):
        number = len(list(run))
        blocks += [(min(at_once, number - first), size) for first in range(0, number, at_once)]
    return blocks
