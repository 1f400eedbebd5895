"""`distillaw study next` through the console script: a table, a fitted law, a guess, a study folder."""

import csv
import json
import subprocess

import numpy as np
import pytest

from distillaw.laws.published import published

LAW = published("surrogate-s2")


def distillaw(*args):
    return subprocess.run(
        ["distillaw", "study", "next", *map(str, args)], capture_output=True, text=True, timeout=120
    )


def write(path, names, *columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*columns, strict=True))
    return path


@pytest.fixture
def table(tmp_path):
    N, D, T = (
        v.ravel()
        for v in np.meshgrid(np.geomspace(1e8, 2e9, 4), np.geomspace(2e9, 5e10, 4), [0, 2.2, 2.5, 2.9])
    )
    alone = LAW.supervised(params=N, tokens=D)
    taught = LAW.distillation(student_params=N, student_tokens=D, teacher_loss=np.where(T > 0, T, 2.2))
    loss = np.where(T > 0, taught, alone) * np.exp(0.003 * np.random.default_rng(0).standard_normal(len(N)))
    return write(tmp_path / "runs.csv", ["N", "D", "LT", "loss"], N, D, [t or "" for t in T], loss)


COLUMNS = ("--columns", "params=N,tokens=D,loss=loss,teacher_loss=LT")
STUDENT = ("--student-params", "7B", "--student-tokens", "1T")


def test_a_prediction_from_a_table(table):
    ask = (table, *COLUMNS, *STUDENT, "--budget", "1e22", "--bootstrap", 100)
    done = distillaw(*ask, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert {
        "schema_version",
        "target",
        "loss",
        "gain",
        "level",
        "before",
        "runs",
        "by_budget",
        "basis",
    } <= set(answer)
    assert answer["gain"] is None and answer["before"]["probability"] is None
    widths = [answer["before"]["half_width"], *(run["after"]["half_width"] for run in answer["runs"])]
    assert widths == sorted(widths, reverse=True) and len(widths) > 1
    assert answer["runs"][-1]["total_cost"] <= 1e22
    shown = distillaw(*ask).stdout
    assert shown.startswith("supervised: ") and "with a budget of" in shown
    assert shown.splitlines()[-1].startswith("next: make these runs")


def test_some_rows_of_a_table(table, tmp_path):
    """Rows of another text, 0.3 nats easier, are left out; a table without them gives the same design."""
    head, *lines = table.read_text().splitlines()
    size = len(lines[0].split(","))
    easier = [
        ",".join([*line.split(",")[: size - 1], str(float(line.split(",")[-1]) - 0.3)]) for line in lines
    ]
    mixed = tmp_path / "mixed.csv"
    rows = [f"{line},code" for line in easier] + [f"{line},web" for line in lines]
    mixed.write_text("\n".join([f"{head},text", *rows]) + "\n")
    ask = (*COLUMNS, *STUDENT, "--budget", "1e22", "--bootstrap", 100, "--json")
    alone = json.loads(distillaw(table, *ask).stdout)
    chosen = json.loads(distillaw(mixed, *ask, "--where", "text=web").stdout)
    assert chosen["loss"] == alone["loss"] and chosen["runs"] == alone["runs"]
    wrong = distillaw(mixed, *ask, "--where", "text=books")
    assert wrong.returncode != 0 and "it has: code, web" in wrong.stderr


def test_a_decision_from_a_table_a_fitted_law_and_a_guess(table, tmp_path):
    decide = (*STUDENT, "--teacher-loss", 2.0, "--against", "pretrain", "--budget", "1e22")
    law = tmp_path / "law.json"
    fit = [
        "distillaw",
        "fit",
        table,
        "--law",
        "distillation-reduced",
        *COLUMNS,
        "--bootstrap",
        100,
        "--out",
        law,
    ]
    subprocess.run(list(map(str, fit)), check=True, capture_output=True)
    for source, options in ((table, (*COLUMNS, "--bootstrap", 100)), (law, ()), ("surrogate-s2", ())):
        done = distillaw(source, *decide, *options, "--json")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert 0 <= answer["before"]["probability"] <= 1
        assert answer["runs"][-1]["after"]["half_width"] < answer["before"]["half_width"]
        assert answer["against"] == {"params": 7e9, "tokens": 1e12}


def test_candidates_of_ones_own_and_money(table, tmp_path):
    names = ["params", "tokens", "cost"]
    own = write(tmp_path / "cells.csv", names, [1e9, 4e9, 8e9], [1e11, 2e11, 4e11], [10, 50, 300])
    ask = (table, *COLUMNS, *STUDENT, "--bootstrap", 100)
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
        ((*STUDENT, "--dollars", 5), 2, "--dollars needs --hardware"),
        ((*STUDENT, "--budget", "1e9"), 2, "buys none of the candidate runs"),
        ((*STUDENT, "--budget", "1e20", "--against", "pretrain"), 2, "add --teacher-loss"),
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
    assert (
        refused.returncode == 1
        and "TOO_FEW_RUNS" in refused.stderr
        and "--guess surrogate-s2" in refused.stderr
    )
    guessed = distillaw(*ask, "--guess", "surrogate-s2")
    assert guessed.returncode == 0 and guessed.stdout.startswith("guessed from surrogate-s2")
