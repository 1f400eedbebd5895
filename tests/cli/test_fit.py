"""`distillaw fit` through the console script, on CSV, Parquet and JSON lines."""

import csv
import json

import numpy as np
import pytest

from distillaw.laws.published import published
from in_process import answer as distillaw


@pytest.fixture
def table(tmp_path):
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1.4e8, 1e10, 6), np.geomspace(3e9, 5e11, 5)))
    L = published("busbridge2025").supervised(params=N, tokens=D)
    path = tmp_path / "runs.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["size", "D", "val"])
        writer.writerows(zip(N, D, L, strict=True))
    return path


COLUMNS = ("--columns", "params=size,tokens=D,loss=val")


def test_json_keys_and_values(table):
    done = distillaw("fit", table, "--law", "supervised", *COLUMNS, "--bootstrap", 50, "--json", code=0)
    answer = json.loads(done.stdout)
    assert set("law params conf_int level objective delta nobs status condition_number seconds derived".split()) <= set(
        answer
    )
    assert list(answer["params"]) == ["E", "A", "B", "alpha", "beta", "gamma"]
    assert answer["params"]["gamma"] == pytest.approx(0.452, rel=1e-6)
    assert answer["status"] == "CONVERGED" and answer["nobs"] == 30
    assert answer["derived"]["p"] == pytest.approx(0.452 * 0.408, rel=1e-6)


def test_fitted_law_is_used_by_predict_and_shown_by_laws(table, tmp_path):
    law = tmp_path / "law.json"
    done = distillaw("fit", table, "--law", "supervised", *COLUMNS, "--bootstrap", 20, "--out", law)
    assert done.returncode == 0 and done.stdout.startswith("supervised: CONVERGED")
    assert f"next: distillaw predict --law {law}" in done.stdout
    predicted = distillaw("predict", "--law", law, "--student-params", "1B", "--student-tokens", "20B", "--json")
    answer = json.loads(predicted.stdout)
    truth = float(published("busbridge2025").supervised(params=1e9, tokens=2e10))
    assert answer["student_loss"] == pytest.approx(truth, rel=1e-6)
    assert answer["interval"][0] <= answer["student_loss"] <= answer["interval"][1] and answer["inside_range"] is True
    assert distillaw("laws", "show", law).stdout.startswith("supervised: CONVERGED")


