"""`distillaw study show` and `study run`: what a study costs, then training what it lacks, here or on a cluster."""

import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from distillaw.cli.console import print_table
from distillaw.cli.display import make_display
from distillaw.cli.machine import count_workers
from distillaw.cli.options import Place, values_of
from distillaw.cli.output import Output, Settings, same_command
from distillaw.cli.study_new import bill
from distillaw.data.corpus import is_missing
from distillaw.errors import ConfigError, DistillawError, RunError
from distillaw.protocols.statement import state
from distillaw.quantities import format_count, format_flop, format_seconds, parse_count, plural
from distillaw.runs.files import read_json
from distillaw.runs.places import check_file
from distillaw.sweep.checks import load_study
from distillaw.sweep.clusters import RayExecutor, SlurmExecutor, WorkerOptions
from distillaw.sweep.cost import (
    MOVES,
    SPEED,
    StudyCost,
    slowness,
    stored_targets,
    study_cost,
    study_vocab,
    teacher_forward,
)
from distillaw.sweep.executor import Executor, LocalExecutor, cuda_devices
from distillaw.sweep.status import read_status
from distillaw.table import Table, number, text

if TYPE_CHECKING:
    from distillaw.runs.spec import TrunkSpec
    from distillaw.runs.store import StudyFolder
    from distillaw.sweep.ready import TrunkJob
    from distillaw.sweep.scheduler import StudyOutcome
    from distillaw.sweep.spec import StudySpec


def run(
    study: Path,
    *,
    corpus: Place | None = None,
    out: Path | None = None,
    executor: Literal["local", "slurm", "ray"] = "local",
    workers: int = 0,
    cluster: Annotated[WorkerOptions | None, Parameter(name="*")] = None,
    again: tuple[str, ...] = (),
    settings: Settings = (),
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    output: Output = Output(),
) -> int:
    """Train whatever the study still lacks, fit its laws, decide, and write the report.

    Safe to interrupt and to repeat, on the same executor or another: finished runs are kept, unfinished ones continue
    from their checkpoint. Held-out students are trained last, when predictions of them are frozen.

    Args:
        study: the study's TOML file.
        corpus: the text, instead of the study file's data.corpus.
        out: study folder; default out/NAME. On a cluster: on a disk that all machines share.
        executor: where workers run: processes of this machine, Slurm jobs, or tasks of a Ray cluster.
        workers: at once; 0 takes one per CUDA device or core here, and what the cluster holds on Ray; Slurm wants a
            number.
        cluster: what a worker gets.
        again: a run to be done again, by its id; what it was is kept aside. May be repeated.
        settings: KEY=VALUE over the file's, e.g. students.tokens=[80k,240k]; checked like the file, recorded in
            study.json. May be repeated.
        dry_run: print what `distillaw study show` prints, and what of it is left to train; train and write nothing.
    """
    place, count = _choose_place(executor, workers, cluster or WorkerOptions())
    processes = cluster.processes if cluster else 1
    if dry_run:
        if processes > 1:
            _check_shares(load_study(study, corpus=corpus, settings=settings), processes)
        preview(study, corpus=corpus, settings=settings, workers=count, output=output, out=out)
        output.suggest(same_command(without="--dry-run"))
        return 0
    from distillaw.sweep.study import cost_left, require_trainable, run_study

    require_trainable()
    spec = load_study(study, corpus=corpus, settings=settings)
    folder = out or Path("out") / spec.name
    _check_places(spec, folder)
    _check_shares(spec, processes)
    cost = cost_left(spec, folder)
    done = len(list(folder.glob("runs/*/result.json")))
    so_far = f"; {plural(done, 'run')} done" if done else ""
    on = f"about {format_seconds(cost.wall_seconds(count))} on {plural(count, 'core')}"
    if processes > 1:  # what several save together has no model
        on = f"at most {format_seconds(cost.wall_seconds(count))} on {plural(count, 'worker')} of {processes} processes"
    output.say(
        f"{spec.name}: {plural(cost.num_runs, 'run')} to train, {format_flop(cost.flops)}, {on}"
        f"{so_far}; folder {folder}"
    )
    for line in (*spec.left_uncut(), *_notes(spec, settings)):
        output.say(line)
    left = partial(_seconds_left, folder)
    with make_display(cost.tokens, quiet=output.quiet, left=left) as display:
        command = same_command()
        train = partial(run_study, spec, folder, place=place, display=display, command=command, settings=settings)
        outcome = train(again=again, holdout=not spec.has_holdout)
        if spec.has_holdout and not outcome.failed and not outcome.waiting:
            outcome = _with_holdout(spec, folder, outcome, train, output)
    return _conclude(folder, outcome, output)


def _check_places(spec: "StudySpec", folder: Path) -> None:
    """Refuse, before anything is trained, what the conclusion could not be written into.

    ConfigError: the folder, a report, a verdict or a law there is not ours.
    """
    from distillaw.data.prepare import check_home
    from distillaw.fitting.study import law_files

    check_home(spec.data, folder)
    for file in (folder / "report.html", folder / "verdict.json", *law_files(folder)):
        check_file(file)


