"""What it costs a run to record its distance from the start and the noise scale, as a share of its time.

    python -m benchmarks.engine.watching [--out benchmarks/results/watching.json]

One thread, CPU time. A distance costs one pass over the weights at the steps of `log_steps`; the noise scale of a run
that accumulates costs a copy of the gradients per micro-batch, on one step in 20. Both are timed on the run's own model
beside its own steps, in alternating rounds; the shares are what they come to over a run of that many steps.
"""

import argparse
import os
import tempfile
import time
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
from distillaw.large_batch.diffusion import log_steps
from distillaw.models.fresh import build_model
from distillaw.models.parallel import ALONE
from distillaw.runs.spec import BatchPlan
from distillaw.train.checkpoint import TrainState, new_tracker
from distillaw.train.loop import LOG_STEPS, BatchFeed, Trainer
from distillaw.train.metering import StepMeter
from distillaw.train.optim import build_optimizer
from distillaw.train.student import NoTeacher, Student

ROUNDS = 9
PARTS = 4
"""Micro-batches of a step."""
CELLS = [("0.3M", 1024, 512), ("1M", 4096, 512), ("10M", 4096, 4096)]
"""(size, tokens of a batch, vocabulary)."""
RUN_STEPS = (1_000, 10_000)


def main() -> None:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size, batch, vocabulary in CELLS:
            data = Path(folder) / str(vocabulary)
            store = prepare_data(DataSpec(vocab_size=vocabulary, max_document_chars=5000), data)
            rows.append(measure(size, batch, vocabulary, store))
            print(" ".join(f"{k}={v}" for k, v in rows[-1].items()), flush=True)
    if arguments.out:
        save(arguments.out, "python -m benchmarks.engine.watching", rounds=ROUNDS, micro_batches=PARTS, rows=rows)


def measure(size: str, batch_tokens: int, vocabulary: int, store) -> dict[str, object]:
    """CPU seconds of a step, of a measured step and of a distance (medians over rounds), and their shares of a run."""
    trainer, feed = _trainer(size, batch_tokens, vocabulary, store)
    tracker, source = trainer.state.tracker, NoTeacher()
    assert tracker is not None

    def step(*, measured: bool) -> None:
        trainer.meter.begin(wanted=measured, micro_batches=PARTS, batch_tokens=trainer.spec.batch_tokens)
        for tokens, windows, last in feed.batches(trainer.state.step):
            trainer.accumulate(tokens, source.signal(tokens, windows), last=last)
        trainer.update(1e-4)

    acts = {
        "step": lambda: step(measured=False),
        "measured_step": lambda: step(measured=True),
        "distance": tracker.measure,
    }
    seconds: dict[str, list[float]] = {name: [] for name in acts}
    for round_ in range(ROUNDS + 1):
        for name, act in acts.items():
            began = time.process_time()
            act()
            if round_:  # the first round warms up
                seconds[name].append(time.process_time() - began)
    middle = {name: float(np.median(values)) for name, values in seconds.items()}
    noise = float(np.median(np.subtract(seconds["measured_step"], seconds["step"]))) / LOG_STEPS / middle["step"]
    shares = {
        f"distance_share_{steps}": round(len(log_steps(steps)) * middle["distance"] / (steps * middle["step"]), 6)
        for steps in RUN_STEPS
    }
    return {
        "size": size,
        "batch_tokens": batch_tokens,
        **{f"{k}_ms": round(1e3 * v, 3) for k, v in middle.items()},
        **shares,
        "noise_share": round(noise, 6),
    }


def _trainer(size: str, batch_tokens: int, vocabulary: int, store) -> tuple[Trainer, BatchFeed]:
    spec = planned_trunk(size, rate=1e-4, batch_tokens=batch_tokens, vocab_size=vocabulary, tokens=10**8)
    spec = replace(spec, recipe=replace(spec.recipe, micro_batch_tokens=batch_tokens // PARTS))
    model = build_model(spec.shape, seed=0).train()
    state = TrainState(model, build_optimizer(model, width=spec.width, weight_decay=1e-4), tracker=new_tracker(model))
    student = Student(model, spec.recipe)
    meter = StepMeter(student, ALONE)
    order = BatchOrder(split=store.split("student", context=spec.recipe.context), seed=0)
    feed = BatchFeed(order=order, plan=BatchPlan(batch_tokens), micro_batch_tokens=batch_tokens // PARTS)
    return Trainer(spec=spec, student=student, state=state, meter=meter), feed


if __name__ == "__main__":
    main()
