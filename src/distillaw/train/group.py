"""What trunks that advance together share: text, ranks, teachers; and their students at step 0 or from a checkpoint.

A student at step 0 is fresh from its seed, cut out of its teacher, or a model on disk. What it came to is kept beside
the trunk's checkpoints in start.json: where the weights are from, the configuration, the held-out loss before the first
step. A resumed trunk needs no more.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distillaw.accounting.flops import forward_flops
from distillaw.data.shards import BatchOrder, Split, TokenStore
from distillaw.data.tokenizer import load_tokenizer
from distillaw.errors import CacheError, ConfigError, DataError, DistillawError
from distillaw.models.cut import Cut, ranked_cut, shape_of, uniform_cut
from distillaw.models.fresh import build_model, count_parameters
from distillaw.models.parallel import ALONE, Ranks
from distillaw.models.prune import BATCH_WINDOWS, measure_importance, open_for_pruning, prune
from distillaw.models.prune import RECORD as PRUNED
from distillaw.models.scoring import HeldoutSet, make_heldout, score_heldout
from distillaw.models.source import fingerprint, locate
from distillaw.models.teacher import (
    AnyTeacher,
    architecture_of,
    check_documents_apart,
    decoder_blocks,
    load_any_teacher,
    load_weights,
    model_flops,
)
from distillaw.runs.files import read_json, write_json
from distillaw.runs.record import evenly
from distillaw.runs.spec import ModelStart, TrunkSpec, shared_batches, shared_teacher
from distillaw.runs.store import StudyFolder
from distillaw.targets.store import TargetStore
from distillaw.train.checkpoint import TrainState, new_tracker
from distillaw.train.log import Mirror
from distillaw.train.loop import BatchFeed, Report, StudentRun, Trainer, advance, silent
from distillaw.train.metering import RunSpeed, StepMeter
from distillaw.train.optim import RateSchedule, build_optimizer, own_settings
from distillaw.train.student import NoTeacher, OnlineTeacher, SignalSource, Student, TargetsOnDisk
from distillaw.worlds.oracle import is_oracle

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


RECORD = "start.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSource:
    """What a student is cut out of."""

    place: str
    model: "PreTrainedModel"
    cut: Cut


def cut_source(spec: TrunkSpec, study: StudyFolder, text: "Text") -> CutSource | None:
    """What a trunk is cut out of, its teacher or another model; None where its weights are not cut here.

    Raises:
        ConfigError: there is nothing to cut from, or the student is no part of it.
        CacheError: it cannot be loaded, or is no longer what it was.
    """
    if spec.start is not None or spec.init == "fresh":
        return None
    name, known = spec.cut_from or spec.teacher_run, spec.cut_fingerprint
    known = known if spec.cut_from else spec.teacher_fingerprint
    if name is None or is_oracle(name):
        why = "it has no teacher" if name is None else "an oracle has no weights"
        raise ConfigError(f"{spec.trunk_id}: init = {spec.init!r}, but {why} to cut from. Use init = 'fresh'")
    place = str(study.run(name).path if known is None else name)
    if known is not None:
        _check_unchanged(name, known, spec)
    model = open_for_pruning(place)
    whole = shape_of(model.config, place)
    cut = uniform_cut(whole, spec.shape)
    if spec.cut_by != "uniform":
        scores = measure_importance(model.float(), _calibration(spec, text), by=spec.cut_by)  # type: ignore[arg-type]
        cut = ranked_cut(whole, spec.shape, scores)
    return CutSource(place=place, model=model, cut=cut)


CALIBRATION_WINDOWS = 128
"""That say which units stay, evenly over the student's own text: 16k tokens of the usual context, a second of a core
for the teachers of small studies."""


def _calibration(spec: TrunkSpec, text: "Text") -> Iterator[torch.Tensor]:
    split = text.store.split(spec.split, context=spec.recipe.context)
    chosen = evenly(range(split.num_windows), CALIBRATION_WINDOWS)
    for first in range(0, len(chosen), BATCH_WINDOWS):
        yield torch.from_numpy(split.windows(chosen[first : first + BATCH_WINDOWS])[:, :-1])


def start_model(spec: TrunkSpec, source: CutSource | None, *, end_of_text: int) -> "PreTrainedModel":
    """The model of a trunk at step 0, on the CPU in float32.

    Raises:
        ConfigError: the model on disk has other rows than the text's vocabulary.
        CacheError: the model on disk cannot be loaded, or is no longer what it was.
    """
    if spec.start is not None:
        return _read_model(spec, spec.start)
    if source is not None:
        return prune(source.model, spec.shape, source.cut)
    return build_model(spec.shape, seed=spec.seed, end_of_text=end_of_text)


def _read_model(spec: TrunkSpec, start: ModelStart) -> "PreTrainedModel":
    """The model on disk, or one of its architecture with weights that the seed draws as transformers does."""
    from transformers import AutoModelForCausalLM

    _check_unchanged(start.folder, start.fingerprint, spec)
    source = locate(start.folder)
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


def _check_unchanged(place: str, known: str, spec: TrunkSpec) -> None:
    """Refuse a model that was replaced since a run was named by its weights."""
    if (now := fingerprint(locate(place))) != known:
        raise CacheError(
            f"{place}: not the model that {spec.trunk_id} was planned with (fingerprint {known}, now {now}). Put it "
            "back, or start another run in another folder"
        )


def record_start(
    model: "PreTrainedModel",
    spec: TrunkSpec,
    source: CutSource | None,
    home: Path,
    heldout: HeldoutSet,
    ranks: Ranks = ALONE,
) -> None:
    """Write start.json of a student that is not fresh of the family, unless it is there; weights are scored first.

    Raises:
        DataError: the loss is not finite.
    """
    if (spec.init == "fresh" and spec.start is None) or ranks.told((home / RECORD).exists):
        return
    record: dict[str, object] = {"config": model.config.to_dict()}
    if spec.start is not None:
        record["start"] = asdict(spec.start)
        if (made := locate(spec.start.folder).folder / PRUNED).exists():
            record["start_params"] = read_json(made).get("teacher_params")
    elif source is not None:
        params = count_parameters(source.model)[0]
        record |= {"teacher": source.place, "cut": asdict(source.cut), "start_params": params}
    if spec.init != "fresh":
        scores = score_heldout(model, heldout, ranks=ranks)
        if not math.isfinite(scores.loss):
            raise DataError(
                f"{spec.trunk_id}: before its first step it has a loss of {scores.loss} on the held-out text, so the "
                f"weights of {source.place if source else spec.start} are not finite. Check them, or take another model"
            )
        record |= {"loss": scores.loss, "loss_se": scores.loss_se}
    ranks.first(lambda: write_json(home / RECORD, record))


def blank_model(spec: TrunkSpec, home: Path, *, end_of_text: int) -> "PreTrainedModel":
    """A model of the trunk's kind whose weights a checkpoint will replace."""
    if spec.init == "fresh" and spec.start is None:
        return build_model(spec.shape, seed=spec.seed, end_of_text=end_of_text)
    from transformers import AutoConfig, AutoModelForCausalLM

    import distillaw.models.pyramid  # noqa: F401 - makes its model type known

    record: dict[str, Any] = read_json(home / RECORD)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**record["config"]), dtype=torch.float32)


