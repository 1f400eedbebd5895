"""Processes that train one model together: plain PyTorch, started by torchrun, applied from outside the model.

Every rank computes its share of each batch. The loss is divided by the token count of the whole batch, so gradients
are *summed* over ranks, and the result does not depend on how many there are. Nothing else in the package knows
about ranks: one process is `ALONE`. In each, freed memory stays instead of going back to the kernel after every step.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeVar

import torch
from torch import distributed
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from distillaw.errors import ConfigError, DistillawError, RunError

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's mallopt (malloc.h)."""


def keep_freed_memory() -> bool:
    """Tell glibc's allocator so, for this process; returns whether there is one that listens.

    A training step frees and asks for the same large buffers over and over. By default each is mapped and unmapped, and
    the page faults cost 3 to 5 % of a step of a small model and up to a fifth at a vocabulary of 32k (dev/LOG.md).
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 1 << 26}
    return all([libc.mallopt(parameter, value) for parameter, value in settings.items()])


T = TypeVar("T")

CPU = torch.device("cpu")
Sharding = Literal["ddp", "fsdp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1
    sharding: Sharding = "ddp"
    """`ddp` keeps the whole model on every rank, `fsdp` a slice of every parameter (FSDP2, `fully_shard`)."""
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This rank's part of `rows` sequences.

        Raises:
            ConfigError: they do not divide evenly; ranks with unlike numbers of micro-batches would wait for ever.
        """
        if rows % self.world:
            raise ConfigError(
                f"a batch of {rows} sequences cannot be shared evenly by {self.world} ranks; choose batch_tokens as "
                f"a multiple of {self.world} times training.context, or another number of processes"
            )
        each = rows // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def sum(self, *values: float) -> list[float]:
        """Each value summed over ranks, in float64."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return total.tolist()

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.world > 1:
            distributed.barrier()

    def first(self, act: Callable[[], T]) -> T | None:
        """Let the first rank do something while the others wait; None on the others.

        Raises:
            DistillawError: what it raised, on every rank.
        """
        if self.world == 1:
            return act()
        made, error = None, None
        if self.is_first:
            try:
                made = act()
            except DistillawError as caught:
                error = caught
        message: list[DistillawError | None] = [error]
        distributed.broadcast_object_list(message, src=0)
        if message[0] is not None:
            raise message[0]
        return made

    def wrap(self, module: torch.nn.Module, blocks: list[torch.nn.Module], *, half: bool) -> torch.nn.Module:
        """The module as all ranks train it together.

        Args:
            module: what computes the loss; its parameters are trained.
            blocks: its repeated layers, the units that FSDP gathers one at a time.
            half: gather parameters in bfloat16 (gradients are reduced in float32 all the same).
        """
        if self.world == 1:
            return module
        if self.sharding == "ddp":
            # sums over three ranks and more depend on where a number lies in its bucket; without this flag DDP lays
            # the buckets out anew after the first step, and a resumed run would differ from the uninterrupted one
            return DistributedDataParallel(
                module, gradient_as_bucket_view=True, find_unused_parameters=self.world > 2
            )
        dtype = torch.bfloat16 if half else None
        for block in blocks:
            fully_shard(block, mp_policy=MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32))
        # the root's inputs are tokens and the teacher's signal, which keep their precision
        fully_shard(
            module,
            mp_policy=MixedPrecisionPolicy(
                param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
            ),
        )
        return module

    @contextlib.contextmanager
    def accumulating(self, module: torch.nn.Module, *, last: bool) -> Iterator[None]:
        """Backward passes inside exchange gradients only if this is the last micro-batch of the step."""
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(last)
            yield
        elif isinstance(module, DistributedDataParallel) and not last:
            with module.no_sync():
                yield
        else:
            yield


ALONE = Ranks()
"""One process on the CPU."""


def launched() -> bool:
    """Whether torchrun (or a launcher that speaks like it) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextlib.contextmanager
def join_ranks(sharding: Sharding) -> Iterator[Ranks]:
    """Join the process group that the launcher describes, and leave it at the end; alone without one."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not launched():
        yield Ranks(device=device)
        return
    # ranks wait while the first one scores and writes a run; a dead rank is torchrun's to notice
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=4))
    try:
        yield Ranks(
            rank=distributed.get_rank(), world=distributed.get_world_size(), sharding=sharding, device=device
        )
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        raise RunError(
            "another rank has ended, and without it this one cannot go on. Everything saved is intact and the same "
            "command continues"
        ) from error
    finally:
        distributed.destroy_process_group()


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective operation failed because another process is gone."""
    if isinstance(error, DistillawError):
        return False
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)
