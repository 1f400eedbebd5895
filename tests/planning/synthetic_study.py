"""A study folder written from a known law with realistic noise, so that verdicts and reports have a truth."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distillaw.runs.places import MARK
from distillaw.shapes import count_non_embedding, shape_for_params


def supervised_loss(params, tokens):
    return 1.2 + (189 * params**-0.35 + 368 * tokens**-0.30) ** 0.45


def distilled_loss(params, tokens, teacher_loss):
    own = supervised_loss(params, tokens)
    term = math.exp(4.12 - 0.1 * math.log(params) - 2.5 * math.log(teacher_loss))
    return teacher_loss + term * math.exp(-2.2 * (teacher_loss / own) ** 10)


@dataclass
class World:
    """Sizes of the design and of its noise."""

    students: tuple = (2e4, 1e5)
    budgets: tuple = (150_000, 600_000)
    teachers: tuple = ((2e4, 2_000_000), (1e5, 2_000_000), (3e5, 2_000_000))
    seeds: int = 3
    """Seeds of the replicated cell (largest student, smallest budget); 1 everywhere else."""
    documents: int = 80
    seed_sd: float = 0.006
    """Seed noise of one run beyond what runs of one seed share, nats."""
    shared_seed_sd: float = 0.006
    interaction_sd: float = 0.03
    """Run x document noise, nats/token within a document."""
    gain_scale: float = 1.0
    """Distilled loss = supervised - gain_scale * (law's gain); 0 makes distilling worthless, -1 harmful."""
    vocab: int = 1024
    steepness: tuple | None = None
    """Nats per squared octave from the best rate (alone, taught): runs then say their rates, up to half an octave off,
    and the largest budget is tried at half and double; None: no run says its rate. `truth` is at the best."""
    rng_seed: int = 0
    truth: dict = field(default_factory=dict)


def _rates(world, row, seed):
    """(suffix of the run id, settings, what the rate costs) of the rates a run is done at, the study's last."""
    if world.steepness is None or row["role"] != "student":
        return [("", {}, 0.0)]
    arm = int(row["arm"] == "distilled")
    best = np.random.default_rng([world.rng_seed, 7]).uniform(-0.5, 0.5, 2)[arm]
    tried = (-1, 1, 0) if seed == 0 and row["tokens"] == max(world.budgets) else (0,)
    return [
        (
            f"-x{2.0**x:g}" if x else "",
            {"peak_lr": 0.01 * 2**x, "branch_lr": 0.01 * 2**x, "purpose": "tuning" if x else "grid"},
            world.steepness[arm] * (x - best) ** 2,
        )
        for x in tried
    ]


def write_study(folder: Path, world: World | None = None, *, skip=(), fail=()) -> World:
    """Write the folder; `skip` leaves runs out, `fail` marks them failed (by substring of the run id)."""
    world = world or World()
    rng = np.random.default_rng(world.rng_seed)
    tokens = np.maximum(30, rng.lognormal(6.5, 0.8, world.documents)).astype(np.int64)
    doc_effect = rng.normal(0, 0.3, world.documents)
    rows = []
    shared = {}

    def add(run_id, mean, *, seed, **row):
        world.truth[run_id] = mean
        return [
            add_run(run_id + suffix, mean + excess, seed=seed, **row | settings)
            for suffix, settings, excess in _rates(world, row, seed)
        ][-1]

    def add_run(run_id, mean, *, seed, **row):
        key = (row["params"], seed)
        shared.setdefault(key, rng.normal(0, world.shared_seed_sd))
        run_noise = rng.normal(0, world.seed_sd) + shared[key]
        per_doc = mean + run_noise + doc_effect + rng.normal(0, world.interaction_sd, world.documents)
        sums = per_doc * tokens
        loss = float(sums.sum() / tokens.sum())
        resid = sums - loss * tokens
        se = math.sqrt(len(tokens) / (len(tokens) - 1) * (resid**2).sum()) / tokens.sum()
        row = {
            "run_id": run_id,
            "lambda": 1.0,
            "temperature": 1.0,
            "init": "fresh",
            "seed": seed,
            "loss": loss,
            "loss_se": float(se),
            "device": "cpu",
            "vocab_size": world.vocab,
            "context": 128,
            **row,
        }
        rows.append((row, sums))
        return row

    def base(params, budget, **extra):
        shape = shape_for_params(params, vocab=world.vocab, context=128)
        exact = count_non_embedding(shape)
        forward = 2 * exact + 2 * shape.layers * 128 * shape.width + 2 * world.vocab * shape.width
        return {
            "params": exact,
            "total_params": exact + 2 * world.vocab * shape.width,
            "layers": shape.layers,
            "width": shape.width,
            "tokens": int(budget),
            "train_flops": 3.0 * forward * budget,
            "peak_lr": None,
            "batch_tokens": 1024,
            "steps": int(budget // 1024),
            "unique_tokens": int(budget),
            "seconds": budget / 24_000,
            "_forward": forward,
            **extra,
        }

    teachers = []
    for size, budget in world.teachers:
        cell = base(
            size,
            budget,
            role="teacher",
            purpose="teacher",
            arm="supervised",
            split="teacher",
            teacher_run=None,
            teacher_loss=None,
            teacher_params=None,
            teacher_tokens=None,
            teacher_flops=0.0,
        )
        forward = cell.pop("_forward")
        name = f"teacher-{size / 1e6:g}M-alone-s0-{budget / 1e6:g}Mt"
        mean = supervised_loss(cell["params"], budget) - 0.15
        teachers.append((add(name, mean, seed=0, group=name, **cell), forward, mean))
    for size in world.students:
        for budget in world.budgets:
            replicated = size == world.students[-1] and budget == world.budgets[0]
            for seed in range(world.seeds if replicated else 1):
                cell = base(size, budget, role="student", purpose="grid", split="student")
                cell.pop("_forward")
                own = supervised_loss(cell["params"], budget)
                trunk = f"student-{size / 1e6:g}M-alone-s{seed}"
                add(
                    f"{trunk}-{budget // 1000}kt",
                    own,
                    seed=seed,
                    group=trunk,
                    arm="supervised",
                    teacher_run=None,
                    teacher_loss=None,
                    teacher_params=None,
                    teacher_tokens=None,
                    teacher_flops=0.0,
                    **cell,
                )
                for teacher, forward, teacher_mean in teachers:
                    gain = own - distilled_loss(cell["params"], budget, teacher_mean)
                    named = teacher["run_id"].split("-")
                    again = sum(t[0]["run_id"].split("-")[1] == named[1] for t in teachers) > 1
                    name = named[1] + f"@{named[-1]}" * again
                    trunk = f"student-{size / 1e6:g}M-from-{name}-s{seed}"
                    add(
                        f"{trunk}-{budget // 1000}kt",
                        own - world.gain_scale * gain,
                        seed=seed,
                        group=trunk,
                        arm="distilled",
                        teacher_run=teacher["run_id"],
                        teacher_loss=teacher["loss"],
                        teacher_params=teacher["params"],
                        teacher_tokens=teacher["tokens"],
                        teacher_flops=float(forward * budget),
                        **cell,
                    )
    _write(folder, world, rows, tokens, skip=skip, fail=fail)
    return world


def _write(folder, world, rows, tokens, *, skip, fail):
    kept = []
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    for row, sums in rows:
        if any(s in row["run_id"] for s in skip):
            continue
        run = folder / "runs" / row["run_id"]
        run.mkdir(parents=True)
        label = row["run_id"].split("-")[1]
        (run / "spec.json").write_text(json.dumps({"run_id": row["run_id"], "group": row["group"], "label": label}))
        if any(s in row["run_id"] for s in fail):
            (run / "status.json").write_text(
                json.dumps({"state": "failed", "error": "RunError: loss is NaN at step 7"})
            )
            continue
        (run / "status.json").write_text(json.dumps({"state": "done"}))
        (run / "result.json").write_text(json.dumps(row))
        table = {"document": np.arange(len(tokens)), "tokens": tokens, "loss_sum": sums}
        pq.write_table(pa.table(table), run / "heldout.parquet")
        kept.append(row)
    pq.write_table(pa.Table.from_pylist(kept), folder / "runs.parquet")
    size, budget = world.students[-1], world.budgets[0]
    study = {
        "name": "synthetic",
        "spec": {"students": list(world.students), "tokens": list(world.budgets)},
        "spec_hash": "0123456789",
        "created": "2026-11-21T00:00:00Z",
        "command": "distillaw study run studies/synthetic.toml",
        "target": {"student_params": size, "student_tokens": budget},
        "machine": {"cpu": "2 cores"},
        "data": {
            "corpus": "synthetic",
            "documents": 1000,
            "tokens": {"teacher": 2_000_000, "student": 600_000, "validation": int(tokens.sum())},
            "tokenizer": "bytes",
            "vocab_size": world.vocab,
            "heldout_documents": world.documents,
            "heldout_tokens": int(tokens.sum()),
        },
        "versions": {"distillaw": "0.1.0", "torch": "2.13.0"},
    }
    (folder / "study.json").write_text(json.dumps(study))
    (folder / "tuning.json").write_text(json.dumps(_tuning(world)))


def _tuning(world):
    def search(key, centre, name):
        grid = [
            {
                key: centre * m,
                "multiplier": m,
                "loss": 4.4 + 0.05 * math.log2(m) ** 2,
                "loss_se": 0.03,
                "run_id": f"tune-{name}-{m}",
            }
            for m in (0.5, 1.0, 2.0)
        ]
        return {"grid": grid, "best": centre, "interior": True}

    arms = [
        {
            "arm": arm,
            "params": int(params),
            "learning_rate": search("peak_lr", 0.01, f"{arm}-{params}-lr"),
            "batch": search("batch_tokens", 1024, f"{arm}-{params}-batch"),
        }
        for arm in ("supervised", "distilled")
        for params in (world.students[0], world.students[-1])
    ]
    return {"batch_tokens": 1024, "arms": arms}
