"""The next runs for the verdict: near the target, the teachers that are worth it, batches that grow; and when to stop.

A batch may cost three times what was spent before, so most of a budget is spent with what cheaper runs taught. Where it
lies is not left to the belief (pool.py); which teachers and how many seeds is: those whose runs should save most regret
per FLOP. It is worth its cost if the regret that it saves is worth more FLOP of the target's own training (longer
training would save it too) than it costs itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.errors import ConfigError
from distillaw.laws.base import Array
from distillaw.quantities import format_flop
from distillaw.settling.belief import Belief
from distillaw.settling.noise import Cells
from distillaw.settling.pool import nearest_of, stage_pool
from distillaw.settling.pricing import Made, extra_flops, made_by, wanted_by
from distillaw.settling.question import PilotRun, Question, Stage
from distillaw.settling.standing import Standing, standing
from distillaw.settling.value import Outlook

FIRST = 1 / 64
"""Share of the budget that the first batch may cost."""
GROWTH = 3.0
"""Cost of a batch, at most, over all that was spent before."""
LEAST = 0.5
"""What is left after a batch is spent with it where it is less than this share of the batch."""
WORTHY = 0.1
"""Cost of a batch, at least, over all that was spent before: less would change little."""
CHECKED = 4
"""Stages, at most, that runs without a history are read as."""
LONGER = 2.0
"""Times the target's tokens, where what a nat is worth is read off."""
MOST = 10.0
"""E-folds of the target's tokens, at most, that regret is said to be worth."""
ALONE = 3
"""Teachers that are also looked at one by one, the likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What to run next, what it costs, what it is expected to change."""

    now: Standing
    stage: Stage | None
    """None where nothing more is worth running: see `why`."""
    flops: float
    """Of the stage, beside the runs that exist."""
    outlook: Outlook | None
    """Before the stage; None where nothing is affordable."""
    after: Outlook | None
    worth: float
    """Regret that the stage is expected to save, nats/token."""
    worth_flops: float
    """The FLOP of longer training that would save the target the same."""
    why: str
    """What stands against more runs; empty where nothing does."""


def propose(
    question: Question,
    stages: Sequence[Stage],
    runs: Sequence[PilotRun],
    *,
    spent: float,
    budget: float,
    offered: Sequence[Stage] | None = None,
) -> Proposal:
    """The next batch of runs.

    Args:
        question: what is asked.
        stages: the batches so far, in order; of runs with no such history, `stages_of`.
        runs: all so far; may be none.
        spent: FLOP so far; the size of a batch follows it.
        budget: FLOP that may be spent from now on.
        offered: the stages that could be run, e.g. the cells of a table; by default any size and tokens.

    Raises:
        ConfigError: the budget buys nothing, and nothing was run yet.
    """
    made = made_by(question, runs)
    now = standing(question, stages, runs)
    if now.verdict is not None:
        return _nothing(now, f"it is settled: {now.verdict}")
    teams = groups(question, now)

    def near(flops: float) -> list[Stage]:
        if offered is not None:
            return nearest_of(question, made, offered, flops)
        return stage_pool(question, made, teams, flops)

    cap, pool = _near(near, spent, budget)
    priced = [pair for pair in affordable(question, made, pool, budget) if pair[1] >= WORTHY * spent]
    if not priced:
        if not runs:
            raise ConfigError(_too_little(question, made, teams, budget))
        return _nothing(now, f"{format_flop(budget)} buy no further runs that would tell much")
    arms = [i for i, name in enumerate(question.arms) if name not in now.dropped]
    outlook = Outlook.of(now.belief, [stage for stage, _ in priced], arms)
    worth = np.array([outlook.worth(stage) for stage, _ in priced])
    cost = np.array([flops for _, flops in priced])
    i = _chosen(worth, cost, cap)
    value = flops_of_regret(question, now, worth)
    why = "" if (value >= cost).any() else "whatever the budget buys should save less than it costs"
    return Proposal(
        now=now, stage=priced[i][0], flops=float(cost[i]), outlook=outlook, after=outlook.after(priced[i][0]),
        worth=float(worth[i]), worth_flops=float(value[i]), why=why,
    )  # fmt: skip


