import json
import re
from functools import partial

import pytest

from in_process import answer as in_process
from in_terminal import in_terminal

run = partial(in_process, "gap")


def test_json_has_the_schema_version_and_the_keys():
    answer = json.loads(run("--student", "1B", "--tokens-per-param", 160, "--json", "--explain", code=0).stdout)
    assert answer["schema_version"] == 1 and answer["student_tokens"] == 160e9
    assert answer["teacher_tokens_per_param"] == 20 and answer["teacher_tokens"] is None
    found = {opinion["law"]: opinion for opinion in answer["opinions"]}
    assert answer["recommended"] in found
    assert found["zhang2023-constant-ratio"]["ratio"] == pytest.approx(2.5)
    assert found["zhang2023-constant-ratio"]["start"] == "pruned-same"
    costs = {cost["name"]: cost["per_cent"] for cost in found["busbridge2025"]["costs"]}
    assert costs["1 x the student"] == pytest.approx(8.7, abs=0.05)
    assert "dL_S / dL_T" in answer["derivation"]


def test_the_table_the_flatness_and_the_next_command():
    done = run("--student", "1B", "--tokens", "20B", "--teacher-tokens", "300B", "--teacher-loss", "2.1", code=0)
    lines = done.stdout.rstrip().splitlines()
    assert "teachers trained on 300B tokens each" in lines[0]
    assert "half the best" in done.stdout and "Within 0.5 %" in done.stdout
    assert "A teacher of loss 2.1 costs" in done.stdout
    assert any(line.startswith("busbridge2025") and "(" in line and "REFUSED" in line for line in lines)
    assert (
        "WARNING busbridge2025" in done.stderr and "(whole: distillaw laws show zhang2023-capacity-gap)" in done.stderr
    )
    assert "WARNING" not in done.stdout and "pruned-same" in done.stdout
    assert lines[-1].startswith(
        "next: distillaw gap --student 1B --tokens 20B --teacher-tokens 300B --teacher-loss 2.1 --explain"
    )


def test_explain_ends_with_a_plan_of_the_best_teacher():
    done = run("--student", "300M", "--explain", code=0)
    assert "<- best" in done.stdout and "The sign changes at L_T*" in done.stdout
    assert "next: distillaw plan --student 300M --tokens 6B --teacher-params" in done.stdout


def test_outside_its_runs_a_law_recommends_as_far_as_a_plan_follows_it():
    near, far = run("--student", "5M").stdout, run("--student", "1B").stdout
    assert "NO RECOMMENDATION" not in near and "times outside what that law was fitted on" in near
    assert "times outside" not in far


def test_far_outside_every_range_nothing_is_recommended():
    done = run("--student", "20k", code=0)
    assert "NO RECOMMENDATION" in done.stdout and "NOT_APPLICABLE" in done.stdout
    assert all("(" in line for line in done.stdout.splitlines() if line.endswith("OUT_OF_RANGE"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--student", "1B", "--teacher-loss", "1.2"], "irreducible"),
        (["--student", "1B", "--tokens", "20B", "--tokens-per-param", "20"], "same thing twice"),
        (["--student", "-1B"], "positive"),
        (["--student", "1B", "--tokens", "0.5"], "at least 1"),
        (["--student", "1B", "--law", "nonesuch"], "neither a published law"),
        (["--student", "1B", "--law", "hoffmann2022"], "laws that do"),
        (["--student", "1B", "--teacher-loss", "1e20"], "--teacher-loss = 1e+20: more than 14 nats/token"),
        (["--student", "1e20"], "more than 1e+15 parameters"),
        (["--student", "1B", "--margin", "0"], "margin"),
        (["--student", "1B", "--margin", "-1"], "--margin -1: per cent"),
    ],
)
def test_bad_input_is_one_line(arguments, words):
    done = run(*arguments, code=2)
    assert words in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_lines_are_whole_in_a_pipe_and_fit_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    done = run("--student", "1B")
    assert not [line for line in done.stdout.splitlines() if line.startswith(" ")]
    shown = in_terminal("gap", "--student", "1B", "--quiet", columns=70)
    assert "WARNING" not in shown and max(map(len, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).splitlines())) <= 70
