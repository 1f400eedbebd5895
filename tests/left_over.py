"""What a killed process leaves: a name that `places.temporary` would have given it."""

import re
from pathlib import Path

from distillaw.runs.places import temporary


def of_a_dead_process(folder: Path) -> Path:
    """A path for what is not whole yet, by a process of this machine that does not run."""
    return folder / re.sub(r"-\d+-", "-999999999-", temporary(folder).name, count=1)
