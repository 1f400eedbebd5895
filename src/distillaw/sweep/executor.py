"""Where workers run: what the scheduler asks of a place. local.py, slurm.py and on_ray.py are the three there are.

A place starts workers and knows what became of them; everything else (which job goes where, what a death means) is the
scheduler's. All workers run the one program of sweep/worker.py and see the study folder under the same path.
"""

import math
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

DEFAULT_IDLE = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a worker ended."""

    how: str
    """In words: `killed by SIGKILL`, `PREEMPTED`."""
    is_fault: bool
    """Whether its job may be to blame (killed, out of memory); a node that was taken away says nothing of the job."""


class Handle(Protocol):
    """One worker that was started."""

    @property
    def where(self) -> str:
        """For people: `pid 4711`, `Slurm job 17`."""
        ...

    @property
    def log(self) -> str:
        """The file or folder that holds what it printed."""
        ...

    def connect(self) -> Connection | None:
        """Its connection; None while it has not come."""
        ...

    def waits_for(self) -> str:
        """Why it has not come yet."""
        ...

    def ending(self) -> Ending | None:
        """How it ended; None while it may still run. Only then are its jobs given to another."""
        ...

    def kill(self) -> None:
        """End it now, or take it out of the queue."""
        ...


class Executor(Protocol):
    """A place where workers run."""

    @property
    def name(self) -> str:
        """`local`, `slurm` or `ray`."""
        ...

    @property
    def workers(self) -> int:
        """How many may run at once."""
        ...

    @property
    def threads(self) -> int:
        """Cores of each."""
        ...

    @property
    def has_devices(self) -> bool:
        """Whether each worker has an accelerator: then students of one shape are trained as one batched model."""
        ...

    @property
    def idle_seconds(self) -> float:
        """How long a worker without a job is kept: for ever where it costs nothing."""
        ...

    def start(self, number: int) -> Handle:
        """Start a worker; `number` is below `workers` and no living worker has it.

        Raises:
            RunError: the place does not take it.
        """
        ...

    def close(self) -> None:
        """All workers have ended: let go of the place."""
        ...
