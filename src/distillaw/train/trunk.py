"""From trunks' specs to finished runs at every token budget.

A trunk advances; at each budget's branch point its state is saved, cooled down, scored on the held-out
documents and written as a run, a Hugging Face folder with result.json; then the saved state goes on. Trunks that read
one stream advance together, those of one teacher on one forward pass of it (train/loop.py).
"""

import functools
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.accounting.flops import forward_flops
from distillaw.data.batches import BatchOrder
from distillaw.data.shards import TokenStore
from distillaw.data.tokenizer import load_tokenizer
from distillaw.errors import ConfigError, DistillawError, DivergedError
from distillaw.models.oracle import AnyTeacher, load_any_teacher
from distillaw.models.scoring import HeldoutSet, make_heldout
from distillaw.models.source import locate
from distillaw.models.teacher import architecture_of, decoder_blocks, model_flops
from distillaw.runs.files import write_with
from distillaw.runs.spec import TrunkSpec, shared_batches, shared_teacher, spec_record
from distillaw.runs.store import RunFolder, StudyFolder
from distillaw.targets.store import TargetStore
from distillaw.train.checkpoint import (
    TrainState,
    load_state,
    new_tracker,
    remove_states,
    save_state,
    saved_step,
)
from distillaw.train.finish import finish_run
from distillaw.train.large_batch import own_settings
from distillaw.train.loop import DISTANCES, METRICS, Feed, Lane, Report, Trainer, advance, silent
from distillaw.train.mirror import Mirror
from distillaw.train.noise import StepMeter
from distillaw.train.optim import build_optimizer
from distillaw.train.parallel import ALONE, Ranks
from distillaw.train.schedule import Schedule, schedule_for
from distillaw.train.speed import Speed
from distillaw.train.start import blank_model, record_start, start_model
from distillaw.train.student import Student
from distillaw.train.teaching import Alone, OnlineTeacher, Source, StoredTargets
from distillaw.worlds.oracle import is_oracle

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def train_trunk(
    spec: TrunkSpec,
    budgets: Sequence[int],
    study: StudyFolder,
    *,
    ranks: Ranks = ALONE,
    report: Report = silent,
    mirror: Mirror | None = None,
) -> list[RunFolder]:
    """Train one trunk and cool it down at each token budget; finished runs are left as they are.

    Args:
        spec: the trunk; `spec.teacher_run` names a finished run of the study or an external folder.
        budgets: token budgets in any order.
        study: where tokens, trunks and runs lie.
        ranks: the processes that train it together; all call this.
        report: progress callback.
        mirror: given every row of the log as well.

    Returns:
        One folder per budget, ascending.

    Raises:
        RunError: diverged, or the disk is full; finished runs and the last checkpoint are kept.
        VocabularyError: the teacher does not share the study's vocabulary.
    """
    errors = train_trunks({spec: budgets}, study, ranks=ranks, report=report, mirror=mirror)
    if errors:
        raise errors[spec]
    return [study.run(spec.run_id(tokens)) for tokens in sorted(budgets)]


def train_trunks(
    wanted: Mapping[TrunkSpec, Sequence[int]],
    study: StudyFolder,
    *,
    ranks: Ranks = ALONE,
    report: Report = silent,
    mirror: Mirror | None = None,
) -> dict[TrunkSpec, DivergedError]:
    """Train several trunks that read the same stream, each teacher forward shared by all of that teacher.

    Args:
        wanted: token budgets of each trunk. The trunks agree in split, seed, batch and context.
        study, ranks, report, mirror: as for `train_trunk`.

    Returns:
        The trunks that diverged; the others are finished.
    """
    missing = {spec: _missing(spec, budgets, study) for spec, budgets in wanted.items()}
    missing = {spec: budgets for spec, budgets in missing.items() if budgets}
    if not missing:
        return {}
    group = Group(list(missing), study, ranks, report, mirror)
    trunks = [_Trunk(group, spec, budgets) for spec, budgets in missing.items()]
    for tokens in sorted({t for budgets in missing.values() for t in budgets}):
        group.advance([trunk.to_branch(tokens) for trunk in trunks if trunk.goes_to(tokens)])
        branches = [trunk for trunk in trunks if trunk.wants(tokens)]
        group.advance([trunk.begin_cooldown(tokens) for trunk in branches])
        for trunk in branches:
            trunk.finish(tokens)
    return {trunk.spec: trunk.error for trunk in trunks if trunk.error is not None}


def _missing(spec: TrunkSpec, budgets: Sequence[int], study: StudyFolder) -> list[int]:
    return [t for t in sorted(set(budgets)) if study.run(spec.run_id(t)).state() != "done"]


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

    source: Source
    teacher: AnyTeacher | None
    """None if it is not in memory: there is none, or its targets stand for it."""
    flops: float
    """Its forward pass, per token; NaN if no longer known."""


