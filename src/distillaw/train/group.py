"""What trunks that advance together share: text, ranks, teachers; and their students at step 0 or from a checkpoint.

A student at step 0 is fresh from its seed, cut out of its teacher, or a model on disk. What it came to is kept beside
the trunk's checkpoints in start.json: where the weights are from, the configuration, the held-out loss before the first
step. A resumed trunk needs no more.
"""

import functools
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distillaw.accounting.flops import forward_flops
from distillaw.data.shards import BatchOrder, TokenStore
from distillaw.data.tokenizer import load_tokenizer
from distillaw.errors import CacheError, ConfigError, DataError, DistillawError
from distillaw.models.cut import shape_of, uniform_cut
from distillaw.models.fresh import build_model
from distillaw.models.prune import open_for_pruning, prune
from distillaw.models.scoring import HeldoutSet, make_heldout, score_heldout
from distillaw.models.source import fingerprint, locate
from distillaw.models.teacher import (
    AnyTeacher,
    architecture_of,
    decoder_blocks,
    load_any_teacher,
    load_weights,
    model_flops,
)
from distillaw.runs.files import read_json, write_json
from distillaw.runs.spec import ModelStart, TrunkSpec, shared_batches, shared_teacher
from distillaw.runs.store import StudyFolder
from distillaw.targets.store import TargetStore
from distillaw.train.checkpoint import (
    TrainState,
    new_tracker,
)
from distillaw.train.log import Mirror
from distillaw.train.loop import BatchFeed, Report, StudentRun, Trainer, advance, silent
from distillaw.train.metering import RunSpeed, StepMeter
from distillaw.train.optim import RateSchedule, build_optimizer, own_settings
from distillaw.train.parallel import ALONE, Ranks
from distillaw.train.student import NoTeacher, OnlineTeacher, SignalSource, Student, TargetsOnDisk
from distillaw.worlds.oracle import is_oracle

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


RECORD = "start.json"


def start_model(spec: TrunkSpec, teacher: str | Path | None, *, end_of_text: int) -> "PreTrainedModel":
    """The model of a trunk at step 0, on the CPU in float32.

    Args:
        spec: the trunk.
        teacher: where its teacher lies, if it has one.
        end_of_text: the tokenizer's id of it.

    Raises:
        ConfigError: the student cannot be cut out of its teacher, or the model on disk has other rows than the text's
            vocabulary.
        CacheError: the teacher or the model on disk cannot be loaded, or is no longer what it was.
    """
    if spec.start is not None:
        return _read_model(spec, spec.start)
    if spec.init == "fresh":
        return build_model(spec.shape, seed=spec.seed, end_of_text=end_of_text)
    if teacher is None or is_oracle(str(teacher)):
        why = "it has no teacher" if teacher is None else "an oracle has no weights"
        raise ConfigError(f"{spec.trunk_id}: init = {spec.init!r}, but {why} to cut from. Use init = 'fresh'")
    return prune(open_for_pruning(teacher), spec.shape)


def _read_model(spec: TrunkSpec, start: ModelStart) -> "PreTrainedModel":
    """The model on disk, or one of its architecture with weights that the seed draws as transformers does."""
    from transformers import AutoModelForCausalLM

    source = locate(start.folder)
    if fingerprint(source) != start.fingerprint:
        raise CacheError(
            f"{start.folder}: not the model that {spec.trunk_id} was planned with (fingerprint {start.fingerprint}, "
            f"now {fingerprint(source)}). Put it back, or start another run in another folder"
        )
    if spec.init == "fresh":
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            model = AutoModelForCausalLM.from_config(source.config(), dtype=torch.float32)
    else:
        model = load_weights(source, torch.device("cpu"), torch.float32).requires_grad_(True)
    rows = source.config().get_text_config().vocab_size
    if rows != spec.vocab_size:
        raise ConfigError(
            f"{start.folder}: {rows} rows of embedding for the text's {spec.vocab_size} tokens; students have one row "
            "per token. `distillaw vocabulary trim` drops rows that no token owns"
        )
    model.config.use_cache = False
    return model


