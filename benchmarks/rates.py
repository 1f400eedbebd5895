"""Which rate suits which horizon, alone and from a teacher, and what each way of giving every budget its own costs.

    python benchmarks/rates.py --corpus PATH/TO/peps.parquet [--work FOLDER] [--out benchmarks/results/rates.json]

About an hour of one core per batch; stopped, it goes on where it was.

Students of 0.1M read one stream. Ways: `constant`, a trunk at one rate with a cooled branch per budget; `power`, one
trunk whose rate is constant up to the branch point of the smallest budget and falls as a power of the tokens after it,
so that the peak of a budget is its trunk's rate where it branches off. Held-out loss, nats per token.
"""

import argparse
import itertools
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from distillaw.accounting.params import count_params
from distillaw.accounting.shapes import shape_for_params
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.runs.spec import Recipe, TrunkSpec
from distillaw.runs.store import StudyFolder
from distillaw.train.trunk import train_trunk, train_trunks

RECIPE = Recipe()
BUDGETS = (60_000, 240_000, 960_000)
TEACHER_TOKENS = 800_000
BATCHES = (512, 128)
SEARCHED = {512: 0.011, 128: 0.0078}
"""The best rate at the smallest budget, over both arms."""
HALVES = (1, 0, 2)
"""Constant rates tried: the searched one over 2**k."""
END_HALVES = (1, 2)
"""Powers tried, so that the rate at the largest budget is the searched one over 2**k."""


def main() -> None:
    """Train what is missing, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/rates-benchmark"))
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    study = StudyFolder(arguments.work)
    store = prepare_data(DataSpec(corpus=arguments.corpus, validation_documents=100), study.data)
    teacher = trunk(store.data_hash, "teacher", "0.4M", 512, 0.011, power=0.5)
    train_trunk(teacher, [TEACHER_TOKENS], study)
    teacher_run = teacher.run_id(TEACHER_TOKENS)
    rows = []
    for batch in arguments.batches:
        peak = SEARCHED[batch]
        ways = [("power", k, peak, 0.25 * k) for k in END_HALVES]
        ways += [("constant", k, peak / 2**k, 0.0) for k in HALVES]
        for way, k, rate, power in ways:
            specs = [trunk(store.data_hash, "student", "0.1M", batch, rate, power=power, teacher=t)
                     for t in (None, teacher_run)]  # fmt: skip
            errors = train_trunks(dict.fromkeys(specs, BUDGETS), study)
            for spec, tokens in itertools.product(specs, BUDGETS):
                result = study.run(spec.run_id(tokens)).result()
                rows.append({"arm": spec.arm, "batch": batch, "way": way, "halves": k, "peak_lr": rate, "power": power,
                             "tokens": tokens, "loss": None if spec in errors else result["loss"]})  # fmt: skip
            last = rows[-2 * len(BUDGETS) :]
            print(batch, way, k, f"{rate:.4g}", power, *(f"{r['loss']:.3f}" for r in last),
                  f"{time.process_time() - began:.0f}s", flush=True)  # fmt: skip
    if arguments.out:
        loss = study.run(teacher_run).result()["loss"]
        arguments.out.write_text(json.dumps({"teacher_loss": loss, "rows": rows}, indent=1) + "\n")


def trunk(
    data: str, role: str, size: str, batch: int, rate: float, *, power: float, teacher: str | None = None
):
    """A trunk of the benchmark."""
    from distillaw.quantities import parse_count

    shape = shape_for_params(parse_count(size, name="params"), vocab=512, context=RECIPE.context,
                             head_dim=RECIPE.head_dim, aspect=RECIPE.aspect)  # fmt: skip
    counts = count_params(shape)
    return TrunkSpec(
        role=role, purpose="grid", label=size, layers=shape.layers, width=shape.width, ffn=shape.ffn,
        heads=shape.heads, params=counts.non_embedding, total_params=counts.total, vocab_size=512, seed=0,
        split=role, peak_lr=float(f"{rate:.4g}"), batch_tokens=batch, recipe=RECIPE, data_hash=data,
        teacher_run=teacher, rate_power=power, rate_tokens=round(0.8 * BUDGETS[0]) if power else 0,
    )  # fmt: skip


if __name__ == "__main__":
    main()