def _near(near: Callable[[float], list[Stage]], spent: float, budget: float) -> tuple[float, list[Stage]]:
    """What the next batch may cost, and the stages that so much buys, or all of the budget (to see what that is worth).

    A batch that buys nothing is doubled; it is all that is left where little more would be left after it.
    """
    cap = max(FIRST * budget, GROWTH * spent)
    while cap < budget and not near(cap):
        cap *= 2
    cap = budget if budget < (1 + LEAST) * cap else cap
    found = [stage for flops in (cap, budget) for stage in near(flops)]
    return cap, list(dict.fromkeys(found))


def stages_of(question: Question, runs: Sequence[PilotRun]) -> list[Stage]:
    """Runs without a history, as if every larger size had been run after the smaller ones, which predict it."""
    labels = {size.params: size.label for size in question.sizes}
    sizes = sorted({run.params for run in runs if run.params in labels})
    parts = [sizes[: -CHECKED + 1], *([n] for n in sizes[-CHECKED + 1 :])]
    found = []
    for part in parts:
        mine = [run for run in runs if run.params in part]
        if mine:
            found.append(Stage(
                size=labels[part[-1]], also=tuple(labels[n] for n in part[:-1]),
                tokens=tuple(sorted({round(run.tokens) for run in mine})),
                candidates=tuple(name for name in question.arms[1:] if any(run.candidate == name for run in mine)),
                seeds=tuple(sorted({run.seed for run in mine})),
            ))  # fmt: skip
    return found


def groups(question: Question, now: Standing) -> list[tuple[str, ...]]:
    """Candidates to run together: all that are in; once there are runs, the likeliest two, and a few alone, too."""
    alive = tuple(c.name for c in question.candidates if c.name not in now.dropped)
    if not len(now.belief.measured.arm):
        return [alive]
    likely = sorted(alive, key=lambda name: -now.probability[name])
    pair = tuple(name for name in alive if name in likely[:2])
    return sorted({group for group in (alive, pair, *((name,) for name in likely[:ALONE])) if group})


def affordable(
    question: Question, made: Made, pool: Sequence[Stage], budget: float
) -> list[tuple[Stage, float]]:
    """Stages that a budget buys and that have something new, with their cost."""
    priced = [(stage, extra_flops(question, made, wanted_by([stage]))) for stage in pool]
    return [(stage, flops) for stage, flops in priced if 0 < flops <= budget]


def flops_of_regret(question: Question, now: Standing, regret: Array) -> Array:
    """FLOP of longer training, at the slope of the belief, that would save the target as many nats/token.

    Args:
        question: the target.
        now: what is believed of it, and who leads.
        regret: nats/token.
    """
    flops = question.target.flops + (question.candidate(now.leader).flops if now.leader else 0.0)
    longer = np.expm1(np.minimum(regret / _slope(question, now.belief, now.leader), MOST))
    return question.tokens * flops * longer


def _slope(question: Question, belief: Belief, leader: str) -> float:
    """Nats/token that the target gains per e-fold of its tokens."""
    tokens = np.array([question.tokens, LONGER * question.tokens])
    arm = np.full(2, question.arms.index(leader))
    cells = Cells(log_params=np.full(2, np.log(question.target.params)), log_tokens=np.log(tokens), arm=arm,
                  seed=np.zeros_like(arm))  # fmt: skip
    losses = np.exp(belief.ask(cells, np.random.default_rng(0))).mean(0)
    return max(float(losses[0] - losses[1]), 1e-4 * float(losses[0])) / math.log(LONGER)


def _chosen(worth: Array, cost: Array, cap: float) -> int:
    """The stage of largest worth per FLOP among those that a batch may cost; else the cheapest."""
    fits = cost <= cap
    return int(np.argmax(np.where(fits, worth / cost, -np.inf))) if fits.any() else int(np.argmin(cost))


def _nothing(now: Standing, why: str) -> Proposal:
    return Proposal(
        now=now, stage=None, flops=0.0, outlook=None, after=None, worth=0.0, worth_flops=0.0, why=why
    )


def _too_little(question: Question, made: Made, teams: Sequence[tuple[str, ...]], budget: float) -> str:
    enough = budget
    while not (found := stage_pool(question, made, teams, enough)):
        enough *= 2
    stage, flops = min(affordable(question, made, found, math.inf), key=lambda pair: pair[1])
    return (
        f"--budget {format_flop(budget)} buys no run that says anything: {' and '.join(stage.labels)} parameters with "
        f"{' and '.join(stage.candidates)} and none costs {format_flop(flops)}"
    )
