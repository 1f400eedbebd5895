"""Studies whose arms want rates that drift apart: is the verdict at the largest budget right, and with which search?

    python -m benchmarks.rates.simulated [--first 6000] [--cases 100] [--pairs 3] [--out FILE]

One to three seconds of one core a case. Worlds below 6000 were looked at while the doubt of rates was worked on; the
report has 7000 to 7399 and 8000 to 8399. A case draws how the best rate of each arm falls with tokens (exponent of the
lone arm and of teachers 0 to 0.7, of the distilled arm 0 to 0.3), where it lies at the smallest budget, how steep the
loss is around it, and the gain of distilling with every arm at its best (-0.15 to 0.15 nats at sixteen times the
smallest budget). The study's own planner then searches and "trains" in that world, trunk by trunk, and
`plan` decides on its records: with the search as it is (`target`), and with one rate for all budgets (`none`).

A verdict is wrong where it calls the choice that is worse, right where it calls the one that is better, or where it
calls none and the true gain is within `tie`. That is what nobody could call from this study: who knew the best rates
and the noise exactly would ask the pairs at the target for a gain of the margin of a verdict, which is the larger of
their standard error s and 0.25 % of the loss, and 0.84 s more, to be 80 % sure. Such a one decides the same cases, as
`known`: even so true gains a little above `tie` are measured below it. `--pairs 3` repeats every budget, as
`[[replicates]]` does unless told otherwise; `--pairs 1` the smallest alone, so that one pair speaks at the target.
"""

import argparse
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import distillaw as dl
from benchmarks.result_file import save, typed
from distillaw.runs.paired import DocumentScores
from distillaw.runs.record import Run, StudyRecord
from distillaw.runs.spec import TrunkSpec
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import Facts, Progress
from distillaw.sweep.spec import ReplicateSpec, StudentsSpec, StudySpec, TargetSpec, TeacherSpec, TuningSpec

BUDGETS = (60_000, 240_000, 960_000)
SPEC = StudySpec(
    name="simulated",
    students=StudentsSpec(params=("0.05M", "0.1M"), tokens=BUDGETS),
    batch_tokens=512,
    peak_lr=0.011,
    teachers=(TeacherSpec(params="0.2M", tokens=480_000), TeacherSpec(params="0.4M", tokens=960_000)),
    target=TargetSpec(params="0.1M", tokens=960_000),
)
FACTS = Facts(vocab_size=512, data_hash="simulated", fingerprints={})
TARGET = ("0.1M", 960_000)
SEED_SD, RUN_SD, DOCUMENT_SD, DOCUMENTS = 0.02, 0.006, 0.04, 100
"""Nats: what a seed does to all its runs, what it does to one, and how runs differ by document."""
MARGIN = 0.0025 * 3.4
"""Of a verdict, nats: 0.25 % of the loss at the target."""
SEEDS = 3
"""Of what is repeated."""


def tie(pairs: int) -> float:
    """Largest gain that need not be called: 0.019 nats with one pair at the target, 0.013 with three."""
    se = math.sqrt(2 * (RUN_SD**2 + DOCUMENT_SD**2 / DOCUMENTS) / pairs)
    return max(MARGIN, se) + 0.84 * se


