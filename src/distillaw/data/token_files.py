"""Token shards as other tools write them, read where they lie: ids are memory-mapped, never copied, never read through.

    NAME.bin + NAME.idx      Megatron-LM, NeMo, megatron-core; also named by NAME alone, as --data-path has it
    NAME.ds + NAME.ds.index  datatrove, nanotron
    NAME.npy                 NumPy: one long row, or rows of one length (each then a document); without its header: raw
    NAME.bin                 raw uint16 or uint32 (nanoGPT), with the header of llm.c where there is one
    a folder of save_to_disk, .arrow, .parquet   Hugging Face datasets: a column of lists of ids

Parquet is compressed and cannot be mapped: prepare.py copies its ids. A document begins where the format's index says
so, else after the tokenizer's end of text. Positions are Python's or 64-bit integers throughout. Torch-free.
"""

import bisect
import hashlib
import json
import mmap
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distillaw.errors import ConfigError, DataError

SUFFIXES = (".bin", ".npy", ".ds")
_IDX_MAGIC = b"MMIDIDX\x00\x00"
_IDX_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
"""Codes of megatron.core.datasets.indexed_dataset.DType; 6 and 7 are floats."""
_LLMC = {20240520: "<u2", 20240801: "<u4"}
"""First of the 256 int32 of llm.c's header (dev/data/data_common.py: GPT-2 and Llama 3 ids); the third counts ids."""
_LLMC_BYTES = 1024
_WHOLE = 1 << 28
"""Bytes of ids up to which a file is read whole to vouch for it, a second or so; of larger ones spread spans are."""
_SPANS, _SPAN = 256, 1 << 15
_LONGEST = 1 << 24
"""Ids among which an end of text is looked for, some 70 novels: none there, none anywhere."""
_UNTOLD = (
    "documents cannot be told apart, and splits are by document. Write the tokenizer's end-of-text id after every "
    "document, or give a format with an index (Megatron-LM, datatrove)"
)


