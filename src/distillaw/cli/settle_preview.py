"""What a settlement would do next and could do at most; nothing is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distillaw.cli.display import GrowingDisplay
from distillaw.cli.settle_options import SettleSpec
from distillaw.cli.settle_record import Record, check_folder, continue_record, stages_of
from distillaw.cli.settle_run import choose_search
from distillaw.cli.settle_setup import Setting, open_setting
from distillaw.data.prepare import check_home
from distillaw.runs.lock import held
from distillaw.runs.store import StudyFolder
from distillaw.settling.design import nearest_stage, next_stage, rungs_ahead
from distillaw.settling.question import PilotRun, Question, Stage, stage_flops
from distillaw.sweep.cost import StudyCost
from distillaw.sweep.pilots import Pilots, Tuned
from distillaw.sweep.study import clear_failures


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ahead:
    """What is still to be run."""

    pilots: Pilots
    tuned: Tuned
    question: Question
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


def preview(
    spec: SettleSpec, folder: Path, *, workers: int, display: GrowingDisplay, command: str
) -> dict[str, object]:
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
        "folder": str(folder), "target_compute": question.target_flops, "budget": question.budget,
        "share_of_target": question.budget / question.target_flops, "margin": question.margin,
        "level": question.level,
        "teachers": [{"name": c.name, "loss": c.loss, "flops_per_token": c.flops} for c in question.candidates],
        "sizes": [{"size": s.label, "params": s.params, "training_flops_per_token": s.flops} for s in question.sizes],
        "has_search": bool(search.tokens),
        "search": None if ahead.search is None else {
            "tokens": search.tokens, "horizon_tokens": search.horizon or None, **_cost(ahead.search, workers)},
        "stages_done": len(ahead.done), "compute_spent": ahead.spent - (ahead.search.flops if ahead.search else 0.0),
        "next_stage": _stage(ahead, len(record.stages), workers), "later_stages": _later(ahead, workers),
    }  # fmt: skip


def _look_ahead(setting: Setting, record: Record) -> _Ahead:
    """Where the folder stands: a search that is still to be run takes what it usually does."""
    pilots, spec = setting.with_search(record.search), setting.spec
    tuned, search = pilots.searched(), None
    if tuned is None:
        search, whole = pilots.search_left(), pilots.usual_search()
        tuned = Tuned.fixed(spec.peak_lr, spec.batch_tokens, flops=whole.flops)
    question = setting.tuned_question(tuned)
    done, stage = _next(pilots, question, tuned, stages_of(record))
    cost = None if stage is None else pilots.cost(pilots.missing(pilots.jobs(stage, tuned)))
    return _Ahead(
        pilots=pilots, tuned=tuned, question=question, search=search, done=done, stage=stage, cost=cost
    )


def _next(
    pilots: Pilots, question: Question, tuned: Tuned, decided: Sequence[Stage]
) -> tuple[Sequence[Stage], Stage | None]:
    """Stages that have run, and what comes next: the first that was interrupted, or a new one."""
    runs: dict[str, PilotRun] = {}
    for number, stage in enumerate(decided):
        if pilots.missing(pilots.jobs(stage, tuned)):
            return decided[:number], stage
        runs |= {run.run_id: run for run in pilots.results(stage, tuned)}
    return decided, next_stage(question, decided, list(runs.values()))


def _cost(cost: StudyCost, workers: int) -> dict[str, object]:
    return {"runs": cost.num_runs, "compute": cost.flops, "seconds": cost.wall_seconds(workers),
            "disk_bytes": cost.disk_bytes}  # fmt: skip


def _stage(ahead: _Ahead, decided: int, workers: int) -> dict[str, object] | None:
    question, stage, cost = ahead.question, ahead.stage, ahead.cost
    if stage is None or cost is None:
        return None
    return {
        "sizes": list(stage.labels), "student_params": question.size(stage.size).params, "tokens": list(stage.tokens),
        "teachers": list(stage.candidates), "seeds": list(stage.seeds), "is_begun": len(ahead.done) < decided,
        **_cost(cost, workers), "compute": min(stage_flops(question, stage), cost.flops),
    }  # fmt: skip


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
        "compute": left, "seconds": sum(cost.wall_seconds(workers) for cost in costs),
        "disk_bytes": sum(cost.disk_bytes for cost in costs),
        "largest_size": None if largest is None else largest.size,
    }  # fmt: skip
