"""The end of a run: held-out score, Hugging Face folder, result.json last."""

from pathlib import Path
from typing import TYPE_CHECKING

from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from distillaw.accounting.flops import forward_flops
from distillaw.evaluate.heldout import HeldoutLoss, score_heldout
from distillaw.models.fresh import build_model, count_parameters
from distillaw.models.teacher import Teacher
from distillaw.runs.files import read_json, saving, write_json
from distillaw.runs.store import RunFolder, StudyFolder
from distillaw.train.loop import Trainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from distillaw.train.trunk import Text


def finish_run(
    trainer: Trainer, folder: RunFolder, study: StudyFolder, text: "Text", teacher: Teacher | None,
    teacher_flops: float,
) -> None:  # fmt: skip
    """Score the cooled model and write the run; the first rank does, the others wait."""
    model = _whole_model(trainer, text.tokenizer.eos_token_id)
    if trainer.ranks.is_first:
        scores = score_heldout(model, text.heldout)
        folder.write_heldout(
            list(range(len(scores.tokens))), scores.tokens.tolist(), scores.loss_sum.tolist()
        )
        with saving(folder.path):
            model.save_pretrained(folder.path)
            text.tokenizer.save_pretrained(str(folder.path))
        facts = _teacher_facts(trainer, study, text, teacher)
        unique = text.store.split(trainer.spec.split, context=trainer.spec.recipe.context).num_tokens
        folder.finish(_result(trainer, model, scores, folder, facts, teacher_flops, unique))
    trainer.ranks.wait()


def _whole_model(trainer: Trainer, end_of_text: int) -> "PreTrainedModel":
    """The trained model with all its weights, on the first rank; a sharded one is gathered there."""
    ranks, model = trainer.ranks, trainer.state.model
    if ranks.world == 1 or ranks.sharding == "ddp":
        return model
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    whole = build_model(trainer.spec.shape, seed=trainer.spec.seed, end_of_text=end_of_text)
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
        "teacher_params": teacher.get("params"), "teacher_tokens": teacher.get("tokens"),
        "lambda": spec.recipe.distill_weight if spec.teacher_run else 0.0,
        "temperature": spec.recipe.temperature, "init": "fresh", "seed": spec.seed, "loss": scores.loss,
        "loss_se": scores.loss_se, "peak_lr": spec.peak_lr, "batch_tokens": spec.batch_tokens, "steps": state.step,
        "split": spec.split, "unique_tokens": min(trained, unique_tokens),
        "train_flops": 3 * forward_flops(spec.shape).total * trained, "teacher_flops": teacher_flops * trained,
        "seconds": state.seconds, "device": _device_name(ranks), "vocab_size": spec.vocab_size,
        "context": spec.recipe.context,
    }  # fmt: skip


def _teacher_facts(
    trainer: Trainer, study: StudyFolder, text: "Text", teacher: Teacher | None
) -> dict[str, object]:
    """Loss, size and tokens of the teacher.

    A teacher of the study has its own result; an external one is scored on this study's held-out documents, once
    per set of weights, since a loss measured on other text would be another quantity.
    """
    spec = trainer.spec
    if spec.teacher_run is None or teacher is None:
        return {}
    if spec.teacher_fingerprint is None:
        return read_json(study.run(spec.teacher_run).path / "result.json")
    file = study.path / "teachers" / f"{spec.teacher_fingerprint}.json"
    if not file.exists():
        scores = score_heldout(teacher.model, text.heldout)
        write_json(file, {
            "folder": teacher.name, "loss": scores.loss, "loss_se": scores.loss_se, "params": teacher.params,
            "tokens": _trained_tokens(Path(teacher.name)),
        })  # fmt: skip
    return read_json(file)


def _trained_tokens(path: Path) -> object:
    """Tokens an external teacher was trained on, if it is a run of ours; else unknown."""
    file = path / "result.json"
    return read_json(file).get("tokens") if file.exists() else None


def _device_name(ranks) -> str:
    import torch

    name = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "cpu"
    return name if ranks.world == 1 else f"{ranks.world} x {name}"
