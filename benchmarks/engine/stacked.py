"""Students of one shape as one batched model against the same students side by side: tokens per CPU-second.

    python -m benchmarks.engine.stacked [--out benchmarks/results/stacked.json] [--device cuda]

Both are the training loop itself (train/loop.py, `_step`), one thread, S students of one shape on one stream, two
teachers between them: batch, teachers' forward passes, losses, clipping and optimiser steps included. Rounds
alternate, so that a busy machine disturbs both alike; the time is the CPU's (on a GPU: the wall's). The ratio is
stacked / side by side with the quartiles over rounds: above 1 stacking pays. `same_losses` says whether all training
losses were the same bits, `largest_loss_difference` how far they are apart, relatively. On a GPU the stack is replayed
from a captured graph (train/stacked.py), which is checked against the students one by one before it is used: a
warning says if it is not.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from benchmarks.result_file import save
from benchmarks.trunks import planned_trunk
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.data.shards import BatchOrder
from distillaw.models.fresh import build_model
from distillaw.models.parallel import Ranks
from distillaw.models.teacher import ModelTeacher, head_of
from distillaw.runs.spec import BatchPlan
from distillaw.shapes import shape_for_params
from distillaw.train.checkpoint import TrainState
from distillaw.train.loop import BatchFeed, Logs, StudentRun, Trainer, _step
from distillaw.train.metering import RunSpeed
from distillaw.train.optim import build_optimizer, schedule_for
from distillaw.train.stacked import HAVE_GRAPHS, CapturedStacks
from distillaw.train.student import OnlineTeacher, Student

ROUNDS, ROUND_TOKENS = 7, 4096
CONTEXT = 128
CELLS = [
    *((512, size, batch, count) for size in ("0.02M", "0.1M") for batch in (256, 1024) for count in (2, 4, 8)),
    *((512, "1M", batch, 4) for batch in (256, 1024)),
    *((1024, size, 256, 4) for size in ("0.02M", "0.1M")),
]
"""(vocabulary, size, tokens of a batch, students)."""


def main() -> None:
    """Measure, print the table, write the results after each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        stores = {
            vocabulary: prepare_data(
                DataSpec(vocab_size=vocabulary, max_document_chars=2000), Path(folder) / str(vocabulary)
            )
            for vocabulary in {cell[0] for cell in CELLS}
        }
        for vocabulary, size, batch, count in CELLS:
            ranks = Ranks(device=torch.device(arguments.device))
            rows.append(measure(size, batch, count, stores[vocabulary], vocabulary, ranks))
            print(" ".join(f"{k}={v}" for k, v in rows[-1].items()), flush=True)
            if arguments.out:
                _write(arguments.out, rows, arguments.device)


def measure(
    size: str,
    batch_tokens: int,
    count: int,
    store,
    vocabulary: int,
    ranks: Ranks,
    *,
    rounds: int = ROUNDS,
    round_tokens: int = ROUND_TOKENS,
) -> dict[str, object]:
    """Median tokens per CPU-second, all students counted, of both ways over alternating rounds, and their ratio."""
    ways = {
        name: _loop(size, batch_tokens, count, store, vocabulary, ranks, stacked=name == "stacked")
        for name in ("stacked", "side_by_side")
    }
    clock = time.process_time if ranks.device.type == "cpu" else time.perf_counter
    steps = max(1, round_tokens // (batch_tokens * count))
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, step in ways.items():
            began = clock()
            for _ in range(steps):
                losses[name] += step()
            if round_:  # the first round warms up
                speeds[name].append(steps * batch_tokens * count / (clock() - began))
    ratios = np.array(speeds["stacked"]) / np.array(speeds["side_by_side"])
    low, middle, high = np.percentile(ratios, [25, 50, 75]).round(3).tolist()
    return {
        "size": size,
        "vocabulary": vocabulary,
        "batch_tokens": batch_tokens,
        "students": count,
        **{name: round(float(np.median(values))) for name, values in speeds.items()},
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "same_losses": losses["stacked"] == losses["side_by_side"],
        "first_loss_difference": abs(losses["stacked"][0] / losses["side_by_side"][0] - 1),
        "largest_loss_difference": float(np.max(np.abs(np.divide(losses["stacked"], losses["side_by_side"]) - 1))),
    }


def _loop(
    size: str, batch_tokens: int, count: int, store, vocabulary: int, ranks: Ranks, *, stacked: bool
) -> Callable[[], list[float]]:
    """A function that takes one step of all students and gives their losses."""
    spec = planned_trunk(size, rate=1e-3, batch_tokens=batch_tokens, vocab_size=vocabulary)
    teachers = [_teacher(seed, vocabulary, ranks) for seed in (100, 101)]
    runs = [_student_run(replace(spec, seed=s), teachers[s % 2], ranks) for s in range(count)]
    order = BatchOrder(split=store.split("student", context=CONTEXT), seed=0)
    feed = BatchFeed(order=order, plan=BatchPlan(batch_tokens), ranks=ranks)
    logs = {id(run): Logs(_drop, _drop) for run in runs}
    graphs = CapturedStacks() if stacked and ranks.device.type in HAVE_GRAPHS else None
    return lambda: _step(runs, feed, logs, stacked=stacked, graphs=graphs)


def _drop(row: dict[str, object]) -> None:
    """Logs are not measured."""


def _student_run(spec, teacher: OnlineTeacher, ranks: Ranks) -> StudentRun:
    model = build_model(spec.shape, seed=spec.seed).train().to(ranks.device)
    state = TrainState(model, build_optimizer(model, width=spec.width, weight_decay=1e-4))
    speed = RunSpeed(student_flops=0.0, teacher_flops=0.0, device=ranks.device, precision="fp32")
    return StudentRun(
        trainer=Trainer(spec=spec, student=Student(model, spec.recipe), state=state, ranks=ranks),
        until=10**9,
        source=teacher,
        schedule=schedule_for(tokens=10**9, batches=spec.batches, warmup_tokens=10_000, cooldown=0.2),
        home=Path(os.devnull),
        identity="b",
        speed=speed,
    )


def _teacher(seed: int, vocabulary: int, ranks: Ranks) -> OnlineTeacher:
    model = build_model(shape_for_params(3e5, vocab=vocabulary, context=CONTEXT), seed=seed).eval().to(ranks.device)
    return OnlineTeacher(
        ModelTeacher(
            name="teacher", model=model, head=head_of(model), vocab_size=vocabulary, trimmed_rows=0, fingerprint=""
        )
    )


def _write(path: Path, rows: list[dict[str, object]], device: str) -> None:
    save(
        path,
        "python -m benchmarks.engine.stacked",
        device=device,
        load_average=os.getloadavg()[0],
        rounds=ROUNDS,
        round_tokens=ROUND_TOKENS,
        teachers="two of 0.3M, each read once a step",
        rows=rows,
    )


if __name__ == "__main__":
    main()
