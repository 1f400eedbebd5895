"""`distillaw study show`: what a study would train, cost and identify, before anything is spent."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.cli.app import print_json
from distillaw.cli.console import print_table
from distillaw.cli.names import Place
from distillaw.cli.output import Output, Settings
from distillaw.cli.workers import count_workers
from distillaw.quantities import format_bytes, format_count, format_flop, format_seconds, parse_count, plural
from distillaw.table import Table, number, text

if TYPE_CHECKING:
    from distillaw.sweep.spec import StudySpec


def show(
    study: Path,
    *,
    corpus: Place | None = None,
    workers: int = 0,
    settings: Settings = (),
    output: Output = Output(),
) -> None:
    """Print the runs, FLOP, time and disk of a study, and what it would identify, before anything is spent.

    Args:
        study: the study's TOML file.
        corpus: the text, instead of the study file's data.corpus.
        workers: processes, one core each; 0 takes all cores.
        settings: KEY=VALUE over the file's, e.g. students.tokens=[80k,240k]; checked like the file. May be repeated.
    """
    preview(study, corpus=corpus, settings=settings, workers=count_workers(workers), output=output)
    words = [
        str(study),
        *(["--corpus", corpus] if corpus else []),
        *(w for one in settings for w in ("--set", one)),
    ]
    output.suggest(f"distillaw study run {shlex.join(words)}")


def preview(
    study: Path, *, corpus: str | None, settings: Sequence[str], workers: int, output: Output
) -> None:
    """What `study show` says, and `study run --dry-run`."""
    from distillaw.protocols.statement import state
    from distillaw.sweep.caching import stored_targets
    from distillaw.sweep.checks import load_study
    from distillaw.sweep.cost import (
        SPEED,
        study_cost,
        study_vocab,
        teacher_forward,
    )

    spec = load_study(study, corpus=corpus, settings=settings)
    vocab_size = study_vocab(spec)
    cost = study_cost(spec, vocab_size)
    wall = cost.wall_seconds(workers)
    if output.json:
        rows = [
            {"trunk": job.trunk.label, "role": job.trunk.role, "purpose": job.trunk.purpose, "arm": job.trunk.arm,
             "params": job.trunk.params, "tokens": list(job.budgets), "seed": job.trunk.seed, "core_seconds": seconds}
            for job, seconds in zip(cost.jobs, cost.seconds, strict=True)
        ]  # fmt: skip
        print_json({"study": spec.name, "spec_hash": spec.spec_hash, "trunks": rows, "num_runs": cost.num_runs,
                    "flops": cost.flops, "seconds": wall, "workers": workers, "disk_bytes": cost.disk_bytes,
                    "set": list(settings), **state(spec, cost).to_json()})  # fmt: skip
        return
    _print_trunks(cost.jobs, cost.seconds)
    print(
        f"\n{spec.name}: {plural(cost.num_runs, 'run')} from {plural(len(cost.jobs), 'trunk')}, "
        f"{format_count(cost.tokens)} tokens, {format_flop(cost.flops)}\n"
        f"about {format_seconds(wall)} on {plural(workers, 'core')}, "
        f"{format_bytes(cost.disk_bytes)} on disk"
        f"\n({format_seconds(sum(cost.seconds))} of core time, assuming {SPEED})"
    )
    _print_unknowns(spec)
    print(_copies(Path("out") / spec.name / "data" / "manifest.json"))
    print(stored_targets(cost.jobs, teacher_forward(spec, cost.jobs), vocab_size).words)
    print()
    print("\n".join(state(spec, cost).lines()))
    for line in (*(f"set: {setting}" for setting in settings), target_note(spec)):
        if line:
            print(line)


def target_note(spec: "StudySpec") -> str:
    """What becomes of a target that is not among the students; empty where it is, or where there is none."""
    if spec.target is None:
        return ""
    size, tokens = parse_count(spec.target.params), spec.target.tokens
    own = [n for block in spec.blocks() if block.purpose == "grid"
           for label in block.params if parse_count(label) == size for n in block.cells.tokens]  # fmt: skip
    if tokens in own:
        return ""
    what = f"target: {spec.target.params} on {format_count(tokens)} tokens is not among the students"
    add = f'; to measure it, add it: [[cells]] with params = ["{spec.target.params}"], tokens = [{tokens}]'
    if own and min(own) < tokens < max(own):
        return f"{what}: it will be read off between the budgets that its size is trained to{add}"
    return f"{what}: no pair of runs measures it, and the verdict rests on laws as far as they reach{add}"


def _print_trunks(jobs: list, seconds: list[float]) -> None:
    groups: dict[tuple, list[float]] = {}
    for job, cost in zip(jobs, seconds, strict=True):
        trunk = job.trunk
        tokens = ", ".join(format_count(budget) for budget in job.budgets)
        shape = f"{trunk.layers} x {trunk.width}"
        key = (trunk.purpose, trunk.label, trunk.arm, trunk.params, shape, tokens)
        groups.setdefault(key, []).append(cost)
    columns = [
        text("purpose"),
        text("model"),
        text("arm"),
        number("params", ","),
        number("layers x width"),
        text("token budgets"),
        number("trunks"),
        number("core time", format_seconds),
    ]
    print_table(Table(columns, [(*key, len(costs), sum(costs)) for key, costs in groups.items()]))


def _copies(manifest: Path) -> str:
    """What was found when the text was read, where the study's own folder has it."""
    from distillaw.runs.files import read_json

    found = read_json(manifest).get("duplicates") if manifest.is_file() else None
    if isinstance(found, dict):
        return f"text in {manifest.parent}: {found['words']}"
    return "copies of documents, near ones across splits too, are dropped and counted when the text is read"


def _print_unknowns(spec) -> None:
    from distillaw.data.corpus import is_missing

    if is_missing(spec.data.corpus):
        print(f"corpus {spec.data.corpus!r} is not here: `study run` needs it")
    if spec.tuning.enabled:
        print(
            "tuning is counted with 5 runs per arm and end size; it costs more if a best value lies at an end"
        )
