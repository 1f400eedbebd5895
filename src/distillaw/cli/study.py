"""`distillaw study show | run | next`: a family of runs from one TOML file, and what to add to it."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from distillaw.cli.app import print_json
from distillaw.cli.display import make_display, say
from distillaw.errors import ConfigError, RunError
from distillaw.quantities import format_bytes, format_count, format_flop, format_seconds

app = App(name="study", help="Design, dry-run, run and extend a family of runs.")
app.command(
    "distillaw.cli.next_runs:next_runs",
    name="next",
    help="The runs that sharpen a prediction or decision most.",
)


@app.command
def show(
    study: Path,
    *,
    corpus: str | None = None,
    workers: Annotated[int, Parameter(help="Processes, one core each; 0 takes all cores.")] = 0,
    json: bool = False,
) -> None:
    """Print the runs, FLOP, time and disk of a study before anything is spent.

    Args:
        study: the study's TOML file.
        corpus: the text, instead of the study file's data.corpus.
        workers: processes, one core each; 0 takes all cores.
        json: print one JSON object.
    """
    from distillaw.sweep.checks import load_study
    from distillaw.sweep.cost import (
        FLOP_PER_SECOND,
        SECONDS_PER_RUN,
        SECONDS_PER_TOKEN,
        study_cost,
        study_vocab,
    )

    spec = load_study(study, corpus=corpus)
    cost = study_cost(spec, study_vocab(spec))
    cores = count_workers(workers)
    wall = cost.wall_seconds(cores)
    if json:
        rows = [
            {"trunk": job.trunk.label, "role": job.trunk.role, "purpose": job.trunk.purpose, "arm": job.trunk.arm,
             "params": job.trunk.params, "tokens": list(job.budgets), "seed": job.trunk.seed, "core_seconds": seconds}
            for job, seconds in zip(cost.jobs, cost.seconds, strict=True)
        ]  # fmt: skip
        print_json({"study": spec.name, "spec_hash": spec.spec_hash, "trunks": rows, "num_runs": cost.num_runs,
                    "flops": cost.flops, "seconds": wall, "workers": cores, "disk_bytes": cost.disk_bytes})  # fmt: skip
        return
    _print_trunks(cost.jobs, cost.seconds)
    print(
        f"\n{spec.name}: {cost.num_runs} runs from {len(cost.jobs)} trunks, {format_count(cost.tokens)} tokens, "
        f"{format_flop(cost.flops)}\nabout {format_seconds(wall)} on {cores} cores, "
        f"{format_bytes(cost.disk_bytes)} on disk"
        f"\n({format_seconds(sum(cost.seconds))} of core time, assuming {FLOP_PER_SECOND / 1e9:.0f} GFLOP/s, "
        f"{SECONDS_PER_TOKEN * 1e6:.0f} us a token and {SECONDS_PER_RUN} s a run)"
    )
    _print_unknowns(spec)
    text = f" --corpus {shlex.quote(corpus)}" if corpus else ""
    print(f"\nnext: distillaw study run {shlex.quote(str(study))}{text}")


def _print_trunks(jobs: list, seconds: list[float]) -> None:
    from rich.table import Table

    from distillaw.cli.console import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        "purpose",
        "model",
        "arm",
        "params",
        "layers x width",
        "token budgets",
        "trunks",
        "core time",
    ):
        table.add_column(name, justify="right" if name in ("params", "trunks", "core time") else "left")
    groups: dict[tuple, list[float]] = {}
    for job, cost in zip(jobs, seconds, strict=True):
        trunk = job.trunk
        key = (
            trunk.purpose,
            trunk.label,
            trunk.arm,
            trunk.params,
            f"{trunk.layers} x {trunk.width}",
            job.budgets,
        )
        groups.setdefault(key, []).append(cost)
    for (purpose, label, arm, params, shape, budgets), costs in groups.items():
        tokens = ", ".join(format_count(t) for t in budgets)
        table.add_row(
            purpose, label, arm, f"{params:,}", shape, tokens, str(len(costs)), format_seconds(sum(costs))
        )
    console().print(table)


def _print_unknowns(spec) -> None:
    if spec.tuning.enabled:
        print(
            "tuning is counted with 5 runs per arm and end size; it costs more if a best value lies at an end"
        )


@app.command
def run(
    study: Path,
    *,
    corpus: str | None = None,
    out: Annotated[Path | None, Parameter(help="Study folder; default out/<name>.")] = None,
    workers: int = 0,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Train whatever the study still lacks, fit its laws, decide, and write the report.

    Safe to interrupt and to repeat: finished runs are kept, unfinished ones continue from their checkpoint.

    Args:
        study: the study's TOML file.
        corpus: the text, instead of the study file's data.corpus.
        out: study folder; default out/<name of the study>.
        workers: processes, one core each; 0 takes all cores.
        quiet: no progress, only the result.
        json: print one JSON object at the end.
    """
    from distillaw.sweep.checks import load_study
    from distillaw.sweep.cost import study_cost, study_vocab
    from distillaw.sweep.study import require_trainable, run_study

    require_trainable()
    spec = load_study(study, corpus=corpus)
    folder = out or Path("out") / spec.name
    cores = count_workers(workers)
    cost = study_cost(spec, study_vocab(spec))
    say(
        f"{spec.name}: {cost.num_runs} runs in all, {format_flop(cost.flops)}, about "
        f"{format_seconds(cost.wall_seconds(cores))} on {cores} cores from nothing; folder {folder}",
        quiet=quiet,
    )
    share_left = max(0.0, 1 - len(list(folder.glob("runs/*/result.json"))) / cost.num_runs)
    with make_display(cost.tokens * share_left, quiet=quiet) as display:
        command = shlex.join(["distillaw", *sys.argv[1:]])
        outcome = run_study(spec, folder, workers=cores, display=display, command=command)
    return _conclude(folder, outcome, quiet=quiet, as_json=json)


