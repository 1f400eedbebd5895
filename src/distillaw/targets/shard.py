"""A shard: the blocks of some windows in one file, with what is needed to find and to trust each of them.

    magic 8 | identity 16 | windows u32 | header crc32 u32 | loss f64 | entropy f64 | mass f64      (header)
    window ids u32[n] | offsets u64[n + 1] | block crc32 u32[n]                                     (index)
    block | block | ...

The identity is that of the store (manifest.py), so that a shard of another store is recognised by itself. Sums over
the shard's positions of teacher loss, entropy and kept mass stand in the header. The header's checksum covers
everything before the blocks, each block has its own, and both are checked whenever they are read.
"""

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import CacheError
from distillaw.runs.files import disk_error
from distillaw.runs.places import replacing

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
        return Sums(
            loss=self.loss + other.loss, entropy=self.entropy + other.entropy, mass=self.mass + other.mass
        )


def write_shard(
    path: Path, identity: str, windows: NDArray[np.integer], blocks: Sequence[bytes], sums: Sums
) -> None:
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
            raise CacheError(
                f"{path}: not a shard of teacher targets, or its first bytes are damaged. {REBUILD}"
            )
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
        """A copy of one block, shape (bytes,).

        Raises:
            CacheError: its checksum differs.
        """
        block = np.array(self._map[self._offsets[index] : self._offsets[index + 1]])
        if zlib.crc32(block.data) != self._checksums[index]:
            raise CacheError(
                f"{self.path}: the block of window {self.windows[index]} is damaged (checksum differs). {REBUILD}"
            )
        return block

    def check(self) -> None:
        """Read every block.

        Raises:
            CacheError: a checksum differs.
        """
        for index in range(len(self.windows)):
            self.block(index)
