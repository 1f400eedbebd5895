"""Where and how a command computes: processes, device, sharding, precision, memory.

Results depend on it by rounding alone. Every command that trains or runs a model takes these settings, alone or under
torchrun. Torch-free, for `--help`.
"""

import os
from dataclasses import dataclass, replace
from typing import Literal

from distillaw.errors import ConfigError
from distillaw.runs.spec import Recipe

Sharding = Literal["ddp", "fsdp"]


def launched() -> bool:
    """Whether torchrun (or a launcher that speaks like it: srun, Ray) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a command runs on what there is."""

    processes: int = 1
    """Processes of this machine that share the work, one for each GPU; of several machines: torchrun distillaw ..."""
    teacher_processes: int = 0
    """Of these, so many hold the teacher and nothing else, and send its hidden states to the others; 0: every process
    has the teacher beside its student."""
    device: str = "auto"
    """cpu, cuda or auto (cuda where there is one)."""
    sharding: Sharding = "ddp"
    """With several processes: every model whole on each (ddp), or a slice of it (fsdp), the teacher's too."""
    precision: Literal["fp32", "bf16"] | None = None
    """Of matrix products; weights that are trained stay float32. By default fp32 where weights are trained (or what
    the run's file says), and where they are only read fp32 on CPUs and bf16 on GPUs."""
    micro_batch: int | None = None
    """Sequences of one forward pass of a process: what fits its memory."""
    checkpoint_activations: bool = False
    """Compute activations a second time in the backward pass instead of keeping them."""
    async_checkpoints: bool = False
    """Write checkpoints in a thread, from a copy in memory, while training goes on."""
    keep_checkpoints: int | None = None
    """So many of a run's latest checkpoints stay; by default the last one, or what the run's file says."""

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: naming the setting, its value and what it may be.
        """
        for name in ("processes", "micro_batch", "keep_checkpoints"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} = {value}: at least 1")
        here, every = (int(os.environ.get(name, 0)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        world = (here or every) if launched() else 0
        all_processes = every if launched() else self.processes
        if self.teacher_processes < 0 or 0 < self.teacher_processes >= all_processes:
            raise ConfigError(
                f"--teacher-processes {self.teacher_processes} of {all_processes}: 0 or more, and one at least is left "
                "to the student; --processes says how many there are"
            )
        few, many = sorted((self.teacher_processes, all_processes - self.teacher_processes))
        if few and many % few:
            raise ConfigError(
                f"--teacher-processes {self.teacher_processes} of {all_processes}: of the processes of the teacher and "
                "those left to the student one number must divide the other, so that all have as much to do"
            )
        if world and self.processes not in (1, world):
            raise ConfigError(
                f"--processes {self.processes}: the launcher has started {world} here; leave the option out"
            )
        if self.sharding == "fsdp" and not launched() and self.processes == 1:
            raise ConfigError(
                "--sharding fsdp is for several processes: torchrun --nproc-per-node 2 -m distillaw ..., or here "
                "--processes 2"
            )

    def applied(self, recipe: Recipe) -> Recipe:
        """A recipe of training that runs so; what is not given stays as the recipe has it."""
        given: dict[str, object] = {}
        if self.precision is not None:
            given["precision"] = self.precision
        if self.micro_batch is not None:
            given["micro_batch_tokens"] = self.micro_batch * recipe.context
        given |= {name: True for name in ("checkpoint_activations", "async_checkpoints") if getattr(self, name)}
        if self.keep_checkpoints is not None:
            given["keep_checkpoints"] = self.keep_checkpoints
        return replace(recipe, **given)  # type: ignore[arg-type]


HERE = Execution()
"""One process, on the best device."""
