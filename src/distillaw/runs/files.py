"""Files that are never half written and never believed when damaged: atomic replacement, logs, checksums, safe reading.

Every file of a run or study goes through here. A full disk leaves the previous version in place. A JSON object carries
the `checksum` of everything else in it; one that vouches for other files lists their SHA-256; a table carries the
checksum of its rows. What has no checksum (written by hand, or before there were any) is read as it is.

Files of others are read as files only: opening a pipe waits for a writer for ever, and a device may never end. What the
parsers of JSON and TOML raise beyond their own errors (nesting, endless whole numbers) becomes a ValueError.

    checkpoint.json   "files": the checkpoint's data          result.json     "files": scores, log, weights, tokenizer
    manifest.json     "files", "shards": tokens, tokenizer    conclusion.json "files": the laws of a study

Such a record is written last, so a folder that has it is whole; small files are checked whenever they are read, weights
when they are loaded.

Names of studies, runs and teachers are other people's. A terminal obeys control characters, an editor turns writing
round at others, a spreadsheet computes what begins with =. What leaves passes `plain` once: the terminal's streams
(cli/console.py), pages (report/page.py), figures (figures/style.py), tables (`csv_text`).
"""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from distillaw.errors import CacheError, DataError, RunError
from distillaw.quantities import format_bytes
from distillaw.runs.places import appending, replacing

if TYPE_CHECKING:
    import pyarrow as pa


CHECKSUM = "checksum"
"""Key of a JSON object, and of a Parquet file's metadata, that holds the checksum of the rest."""
_DIGITS = 10
"""Of a checksum, hexadecimal: against damage, not against people."""


def write_text(path: Path, text: str, *, known: bool = False) -> None:
    """Write a text file atomically and flush it to disk; `known` as of `replacing`.

    Raises:
        RunError: the disk is full or not writable; the previous version is intact.
    """
    try:
        with replacing(path, known=known) as temporary, temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise disk_error(path, error) from error


def write_json(path: Path, value: Mapping[str, object], *, is_ours: bool = True) -> None:
    """Write one JSON object atomically, at full float precision, NaN refused.

    Args:
        is_ours: whether it carries its checksum; not where others decide what its keys are.
    """
    whole = sealed(value) if is_ours else value
    write_text(path, json.dumps(whole, indent=2, allow_nan=False) + "\n")


def write_with(path: Path, write: Callable[[Path], object], *, known: bool = False) -> None:
    """Let a library write a file under a temporary name, then move it into place; `known` as of `replacing`."""
    try:
        with replacing(path, known=known) as temporary:
            write(temporary)
    except OSError as error:
        raise disk_error(path, error) from error


_FULL = (errno.ENOSPC, errno.EDQUOT, 0)
"""No room; 0: what a library quoted, see `saving`."""
_NO_FILE = (errno.EISDIR, errno.EEXIST, errno.ENOTDIR)


def disk_error(path: Path, error: OSError) -> RunError:
    """One clear error for a write that failed, with what helps against it."""
    advice = "Choose another place"
    if error.errno in _FULL or " written" in str(error):  # numpy: 998400 requested and 4032 written
        advice = "Free space or choose another folder"
    elif error.errno in _NO_FILE:
        advice = "Give a file name in a folder; a file is in the way of a folder, or a folder of a file"
    return RunError(
        f"cannot write {path}: {error.strerror or error}. {advice}; everything finished before is intact and the "
        "same command continues"
    )


def require_space(folder: Path, needed: float, *, besides: str = "") -> None:
    """Refuse what has no room where a folder is, or is to be; `besides`: what else would help.

    Raises:
        RunError: fewer than `needed` bytes are free.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise RunError(
            f"{folder}: {format_bytes(free)} free, about {format_bytes(needed)} more are needed. Free space or choose "
            f"another folder with --out{besides}"
        )


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn what libraries raise when a disk is full into one clear error.

    The Rust libraries under transformers raise plain exceptions of their own that only quote the system's message.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            raise disk_error(path, error) from error
        if "os error" in str(error) or "No space left" in str(error):
            raise disk_error(path, OSError(0, str(error))) from error
        raise


def as_read(value: Any) -> Any:
    """A value as its JSON gives it back: tuples are lists, keys are text; what can only be named (a path) is text."""
    return json.loads(json.dumps(value, default=str))


def sealed(value: Mapping[str, object]) -> dict[str, object]:
    """A JSON object with the checksum of its content as a reader will see it."""
    plain = json.loads(json.dumps({key: value[key] for key in value if key != CHECKSUM}, allow_nan=False))
    return {**plain, CHECKSUM: content_hash(plain)}


def unsealed(value: dict[str, Any], path: Path) -> dict[str, Any]:
    """What `sealed` was given; an object without a checksum is as it is.

    Raises:
        CacheError: the content does not have that checksum.
    """
    seal = value.get(CHECKSUM)
    if not isinstance(seal, str) or len(seal) != _DIGITS:  # none, or somebody else's key of this name
        return value
    plain = {key: value[key] for key in value if key != CHECKSUM}
    with contextlib.suppress(ValueError):  # a number that JSON has no word for was not written by us
        if content_hash(plain) == seal:
            return plain
    raise CacheError(
        f"{path}: damaged, its content does not have the checksum that it was written with. Restore it from a copy, or "
        f"delete it to have it made again; if you changed it on purpose, remove its `{CHECKSUM}`"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object, without its checksum; what its values are, whoever reads them knows.

    Raises:
        CacheError: missing, unreadable, not a JSON object, or not what was written.
    """
    try:
        value = parse_json(read_text(path))
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CacheError(f"{path}: damaged, not JSON ({error}). Delete it to have it made again") from error
    if not isinstance(value, dict):
        raise CacheError(f"{path}: damaged, holds a {type(value).__name__} where an object belongs")
    return unsealed(value, path)


