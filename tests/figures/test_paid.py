"""Loss against everything paid: bills from the runs, frontiers by brute force."""

import re

import pytest
from synthetic_study import World, write_study

from distillaw.accounting.scenarios import Scenario
from distillaw.errors import DataError
from distillaw.figures.compute import SCENARIOS, draw_paid, frontier, paid_cells
from distillaw.planning.api import plan
from distillaw.planning.measured import design_points
from distillaw.report.students import paid_sentences, paid_table
from distillaw.runs.record import read_study


@pytest.fixture(scope="module")
def record(noisy):
    return read_study(noisy)


@pytest.fixture(scope="module")
def paid(record):
    return paid_cells(record, design_points(record))


def test_bills_are_those_of_the_runs(record, paid):
    assert len(paid) == 4 * (1 + 3)
    teacher = next(t for t in record.teachers.values() if t.label == "0.3M")
    run = next(r for r in record.students if (r.label, r.tokens, r.teacher_run) == ("0.1M", 600_000, teacher.run_id))
    bill = next(p for p in paid if p.name == "0.1M on 600k tokens from the 0.3M teacher")
    at_hand = run.number("train_flops") + run.number("teacher_flops")
    assert bill.compute(Scenario.BEST_CASE) == run.number("train_flops")
    assert bill.compute(Scenario.INFERENCE) == pytest.approx(at_hand)
    everything = at_hand + teacher.number("train_flops")
    assert bill.compute(Scenario.PRETRAINING_INFERENCE) == pytest.approx(everything)
    alone = next(p for p in paid if p.name == "0.1M on 600k tokens, no teacher")
    assert {alone.compute(scenario) for scenario in Scenario} == {run.number("train_flops")}


@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_the_frontier_holds_what_no_other_beats_for_less(paid, scenario):
    found = frontier(paid, scenario)
    for taught, line in ((False, found.alone), (True, found.taught)):
        own = [p for p in paid if p.is_distilled == taught]
        unbeaten = [
            p for p in own if not any(q.compute(scenario) <= p.compute(scenario) and q.loss < p.loss for q in own)
        ]
        assert {p.name for p in line} == {p.name for p in unbeaten}


@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_better_is_better_than_what_no_teacher_gives_for_as_much(paid, scenario):
    """The next dearer student without a teacher included; where there is none, nothing is claimed."""
    found = frontier(paid, scenario)
    alone = [p for p in paid if not p.is_distilled]
    claimed = [p for p, _ in found.better]
    for p in found.taught:
        dearer = sorted(q.compute(scenario) for q in alone if q.compute(scenario) >= p.compute(scenario))
        if not dearer:
            assert p not in claimed
        elif p in claimed:
            assert all(p.loss < q.loss for q in alone if q.compute(scenario) <= dearer[0])
    assert len(claimed) + len(found.worse) + len(found.unknown) <= len(found.taught)
    assert not {p.name for p in claimed} & {p.name for p in (*found.worse, *found.unknown)}


def test_one_budget_says_nothing_of_as_much_compute(tmp_path):
    """As the headline of such a study: nobody knows what the same FLOP give without a teacher."""
    write_study(tmp_path, World(students=(1e5,), budgets=(150_000,)))
    one = read_study(tmp_path)
    verdict = plan(1e5, student_tokens=150_000, study=one, with_flips=False)
    assert verdict.equal_compute is not None and verdict.equal_compute.call is None
    for sentence in paid_sentences(paid_cells(one, design_points(one))):
        assert "3 are dearer than any without a teacher" in sentence and "better" not in sentence


def test_text_table_and_drawing_have_one_set_of_numbers(paid):
    figure = draw_paid(paid)
    for ax, scenario, sentence in zip(figure.axes, SCENARIOS, paid_sentences(paid), strict=True):
        drawn = {(float(x), float(y)) for line in ax.lines for x, y in zip(*line.get_data(), strict=True)}
        assert {(p.compute(scenario), p.loss) for p in paid} <= drawn
        found = frontier(paid, scenario)
        assert f"of {len(found.taught)} distilled" in sentence
        for those, words in ((found.better, "better"), (found.worse, "worse"), (found.unknown, "dearer")):
            said = re.search(rf"(\d+) (?:is|are) {words}", sentence)
            assert (int(said[1]) if said else 0) == len(those)
        assert ax.get_xlabel() == "compute paid, FLOP"
    table = paid_table(paid)
    assert {row[1] for row in table.rows} == {p.loss for p in paid}
    computes = [row[6] for row in table.rows]
    assert computes == sorted(computes) == sorted(p.compute(Scenario.INFERENCE) for p in paid)


def test_without_distilled_students_nothing_is_drawn(paid):
    with pytest.raises(DataError, match="both with and without a teacher"):
        draw_paid([p for p in paid if not p.is_distilled])
