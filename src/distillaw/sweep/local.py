"""Workers on this machine: one process per core, or per CUDA device where there are any.

Small models run fastest one to a core. Workers live through many jobs, so torch is imported once each; this process
never imports it.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection

from distillaw.runs.places import appending
from distillaw.runs.store import StudyFolder
from distillaw.sweep.channel import pair
from distillaw.sweep.executor import DEFAULT_IDLE, Ending


@dataclass(slots=True)
class LocalWorker:
    """A child of this process."""

    process: subprocess.Popen[bytes]
    log: str
    _connection: Connection | None

    @property
    def where(self) -> str:
        """Its process."""
        return f"pid {self.process.pid}"

    def connect(self) -> Connection | None:
        """There from the start."""
        connection, self._connection = self._connection, None
        return connection

    def waits_for(self) -> str:
        """A child waits for nothing but its imports."""
        return "starting"

    def ending(self) -> Ending | None:
        """From the exit code."""
        code = self.process.poll()
        if code is None:
            return None
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Ending(how=how, is_fault=code != 0)

    def kill(self) -> None:
        """At once."""
        self.process.kill()


class LocalExecutor:
    """This machine."""

    name = "local"
    threads = 1
    idle_seconds = DEFAULT_IDLE

    def __init__(self, study: StudyFolder, workers: int) -> None:
        self.workers = workers
        self._study, self._devices = study, cuda_devices()
        self.has_devices = bool(self._devices)

    def start(self, number: int) -> LocalWorker:
        """A new process, with a device of its own (or shared in turn) where there are any."""
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        if self._devices:
            environment["CUDA_VISIBLE_DEVICES"] = self._devices[number % len(self._devices)]
        ours, theirs = pair()
        log = self._study.workers / f"local-{number}.log"
        # the folder as an argument, so that whoever lists processes sees whose worker it is
        command = [sys.executable, "-m", "distillaw.sweep.worker", str(self._study.path),
                   f"local-{number}-{secrets.token_hex(4)}", f"fd:{theirs.fileno()}", str(self.threads)]  # fmt: skip
        with appending(log) as stream, theirs:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment,
                pass_fds=[theirs.fileno()],
            )  # fmt: skip
        return LocalWorker(process, str(log), ours)

    def close(self) -> None:
        """Nothing is left."""


def cuda_devices() -> list[str]:
    """CUDA devices this process may use, as CUDA_VISIBLE_DEVICES names them; asked of the driver, not of torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device and device != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return [str(n) for n, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
