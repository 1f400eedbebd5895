"""Token shards on disk, a manifest that says what they are, and the order in which a run reads its split.

    data/manifest.json            counts, hashes, tokenizer, where the text came from
    data/tokenizer/               a Hugging Face tokenizer folder
    data/teacher-00000.bin ...    token ids, uint16 or uint32, documents separated by end-of-text
    data/validation-documents.npy first token of each held-out document, and the end of the last
    data/documents.npz            names of every split's documents, where the text is no world's
    data/teacher-pieces.npy ...   of token shards that lie elsewhere: (file, first id, ids) of what a split reads, int64

A split is an array of token windows. A seed fixes a permutation of them; position p of the stream is window
permutation[p]. A batch is the next few positions, so two runs with one seed see the same text in the same order
whatever their batch size, and a run resumes by its position alone. Past the end the next epoch has its own permutation.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from distillaw.data.token_files import Pieces, TokenFile, check_ids, open_again
from distillaw.errors import CacheError
from distillaw.runs.files import content_hash, file_sha256, read_json

FORMAT = 1
"""Of the manifest: raised when older programs would misread it."""
HELDOUT_BOUNDS = "validation-documents.npy"
DOCUMENTS = "documents.npz"
BESIDE = (HELDOUT_BOUNDS, DOCUMENTS)
"""Files beside the manifest that it vouches for; the others lie in the tokenizer's folder."""
_KEYS = {"spec", "tokenizer_hash", "vocab_size", "dtype", "documents", "characters", "splits", "data_hash", "files"}
_AGAIN = "Delete {} to tokenise again"
PIECES = "-pieces.npy"
OPEN_FILES = 256
"""Files of token shards that are mapped at once; each costs a file descriptor, of which 1,024 are usual."""
SHARD_TOKENS = 1 << 26
"""Tokens per shard file (128 MB as uint16): small enough to copy, large enough to be few."""


class ShardWriter:
    """Appends token ids of one split to shard files inside `folder`."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype) -> None:
        self._folder, self._split, self._dtype = folder, split, dtype
        self._parts: list[np.ndarray] = []
        self._pending = 0
        self.files: list[dict[str, object]] = []
        self.tokens = 0

    def append(self, ids: Sequence[int] | np.ndarray) -> None:
        """Add the ids of a document or several (end-of-text tokens included)."""
        self._parts.append(np.asarray(ids, dtype=self._dtype))
        self._pending += len(ids)
        self.tokens += len(ids)
        if self._pending >= SHARD_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one more shard."""
        if not self._pending:
            return
        path = self._folder / f"{self._split}-{len(self.files):05d}.bin"
        path.write_bytes(np.concatenate(self._parts).data)  # not tofile, which has no errno for a full disk
        self.files.append({"file": path.name, "tokens": self._pending, "sha256": file_sha256(path)})
        self._parts, self._pending = [], 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One split as windows of context + 1 tokens (inputs and next tokens overlap by one)."""

    name: str
    shards: tuple[np.ndarray | Pieces, ...]
    context: int
    vocab_size: int | None = None
    """Of ids that others wrote: every window is checked, since nobody has read them all."""

    @property
    def num_windows(self) -> int:
        """Complete windows; the ragged end of each shard is left out."""
        return sum(self._windows_of(shard) for shard in self.shards)

    @property
    def num_tokens(self) -> int:
        """Tokens one epoch trains on: windows times context."""
        return self.num_windows * self.context

    def _windows_of(self, shard: np.ndarray | Pieces) -> int:
        return (len(shard) - 1) // self.context

    def windows(self, indices: Iterable[int]) -> np.ndarray:
        """Token ids of the given windows, int64, shape (B, context + 1).

        Raises:
            DataError: an id beyond the vocabulary.
        """
        rows = []
        for index in indices:
            local = int(index)
            for shard in self.shards:
                if local < self._windows_of(shard):
                    start = local * self.context
                    rows.append(shard[start : start + self.context + 1])
                    break
                local -= self._windows_of(shard)
            else:
                raise IndexError(f"window {index} of {self.num_windows} in split {self.name!r}")
        tokens = np.stack(rows).astype(np.int64)
        if self.vocab_size is not None:
            check_ids(tokens, self.vocab_size, f"the {self.name} split, windows {list(indices)}")
        return tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStore:
    """An opened data folder."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> "TokenStore":
        """Open a data folder; sizes are always checked, checksums if `verify`.

        Raises:
            CacheError: missing, of another format, truncated or altered (the file is named).
        """
        manifest = read_json(folder / "manifest.json")
        if manifest.get("format") != FORMAT:
            raise CacheError(f"{folder}: data format {manifest.get('format')!r}, this version reads {FORMAT}")
        if missing := _KEYS - manifest.keys():
            what = f"{folder}/manifest.json: damaged, keys missing: {sorted(missing)}"
            raise CacheError(f"{what}. {_AGAIN.format(folder)}")
        store = cls(folder=folder, manifest=manifest)
        sources = manifest.get("sources", ())
        for source in sources:
            _check_source(folder / source["file"], source, verify, manifest["vocab_size"])
        for split in manifest["splits"].values():
            for entry in split["shards"]:
                if not entry["file"].endswith(PIECES):
                    _check_shard(folder / entry["file"], entry, np.dtype(manifest["dtype"]).itemsize, verify)
                elif verify and pieces_hash(folder / entry["file"], sources) != entry["sha256"]:
                    raise CacheError(f"{folder / entry['file']}: altered. {_AGAIN.format(folder)}")
        if verify:
            _check_files(folder, manifest["files"])
        return store

    @property
    def data_hash(self) -> str:
        """Names the tokens: tokenizer and every shard's checksum."""
        return str(self.manifest["data_hash"])

    @property
    def tokenizer_folder(self) -> Path:
        """The Hugging Face tokenizer folder."""
        return self.folder / "tokenizer"

    def split(self, name: str, *, context: int) -> Split:
        """A split as windows over memory-mapped shards; `union` is the teachers' text followed by the students'."""
        dtype = np.dtype(str(self.manifest["dtype"]))
        parts = ("teacher", "student") if name == "union" else (name,)
        entries = [entry for part in parts for entry in self.manifest["splits"][part]["shards"]]
        sources = self.manifest.get("sources", ())

        @lru_cache(maxsize=OPEN_FILES)
        def source(number: int) -> Any:
            return open_again(self.folder / sources[number]["file"], sources[number])

        shards = [
            Pieces(np.load(self.folder / entry["file"]), source)
            if entry["file"].endswith(PIECES)
            else np.memmap(self.folder / entry["file"], dtype=dtype, mode="r")
            for entry in entries
        ]
        vocab_size = self.manifest["vocab_size"] if sources else None
        return Split(name=name, shards=tuple(shards), context=context, vocab_size=vocab_size)

    def heldout_documents(self) -> list[np.ndarray]:
        """Token ids of each held-out document, each beginning with the end-of-text token."""
        bounds = np.load(self.folder / HELDOUT_BOUNDS)
        tokens = np.concatenate(self.split("validation", context=1).shards)
        return [tokens[a:b].astype(np.int64) for a, b in itertools.pairwise(bounds)]


