"""An append-only file of JSON lines that survives a kill: a torn last line is cut off before the next is written."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from distillaw.runs.files import disk_error, read_json_lines, write_text
from distillaw.runs.places import appending

_BREAKS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}
"""Line breaks of Unicode that JSON leaves as they are; a row is one line by every count."""


@dataclass(frozen=True, slots=True)
class Journal:
    """Rows on disk, in the order they were written."""

    path: Path

    def rows(self) -> list[dict[str, object]]:
        """What is there, without a torn last line."""
        return read_json_lines(self.path)

    def keep(
        self, wanted: Callable[[Mapping[str, object]], bool] = lambda row: True
    ) -> list[dict[str, object]]:
        """Drop a torn last line and the rows that are not wanted; returns those that stay.

        Raises:
            RunError: the disk is full.
        """
        rows = [row for row in self.rows() if wanted(row)]
        text = "".join(_line(row) for row in rows)
        if self.path.exists() and self.path.read_text(encoding="utf-8", errors="replace") != text:
            write_text(self.path, text, known=True)
        return rows

    def append(self, *rows: Mapping[str, object]) -> None:
        """Add rows and flush them to the disk.

        Raises:
            RunError: the disk is full; earlier rows are intact.
        """
        try:
            with appending(self.path) as stream:
                stream.writelines(_line(row) for row in rows)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise disk_error(self.path, error) from error


def _line(row: Mapping[str, object]) -> str:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return text.translate(_BREAKS) + "\n"
