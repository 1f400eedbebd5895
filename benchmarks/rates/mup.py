"""Where the best peak rate lies as width and depth grow: with our learning-rate groups, and without.

    python -m benchmarks.rates.mup [--workers 2] [--work FOLDER] [--out FILE] [--figure docs/mup.png]

About 14 CPU-minutes; stopped, it goes on where it was.

Students of the training step itself (loop.Trainer) read the same 65,536 tokens of the State of the Union addresses at
rates a factor 2 apart, warm-up and linear cooldown included, and are scored on held-out addresses. Rates are added
until two lie on either side of the best; a parabola in log2(rate) through those five gives the minimum, once per seed.
Drift is the slope of log2(best rate) against log2(width) or log2(layers), least squares over cells and seeds. The cost
of the base rate is what a size loses at the rate that is best for width 64 or 2 layers.

Rules: `ours` is `build_optimizer`; `none` has one rate for every matrix; `depth` is ours with the rates of o_proj and
down_proj times 2 / layers besides (CompleteP, arXiv 2505.01618, written without its residual multiplier).
"""

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from benchmarks.result_file import save
from benchmarks.trunks import trunk_of
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.data.shards import BatchOrder, TokenStore
from distillaw.models.fresh import build_model
from distillaw.models.scoring import make_heldout, score_heldout
from distillaw.models.teacher import ModelTeacher, head_of
from distillaw.runs.files import write_json
from distillaw.runs.spec import BatchPlan, Recipe
from distillaw.shapes import Shape, count_non_embedding, ffn_width
from distillaw.train.checkpoint import TrainState
from distillaw.train.loop import BatchFeed, Trainer
from distillaw.train.optim import build_optimizer, schedule_for
from distillaw.train.student import NoTeacher, OnlineTeacher, SignalSource, Student

WIDTHS, DEPTHS = (32, 64, 128, 256), (2, 4, 8)
BASE = {"width": 64, "layers": 2}
"""Where the rules agree."""
FIXED = {"width": ("layers", 2), "layers": ("width", 32)}
"""What stays the same while an axis varies."""
LINES = (
    ("width", "supervised", "none"),
    ("width", "supervised", "ours"),
    ("width", "distilled", "ours"),
    ("layers", "supervised", "ours"),
    ("layers", "supervised", "depth"),
)
"""What varies, the arm, the rule: the rows of the table and the panels of the figure."""
RULES = {"none": "one rate for all matrices", "ours": "our groups", "depth": "ours and 2 / layers"}
SEEDS = (0, 1)
TOKENS, BATCH_TOKENS, CONTEXT, VOCAB = 65_536, 512, 64, 512
RECIPE = Recipe(context=CONTEXT, warmup_tokens=6_144)
DATA = DataSpec(vocab_size=VOCAB, validation_documents=40, validation_tokens_per_document=256, max_document_chars=5000)
START = -7
"""log2 of the rate with which every search begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One curve of loss against rate."""

    arm: str = "supervised"
    rule: str = "ours"
    width: int = 64
    layers: int = 2


def cells() -> list[Cell]:
    """What is measured: width before depth, alone before distilled, the costly ones first."""
    found = {Cell(width=w) for w in WIDTHS} | {Cell(width=w, arm="distilled") for w in WIDTHS}
    found |= {Cell(rule="none", width=w) for w in (32, 256)}
    found |= {Cell(width=32, layers=n) for n in DEPTHS} | {Cell(rule="depth", width=32, layers=n) for n in DEPTHS[1:]}
    return sorted(found, key=lambda c: (c.arm == "distilled", c.layers > 2, -count_non_embedding(_shape(c))))


