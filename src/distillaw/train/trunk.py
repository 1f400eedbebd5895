"""From trunks' specs to finished runs at every token budget.

A trunk advances; at each budget's branch point its state is saved, cooled down, scored on the held-out documents and
written as a run, a Hugging Face folder with result.json last; then the saved state goes on. Trunks that read one stream
advance together, those of one teacher on one forward pass of it (train/loop.py).
"""

import functools
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from distillaw.errors import DataError, DistillawError, DivergedError
from distillaw.evaluate.calibration import CalibratedScores, score_calibrated
from distillaw.models.export import export_model, model_card
from distillaw.models.fresh import count_parameters
from distillaw.models.parallel import ALONE, Ranks
from distillaw.models.scoring import BATCH_WINDOWS, HeldoutSet, score_heldout
from distillaw.models.teacher import AnyTeacher, model_flops, sharded_copy
from distillaw.runs.files import read_json, write_json, write_with
from distillaw.runs.paired import DocumentScores
from distillaw.runs.spec import TrunkSpec, spec_record
from distillaw.runs.store import CALIBRATION, CALIBRATION_KEYS, SKIPPED, RunFolder, StudyFolder, run_result, saved_step
from distillaw.train.checkpoint import load_state, remove_states, save_state
from distillaw.train.group import TrunkGroup, start_facts
from distillaw.train.log import Mirror
from distillaw.train.loop import DISTANCES, METRICS, Report, StudentRun, Trainer, silent
from distillaw.train.optim import RateSchedule, schedule_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def finish_run(trainer: Trainer, folder: RunFolder, group: TrunkGroup) -> None:
    """Score the cooled model, all ranks their share of the windows, and write the run; the first rank does."""
    # a search compares losses only: the teacher's pass over the held-out text is saved there
    beside = None if trainer.spec.purpose == "tuning" else group.teaching(trainer.spec).teacher
    scored = sharded_copy(trainer.state.model, trainer.ranks) if trainer.ranks.shards else trainer.state.model
    heldout = group.text.heldout
    windows = heldout.batches(BATCH_WINDOWS)
    found = score_calibrated(scored, windows, heldout.num_documents, teacher=beside, ranks=trainer.ranks)
    facts = _teacher_facts(trainer.spec, group)
    del scored  # before the weights are gathered
    model = _whole_model(trainer)
    trainer.ranks.first(lambda: _write_run(trainer, model, found, facts, folder, group))


def _write_run(
    trainer: Trainer,
    model: "PreTrainedModel",
    found: CalibratedScores,
    facts: dict[str, object],
    folder: RunFolder,
    group: TrunkGroup,
) -> None:
    text, scores = group.text, found.heldout
    folder.write_heldout(scores)
    unique = text.store.split(trainer.spec.split, context=trainer.spec.recipe.context).num_tokens
    result = _result(trainer, model, scores, folder, facts, group.teaching(trainer.spec).flops, unique)
    calibration = found.record() | found.from_teacher()  # against the teacher only where it was at hand
    write_json(folder.path / CALIBRATION, calibration)
    keys = {"ece": "ece_data", "ece_se": "ece_data_se"}
    result |= {column: calibration.get(keys.get(column, column)) for column in CALIBRATION_KEYS}
    result |= start_facts(trainer.spec, group.study.trunk(trainer.spec.trunk_id))
    made_by = group.study.path / "study.json"
    command = str(read_json(made_by).get("command", "")) if made_by.exists() else ""
    card = model_card(result, read_json(folder.path / "spec.json"), text.store.manifest, command)
    export_model(model, text.tokenizer, folder.path, card)
    folder.finish(result)


def _whole_model(trainer: Trainer) -> "PreTrainedModel":
    """The trained model with all its weights, on the first rank; a sharded one is gathered there."""
    from transformers import AutoModelForCausalLM

    ranks, model = trainer.ranks, trainer.state.model
    if not ranks.shards:
        return model
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if not ranks.is_first:
        return model
    whole = AutoModelForCausalLM.from_config(model.config)
    whole.load_state_dict(weights)
    return whole