def manifest_hash(tokenizer: str, splits: dict[str, dict]) -> str:
    """The data hash: tokenizer hash and shard checksums in order."""
    return content_hash([tokenizer, {n: [e["sha256"] for e in s["shards"]] for n, s in sorted(splits.items())}])


def _check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Checksums of the tokenizer's files and those beside the manifest: altered, they would change every loss."""
    for name, expected in hashes.items():
        path = folder / name if name in BESIDE else folder / "tokenizer" / name
        if not path.exists() or file_sha256(path) != expected:
            raise CacheError(f"{path}: missing, or its checksum differs from the manifest. {_AGAIN.format(folder)}")


def pieces_hash(path: Path, sources: Sequence[Mapping[str, Any]]) -> str:
    """Names what a split reads of token shards: its pieces and every file's checksum."""
    return content_hash([file_sha256(path), *(source["sha256"] for source in sources)], digits=64)


def _check_source(path: Path, source: Mapping[str, Any], verify: bool, vocab_size: int) -> None:
    """A file of token shards that others wrote: it must be what it was when the splits were made."""
    found = path.stat().st_size if path.exists() else -1
    if found == source["bytes"] and verify:
        file = TokenFile(path=path, ids=open_again(path, source), how=source)
        found = found if file.vouch(vocab_size) == source["sha256"] else -2
    if found != source["bytes"]:
        how = {-1: "missing", -2: "other ids"}.get(found, f"{found:,} bytes, not {source['bytes']:,}")
        raise CacheError(
            f"{path}: {how}, changed since {path.name} was divided into splits. Restore it, or delete the data folder "
            "to divide it anew"
        )


def _check_shard(path: Path, entry: dict, itemsize: int, verify: bool) -> None:
    if not path.exists():
        raise CacheError(f"{path}: the shard is missing. {_AGAIN.format(path.parent)}")
    expected = entry["tokens"] * itemsize
    if path.stat().st_size != expected:
        raise CacheError(
            f"{path}: {path.stat().st_size} bytes, the manifest says {expected}: the shard is truncated or "
            f"foreign. {_AGAIN.format(path.parent)}"
        )
    if verify and file_sha256(path) != entry["sha256"]:
        raise CacheError(f"{path}: checksum differs from the manifest. {_AGAIN.format(path.parent)}")


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
    _permutation: "np.ndarray | _Scrambled" = field(default_factory=lambda: np.empty(0, dtype=np.int64), init=False)

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

    def _order(self, epoch: int) -> "np.ndarray | _Scrambled":
        if epoch != self._epoch:
            generator, size = np.random.Generator(np.random.Philox(key=[self.seed, epoch])), self.split.num_windows
            listed = size <= LISTED_WINDOWS
            self._permutation = generator.permutation(size) if listed else _Scrambled(generator, size)
            self._epoch = epoch
        return self._permutation


LISTED_WINDOWS = 1 << 27
"""Windows whose permutation is a list, 1 GB at most; one of more is computed element by element."""


class _Scrambled:
    """A permutation of 0 .. size - 1 in no memory: a Feistel network on the bits, walked until it lies within.

    Six rounds of a 64-bit hash; Luby & Rackoff 1988 need four, cycle walking is Black & Rogaway 2002.
    """

    def __init__(self, generator: np.random.Generator, size: int) -> None:
        self._size, self._half = size, -(-(size - 1).bit_length() // 2)
        self._keys = [int(key) for key in generator.integers(1 << 63, size=6)]

    def __getitem__(self, position: int) -> int:
        mask, value = (1 << self._half) - 1, int(position)
        while True:
            left, right = value >> self._half, value & mask
            for key in self._keys:
                mixed = ((right ^ key) * 0x9E3779B97F4A7C15) & (1 << 64) - 1  # as splitmix64 does
                mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & (1 << 64) - 1
                left, right = right, left ^ (mixed ^ mixed >> 31) & mask
            value = left << self._half | right
            if value < self._size:
                return value


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
