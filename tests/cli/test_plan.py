import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "planning"))

from synthetic_study import write_study

from distillaw.quantities import format_count
from in_process import answer as in_process


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    return folder


run = partial(in_process, "plan")


def test_json_has_the_schema_version_and_the_keys():
    done = run("--student", "1B", "--tokens", "20B", "--teacher-params", "8B", "--teacher-tokens", "200B", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["schema_version"] == 1
    assert answer["strategies"][0]["teacher_params"] in (8e9, None)
    assert 0 <= answer["probability"] <= 1


def test_the_answer_is_five_lines_then_tables_and_ends_with_the_next_command():
    done = run(*"--student 1B --compute 1e21 --teacher-params 8B 3B --teacher-tokens 200B 60B".split(), code=0)
    lines = done.stdout.rstrip().splitlines()
    assert lines[0].startswith(("DISTIL ", "PRETRAIN ", "TOO CLOSE TO CALL "))
    assert len(re.findall("pretrain without|too close to call", lines[0], re.IGNORECASE)) <= 1, "said twice"
    assert lines.index("") <= 5
    assert lines[-1].startswith("next: distillaw ")
    assert "from the 8B teacher" in done.stdout
    assert "busbridge2025" in done.stdout


def test_the_title_is_not_said_twice():
    asked = "plan --student 1B --tokens 20B --teacher-params 8B --teacher-tokens 15T".split()
    (line, *_) = in_process(*asked).stdout.splitlines()
    assert re.match(r"DISTIL from the 8B teacher: \d+ %", line)


def test_where_training_alone_catches_up_and_what_a_wrong_answer_costs_are_printed():
    asked = ("plan", "--student", "1B", "--tokens", "100B", "--teacher", "llama-3.1-8b")
    shown, numbers = in_process(*asked).stdout, json.loads(in_process(*asked, "--json").stdout)
    assert numbers["verdict"] != "distil"
    assert f"Catching up: at {format_count(numbers['crossover_tokens']['median'])} tokens [" in shown
    assert f"If this answer is wrong it costs {numbers['regret_if_wrong']['mean']:.3f} [" in shown


def test_serving_that_takes_the_whole_budget_is_said_as_such():
    done = in_process("plan", "--student", "1B", "--compute", "1e21", "--inference-tokens", "1T")
    assert done.returncode == 2 and "less than serving 1T tokens" in done.stderr
    assert not re.search(r"-\d", done.stderr), "no negative tokens"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            [
                *"--student 1B --device-hours 500 --device h200 --teacher-params 8B".split(),
                *"--teacher-tokens 300B".split(),
            ],
            ["500 device-hours of h200", "equal compute"],
        ),
        (
            ["--money", "2000", "--max-student", "2B", "--teacher", "pythia-6.9b"],
            ["2,000 $", "free-size (up to 2B)", "measure it on yours"],
        ),
        (
            [
                *"--student 500M --max-student 3B --compute 3e21 --scenario pretraining".split(),
                *"--students-served 8 --logits stored".split(),
            ],
            ["pretrain a larger student", "shared by 8 students"],
        ),
        (
            [
                *"--serve-memory 4e9 --weight-bytes 0.5 --tokens 100B --teacher-params 8B".split(),
                *"--teacher-tokens 300B".split(),
            ],
            ["bytes of memory at 0.5 bytes a weight"],
        ),
        (
            [
                *"--student 1B --compute 1e22 --unique-tokens 20B --inference-tokens 200B".split(),
                *"--delta-lgt 0.5 --teacher-params 8B --teacher-tokens 300B".split(),
            ],
            ["passes over 20B unique", "Serving 200B tokens", "shares of logits 0.5"],
        ),
        (
            [*"--student 1B --tokens 20B --teacher-params 8B --teacher-tokens 200B".split(), "--explain"],
            ["How it comes about:", "P(gain > margin)", "are within 0.5 % of the loss"],
        ),
    ],
)
def test_every_way_to_ask_is_answered(arguments, words):
    done = run(*arguments, code=0)
    text = " ".join(done.stdout.split())
    for word in words:
        assert word in text, word