_OF_SPEC = "role purpose layers width teacher_run init seed peak_lr batch_tokens split vocab_size".split()
_OF_RECIPE = "temperature divergence top_k top_p cooldown context".split()
"""What result.json says of a trunk as its spec does."""


def _result(
    trainer: Trainer,
    model: "PreTrainedModel",
    scores: DocumentScores,
    folder: RunFolder,
    teacher: dict[str, object],
    teacher_flops: float,
    unique_tokens: int,
) -> dict[str, object]:
    spec, state, ranks = trainer.spec, trainer.state, trainer.ranks
    params, total_params = count_parameters(model)
    assert (params, total_params) == (spec.params, spec.total_params), "the shape was counted wrongly"
    trained = spec.batches.read(state.step) * spec.batch_tokens
    device = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "cpu"
    return {
        **{name: getattr(spec, name) for name in _OF_SPEC},
        **{name: getattr(spec.recipe, name) for name in _OF_RECIPE},
        **{f"teacher_{name}": teacher.get(name) for name in ("loss", "params", "total_params", "tokens")},
        "run_id": folder.path.name,
        "group": spec.trunk_id,
        "arm": spec.start_arm,
        "params": params,
        "total_params": total_params,
        "tokens": trained,
        # of a falling weight the mean, as in tables of outcomes; where it falls tells two of one mean apart
        "lambda": spec.recipe.distill_weight * spec.recipe.mean_share(trained) if spec.teacher_run else 0.0,
        **({"distill_until": " to ".join(map(str, spec.recipe.distill_until))} if spec.recipe.distill_until else {}),
        "loss": scores.loss,
        "loss_se": scores.loss_se,
        "branch_lr": spec.branch_lr(trained),
        "steps": state.step,
        "unique_tokens": min(trained, unique_tokens),
        "train_flops": 3 * model_flops(model, spec.recipe.context) * trained,
        "teacher_flops": None if math.isnan(teacher_flops) else teacher_flops * spec.recipe.taught_tokens(trained),
        "teacher_flops_spent": 0.0 if spec.targets else teacher_flops * state.notes.get("teacher_tokens", 0.0),
        "seconds": state.seconds,
        "device": device if ranks.world == 1 else f"{ranks.world} x {device}",
        SKIPPED: int(state.notes.get("skipped", 0)),
    }


def _teacher_facts(spec: TrunkSpec, group: TrunkGroup) -> dict[str, object]:
    """Loss, size and tokens of the teacher.

    A teacher of the study has its own result; an external one is scored on this study's held-out documents, once
    per set of weights, since a loss measured on other text would be another quantity. With stored targets it is
    loaded for that, if it is still there.
    """
    if spec.teacher_run is None:
        return {}
    ranks = group.ranks
    if spec.teacher_fingerprint is None:
        own = group.study.run(spec.teacher_run).path / "result.json"
        return ranks.told(lambda: read_json(own))
    file = teacher_file(group.study, spec.teacher_fingerprint)
    if not ranks.told(file.exists):
        try:
            teacher = group.teaching(spec).teacher or group.load_teacher(spec)
        except DistillawError:
            return {}
        score_teacher(teacher, group.text.heldout, file, ranks)
    return ranks.told(lambda: read_json(file))


def teacher_file(study: StudyFolder, fingerprint: str) -> Path:
    """Where the facts of an external teacher lie, once they are known."""
    return study.path / "teachers" / f"{fingerprint}.json"


def score_teacher(teacher: AnyTeacher, heldout: HeldoutSet, file: Path, ranks: Ranks = ALONE) -> None:
    """Score an external teacher on a study's held-out documents and write what is known of it.

    Raises:
        DataError: its loss is not finite.
    """
    scores = score_heldout(teacher, heldout, ranks=ranks)
    if not math.isfinite(scores.loss):
        raise DataError(
            f"the teacher {teacher.name} has a loss of {scores.loss} on the held-out text: its weights or logits are "
            "not finite. Nobody can learn from it; check the file, or leave it out"
        )
    facts = {
        "folder": teacher.name,
        "loss": scores.loss,
        "loss_se": scores.loss_se,
        "params": teacher.params,
        "total_params": teacher.total_params,
        "tokens": run_result(teacher.name).get("tokens"),  # unknown where it is no run of ours
        "settings": teacher.settings,
    }
    ranks.first(lambda: write_json(file, facts))


