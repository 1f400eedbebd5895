"""The loop of a settlement: decide a stage, write it down, run it, look; until it is settled or nothing is left.

Everything is recomputed from settle.json and the runs, so a call after a kill or an interrupt goes on where it was.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distillaw.cli.display import GrowingDisplay
from distillaw.cli.settle_options import SettleSpec
from distillaw.cli.settle_record import Record, check_folder, continue_record, stages_of
from distillaw.cli.settle_setup import SearchPlan, Setting, affordable_searches, open_setting, search_flops
from distillaw.cli.settle_verdict import verdict_json
from distillaw.cli.settle_words import finite, look, rate_words
from distillaw.data.prepare import check_home
from distillaw.errors import ConfigError
from distillaw.quantities import format_flop
from distillaw.runs.files import write_json
from distillaw.runs.places import GENERATOR
from distillaw.runs.store import StudyFolder
from distillaw.settling.design import next_stage
from distillaw.settling.question import PilotRun, Question, Stage
from distillaw.settling.standing import Standing, standing
from distillaw.sweep.executor import LocalExecutor
from distillaw.sweep.holding import hold_study
from distillaw.sweep.pilots import Pilots, Train, Tuned
from distillaw.sweep.scheduler import Scheduler
from distillaw.sweep.study import check_disk, clear_failures


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Where a settlement ended, and how it came there."""

    setting: Setting
    question: Question
    tuned: Tuned
    stages: Sequence[Stage]
    runs: Sequence[PilotRun]
    history: Sequence[Standing]
    """After each stage; of nothing but beliefs where there was none."""
    is_final: bool
    """Whether nothing more would be run."""

    @property
    def now(self) -> Standing:
        """The last look."""
        return self.history[-1]


def settle_in(
    spec: SettleSpec, folder: Path, *, workers: int, display: GrowingDisplay, command: str
) -> Settled:
    """Run pilots until the question is settled, or no affordable stage would settle it.

    Args:
        spec: the question.
        folder: an ordinary study folder; created if need be.
        workers: processes, one core each.
        display: told about every job and every look.
        command: how the user called, for the record.

    Raises:
        ConfigError, DataError, CacheError, VocabularyError: before anything is trained.
        RunError: a pilot failed, training without a teacher diverged, or another process works on the folder.
    """
    check_home(spec.data, folder)
    study = StudyFolder(folder.resolve())
    with hold_study(study, display.note) as claim:
        check_folder(folder, spec)
        clear_failures(study)
        with Scheduler(study, LocalExecutor(study, workers), display=display, claim=claim) as scheduler:
            setting = open_setting(spec, study, display, command)
            record = continue_record(folder, setting, choose_search)
            record.save(folder)
            return _Loop(setting, record, folder, scheduler.run, display).run()


def choose_search(setting: Setting) -> SearchPlan:
    """The best search that leaves the budget a pilot.

    Raises:
        ConfigError: the budget buys no pilot even without a search.
    """
    for plan in affordable_searches(setting)[:-1]:
        with contextlib.suppress(
            ConfigError
        ):  # no pilot is left after the search: without it there may be one
            if first_stage(setting, plan) is not None:
                return plan
    first_stage(setting, SearchPlan())
    return SearchPlan()


def first_stage(setting: Setting, search: SearchPlan) -> Stage | None:
    """The first stage if the search takes what it usually does.

    Raises:
        ConfigError: the budget buys no pilot.
    """
    return next_stage(replace(setting.question, spent=search_flops(setting, search)), [], [])


class _Loop:
    """One call of `settle`."""

    def __init__(
        self, setting: Setting, record: Record, folder: Path, train: Train, display: GrowingDisplay
    ) -> None:
        self._setting, self._record, self._folder = setting, record, folder
        self._train, self._display = train, display
        self._pilots: Pilots = setting.with_search(record.search)
        self._runs: list[PilotRun] = []
        self._history: list[Standing] = []

    def run(self) -> Settled:
        """Go on until there is nothing more to do."""
        tuned = self._tune()
        question = self._setting.tuned_question(tuned)
        for stage in stages_of(self._record):
            self._run_stage(stage, question, tuned)
        while (stage := next_stage(question, stages_of(self._record), self._runs)) is not None:
            believed = belief_json(self._history[-1]) if self._history else {}
            self._record = self._record.with_stage(stage, believed)
            self._record.save(self._folder)
            self._run_stage(stage, question, tuned)
        return self._settled(question, tuned, is_final=True)

    def _settled(self, question: Question, tuned: Tuned, *, is_final: bool) -> Settled:
        """Where it stands, also written to verdict.json: what is said is valid whenever one stops."""
        history = self._history or [standing(question, [], [])]
        settled = Settled(
            setting=self._setting, question=question, tuned=tuned, history=history, runs=tuple(self._runs),
            stages=stages_of(self._record)[: len(self._history)], is_final=is_final,
        )  # fmt: skip
        write_json(self._folder / "verdict.json", {"generator": GENERATOR, **verdict_json(settled)})
        return settled

    def _tune(self) -> Tuned:
        has_search = self._record.search.tokens > 0
        if has_search:
            self._display.expect(self._pilots.search_left().tokens)
        else:
            self._display.note(
                f"no search for a learning rate: it would cost more than the budget has to spare; "
                f"{self._pilots.spec.peak_lr:g} is used with and without a teacher"
            )
        tuned = self._pilots.search(self._train)
        write_json(self._folder / "tuning.json", tuned.tuning)
        if has_search:
            self._display.note(
                f"rates: {rate_words(tuned, 'supervised')} without a teacher, {rate_words(tuned, 'distilled')} with "
                f"one; batch {tuned.batch_tokens} tokens; {format_flop(tuned.flops)}"
            )
        return tuned

    def _run_stage(self, stage: Stage, question: Question, tuned: Tuned) -> None:
        """Train what a stage lacks, read it, look, and say so."""
        cost = self._pilots.cost(self._pilots.missing(self._pilots.jobs(stage, tuned)))
        check_disk(self._folder, cost.disk_bytes)
        self._display.expect(cost.tokens)
        self._pilots.run(stage, tuned, self._train)
        known = {run.run_id for run in self._runs}
        self._runs += [run for run in self._pilots.results(stage, tuned) if run.run_id not in known]
        done = stages_of(self._record)[: len(self._history) + 1]
        now = standing(question, done, self._runs)
        self._history.append(now)
        self._write_table(tuned)
        self._settled(question, tuned, is_final=False)
        self._display.note(look(question, stage, now, number=len(self._history)))

    def _write_table(self, tuned: Tuned) -> None:
        purposes = dict.fromkeys(tuned.run_ids, "tuning") | {run.run_id: "grid" for run in self._runs}
        self._pilots.study.write_table(purposes)


def belief_json(now: Standing) -> Mapping[str, object]:
    """What is believed before a stage: gains and losses at the target, who leads, what is at stake."""
    return {
        "gains": {name: gain.to_json() for name, gain in now.gains.items()},
        "losses": {name or "none": loss.to_json() for name, loss in now.losses.items()},
        "leader": now.leader or "none", "regret_bound": finite(now.regret), "dropped": dict(now.dropped),
    }  # fmt: skip
