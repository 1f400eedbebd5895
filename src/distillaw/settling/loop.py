"""The loop of a settlement: decide a stage, write it down, run it, look; until it is settled or nothing is left.

Everything is recomputed from settle.json and the runs, so a call after a kill or an interrupt goes on where it was. A
dry run says what would come next and could come at most; it trains nothing.

settle.json holds the question, the search, and every stage as it was decided, written before the stage runs.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from distillaw.data.prepare import check_home
from distillaw.errors import CacheError, ConfigError
from distillaw.quantities import format_flop
from distillaw.runs.config import from_table
from distillaw.runs.files import as_read, read_json, require_space, write_json
from distillaw.runs.lock import held
from distillaw.runs.places import GENERATOR
from distillaw.runs.spec import NO_PART, Recipe
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
from distillaw.sweep.scheduler import Display, Scheduler, hold_study
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
    """What a settlement has decided so far: settle.json."""

    question: Mapping[str, object]
    """What may not change."""
    budget: float
    search: SearchPlan
    stages: tuple[Planned, ...] = ()
    rates: str = RATES
    """What determines the pilots' rates, so that no other pilots are taken for those that were run."""

    @property
    def decided(self) -> list[Stage]:
        """The stages alone."""
        return [planned.stage for planned in self.stages]


def identity(spec: SettleSpec, setting: Setting | None = None) -> dict[str, object]:
    """What makes it the same question, as JSON gives it back; before the text is there, as far as the file says."""
    found: dict[str, object] = {
        "target": asdict(spec.target),
        "level": spec.settle.level,
        "least_params": spec.settle.least_params,
        "training": {name: value for name, value in asdict(spec.training).items() if name not in NO_PART},
        "batch_tokens": spec.batch_tokens,
        "peak_lr": spec.peak_lr,
        "seed": spec.seed,
    }
    if setting is not None:
        prints, teachers = setting.pilots.facts.fingerprints, setting.pilots.spec.teachers
        found = {"text": setting.store_hash, "teachers": {t.label: prints[t.source] for t in teachers}, **found}
    return as_read(found)


def check_folder(folder: Path, spec: SettleSpec) -> None:
    """Refuse a folder that holds something else, before text is prepared or a teacher scored.

    Raises:
        ConfigError: a study that is no settlement, or one of another question.
        CacheError: settle.json is damaged.
    """
    record = read_record(folder)
    if record is not None:
        _compare(folder, record.question, identity(spec))
    elif (folder / "runs").exists():
        raise ConfigError(f"{folder} holds runs of something else; choose another folder with --out")


def continue_record(folder: Path, setting: Setting) -> SettleRecord:
    """The record of the folder with the present budget, or a new one, whose search is chosen.

    Raises:
        ConfigError: the question changed, or the budget shrank.
    """
    asked, budget = identity(setting.spec, setting), setting.question.budget
    record = read_record(folder)
    if record is None:
        return SettleRecord(question=asked, budget=budget, search=choose_search(setting))
    _compare(folder, record.question, asked)
    if budget < record.budget * (1 - 1e-9):
        raise ConfigError(
            f"{folder} was begun with a budget of {format_flop(record.budget)}, now {format_flop(budget)}: "
            "its stages were chosen for that one. Give as much or more, or another folder with --out"
        )
    return replace(record, budget=budget)


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
        record = from_table(SettleRecord, table, str(file))
        # settings that came after the record was written had their defaults
        training = as_read(asdict(Recipe())) | record.question["training"]
        training = {name: value for name, value in training.items() if name not in NO_PART}
        return replace(record, question={**record.question, "training": training})
    except (ConfigError, KeyError, TypeError) as error:
        raise CacheError(f"{file}: damaged ({error}); choose another folder with --out") from error


def choose_search(setting: Setting) -> SearchPlan:
    """The best search that leaves the budget a pilot.

    Raises:
        ConfigError: the budget buys no pilot even without a search.
    """

    def first_stage(plan: SearchPlan) -> Stage | None:
        """If the search takes what it usually does."""
        return next_stage(replace(setting.question, spent=search_flops(setting, plan)), [], [])

    *plans, none = affordable_searches(setting)
    for plan in plans:
        with contextlib.suppress(ConfigError):  # no pilot is left after the search: without it there may be one
            if first_stage(plan) is not None:
                return plan
    first_stage(none)
    return none


