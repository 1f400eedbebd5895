"""Gradient norms at two batch sizes from data parallelism: a rank's own gradient before the all-reduce, and the mean.

A communication hook of DistributedDataParallel sees each bucket of the local gradient on its way: no extra pass, no
copy, one all-reduce of a number per step.
"""

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from distillaw.errors import ConfigError, RunError


class DataParallelMeter:
    """Make one right after the model is wrapped; call `norms()` on every rank once a step, before clipping.

    b is a rank's batch, B that of all ranks; ranks' batches must be equally large. It takes the model's one place for a
    communication hook. With accumulation under `no_sync` a rank's gradient is that of all its micro-batches.
    """

    def __init__(self, model: DistributedDataParallel) -> None:
        if dist.get_world_size(model.process_group) < 2:
            raise ConfigError(
                "one rank: its batch is the whole batch, so accumulate and use AccumulationMeter instead"
            )
        self._model = model
        self._local: torch.Tensor | None = None
        self._listens = True
        model.register_comm_hook(self, _measure)

    @property
    def ranks(self) -> int:
        """How many batches of b make up B."""
        return dist.get_world_size(self._model.process_group)

    def listen(self, wanted: bool) -> None:
        """Whether to measure from here on (it does from the start); what was measured and not asked for is dropped."""
        self._listens, self._local = wanted, None

    @torch.no_grad()
    def norms(self) -> tuple[float, float]:
        """(mean over ranks of |g_b|^2, |g_B|^2) of the last backward pass that reduced; the same on every rank.

        Raises:
            RunError: no backward pass has reduced gradients since the last call.
        """
        if self._local is None:
            raise RunError(
                "no gradients were reduced since the last call: call norms() once after each step's backward"
            )
        dist.all_reduce(self._local, group=self._model.process_group)
        small = self._local.item() / self.ranks
        self._local = None
        squares = [p.grad.double().square().sum() for p in self._model.parameters() if p.grad is not None]
        return small, torch.stack(squares).sum().item()


def _measure(meter: DataParallelMeter, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Add the bucket's square, then reduce it as DistributedDataParallel does by itself."""
    if meter._listens:
        square = bucket.buffer().detach().double().square().sum()
        meter._local = square if meter._local is None else meter._local + square
    group = meter._model.process_group
    assert group is not None, "the meter asked for its size when it was made"
    return allreduce_hook(group, bucket)
