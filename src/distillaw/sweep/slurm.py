"""Workers as Slurm jobs, submitted with submitit from a machine that shares the study's disk.

Each job is one worker that lives through many runs. Slurm warns it before the time limit or a preemption; it saves, and
the scheduler submits another. Jobs are never requeued by Slurm itself: there is one who decides. States are asked of
squeue, so that clusters without an accounting database do too (submitit's own way needs sacct).
"""

import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from distillaw.errors import ConfigError, RunError
from distillaw.runs.store import StudyFolder
from distillaw.sweep.channel import Reception
from distillaw.sweep.executor import Ending
from distillaw.sweep.worker_entry import serve

if TYPE_CHECKING:
    import submitit

POLL_SECONDS = 5.0
"""How often squeue is asked at most."""
IDLE_SECONDS = 60.0
WARNING_SECONDS = 90
"""How long before its time limit a job is told to save."""

RUNNING = frozenset({"PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "SIGNALING",
                     "STOPPED", "RESIZING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"})  # fmt: skip
FAULTS = frozenset({"FAILED", "OUT_OF_MEMORY"})
"""Ends that the job may have caused; TIMEOUT, PREEMPTED, NODE_FAIL, CANCELLED and their like came from outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmSettings:
    """What to ask Slurm for, per worker."""

    workers: int
    partition: str = ""
    time: str = "60"
    """Minutes, or as sbatch writes it (`2:00:00`, `1-00:00:00`)."""
    cpus: int = 1
    gpus: int = 0
    mem: str = ""
    """As sbatch writes it: `4G`."""
    extra: Mapping[str, str | bool] = field(default_factory=dict)
    """Further sbatch settings without their dashes: {"account": "x", "qos": "low"}."""
    callback_host: str = ""
    """Name or address under which compute nodes reach this machine; empty: its own."""
    warning_seconds: int = WARNING_SECONDS

    def sbatch(self) -> dict[str, object]:
        """As submitit wants it."""
        wanted: dict[str, object] = {
            "job_name": "distillaw", "time": self.time, "cpus_per_task": self.cpus,
            "signal_delay_s": self.warning_seconds,
            "additional_parameters": {"no_requeue": True, **self.extra},
        }  # fmt: skip
        optional = {"partition": self.partition, "mem": self.mem, "gpus_per_node": self.gpus}
        return wanted | {key: value for key, value in optional.items() if value}


class SlurmWorker:
    """One job of the queue."""

    def __init__(self, job_id: str, name: str, log: str, executor: "SlurmExecutor") -> None:
        self._id, self._name, self._executor = job_id, name, executor
        self.log = log

    @property
    def where(self) -> str:
        """Its job."""
        return f"Slurm job {self._id}"

    def connect(self) -> Connection | None:
        """Once the job runs and has called."""
        called = self._executor.reception.take(self._name)
        return called[0] if called else None

    def waits_for(self) -> str:
        """Slurm's reason, such as Priority or Resources."""
        state, reason = self._executor.state(self._id)
        return f"{state.lower()} ({reason})" if reason not in ("", "None") else state.lower()

    def ending(self) -> Ending | None:
        """From the queue."""
        state, reason = self._executor.state(self._id)
        if state in RUNNING or state == "UNKNOWN":
            return None
        how = state if reason in ("", "None") else f"{state}, {reason}"
        return Ending(how=how, is_fault=state in FAULTS)

    def kill(self) -> None:
        """scancel; a queue that does not answer is asked again by whoever waits."""
        subprocess.run(["scancel", self._id], capture_output=True, check=False)


class SlurmExecutor:
    """A Slurm cluster."""

    name = "slurm"
    idle_seconds = IDLE_SECONDS

    def __init__(self, study: StudyFolder, settings: SlurmSettings) -> None:
        """Open the way to the queue.

        Raises:
            ConfigError: submitit or Slurm's commands are not here.
        """
        self.workers, self.threads, self.has_devices = settings.workers, settings.cpus, settings.gpus > 0
        self._study, self._settings = study, settings
        self._submitit = _open_submitit(study, settings)
        self._states: dict[str, tuple[str, str]] = {}
        self._asked = -float("inf")
        self.reception = Reception(study.workers, settings.callback_host)

    def start(self, number: int) -> SlurmWorker:
        """Submit a job.

        Raises:
            RunError: sbatch refuses it.
        """
        name = f"slurm-{number}-{secrets.token_hex(4)}"
        try:
            job = self._submitit.submit(
                serve, str(self._study.path), name, self.reception.address, self._settings.cpus
            )
        except Exception as error:  # submitit's own, with sbatch's words inside
            raise RunError(
                f"Slurm takes no worker: {_sbatch_words(error)}. See sinfo and --sbatch"
            ) from error
        self._states[job.job_id] = "PENDING", ""
        self._asked = -float("inf")
        return SlurmWorker(job.job_id, name, f"{self._study.workers}/{job.job_id}_0_log.err", self)

    def state(self, job_id: str) -> tuple[str, str]:
        """State and reason of a job, some seconds old at most; ("GONE", "") once the queue has forgotten it."""
        if time.monotonic() - self._asked > POLL_SECONDS:
            self._ask()
        return self._states.get(job_id, ("UNKNOWN", ""))

    def close(self) -> None:
        """Nobody may call any more."""
        self.reception.close()

    def _ask(self) -> None:
        self._asked = time.monotonic()
        open_jobs = [job_id for job_id, (state, _) in self._states.items() if state in RUNNING]
        for job_id in open_jobs:
            self._states[job_id] = ask_state(job_id) or self._states[job_id]


def ask_state(job_id: str) -> tuple[str, str] | None:
    """State and reason of one job; None if Slurm does not answer."""
    command = ["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T|%r"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        return ("GONE", "") if "Invalid job id" in asked.stderr else None
    if not asked.stdout.strip():
        return "GONE", ""
    state, _, reason = asked.stdout.strip().splitlines()[0].partition("|")
    return state, reason


def _open_submitit(study: StudyFolder, settings: SlurmSettings) -> "submitit.SlurmExecutor":
    try:
        import submitit
    except ImportError as error:
        raise ConfigError('--executor slurm needs submitit: pip install "distillaw[slurm]"') from error
    if missing := [name for name in ("sbatch", "srun", "squeue", "scancel") if shutil.which(name) is None]:
        raise ConfigError(
            f"--executor slurm needs {', '.join(missing)} on this machine: start it where you use sbatch, with the "
            "study folder on a disk that the nodes share"
        )
    executor = submitit.SlurmExecutor(folder=study.workers)
    try:
        executor.update_parameters(**settings.sbatch())
    except Exception as error:
        raise ConfigError(f"Slurm settings that submitit refuses: {error}") from error
    return executor


def _sbatch_words(error: Exception) -> str:
    found = re.findall(r"sbatch: error: (.*)", str(error))
    return "; ".join(found) or str(error).strip().splitlines()[-1]
