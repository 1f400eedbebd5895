"""One run from one TOML file, by one process or by the ranks that torchrun started."""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils.logging import disable_progress_bar

from distillaw.data.prepare import DataSpec, check_home, prepare_data
from distillaw.data.shards import TokenStore
from distillaw.data.tokenizer import load_tokenizer
from distillaw.errors import ConfigError, RunError
from distillaw.models.fresh import count_config
from distillaw.models.parallel import ALONE, Ranks, keep_freed_memory
from distillaw.models.prune import RECORD as PRUNED
from distillaw.models.source import check_config, fingerprint, locate
from distillaw.models.teacher import check_vocabulary
from distillaw.quantities import format_count
from distillaw.runs.process import available_cores
from distillaw.runs.spec import ModelStart, Recipe, TrunkSpec
from distillaw.runs.store import StudyFolder
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import TrunkJob
from distillaw.sweep.run_files import SingleSpec
from distillaw.sweep.scheduler import Display
from distillaw.sweep.study import check_facts, read_progress, write_study
from distillaw.targets.store import TargetStore
from distillaw.train.log import Mirror
from distillaw.train.loop import Report, StopRequest, StopTraining
from distillaw.train.trunk import train_trunks
from distillaw.worlds.oracle import is_oracle

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def run_single(
    single: SingleSpec,
    folder: Path,
    *,
    display: Display,
    command: str,
    ranks: Ranks = ALONE,
    tracker: str | None = None,
) -> tuple[dict[str, object], bool]:
    """Train the run, or find it finished.

    Args:
        ranks: the processes that train it together; all call this.

    Returns:
        (result, whether anything was trained).

    Raises:
        ConfigError, DataError, CacheError, VocabularyError: before anything is trained.
        RunError: diverged, disk full, or asked to stop by SIGTERM (checkpoints saved).
        KeyboardInterrupt: asked to stop by Ctrl-C (checkpoints saved).
    """
    if ranks.link and (not single.teacher or is_oracle(single.teacher)):
        raise ConfigError(
            f"--teacher-processes {ranks.link.teachers}: the run has no model for a teacher that could be there"
        )
    ranks.first(lambda: check_home(single.data, folder))
    study = StudyFolder(folder)
    with ranks.held(folder, f"the folder {folder}"):
        store = trainable_text(single.data, single.training, single.batch_tokens, study, ranks, display)
        job = ranks.told(lambda: single_job(single, study, store, display, command))
        run = study.run(job.run_ids[0])
        if done := ranks.told(run.result):
            return done, False
        mirror = Mirror(tracker, run.path.name, folder, display.note) if tracker and ranks.is_first else None
        try:
            train_here([job], study, ranks=ranks, display=display, mirror=mirror)
        finally:
            if mirror is not None:
                mirror.close()
        return result_of(job, study, ranks), True


