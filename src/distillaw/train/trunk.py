"""From a trunk's spec to finished runs at every token budget.

A trunk advances at constant rate; at each budget's branch point a copy of its state is cooled down, scored on
the held-out documents and written as a run, a Hugging Face folder with result.json; then the trunk goes on.
"""

import copy
import functools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.accounting.config import read_architecture
from distillaw.accounting.flops import forward_flops
from distillaw.accounting.params import count_params
from distillaw.data.batches import BatchOrder
from distillaw.data.shards import TokenStore
from distillaw.data.tokenizer import load_tokenizer
from distillaw.evaluate.heldout import HeldoutLoss, HeldoutSet, make_heldout, score_heldout
from distillaw.models.fresh import build_model, count_parameters
from distillaw.models.teacher import load_teacher
from distillaw.runs.files import read_json, saving, write_json, write_with
from distillaw.runs.spec import TrunkSpec, spec_record
from distillaw.runs.store import RunFolder, StudyFolder
from distillaw.train.checkpoint import TrainState, load_state, save_state
from distillaw.train.loop import Report, Trainer, silent
from distillaw.train.optim import build_optimizer
from distillaw.train.schedule import Schedule, schedule_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def train_trunk(
    spec: TrunkSpec, budgets: list[int], study: StudyFolder, *, report: Report = silent
) -> list[RunFolder]:
    """Train a trunk and cool it down at each token budget; finished runs are left as they are.

    Args:
        spec: the trunk; `spec.teacher_run` names a finished run of the study or an external folder.
        budgets: token budgets in any order.
        study: where tokens, trunks and runs lie.
        report: progress callback.

    Returns:
        One folder per budget, ascending.

    Raises:
        RunError: diverged, or the disk is full; finished runs and the last checkpoint are kept.
        VocabularyError: the teacher does not share the study's vocabulary.
    """
    folders = {tokens: study.run(spec.run_id(tokens)) for tokens in sorted(budgets)}
    missing = [tokens for tokens, folder in folders.items() if folder.state() != "done"]
    if not missing:
        return list(folders.values())
    home = study.trunk(spec.trunk_id)
    trainer = _make_trainer(spec, study, report)
    load_state(trainer.state, home / "state.pt", identity=spec.trunk_id)
    if trainer.state.step > _schedule(spec, missing[0]).branch_step:
        # the checkpoint is past a budget that was asked for later: start over, bit for bit the same trunk
        trainer = _make_trainer(spec, study, report)
    for tokens in missing:
        schedule = _schedule(spec, tokens)
        trainer.advance(schedule.branch_step, schedule, log=home / "metrics.jsonl", checkpoint=home / "state.pt",
                        identity=spec.trunk_id)  # fmt: skip
        save_state(trainer.state, home / "state.pt", identity=spec.trunk_id)
        _branch(trainer, tokens, schedule, folders[tokens], study)
    return list(folders.values())


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


def teacher_folder(teacher_run: str, study: StudyFolder) -> Path:
    """Where a teacher lies: a run of the study, or the folder that the study file names."""
    path = Path(teacher_run)
    return path if path.is_absolute() else study.run(teacher_run).path


def _make_trainer(spec: TrunkSpec, study: StudyFolder, report: Report) -> Trainer:
    text = open_text(study.data, spec.recipe.context)
    teacher = None
    if spec.teacher_run is not None:
        teacher = load_teacher(teacher_folder(spec.teacher_run, study), text.tokenizer)
    model = build_model(spec.shape, seed=spec.seed, end_of_text=text.tokenizer.eos_token_id).train()
    optimizer = build_optimizer(model, width=spec.width, weight_decay=spec.recipe.weight_decay)
    order = BatchOrder(split=text.store.split(spec.split, context=spec.recipe.context), seed=spec.seed)
    state = TrainState(model=model, optimizer=optimizer)
    return Trainer(spec=spec, state=state, order=order, teacher=teacher, report=report)


def _schedule(spec: TrunkSpec, tokens: int) -> Schedule:
    return schedule_for(
        tokens=tokens, batch_tokens=spec.batch_tokens, warmup_tokens=spec.recipe.warmup_tokens,
        cooldown=spec.recipe.cooldown,
    )  # fmt: skip


