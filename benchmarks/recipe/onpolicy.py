"""Is a student better for learning on its own answers? Six ways of learning on, in a world known exactly.

    OMP_NUM_THREADS=1 python -m benchmarks.recipe.onpolicy --out benchmarks/results/onpolicy.json

The language is a hidden Markov model (17 tokens), so truth p, teacher and student are known at every position. A
student that has read some text goes on in six ways from the same weights, on prompts of 8 tokens with answers of 16:

    data                 the text's own answers, cross-entropy
    answers              the teacher's answers, cross-entropy
    text, forward        the text's own answers, KL(teacher, student) over the vocabulary
    text, reverse        the same answers, KL(student, teacher)
    own, forward         the student's own answers, KL(teacher, student)
    own, reverse         the student's own answers, KL(student, teacher)

so that what comes from whose answers is told from what comes from the divergence. The teacher sees the last 3 tokens
alone. All take as many optimiser steps on as many student tokens; then again with the steps that the FLOP of learning
on own answers would buy (a token learnt costs 3 forward passes, one sampled 1, the teacher's 4 of the student's). The
rate is the best of five by way, a factor 4 apart, on a seed that is not reported. Measured on prompts nobody learnt
from: KL(p, student) on the text (the excess loss) and KL(student, p) on the student's own answers, per token.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch

from benchmarks.result_file import save, typed
from distillaw.distill.losses import loss_parts
from distillaw.models.fresh import build_model
from distillaw.models.teacher import head_of, hidden_states
from distillaw.runs.paired import t_quantile
from distillaw.shapes import shape_for_params
from distillaw.worlds.oracle import Oracle, OracleSpec
from distillaw.worlds.spec import PRESETS
from distillaw.worlds.world import World

PROMPT, ANSWER, ROWS, STEPS, TEACHER = 8, 16, 16, 60, 4.0
"""Tokens, tokens, rows of a step, steps, forward passes of the student that one of the teacher costs."""
COST = {"data": 3.0, "answers": 3.0 + TEACHER}
COST |= {f"text, {kl}": 3.0 + TEACHER for kl in ("forward", "reverse")}
COST |= {f"own, {kl}": 4.0 + TEACHER for kl in ("forward", "reverse")}
"""Per token, in forward passes of the student; the teacher's answers cost one of its own to write."""
RATES = (1.25e-4, 5e-4, 2e-3, 8e-3, 3.2e-2)
SEEDS = range(1, 5)


