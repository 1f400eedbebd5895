"""What a settlement would do first and could do at most, before anything is trained."""

from dataclasses import replace
from pathlib import Path

from distillaw.cli.display import GrowingDisplay
from distillaw.cli.settle_options import SettleSpec
from distillaw.cli.settle_record import check_folder, continue_record
from distillaw.cli.settle_run import choose_search, search_flops
from distillaw.cli.settle_setup import Setting, open_setting
from distillaw.runs.files import locked
from distillaw.runs.store import StudyFolder
from distillaw.settling.design import nearest_stage, next_stage
from distillaw.settling.question import Question, Stage, stage_flops
from distillaw.sweep.cost import StudyCost
from distillaw.sweep.pilots import Tuned


def preview(
    spec: SettleSpec, folder: Path, *, workers: int, display: GrowingDisplay, command: str
) -> dict[str, object]:
    """Prepare the text, score the teachers (both are kept in the folder), and say what would follow.

    Raises:
        DistillawError: whatever `settle` would refuse before it trains.
    """
    with locked(folder / ".lock", f"the folder {folder}"):
        check_folder(folder, spec)
        setting = open_setting(spec, StudyFolder(folder), display, command)
        search = continue_record(folder, setting, choose_search(setting)).search_tokens
    question = replace(setting.question, spent=search_flops(setting, search))
    stage = next_stage(question, [], [])
    pilots = setting.with_search(search)
    start = Tuned(rates={"supervised": spec.peak_lr, "distilled": spec.peak_lr}, batch_tokens=spec.batch_tokens,
                  flops=0.0, tuning={})  # fmt: skip
    costs = [] if stage is None else [pilots.cost(pilots.jobs(stage, start))]
    if search:
        costs.insert(0, pilots.usual_search())
    return {
        "folder": str(folder), "target_compute": question.target_flops, "budget": question.budget,
        "share_of_target": question.budget / question.target_flops, "margin": question.margin,
        "level": question.level,
        "teachers": [{"name": c.name, "loss": c.loss, "flops_per_token": c.flops} for c in question.candidates],
        "sizes": [{"size": s.label, "params": s.params, "training_flops_per_token": s.flops} for s in question.sizes],
        "search": None if not search else {"tokens": search, **_cost(costs[0], workers)},
        "first_stage": None if stage is None else _stage(question, stage, costs[-1], workers),
        "later_stages": _later(setting, question, costs, workers),
    }  # fmt: skip


def _cost(cost: StudyCost, workers: int) -> dict[str, object]:
    return {"runs": cost.num_runs, "compute": cost.flops, "seconds": cost.wall_seconds(workers),
            "disk_bytes": cost.disk_bytes}  # fmt: skip


def _stage(question: Question, stage: Stage, cost: StudyCost, workers: int) -> dict[str, object]:
    return {
        "sizes": list(stage.labels), "student_params": question.size(stage.size).params, "tokens": list(stage.tokens),
        "teachers": list(stage.candidates), "seeds": list(stage.seeds), **_cost(cost, workers),
        "compute": stage_flops(question, stage),
    }  # fmt: skip


def _later(setting: Setting, question: Question, costs: list[StudyCost], workers: int) -> dict[str, object]:
    """At most: all that is left of the budget, as fast and as bulky as what comes first.

    The largest pilot is the one that all of it would buy with one teacher left.
    """
    spent = sum(cost.flops for cost in costs)
    left = max(0.0, question.budget - spent)
    cheapest = min(question.candidates, key=lambda c: c.flops)
    largest = nearest_stage(question, (cheapest.name,), left, 1)
    share = left / spent if spent else 0.0
    return {
        "compute": left, "seconds": share * sum(sum(cost.seconds) for cost in costs) / workers,
        "disk_bytes": share * sum(cost.disk_bytes for cost in costs),
        "largest_size": None if largest is None else largest.size,
    }  # fmt: skip