def start_facts(spec: TrunkSpec, home: Path) -> dict[str, object]:
    """Of a student before its first step: held-out loss, nats per token, and what it was cut out of; None if fresh."""
    record = {} if spec.init == "fresh" else read_json(home / RECORD)
    source = spec.cut_from or (spec.teacher_run if spec.init == "pruned" and spec.start is None else None)
    return {"start_loss": record.get("loss"), "start_params": record.get("start_params"), "start_run": source}


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
    return Text(store=store, tokenizer=tokenizer, heldout=make_heldout(store.heldout_documents(), context=context))


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
        split = self.text.store.split(spec.split, context=spec.recipe.context)
        if any(s.recipe.document_mask for s in specs):
            _check_documents(split, self.text.tokenizer.eos_token_id)
        distinct = {shared_teacher(s): s for s in specs}
        self._teachings = {key: self._start_teaching(s) for key, s in distinct.items()}
        self.feed = BatchFeed(
            order=BatchOrder(split=split, seed=spec.seed),
            plan=spec.batches,
            micro_batch_tokens=spec.recipe.micro_batch_tokens,
            ranks=ranks,
        )

    def teaching(self, spec: TrunkSpec) -> Teaching:
        """What teaches a trunk of the group."""
        return self._teachings[shared_teacher(spec)]

    def _start_teaching(self, spec: TrunkSpec) -> Teaching:
        if spec.targets is not None:
            if spec.recipe.truncates:
                raise ConfigError(
                    f"{spec.trunk_id}: training.top_k = {spec.recipe.top_k}, top_p = {spec.recipe.top_p} with stored "
                    "targets: these were reduced when they were stored. Name the teacher instead of targets, or drop "
                    "top_k and top_p"
                )
            source = TargetsOnDisk(TargetStore.open(spec.targets), self.ranks.device)
            oracle = self.load_teacher(spec) if is_oracle(spec.teacher_run or "") else None
            return Teaching(source=source, teacher=None, flops=_teacher_flops(spec, oracle))
        if spec.teacher_run is None:
            return Teaching(source=NoTeacher(), teacher=None, flops=0.0)
        teacher = self.load_teacher(spec)
        return Teaching(source=OnlineTeacher(teacher), teacher=teacher, flops=_teacher_flops(spec, teacher))

    def load_teacher(self, spec: TrunkSpec) -> AnyTeacher:
        """The teacher of a trunk, checked against the group's text."""
        name = spec.teacher_run
        assert name is not None
        is_ours = spec.teacher_fingerprint is None  # else what the study file names
        return load_any_teacher(
            self.study.run(name).path if is_ours else name,
            self.text.store,
            self.text.tokenizer,
            context=spec.recipe.context,
            document_mask=spec.recipe.document_mask,
            ranks=self.ranks,
        )

    def trainer(self, spec: TrunkSpec, *, resumed: bool = False, home: Path | None = None) -> Trainer:
        """A student at step 0, or one whose checkpoint is still to be loaded.

        Args:
            resumed: whether a checkpoint will replace its weights.
            home: the folder of the trunk that it is a branch of; None: it is a trunk itself.

        Raises:
            ConfigError: rules of the recipe that do not hold at this batch, or documents that the model cannot keep
                apart.
        """
        home = home or self.study.trunk(spec.trunk_id)
        end_of_text = self.text.tokenizer.eos_token_id
        if resumed:
            model = blank_model(spec, home, end_of_text=end_of_text)
        else:
            source = cut_source(spec, self.study, self.text)
            model = start_model(spec, source, end_of_text=end_of_text)
            torch.nn.Module.to(model, self.ranks.device)
            record_start(model, spec, source, home, self.text.heldout, self.ranks)
        opens = end_of_text if spec.recipe.document_mask else None
        if opens is not None:
            check_documents_apart(spec.trunk_id, model.eval(), opens)
        model.train()
        student = Student(model, spec.recipe, end_of_text=opens).to(self.ranks.device)
        wrapped = self.ranks.wrap(student, decoder_blocks(model), half=spec.recipe.precision == "bf16")
        width = None if spec.start is not None else spec.width
        settings = own_settings(spec)
        for k in range(len(spec.batches.doublings)):  # rules that do not hold at a later batch fail now
            own_settings(spec, spec.batch_tokens << k + 1)
        optimizer = build_optimizer(
            model,
            width=width,
            weight_decay=settings.weight_decay,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
        )
        state = TrainState(model=model, optimizer=optimizer, tracker=new_tracker(model))
        meter = StepMeter(wrapped, self.ranks)
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
            world=self.ranks.devices,
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


def _check_documents(split: Split, end_of_text: int) -> None:
    """Refuse to keep documents apart where no shard begins or ends with what would tell them apart."""
    ends = [ids[-1:] if last else ids[:1] for ids in split.shards for last in (False, True)]
    if not any(end_of_text in each for each in ends):
        raise ConfigError(
            f"training.document_mask = true, but no shard of the {split.name} split begins or ends with an end of text "
            f"(id {end_of_text}), so nothing says where one begins. Write it after every document, or leave the "
            "setting out"
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
