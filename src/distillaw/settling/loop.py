"""The loop of a settlement: decide a stage, write it down, run it, look; until it is settled or nothing is left.

Everything is recomputed from settle.json and the runs, so a call after a kill or an interrupt goes on where it was. A
dry run says what would come next and could come at most; it trains nothing.

settle.json holds the question, the search, and every stage as it was decided, written before the stage runs.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from distillaw.data.prepare import check_home
from distillaw.errors import CacheError, ConfigError
from distillaw.quantities import format_flop
from distillaw.runs.config import from_table
from distillaw.runs.files import read_json, require_space, write_json
from distillaw.runs.lock import held
from distillaw.runs.places import GENERATOR
from distillaw.runs.spec import Recipe
from distillaw.runs.store import StudyFolder
from distillaw.settling.design import nearest_stage, next_stage, rungs_ahead
from distillaw.settling.pilots import Pilots, Train, Tuned
from distillaw.settling.question import PilotQuestion, PilotRun, Stage, stage_flops
from distillaw.settling.setting import SearchPlan, Setting, affordable_searches, open_setting, search_flops
from distillaw.settling.spec import SettleSpec
from distillaw.settling.standing import Standing, standing
from distillaw.settling.verdict import Settled, belief_json, look, rate_words, verdict_json
from distillaw.sweep.cost import StudyCost
from distillaw.sweep.executor import LocalExecutor
from distillaw.sweep.holding import hold_study
from distillaw.sweep.scheduler import Display, Scheduler
from distillaw.sweep.study import clear_failures

FILE = "settle.json"
RATES = "constant, for each budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A stage, and what was believed when it was decided."""

    stage: Stage
    believed: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleRecord:
    """What a settlement has decided so far."""

    question: Mapping[str, object]
    """What may not change."""
    budget: float
    search: SearchPlan
    stages: tuple[Planned, ...] = ()
    rates: str = RATES
    """What determines the pilots' rates, so that no other pilots are taken for those that were run."""

    def with_stage(self, stage: Stage, believed: Mapping[str, object]) -> "SettleRecord":
        """One stage more."""
        return replace(self, stages=(*self.stages, Planned(stage=stage, believed=believed)))

    def save(self, folder: Path) -> None:
        """Write settle.json, atomically."""
        write_json(folder / FILE, asdict(self))


def identity(setting: Setting) -> dict[str, object]:
    """What makes it the same question: whatever pilots or their meaning depend on."""
    spec, engine = setting.spec, setting.pilots.spec
    teachers = {t.label: setting.pilots.facts.fingerprints[t.source] for t in engine.teachers}
    return {"text": setting.store_hash, "teachers": teachers, **_settings(spec)}


def _settings(spec: SettleSpec) -> dict[str, object]:
    assert spec.target is not None
    return {
        "target": asdict(spec.target),
        "level": spec.settle.level,
        "least_params": spec.settle.least_params,
        "training": _as_json(spec.training),
        "batch_tokens": spec.batch_tokens,
        "peak_lr": spec.peak_lr,
        "seed": spec.seed,
    }


def _as_json(training: Recipe) -> dict[str, object]:
    """As a file gives it back: tuples are lists there."""
    return {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(training).items()}


def check_folder(folder: Path, spec: SettleSpec) -> None:
    """Refuse a folder that holds something else, before text is prepared or a teacher scored.

    Raises:
        ConfigError: a study that is no settlement, or one of another question.
        CacheError: settle.json is damaged.
    """
    record = read_record(folder)
    if record is None:
        if (folder / "runs").exists():
            raise ConfigError(f"{folder} holds runs of something else; choose another folder with --out")
        return
    _compare(folder, record.question, _settings(spec))


def continue_record(folder: Path, setting: Setting, choose: Callable[[Setting], SearchPlan]) -> SettleRecord:
    """The record of the folder with the present budget, or a new one, whose search is chosen.

    Raises:
        ConfigError: the question changed, or the budget shrank.
    """
    asked, question = identity(setting), setting.question
    record = read_record(folder)
    if record is None:
        return SettleRecord(question=asked, budget=question.budget, search=choose(setting))
    _compare(folder, record.question, asked)
    if question.budget < record.budget * (1 - 1e-9):
        raise ConfigError(
            f"{folder} was begun with a budget of {format_flop(record.budget)}, now {format_flop(question.budget)}: "
            "its stages were chosen for that one. Give as much or more, or another folder with --out"
        )
    return replace(record, budget=question.budget)


