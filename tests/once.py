"""What several tests need is made once in a run of the tests, by whichever of its processes comes first."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def run_folder() -> Path:
    """A folder that all processes of this run share; conftest.py removes it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    return Path(tempfile.gettempdir()) / f"distillaw-tests-{run}"


def copy_of(name: str, make: Callable[[Path], object], target: Path) -> Path:
    """A copy of what `make(folder)` writes; it is called once in a run for each name."""
    run_folder().mkdir(exist_ok=True)
    original = run_folder() / name
    with (run_folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not original.exists():
            unfinished = original.with_suffix(".part")
            make(unfinished)
            unfinished.rename(original)
    shutil.copytree(original, target, dirs_exist_ok=True)
    return target