def _check_shares(spec: "StudySpec", processes: int) -> None:
    """Refuse a batch that the processes of a worker cannot share evenly, also one that their search may try."""
    sequences = spec.batch_tokens // spec.training.context
    halvings = 1 + spec.tuning.rounds if spec.tuning.enabled and spec.tuning.batch else 0
    for batch in (sequences >> k for k in range(halvings + 1) if sequences >> k):
        if batch % processes:
            tried = "" if batch == sequences else f", which the search of the batch may try for {sequences},"
            more = "" if batch == sequences else ", or --set tuning.batch=false"
            raise ConfigError(
                f"--processes {processes}: a batch of {batch} sequences{tried} cannot be shared evenly (batch_tokens "
                f"{spec.batch_tokens:,}, context {spec.training.context}). Choose other processes or a batch whose "
                f"sequences they divide{more}"
            )


def _seconds_left(folder: Path) -> float | None:
    """As `distillaw study status` says it, so that both say one thing; None until there is something to look at."""
    try:
        return read_status(folder).left_seconds
    except DistillawError:
        return None


def _with_holdout(
    spec: "StudySpec", folder: Path, outcome: "StudyOutcome", train: Callable[[], "StudyOutcome"], output: Output
) -> "StudyOutcome":
    """Freeze predictions of the held-out students, then train them; without predictions they are left."""
    from distillaw.verifying.api import freeze_holdout

    try:
        freeze_holdout(spec, folder, output.say)
    except ConfigError as error:
        outcome.waiting.append(f"held-out students wait until they are predicted: {error}")
        return outcome
    return outcome.then(train())


