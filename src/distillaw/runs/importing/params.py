"""What a count of parameters holds: the run table wants non-embedding ones, or says that they are totals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import ConfigError, UnitError
from distillaw.quantities import did_you_mean
from distillaw.runs.importing.names import NON_EMBEDDING, TOTAL, Choice, plain

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
    chosen: Choice, names: Mapping[str, Choice], *, told: str | None, vocab: float | None, matrices: int
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
        "non-embedding" if any(name in NON_EMBEDDING for name in ends)
        else "total" if column in TOTAL or "total" in column else None
    )  # fmt: skip
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
