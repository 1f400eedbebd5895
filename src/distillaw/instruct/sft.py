"""Supervised fine-tuning: a language model learns the assistant's tokens of conversations.

    run_sft(SftSpec(model="out/student", data="chats.jsonl", template="zephyr"), Path("out/chat"))

Masked, split and scored by us, stepped by TRL's SFTTrainer; resumable, and a second call does nothing.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.instruct.batches import Collator, check_packing, score_examples, training_rows
from distillaw.instruct.conversations import read_conversations
from distillaw.instruct.finish import (
    change,
    export_chat_model,
    figures,
    kept_scores,
    readme,
    step_flops,
    training_forwards,
    write_scores,
)
from distillaw.instruct.folder import TuneFolder
from distillaw.instruct.generate import about_answers
from distillaw.instruct.prepare import Sides, prepare_sides
from distillaw.instruct.spec import SftSpec
from distillaw.instruct.start import Say, Start, base_model, merged_model, run_stage, silent
from distillaw.models.fresh import count_parameters
from distillaw.models.scoring import HeldoutLoss

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer


def run_sft(
    spec: SftSpec, out: Path, *, device: str = "cpu", say: Say = silent, command: str = ""
) -> dict[str, object]:
    """Fine-tune a model on conversations.

    Args:
        spec: the settings.
        out: the run's folder; made. The tuned model is `out/model`.
        device: cpu or cuda.
        say: takes a line of progress now and then.
        command: for the record.

    Returns:
        What result.json holds.

    Raises:
        CacheError: no model there.
        ConfigError: settings that cannot be, no chat template, or `out` holds another run.
        DataError: conversations that cannot be used.
        RunError: out of memory or disk, diverged, or another process works there.
    """

    def tune(start: Start, sides, folder: TuneFolder, record: dict[str, object]) -> dict[str, object]:
        return _tune(spec, start, sides, folder, record, device, say)

    return run_stage(spec, "sft", out, lambda start: read_sides(spec, start), tune, say=say, command=command)


def read_sides(spec: SftSpec, start: Start) -> Sides:
    """The conversations as examples to train on and to score.

    Raises:
        ConfigError: no such file.
        DataError: nothing usable, or too much that is not.
    """
    return prepare_sides(read_conversations(spec.data), start.masker, max_tokens=start.max_tokens,
                         validation=spec.validation, keep_truncated=spec.keep_truncated)  # fmt: skip


def _tune(
    spec: SftSpec, start: Start, sides: Sides, folder: TuneFolder, record: dict[str, object], device: str, say: Say
) -> dict[str, object]:  # fmt: skip
    from distillaw.instruct.training import train_to_best

    model = start.load(device)
    counts = count_parameters(model)
    if spec.packing:
        check_packing(model)
    rows = training_rows(sides.train, packing=spec.packing, max_tokens=start.max_tokens)
    before = kept_scores(folder.path / "before.json")
    if before is None:
        before = kept_scores(folder.path / "before.json", score_examples(model, sides.heldout))
        assert before is not None
    say(f"before: held-out loss {before.loss:.4f} ± {before.loss_se:.4f} nats/token")
    trainer = _trainer(spec, start, model, rows, folder, device)
    base = base_model(trainer.model, spec)
    seconds = train_to_best(
        trainer, folder, spec, rows=len(rows), score=lambda: figures(score_examples(base, sides.heldout)),
        patience=spec.patience, say=say, unit="nats/token",
    )  # fmt: skip
    after = score_examples(base, sides.heldout)
    result = _result(spec, start, sides, folder, record, counts, before, after, seconds, len(rows), device)
    write_scores(folder, after)
    card = readme(result, record, _card_rows(result))
    export_chat_model(merged_model(trainer.model, spec), start, folder.model, card)
    return folder.finish(result)


def _trainer(
    spec: SftSpec, start: Start, model: "PreTrainedModel", rows, folder: TuneFolder, device: str
) -> "Trainer":
    from transformers import set_seed

    from distillaw.instruct.trainers import QuietSFT, lora_config, sft_config

    set_seed(spec.seed)  # adapters are drawn before the trainer sets its own
    pad = start.tokenizer.pad_token_id
    return QuietSFT(
        model=model, args=sft_config(spec, folder.checkpoints, rows=len(rows), device=device), train_dataset=rows,
        processing_class=start.tokenizer, peft_config=lora_config(spec.lora),
        data_collator=Collator(pad=start.end_token if pad is None else pad, packed=spec.packing),
    )  # fmt: skip


def _result(
    spec: SftSpec, start: Start, sides: Sides, folder: TuneFolder, record: dict[str, object], counts: tuple[int, int],
    before: HeldoutLoss, after: HeldoutLoss, seconds: float, rows: int, device: str,
) -> dict[str, object]:  # fmt: skip
    from distillaw.instruct.training import epochs_run
    from distillaw.instruct.watch import best_epoch

    epochs = epochs_run(folder)
    answer_tokens = epochs * sum(each.answer_tokens for each in sides.train)
    all_tokens = epochs * sum(len(each.ids) for each in sides.train)
    config = start.source.config()
    about = about_answers(Path(spec.data))
    return {
        "run_id": record["run_id"], "stage": "sft", "role": "student", "purpose": "sft", "arm": "sft",
        "params": counts[0], "total_params": counts[1], "tokens": answer_tokens, "all_tokens": all_tokens,
        "teacher_run": about.get("teacher"), "teacher_flops": about.get("flops"), "teacher_loss": None, "lambda": None,
        "temperature": None,
        "init": "pretrained", "base": start.source.name, "template": start.template, "end_token":
        start.tokenizer.convert_ids_to_tokens(start.end_token), "seed": spec.seed, "loss": after.loss,
        "loss_se": after.loss_se, "before": figures(before), "after": figures(after), "change": change(after, before),
        "epochs_run": epochs, "best_epoch": best_epoch(folder), "conversations": len(sides.train),
        "heldout_conversations": len(sides.heldout), "heldout_tokens": int(after.tokens.sum()), "rows": rows,
        "data": sides.account.as_record(), "peak_lr": spec.lr, "context": start.max_tokens, "vocab_size":
        config.get_text_config().vocab_size, "start_loss": before.loss, "recipe": asdict(spec),
        "train_flops": step_flops(
            config, tokens=all_tokens, mean_length=all_tokens / (epochs * len(sides.train)),
            forwards=training_forwards(spec.lora),
        ),
        "seconds": seconds, "device": device,
    }  # fmt: skip


def _card_rows(result: dict[str, object]) -> dict[str, str]:
    before, after = result["before"], result["after"]
    assert isinstance(before, dict) and isinstance(after, dict)
    return {
        "held-out loss before": f"{before['loss']:.4f} ± {before['loss_se']:.4f} nats/token",
        "held-out loss after": f"{after['loss']:.4f} ± {after['loss_se']:.4f} nats/token",
        "assistant tokens learnt": f"{result['tokens']:,} in {result['epochs_run']} epochs (epoch "
        f"{result['best_epoch']} kept)",
        "learning rate, seed": f"{result['peak_lr']:g}, {result['seed']}",
    }
