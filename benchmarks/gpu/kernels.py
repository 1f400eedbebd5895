"""The vocabulary loss against others' at Llama's vocabularies, and students of one shape as one captured graph."""

import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.engine import loss as of_cpu
from benchmarks.engine import stacked as of_students
from benchmarks.gpu.place import Cells, Place, Row, SkippedError, distance
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.models.parallel import Ranks

VOCABULARIES = {"32k": 32_768, "128k": 128_256}
TOKENS, WIDTH, TEACHER_WIDTH = 8192, 2048, 4096
SAME = 2e-2
"""Largest relative distance of a peer's loss and gradients from ours: bfloat16 products on both sides."""


def trl(student, weight, labels, teacher, teacher_weight):
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    mask = torch.ones(1, len(labels), device=student.device)
    return _chunked_divergence_loss(student[None], teacher[None], weight, teacher_weight, mask, beta=0.0)[0]


def liger(student, weight, labels, teacher, teacher_weight):
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=student.is_cuda, chunk_size=1024
    )
    return loss(student, weight, teacher, teacher_weight, labels)


NEEDS = {"Liger chunked JSD": "liger_kernel", "TRL chunked divergence": "trl"}
VARIANTS: dict[str, Callable[..., torch.Tensor]] = {
    "ours": of_cpu.ours,
    "plain": of_cpu.naive,
    "plain, compiled": torch.compile(of_cpu.naive),
    "checkpointed chunks": of_cpu.checkpointed,
    "Liger chunked JSD": liger,
    "TRL chunked divergence": trl,
    "ours, 50 stored targets": of_cpu.stored,
    "ours, next token": of_cpu.next_token,
    "plain, next token": of_cpu.naive_next_token,
}
DENSE = {"plain", "plain, compiled", "checkpointed chunks", *NEEDS}
"""Those that compute what ours computes."""


def losses(place: Place) -> Cells:
    """Each variant at each vocabulary, bfloat16, forward and backward."""
    return {
        f"{variant}, {name}": partial(_loss, place, variant, vocab)
        for name, vocab in VOCABULARIES.items()
        for variant in VARIANTS
        if not (place.is_rehearsal and name != "32k")
    }


def _loss(place: Place, variant: str, vocab: int) -> Row:
    if (package := NEEDS.get(variant)) and find_spec(package) is None:
        raise SkippedError(f"{package} is not installed")
    if place.is_rehearsal and variant == "plain, compiled":
        raise SkippedError("compiling takes longer than a rehearsal may")
    size = (64, 16, 32, 300) if place.is_rehearsal else (TOKENS, WIDTH, TEACHER_WIDTH, vocab)
    tokens, width, teacher_width, vocab = size
    random = torch.Generator(place.device).manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, device=place.device).to(torch.bfloat16)

    student, weight = (drawn(tokens, width).requires_grad_(), torch.nn.Parameter(drawn(vocab, width) / width**0.5))
    teacher, teacher_weight = drawn(tokens, teacher_width), drawn(vocab, teacher_width) / teacher_width**0.5
    labels = torch.randint(0, vocab, (tokens,), generator=random, device=place.device)
    if variant == "ours, 50 stored targets":
        labels = labels.cpu()  # it makes its targets from them
    values: list[torch.Tensor] = []

    def act(variant: str = variant) -> None:
        student.grad = weight.grad = None
        values[:] = [VARIANTS[variant](student, weight, labels, teacher, teacher_weight)]
        values[0].backward()

    row = place.measure(act, repeats=2 if place.is_rehearsal else 20, warm_ups=1 if place.is_rehearsal else 3)
    row |= {"tokens": tokens, "vocab": vocab, "loss": values[0].item()}
    if variant in DENSE:
        assert student.grad is not None and weight.grad is not None
        theirs = [student.grad.clone(), weight.grad.clone()]
        act("ours")
        worst = max(abs(row["loss"] / values[0].item() - 1), *map(distance, theirs, (student.grad, weight.grad)))  # type: ignore[operator]
        row |= {"distance_from_ours": worst, "is_the_same": worst <= SAME}
    return row


STACKS = [("0.1M", 1024, 8), ("1M", 4096, 8), ("1M", 8192, 13), ("10M", 8192, 4), ("10M", 8192, 13)]
"""(size, tokens of a batch, students): those of the larger table among them."""


def stacks(place: Place) -> Cells:
    """Students replayed from one captured graph (train/stacked.py) against the same side by side.

    On the CPU the same code runs without a graph.
    """
    every = [("0.02M", 256, 2)] if place.is_rehearsal else STACKS
    return {
        f"{count} students of {size}, {batch} tokens": partial(_stack, place, size, batch, count)
        for size, batch, count in every
    }


def _stack(place: Place, size: str, batch: int, count: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = 300 if place.is_rehearsal else 512
        spec = DataSpec(vocab_size=vocabulary, max_document_chars=800 if place.is_rehearsal else 0)
        store = prepare_data(spec, Path(folder) / "data")
        ranks = Ranks(device=place.device)
        rounds = 1 if place.is_rehearsal else of_students.ROUNDS
        row = of_students.measure(
            size, batch, count, store, vocabulary, ranks, rounds=rounds, round_tokens=batch * count * rounds
        )
    is_right = float(row["first_loss_difference"]) < 1e-3  # type: ignore[arg-type]
    return {**row, "captured": place.on_gpu, "is_right": is_right}