def test_too_few_runs_is_an_answer_not_a_curve(table):
    short = table.with_name("short.csv")
    short.write_text("\n".join(table.read_text().splitlines()[:6]) + "\n")
    done = distillaw("fit", short, "--law", "supervised", *COLUMNS, "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 0
    assert answer["status"] == "TOO_FEW_RUNS" and answer["conf_int"] == {} and "Add 4 runs" in answer["remedy"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("size,D,val\n1e8,1e9,3\n1e8,x,3\n", "tokens (column 'D') in row 2 (index 1) is 'x', which is not a number"),
        ("size,D,val\n1e8,1e9,3\n1e8,2e9\n", "line 3: 2 fields where the header has 3"),
        ("size,D,val\n", "no rows"),
        ("", "empty"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_text(content)
    done = distillaw("fit", path, "--law", "supervised", *COLUMNS)
    assert done.returncode == 1 and message in done.stderr


def test_missing_file_and_bad_family(tmp_path):
    assert "no such file" in distillaw("fit", tmp_path / "no.csv", "--law", "supervised").stderr
    assert distillaw("fit", tmp_path / "no.csv", "--law", "chinchila").returncode == 2


def test_parquet_and_json_lines(table, tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    with table.open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "runs.parquet")
    (tmp_path / "runs.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    for path in (tmp_path / "runs.parquet", tmp_path / "runs.jsonl", tmp_path):
        done = distillaw("fit", path, "--law", "chinchilla", *COLUMNS, "--bootstrap", 0, "--json")
        assert json.loads(done.stdout)["nobs"] == 30, done.stderr


def test_a_law_on_measured_losses_is_asked_with_the_students_own_loss(tmp_path):
    law = published("surrogate-s2")
    N, D, T = (
        v.ravel()
        for v in np.meshgrid(np.geomspace(1.4e8, 5e9, 3), np.geomspace(3e9, 5e11, 3), np.linspace(1.9, 2.7, 4))
    )
    own = law.supervised(params=N, tokens=D)
    loss = law.distillation(student_params=N, student_tokens=D, teacher_loss=T)
    with (tmp_path / "runs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["params", "tokens", "teacher_loss", "supervised_loss", "loss"])
        writer.writerows(zip(N, D, T, own, loss, strict=True))
    fitted = tmp_path / "law.json"
    done = distillaw("fit", tmp_path / "runs.csv", "--law", "distillation-reduced", "--bootstrap", 20, "--out", fitted)
    assert done.returncode == 0, done.stderr
    ask = (*f"predict --law {fitted} --student-params {N[5]} --student-tokens {D[5]} --teacher-loss {T[5]}".split(),)
    refused = distillaw(*ask)
    assert refused.returncode == 1 and "supervised_loss" in refused.stderr
    answer = json.loads(distillaw(*ask, "--supervised-loss", own[5], "--json").stdout)
    assert answer["student_loss"] == pytest.approx(loss[5], rel=0.02)
    assert answer["supervised_loss"] == pytest.approx(own[5])


def test_rows_are_chosen_by_column(table):
    lines = table.read_text().splitlines()
    mixed = table.with_name("mixed.csv")
    others = [f"{line},books-{i % 2}" for i, line in enumerate(lines[1:])]
    mixed.write_text("\n".join(["size,D,val,text", *others, *(f"{line},web" for line in lines[1:])]) + "\n")
    ask = ("fit", mixed, "--law", "chinchilla", *COLUMNS, "--bootstrap", 0)
    assert json.loads(distillaw(*ask, "--json").stdout)["nobs"] == 60
    answer = json.loads(distillaw(*ask, "--where", "text=books*", "--json").stdout)
    assert answer["nobs"] == 30 and "only rows with text = books*" in answer["notes"]
    both = distillaw(*ask, "--where", "text=books-1", "--where", "size=1e10", "--json")
    assert json.loads(both.stdout)["nobs"] == 5
    for condition, message in (
        ("text=novels", "it has: books-0, books-1, web"),
        ("txt=web", "did you mean 'text'"),
        ("text", "COLUMN=VALUE"),
    ):
        refused = distillaw(*ask, "--where", condition)
        assert refused.returncode != 0 and message in refused.stderr


def test_next_command_keeps_the_options(table):
    done = distillaw("fit", table, "--law", "chinchilla", *COLUMNS, "--bootstrap", 0)
    command = done.stdout.splitlines()[-1].removeprefix("next: ")
    assert command == f"distillaw fit {table} --law chinchilla {' '.join(COLUMNS)} --bootstrap 0 --out law.json"


GEMSTONES = (
    *"--columns params=params_active_precise,tokens=tokens,loss=final_loss".split(),
    *"--group none --delta 1e-3 --bootstrap".split(),
    0,
)
TOTAL = ("--params-convention", "total")


@pytest.mark.parametrize(
    ("name", "objective", "E", "alpha", "beta"),
    [
        ("hot", 1.7466696231e-3, 2.14638, 0.280827, 0.680022),
        ("hot_100b+", 5.3939491254e-3, 1.94744, 0.242384, 0.606225),
    ],
)
def test_total_parameters_are_converted(law_runs, name, objective, E, alpha, beta):
    table = law_runs / "gemstones" / f"{name}.csv"
    done = distillaw(
        "fit", table, "--law", "chinchilla", *GEMSTONES, *TOTAL, *"--vocab 50304 --width width --json".split()
    )
    answer = json.loads(done.stdout)
    assert answer["objective"] <= objective * (1 + 1e-6)
    assert answer["params_convention"] == "non-embedding"
    for key, value in {"E": E, "alpha": alpha, "beta": beta}.items():
        assert answer["params"][key] == pytest.approx(value, rel=5e-6)  # six digits printed


def test_a_law_of_total_parameters_is_not_asked_in_another_convention(table, tmp_path):
    total, law = tmp_path / "total.csv", tmp_path / "law.json"
    total.write_text(table.read_text().replace("size", "total_params", 1))
    fit = ("fit", total, *"--law chinchilla --columns params=total_params,tokens=D,loss=val".split(), "--bootstrap", 0)
    refused = distillaw(*fit)
    assert refused.returncode != 0 and "--params-convention total" in refused.stderr
    done = distillaw(*fit, *TOTAL, "--out", law)
    assert done.returncode == 0 and "--params-convention total" in done.stdout
    assert json.loads(law.read_text())["params_convention"] == "total"
    ask = ("predict", "--law", law, "--student-params", "1B", "--student-tokens", "20B")
    refused = distillaw(*ask)
    assert refused.returncode != 0 and "counts total parameters" in refused.stderr
    assert distillaw(*ask, *TOTAL).returncode == 0
    wrong = distillaw(*fit, *TOTAL, "--vocab", 50304)
    assert wrong.returncode != 0 and "--width COLUMN" in wrong.stderr
