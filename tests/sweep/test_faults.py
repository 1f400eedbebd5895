"""What goes wrong around a study, in earnest: full and slow disks, clocks, edits, deaths, cells that never work."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

import distillaw
from distillaw.errors import CacheError, ConfigError, RunError
from distillaw.runs.files import write_json
from distillaw.runs.store import StudyFolder
from distillaw.sweep import scheduler
from distillaw.sweep.checks import load_study
from distillaw.sweep.executor import LocalExecutor
from distillaw.sweep.scheduler import Display
from distillaw.sweep.status import read_status
from distillaw.sweep.study import read_progress, run_study
from in_process import answer, workers_here
from tiny import study_text

pytestmark = pytest.mark.timeout(3600)  # many processes that import torch: minutes on a busy machine

SMALL = study_text(
    "small",
    """[students]
params = ["0.03M"]
tokens = ["4k"]
[[teachers]]
params = "0.03M"
tokens = "4k"
""",
)
"""Three runs: a teacher, a student alone, a student of the teacher."""


class Listener(Display):
    """Keeps what it is told, and calls `act` when a worker has taken a trunk."""

    def __init__(self, act=None) -> None:
        self.notes: list[str] = []
        self.begun: list[str] = []
        self._act = act

    def note(self, message: str) -> None:
        self.notes.append(message)

    def started(self, job, worker) -> None:
        self.begun.append(job.trunk.trunk_id)
        if self._act is not None:
            self._act(job)


def run(file: Path, folder: Path, *, display=None, again=(), place=LocalExecutor, own_workers=False):
    """The study with one worker, which is this process unless told otherwise."""
    with contextlib.nullcontext() if own_workers else workers_here():
        return run_study(
            load_study(file),
            folder,
            place=lambda study: place(study, 1),
            display=display or Listener(),
            command="test",
            again=again,
        )


@pytest.fixture
def small(tmp_path):
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The study, done."""
    base = tmp_path_factory.mktemp("finished")
    (base / "small.toml").write_text(SMALL)
    outcome = run(base / "small.toml", base / "study")
    assert (len(outcome.done), outcome.failed) == (3, {})
    return base / "study"


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "study"))


def losses(folder: Path) -> dict[str, float]:
    """Loss of every finished run."""
    return dict(read_progress(StudyFolder(folder)).losses)


# --- disks ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of its own that holds 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs root to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_the_study_and_loses_nothing(small, finished, tiny_disk):
    folder, filler = tiny_disk / "study", tiny_disk / "filler"

    def fill(job) -> None:
        if job.trunk.role == "student" and not filler.exists():
            with filler.open("wb", buffering=0) as stream:
                try:
                    while True:
                        stream.write(b"x" * 4096)
                except OSError:
                    pass

    display = Listener(fill)
    with pytest.raises(RunError, match=r"cannot write .*No space left.*Free space"):
        run(small, folder, display=display)
    assert len(display.begun) <= 2, "the disk was full, and yet further trunks were begun"
    kept = losses(folder)
    filler.unlink()
    outcome = run(small, folder)
    assert outcome.failed == {}
    assert not set(outcome.done) & set(kept)
    assert losses(folder) == losses(finished)


class LateDisk(LocalExecutor):
    """Shows a result half a second after its worker has said that it is there, as NFS may."""

    def _train(self, task):
        report = super()._train(task)
        for run_id in report["done"]:
            file = self.study.run(run_id).path / "result.json"
            file.rename(late := file.with_name(".late"))
            threading.Timer(0.5, os.replace, (late, file)).start()
        return report


def test_results_that_appear_late_are_waited_for_and_nothing_is_trained_twice(small, finished, tmp_path):
    display = Listener()
    outcome = run(small, tmp_path / "study", display=display, place=LateDisk)
    assert outcome.failed == {}
    assert len(display.begun) == len(set(display.begun)) == 3
    assert losses(tmp_path / "study") == losses(finished)


# --- clocks -----------------------------------------------------------------------------------------------------

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


