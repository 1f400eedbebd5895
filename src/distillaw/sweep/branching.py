"""A branch test from its spec to branch.json: trunks to their forks, branches, noise scales, what they decide.

    distillaw branch run.toml --out out/branch --multiples 1,2,4,8 --orders 3

One process. What is finished is never done again, so more multiples or orders cost only themselves.
"""

import math
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.utils.logging import disable_progress_bar

from distillaw.data.prepare import check_home, prepare_data, require_tokens
from distillaw.errors import ConfigError, RunError
from distillaw.large_batch.branch_test import Branches, BranchVerdict, Comparison, compare, decide, order_noise, smooth
from distillaw.models.parallel import Ranks, join_ranks, keep_freed_memory
from distillaw.quantities import finite
from distillaw.runs.execution import launched
from distillaw.runs.files import read_json, write_json
from distillaw.runs.lock import held
from distillaw.runs.paired import DocumentScores, clustered_cov, paired_over_seeds, read_scores
from distillaw.runs.spec import Branch, Fork, TrunkSpec
from distillaw.runs.store import StudyFolder, saved_step
from distillaw.sweep.ready import TrunkJob
from distillaw.sweep.run_files import BranchSpec, branches_of, planned_trunks
from distillaw.sweep.scheduler import Display
from distillaw.sweep.single import set_threads, single_job, stoppable
from distillaw.train.fork import (
    RESULT,
    finished_branch,
    fork_noise,
    fork_reached,
    noise_file,
    reach_fork,
    run_branch,
    step_losses,
)
from distillaw.train.group import TrunkGroup
from distillaw.train.loop import Report
from distillaw.version import __version__

RECORD = "branch.json"


def branch_test(spec: BranchSpec, folder: Path, *, display: Display, command: str) -> dict[str, object]:
    """Run what a branch test still lacks, decide, and write branch.json.

    Args:
        folder: for tokens, checkpoints and branches; that of `distillaw train` of the same file serves as well.

    Returns:
        What branch.json holds.

    Raises:
        ConfigError, DataError, CacheError, VocabularyError: before anything is trained.
        RunError: no checkpoint to fork at, the trunk diverged, the disk is full, or asked to stop by SIGTERM.
        KeyboardInterrupt: asked to stop by Ctrl-C (checkpoints saved).
    """
    spec.check()
    if launched():
        raise ConfigError("a branch test runs in one process: call distillaw branch without torchrun")
    check_home(spec.single.data, folder)
    study = StudyFolder(folder.resolve())
    with join_ranks() as ranks, held(study.path, f"the folder {folder}"):
        disable_progress_bar()
        keep_freed_memory()
        store = prepare_data(spec.single.data, study.data, say=display.note)
        own = single_job(spec.single, study, store, display, command).trunk
        spec = _at_known_tokens(spec, study, own)
        require_tokens(
            store, {"student": spec.fork_tokens[-1] + spec.window_tokens}, context=spec.single.training.context
        )
        set_threads(ranks, own.total_params)
        forks = _Test(spec, study, planned_trunks(spec, own), display, ranks).run()
        record: dict[str, object] = {
            "command": command,
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "version": __version__,
            "machine": {"cores": os.cpu_count(), "platform": platform.platform()},
            "run": {
                "name": spec.single.name,
                **{key: getattr(own, key) for key in ("params", "total_params", "seed", "batch_tokens", "peak_lr")},
                "teacher": spec.single.teacher or spec.single.targets or None,
                "data_hash": store.data_hash,
            },
            "test": _test_table(spec),
            "forks": forks,
        }
        write_json(study.path / RECORD, record)
    return record


def _at_known_tokens(spec: BranchSpec, study: StudyFolder, own: TrunkSpec) -> BranchSpec:
    """The test with the tokens of the checkpoint that it forks at."""
    if not spec.at_checkpoint:
        return spec
    step = saved_step(study.trunk(own.trunk_id) / "state")
    if step < 0:
        others = sorted(path.name for path in (study.path / "trunks").glob("*") if saved_step(path / "state") >= 0)
        raise RunError(
            f"{study.path}: no checkpoint of {own.trunk_id} to fork at; there is "
            + (", ".join(others) if others else "none at all")
            + ". `distillaw train` with the same file and folder leaves one; or give --at TOKENS"
        )
    found = replace(spec, at_checkpoint=False, at=(step * own.batch_tokens,))
    found.check()
    return found


def _test_table(spec: BranchSpec) -> dict[str, object]:
    return {
        "multiples": [k / spec.single.batch_tokens for k in spec.batches],
        "orders": spec.orders,
        "window": spec.window_tokens,
        "anneal": spec.anneal,
        **spec.rules,
        "pairs": [list(pair) for pair in spec.pairs],
        "tolerance": spec.tolerance,
        "level": spec.level,
        "training": asdict(spec.single.training),
    }


