"""Killed at any moment, out of disk or interrupted: the same build goes on, and every byte is the same."""

import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from ranked import CONTEXT as SERVER

import store_in_child
from distillaw.errors import RunError
from distillaw.runs.files import require_space
from distillaw.targets.build import make_plan
from distillaw.targets.manifest import Scheme, TargetRequest
from distillaw.targets.store import write_shard
from in_process import answer

CONTEXT, DEFAULT = 32, Scheme()
TOKENS = 400 * CONTEXT


def _contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.iterdir() if path.suffix in (".bin", ".json") and not path.name.startswith(".")]
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture
def plan(text, teacher):
    """A store of seven shards."""
    plan = make_plan(TargetRequest(scheme=DEFAULT, context=CONTEXT, shard_bytes=80_000, tokens=TOKENS), teacher, text)
    assert plan.num_shards == 7
    return plan


@pytest.fixture
def start(plan, text, teacher_folder):
    """start(folder, file_limit=0, halt=None) -> a process that builds the store there.

    It comes from a server that has imported torch and computed nothing: a process forked from this one could wait for
    ever for the threads of a computation that it does not have.
    """

    def call(folder: Path, *, file_limit: int = 0, halt: store_in_child.Halt | None = None) -> BaseProcess:
        arguments = (folder, plan, text, teacher_folder, file_limit, halt)
        process = SERVER.Process(target=store_in_child.build, args=arguments)
        process.start()
        return process

    return call


@pytest.fixture
def finish(start):
    """finish(folder) -> the contents once a process that nothing disturbs has built all that is missing."""

    def call(folder: Path) -> dict[str, bytes]:
        process = start(folder)
        process.join()
        assert process.exitcode == 0
        return _contents(folder)

    return call


def test_killed_again_and_again_the_result_is_the_same(start, finish, tmp_path):
    expected = finish(tmp_path / "whole")
    folder, rng, kills = tmp_path / "killed", np.random.default_rng(0), 0
    while not (folder / "manifest.json").exists():
        before = len(list(folder.glob("targets-*.bin")))
        reached = SERVER.Event()  # one further shard is written, a second computed: the process gets no further
        child = start(folder, halt=store_in_child.Halt(before + 2, reached))
        while not reached.wait(0.01) and child.is_alive():
            pass
        time.sleep(rng.uniform(0, 0.05))
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
        for name, content in _contents(folder).items():
            assert content == expected[name], f"{name} is not whole after {kills} kills"
    assert kills >= 3
    assert finish(folder) == expected and not list(folder.glob(".*.tmp"))


def test_a_full_disk_is_one_clear_error_and_nothing_is_lost(start, finish, tmp_path):
    """The kernel refuses files above a limit, as a full disk would, in the middle of a shard."""
    expected = finish(tmp_path / "whole")
    folder = tmp_path / "full"
    child = start(folder, file_limit=40_000)
    child.join()
    assert child.exitcode == 3
    assert not list(folder.glob("targets-*.bin")) and not list(folder.glob(".*.tmp"))
    assert finish(folder) == expected and len(expected["targets-00000.bin"]) > 40_000


def test_an_interrupt_says_that_work_is_kept(text, teacher_folder, tmp_path, monkeypatch):
    """Ctrl-C as soon as the second shard is written."""
    folder, written = tmp_path / "cache", []

    def write_then_interrupt(path, *arguments):
        write_shard(path, *arguments)
        written.append(path.name)
        if len(written) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("distillaw.targets.build.write_shard", write_then_interrupt)
    words = ("--teacher", teacher_folder, "--data", text.folder, "--out", folder)
    options = "--context 32 --tokens 8k --shard-mb 0.02 --device cpu --quiet"
    done = answer("cache", "build", *words, *options.split())
    assert done.returncode == 130 and "finished work is kept" in done.stderr and "Traceback" not in done.stderr
    assert written == sorted(path.name for path in folder.glob("targets-*.bin")) and len(written) == 2
    assert not list(folder.glob(".*.tmp"))


def test_too_little_room_is_refused_before_the_first_shard(tmp_path):
    require_space(tmp_path / "not" / "there", 1e3)
    with pytest.raises(RunError, match=r"free, about .* more are needed"):
        require_space(tmp_path / "not" / "there", 1e18)
