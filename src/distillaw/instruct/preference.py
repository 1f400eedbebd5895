"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): chosen answers against rejected ones.

    run_dpo(DpoSpec(model="out/chat/model", data="pairs.jsonl"), Path("out/dpo"))

    margin = b [ ln(pi/pi_ref)(chosen) - ln(pi/pi_ref)(rejected) ],   loss = -log sigmoid(margin)

The reference is the model at the start: its log-probabilities are computed once. At the start every margin is 0 and the
loss ln 2, so what is reported before is how often the model already finds the chosen answer likelier.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distillaw.instruct.batches import score_examples
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
from distillaw.instruct.margins import preference_figures
from distillaw.instruct.pairs import MaskedPair, PairSides, prepare_pairs, read_pairs
from distillaw.instruct.spec import DpoSpec
from distillaw.instruct.start import Say, Start, base_model, merged_model, run_stage, silent
from distillaw.models.fresh import count_parameters
from distillaw.models.scoring import HeldoutLoss

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer


def run_dpo(
    spec: DpoSpec, out: Path, *, device: str = "cpu", say: Say = silent, command: str = ""
) -> dict[str, object]:
    """Tune a chat model on preferences.

    Args:
        spec: the settings.
        out: the run's folder; made. The tuned model is `out/model`.
        device: cpu or cuda.
        say: takes a line of progress now and then.
        command: for the record.

    Returns:
        What result.json holds; `loss` is that of the chosen answers in nats/token, `preference` has margins and
        accuracies with their intervals.

    Raises:
        CacheError: no model there.
        ConfigError: settings that cannot be, no chat template, or `out` holds another run.
        DataError: pairs that cannot be used.
        RunError: out of memory or disk, diverged, or another process works there.
    """

    def tune(start: Start, sides, folder: TuneFolder, record: dict[str, object]) -> dict[str, object]:
        return _tune(spec, start, sides, folder, record, device, say)

    return run_stage(
        spec, "dpo", out, lambda start: read_pair_sides(spec, start), tune, say=say, command=command
    )


def read_pair_sides(spec: DpoSpec, start: Start) -> PairSides:
    """The pairs to train on and to score.

    Raises:
        ConfigError: no such file.
        DataError: nothing usable, or too much that is not.
    """
    return prepare_pairs(
        read_pairs(spec.data), start.masker, max_tokens=start.max_tokens, validation=spec.validation
    )


def score_pairs(model: "PreTrainedModel", pairs: tuple[MaskedPair, ...]) -> HeldoutLoss:
    """-ln p of every answer given its prompt, in nats: first the chosen ones, then the rejected ones."""
    chosen = [pair.example(pair.chosen) for pair in pairs]
    return score_examples(model, [*chosen, *(pair.example(pair.rejected) for pair in pairs)])


def _tune(
    spec: DpoSpec, start: Start, sides: PairSides, folder: TuneFolder, record: dict[str, object], device: str, say: Say
) -> dict[str, object]:  # fmt: skip
    from distillaw.instruct.training import train_to_best

    model = start.load(device)
    counts = count_parameters(model)
    reference = _reference(model, (*sides.train, *sides.heldout), folder, say)
    ours = len(sides.train)
    heldout_reference = _part(reference, ours, ours + len(sides.heldout))
    trainer = _trainer(spec, start, model, sides.train, _part(reference, 0, ours), folder, device)
    base = base_model(trainer.model, spec)

    def score() -> dict[str, float]:
        found = preference_figures(
            score_pairs(base, sides.heldout).loss_sum, heldout_reference.loss_sum, beta=spec.beta
        )
        return {"loss": found.loss.mean, "loss_se": found.loss.se, "margin": found.margin.mean,
                "accuracy": found.accuracy.mean}  # fmt: skip

    seconds = train_to_best(trainer, folder, spec, rows=ours, score=score, patience=spec.epochs, say=say,
                            unit="(-log sigmoid of the margin)")  # fmt: skip
    after = score_pairs(base, sides.heldout)
    result = _result(spec, start, sides, folder, record, counts, heldout_reference, after, seconds, device)
    write_scores(folder, _chosen(after))
    card = readme(result, record, _card_rows(result))
    export_chat_model(merged_model(trainer.model, spec), start, folder.model, card)
    return folder.finish(result)


def _reference(
    model: "PreTrainedModel", pairs: tuple[MaskedPair, ...], folder: TuneFolder, say: Say
) -> HeldoutLoss:
    """What the model at the start makes of all pairs, from disk if an earlier start wrote it."""
    file = folder.path / "reference.json"
    if (found := kept_scores(file)) is None:
        say(f"reference log-probabilities of {len(pairs):,} pairs")
        found = kept_scores(file, score_pairs(model, pairs))
        assert found is not None
    return found


