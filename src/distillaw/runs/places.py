"""What we may write into, replace and remove: what is ours, and nothing else. No other module does any of it.

    .distillaw                     in a folder of ours; written before anything else is put there
    .distillaw-WRITER-N.tmp        a file or folder on its way to its name; WRITER says which process makes it

A folder is ours if it holds the file .distillaw. One that is missing or empty becomes ours; any other is refused before
anything is written. A file is replaced if it is empty, lies in a folder of ours, or says that distillaw generated it;
one that a user names is replaced only if it is empty or says so. Links are never followed to what is not ours.
"""

import contextlib
import itertools
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from distillaw.errors import ConfigError, RunError
from distillaw.runs.process import is_dead, writer
from distillaw.version import __version__

MARK = ".distillaw"
_ABOUT = (
    f"This folder was made by distillaw {__version__}, which may replace and remove files in it. Without this file it "
    "writes nothing here.\n"
)
GENERATOR = f"distillaw {__version__}"
"""What a file of ours says of who generated it."""
_SAYS_SO = (
    b'<meta name="generator" content="distillaw ',
    b'"generator": "distillaw ',
    b'"format": "distillaw-',  # a fitted law
    b"<dc:title>distillaw</dc:title>",  # SVG
    b"Software\0distillaw",  # PNG
    b"/Creator (distillaw)",  # PDF
)
_LOOK_BYTES = 1 << 16
_TEMPORARY = re.compile(r"\.distillaw-(\d+-\w*-[0-9a-f]{8})-\d+\.tmp")
_numbers = itertools.count()


def is_ours(folder: Path) -> bool:
    """Whether a folder carries our mark."""
    return _is_plain_file(folder / MARK)


