"""Losses of any unit into nats per token, by a factor that is stated; refused where the unit is not clear."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distillaw.errors import ConfigError, UnitError
from distillaw.quantities import did_you_mean, nats_per_token
from distillaw.runs.importing.log import Array

UNITS = ("nats", "bits", "bits-per-byte", "perplexity")
_WORDS = {"perplexity": "perplexity", "ppl": "perplexity", "bpb": "bits-per-byte", "bits_per_byte": "bits-per-byte",
          "bit": "bits", "bpc": "bits-per-character"}  # fmt: skip
_REMEDIES = {
    "perplexity": "--unit perplexity (its logarithm is taken)",
    "bits": "--unit bits (converted)",
    "bits-per-byte": "--unit bits-per-byte --bytes-per-token X (converted)",
    "bits-per-character": "--unit bits-per-byte --bytes-per-token X of characters per token (converted)",
}
_HIGH, _LOW = 12.5, 1.2
"""ln of a vocabulary of 268 thousand: no trained model loses more nats per token; and what a strong one still loses."""


@dataclass(frozen=True, slots=True)
class Unit:
    """How a table's losses become nats per token."""

    name: str
    convert: Callable[[Array], Array]
    slope: Callable[[Array], Array | float]
    """Derivative at a loss, for its standard error."""
    stated: str
    """For the user to read."""


def loss_unit(column: str, unit: str | None, bytes_per_token: float | None) -> Unit:
    """The unit of a loss column.

    Args:
        column: its name; one that speaks of another unit is refused unless `unit` says what holds.
        unit: one of `UNITS`, or None.
        bytes_per_token: bytes of the held-out text over its tokens, for bits per byte.

    Raises:
        UnitError: the name speaks of another unit, or bits per byte come without bytes per token.
        ConfigError: an unknown unit, or bytes per token without need.
    """
    if unit is not None and unit not in UNITS:
        extra = (
            " (fit such tables as they are: distillaw fit --unit bits-per-character)"
            if "char" in unit
            else ""
        )
        raise ConfigError(
            f"--unit: unknown {unit!r}{did_you_mean(unit, UNITS)}; known: {', '.join(UNITS)}{extra}"
        )
    looks = next((kind for word, kind in _WORDS.items() if word in column.lower()), None)
    if unit is None and looks is not None:
        raise UnitError(
            f"column {column!r} looks like {looks}, not nats per token. Say {_REMEDIES[looks]}, or --unit nats if it "
            "is nats after all"
        )
    if bytes_per_token is not None and unit != "bits-per-byte":
        raise ConfigError("--bytes-per-token: it only serves --unit bits-per-byte")
    if unit == "perplexity":
        return Unit(unit, np.log, lambda x: 1 / x, "ln of perplexity")
    if unit == "bits-per-byte":
        if bytes_per_token is None:
            raise UnitError(
                "--unit bits-per-byte: the run table holds nats per token, and bits per byte become these only with "
                "--bytes-per-token X (bytes of the held-out text over its tokens). Without it, fit the table as it "
                "is: distillaw fit FILE --unit bits-per-byte"
            )
        factor = nats_per_token(1.0, bytes_per_token=bytes_per_token)
        return _scaled(unit, factor, f"bits per byte x {factor:.6g} (ln 2 x {bytes_per_token:g} bytes/token)")
    if unit == "bits":
        return _scaled(unit, float(np.log(2)), "bits per token x ln 2")
    return _scaled("nats", 1.0, "nats per token" if unit else "nats per token, as nothing says otherwise")


def _scaled(name: str, factor: float, stated: str) -> Unit:
    return Unit(name, lambda x: x * factor, lambda _: factor, stated)


def check_level(losses: Array, column: str, unit: str | None) -> None:
    """Refuse losses that are no usual nats per token, unless the user says what they are.

    Raises:
        UnitError: too high (perplexity?) or too low (bits per byte or character?).
    """
    middle = float(np.median(losses))
    if middle > _HIGH and unit is None:
        raise UnitError(
            f"column {column!r}: losses around {middle:.4g}; no language model loses more than about {_HIGH} nats per "
            "token. Perplexity? Say --unit perplexity, or --unit nats if they are nats"
        )
    if middle < _LOW and unit is None:
        raise UnitError(
            f"column {column!r}: losses around {middle:.3g} are low for nats per token and usual for bits per byte or "
            "per character. Say --unit bits-per-byte --bytes-per-token X (for characters: characters per token), or "
            "--unit nats if they are nats"
        )