class Pieces:
    """Pieces of arrays as one long array: a slice of it reads what it holds and no more.

    Args:
        table: (array, first element, elements) of each piece, int64, shape (pieces, 3).
        opened: an array by its number; called whenever elements of it are read.
    """

    def __init__(self, table: np.ndarray, opened: Callable[[int], Any]) -> None:
        self._table, self._opened = table, opened
        self._ends = np.cumsum(table[:, 2])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, span: slice) -> np.ndarray:
        first, last, _ = span.indices(len(self))
        piece, parts = int(np.searchsorted(self._ends, first, side="right")), []
        while first < last:
            array, start, count = self._table[piece].tolist()
            skipped = first - (int(self._ends[piece]) - count)
            taken = min(count - skipped, last - first)
            parts.append(self._opened(array)[start + skipped : start + skipped + taken])
            first, piece = first + taken, piece + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.empty(0, dtype=np.int64)])


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """One file of ids."""

    path: Path
    ids: Any
    """An array in one dimension: sliced, it gives numpy arrays of integers."""
    how: Mapping[str, Any]
    """What `open_again` needs: reader, dtype, offset, ids; column and chunks for Arrow."""
    start_of: Callable[[int], int] | None = None
    """Where document d begins; None: the format does not say."""
    documents: int = 0
    """How many documents `start_of` knows."""
    made_by: str = ""
    """The tokenizer, where the format names it."""

    def document_at(self, position: int) -> int:
        """The first document that begins at a position or later; only where the format has an index."""
        assert self.start_of is not None
        return bisect.bisect_left(range(self.documents), position, key=self.start_of)

    def next_start(self, position: int, end: int) -> int:
        """Where the first document begins that begins at a position or later; the number of ids if none does.

        Args:
            position: at least 1.
            end: the tokenizer's end of text, which ends a document where the format has no index.

        Raises:
            DataError: no end of text for very long.
        """
        size = len(self.ids)
        if self.start_of is not None:
            found = self.document_at(position)
            return self.start_of(found) if found < self.documents else size
        first, width = position - 1, 1 << 12
        while first < size:
            hits = np.flatnonzero(self.ids[first : first + width] == end)
            if len(hits):
                after = first + int(hits[0]) + 1
                while after < size and self.ids[after : after + 1][0] == end:
                    after += 1
                return after
            first, width = first + width, min(2 * width, _LONGEST)
            if first - position > 2 * _LONGEST:
                what = f"no end of text (id {end}) in {first - position:,} ids from {position:,} on"
                raise DataError(f"{self.path}: {what}, and no index beside it: {_UNTOLD}")
        return size

    def spans(self, step: int, end: int) -> Iterator[tuple[int, int]]:
        """(first, last) id of runs of the fewest whole documents that hold `step` ids; 1: of every document."""
        first = 0
        while first < len(self.ids):
            last = self.next_start(first + step, end)
            yield first, last
            first = last

    def document(self, first: int, last: int, end: int) -> np.ndarray:
        """Ids of the document that begins at `first`, up to `last` at most, without ends of text around it, int64."""
        ids = np.asarray(self.ids[first : min(last, self.next_start(first + 1, end))], dtype=np.int64)
        inner = np.flatnonzero(ids != end)
        return ids[inner[0] : inner[-1] + 1] if len(inner) else ids[:0]

    def vouch(self, vocab_size: int) -> str:
        """A checksum of the ids, SHA-256: of all, or of spans spread over a large file; they are checked on the way.

        Raises:
            DataError: an id beyond the vocabulary.
        """
        size = len(self.ids)
        if size * np.dtype(self.how["dtype"]).itemsize <= _WHOLE:
            firsts, width = range(0, size, 1 << 22), 1 << 22
        else:
            firsts, width = np.linspace(0, size - _SPAN, _SPANS).astype(np.int64).tolist(), _SPAN
        digest = hashlib.sha256()
        for first in firsts:
            part = self.ids[first : first + width]
            check_ids(part, vocab_size, f"{self.path}, ids {first:,} to {first + len(part) - 1:,}")
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def check_ids(ids: np.ndarray, vocab_size: int, where: str) -> None:
    """Refuse ids that a vocabulary does not have.

    Raises:
        DataError: naming the id.
    """
    low, high = int(ids.min(initial=0)), int(ids.max(initial=0))
    if low < 0 or high >= vocab_size:
        raise DataError(
            f"{where}: id {low if low < 0 else high:,} is beyond the vocabulary of {vocab_size:,}: another tokenizer "
            "made these ids (tokenizer in [data], --tokenizer of a command), or the file is of another type"
        )


def token_files(corpus: str, column: str) -> list[Path]:
    """The files of a corpus of token ids, in order; empty where the corpus is text.

    Args:
        column: of Arrow and Parquet: ids where it holds lists, text where it does not.

    Raises:
        ConfigError: an index without its ids, or a folder of both text and ids.
    """
    path = Path(corpus).expanduser()
    if path.suffix == ".idx" or (not path.exists() and Path(f"{path}.idx").exists()):
        ids = path.with_suffix(".bin") if path.suffix == ".idx" else Path(f"{path}.bin")
        if not ids.exists():
            raise ConfigError(f"{ids}: missing; Megatron-LM's index {ids.with_suffix('.idx').name} is beside it")
        return [ids]
    if (path / "state.json").exists():
        names = [each["filename"] for each in json.loads((path / "state.json").read_text())["_data_files"]]
        files = [path / name for name in names]
        return files if files and _holds_lists(files[0], column) else []
    if not path.is_dir():
        is_listed = path.suffix in (".arrow", ".parquet") and path.is_file() and _holds_lists(path, column)
        return [path] if is_listed or (path.suffix in SUFFIXES and path.exists()) else []
    files = sorted(each for each in path.rglob("*") if each.is_file())
    for each in files:
        if each.suffix == ".idx" and not each.with_suffix(".bin").exists():
            raise ConfigError(f"{each.with_suffix('.bin')}: missing; Megatron-LM's index {each.name} is beside it")
    ids = [each for each in files if each.suffix in SUFFIXES]
    tables = [each for each in files if each.suffix in (".arrow", ".parquet")]
    if tables and _holds_lists(tables[0], column):
        ids, tables = sorted(ids + tables), []
    text = [each for each in files if each.suffix in (".txt", ".jsonl")] + tables
    if ids and text:
        raise ConfigError(
            f"corpus {corpus!r}: holds text ({text[0].name}) and token ids ({ids[0].name}); give one of them, or a "
            "folder of one kind"
        )
    return ids


