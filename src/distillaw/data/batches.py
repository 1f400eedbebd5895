"""The order in which a run reads its split: deterministic, seekable, the same prefix for every batch size.

A seed fixes a permutation of the windows; position p of the stream is window permutation[p]. A batch is the
next few positions, so two runs with one seed see the same text in the same order whatever their batch size,
and a run resumes by its position alone. Past the end the next epoch has its own permutation.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from distillaw.data.shards import Split


class WindowOrder(Protocol):
    """An order of a split's windows, by position in the stream."""

    split: Split

    def window_ids(self, first: int, count: int) -> np.ndarray:
        """Window indices at stream positions first .. first + count - 1, shape (count,)."""
        ...


@dataclass(slots=True, kw_only=True)
class BatchOrder:
    """Windows of a split in the order of one seed."""

    split: Split
    seed: int
    _epoch: int = field(default=-1, init=False)
    _permutation: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64), init=False)

    def window_ids(self, first: int, count: int) -> np.ndarray:
        """Window indices at stream positions first .. first + count - 1, shape (count,)."""
        size = self.split.num_windows
        ids = np.empty(count, dtype=np.int64)
        for offset in range(count):
            epoch, position = divmod(first + offset, size)
            ids[offset] = self._order(epoch)[position]
        return ids

    def batch(self, first: int, count: int) -> np.ndarray:
        """Token ids at stream positions first .. first + count - 1, shape (count, context + 1)."""
        return self.split.windows(self.window_ids(first, count))

    def _order(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._permutation = generator.permutation(self.split.num_windows)
            self._epoch = epoch
        return self._permutation


@dataclass(slots=True, kw_only=True)
class ForkedOrder:
    """The stream from one position on, for a reader whose own count of positions is another there.

    Order 0 is the stream as it goes on. Other orders shuffle what is left of the epoch, and every later epoch: they
    read no window that was read before the fork until all have been read.
    """

    base: BatchOrder
    origin: int
    """Stream position of the fork."""
    counted: int
    """What the reader counts at the fork."""
    order: int = 0
    split: Split = field(init=False)
    _epoch: int = field(default=-1, init=False)
    _places: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64), init=False)

    def __post_init__(self) -> None:
        self.split = self.base.split

    def window_ids(self, first: int, count: int) -> np.ndarray:
        """Window indices at the reader's positions first .. first + count - 1, shape (count,)."""
        start, size = self.origin + first - self.counted, self.split.num_windows
        assert start >= self.origin, "a position before the fork"
        if self.order == 0:
            return self.base.window_ids(start, count)
        ids = np.empty(count, dtype=np.int64)
        for offset in range(count):
            epoch, place = divmod(start + offset, size)
            ids[offset] = self.base.window_ids(epoch * size + self._shuffled(epoch)[place], 1)[0]
        return ids

    def _shuffled(self, epoch: int) -> np.ndarray:
        """Where each position of an epoch reads instead; those before the fork stay."""
        if epoch != self._epoch:
            size = self.split.num_windows
            kept = self.origin % size if epoch == self.origin // size else 0
            rng = np.random.default_rng([self.base.seed, self.order, epoch])
            self._places = np.concatenate([np.arange(kept), kept + rng.permutation(size - kept)])
            self._epoch = epoch
        return self._places
