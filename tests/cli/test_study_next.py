"""`distillaw study next` through the console script.

A prediction from a table, a fitted law, a guess; a verdict from a table, a study file, a study folder.
"""

import csv
import json
import re
import shlex
import sys
import tomllib
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "planning"))
from synthetic_study import write_study

from distillaw.laws.published import published
from distillaw.quantities import format_flop
from distillaw.runs.config import from_table
from distillaw.runs.files import write_json
from distillaw.sequential.answer import _reaches
from distillaw.sweep.spec import StudySpec
from in_process import answer as in_process

LAW = published("surrogate-s2")
SHIPPED = Path(__file__).parents[2] / "src" / "distillaw" / "studies" / "open_runs.parquet"


distillaw = partial(in_process, "study", "next")


def write(path, names, *columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*columns, strict=True))
    return path


@pytest.fixture
def table(tmp_path):
    N, D, T = (
        v.ravel() for v in np.meshgrid(np.geomspace(1e8, 2e9, 4), np.geomspace(2e9, 5e10, 4), [0, 2.2, 2.5, 2.9])
    )
    alone = LAW.supervised(params=N, tokens=D)
    taught = LAW.distillation(student_params=N, student_tokens=D, teacher_loss=np.where(T > 0, T, 2.2))
    loss = np.where(T > 0, taught, alone) * np.exp(0.003 * np.random.default_rng(0).standard_normal(len(N)))
    return write(tmp_path / "runs.csv", ["N", "D", "LT", "loss"], N, D, [t or "" for t in T], loss)


COLUMNS = ("--columns", "params=N,tokens=D,loss=loss,teacher_loss=LT", "--predict")
STUDENT = ("--student-params", "7B", "--student-tokens", "1T")


@pytest.mark.parametrize("ask", [(), ("--predict",)])
def test_what_is_wrong_with_a_table_is_said_of_its_file(tmp_path, ask):
    file = write(tmp_path / "bad.csv", ["params", "tokens", "loss"], [1e8], [1e9], ["x"])
    done = distillaw(file, *STUDENT, "--budget", "1e22", *ask)
    assert done.returncode == 1 and str(file) in done.stderr and "row 1" in done.stderr


def test_a_table_is_read_once(tmp_path, monkeypatch):
    """Whether it poses a decision, and for the prediction that it turns out to be about."""
    from distillaw.runs import table as tables

    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 2e9, 4), np.geomspace(2e9, 5e10, 4)))
    loss = LAW.supervised(params=N, tokens=D)
    file = write(tmp_path / "lone.csv", ["params", "tokens", "loss"], N, D, loss)
    read, seen = tables.read_columns, []
    monkeypatch.setattr(tables, "read_columns", lambda path: seen.append(path) or read(path))
    done = distillaw(file, *STUDENT, "--budget", "1e22", "--bootstrap", 20)
    assert done.returncode == 0 and done.stdout.startswith("supervised: "), done.stderr
    assert len(seen) == 1


def test_a_prediction_from_a_table(table):
    ask = (table, *COLUMNS, *STUDENT, "--budget", "1e22", "--bootstrap", 30)
    answer = json.loads(distillaw(*ask, "--json", code=0).stdout)
    assert set("schema_version target loss gain level before runs by_budget basis".split()) <= set(answer)
    assert answer["gain"] is None and answer["before"]["probability"] is None
    widths = [answer["before"]["half_width"], *(run["after"]["half_width"] for run in answer["runs"])]
    assert widths == sorted(widths, reverse=True) and len(widths) > 1
    assert answer["runs"][-1]["total_cost"] <= 1e22
    shown = distillaw(*ask).stdout
    assert shown.startswith("supervised: ") and "with a budget of" in shown
    first, last = shown.splitlines()[-2:]
    assert first.startswith("make these runs") and last.startswith("next: distillaw fit ")


