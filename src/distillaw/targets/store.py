"""A finished target store as training reads it: any windows, in any order, by any number of students.

    store = TargetStore.open("cache", data_hash=tokens.data_hash, tokenizer_hash=..., context=128)
    targets = store.read(order.window_ids(first, count))     # torch: SparseTargets, or dense logits of `full`
    arrays = store.read_arrays(window_ids)                   # the same in numpy; no torch needed

Shards are memory-mapped when first touched, and every block read is checked against its checksum.
Shape suffixes: B window, T position in the window, K slot, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import CacheError
from distillaw.targets import blocks
from distillaw.targets.manifest import Manifest, read_manifest, require_same, shard_name
from distillaw.targets.shard import REBUILD, Shard

if TYPE_CHECKING:
    import torch

    from distillaw.distill.targets import SparseTargets

OPEN_SHARDS = 256
"""Shards kept mapped at once; each holds a file descriptor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetArrays:
    """Sparse targets of some windows."""

    ids: NDArray[np.int64]
    """Token ids, ascending within a position; unused slots are 0."""
    weights: NDArray[np.float32]
    """Their probabilities; unused slots are 0."""
    residual: NDArray[np.float32] | None
    """Probability of all other ids together; None where the weights are an unbiased sample of the whole."""
    entropy: NDArray[np.float32]
    """Entropy of the teacher's whole distribution, nats."""


