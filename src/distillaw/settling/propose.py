"""The next runs for the verdict: near the target, the teachers that are worth it, batches that grow; and when to stop.

A batch may cost three times what was spent before, so most of a budget is spent with what cheaper runs taught. Where it
lies is not left to the belief (design.py); which teachers and how many seeds is: those whose runs should save most
regret per FLOP. Losses at the target and at every point that could be run are taken as jointly Gaussian, with the
covariance of the belief's draws. Runs then move the target's means by a Gaussian amount of known covariance, and

    worth = min_a E[L_a] - E[min_a E[L_a | runs]]

is the knowledge gradient of the choice (Frazier, Powell and Dayanik 2009, for correlated beliefs). A batch is worth its
cost if the regret that it saves is worth more FLOP of the target's own training (longer training would save it too)
than it costs itself. Shape suffixes: M member, A arm (0: no teacher), Q point, J point of a stage or draw of what stays
unknown, K outcome of the stage, T token budget.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from distillaw.errors import ConfigError
from distillaw.laws.base import Array
from distillaw.planning.evidence import Interval
from distillaw.quantities import format_count, format_flop
from distillaw.settling.belief import PilotBelief, normal_draws
from distillaw.settling.design import stage_pool
from distillaw.settling.noise import PilotPoints, seed_cov
from distillaw.settling.question import Made, PilotQuestion, PilotRun, Stage, extra_flops, made_by, wanted_by
from distillaw.settling.standing import Standing, standing, target_points

OUTLOOK_SEED = 2
"""Of the draws: all stages are judged by the same ones."""
DRAWS = 400
"""Antithetic, so that worths of stages that tell nothing are exactly nothing."""
TEXT = 4e-4
"""Error of a gain from the choice of held-out documents, ln loss, where runs do not say."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Losses at the target and at points, before or after some stages that are not run yet."""

    belief: PilotBelief
    places: Mapping[tuple[float, float, int], int]
    """Size, tokens and arm of a point -> where it stands in `cov`."""
    mean_A: Array
    """Of the loss at the target, nats/token."""
    cov: Array
    """Of the losses at the target, then of the ln losses at the points, (A + Q, A + Q)."""
    moved_AA: Array
    """Covariance of what the stages so far will have moved the means at the target by."""
    arms: tuple[int, ...]
    """Those that may still be chosen."""

    @classmethod
    def of(cls, belief: PilotBelief, stages: Sequence[Stage], arms: Sequence[int]) -> "Outlook":
        """The outlook of a belief on every point of some stages."""
        places = sorted({place for stage in stages for place in belief.question.places(stage)})
        target = target_points(belief.question)
        draws = belief.ask(target.join(belief.question.points(places)), np.random.default_rng(OUTLOOK_SEED))
        count = len(target.arm)
        draws[:, :count] = np.exp(draws[:, :count])
        return cls(
            belief=belief,
            places={place: count + i for i, place in enumerate(places)},
            mean_A=draws[:, :count].mean(0),
            cov=np.cov(draws.T),
            moved_AA=np.zeros((count, count)),
            arms=tuple(arms),
        )

    def after(self, stage: Stage) -> "Outlook":
        """The outlook once a stage has been run."""
        told, count = self._told(stage, slice(None)), len(self.mean_A)
        return replace(self, cov=self.cov - told, moved_AA=self.moved_AA + told[:count, :count])

    def worth(self, stage: Stage) -> float:
        """Regret, nats/token, that the stages so far and this one are expected to save."""
        return self._saved(self.moved_AA + self._told(stage, slice(len(self.mean_A))))

    @property
    def worth_so_far(self) -> float:
        """The same of the stages so far."""
        return self._saved(self.moved_AA)

    @property
    def stake(self) -> float:
        """Expected regret of the leader if nothing further is run, nats/token: what knowing all would save."""
        count = len(self.mean_A)
        return self._saved(self.cov[:count, :count] + self.moved_AA)

    def _saved(self, moved_AA: Array) -> float:
        arms = list(self.arms)
        values, vectors = np.linalg.eigh(moved_AA[np.ix_(arms, arms)])
        moved_MA = self._normals[:, : len(arms)] @ (vectors * np.sqrt(np.maximum(values, 0))).T
        means_A = self.mean_A[arms]
        return float(means_A.min() - (means_A + moved_MA).min(axis=1).mean())

    @cached_property
    def _normals(self) -> Array:
        half_MA = np.random.default_rng(OUTLOOK_SEED).standard_normal((DRAWS // 2, len(self.mean_A)))
        return np.concatenate([half_MA, -half_MA])

    def _told(self, stage: Stage, rows: slice) -> Array:
        """Covariance of what a stage will move the means of some rows of `cov` by."""
        index_J, noise_JJ = self._measured(stage)
        across = self.cov[rows, index_J]
        return across @ np.linalg.solve(self.cov[np.ix_(index_J, index_J)] + noise_JJ, across.T)

    def _measured(self, stage: Stage) -> tuple[list[int], Array]:
        """Where the runs of a stage lie in `cov`, one seed, and the noise of their mean over seeds."""
        places = self.belief.question.places(stage)
        text_se = np.full(len(self.mean_A), TEXT)
        text_se[0] = 0.0
        noise_JJ = seed_cov(self.belief.question.points(places), self.belief.sd, text_se) / len(stage.seeds)
        return [self.places[place] for place in places], noise_JJ


EXPECT_SEED = 3
"""Of the draws."""
OUTCOMES, REST = 300, 300
"""Of a stage, and of what stays unknown after it: probabilities are known to about 3 %."""
FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Of the target's tokens, at which the gain is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedVerdict:
    """The choice that leads, as it is or as it should be after a stage."""

    expected_regret: float
    """Nats/token."""
    probability_best: float
    """That it is the best choice."""
    probability_settled: float
    """That bounds on all other choices are within the margin."""


def expect(outlook: Outlook, now: Standing) -> ExpectedVerdict:
    """The verdict after the stages of an outlook (of none: the present), averaged over what they may show."""
    arms = np.array(outlook.arms)
    count, rng = len(outlook.mean_A), np.random.default_rng(EXPECT_SEED)
    means_KA = outlook.mean_A[arms] + normal_draws(outlook.moved_AA[np.ix_(arms, arms)], OUTCOMES, rng)
    left_AA = outlook.cov[:count, :count][np.ix_(arms, arms)]
    rest_JA = normal_draws(left_AA, REST, rng)
    leader_K = means_KA.argmin(1)
    losses_KJA = means_KA[:, None, :] + rest_JA
    right_KJ = losses_KJA.argmin(2) == leader_K[:, None]
    variance_A = np.diag(left_AA)
    sd_AA = np.sqrt(np.maximum(variance_A[:, None] + variance_A - 2 * left_AA, 0.0))
    behind_KA = np.take_along_axis(means_KA, leader_K[:, None], axis=1) - means_KA
    bound_K = (behind_KA + now.bounds.reach * sd_AA[leader_K]).max(1)
    return ExpectedVerdict(
        expected_regret=outlook.stake - outlook.worth_so_far,
        probability_best=float(right_KJ.mean()),
        probability_settled=float((bound_K <= now.belief.question.margin).mean()),
    )


def gains_by_tokens(now: Standing) -> list[dict[str, float]]:
    """The gain of the best teacher over none at the target's size, by token budget, each with its interval.

    Only among the budgets that were run, and at the target: outside them the forms give numbers that no run holds back.
    """
    question = now.belief.question
    run_T = np.exp(now.belief.measured.log_tokens)
    near = [f for f in FACTORS if f == 1 or run_T.min() <= f * question.tokens * (1 + 1e-9) <= run_T.max() * (1 + 2e-9)]
    tokens_T = question.tokens * np.array(near)
    arm = np.repeat([0, question.arms.index(now.best_teacher)], len(near))
    points = PilotPoints.at(question.target.params, np.tile(tokens_T, 2), arm)
    losses = np.exp(now.belief.ask(points, np.random.default_rng(EXPECT_SEED)))
    gains_MT = losses[:, : len(near)] - losses[:, len(near) :]
    rows = zip(tokens_T, (Interval.of(gain, question.level) for gain in gains_MT.T), strict=True)
    return [{"tokens": float(t), "gain": gain.mean, "lower": gain.lower, "upper": gain.upper} for t, gain in rows]


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
    why: str = ""
    """What stands against more runs; empty where nothing does."""
    stage: Stage | None = None
    """None where nothing more is worth running: see `why`."""
    flops: float = 0.0
    """Of the stage, beside the runs that exist."""
    outlook: Outlook | None = None
    """Before the stage; None where nothing is affordable."""
    after: Outlook | None = None
    worth: float = 0.0
    """Regret that the stage is expected to save, nats/token."""
    worth_flops: float = 0.0
    """The FLOP of longer training that would save the target the same."""


def propose(
    question: PilotQuestion,
    stages: Sequence[Stage],
    runs: Sequence[PilotRun],
    *,
    spent: float,
    budget: float,
    near: Callable[[float], list[Stage]] | None = None,
    may_end: bool = True,
) -> Proposal:
    """The next batch of runs.

    Args:
        stages: the batches so far, in order; of runs with no such history, `stages_of`.
        runs: all so far; may be none.
        spent: FLOP so far; the size of a batch follows it.
        budget: FLOP that may be spent from now on.
        near: the stages that so many FLOP buy, e.g. cells of a table; by default any size and tokens (`stage_pool`).
        may_end: whether the belief may say that nothing more is worth running; not where it is drawn on to a target
            that nobody else knows anything of.

    Raises:
        ConfigError: the budget buys nothing, and nothing was run yet.
    """
    made = made_by(question, runs)
    now = standing(question, stages, runs)
    if may_end and now.verdict is not None:
        return Proposal(now=now, why=f"it is settled: {now.verdict}")
    out = now.dropped if may_end else now.diverged
    teams = groups(question, now, out)
    if not may_end:  # by its own worth the belief would take the cheapest teacher
        teams = [team for team in teams if now.best_teacher in team]
    cap, pool = _near(near or (lambda flops: stage_pool(question, made, teams, flops)), spent, budget)
    priced = [pair for pair in affordable(question, made, pool, budget) if pair[1] >= WORTHY * spent]
    if not priced:
        if not runs:
            raise ConfigError(_too_little(question, made, teams, budget))
        return Proposal(now=now, why=f"{format_flop(budget)} buy no further runs that would tell much")
    arms = [i for i, name in enumerate(question.arms) if name not in out]
    outlook = Outlook.of(now.belief, [stage for stage, _ in priced], arms)
    worth = np.array([outlook.worth(stage) for stage, _ in priced])
    cost = np.array([flops for _, flops in priced])
    fits = cost <= cap  # the largest worth per FLOP of those that a batch may cost; else the cheapest
    i = int(np.argmax(np.where(fits, worth / cost, -np.inf))) if fits.any() else int(np.argmin(cost))
    value = flops_of_regret(question, now, worth)
    why = "" if not may_end or (value >= cost).any() else "whatever the budget buys should save less than it costs"
    return Proposal(
        now=now,
        stage=priced[i][0],
        flops=float(cost[i]),
        outlook=outlook,
        after=outlook.after(priced[i][0]),
        worth=float(worth[i]),
        worth_flops=float(value[i]),
        why=why,
    )


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


def stages_of(question: PilotQuestion, runs: Sequence[PilotRun]) -> list[Stage]:
    """Runs without a history, as if every larger size had been run after the smaller ones, which predict it."""
    labels = {size.params: size.label for size in question.sizes}
    sizes = sorted({run.params for run in runs if run.params in labels})
    parts = [sizes[: -CHECKED + 1], *([n] for n in sizes[-CHECKED + 1 :])]
    found = []
    for part in parts:
        mine = [run for run in runs if run.params in part]
        if mine:
            found.append(
                Stage(
                    size=labels[part[-1]],
                    also=tuple(labels[n] for n in part[:-1]),
                    tokens=tuple(sorted({round(run.tokens) for run in mine})),
                    candidates=tuple(name for name in question.arms[1:] if any(run.candidate == name for run in mine)),
                    seeds=tuple(sorted({run.seed for run in mine})),
                )
            )
    return found


def groups(question: PilotQuestion, now: Standing, out: Collection[str]) -> list[tuple[str, ...]]:
    """Candidates to run together: all but those out; once there are runs, the likeliest two, and a few alone, too."""
    alive = tuple(c.name for c in question.candidates if c.name not in out)
    if not len(now.belief.measured.arm):
        return [alive]
    likely = sorted(alive, key=lambda name: -now.probability[name])
    pair = tuple(name for name in alive if name in likely[:2])
    return sorted({group for group in (alive, pair, *((name,) for name in likely[:ALONE])) if group})


def affordable(question: PilotQuestion, made: Made, pool: Sequence[Stage], budget: float) -> list[tuple[Stage, float]]:
    """Stages that a budget buys and that have something new, with their cost."""
    priced = [(stage, extra_flops(question, made, wanted_by(question, [stage]))) for stage in pool]
    return [(stage, flops) for stage, flops in priced if 0 < flops <= budget]


def flops_of_regret(question: PilotQuestion, now: Standing, regret: Array) -> Array:
    """FLOP of longer training, at the slope of the belief, that would save the target as many nats/token."""
    tokens = [question.tokens, LONGER * question.tokens]
    points = PilotPoints.at(question.target.params, tokens, question.arms.index(now.leader))
    losses = np.exp(now.belief.ask(points, np.random.default_rng(0))).mean(0)
    slope = max(float(losses[0] - losses[1]), 1e-4 * float(losses[0])) / math.log(LONGER)  # per e-fold of tokens
    flops = question.target.flops + (question.candidate(now.leader).flops if now.leader else 0.0)
    return question.tokens * flops * np.expm1(np.minimum(regret / slope, MOST))


def _too_little(question: PilotQuestion, made: Made, teams: Sequence[tuple[str, ...]], budget: float) -> str:
    if not stage_pool(question, made, teams, math.inf):
        return (
            f"the student in question is trained on {format_count(question.tokens)} tokens, and a run that says "
            f"anything has at least {format_count(question.least_tokens)}: train the student itself, "
            "with every teacher and none"
        )
    enough = budget
    while not (found := stage_pool(question, made, teams, enough)):
        enough *= 2
    stage, flops = min(affordable(question, made, found, math.inf), key=lambda pair: pair[1])
    return (
        f"--budget {format_flop(budget)} buys no run that says anything: {' and '.join(stage.labels)} parameters with "
        f"{' and '.join(stage.candidates)} and none costs {format_flop(flops)}"
    )