def _part(scores: HeldoutLoss, first: int, last: int) -> HeldoutLoss:
    """Some pairs' scores, chosen before rejected as before."""
    half = len(scores.tokens) // 2
    rows = np.r_[first:last, half + first : half + last]
    return HeldoutLoss(tokens=scores.tokens[rows], loss_sum=scores.loss_sum[rows])


def _chosen(scores: HeldoutLoss) -> HeldoutLoss:
    half = len(scores.tokens) // 2
    return HeldoutLoss(tokens=scores.tokens[:half], loss_sum=scores.loss_sum[:half])


def _trainer(
    spec: DpoSpec, start: Start, model: "PreTrainedModel", pairs: tuple[MaskedPair, ...], reference: HeldoutLoss,
    folder: TuneFolder, device: str,
) -> "Trainer":  # fmt: skip
    from datasets import Dataset
    from transformers import set_seed

    from distillaw.instruct.trainers import QuietDPO, dpo_config, lora_config

    rows = Dataset.from_dict({
        "prompt_ids": [list(p.prompt) for p in pairs], "chosen_ids": [list(p.chosen) for p in pairs],
        "rejected_ids": [list(p.rejected) for p in pairs],
        "ref_chosen_logps": (-reference.loss_sum[: len(pairs)]).tolist(),
        "ref_rejected_logps": (-reference.loss_sum[len(pairs) :]).tolist(),
    })  # fmt: skip
    set_seed(spec.seed)  # adapters are drawn before the trainer sets its own
    if start.tokenizer.pad_token is None:
        start.tokenizer.pad_token = start.tokenizer.convert_ids_to_tokens(start.end_token)
    return QuietDPO(
        model=model, args=dpo_config(spec, folder.checkpoints, rows=len(pairs), device=device), train_dataset=rows,
        processing_class=start.tokenizer, peft_config=lora_config(spec.lora),
    )  # fmt: skip


def _result(
    spec: DpoSpec, start: Start, sides: PairSides, folder: TuneFolder, record: dict[str, object],
    counts: tuple[int, int], reference: HeldoutLoss, after: HeldoutLoss, seconds: float, device: str,
) -> dict[str, object]:  # fmt: skip
    from distillaw.instruct.training import epochs_run
    from distillaw.instruct.watch import best_epoch

    epochs, config = epochs_run(folder), start.source.config()
    answers = epochs * sum(len(p.chosen) + len(p.rejected) for p in sides.train)
    everything = answers + epochs * sum(2 * len(p.prompt) for p in sides.train)
    before, chosen = figures(_chosen(reference)), _chosen(after)
    about = about_answers(Path(spec.data))
    return {
        "run_id": record["run_id"], "stage": "dpo", "role": "student", "purpose": "dpo", "arm": "dpo",
        "params": counts[0], "total_params": counts[1], "tokens": answers, "all_tokens": everything,
        "teacher_run": about.get("teacher"), "teacher_flops": about.get("flops"), "teacher_loss": None, "lambda": None,
        "temperature": None,
        "init": "pretrained", "base": start.source.name, "template": start.template,
        "end_token": start.tokenizer.convert_ids_to_tokens(start.end_token), "seed": spec.seed, "loss": chosen.loss,
        "loss_se": chosen.loss_se, "start_loss": before["loss"], "before": before, "after": figures(chosen),
        "change": change(chosen, _chosen(reference)), "beta": spec.beta,
        "preference": {
            "before": preference_figures(reference.loss_sum, reference.loss_sum, beta=spec.beta).as_record(),
            "after": preference_figures(after.loss_sum, reference.loss_sum, beta=spec.beta).as_record(),
        },
        "epochs_run": epochs, "best_epoch": best_epoch(folder), "pairs": len(sides.train),
        "heldout_pairs": len(sides.heldout), "data": sides.account.as_record(), "peak_lr": spec.lr,
        "context": start.max_tokens, "vocab_size": config.get_text_config().vocab_size, "recipe": asdict(spec),
        "train_flops": step_flops(
            config, tokens=everything, mean_length=everything / (2 * epochs * len(sides.train)),
            forwards=training_forwards(spec.lora) + 1 / epochs,  # the reference reads every pair once
        ),
        "seconds": seconds, "device": device,
    }  # fmt: skip


def _card_rows(result: dict[str, object]) -> dict[str, str]:
    preference = result["preference"]
    assert isinstance(preference, dict)
    before, after = preference["before"], preference["after"]
    return {
        "chosen answer likelier, before": f"{before['likelier']['mean']:.1%}",
        "chosen answer likelier, after": f"{after['likelier']['mean']:.1%}",
        "margin after": f"{after['margin']['mean']:.4f} ± {after['margin']['se']:.4f}",
        "pairs, held out": f"{result['pairs']}, {result['heldout_pairs']}",
        "learning rate, beta, seed": f"{result['peak_lr']:g}, {result['beta']:g}, {result['seed']}",
    }
