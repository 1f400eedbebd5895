"""`distillaw study run`: train what a study lacks, on this machine, on Slurm or on Ray, then fit and decide."""

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from distillaw.cli.app import print_json
from distillaw.cli.display import make_display
from distillaw.cli.names import Place
from distillaw.cli.output import Output, Settings, check_place, same_command
from distillaw.cli.workers import count_workers
from distillaw.errors import ConfigError, DistillawError, RunError
from distillaw.quantities import format_flop, format_seconds, plural

if TYPE_CHECKING:
    from distillaw.runs.store import StudyFolder
    from distillaw.sweep.executor import Executor
    from distillaw.sweep.outcome import Outcome
    from distillaw.sweep.spec import StudySpec


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Options of `--executor slurm` and `--executor ray`, per worker."""

    partition: str = ""
    """Slurm: where jobs go."""
    time: str = "60"
    """Slurm: time limit of a job, minutes or D-HH:MM:SS; a job that meets it saves and is submitted again."""
    cpus: int = 1
    """Cores of a worker."""
    gpus: int = 0
    """Devices of a worker."""
    mem: str = ""
    """Memory of a worker, e.g. 4G."""
    sbatch: tuple[str, ...] = ()
    """Slurm: a further setting, e.g. --sbatch account=x; may be repeated."""
    ray_address: str = ""
    """Ray: `auto`, host:6379 or ray://host:10001; without one a cluster of this machine."""
    callback_host: str = ""
    """Name or address under which workers on other machines reach this one, if not its own name."""