def record_start(
    model: "PreTrainedModel", spec: TrunkSpec, teacher: str | Path | None, home: Path, heldout: HeldoutSet
) -> None:
    """Write start.json of a student that is not fresh of the family, unless it is there; weights are scored first.

    Raises:
        DataError: the loss is not finite.
    """
    if (home / RECORD).exists() or (spec.init == "fresh" and spec.start is None):
        return
    record: dict[str, object] = {"config": model.config.to_dict()}
    if spec.start is not None:
        record["start"] = asdict(spec.start)
    else:
        cut = uniform_cut(shape_of(locate(str(teacher)).config(), str(teacher)), spec.shape)
        record |= {"teacher": str(teacher), "cut": asdict(cut)}
    if spec.init != "fresh":
        scores = score_heldout(model, heldout)
        if not math.isfinite(scores.loss):
            raise DataError(
                f"{spec.trunk_id}: before its first step it has a loss of {scores.loss} on the held-out text, so the "
                f"weights of {teacher if spec.start is None else spec.start.folder} are not finite. Check them, or "
                "take another model"
            )
        record |= {"loss": scores.loss, "loss_se": scores.loss_se}
    write_json(home / RECORD, record)


def blank_model(spec: TrunkSpec, home: Path, *, end_of_text: int) -> "PreTrainedModel":
    """A model of the trunk's kind whose weights a checkpoint will replace."""
    if spec.init == "fresh" and spec.start is None:
        return start_model(spec, None, end_of_text=end_of_text)
    from transformers import AutoConfig, AutoModelForCausalLM

    import distillaw.models.pyramid  # noqa: F401 - makes its model type known

    record: dict[str, Any] = read_json(home / RECORD)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**record["config"]), dtype=torch.float32)


