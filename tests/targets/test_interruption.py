"""Killed at any moment, out of disk or interrupted: the same build goes on, and every byte is the same."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distillaw.errors import RunError
from distillaw.targets.build import build_shards, opened_for_building, require_space

TOKENS = 800 * 32


@pytest.fixture
def whole(build):
    """(contents, maker, plan) of a store of thirteen shards that nothing disturbed."""
    folder, maker, plan = build("whole", tokens=TOKENS, shard_bytes=80_000)
    assert plan.num_shards >= 12
    return _contents(folder), maker, plan


def _contents(folder: Path) -> dict[str, bytes]:
    files = [
        path
        for path in folder.iterdir()
        if path.suffix in (".bin", ".json") and not path.name.startswith(".")
    ]
    return {path.name: path.read_bytes() for path in files}


def _build_in_child(folder: Path, maker, plan, *, file_limit: int = 0) -> int:
    """Fork a process that builds; it exits with 0 when done and with 3 when it reports a full disk."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if file_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        with opened_for_building(folder, plan) as begun:
            build_shards(folder, begun, maker)
        code = 0
    except RunError as error:
        code = 3 if "cannot write" in str(error) and "the same command continues" in str(error) else 4
    finally:
        os._exit(code)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_again_and_again_the_result_is_the_same(whole, tmp_path):
    expected, maker, plan = whole
    folder, rng, kills = tmp_path / "killed", np.random.default_rng(0), 0
    while not (folder / "manifest.json").exists():
        before = len(list(folder.glob("targets-*.bin")))
        child = _build_in_child(folder, maker, plan)
        while len(list(folder.glob("targets-*.bin"))) <= before and not (folder / "manifest.json").exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status)
        for name, content in _contents(folder).items():
            assert content == expected[name], f"{name} is not whole after {kills} kills"
    assert kills >= 5
    with opened_for_building(folder, plan) as begun:
        build_shards(folder, begun, maker)
    assert _contents(folder) == expected and not list(folder.glob(".*.tmp"))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_full_disk_is_one_clear_error_and_nothing_is_lost(whole, tmp_path):
    """The kernel refuses files above a limit, as a full disk would, in the middle of a shard."""
    expected, maker, plan = whole
    folder = tmp_path / "full"
    _, status = os.waitpid(_build_in_child(folder, maker, plan, file_limit=40_000), 0)
    assert os.waitstatus_to_exitcode(status) == 3
    assert not list(folder.glob("targets-*.bin")) and not list(folder.glob(".*.tmp"))
    with opened_for_building(folder, plan) as begun:
        build_shards(folder, begun, maker)
    assert _contents(folder) == expected and len(expected["targets-00000.bin"]) > 40_000


def test_an_interrupt_says_that_work_is_kept(text, teacher_folder, tmp_path):
    folder = tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, "-m", "distillaw", "cache", "build", "--teacher", str(teacher_folder), "--data",
         str(text.folder), "--out", str(folder), "--context", "32", "--shard-mb", "0.02", "--device", "cpu", "--quiet"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None and not (folder / "build.json").exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "finished work is kept" in errors and "Traceback" not in errors
    assert not list(folder.glob(".*.tmp"))


def test_too_little_room_is_refused_before_the_first_shard(tmp_path):
    require_space(tmp_path / "not" / "there", 1e3)
    with pytest.raises(RunError, match=r"are needed and .* are free"):
        require_space(tmp_path / "not" / "there", 1e18)