class _Test:
    """One call: what is missing is trained, in order."""

    def __init__(
        self, spec: BranchSpec, study: StudyFolder, trunks: Mapping[str, TrunkSpec], display: Display, ranks: Ranks
    ) -> None:
        self._spec, self._study, self._trunks, self._display, self._ranks = spec, study, trunks, display, ranks

    @cached_property
    def _group(self) -> TrunkGroup:
        """Text and teacher, opened when something has to be trained."""
        return TrunkGroup(list(self._trunks.values()), self._study, self._ranks)

    def run(self) -> list[dict[str, object]]:
        """The record of every fork."""
        spec, records = self._spec, []
        for tokens in spec.fork_tokens:
            arms, reached, noise = {}, {}, {}
            for trunk_arm in spec.trunk_arms:
                trunk = self._trunks[trunk_arm]
                fork = Fork(trunk=trunk, step=tokens // trunk.batch_tokens)
                reached[trunk_arm] = self._reach(fork)
                for arm in (loss for start, loss in spec.pairs if start == trunk_arm):
                    branches = branches_of(spec, fork, self._trunks[arm])
                    for branch in branches:
                        self._branch(branch)
                    arms[trunk_arm, arm] = branches
                    if spec.noise_batches:
                        noise[trunk_arm, arm] = self._noise(fork, self._trunks[arm])
            records.append(fork_record(spec, arms, reached, noise, self._study.path))
        return records

    def _reach(self, fork: Fork) -> dict[str, object]:
        if (known := fork_reached(fork, self._study.path)) is not None:
            return known
        with self._shown(fork.trunk, "trunk", fork.tokens) as report:
            return reach_fork(fork, self._group, report=report)

    def _branch(self, branch: Branch) -> None:
        if (branch.folder(self._study.path) / RESULT).exists():
            return
        name = f"x{branch.multiple:g}-order{branch.order}"
        with self._shown(branch.spec, name, branch.window) as report:
            result = run_branch(branch, self._group, report=report)
        if result["diverged"]:
            self._display.note(f"{branch.name} diverged, so this batch fails: {result['diverged']}")

    def _noise(self, fork: Fork, taught: TrunkSpec) -> dict[str, object]:
        batches = self._spec.noise_batches
        at_rest = Branch(fork=fork, spec=taught, window=taught.batch_tokens)
        if (file := noise_file(at_rest, self._study.path, batches)).exists():
            return read_json(file)
        with self._shown(taught, "noise", batches * taught.batch_tokens) as report:
            return fork_noise(at_rest, self._group, batches=batches, report=report)

    @contextmanager
    def _shown(self, spec: TrunkSpec, what: str, tokens: int) -> Iterator[Report]:
        """Progress of one piece of work, which Ctrl-C ends in an orderly way."""
        job = TrunkJob(trunk=replace(spec, label=f"{spec.label}-{what}", purpose="branch"), budgets=(tokens,))
        self._display.started(job, 0)

        def report(tokens: int, loss: float) -> None:
            self._display.progressed(job, tokens, loss if math.isfinite(loss) else None)

        with stoppable(report) as request:
            yield request
        self._display.finished(job)


PUBLISHED_TOLERANCE = 0.01
"""Nats per token (Merrill et al. 2025, arXiv 2505.23971)."""
GAIN_SHARE = 0.05
"""Of what the window gained: a tolerance without a unit, for losses that are learnt at unlike speeds."""
Pair = tuple[str, str]
"""(loss of the trunk, loss of its branches)."""


class BranchArm:
    """The finished branches of one loss from one fork."""

    def __init__(self, branches: Sequence[Branch], spec: BranchSpec, study: Path, *, before: float) -> None:
        self.spec, self.before, self._folders = spec, before, [branch.folder(study) for branch in branches]
        self.results = [finished_branch(folder) for folder in self._folders]
        self.multiples = tuple(batch / spec.single.batch_tokens for batch in spec.batches)
        self.heldout = self._table([_number(result["loss"]) for result in self.results])
        self.training = self._table(
            [
                math.nan if result["diverged"] else self._smoothed(step_losses(branch, study))
                for branch, result in zip(branches, self.results, strict=True)
            ]
        )

    @property
    def gain(self) -> float:
        """What the best batch gained over the window, nats per token; not positive where nothing was learnt."""
        return self.before - float(np.min(self.heldout.means))

    def tolerances(self) -> dict[str, float | None]:
        """The tolerances that decisions are made at, the one that was asked for first; None is the seed noise."""
        spec, found = self.spec, {}
        if spec.tolerance is not None:
            found["given"] = spec.tolerance
        if spec.orders > 1:
            found["seed-noise"] = None
        if spec.tolerance != PUBLISHED_TOLERANCE:
            found["merrill2025"] = PUBLISHED_TOLERANCE
        return found | ({"gain-share": GAIN_SHARE * self.gain} if 0 < self.gain < math.inf else {})

    def rows(self) -> list[dict[str, Any]]:
        """One per multiple."""
        found = []
        for i, k in enumerate(self.multiples):
            orders = self._of(self.results, i)
            found.append(
                {
                    "multiple": k,
                    **{key: orders[0][key] for key in ("batch_tokens", "rate", "steps")},
                    "loss": finite(float(np.mean(self.heldout.losses[i]))),
                    "losses": _finite_all(self.heldout.losses[i]),
                    "training_losses": _finite_all(self.training.losses[i]),
                    "diverged": sum(result["diverged"] is not None for result in orders),
                    "seconds": sum(float(result["seconds"]) for result in orders),
                }
            )
        return found

    def scores(self, i: int) -> list[DocumentScores]:
        """The held-out documents of a multiple's orders."""
        return [read_scores(folder / "heldout.parquet") for folder in self._of(self._folders, i)]

    def document_sums(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Loss sums of each document averaged over orders, shape (documents, multiples), and its tokens.

        Zeros stand for what diverged, of which nothing is asked.
        """
        every = {i: self.scores(i) for i, is_finite in enumerate(self.heldout.finite) if is_finite}
        tokens = next(iter(every.values()))[0].tokens
        sums = np.zeros((len(tokens), len(self.multiples)))
        for i, scores in every.items():
            sums[:, i] = np.mean([one.loss_sum for one in scores], axis=0)
        return sums, tokens

    def _smoothed(self, losses: list[float]) -> float:
        """Means over the text of one largest batch, so that all branches are smoothed alike, then Merrill's average."""
        blocks = np.array_split(np.array(losses), self.spec.window_tokens // self.spec.batches[-1])
        return smooth([float(block.mean()) for block in blocks if len(block)])

    def _of(self, items: list[Any], i: int) -> list[Any]:
        orders = self.spec.orders
        return items[i * orders : (i + 1) * orders]

    def _table(self, losses: list[float]) -> Branches:
        return Branches(multiples=self.multiples, losses=np.array(losses).reshape(-1, self.spec.orders))


def fork_record(
    spec: BranchSpec,
    branches: Mapping[Pair, Sequence[Branch]],
    reached: Mapping[str, Mapping[str, Any]],
    noise: Mapping[Pair, Mapping[str, object]],
    study: Path,
) -> dict[str, object]:
    """The record of one fork."""
    before = {arm: float(fork["loss"]) for arm, fork in reached.items()}
    arms = {pair: BranchArm(each, spec, study, before=before[pair[0]]) for pair, each in branches.items()}
    tokens = next(iter(reached.values()))["tokens"]
    return {
        "tokens": tokens,
        "trunks": list(reached.values()),
        "arms": [_arm_record(pair, arm, noise.get(pair)) for pair, arm in arms.items()],
        "comparisons": [_comparison(what, arms[a], arms[b], a, b) for what, a, b in _wanted(list(arms))],
    }


def _arm_record(pair: Pair, arm: BranchArm, noise: Mapping[str, object] | None) -> dict[str, object]:
    cov = clustered_cov(*arm.document_sums()) if arm.heldout.finite.any() else None
    tolerances = arm.tolerances()
    decisions = [_decision("heldout", arm, name, tolerance, cov) for name, tolerance in tolerances.items()]
    decisions += [
        _decision("training", arm, name, tolerance, None)
        for name, tolerance in tolerances.items()
        if name != "gain-share"
    ]
    rows, first = arm.rows(), decisions[0]
    for row, *answers in zip(rows, first["excess"], first["excess_interval"], first["fails"], strict=True):
        row |= dict(zip(("excess", "excess_interval", "fails"), answers, strict=True))
        row["gain_lost"] = None if "gain-share" not in tolerances or row["excess"] is None else row["excess"] / arm.gain
    return {
        "trunk": pair[0],
        "loss": pair[1],
        "before": arm.before,
        "rows": rows,
        "decisions": decisions,
        "noise_scale": None if noise is None else dict(noise),
    }


def _decision(
    loss: str, arm: BranchArm, name: str, tolerance: float | None, cov: NDArray[np.float64] | None
) -> dict[str, Any]:
    branches = arm.heldout if loss == "heldout" else arm.training
    if tolerance is None and not order_noise(branches).dof:  # nothing is left to measure the noise on
        name, tolerance = "merrill2025", PUBLISHED_TOLERANCE
    verdict = decide(branches, tolerance=tolerance, document_cov=cov, level=arm.spec.level)
    return {"loss": loss, "tolerance_from": name} | verdict_table(verdict, arm.spec.single.batch_tokens)


def verdict_table(verdict: BranchVerdict, batch_tokens: int) -> dict[str, Any]:
    """A verdict for JSON, with its batches in tokens; what is infinite or unknown is null."""
    low, high = verdict.interval
    return asdict(verdict) | {
        "status": verdict.status.name,
        "remedy": verdict.status.value,
        "critical_batch": None if verdict.between is None else verdict.between * batch_tokens,
        "critical_batch_interval": [low * batch_tokens, None if high is None else high * batch_tokens],
        "largest_passing": None if verdict.largest is None else verdict.largest * batch_tokens,
        "smallest_failing": None if verdict.fails_from is None else verdict.fails_from * batch_tokens,
        "excess": _finite_all(verdict.excess),
        "excess_interval": [_finite_all(ends) for ends in verdict.excess_interval],
        "noise": {"sd": finite(verdict.noise.sd), "dof": verdict.noise.dof},
    }


def _wanted(pairs: list[Pair]) -> list[tuple[str, Pair, Pair]]:
    """Supervised against distilled: from one checkpoint, and each from its own."""
    one = [
        (f"from the {trunk} checkpoint", (trunk, "supervised"), (trunk, "distilled"))
        for trunk in ("distilled", "supervised")
    ]
    own = [("each from its own checkpoint", ("supervised", "supervised"), ("distilled", "distilled"))]
    return [each for each in one + own if each[1] in pairs and each[2] in pairs]


def _comparison(what: str, first: BranchArm, second: BranchArm, a: Pair, b: Pair) -> dict[str, object]:
    """Distilled (second) against supervised (first)."""
    record: dict[str, object] = {"what": what, "supervised": list(a), "distilled": list(b)}
    if not (first.heldout.finite.any() and second.heldout.finite.any()):
        return record | {"decisions": [], "excess_difference": []}
    (sums_a, tokens), (sums_b, _) = first.document_sums(), second.document_sums()
    cov, level = clustered_cov(np.hstack([sums_a, sums_b]), tokens), first.spec.level
    decisions, others = [], second.tolerances()
    for name, own in first.tolerances().items():
        other = others.get(name)
        tolerance = None if own is None or other is None else (own, other)
        if tolerance is None and not (order_noise(first.heldout).dof and order_noise(second.heldout).dof):
            continue
        if name in others:
            found = compare(first.heldout, second.heldout, tolerance=tolerance, document_cov=cov, level=level)
            decisions.append({"tolerance_from": name} | _comparison_table(found, first.spec.single.batch_tokens))
    return record | {"decisions": decisions, "excess_difference": _differences(first, second, level)}


def _comparison_table(found: Comparison, batch_tokens: int) -> dict[str, Any]:
    own = found.tolerance if isinstance(found.tolerance, tuple) else (found.tolerance, found.tolerance)
    return {
        "batches": [multiple * batch_tokens for multiple in found.between],
        "doublings": found.doublings,
        "interval": list(found.interval),
        "larger": found.larger,
        "smaller": found.smaller,
        "word": found.word,
        "tolerances": list(own),
        "level": found.level,
    }


def _differences(first: BranchArm, second: BranchArm, level: float) -> list[dict[str, object]]:
    """What each batch costs over the smallest, distilled minus supervised, paired over orders and documents."""
    if not (first.heldout.finite[0] and second.heldout.finite[0]):
        return []
    rows: list[dict[str, object]] = []
    for i in range(1, len(first.multiples)):
        if not (first.heldout.finite[i] and second.heldout.finite[i]):
            continue
        costs = [_costs(arm.scores(i), arm.scores(0)) for arm in (second, first)]
        found = paired_over_seeds(list(zip(*costs, strict=True)))
        rows.append(
            {
                "multiple": first.multiples[i],
                "difference": found.mean,
                "se": found.se,
                "dof": found.dof,
                "interval": list(found.interval(level)),
            }
        )
    return rows


def _costs(scores: list[DocumentScores], smallest: list[DocumentScores]) -> list[DocumentScores]:
    """What a batch costs over the smallest, by order and document."""
    pairs = zip(scores, smallest, strict=True)
    return [replace(one, loss_sum=one.loss_sum - start.loss_sum) for one, start in pairs]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _finite_all(values: Sequence[float] | NDArray[np.float64]) -> list[float | None]:
    return [finite(float(value)) for value in values]
