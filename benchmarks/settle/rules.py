"""What people do instead of settling a choice, on the same questions."""

from types import SimpleNamespace

import numpy as np

from benchmarks.verdict.rules import rules
from distillaw.settling.question import NONE, Stage, stage_flops

SIZED = ("largest teacher", "2.5x teacher")
"""Rules that ask for the teachers' sizes."""
FROM_PLANNER = ("never distil", "best-loss teacher", *SIZED)


def follow(decision, settlement, arms):
    """{rule: the candidate it takes}.

    Args:
        decision: has the question and runs pilots.
        settlement: what `settle` spent, which one pilot may cost as well.
        arms: the choices as benchmarks/verdict/rules.py sees them, no teacher first.
    """
    known = rules(SimpleNamespace(params=decision.question.target.params))
    sized = all(arm.teacher.params for arm in arms[1:])
    found = {name: known[name](None, arms).name for name in FROM_PLANNER if sized or name not in SIZED}
    pilots = {"one pilot at settle's cost": settlement.spent, "one pilot at the whole budget": decision.question.budget}
    return found | {name: best_of(decision.one_pilot(flops)) for name, flops in pilots.items()}


def best_of(runs):
    """The candidate with the lowest loss."""
    return min(runs, key=lambda run: run.loss).candidate if runs else NONE


def one_stage(question, flops):
    """One pilot of every candidate, the largest that this many FLOP pay for, at the target's tokens per parameter.

    Where they pay for none, the smallest there is, on what tokens they pay for.
    """
    names = tuple(c.name for c in question.candidates)
    found = None
    for size in question.sizes:
        wanted = question.tokens * size.params / question.target.params
        stage = Stage(size=size.label, tokens=(whole(question, wanted),), candidates=names, seeds=(0,))
        cost = stage_flops(question, stage)
        if found is None:
            tokens = whole(question, wanted * min(1.0, flops / cost))
            found = Stage(size=size.label, tokens=(tokens,), candidates=names, seeds=(0,))
        elif cost <= flops:
            found = stage
    return found


def whole(question, tokens):
    """Batches, no fewer than the fewest that say anything."""
    batches = int(np.floor(tokens / question.batch_tokens))
    return max(batches * question.batch_tokens, question.least_tokens)
