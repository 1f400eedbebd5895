"""The tables of a study: runs.parquet and tuning.json, views of the run folders."""

from collections.abc import Callable

from distillaw.runs.files import write_json
from distillaw.runs.store import StudyFolder
from distillaw.sweep.jobs import Board, Facts, Planner, Progress
from distillaw.sweep.spec import StudySpec
from distillaw.sweep.tuning import Point, Search


def write_tables(spec: StudySpec, facts: Facts, progress: Progress, study: StudyFolder) -> None:
    """Write runs.parquet (the runs that belong to this study file) and tuning.json."""
    planner = Planner(spec, facts, progress)
    board = planner.board()
    # tuning jobs come first: a run of the search that serves the grid is the grid's
    purposes = {run_id: job.trunk.purpose for job in board.jobs for run_id in job.run_ids}
    if any(study.run(run_id).state() == "done" for run_id in purposes):
        study.write_table(purposes)
    write_json(study.path / "tuning.json", tuning_record(spec, planner, board))


def tuning_record(spec: StudySpec, planner: Planner, board: Board) -> dict[str, object]:
    """tuning.json: per arm and size, the rates, falls and batches tried, their losses, the best, whether interior."""
    arms = []
    for search in (board.supervised, board.teacher, board.distilled):
        if search is not None:
            arms += [_arm(spec, planner, search, *key, board.reference) for key in search.rate]
    batch = planner.batch_tokens(board.supervised.batch) if board.supervised else spec.batch_tokens
    return {"enabled": spec.tuning.enabled, "batch_tokens": batch, "arms": arms}


def _arm(
    spec: StudySpec, planner: Planner, search: Search, arm: str, size: str, teacher_run: str | None
) -> dict[str, object]:
    """One arm at one size."""

    def entry(point: Point, loss: float) -> dict[str, object]:
        job = planner.point(point, teacher_run)
        trunk = job.trunk
        return {"peak_lr": trunk.peak_lr, "rate_power": trunk.rate_power, "batch_tokens": trunk.batch_tokens,
                "branch_lr": trunk.branch_lr(job.budgets[-1]),
                "tokens": job.budgets[-1], "loss": _finite(loss), "run_id": job.run_ids[-1]}  # fmt: skip

    def grid(
        key: str, of: Callable[[Point], float], wanted: Callable[[Point], bool]
    ) -> list[dict[str, object]]:
        found = [(of(p), p, x) for p, x in search.points.items() if p[:2] == (arm, size) and wanted(p)]
        return [entry(p, x) | {key: value} for value, p, x in sorted(found, key=lambda one: one[0])]

    rate, fall, j = search.rate[arm, size], search.fall.get((arm, size)), search.batch
    inside = {what: search.interior.get((arm, size, what), False) for what in ("rate", "fall", "batch")}
    best = Point(arm, size, rate, j, planner.plan.start_fall(arm) if fall is None else fall, fall is not None)
    trunk = planner.point(best, teacher_run).trunk
    found: dict[str, object] = {
        "arm": arm,
        "size": size,
        "params": trunk.params,
        "tokens": spec.tuning_tokens,
    }
    if arm != "teacher":
        rates = grid("multiplier", lambda p: 2.0**p.rate, lambda p: not p.is_far and p.batch == j)
        found["learning_rate"] = {"grid": rates, "best": trunk.peak_lr, "interior": inside["rate"]}
    if fall is not None:
        falls = grid(
            "multiplier", lambda p: 0.5**p.fall, lambda p: p.is_far and (p.rate, p.batch) == (rate, j)
        )
        tokens = planner.point(best, teacher_run).budgets[-1]
        found["horizon"] = {"grid": falls, "tokens": tokens, "best": trunk.branch_lr(tokens),
                            "rate_power": trunk.rate_power, "interior": inside["fall"]}  # fmt: skip
    if (arm, size, "batch") in search.interior:
        batches = grid("multiplier", lambda p: 2.0**p.batch,
                       lambda p: (p.is_far, p.rate, p.fall) == (best.is_far, rate, best.fall))  # fmt: skip
        found["batch"] = {"grid": batches, "best": trunk.batch_tokens, "interior": inside["batch"]}
    return found


def _finite(loss: float) -> float | None:
    return loss if loss < float("inf") else None
