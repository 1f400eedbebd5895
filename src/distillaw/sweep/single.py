"""One run from one TOML file, by one process or by the ranks that torchrun started."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from transformers.utils.logging import disable_progress_bar

from distillaw.data.prepare import check_home, prepare_data
from distillaw.data.shards import TokenStore
from distillaw.data.tokenizer import load_tokenizer
from distillaw.errors import ConfigError
from distillaw.runs.lock import held
from distillaw.runs.store import StudyFolder
from distillaw.sweep.here import train_here
from distillaw.sweep.jobs import Job, Planner
from distillaw.sweep.outcome import Display
from distillaw.sweep.single_spec import SingleSpec
from distillaw.sweep.started import started
from distillaw.sweep.study import check_facts, read_progress, write_study
from distillaw.targets.store import TargetStore
from distillaw.train.log import Mirror
from distillaw.train.parallel import Ranks, Sharding, join_ranks, keep_freed_memory, launched

T = TypeVar("T")


def run_single(
    single: SingleSpec, folder: Path, *, display: Display, command: str, sharding: Sharding = "ddp",
    tracker: str | None = None,
) -> tuple[dict[str, object] | None, bool]:  # fmt: skip
    """Train the run, or find it finished.

    Args:
        single: the run.
        folder: for tokens, checkpoints and the run.
        display: told about progress (by the first rank).
        command: how the user called, for the record.
        sharding: how several ranks divide the model.
        tracker: mirror the scalars to it.

    Returns:
        (result, whether anything was trained); the result is None on all ranks but the first.

    Raises:
        ConfigError, DataError, CacheError, VocabularyError: before anything is trained.
        RunError: diverged, disk full, or asked to stop by SIGTERM (checkpoints saved).
        KeyboardInterrupt: asked to stop by Ctrl-C (checkpoints saved).
    """
    if sharding == "fsdp" and not launched():
        raise ConfigError(
            "--sharding fsdp is for several processes: torchrun --nproc-per-node 2 -m distillaw train ..."
        )
    if os.environ.get("RANK", "0") == "0":
        check_home(single.data, folder)
    with join_ranks(sharding) as ranks, _held(folder, ranks):
        ranks.share(single.batch_tokens // single.training.context)  # refused before anything is made
        disable_progress_bar()
        keep_freed_memory()
        study = StudyFolder(folder)
        store = _first_then_all(ranks, lambda: prepare_data(single.data, study.data, say=display.note))
        job = single_job(single, study, store, ranks, display, command)
        run = study.run(job.run_ids[0])
        if run.state() == "done":
            return run.result(), False
        mirror = Mirror(tracker, run.path.name, folder, display.note) if tracker and ranks.is_first else None
        try:
            train_here([job], study, ranks=ranks, display=display if ranks.is_first else None, mirror=mirror)
        finally:
            if mirror is not None:
                mirror.close()
        return run.result(), True


def single_job(
    single: SingleSpec, study: StudyFolder, store: TokenStore, ranks: Ranks, display: Display, command: str
) -> Job:
    """The run as a job of its study of one, checked against text, teacher and targets."""
    spec = single.as_study()
    targets = None
    if single.targets:
        targets = TargetStore.open(
            Path(single.targets), data_hash=store.data_hash, context=single.training.context, split="student",
            tokenizer_hash=str(store.manifest["tokenizer_hash"]), temperature=single.training.temperature,
        )  # fmt: skip
    facts = check_facts(spec, store, display)
    if ranks.is_first:
        write_study(spec, study, store, command)
    wanted = "distilled" if single.teacher else "supervised"
    jobs = Planner(spec, facts, read_progress(study)).board().jobs
    job = next(job for job in jobs if job.trunk.arm == wanted)
    trunk = job.trunk
    if single.start:
        tokenizer = load_tokenizer(str(store.tokenizer_folder))
        trunk = started(trunk, single.start, tokenizer, draws_weights=single.init == "fresh")
    if targets is None:
        return Job(trunk=trunk, budgets=job.budgets)
    plan = targets.manifest.plan
    trunk = replace(
        trunk, teacher_run=plan.teacher, teacher_fingerprint=plan.teacher_fingerprint,
        targets=str(Path(single.targets).resolve()), targets_identity=plan.identity,
    )  # fmt: skip
    return Job(trunk=trunk, budgets=job.budgets)


@contextlib.contextmanager
def _held(folder: Path, ranks: Ranks) -> Iterator[None]:
    """The folder's lock, held by the first rank for all."""
    if not ranks.is_first:
        yield
        return
    with held(folder, f"the folder {folder}"):
        yield


def _first_then_all(ranks: Ranks, make: Callable[[], T]) -> T:
    """What the first rank makes on disk and the others then find there."""
    made = ranks.first(make)
    return made if made is not None else make()
