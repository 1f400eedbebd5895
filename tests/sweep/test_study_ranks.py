"""A study whose cells are trained by two processes each: the same losses, also where one of them is killed."""

import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cluster_study import SETTINGS

from distillaw.runs.execution import Execution
from distillaw.runs.files import read_json
from distillaw.runs.store import StudyFolder
from distillaw.sweep.checks import load_study
from distillaw.sweep.executor import LocalExecutor
from distillaw.sweep.scheduler import Display
from distillaw.sweep.study import run_study
from in_process import workers_here

TWO = Execution(processes=2, sharding="fsdp")
STUDY = f"""
name = "shared"
{SETTINGS}
[students]
params = ["0.03M"]
tokens = ["12k"]
"""


class Killer(Display):
    """Kills the second rank of the first worker that has trained a step."""

    def __init__(self) -> None:
        self.killed, self.notes = 0, []

    def progressed(self, job, tokens, loss):
        for status in [] if self.killed else Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = status.read_bytes().split(b"\0")
                command = (status.parent / "cmdline").read_bytes()
            except OSError:
                continue
            if b"RANK=1" in variables and self.folder.encode() in command:
                self.killed = int(status.parent.name)
                os.kill(self.killed, signal.SIGKILL)
                return

    def note(self, message):
        self.notes.append(message)


def _losses(folder):
    rows = pq.read_table(folder / "runs.parquet").to_pylist()
    return {row["run_id"]: row["loss"] for row in rows}


@pytest.mark.slow
def test_runs_of_two_processes_are_those_of_one_and_a_killed_rank_is_named_and_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILLAW_CHECKPOINT_SECONDS", "0")
    (tmp_path / "shared.toml").write_text(STUDY)
    spec = load_study(tmp_path / "shared.toml")
    with workers_here():
        alone = run_study(
            spec, tmp_path / "one", place=lambda study: LocalExecutor(study, 1), display=Display(), command="test"
        )
    display = Killer()
    display.folder = str(tmp_path / "two")
    shared = run_study(
        spec, tmp_path / "two", place=lambda study: LocalExecutor(study, 1, TWO), display=display, command="test"
    )
    assert display.killed and any("rank 1 of 2 killed by SIGKILL" in note for note in display.notes)
    assert not alone.failed and not shared.failed and len(shared.done) == len(alone.done)
    one, two = _losses(tmp_path / "one"), _losses(tmp_path / "two")
    assert two == pytest.approx(one, rel=1e-5)
    run = StudyFolder(tmp_path / "two").run(next(iter(two)))
    assert read_json(run.path / "result.json")["device"] == "2 x cpu"
