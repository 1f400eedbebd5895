"""The order in which a run reads its split: deterministic, seekable, the same prefix for every batch size.

A seed fixes a permutation of the windows; position p of the stream is window permutation[p]. A batch is the
next few positions, so two runs with one seed see the same text in the same order whatever their batch size,
and a run resumes by its position alone. Past the end the next epoch has its own permutation.
"""

from dataclasses import dataclass, field

import numpy as np

from distillaw.data.shards import Split


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
