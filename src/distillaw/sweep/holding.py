"""Holding a study folder: one scheduler at a time, and none before the workers of the last one are gone.

Workers of a killed scheduler notice, save and end by themselves, but not in the same instant; a new worker on the same
trunk beside them would be one too many. Each keeps a record (runs/lock.py) in workers/ while it lives.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from distillaw.runs.lock import Claim, held, is_alive, read_holder
from distillaw.runs.places import remove_file
from distillaw.runs.store import StudyFolder

WAIT_SECONDS = 600.0


@contextlib.contextmanager
def hold_study(study: StudyFolder, say: Callable[[str], None]) -> Iterator[Claim]:
    """Hold the folder for the duration.

    Args:
        study: the folder; made if need be.
        say: told whom one waits for.

    Raises:
        RunError: another process works on it, or it cannot be written.
    """
    with held(study.path, f"the study {study.path}", say) as claim:
        wait_for_former_workers(study, say)
        yield claim


def wait_for_former_workers(study: StudyFolder, say: Callable[[str], None]) -> None:
    """Wait until no worker of an earlier scheduler lives, and remove what dead ones left.

    One that does not end within ten minutes (it hangs, or was suspended) loses its record, and with it its work: it
    looks for the record every two seconds, and ends without it.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    records = sorted(study.workers.glob("*.json"))
    with ThreadPoolExecutor(max_workers=32) as pool:  # each of another machine is watched for half a minute
        list(pool.map(lambda record: _wait_for(record, say, deadline), records))


def _wait_for(record: Path, say: Callable[[str], None], deadline: float) -> None:
    is_told = False
    while (holder := read_holder(record)) is not None and is_alive(record, holder):
        if not is_told:
            say(f"waiting for a worker of an earlier scheduler to save and end: {holder}")
            is_told = True
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    remove_file(record)
