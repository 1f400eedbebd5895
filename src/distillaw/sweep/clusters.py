"""Tasks as Slurm jobs (submitit) and as tasks of a Ray cluster, whose machines share the study's disk.

A Slurm job per task: Slurm warns it before the time limit or a preemption, it saves, and the scheduler submits the task
again. Neither Slurm nor Ray retries anything: there is one who decides. States are asked of squeue, so that clusters
without an accounting database do too (submitit's own way needs sacct).
"""

import logging
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from distillaw.errors import ConfigError, RunError
from distillaw.runs.execution import Execution, Sharding
from distillaw.runs.lock import LATE_SECONDS, wait_for_files
from distillaw.runs.store import StudyFolder
from distillaw.sweep.executor import Executor, Lost, TrainingTask
from distillaw.sweep.worker import train

POLL_SECONDS = 5.0
"""How often squeue is asked, for all jobs at once; Slurm's own advice is not to ask in a tight loop."""
WARNING_SECONDS = 90
"""How long before its time limit a job is told to save: thrice the time between two checkpoints."""
GLANCE_SECONDS = 1.0
"""How often who waits for a task of Ray looks whether the place is closed."""
ANSWER_SECONDS = 10.0
"""How long a cluster may take to answer; Slurm's and Ray's own ways would try for minutes."""

