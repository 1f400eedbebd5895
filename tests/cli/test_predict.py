"""`distillaw predict` through the console script."""

import json
import subprocess

import pytest

KEYS = {"law", "supervised_loss", "teacher_loss", "student_loss", "interval", "inside_range", "warnings"}


def distillaw(*args):
    return subprocess.run(["distillaw", *args], capture_output=True, text=True, timeout=60)


def predict(*args):
    done = distillaw("predict", "--law", "busbridge2025", "--json", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_published_table_7_value():
    answer = predict("--student-params", "546M", "--student-tokens", "10.92B", "--teacher-params", "1.821B",
                     "--teacher-tokens", "36.42B")  # fmt: skip
    assert KEYS <= set(answer)
    assert answer["student_loss"] == pytest.approx(2.42, abs=0.005)  # arXiv:2502.08606v2 Table 7
    assert answer["supervised_loss"] == pytest.approx(2.515, abs=5e-4)
    assert answer["teacher_loss"] == pytest.approx(2.251, abs=5e-4)
    assert answer["inside_range"] is True and answer["interval"] is None
    assert any("do not reproduce" in warning for warning in answer["warnings"])


def test_without_a_teacher_it_is_the_supervised_loss():
    answer = predict("--student-params", "546M", "--student-tokens", "10.92B")
    assert answer["student_loss"] == answer["supervised_loss"] and answer["teacher_loss"] is None


def test_outside_the_range_is_said():
    answer = predict("--student-params", "70B", "--student-tokens", "1e13", "--teacher-loss", "2.0")
    assert answer["inside_range"] is False and answer["status"] == "EXTRAPOLATED"
    assert any("student_params 7e+10 is above" in warning for warning in answer["warnings"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--student-params", "x", "--student-tokens", "1B"), "--student-params: cannot read 'x'"),
        (("--student-params", "1B"), "--student-tokens 6B"),
        (("--student-params", "1B", "--student-tokens", "1B", "--teacher-params", "7B"), "belong together"),
        (("--student-params", "1B", "--student-tokens", "1B", "--teacher-loss", "-2"), "must be positive"),
    ],
)
def test_wrong_usage(args, message):
    done = distillaw("predict", "--law", "busbridge2025", *args)
    assert done.returncode == 2 and message in done.stderr
