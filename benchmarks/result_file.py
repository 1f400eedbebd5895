"""Result files: what was found, after the command that found it, the day, the machine and the versions that matter."""

import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path


def save(path: Path, command: str, **found: object) -> None:
    """Write what a benchmark found; one thread is what all of them measure."""
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread"
    versions = {name: version(name) for name in ("numpy", "torch") if name in sys.modules}
    head = {"command": command, "date": time.strftime("%Y-%m-%d"), "machine": machine, **versions}
    path.write_text(json.dumps(head | found, indent=1) + "\n")