def run(
    study: Path,
    *,
    corpus: Place | None = None,
    out: Path | None = None,
    executor: Literal["local", "slurm", "ray"] = "local",
    workers: int = 0,
    cluster: ClusterOptions | None = None,
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
        cluster: what a worker on Slurm or Ray gets.
        again: a run to be done again, by its id; what it was is kept aside. May be repeated.
        settings: KEY=VALUE over the file's, e.g. students.tokens=[80k,240k]; checked like the file, recorded in
            study.json. May be repeated.
        dry_run: print what `distillaw study show` prints, train and write nothing.
    """
    place, count = _choose_place(executor, workers, cluster or ClusterOptions())
    if dry_run:
        from distillaw.cli.study_show import preview

        preview(study, corpus=corpus, settings=settings, workers=count, output=output)
        output.suggest(same_command(without="--dry-run"))
        return 0
    from distillaw.cli.study_show import target_note
    from distillaw.sweep.checks import load_study
    from distillaw.sweep.study import cost_left, require_trainable, run_study

    require_trainable()
    spec = load_study(study, corpus=corpus, settings=settings)
    folder = out or Path("out") / spec.name
    _check_places(spec, folder)
    cost = cost_left(spec, folder)
    done = len(list(folder.glob("runs/*/result.json")))
    so_far = f"; {plural(done, 'run')} done" if done else ""
    output.say(
        f"{spec.name}: {plural(cost.num_runs, 'run')} to train, {format_flop(cost.flops)}, about "
        f"{format_seconds(cost.wall_seconds(count))} on {plural(count, 'core')}"
        f"{so_far}; folder {folder}"
    )
    for line in (*(f"set: {setting}" for setting in settings), target_note(spec)):
        if line:
            output.say(line)
    left = partial(_seconds_left, folder)
    with make_display(cost.tokens, quiet=output.quiet, left=left) as display:
        command = shlex.join(["distillaw", *sys.argv[1:]])
        train = partial(
            run_study, spec, folder, place=place, display=display, command=command, settings=settings
        )
        outcome = train(again=again, holdout=not spec.has_holdout)
        if spec.has_holdout and not outcome.failed and not outcome.waiting:
            outcome = _with_holdout(spec, folder, outcome, train, output)
    return _conclude(folder, outcome, output)


def _check_places(spec: "StudySpec", folder: Path) -> None:
    """Refuse, before anything is trained, what the conclusion could not be written into.

    Raises:
        ConfigError: the folder, a report, a verdict or a law there is not ours.
    """
    from distillaw.data.prepare import check_home
    from distillaw.fitting.study import law_files

    check_home(spec.data, folder)
    for file in (folder / "report.html", folder / "verdict.json", *law_files(folder)):
        check_place("--out", file)


def _seconds_left(folder: Path) -> float | None:
    """As `distillaw study status` says it, so that both say one thing; None until there is something to look at."""
    from distillaw.sweep.status import read_status

    try:
        return read_status(folder).left_seconds
    except DistillawError:
        return None


def _with_holdout(
    spec: "StudySpec", folder: Path, outcome: "Outcome", train: Callable[[], "Outcome"], output: Output
) -> "Outcome":
    """Freeze predictions of the held-out students, then train them; without predictions they are left."""
    from distillaw.verifying.asked import freeze_holdout

    try:
        freeze_holdout(spec, folder, output.say)
    except ConfigError as error:
        outcome.waiting.append(f"held-out students wait until they are predicted: {error}")
        return outcome
    return outcome.then(train())


def _choose_place(
    executor: str, workers: int, options: ClusterOptions
) -> tuple[Callable[["StudyFolder"], "Executor"], int]:
    """How to open the place where workers run, and how many there will be (a guess for Ray, which is not asked yet).

    Raises:
        ConfigError: options that do not fit the executor.
    """
    _refuse_strangers(executor, options)
    if executor == "slurm":
        return _slurm(workers, options), workers
    if executor == "ray":
        return _ray(workers, options), workers or count_workers(0)
    from distillaw.sweep.local import LocalExecutor

    count = count_workers(workers)
    return lambda study: LocalExecutor(study, count), count


_OF_SLURM = ("partition", "time", "sbatch")
_OF_CLUSTERS = ("cpus", "gpus", "mem", "callback_host")


def _refuse_strangers(executor: str, options: ClusterOptions) -> None:
    """An option that the executor does not know would be ignored in silence."""
    known = {"local": (), "slurm": (*_OF_SLURM, *_OF_CLUSTERS), "ray": ("ray_address", *_OF_CLUSTERS)}[
        executor
    ]
    for name in (*_OF_SLURM, *_OF_CLUSTERS, "ray_address"):
        if name not in known and getattr(options, name) != getattr(ClusterOptions(), name):
            raise ConfigError(
                f"--{name.replace('_', '-')} means nothing to --executor {executor}; drop it or choose another executor"
            )
    for name, least in (("cpus", 1), ("gpus", 0)):
        if getattr(options, name) < least:
            raise ConfigError(f"--{name} {getattr(options, name)}: give {least} or more")


def _slurm(workers: int, options: ClusterOptions) -> Callable[["StudyFolder"], "Executor"]:
    from distillaw.sweep.slurm import SlurmExecutor, SlurmSettings

    if workers < 1:
        raise ConfigError(f"--workers {workers}: say how many Slurm jobs may run at once")
    settings = SlurmSettings(
        workers=workers, partition=options.partition, time=options.time, cpus=options.cpus, gpus=options.gpus,
        mem=options.mem, extra=_pairs(options.sbatch), callback_host=options.callback_host,
    )  # fmt: skip
    return lambda study: SlurmExecutor(study, settings)


def _ray(workers: int, options: ClusterOptions) -> Callable[["StudyFolder"], "Executor"]:
    from distillaw.sweep.on_ray import RayExecutor, RaySettings

    settings = RaySettings(
        workers=workers, address=options.ray_address, cpus=options.cpus, gpus=options.gpus,
        memory_bytes=_memory_bytes(options.mem),
        callback_host=options.callback_host,
    )  # fmt: skip
    return lambda study: RayExecutor(study, settings)


def _memory_bytes(text: str) -> float:
    """Bytes of `4G` or `512M`, as sbatch writes memory: powers of 1024, megabytes without a suffix."""
    if not text:
        return 0.0
    number, unit = (text[:-1], text[-1].upper()) if text[-1].isalpha() else (text, "M")
    try:
        return float(number) * 1024.0 ** ("KMGT".index(unit) + 1)
    except ValueError:
        raise ConfigError(f"--mem {text!r}: give a number with K, M, G or T, e.g. 4G") from None


def _pairs(settings: tuple[str, ...]) -> Mapping[str, str | bool]:
    """`account=x` and bare words such as `exclusive`, with or without their dashes."""
    pairs: dict[str, str | bool] = {}
    for setting in settings:
        key, equals, value = setting.lstrip("-").partition("=")
        if not key or (equals and not value):
            raise ConfigError(f"--sbatch {setting!r}: give name=value, or the name alone for a switch")
        pairs[key.replace("-", "_")] = value if equals else True
    return pairs


def _conclude(folder: Path, outcome: "Outcome", output: Output) -> int:
    """Fit, decide and report on what is there; failed runs are listed and make the exit code 1."""
    for run_id, error in outcome.failed.items():
        sys.stderr.write(f"failed: {run_id}: {error}\n")
    for reason in outcome.waiting:
        sys.stderr.write(f"not trained: {reason}\n")
    if not (folder / "runs.parquet").exists():
        raise RunError(f"{folder}: no run has finished, so there is nothing to conclude from")
    from distillaw.report.conclusion import conclude_study

    with output.working("fitting, deciding, drawing") as say:
        conclusion = conclude_study(folder, say=say)
    if output.json:
        print_json({
            "folder": str(folder), "new_runs": outcome.done, "failed_runs": outcome.failed, "waiting": outcome.waiting,
            "wall_seconds": outcome.wall_seconds, "cpu_seconds": outcome.busy_seconds,
            "report": str(conclusion.report), "verdict": conclusion.verdict,
        })  # fmt: skip
    else:
        if outcome.done:
            busy = outcome.busy_seconds / max(outcome.wall_seconds * outcome.workers, 1e-9)
            took = format_seconds(outcome.wall_seconds)
            output.say(f"{len(set(outcome.done))} runs in {took}, cores {busy:.0%} busy")
        elif not outcome.failed:
            output.say("nothing left to train")
        print(f"\n{conclusion.sentence}\n\nreport: {conclusion.report}")
        output.suggest(f"distillaw plan --study {shlex.quote(str(folder))}")
    return 1 if outcome.failed or outcome.waiting else 0
