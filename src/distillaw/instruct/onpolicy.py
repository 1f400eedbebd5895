"""On-policy distillation: the student answers, the teacher says at every token what it would have said.

    loss = mean over answered tokens of D(teacher, student),   D: reverse KL, JSD(beta) or forward KL, whole vocabulary

Generalised knowledge distillation (Agarwal et al. 2023, arXiv 2306.13649): a share of the answers of a step is sampled
from the student as it is, the others are the data's; no gradient goes through the sampling. TRL's SFT trainer takes the
steps, the loss is our own (distill/losses.py), weighted by the tokens of the whole step: answers are sampled before
their number is needed. What is sampled depends on seed and step alone, so a resumed run samples what an uninterrupted
one does. Answers are counted in `rollouts.jsonl`, those that never end among them.

Every example of a step has random numbers of its own, by seed, step and its place in the step, so that it gets the same
answer in whatever forward pass and on whatever rank it is written, but for rounding where two words are all but equally
far from being drawn. Ranks hold both models whole and sum their gradients.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from distillaw.distill.losses import loss_parts
from distillaw.errors import DivergedError
from distillaw.instruct.generate import generation_config
from distillaw.instruct.prepare import Example
from distillaw.instruct.spec import OnPolicySpec, Sampling
from distillaw.instruct.stages import (
    Collator,
    finished,
    kept_before,
    read_sides,
    score_examples,
    sft_trainer,
    training_rows,
)
from distillaw.instruct.start import (
    Say,
    Tuning,
    base_model,
    change,
    figures,
    keep_lines,
    run_stage,
    silent,
    step_flops,
    step_of,
    training_forwards,
)
from distillaw.instruct.training import QuietSFT, train_to_best
from distillaw.models.fresh import count_parameters
from distillaw.models.parallel import ALONE, Ranks
from distillaw.models.scoring import IGNORE
from distillaw.models.teacher import ModelTeacher, continued, head_of, hidden_states, load_teacher
from distillaw.runs.files import append_json_lines, read_json_lines
from distillaw.runs.paired import DocumentScores

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HELDOUT = 2**31
"""Step under which answers to held-out prompts are sampled: one that no training reaches."""
Batch = dict[str, torch.Tensor]


def run_onpolicy(
    spec: OnPolicySpec, out: Path, *, ranks: Ranks = ALONE, say: Say = silent, command: str = ""
) -> dict[str, object]:
    """Distil a teacher into a chat model on the student's own answers; arguments and errors as of `run_sft`.

    Returns:
        What result.json holds: `loss` is that of the held-out answers of the data, `onpolicy` has the divergence on the
        student's own answers to held-out prompts before and after, and what was sampled.

    Raises:
        VocabularyError: the teacher's tokenizer is another.
        DivergedError: the student's probabilities are not finite, so that it cannot answer.
    """
    read, tune = partial(read_sides, spec), partial(_tune, spec)
    return run_stage(spec, "onpolicy", out, read, tune, ranks=ranks, say=say, command=command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """Batches of conversations in which the student writes some of the last answers anew."""

    spec: OnPolicySpec
    ends: tuple[int, ...]
    pad: int

    @torch.no_grad()
    def fill(self, model: "PreTrainedModel", batch: Batch, *, step: int, first: int = 0) -> dict[str, int]:
        """Replace answers in a batch (input_ids, labels, attention_mask, all (B, T)); what was sampled.

        Args:
            first: place in the step of the batch's first row. Rows without labels are none of the data's.

        Raises:
            DivergedError: the student cannot be sampled from.
        """
        count = {"answers": 0, "tokens": 0, "truncated": 0, "prompt_tokens": 0}
        rows = len(batch["labels"])
        seeds = [np.random.SeedSequence((self.spec.seed, step, first + i)) for i in range(rows)]
        chance = np.stack([np.random.default_rng(seed).random(1 + self.spec.max_new_tokens) for seed in seeds])
        real = (batch["labels"] != IGNORE).any(1).tolist()
        chosen = [i for i in range(rows) if real[i] and chance[i, 0] < self.spec.on_policy]
        if not chosen:
            return count
        lengths = batch["attention_mask"].sum(1).tolist()
        rebuilt = [(batch["input_ids"][i, :n].tolist(), batch["labels"][i, :n].tolist()) for i, n in enumerate(lengths)]
        prompts = [rebuilt[i][0][: last_answer(rebuilt[i][1])] for i in chosen]
        answers = self._answers(model, prompts, chance[chosen, 1:])
        for i, prompt, (tokens, is_cut) in zip(chosen, prompts, answers, strict=True):
            said = tokens if is_cut else [*tokens, self.ends[0]]
            rebuilt[i] = [*prompt, *said], [*[IGNORE] * len(prompt), *said]
            count["answers"] += 1
            count["tokens"] += len(said)
            count["truncated"] += is_cut
            count["prompt_tokens"] += len(prompt)
        collate = Collator(pad=self.pad, packed=False)
        filled = collate([{"input_ids": ids, "labels": labels} for ids, labels in rebuilt])
        batch.update({name: value.to(batch["labels"].device) for name, value in filled.items()})
        return count

    def _answers(
        self, model: "PreTrainedModel", prompts: list[list[int]], chance: NDArray[np.float64]
    ) -> list[tuple[list[int], bool]]:
        was_training = model.training
        how = generation_config(Sampling(max_new_tokens=self.spec.max_new_tokens, temperature=0.0), self.ends)
        drawn = Drawn(chance=chance, temperature=self.spec.temperature, first=max(map(len, prompts)))
        model.eval()
        try:
            return continued(model, prompts, self.ends, generation_config=how, logits_processor=[drawn])
        finally:
            model.train(was_training)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Makes greedy decoding draw: of each row's distribution the word where a number of its own falls.

    A processor of transformers' `generate`, whose sampling has one stream of random numbers for all rows.
    """

    chance: NDArray[np.float64]
    """Numbers in [0, 1), shape (B, max_new_tokens)."""
    temperature: float
    first: int
    """Tokens of the padded prompts."""

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, V) that leave one word; ids (B, T) are what was read and written."""
        cumulative = (scores.double() / self.temperature).softmax(-1).cumsum(-1)
        if not cumulative[:, -1].isfinite().all():
            raise DivergedError(
                "the student's probabilities are not finite, so it cannot answer: lower --lr, or look for damaged "
                "weights"
            )
        at = torch.from_numpy(self.chance[:, ids.shape[1] - self.first, None]).to(scores.device)
        word = (cumulative <= at * cumulative[:, -1:]).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, word, 0.0)


def last_answer(labels: list[int]) -> int:
    """Where the last answer of a conversation begins: the last run of tokens that are learnt."""
    start = max(i for i, label in enumerate(labels) if label != IGNORE)
    while start and labels[start - 1] != IGNORE:
        start -= 1
    return start


def divergence(
    spec: OnPolicySpec, model: "PreTrainedModel", teacher: ModelTeacher, batch: Batch, tokens: float
) -> torch.Tensor:
    """Sum of the divergence over the answered tokens of a batch, divided by `tokens`; differentiable."""
    ids, labels = batch["input_ids"][:, :-1], batch["labels"][:, 1:]
    hidden = None if teacher.head is None else teacher.hidden(ids)
    return loss_parts(
        hidden_states(model, ids),
        head_of(model),
        labels,
        teacher_hidden=hidden,
        teacher_head=teacher.head,
        teacher_logits=teacher.logits(ids) if hidden is None else None,
        divergence=spec.divergence,
        beta=spec.beta,
        vocab_size=teacher.vocab_size,
        num_tokens=tokens,
    ).total


class QuietOnPolicy(QuietSFT):
    """SFT's trainer on the student's own answers, towards a teacher."""

    def __init__(
        self,
        *,
        spec: OnPolicySpec,
        teacher: ModelTeacher,
        rollouts: Rollouts,
        log: Path,
        ranks: Ranks = ALONE,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self._spec, self._teacher, self._rollouts, self._log, self._ranks = spec, teacher, rollouts, log, ranks

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> int:
        """Answered tokens of an optimiser step, once the student has written its part of them."""
        model, step, ranks = base_model(self.model, self._spec), self.state.global_step, self._ranks
        at_once = self.args.per_device_train_batch_size
        first = [(part * ranks.world + ranks.rank) * at_once for part in range(len(batch_samples))]

        def fill() -> list[dict[str, int]]:
            places = zip(batch_samples, first, strict=True)
            return [self._rollouts.fill(model, batch, step=step, first=place) for batch, place in places]

        found = ranks.together(fill)
        learnt = sum(int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in batch_samples)
        of_data = [
            batch["attention_mask"] * (batch["labels"] != IGNORE).any(1, keepdim=True) for batch in batch_samples
        ]
        read = sum(int(each.sum()) for each in of_data)
        counted = {name: sum(each[name] for each in found) for name in found[0]} | {"learnt": learnt, "read": read}
        counted = dict(zip(counted, map(int, ranks.sum(*counted.values())), strict=True))
        ranks.first(lambda: append_json_lines(self._log, [{"step": step + 1, **counted}]))
        return counted["learnt"]

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        """As transformers' own; ranks then average the step's gradients: DDP sees no loss made beside its module."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._ranks.world > 1 and self.accelerator.sync_gradients:
            for weights in base_model(self.model, self._spec).parameters():
                if weights.requires_grad:
                    weights.grad = torch.zeros_like(weights) if weights.grad is None else weights.grad
                    distributed.all_reduce(weights.grad)
                    weights.grad /= self._ranks.world
        return loss

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's part of the step's mean, times the ranks, over which gradients and logs are averaged."""
        student = base_model(self.model, self._spec)
        loss = divergence(self._spec, student, self._teacher, inputs, num_items_in_batch / self._ranks.world)
        return (loss, None) if return_outputs else loss


@torch.no_grad()
def score_rollouts(
    spec: OnPolicySpec,
    model: "PreTrainedModel",
    teacher: ModelTeacher,
    rollouts: Rollouts,
    examples: tuple[Example, ...],
    ranks: Ranks = ALONE,
) -> DocumentScores:
    """The objective on held-out prompts, the same random numbers every time: sums of the divergence by conversation.

    As many prompts are answered at once as in training; scored one by one, unpadded. Ranks share the batches.
    """
    collate = Collator(pad=rollouts.pad, packed=False)
    rows = training_rows(examples, packing=False, max_tokens=0).to_list()
    tokens, sums = np.zeros(len(rows), np.int64), np.zeros(len(rows))
    at_once = spec.rows_at_once()

    def score() -> None:
        for first in ranks.part(range(0, len(rows), at_once)):
            batch = {name: x.to(model.device) for name, x in collate(rows[first : first + at_once]).items()}
            rollouts.fill(model, batch, step=HELDOUT, first=first)
            for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
                alone = {name: x[row : row + 1, :length] for name, x in batch.items()}
                tokens[first + row] = int((alone["labels"][:, 1:] != IGNORE).sum())
                sums[first + row] = float(divergence(spec, model, teacher, alone, 1.0))

    ranks.together(score)
    return DocumentScores.numbered(tokens=ranks.summed(tokens), loss_sum=ranks.summed(sums))


def _tune(spec: OnPolicySpec, at: Tuning) -> dict[str, object]:
    start, sides, folder, ranks = at.start, at.sides, at.folder, at.ranks
    teacher = load_teacher(spec.teacher, start.tokenizer, device=at.device, ranks=ranks)
    model = start.load(at.device)
    counts = count_parameters(model)
    rows = training_rows(sides.train, packing=False, max_tokens=start.max_tokens)
    before = kept_before(at, model)
    eos, pad = start.tokenizer.eos_token_id, start.tokenizer.pad_token_id
    ends = tuple(dict.fromkeys(each for each in (start.end_token, eos) if each is not None))
    rollouts = Rollouts(spec=spec, ends=ends, pad=start.end_token if pad is None else pad)

    def own(student: "PreTrainedModel") -> DocumentScores:
        return score_rollouts(spec, student, teacher, rollouts, sides.heldout, ranks)

    first = at.kept("before-rollouts.json", lambda: own(model))
    at.say(f"before: {spec.divergence} {first.loss:.4f} ± {first.loss_se:.4f} nats/token on its own answers")
    log = folder.path / "rollouts.jsonl"
    last = ranks.told(folder.last_checkpoint)
    done = step_of(last[0]) if last else 0
    ranks.first(lambda: keep_lines(log, lambda row: int(row["step"]) <= done) and None)
    make = partial(QuietOnPolicy, spec=spec, teacher=teacher, rollouts=rollouts, log=log, ranks=ranks)
    trainer = sft_trainer(spec, at, model, rows, make=make)
    base = base_model(trainer.model, spec)

    scored: list[DocumentScores] = []

    def score() -> dict[str, float]:
        scored.append(own(base))
        return figures(scored[-1])

    unit = f"nats/token of {spec.divergence}"
    seconds = train_to_best(trainer, at, spec, rows=len(rows), score=score, unit=unit, patience=spec.epochs)
    after, epochs = score_examples(base, sides.heldout, ranks), len(ranks.told(folder.epochs))
    if len(scored) < epochs:  # some in an earlier process
        scored = [own(base)]
    ended = min(scored, key=lambda each: each.loss)  # that of the weights that were kept
    steps = ranks.told(lambda: read_json_lines(log))
    names = ("answers", "tokens", "truncated", "prompt_tokens", "learnt", "read")
    sampled = {name: sum(int(row[name]) for row in steps) for name in names}
    said = sampled["prompt_tokens"] + sampled["tokens"]
    length, config = sampled["read"] / max(1, epochs * len(rows)), start.source.config()
    forwards = training_forwards(spec.lora)
    more: dict[str, object] = {
        "teacher_run": teacher.name,
        "lambda": 1.0,
        "temperature": 1.0,
        "tokens": sampled["learnt"],
        "all_tokens": sampled["read"],
        "conversations": len(sides.train),
        "heldout_conversations": len(sides.heldout),
        "onpolicy": {
            "divergence": spec.divergence,
            "before": figures(first),
            "after": figures(ended),
            "change": change(ended, first),
            **{name: sampled[name] for name in ("answers", "truncated")},
            "sampled_tokens": sampled["tokens"],
        },
        "train_flops": step_flops(config, tokens=sampled["read"], mean_length=length, forwards=forwards),
        "generation_flops": step_flops(config, tokens=said, mean_length=length, forwards=1),
        "teacher_flops": sampled["read"] * teacher.flops_per_token(max(1, round(length))),
    }
    card = {
        f"{spec.divergence} to {teacher.name}, before": f"{first.loss:.4f} ± {first.loss_se:.4f} nats/token",
        "after": f"{ended.loss:.4f} ± {ended.loss_se:.4f} nats/token, on its own answers",
        "answers sampled": f"{sampled['answers']:,}, {sampled['truncated']:,} of them cut off",
        "learning rate, seed": f"{spec.lr:g}, {spec.seed}",
    }
    return finished(spec, at, trainer, counts, before, after, seconds, more, card)
