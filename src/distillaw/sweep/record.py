"""The tables of a study: runs.parquet and tuning.json, views of the run folders."""

from distillaw.runs.files import write_json
from distillaw.runs.store import StudyFolder
from distillaw.sweep.jobs import Board, Facts, Planner, Progress
from distillaw.sweep.spec import StudySpec


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
    """tuning.json: per arm and size, the rates and batches tried, their losses, the best, whether interior."""
    arms = []
    teacher_run = board.reference
    for search in (board.supervised, board.distilled):
        if search is None:
            continue
        for (arm, size), best in search.rate.items():
            rates = {
                i: x for (a, s, i, j), x in search.points.items() if (a, s, j) == (arm, size, search.batch)
            }
            batches = {j: x for (a, s, i, j), x in search.points.items() if (a, s, i) == (arm, size, best)}

            def entry(i: int, j: int, loss: float, arm: str = arm, size: str = size) -> dict[str, object]:
                trunk = planner.point(arm, size, i, j, teacher_run)
                return {"peak_lr": trunk.peak_lr, "batch_tokens": trunk.batch_tokens, "loss": _finite(loss),
                        "run_id": trunk.run_id(spec.tuning_tokens)}  # fmt: skip

            middle = planner.point(arm, size, best, search.batch, teacher_run)
            arms.append({
                "arm": arm, "size": size, "params": middle.params, "tokens": spec.tuning_tokens,
                "learning_rate": {
                    "grid": [entry(i, search.batch, x) | {"multiplier": 2.0**i} for i, x in sorted(rates.items())],
                    "best": middle.peak_lr, "interior": search.interior.get((arm, size, "rate"), False)},
                "batch": {
                    "grid": [entry(best, j, x) | {"multiplier": 2.0**j} for j, x in sorted(batches.items())],
                    "best": middle.batch_tokens, "interior": search.interior.get((arm, size, "batch"), False)},
            })  # fmt: skip
    batch = planner.batch_tokens(board.supervised.batch) if board.supervised else spec.batch_tokens
    return {"enabled": spec.tuning.enabled, "batch_tokens": batch, "arms": arms}


def _finite(loss: float) -> float | None:
    return loss if loss < float("inf") else None