@dataclass(slots=True, kw_only=True)
class TargetStore:
    """An opened store."""

    folder: Path
    manifest: Manifest
    _first_windows: NDArray[np.int64]
    _shards: dict[int, Shard] = field(default_factory=dict)

    @classmethod
    def open(
        cls, folder: Path | str, *, data_hash: str | None = None, tokenizer_hash: str | None = None,
        context: int | None = None, split: str | None = None, teacher_fingerprint: str | None = None,
        temperature: float | None = None,
    ) -> "TargetStore":  # fmt: skip
        """Open a finished store and refuse one that was made from something else.

        Args:
            folder: where it lies.
            data_hash: of the token store whose windows will be asked for (`TokenStore.data_hash`).
            tokenizer_hash: of the student's tokenizer (`data/tokenizer.py`).
            context: positions per window.
            split: the split the windows are of.
            teacher_fingerprint: of the teacher that is expected (`models/source.py`).
            temperature: the one the loss will use; any suits `full`.

        Raises:
            CacheError: missing, unfinished, damaged, or made from something else (both values named).
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        require_same(folder, manifest.plan, {
            "data_hash": data_hash, "tokenizer_hash": tokenizer_hash, "context": context, "split": split,
            "teacher_fingerprint": teacher_fingerprint,
        })  # fmt: skip
        scheme = manifest.plan.scheme
        if temperature not in (None, scheme.temperature) and scheme.estimator != "full":
            raise CacheError(
                f"{folder}: the targets are at temperature {scheme.temperature:g}, {temperature:g} is asked for. "
                f"Sparse targets serve one temperature: build a store with --temperature {temperature:g}"
            )
        first = np.array([shard.first_window for shard in manifest.shards], dtype=np.int64)
        return cls(folder=folder, manifest=manifest, _first_windows=first)

    @property
    def num_windows(self) -> int:
        """Windows that can be read."""
        return self.manifest.plan.num_windows

    def read_arrays(self, window_ids: Iterable[int]) -> TargetArrays:
        """Sparse targets of the given windows, in the given order.

        Raises:
            CacheError: a window is not covered, or a shard is damaged (it is named).
            TypeError: the store is `full`.
        """
        plan = self.manifest.plan
        if plan.scheme.estimator == "full":
            raise TypeError("a full store holds logits: use read_logits")
        raw = [self.block(int(window)) for window in window_ids]
        parts = [blocks.decode_targets(block, plan.context, plan.scheme) for block in raw]
        scores = [blocks.decode_scores(block, plan.context) for block in raw]
        shape = (len(parts), plan.context)
        counts_R = np.concatenate([part.counts for part in parts])
        slots = int(counts_R.max())
        used = np.flatnonzero(np.arange(slots) < counts_R[:, None])
        ids = np.zeros(len(counts_R) * slots, dtype=np.int64)
        ids[used] = np.concatenate([part.ids for part in parts])
        weights = np.zeros(len(ids), dtype=np.float32)
        weights[used] = np.concatenate([part.weights for part in parts])
        weights = weights.reshape(*shape, slots)
        residual = None if plan.scheme.estimator == "sampled" else _residual(weights)
        return TargetArrays(
            ids=ids.reshape(*shape, slots), weights=weights, residual=residual,
            entropy=np.stack([score.entropy for score in scores]),
        )  # fmt: skip

    def read_logits(self, window_ids: Iterable[int]) -> NDArray[np.float32]:
        """Teacher logits of the given windows of a `full` store, shape (B, T, V).

        Raises:
            CacheError: a window is not covered, or a shard is damaged (it is named).
        """
        context = self.manifest.plan.context
        return np.stack([blocks.decode_full(self.block(int(window)), context) for window in window_ids])

    def read(self, window_ids: Iterable[int]) -> "SparseTargets | torch.Tensor":
        """Targets of the given windows for `distill/`: `SparseTargets`, or logits (B, T, V) of a `full` store."""
        import torch

        from distillaw.distill.targets import SparseTargets

        if self.manifest.plan.scheme.estimator == "full":
            return torch.from_numpy(self.read_logits(window_ids))
        arrays = self.read_arrays(window_ids)
        residual = None if arrays.residual is None else torch.from_numpy(arrays.residual)
        return SparseTargets(
            ids=torch.from_numpy(arrays.ids), weights=torch.from_numpy(arrays.weights), residual=residual,
            entropy=torch.from_numpy(arrays.entropy), temperature=self.manifest.plan.scheme.temperature,
        )  # fmt: skip

    def loss(self, window_ids: Iterable[int]) -> NDArray[np.float32]:
        """The teacher's loss on the token that follows each position, nats, shape (B, T)."""
        context = self.manifest.plan.context
        return np.stack([blocks.decode_scores(self.block(int(w)), context).loss for w in window_ids])

    def block(self, window: int) -> NDArray[np.uint8]:
        """The checked bytes of one window (blocks.py).

        Raises:
            CacheError: the window is not covered, or a shard is damaged (it is named).
        """
        number = int(np.searchsorted(self._first_windows, window, side="right")) - 1
        if number >= 0:
            shard = self._shard(number)
            index = int(np.searchsorted(shard.windows, window))
            if index < len(shard.windows) and shard.windows[index] == window:
                return shard.block(index)
        plan = self.manifest.plan
        which = (
            ""
            if plan.order_seed is None
            else f", those a student with data seed {plan.order_seed} reads first"
        )
        raise CacheError(
            f"{self.folder}: window {window} has no targets there: the store covers {plan.num_windows} of the "
            f"{plan.split} split's {plan.split_windows} windows{which}. Build a store with more --tokens, or without "
            "--tokens for the whole split"
        )

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            if len(self._shards) >= OPEN_SHARDS:
                self._shards.pop(next(iter(self._shards)))
            path, entry = self.folder / shard_name(number), self.manifest.shards[number]
            shard = Shard.open(path, self.manifest.plan.identity)
            if [shard.windows[0], shard.windows[-1]] != [entry.first_window, entry.last_window]:
                raise CacheError(f"{path}: holds other windows than the manifest says. {REBUILD}")
            self._shards[number] = shard
        return self._shards[number]


def _residual(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mass beyond the kept ids. Rounding may take their sum above 1 by less than 1e-3: then the weights give way."""
    total = weights.sum(axis=-1)
    weights /= np.maximum(total, np.float32(1))[..., None]
    return np.maximum(np.float32(1) - total, np.float32(0))