def read_json_lines(path: Path, *, past_torn: bool = False) -> list[dict[str, Any]]:
    """The objects of an append-only log; a torn last line (a kill while writing) is left out.

    Args:
        past_torn: go on after a line that is no object, for what people read; else it ends what counts.
    """
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # no other break ends a row
        try:
            row = parse_json(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif not past_torn:
            break
    return rows


_BREAKS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}
"""Line breaks of Unicode that JSON leaves as they are; a row is one line by every count."""


def json_line(row: Mapping[str, object]) -> str:
    """A row of a log, as every log has it."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False).translate(_BREAKS) + "\n"


def append_json_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Add objects to an append-only log, to the disk; a torn last line (a kill while writing) is cut off first.

    Raises:
        RunError: the disk is full or not writable.
    """
    text = "".join(map(json_line, rows))
    try:
        with appending(path, binary=True) as stream:
            _cut_torn_line(stream)
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())  # checkpoints, which are, must not outlive what was logged before them
    except OSError as error:
        raise disk_error(path, error) from error


def _cut_torn_line(stream: IO[bytes]) -> None:
    end = stream.seek(0, os.SEEK_END)
    if end == 0:
        return
    stream.seek(end - 1)
    if stream.read(1) != b"\n":
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)


def content_hash(value: object, *, digits: int = _DIGITS) -> str:
    """SHA-256 of the canonical JSON of a value, shortened."""
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()[:digits]


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


T = TypeVar("T")
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def require_file(path: Path) -> Path:
    """The path, if opening it cannot wait for ever: a file, or a folder (which says so itself when read).

    Raises:
        OSError: nothing there, or a pipe, a device or a socket; `strerror` says which.
    """
    kind = _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    if kind is not None:
        raise OSError(errno.EINVAL, f"{kind}, not a file", str(path))
    return path


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; OSError as in `require_file`."""
    return require_file(path).read_bytes()


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        OSError: as in `require_file`.
        UnicodeDecodeError: not UTF-8.
    """
    return require_file(path).read_text(encoding="utf-8-sig")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON, nested too deeply, or with a number too long to be one.
    """
    return _parsed(json.loads, text)


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text; ValueError as in `parse_json`."""
    return _parsed(tomllib.loads, text)


def _parsed(parse: Callable[[Any], T], text: Any) -> T:
    try:
        return parse(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise
    except ValueError as error:
        if "digits" in str(error):
            raise ValueError("a whole number of more than 4,300 digits") from None
        raise


_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)
"""All controls but tab and line feed, what turns the direction of writing, halves of characters."""


def plain(text: str) -> str:
    r"""The text with what is no visible character spelt out, as `\x1b`."""
    return text if text.isascii() and text.isprintable() else _FORBIDDEN.sub(_spelt, text)


def _spelt(match: re.Match[str]) -> str:
    point = ord(match[0])
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def cell(value: object) -> object:
    """A cell of a table that no spreadsheet takes for a formula: text that begins like one gets an apostrophe."""
    if not isinstance(value, str) or not value.lstrip().startswith(("=", "+", "-", "@")):
        return plain(value) if isinstance(value, str) else value
    try:
        float(value)
    except ValueError:
        return "'" + plain(value)
    return value


def csv_text(rows: Iterable[Mapping[str, object]]) -> str:
    """A table as CSV; the first row has all columns."""
    table = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, [cell(name) for name in table[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({cell(name): cell(value) for name, value in row.items()} for row in table)
    return text.getvalue()


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
