"""Read files that others wrote: files only, and JSON and TOML that cannot take the parser down.

Opening a pipe waits for a writer for ever, and a device may never end, so neither is opened. What the parsers raise
beyond their own errors (nesting, whole numbers of thousands of digits) becomes a ValueError with the reason.
"""

import errno
import json
import os
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


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
