"""The paper's printed numbers, as records with source and certainty: data/hoffer2017.toml."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean

KEYS = {"SB": "SB", "LB": "LB", "+LR": "LR", "+GBN": "GBN", "+RA": "RA"}
"""Column to its key in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRow:
    """One row of a result table: validation accuracy in per cent, single numbers."""

    network: str
    data: str
    accuracy: Mapping[str, float]
    """By column."""
    settings: Mapping[str, object]
    """Of the released code; empty where it is not known."""
    known_problems: tuple[str, ...]

    def gap_closed(self, column: str) -> float:
        """Share of SB - LB that a column closes."""
        small, large = self.accuracy["SB"], self.accuracy["LB"]
        return (self.accuracy[column] - large) / (small - large)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperDistance:
    """One end point of Figure 2, read by eye."""

    batch: int
    before: float
    after: float
    precision: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """All of it."""

    title: str
    source: str
    certainty: str
    known_problems: tuple[str, ...]
    rows: tuple[PaperRow, ...]
    distances: tuple[PaperDistance, ...]

    def row(self, network: str) -> PaperRow:
        """The row of a network.

        Raises:
            ConfigError: no such row.
        """
        names = [row.network for row in self.rows]
        if network not in names:
            raise ConfigError(
                f"paper = {network!r}{did_you_mean(network, names)}: the table has {', '.join(names)}; empty shows none"
            )
        return self.rows[names.index(network)]


@cache
def hoffer2017() -> Paper:
    """The paper's tables and Figure 2."""
    text = (files("distillaw.images") / "data" / "hoffer2017.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    rows = tuple(
        PaperRow(
            network=row["network"], data=row["data"], settings=row.get("settings", {}),
            accuracy={column: float(row[key]) for column, key in KEYS.items()},
            known_problems=tuple(row.get("known_problems", ())),
        )
        for row in table["row"]
    )  # fmt: skip
    return Paper(
        title=table["title"], source=table["source"], certainty=table["certainty"],
        known_problems=tuple(table["known_problems"]), rows=rows,
        distances=tuple(PaperDistance(**entry) for entry in table["distance"]),
    )  # fmt: skip