RUNNING = frozenset(
    "PENDING RUNNING CONFIGURING COMPLETING SUSPENDED STAGE_OUT SIGNALING STOPPED RESIZING REQUEUED REQUEUE_HOLD "
    "SPECIAL_EXIT".split()
)
FAULTS = frozenset({"FAILED", "OUT_OF_MEMORY"})
"""Ends that the job may have caused; TIMEOUT, PREEMPTED, NODE_FAIL, CANCELLED and their like came from outside."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What a worker of a study gets."""

    processes: int = 1
    """Of a worker, on one machine, each with a GPU of its own where there are any: they train together."""
    sharding: Sharding = "ddp"
    """With several processes: every model whole on each (ddp), or a slice of it (fsdp), the teacher's too."""
    partition: str = ""
    """Slurm: where jobs go."""
    time: str = "60"
    """Slurm: time limit of a job, minutes or D-HH:MM:SS; a job that meets it saves and is submitted again."""
    cpus: int = 1
    """Slurm and Ray: cores of a worker."""
    gpus: int = 0
    """Slurm and Ray: devices of a worker."""
    mem: str = ""
    """Slurm and Ray: memory of a worker, e.g. 4G."""
    sbatch: tuple[str, ...] = ()
    """Slurm: a further setting, e.g. --sbatch account=x; may be repeated."""
    ray_address: str = ""
    """Ray: `auto`, host:6379 or ray://host:10001; without one a cluster of this machine."""

    def check(self, executor: str) -> None:
        """Refuse what the executor would ignore.

        Raises:
            ConfigError: an option that means nothing to it, or a number out of range.
        """
        for name in (*OF_SLURM, *OF_RAY, *OF_BOTH):
            if name not in KNOWN[executor] and getattr(self, name) != getattr(WorkerOptions(), name):
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{option} means nothing to --executor {executor}; drop it or choose another executor"
                )
        for name, least in (("cpus", 1), ("gpus", 0), ("processes", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name} {getattr(self, name)}: give {least} or more")
        if self.sharding == "fsdp" and self.processes == 1:
            raise ConfigError("--sharding fsdp is for several processes: say how many, --processes 2")
        if 0 < self.gpus < self.processes:
            raise ConfigError(
                f"--processes {self.processes} with --gpus {self.gpus}: each process takes a device of its own. Give "
                f"--gpus {self.processes}"
            )

    @property
    def execution(self) -> Execution:
        """How a worker trains."""
        return Execution(processes=self.processes, sharding=self.sharding)

    def for_sbatch(self) -> dict[str, object]:
        """As submitit wants it.

        Raises:
            ConfigError: a setting of `sbatch` that is neither NAME=VALUE nor a switch.
        """
        optional = {"partition": self.partition, "mem": self.mem, "gpus_per_node": self.gpus}
        return {
            "job_name": "distillaw",
            "time": self.time,
            "cpus_per_task": self.cpus,
            "signal_delay_s": WARNING_SECONDS,
            "additional_parameters": {"no_requeue": True, **dict(map(_sbatch_pair, self.sbatch))},
            **{key: value for key, value in optional.items() if value},
        }

    def for_ray(self) -> dict[str, Any]:
        """As Ray wants it.

        Raises:
            ConfigError: memory that is no number.
        """
        asked: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": 0}
        return asked | ({"memory": int(_memory_bytes(self.mem))} if self.mem else {})


OF_SLURM, OF_RAY, OF_BOTH = ("partition", "time", "sbatch"), ("ray_address",), ("cpus", "gpus", "mem")
KNOWN = {"local": (), "slurm": (*OF_SLURM, *OF_BOTH), "ray": (*OF_RAY, *OF_BOTH)}
"""Executor -> its options."""


def _sbatch_pair(setting: str) -> tuple[str, str | bool]:
    """`account=x` and bare words such as `exclusive`, with or without their dashes."""
    key, equals, value = setting.lstrip("-").partition("=")
    if not key or (equals and not value):
        raise ConfigError(f"--sbatch {setting!r}: give name=value, or the name alone for a switch")
    return key.replace("-", "_"), value if equals else True


def _memory_bytes(text: str) -> float:
    """Bytes of `4G` or `512M`, as sbatch writes memory: powers of 1024, megabytes without a suffix."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1].isalpha() else (text, "M")
    try:
        return float(number) * 1024.0 ** ("KMGT".index(unit) + 1)
    except ValueError:
        raise ConfigError(f"--mem {text!r}: give a number with K, M, G or T, e.g. 4G") from None


class SlurmExecutor(Executor):
    """A Slurm cluster."""

    name = "slurm"

    def __init__(self, study: StudyFolder, workers: int, options: WorkerOptions) -> None:
        """Open the way to the queue.

        Raises:
            ConfigError: submitit or Slurm's commands are not here, or it refuses the settings.
        """
        try:
            import submitit
        except ImportError as error:
            raise ConfigError('--executor slurm needs submitit: pip install "distillaw[slurm]"') from error
        if missing := [name for name in ("sbatch", "srun", "squeue", "scancel") if shutil.which(name) is None]:
            raise ConfigError(
                f"--executor slurm needs {', '.join(missing)} on this machine: start it where you use sbatch, with "
                "the study folder on a disk that the nodes share"
            )
        super().__init__(study, workers)
        self.threads, self.has_devices, self.execution = options.cpus, options.gpus > 0, options.execution
        self._submitit = submitit.SlurmExecutor(folder=study.workers)
        self._states: dict[str, tuple[str, str]] = {}
        """State and reason of every job that is waited for."""
        self._asked, self._asking = -float("inf"), threading.Lock()
        try:
            self._submitit.update_parameters(**options.for_sbatch())
        except Exception as error:
            raise ConfigError(f"Slurm settings that submitit refuses: {error}") from error

    def _train(self, task: TrainingTask) -> dict[str, Any]:
        order = self._order(task, self._new_name(task.number))
        try:
            with self._asking:
                job = self._submitit.submit(train, order)
                self._states[job.job_id] = ("PENDING", "")
        except Exception as error:  # submitit's own, with sbatch's words inside
            words = "; ".join(re.findall(r"sbatch: error: (.*)", str(error)))
            raise RunError(
                f"Slurm takes no worker: {words or str(error).strip().splitlines()[-1]}. See sinfo and --sbatch"
            ) from error
        task.where, task.log = f"Slurm job {job.job_id}", f"{self.study.workers}/{job.job_id}_0_log.err"
        state, how = self._wait(task, job.job_id)
        if state not in ("COMPLETED", "GONE"):
            raise Lost(how, is_fault=state in FAULTS)
        late = 0.0 if task.is_killed else LATE_SECONDS
        if wait_for_files([job.paths.result_pickle], seconds=late, given_up=self._closing):
            raise Lost(how, is_fault=False)
        try:
            return job.result()
        except Exception as error:  # submitit's own; the trace is in the job's log
            raise Lost("failed outside of its task", is_fault=True) from error

    def _wait(self, task: TrainingTask, job_id: str) -> tuple[str, str]:
        """Wait until a job has left the queue; the state it ended in, and that in words."""
        state, how = "PENDING", "PENDING"
        while state in RUNNING:
            task.waits_for = how.replace(state, state.lower())
            is_over = self._closing.wait(POLL_SECONDS)
            if task.is_killed or is_over:
                ask_slurm("scancel", job_id)
            if is_over:
                raise Lost("given up", is_fault=False)
            state, reason = self._state(job_id)
            how = f"{state} ({reason})" if reason else state
        with self._asking:
            del self._states[job_id]
        return state, how

    def _state(self, job_id: str) -> tuple[str, str]:
        """State and reason of a job, as of a few seconds ago; ("GONE", "") once the queue has forgotten it."""
        with self._asking:
            if time.monotonic() - self._asked >= POLL_SECONDS:
                if (found := ask_states(self._states)) is not None:
                    self._states = {job: found.get(job, ("GONE", "")) for job in self._states}
                self._asked = time.monotonic()
            return self._states[job_id]

    def kill(self, task: TrainingTask) -> None:
        """Whoever waits for it has it cancelled, again and again until the queue obeys."""
        task.is_killed = True


def ask_states(jobs: Collection[str]) -> dict[str, tuple[str, str]] | None:
    """State and reason of the jobs that the queue remembers; None if Slurm does not answer."""
    asked = ask_slurm("squeue", "--noheader", "--states=all", f"--jobs={','.join(jobs)}", "--format=%i|%T|%r")
    if asked is None or asked.returncode != 0:  # it refuses a single job that it has forgotten
        is_forgotten = asked is not None and "Invalid job id" in asked.stderr and len(jobs) == 1
        return {} if is_forgotten else None
    rows = [line.split("|", 2) for line in asked.stdout.split("\n") if line.count("|") >= 2]
    return {job: (state, "" if reason == "None" else reason) for job, state, reason in rows}


def ask_slurm(*command: str) -> subprocess.CompletedProcess[str] | None:
    """Run one of Slurm's commands; None if it does not answer in time."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        return None


class RayExecutor(Executor):
    """A Ray cluster."""

    name = "ray"

    def __init__(self, study: StudyFolder, workers: int, options: WorkerOptions) -> None:
        """Join the cluster, or start one of this machine alone.

        Raises:
            ConfigError: Ray is not here, or no cluster at that address.
        """
        try:
            import ray
        except ImportError as error:
            raise ConfigError('--executor ray needs Ray: pip install "distillaw[ray]"') from error
        _check_answers(options.ray_address)
        self._ray, self._joined = ray, not ray.is_initialized()
        try:
            ray.init(
                address=options.ray_address or None,
                ignore_reinit_error=True,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:
            raise ConfigError(f"no Ray cluster at {options.ray_address or 'this machine'}: {error}") from error
        super().__init__(study, workers or _room(ray.cluster_resources(), options))
        self.threads, self.has_devices, self.execution = options.cpus, options.gpus > 0, options.execution
        self._work: Any = ray.remote(**options.for_ray())(train)

    def _train(self, task: TrainingTask) -> dict[str, Any]:
        name = self._new_name(task.number)
        task.where, task.log = f"Ray task {name}", "Ray's own logs (ray logs cluster)"
        task.waits_for = "waiting for free processors or devices of the Ray cluster"
        try:
            task.handle = self._work.remote(self._order(task, name))
        except Exception as error:
            raise RunError(f"Ray takes no worker: {error}") from error
        known = self._ray.exceptions
        while not self._closing.is_set():
            try:
                return self._ray.get(task.handle, timeout=GLANCE_SECONDS)
            except known.GetTimeoutError:
                continue
            except Exception as error:
                how = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                # the worker's own end; a lost node or a cancelled task says nothing of its jobs
                faults = (known.RayTaskError, known.WorkerCrashedError, known.OutOfMemoryError)
                raise Lost(how, is_fault=isinstance(error, faults)) from error
        raise Lost("given up", is_fault=False)

    def kill(self, task: TrainingTask) -> None:
        """Kill the process of a task, or take it out of the queue."""
        if task.handle is not None:
            self._ray.cancel(task.handle, force=True)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        super().close()
        if self._joined:
            self._ray.shutdown()


def _room(has: Mapping[str, float], options: WorkerOptions) -> int:
    """How many workers a cluster has room for.

    Raises:
        ConfigError: not one.
    """
    cpus, gpus = has.get("CPU", 0), has.get("GPU", 0)
    room = int(cpus // max(options.cpus, 1))
    if options.gpus:
        room = min(room, int(gpus // options.gpus))
    if room < 1:
        raise ConfigError(
            f"the Ray cluster has {cpus:g} processors and {gpus:g} devices: not enough for one worker of "
            f"{options.cpus} and {options.gpus}"
        )
    return room


def _check_answers(address: str) -> None:
    """Refuse an address where nobody listens.

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
