"""The gradient noise scale of a loss at a fork: at fixed weights, so its batches are independent.

A diagnostic beside the branch test (large_batch/noise.py): tr(Sigma) and |G|^2 of two losses at the same weights, on
the same text, say whether the one's gradient is less noisy.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from distillaw.data.batches import BatchOrder
from distillaw.large_batch.instruments import AccumulationMeter
from distillaw.large_batch.noise import NoiseLog
from distillaw.runs.files import read_json, write_json
from distillaw.runs.spec import Branch
from distillaw.train.fork import at_fork, forked_order
from distillaw.train.loop import Report
from distillaw.train.trunk import Group

MICRO_BATCHES = 8


def noise_file(branch: Branch, study: Path, batches: int) -> Path:
    """Where the noise scale of a branch's loss lies, measured on so many batches."""
    return branch.fork.folder(study) / f"noise-{branch.spec.arm}-{batches}.json"


def fork_noise(branch: Branch, group: Group, *, batches: int, report: Report) -> dict[str, object]:
    """Measure, or find measured, the noise scale of a branch's loss at the fork's weights.

    Args:
        branch: of the trunk's own batch; only its loss and its text count.
        group: text and teachers.
        batches: how many are measured; each is the trunk's batch, or `MICRO_BATCHES` sequences if that is more.
        report: called after every batch.

    Returns:
        `NoiseScale` as a table with small and big batch in tokens.
    """
    file = noise_file(branch, group.study.path, batches)
    if file.exists():
        return read_json(file)
    spec, trainer = branch.spec, at_fork(branch, group)
    context = spec.recipe.context
    sequences = max(1, spec.batch_tokens // context // MICRO_BATCHES) * MICRO_BATCHES
    base = BatchOrder(split=group.feed.order.split, seed=branch.fork.trunk.seed)
    order, source = forked_order(branch, base), group.teaching(spec).source
    meter = AccumulationMeter(trainer.state.model.parameters(), micro_batches=MICRO_BATCHES)
    big = sequences * context
    log = NoiseLog(small=big / MICRO_BATCHES, big=big)
    for batch in range(batches):
        windows = order.window_ids(order.counted + batch * sequences, sequences)
        for chosen in np.split(windows, MICRO_BATCHES):
            tokens = torch.from_numpy(order.split.windows(chosen)).to(group.ranks.device)
            trainer.student(tokens, source.signal(tokens, chosen), big).total.backward()
            meter.after_backward()
        small_sq, big_sq = meter.norms()
        log.add(small_sq=small_sq, big_sq=big_sq)
        trainer.state.optimizer.zero_grad(set_to_none=True)
        report(big, float("nan"))
    record: dict[str, object] = {"arm": spec.arm, "small": log.small, "big": log.big,
                                 **asdict(log.estimate(level=0.9))}  # fmt: skip
    write_json(file, record)
    return record
