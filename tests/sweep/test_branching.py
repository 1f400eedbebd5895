"""`distillaw branch` on models that train in seconds: from the file to branch.json, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distillaw.runs.files import write_json
from distillaw.sweep import branching
from in_process import answer
from tiny import RUN

TEST = ("--multiples", "1,2,4", "--at", "2048", "--window", "1024", "--orders", "2", "--noise-batches", "8")
WIDER = tuple("3" if word == "2" else word for word in TEST)
ONE_ORDER = tuple("--window 1024 --multiples 1,4 --orders 1 --tolerance 0.5 --noise-batches 0".split())


def write_spec(folder: Path, *, teacher: Path | None = None, more: str = "") -> Path:
    """A run's file, of one name and text wherever it lies."""
    taught = f'teacher = "{teacher}"\n' if teacher else ""
    (folder / "run.toml").write_text('name = "branched"\n' + taught + RUN.format(tokens=4096) + more)
    return folder / "run.toml"


def record_of(*words) -> dict:
    return json.loads(answer("branch", *words, "--quiet", "--json", code=0).stdout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(a folder of `distillaw train` with its checkpoint, the run in it)."""
    folder = tmp_path_factory.mktemp("trained")
    done = answer("train", write_spec(folder), "--out", folder / "run", "--json", "--quiet", code=0)
    return folder / "run", folder / "run" / "runs" / json.loads(done.stdout)["run_id"]


@pytest.fixture(scope="module")
def tested(trained, tmp_path_factory):
    """(file, folder, record) of a finished test of a distilled run."""
    folder = tmp_path_factory.mktemp("tested")
    spec = write_spec(folder, teacher=trained[1])
    return spec, folder / "out", record_of(spec, "--out", folder / "out", *TEST)


def test_both_losses_from_one_checkpoint_are_decided_and_compared(tested):
    record = tested[2]
    (fork,) = record["forks"]
    assert [(arm["trunk"], arm["loss"]) for arm in fork["arms"]] == [
        ("distilled", "distilled"),
        ("distilled", "supervised"),
    ]
    for arm in fork["arms"]:
        assert [row["batch_tokens"] for row in arm["rows"]] == [64, 128, 256]
        assert [row["steps"] for row in arm["rows"]] == [16, 8, 4]
        assert [row["rate"] for row in arm["rows"]] == pytest.approx([0.01, 0.01 * 2**0.5, 0.02])
        assert all(row["loss"] < arm["before"] and len(set(row["losses"])) == 2 for row in arm["rows"])
        heldout = {d["tolerance_from"]: d["tolerance"] for d in arm["decisions"] if d["loss"] == "heldout"}
        gain = arm["before"] - min(row["loss"] for row in arm["rows"])
        assert heldout["merrill2025"] == 0.01 and heldout["gain-share"] == pytest.approx(0.05 * gain)
        assert heldout["seed-noise"] == pytest.approx(2 * arm["decisions"][0]["noise"]["sd"])
        assert arm["noise_scale"]["trace"] > 0
    taught, alone = fork["arms"]
    assert taught["before"] == alone["before"] and taught["rows"][0]["loss"] != alone["rows"][0]["loss"]
    (comparison,) = fork["comparisons"]
    at = {decision["tolerance_from"]: decision["doublings"] for decision in comparison["decisions"]}
    assert at["seed-noise"] is not None and len(comparison["excess_difference"]) == 2
    costs = [arm["rows"][2]["loss"] - arm["rows"][0]["loss"] for arm in (taught, alone)]
    assert comparison["excess_difference"][1]["difference"] == pytest.approx(costs[0] - costs[1])


def test_a_second_call_computes_nothing_and_a_wider_one_only_the_rest(tested, monkeypatch):
    spec, out, record = tested
    before = {file: file.stat().st_mtime_ns for file in out.rglob("branches/**/*") if file.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(branching, "TrunkGroup", lambda *parts: pytest.fail("opened text and teacher"))
        assert record_of(spec, "--out", out, *TEST)["forks"] == record["forks"]
    wider = record_of(spec, "--out", out, *WIDER, "--losses", "supervised")
    after = {file: file.stat().st_mtime_ns for file in out.rglob("branches/**/*") if file.is_file()}
    assert before.items() <= after.items()
    assert len([file for file in after.keys() - before if file.name == "result.json"]) == 3
    assert [len(row["losses"]) for row in wider["forks"][0]["arms"][0]["rows"]] == [3, 3, 3]


def test_a_diverged_branch_fails_and_the_others_are_compared(tested, tmp_path):
    spec, out, _ = tested
    shutil.copytree(out, tmp_path / "out", symlinks=True)
    (result,) = (tmp_path / "out").glob("branches/*-at32/distilled-x4-order0-*/result.json")
    write_json(result, json.loads(result.read_text()) | {"loss": None, "loss_se": None, "diverged": "at step 33"})
    (fork,) = record_of(spec, "--out", tmp_path / "out", *TEST)["forks"]
    row = fork["arms"][0]["rows"][2]
    assert (row["fails"], row["excess"], row["loss"], row["diverged"]) == (1, None, None, 1)
    assert fork["arms"][0]["rows"][1]["excess"] is not None
    assert [row["multiple"] for row in fork["comparisons"][0]["excess_difference"]] == [2]
    shown = answer("branch", spec, "--out", tmp_path / "out", *TEST, "--quiet").stdout
    assert "diverged" in shown and "does distillation change the critical batch?" in shown


def test_the_page_shows_every_fork(tested):
    page = (tested[1] / "branch.html").read_text()
    assert "Forked at 2,048 tokens" in page and page.count("<svg") == 1
    assert ">nan<" not in page and ">None<" not in page
    assert answer("report", tested[1], "--out", tested[1] / "again.html").returncode == 0
    assert (tested[1] / "again.html").read_text().count("<svg") == 1


def test_the_checkpoint_of_train_is_taken_up(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run", symlinks=True)
    spec = write_spec(tmp_path)
    (fork,) = record_of(spec, "--out", tmp_path / "run", "--at", "checkpoint", *ONE_ORDER)["forks"]
    assert fork["tokens"] == 51 * 64  # 80 % of 64 steps
    assert fork["arms"][0]["decisions"][0]["tolerance_from"] == "given" and fork["comparisons"] == []
    assert (trained[0] / "runs").exists() and len(list((tmp_path / "run" / "runs").iterdir())) == 1
    nothing = answer("branch", spec, "--out", tmp_path / "empty", "--at", "checkpoint", *ONE_ORDER)
    assert nothing.returncode == 1 and "no checkpoint of student-0.03M" in nothing.stderr


def test_a_dry_run_spends_nothing(tested, tmp_path):
    spec = tested[0]
    plan = json.loads(answer("branch", spec, "--out", tmp_path / "new", *TEST, "--dry-run", "--json").stdout)
    assert plan["branches"] == 3 * 2 * 2 and plan["branch_tokens"] == 12 * 1024 and plan["trunk_tokens"] == 2048
    assert plan["flops"] > 0 and plan["seconds"] > 0 and not (tmp_path / "new").exists()
    both = ("--trunks", "distilled,supervised", "--losses", "own")
    plan = json.loads(answer("branch", spec, "--out", tmp_path / "new", *TEST, *both, "--dry-run", "--json").stdout)
    assert plan["pairs"] == [["distilled", "distilled"], ["supervised", "supervised"]] and plan["trunk_tokens"] == 4096
    words = answer("branch", spec, "--out", tmp_path / "new", *TEST, "--dry-run").stdout
    assert "12 branches of 1,024 tokens" in words and "256 (4 steps)" in words


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--multiples", "1,0"), "positive"),
        (("--multiples=-1,1",), "positive"),
        (("--multiples", "1,1"), "two different ones"),
        (("--multiples", "1,a"), "--multiples: cannot read 'a'"),
        (("--multiples", "0.25,1"), "not a multiple of the context 32"),
        (("--multiples", "1,64", "--window", "1024"), "shorter than one step of the largest batch, 4096"),
        (("--multiples", "1,3", "--window", "1024"), "not a whole number of steps for batches of 192"),
        (("--at", "256"), "warming up"),
        (("--orders", "1"), "--tolerance 0.01"),
        (("--anneal", "1.5"), "--anneal 1.5"),
        (("--losses", "distilled"), "names no teacher"),
        (("--trunks", "own"), "none of distilled, supervised"),
        (("--losses", "alone"), "none of distilled, supervised, own"),
        (("--noise-batches", "3"), "8 at least"),
        (("--rate-rule", "root"), "--rate-rule"),
    ],
)
def test_what_cannot_be_branched_is_refused_before_anything_is_made(tmp_path, words, says):
    done = answer("branch", write_spec(tmp_path), "--out", tmp_path / "out", *words)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert says in done.stderr or says in done.stdout, done.stderr


def test_a_rule_of_the_file_is_not_overruled(tmp_path):
    spec = write_spec(tmp_path, more='reference_batch_tokens = 32\nrate_rule = "linear"\n')
    done = answer("branch", spec, "--out", tmp_path / "out", "--rate-rule", "sqrt", "--dry-run")
    assert done.returncode == 2 and "one rule must serve both" in done.stderr
    assert answer("branch", spec, "--out", tmp_path / "out", "--rate-rule", "linear", "--dry-run").returncode == 0


def test_more_text_than_there_is_is_refused(tmp_path):
    done = answer("branch", write_spec(tmp_path), "--out", tmp_path / "out", "--at", "1M", "--multiples", "1,2")
    assert done.returncode == 1 and "the student split has" in done.stderr


def _steps_on_disk(out: Path) -> int:
    return sum(len(file.read_bytes().splitlines()) for file in out.glob("branches/*/*/steps.jsonl"))


@pytest.mark.slow
def test_killed_in_the_middle_of_branches_it_comes_to_the_same(tested, tmp_path):
    """`kill -9` four times, each a few steps into a branch; the record is that of the uninterrupted test."""
    spec, _, record = tested
    out = tmp_path / "out"
    command = [sys.executable, "-m", "distillaw", "branch", str(spec), "--out", str(out), *TEST, "--quiet"]
    environment = os.environ | {"DISTILLAW_CHECKPOINT_SECONDS": "0.05"}
    for steps in (3, 11, 19, 7):
        began = _steps_on_disk(out)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        while _steps_on_disk(out) < began + steps:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "branch.json").exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    forks = json.loads((out / "branch.json").read_text())["forks"]
    for ours, theirs in zip(forks[0]["arms"], record["forks"][0]["arms"], strict=True):
        for key in ("losses", "training_losses"):
            assert [row[key] for row in ours["rows"]] == [row[key] for row in theirs["rows"]]
