"""From a TOML table, and settings typed beside it, to a frozen dataclass and back; unknown keys are refused.

Numbers may be written as people say them (`"0.3M"`, `1e6`, `20_000`); where a field is an int they must come out
whole. `--set students.tokens=[80k,240k]` changes the file's table before it is checked: keys are the file's, dotted;
entries of a list of tables are counted from 1 (`teachers.2.tokens=1M`); values are TOML, and words that people write
without quotes (0.1M, sotu, [80k, 240k]) are taken as they are.
"""

import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean, parse_count
from distillaw.runs.files import parse_toml, read_text

T = TypeVar("T")
MOST_ENTRIES = 1000
"""Of a list. Each is trained, drawn or asked for by somebody; a longer one is a slip."""
_LARGEST = 10**18
"""Of a whole number: beyond it neither arrays nor disks count."""


def read_toml(path: Path, *, written_by: str = "`distillaw study new` writes a study file") -> dict[str, Any]:
    """Read a TOML file.

    Args:
        written_by: the command that writes such a file, as the error of an empty one says it.

    Raises:
        ConfigError: missing, not UTF-8, or not TOML (line and column named).
    """
    try:
        table = parse_toml(read_text(path))
    except FileNotFoundError:
        near = did_you_mean(path.name, (file.name for file in path.parent.glob("*.toml")))
        raise ConfigError(f"{path}: no such file{near}; give a TOML file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder; give the TOML file that describes what is to be run") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read: not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    if not table:
        raise ConfigError(f"{path}: empty; {written_by}, --help of a command says what its file holds")
    return table


def from_table(cls: type[T], table: object, where: str) -> T:
    """Build a dataclass from a TOML table.

    Args:
        cls: a dataclass whose fields are str, bool, int, float, nested dataclasses, tuples of these, or mappings
            that are left as they are.
        where: the table's name for messages, e.g. `[data]`.

    Raises:
        ConfigError: unknown or missing keys, wrong types.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: expected a table, got {table!r}")
    assert dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    place = where.removesuffix(":")
    for key in table:
        if key not in fields:
            raise ConfigError(
                f"{place}: unknown key {key!r}{did_you_mean(key, fields)}. Known: {', '.join(sorted(fields))}"
            )
    missing = [
        name
        for name, field in fields.items()
        if name not in table and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{place}: missing {', '.join(missing)}")
    build: Callable[..., T] = cls
    return build(**{key: _convert(hints[key], value, f"{where} {key}") for key, value in table.items()})


Bounds = Mapping[str, tuple[float, float]]
"""Setting -> lowest and highest value; what lies outside has no meaning, or would train nothing."""


def check_bounds(bounds: Bounds, settings: object, where: str) -> None:
    """Refuse numbers out of range.

    Args:
        where: what stands before a field's name, e.g. `training.`.

    Raises:
        ConfigError: the first setting that lies outside, its value and the range.
    """
    for name, (low, high) in bounds.items():
        if not low <= (value := getattr(settings, name)) <= high:
            raise ConfigError(f"{where}{name} = {value:g} must lie in [{low:g}, {high:g}]")


def check_choice(what: str, value: str, known: Sequence[str]) -> None:
    """Refuse a word that is none of those known.

    Raises:
        ConfigError: the setting, its value and the choices.
    """
    if value not in known:
        raise ConfigError(f"{what} = {value!r}{did_you_mean(value, known)} is none of {', '.join(known)}")


def to_table(value: Any) -> Any:
    """The other way: dataclasses as tables, tuples as lists, without fields that have their default."""
    if isinstance(value, tuple):
        return [to_table(entry) for entry in value]
    if not dataclasses.is_dataclass(value):
        return value
    kept = {}
    for field in dataclasses.fields(value):
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = field.default
        own = getattr(value, field.name)
        if own is not None and own != default:
            kept[field.name] = to_table(own)
    return kept


def toml_value(value: object) -> str:
    """A string, number, list or inline table as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml_value(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return repr(value)


def _convert(kind: Any, value: object, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_table(typing.cast(type, kind), value, where)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(kind):
            return None
        return _convert(next(arg for arg in typing.get_args(kind) if arg is not type(None)), value, where)
    if typing.get_origin(kind) is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a table, got {value!r}")
        return dict(value)
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        if len(value) > MOST_ENTRIES:
            raise ConfigError(f"{where}: {len(value):,} entries; at most {MOST_ENTRIES:,} are taken")
        return tuple(_convert(item, entry, where) for entry in value)
    if kind is str and isinstance(value, str):
        return value
    if kind is bool and isinstance(value, bool):
        return value
    if kind in (int, float) and isinstance(value, int | float | str) and not isinstance(value, bool):
        return _number(kind, value, where)
    raise ConfigError(f"{where}: expected {getattr(kind, '__name__', kind)}, got {value!r}")


def _number(kind: type, value: float | str, where: str) -> float | int:
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ConfigError(f"{where}: {value!r} is beyond {_LARGEST:g}")
    number = float(value) if isinstance(value, int | float) else parse_count(value, name=where)
    if not math.isfinite(number):
        raise ConfigError(f"{where}: {value!r} is not a finite number")
    if kind is float:
        return number
    if number != round(number) or abs(number) > _LARGEST:
        raise ConfigError(f"{where}: expected a whole number of at most {_LARGEST:g}, got {value!r}")
    return round(number)


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
        for depth, name in enumerate(names, 1):
            at = _place(place, name, f"--set {text}: {'.'.join(names[:depth])}")
            if depth == len(names):
                place[at] = _value(value.strip())
            else:
                place = place.setdefault(at, {}) if isinstance(place, dict) else place[at]
    return table


def _place(entries: Any, name: str, where: str) -> str | int:
    """The key of a table, or the index of a list, that a name stands for."""
    if isinstance(entries, dict):
        return name
    if not isinstance(entries, list):
        raise ConfigError(f"{where}: what it would lie in is {entries!r}, no table with keys of its own")
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