def test_a_fitted_law_from_a_file_leads(tmp_path):
    import distillaw as dl
    from distillaw.laws.published import published

    law = published("surrogate-s2")
    teachers = (float("nan"), 1.95, 2.1, 2.3, 2.6)
    rows = [(n, d, t) for n in (2e8, 5e8, 1e9, 2e9) for d in (4e9, 2e10, 1e11) for t in teachers]
    N, D, T = (list(column) for column in zip(*rows, strict=True))
    taught = law.distillation(student_params=N, student_tokens=D, teacher_loss=[2.0 if t != t else t for t in T])
    alone = law.supervised(params=N, tokens=D)
    losses = [a if t != t else b for a, b, t in zip(alone, taught, T, strict=True)]
    fit = dl.fit(
        {"params": N, "tokens": D, "teacher_loss": T, "loss": losses},
        family="distillation-kappa",
        group="none",
        bootstrap=20,
        check=False,
        calibrate=False,
    )
    path = fit.save(tmp_path / "law.json")
    done = run("--student", "1B", "--tokens", "20B", "--teacher-loss", "2.0", "--law", path, "--json", code=0)
    first = json.loads(done.stdout)["evidence"][0]
    assert first["source"] == str(path)
    assert first["decides"]
    taught = law.distillation(student_params=1e9, student_tokens=2e10, teacher_loss=2.0)
    truth = float(law.supervised(params=1e9, tokens=2e10) - taught)
    assert first["gain"]["mean"] == pytest.approx(truth, abs=0.01)


def test_a_study_answers_for_its_target(study):
    done = run("--study", study, code=0)
    assert done.stdout.startswith("DISTIL")
    assert "paired runs of this study" in done.stdout
    assert f"next: distillaw report {study}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--student", "1B"], "give one budget"),
        (["--tokens", "1B"], "name the student"),
        (["--student", "1B", "--tokens", "x"], "cannot read 'x'"),
        (["--student", "1B", "--tokens", "1e30"], "--tokens = 1e+30: more than 1e+20 tokens"),
        (["--student", "1B", "--tokens", "20B", "--teacher-params", "1e29", "--teacher-loss", "2"], "1e+15 parameters"),
        (["--student", "1B", "--tokens", "20B", "--scout", "/nowhere"], "give it, --text"),
        (["--student", "1B", "--tokens", "20B", "--text", "sotu"], "--scout DIR"),
        (["--student", "1B", "--tokens", "20B", "--teacher", "lama-3.1"], "near it"),
        (["--student", "1B", "--money", "100", "--device", "cpu"], "--price"),
        (["--student", "1B", "--money", "100", "--price", "-1"], "price = -1"),
        (["--serve-latency", "0.01", "--tokens", "1B"], "--serve-bandwidth"),
        (["--student", "1B", "--tokens", "20B", "--serve-bandwidth", "-1"], "belongs to --serve-latency"),
        (["--student", "1B", "--tokens", "20B", "--weight-bytes", "-1"], "belongs to --serve-memory"),
        (["--student", "1B", "--tokens", "20B", "--only-existing"], "leaves no teacher"),
        (["--student", "1B", "--tokens", "20B", "--train-teacher"], "--teacher-params and --teacher-tokens"),
        (["--student", "1B", "--tokens", "20B", "--teacher-params", "8B"], "needs its loss, or its size and tokens"),
        (["--student", "1B", "--tokens", "20B", "--teacher-loss", "2", "2.1", "--teacher-params", "8B"], "one value"),
    ],
)
def test_wrong_usage_exits_with_2_and_one_line(arguments, words):
    done = run(*arguments, code=2)
    assert words in done.stderr
    assert done.stdout == ""


def test_a_file_is_no_study(study):
    done = run("--study", study / "study.json", code=1)
    assert "study.json: a file, not the folder of a study" in done.stderr


def test_a_reader_that_closes_the_pipe_early_is_no_failure():
    """`distillaw plan ... | head -1`."""
    with subprocess.Popen(
        [sys.executable, "-m", "distillaw", "plan", "--student", "1B", "--tokens", "20B"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as done:
        assert done.stdout is not None and done.stderr is not None
        done.stdout.close()
        assert done.stderr.read() == b""
    assert done.returncode == 0
