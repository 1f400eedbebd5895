"""`distillaw train` as a stranger uses it: alone, under torchrun, stopped by signals, and what can go wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import in_fork
from distillaw.runs.table import read_table
from in_process import answer
from tiny import RUN

SPEC = 'name = "one"' + RUN
STEPS = 200
ALONE = (sys.executable, "-m", "distillaw")
RANKS = (*f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2 -m distillaw".split(),)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A run of a few seconds."""
    path = tmp_path_factory.mktemp("spec") / "one.toml"
    path.write_text(SPEC.format(tokens=64 * STEPS))
    return path


def _command(launcher, file, folder, *more):
    return [*launcher, "train", str(file), "--out", str(folder), *more]


def _call(launcher, file, folder, *more):
    if launcher == ALONE:
        return answer("train", file, "--out", folder, *more)
    return subprocess.run(
        _command(launcher, file, folder, *more), capture_output=True, text=True, timeout=500, check=False
    )


def _started(launcher, file, folder):
    """A run in a session of its own, which has saved a checkpoint just now."""
    before, often = set(folder.glob("trunks/*/state/step-*")), {"DISTILLAW_CHECKPOINT_SECONDS": "0.1"}
    if launcher == ALONE:
        process = in_fork.command("train", file, "--out", folder, environment=often)
    else:
        process = subprocess.Popen(
            _command(launcher, file, folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | often,
        )
    while process.poll() is None and set(folder.glob("trunks/*/state/step-*")) <= before:
        time.sleep(0.01)
    return process


def _stopped(launcher, file, folder, number, *, group: bool):
    """Start a run, send it a signal and wait for its end: (exit code, stderr)."""
    process = _started(launcher, file, folder)
    (os.killpg if group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def _killed(file, folder, *, ranks: tuple[int, ...] = (), launcher: bool = False):
    """Start ranks under torchrun, `kill -9` some of them or torchrun, and wait for all: (exit code, stderr).

    torchrun starts its ranks in sessions of their own: neither a signal to its group nor its death reaches them.
    """
    process = _started(RANKS, file, folder)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    environments = {int(pid): Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in children}
    if launcher:
        process.kill()
    for pid, environment in environments.items():
        if any(f"RANK={rank}".encode() in environment for rank in ranks):
            os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=300)  # ends when the last rank has closed its stderr
    return process.returncode, errors


def _outcome(folder):
    (run,) = (folder / "runs").iterdir()
    return load_file(run / "model.safetensors"), json.loads((run / "result.json").read_text())["loss"]


def _early_losses(folder):
    """Training losses logged in the first 100 steps."""
    (log,) = folder.glob("runs/*/metrics.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [row["loss"] for row in rows if row["step"] <= 100]


def _same(a, b):
    return a[1] == b[1] and all(torch.equal(a[0][name], b[0][name]) for name in a[0])


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    done = _call(ALONE, file, folder, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == STEPS
    table = read_table(result["folder"])  # a run can be read as a table of one row
    assert table["run_id"].tolist() == [result["run_id"]] and table["loss"].tolist() == [result["loss"]]
    return folder


def test_a_second_call_finds_it_finished(file, whole):
    done = _call(ALONE, file, whole)
    assert done.returncode == 0 and "already finished" in done.stderr
    assert "held-out loss" in done.stdout and f"folder: {whole}/runs/" in done.stdout


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_saves_and_goes_on_bit_for_bit(file, whole, tmp_path, number):
    folder = tmp_path / "out"
    code, errors = _stopped(ALONE, file, folder, number, group=False)
    assert code == (130 if number == signal.SIGINT else 1)
    assert "the same command continues" in errors and "Traceback" not in errors
    assert not any(folder.glob("runs/*/result.json"))
    assert _call(ALONE, file, folder).returncode == 0
    assert _same(_outcome(folder), _outcome(whole))


@pytest.mark.slow
def test_torchrun_stopped_and_killed_goes_on_bit_for_bit(file, whole, tmp_path):
    """SIGTERM to torchrun; Ctrl-C; `kill -9` of one rank, of torchrun alone, of all. Without torchrun, and so in the
    fast suite, test_ranks.py and test_kills.py."""
    folder, reference = tmp_path / "out", tmp_path / "whole"
    code, errors = _stopped(RANKS, file, folder, signal.SIGTERM, group=False)
    assert code != 0 and "asked to stop: the checkpoint is saved" in errors, errors
    code, errors = _stopped(RANKS, file, folder, signal.SIGINT, group=True)
    assert code != 0 and "interrupted: finished work is kept" in errors, errors
    code, errors = _killed(file, folder, ranks=(1,))
    assert code != 0 and "another rank has ended" in errors, errors
    code, errors = _killed(file, folder, launcher=True)
    assert code == -signal.SIGKILL and "asked to stop: the checkpoint is saved" in errors, errors
    code, _ = _killed(file, folder, ranks=(0, 1), launcher=True)
    assert code == -signal.SIGKILL
    assert not any(folder.glob("runs/*/result.json"))
    for out in (folder, reference):
        done = _call(RANKS, file, out)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("held-out loss") == 1
    assert _same(_outcome(folder), _outcome(reference))
    # float32 sums in another order, and training multiplies the difference: 1e-6 at step 100 is 1e-2 at step 240
    assert _early_losses(reference) == pytest.approx(_early_losses(whole), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "more", "code", "message"),
    [
        ((), ("--sharding", "fsdp"), 2, "--sharding fsdp is for several processes: torchrun"),
        ((), ("--track", "wandv"), 2, "wandv"),
        (("params", "parms"), (), 2, "did you mean 'params'"),
        (("context = 32", "context = 32\nprecision = 'half'"), (), 2, "precision = 'half' is none of fp32, bf16"),
        (('name = "one"', 'name = "one"\ntargets = "x"\nteacher = "y"'), (), 2, "teacher and targets are both given"),
        (("[data]", "[data]\ncorpus = '/nowhere'"), (), 2, "/nowhere"),
    ],
)
def test_what_cannot_be_run_is_one_clear_line(file, tmp_path, change, more, code, message):
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(file.read_text().replace(*change) if change else file.read_text())
    done = _call(ALONE, wrong, tmp_path / "out", *more)
    assert done.returncode == code and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_what_several_processes_cannot_run_is_one_clear_line_too(file, tmp_path):
    several = ["--processes", "2", "--teacher-processes", "1"]
    called = subprocess.run(_command(ALONE, file, tmp_path, *several), capture_output=True, text=True, check=False)
    assert called.returncode == 2
    assert called.stderr == "distillaw: --teacher-processes 1: the run has no model for a teacher that could be there\n"


def test_checkpoint_seconds_must_be_a_number(file, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILLAW_CHECKPOINT_SECONDS", "often")
    done = _call(ALONE, file, tmp_path / "out")
    assert done.returncode == 2 and "DISTILLAW_CHECKPOINT_SECONDS = 'often'" in done.stderr
