"""Tables of other people's runs, and what of each is held out: read by the benchmarks of fits.

A folder holds one folder per collection, as `../shared/data/lawruns` does: CSV files of finished runs; files beside
these are a collection of the folder's name. Columns are found by name (`read_runs`), text columns of few values part a
table into sets (a training text, a validation set), a file `X_test.csv` is what the publication held out of
`X_train.csv`, and rows that repeat their text are left out. What cannot be used is said, and the rest goes on.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from distillaw.errors import ConfigError, DataError
from distillaw.quantities import parse_count
from distillaw.runs.table import read_table

NAMES = {
    "params": ("params", "n", "params_active_precise", "student_params", "non_embedding_params"),
    "tokens": ("tokens", "d", "student_tokens"),
    "loss": ("loss", "final_loss", "val_loss"),
    "group": ("group", "run_name", "trunk"),
    "compute": ("c", "compute", "flops"),
}
"""In lower case. Where tokens are not said, they are compute / (6 params)."""
MOST_VALUES = 9
"""Distinct values of a text column that parts a table."""
FEWEST = 16
"""Independent runs of a set; with fewer a fifth of them is no hold-out."""
SHARE = 0.2
"""Of the independent runs, held out."""


@dataclass(frozen=True)
class Runs:
    """One set: runs of one recipe, scored on one text."""

    collection: str
    name: str
    N: np.ndarray
    D: np.ndarray
    L: np.ndarray
    group: np.ndarray
    published: np.ndarray
    """True where the publication held the run out."""

    @property
    def compute(self):
        """6 N D."""
        return 6 * self.N * self.D

    def take(self, keep):
        """Some of the rows."""
        arrays = {name: getattr(self, name)[keep] for name in ("N", "D", "L", "group", "published")}
        return Runs(collection=self.collection, name=self.name, **arrays)


@dataclass(frozen=True)
class Trial:
    """A set with its held-out rows; rows that are neither are left out."""

    split: str
    runs: Runs
    held: np.ndarray

    def table(self):
        """The rows that may be fitted."""
        runs, fitted = self.runs, ~self.held
        columns = {"params": runs.N, "tokens": runs.D, "loss": runs.L, "group": runs.group}
        return {name: column[fitted] for name, column in columns.items()}


def read_folder(folder: Path) -> list[Runs]:
    """Every set of every collection; why a file has none is said on standard error.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give one that holds a folder of CSV files per collection")
    found = []
    for path in (*sorted(folder.glob("*.csv")), *sorted(folder.glob("*/*.csv"))):
        if path.stem.endswith("_test") and path.with_name(path.stem.removesuffix("_test") + "_train.csv").exists():
            continue
        try:
            sets, why = read_runs(path), f"no set of {FEWEST} independent runs and three sizes"
        except DataError as error:
            sets, why = [], str(error).removeprefix(f"{path}: ")
        if not sets:
            sys.stderr.write(f"{path}: not used, {why}\n")
        found += sets
    return found


def read_runs(path: Path) -> list[Runs]:
    """The sets of one file, with its `_test` file beside it.

    Raises:
        DataError: the file is no table, or has no columns of sizes, tokens and losses.
    """
    table, column = _read(path)
    published = np.zeros(len(next(iter(table.values()))), dtype=bool)
    test = path.with_name(path.stem.removesuffix("_train") + "_test.csv")
    if path.stem.endswith("_train") and test.exists():
        other, there = _read(test)
        theirs = {column[name]: other[there[name]] for name in column if name in there}
        known = {name: theirs.get(name, other.get(name)) for name in table}
        size = len(next(iter(other.values())))
        table = {n: np.r_[v, known[n]] for n, v in table.items() if known[n] is not None}
        column = {ours: name for ours, name in column.items() if name in table}
        published = np.r_[published, np.ones(size, dtype=bool)]
    N, L = _numbers(table[column["params"]]), _numbers(table[column["loss"]])
    given = "tokens" in column
    D = _numbers(table[column["tokens"]]) if given else _numbers(table[column["compute"]]) / (6 * N)
    group = (table[column["group"]] if "group" in column else np.arange(len(N))).astype(str)
    with np.errstate(invalid="ignore", over="ignore"):
        usable = np.isfinite(N * D * L) & (N > 0) & (D > 0) & (L > 0)
        if "unique_tokens" in table:
            usable &= D <= _numbers(table["unique_tokens"])
    if not usable.all():
        sys.stderr.write(f"{path}: {np.sum(~usable)} of {len(N)} rows left out (no number, or repeated text)\n")
    parts = [
        (name, [value for value in np.unique(values.astype(str)) if value])
        for name, values in table.items()
        if values.dtype.kind in "UO"
        and name not in column.values()
        and 1 < len(np.unique(values.astype(str))) <= MOST_VALUES
    ]
    found, stem = [], path.stem.removesuffix("_train")
    for values in product(*(values for _, values in parts)):
        keep = usable.copy()
        for (name, _), value in zip(parts, values, strict=True):
            keep &= table[name].astype(str) == value
        name = " ".join([stem, *(value.split("/")[0] for value in values)])
        runs = Runs(path.parent.name, name, N[keep], D[keep], L[keep], group[keep], published[keep])
        if len(np.unique(runs.group)) >= FEWEST and len(np.unique(runs.N)) > 2:
            found.append(runs)
    return found


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The columns of a file, and which of them is what."""
    table = {name: np.asarray(values) for name, values in read_table(path).items()}
    lowered = {name.lower(): name for name in table}
    column = {
        ours: lowered[name] for ours, names in NAMES.items() if (name := next((x for x in names if x in lowered), None))
    }
    for name in ("params", "loss", "tokens" if "compute" not in column else "compute"):
        if name not in column:
            raise DataError(f"no column of {name} ({', '.join(NAMES[name])}) among {', '.join(table)}")
    return table, column


def _numbers(values: np.ndarray) -> np.ndarray:
    """Cell by cell, also such as 20M; NaN where there is none."""

    def of(cell: object) -> float:
        try:
            return parse_count(cell if isinstance(cell, int | float) else str(cell))
        except ConfigError:
            return np.nan

    return values if values.dtype.kind == "f" else np.array([of(cell) for cell in values])


def trials(runs: Runs) -> Iterator[Trial]:
    """The largest fifth of the runs by compute, by size and by tokens, and what the publication held out."""
    for split, scale in (("compute", runs.compute), ("size", runs.N), ("tokens", runs.D)):
        held = _largest(scale, runs.group)
        if held is not None:
            yield Trial(split, runs, held)
    if runs.published.any():
        yield Trial("published", runs, runs.published)


def _largest(scale, group):
    """Rows of the independent runs that are largest, whole levels of them; None where they are too many or few."""
    codes, member = np.unique(group, return_inverse=True)
    top = np.zeros(len(codes))
    np.maximum.at(top, member, scale)
    least = np.sort(top)[round((1 - SHARE) * len(codes))]
    held = (top >= least * (1 - 1e-6))[member]
    if held.mean() > 2 * SHARE:  # a level of many: what lies above it
        held = (top > least * (1 + 1e-6))[member]
    spare = len(np.unique(group[~held]))
    return held if held.any() and held.mean() <= 2 * SHARE and spare >= 12 else None
