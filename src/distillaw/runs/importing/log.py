"""One run as some tool has logged it: quantities over time, settings that stay, and who it is."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distillaw.runs.files import file_sha256

Array = NDArray[np.float64]
_MISSING = {"", "none", "null", "na", "n/a"}
"""Texts of an empty cell. `nan` is not among them: a logged NaN says that a run has diverged."""


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity over a run; what was not logged is absent, what was logged as NaN is there."""

    at: Array
    """Where on the log's own axis (steps, or rows of a file), ascending, shape (n,)."""
    value: Array
    """Shape (n,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One source run."""

    kind: str
    """`wandb`, `trackio`, `tensorboard` or `table`."""
    source: Path
    """The file or folder that holds it."""
    name: str
    identity: tuple[str, ...]
    """What makes it this run wherever its files lie; equal for copies and for later states of the same run."""
    history: Mapping[str, Series]
    constants: Mapping[str, object] = field(default_factory=dict)
    """Settings and summaries, flattened with dots."""
    steps: bool = False
    """The log's own axis is known to count optimiser steps."""
    in_time: bool = True
    """The history is one training, in which of two values at one moment the later counts; else rows of a table."""
    differs: tuple[str, ...] = ()
    """Text columns of a table that differ between the rows of this run."""
    trouble: str = ""
    """Why it is no finished run; empty where nothing says so."""
    sha256: str = ""
    aliases: tuple[str, ...] = ()
    """Other names that may refer to it as a teacher, e.g. the tracker's run id."""

    @property
    def names(self) -> list[str]:
        """All columns, those with a history first."""
        return list(dict.fromkeys([*self.history, *self.constants]))

    def with_constants(self, values: Mapping[str, object]) -> "Log":
        """The same run with these settings, which replace logged quantities of the same name."""
        history = {name: series for name, series in self.history.items() if name not in values}
        return replace(self, history=history, constants={**self.constants, **values})

    def followed_by(self, later: "Log") -> "Log":
        """A run that was resumed in another file: the later file counts from where it begins."""
        starts = [series.at[0] for series in later.history.values() if len(series.at)]
        start = min(starts) if starts else np.inf
        joined = {}
        for name in dict.fromkeys([*self.history, *later.history]):
            old, new = self.history.get(name), later.history.get(name, _EMPTY)
            keep = old.at < start if old is not None else None
            joined[name] = new if old is None else Series(
                np.concatenate([old.at[keep], new.at]), np.concatenate([old.value[keep], new.value])
            )  # fmt: skip
        return replace(later, history=joined, constants={**self.constants, **later.constants},
                       sha256=sha256_of_parts([self.sha256, later.sha256]))  # fmt: skip


_EMPTY = Series(np.empty(0), np.empty(0))


def number(value: object) -> float | None:
    """A number, NaN and infinity included; None for what is empty or is no number."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float | np.integer | np.floating):
        return float(value)
    if isinstance(value, str) and value.strip().lower() not in _MISSING:
        try:
            return float(value)
        except ValueError:
            return None
    return None


def gather(rows: Iterable[tuple[float, Mapping[str, object]]]) -> dict[str, Series]:
    """The numbers of logged rows as one series a name, in order of position; of equal positions the last counts."""
    found: dict[str, dict[float, float]] = {}
    for position, row in rows:
        for name, value in row.items():
            x = number(value)
            if x is not None:
                found.setdefault(name, {})[position] = x
    return {name: _series(points) for name, points in found.items()}


def _series(points: Mapping[float, float]) -> Series:
    at = np.array(sorted(points), dtype=np.float64)
    return Series(at, np.array([points[x] for x in at], dtype=np.float64))


_DEEPEST = 40
"""Levels of settings that are looked into; nobody nests theirs so deeply."""


def flatten(value: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as `model.n_layer`; lists are kept as they are."""
    flat: dict[str, object] = {}
    for key, entry in value.items():
        if isinstance(entry, Mapping) and prefix.count(".") < _DEEPEST:
            flat |= flatten(entry, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = entry
    return flat


def sha256_of_files(files: Iterable[Path]) -> str:
    """Of one file its bytes; of several the hash of their hashes, in order."""
    return sha256_of_parts([file_sha256(file) for file in files])


def sha256_of_parts(hashes: list[str]) -> str:
    """One hash for several; a single one stays as it is."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