def count_workers(asked: int) -> int:
    """Workers to start: all cores if 0.

    Raises:
        ConfigError: negative, or more than four per core.
    """
    from distillaw.sweep.local import available_cores

    cores = available_cores()
    if not 0 <= asked <= 4 * cores:
        raise ConfigError(f"--workers {asked}: give 0 (all {cores} cores) or a number up to {4 * cores}")
    return asked or cores


def _conclude(folder: Path, outcome, *, quiet: bool, as_json: bool) -> int:
    """Fit, decide and report on what is there; failed runs are listed and make the exit code 1."""
    for run_id, error in outcome.failed.items():
        sys.stderr.write(f"failed: {run_id}: {error}\n")
    for reason in outcome.waiting:
        sys.stderr.write(f"not trained: {reason}\n")
    if not (folder / "runs.parquet").exists():
        raise RunError(f"{folder}: no run has finished, so there is nothing to conclude from")
    from distillaw.report.study import conclude_study

    conclusion = conclude_study(folder)
    if as_json:
        print_json({
            "folder": str(folder), "new_runs": outcome.done, "failed_runs": outcome.failed, "waiting": outcome.waiting,
            "wall_seconds": outcome.wall_seconds, "cpu_seconds": outcome.busy_seconds,
            "report": str(conclusion.report), "verdict": conclusion.verdict,
        })  # fmt: skip
    else:
        if outcome.done:
            busy = outcome.busy_seconds / max(outcome.wall_seconds * outcome.workers, 1e-9)
            took = format_seconds(outcome.wall_seconds)
            say(f"{len(set(outcome.done))} runs in {took}, cores {busy:.0%} busy", quiet=quiet)
        elif not outcome.failed:
            say("nothing left to train", quiet=quiet)
        print(f"\n{conclusion.sentence}\n\nreport: {conclusion.report}")
    return 1 if outcome.failed or outcome.waiting else 0
