"""What a record vouches for beside itself: SHA-256 of its folder's files; and tables with the checksum of their rows.

    checkpoint.json   "files": the checkpoint's data          result.json     "files": scores, log, weights, tokenizer
    manifest.json     "files", "shards": tokens, tokenizer    conclusion.json "files": the laws of a study

The record itself carries its own checksum (runs/files.py). It is written last, so a folder that has it is whole; small
files are checked whenever they are read, weights when they are loaded.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.errors import CacheError, DataError
from distillaw.runs.files import CHECKSUM, file_sha256, read_json, write_with

if TYPE_CHECKING:
    import pyarrow as pa

FILES = "files"
"""Key of a record: {path below its folder: SHA-256}."""
RESULT = "result.json"


def digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """What a record says of some files below its folder."""
    return {file.relative_to(folder).as_posix(): file_sha256(file) for file in sorted(files)}


def vouched(record: Mapping[str, object]) -> dict[str, str]:
    """The files that a record lists; none in one that was written before there were checksums, or by hand."""
    files = record.get(FILES)
    return {str(name): str(digest) for name, digest in files.items()} if isinstance(files, Mapping) else {}


def check_files(folder: Path, record: Mapping[str, object], names: Iterable[str], *, remedy: str) -> None:
    """Compare files with what their record says of them; those that it does not list are left out.

    Raises:
        CacheError: one is missing or not what was written (it is named, with the remedy).
    """
    listed = vouched(record)
    for name in names:
        if name in listed:
            check_file(folder / name, listed[name], remedy=remedy)


def check_file(file: Path, digest: str, *, remedy: str) -> None:
    """Compare a file with the SHA-256 that it was written with.

    Raises:
        CacheError: missing, or another.
    """
    if not file.exists():
        raise CacheError(f"{file}: missing. {remedy}")
    if file_sha256(file) != digest:
        raise CacheError(f"{file}: damaged, not the bytes that were written (SHA-256 differs). {remedy}")


def check_model(folder: Path) -> None:
    """Refuse the weights, configuration or tokenizer of a run of ours that are not what training wrote.

    The record of a run lies beside its model or, of a fine-tuned one, above it; other models have none.

    Raises:
        CacheError: a file is missing or damaged.
    """
    for home in (folder, folder.parent):
        if (home / RESULT).is_file():
            record = read_json(home / RESULT)
            names = [name for name in vouched(record) if (home / name).parent == folder]
            check_files(home, record, names, remedy="Restore it from a copy, or train the model again")


def write_table(table: "pa.Table", file: Path) -> None:
    """Write a Parquet file with the checksum of its rows in its metadata.

    Raises:
        RunError: the disk is full or not writable.
    """
    from pyarrow import parquet as pq

    marked = table.replace_schema_metadata({**(table.schema.metadata or {}), CHECKSUM: _rows_checksum(table)})
    write_with(file, lambda path: pq.write_table(marked, path))


def check_table(table: "pa.Table", file: Path) -> "pa.Table":
    """A table as it was read from a file; one without a checksum is as it is.

    Raises:
        DataError: its rows are not those that were written.
    """
    seal = (table.schema.metadata or {}).get(CHECKSUM.encode())
    if seal is not None and seal.decode("ascii", "replace") != _rows_checksum(table):
        raise DataError(
            f"{file}: damaged, its rows do not have the checksum that they were written with. Restore it from a copy, "
            f"or delete it: `distillaw study run` writes it from the runs again. If you changed it on purpose, drop "
            f"{CHECKSUM!r} from its metadata"
        )
    return table


def _rows_checksum(table: "pa.Table") -> str:
    """SHA-256 of names, types and values, shortened: how the file packs them does not matter."""
    digest = hashlib.sha256()
    for name in table.column_names:
        column = table.column(name)
        digest.update(f"{name} {column.type} {len(column)} ".encode())
        digest.update(column.is_null().to_numpy().tobytes())
        digest.update(_bytes(column))
    return digest.hexdigest()[:16]


def _bytes(column: "pa.ChunkedArray") -> bytes:
    import pyarrow as pa

    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column.fill_null(0).to_numpy().tobytes()
    values = column.to_numpy().tolist() if pa.types.is_string(column.type) else column.to_pylist()
    return json.dumps(values, default=str).encode()
