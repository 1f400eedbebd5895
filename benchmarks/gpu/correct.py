"""Is what the GPU computes right? Losses, gradients, a whole step and ghost batch norm against float64 on the CPU."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.place import Cells, Place, Row, distance
from benchmarks.gpu.training import Setting, Task, small_setting
from distillaw.distill.losses import distillation_loss
from distillaw.large_batch.ghost import GhostBatchNorm2d

BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Largest relative distance, norm over norm: sums of thousands of roundings of 6e-8, and of a few of 4e-3."""
OBJECTIVES: dict[str, dict[str, object]] = {
    "forward KL": {},
    "reverse KL": {"divergence": "reverse-kl"},
    "JSD": {"divergence": "jsd", "beta": 0.3},
    "skewed KL": {"divergence": "skew-kl"},
    "skewed reverse KL": {"divergence": "skew-reverse-kl"},
    "all terms at temperature 2": {"temperature": 2.0, "distill_weight": 0.6, "z_weight": 1e-4},
    "top 32 of 0.9": {"top_k": 32, "top_p": 0.9},
    "next token": {"distill_weight": 0.0, "z_weight": 1e-4},
}


def cells(place: Place) -> Cells:
    """Every objective in both precisions, then the rest."""
    found: Cells = {}
    for dtype in BOUNDS:
        for name, options in OBJECTIVES.items():
            if "top_p" in options and dtype == torch.bfloat16:
                continue  # which tokens are kept hangs on roundings
            found[f"loss, {name}, {_name(dtype)}"] = partial(loss, place, options, dtype)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found[f"step, {_name(dtype)}"] = partial(step, place, precision, dtype)
    found["ghost batch norm, float32"] = partial(ghost, place)
    return found


def loss(place: Place, options: dict[str, object], dtype: torch.dtype) -> Row:
    """The fused loss on inputs that both precisions hold exactly."""
    tokens, width, vocab = (24, 16, 500) if place.is_rehearsal else (1024, 512, 32_768)
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random).to(dtype)

    student, weight = drawn(tokens, width), drawn(vocab, width) / 8
    teacher, teacher_weight = drawn(tokens, 2 * width), drawn(vocab, 2 * width) / 8
    labels = torch.randint(0, vocab, (tokens,), generator=random)
    labels[::7] = -100

    def run(device: torch.device | str, dtype: torch.dtype) -> list[torch.Tensor]:
        inputs = [x.to(device, dtype, copy=True).requires_grad_() for x in (student, weight)]
        taught = {} if options.get("distill_weight") == 0.0 else {"teacher_hidden": teacher.to(device, dtype)}
        if taught:
            taught["teacher_head"] = teacher_weight.to(device, dtype)
        value = distillation_loss(*inputs, labels.to(device), **taught, **options)
        value.backward()
        return [value, *(x.grad for x in inputs)]

    return _judged(("loss", "hidden states", "head"), run, place, dtype)


def step(place: Place, precision: str, dtype: torch.dtype) -> Row:
    """Gradients of one distillation step of a small model, then losses and norms of three, from the same weights."""
    wheres = ((place.device, precision), (torch.device("cpu"), "fp64"))
    small: dict[str, Any] = small_setting(place)
    tasks = [Task(device, Setting(**small, precision=kind)) for device, kind in wheres]
    for ours, exact in zip((tasks[0].model, tasks[0].teacher), (tasks[1].model, tasks[1].teacher), strict=True):
        exact.load_state_dict({name: value.cpu() for name, value in ours.state_dict().items()})
    gradients = []
    for task in tasks:
        task.accumulate()
        gradients.append(torch.cat([p.grad.cpu().double().flatten() for p in task.model.parameters()]))
    facts = [[task.update(), task.step(), task.step()] for task in tasks]
    pairs = list(zip(*facts, strict=True))
    row = {
        "gradients": distance(*gradients),
        "losses": max(abs(got.loss / wanted.loss - 1) for got, wanted in pairs),
        "norms": max(abs(got.grad_norm / wanted.grad_norm - 1) for got, wanted in pairs),
    }
    return _verdict(row, dtype)


def ghost(place: Place) -> Row:
    """Outputs, gradients and running statistics of a layer."""
    layer = GhostBatchNorm2d(16, 8, stats_update="sequential")
    image = torch.randn(37, 16, 8, 8, generator=torch.Generator().manual_seed(0)) + 1

    def run(device: torch.device | str, dtype: torch.dtype) -> list[torch.Tensor]:
        made, x = copy.deepcopy(layer).to(device, dtype), image.to(device, dtype, copy=True).requires_grad_()
        out = made(x)
        (out.square() * torch.linspace(0, 1, out.shape[-1], device=device, dtype=dtype)).sum().backward()
        return [out, x.grad, made.weight.grad, made.running_mean, made.running_var]

    return _judged(("output", "input", "gain", "mean", "variance"), run, place, torch.float32)


Run = Callable[[torch.device | str, torch.dtype], list[torch.Tensor]]


def _judged(names: tuple[str, ...], run: Run, place: Place, dtype: torch.dtype) -> Row:
    pairs = zip(names, run(place.device, dtype), run("cpu", torch.float64), strict=True)
    return _verdict({name: distance(got, wanted) for name, got, wanted in pairs}, dtype)


def _verdict(distances: dict[str, float], dtype: torch.dtype) -> Row:
    worst, bound = max(distances.values()), BOUNDS[dtype]
    return {"distances": distances, "worst": worst, "bound": bound, "is_right": worst <= bound}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
