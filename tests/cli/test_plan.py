import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "planning"))

from synthetic_study import write_study

BIN = [sys.executable, "-m", "distillaw", "plan"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    return folder


def run(*arguments):
    return subprocess.run([*BIN, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_json_has_the_schema_version_and_the_keys():
    done = run(
        "--student", "1B", "--tokens", "20B", "--teacher-params", "8B", "--teacher-tokens", "200B", "--json"
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["schema_version"] == 1
    assert answer["strategies"][0]["teacher_params"] in (8e9, None)
    assert 0 <= answer["probability"] <= 1


def test_the_answer_is_five_lines_then_tables_and_ends_with_the_next_command():
    done = run(
        "--student",
        "1B",
        "--compute",
        "1e21",
        "--teacher-params",
        "8B",
        "3B",
        "--teacher-tokens",
        "200B",
        "60B",
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.rstrip().splitlines()
    assert lines[0].split("  ")[0] in ("DISTIL", "PRETRAIN", "TOO CLOSE TO CALL")
    assert lines.index("") <= 5
    assert lines[-1].startswith("next: distillaw ")
    assert "from the 8B teacher" in done.stdout
    assert "busbridge2025" in done.stdout


def test_a_study_answers_for_its_target(study):
    done = run("--study", study)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("DISTIL")
    assert "paired runs of this study" in done.stdout
    assert f"next: distillaw report {study}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--student", "1B"], "give one budget"),
        (["--tokens", "1B"], "name the student"),
        (["--student", "1B", "--tokens", "x"], "cannot read 'x'"),
        (
            ["--student", "1B", "--tokens", "20B", "--teacher-params", "8B"],
            "needs its loss, or its size and tokens",
        ),
        (
            ["--student", "1B", "--tokens", "20B", "--teacher-loss", "2", "2.1", "--teacher-params", "8B"],
            "one value",
        ),
    ],
)
def test_wrong_usage_exits_with_2_and_one_line(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""
