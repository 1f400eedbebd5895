"""The end of a run: held-out score, Hugging Face folder, result.json last."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from distillaw.errors import DataError, DistillawError
from distillaw.evaluate.calibration import CalibratedScores, score_calibrated
from distillaw.models.export import ModelCard, export_model
from distillaw.models.fresh import count_parameters
from distillaw.models.oracle import AnyTeacher
from distillaw.models.scoring import HeldoutLoss, HeldoutSet, score_heldout
from distillaw.models.teacher import model_flops
from distillaw.runs.files import read_json, write_json
from distillaw.runs.spec import TrunkSpec
from distillaw.runs.store import CALIBRATION, CALIBRATION_KEYS, RunFolder, StudyFolder
from distillaw.train.loop import Trainer
from distillaw.train.start import start_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from distillaw.train.trunk import Group


def finish_run(trainer: Trainer, folder: RunFolder, group: "Group") -> None:
    """Score the cooled model and write the run; the first rank does, the others wait."""
    model = _whole_model(trainer)
    trainer.ranks.first(lambda: _write_run(trainer, model, folder, group))


def _write_run(trainer: Trainer, model: "PreTrainedModel", folder: RunFolder, group: "Group") -> None:
    text = group.text
    teaching = group.teaching(trainer.spec)
    # a search compares losses only: the teacher's pass over the held-out text is saved there
    beside = None if trainer.spec.purpose == "tuning" else teaching.teacher
    found = score_calibrated(model, text.heldout, teacher=beside)
    scores = found.heldout
    folder.write_heldout(list(range(len(scores.tokens))), scores.tokens.tolist(), scores.loss_sum.tolist())
    facts = _teacher_facts(trainer.spec, group)
    unique = text.store.split(trainer.spec.split, context=trainer.spec.recipe.context).num_tokens
    result = _result(trainer, model, scores, folder, facts, teaching.flops, unique)
    result |= _calibration(found, folder)
    result["start_loss"] = start_loss(trainer.spec, group.study.trunk(trainer.spec.trunk_id))
    card = ModelCard(
        result=result, spec=read_json(folder.path / "spec.json"), manifest=text.store.manifest,
        command=_command(group.study.path / "study.json"),
    )  # fmt: skip
    export_model(model, text.tokenizer, folder.path, card)
    folder.finish(result)


def _calibration(scores: CalibratedScores, folder: RunFolder) -> dict[str, object]:
    """Write calibration.json, every error and diagram; return those of result.json and the run table.

    Errors against the teacher exist only where it was at hand: stored targets do not hold it.
    """
    record = scores.record() | scores.from_teacher()
    write_json(folder.path / CALIBRATION, record)
    keys = {"ece": "ece_data", "ece_se": "ece_data_se"}
    return {column: record.get(keys.get(column, column)) for column in CALIBRATION_KEYS}


def _whole_model(trainer: Trainer) -> "PreTrainedModel":
    """The trained model with all its weights, on the first rank; a sharded one is gathered there."""
    from transformers import AutoModelForCausalLM

    ranks, model = trainer.ranks, trainer.state.model
    if ranks.world == 1 or ranks.sharding == "ddp":
        return model
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    whole = AutoModelForCausalLM.from_config(model.config)
    if ranks.is_first:
        whole.load_state_dict(weights)
    return whole


def _result(
    trainer: Trainer, model: "PreTrainedModel", scores: HeldoutLoss, folder: RunFolder, teacher: dict[str, object],
    teacher_flops: float, unique_tokens: int,
) -> dict[str, object]:  # fmt: skip
    spec, state, ranks = trainer.spec, trainer.state, trainer.ranks
    params, total_params = count_parameters(model)
    assert (params, total_params) == (spec.params, spec.total_params), "the shape was counted wrongly"
    trained = state.step * spec.batch_tokens
    return {
        "run_id": folder.path.name, "group": spec.trunk_id, "role": spec.role, "purpose": spec.purpose,
        "arm": spec.arm, "params": params, "total_params": total_params, "layers": spec.layers, "width": spec.width,
        "tokens": trained, "teacher_run": spec.teacher_run, "teacher_loss": teacher.get("loss"),
        "teacher_params": teacher.get("params"), "teacher_total_params": teacher.get("total_params"),
        "teacher_tokens": teacher.get("tokens"),
        "lambda": spec.recipe.distill_weight if spec.teacher_run else 0.0,
        "temperature": spec.recipe.temperature, "divergence": spec.recipe.divergence, "top_k": spec.recipe.top_k,
        "top_p": spec.recipe.top_p, "cooldown": spec.recipe.cooldown, "init": spec.init, "seed": spec.seed,
        "loss": scores.loss,
        "loss_se": scores.loss_se, "peak_lr": spec.peak_lr, "branch_lr": spec.branch_lr(trained),
        "batch_tokens": spec.batch_tokens, "steps": state.step, "split": spec.split,
        "unique_tokens": min(trained, unique_tokens),
        "train_flops": 3 * model_flops(model, spec.recipe.context) * trained,
        "teacher_flops": None if math.isnan(teacher_flops) else teacher_flops * trained,
        "teacher_flops_spent": 0.0 if spec.targets else teacher_flops * state.notes.get("teacher_tokens", 0.0),
        "seconds": state.seconds, "device": _device_name(ranks), "vocab_size": spec.vocab_size,
        "context": spec.recipe.context,
    }  # fmt: skip


def _teacher_facts(spec: TrunkSpec, group: "Group") -> dict[str, object]:
    """Loss, size and tokens of the teacher.

    A teacher of the study has its own result; an external one is scored on this study's held-out documents, once
    per set of weights, since a loss measured on other text would be another quantity. With stored targets it is
    loaded for that, if it is still there.
    """
    if spec.teacher_run is None:
        return {}
    if spec.teacher_fingerprint is None:
        return read_json(group.study.run(spec.teacher_run).path / "result.json")
    file = teacher_file(group.study, spec.teacher_fingerprint)
    if not file.exists():
        try:
            teacher = group.teaching(spec).teacher or group.load_teacher(spec)
        except DistillawError:
            return {}
        score_teacher(teacher, group.text.heldout, file)
    return read_json(file)


def teacher_file(study: StudyFolder, fingerprint: str) -> Path:
    """Where the facts of an external teacher lie, once they are known."""
    return study.path / "teachers" / f"{fingerprint}.json"


def score_teacher(teacher: AnyTeacher, heldout: HeldoutSet, file: Path) -> None:
    """Score an external teacher on a study's held-out documents and write what is known of it.

    Raises:
        DataError: its loss is not finite.
    """
    scores = score_heldout(teacher, heldout)
    if not math.isfinite(scores.loss):
        raise DataError(
            f"the teacher {teacher.name} has a loss of {scores.loss} on the held-out text: its weights or logits are "
            "not finite. Nobody can learn from it; check the file, or leave it out"
        )
    write_json(file, {
        "folder": teacher.name, "loss": scores.loss, "loss_se": scores.loss_se, "params": teacher.params,
        "total_params": teacher.total_params, "tokens": _trained_tokens(Path(teacher.name)),
        "settings": teacher.settings,
    })  # fmt: skip


def _command(study_file: Path) -> str:
    """What the user called to make this study or run."""
    return str(read_json(study_file).get("command", "")) if study_file.exists() else ""


def _trained_tokens(path: Path) -> object:
    """Tokens an external teacher was trained on, if it is a run of ours; else unknown."""
    file = path / "result.json"
    return read_json(file).get("tokens") if file.exists() else None


def _device_name(ranks) -> str:
    import torch

    name = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "cpu"
    return name if ranks.world == 1 else f"{ranks.world} x {name}"
