"""A branch test from its spec to branch.json: trunks to their forks, branches, noise scales, decisions.

    distillaw branch run.toml --out out/branch --multiples 1,2,4,8 --orders 3

One process. What is finished is never done again, so more multiples or orders cost only themselves.
"""

import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from distillaw.data.prepare import check_home, prepare_data, require_tokens
from distillaw.errors import ConfigError, RunError
from distillaw.runs.branch import Branch, Fork
from distillaw.runs.files import read_json, write_json
from distillaw.runs.lock import held
from distillaw.runs.spec import TrunkSpec
from distillaw.runs.store import StudyFolder
from distillaw.sweep.branch_record import fork_record
from distillaw.sweep.branch_spec import BranchSpec, branches_of, planned_trunks
from distillaw.sweep.here import set_threads, stoppable
from distillaw.sweep.jobs import Job
from distillaw.sweep.outcome import Display
from distillaw.sweep.single import single_job
from distillaw.train.checkpoint import saved_step
from distillaw.train.fork import RESULT, fork_noise, fork_reached, noise_file, reach_fork, run_branch
from distillaw.train.group import TrunkGroup
from distillaw.train.loop import Report
from distillaw.train.parallel import Ranks, join_ranks, keep_freed_memory, launched
from distillaw.version import __version__

RECORD = "branch.json"


def branch_test(spec: BranchSpec, folder: Path, *, display: Display, command: str) -> dict[str, object]:
    """Run what a branch test still lacks, decide, and write branch.json.

    Args:
        spec: the test.
        folder: for tokens, checkpoints and branches; that of `distillaw train` of the same file serves as well.
        display: told about progress.
        command: how the user called, for the record.

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
    with join_ranks("ddp") as ranks, held(study.path, f"the folder {folder}"):
        disable_progress_bar()
        keep_freed_memory()
        store = prepare_data(spec.single.data, study.data, say=display.note)
        own = single_job(spec.single, study, store, ranks, display, command).trunk
        spec = _at_known_tokens(spec, study, own)
        require_tokens(store, {"student": spec.fork_tokens[-1] + spec.window_tokens},
                       context=spec.single.training.context)  # fmt: skip
        set_threads(ranks, own.total_params)
        forks = _Test(spec, study, planned_trunks(spec, own), display, ranks).run()
        record: dict[str, object] = {
            "command": command, "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "version": __version__,
            "machine": {"cores": os.cpu_count(), "platform": platform.platform()},
            "run": {"name": spec.single.name, "params": own.params, "total_params": own.total_params,
                    "teacher": spec.single.teacher or spec.single.targets or None, "seed": own.seed,
                    "batch_tokens": own.batch_tokens, "peak_lr": own.peak_lr, "data_hash": store.data_hash},
            "test": _test_table(spec), "forks": forks,
        }  # fmt: skip
        write_json(study.path / RECORD, record)
    return record


def _at_known_tokens(spec: BranchSpec, study: StudyFolder, own: TrunkSpec) -> BranchSpec:
    """The test with the tokens of the checkpoint that it forks at."""
    if not spec.at_checkpoint:
        return spec
    step = saved_step(study.trunk(own.trunk_id) / "state")
    if step < 0:
        others = sorted(
            path.name for path in (study.path / "trunks").glob("*") if saved_step(path / "state") >= 0
        )
        raise RunError(
            f"{study.path}: no checkpoint of {own.trunk_id} to fork at; there is "
            + (", ".join(others) if others else "none at all")
            + ". `distillaw train` with the same file and folder leaves one; or give --at TOKENS"
        )
    found = replace(spec, at_checkpoint=False, at=(step * own.batch_tokens,))
    found.check()
    return found


def _test_table(spec: BranchSpec) -> dict[str, object]:
    recipe = spec.single.training
    return {
        "multiples": [k / spec.single.batch_tokens for k in spec.batches], "orders": spec.orders,
        "window": spec.window_tokens, "anneal": spec.anneal, "rate_rule": spec.rate_rule or recipe.rate_rule,
        "beta_rule": spec.beta_rule or recipe.beta_rule, "decay_rule": spec.decay_rule or recipe.decay_rule,
        "pairs": [list(pair) for pair in spec.pairs], "tolerance": spec.tolerance,
        "level": spec.level, "training": asdict(recipe),
    }  # fmt: skip


class _Test:
    """One call: what is missing is trained, in order."""

    def __init__(
        self,
        spec: BranchSpec,
        study: StudyFolder,
        trunks: Mapping[str, TrunkSpec],
        display: Display,
        ranks: Ranks,
    ) -> None:
        self._spec, self._study, self._trunks, self._display, self._ranks = (
            spec,
            study,
            trunks,
            display,
            ranks,
        )

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
        job = Job(trunk=replace(spec, label=f"{spec.label}-{what}", purpose="branch"), budgets=(tokens,))
        self._display.started(job, 0)

        def report(tokens: int, loss: float) -> None:
            self._display.progressed(job, tokens, loss if math.isfinite(loss) else None)

        with stoppable(report) as request:
            yield request
        self._display.finished(job)
