"""Does the batch warm-up keep the loss of the small batch with fewer steps, alone and distilled?

Constant batches, small, middle and large, and a batch that doubles from the small to the large one read the same text
in the same order; each has its own best rate, by a grid on the first seed. Differences are paired over seeds and
documents. Where a schedule ends above the small batch, the small batch's own curve says how many of its steps come to
the same loss.

python -m benchmarks.large_batch.warmup --folder out/warmup --out benchmarks/results/batch_warmup.json
"""

import argparse
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.result_file import save, typed
from distillaw.models.parallel import ALONE
from distillaw.runs.paired import paired_over_seeds, read_scores
from distillaw.runs.places import claim_folder
from distillaw.runs.spec import TrunkSpec
from distillaw.runs.store import StudyFolder
from distillaw.sweep.checks import load_study
from distillaw.sweep.jobs import Planner
from distillaw.sweep.scheduler import Display
from distillaw.sweep.single import trainable_text
from distillaw.sweep.spec import StudentsSpec, TeacherSpec
from distillaw.sweep.study import check_facts, read_progress, write_study
from distillaw.train.trunk import train_trunks

STUDY = Path("benchmarks/large_batch/branch_teacher.toml")
"""Text, vocabulary and teacher's text of the branch tests; this teacher has half the size, a quarter of the tokens."""
TEACHER = TeacherSpec(params="0.3M", tokens=153_600)
TOKENS, EARLIER = 102_400, 61_440
"""What is compared, and the small batch's second budget, which gives the slope of its loss."""
SEEDS = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Way:
    """A schedule of batches, and the rates that are tried at its first batch."""

    batch: int
    doublings: tuple[int, ...]
    rates: tuple[float, ...]


WAYS = {
    "small": Way(512, (), (0.008, 0.016, 0.032)),
    "warm-up": Way(512, (25_600, 61_440), (0.008, 0.016, 0.032)),
    "middle": Way(1024, (), (0.0113, 0.0226, 0.0453)),
    "large": Way(2048, (), (0.016, 0.032, 0.064)),
}


class Runs:
    """The runs of one folder, trained where they are missing."""

    def __init__(self, folder: Path) -> None:
        claim_folder(folder)
        self.study = StudyFolder(folder)
        spec = load_study(STUDY)
        spec = replace(
            spec,
            teachers=(TEACHER,),
            students=StudentsSpec(params=("0.1M",), tokens=(TOKENS,)),
            training=replace(spec.training, warmup_tokens=20_480),
        )
        store = trainable_text(spec.data, spec.training, spec.batch_tokens, self.study, ALONE, Display())
        facts = check_facts(spec, store, Display())
        write_study(spec, self.study, store, typed())
        for role in ("teacher", "student"):
            progress = read_progress(self.study)
            teachers = {name: loss for name, loss in progress.losses.items() if name.startswith("teacher")}
            ready = Planner(spec, facts, replace(progress, losses=teachers)).ready_jobs().jobs
            jobs = [job for job in ready if job.trunk.role == role]
            if role == "teacher" and jobs:
                self._train([job.trunk for job in jobs], [TEACHER.tokens])
        self._trunks, self.teachers = {job.trunk.arm: job.trunk for job in jobs}, teachers

    def _train(self, specs: list[TrunkSpec], budgets: list[int]) -> None:
        if failed := train_trunks(dict.fromkeys(specs, budgets), self.study):
            print({spec.trunk_id: str(error) for spec, error in failed.items()})

    def spec(self, arm: str, way: Way, rate: float, seed: int) -> TrunkSpec:
        """The trunk of a schedule at a rate."""
        trunk = self._trunks[arm]
        recipe = replace(trunk.recipe, batch_doublings=way.doublings)
        return replace(trunk, batch_tokens=way.batch, peak_lr=rate, seed=seed, recipe=recipe, purpose="tuning")

    def train(self, arm: str, way: Way, rates: tuple[float, ...], seed: int) -> None:
        """Those of one stream together, so that the teacher reads it once."""
        budgets = [TOKENS] if way is not WAYS["small"] else [EARLIER, TOKENS]
        self._train([self.spec(arm, way, rate, seed) for rate in rates], budgets)

    def loss(self, spec: TrunkSpec, tokens: int) -> float:
        """Held-out, nats per token; infinite where it diverged."""
        result = self.study.run(spec.run_id(tokens)).result()
        return math.inf if result is None else float(result["loss"])


def compare(runs: Runs, arm: str, best: dict[str, float], seeds: tuple[int, ...]) -> dict[str, object]:
    """Each way against the small batch."""
    found: dict[str, object] = {}
    at = {(name, s): runs.spec(arm, way, best[name], s) for name, way in WAYS.items() for s in seeds}
    small = [at["small", seed] for seed in seeds]
    early = sum(runs.loss(spec, EARLIER) for spec in small) / len(seeds)
    late = sum(runs.loss(spec, TOKENS) for spec in small) / len(seeds)
    power = math.log(early / late) / math.log(TOKENS / EARLIER)
    for name, way in WAYS.items():
        specs = [at[name, seed] for seed in seeds]
        losses = [runs.loss(spec, TOKENS) for spec in specs]
        steps = specs[0].batches.step(TOKENS / way.batch)
        row: dict[str, object] = {"peak_lr": best[name], "steps": steps, "losses": losses}
        row["seconds"] = [runs.study.run(spec.run_id(TOKENS)).result()["seconds"] for spec in specs]
        if name != "small":
            pairs = [
                tuple(read_scores(runs.study.run(each.run_id(TOKENS)).path / "heldout.parquet") for each in two)
                for two in zip(specs, small, strict=True)
            ]
            difference = paired_over_seeds(pairs)
            low, high = difference.interval(0.9)
            row |= {"difference": difference.mean, "difference_interval": [low, high]}
            # the small batch's steps to the same loss, by its loss as a power of the tokens between its two budgets
            equal = [(late / (late + d)) ** (1 / power) * TOKENS / 512 for d in (difference.mean, low, high)]
            row |= {"small_steps_to_equal": equal[0], "steps_saved": 1 - steps / equal[0]}
            row["steps_saved_interval"] = [1 - steps / equal[2], 1 - steps / equal[1]]
        found[name] = row
    return {"small_loss_power": power, "seeds": list(seeds), "ways": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    runs, arms = Runs(options.folder), ("supervised", "distilled")
    rates: dict[str, object] = {}
    tests: dict[str, object] = {}
    for arm in arms:
        best: dict[str, float] = {}
        for name, way in WAYS.items():
            losses: dict[float, float] = {}
            wanted = way.rates
            while wanted:  # until the best rate is not the end of those tried
                runs.train(arm, way, wanted, SEEDS[0])
                losses |= {rate: runs.loss(runs.spec(arm, way, rate, SEEDS[0]), TOKENS) for rate in wanted}
                best[name] = min(losses, key=losses.__getitem__)
                wanted = {max(losses): (2 * best[name],), min(losses): (best[name] / 2,)}.get(best[name], ())
            rates[f"{arm}, {name}"] = losses
        for count in range(1, len(SEEDS) + 1):
            for name, way in WAYS.items():
                runs.train(arm, way, (best[name],), SEEDS[count - 1])
            tests[arm] = compare(runs, arm, best, SEEDS[:count])
            save(
                options.out,
                typed(),
                tokens=TOKENS,
                teachers=runs.teachers,
                batches={name: {"batch": way.batch, "doublings": way.doublings} for name, way in WAYS.items()},
                rates=rates,
                tests=tests,
            )
            print(f"{arm}, {count} seeds: {time.process_time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