def _choose_place(
    executor: str, workers: int, options: WorkerOptions
) -> tuple[Callable[["StudyFolder"], "Executor"], int]:
    """How to open the place where workers run, and how many there will be (a guess for Ray, which is not asked yet).

    ConfigError: options that do not fit the executor.
    """
    options.check(executor)
    if executor == "slurm":
        if workers < 1:
            raise ConfigError(f"--workers {workers}: say how many Slurm jobs may run at once")
        options.for_sbatch()
        return lambda study: SlurmExecutor(study, workers, options), workers
    if executor == "ray":
        options.for_ray()
        return lambda study: RayExecutor(study, workers, options), workers or count_workers(0)
    if 0 < (devices := len(cuda_devices())) < options.processes:
        raise ConfigError(f"--processes {options.processes}: each takes a GPU of its own; this machine has {devices}")
    count = (workers and count_workers(workers)) or max(1, count_workers(0) // options.processes)
    return lambda study: LocalExecutor(study, count, options.execution), count


def _conclude(folder: Path, outcome: "StudyOutcome", output: Output) -> int:
    """Fit, decide and report on what is there; failed runs are listed and make the exit code 1."""
    for run_id, error in outcome.failed.items():
        sys.stderr.write(f"failed: {run_id}: {error}\n")
    for reason in outcome.waiting:
        sys.stderr.write(f"not trained: {reason}\n")
    if not (folder / "runs.parquet").exists():
        raise RunError(f"{folder}: no run has finished, so there is nothing to conclude from")
    from distillaw.report.conclusion import conclude_study

    with output.working("fitting, deciding, drawing") as say:
        verdict = conclude_study(folder, say=say)
    document = {
        "folder": str(folder),
        "new_runs": outcome.done,
        "failed_runs": outcome.failed,
        "waiting": outcome.waiting,
        "wall_seconds": outcome.wall_seconds,
        "cpu_seconds": outcome.busy_seconds,
        "report": str(folder / "report.html"),
        "verdict": verdict,
    }
    output.answer(
        document, _print_outcome, outcome, f"{verdict.get('sentence', '')}\n\nreport: {folder / 'report.html'}", output
    )
    ours, said = shlex.quote(str(folder)), verdict.get("verdict")
    output.suggest(f"distillaw plan --study {ours}" if said else f"distillaw report {ours} --open")
    return 1 if outcome.failed or outcome.waiting else 0


def _print_outcome(outcome: "StudyOutcome", sentence: str, output: Output) -> None:
    if outcome.done:
        busy = outcome.busy_seconds / max(outcome.wall_seconds * outcome.workers, 1e-9)
        took = format_seconds(outcome.wall_seconds)
        output.say(f"{len(set(outcome.done))} runs in {took}, cores {busy:.0%} busy")
    elif not outcome.failed:
        output.say("nothing left to train")
    print(f"\n{sentence}")


def show(
    study: Path, *, corpus: Place | None = None, workers: int = 0, settings: Settings = (), output: Output = Output()
) -> None:
    """Print the runs, FLOP, time and disk of a study, and what it would identify, before anything is spent.

    Args:
        study: the study's TOML file.
        corpus: the text, instead of the study file's data.corpus.
        workers: processes, one core each; 0 takes all cores.
        settings: KEY=VALUE over the file's, e.g. students.tokens=[80k,240k]; checked like the file. May be repeated.
    """
    preview(study, corpus=corpus, settings=settings, workers=count_workers(workers), output=output)
    words = [str(study), *(["--corpus", corpus] if corpus else []), *(w for one in settings for w in ("--set", one))]
    output.suggest(f"distillaw study run {shlex.join(words)}")


def preview(
    study: Path, *, corpus: str | None, settings: Sequence[str], workers: int, output: Output, out: Path | None = None
) -> None:
    """What `study show` says, and `study run --dry-run`, which knows the folder `out`: what is left to train there."""
    spec = load_study(study, corpus=corpus, settings=settings)
    vocab_size = study_vocab(spec)
    cost = study_cost(spec, vocab_size)
    folder = out or Path("out") / spec.name
    left, said = None, state(spec, cost)
    if next(folder.glob("runs/*/result.json"), None) is not None:
        from distillaw.sweep.study import cost_left

        left = cost_left(spec, folder)
    document = {
        "study": spec.name,
        "spec_hash": spec.spec_hash,
        "trunks": [_trunk_json(job, seconds) for job, seconds in zip(cost.jobs, cost.seconds, strict=True)],
        **values_of(cost, "num_runs flops disk_bytes"),
        "seconds": cost.wall_seconds(workers),
        "workers": workers,
        "set": list(settings),
        **said.to_json(),
    }
    if left is not None:
        document["left"] = values_of(left, "num_runs flops tokens") | {"seconds": left.wall_seconds(workers)}

    def show() -> None:
        _print_trunks(cost)
        print(
            f"\n{spec.name}: {bill(cost, workers)}\n({format_seconds(sum(cost.seconds))} of core time, assuming "
            f"{SPEED}, times {slowness():.2f} for this machine)"
        )
        if left is not None:
            print(
                f"left to train in {folder}: {plural(left.num_runs, 'run')}, "
                f"{format_count(left.tokens)} tokens, {format_flop(left.flops)}, about "
                f"{format_seconds(left.wall_seconds(workers))} on {plural(workers, 'core')}"
            )
        _print_unknowns(spec, cost)
        print(_copies(Path("out") / spec.name / "data" / "manifest.json"))
        print(stored_targets(cost.jobs, teacher_forward(spec, cost.jobs), vocab_size).words)
        print("\n".join(["", *said.lines(), *_notes(spec, settings)]))

    output.answer(document, show)


def _notes(spec: "StudySpec", settings: Sequence[str]) -> list[str]:
    """What was set over the file, and what becomes of the target."""
    note = target_note(spec)
    return [*(f"set: {setting}" for setting in settings), *([note] if note else [])]


def _trunk_json(job: "TrunkJob", seconds: float) -> dict[str, object]:
    trunk = job.trunk
    own = {"trunk": trunk.label, "arm": _arm(trunk), "tokens": list(job.budgets), "core_seconds": seconds}
    return own | values_of(trunk, "role purpose params seed")


def target_note(spec: "StudySpec") -> str:
    """What becomes of a target that is not among the students; empty where it is, or where there is none."""
    if spec.target is None:
        return ""
    size, tokens = parse_count(spec.target.params), spec.target.tokens
    own = [
        n
        for block in spec.blocks()
        if block.purpose == "grid"
        for label in block.params
        if parse_count(label) == size
        for n in block.design.tokens
    ]
    if tokens in own:
        return ""
    what = f"target: {spec.target.params} on {format_count(tokens)} tokens is not among the students"
    add = f'; to measure it, add it: [[cells]] with params = ["{spec.target.params}"], tokens = [{tokens}]'
    if own and min(own) < tokens < max(own):
        return f"{what}: it will be read off between the budgets that its size is trained to{add}"
    return f"{what}: no pair of runs measures it, and the verdict rests on laws as far as they reach{add}"


def _arm(trunk: "TrunkSpec") -> str:
    return trunk.arm if trunk.start_arm == "fresh" else f"{trunk.start_arm}, {trunk.arm}"


def _print_trunks(cost: "StudyCost") -> None:
    groups: dict[tuple, list[float]] = {}
    for job, seconds in zip(cost.jobs, cost.seconds, strict=True):
        trunk = job.trunk
        tokens = ", ".join(format_count(budget) for budget in job.budgets)
        shape = f"{trunk.layers} x {trunk.width}"
        key = (trunk.purpose, trunk.label, _arm(trunk), trunk.params, shape, tokens)
        groups.setdefault(key, []).append(seconds)
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
    found = read_json(manifest).get("duplicates") if manifest.is_file() else None
    if isinstance(found, dict):
        return f"text in {manifest.parent}: {found['words']}"
    return "copies of documents, near ones across splits too, are dropped and counted when the text is read"


def _print_unknowns(spec: "StudySpec", cost: "StudyCost") -> None:
    if is_missing(spec.data.corpus):
        print(f"corpus {spec.data.corpus!r} is not here: `study run` needs it")
    searched = {run_id for job in cost.wanted if job.trunk.purpose == "tuning" for run_id in job.run_ids}
    if searched:
        print(
            f"searches are counted with {plural(len(searched), 'run')}, as if each ended where it begins; "
            f"{MOVES:.0%} is added to their time, since some go further"
        )
