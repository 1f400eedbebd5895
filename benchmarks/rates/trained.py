"""Which rate suits which horizon, alone and from a teacher, and what each way of giving every budget its own costs.

    python -m benchmarks.rates.trained --corpus PATH/TO/peps.parquet [--work FOLDER] [--out FILE]

Half an hour of one core per seed; stopped, it goes on where it was. Ways `schedule-free` need `pip install
schedulefree`; without it they are left out.

Students of 0.05M read one stream, alone and from a teacher; the rate is searched at the smallest of four budgets, the
others are 4, 16 and 64 times that. Every way is a trunk and a held-out loss at each budget, nats per token:

    constant       one rate; a cooled branch per budget
    power          the searched rate up to the branch point of the smallest budget, then falling as a power of the
                   tokens, so that each budget is cooled from the rate where its trunk stands
    schedule-free  no cooling at all: the average of the weights is what is scored (Defazio et al. 2024,
                   arXiv 2405.15682)

The table at the end says what a study would lose by each way, at each budget: it chooses on one seed, and what it chose
is scored on the others, against the lowest mean of all cooled trunks that were tried (below zero: better than those).
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from benchmarks.result_file import save
from benchmarks.trunks import trunk_of
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.models.scoring import score_heldout
from distillaw.quantities import parse_count
from distillaw.runs.files import write_text
from distillaw.runs.spec import Recipe, TrunkSpec
from distillaw.runs.store import StudyFolder
from distillaw.shapes import shape_for_params
from distillaw.train.group import TrunkGroup
from distillaw.train.trunk import train_trunks

BUDGETS = (15_000, 60_000, 240_000, 960_000)
RECIPE = Recipe(warmup_tokens=3_000)
"""Warm-up is a fifth of the smallest budget."""
TEACHER_TOKENS = 800_000
START = 0.011
CONSTANT_HALVES = (-1, 0, 1, 2, 3)
"""Constant rates: START over 2**k."""
FALLS = (1, 2, 3)
"""Powers: halves by which the rate at the largest budget is below that of the smallest."""
FREE_HALVES = (-1, 0)
"""Schedule-free rates: START over 2**k."""


def main() -> None:
    """Train what is missing, print each row, write all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/rates-benchmark"))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--searched", type=float, help="peak rate at the smallest budget; default: the best constant")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    study = StudyFolder(arguments.work)
    store = prepare_data(DataSpec(corpus=arguments.corpus, validation_documents=100), study.data)
    teacher = trunk(store.data_hash, "0.4M", role="teacher", batch=512, rate=0.011, power=0.5)
    train_trunks({replace(teacher, recipe=Recipe()): [TEACHER_TOKENS]}, study)
    teacher_run = replace(teacher, recipe=Recipe()).run_id(TEACHER_TOKENS)
    rows = []
    for seed in range(arguments.seeds):
        student = trunk(store.data_hash, "0.05M", role="student", batch=arguments.batch, rate=START, seed=seed)
        arms = [student, replace(student, teacher_run=teacher_run)]
        found = dict.fromkeys(("supervised", "distilled"), arguments.searched)
        for k in CONSTANT_HALVES:
            rows += show(trained([at(arm, START / 2**k) for arm in arms], study, way="constant", halves=k))
        if arguments.searched is None:  # what a search at the smallest budget finds: seed 0 decides for all
            short = [r for r in rows if r["tokens"] == BUDGETS[0] and r["way"] == "constant" and r["seed"] == 0]
            found = {arm: min((r["loss"], r["peak_lr"]) for r in short if r["arm"] == arm)[1] for arm in found}
        for k in FALLS:
            power = k / 6  # the largest budget is 64 = 2**6 times the smallest
            rows += show(trained([at(arm, found[arm.arm], power) for arm in arms], study, way="power", halves=k))
        for k in FREE_HALVES:
            rows += show([row for arm in arms for row in schedule_free(arm, START / 2**k, k, study)])
        if arguments.out:
            loss = study.run(teacher_run).result()["loss"]
            command = f"python -m benchmarks.rates.trained --batch {arguments.batch} --seeds {seed + 1}"
            known = {"teacher_loss": loss, "searched": found}
            save(arguments.out, command, **known, lost=lost(rows, found), rows=rows)
    for line in lost(rows, found):
        print(line)


def trunk(data: str, size: str, *, role: str, batch: int, rate: float, power: float = 0.0, seed: int = 0) -> TrunkSpec:
    """A trunk of the benchmark, without a teacher."""
    shape = shape_for_params(
        parse_count(size, name="params"),
        vocab=512,
        context=RECIPE.context,
        head_dim=RECIPE.head_dim,
        aspect=RECIPE.aspect,
    )
    what = {"role": role, "split": role, "label": size, "seed": seed, "data_hash": data}
    spec = trunk_of(shape, RECIPE, rate=rate, batch_tokens=batch, **what)
    return at(spec, rate, power, start=60_000 if role == "teacher" else BUDGETS[0])


def at(spec: TrunkSpec, rate: float, power: float = 0.0, *, start: int = BUDGETS[0]) -> TrunkSpec:
    """The trunk at another rate, falling from the branch point of `start` on."""
    branch = round((1 - spec.recipe.cooldown) * start)
    return replace(spec, peak_lr=float(f"{rate:.4g}"), rate_power=power, rate_tokens=branch if power else 0)


def trained(specs: Sequence[TrunkSpec], study: StudyFolder, *, way: str, halves: int) -> list[dict[str, object]]:
    """Trunks and their branches, trained side by side unless they are there; a row per arm and budget."""
    errors = train_trunks(dict.fromkeys(specs, BUDGETS), study)
    return [
        row(spec, way, halves, tokens, None if spec in errors else study.run(spec.run_id(tokens)).result()["loss"])
        for spec in specs
        for tokens in BUDGETS
    ]


