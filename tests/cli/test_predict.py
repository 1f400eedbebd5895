"""`distillaw predict` through the console script."""

import json
from pathlib import Path

import pytest

import distillaw as dl
from distillaw import studies
from distillaw.fitting.result import convention_of
from distillaw.laws.published import laws_available, published
from in_process import answer as distillaw

KEYS = {"law", "supervised_loss", "teacher_loss", "student_loss", "interval", "inside_range", "warnings"}


def predict(*args):
    return json.loads(distillaw("predict", "--law", "busbridge2025", "--json", *args, code=0).stdout)


def test_published_table_7_value():
    answer = predict(
        *"--student-params 546M --student-tokens 10.92B --teacher-params 1.821B --teacher-tokens 36.42B".split()
    )
    assert KEYS <= set(answer)
    assert answer["student_loss"] == pytest.approx(2.42, abs=0.005)  # arXiv:2502.08606v2 Table 7
    assert answer["supervised_loss"] == pytest.approx(2.515, abs=5e-4)
    assert answer["teacher_loss"] == pytest.approx(2.251, abs=5e-4)
    assert answer["inside_range"] is True
    low, high = answer["interval"]  # the span of the printed set and the three surrogates, 1 % wider
    assert low == pytest.approx(0.99 * answer["student_loss"]) and 2.460 * 1.009 < high < 2.4605 * 1.011
    assert "surrogate-s2" in answer["interval_meaning"] and "no confidence interval" in answer["interval_meaning"]
    assert any("do not reproduce" in warning for warning in answer["warnings"])


def test_without_a_teacher_it_is_the_supervised_loss():
    answer = predict("--student-params", "546M", "--student-tokens", "10.92B")
    assert answer["student_loss"] == answer["supervised_loss"] and answer["teacher_loss"] is None


def test_outside_the_range_is_said():
    answer = predict("--student-params", "70B", "--student-tokens", "1e13", "--teacher-loss", "2.0")
    assert answer["inside_range"] is False and answer["status"] == "EXTRAPOLATED"
    assert any("student size 7e+10 is above" in warning for warning in answer["warnings"])


def test_no_prediction_without_an_interval_or_the_reason_for_none():
    for name in laws_available():
        law = published(name)
        total = ["--params-convention", "total"] if convention_of(law) == "total" else []
        for params in ("500M", "900B"):
            done = distillaw(
                *f"predict --law {name} --json --student-params {params} --student-tokens 30B".split(), *total, code=0
            )
            answer = json.loads(done.stdout)
            assert KEYS <= set(answer) and len(answer["interval_meaning"]) > 10
            if answer["interval"] is not None:
                low, high = answer["interval"]
                assert answer["inside_range"] and low < answer["student_loss"] < high
            elif law.record.errors:
                assert not answer["inside_range"] and "outside the range" in answer["interval_meaning"]


def test_the_share_of_the_data_term_stands_beside_the_prediction(tmp_path):
    """Where it is small, tokens do not inform the answer: of published laws and of fitted ones."""
    question = ("--student", "1B", "--tokens", "20B", "--teacher-loss", "2.0")
    said = distillaw("predict", "--law", "busbridge2025", *question).stdout
    assert "data term           0.23 % of the student's sum" in said
    runs, own = Path(studies.__path__[0]) / "open_runs.parquet", tmp_path / "own.json"
    found = dl.fit(runs, family="distillation-kappa", bootstrap=0, check=False, calibrate=False)
    found.save(own)
    answer = json.loads(distillaw("predict", "--law", own, *question, "--json").stdout)
    law = found.params
    A, B = law["A"] / 1e9 ** law["alpha"], law["B"] / 2e10 ** law["beta"]
    assert answer["data_share"] == pytest.approx(B / (A + B))


