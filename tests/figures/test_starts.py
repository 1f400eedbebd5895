"""Curves of students by what they begin from, of a record made up here."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from distillaw.errors import DataError
from distillaw.figures import starts
from distillaw.report.students import start_sentences


def run(arm, teacher, loss):
    numbers = {"teacher_params": teacher, "teacher_loss": 3.0}
    return SimpleNamespace(
        seed=0,
        params=1000,
        tokens=4000,
        label="1k",
        arm=arm,
        teacher_run=f"T{teacher}",
        loss=loss,
        row={},
        number=numbers.get,
    )


@pytest.fixture
def record():
    arms = {
        arm: [run(arm, teacher, 3.0 + i / 10) for i, teacher in enumerate((2000, 4000, 8000))]
        for arm in ("fresh", "pruned", "warm")
    }
    return SimpleNamespace(arms=arms, folder=Path("study"), every_teacher={})


def test_why_an_arm_cannot_be_fitted_is_in_the_report(record, monkeypatch):
    def fit(folder, *, arm, **options):
        if arm == "pruned":
            raise DataError("row 1: a pruned student of 1k is larger than its teacher")
        optimum = {
            "student_params": 1000.0,
            "student_tokens": 4000.0,
            "best_teacher_params": 2500.0,
            "interval": [2100.0, 3000.0],
            "problem": "",
        }
        return SimpleNamespace(details={"budgets": [{"optima": [optimum]}]})

    monkeypatch.setattr(starts, "fit", fit)
    cells = starts.start_cells(record)
    (sentence,) = start_sentences(cells)
    assert "larger than its teacher" in sentence and "best teacher 2.5k (2.1k to 3k)" in sentence
    assert "warm" in sentence
    starts.draw_starts(cells, against="size")


def test_teachers_are_compared_at_the_seeds_that_all_have():
    """The second teacher is worse by 0.1 at seed 0; its four other seeds were lucky."""

    def point(teacher, losses):
        return starts.StartPoint(teacher_params=teacher, teacher_loss=3.0, losses=losses)

    points = [point(2000, {0: 3.0}), point(4000, {0: 3.1, 1: 2.7, 2: 2.7, 3: 2.7, 4: 2.7})]
    assert starts.at_equal_seeds(points) == [[3.0, 3.1]] and starts.lowest_point(points) is points[0]
    apart = [point(2000, {1: 3.0}), point(4000, {0: 3.1, 2: 2.7})]
    assert starts.at_equal_seeds(apart) == [[3.0, pytest.approx(2.9)]], "no seed in common: each its own"
    assert starts.lowest_point([]) is None