class Group:
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
        self.feed = Feed(
            order=BatchOrder(split=self.text.store.split(spec.split, context=spec.recipe.context), seed=spec.seed),
            batch_tokens=spec.batch_tokens, micro_batch_tokens=spec.recipe.micro_batch_tokens, ranks=ranks,
        )  # fmt: skip

    def teaching(self, spec: TrunkSpec) -> Teaching:
        """What teaches a trunk of the group."""
        return self._teachings[shared_teacher(spec)]

    def _start_teaching(self, spec: TrunkSpec) -> Teaching:
        if spec.targets is not None:
            _check_targets(spec)
            source = StoredTargets(TargetStore.open(spec.targets), self.ranks.device)
            oracle = self.load_teacher(spec) if is_oracle(spec.teacher_run or "") else None
            return Teaching(source=source, teacher=None, flops=_teacher_flops(spec, oracle))
        if spec.teacher_run is None:
            return Teaching(source=Alone(), teacher=None, flops=0.0)
        teacher = self.load_teacher(spec)
        return Teaching(source=OnlineTeacher(teacher), teacher=teacher, flops=_teacher_flops(spec, teacher))

    def load_teacher(self, spec: TrunkSpec) -> AnyTeacher:
        """The teacher of a trunk, checked against the group's text."""
        return load_any_teacher(
            teacher_source(spec, self.study), self.text.store, self.text.tokenizer, context=spec.recipe.context,
            device=self.ranks.device,
        )  # fmt: skip

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
            model, width=width, weight_decay=settings.weight_decay, betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
        )  # fmt: skip
        state = TrainState(model=model, optimizer=optimizer, tracker=new_tracker(model))
        meter = StepMeter(wrapped, self.ranks, batch_tokens=spec.batch_tokens)
        return Trainer(spec=spec, student=wrapped, state=state, ranks=self.ranks, meter=meter)

    def lane(self, trainer: Trainer, schedule: Schedule, *, until: int, home: Path, identity: str) -> Lane:
        """A student of the group on its way to step `until`, with its logs and checkpoints in `home`."""
        teaching, recipe = self.teaching(trainer.spec), trainer.spec.recipe
        speed = Speed(
            student_flops=3 * model_flops(trainer.state.model, recipe.context),
            teacher_flops=teaching.flops if teaching.teacher else 0.0,
            device=self.ranks.device, precision=recipe.precision, world=self.ranks.world,
        )  # fmt: skip
        return Lane(
            trainer=trainer, schedule=schedule, until=until, home=home, identity=identity, speed=speed,
            source=teaching.source, mirror=self.mirror,
        )  # fmt: skip

    def advance(self, lanes: list[Lane]) -> None:
        """Train the lanes to where they are going."""
        advance(lanes, self.feed, report=self.report)


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


class _Trunk:
    """One trunk on its way through its budgets."""

    def __init__(self, group: Group, spec: TrunkSpec, budgets: list[int]) -> None:
        self.spec, self._group, self._budgets = spec, group, budgets
        self._home = group.study.trunk(spec.trunk_id)
        self.error: DivergedError | None = None
        self._lane: Lane | None = None
        # a checkpoint past a budget that was asked for later is of no use: the trunk starts over, the same bit for bit
        resumes = 0 <= saved_step(self._home / "state") <= self._schedule(budgets[0]).branch_step
        self._trainer = group.trainer(spec, resumed=resumes)
        if resumes:
            self._load(self._home, spec.trunk_id)

    def goes_to(self, tokens: int) -> bool:
        """Whether it advances to the branch point of this budget, its own or one before its own."""
        return self.error is None and self._budgets[-1] >= tokens

    def wants(self, tokens: int) -> bool:
        """Whether this budget is its own and can still be reached."""
        self._note_error()
        return self.error is None and tokens in self._budgets

    def to_branch(self, tokens: int) -> Lane:
        """The way to the branch point of a budget."""
        schedule = self._schedule(tokens)
        return self._start(schedule, schedule.branch_step, self._home, self.spec.trunk_id)

    def begin_cooldown(self, tokens: int) -> Lane:
        """Save the trunk, then the way through the cooldown of a budget, resumed if it was begun before."""
        save_state(
            self._trainer.state, self._home / "state", identity=self.spec.trunk_id, ranks=self._group.ranks
        )
        folder, schedule = self._run(tokens), self._schedule(tokens)
        self._group.ranks.first(lambda: self._announce(folder, tokens))
        self._load(folder.path, folder.path.name)
        return self._start(schedule, schedule.total_steps, folder.path, folder.path.name)

    def finish(self, tokens: int) -> None:
        """Score and write the run, then go back to the trunk if there is more to do."""
        self._note_error()
        if self.error is not None:
            return
        folder, group = self._run(tokens), self._group
        finish_run(self._trainer, folder, group)
        group.ranks.first(lambda: remove_states(folder.path / "state"))
        if self._budgets[-1] > tokens:
            self._load(self._home, self.spec.trunk_id)

    def _announce(self, folder: RunFolder, tokens: int) -> None:
        """Make the run's folder, with the trunk's logs as the beginning of its own."""
        folder.set_status("running")
        folder.write_spec(spec_record(self.spec, tokens))
        if saved_step(folder.path / "state") < 0:
            for log in filter(Path.exists, (self._home / METRICS, self._home / DISTANCES)):
                write_with(folder.path / log.name, functools.partial(shutil.copyfile, log))

    def _start(self, schedule: Schedule, until: int, home: Path, identity: str) -> Lane:
        self._lane = self._group.lane(self._trainer, schedule, until=until, home=home, identity=identity)
        return self._lane

    def _load(self, home: Path, identity: str) -> None:
        load_state(self._trainer.state, home / "state", identity=identity, ranks=self._group.ranks)

    def _run(self, tokens: int) -> RunFolder:
        return self._group.study.run(self.spec.run_id(tokens))

    def _note_error(self) -> None:
        self.error = self.error or (self._lane.error if self._lane else None)

    def _schedule(self, tokens: int) -> Schedule:
        recipe = self.spec.recipe
        return schedule_for(
            tokens=tokens, batch_tokens=self.spec.batch_tokens, warmup_tokens=recipe.warmup_tokens,
            cooldown=recipe.cooldown, decay=recipe.decay, power=self.spec.rate_power,
            power_tokens=self.spec.rate_tokens,
        )  # fmt: skip
