"""Settings typed beside a TOML file: `--set students.tokens=[80k,240k]` changes the file's table before it is checked.

Keys are the file's, dotted; entries of a list of tables are counted from 1 (`teachers.2.tokens=1M`). Values are TOML,
and words that people write without quotes (0.1M, sotu, [80k, 240k]) are taken as they are. What comes out passes the
same checks as the file.
"""

import tomllib
from collections.abc import Sequence
from typing import Any

from distillaw.errors import ConfigError


def with_settings(table: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The table with some of its values set.

    Args:
        table: of a TOML file; it is changed.
        settings: KEY=VALUE each.

    Raises:
        ConfigError: no KEY=VALUE, a key below something that is no table, an entry that a list does not have.
    """
    for text in settings:
        key, mark, value = text.partition("=")
        names = [name.strip() for name in key.split(".")]
        if not mark or not all(names) or not value.strip():
            raise ConfigError(
                f"--set {text!r}: write KEY=VALUE, with the dotted key of the file, e.g. data.vocab_size=512"
            )
        place: Any = table
        for depth, name in enumerate(names[:-1]):
            place = _below(place, name, f"--set {text}: {'.'.join(names[: depth + 1])}")
        _put(place, names[-1], _value(value.strip()), f"--set {text}: {key.strip()}")
    return table


def _below(place: Any, name: str, where: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, name, where)]
    if not isinstance(place, dict):
        raise ConfigError(f"{where} is {place!r}, no table with keys of its own")
    return place.setdefault(name, {})


def _put(place: Any, name: str, value: Any, where: str) -> None:
    if isinstance(place, list):
        place[_index(place, name, where)] = value
    elif isinstance(place, dict):
        place[name] = value
    else:
        raise ConfigError(f"{where}: what it would lie in is {place!r}, no table with keys of its own")


def _index(entries: list[Any], name: str, where: str) -> int:
    if name.isdecimal() and 1 <= int(name) <= len(entries):
        return int(name) - 1
    raise ConfigError(f"{where}: a list of {len(entries)}; give the number of an entry, counted from 1")


def _value(text: str) -> Any:
    try:
        read = tomllib.loads(f"value = {text}")
        if read.keys() == {"value"}:  # a line of its own in it would be another key
            return read["value"]
    except (ValueError, RecursionError):  # no TOML
        pass
    if text.startswith("[") and text.endswith("]") and "[" not in text[1:]:
        return [_value(part.strip()) for part in text[1:-1].split(",") if part.strip()]
    return text
