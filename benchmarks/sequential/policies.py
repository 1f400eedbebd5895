"""Ways to spend a budget of pilots on one decision: a full grid, stages at random, a ladder, and `study next`.

Each gives looks: what was spent, as a share of the target's training, and what would have been chosen then.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.settle.peers import planned, simulated_study
from benchmarks.settle.scores import is_false, regret
from distillaw.errors import ConfigError
from distillaw.settling.design import BRANCHES, RATIO, next_stage
from distillaw.settling.propose import FIRST, GROWTH, affordable, propose
from distillaw.settling.question import Stage, extra_flops, joined, wanted_by
from distillaw.settling.standing import conclude, standing

BUDGET = 0.03
"""What stages may cost together, as a share of the target's training."""
GRIDS = (0.03, 0.1, 0.3)
"""What full grids may cost, likewise."""
SIZES, PARTS = 4, (0.125, 0.25, 0.5, 1.0)
"""A grid: so many sizes in factors of two, each from every teacher and alone, at these shares of its longest budget."""
REPEATS = (1, 2)
"""Further seeds of the smallest and the largest size, each at one budget, alone and from one teacher."""
CHECKS = (0.003, 0.01, 0.03)
"""Shares at which random stages are read: they are not chosen by what is believed."""
MOST = 40
"""Stages of one decision."""


@dataclass
class Walk:
    """Pilots of one decision, bought stage by stage and priced beside those that exist."""

    decision: object
    budget: float
    stages: list
    made: dict
    runs: list
    spent: float = 0.0

    @classmethod
    def begin(cls, decision, share):
        """Nothing bought; the budget as a share of the target's training."""
        return cls(decision, share * decision.question.target_flops, [], {}, [])

    def price(self, *stages):
        """FLOP of some stages now, trained together."""
        question = self.decision.question
        return extra_flops(question, self.made, wanted_by(question, stages))

    def buy(self, *stages):
        """Run them."""
        self.spent += self.price(*stages)
        self.made = joined(self.made, wanted_by(self.decision.question, stages))
        known = {run.run_id: run for run in self.runs}
        known |= {run.run_id: run for stage in stages for run in self.decision.run(stage)[1]}
        self.runs = list(known.values())
        self.stages += stages

    def look(self, now):
        """What would be said now."""
        question, losses = self.decision.question, self.decision.losses
        end, is_over = conclude(question, now), now.verdict is not None
        bound = max(end.bound, question.margin)
        return {
            "spent": self.spent / question.target_flops,
            "runs": len(self.runs),
            "verdict": now.verdict,
            "regret": regret(losses, now.leader),
            "bound": max(now.regret, question.margin),
            "false": is_over and is_false(end.verdict, losses, end.choice, bound, 0.0),
        }


def nothing(decision):
    """The look before any run."""
    return Walk.begin(decision, 0.0).look(standing(decision.question, [], []))


def sequential(decision, share=BUDGET):
    """`study next`, asked again after every batch."""
    walk, looks = Walk.begin(decision, share), []
    while len(looks) < MOST:
        try:
            said = propose(decision.question, walk.stages, walk.runs, spent=walk.spent, budget=walk.budget - walk.spent)
        except ConfigError:  # the budget buys nothing
            break
        if looks:
            looks[-1] |= {"why": said.why, "stake": said.outlook.stake if said.outlook else 0.0}
        if said.stage is None:
            break
        walk.buy(said.stage)
        looks.append(walk.look(standing(decision.question, walk.stages, walk.runs)))
    return looks


def at_random(decision, share=BUDGET):
    """Batches that grow as those of `study next`, but of any size and tokens that cost as much, with all teachers."""
    walk, looks = Walk.begin(decision, share), []
    rng, question = np.random.default_rng(decision.number), decision.question
    anywhere = all_stages(question)
    while True:
        left = walk.budget - walk.spent
        cap = min(left, max(FIRST * walk.budget, GROWTH * walk.spent))
        found = affordable(question, walk.made, anywhere, left)
        if not found:
            break
        fits = [stage for stage, flops in found if cap / 2 <= flops <= cap]
        stage, after = (fits[rng.integers(len(fits))] if fits else min(found, key=lambda p: p[1])[0], len(looks))
        if walk.runs and walk.spent + walk.price(stage) > CHECKS[after] * question.target_flops:
            looks.append(walk.look(standing(question, [], walk.runs)))
        walk.buy(stage)
    return [*looks, walk.look(standing(question, [], walk.runs))] if walk.runs else []


