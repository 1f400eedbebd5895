"""The rows of a run's logs, one JSON object a line, that a kill can neither tear nor double; and their mirror.

Scalars can be mirrored to a tracker for those who like to watch one; metrics.jsonl is the record. A mirror can never
fail, slow or stop a run: it works in a thread of its own, drops rows that the tracker is too slow for, and whatever the
tracker raises ends the mirror with one note.
"""

import contextlib
import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from distillaw.errors import ConfigError, DistillawError
from distillaw.models.parallel import Ranks
from distillaw.quantities import did_you_mean
from distillaw.runs.files import disk_error, read_json_lines, write_text
from distillaw.runs.places import appending

Write = Callable[[dict[str, object]], None]
"""Appends a row, which has a `step`."""


@contextlib.contextmanager
def open_log(path: Path, step: int, ranks: Ranks) -> Iterator[Write]:
    """Append to a log; rows at or past the step (from before a kill) are dropped first. Only the first rank writes.

    Raises:
        RunError: the disk is full.
    """
    if not ranks.is_first:
        yield lambda row: None
        return
    rows = read_json_lines(path)
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    if torn or (rows and int(str(rows[-1]["step"])) >= step):
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows if int(str(row["step"])) < step))
    try:
        with appending(path, buffering=1) as stream:

            def write(row: dict[str, object]) -> None:
                stream.write(json.dumps(row) + "\n")

            yield write
    except DistillawError:  # from the steps inside; a damaged store is an OSError too
        raise
    except OSError as error:
        raise disk_error(path, error) from error


PENDING_ROWS = 1000
"""More than a tracker that is only slow falls behind by; further rows are dropped for it, never for the file."""
CLOSE_SECONDS = 10.0
"""How long the end of a run waits for the tracker to take what is pending."""

Log = Callable[[Mapping[str, float], int], object]
Row = tuple[dict[str, float], int]


class Mirror:
    """Sends rows of numbers to one tracker."""

    def __init__(self, tracker: str, run_id: str, folder: Path, say: Callable[[str], object]) -> None:
        if tracker not in TRACKERS:
            raise ConfigError(
                f"unknown tracker {tracker!r}{did_you_mean(tracker, TRACKERS)}. Known: {', '.join(sorted(TRACKERS))}"
            )
        self._rows: queue.Queue[Row | None] = queue.Queue(PENDING_ROWS)
        self._start, self._say, self._name = (lambda: TRACKERS[tracker](run_id, folder)), say, tracker
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __call__(self, row: Mapping[str, object]) -> None:
        """Hand over one row of metrics.jsonl; returns at once."""
        numbers = {k: float(v) for k, v in row.items() if isinstance(v, int | float) and k != "step"}
        try:
            self._rows.put_nowait((numbers, int(str(row["step"]))))
        except queue.Full:
            pass  # the tracker is behind; the file has the row

    def close(self) -> None:
        """Let the tracker finish, but not for long."""
        try:
            self._rows.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        try:
            log, finish = self._start()
            while (item := self._rows.get()) is not None:
                log(*item)
            finish()
        except BaseException as error:  # also SystemExit: trackers have been seen to call it
            self._say(f"the mirror to {self._name} has ended ({type(error).__name__}: {error}); training goes on")


def _wandb(run_id: str, folder: Path) -> tuple[Log, Callable[[], object]]:
    import wandb  # pyrefly: ignore[missing-import] - installed by those who use it

    run = wandb.init(project="distillaw", id=run_id, name=run_id, dir=str(folder), resume="allow")
    return (lambda row, step: run.log(dict(row), step=step)), run.finish


def _trackio(run_id: str, folder: Path) -> tuple[Log, Callable[[], object]]:
    import trackio  # pyrefly: ignore[missing-import]

    trackio.init(project="distillaw", name=run_id, resume="allow")
    return (lambda row, step: trackio.log(dict(row), step=step)), trackio.finish


def _tensorboard(run_id: str, folder: Path) -> tuple[Log, Callable[[], object]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard" / run_id))

    def log(row: Mapping[str, float], step: int) -> None:
        for name, value in row.items():
            writer.add_scalar(name, value, step)

    return log, writer.close


TRACKERS = {"wandb": _wandb, "trackio": _trackio, "tensorboard": _tensorboard}
"""Name -> how to start it; each gives (log a row at a step, finish)."""
