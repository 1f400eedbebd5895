"""CPU time and memory of the distillation loss, forward and backward, against the usual ways in the same run.

    python -m benchmarks.engine.loss [--out benchmarks/results/loss.json]

From hidden states to gradients of hidden states and head, float32, one thread, forward KL at temperature 1. Each
measurement is a process of its own, rounds alternate between the variants. CPU time (median of the rounds' best
steps) is compared, not wall time; memory is what a step adds to the resident memory at its peak, gradients of the
head (vocabulary x width) included, which every variant needs. The peers: whole logits with F.kl_div, chunks of
256 tokens under torch.utils.checkpoint, and, where liger-kernel can be imported, its chunked JSD at beta 0 with
chunks of 256 and compiled=False. `stored` are 50 targets per token, `next token` has no teacher.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from benchmarks.result_file import save
from distillaw.distill.heads import SparseTargets
from distillaw.distill.losses import distillation_loss

SIZES = {1_024: (1024, 128, 256), 32_768: (1024, 192, 384), 131_072: (512, 256, 512)}
"""Vocabulary -> tokens, student width, teacher width."""
CHUNK, KEPT, ROUNDS, STEPS = 256, 50, 3, {1_024: 20, 32_768: 3, 131_072: 2}


def ours(student, weight, labels, teacher, teacher_weight):
    return distillation_loss(student, weight, labels, teacher_hidden=teacher, teacher_head=teacher_weight)


def stored(student, weight, labels, teacher, teacher_weight):
    ids = labels.unsqueeze(1) + torch.arange(KEPT)
    targets = SparseTargets(ids=ids % len(weight), weights=torch.full(ids.shape, 1 / KEPT))
    return distillation_loss(student, weight, labels, targets=targets)


def next_token(student, weight, labels, teacher, teacher_weight):
    return distillation_loss(student, weight, labels)


def naive_next_token(student, weight, labels, teacher, teacher_weight):
    return functional.cross_entropy(student @ weight.T, labels)


def naive(student, weight, labels, teacher, teacher_weight):
    with torch.no_grad():
        target = teacher @ teacher_weight.T
    return _kl(student @ weight.T, target) / len(labels)


def checkpointed(student, weight, labels, teacher, teacher_weight):
    def part(student, weight, teacher):
        return _kl(student @ weight.T, teacher @ teacher_weight.T)

    pairs = zip(student.split(CHUNK), teacher.split(CHUNK), strict=True)
    return sum(checkpoint(part, s, weight, t, use_reentrant=False) for s, t in pairs) / len(labels)


def liger(student, weight, labels, teacher, teacher_weight):
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False, chunk_size=CHUNK
    )
    return loss(student, weight, teacher, teacher_weight, labels)


def _kl(student, teacher):
    return functional.kl_div(
        functional.log_softmax(student, -1), functional.log_softmax(teacher, -1), log_target=True, reduction="sum"
    )


VARIANTS = {
    "ours": ours,
    "naive kl_div": naive,
    "checkpointed chunks": checkpointed,
    "liger chunked": liger,
    "ours, stored": stored,
    "ours, next token": next_token,
    "naive cross_entropy": naive_next_token,
}


def measure(name: str, vocab: int) -> dict[str, float]:
    """Best CPU seconds of a step, memory it adds at its peak, and the loss; in a fresh process."""
    torch.set_num_threads(1)
    tokens, width, teacher_width = SIZES[vocab]
    random = torch.Generator().manual_seed(0)
    student = torch.randn(tokens, width, generator=random).requires_grad_()
    weight = torch.nn.Parameter(torch.randn(vocab, width, generator=random) / width**0.5)
    teacher = torch.randn(tokens, teacher_width, generator=random)
    teacher_weight = torch.randn(vocab, teacher_width, generator=random) / teacher_width**0.5
    labels = torch.randint(0, vocab, (tokens,), generator=random)
    VARIANTS[name](student[:8], weight, labels[:8], teacher[:8], teacher_weight).backward()  # imports, libraries
    seconds = []
    for step in range(STEPS[vocab]):
        student.grad = weight.grad = None
        if step == 0:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            before = _resident("VmRSS")
        began = time.process_time()
        loss = VARIANTS[name](student, weight, labels, teacher, teacher_weight)
        loss.backward()
        seconds.append(time.process_time() - began)
        if step == 0:
            peak = _resident("VmHWM")
    return {"seconds": min(seconds), "megabytes": (peak - before) / 1024, "loss": loss.item()}


def _resident(field: str) -> int:
    """KiB of resident memory: now (VmRSS) or at its peak (VmHWM)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def compare(vocab: int, names: list[str]) -> list[dict[str, object]]:
    """One row per variant at one vocabulary."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            command = [sys.executable, "-m", "benchmarks.engine.loss", "--one", name, str(vocab)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[name].append(json.loads(output))
    tokens, width, teacher_width = SIZES[vocab]
    rows = []
    for name, runs in results.items():
        ratios = [o["seconds"] / r["seconds"] for o, r in zip(results["ours"], runs, strict=True)]
        rows.append(
            {
                "vocab": vocab,
                "tokens": tokens,
                "width": width,
                "teacher_width": teacher_width,
                "variant": name,
                "microseconds_per_token": round(1e6 * float(np.median([r["seconds"] for r in runs])) / tokens, 1),
                "time_over_ours": round(1 / float(np.median(ratios)), 2),
                "megabytes_added": round(float(np.median([r["megabytes"] for r in runs])), 1),
                "loss": round(runs[0]["loss"], 6),
            }
        )
    return rows


def main() -> None:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "VOCAB"), help="one measurement, as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]))))
        return
    try:
        liger_version = version("liger-kernel")
    except PackageNotFoundError:
        liger_version = None
    names = [name for name in VARIANTS if liger_version or name != "liger chunked"]
    rows = []
    for vocab in SIZES:
        for row in compare(vocab, names):
            rows.append(row)
            print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    if arguments.out:
        save(
            arguments.out,
            "python -m benchmarks.engine.loss",
            **{"liger-kernel": liger_version},
            rounds=ROUNDS,
            rows=rows,
        )


if __name__ == "__main__":
    main()
