"""The rows of a run's logs, one JSON object a line, that a kill can neither tear nor double."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from distillaw.errors import DistillawError
from distillaw.runs.files import disk_error, read_json_lines, write_text
from distillaw.runs.places import appending
from distillaw.train.parallel import Ranks

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