def all_stages(question):
    """Every size with every token budget of about the target's ratio, in factors of two; one seed."""
    names, unit, found = tuple(c.name for c in question.candidates), question.batch_tokens, []
    for size in question.sizes:
        for k in range(12):
            tokens = {unit * int(question.tokens / 2**k * part / unit) for part in BRANCHES}
            ratio = abs(math.log(question.target.params / size.params) - k * math.log(2))
            if ratio <= math.log(RATIO) and min(tokens) >= question.least_tokens:
                found.append(Stage(size=size.label, tokens=tuple(sorted(tokens)), candidates=names, seeds=(0,)))
    return found


def ladder(decision, share=BUDGET):
    """The stages of `settle`."""
    walk, looks = Walk.begin(decision, share), []
    question = replace(decision.question, budget=walk.budget)
    while len(looks) < MOST:
        try:
            stage = next_stage(question, walk.stages, walk.runs)
        except ConfigError:
            break
        if stage is None:
            break
        walk.buy(stage)
        looks.append(walk.look(standing(question, walk.stages, walk.runs)))
    return looks


def grids(decision, with_plan, shares=GRIDS):
    """A full grid at every budget; read by the belief, and by `fit` and `plan` where asked."""
    looks, plans = [], []
    for share in shares:
        stages = full_grid(decision.question, share * decision.question.target_flops)
        if not stages:
            continue
        walk = Walk.begin(decision, share)
        walk.buy(*stages)
        looks.append(walk.look(standing(decision.question, [], walk.runs)))
        if with_plan:
            said = planned(
                decision,
                study := simulated_study(decision, walk.runs),
                study.record(),
                vocab=decision.vocab,
                context=decision.context,
            )
            if "refused" in said:
                said = {"regret": decision.losses[""] - min(decision.losses.values()), "false": False, "verdict": None}
            plans.append(
                {
                    "spent": looks[-1]["spent"],
                    "runs": len(walk.runs),
                    "regret": said["regret"],
                    "verdict": None if said["verdict"] == "too-close" else said["verdict"],
                    "false": said["verdict"] in ("distil", "pretrain") and said["false"],
                }
            )
    return looks, plans


def full_grid(question, flops):
    """The grid nearest to the target for so many FLOP; None where they buy none."""
    found = []
    for i in range(SIZES - 1, len(question.sizes)):
        labels = [size.label for size in reversed(question.sizes[i - SIZES + 1 : i + 1])]
        smaller = math.log(question.target.params / question.sizes[i].params)
        for shorter in np.arange(0, 12, 0.25) * math.log(2):
            stages = grid_stages(question, labels, question.tokens * math.exp(-shorter))
            if stages is None or abs(smaller - shorter) > math.log(RATIO):
                continue
            if extra_flops(question, {}, wanted_by(question, stages)) <= flops:
                found.append((math.hypot(smaller, shorter), stages))
                break
    return min(found, key=lambda pair: pair[0], default=(0, None))[1]


def grid_stages(question, labels, longest):
    """Sizes from large to small x budgets x teachers, and the repeated cells; None where runs would be too short."""
    names, unit = tuple(c.name for c in question.candidates), question.batch_tokens
    tokens = tuple(sorted({unit * int(longest * part / unit) for part in PARTS}))
    if len(tokens) < len(PARTS) or tokens[0] < question.least_tokens:
        return None
    return [
        Stage(size=labels[0], also=tuple(labels[1:]), tokens=tokens, candidates=names, seeds=(0,)),
        Stage(size=labels[-1], tokens=tokens[-1:], candidates=names[:1], seeds=REPEATS),
        Stage(size=labels[0], tokens=tokens[:1], candidates=names[:1], seeds=REPEATS),
    ]
