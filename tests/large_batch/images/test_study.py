"""Whole studies: several processes, second calls, the command line as a stranger meets it."""

import json
from dataclasses import replace

import pytest
from tiny_images import TOML, tiny_data, tiny_study, write_npz

from distillaw.errors import RunError
from distillaw.large_batch.images import study as study_module
from distillaw.large_batch.images.spec import DiffusionSpec, Optimizer
from distillaw.large_batch.images.study import make_plan, run_study
from distillaw.report.large_batch import summarise
from distillaw.runs.files import read_json
from in_process import answer

pytestmark = pytest.mark.usefixtures("forked")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("data") / "tiny.npz", tiny_data())


def results(plan):
    found = [read_json(plan.folder(cell) / "result.json") for cell in plan.cells]
    return [{k: v for k, v in r.items() if k not in ("seconds", "cpu_seconds")} for r in found]


def test_processes_change_nothing_and_a_second_call_computes_nothing(data, tmp_path):
    study = tiny_study(columns=("SB", "+GBN"), diffusion=DiffusionSpec(batches=(10, 20)))
    one, two = (make_plan(study, data, tmp_path / name) for name in ("one", "two"))
    run_study(one, device="cpu", workers=1)
    run_study(two, device="cpu", workers=2)
    assert results(one) == results(two)
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "two").rglob("*.json")}
    run_study(two, device="cpu", workers=2)
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "two").rglob("*.json")} == before


def test_a_diverged_cell_stops_no_other(data, tmp_path):
    study = tiny_study(
        columns=("SB", "LB", "+LR"), seeds=1, optimizer=Optimizer(peak_lr=1e-3, clip_norm=0, rate_rule="linear")
    )
    plan = make_plan(study, data, tmp_path)
    cells = {cell.column: cell for cell in plan.cells}
    wild = replace(plan, cells=(replace(cells["LB"], peak_lr=1e30), cells["SB"], cells["+LR"]))
    run_study(wild, device="cpu", workers=1)
    assert [r["state"] for r in results(wild)] == ["diverged", "done", "done"]
    assert any("LB seed 0 diverged" in line for line in summarise(tmp_path)["problems"])


def test_two_runs_do_not_share_a_folder(data, tmp_path):
    from distillaw.runs.lock import held

    plan = make_plan(tiny_study(), data, tmp_path)
    with held(tmp_path, "the study"), pytest.raises(RunError, match="another process"):
        run_study(plan, device="cpu", workers=1)


def test_the_command_from_plan_to_report(data, tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "TIMED_SECONDS", 0.02)
    (tmp_path / "tiny.toml").write_text(TOML)
    words = (*f"large-batch run {tmp_path / 'tiny.toml'} --data {data} --out {tmp_path / 'out'} --workers 1".split(),)
    dry = json.loads(answer(*words, "--dry-run", "--json").stdout)
    assert dry["cells"] == dry["cells_to_train"] == 14 and dry["seconds"] > 0 and not (tmp_path / "out").exists()
    rates = {row["column"]: round(row["peak_lr"], 3) for row in dry["columns"]}
    assert rates == {
        "SB": 0.1,
        "LB": 0.1,
        "+LR": 0.2,
        "+GBN": 0.2,
        "+RA": 0.2,
        "walk 20": 0.1,
        "walk 20 +LR+GBN": round(0.1 * 2**0.5, 3),
    }
    ran = answer(*words, "--json")
    assert ran.returncode == 0 and "14/14" in ran.stderr
    found = json.loads(ran.stdout)
    assert [score["column"] for score in found["columns"]] == ["SB", "LB", "+LR", "+GBN", "+RA"]
    assert all(len(score["accuracy"]) == 2 for score in found["columns"])
    again = answer(*words, "--quiet")
    assert again.stderr == "" and "report:" in again.stdout and "95 % interval" in again.stdout
    asked = ("large-batch", "landscape", *words[2:7], "--steps", 120, "--images", 60, "--json")
    walked = json.loads(answer(*asked).stdout)
    assert walked["interval"][0] < walked["alpha"] < walked["interval"][1] and walked["steps"] == 120
    assert json.loads(answer(*asked).stdout)["bins"] == walked["bins"], "seeds settle it"
    report = answer("report", tmp_path / "out", "--out", tmp_path / "page.html")
    assert report.returncode == 0 and "Is alpha 2?" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (("columns =", "colums ="), 2, "did you mean"),
        (("large = 40", "large = 400"), 2, "a batch of 400 from 120 training images"),
        (('kind = "f1"', 'kind = "f3"'), 2, "one of f1"),
        (('paper = "F1"', 'paper = "F9"'), 2, "the table has F1"),
        (("width = 8", 'width = "wide"'), 2, "width"),
        (
            ("[batches]", "[data]\nmean = [0.1, 0.2, 0.3]\n[batches]"),
            2,
            "mean has 3 values, the images have 1 channel:",
        ),
    ],
)
def test_mistakes_are_said_before_anything_runs(data, tmp_path, change, code, message):
    (tmp_path / "tiny.toml").write_text(TOML.replace(*change))
    said = answer("large-batch", "run", tmp_path / "tiny.toml", "--data", data, "--out", tmp_path / "out")
    assert said.returncode == code and message in said.stderr and not (tmp_path / "out").exists()


def test_data_that_is_not_there(tmp_path):
    (tmp_path / "tiny.toml").write_text(TOML)
    said = answer(
        "large-batch", "run", tmp_path / "tiny.toml", "--data", tmp_path / "no.npz", "--out", tmp_path / "out"
    )
    assert said.returncode == 1 and "no such file" in said.stderr


def test_a_short_study_on_real_digits(shared_data, tmp_path):
    """A few seconds of MNIST: both columns learn, and the small batch learns more in equal epochs."""
    toml = TOML.replace('"SB", "LB", "+LR", "+GBN", "+RA"', '"SB", "LB"').replace("width = 8", "width = 32")
    toml = toml.replace("small = 10", "small = 16").replace("large = 40", "large = 256")
    toml = toml.split("[diffusion]")[0].replace("epochs = 6", "epochs = 3").replace("epoch = 4", "epoch = 2")
    (tmp_path / "mnist.toml").write_text(toml.replace("seeds = 2", "seeds = 1") + "[data]\ntrain_images = 1000\n")
    mnist = shared_data / "images" / "mnist" / "mnist.npz"
    words = ("--data", mnist, "--out", tmp_path / "out", "--workers", 1, "--quiet", "--json")
    small, large = json.loads(answer("large-batch", "run", tmp_path / "mnist.toml", *words).stdout)["columns"]
    assert small["mean"] > 80 and small["mean"] > large["mean"] > 40