def open_tokens(path: Path, column: str, vocab_size: int, end: int) -> TokenFile:
    """A file of ids with its documents.

    Args:
        path: one of `token_files`, not Parquet.

    Raises:
        DataError: truncated, damaged, of another format, or of a type that cannot hold the vocabulary.
    """
    if path.suffix == ".arrow":
        found = _open_arrow(path, column)
    elif path.suffix == ".ds":
        found = _open_ds(path, vocab_size)
    elif path.suffix == ".bin" and path.with_suffix(".idx").exists():
        found = _open_megatron(path)
    elif path.suffix == ".npy" and _head(path, 6) == b"\x93NUMPY":
        found = _open_npy(path)
    else:
        found = _open_raw(path, vocab_size)
    dtype = np.dtype(found.how["dtype"])
    made_by = f" (by its metadata {found.made_by})" if found.made_by else ""
    if dtype.kind not in "iu":
        raise DataError(f"{path}: holds {dtype}, token ids are whole numbers")
    if np.iinfo(dtype).max + 1 < vocab_size:
        raise DataError(
            f"{path}: ids are {dtype}, which cannot hold the tokenizer's {vocab_size:,} entries: another tokenizer "
            f"made them{made_by}; name that one"
        )
    if found.start_of is None and len(found.ids) * dtype.itemsize <= _WHOLE:
        return _indexed(found, _starts_after(found, end))
    return found


def copy_parquet(source: Path, column: str, vocab_size: int, path: Path) -> TokenFile:
    """The ids of a Parquet file, which cannot be mapped, copied into a raw one.

    Raises:
        DataError: damaged, or an id beyond the vocabulary.
    """
    dtype, starts, count = "<u2" if vocab_size <= 1 << 16 else "<u4", [], 0
    with path.open("wb") as stream:
        for ids in parquet_documents(source, column):
            check_ids(ids, vocab_size, str(source))
            stream.write(ids.astype(dtype).tobytes())
            starts.append(count)
            count += len(ids)
    return _indexed(_mapped(path, dtype, 0, count), np.array(starts))


def parquet_documents(path: Path, column: str) -> Iterator[np.ndarray]:
    """Token ids of every row of a Parquet file that has some.

    Raises:
        DataError: damaged.
    """
    import pyarrow as pa
    from pyarrow import parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=[column]):
            for row in batch.column(0):
                if row.is_valid and len(row):
                    yield row.values.to_numpy(zero_copy_only=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged ({error})") from error


def open_again(path: Path, how: Mapping[str, Any]) -> Any:
    """The ids of a file as `TokenFile.ids` has them, opened from what the manifest says of it."""
    if how["reader"] == "arrow":
        return _open_arrow(path, how["column"]).ids
    with path.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    if len(mapped) > _WHOLE and hasattr(mapped, "madvise"):
        # windows are read here and there: a disk that reads ahead by 8 MB would read 4,000 times what is wanted
        mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype=how["dtype"], offset=how["offset"], count=how["ids"])


