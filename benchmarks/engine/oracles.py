"""Is a world's text or its oracle ever what training waits for? CPU time per token, on one thread, in one process.

    OMP_NUM_THREADS=1 python -m benchmarks.engine.oracles --out benchmarks/results/worlds.json

For each named world: drawing text, the oracle reading batches of 8 x 128 tokens (all of them, or windows), and one
training step of a 0.1M-parameter student on the same batch. Every figure is the median of repeats, which alternate, so
that what else the machine does falls on all alike.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.result_file import save, typed
from distillaw.models.fresh import build_model
from distillaw.models.parallel import keep_freed_memory
from distillaw.runs.spec import Recipe
from distillaw.shapes import shape_for_params
from distillaw.train.optim import build_optimizer
from distillaw.train.student import Signal, Student
from distillaw.worlds.oracle import Oracle, OracleSpec
from distillaw.worlds.spec import PRESETS
from distillaw.worlds.world import World

BATCH, CONTEXT = 8, 128


def measure(name: str, repeats: int) -> dict[str, float]:
    """Microseconds of CPU time per token of each kind of work on one world."""
    world = World(PRESETS[name])
    tokens_BT = world.tokens(0, BATCH * CONTEXT).reshape(BATCH, CONTEXT)
    work: dict[str, tuple[Callable[[], object], int]] = {
        "draw": (lambda: world.documents("student", 0, 512), 512 * world.spec.document_tokens)
    }
    for window in (None, 1, 2, 4, 8):
        oracle = Oracle(world, OracleSpec(window=window))
        work[f"oracle {window or 'all'}"] = (lambda oracle=oracle: oracle.probs(tokens_BT), BATCH * CONTEXT)
    work["train 0.1M"] = (training_step(world), BATCH * CONTEXT)
    spent: dict[str, list[float]] = {kind: [] for kind in work}
    for _ in range(repeats + 1):
        for kind, (act, count) in work.items():
            began = time.process_time()
            act()
            spent[kind].append((time.process_time() - began) / count * 1e6)
    return {kind: round(statistics.median(times[1:]), 3) for kind, times in spent.items()}


def training_step(world: World) -> Callable[[], object]:
    """A step of a student taught by given probabilities, as the training loop does it."""
    shape = shape_for_params(1e5, vocab=world.vocab, context=CONTEXT, head_dim=16, aspect=16.0)
    model = build_model(shape, seed=0, end_of_text=world.end_of_text)
    student, optimizer = (Student(model, Recipe()), build_optimizer(model, width=shape.width, weight_decay=1e-4))
    tokens_BT = torch.from_numpy(world.tokens(0, BATCH * (CONTEXT + 1)).reshape(BATCH, CONTEXT + 1))
    probs = Oracle(world, OracleSpec()).probs(tokens_BT[:, :-1].numpy())
    signal = Signal(teacher_logits=torch.from_numpy(probs).clamp(min=1e-30).log().float())

    def step() -> None:
        student(tokens_BT, signal, BATCH * CONTEXT).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    results = {name: measure(name, arguments.repeats) for name in PRESETS}
    for name, row in results.items():
        print(f"{name:<10}" + "  ".join(f"{kind} {value:.3g}" for kind, value in row.items()) + "  us/token")
    if arguments.out:
        save(arguments.out, typed(), unit="us of CPU time per token", worlds=results)


if __name__ == "__main__":
    main()
