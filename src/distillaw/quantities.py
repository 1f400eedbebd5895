"""Read and write the numbers people type: `1.82B`, `512B`, `1e21`, `300M`, `20k`.

Counts are plain floats or ints inside the package; this file is the only place that knows suffixes.
"""

import difflib
import math
import re
import sys
from collections.abc import Iterable

from distillaw.errors import ConfigError

LARGEST = 1e36
"""No count of parameters, tokens or FLOP comes near; products of some of them stay finite."""
_DAY = 24 * 3600
_DAYS_FROM = 100 * 3600
"""Seconds from which hours are hard to picture."""
_POWERS = {"": 0, "k": 3, "m": 6, "b": 9, "t": 12}
_NUMBER = re.compile(r"^\s*([+-]?(?:\d+(?:_\d+)*(?:\.\d*)?|\.\d+))(?:e([+-]?\d{1,9}))?\s*([kmbt]?)\s*$", re.IGNORECASE)
_THOUSANDS = re.compile(r"^\s*[+-]?\d{1,3}(?:,\d{3})+\s*$")
"""Commas separate thousands of a plain whole number only: `1,82B` is a decimal comma, not 182B."""


def parse_count(text: str | float, *, name: str = "number") -> float:
    """A positive finite count from text such as `1.82B`, `1e21`, `300M`, `20k` or a plain number.

    Args:
        text: what the user typed, or a number that is passed through the same checks.
        name: what the number is, for the error message.

    Returns:
        The count as a float (exact for integers below 2**53).

    Raises:
        ConfigError: not a number, not finite, or not positive.
    """
    if isinstance(text, bool):
        raise ConfigError(f"{name}: got {text!r}; write a number such as 300M, 1.82B or 1e21")
    if isinstance(text, int | float):
        value = float(text) if abs(text) <= sys.float_info.max else math.inf
    else:
        match = _NUMBER.match(text.replace(",", "") if _THOUSANDS.match(text) else text)
        if match is None:
            point = ", with a decimal point" if "," in text else ""
            raise ConfigError(f"{name}: cannot read {text!r}; write a number such as 300M, 1.82B or 1e21{point}")
        # one decimal literal, so that 4.35M is exactly 4350000 and not its neighbour
        value = float(f"{match[1]}e{int(match[2] or 0) + _POWERS[match[3].lower()]}")
    if not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{name}: got {text!r}; it must be positive and finite, e.g. 300M or 1e21")
    if not 1 / LARGEST <= value <= LARGEST:
        raise ConfigError(f"{name}: got {text!r}; nothing here is beyond {LARGEST:g} or below its inverse")
    return value


def format_count(value: float, *, digits: int = 3) -> str:
    """A count as people write it: 1.82B, 300M, 96k, 512; powers of ten beyond 1e15 as 3.2e21."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    magnitude = abs(value)
    if magnitude >= 1e15:
        return f"{value:.{digits - 1}e}".replace("e+", "e")
    # 999_600 rounds to 1000k; it reads better as 1M, so the bound sits where the rounding does.
    units = (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3))
    suffix, scale = next((u for u in units if magnitude >= u[1] * (1 - 0.5 * 10**-digits)), ("", 1.0))
    scaled = value / scale
    return f"{scaled:.{digits}g}{suffix}" if abs(scaled) < 10**digits - 0.5 else f"{scaled:.0f}{suffix}"


def format_size(params: float) -> str:
    """Parameters of a model: as a count, but in millions from 0.1M on, as the labels of studies are."""
    return f"{params / 1e6:.3g}M" if 0.9995e5 <= params < 0.9995e6 else format_count(params)


def plural(count: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def times(ratio: float) -> str:
    """A ratio to two digits: `7.2`, `720`, `25,000`; more where two would make it one: `1.02`."""
    rounded = float(f"{ratio:.2g}")
    if rounded == 1:
        return f"{ratio:.{_digits_off_one(ratio)}g}"
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def _digits_off_one(ratio: float) -> int:
    """As few as tell the ratio from one, up to six."""
    return next((digits for digits in range(3, 6) if float(f"{ratio:.{digits}g}") != 1), 6)


def bare_flop(value: float) -> str:
    """A FLOP count in powers of ten, under a heading that names the unit: 1.9e18."""
    return f"{value:.2e}".replace("e+0", "e").replace("e+", "e") if value else "0"


def format_flop(value: float) -> str:
    """The same with its unit: 1.9e18 FLOP."""
    return f"{bare_flop(value)} FLOP"


def power_text(value: float) -> str:
    """A number with its power of ten as people write it: 3.2 x 10^13, typographically."""
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    mantissa = value / 10.0**exponent
    digits = "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(d)] for d in str(abs(exponent)))
    power = f"10{'⁻' * (exponent < 0)}{digits}"
    return power if abs(mantissa - 1) < 1e-6 else f"{mantissa:.3g} × {power}"


def power_flop(value: float) -> str:
    """A FLOP count with two digits after the point, under a heading that names the unit: 1.66 x 10^11."""
    return power_text(float(f"{value:.3g}"))


def flop_text(value: float) -> str:
    """The same with its unit: 1.66 x 10^11 FLOP."""
    return f"{power_flop(value)} FLOP"


def format_seconds(value: float) -> str:
    """A duration as people say it: 0.4 s, 42 s, 6 min 10 s, 2 h 05 min, 12 days 4 h, 1,024 years."""
    if value < 10:
        return f"{value:.1f} s"
    seconds = round(value)
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if seconds < _DAYS_FROM:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    if seconds < 1000 * _DAY:
        return f"{seconds // _DAY} days {seconds % _DAY // 3600} h"
    return f"{seconds / (365.25 * _DAY):,.{0 if seconds > 3650 * _DAY else 1}f} years"


def format_hours(value: float) -> str:
    """Device-hours from an hour on, a duration below: 1.59k h, 6 min 10 s."""
    if value < 1 or not math.isfinite(value):
        return format_seconds(value * 3600)
    return f"{format_count(value)} h"


def format_dollars(value: float) -> str:
    """US dollars to three digits: utilisation is not known better."""
    return f"${float(f'{value:.3g}'):,.0f}" if value >= 100 else f"${value:.2f}"


def format_bytes(value: float) -> str:
    """A size on disk or in memory, decimal units: 12.4 MB."""
    for suffix, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {suffix}"
    return f"{value:.0f} B"


def finite(value: float) -> float | None:
    """For JSON, which has no infinity."""
    return value if math.isfinite(value) else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or the empty string when nothing known is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def bits_per_byte(nats_per_token: float, *, bytes_per_token: float) -> float:
    """A loss that two tokenizers can share: bits per byte of UTF-8 text.

        bits/byte = (nats/token) / (ln 2 * bytes/token)

    Args:
        nats_per_token: cross-entropy per token of one tokenizer.
        bytes_per_token: bytes of the text over its tokens under that tokenizer, > 0.

    Example:
        >>> round(bits_per_byte(3.402, bytes_per_token=4.78), 3)
        1.027
    """
    return nats_per_token / (math.log(2) * _positive(bytes_per_token))


def nats_per_token(bits_per_byte: float, *, bytes_per_token: float) -> float:
    """The inverse of `bits_per_byte`: the loss per token of a tokenizer with so many bytes per token."""
    return bits_per_byte * math.log(2) * _positive(bytes_per_token)


def _positive(bytes_per_token: float) -> float:
    if not 0 < bytes_per_token < math.inf:
        raise ConfigError(
            f"bytes_per_token = {bytes_per_token:g}: it must be positive; most tokenizers have 3 to 5 on English text"
        )
    return bytes_per_token
