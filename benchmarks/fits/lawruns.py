"""Tables of other people's runs, and what of each is held out: read by the benchmarks of fits.

A folder holds one folder per collection, as `../shared/data/lawruns` does: CSV files of finished runs. Columns are
found by name (`read_runs`), text columns of few values part a table into sets (a training text, a validation set), a
file `X_test.csv` is what the publication held out of `X_train.csv`, and rows that repeat their text are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from distillaw.runs.table import read_table

NAMES = {
    "params": ("params", "n", "params_active_precise"),
    "tokens": ("tokens", "d"),
    "loss": ("loss", "final_loss"),
    "group": ("group", "run_name"),
}
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
    """Every set of every collection."""
    found = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in sorted(inner.glob("*.csv")):
            if not path.stem.endswith("_test"):
                found += read_runs(path)
    return found


def read_runs(path: Path) -> list[Runs]:
    """The sets of one file, with its `_test` file beside it."""
    table = {name: np.asarray(column) for name, column in read_table(path).items()}
    test = path.with_name(path.stem.removesuffix("_train") + "_test.csv")
    published = np.zeros(len(table["loss" if "loss" in table else "final_loss"]), dtype=bool)
    if path.stem.endswith("_train") and test.exists():
        other = {name: np.asarray(column) for name, column in read_table(test).items()}
        published = np.r_[published, np.ones(len(next(iter(other.values()))), dtype=bool)]
        table = {name: np.r_[column, other[name]] for name, column in table.items() if name in other}
    lowered = {name.lower(): name for name in table}
    column = {ours: next((lowered[x] for x in names if x in lowered), None) for ours, names in NAMES.items()}
    if any(column[name] is None for name in ("params", "tokens", "loss")):
        return []
    N, D, L = (table[column[name]].astype(float) for name in ("params", "tokens", "loss"))
    group = table[column["group"]].astype(str) if column["group"] else np.arange(len(N)).astype(str)
    usable = np.isfinite(N * D * L) & (N > 0) & (D > 0) & (L > 0)
    if "unique_tokens" in table:
        usable &= D <= table["unique_tokens"]
    parts = [
        (name, [value for value in np.unique(values) if value])
        for name, values in table.items()
        if values.dtype.kind in "UO"
        and name not in column.values()
        and 1 < len(np.unique(values.astype(str))) <= MOST_VALUES
    ]
    found, stem = [], path.stem.removesuffix("_train")
    for values in product(*(values for _, values in parts)):
        keep = usable.copy()
        for (name, _), value in zip(parts, values, strict=True):
            keep &= table[name] == value
        name = " ".join([stem, *(str(value).split("/")[0] for value in values)])
        runs = Runs(path.parent.name, name, N[keep], D[keep], L[keep], group[keep], published[keep])
        if len(np.unique(runs.group)) >= FEWEST and len(np.unique(runs.N)) > 2:
            found.append(runs)
    return found


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
