"""Every study file that ships dry-runs through the command line (those of images: tests/large_batch/images)."""

from pathlib import Path

import pytest

from in_process import answer

STUDIES = Path(__file__).parents[2] / "studies"
TEXT = {"pocket", "wager", "open", "open-sixteen", "open-large", "capacity-gap"}  # of a corpus that the reader has


@pytest.mark.parametrize(
    "path", [*sorted(STUDIES.glob("*.toml")), *sorted(STUDIES.glob("worlds/*.toml"))], ids=lambda path: path.stem
)
def test_a_shipped_study_dry_runs(path):
    done = answer("study", "show", path, *(["--corpus", "sotu"] if path.stem in TEXT else []), code=0)
    assert "runs from" in done.stdout and "what it would identify" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(STUDIES.glob("settle/*.toml")), ids=lambda path: path.stem)
def test_a_shipped_settlement_dry_runs(path):
    done = answer("settle", path, "--dry-run", code=0)
    assert "FLOP" in done.stdout