def main() -> None:
    """Measure, print the tables, write results and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("/tmp/mup-benchmark"), help="text and teacher")
    parser.add_argument("--arms", nargs="+", choices=("supervised", "distilled"), default=("supervised", "distilled"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    began = time.process_time()
    prepare_data(DATA, arguments.work / "data")
    _train_teacher(arguments.work)
    preparing = time.process_time() - began
    with ProcessPoolExecutor(arguments.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        wanted = [cell for cell in cells() if cell.arm in arguments.arms]
        rows = list(pool.map(measure, wanted, [arguments.work] * len(wanted)))
    record = {
        "tokens": TOKENS,
        "batch_tokens": BATCH_TOKENS,
        "cpu_seconds": round(preparing + sum(row["cpu_seconds"] for row in rows)),
        "drift": drifts(rows),
        "cells": rows,
    }
    for line in record["drift"]:
        print(" ".join(f"{k}={v}" for k, v in line.items()))
    if arguments.out:
        save(arguments.out, "python -m benchmarks.rates.mup", **record)
    if arguments.figure:
        draw(rows, arguments.figure)


def measure(cell: Cell, work: Path) -> dict[str, object]:
    """Loss against rate until the minimum is enclosed, and the minimum; kept in `work` for the next call."""
    known = work / f"{cell.arm}-{cell.rule}-{cell.width}-{cell.layers}.json"
    if known.exists():
        return json.loads(known.read_text())
    torch.set_num_threads(1)
    began = time.process_time()
    losses: dict[int, list[float]] = {}
    due = [START - 1, START, START + 1]
    while due:
        for seed in SEEDS:
            for exponent, loss in zip(due, train(cell, due, seed, work), strict=True):
                losses.setdefault(exponent, []).append(loss)
        best = min(losses, key=lambda e: float(np.mean(losses[e])))
        due = [e for e in range(best - 2, best + 3) if e not in losses]
    near = range(best - 2, best + 3)
    minima = [_vertex(near, [losses[e][i] for e in near]) for i in range(len(SEEDS))]
    row = {
        **asdict(cell),
        "log2_best_rate": [round(m, 3) for m in minima],
        "losses": {str(e): [round(x, 4) for x in losses[e]] for e in sorted(losses)},
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)
    write_json(known, row)
    return row


def _vertex(exponents: range, losses: list[float]) -> float:
    curve = np.polyfit(np.array(exponents), losses, 2)
    return float(-curve[1] / (2 * curve[0]))


def drifts(rows: list[dict]) -> list[dict[str, object]]:
    """Slope of log2(best rate) per doubling, with its standard error, of every arm and rule, along both axes."""
    found = []
    for axis, arm, rule in _lines(rows):
        line = along(rows, axis, arm, rule)
        x, y = np.array([(np.log2(row[axis]), m) for row in line for m in row["log2_best_rate"]]).T
        (slope, _), cov = np.polyfit(x, y, 1, cov=True)
        base = next(float(np.mean(row["log2_best_rate"])) for row in line if row[axis] == BASE[axis])
        found.append(
            {
                "axis": axis,
                "arm": arm,
                "rule": rule,
                "per_doubling": round(float(slope), 3),
                "se": round(float(np.sqrt(cov[0, 0])), 3),
                "cost_of_base_rate": {str(row[axis]): _cost(row, base) for row in line},
            }
        )
    return found


def _lines(rows: list[dict]) -> list[tuple[str, str, str]]:
    return [line for line in LINES if line[1] in {row["arm"] for row in rows}]


def _cost(row: dict, exponent: float) -> float:
    """Nats above the best measured rate at 2^exponent, between rates linearly; too low outside the measured ones."""
    losses = [float(np.mean(pair)) for pair in row["losses"].values()]
    return round(float(np.interp(exponent, [int(e) for e in row["losses"]], losses) - min(losses)), 4)


def along(rows: list[dict], axis: str, arm: str, rule: str) -> list[dict]:
    """The cells of one line; at the base every rule is ours."""
    other, value = FIXED[axis]
    chosen = [
        r
        for r in rows
        if r["arm"] == arm
        and r[other] == value
        and (r["rule"] == rule or (r["rule"] == "ours" and r[axis] == BASE[axis]))
    ]
    return sorted(chosen, key=lambda row: row[axis])


def draw(rows: list[dict], path: Path) -> None:
    """One panel per line: how much each rate loses against the best of its size, minima marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = _lines(rows)
    figure, axes = pyplot.subplots(1, len(lines), figsize=(3.1 * len(lines), 3.2), sharey=True, sharex=True)
    for panel, (axis, arm, rule) in zip(axes, lines, strict=True):
        for row in along(rows, axis, arm, rule):
            shade = 0.75 - 0.25 * (WIDTHS if axis == "width" else DEPTHS).index(row[axis])
            exponents = [int(e) for e in row["losses"]]
            losses = np.array([np.mean(pair) for pair in row["losses"].values()])
            best = float(np.mean(row["log2_best_rate"]))
            colour = pyplot.get_cmap("viridis")(shade)
            panel.plot(exponents, losses - losses.min(), "o-", ms=3, lw=1.2, color=colour, label=f"{row[axis]}")
            panel.axvline(best, color=colour, lw=1, ls=":")
        panel.set(title=f"{axis}, {arm}\n{RULES[rule]}", xlabel="log2(peak rate)", ylim=(-0.01, 0.2))
        panel.legend(title=axis, fontsize=7, title_fontsize=7)
    axes[0].set_ylabel("held-out loss above the best, nats")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def train(cell: Cell, exponents: list[int], seed: int, work: Path) -> list[float]:
    """Held-out losses of students that differ in their rate alone and read one stream together."""
    store = TokenStore.open(work / "data")
    trainers = [_trainer(cell, seed, 2.0**e) for e in exponents]
    source = OnlineTeacher(_teacher(work)) if cell.arm == "distilled" else NoTeacher()
    order = BatchOrder(split=store.split("student", context=CONTEXT), seed=seed)
    _run(trainers, BatchFeed(order=order, plan=BatchPlan(BATCH_TOKENS)), source, TOKENS)
    heldout = make_heldout(store.heldout_documents(), context=CONTEXT)
    return [score_heldout(trainer.state.model, heldout).loss for trainer in trainers]