class World:
    """Losses of any run: those at the best rate, and what another rate costs."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.seed, self.gain = seed, float(draw.uniform(-0.15, 0.15))
        self.power = {"supervised": float(draw.uniform(0, 0.7)), "distilled": float(draw.uniform(0, 0.3))}
        self.best = {arm: 0.011 * 2 ** float(draw.uniform(-1.5, 1.5)) for arm in self.power}
        self.steep = {"supervised": float(draw.uniform(0.03, 0.15)), "distilled": float(draw.uniform(0.005, 0.05))}

    def at_best(self, trunk: TrunkSpec, tokens: int) -> float:
        """Loss at the best rate."""
        alone = 1.5 + 1.2 * (trunk.params / 1e5) ** -0.2 + 1.4 * (tokens / 60_000) ** -0.25
        if trunk.teacher_run is None:
            return alone
        early = 0.3 * (1 - math.log(tokens / 60_000) / math.log(16))  # teachers help short runs
        better = 0.0 if "0.4M" in trunk.teacher_run else 0.05
        return alone - self.gain - early + better

    def excess(self, arm: str, rate: float, tokens: int) -> float:
        """What a rate costs, nats."""
        best = self.best[arm] * (tokens / BUDGETS[0]) ** -self.power[arm]
        return self.steep[arm] * math.log2(rate / best) ** 2

    def run(self, trunk: TrunkSpec, tokens: int) -> Run:
        """A finished run."""
        run_id = trunk.run_id(tokens)
        own = np.random.default_rng([zlib.crc32(run_id.encode()), self.seed])
        shared = np.random.default_rng([trunk.seed, self.seed])
        loss = self.at_best(trunk, tokens) + self.excess(trunk.arm, trunk.branch_lr(tokens), tokens)
        loss += SEED_SD * shared.normal() + RUN_SD * own.normal()
        by_document = (
            loss + DOCUMENT_SD * own.normal(size=DOCUMENTS) + 0.3 * np.random.default_rng(0).normal(size=DOCUMENTS)
        )
        counted = np.full(DOCUMENTS, 512)
        row = {
            "run_id": run_id,
            "group": trunk.trunk_id,
            "role": trunk.role,
            "purpose": trunk.purpose,
            "params": trunk.params,
            "total_params": trunk.total_params,
            "tokens": tokens,
            "seed": trunk.seed,
            "teacher_run": trunk.teacher_run,
            "peak_lr": trunk.peak_lr,
            "branch_lr": trunk.branch_lr(tokens),
            "batch_tokens": trunk.batch_tokens,
            "loss": float(by_document.mean()),
            "loss_se": 0.03,
            "train_flops": 6.0 * trunk.params * tokens,
            "teacher_flops": 0.0,
            "lambda": 1.0,
            "vocab_size": 512,
            "context": 128,
            "split": trunk.split,
        }
        found = Run(row=row, folder=None)
        scores = DocumentScores(document=np.arange(DOCUMENTS), tokens=counted, loss_sum=by_document * counted)
        found.__dict__["scores"] = scores
        return found


def study(world: World, horizon: str, pairs: int) -> StudyRecord:
    """The finished study of a world."""
    repeated = ReplicateSpec(params=TARGET[0], seeds=SEEDS)
    if pairs == 1:
        repeated = replace(repeated, tokens=BUDGETS[:1], teachers=("0.4M@960k",))
    spec = replace(SPEC, replicates=(repeated,), tuning=TuningSpec(horizon=horizon, batch=False))
    runs: dict[str, Run] = {}
    while True:
        losses = {name: run.loss for name, run in runs.items()}
        ready = Planner(spec, FACTS, Progress(losses=losses, failures={})).ready_jobs()
        missing = [job for job in ready.jobs if any(name not in runs for name in job.run_ids)]
        if not missing:
            break
        for job in missing:
            runs |= {job.trunk.run_id(t): world.run(job.trunk, t) for t in job.budgets}
    purposes = {name: job.trunk.purpose for job in ready.jobs for name in job.run_ids}
    teachers = {name: run.loss for name, run in runs.items() if run.row["role"] == "teacher"}
    table = []
    for name, run in runs.items():
        known = {"purpose": purposes.get(name), "teacher_loss": teachers.get(run.teacher_run or "")}
        table += [Run(row={**run.row, **known}, folder=None)] if name in purposes else []
    for run in table:
        run.__dict__["scores"] = runs[run.run_id].scores
    return StudyRecord(folder=Path("simulated"), info={}, runs=table, unfinished=(), tuning={}, problems=())


def decide(world: World, horizon: str, pairs: int) -> dict[str, object]:
    """The verdict at the target beside the truth."""
    record = study(world, horizon, pairs)
    verdict = dl.plan(TARGET[0], student_tokens=TARGET[1], study=record, with_flips=False)
    side = {"distil": 1, "pretrain": -1, "too-close": 0}[verdict.verdict]
    known = known_gain(world, record)
    return {
        "seed": world.seed,
        "horizon": horizon,
        "truth": world.gain,
        "verdict": verdict.verdict,
        "probability": verdict.probability,
        "gain": verdict.gain.mean,
        "lower": verdict.gain.lower,
        "upper": verdict.gain.upper,
        "outcome": outcome(world, side, pairs),
        "known": known,
        "known_outcome": outcome(world, int(math.copysign(abs(known) > tie(pairs), known)), pairs),
        "runs": len(record.runs),
    }


def outcome(world: World, side: int, pairs: int) -> str:
    """Whether a call (1 distil, -1 pretrain, 0 none) is `right`, `wrong` or `missed`."""
    if side:
        return "right" if side * world.gain > 0 else "wrong"
    return "right" if abs(world.gain) <= tie(pairs) else "missed"


def known_gain(world: World, record: StudyRecord) -> float:
    """The measured gain of the target's best pairs with what the rates cost taken out."""
    size = max(record.students_by_size)
    losses: dict[str | None, list[float]] = {}
    for run in record.students_by_size[size]:
        if run.tokens == TARGET[1]:
            cost = world.excess("distilled" if run.teacher_run else "supervised", run.branch_lr, TARGET[1])
            losses.setdefault(run.teacher_run, []).append(run.loss - cost)
    means = {teacher: float(np.mean(found)) for teacher, found in losses.items()}
    return means.pop(None) - min(means.values())


def summary(rows: Sequence[Mapping[str, Any]], pairs: int) -> dict[str, float]:
    """Counts of some decisions."""
    return {
        "cases": len(rows),
        "called": sum(r["verdict"] != "too-close" for r in rows),
        **{name: sum(r["outcome"] == name for r in rows) for name in ("right", "wrong", "missed")},
        "inside": sum(r["lower"] <= r["truth"] <= r["upper"] for r in rows),
        "wrong_above_90": sum(r["outcome"] == "wrong" and r["probability"] > 0.9 for r in rows),
        "within_tie": sum(abs(r["truth"]) <= tie(pairs) for r in rows),
        "known_right": sum(r["known_outcome"] == "right" for r in rows),
        "half_width": float(np.median([(r["upper"] - r["lower"]) / 2 for r in rows])),
        "rms": float(np.sqrt(np.mean([(r["gain"] - r["truth"]) ** 2 for r in rows]))),
        "rms_known": float(np.sqrt(np.mean([(r["known"] - r["truth"]) ** 2 for r in rows]))),
    }


def main() -> None:
    """Decide every case in each way, print and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=6000)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--horizons", nargs="+", default=["target", "none"], help="ways of searching")
    parser.add_argument("--pairs", type=int, choices=(1, SEEDS), default=SEEDS, help="at the target")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    counts, rows = {}, []
    for horizon in arguments.horizons:
        own = [decide(World(arguments.first + k), horizon, arguments.pairs) for k in range(arguments.cases)]
        rows += own
        counts[horizon] = summary(own, arguments.pairs)
        print(horizon, counts[horizon], flush=True)
        if arguments.out:
            save(arguments.out, typed(), counts=counts, cases=rows)


if __name__ == "__main__":
    main()