@pytest.mark.skipif(not FAKETIME.exists(), reason="needs libfaketime (Debian: faketime)")
def test_a_clock_that_jumps_changes_nothing(small, finished, tmp_path):
    """The whole study in a world whose clock goes back a month when the first run is done, and on a year later."""
    clock, folder = tmp_path / "clock", tmp_path / "study"
    clock.write_text("+0")
    process = _call(
        small,
        folder,
        environment={
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
    )
    for jump, runs in (("-30d", 1), ("+400d", 2)):
        while process.poll() is None and len(list(folder.glob("runs/*/result.json"))) < runs:
            time.sleep(0.02)
        clock.write_text(jump)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert json.loads(out)["failed_runs"] == {}
    assert losses(folder) == losses(finished)
    stamps = [json.loads(line)["at"] for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert stamps != sorted(stamps) or stamps[-1][:4] != stamps[0][:4], "the clock did not jump"


# --- workers and schedulers that die ----------------------------------------------------------------------------


def _call(file: Path, folder: Path, *, environment=None) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *f"-m distillaw study run {file} --out {folder} --workers 1 --json".split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
    )


def _signal_worker(folder: Path, number: signal.Signals) -> None:
    for record in (folder / "workers").glob("local-*.json"):
        with contextlib.suppress(ProcessLookupError):  # the record of one that was killed before
            os.kill(json.loads(record.read_text())["pid"], number)


@pytest.mark.slow
def test_being_sent_away_counts_against_no_run_and_being_killed_does(small, finished, tmp_path):
    """The student alone loses more workers than a crash allows, by SIGTERM; the teacher is killed each time."""
    folder, sent = tmp_path / "study", []

    def act(job) -> None:
        if job.trunk.role == "teacher":
            _signal_worker(folder, signal.SIGKILL)
        elif len(sent) <= scheduler.MAX_CRASHES:
            sent.append(job)
            _signal_worker(folder, signal.SIGTERM)

    outcome = run(small, folder, display=Listener(act), own_workers=True)
    ((failed, error),) = outcome.failed.items()
    assert failed.startswith("teacher") and "its worker died 2 times (killed by SIGKILL" in error
    assert len(losses(folder)) == 1 and len(sent) == scheduler.MAX_CRASHES + 1
    status = read_status(folder)
    assert (status.done, list(status.failures)) == (1, [failed])
    assert status.lost_seconds > 0
    assert any("wait for their teacher" in line for line in status.waiting)
    assert any("1 failed runs wait for the next" in line for line in status.waiting)
    assert run(small, folder).failed == {}, "the next call tries again"
    assert losses(folder) == losses(finished)


def test_status_of_a_finished_study_needs_no_torch(finished):
    check = "import sys, pathlib; from distillaw.sweep import status; status.read_status(pathlib.Path(sys.argv[1]))"
    check += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check, str(finished)], check=True)
    found = read_status(finished)
    assert (found.done, found.known, found.is_complete) == (3, 3, True)
    assert found.flops > 0 and found.core_seconds > 0
    assert found.scheduler.startswith("none")
    told = answer("study", "status", finished, "--json")
    assert json.loads(told.stdout)["done"] == 3


def test_a_folder_without_a_study_has_no_status(tmp_path):
    with pytest.raises(CacheError, match=r"study\.json is missing"):
        read_status(tmp_path)


@pytest.mark.parametrize("data", [None, {}, {"vocab_size": 300}, {"vocab_size": "x", "data_hash": "y"}])
def test_a_study_that_does_not_say_what_its_text_is_has_a_line_for_status(small, tmp_path, data):
    spec = asdict(load_study(small))
    write_json(tmp_path / "study.json", {"name": "small", "spec": spec} | ({} if data is None else {"data": data}))
    with pytest.raises(CacheError, match=r"study\.json: damaged: .*data"):
        read_status(tmp_path)


def test_a_worker_killed_before_it_is_ready_is_one_line_and_costs_no_run(small, tmp_path, monkeypatch):
    ours = Path(distillaw.__file__).parents[1]
    (tmp_path / "deadly").mkdir()
    (tmp_path / "deadly" / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'deadly'}{os.pathsep}{ours}")
    folder = tmp_path / "study"
    done = answer("study", "run", small, "--out", folder, "--workers", "1", "--quiet", own_workers=True, code=1)
    (line,) = done.stderr.strip().splitlines()
    assert "killed by SIGKILL" in line and "before its first job" in line
    assert Path(line.rsplit("see ", 1)[1]).is_file()
    status = read_status(folder)
    assert (status.done, status.failures, status.is_running) == (0, {}, False)


# --- what the user changes --------------------------------------------------------------------------------------


def test_a_changed_study_file_is_explained_and_loses_nothing(small, copy):
    small.write_text(SMALL.replace('[[teachers]]\nparams = "0.03M"\ntokens = "4k"\n', ""))
    display = Listener()
    outcome = run(small, copy, display=display)
    assert outcome.done == []
    (note,) = [n for n in display.notes if "study file has changed" in n]
    assert 'teachers.1 was removed: params "0.03M"' in note and "teachers.1.params" not in note
    assert "Of 3 finished runs 1 belong to it and 2 do not" in note
    assert len(losses(copy)) == 3, "what no longer belongs stays on disk"
    found = read_status(copy)
    assert (found.done, found.others) == (1, 2)
    small.write_text(SMALL)
    display = Listener()
    assert run(small, copy, display=display).done == []
    assert any("3 belong to it: all of them" in note for note in display.notes)


def test_a_run_is_done_again_only_if_asked_and_what_it_was_is_kept(small, copy, finished):
    run_id = next(name for name in losses(copy) if name.startswith("student-0.03M-alone"))
    stamp = (copy / "runs" / run_id / "result.json").stat().st_mtime_ns
    assert run(small, copy).done == []
    display = Listener()
    outcome = run(small, copy, display=display, again=[run_id])
    assert outcome.done == [run_id]
    assert (copy / "superseded" / f"{run_id}.1" / "result.json").stat().st_mtime_ns == stamp
    assert losses(copy) == losses(finished)
    assert any(f"{run_id} again: loss" in note and "the same" in note for note in display.notes)


def test_a_run_that_is_not_there_cannot_be_asked_for_again(small, copy):
    with pytest.raises(ConfigError, match=r"--again student-0.*no such run"):
        run(small, copy, again=["student-0.03M-alone-s0-xxx-4000t"])
    assert len(losses(copy)) == 3
