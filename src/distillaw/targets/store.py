"""A target store on disk: shards of blocks, any windows of them in any order, and whether it is what it says.

    store = TargetStore.open("cache", data_hash=tokens.data_hash, tokenizer_hash=..., context=128)
    targets = store.read(order.window_ids(first, count))     # torch: SparseTargets, or dense logits of `full`
    arrays = store.read_arrays(window_ids)                   # the same in numpy; no torch needed

A shard is the blocks of some windows in one file, with what is needed to find and to trust each of them:

    magic 8 | identity 16 | windows u32 | header crc32 u32 | loss f64 | entropy f64 | mass f64      (header)
    window ids u32[n] | offsets u64[n + 1] | block crc32 u32[n]                                     (index)
    block | block | ...

The identity is that of the store (manifest.py), so that a shard of another store is recognised by itself. Sums over
the shard's positions of teacher loss, entropy and kept mass stand in the header. The header's checksum covers
everything before the blocks, each block has its own, and both are checked whenever they are read. Shards are
memory-mapped when first touched. `ask_again` makes some groups of windows anew: on the machine that built the store the
bytes are equal; elsewhere sums round differently, which may move a sample to the next id now and then, so the losses
decide. Shape suffixes: B window, T position in the window, K slot, V vocabulary.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import CacheError
from distillaw.runs.files import disk_error, file_sha256
from distillaw.runs.places import replacing
from distillaw.targets import codec
from distillaw.targets.manifest import Manifest, ShardEntry, read_manifest, require_same, shard_name

if TYPE_CHECKING:
    import torch

    from distillaw.distill.heads import SparseTargets


REBUILD = "Run the same `distillaw cache build` again: it makes this shard anew and keeps the others"

MAGIC = b"DLTARGET"
_HEADER = struct.Struct("<8s16sIIddd")
HEADER_BYTES, INDEX_BYTES = _HEADER.size + 8, 16
"""Bytes of a shard besides its blocks: once, and per window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Sums over positions, nats and probability; means are taken over a whole store."""

    loss: float
    entropy: float
    mass: float

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(loss=self.loss + other.loss, entropy=self.entropy + other.entropy, mass=self.mass + other.mass)


def write_shard(path: Path, identity: str, windows: NDArray[np.integer], blocks: Sequence[bytes], sums: Sums) -> None:
    """Write a shard atomically: it is either absent or complete and on the disk.

    Raises:
        RunError: the disk is full or not writable; nothing that was there is touched.
    """
    header = _header(identity, windows, blocks, sums)
    try:
        with replacing(path) as temporary, temporary.open("wb") as stream:
            stream.write(header)
            stream.writelines(blocks)
            stream.flush()
            os.fsync(stream.fileno())
        _sync_folder(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error


def _header(identity: str, windows: NDArray[np.integer], blocks: Sequence[bytes], sums: Sums) -> bytes:
    count = len(blocks)
    ends = np.cumsum([_index_end(count), *(len(block) for block in blocks)])
    index = windows.astype("<u4").tobytes() + ends.astype("<u8").tobytes()
    index += np.array([zlib.crc32(block) for block in blocks], dtype="<u4").tobytes()
    fields = (MAGIC, identity.encode(), count, 0, sums.loss, sums.entropy, sums.mass)
    plain = _HEADER.pack(*fields) + index
    return plain[:28] + struct.pack("<I", zlib.crc32(plain)) + plain[32:]


def _index_end(windows: int) -> int:
    return HEADER_BYTES + INDEX_BYTES * windows


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """An opened shard: a memory map and its index."""

    path: Path
    windows: NDArray[np.uint32]
    sums: Sums
    _map: np.memmap
    _offsets: NDArray[np.uint64]
    _checksums: NDArray[np.uint32]

    @classmethod
    def open(cls, path: Path, identity: str) -> "Shard":
        """Map a shard and check its header; the blocks are checked when they are read.

        Raises:
            CacheError: missing, truncated, damaged, or of another store (the file is named).
        """
        if not path.exists():
            raise CacheError(f"{path}: the shard is missing. {REBUILD}")
        size = path.stat().st_size
        if size < _HEADER.size:
            raise CacheError(f"{path}: truncated, {size} bytes do not hold a header. {REBUILD}")
        data = np.memmap(path, dtype=np.uint8, mode="r")
        magic, owner, count, checksum, *sums = _HEADER.unpack(data[: _HEADER.size].tobytes())
        end = _index_end(count)
        plain = data[:end].tobytes()
        if magic != MAGIC:
            raise CacheError(f"{path}: not a shard of teacher targets, or its first bytes are damaged. {REBUILD}")
        if size < end or zlib.crc32(plain[:28] + bytes(4) + plain[32:]) != checksum:
            raise CacheError(f"{path}: the header is damaged or truncated (checksum differs). {REBUILD}")
        if owner != identity.encode():
            raise CacheError(
                f"{path}: the shard belongs to another store ({owner.decode()}, this one is {identity}). {REBUILD}"
            )
        offsets = np.frombuffer(plain, "<u8", count + 1, _HEADER.size + 4 * count)
        if size != offsets[-1]:
            raise CacheError(f"{path}: {size} bytes, its header says {offsets[-1]}: truncated. {REBUILD}")
        return cls(
            path=path,
            windows=np.frombuffer(plain, "<u4", count, _HEADER.size),
            sums=Sums(loss=sums[0], entropy=sums[1], mass=sums[2]),
            _map=data,
            _offsets=offsets,
            _checksums=np.frombuffer(plain, "<u4", count, end - 4 * count),
        )

    def block(self, index: int) -> NDArray[np.uint8]:
        """A copy of one block, shape (bytes,); CacheError: its checksum differs."""
        block = np.array(self._map[self._offsets[index] : self._offsets[index + 1]])
        if zlib.crc32(block.data) != self._checksums[index]:
            raise CacheError(
                f"{self.path}: the block of window {self.windows[index]} is damaged (checksum differs). {REBUILD}"
            )
        return block

    def check(self) -> None:
        """Read every block; CacheError: a checksum differs."""
        for index in range(len(self.windows)):
            self.block(index)


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
    def open(cls, folder: Path | str, *, temperature: float | None = None, **wanted: object) -> "TargetStore":
        """Open a finished store and refuse one that was made from something else.

        Args:
            temperature: the one the loss will use; any suits `full`.
            wanted: fields of its `StorePlan` that must have these values, e.g. data_hash (`TokenStore.data_hash`),
                tokenizer_hash, context, split, teacher_fingerprint, document_mask; None does not care.

        Raises:
            CacheError: missing, unfinished, damaged, or made from something else (both values named).
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        require_same(folder, manifest.plan, wanted)
        scheme = manifest.plan.scheme
        if temperature not in (None, scheme.temperature) and scheme.estimator != "full":
            raise CacheError(
                f"{folder}: the targets are at temperature {scheme.temperature:g}, {temperature:g} is asked for. "
                f"Sparse targets serve one temperature: build a store with --temperature {temperature:g}"
            )
        first = np.array([shard.first_window for shard in manifest.shards], dtype=np.int64)
        return cls(folder=folder, manifest=manifest, _first_windows=first)

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
        parts = [codec.decode_targets(block, plan.context, plan.scheme) for block in raw]
        scores = [codec.decode_scores(block, plan.context) for block in raw]
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
            ids=ids.reshape(*shape, slots),
            weights=weights,
            residual=residual,
            entropy=np.stack([score.entropy for score in scores]),
        )

    def read_logits(self, window_ids: Iterable[int]) -> NDArray[np.float32]:
        """Teacher logits of the given windows of a `full` store, shape (B, T, V).

        Raises:
            CacheError: a window is not covered, or a shard is damaged (it is named).
        """
        context = self.manifest.plan.context
        return np.stack([codec.decode_full(self.block(int(window)), context) for window in window_ids])

    def read(self, window_ids: Iterable[int]) -> "SparseTargets | torch.Tensor":
        """Targets of the given windows for `distill/`: `SparseTargets`, or logits (B, T, V) of a `full` store."""
        import torch

        from distillaw.distill.heads import SparseTargets

        if self.manifest.plan.scheme.estimator == "full":
            return torch.from_numpy(self.read_logits(window_ids))
        arrays = self.read_arrays(window_ids)
        residual = None if arrays.residual is None else torch.from_numpy(arrays.residual)
        return SparseTargets(
            ids=torch.from_numpy(arrays.ids),
            weights=torch.from_numpy(arrays.weights),
            residual=residual,
            entropy=torch.from_numpy(arrays.entropy),
            temperature=self.manifest.plan.scheme.temperature,
        )

    def loss(self, window_ids: Iterable[int]) -> NDArray[np.float32]:
        """The teacher's loss on the token that follows each position, nats, shape (B, T)."""
        context = self.manifest.plan.context
        return np.stack([codec.decode_scores(self.block(int(w)), context).loss for w in window_ids])

    def block(self, window: int) -> NDArray[np.uint8]:
        """The checked bytes of one window (codec.py).

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
        which = "" if plan.order_seed is None else f", those a student with data seed {plan.order_seed} reads first"
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


def check_files(folder: Path, manifest: Manifest) -> Iterator[str | None]:
    """Read every shard completely; yields per file what is wrong with it, or None."""
    for number, entry in enumerate(manifest.shards):
        yield _check_shard(folder / shard_name(number), entry, manifest.plan.identity)
    listed = {shard_name(number) for number in range(len(manifest.shards))}
    for path in sorted(folder.glob("targets-*.bin")):
        if path.name not in listed:
            yield f"{path}: not in the manifest, a shard of something else. Move it away"


def _check_shard(path: Path, entry: ShardEntry, identity: str) -> str | None:
    try:
        shard = Shard.open(path, identity)
        shard.check()
    except CacheError as error:
        return str(error)
    held = (len(shard.windows), int(shard.windows[0]), int(shard.windows[-1]))
    wanted = (entry.windows, entry.first_window, entry.last_window)
    if held != wanted:
        return f"{path}: holds windows {held[1]} to {held[2]}, the manifest says {wanted[1]} to {wanted[2]}: swapped"
    if (found := file_sha256(path)) != entry.sha256:
        return f"{path}: SHA-256 is {found}, the manifest says {entry.sha256}: altered"
    return None