def start_loss(spec: TrunkSpec, home: Path) -> float | None:
    """Held-out loss of a student before its first step, nats per token; None of a fresh one."""
    return None if spec.init == "fresh" else float(str(read_json(home / RECORD)["loss"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What every trunk of a study reads: tokens, tokenizer, held-out windows."""

    store: TokenStore
    tokenizer: "PreTrainedTokenizerBase"
    heldout: HeldoutSet


@functools.lru_cache(maxsize=1)
def open_text(folder: Path, context: int) -> Text:
    """Open a data folder once per process: a worker trains many small trunks on the same text."""
    store = TokenStore.open(folder)
    tokenizer = load_tokenizer(str(store.tokenizer_folder))
    return Text(
        store=store, tokenizer=tokenizer, heldout=make_heldout(store.heldout_documents(), context=context)
    )


def teacher_source(spec: TrunkSpec, study: StudyFolder) -> str | Path:
    """Where a teacher lies: a run of the study, or what the study file names (then its fingerprint is known)."""
    assert spec.teacher_run is not None
    return study.run(spec.teacher_run).path if spec.teacher_fingerprint is None else spec.teacher_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Teaching:
    """Where one teacher's signal comes from, and what it costs."""

    source: SignalSource
    teacher: AnyTeacher | None
    """None if it is not in memory: there is none, or its targets stand for it."""
    flops: float
    """Its forward pass, per token; NaN if no longer known."""


class TrunkGroup:
    """What trunks that advance together share: text, ranks, teachers."""

    def __init__(
        self,
        specs: list[TrunkSpec],
        study: StudyFolder,
        ranks: Ranks = ALONE,
        report: Report = silent,
        mirror: Mirror | None = None,
    ) -> None:
        spec = specs[0]
        assert len(set(map(shared_batches, specs))) == 1, "these trunks do not read one stream"
        self.study, self.ranks, self.report, self.mirror = study, ranks, report, mirror
        self.text = open_text(study.data, spec.recipe.context)
        distinct = {shared_teacher(s): s for s in specs}
        self._teachings = {key: self._start_teaching(s) for key, s in distinct.items()}
        self.feed = BatchFeed(
            order=BatchOrder(
                split=self.text.store.split(spec.split, context=spec.recipe.context), seed=spec.seed
            ),
            batch_tokens=spec.batch_tokens,
            micro_batch_tokens=spec.recipe.micro_batch_tokens,
            ranks=ranks,
        )

    def teaching(self, spec: TrunkSpec) -> Teaching:
        """What teaches a trunk of the group."""
        return self._teachings[shared_teacher(spec)]

    def _start_teaching(self, spec: TrunkSpec) -> Teaching:
        if spec.targets is not None:
            _check_targets(spec)
            source = TargetsOnDisk(TargetStore.open(spec.targets), self.ranks.device)
            oracle = self.load_teacher(spec) if is_oracle(spec.teacher_run or "") else None
            return Teaching(source=source, teacher=None, flops=_teacher_flops(spec, oracle))
        if spec.teacher_run is None:
            return Teaching(source=NoTeacher(), teacher=None, flops=0.0)
        teacher = self.load_teacher(spec)
        return Teaching(source=OnlineTeacher(teacher), teacher=teacher, flops=_teacher_flops(spec, teacher))

    def load_teacher(self, spec: TrunkSpec) -> AnyTeacher:
        """The teacher of a trunk, checked against the group's text."""
        return load_any_teacher(
            teacher_source(spec, self.study),
            self.text.store,
            self.text.tokenizer,
            context=spec.recipe.context,
            device=self.ranks.device,
        )

    def trainer(self, spec: TrunkSpec, *, resumed: bool = False, home: Path | None = None) -> Trainer:
        """A student at step 0, or one whose checkpoint is still to be loaded.

        Args:
            spec: the trunk.
            resumed: whether a checkpoint will replace its weights.
            home: the folder of the trunk that it is a branch of; None: it is a trunk itself.

        Raises:
            ConfigError: rules of the recipe that do not hold at this batch.
        """
        home = home or self.study.trunk(spec.trunk_id)
        end_of_text = self.text.tokenizer.eos_token_id
        if resumed:
            model = blank_model(spec, home, end_of_text=end_of_text)
        else:
            teacher = None if spec.teacher_run is None else teacher_source(spec, self.study)
            model = start_model(spec, teacher, end_of_text=end_of_text)
            self.ranks.first(lambda: record_start(model, spec, teacher, home, self.text.heldout))
        model.train()
        student = Student(model, spec.recipe).to(self.ranks.device)
        wrapped = self.ranks.wrap(student, decoder_blocks(model), half=spec.recipe.precision == "bf16")
        width = None if spec.start is not None else spec.width
        settings = own_settings(spec)
        optimizer = build_optimizer(
            model,
            width=width,
            weight_decay=settings.weight_decay,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
        )
        state = TrainState(model=model, optimizer=optimizer, tracker=new_tracker(model))
        meter = StepMeter(wrapped, self.ranks, batch_tokens=spec.batch_tokens)
        return Trainer(spec=spec, student=wrapped, state=state, ranks=self.ranks, meter=meter)

    def student_run(
        self, trainer: Trainer, schedule: RateSchedule, *, until: int, home: Path, identity: str
    ) -> StudentRun:
        """A student of the group on its way to step `until`, with its logs and checkpoints in `home`."""
        teaching, recipe = self.teaching(trainer.spec), trainer.spec.recipe
        speed = RunSpeed(
            student_flops=3 * model_flops(trainer.state.model, recipe.context),
            teacher_flops=teaching.flops if teaching.teacher else 0.0,
            device=self.ranks.device,
            precision=recipe.precision,
            world=self.ranks.world,
        )
        return StudentRun(
            trainer=trainer,
            schedule=schedule,
            until=until,
            home=home,
            identity=identity,
            speed=speed,
            source=teaching.source,
            mirror=self.mirror,
        )

    def advance(self, runs: list[StudentRun]) -> None:
        """Train the runs to where they are going."""
        advance(runs, self.feed, report=self.report)


def _check_targets(spec: TrunkSpec) -> None:
    if spec.recipe.truncates:
        raise ConfigError(
            f"{spec.trunk_id}: training.top_k = {spec.recipe.top_k}, top_p = {spec.recipe.top_p} with stored targets: "
            "these were reduced when they were stored. Name the teacher instead of targets, or drop top_k and top_p"
        )


def _teacher_flops(spec: TrunkSpec, teacher: AnyTeacher | None) -> float:
    """Forward FLOP per token of the teacher, also of one that left its targets on disk, if it is still known."""
    if teacher is not None:
        return teacher.flops_per_token(spec.recipe.context)
    if spec.targets is None or spec.teacher_run is None:
        return 0.0
    try:
        architecture = architecture_of(locate(spec.teacher_run).config())
    except DistillawError:
        return math.nan
    return forward_flops(architecture, context=spec.recipe.context).total if architecture else math.nan