def _run(trainers: list[Trainer], feed: BatchFeed, source: SignalSource, tokens: int) -> None:
    schedule = schedule_for(
        tokens=tokens, batches=BatchPlan(BATCH_TOKENS), warmup_tokens=RECIPE.warmup_tokens, cooldown=RECIPE.cooldown
    )
    for step in range(schedule.total_steps):
        for batch, windows, last in feed.batches(step):
            signal = source.signal(batch, windows)
            for trainer in trainers:
                trainer.accumulate(batch, signal, last=last)
                trainer.update(trainer.spec.peak_lr * schedule.factor(step))


def _trainer(cell: Cell, seed: int, rate: float) -> Trainer:
    shape = _shape(cell)
    model = build_model(shape, seed=seed).train()
    optimizer = build_optimizer(model, width=shape.width, weight_decay=RECIPE.weight_decay)
    if cell.rule == "none":
        optimizer.param_groups[0]["lr_scale"] = 1.0
    elif cell.rule == "depth":
        _slow_writers(model, optimizer, BASE["layers"] / cell.layers)
    what = {"label": f"{count_non_embedding(shape)}", "seed": seed}
    spec = trunk_of(shape, RECIPE, rate=rate, batch_tokens=BATCH_TOKENS, **what)
    return Trainer(spec=spec, student=Student(model, RECIPE), state=TrainState(model, optimizer))


def _slow_writers(model: torch.nn.Module, optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give the projections into the residual stream a group of their own, at `factor` times their rate."""
    writers = [p for n, p in model.named_parameters() if n.endswith(("o_proj.weight", "down_proj.weight"))]
    matrices = optimizer.param_groups[0]
    matrices["params"] = [p for p in matrices["params"] if not any(p is w for w in writers)]
    settings = {key: value for key, value in matrices.items() if key != "params"}
    optimizer.add_param_group({**settings, "params": writers, "lr_scale": matrices["lr_scale"] * factor})


def _shape(cell: Cell) -> Shape:
    heads = cell.width // 16
    return Shape(
        layers=cell.layers,
        width=cell.width,
        ffn=ffn_width(cell.width),
        heads=heads,
        kv_heads=heads,
        head_dim=16,
        vocab=VOCAB,
        context=CONTEXT,
    )


def _train_teacher(work: Path) -> None:
    if (work / "teacher.pt").exists():
        return
    torch.set_num_threads(1)
    store = TokenStore.open(work / "data")
    trainer = _trainer(Cell(width=128), seed=9, rate=2.0**START)
    order = BatchOrder(split=store.split("teacher", context=CONTEXT), seed=9)
    _run([trainer], BatchFeed(order=order, plan=BatchPlan(BATCH_TOKENS)), NoTeacher(), 4 * TOKENS)
    heldout = make_heldout(store.heldout_documents(), context=CONTEXT)
    print("teacher", score_heldout(trainer.state.model, heldout).loss, flush=True)
    torch.save(trainer.state.model.state_dict(), work / "teacher.pt")


def _teacher(work: Path) -> ModelTeacher:
    model = build_model(_shape(Cell(width=128)), seed=9).eval()
    model.load_state_dict(torch.load(work / "teacher.pt"))
    return ModelTeacher(
        name="teacher", model=model, head=head_of(model), vocab_size=VOCAB, trimmed_rows=0, fingerprint=""
    )


if __name__ == "__main__":
    main()
