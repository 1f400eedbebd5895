"""Published outcomes nearest to a question, in `plan` and its JSON."""

import math

import distillaw as dl
from distillaw.outcomes.table import KEPT_OUT, read_outcomes
from distillaw.planning.verdict import nearest_table

BY_ID = {row.id: row for row in read_outcomes()}
ASKED = {"student_tokens": "22.5B", "teacher_params": ["1.2B"], "teacher_tokens": ["2.4T"], "with_flips": False}


def found(student="308M", **more):
    return dl.plan(student, **(ASKED | more)).nearest


def test_the_very_question_of_a_row_has_that_row_first():
    first = found()[0]
    assert first.row.id == "miniplm-500M-eqtok" and first.distance < 0.6
    assert first.agrees is True and "0.073 nats" in first.outcome and "308M" in first.question


def test_three_to_five_of_different_sources_or_comparisons_nearest_first():
    for student, tokens in (("308M", "22.5B"), ("10M", "12M"), ("30B", "1T")):
        cases = found(student, student_tokens=tokens)
        assert 3 <= len(cases) <= 5
        assert [case.distance for case in cases] == sorted(case.distance for case in cases)
        assert all(math.isfinite(case.distance) for case in cases)
        assert len({(case.row.source, case.row.comparison) for case in cases}) == len(cases)
        assert not [k for case in cases for k in KEPT_OUT if k in case.row.source]


def test_the_recipe_and_the_budget_bring_others_near():
    assert found(top_k=12)[0].row.top_k is not None
    by_flop = found(student_tokens=None, compute=1.814e20)
    assert by_flop[0].row.comparison == "distil-vs-pretrain-equal-flop"


def test_nothing_agrees_with_a_tie_and_the_json_has_what_is_shown():
    verdict = dl.plan("308M", **(ASKED | {"student_tokens": None, "compute": 1.814e20}))
    assert verdict.verdict == "too-close"
    rows = verdict.to_json()["nearest"]
    assert {"id", "source", "question", "outcome", "distance"} <= rows[0].keys()
    assert all(row["agrees"] is None for row in rows)
    assert len(nearest_table(verdict).texts) == len(rows) == len(verdict.nearest)
    assert rows[0]["outcome"].startswith({"A": "dist", "B": "training", "tie": "a tie"}[BY_ID[rows[0]["id"]].winner])
