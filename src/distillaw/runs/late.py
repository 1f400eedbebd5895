"""Files that another machine has written and that a shared disk shows late (NFS keeps what it knew for a while)."""

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

LATE_SECONDS = 120.0
"""How long a file that is known to exist is waited for; NFS keeps folders for a minute unless told otherwise."""


def wait_for_files(files: Sequence[Path], *, seconds: float = LATE_SECONDS) -> list[Path]:
    """Wait until files are visible here; returns those that are still not after `seconds`."""
    deadline = time.monotonic() + seconds
    late = [file for file in files if not is_visible(file)]
    while late and time.monotonic() < deadline:
        time.sleep(0.1)
        late = [file for file in late if not is_visible(file)]
    return late


def is_visible(file: Path) -> bool:
    """Whether a file is there; the folder is listed anew, so that NFS asks the server."""
    if file.exists():
        return True
    with contextlib.suppress(OSError):
        return file.name in os.listdir(file.parent) and file.exists()
    return False
