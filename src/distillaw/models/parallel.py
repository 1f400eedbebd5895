"""Processes that work together: plain PyTorch, started by torchrun, applied from outside the model.

Every rank computes its share of a batch, of windows, documents or questions. A loss is divided by the token count of
the whole batch, so gradients are *summed* over ranks, and no result depends on how many there are. One process is
`ALONE`. What is written is written by the first rank, and an error of one is known to all, so that none waits for
another. In each, freed memory stays instead of going back to the kernel after every step.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from distillaw.errors import ConfigError, DistillawError, RunError
from distillaw.models.link import Link
from distillaw.runs.execution import HERE, Execution, Sharding, launched
from distillaw.runs.lock import held

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1
    sharding: Sharding = "ddp"
    """`ddp` keeps the whole model on every rank, `fsdp` a slice of every parameter (FSDP2, `fully_shard`)."""
    device: torch.device = CPU
    link: Link | None = None
    """To the processes that hold the teacher, or from them to the students'; None where nobody holds one for others."""

    @property
    def devices(self) -> int:
        """Processes that work at it, the teacher's included."""
        return self.world + (self.link.teachers if self.link else 0)

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

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """Every so many-th of the items, beginning with this rank's."""
        return items[self.rank :: self.world]

    def rounds(self, items: Sequence[T]) -> Iterator[tuple[T, bool]]:
        """This rank's part of the items, each with whether it counts.

        Every rank gets as many, the last ones again where there are too few: a sharded model computes for one rank
        only while it computes for all.
        """
        for first in range(0, len(items), self.world):
            index = first + self.rank
            yield items[min(index, len(items) - 1)], index < len(items)

    def gathered(self, mine: T) -> list[T]:
        """What every rank has, in their order."""
        if self.world == 1:
            return [mine]
        every: list[T] = [mine] * self.world
        distributed.all_gather_object(every, mine)
        return every

    def summed(self, array: np.ndarray) -> np.ndarray:
        """An array summed over ranks; every rank gets the same bits."""
        if self.world == 1:
            return array
        total = torch.from_numpy(array.astype(np.float64)).to(self.device)
        distributed.all_reduce(total)
        return total.cpu().numpy().astype(array.dtype)

    def first(self, act: Callable[[], T]) -> T | None:
        """Let the first rank do something while the others wait; None on the others.

        Raises:
            DistillawError: what it raised, on every rank.
        """
        made: list[T] = []
        self.told(lambda: made.append(act()))
        return made[0] if made else None

    def told(self, act: Callable[[], T]) -> T:
        """What the first rank makes or finds, on every rank; the others wait.

        Raises:
            DistillawError: what it raised, on every rank.
        """
        if self.world == 1:
            return act()
        message: list[tuple[T | None, DistillawError | None]] = [(None, None)]
        if self.is_first:
            try:
                message = [(act(), None)]
            except DistillawError as caught:
                message = [(None, caught)]
        distributed.broadcast_object_list(message, src=0)
        made, error = message[0]
        if error is not None:
            error.is_told = not self.is_first
            raise error
        return made  # type: ignore[return-value]

    def together(self, act: Callable[[], T]) -> T:
        """What every rank does for itself; if it fails in one it fails in all.

        Raises:
            DistillawError: what was raised here, or in the first of the others that failed.
        """
        if self.world == 1:
            return act()
        made: T | None = None
        error: DistillawError | None = None
        try:
            made = act()
        except DistillawError as caught:
            error = caught
        failed = {rank: each for rank, each in enumerate(self.gathered(error)) if each is not None}
        if error is None and failed:
            error = next(iter(failed.values()))
            error.is_told = True
        if error is not None:
            if len(failed) < self.world:
                error.args = (f"{error} (on rank {', '.join(map(str, failed))} of {self.world})",)
            raise error
        return made  # type: ignore[return-value]

    def check_same(self, what: str, facts: Mapping[str, object]) -> None:
        """Refuse what is one thing by name and another one on another machine's disk.

        Raises:
            ConfigError: on every rank, with the first fact that differs.
        """
        if self.world == 1:
            return
        every = self.gathered(dict(facts))
        for rank, other in enumerate(every):
            for name, value in every[0].items():
                if other[name] != value:
                    error = ConfigError(
                        f"{what} is not the same on every process: {name} {value} on rank 0, {other[name]} on rank "
                        f"{rank}. Copy the same files to every machine, or name a place that all of them see"
                    )
                    error.is_told = not self.is_first
                    raise error

    @contextlib.contextmanager
    def held(self, folder: Path, what: str, say: Callable[[str], None] = lambda message: None) -> Iterator[None]:
        """The folder's lock (runs/lock.py), held by the first rank for all.

        Raises:
            ConfigError, RunError: as `held`, on every rank.
        """
        with contextlib.ExitStack() as stack:
            self.first(lambda: stack.enter_context(held(folder, what, say)) and None)
            yield

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
            return DistributedDataParallel(module, gradient_as_bucket_view=True, find_unused_parameters=self.world > 2)
        dtype = torch.bfloat16 if half else None
        for block in blocks:
            fully_shard(block, mp_policy=MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32))
        # the root's inputs are tokens and the teacher's signal, which keep their precision
        fully_shard(
            module,
            mp_policy=MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False),
        )
        return module

    @property
    def shards(self) -> bool:
        """Whether models that are only read lie in slices on the ranks."""
        return self.world > 1 and self.sharding == "fsdp"

    def shard(self, body: torch.nn.Module, blocks: list[torch.nn.Module], whole: set[torch.nn.Parameter]) -> None:
        """Slice a model that is only read: each block is gathered to compute, and let go after it.

        Args:
            body: what makes hidden states.
            blocks: its repeated layers.
            whole: weights that stay whole on every rank: embedding and head, which are used outside the body.
        """
        for block in blocks:
            fully_shard(block, reshard_after_forward=True)
        fully_shard(body, reshard_after_forward=True, ignored_params=whole)

    @contextlib.contextmanager
    def accumulating(self, module: torch.nn.Module, *, last: bool) -> Iterator[None]:
        """Whole models exchange gradients only in the last micro-batch of a step.

        Sharded ones do in each: whole gradients kept until the last would take as much memory as sharding saves.
        """
        if isinstance(module, DistributedDataParallel) and not last:
            with module.no_sync():
                yield
        else:
            yield


