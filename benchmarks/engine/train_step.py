"""Tokens per CPU-second of our training step against a hand-written PyTorch loop with the same model.

    python -m benchmarks.engine.train_step [--out benchmarks/results/train_step.json]

Both train the same Hugging Face module from the same weights on the same batches with AdamW and clipping, one
thread, supervised and distilled; rounds alternate so that a busy machine disturbs both alike. The plain loop is
what a careful person writes: cross_entropy or kl_div, backward, clip_grad_norm_, fused AdamW; and the z-loss that
ours has. CPU time is compared, not wall time. The ratio is ours / plain: above 1 we are faster.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch.nn import functional

from benchmarks.result_file import save
from benchmarks.trunks import planned_trunk
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.data.shards import BatchOrder
from distillaw.models.fresh import build_model
from distillaw.models.teacher import ModelTeacher, head_of
from distillaw.runs.spec import BatchPlan
from distillaw.shapes import shape_for_params
from distillaw.train.checkpoint import TrainState
from distillaw.train.loop import BatchFeed, Trainer
from distillaw.train.optim import build_optimizer
from distillaw.train.student import NoTeacher, OnlineTeacher, SignalSource, Student

ROUNDS, STEPS = 7, 12


def main() -> None:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = prepare_data(DataSpec(max_document_chars=5000), Path(folder) / "data")
        for size in ("0.1M", "0.3M", "1M"):
            for batch_tokens in (256, 1024):
                for distilled in (False, True):
                    rows.append(measure(size, batch_tokens, distilled, store))
                    print(" ".join(f"{k}={v}" for k, v in rows[-1].items()), flush=True)
    if arguments.out:
        save(arguments.out, "python -m benchmarks.engine.train_step", rounds=ROUNDS, steps=STEPS, rows=rows)


def measure(size: str, batch_tokens: int, distilled: bool, store) -> dict[str, object]:
    """Median tokens per CPU-second of both loops over alternating rounds, and the median ratio."""
    ours, plain = (_our_step(size, batch_tokens, distilled, store), _plain_step(size, batch_tokens, distilled, store))
    speeds: dict[str, list[float]] = {"ours": [], "plain": []}
    for round_ in range(ROUNDS + 1):
        for name, step in (("ours", ours), ("plain", plain)):
            began = time.process_time()
            for _ in range(STEPS):
                step()
            if round_:  # the first round warms up
                speeds[name].append(STEPS * batch_tokens / (time.process_time() - began))
    ratios = np.array(speeds["ours"]) / np.array(speeds["plain"])
    return {
        "size": size,
        "batch_tokens": batch_tokens,
        "arm": "distilled" if distilled else "supervised",
        "ours": round(float(np.median(speeds["ours"]))),
        "plain": round(float(np.median(speeds["plain"]))),
        "ratio": round(float(np.median(ratios)), 3),
    }


def _models(size: str, distilled: bool):
    shape = shape_for_params(float(size[:-1]) * 1e6, vocab=512, context=128)
    teacher = build_model(shape_for_params(3e5, vocab=512, context=128), seed=1).eval() if distilled else None
    return shape, build_model(shape, seed=0).train(), teacher


def _our_step(size: str, batch_tokens: int, distilled: bool, store):
    shape, model, teacher = _models(size, distilled)
    spec = planned_trunk(size, rate=1e-3, batch_tokens=batch_tokens, vocab_size=512)
    optimizer = build_optimizer(model, width=shape.width, weight_decay=1e-4)
    trainer = Trainer(spec=spec, student=Student(model, spec.recipe), state=TrainState(model, optimizer))
    feed = BatchFeed(order=BatchOrder(split=store.split("student", context=128), seed=0), plan=BatchPlan(batch_tokens))
    source = _source(teacher)

    def step() -> None:
        for tokens, windows, last in feed.batches(trainer.state.step):
            trainer.accumulate(tokens, source.signal(tokens, windows), last=last)
        trainer.update(1e-3)

    return step


def _source(model) -> SignalSource:
    if model is None:
        return NoTeacher()
    return OnlineTeacher(
        ModelTeacher(name="teacher", model=model, head=head_of(model), vocab_size=512, trimmed_rows=0, fingerprint="")
    )


def _plain_step(size: str, batch_tokens: int, distilled: bool, store):
    _, model, teacher = _models(size, distilled)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=1e-4, fused=True)
    tokens = torch.from_numpy(np.concatenate(store.split("student", context=128).shards).astype(np.int64))
    sequences, position = batch_tokens // 128, [0]

    def step() -> float:
        start = position[0]
        position[0] = (start + batch_tokens) % (len(tokens) - 2 * batch_tokens)
        inputs = torch.stack([tokens[start + i * 128 : start + i * 128 + 129] for i in range(sequences)])
        logits = model(input_ids=inputs[:, :-1], use_cache=False).logits.flatten(0, 1)
        if teacher is None:
            loss = functional.cross_entropy(logits, inputs[:, 1:].flatten())
        else:
            with torch.no_grad():
                target = teacher(input_ids=inputs[:, :-1], use_cache=False).logits.flatten(0, 1)
            loss = functional.kl_div(
                functional.log_softmax(logits, -1),
                functional.log_softmax(target, -1),
                log_target=True,
                reduction="batchmean",
            )
        loss = loss + 1e-4 * torch.logsumexp(logits, -1).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


if __name__ == "__main__":
    main()