def test_the_level_widens_the_interval():
    cell = ("--student-params", "1B", "--student-tokens", "30B")
    narrow, wide = (predict(*cell, "--level", level)["interval"] for level in ("0.5", "0.99"))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_repeated_data():
    options = ("--law", "muennighoff2023", "--student-params", "1B", "--student-tokens", "80B", "--json")
    plain = json.loads(distillaw("predict", *options).stdout)
    repeated = json.loads(distillaw("predict", *options, "--unique-tokens", "10B").stdout)
    law = published("muennighoff2023").repeated
    assert repeated["student_loss"] == float(law(params=1e9, tokens=8e10, unique_tokens=1e10)) > plain["student_loss"]
    assert repeated["effective_tokens"] == pytest.approx(66.2e9, rel=1e-3)


def test_a_measured_loss_of_the_student():
    given = predict(*"--student-params 1B --student-tokens 30B --teacher-loss 2.1 --supervised-loss 2.4".split())
    assert given["supervised_loss"] == 2.4
    expected = published("busbridge2025").distillation(
        student_params=1e9, student_tokens=30e9, teacher_loss=2.1, supervised_loss=2.4
    )
    assert given["student_loss"] == float(expected) and given["interval"][0] < expected < given["interval"][1]


@pytest.mark.parametrize(
    ("law", "args", "message"),
    [
        ("gemstones-hot", (), "say --params-convention total"),
        ("zhang2023-capacity-gap", ("--teacher-loss", "2"), "takes nothing else"),
        ("busbridge2025", ("--unique-tokens", "1B"), "muennighoff2023 does"),
        ("busbridge2026", (), "did you mean 'busbridge2025'"),
    ],
)
def test_questions_that_a_law_cannot_answer(law, args, message):
    done = distillaw("predict", "--law", law, "--student-params", "1B", "--student-tokens", "30B", *args)
    assert done.returncode in (1, 2) and message in done.stderr and not done.stdout


def test_a_line_is_not_evaluated_below_its_own_student():
    done = distillaw("predict", "--law", "zhang2023-capacity-gap", "--student-params", "5M")
    assert done.returncode == 1 and "smaller than the student" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--student-params", "x", "--student-tokens", "1B"), "--student-params: cannot read 'x'"),
        (("--student-params", "-1B", "--student-tokens", "1B"), "--student-params: got '-1B'"),
        (("--student-params", "1.82Q", "--student-tokens", "1B"), "cannot read '1.82Q'"),
        (("--student-params", "1,82B", "--student-tokens", "1B"), "cannot read '1,82B'"),
        (("--student-params", "0", "--student-tokens", "1B"), "must be positive"),
        (("--student-params", "0.5", "--student-tokens", "1B"), "at least 1"),
        (("--student-params", "1B", "--student-tokens", "1B", "--teacher-loss", "1e-30"), "nats per token"),
        (("--student-params", "1B", "--student-tokens", "inf"), "cannot read 'inf'"),
        (("--student-params", "1B", "--student-tokens", "nan"), "cannot read 'nan'"),
        (("--student-params", "1B", "--student-tokens", "1B", "--teacher-loss", "2.0B"), "nats per token"),
        (("--student-params", "1B", "--student-tokens", "1B", "--level", "90"), "share between 0 and 1"),
        (("--student-tokens", "1B"), "--student: parameters"),
        (("--student-params", "1B"), "--tokens 6B"),
        (("--student-params", "1B", "--student-tokens", "1B", "--teacher-params", "7B"), "belong together"),
        (("--student-params", "1B", "--student-tokens", "1B", "--teacher-loss", "-2"), "must be positive"),
    ],
)
def test_wrong_usage(args, message):
    done = distillaw("predict", "--law", "busbridge2025", *args)
    assert done.returncode == 2 and message in done.stderr


def test_warnings_are_no_part_of_stdout():
    question = ("predict", "--law", "busbridge2025", "--student-params", "1B", "--student-tokens", "20B")
    done = distillaw(*question)
    assert "WARNING" not in done.stdout
    assert done.stderr.count("WARNING: ") > 1 and "(whole text: distillaw laws show busbridge2025)" in done.stderr
    assert distillaw(*question, "--quiet").stderr == ""
