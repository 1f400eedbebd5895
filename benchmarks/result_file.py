"""Result files: what was found, after the command that found it, the day, the machine and the versions that matter."""

import json
import os
import platform
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path

from distillaw.runs.files import write_text


def typed() -> str:
    """The command that is running, e.g. `python -m benchmarks.rates.simulated --pairs 1`."""
    module = sys.modules["__main__"].__spec__
    return shlex.join(["python", "-m", module.name if module else "benchmarks", *sys.argv[1:]])


def save(path: Path, command: str, **found: object) -> None:
    """Write what a benchmark found, whole or not at all; one thread is what all of them measure."""
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread"
    versions = {name: version(name) for name in ("numpy", "torch") if name in sys.modules}
    head = {"command": command, "date": time.strftime("%Y-%m-%d"), "machine": machine, **versions}
    write_text(path, json.dumps(head | found, indent=1, default=float) + "\n", known=True)