def _starts_after(file: TokenFile, end: int) -> np.ndarray:
    """Where documents begin by the ends of text among the ids, int64."""
    is_end = np.asarray(file.ids[0 : len(file.ids)]) == end
    starts = np.flatnonzero(is_end[:-1] & ~is_end[1:]) + 1
    starts = starts[1:] if len(starts) and is_end[: starts[0]].all() else starts  # ends before the first document
    if not is_end.any():
        raise DataError(
            f"{file.path}: no end of text (id {end}) among its {len(file.ids):,} ids, and no index beside it: {_UNTOLD}"
        )
    return np.concatenate([[0], starts])


def _indexed(file: TokenFile, starts: np.ndarray) -> TokenFile:
    return replace(file, start_of=lambda document: int(starts[document]), documents=len(starts))


def _mapped(path: Path, dtype: str, offset: int, count: int, **known: Any) -> TokenFile:
    if not count:
        raise DataError(f"{path}: holds no ids")
    how = {"reader": "map", "dtype": dtype, "offset": offset, "ids": count}
    return TokenFile(path=path, ids=open_again(path, how), how=how, **known)


def _open_megatron(path: Path) -> TokenFile:
    index = path.with_suffix(".idx")
    with index.open("rb") as stream:
        head = stream.read(34)
    if len(head) < 34 or not head.startswith(_IDX_MAGIC) or struct.unpack("<Q", head[9:17]) != (1,):
        raise DataError(f"{index}: no index of Megatron-LM (its magic {_IDX_MAGIC!r} or version 1 is not there)")
    code, sequences, bounds = struct.unpack("<BQQ", head[17:])
    if code not in _IDX_TYPES:
        raise DataError(f"{index}: ids of type code {code}, known are whole numbers: {sorted(_IDX_TYPES)}")
    needed = 34 + 12 * sequences + 8 * bounds
    if not sequences or index.stat().st_size < needed:
        raise DataError(
            f"{index}: {index.stat().st_size:,} bytes, its header's {sequences:,} sequences and {bounds:,} documents "
            f"need {needed:,}: truncated. Copy it again"
        )
    lengths = np.memmap(index, "<i4", "r", offset=34, shape=(sequences,))
    pointers = np.memmap(index, "<i8", "r", offset=34 + 4 * sequences, shape=(sequences,))
    heads = np.memmap(index, "<i8", "r", offset=34 + 12 * sequences, shape=(bounds,))
    size = np.dtype(_IDX_TYPES[code]).itemsize
    wanted = int(pointers[-1]) + int(lengths[-1]) * size
    _check_bytes(path, wanted, index.name)
    return _mapped(
        path,
        _IDX_TYPES[code],
        0,
        wanted // size,
        start_of=lambda d: int(pointers[heads[d]]) // size,
        documents=bounds - 1,
    )


def _open_ds(path: Path, vocab_size: int) -> TokenFile:
    beside = Path(f"{path}.metadata")
    made_by = beside.read_text().split("\n")[0].split("|")[0] if beside.exists() else ""
    index = Path(f"{path}.index")
    if not index.exists():
        return _open_raw(path, vocab_size, made_by)
    count, size = index.stat().st_size // 8, path.stat().st_size
    if not count or index.stat().st_size % 8:
        raise DataError(f"{index}: {index.stat().st_size} bytes are no list of document ends (uint64); copy it again")
    ends = np.memmap(index, "<u8", "r", shape=(count,))
    ids = int(ends[-1])
    types = {2: "<u2", 4: "<u4"}
    width = size // ids if ids else 0
    if width not in types or size != width * ids:
        raise DataError(
            f"{path}: {size:,} bytes, {index.name} ends at id {ids:,}, which is {2 * ids:,} bytes or {4 * ids:,}: "
            "truncated, or the index of another file. Copy both again"
        )
    start_of = lambda d: int(ends[d - 1]) if d else 0  # noqa: E731
    return _mapped(path, types[width], 0, ids, start_of=start_of, documents=count, made_by=made_by)


