"""Rows of several starts: a law takes those of one, and says of which."""

import csv
from pathlib import Path

import numpy as np
import pytest

import distillaw
from distillaw.errors import ConfigError, DataError
from distillaw.fitting.api import fit_arms
from distillaw.fitting.observations import arms_in, observe
from distillaw.fitting.study import fit_families
from distillaw.runs.spec import ARMS

SHIPPED = Path(distillaw.__file__).parent / "studies" / "capacity_gap_runs.parquet"


def _table(**columns):
    size = len(columns.get("arm", "ab"))
    numbers = {"params": np.full(size, 1e5), "tokens": np.full(size, 1e6)}
    return numbers | {"loss": 3 + np.arange(size) / 10} | columns


def test_a_law_takes_one_arm_and_says_what_it_left_out():
    table = _table(arm=np.array(["fresh", "pruned", "fixed", "fresh"], dtype=object))
    rows = observe(table)
    assert rows.arm == "fresh" and rows.row.tolist() == [0, 3] and "1 pruned, 1 fixed" in " ".join(rows.notes)
    assert observe(table, arm="fixed").row.tolist() == [2]
    with pytest.raises(ConfigError):
        observe(table, arm="cut")
    with pytest.raises(DataError):
        observe(_table(), arm="pruned")


def test_a_table_without_fresh_students_is_taken_as_it_is():
    rows = observe(_table(arm=np.array(["pruned", "pruned"], dtype=object)))
    assert rows.arm == "pruned" and len(rows) == 2 and any("pruned" in note for note in rows.notes)
    both = {"arm": np.array(["fresh", "fixed"], dtype=object), "role": np.array(["teacher", "student"], dtype=object)}
    assert observe(_table(**both)).arm == "fixed", "teachers are fresh whatever their students are"


def test_older_tables_say_by_init_what_arm_a_row_is_of():
    older = {"arm": ["supervised", "distilled", "distilled", "distilled"]}
    older |= {"init": ["fresh", "fresh", "pruned", float("nan")]}
    assert arms_in(older).tolist() == ["fresh", "fresh", "pruned", "fresh"]
    assert arms_in({"init": ["pretrained", None]}).tolist() == ["pretrained", "fresh"]
    assert arms_in({"loss": [1.0]}).tolist() == ["fresh"]


def test_a_study_keeps_the_line_of_every_arm(tmp_path):
    """The best teacher is twice the student from random weights, six times when it was cut out of one reference."""
    rng, rows = np.random.default_rng(0), []
    for arm, ratio in (("fresh", 2.0), ("fixed", 6.0)):
        for student in np.geomspace(1e6, 1e7, 5):
            rows.append((student, 1e8, 3 + 0.001 * rng.normal(), "", "", arm))
            for teacher in student * np.geomspace(0.5, 24, 7):
                loss = 2.8 + 0.05 * np.log(teacher / (ratio * student)) ** 2 + 0.001 * rng.normal()
                rows.append((student, 1e8, loss, teacher, 2.5, arm))
    with (tmp_path / "runs.csv").open("w", newline="") as file:
        names = ("params", "tokens", "loss", "teacher_params", "teacher_loss", "arm")
        csv.writer(file).writerows([names, *rows])
    fits, errors = fit_families(tmp_path / "runs.csv", bootstrap=20)
    assert {name for name in fits if name.startswith("capacity-gap")} == {"capacity-gap", "capacity-gap-fixed"}
    assert "capacity-gap" not in errors
    assert fits["capacity-gap"].params["ratio"] == pytest.approx(2, rel=0.15)
    assert fits["capacity-gap-fixed"].params["ratio"] == pytest.approx(6, rel=0.15)


def test_the_study_in_three_arms_says_what_its_page_says():
    """docs/capacity-gap.md: no arm has a line; one curve of fresh students is bracketed, pruned ones are bounds."""
    fits = fit_arms(SHIPPED, family="capacity-gap", bootstrap=0)
    assert {arm: fit.status.name for arm, fit in fits.items()} == dict.fromkeys(ARMS, "TOO_FEW_RUNS")
    found = {
        arm: [
            round(one["best_teacher_params"], -4)
            for budget in fit.details["budgets"]
            for one in budget["optima"]
            if one["status"] == "bracketed"
        ]
        for arm, fit in fits.items()
    }
    assert found == {"fresh": [380_000], "pruned": [], "fixed": []}
    ends = [one["interval"][1] for one in fits["pruned"].details["budgets"][0]["optima"]]
    assert np.allclose(ends, [176e3, 176e3, 133e3, 191e3, 539e3], rtol=0.01)
