"""A study folder in the hands of one scheduler: its hold, and what it leaves there for people and for `study status`.

    .lock, .lock.json   the hold (runs/lock.py)
    workers/*.json      a record per worker while it lives
    journal.jsonl       one line per event, appended: began, ended (a task), lost (a worker), again, changed, stopped
    scheduler.json      what is in training now: where, what, how far; replaced every few seconds

Nothing is decided from the last two; a disk that is full costs lines there, never a run.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from distillaw.errors import DistillawError
from distillaw.runs.files import append_json_lines, read_json
from distillaw.runs.lock import Claim, held, is_alive, read_holder
from distillaw.runs.places import remove_file
from distillaw.runs.store import StudyFolder

WAIT_SECONDS = 600.0
"""How long a worker of an earlier scheduler may take to save and end: the largest checkpoints over slow networks."""
NOTICE_SECONDS = 5.0
"""How old scheduler.json may be; `study status --watch` looks as often."""


@contextlib.contextmanager
def hold_study(study: StudyFolder, say: Callable[[str], None]) -> Iterator[Claim]:
    """Hold the folder for the duration, once no worker of an earlier scheduler lives.

    Workers of a killed scheduler notice, save and end by themselves, but not in the same instant; a new worker on the
    same trunk beside them would be one too many.

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


JOURNAL, NOTICE = "journal.jsonl", "scheduler.json"


def log_event(folder: Path, event: str, **facts: object) -> None:
    """Append to the journal of a study, stamped with this machine's clock; for people, nothing is computed from it."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(DistillawError):
        append_json_lines(folder / JOURNAL, [{"at": at, "event": event, **facts}])


def read_notice(folder: Path) -> dict:
    """What scheduler.json says; empty if there is none."""
    with contextlib.suppress(DistillawError):
        return read_json(folder / NOTICE)
    return {}
