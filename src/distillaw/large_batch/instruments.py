"""What a PyTorch loop calls beside its steps: gradient norms at two batch sizes, noise on the gradient, distances.

    AccumulationMeter    |g_b|^2 of each micro-batch and |g_B|^2 of their mean; one copy of the gradients, no extra pass
    DataParallelMeter    the same from ranks: each bucket of the local gradient on its way into the all-reduce
    noisy_mean           a random weight on every sample's loss, which is multiplicative noise on its gradient
    DistanceTracker      ||w - w_0||, fitted in diffusion.py

What the norms say is in noise.py, which variance the noise needs in rules.py. Legend: B samples.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from distillaw.errors import ConfigError, RunError


class AccumulationMeter:
    """Call `after_backward()` after each micro-batch's backward, `norms()` once before clipping.

    Gradients must begin at zero, and each micro-batch's loss must be divided by `micro_batches`, as loops that
    accumulate do.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(3, 1, bias=False)
        >>> meter = AccumulationMeter(layer.parameters(), micro_batches=2)
        >>> for x in torch.eye(3)[:2]:
        ...     (layer(x).sum() / 2).backward()
        ...     meter.after_backward()
        >>> meter.norms()  # unit gradients along two axes: 1 each, 1/2 for their mean
        (1.0, 0.5)
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], *, micro_batches: int) -> None:
        if micro_batches < 2:
            raise ConfigError(f"micro_batches = {micro_batches}: the estimator needs at least two a step")
        self._parameters = [p for p in parameters if p.requires_grad]
        self._micro_batches = micro_batches
        self._before: list[torch.Tensor] | None = None
        self._squares: list[float] = []

    @torch.no_grad()
    def after_backward(self) -> None:
        """Measure what the last micro-batch added."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        added = gradients if self._before is None else torch._foreach_sub(gradients, self._before)
        self._squares.append(_squared(added) * self._micro_batches**2)
        if self._before is None:
            self._before = [gradient.clone() for gradient in gradients]
        else:  # in place: a second copy of a large model's gradients would be the peak of its step
            torch._foreach_copy_(self._before, gradients)

    @torch.no_grad()
    def norms(self) -> tuple[float, float]:
        """(mean |g_b|^2, |g_B|^2) of the step; the meter begins anew.

        Raises:
            RunError: not as many micro-batches were measured as announced.
        """
        if len(self._squares) != self._micro_batches or self._before is None:
            raise RunError(
                f"{len(self._squares)} micro-batches measured of {self._micro_batches}: call after_backward() after "
                "each of them, and norms() once a step"
            )
        answer = sum(self._squares) / len(self._squares), _squared(self._before)
        self._squares, self._before = [], None
        return answer


def _squared(tensors: Sequence[torch.Tensor]) -> float:
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum())


class DataParallelMeter:
    """Make one right after the model is wrapped; call `norms()` on every rank once a step, before clipping.

    b is a rank's batch, B that of all ranks; ranks' batches must be equally large. It takes the model's one place for a
    communication hook. With accumulation under `no_sync` a rank's gradient is that of all its micro-batches.
    """

    def __init__(self, model: DistributedDataParallel) -> None:
        if dist.get_world_size(model.process_group) < 2:
            raise ConfigError("one rank: its batch is the whole batch, so accumulate and use AccumulationMeter instead")
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


def noisy_mean(losses_B: torch.Tensor, *, variance: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """sum_n z_n loss_n / M, z ~ Normal(1, variance): divided by the number of samples, never by the sum of weights.

    Args:
        losses_B: one loss per sample, shape (B,).
        variance: sigma^2 >= 0.
        generator: where the numbers come from; it must live where the losses do.

    Returns:
        A scalar whose gradient is that of the mean loss plus the wanted noise; not a number to report.

    Raises:
        ConfigError: not one loss per sample, or a variance that is negative or not finite.
    """
    if losses_B.dim() != 1 or not len(losses_B):
        raise ConfigError(
            f"losses of shape {tuple(losses_B.shape)}: give one loss per sample, e.g. cross_entropy(reduction='none')"
        )
    if not 0 <= variance < math.inf:
        raise ConfigError(f"variance = {variance:g}: it must be finite and not negative")
    normal_B = torch.randn(len(losses_B), generator=generator, device=losses_B.device)
    weights_B = 1 + math.sqrt(variance) * normal_B
    return (weights_B.to(losses_B.dtype) * losses_B).sum() / len(losses_B)


class DistanceTracker:
    """Keeps w_0 (one copy of the weights, on their device) and measures ||w - w_0||.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> tracker = DistanceTracker(layer)
        >>> _ = layer.weight.data.add_(3.0)
        >>> round(tracker.measure()["total"], 3)
        4.243
    """

    def __init__(self, model: torch.nn.Module, *, depth: int = 1) -> None:
        """Start at the parameters of a model as they are; buffers are not followed.

        `depth`: components of a module's name that make its group; 1 is the model's children.

        Raises:
            ConfigError: no parameters, or a depth below one.
        """
        if depth < 1:
            raise ConfigError(f"depth = {depth}: at least one component of the names makes a group")
        self._parameters = dict(model.named_parameters())
        if not self._parameters:
            raise ConfigError("the model has no parameters to follow")
        self._depth = depth
        self._start = {name: p.detach().clone() for name, p in self._parameters.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """w_0 by parameter name."""
        return dict(self._start)

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up w_0 of a run that goes on; ConfigError: the names or shapes are not this model's."""
        ours = {name: tuple(p.shape) for name, p in self._parameters.items()}
        theirs = {name: tuple(start.shape) for name, start in state.items()}
        if ours != theirs:
            odd = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
            raise ConfigError(f"start weights of another model: {odd[0]} and {len(odd) - 1} more differ")
        self._start = {name: start.to(self._parameters[name].device) for name, start in state.items()}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """`total`, `first` (the first tensor) and `group:NAME` for each group: Euclidean distances.

        On a model sharded over ranks all of them call this.
        """
        squares = [_squared_whole(p.detach() - self._start[name]) for name, p in self._parameters.items()]
        groups: dict[str, list[int]] = {}
        for i, name in enumerate(self._parameters):
            *module, parameter = name.split(".")
            group = ".".join(module[: self._depth]) or parameter
            groups.setdefault(f"group:{group}", []).append(i)
        found = torch.stack(squares).tolist()
        parts = {"total": list(range(len(found))), "first": [0], **groups}
        return {name: math.sqrt(math.fsum(found[i] for i in part)) for name, part in parts.items()}


def _squared_whole(difference: torch.Tensor) -> torch.Tensor:
    """Sum of squares in float64, of all ranks' parts where the tensor is sharded."""
    norm = torch.linalg.vector_norm(difference, dtype=torch.float64)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).square()