ALONE = Ranks()
"""One process on the CPU."""


@contextlib.contextmanager
def join_ranks(execution: Execution = HERE) -> Iterator[Ranks]:
    """Join the process group that the launcher describes, and leave it at the end; alone without one.

    Raises:
        ConfigError: a device that torch does not see here, or fewer devices than processes.
    """
    device = device_of(execution.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not launched():
        yield Ranks(device=device)
        return
    launch = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE")}
    link = _join_group(device, execution.teacher_processes)
    try:
        yield Ranks(
            rank=distributed.get_rank(),
            world=distributed.get_world_size(),
            sharding=execution.sharding,
            device=device,
            link=link,
        )
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        raise RunError(
            "another rank has ended, and without it this one cannot go on. Everything saved is intact and the same "
            "command continues"
        ) from error
    finally:
        if link and not link.is_teacher:
            link.end()
        distributed.destroy_process_group()
        os.environ |= launch


PATIENCE = timedelta(hours=4)
"""Ranks wait while the first one scores and writes a run; a dead rank is torchrun's to notice."""


MEETING = timedelta(minutes=10)
"""Ranks wait for each other to begin: longer than machines of one job start apart, shorter than nobody looks."""
IDLE = timedelta(days=365)
"""A teacher waits as long as its students do something else; who is lost closes the connection."""


def _join_group(device: torch.device, teachers: int) -> Link | None:
    """Join the group of all processes, or that of the students or of the teachers, with the link between these two."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    place = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    try:
        store, rank, world = next(rendezvous("env://", timeout=MEETING))
    except (distributed.DistError, ValueError) as error:  # the port is in use, no such machine, a variable is missing
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"the processes cannot meet at {place} (MASTER_ADDR:MASTER_PORT): {reason}. Choose a free port of a "
            "machine that all of them reach; --processes and torchrun find one themselves"
        ) from error
    store.set_timeout(PATIENCE)
    if not teachers:
        distributed.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
        return None
    students = world - teachers
    between = distributed.ProcessGroupGloo(PrefixStore("link", store), rank, world, IDLE)
    link = Link(between, rank, students, teachers)
    own, size = (rank - students, teachers) if link.is_teacher else (rank, students)
    mine = PrefixStore("teachers" if link.is_teacher else "students", store)
    distributed.init_process_group(backend, store=mine, rank=own, world_size=size, timeout=PATIENCE)
    os.environ |= {"RANK": str(own), "WORLD_SIZE": str(size)}  # what others read, transformers for one
    return link


def device_of(name: str) -> torch.device:
    """Where this process computes: of several on a machine each has a GPU of its own.

    Raises:
        ConfigError: no cpu, cuda, cuda:N or auto, or what torch does not see here.
    """
    count, local = torch.cuda.device_count() if torch.cuda.is_available() else 0, 0
    if launched():
        local = int(os.environ.get("LOCAL_RANK", 0))
        if name.startswith("cuda:"):
            raise ConfigError(f"--device {name}: of several processes each takes a GPU of its own; give cuda")
    if name == "auto":
        name = "cuda" if count else "cpu"
    known = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if name not in known:
        raise ConfigError(f"--device {name}: torch here has {', '.join(known)}; give one of these, or auto")
    if name == "cuda" and local >= count:
        raise ConfigError(
            f"process {local} of this machine has no GPU of its own: torch sees {count}. Start fewer, or --device cpu"
        )
    return torch.device("cuda", local) if name == "cuda" else torch.device(name)


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective operation failed because another process is gone."""
    if isinstance(error, DistillawError):
        return False
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)