def _compare(folder: Path, old: Mapping[str, object], new: Mapping[str, object]) -> None:
    changed = [name for name, value in new.items() if old.get(name) != value]
    if not changed:
        return
    was = "; ".join(_difference(name, old.get(name), new[name]) for name in changed)
    raise ConfigError(
        f"{folder} settles another question: {was}. Only the margin may change, and the budget upwards; choose another "
        "folder with --out"
    )


def _difference(name: str, old: object, new: object) -> str:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return f"{name} was {old}, now {new}"
    if name == "teachers" and old.keys() != new.keys():
        return f"teachers were {', '.join(old)}, now {', '.join(new)}"
    keys = [key for key in new if old.get(key) != new[key]]
    return ", ".join(f"{name} {key} was {old.get(key)}, now {new[key]}" for key in keys)


def read_record(folder: Path) -> SettleRecord | None:
    """The record of a folder, None where there is none.

    Raises:
        CacheError: damaged.
        ConfigError: of an earlier version.
    """
    file = folder / FILE
    if not file.exists():
        return None
    table = read_json(file)
    if table.get("rates") != RATES:
        raise ConfigError(
            f"{file} is an earlier version's, whose pilots had other learning rates: all would be trained again. "
            "Its answer stands in verdict.json; for a new one choose another folder with --out"
        )
    try:
        planned = [_planned(row) for row in list(table["stages"])]
        question = dict(table["question"])
        # settings that came after the record was written had their defaults
        question["training"] = _as_json(Recipe()) | dict(question["training"])
        return SettleRecord(
            question=question,
            budget=float(table["budget"]),
            stages=tuple(planned),
            search=from_table(SearchPlan, table["search"], "search"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(f"{file}: damaged ({error}); choose another folder with --out") from error


def _planned(row: Mapping[str, object]) -> Planned:
    believed = row["believed"]
    assert isinstance(believed, dict)
    return Planned(stage=from_table(Stage, row["stage"], "stage"), believed=believed)


def stages_of(record: SettleRecord) -> list[Stage]:
    """The stages alone."""
    return [planned.stage for planned in record.stages]


def settle_in(spec: SettleSpec, folder: Path, *, workers: int, display: Display, command: str) -> Settled:
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
        with contextlib.suppress(ConfigError):  # no pilot is left after the search: without it there may be one
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

    def __init__(self, setting: Setting, record: SettleRecord, folder: Path, train: Train, display: Display) -> None:
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

    def _settled(self, question: PilotQuestion, tuned: Tuned, *, is_final: bool) -> Settled:
        """Where it stands, also written to verdict.json: what is said is valid whenever one stops."""
        history = self._history or [standing(question, [], [])]
        settled = Settled(
            setting=self._setting,
            question=question,
            tuned=tuned,
            history=history,
            runs=tuple(self._runs),
            stages=stages_of(self._record)[: len(self._history)],
            is_final=is_final,
        )
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
            alone, taught = (rate_words(check) for check in tuned.rates)
            self._display.note(
                f"rates: {alone} without a teacher, {taught} with one; batch {tuned.batch_tokens} tokens; "
                f"{format_flop(tuned.flops)}"
            )
        return tuned

    def _run_stage(self, stage: Stage, question: PilotQuestion, tuned: Tuned) -> None:
        """Train what a stage lacks, read it, look, and say so."""
        cost = self._pilots.cost(self._pilots.missing(self._pilots.jobs(stage, tuned)))
        require_space(self._folder, cost.disk_bytes)
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
        self._pilots.study.write_table({(run_id, "fresh"): purpose for run_id, purpose in purposes.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ahead:
    """What is still to be run."""

    pilots: Pilots
    tuned: Tuned
    question: PilotQuestion
    """What the search costs is spent."""
    search: StudyCost | None
    """What is left of it; None where there is none, or it is over."""
    done: Sequence[Stage]
    stage: Stage | None
    """The next, or the one that was interrupted; None: nothing more would be run."""
    cost: StudyCost | None
    """Of what is left of it."""

    @property
    def spent(self) -> float:
        """FLOP, a search that is still to come included."""
        return self.question.spent + sum(stage_flops(self.question, stage) for stage in self.done)


def preview(spec: SettleSpec, folder: Path, *, workers: int, display: Display, command: str) -> dict[str, object]:
    """Prepare the text, score the teachers (both are kept in the folder), and say what would follow.

    Raises:
        DistillawError: whatever `settle` would refuse before it trains.
    """
    check_home(spec.data, folder)
    with held(folder, f"the folder {folder}"):
        check_folder(folder, spec)
        clear_failures(StudyFolder(folder))  # they would be tried again
        setting = open_setting(spec, StudyFolder(folder), display, command)
        record = continue_record(folder, setting, choose_search)
        ahead = _look_ahead(setting, record)
    question, search = ahead.question, record.search
    return {
        "folder": str(folder),
        "target_compute": question.target_flops,
        "budget": question.budget,
        "share_of_target": question.budget / question.target_flops,
        "margin": question.margin,
        "level": question.level,
        "teachers": [{"name": c.name, "loss": c.loss, "flops_per_token": c.flops} for c in question.candidates],
        "sizes": [{"size": s.label, "params": s.params, "training_flops_per_token": s.flops} for s in question.sizes],
        "has_search": bool(search.tokens),
        "search": None
        if ahead.search is None
        else {
            "tokens": search.tokens,
            "horizon_tokens": search.horizon or None,
            **_cost(ahead.search, workers),
        },
        "stages_done": len(ahead.done),
        "compute_spent": ahead.spent - (ahead.search.flops if ahead.search else 0.0),
        "next_stage": _stage(ahead, len(record.stages), workers),
        "later_stages": _later(ahead, workers),
    }


def _look_ahead(setting: Setting, record: SettleRecord) -> _Ahead:
    """Where the folder stands: a search that is still to be run stays where it is."""
    pilots = setting.with_search(record.search)
    tuned, left = pilots.foreseen(), pilots.search_left()
    search = left if left.jobs else None
    question = setting.tuned_question(tuned)
    done, stage = _next(pilots, question, tuned, stages_of(record))
    cost = None if stage is None else pilots.cost(pilots.missing(pilots.jobs(stage, tuned)))
    return _Ahead(pilots=pilots, tuned=tuned, question=question, search=search, done=done, stage=stage, cost=cost)


def _next(
    pilots: Pilots, question: PilotQuestion, tuned: Tuned, decided: Sequence[Stage]
) -> tuple[Sequence[Stage], Stage | None]:
    """Stages that have run, and what comes next: the first that was interrupted, or a new one."""
    runs: dict[str, PilotRun] = {}
    for number, stage in enumerate(decided):
        if pilots.missing(pilots.jobs(stage, tuned)):
            return decided[:number], stage
        runs |= {run.run_id: run for run in pilots.results(stage, tuned)}
    return decided, next_stage(question, decided, list(runs.values()))


def _cost(cost: StudyCost, workers: int) -> dict[str, object]:
    return {
        "runs": cost.num_runs,
        "compute": cost.flops,
        "seconds": cost.wall_seconds(workers),
        "disk_bytes": cost.disk_bytes,
    }


def _stage(ahead: _Ahead, decided: int, workers: int) -> dict[str, object] | None:
    question, stage, cost = ahead.question, ahead.stage, ahead.cost
    if stage is None or cost is None:
        return None
    return {
        "sizes": list(stage.labels),
        "student_params": question.size(stage.size).params,
        "tokens": list(stage.tokens),
        "teachers": list(stage.candidates),
        "seeds": list(stage.seeds),
        "is_begun": len(ahead.done) < decided,
        **_cost(cost, workers),
        "compute": min(stage_flops(question, stage), cost.flops),
    }


def _later(ahead: _Ahead, workers: int) -> dict[str, object] | None:
    """At most: all stages that what is left of the budget would pay for.

    The largest pilot is the one that all of it would buy with one teacher left.
    """
    question, stage = ahead.question, ahead.stage
    if stage is None:
        return None
    left = max(0.0, question.budget - ahead.spent - stage_flops(question, stage))
    rungs = rungs_ahead(question, [*ahead.done, stage], stage.candidates, left)
    costs = [ahead.pilots.cost(ahead.pilots.jobs(rung, ahead.tuned)) for rung in rungs]
    cheapest = min(stage.candidates, key=lambda name: question.candidate(name).flops)
    largest = nearest_stage(question, (cheapest,), left, 1)
    return {
        "compute": left,
        "seconds": sum(cost.wall_seconds(workers) for cost in costs),
        "disk_bytes": sum(cost.disk_bytes for cost in costs),
        "largest_size": None if largest is None else largest.size,
    }
