"""What this machine computes per second: matrix products, and training of a small model as the engine trains it.

On a CPU one thread is measured: that is how a study uses a core, one worker each. With a device, the device.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from distillaw.accounting.flops import forward_flops
from distillaw.models.fresh import build_model
from distillaw.runs.spec import Recipe
from distillaw.shapes import Shape, count_non_embedding, shape_for_params
from distillaw.train.optim import build_optimizer
from distillaw.train.student import Signal, Student

if TYPE_CHECKING:
    from collections.abc import Sequence


REPEATS = 5
"""The median of five is not moved by one disturbance."""
SECONDS = 0.15
"""Each repeat lasts at least so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is computed on a kind of device: small beside it, and yet enough to fill it."""

    params: float
    head_dim: int
    aspect: float
    vocab: int
    context: int
    sequences: int
    square: int
    """Rows of the matrices that are multiplied."""


ON_CPU = Load(params=3e5, head_dim=16, aspect=16, vocab=1024, context=256, sequences=4, square=1024)
ON_DEVICE = Load(params=5e7, head_dim=64, aspect=64, vocab=8192, context=512, sequences=32, square=8192)
"""Of the sizes that studies have on such a machine; a second or two of work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Something per second: the median of the repeats, and their ends."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: "Sequence[float]") -> "Rate":
        """From the repeats."""
        return cls(median=statistics.median(values), low=min(values), high=max(values))

    def times(self, factor: float) -> "Rate":
        """In another unit."""
        return Rate(median=self.median * factor, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSpeed:
    """What was measured."""

    device: str
    threads: int
    matmul: dict[str, Rate]
    """Type -> FLOP/s of a square matrix product."""
    matmul_size: int
    params: int
    """Non-embedding parameters of the model that was trained."""
    batch_tokens: int
    precision: str
    tokens_per_second: Rate
    train_flop_per_second: Rate
    """The same, at 3 forward passes a token."""
    is_finite: bool
    """Whether the loss stayed a number."""


def measure_speed() -> MeasuredSpeed:
    """Measure for a few seconds."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    device = "cuda" if cuda else "mps" if mps else "cpu"
    load = ON_CPU if device == "cpu" else ON_DEVICE
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        return _measure(torch.device(device), load)
    finally:
        torch.set_num_threads(threads)


def _measure(device: torch.device, load: Load) -> MeasuredSpeed:
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    products = {name: _matmul_rate(device, dtype, load.square) for name, dtype in types.items()}
    like = {"context": load.context, "head_dim": load.head_dim, "aspect": load.aspect}
    shape = shape_for_params(load.params, vocab=load.vocab, **like)
    batch = load.sequences * load.context
    precision = "bf16" if device.type == "cuda" else "fp32"
    steps, is_finite = _training(device, shape, load.sequences, precision)
    tokens = steps.times(batch)
    return MeasuredSpeed(
        device=device.type,
        threads=torch.get_num_threads(),
        matmul=products,
        matmul_size=load.square,
        params=count_non_embedding(shape),
        batch_tokens=batch,
        precision=precision,
        tokens_per_second=tokens,
        train_flop_per_second=tokens.times(3 * forward_flops(shape).total),
        is_finite=is_finite,
    )


def _matmul_rate(device: torch.device, dtype: torch.dtype, size: int) -> Rate:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    return _repeated(lambda: left @ right, device).times(2.0 * size**3)


def _training(device: torch.device, shape: Shape, sequences: int, precision: str) -> tuple[Rate, bool]:
    """Steps per second, and whether the loss is finite."""
    model = build_model(shape, seed=0).to(device).train()
    student = Student(model, Recipe(context=shape.context, precision=precision))
    optimizer = build_optimizer(model, width=shape.width, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(0)
    tokens_bt = torch.randint(shape.vocab, (sequences, shape.context + 1), generator=generator).to(device)
    losses: list[torch.Tensor] = []

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = student(tokens_bt, Signal(), tokens_bt[:, 1:].numel()).total
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    rate = _repeated(step, device)
    return rate, bool(torch.isfinite(losses[-1]))


def _repeated(work: Callable[[], object], device: torch.device) -> Rate:
    """Calls per second over REPEATS stretches, after two calls that warm up."""
    for _ in range(2):
        work()
    _wait(device)
    rates = []
    for _ in range(REPEATS):
        calls, began = 0, time.perf_counter()
        while calls == 0 or time.perf_counter() - began < SECONDS:
            work()
            _wait(device)
            calls += 1
        rates.append(calls / (time.perf_counter() - began))
    return Rate.of(rates)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
