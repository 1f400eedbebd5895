"""Arms in a table: comparisons have one start, a run of two arms is one run, thinning keeps the arms of a cell."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from distillaw.figures.compute import compute_spent
from distillaw.figures.starts import start_cells
from distillaw.planning.arms import student_arms
from distillaw.planning.measured import design_points
from distillaw.report.students import start_sentences, start_table
from distillaw.runs.record import Run, StudyRecord
from distillaw.runs.spec import Recipe, TrunkSpec, leading_arm

TEACHERS = {"A": 3.5, "B": 3.2}
"""Teacher -> loss of the student that is cut out of it and trained alone."""


def _student(arm, teacher, start, loss, *, seed=0, rate=0.01, tokens=10_000, **more):
    name = f"{arm}-{teacher}-{start}-{tokens}-{rate}-s{seed}"
    row = {"run_id": name, "role": "student", "purpose": "grid", "arm": arm, "tokens": tokens, "loss": loss}
    row |= {"params": 30_000, "teacher_run": teacher, "start_run": start, "start_params": 1e5, "seed": seed}
    row |= {"init": "fresh" if arm == "fresh" else "pruned", "peak_lr": rate, "branch_lr": rate}
    row |= {"teacher_loss": 3.0, "teacher_params": 1e5} if teacher else {}
    return row | more


def _teacher(name):
    row = {"run_id": name, "role": "teacher", "purpose": "teacher", "arm": "fresh", "init": "fresh", "seed": 0}
    return row | {"params": 100_000, "tokens": 30_000, "loss": 3.0, "peak_lr": 0.01}


def _record(*rows):
    every = [*map(_teacher, TEACHERS), *rows]
    return StudyRecord(
        folder=Path("."),
        info={},
        runs=[Run(row=row, folder=None) for row in every],
        unfinished=(),
        tuning={},
        problems=(),
    )


PRUNED = [
    row
    for name, loss in TEACHERS.items()
    for row in (_student("pruned", None, name, loss), _student("pruned", name, name, loss - 0.05))
]
FIXED = [_student("fixed", None, "B", 3.2)] + [_student("fixed", name, "B", 3.15) for name in TEACHERS]


def test_students_that_each_began_elsewhere_are_compared_with_none_that_began_at_one_teacher():
    """Each teacher is worth 0.05 here; against the student cut out of B alone, A seemed to cost 0.25."""
    record = _record(*PRUNED)
    assert record.lacks_baseline and not design_points(record)
    assert [run.teacher_run for run in record.students] == list(TEACHERS)
    fixed = _record(*PRUNED, *FIXED)
    assert not fixed.lacks_baseline and {run.arm for run in fixed.students} == {"fixed"}
    (point,) = design_points(fixed)
    assert [one.gain for one in point.taught] == pytest.approx([0.05, 0.05])


def test_a_pruned_arm_of_one_teacher_is_compared_with_the_same_cut_alone():
    (point,) = design_points(_record(*PRUNED[:2]))
    assert point.taught[0].gain == pytest.approx(0.05)


def test_runs_at_other_rates_are_of_one_arm_and_one_start():
    other = [
        _student("fixed", "A", "B", 3.0, rate=0.005),
        _student("fixed", "A", "B", 3.1, rate=0.02, purpose="tuning"),
    ]
    mine = _student("pruned", "A", "A", 3.47, rate=0.02, purpose="tuning")
    for arm in student_arms(_record(*PRUNED, mine), 30_000):
        tried = arm.rate.curves[10_000]
        assert {len(losses) for _, losses in tried} == {1, 2} or [x for _, x in tried] == [[3.45, 3.47]]
    for arm in student_arms(_record(*PRUNED, *other), 30_000):
        for budget in arm.rate.curves.values():
            assert not any({3.45, 3.47} & set(losses) for _, losses in budget), "the fixed arm leads"


def test_a_run_that_serves_two_arms_is_spent_once():
    cost = {"train_flops": 100.0, "teacher_flops_spent": 50.0, "seconds": 10.0, "group": "x"}
    rows = [_student(arm, "A", "A", 3.0, **cost) | {"run_id": "x-10000t"} for arm in ("fixed", "pruned")]
    rows[0]["purpose"] = "tuning"
    spent, record = compute_spent(_record(*rows)), _record(*rows)
    flop = {one.part: one.flop for one in spent}
    assert flop == {"distilled students": 100.0, "teacher logits": 50.0}
    assert next(one.seconds for one in spent) == 10.0
    assert len(record.runs) == len(record.trained) + 1


def test_thinning_keeps_every_arm_of_a_cell():
    rows = [
        _student(arm, teacher, teacher or "A", 3.0, seed=seed, tokens=tokens)
        for tokens in range(1_000, 101_000, 500)
        for arm in ("fresh", "fixed")
        for teacher in (None, "A", "B")
        for seed in range(2)
    ]
    kept = _record(*rows).thinned()
    cells = Counter((run.tokens, run.arm) for run in kept.runs if run.row["role"] == "student")
    assert set(cells.values()) == {6} and len(cells) == 2 * len({tokens for tokens, _ in cells})
    assert len(kept.runs) <= 1_010


def test_the_lowest_of_an_arm_is_by_seeds_that_all_have():
    lucky = [_student("fixed", "A", "B", loss, seed=s) for s, loss in enumerate((3.15, 3.01, 3.02))]
    cells = start_cells(_record(FIXED[0], *lucky, _student("fixed", "B", "B", 3.14) | {"teacher_params": 2e5}))
    assert "3.140 nats/token (1 seed) from 200k" in start_sentences(cells)[0]
    assert [round(p.se, 4) for p in cells[0].taught["fixed"]][:1] == [
        round(np.std([3.15, 3.01, 3.02], ddof=1) / 3**0.5, 4)
    ]
    assert "± seeds" in str(start_table(cells))


def test_a_teacher_of_unknown_size_has_no_size_in_words():
    nameless = [row | {"teacher_params": None} for row in FIXED]
    (said,) = start_sentences(start_cells(_record(*nameless)))
    assert "nan" not in said and "unknown size" in said


@pytest.mark.parametrize(("init", "arm"), [("fresh", "fresh"), ("pruned", "pruned"), ("pretrained", "pretrained")])
def test_a_model_that_was_trained_before_is_no_cut(init, arm):
    """Its result would be fitted by `--arm pruned` together with students that were cut out of their teacher."""
    trunk = TrunkSpec(
        **dict.fromkeys(("role", "purpose", "label", "split", "data_hash"), "x"),
        **dict.fromkeys(("layers", "width", "ffn", "heads", "params", "total_params", "vocab_size", "seed"), 1),
        peak_lr=0.01,
        batch_tokens=1,
        recipe=Recipe(),
        init=init,
    )
    assert trunk.start_arm == arm


def test_what_leads_has_one_start_for_all_teachers():
    assert leading_arm(["pruned", "fixed", "fresh"]) == "fresh"
    assert leading_arm(["pruned", "pretrained", "fixed"]) == "fixed"
    assert leading_arm(["pretrained", "pruned"]) == "pruned"
