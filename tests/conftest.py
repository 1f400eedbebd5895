"""One thread, no network, and where the data that is not committed may lie."""

import gc
import os
import shutil
import signal
import sys
from pathlib import Path

# The console script lies beside the interpreter, also where no environment is activated.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")  # as the command line sets it
os.environ.pop("COLUMNS", None)  # the terminal that started the tests is none of theirs
# a fault nobody foresaw is an error of the test, not a line
os.environ.setdefault("DISTILLAW_TRACEBACK", "1")

import pytest
from hypothesis import settings

from once import run_folder

# no test depends on chance or on how busy the machine is; `make test-all` draws anew, and more
settings.register_profile("same", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile("same")

# A shell that starts the tests in the background has them ignore Ctrl-C; the processes they interrupt must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What tests kill are processes, after which the kernel still has what was written; only a power cut would need this.
os.fsync = lambda descriptor: None


@pytest.fixture(autouse=True)
def _ctrl_c_is_given_back():
    """What a test runs in this process answers Ctrl-C while it runs, and not the tests after it."""
    before = signal.getsignal(signal.SIGINT)
    yield
    found = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert found is before, f"Ctrl-C is left to {found}"


@pytest.fixture(autouse=True)
def _one_thread():
    """A command that takes all cores for a large model leaves them to nobody: sums of two threads round otherwise."""
    yield
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


FIRST = ("sweep", "settling", "train", "recipe", "instruct", "evaluate", "cli")
"""Folders with files that take a minute each, to be begun before the many that take seconds."""


def pytest_collection_modifyitems(items):
    """Long files first (`make test` keeps their order), so that no worker ends alone with one of them."""
    items.sort(key=lambda item: FIRST.index(place) if (place := item.path.parent.name) in FIRST else len(FIRST))


def pytest_collection_finish():
    """Libraries and thousands of tests are never garbage: collections need not look at them every time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session):
    """What was made once for all processes goes with the last of them."""
    if not hasattr(session.config, "workerinput"):
        shutil.rmtree(run_folder(), ignore_errors=True)


SHARED = Path(os.environ.get("DISTILLAW_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data that is read, never committed; the test skips where it is absent."""
    return _present(SHARED)


@pytest.fixture(scope="session")
def law_runs() -> Path:
    """Other people's runs."""
    return _present(SHARED / "lawruns")


@pytest.fixture(scope="session")
def published_data() -> Path:
    """Tables of papers."""
    return _present(SHARED / "published")


def _present(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set DISTILLAW_DATA")
    return folder
