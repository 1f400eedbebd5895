"""Options that are numbers as people write them, such as 1.82B: checked, and named as they were typed."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from distillaw.errors import ConfigError
from distillaw.quantities import parse_count

if TYPE_CHECKING:
    from cyclopts import Token

_MOST = 100
"""Numbers of one option: each is trained with; more are a slip."""
_LARGEST = 1e12
"""No dimension of a model is larger; beyond 2**53 a float is no exact count."""


def count(text: str, name: str) -> float:
    """A number of parameters or tokens: at least one."""
    value = parse_count(text, name=name)
    if value < 1:
        raise ConfigError(
            f"{name}: got {text!r}; it counts whole things, so it must be at least 1, e.g. 300M"
        )
    return value


def whole(text: str, name: str) -> int:
    """A whole number such as 4096 or 32k."""
    value = parse_count(text, name=name)
    if value != int(value) or value > _LARGEST:
        raise ConfigError(f"{name}: got {text!r}; it must be a whole number, at most {_LARGEST:g}")
    return int(value)


def _reads(read: Callable[[str, str], Any]) -> Parameter:
    """How an option is read; a negative number reaches `parse_count`, which says what is wrong with it."""

    def convert(kind: type, tokens: "Sequence[Token]") -> Any:
        return read(tokens[0].value, tokens[0].keyword or "")

    return Parameter(converter=convert, allow_leading_hyphen=True, n_tokens=1)


def _number(text: str, name: str) -> float:
    return parse_count(text, name=name)


def _numbers(text: str, name: str) -> tuple[float, ...]:
    if text.count(",") >= _MOST:
        raise ConfigError(f"{name}: {text.count(',') + 1:,} numbers; at most {_MOST} are taken")
    return tuple(parse_count(part, name=name) for part in text.split(","))


def _wholes(text: str, name: str) -> tuple[int, ...]:
    return tuple(whole(part, name) for part in text.split(","))


def _words(text: str, name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


Count: TypeAlias = Annotated[float, _reads(count)]
"""Parameters or tokens."""
Number: TypeAlias = Annotated[float, _reads(_number)]
"""Positive and finite."""
Whole: TypeAlias = Annotated[int, _reads(whole)]
Numbers: TypeAlias = Annotated[tuple[float, ...], _reads(_numbers)]
"""Several with commas between, e.g. 3e-4,1e-3."""
Wholes: TypeAlias = Annotated[tuple[int, ...], _reads(_wholes)]
Words: TypeAlias = Annotated[tuple[str, ...], _reads(_words)]
"""Several with commas between, each once."""
Text: TypeAlias = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""A number that is kept as it was typed: for its label, or because others read it."""
