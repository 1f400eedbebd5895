"""The folder of a large-batch study, read: what was asked, which cells are done, which failed.

    study.json               spec, data, machine, command, cells
    cells/<name>/result.json    one finished cell; checkpoint.pt beside it while it runs
    report.html

Needs no torch: the report reads this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillaw.errors import CacheError
from distillaw.images.spec import ImageStudy
from distillaw.runs.config import from_table
from distillaw.runs.files import read_json

RECORD = "large_batch.json"
CELLS = "cells"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One study on disk."""

    folder: Path
    study: ImageStudy
    info: dict[str, Any]
    """The whole of the record file."""
    results: tuple[dict[str, Any], ...]
    """Of finished and diverged cells, in the order planned."""
    missing: tuple[str, ...]
    """Cells without a result, as `column seed`."""

    def done(self, column: str) -> dict[int, dict[str, Any]]:
        """Seed to result, of the column's finished cells."""
        return {r["seed"]: r for r in self.results if r["column"] == column and r["state"] == "done"}

    @property
    def diverged(self) -> Sequence[dict[str, Any]]:
        """Cells whose loss was not finite."""
        return [r for r in self.results if r["state"] == "diverged"]


def read_record(folder: Path) -> ImageRecord:
    """Read the folder of a study, finished or not.

    Raises:
        CacheError: no such study, or a damaged file.
    """
    file = folder / RECORD
    if not file.exists():
        raise CacheError(
            f"{folder}: no {RECORD}, so no large-batch study; "
            f"`distillaw large-batch run SPEC.toml --data PATH --out {folder}` makes one"
        )
    info: dict[str, Any] = read_json(file)
    results, missing = [], []
    for cell in info["cells"]:
        path = folder / CELLS / cell["folder"] / "result.json"
        if path.exists():
            results.append(read_json(path))
        else:
            missing.append(f"{cell['column']} seed {cell['seed']}")
    return ImageRecord(
        folder=folder, study=from_table(ImageStudy, info["spec"], RECORD), info=info,
        results=tuple(results), missing=tuple(missing),
    )  # fmt: skip
