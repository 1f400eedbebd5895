"""The runs of the shipped pocket study as other people would have logged them: real values, other names."""

from importlib.resources import files
from pathlib import Path

import pytest

from distillaw.runs.table import read_columns
from in_process import answer
from tracked import as_logged


@pytest.fixture(scope="session")
def pocket() -> list[dict]:
    """Rows of the pocket study that laws are fitted to: teachers and grid."""
    columns = read_columns(Path(str(files("distillaw"))) / "studies" / "pocket_runs.parquet")
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [row for row in rows if row["purpose"] != "tuning"]


@pytest.fixture(scope="session")
def logged(pocket) -> list[dict]:
    """Each run as a script would log it: settings, and a history of steps that ends in the measured loss."""
    return [as_logged(row) for row in pocket]


@pytest.fixture
def cli(tmp_path):
    """Run `distillaw ...` ; gives (exit code, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        done = answer(*words, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    return call
