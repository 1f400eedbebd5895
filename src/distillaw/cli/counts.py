"""How the verbs read counts such as 1.82B from the command line."""

from typing import Annotated, TypeAlias

from cyclopts import Parameter

from distillaw.errors import ConfigError
from distillaw.quantities import parse_count

Count: TypeAlias = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""A number as typed; a negative one reaches `parse_count`, which says what is wrong with it."""

_MOST_RATES = 100
_LARGEST = 1e12
"""No dimension of a model is larger; beyond 2**53 a float is no exact count."""


def count(text: str, *, name: str) -> float:
    """A number of parameters or tokens: at least one."""
    value = parse_count(text, name=name)
    if value < 1:
        raise ConfigError(
            f"{name}: got {text!r}; it counts whole things, so it must be at least 1, e.g. 300M"
        )
    return value


def optional_count(text: str | None, *, name: str) -> float | None:
    """The count, or None where none was given."""
    return None if text is None else count(text, name=name)


def peak_rates(text: str) -> tuple[float, ...]:
    """Peak learning rates such as 3e-4,1e-3; who takes them says which are possible."""
    if text.count(",") >= _MOST_RATES:
        raise ConfigError(f"--rates: {text.count(',') + 1:,} rates; at most {_MOST_RATES} are tried")
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--rates {text!r}: peak learning rates, e.g. 3e-4 or 3e-4,1e-3") from None


def whole_count(text: str | None, *, name: str, default: int | None = None) -> int:
    """A whole number such as 4096 or 32k."""
    if text is None:
        assert default is not None, f"{name} is required before this point"
        return default
    value = parse_count(text, name=name)
    if value != int(value) or value > _LARGEST:
        raise ConfigError(f"{name}: got {text!r}; it must be a whole number, at most {_LARGEST:g}")
    return int(value)