def trainable_text(
    data: DataSpec, recipe: Recipe, batch_tokens: int, study: StudyFolder, ranks: Ranks, display: Display
) -> TokenStore:
    """The text of runs that are trained in this process: made by the first rank, found by the others.

    Raises:
        ConfigError: the ranks cannot share a batch; nothing has been made.
    """
    ranks.share(batch_tokens // recipe.context)
    disable_progress_bar()
    keep_freed_memory()
    made = ranks.first(lambda: prepare_data(data, study.data, say=display.note))
    return TokenStore.open(study.data) if made is None else made


def result_of(job: TrunkJob, study: StudyFolder, ranks: Ranks) -> dict[str, Any]:
    """What result.json of a job's first run holds, which is finished."""
    result = ranks.told(study.run(job.run_ids[0]).result)
    assert result is not None
    return result


def single_job(single: SingleSpec, study: StudyFolder, store: TokenStore, display: Display, command: str) -> TrunkJob:
    """The run as a job of its study of one, checked against text, teacher and targets."""
    spec = single.as_study()
    targets = None
    if single.targets:
        targets = TargetStore.open(
            Path(single.targets),
            data_hash=store.data_hash,
            context=single.training.context,
            split="student",
            tokenizer_hash=str(store.manifest["tokenizer_hash"]),
            temperature=single.training.temperature,
            document_mask=single.training.document_mask,
        )
    facts = check_facts(spec, store, display)
    write_study(spec, study, store, command)
    wanted = "distilled" if single.teacher else "supervised"
    jobs = Planner(spec, facts, read_progress(study)).ready_jobs().jobs
    job = next(job for job in jobs if job.trunk.arm == wanted)
    trunk = job.trunk
    if single.start:
        tokenizer = load_tokenizer(str(store.tokenizer_folder))
        trunk = started(trunk, single.start, tokenizer, draws_weights=single.init == "fresh")
    if targets is not None:
        plan, place = targets.manifest.plan, str(Path(single.targets).resolve())
        trunk = replace(trunk, teacher_run=plan.teacher, teacher_fingerprint=plan.teacher_fingerprint)
        trunk = replace(trunk, targets=place, targets_identity=plan.identity)
    return TrunkJob(trunk=trunk, budgets=job.budgets)


SMALL_PARAMS = 5_000_000
"""Total parameters below which a step is faster on one thread than on two."""


def train_here(
    jobs: Sequence[TrunkJob],
    study: StudyFolder,
    *,
    ranks: Ranks = ALONE,
    display: Display | None = None,
    mirror: Mirror | None = None,
) -> None:
    """Train trunks that read one stream side by side; each teacher reads every batch once for all of its students.

    Raises:
        DistillawError: as `train_trunks`; the first of several that diverged.
        RunError: asked to stop by SIGTERM (checkpoints saved).
        KeyboardInterrupt: asked to stop by Ctrl-C (checkpoints saved).
    """
    set_threads(ranks, max(job.trunk.total_params for job in jobs))
    if display:
        for job in jobs:
            display.started(job, 0)

    def report(tokens: int, loss: float) -> None:
        if display:
            for job in jobs:
                display.progressed(job, tokens // len(jobs), loss if len(jobs) == 1 else None)

    with stoppable(report) as request:
        errors = train_trunks(
            {job.trunk: job.budgets for job in jobs}, study, ranks=ranks, report=request, mirror=mirror
        )
    for job in jobs:
        if display and job.trunk in errors:
            display.failed(job, str(errors[job.trunk]))
        elif display:
            display.finished(job)
    if errors:
        raise next(iter(errors.values()))


def train_missing(jobs: Iterable[TrunkJob], study: StudyFolder, ranks: Ranks, display: Display) -> None:
    """Those of the jobs that are not finished, side by side."""
    missing = ranks.told(lambda: [job for job in jobs if study.run(job.run_ids[0]).state() != "done"])
    if missing:
        train_here(missing, study, ranks=ranks, display=display)


@contextlib.contextmanager
def stoppable(report: Report) -> Iterator[Report]:
    """The report for training that Ctrl-C and SIGTERM end in an orderly way.

    Raises:
        RunError: asked to stop by SIGTERM (checkpoints saved).
        KeyboardInterrupt: asked to stop by Ctrl-C (checkpoints saved).
        BrokenPipeError: who watched is gone (checkpoints saved).
    """
    with StopRequest(report) as request:
        try:
            yield request
        except StopTraining:
            if request.received == signal.SIGINT:
                raise KeyboardInterrupt from None
            if request.unheard:
                raise request.unheard from None
            raise RunError("asked to stop: the checkpoint is saved and the same command continues") from None


def set_threads(ranks: Ranks, total_params: int) -> None:
    """All cores, divided among the ranks of this machine; one for a small model, which threads only slow down."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world))
    torch.set_num_threads(1 if total_params < SMALL_PARAMS else max(1, available_cores() // here))


def started(
    trunk: TrunkSpec, folder: str, tokenizer: "PreTrainedTokenizerBase", *, draws_weights: bool = False
) -> TrunkSpec:
    """The trunk with a model on disk as its student.

    Args:
        trunk: its sizes, init and label are replaced.
        draws_weights: take only the architecture; the trunk's seed draws the weights.

    Raises:
        CacheError: no model there.
        ConfigError: no causal language model, or a context shorter than the trunk's.
        VocabularyError: it speaks of other tokens.
    """
    source = locate(folder)
    check_config(source, context=trunk.recipe.context)
    check_vocabulary(source, tokenizer)
    config = source.config()
    params, total = count_config(config)
    text = config.get_text_config().to_dict()
    init = "fresh" if draws_weights else "pruned" if (source.folder / PRUNED).exists() else "pretrained"
    return replace(
        trunk,
        label=f"{format_count(params)}-{init}",
        init=init,
        params=params,
        total_params=total,
        layers=text["num_hidden_layers"],
        width=text["hidden_size"],
        ffn=text.get("intermediate_size") or 4 * text["hidden_size"],
        heads=text["num_attention_heads"],
        start=ModelStart(
            folder=str(Path(folder).resolve()) if Path(folder).exists() else folder, fingerprint=fingerprint(source)
        ),
    )