def train_trunks(
    wanted: Mapping[TrunkSpec, Sequence[int]],
    study: StudyFolder,
    *,
    ranks: Ranks = ALONE,
    report: Report = silent,
    mirror: Mirror | None = None,
) -> dict[TrunkSpec, DivergedError]:
    """Train trunks that read one stream and cool each down at its token budgets; finished runs are left as they are.

    Each teacher forward is shared by all of that teacher.

    Args:
        wanted: token budgets of each trunk, in any order. The trunks agree in split, seed, batch and context;
            `teacher_run` names a finished run of the study or an external folder.
        ranks: the processes that train together; all call this.
        mirror: given every row of the log as well.

    Returns:
        The trunks that diverged; the others are finished.

    Raises:
        RunError: the disk is full; finished runs and the last checkpoint are kept.
        VocabularyError: the teacher does not share the study's vocabulary.
    """
    missing = {
        spec: left
        for spec, budgets in wanted.items()
        if (left := [t for t in sorted(set(budgets)) if study.run(spec.run_id(t)).state() != "done"])
    }
    if not missing:
        return {}
    group = TrunkGroup(list(missing), study, ranks, report, mirror)
    trunks = [_Trunk(group, spec, budgets) for spec, budgets in missing.items()]
    for tokens in sorted({t for budgets in missing.values() for t in budgets}):
        group.advance([trunk.to_branch(tokens) for trunk in trunks if trunk.goes_to(tokens)])
        branches = [trunk for trunk in trunks if trunk.wants(tokens)]
        group.advance([trunk.begin_cooldown(tokens) for trunk in branches])
        for trunk in branches:
            trunk.finish(tokens)
    return {trunk.spec: trunk.error for trunk in trunks if trunk.error is not None}


class _Trunk:
    """One trunk on its way through its budgets."""

    def __init__(self, group: TrunkGroup, spec: TrunkSpec, budgets: list[int]) -> None:
        self.spec, self._group, self._budgets = spec, group, budgets
        self._home = group.study.trunk(spec.trunk_id)
        self.error: DivergedError | None = None
        self._student_run: StudentRun | None = None
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

    def to_branch(self, tokens: int) -> StudentRun:
        """The way to the branch point of a budget."""
        schedule = self._schedule(tokens)
        return self._start(schedule, schedule.branch_step, self._home, self.spec.trunk_id)

    def begin_cooldown(self, tokens: int) -> StudentRun:
        """Save the trunk, then the way through the cooldown of a budget, resumed if it was begun before."""
        how = {"ranks": self._group.ranks, "keep": self.spec.recipe.keep_checkpoints}
        save_state(self._trainer.state, self._home / "state", identity=self.spec.trunk_id, **how)
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

    def _start(self, schedule: RateSchedule, until: int, home: Path, identity: str) -> StudentRun:
        self._student_run = self._group.student_run(self._trainer, schedule, until=until, home=home, identity=identity)
        return self._student_run

    def _load(self, home: Path, identity: str) -> None:
        load_state(self._trainer.state, home / "state", identity=identity, ranks=self._group.ranks)

    def _run(self, tokens: int) -> RunFolder:
        return self._group.study.run(self.spec.run_id(tokens))

    def _note_error(self) -> None:
        self.error = self.error or (self._student_run.error if self._student_run else None)

    def _schedule(self, tokens: int) -> RateSchedule:
        recipe = self.spec.recipe
        return schedule_for(
            tokens=tokens,
            batches=self.spec.batches,
            warmup_tokens=recipe.warmup_tokens,
            cooldown=recipe.cooldown,
            decay=recipe.decay,
            power=self.spec.rate_power,
            power_tokens=self.spec.rate_tokens,
        )