def row(spec: TrunkSpec, way: str, halves: int, tokens: int, loss: float | None) -> dict[str, object]:
    """One held-out loss; None where training diverged."""
    return {
        "arm": spec.arm,
        "seed": spec.seed,
        "batch": spec.batch_tokens,
        "way": way,
        "halves": halves,
        "peak_lr": spec.peak_lr,
        "power": round(spec.rate_power, 4),
        "tokens": tokens,
        "loss": loss,
    }


def schedule_free(spec: TrunkSpec, rate: float, halves: int, study: StudyFolder) -> Iterator[dict[str, object]]:
    """The same student and stream under schedule-free AdamW, scored at every budget as it passes."""
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError:
        return
    spec = replace(spec, peak_lr=float(f"{rate:.4g}"))
    kept = study.path / "schedule-free" / f"{spec.trunk_id}.json"
    if not kept.exists():
        group = TrunkGroup([spec], study)
        trainer = group.trainer(spec)
        groups = [{**g, "lr": rate * g["lr_scale"]} for g in trainer.state.optimizer.param_groups]
        wanted = [{k: g[k] for k in ("params", "lr", "weight_decay")} for g in groups]
        warmup = round(spec.recipe.warmup_tokens / spec.batch_tokens)
        optimizer = AdamWScheduleFree(wanted, betas=(0.9, 0.95), warmup_steps=warmup)
        losses, source = {}, group.teaching(spec).source
        optimizer.train()
        for step in range(max(BUDGETS) // spec.batch_tokens):
            for tokens, windows, _ in group.feed.batches(step):
                trainer.student(tokens, source.signal(tokens, windows), spec.batch_tokens).total.backward()
            torch.nn.utils.clip_grad_norm_(trainer.state.model.parameters(), spec.recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            for budget in BUDGETS:
                if step + 1 == round(budget / spec.batch_tokens):
                    optimizer.eval()
                    losses[str(budget)] = score_heldout(trainer.state.model, group.text.heldout).loss
                    optimizer.train()
        write_text(kept, json.dumps(losses), known=True)
    for tokens, loss in json.loads(kept.read_text()).items():
        yield row(spec, "schedule-free", halves, int(tokens), loss)


def lost(rows: Sequence[dict[str, object]], found: Mapping[str, float]) -> list[dict[str, object]]:
    """What each way loses at each budget, nats per token, and what it costs in tokens trained (search left out)."""
    seeds, lines = sorted({r["seed"] for r in rows}), []
    one = (1 - RECIPE.cooldown) * BUDGETS[-1] + RECIPE.cooldown * sum(BUDGETS)
    for arm, searched in found.items():
        tried: dict[tuple[str, float, float], np.ndarray] = {}
        for r in rows:
            if r["arm"] == arm:
                key = r["way"], r["peak_lr"], r["power"]
                losses = tried.setdefault(key, np.full((len(seeds), len(BUDGETS)), np.inf))
                losses[r["seed"], BUDGETS.index(r["tokens"])] = np.inf if r["loss"] is None else r["loss"]
        best = np.min([losses.mean(0) for key, losses in tried.items() if key[0] != "schedule-free"], axis=0)
        constant = {key[1]: losses for key, losses in tried.items() if key[0] == "constant"}
        shared = [constant[rate] for k in range(3) if (rate := float(f"{searched / 2**k:.4g}")) in constant]
        ways = {
            "constant": (shared[:1], "each", one),
            "two trunks, lower envelope": (shared[::2], "each", 2 * one),
            "three trunks, lower envelope": (shared, "each", 3 * one),
            "a trunk per budget": (list(constant.values()), "each", sum(BUDGETS)),
            "power": ([shared[0], *(v for k, v in tried.items() if k[0] == "power")], "last", one),
            "schedule-free": ([v for k, v in tried.items() if k[0] == "schedule-free"], "last", BUDGETS[-1]),
        }
        for way, (choices, chosen_at, cost) in ways.items():
            if choices:
                honest, naive = _chosen(np.array(choices), at_each=chosen_at == "each")
                lines.append(
                    {
                        "arm": arm,
                        "way": way,
                        "tokens_trained": round(cost),
                        "budgets": BUDGETS,
                        "lost": [round(float(x), 4) for x in honest - best],
                        "lost_naively": [round(float(x), 4) for x in naive - best],
                    }
                )
    return lines


def _chosen(losses: np.ndarray, *, at_each: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss at each budget of what one seed chooses: on the other seeds, and on itself.

    Args:
        losses: shape (choices, seeds, budgets).
        at_each: whether each budget chooses for itself; else the last one for all.
    """
    _, seeds, budgets = losses.shape
    honest, naive = [], []
    for s in range(seeds):
        pick = losses[:, s].argmin(0) if at_each else np.full(budgets, losses[:, s, -1].argmin())
        own = losses[pick, :, np.arange(budgets)]  # (budgets, seeds)
        naive.append(own[:, s])
        honest += [own[:, t] for t in range(seeds) if t != s] or [own[:, s]]
    return np.mean(honest, axis=0), np.mean(naive, axis=0)


def show(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Print the losses of one way, and hand them on."""
    for arm in ("supervised", "distilled"):
        own = [r for r in rows if r["arm"] == arm]
        if own:
            losses = " ".join("  -  " if r["loss"] is None else f"{r['loss']:.3f}" for r in own)
            print(
                own[0]["seed"],
                arm,
                own[0]["way"],
                own[0]["peak_lr"],
                own[0]["power"],
                losses,
                f"{time.process_time():.0f}s",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    main()