def test_some_rows_of_a_table(table, tmp_path):
    """Rows of another text, 0.3 nats easier, are left out; a table without them gives the same design."""
    head, *lines = table.read_text().splitlines()
    size = len(lines[0].split(","))
    easier = [",".join([*line.split(",")[: size - 1], str(float(line.split(",")[-1]) - 0.3)]) for line in lines]
    mixed = tmp_path / "mixed.csv"
    rows = [f"{line},code" for line in easier] + [f"{line},web" for line in lines]
    mixed.write_text("\n".join([f"{head},text", *rows]) + "\n")
    ask = (*COLUMNS, *STUDENT, "--budget", "1e22", "--bootstrap", 30, "--json")
    alone = json.loads(distillaw(table, *ask).stdout)
    chosen = json.loads(distillaw(mixed, *ask, "--where", "text=web").stdout)
    assert chosen["loss"] == alone["loss"] and chosen["runs"] == alone["runs"]
    wrong = distillaw(mixed, *ask, "--where", "text=books")
    assert wrong.returncode != 0 and "it has: code, web" in wrong.stderr


@pytest.mark.slow
def test_two_allocations_from_a_table_a_fitted_law_and_a_guess(table, tmp_path):
    compare = (*STUDENT, "--teacher-loss", 2.0, "--against", "3B,2T,2.0", "--budget", "1e22")
    law = tmp_path / "law.json"
    fit = ["fit", table, "--law", "distillation-reduced", *COLUMNS[:2], "--bootstrap", 30, "--out", law]
    assert in_process(*fit).returncode == 0
    for source, options in ((table, (*COLUMNS, "--bootstrap", 30)), (law, ()), ("surrogate-s2", ())):
        answer = json.loads(distillaw(source, *compare, *options, "--json", code=0).stdout)
        assert 0 <= answer["before"]["probability"] <= 1
        assert answer["runs"][-1]["after"]["half_width"] < answer["before"]["half_width"]
        assert answer["against"] == {"params": 3e9, "tokens": 2e12, "teacher_loss": 2.0}


def test_a_verdict_from_a_table_with_teachers(table, tmp_path):
    few = table.with_name("few.csv")
    few.write_text("\n".join(table.read_text().splitlines()[:9]) + "\n")
    ask = (few, *COLUMNS[:2], "--student-params", "3B", "--student-tokens", "60B", "--budget", "2e20")
    out = tmp_path / "next.csv"
    answer = json.loads(distillaw(*ask, "--json", "--out", out, code=0).stdout)
    assert set(answer["gains"]) == {"teacher of 2.2", "teacher of 2.5", "teacher of 2.9"}
    assert answer["choice"] in {"none", *answer["gains"]} and answer["num_runs"] == 8
    assert sum(answer["probability_best"].values()) == pytest.approx(1)
    assert 0 < answer["flops"] <= 2e20
    assert answer["after"]["expected_regret"] <= answer["now"]["expected_regret"]
    assert len(out.read_text().splitlines()) == 1 + len(answer["runs"])
    assert answer["toml"] is None
    distillaw(*ask, "--out", out, code=0)  # as the loop goes: the rows say whose they are
    for idle in ("--noise", "--bootstrap", "--level"):
        refused = distillaw(*ask, idle, 1)
        assert refused.returncode == 2 and f"{idle} 1 does nothing here" in refused.stderr


STUDY = """
name = "mine"
batch_tokens = 256
[data]
corpus = "sotu"
vocab_size = 512
[students]
params = ["0.1M"]
tokens = [1000000]
[[teachers]]
params = "0.3M"
tokens = 2000000
[[teachers]]
params = "1M"
tokens = 4000000
[target]
params = "0.6M"
tokens = 10000000
"""


def test_a_first_design_is_a_study_file_to_run(tmp_path):
    """From no run: the batch becomes the grid of a study that `study show` accepts and prices."""
    file, out = tmp_path / "mine.toml", tmp_path / "next.toml"
    file.write_text(STUDY)
    done = distillaw(file, "--budget", "1e13", "--out", out, code=0)
    assert (
        "from no run" in done.stdout and "losses guessed: 0.3M@2M, 1M@4M" in done.stdout and "[[cells]]" in done.stdout
    )
    assert done.stdout.splitlines()[-1] == f"next: distillaw study run {out}"
    shown = in_process("study", "show", out, "--json", code=0)
    trunks = [trunk for trunk in json.loads(shown.stdout)["trunks"] if trunk["purpose"] == "grid"]
    answer = json.loads(distillaw(file, "--budget", "1e13", "--json").stdout)
    rows = {(row["student"], row["student_tokens"]) for row in answer["runs"]}
    assert {(trunk["trunk"], tokens) for trunk in trunks for tokens in trunk["tokens"]} == rows
    assert sum(len(trunk["tokens"]) for trunk in trunks) == len(answer["runs"])
    whole = json.loads(shown.stdout)["flops"]  # searches and teachers, too
    assert answer["flops"] + answer["flops_beside"] == pytest.approx(whole) and whole > 10 * answer["flops"]
    assert f"{format_flop(answer['flops_beside'])}; {format_flop(whole)} in all are beyond" in done.stdout


