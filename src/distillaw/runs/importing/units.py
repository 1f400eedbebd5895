"""Losses of any unit into nats per token, and what a count of parameters holds: stated with every import.

A loss is converted by a factor; where its unit is not clear it is refused. The run table wants non-embedding
parameters, or says that they are totals.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import ConfigError, UnitError
from distillaw.quantities import did_you_mean, nats_per_token
from distillaw.runs.importing.log import Array
from distillaw.runs.importing.names import NON_EMBEDDING, TOTAL, ColumnChoice, plain

UNITS = ("nats", "bits", "bits-per-byte", "perplexity")
_WORDS = {
    "perplexity": "perplexity",
    "ppl": "perplexity",
    "bpb": "bits-per-byte",
    "bits_per_byte": "bits-per-byte",
    "bit": "bits",
    "bpc": "bits-per-character",
}
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


Array = NDArray[np.float64]
CONVENTIONS = ("non-embedding", "total")


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """How the counts of one source become those of the run table."""

    source: str
    """What the source counts."""
    vocab: float | None = None
    matrices: int = 1

    @property
    def written(self) -> str:
        """What the run table's `params` will count."""
        return "non-embedding" if self.vocab is not None else self.source

    @property
    def stated(self) -> str:
        """For the user to read."""
        if self.vocab is None:
            return self.source
        times = "2 x " if self.matrices == 2 else ""
        return f"total - {times}{self.vocab:.0f} x width = non-embedding"

    def counts(self, params: Array, total: Array, width: Array) -> tuple[Array, Array, dict[int, str]]:
        """(params, total_params) of models, and of which there are none: {index: why}.

        Args:
            params: as the source counts them, NaN where missing, shape (n,).
            total: what it says of totals besides, same shape.
            width: of the models, same shape.
        """
        if self.vocab is None:
            return params, params if self.source == "total" else total, {}
        left = params - self.matrices * self.vocab * width
        refused = dict.fromkeys(
            np.flatnonzero(np.isnan(width)).tolist(),
            "no width, which converting its total parameters needs (--columns width=COLUMN)",
        )
        for i in np.flatnonzero(left <= 0).tolist():
            refused[i] = (
                f"{params[i]:.4g} parameters are fewer than its embedding ({self.vocab:.0f} x {width[i]:.0f})"
            )
        return left, params, refused


def find_convention(
    chosen: ColumnChoice,
    names: Mapping[str, ColumnChoice],
    *,
    told: str | None,
    vocab: float | None,
    matrices: int,
) -> Convention:
    """The convention of a source's params column.

    Args:
        chosen: the params column.
        names: the other columns; a `width` is needed to convert.
        told: `non-embedding` or `total`, where the user said so.
        vocab: entries of the vocabulary, to turn totals into non-embedding counts.
        matrices: vocabulary x width matrices in the totals.

    Raises:
        UnitError: neither the name nor the user says what the column counts, or there is nothing to convert.
        ConfigError: an unknown convention.
    """
    if told is not None and told not in CONVENTIONS:
        raise ConfigError(
            f"--params-convention: unknown {told!r}{did_you_mean(told, CONVENTIONS)}; known: {', '.join(CONVENTIONS)}"
        )
    column = plain(chosen.column)
    ends = [plain(part) for part in chosen.column.replace("/", ".").rsplit(".", 1)[-1:]] + [column]
    named = (
        "non-embedding"
        if any(name in NON_EMBEDDING for name in ends)
        else "total"
        if column in TOTAL or "total" in column
        else None
    )
    source = told or named or ("total" if vocab is not None else None)
    if source is None:
        raise UnitError(
            f"column {chosen.column!r}: it does not say whether the parameters count the embedding. Say "
            "--params-convention non-embedding, --params-convention total (kept, and said in the table), or --vocab V "
            "(totals, converted with the column width)"
        )
    if vocab is None:
        return Convention(source=source)
    if source != "total":
        raise UnitError(
            f"--vocab: column {chosen.column!r} holds non-embedding parameters already; leave --vocab out"
        )
    if "width" not in names:
        raise UnitError("--vocab: no column holds the models' width; say --columns width=COLUMN")
    return Convention(source="total", vocab=vocab, matrices=matrices)
