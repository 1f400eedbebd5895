"""Who works on a folder: real processes, of this machine and (in a process namespace of their own) as of another."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distillaw.errors import RunError
from distillaw.runs import lock
from distillaw.runs.lock import locked, read_holder, record_of

HOLD = """
import sys, time
from pathlib import Path
from distillaw.runs.lock import locked
if "no-flock" in sys.argv:
    import errno, fcntl
    def flock(*_): raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
with locked(Path(sys.argv[1]), "the study"):
    print("held", flush=True)
    time.sleep(600)
"""
ELSEWHERE = ["unshare", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child"]
"""A process namespace of its own: its pids mean nothing here, as on another machine."""


def _can_unshare() -> bool:
    try:
        return subprocess.run([*ELSEWHERE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_unshare = pytest.mark.skipif(not _can_unshare(), reason="needs unshare with --pid, as root")


@pytest.fixture
def hold(tmp_path):
    """Starts a process that holds a lock file of the folder; all are ended."""
    started = []

    def start(*prefix: str, no_flock: bool = False) -> subprocess.Popen:
        options = ["no-flock"] if no_flock else []
        process = subprocess.Popen(
            [*prefix, sys.executable, "-c", HOLD, str(tmp_path / ".lock"), *options], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def no_flock(monkeypatch):
    """This process is on a file system without flock."""

    def flock(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)


def test_the_refusal_says_who_holds_it_since_when(hold, tmp_path):
    process = hold()
    with pytest.raises(RunError, match=rf"the study .*\(pid {process.pid} on .+, since 20..-..-..T"), _lock(tmp_path):
        pass


def test_a_released_lock_leaves_no_record(tmp_path):
    with _lock(tmp_path):
        assert read_holder(record_of(tmp_path / ".lock")).pid == os.getpid()
    assert not record_of(tmp_path / ".lock").exists()


@pytest.mark.parametrize("no_flock", [False, True])
def test_a_killed_holder_of_this_machine_does_not_block(hold, tmp_path, no_flock, request):
    if no_flock:
        request.getfixturevalue("no_flock")
    process = hold(no_flock=no_flock)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert record_of(tmp_path / ".lock").exists()
    with _lock(tmp_path):
        pass


def test_without_flock_the_record_alone_keeps_two_apart(hold, tmp_path, no_flock):
    hold(no_flock=True)
    with pytest.raises(RunError, match="another process"), _lock(tmp_path):
        pass


def test_a_later_process_of_the_same_pid_is_not_the_holder(tmp_path):
    with _lock(tmp_path):
        record = record_of(tmp_path / ".lock")
        text = json.loads(record.read_text())
    record.write_text(json.dumps(text | {"started": "1"}))  # our pid, but of a process that started at the boot
    with _lock(tmp_path):
        pass


@pytest.mark.slow
@needs_unshare
def test_a_living_holder_of_another_machine_blocks_and_a_dead_one_does_not(hold, tmp_path, no_flock, monkeypatch):
    """No flock between them, no pid that means anything here: only that it touches its record."""
    monkeypatch.setattr(lock, "WATCH_SECONDS", 8.0)
    process = hold(*ELSEWHERE, no_flock=True)
    told = []
    with pytest.raises(RunError, match=r"\(pid 1 on "), locked(tmp_path / ".lock", "the study", told.append):
        pass
    assert "watching for" in told[0]
    process.kill()
    process.wait()
    with _lock(tmp_path):
        pass


@needs_unshare
def test_flock_and_record_agree_between_namespaces(hold, tmp_path):
    hold(*ELSEWHERE)
    with pytest.raises(RunError, match=r"\(pid 1 on "), _lock(tmp_path):
        pass


@pytest.mark.slow
def test_a_record_in_the_far_future_is_judged_by_its_touches_alone(tmp_path, monkeypatch):
    """A clock that jumped: ages of files mean nothing."""
    monkeypatch.setattr(lock, "WATCH_SECONDS", 1.0)
    record = record_of(tmp_path / ".lock")
    record.write_text(json.dumps({"host": "far", "pid": 1, "since": "2099-01-01T00:00:00Z", "machine": "elsewhere"}))
    os.utime(record, (4e9, 4e9))
    with _lock(tmp_path):
        pass


def test_who_loses_the_record_hears_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    with locked(tmp_path / ".lock", "the study") as claim:
        claim.check()
        record_of(tmp_path / ".lock").unlink()
        deadline = time.monotonic() + 30
        while not claim.is_lost and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(RunError, match=r"no longer ours: \.lock\.json is gone"):
            claim.check()


def test_a_torn_record_of_a_killed_process_does_not_block(tmp_path):
    record_of(tmp_path / ".lock").write_text('{"host": "vm", "pi')
    with _lock(tmp_path):
        pass


def test_of_many_processes_at_once_one_gets_it(tmp_path):
    """Started together on a stale record, without flock: exactly one holds it at any moment."""
    text = {"host": "vm", "pid": 999_999_999, "since": "long ago", "machine": lock.this_machine(), "started": "1"}
    record_of(tmp_path / ".lock").write_text(json.dumps(text))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / ".lock"), "no-flock"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    try:
        deadline = time.monotonic() + 120
        while sum(p.poll() is not None for p in processes) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert sum(p.poll() is None for p in processes) == 1
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _lock(folder: Path):
    return locked(folder / ".lock", "the study")