def test_from_a_folder_the_batch_stands_beside_what_is_there(tmp_path):
    """A folder as `study run` leaves it: runs that exist are not proposed again, and cells are added to the file."""
    folder = make_folder(tmp_path / "out")
    out = tmp_path / "next.toml"
    answer = json.loads(distillaw(folder, "--budget", "3e13", "--out", out, "--json", code=0).stdout)
    assert answer["num_runs"] == 9 and answer["guessed_teachers"] == []
    made = {("0.1M", 1_000_000), ("0.1M", 500_000), ("0.1M", 250_000)}
    assert not [row for row in answer["runs"] if (row["student"], row["student_tokens"]) in made and row["seed"] == 0]
    extended = tomllib.loads(out.read_text())
    assert extended["students"] == {"params": ["0.1M"], "tokens": [250_000, 500_000, 1_000_000]}
    (cells,) = extended["cells"]
    assert set(cells["teachers"]) >= {"none"} and "none" in answer["toml"]
    assert in_process("study", "show", out).returncode == 0
    again = distillaw(folder, "--budget", "4e13", "--out", out)  # it replaces what it wrote before, and nothing else
    assert again.returncode == 0, again.stderr
    out.write_text("[students]")
    assert distillaw(folder, "--budget", "3e13", "--out", out).returncode == 2 and out.read_text() == "[students]"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A study whose target was run, with and without teachers, in seeds and by document."""
    folder = tmp_path_factory.mktemp("measured")
    world = write_study(folder)
    spec = from_table(
        StudySpec,
        {
            "name": "synthetic",
            "batch_tokens": 1024,
            "data": {"corpus": "sotu", "vocab_size": world.vocab},
            "students": {"params": [f"{n / 1e6:g}M" for n in world.students], "tokens": list(world.budgets)},
            "teachers": [{"params": f"{n / 1e6:g}M", "tokens": tokens} for n, tokens in world.teachers],
            "target": {"params": f"{world.students[-1] / 1e6:g}M", "tokens": world.budgets[0]},
        },
        "",
    )
    info = json.loads((folder / "study.json").read_text())
    write_json(folder / "study.json", info | {"spec": asdict(spec)})
    return folder


@pytest.mark.parametrize("question", [(), ("0.1M", "600000")])
def test_a_study_has_one_answer_that_of_the_planner(measured, question):
    """The same probabilities, gains and choice of teacher; no other probability of the same question beside them."""
    own = [word for pair in zip(("--student-params", "--student-tokens"), question, strict=False) for word in pair]
    asked = [word for pair in zip(("--student", "--tokens"), question, strict=False) for word in pair]
    said = json.loads(in_process("study", "next", measured, "--budget", "1e13", "--json", *own).stdout)
    plan = json.loads(in_process("plan", "--study", measured, "--json", *asked).stdout)
    for name in ("verdict", "probability_distil", "probability_pretrain", "inside_range"):
        assert said[name] == plan[name], name
    assert said["sentence"].endswith(plan["sentence"])
    gains = {row["teacher"]["name"].split()[0]: row["gain"] for row in plan["strategies"] if row["teacher"]}
    assert {label.split("@")[0]: gain for label, gain in said["gains"].items()} == gains
    assert set(said["probability_best"]) == set(said["gains"])
    assert sum(said["probability_best"].values()) == pytest.approx(1)
    assert "probability_best" not in (said["now"] or {}) and said["gains_by_tokens"] == []
    shown = in_process("study", "next", measured, "--budget", "1e13", *own).stdout
    assert plan["sentence"] in shown and "right choice" not in shown
    for line in shown.splitlines():
        if " gain " in line and not line.strip().startswith(("DISTIL", "TOO", "PRETRAIN")):
            assert re.search(r"gain [+-]\d\.\d+ \[[+-]\d\.\d+, [+-]\d\.\d+\]", line), line


def test_where_nobody_knows_no_probability_is_given(tmp_path):
    """A target that no run and no law reaches: what is drawn on to it has an interval and says what it is."""
    folder = make_folder(tmp_path / "out")
    said = json.loads(in_process("study", "next", folder, "--budget", "3e13", "--json").stdout)
    assert (
        said["probability_distil"] == said["probability_pretrain"] == 0.5
        and said["probability_best"] == {}
        and not said["inside_range"]
    )
    shown = in_process("study", "next", folder, "--budget", "3e13").stdout
    assert "UNKNOWN" in shown and "drawn on beyond the runs" in shown and "best" not in shown


@pytest.mark.parametrize("question", [("0.1M", "40M"), ("1M", "20M")])
def test_where_nobody_knows_runs_are_proposed(tmp_path, question):
    """The model of the runs is sure there (teachers are worse by far), and no reason to leave the question alone."""
    folder = make_folder(tmp_path / "out", worth=(-0.5, -0.6))
    asked = ("--student", question[0], "--tokens", question[1])
    said = json.loads(distillaw(folder, "--budget", "1e15", *asked, "--json").stdout)
    assert said["sentence"].startswith("UNKNOWN") and said["regret_bound"] <= said["margin"]
    assert said["runs"] and said["is_worth_it"] and not said["why_not"] and said["worth"] is None
    best = max(said["gains"], key=lambda label: said["gains"][label]["mean"])
    assert best in {run["teacher"] for run in said["runs"]}
    command = shlex.split(distillaw(folder, "--budget", "1e15", *asked).stdout.splitlines()[-1])
    assert command[1:4] == ["distillaw", "study", "next"] and command[-2:] == ["--out", "next.toml"]


def test_where_nothing_is_to_run_nothing_is_written(tmp_path):
    """The answer stands all the same, so that a loop of `next` and `run` can ask whether there is a file."""
    folder, out = make_folder(tmp_path / "out"), tmp_path / "next.toml"
    done = distillaw(folder, "--budget", "1e6", "--out", out, code=0)
    assert "nothing to run" in done.stdout and f"{out} is not written" in done.stderr and not out.exists()


def make_folder(folder, worth=(0.05, 0.02)):
    """A study of one size, three budgets and two teachers worth so many nats, without weights."""
    spec = from_table(StudySpec, tomllib.loads(STUDY.replace("[1000000]", "[250000, 500000, 1000000]")), "")
    rows = [
        ("teacher-0.3M-alone-s0-a-2000000t", "teacher", 304_000, 2_000_000, None, 3.6),
        ("teacher-1M-alone-s0-b-4000000t", "teacher", 1_060_000, 4_000_000, None, 3.3),
    ]
    teachers = {row[0]: row[5] for row in rows}
    for name, gain in ((None, 0.0), *zip(teachers, worth, strict=True)):
        for tokens in (250_000, 500_000, 1_000_000):
            arm = "alone" if name is None else "from-" + name.split("-")[1]
            loss = 3.4 + (2e5 / tokens) ** 0.3 - gain
            rows.append((f"student-0.1M-{arm}-s0-c-{tokens}t", "student", 111_024, tokens, name, loss))
    for run_id, role, params, tokens, teacher, loss in rows:
        path = folder / "runs" / run_id
        path.mkdir(parents=True)
        write_json(path / "spec.json", {"label": run_id.split("-")[1]})
        write_json(
            path / "result.json",
            {
                "run_id": run_id,
                "role": role,
                "purpose": "teacher" if role == "teacher" else "grid",
                "params": params,
                "tokens": tokens // 256 * 256,
                "loss": loss,
                "loss_se": 0.01,
                "seed": 0,
                "batch_tokens": 256,
                "teacher_run": teacher,
                "teacher_loss": teachers.get(teacher),
                "train_flops": 6 * params * tokens,
                "split": "teacher" if role == "teacher" else "student",
            },
        )
    write_json(
        folder / "study.json",
        {
            "name": spec.name,
            "spec": asdict(spec),
            "data": {"vocab_size": 512},
            "target": {"student_params": 600_000, "student_tokens": 10_000_000},
        },
    )
    return folder


def test_candidates_of_ones_own_and_money(table, tmp_path):
    names = ["params", "tokens", "cost"]
    own = write(tmp_path / "cells.csv", names, [1e9, 4e9, 8e9], [1e11, 2e11, 4e11], [10, 50, 300])
    ask = (table, *COLUMNS, *STUDENT, "--bootstrap", 30)
    answer = json.loads(distillaw(*ask, "--candidates", own, "--budget", 60, "--json").stdout)
    assert {run["cost"] for run in answer["runs"]} <= {10.0, 50.0}
    money = ("--dollars", 20000, "--hardware", "h100-sxm", "--price", 2.5)
    done = distillaw(*ask, *money)
    assert done.returncode == 0 and "hours, price in all" in done.stdout and "$" in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--budget", "1e20"), 2, "name the student in question"),
        (STUDENT, 2, "give either --budget FLOP"),
        ((*STUDENT, "--budget", "1e20", "--dollars", 5), 2, "give either --budget FLOP"),
        ((*STUDENT, "--dollars", 5), 2, "--dollars needs --device"),
        ((*STUDENT, "--budget", "1e9"), 2, "buys none of the candidate runs"),
        ((*STUDENT, "--budget", "1e20", "--against", "pretrain"), 2, "whether to distil is the verdict"),
        ((*STUDENT, "--budget", "1e20", "--margin", 0.01), 2, "--margin 0.01 does nothing here"),
        ((*STUDENT, "--budget", "1e20", "--against", "3B"), 2, "PARAMS,TOKENS"),
        ((*STUDENT, "--budget", "1e20", "--guess", "nope"), 2, "neither a published law"),
    ],
)
def test_refusals_say_what_to_do(table, options, code, message):
    done = distillaw(table, *COLUMNS, *options, "--bootstrap", 50)
    assert done.returncode == code and message in done.stderr


def test_too_few_runs_need_a_guess(table):
    short = table.with_name("short.csv")
    short.write_text("\n".join(table.read_text().splitlines()[:5]) + "\n")
    ask = (short, *COLUMNS, *STUDENT, "--budget", "1e21")
    refused = distillaw(*ask)
    assert refused.returncode == 1 and "TOO_FEW_RUNS" in refused.stderr and "--guess surrogate-s2" in refused.stderr
    guessed = distillaw(*ask, "--guess", "surrogate-s2")
    assert guessed.returncode == 0 and guessed.stdout.startswith("guessed from surrogate-s2")


def test_runs_of_whole_batches_reach_a_target_of_round_tokens():
    """976 batches of 1,024 tokens are 999,424, which nobody calls beyond a range that ends at 1M."""
    question = SimpleNamespace(target=SimpleNamespace(params=1e5), tokens=1e6)
    for tokens, reaches in ((999_424, True), (990_000, False)):
        runs = [SimpleNamespace(params=1e5, tokens=tokens), SimpleNamespace(params=5e4, tokens=tokens / 2)]
        assert _reaches(SimpleNamespace(question=question, runs=runs)) == reaches


def test_imported_runs_have_one_answer_that_of_plan(tmp_path):
    """By the model alone it was 0.251 [0.240, 0.262], where the runs say 0.229 [0.174, 0.285]."""
    out = tmp_path / "imported"
    assert in_process("study", "import", SHIPPED, "--out", out, "--quiet").returncode == 0
    student = ("--student", "310k", "--tokens", "820k")
    of_next = json.loads(distillaw(out, *student, "--budget", "1e13", "--json").stdout)
    of_plan = json.loads(in_process("plan", "--study", out, *student, "--json").stdout)
    best = next(row for row in of_plan["strategies"] if row["gain"] is not None)
    assert of_next["decided_by"] == "plan" and of_next["verdict"] == of_plan["verdict"]
    assert of_next["gains"][of_next["choice"]] == best["gain"]
    for line, said in (
        ((*student, "--margin", "-1"), "--margin -1: regret that does not matter"),
        (("--student", "310k", "--tokens", "20k"), "tokens per parameter; below"),
    ):
        refused = distillaw(out, *line, "--budget", "1e13")
        assert refused.returncode == 2 and said in refused.stderr