def says_ours(file: Path) -> bool:
    """Whether a file says, near its beginning or its end, that distillaw generated it."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_LOOK_BYTES)
            stream.seek(max(len(head), stream.seek(0, os.SEEK_END) - _LOOK_BYTES))
            text = head + stream.read()
    except OSError:
        return False
    return any(words in text for words in _SAYS_SO)


def check_folder(folder: Path, option: str = "--out") -> None:
    """Refuse a folder that is not ours to write into; writes nothing itself.

    Args:
        folder: ours, empty, or still to be made.
        option: what the user named it with.

    Raises:
        ConfigError: a file or a broken link is there, it holds something else, or it cannot be written.
    """
    place = Path.cwd() / folder
    there = _nearest(place)
    if not there.is_dir():
        what = "a broken link" if there.is_symlink() else "a file, not a folder"
        raise ConfigError(f"{option} {folder}: {there} is {what}; choose another place")
    try:
        found = [] if there != place or is_ours(place) else _strangers(place)
    except OSError as error:
        raise ConfigError(
            f"{option} {folder}: cannot be read ({error.strerror}); choose another place"
        ) from None
    if found:
        named = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise ConfigError(
            f"{option} {folder}: the folder holds what distillaw has not made ({named}), so nothing is written there; "
            f"name a new or empty one (one of an earlier version becomes usable by: touch {folder / MARK})"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {folder}: {there} cannot be written to; choose another place")


def claim_folder(folder: Path, option: str = "--out") -> None:
    """Make a folder ours: made if missing, marked before anything else is in it.

    Raises:
        ConfigError: as `check_folder`.
        RunError: the disk is full or not writable.
    """
    if is_ours(folder):
        return
    check_folder(folder, option)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _mark(folder)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be used as a folder ({error.strerror}); choose another one with {option}"
        ) from error


def check_file(path: Path, option: str = "--out") -> None:
    """Refuse a file that a user names and that is not ours to replace; writes nothing itself.

    Raises:
        ConfigError: a folder, a device, a pipe, a broken link, or a file with something else in it.
    """
    try:
        refuse_no_file(path)
    except RunError as error:
        raise ConfigError(f"{option} {error}") from None
    there = _nearest(path.parent)
    if not there.is_dir():
        raise ConfigError(f"{option} {path}: {there} is a file, not a folder; give another name")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {path}: {there} cannot be written to; choose another place")
    if path.exists() and path.stat().st_size and not says_ours(path):
        raise ConfigError(
            f"{option} {path}: exists and does not say that distillaw generated it, so it is left as it is; "
            "give another name, or move it away"
        )


def refuse_no_file(path: Path) -> None:
    """Refuse what is there and is no file: replacing /dev/null would take it from the whole machine.

    Raises:
        RunError: `path` is a folder, a device, a pipe or a broken link.
    """
    if path.is_dir():
        raise RunError(f"{path}: a folder; give a file name, e.g. {path / 'NAME'}")
    if path.exists() and not path.is_file():
        raise RunError(f"{path}: a device or pipe, not a file; give a file name")
    if path.is_symlink() and not path.exists():
        raise RunError(f"{path}: a broken link; give another file name")


@contextlib.contextmanager
def replacing(path: Path, *, known: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it replaces `path`, on failure it is removed.

    Where `path` is a symbolic link, the file that it leads to is replaced.

    Args:
        path: the file.
        known: a record beside it says that it is ours, or the user said to replace it.

    Raises:
        RunError: `path` is a folder, a device or a pipe.
        ConfigError: `path` is a file that is not ours.
    """
    refuse_no_file(path)
    path = path.resolve()
    if not known and path.exists() and path.stat().st_size and not (_lies_in_ours(path) or says_ours(path)):
        raise ConfigError(
            f"{path}: not replaced, since it lies in no folder of distillaw's and does not say that distillaw "
            "generated it; give another name, or move it away"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary(path.parent)
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; on success it gets that name, on failure it is removed.

    Raises:
        ConfigError: `folder` holds something.
    """
    check_absent(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = temporary(folder.parent)
    part.mkdir()
    try:
        _mark(part)
        yield part
        check_absent(folder)
        os.rename(part, folder)  # of folders: refused by the system where something has come between
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_absent(folder: Path) -> None:
    """Refuse a place where something is that a new folder would stand in for.

    Raises:
        ConfigError: names what is there.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder}: a link or a file where a folder is to be made; move it away")
    if folder.exists() and (found := sorted(path.name for path in folder.iterdir())):
        named = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise ConfigError(f"{folder}: not empty ({named}), and not what is to be made there; move it away")


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder inside a folder of ours, removed at the end with what is still in it."""
    part = temporary(folder)
    part.mkdir()
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_folder(folder: Path, *, inside: Path | None = None) -> bool:
    """Remove a folder that carries our mark, at once as others see it; anything else is left.

    Args:
        folder: what is to go.
        inside: a folder of ours that a library fills: what lies in it needs no mark of its own.

    Returns:
        Whether it is gone.
    """
    is_filled = inside is not None and folder.parent == inside and is_ours(inside)
    if not folder.is_symlink() and (is_ours(folder) or (is_filled and folder.is_dir())):
        with contextlib.suppress(OSError):
            gone = temporary(folder.parent)
            os.rename(folder, gone)
            shutil.rmtree(gone, ignore_errors=True)
    return not os.path.lexists(folder)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder with nothing in it."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def remove_file(file: Path) -> None:
    """Remove a file of a folder of ours, or one that says that it is ours; anything else is left.

    Of a link the link goes, and only in a folder of ours.
    """
    parent = file.parent.resolve()
    if (
        _lies_in_ours(parent / file.name) or (not file.is_symlink() and says_ours(file))
    ) and not file.is_dir():
        file.unlink(missing_ok=True)


def move(path: Path, target: Path) -> None:
    """Give a file or folder of ours another name; a folder never takes the place of a full one.

    Raises:
        ConfigError: `path`, or what is at `target`, is not ours.
    """
    if not (is_ours(path) or _lies_in_ours(path.parent.resolve() / path.name)):
        raise ConfigError(f"{path}: not moved to {target}, since it lies in no folder of distillaw's")
    if path.is_dir():
        check_absent(target)
    elif os.path.lexists(target) and not _lies_in_ours(target.parent.resolve() / target.name):
        raise ConfigError(f"{target}: not replaced, since it lies in no folder of distillaw's; move it away")
    os.rename(path, target)


@contextlib.contextmanager
def appending(path: Path, *, binary: bool = False, buffering: int = -1) -> Iterator[IO[Any]]:
    """Open a log to add to it, made if missing. One with a second name (a backup by hard links) gets a copy of its own.

    Raises:
        ConfigError: it is a link or no file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConfigError(f"{path}: a link or no file where a log is written; move it away")
    if path.exists() and path.stat().st_nlink > 1:
        with replacing(path) as part:
            shutil.copyfile(path, part)
    if binary:
        with path.open("ab+") as stream:
            yield stream
    else:
        with path.open("a", encoding="utf-8", buffering=buffering) as text:
            yield text


def touch(path: Path) -> None:
    """An empty file where there is none; what is there stays as it is.

    Raises:
        OSError: nothing can be written there.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o666))


def create(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file that must not be there yet, flushed to disk.

    Raises:
        FileExistsError: it is there.
        OSError: it cannot be written, and is not left in part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> list[Path]:
    """Remove what killed processes of this machine left unfinished in a folder of ours; links are not followed.

    Returns:
        What was removed.
    """
    swept = []
    if not is_ours(folder):
        return swept
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            found = _TEMPORARY.fullmatch(name)
            left = Path(place) / name
            if found is None or left.is_symlink() or not is_dead(found[1]):
                continue
            if name in folders:
                folders.remove(name)
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
            swept.append(left)
    return swept


def temporary(folder: Path) -> Path:
    """A name in a folder for what is not whole yet; `sweep` knows it when this process is dead."""
    return folder / f".distillaw-{writer()}-{next(_numbers)}.tmp"


def _mark(folder: Path) -> None:
    with contextlib.suppress(FileExistsError):  # another call was as quick
        create(folder / MARK, _ABOUT.encode())


def _lies_in_ours(path: Path) -> bool:
    """Whether a folder above a resolved path is ours."""
    return any(is_ours(folder) for folder in path.parents)


def _strangers(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not _TEMPORARY.fullmatch(name))


def _nearest(path: Path) -> Path:
    """The path, or the nearest one above it at which something is."""
    path = Path.cwd() / path
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def _is_plain_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False