def _branch(trainer: Trainer, tokens: int, schedule: Schedule, folder: RunFolder, study: StudyFolder) -> None:
    """Cool a copy of the trunk down, score it, write the run."""
    spec, path = trainer.spec, folder.path
    path.mkdir(parents=True, exist_ok=True)
    folder.set_status("running")
    folder.write_spec(spec_record(spec, tokens))
    branch = Trainer(spec=spec, state=copy.deepcopy(trainer.state), order=trainer.order, teacher=trainer.teacher,
                     report=trainer.report)  # fmt: skip
    checkpoint, log = path / "state.pt", path / "metrics.jsonl"
    if not load_state(branch.state, checkpoint, identity=path.name):
        trunk_log = study.trunk(spec.trunk_id) / "metrics.jsonl"
        write_with(log, lambda temporary: shutil.copyfile(trunk_log, temporary))
    branch.advance(schedule.total_steps, schedule, log=log, checkpoint=checkpoint, identity=path.name)
    _finish(branch, tokens, folder, study)
    checkpoint.unlink(missing_ok=True)


def _finish(branch: Trainer, tokens: int, folder: RunFolder, study: StudyFolder) -> None:
    """Score the cooled model and write the run; result.json comes last and marks it finished."""
    model = branch.state.model
    text = open_text(study.data, branch.spec.recipe.context)
    scores = score_heldout(model, text.heldout)
    folder.write_heldout(list(range(len(scores.tokens))), scores.tokens.tolist(), scores.loss_sum.tolist())
    with saving(folder.path):
        model.save_pretrained(folder.path)
        text.tokenizer.save_pretrained(str(folder.path))
    folder.finish(_result(branch, scores, folder, study))


def _result(branch: Trainer, scores: HeldoutLoss, folder: RunFolder, study: StudyFolder) -> dict[str, object]:
    spec, state = branch.spec, branch.state
    params, total_params = count_parameters(state.model)
    assert (params, total_params) == (spec.params, spec.total_params), "the shape was counted wrongly"
    trained = state.step * spec.batch_tokens
    split = branch.order.split
    teacher, teacher_forward = _teacher_facts(branch, study)
    return {
        "run_id": folder.path.name, "group": spec.trunk_id, "role": spec.role, "purpose": spec.purpose,
        "arm": spec.arm, "params": params, "total_params": total_params, "layers": spec.layers, "width": spec.width,
        "tokens": trained, "teacher_run": spec.teacher_run, "teacher_loss": teacher.get("loss"),
        "teacher_params": teacher.get("params"), "teacher_tokens": teacher.get("tokens"),
        "lambda": spec.recipe.distill_weight if spec.teacher_run else 0.0,
        "temperature": spec.recipe.temperature, "init": "fresh", "seed": spec.seed, "loss": scores.loss,
        "loss_se": scores.loss_se, "peak_lr": spec.peak_lr, "batch_tokens": spec.batch_tokens, "steps": state.step,
        "split": spec.split, "unique_tokens": min(trained, split.num_tokens),
        "train_flops": 3 * forward_flops(spec.shape).total * trained, "teacher_flops": teacher_forward * trained,
        "seconds": state.seconds, "device": "cpu", "vocab_size": spec.vocab_size, "context": spec.recipe.context,
    }  # fmt: skip


def _teacher_facts(branch: Trainer, study: StudyFolder) -> tuple[dict[str, object], float]:
    """Loss, size and tokens of the teacher, and its forward FLOP per token.

    A teacher of the study has its own result; an external one is scored on this study's held-out documents, once
    per set of weights, since a loss measured on other text would be another quantity.
    """
    spec = branch.spec
    if spec.teacher_run is None:
        return {}, 0.0
    path = teacher_folder(spec.teacher_run, study)
    architecture = read_architecture(path)
    forward = forward_flops(architecture, context=spec.recipe.context).total
    if spec.teacher_fingerprint is None:
        return read_json(path / "result.json"), forward
    file = study.path / "teachers" / f"{spec.teacher_fingerprint}.json"
    if not file.exists():
        assert branch.teacher is not None
        scores = score_heldout(branch.teacher, open_text(study.data, spec.recipe.context).heldout)
        write_json(file, {
            "folder": str(path), "loss": scores.loss, "loss_se": scores.loss_se,
            "params": count_params(architecture).non_embedding, "tokens": _trained_tokens(path),
        })  # fmt: skip
    return read_json(file), forward


def _trained_tokens(path: Path) -> object:
    """Tokens an external teacher was trained on, if it is a run of ours; else unknown."""
    file = path / "result.json"
    return read_json(file).get("tokens") if file.exists() else None
