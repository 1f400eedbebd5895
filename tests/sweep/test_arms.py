"""`distillaw distil`: arms at equal tokens, compared in pairs; through the command, as a user calls it."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from distillaw.models.prune import Wishes, prune_to
from distillaw.models.source import locate
from in_process import answer
from small_teacher import write_speeches, write_teacher


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A teacher, a cut of 60 % and a cut of 30 % that stands for a smaller model trained before."""
    home = tmp_path_factory.mktemp("models")
    teacher = write_teacher(home / "teacher")
    write_speeches(home / "speeches.jsonl")
    for name, keep in (("cut", 0.6), ("smaller", 0.3)):
        prune_to(locate(teacher), home / name, Wishes(keep=keep, by="uniform"))
    (home / "smaller" / "prune.json").unlink()
    return home


def _command(models, out, *words):
    options = {
        "--teacher": models / "teacher",
        "--corpus": models / "speeches.jsonl",
        "--tokens": 8192,
        "--batch": 256,
        "--context": 64,
        "--rates": "3e-3",
        "--out": out,
    }
    usual = [str(word) for option, value in options.items() if option not in words for word in (option, value)]
    return [sys.executable, "-m", "distillaw", "distil", str(models / "cut"), *usual, *words]


def _distil(models, out, *words):
    return answer(*_command(models, out, *words)[3:])


@pytest.fixture(scope="module")
def compared(models, tmp_path_factory):
    """(words, folder, record) of all six arms."""
    words = ("--smaller", str(models / "smaller"), "--tokens", "4096", "--json")
    folder = tmp_path_factory.mktemp("compared")
    done = _distil(models, folder, *words)
    assert done.returncode == 0, done.stderr
    return words, folder, json.loads(done.stdout)


def test_arms_are_trained_compared_and_found_again(models, compared):
    words, folder, record = compared
    rows = {row["arm"]: row for row in record["arms"]}
    assert set(rows) == {f"{arm}{kind}" for arm in ("pruned", "fresh", "smaller") for kind in ("", "-alone")}
    losses = [row["loss"] for row in record["arms"]]
    assert losses == sorted(losses) and record["best"] == record["arms"][0]["arm"]
    assert rows["pruned"]["loss"] < rows["pruned"]["start_loss"] and rows["fresh"]["start_loss"] is None
    assert rows["pruned"]["params"] == rows["fresh"]["params"] > rows["smaller"]["params"]
    assert rows["fresh"]["taught"] and not rows["fresh-alone"]["taught"]
    table = pq.read_table(folder / "runs.parquet").to_pylist()
    assert {row["run_id"] for row in table} == {row["run_id"] for row in record["arms"]}
    for pair in record["pairs"]:
        first, second = (_sums(folder, rows[pair[side]]["run_id"]) for side in ("first", "second"))
        assert pair["gain"] == pytest.approx((second[1] - first[1]).sum() / first[0].sum())
        assert pair["interval"][0] < pair["gain"] < pair["interval"][1]
    stamps = {file: file.stat().st_mtime_ns for file in folder.glob("runs/*/result.json")}
    again = _distil(models, folder, *words)
    assert json.loads(again.stdout)["arms"] == record["arms"]
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items())


def _sums(folder, run_id):
    table = pq.read_table(folder / "runs" / run_id / "heldout.parquet")
    return np.array(table["tokens"]), np.array(table["loss_sum"])


@pytest.mark.slow
def test_each_arm_keeps_the_best_of_its_rates(models, tmp_path):
    words = ("--no-alone", "--rates", "1e-6,3e-3", "--json")
    done = _distil(models, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert {row["peak_lr"] for row in json.loads(done.stdout)["arms"]} == {3e-3}
    pilots = [json.loads(file.read_text()) for file in tmp_path.glob("runs/*/result.json")]
    assert sorted((run["tokens"], run["peak_lr"]) for run in pilots) == sorted(
        [(1024, 1e-6), (1024, 3e-3), (8192, 3e-3)] * 2
    )


@pytest.mark.slow  # the study's engine and its checkpoints: test_scheduler.py kills them for every suite
def test_a_kill_loses_nothing_finished_and_changes_nothing(models, compared, tmp_path):
    words, _, record = compared
    environment = os.environ | {"DISTILLAW_CHECKPOINT_SECONDS": "0"}
    process = subprocess.Popen(
        _command(models, tmp_path, *words), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list(tmp_path.glob("trunks/*/state/step-*")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = json.loads(_distil(models, tmp_path, *words).stdout)
    assert [row["loss"] for row in killed["arms"]] == [row["loss"] for row in record["arms"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--lambda", "0"), "above 0 and at most 1"),
        (("--rates", "2"), "between 0 and 1"),
        (("--tokens", "512"), "leave 2 steps"),
        (("--context", "256"), "context is 128 tokens"),
        (("--teacher", "nowhere/at/all"), "no such model here"),
        (("--tokens", "900M"), "Lower the tokens, add text"),
    ],
)
def test_what_cannot_be_compared_is_refused(models, tmp_path, words, message):
    done = answer(*_command(models, tmp_path, *words)[3:])
    assert done.returncode in (1, 2) and message in done.stderr, done.stderr
    assert not list(tmp_path.glob("trunks/*"))