def _open_npy(path: Path) -> TokenFile:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{path}: truncated or damaged ({error}). Copy it again") from None
    if array.ndim not in (1, 2) or (array.ndim == 2 and np.isfortran(array)):
        raise DataError(f"{path}: an array of shape {array.shape}; ids are one row, or rows of one length")
    rows = {} if array.ndim == 1 else {"start_of": lambda d: d * array.shape[1], "documents": len(array)}
    return _mapped(path, array.dtype.str, array.offset, array.size, **rows)


def _open_raw(path: Path, vocab_size: int, made_by: str = "") -> TokenFile:
    """Ids alone. Nothing says how wide they are: as the vocabulary needs, but 32 bits where every other half is 0."""
    size, head = path.stat().st_size, _head(path, 1 << 16)
    if len(head) >= _LLMC_BYTES and (first := int(np.frombuffer(head[:4], "<i4")[0])) in _LLMC:
        count = int(np.frombuffer(head[8:12], "<i4")[0])
        _check_bytes(path, _LLMC_BYTES + count * np.dtype(_LLMC[first]).itemsize, "its header")
        return _mapped(path, _LLMC[first], _LLMC_BYTES, count)
    halves = np.frombuffer(head[: len(head) // 4 * 4], "<u2")
    width = 4 if vocab_size > 1 << 16 or (len(halves) > 2 and not halves[1::2].any()) else 2
    if size % width:
        raise DataError(
            f"{path}: {size:,} bytes are no whole number of ids of {width} bytes: truncated, or not ids. Copy it again"
        )
    return _mapped(path, {2: "<u2", 4: "<u4"}[width], 0, size // width, made_by=made_by)


def _check_bytes(path: Path, wanted: int, by: str) -> None:
    if (size := path.stat().st_size) != wanted:
        what = "truncated" if size < wanted else "longer than its index"
        raise DataError(f"{path}: {size:,} bytes, {by} says {wanted:,}: {what}. Copy both again")


def _head(path: Path, count: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(count)


def _holds_lists(path: Path, column: str) -> bool:
    """Whether a column of an Arrow or Parquet file is one of lists of integers; False also where there is none."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    try:
        schema = pq.read_schema(path) if path.suffix == ".parquet" else _arrow_reader(path).schema
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable {path.suffix[1:].title()} file ({error})") from None
    if column not in schema.names:
        return False
    kind = schema.field(column).type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and pa.types.is_integer(kind.value_type)


def _arrow_reader(path: Path) -> Any:
    import pyarrow as pa

    source = pa.memory_map(str(path))
    return pa.ipc.open_file(source) if _head(path, 6) == b"ARROW1" else pa.ipc.open_stream(source)


def _open_arrow(path: Path, column: str) -> TokenFile:
    import pyarrow as pa
    from pyarrow import compute as pc

    try:
        chunks = _arrow_reader(path).read_all().column(column).chunks
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path}: not a readable Arrow file with a column {column!r} ({error})") from None
    if any(chunk.null_count or chunk.values.null_count for chunk in chunks):
        raise DataError(f"{path}: column {column!r} has missing ids")
    values, starts, ids = [], [], 0
    for chunk in chunks:
        lengths = pc.list_value_length(chunk).to_numpy(zero_copy_only=False)
        values.append(chunk.flatten().to_numpy())
        starts.append(ids + np.cumsum(lengths, dtype=np.int64) - lengths)
        ids += len(values[-1])
    if not ids:
        raise DataError(f"{path}: holds no ids")
    table = np.array([(k, 0, len(each)) for k, each in enumerate(values)], dtype=np.int64)
    how = {"reader": "arrow", "column": column, "dtype": values[0].dtype.str, "ids": ids}
    opened = Pieces(table, values.__getitem__)
    return _indexed(TokenFile(path=path, ids=opened, how=how), np.concatenate(starts))