def settle_in(spec: SettleSpec, folder: Path, *, workers: int, display: Display, command: str) -> Settled:
    """Run pilots until the question is settled, or no affordable stage would settle it.

    Args:
        folder: an ordinary study folder; created if need be.
        workers: processes, one core each.
        display: told about every job and every look.

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
            record = continue_record(folder, setting)
            return _Loop(setting, record, folder, scheduler.run, display).run()


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
        write_json(self._folder / FILE, asdict(self._record))
        tuned = self._tune()
        question = self._setting.tuned_question(tuned)
        for stage in self._record.decided:
            self._run_stage(stage, question, tuned)
        while (stage := next_stage(question, self._record.decided, self._runs)) is not None:
            planned = Planned(stage=stage, believed=belief_json(self._history[-1]) if self._history else {})
            self._record = replace(self._record, stages=(*self._record.stages, planned))
            write_json(self._folder / FILE, asdict(self._record))
            self._run_stage(stage, question, tuned)
        return self._settled(question, tuned, is_final=True)

    def _settled(self, question: PilotQuestion, tuned: Tuned, *, is_final: bool) -> Settled:
        """Where it stands, also written to verdict.json: what is said is valid whenever one stops."""
        settled = Settled(
            setting=self._setting,
            question=question,
            tuned=tuned,
            history=self._history or [standing(question, [], [])],
            runs=tuple(self._runs),
            stages=self._record.decided[: len(self._history)],
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
        now = standing(question, self._record.decided[: len(self._history) + 1], self._runs)
        self._history.append(now)
        purposes = dict.fromkeys(tuned.run_ids, "tuning") | {run.run_id: "grid" for run in self._runs}
        self._pilots.study.write_table({(run_id, "fresh"): purpose for run_id, purpose in purposes.items()})
        self._settled(question, tuned, is_final=False)
        self._display.note(look(question, stage, now, number=len(self._history)))


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
        record = continue_record(folder, setting)
        pilots = setting.with_search(record.search)
        tuned, search = pilots.foreseen(), pilots.search_left()
        question = setting.tuned_question(tuned)  # a search that is still to come counts as spent
        done, stage = _next(pilots, question, tuned, record.decided)
        cost = None if stage is None else pilots.cost(pilots.missing(pilots.jobs(stage, tuned)))
    spent = question.spent + sum(stage_flops(question, one) for one in done)
    plan = {"tokens": record.search.tokens, "horizon_tokens": record.search.horizon or None}
    found: dict[str, object] = {
        "folder": str(folder),
        "target_compute": question.target_flops,
        "budget": question.budget,
        "share_of_target": question.budget / question.target_flops,
        "margin": question.margin,
        "level": question.level,
        "teachers": [{"name": c.name, "loss": c.loss, "flops_per_token": c.flops} for c in question.candidates],
        "sizes": [{"size": s.label, "params": s.params, "training_flops_per_token": s.flops} for s in question.sizes],
        "has_search": bool(record.search.tokens),
        "search": {**plan, **_cost(search, workers)} if search.jobs else None,
        "stages_done": len(done),
        "compute_spent": spent - (search.flops if search.jobs else 0.0),
        "next_stage": None,
        "later_stages": None,
    }
    if stage is None or cost is None:
        return found
    flops = stage_flops(question, stage)
    left = max(0.0, question.budget - spent - flops)
    # at most: all rungs that the rest would pay for, and the largest pilot that all of it would buy with one teacher
    rungs = rungs_ahead(question, [*done, stage], stage.candidates, left)
    costs = [pilots.cost(pilots.jobs(rung, tuned)) for rung in rungs]
    cheapest = min(stage.candidates, key=lambda name: question.candidate(name).flops)
    largest = nearest_stage(question, (cheapest,), left, 1)
    row = {
        "sizes": list(stage.labels),
        "student_params": question.size(stage.size).params,
        "tokens": list(stage.tokens),
        "teachers": list(stage.candidates),
        "seeds": list(stage.seeds),
        "is_begun": len(done) < len(record.stages),
        **_cost(cost, workers),
        "compute": min(flops, cost.flops),
    }
    later = {
        "compute": left,
        "seconds": sum(cost.wall_seconds(workers) for cost in costs),
        "disk_bytes": sum(cost.disk_bytes for cost in costs),
        "largest_size": None if largest is None else largest.size,
    }
    return found | {"next_stage": row, "later_stages": later}


def _next(
    pilots: Pilots, question: PilotQuestion, tuned: Tuned, decided: list[Stage]
) -> tuple[list[Stage], Stage | None]:
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