class Setting:
    """The world, its truth and its teacher."""

    def __init__(self) -> None:
        self.world = World(PRESETS["tiny"])
        self.truth, self.teacher = Oracle(self.world, OracleSpec()), Oracle(self.world, OracleSpec(window=3))

    def text(self, first: int, rows: int) -> torch.Tensor:
        """Beginnings of documents, (rows, PROMPT + ANSWER)."""
        found = self.world.documents("student", first, rows)[:, : PROMPT + ANSWER]
        return torch.from_numpy(np.ascontiguousarray(found))

    def logits(self, oracle: Oracle, ids: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of an oracle, (B, T, V)."""
        return torch.from_numpy(oracle.probs(ids.numpy())).clamp(min=1e-30).log().float()


@torch.no_grad()
def answered(prompt: torch.Tensor, logits_of, generator: torch.Generator) -> torch.Tensor:
    """A prompt and what was sampled after it, (B, PROMPT + ANSWER)."""
    ids = prompt
    for _ in range(ANSWER):
        probs = logits_of(ids)[:, -1].double().softmax(-1)
        ids = torch.cat([ids, torch.multinomial(probs, 1, generator=generator)], dim=1)
    return ids


def objective(at: Setting, model, way: str, text: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One step's loss."""
    if way == "answers":
        text = answered(text[:, :PROMPT], lambda ids: at.logits(at.teacher, ids), generator)
    if way.startswith("own"):
        text = answered(text[:, :PROMPT], lambda ids: model(ids).logits, generator)
    labels = text[:, 1:].clone()
    labels[:, : PROMPT - 1] = -100
    taught = way.endswith(("forward", "reverse"))
    signal = {"teacher_logits": at.logits(at.teacher, text[:, :-1])} if taught else {"distill_weight": 0.0}
    kind = "reverse-kl" if way.endswith("reverse") else "forward-kl"
    return loss_parts(hidden_states(model, text[:, :-1]), head_of(model), labels, divergence=kind, **signal).total


def trained(at: Setting, start, way: str, rate: float, seed: int, steps: int):
    """A student that went on from `start`; the rate falls to zero in a line."""
    model, generator = copy.deepcopy(start), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        text = at.text(100_000 * seed + 10_000 + step * ROWS, ROWS)
        loss = objective(at, model, way, text, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


@torch.no_grad()
def measured(at: Setting, model) -> dict[str, float]:
    """Both divergences from the truth, nats per answered token, on prompts of their own."""
    text, generator = at.text(9_000_000, 256), torch.Generator().manual_seed(0)
    own = answered(text[:, :PROMPT], lambda ids: model(ids).logits, generator)
    found = {}
    for name, ids in (("text", text), ("own", own)):
        p = at.logits(at.truth, ids[:, :-1])[:, PROMPT - 1 :].double().log_softmax(-1)
        q = model(ids[:, :-1]).logits[:, PROMPT - 1 :].double().log_softmax(-1)
        first, second = (p, q) if name == "text" else (q, p)
        found[name] = float((first.exp() * (first - second)).sum(-1).mean())
    return found


def begun(at: Setting, seed: int):
    """A student that has read some text."""
    shape = shape_for_params(2e4, vocab=at.world.vocab, context=PROMPT + ANSWER, head_dim=16, aspect=16.0)
    torch.manual_seed(seed)
    model = build_model(shape, seed=seed, end_of_text=at.world.end_of_text)
    return trained(at, model, "data", 5e-3, 50 + seed, 60)


def main() -> None:
    """Tune, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    at = Setting()
    start = begun(at, 0)
    tried = {way: {rate: measured(at, trained(at, start, way, rate, 0, STEPS)) for rate in RATES} for way in COST}
    rates = {way: min(RATES, key=lambda r: sum(found[r].values())) for way, found in tried.items()}
    print("rates", rates, flush=True)
    rows: dict[str, list[dict]] = {"start": []}
    for seed in SEEDS:
        start = begun(at, seed)
        rows["start"].append(measured(at, start))
        for way, cost in COST.items():
            rows.setdefault(way, []).append(measured(at, trained(at, start, way, rates[way], seed, STEPS)))
            if not way.startswith("own"):
                steps = round(STEPS * COST["own, reverse"] / cost)
                model = trained(at, start, way, rates[way], seed, steps)
                rows.setdefault(f"{way}, equal FLOP", []).append(measured(at, model))
        print(seed, {way: found[-1] for way, found in rows.items()}, flush=True)
    teacher = at.text(9_000_000, 256)[:, :-1]
    p, t = (at.logits(o, teacher)[:, PROMPT - 1 :].double().log_softmax(-1) for o in (at.truth, at.teacher))
    gap = float((p.exp() * (p - t)).sum(-1).mean())
    table = {}
    for way, found in rows.items():
        table[way] = {}
        for where in ("text", "own"):
            values = np.array([each[where] for each in found])
            less = values - np.array([each[where] for each in rows["own, reverse"]])
            half = t_quantile(0.95, len(less) - 1) * less.std(ddof=1) / len(less) ** 0.5
            table[way][where] = {
                "mean": values.mean(),
                "over_own_reverse": [less.mean(), less.mean() - half, less.mean() + half],
            }
            print(f"{way:24s} {where:5s} {values.mean():.4f}  over own, reverse {less.mean():+.4f} ± {half:.4f}")
    save(out, typed(), teacher_gap=gap, rates=rates, tuning=tried, table=table, seeds=rows)


if __name__ == "__main__":
    main()
