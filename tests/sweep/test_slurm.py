"""Workers on a real Slurm of this machine: warned, preempted, their node lost, killed; and a killed scheduler.

A minute or two each; skipped where Slurm is not installed or cannot be started.
"""

import signal
import subprocess

import cluster_study as long
import pytest
from clusters import missing_slurm, slurm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(missing_slurm()), reason=missing_slurm()),
]

SLURM = ("--executor", "slurm", "--workers", "2", "--time", "30")


@pytest.fixture(autouse=True)
def _nothing_left():
    yield
    long.end_all()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    with slurm(folder):
        yield folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return long.write(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory, study):
    """The table of the same study, trained by processes of this machine."""
    folder = tmp_path_factory.mktemp("local") / "study"
    long.finish(long.start(study, folder))
    return long.table(folder)


def _lost(folder, how: str) -> bool:
    return any(how in event["how"] for event in long.events(folder, "lost"))


def _job(worker: dict) -> str:
    return worker["where"].removeprefix("Slurm job ")


def _slurm(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def test_jobs_that_are_warned_preempted_or_lose_their_node_cost_no_finished_step(cluster, study, reference, tmp_path):
    folder = tmp_path / "study"
    process = long.start(study, folder, *SLURM)
    first = long.busy_worker(folder, process)
    _slurm("scancel", "--signal=USR2", _job(first))  # what Slurm sends ahead of a time limit
    long.eventually(lambda: _lost(folder, "SIGUSR2"), process)
    second = long.busy_worker(folder, process)
    _slurm("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    long.eventually(lambda: _lost(folder, "SIGTERM"), process)  # saved and left in its grace time
    third = long.busy_worker(folder, process)
    _slurm("scontrol", "update", f"nodename={_node()}", "state=down", "reason=test")
    long.eventually(lambda: len(long.events(folder, "lost")) > 2, process)  # NODE_FAIL, or saved and left just in time
    # slurmd may have brought it back by itself, and then this is refused
    subprocess.run(["scontrol", "update", f"nodename={_node()}", "state=resume"], capture_output=True, check=False)
    outcome = long.finish(process)
    assert len({first["where"], second["where"], third["where"]}) == 3
    assert (len(outcome["new_runs"]), outcome["failed_runs"]) == (5, {})
    assert long.table(folder) == reference


def test_a_killed_scheduler_is_followed_by_one_on_another_executor(cluster, study, reference, tmp_path):
    folder = tmp_path / "study"
    process = long.start(study, folder, *SLURM)
    long.busy_worker(folder, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    outcome = long.finish(long.start(study, folder, "--workers", "1"))  # at once: its workers may still be saving
    assert outcome["failed_runs"] == {}
    assert long.table(folder) == reference
    assert [e["executor"] for e in long.events(folder, "began")] == ["slurm", "local"]
    long.eventually(lambda: not _queue())  # the old jobs found nobody and ended


def test_a_job_that_slurm_refuses_is_one_clear_error(cluster, study, tmp_path):
    error = long.finish(long.start(study, tmp_path / "study", *SLURM, "--partition", "nowhere"), code=1)
    assert "Slurm takes no worker: invalid partition specified: nowhere; Batch job" in error["error"]
    assert "Traceback" not in error["error"]


def _node() -> str:
    found = subprocess.run(["sinfo", "-h", "-o", "%n"], capture_output=True, text=True, check=True)
    return found.stdout.split()[0]


def _queue() -> str:
    return subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout.strip()
