"""What schedulers did to a study, for people and for `study status`; nothing is decided from it.

    journal.jsonl    one line per event, appended: began, ended (a job), lost (a worker), again, changed, stopped
    scheduler.json   the workers of the scheduler that runs now: where, what, how far; replaced every few seconds

A disk that is full costs lines here, never a run.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from distillaw.errors import DistillawError
from distillaw.runs.files import read_json, write_json
from distillaw.runs.places import appending, remove_file

NOTICE_SECONDS = 5.0


def now() -> str:
    """UTC by this machine's clock; for people only, nothing is computed from it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Journal:
    """The log of a study folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "journal.jsonl"

    def add(self, event: str, **facts: object) -> None:
        """Append one event."""
        line = json.dumps({"at": now(), "event": event, **facts}).encode() + b"\n"
        with contextlib.suppress(OSError):
            with appending(self._file, binary=True) as stream:
                if stream.seek(0, os.SEEK_END):
                    stream.seek(-1, os.SEEK_END)
                    line = line if stream.read(1) == b"\n" else b"\n" + line  # a torn line ends here
                stream.write(line)

    def events(self) -> Iterator[dict]:
        """All events in order; a line torn by a kill or a full disk is left out."""
        if not self._file.exists():
            return
        for line in self._file.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event


class Notice:
    """scheduler.json."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "scheduler.json"
        self._written = -float("inf")

    def is_due(self) -> bool:
        """Whether the one on disk is some seconds old."""
        return time.monotonic() - self._written > NOTICE_SECONDS

    def write(self, facts: Mapping[str, object]) -> None:
        """Replace it."""
        self._written = time.monotonic()
        with contextlib.suppress(DistillawError):
            write_json(self._file, facts)

    def read(self) -> dict:
        """The last one; empty if there is none."""
        with contextlib.suppress(DistillawError):
            return read_json(self._file)
        return {}

    def remove(self) -> None:
        """Take it away."""
        with contextlib.suppress(OSError):
            remove_file(self._file)
