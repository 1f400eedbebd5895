"""Files that are never half written: atomic replacement, append-only logs, hashes.

Every file of a run or study goes through here. A full disk leaves the previous version in place.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from distillaw.errors import CacheError, RunError
from distillaw.runs.reading import parse_json, read_text


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it replaces `path`, on failure it is removed.

    Where `path` is a symbolic link, the file that it leads to is replaced.

    Raises:
        RunError: `path` is a folder, a device or a pipe.
    """
    refuse_no_file(path)
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def refuse_no_file(path: Path) -> None:
    """Refuse what is there and is no file: replacing /dev/null would take it from the whole machine.

    Raises:
        RunError: `path` is a folder, a device or a pipe.
    """
    if path.is_dir():
        raise RunError(f"{path}: a folder; give a file name, e.g. {path / 'NAME'}")
    if path.exists() and not path.is_file():
        raise RunError(f"{path}: a device or pipe, not a file; give a file name")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and flush it to disk.

    Raises:
        RunError: the disk is full or not writable; the previous version is intact.
    """
    try:
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise disk_error(path, error) from error


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write one JSON object atomically, at full float precision, NaN refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let a library write a file under a temporary name, then move it into place."""
    try:
        with replacing(path) as temporary:
            write(temporary)
    except OSError as error:
        raise disk_error(path, error) from error


_FULL = (errno.ENOSPC, errno.EDQUOT, 0)
"""No room; 0: what a library quoted, see `saving`."""
_NO_FILE = (errno.EISDIR, errno.EEXIST, errno.ENOTDIR)


def disk_error(path: Path, error: OSError) -> RunError:
    """One clear error for a write that failed, with what helps against it."""
    advice = "Choose another place"
    if error.errno in _FULL:
        advice = "Free space or choose another folder"
    elif error.errno in _NO_FILE:
        advice = "Give a file name in a folder; a file is in the way of a folder, or a folder of a file"
    return RunError(
        f"cannot write {path}: {error.strerror or error}. {advice}; everything finished before is intact and the "
        "same command continues"
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


def read_json(path: Path) -> dict[str, object]:
    """Read one JSON object.

    Raises:
        CacheError: missing, unreadable, or not a JSON object.
    """
    try:
        value = parse_json(read_text(path))
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CacheError(f"{path}: damaged, not JSON ({error}). Delete it to have it made again") from error
    if not isinstance(value, dict):
        raise CacheError(f"{path}: damaged, holds a {type(value).__name__} where an object belongs")
    return value


def read_json_lines(path: Path) -> list[dict[str, object]]:
    """The objects of an append-only log; a torn last line (a kill while writing) is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(parse_json(line))
        except ValueError:
            break
    return rows


def append_json_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Add objects to an append-only log; a torn last line (a kill while writing) is cut off first.

    Raises:
        RunError: the disk is full or not writable.
    """
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as stream:
            _cut_torn_line(stream)
            stream.write(text.encode())
    except OSError as error:
        raise disk_error(path, error) from error


def _cut_torn_line(stream: BinaryIO) -> None:
    end = stream.seek(0, os.SEEK_END)
    if end == 0:
        return
    stream.seek(end - 1)
    if stream.read(1) != b"\n":
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)


def content_hash(value: object, *, digits: int = 10) -> str:
    """SHA-256 of the canonical JSON of a value, shortened."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
