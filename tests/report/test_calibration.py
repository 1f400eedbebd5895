"""Calibration of a study's runs: the page's numbers are those of the runs, and older runs are said to lack them."""

import json

import numpy as np
import pytest
from synthetic_study import write_study

from distillaw.errors import DataError
from distillaw.figures.calibrated import calibrated_groups
from distillaw.report.trust import calibration_notes, calibration_picture, calibration_table
from distillaw.runs.record import read_study
from distillaw.runs.store import CALIBRATION_KEYS


@pytest.fixture
def measured(tmp_path):
    """A study whose runs have the columns: KL grows with a better teacher, errors are told apart by their run."""
    write_study(tmp_path)
    (tmp_path / "runs.parquet").unlink(missing_ok=True)
    rng = np.random.default_rng(3)
    for file in sorted(tmp_path.glob("runs/*/result.json")):
        row = json.loads(file.read_text())
        taught = row.get("teacher_loss") is not None
        row |= dict.fromkeys(CALIBRATION_KEYS)
        row |= {"ece": float(rng.uniform(0.01, 0.03)), "ece_se": 0.002}
        if taught:
            row |= {
                "ece_teacher": float(rng.uniform(0.001, 0.01)),
                "ece_teacher_se": 0.001,
                "kl_from_teacher": 5.0 - row["teacher_loss"],
                "kl_from_teacher_se": 0.01,
            }
        file.write_text(json.dumps(row))
    return read_study(tmp_path)


def test_groups_are_means_over_seeds_of_the_runs_own_numbers(measured):
    groups = calibrated_groups(measured)
    repeated = [group for group in groups if group.seeds > 1]
    assert repeated
    for group in repeated:
        runs = [
            run
            for run in measured.students
            if (run.params, run.tokens) == (group.params, group.tokens)
            and run.number("teacher_loss") == pytest.approx(group.teacher_loss, nan_ok=True)
        ]
        assert len(runs) == group.seeds
        assert group.against_data.value == pytest.approx(np.mean([run.row["ece"] for run in runs]))
    assert len(groups) == len(calibration_table(groups).rows)


def test_the_page_says_that_the_distance_grows_and_draws_all_three_errors(measured):
    groups = calibrated_groups(measured)
    rows = {(g.params, g.tokens) for g in groups if g.kl}
    assert f"grows at every step in {len(rows)} of {len(rows)} rows" in " ".join(calibration_notes(groups))
    picture = calibration_picture(groups)
    for text in ("against the text", "against the teacher", "distance from the teacher", "nats/token"):
        assert text in picture.svg
    best = min((g for g in groups if g.kl), key=lambda g: g.teacher_loss)
    assert f"KL {best.kl.value:.3f}" in picture.alt


def test_runs_of_older_versions_are_said_to_lack_the_numbers(tmp_path):
    write_study(tmp_path)
    groups = calibrated_groups(read_study(tmp_path))
    assert not groups and not calibration_notes(groups)
    with pytest.raises(DataError, match="distillaw evaluate"):
        calibration_picture(groups)
