"""Supervised fine-tuning on conversations, and direct preference optimisation on pairs of answers.

    run_sft(SftSpec(model="out/student", data="chats.jsonl", template="zephyr"), Path("out/chat"))
    run_dpo(DpoSpec(model="out/chat/model", data="pairs.jsonl"), Path("out/dpo"))

Masked, split and scored by us, stepped by TRL; resumable, and a second call does nothing. DPO (Rafailov et al. 2023,
arXiv 2305.18290) holds chosen answers against rejected ones:

    margin = b [ ln(pi/pi_ref)(chosen) - ln(pi/pi_ref)(rejected) ],   loss = -log sigmoid(margin)

Its reference is the model at the start, whose log-probabilities are computed once. At the start every margin is 0 and
the loss ln 2, so what is reported before is how often the model already finds the chosen answer likelier.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from distillaw.errors import ConfigError
from distillaw.instruct.conversations import read_conversations
from distillaw.instruct.generate import about_answers
from distillaw.instruct.prepare import Example, MaskedPair, PairSides, Sides, prepare_pairs, prepare_sides, read_pairs
from distillaw.instruct.spec import DpoSpec, OnPolicySpec, SftSpec
from distillaw.instruct.start import (
    LEVEL,
    Say,
    TuneStart,
    Tuning,
    base_model,
    change,
    figures,
    readme,
    run_stage,
    silent,
    step_flops,
    training_forwards,
)
from distillaw.models.export import export_model
from distillaw.models.fresh import count_parameters
from distillaw.models.parallel import ALONE, Ranks
from distillaw.models.scoring import IGNORE, HeldoutSet, score_batches
from distillaw.models.teacher import keeps_documents_apart
from distillaw.runs.paired import DocumentScores, t_interval, wilson_interval

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, Trainer


SCORED_POSITIONS = 4096
"""Positions of one forward pass when scoring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collator:
    """Rows of a data set as a padded batch.

    A class and no closure, so that data loaders can send it to workers.
    """

    pad: int
    packed: bool

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Tensors of shape (B, T): input_ids, labels, and position_ids (packed) or attention_mask."""
        width = max(len(row["input_ids"]) for row in rows)
        batch = {
            "input_ids": _padded([row["input_ids"] for row in rows], width, self.pad),
            "labels": _padded([row["labels"] for row in rows], width, IGNORE),
        }
        if not self.packed:
            ones = [[1] * len(row["input_ids"]) for row in rows]
            return batch | {"attention_mask": _padded(ones, width, 0)}
        positions = [[i for length in row["seq_lengths"] for i in range(length)] for row in rows]
        # a padding token is a conversation of its own
        return batch | {"position_ids": _padded(positions, width, 0)}


def training_rows(examples: Sequence[Example], *, packing: bool, max_tokens: int) -> "Dataset":
    """A data set of input_ids and labels (IGNORE off the assistant's tokens); packed rows have seq_lengths too.

    Packing is TRL's best-fit decreasing; examples are never cut, since none is longer than a row. Packed conversations
    do not see each other: positions begin anew with each and no attention mask is given, from which transformers makes
    masks of blocks (`check_packing`).
    """
    from datasets import Dataset
    from trl import pack_dataset

    columns = {"input_ids": [list(each.ids) for each in examples], "labels": [_labels(each) for each in examples]}
    rows = Dataset.from_dict(columns)
    return pack_dataset(rows, max_tokens, "bfd") if packing else rows


def check_packing(model: "PreTrainedModel") -> None:
    """Refuse to pack where a conversation would see the one before it in its row."""
    was_training = model.training
    apart = keeps_documents_apart(model.eval())
    model.train(was_training)
    if not apart:
        raise ConfigError(
            f"--packing: in this model ({model.config.model_type}) a conversation would see the one before it in its "
            "row; train without --packing"
        )


def score_examples(model: "PreTrainedModel", examples: Sequence[Example], ranks: Ranks = ALONE) -> DocumentScores:
    """Loss sums of the assistant's tokens, one row for each example, in the order given; ranks share the batches."""
    return score_batches(model, _scoring_batches(examples), len(examples), ranks=ranks)


def _scoring_batches(examples: Sequence[Example]) -> Iterator[HeldoutSet]:
    """Examples of like length together, longest first, so that memory fails early."""
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i].ids))
    while order:
        width = len(examples[order[0]].ids) - 1
        some, order = order[: max(1, SCORED_POSITIONS // width)], order[max(1, SCORED_POSITIONS // width) :]
        yield HeldoutSet(
            inputs=_padded([examples[i].ids[:-1] for i in some], width, 0),
            labels=_padded([_labels(examples[i])[1:] for i in some], width, IGNORE),
            document=np.array(some),
            num_documents=len(examples),
        )


def _labels(example: Example) -> list[int]:
    return [i if m else IGNORE for i, m in zip(example.ids, example.mask, strict=True)]


def _padded(rows: Sequence[Sequence[int]], width: int, value: int) -> torch.Tensor:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)


def preference_figures(policy: NDArray[np.float64], reference: NDArray[np.float64], *, beta: float) -> dict[str, Any]:
    """Margins, accuracy and loss of DPO (arXiv 2305.18290, equation 7) of a policy against its reference.

    Args:
        policy: -ln p of answers, nats: chosen ones, then rejected ones, shape (2 pairs,).
        reference: of the same answers under the reference.
        beta: b of the margin.

    Returns:
        For result.json: pairs, and mean, se and two-sided interval at `LEVEL` (Student's t for means, Wilson's for
        shares) of loss (-log sigmoid(margin), nats per pair; ln 2 where nothing changed), margin, accuracy (share of
        pairs with a positive margin; a margin of 0 counts half) and likelier (share of pairs whose chosen answer the
        policy itself finds likelier, tokens summed).
    """
    log_ratio = reference - policy
    pairs = len(log_ratio) // 2
    margins = beta * (log_ratio[:pairs] - log_ratio[pairs:])
    found: dict[str, Any] = {"loss": np.logaddexp(0.0, -margins), "margin": margins}
    for name, values in found.items():
        mean, se = float(values.mean()), float(values.std(ddof=1) / np.sqrt(pairs))
        found[name] = {"mean": mean, "se": se, "interval": list(t_interval(mean, se, pairs - 1, LEVEL))}
    for name, signs in {"accuracy": margins, "likelier": policy[pairs:] - policy[:pairs]}.items():
        share = float(((np.sign(signs) + 1) / 2).mean())
        se, interval = float(np.sqrt(share * (1 - share) / pairs)), wilson_interval(share, pairs, level=LEVEL)
        found[name] = {"mean": share, "se": se, "interval": list(interval)}
    return {name: each | {"level": LEVEL} for name, each in found.items()} | {"pairs": pairs}


def run_sft(
    spec: SftSpec, out: Path, *, ranks: Ranks = ALONE, say: Say = silent, command: str = ""
) -> dict[str, object]:
    """Fine-tune a model on conversations.

    Args:
        out: the run's folder; made. The tuned model is `out/model`.
        ranks: processes that share each batch, every one with the whole model; all call this.

    Returns:
        What result.json holds.

    Raises:
        CacheError: no model there.
        ConfigError: settings that cannot be, no chat template, or `out` holds another run.
        DataError: conversations that cannot be used.
        RunError: out of memory or disk, diverged, or another process works there.
    """
    read, tune = partial(read_sides, spec), partial(_tune_sft, spec)
    return run_stage(spec, "sft", out, read, tune, ranks=ranks, say=say, command=command)


def run_dpo(
    spec: DpoSpec, out: Path, *, ranks: Ranks = ALONE, say: Say = silent, command: str = ""
) -> dict[str, object]:
    """Tune a chat model on preferences; arguments and errors as of `run_sft`.

    Returns:
        What result.json holds; `loss` is that of the chosen answers in nats/token, `preference` has margins and
        accuracies with their intervals.
    """
    read, tune = partial(read_pair_sides, spec), partial(_tune_dpo, spec)
    return run_stage(spec, "dpo", out, read, tune, ranks=ranks, say=say, command=command)


def read_sides(spec: SftSpec | OnPolicySpec, start: TuneStart) -> Sides:
    """The conversations as examples to train on and to score.

    Raises:
        ConfigError: no such file.
        DataError: nothing usable, or too much that is not.
    """
    return prepare_sides(
        read_conversations(spec.data),
        start.masker,
        max_tokens=start.max_tokens,
        validation=spec.validation,
        keep_truncated=isinstance(spec, OnPolicySpec) or spec.keep_truncated,
    )


def read_pair_sides(spec: DpoSpec, start: TuneStart) -> PairSides:
    """The pairs to train on and to score; errors as of `read_sides`."""
    pairs = read_pairs(spec.data)
    return prepare_pairs(pairs, start.masker, max_tokens=start.max_tokens, validation=spec.validation)


def score_pairs(model: "PreTrainedModel", pairs: tuple[MaskedPair, ...], ranks: Ranks = ALONE) -> DocumentScores:
    """-ln p of every answer given its prompt, in nats: first the chosen ones, then the rejected ones."""
    chosen = [pair.example(pair.chosen) for pair in pairs]
    return score_examples(model, [*chosen, *(pair.example(pair.rejected) for pair in pairs)], ranks)


def _tune_sft(spec: SftSpec, at: Tuning) -> dict[str, object]:
    from distillaw.instruct.training import train_to_best

    start, sides, folder = at.start, at.sides, at.folder
    model = start.load(at.device)
    counts = count_parameters(model)
    if spec.packing:
        check_packing(model)
    rows = training_rows(sides.train, packing=spec.packing, max_tokens=start.max_tokens)
    before = kept_before(at, model)
    at.say(f"before: held-out loss {before.loss:.4f} ± {before.loss_se:.4f} nats/token")
    trainer = sft_trainer(spec, at, model, rows)
    base = base_model(trainer.model, spec)

    def score() -> dict[str, float]:
        return figures(score_examples(base, sides.heldout, at.ranks))

    seconds = train_to_best(trainer, at, spec, rows=len(rows), score=score, unit="nats/token", patience=spec.patience)
    after, epochs = score_examples(base, sides.heldout, at.ranks), len(at.ranks.told(folder.epochs))
    read = epochs * sum(len(each.ids) for each in sides.train)
    learnt = epochs * sum(each.answer_tokens for each in sides.train)
    more: dict[str, object] = {
        "tokens": learnt,
        "all_tokens": read,
        "conversations": len(sides.train),
        "heldout_conversations": len(sides.heldout),
        "heldout_tokens": int(after.tokens.sum()),
        "rows": len(rows),
        "train_flops": step_flops(
            start.source.config(),
            tokens=read,
            mean_length=read / (epochs * len(sides.train)),
            forwards=training_forwards(spec.lora),
        ),
    }
    kept = f"{epochs} epochs (epoch {at.ranks.told(folder.best_epoch)} kept)"
    card = {
        "held-out loss before": f"{before.loss:.4f} ± {before.loss_se:.4f} nats/token",
        "held-out loss after": f"{after.loss:.4f} ± {after.loss_se:.4f} nats/token",
        "assistant tokens learnt": f"{learnt:,} in {kept}",
        "learning rate, seed": f"{spec.lr:g}, {spec.seed}",
    }
    return finished(spec, at, trainer, counts, before, after, seconds, more, card)


def _tune_dpo(spec: DpoSpec, at: Tuning) -> dict[str, object]:
    from distillaw.instruct.training import train_to_best

    start, sides, folder = at.start, at.sides, at.folder
    model = start.load(at.device)
    counts = count_parameters(model)

    def measure() -> DocumentScores:
        at.say(f"reference log-probabilities of {len(sides.train) + len(sides.heldout):,} pairs")
        return score_pairs(model, (*sides.train, *sides.heldout), at.ranks)

    everything = at.kept("reference.json", measure)  # what the model at the start makes of all pairs
    ours = len(sides.train)
    reference = _part(everything, ours, ours + len(sides.heldout))
    trainer = _dpo_trainer(spec, at, model, _part(everything, 0, ours))
    base = base_model(trainer.model, spec)

    def preferred(scores: DocumentScores) -> dict[str, Any]:
        return preference_figures(scores.loss_sum, reference.loss_sum, beta=spec.beta)

    def score() -> dict[str, float]:
        found = preferred(score_pairs(base, sides.heldout, at.ranks))
        means = {name: found[name]["mean"] for name in ("loss", "margin", "accuracy")}
        return means | {"loss_se": found["loss"]["se"]}

    unit = "(-log sigmoid of the margin)"
    seconds = train_to_best(trainer, at, spec, rows=ours, score=score, unit=unit, patience=spec.epochs)
    scores, epochs = score_pairs(base, sides.heldout, at.ranks), len(at.ranks.told(folder.epochs))
    answers = epochs * sum(len(p.chosen) + len(p.rejected) for p in sides.train)
    read = answers + epochs * sum(2 * len(p.prompt) for p in sides.train)
    before, after, chosen = preferred(reference), preferred(scores), _chosen(scores)
    more: dict[str, object] = {
        "tokens": answers,
        "all_tokens": read,
        "beta": spec.beta,
        "preference": {"before": before, "after": after},
        "pairs": ours,
        "heldout_pairs": len(sides.heldout),
        "train_flops": step_flops(
            start.source.config(),
            tokens=read,
            mean_length=read / (2 * epochs * ours),
            forwards=training_forwards(spec.lora) + 1 / epochs,  # the reference reads every pair once
        ),
    }
    card = {
        "chosen answer likelier, before": f"{before['likelier']['mean']:.1%}",
        "chosen answer likelier, after": f"{after['likelier']['mean']:.1%}",
        "margin after": f"{after['margin']['mean']:.4f} ± {after['margin']['se']:.4f}",
        "pairs, held out": f"{ours}, {len(sides.heldout)}",
        "learning rate, beta, seed": f"{spec.lr:g}, {spec.beta:g}, {spec.seed}",
    }
    return finished(spec, at, trainer, counts, _chosen(reference), chosen, seconds, more, card)


def kept_before(at: Tuning, model: "PreTrainedModel") -> DocumentScores:
    """Held-out scores of the model at the start, kept for starts to come."""
    return at.kept("before.json", lambda: score_examples(model, at.sides.heldout, at.ranks))


def sft_trainer(
    spec: SftSpec | OnPolicySpec,
    at: Tuning,
    model: "PreTrainedModel",
    rows: "Dataset",
    make: "Callable[..., Trainer] | None" = None,
) -> "Trainer":
    """TRL's trainer of such rows; `make` is the class, or one with more of its arguments given."""
    from transformers import set_seed

    from distillaw.instruct.training import QuietSFT, lora_config, rows_at_once, sft_config

    set_seed(spec.seed)  # adapters are drawn before the trainer sets its own
    start, pad, real = at.start, at.start.tokenizer.pad_token_id, len(rows)
    packed = isinstance(spec, SftSpec) and spec.packing
    empty = rows[0] | {"labels": [IGNORE] * len(rows[0]["labels"])}
    trainer = (make or QuietSFT)(
        model=model,
        args=sft_config(spec, at, rows=real),
        train_dataset=_filled_up(rows, empty, rows_at_once(spec, at, real), at.ranks),
        processing_class=start.tokenizer,
        peft_config=lora_config(spec.lora),
        data_collator=Collator(pad=start.end_token if pad is None else pad, packed=packed),
    )
    trainer.real_rows = real  # type: ignore[attr-defined]
    return trainer


def _filled_up(rows: "Dataset", empty: dict[str, Any], at_once: int, ranks: Ranks) -> "Dataset":
    """With empty rows at the end, so that all ranks take as many forward passes."""
    from datasets import Dataset, concatenate_datasets

    missing = -len(rows) % (at_once * ranks.world) if ranks.world > 1 else 0
    if not missing:
        return rows
    return concatenate_datasets([rows, Dataset.from_list([empty] * missing, features=rows.features)])


def _dpo_trainer(spec: DpoSpec, at: Tuning, model: "PreTrainedModel", reference: DocumentScores) -> "Trainer":
    from datasets import Dataset
    from transformers import set_seed

    from distillaw.instruct.training import EMPTY, QuietDPO, dpo_config, lora_config, rows_at_once

    start, pairs = at.start, at.sides.train
    count = len(pairs)
    columns = {f"{name}_ids": [list(getattr(p, name)) for p in pairs] for name in ("prompt", "chosen", "rejected")}
    columns["ref_chosen_logps"] = (-reference.loss_sum[:count]).tolist()
    columns["ref_rejected_logps"] = (-reference.loss_sum[count:]).tolist()
    set_seed(spec.seed)  # adapters are drawn before the trainer sets its own
    if start.tokenizer.pad_token is None:
        start.tokenizer.pad_token = start.tokenizer.convert_ids_to_tokens(start.end_token)
    rows = Dataset.from_dict(columns)
    empty = rows[0] | {"ref_chosen_logps": EMPTY, "ref_rejected_logps": EMPTY}
    trainer = QuietDPO(
        model=model,
        args=dpo_config(spec, at, rows=count),
        train_dataset=_filled_up(rows, empty, rows_at_once(spec, at, count), at.ranks),
        processing_class=start.tokenizer,
        peft_config=lora_config(spec.lora),
    )
    trainer.real_rows = count
    return trainer


def _part(scores: DocumentScores, first: int, last: int) -> DocumentScores:
    """Some pairs' scores, chosen before rejected as before."""
    half = len(scores.tokens) // 2
    return _rows(scores, np.r_[first:last, half + first : half + last])


def _chosen(scores: DocumentScores) -> DocumentScores:
    return _rows(scores, np.arange(len(scores.tokens) // 2))


def _rows(scores: DocumentScores, rows: NDArray[np.int64]) -> DocumentScores:
    return DocumentScores.numbered(tokens=scores.tokens[rows], loss_sum=scores.loss_sum[rows])


def finished(
    spec: SftSpec | DpoSpec | OnPolicySpec,
    at: Tuning,
    trainer: "Trainer",
    counts: tuple[int, int],
    before: DocumentScores,
    after: DocumentScores,
    seconds: float,
    more: dict[str, object],
    card: dict[str, str],
) -> dict[str, object]:
    """Write scores, model and card; result.json last. The first rank does.

    Args:
        counts: parameters, non-embedding and in all.
        before, after: of the answers that are to be learnt.
        more: what result.json says of this stage alone.
        card: rows of the model card.
    """
    start, stage = at.start, at.record["stage"]
    answered = about_answers(Path(spec.data))
    result: dict[str, object] = {
        "run_id": at.record["run_id"],
        "stage": stage,
        "role": "student",
        "purpose": stage,
        "arm": stage,
        "params": counts[0],
        "total_params": counts[1],
        "teacher_run": answered.get("teacher"),
        "teacher_flops": answered.get("flops"),
        "teacher_loss": None,
        "lambda": None,
        "temperature": None,
        "init": "pretrained",
        "base": start.source.name,
        "template": start.template,
        "end_token": start.tokenizer.convert_ids_to_tokens(start.end_token),
        "seed": spec.seed,
        "loss": after.loss,
        "loss_se": after.loss_se,
        "start_loss": before.loss,
        "before": figures(before),
        "after": figures(after),
        "change": change(after, before),
        "epochs_run": len(at.ranks.told(at.folder.epochs)),
        "best_epoch": at.ranks.told(at.folder.best_epoch),
        "data": at.sides.account.as_record(),
        "peak_lr": spec.lr,
        "context": start.max_tokens,
        "vocab_size": start.source.config().get_text_config().vocab_size,
        "recipe": asdict(spec),
        "seconds": seconds,
        "device": at.device if at.ranks.world == 1 else f"{at.ranks.world} x {at.device}",
        **more,
    }

    def write() -> dict[str, object]:
        at.folder.run.write_heldout(after)  # a conversation or a pair is a document
        model: Any = trainer.model
        if spec.lora:  # adapters are written alone first, as PEFT reads them, then added to the weights
            model.save_pretrained(at.folder.path / "adapter")
            model = model.merge_and_unload()
        if (balance := getattr(at.start.source.config(), "router_aux_loss_coef", None)) is not None:
            # the trainer, which was told not to balance, set it to 0
            model.config.router_aux_loss_coef = balance
        text = readme(result, at.record, card)
        place = at.folder.path / "model"
        export_model(model.cpu().eval(), start.tokenizer, place, text, end_token=start.end_token)
        return at.folder.finish(result)

    return at.ranks.told(write)
