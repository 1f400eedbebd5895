"""On-policy distillation: the student answers, the teacher says at every token what it would have said.

    loss = mean over answered tokens of D(teacher, student),   D: reverse KL, JSD(beta) or forward KL, whole vocabulary

Generalised knowledge distillation (Agarwal et al. 2023, arXiv 2306.13649): a share of the answers of a step is sampled
from the student as it is, the others are the data's; no gradient goes through the sampling. TRL's SFT trainer takes the
steps, the loss is our own (distill/losses.py), weighted by the tokens of the whole step: answers are sampled before
their number is needed. What is sampled depends on seed and step alone, so a resumed run samples what an uninterrupted
one does. Answers are counted in `rollouts.jsonl`, those that never end among them.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

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
    def fill(self, model: "PreTrainedModel", batch: Batch, *, step: int, part: int = 0) -> dict[str, int]:
        """Replace answers in a batch (input_ids, labels, attention_mask, all (B, T)); what was sampled.

        Raises:
            DivergedError: the student cannot be sampled from.
        """
        count = {"answers": 0, "tokens": 0, "truncated": 0, "prompt_tokens": 0}
        rows = len(batch["labels"])
        state = np.random.SeedSequence((self.spec.seed, step, part)).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        chosen = [i for i in range(rows) if torch.rand((), generator=generator) < self.spec.on_policy]
        if not chosen:
            return count
        lengths = batch["attention_mask"].sum(1).tolist()
        rebuilt = [(batch["input_ids"][i, :n].tolist(), batch["labels"][i, :n].tolist()) for i, n in enumerate(lengths)]
        prompts = [rebuilt[i][0][: last_answer(rebuilt[i][1])] for i in chosen]
        seed = int(torch.randint(2**62, (), generator=generator))
        for i, prompt, (tokens, is_cut) in zip(chosen, prompts, self._answers(model, prompts, seed), strict=True):
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

    def _answers(self, model: "PreTrainedModel", prompts: list[list[int]], seed: int) -> list[tuple[list[int], bool]]:
        was_training, sampling = model.training, self.spec
        how = Sampling(max_new_tokens=sampling.max_new_tokens, temperature=sampling.temperature)
        devices = [] if model.device.type == "cpu" else [model.device]
        model.eval()
        try:
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)
                return continued(model, prompts, self.ends, generation_config=generation_config(how, self.ends))
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            raise DivergedError(
                "the student's probabilities are not finite, so it cannot answer: lower --lr, or look for damaged "
                "weights"
            ) from error
        finally:
            model.train(was_training)


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
        self, *, spec: OnPolicySpec, teacher: ModelTeacher, rollouts: Rollouts, log: Path, **more: Any
    ) -> None:
        super().__init__(**more)
        self._spec, self._teacher, self._rollouts, self._log = spec, teacher, rollouts, log

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> int:
        """Answered tokens of an optimiser step, once the student has written its part of them."""
        model, step = base_model(self.model, self._spec), self.state.global_step
        found = [self._rollouts.fill(model, batch, step=step, part=part) for part, batch in enumerate(batch_samples)]
        learnt = [int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in batch_samples]
        read = sum(batch["input_ids"].numel() for batch in batch_samples)
        sampled = {name: sum(each[name] for each in found) for name in found[0]}
        append_json_lines(self._log, [{"step": step + 1, **sampled, "learnt": sum(learnt), "read": read}])
        return sum(learnt)

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's part of the step's mean."""
        loss = divergence(self._spec, base_model(model, self._spec), self._teacher, inputs, float(num_items_in_batch))
        return (loss, None) if return_outputs else loss


@torch.no_grad()
def score_rollouts(
    spec: OnPolicySpec,
    model: "PreTrainedModel",
    teacher: ModelTeacher,
    rollouts: Rollouts,
    examples: tuple[Example, ...],
) -> DocumentScores:
    """The objective on held-out prompts, the same random numbers every time: sums of the divergence by conversation.

    As many prompts are answered at once as in training; scored one by one, unpadded.
    """
    collate = Collator(pad=rollouts.pad, packed=False)
    rows, tokens, sums = training_rows(examples, packing=False, max_tokens=0).to_list(), [], []
    at_once = spec.rows_at_once()
    for first in range(0, len(rows), at_once):
        batch = {name: x.to(model.device) for name, x in collate(rows[first : first + at_once]).items()}
        rollouts.fill(model, batch, step=HELDOUT, part=first)
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            alone = {name: x[row : row + 1, :length] for name, x in batch.items()}
            tokens.append(int((alone["labels"][:, 1:] != IGNORE).sum()))
            sums.append(float(divergence(spec, model, teacher, alone, 1.0)))
    return DocumentScores.numbered(tokens=np.array(tokens), loss_sum=np.array(sums))


def _tune(spec: OnPolicySpec, at: Tuning) -> dict[str, object]:
    start, sides, folder = at.start, at.sides, at.folder
    teacher = load_teacher(spec.teacher, start.tokenizer, device=at.device)
    model = start.load(at.device)
    counts = count_parameters(model)
    rows = training_rows(sides.train, packing=False, max_tokens=start.max_tokens)
    before = kept_before(at, model)
    eos, pad = start.tokenizer.eos_token_id, start.tokenizer.pad_token_id
    ends = tuple(dict.fromkeys(each for each in (start.end_token, eos) if each is not None))
    rollouts = Rollouts(spec=spec, ends=ends, pad=start.end_token if pad is None else pad)
    first = at.kept("before-rollouts.json", lambda: score_rollouts(spec, model, teacher, rollouts, sides.heldout))
    at.say(f"before: {spec.divergence} {first.loss:.4f} ± {first.loss_se:.4f} nats/token on its own answers")
    log = folder.path / "rollouts.jsonl"
    last = folder.last_checkpoint()
    done = step_of(last[0]) if last else 0
    keep_lines(log, lambda row: int(row["step"]) <= done)
    make = partial(QuietOnPolicy, spec=spec, teacher=teacher, rollouts=rollouts, log=log)
    trainer = sft_trainer(spec, at, model, rows, make=make)
    base = base_model(trainer.model, spec)

    scored: list[DocumentScores] = []

    def score() -> dict[str, float]:
        scored.append(score_rollouts(spec, base, teacher, rollouts, sides.heldout))
        return figures(scored[-1])

    unit = f"nats/token of {spec.divergence}"
    seconds = train_to_best(trainer, at, spec, rows=len(rows), score=score, unit=unit, patience=spec.epochs)
    after = score_examples(base, sides.heldout)
    if len(scored) < len(folder.epochs()):  # some in an earlier process
        scored = [score_rollouts(spec, base, teacher, rollouts, sides.heldout)]
    ended = min(scored, key=lambda each: each.loss)  # that of the weights that were kept
    steps = read_json_lines(log)
    names = ("answers", "tokens", "truncated", "prompt_tokens", "learnt", "read")
    sampled = {name: sum(int(row[name]) for row in steps) for name in names}
    said = sampled["prompt_tokens"] + sampled["tokens"]
    length, config = sampled["read"] / max(1, len(folder.epochs()) * len(rows)), start.source.config()
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
