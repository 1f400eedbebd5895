"""Workers as tasks of a Ray cluster whose machines share the study's disk.

Each task is one worker in a process of its own that lives through many runs. Ray is asked for nothing but that: it does
not retry, the scheduler does.
"""

import logging
import secrets
import socket
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from distillaw.errors import ConfigError, RunError
from distillaw.runs.store import StudyFolder
from distillaw.sweep.channel import Reception
from distillaw.sweep.executor import Ending
from distillaw.sweep.worker_entry import serve

IDLE_SECONDS = 60.0
ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RaySettings:
    """What to ask Ray for."""

    workers: int = 0
    """0: as many as the cluster has processors (or devices) for."""
    address: str = ""
    """`auto`, `host:6379` or `ray://host:10001`; empty: RAY_ADDRESS, else a cluster of this machine alone."""
    cpus: int = 1
    gpus: int = 0
    memory_bytes: float = 0.0
    """Per worker; 0 asks for none."""
    callback_host: str = ""
    """Name or address under which the cluster reaches this machine; empty: its own."""


class RayWorker:
    """One task."""

    def __init__(self, task: Any, name: str, log: str, executor: "RayExecutor") -> None:
        self._task, self._name, self._executor = task, name, executor
        self._node = ""
        self.log = log

    @property
    def where(self) -> str:
        """Its task, and the node once it is known."""
        return f"Ray task {self._name}" + (f" on node {self._node[:8]}" if self._node else "")

    def connect(self) -> Connection | None:
        """Once the task runs and has called."""
        called = self._executor.reception.take(self._name)
        if called is None:
            return None
        connection, self._node = called
        return connection

    def waits_for(self) -> str:
        """Ray does not say more."""
        return "waiting for free processors or devices of the Ray cluster"

    def ending(self) -> Ending | None:
        """From what became of the task."""
        return self._executor.ending(self._task, self._node)

    def kill(self) -> None:
        """At once."""
        self._executor.kill(self._task)


class RayExecutor:
    """A Ray cluster."""

    name = "ray"
    idle_seconds = IDLE_SECONDS

    def __init__(self, study: StudyFolder, settings: RaySettings) -> None:
        """Join the cluster, or start one of this machine alone.

        Raises:
            ConfigError: Ray is not here, or no cluster at that address.
        """
        try:
            import ray
        except ImportError as error:
            raise ConfigError('--executor ray needs Ray: pip install "distillaw[ray]"') from error
        self._ray, self._study, self._settings = ray, study, settings
        _check_answers(settings.address)
        self._joined = not ray.is_initialized()
        try:
            ray.init(
                address=settings.address or None,
                ignore_reinit_error=True,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:
            raise ConfigError(f"no Ray cluster at {settings.address or 'this machine'}: {error}") from error
        self.threads, self.has_devices = settings.cpus, settings.gpus > 0
        self.workers = settings.workers or self._room()
        asked = {"num_cpus": settings.cpus, "num_gpus": settings.gpus, "max_retries": 0, "max_calls": 1}
        if settings.memory_bytes:
            asked["memory"] = int(settings.memory_bytes)
        self._work: Any = ray.remote(**asked)(serve)
        self.reception = Reception(study.workers, settings.callback_host)

    def start(self, number: int) -> RayWorker:
        """Hand a task to the cluster.

        Raises:
            RunError: Ray refuses it.
        """
        name = f"ray-{number}-{secrets.token_hex(4)}"
        try:
            task = self._work.remote(str(self._study.path), name, self.reception.address, self._settings.cpus)
        except Exception as error:
            raise RunError(f"Ray takes no worker: {error}") from error
        return RayWorker(task, name, "Ray's own logs (ray logs cluster)", self)

    def ending(self, task: Any, node: str) -> Ending | None:
        """How a task ended; None while it runs. A node that is gone says nothing of the job."""
        done, _ = self._ray.wait([task], timeout=0)
        if not done:
            return None
        try:
            self._ray.get(task)
        except Exception as error:
            how = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            outside = isinstance(error, self._ray.exceptions.TaskCancelledError) or not self._is_alive(node)
            return Ending(how=how, is_fault=not outside)
        return Ending(how="ended", is_fault=False)

    def kill(self, task: Any) -> None:
        """Kill the process of a task, or take it out of the queue."""
        self._ray.cancel(task, force=True)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self.reception.close()
        if self._joined:
            self._ray.shutdown()

    def _is_alive(self, node: str) -> bool:
        return any(entry["NodeID"] == node and entry["Alive"] for entry in self._ray.nodes())

    def _room(self) -> int:
        """How many workers the cluster has room for.

        Raises:
            ConfigError: not one.
        """
        has = self._ray.cluster_resources()
        room = int(has.get("CPU", 0) // max(self._settings.cpus, 1))
        if self._settings.gpus:
            room = min(room, int(has.get("GPU", 0) // self._settings.gpus))
        if room < 1:
            raise ConfigError(
                f"the Ray cluster has {has.get('CPU', 0):g} processors and {has.get('GPU', 0):g} devices: not enough "
                f"for one worker of {self._settings.cpus} and {self._settings.gpus}"
            )
        return room


def _check_answers(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself would try for minutes.

    Raises:
        ConfigError: host:port does not answer.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto`, or nothing: Ray knows
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"no Ray cluster at {address} ({error}); start one with `ray start --head`, or give its address"
        ) from error
