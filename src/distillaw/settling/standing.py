"""Where things stand after some stages: bounds that hold at every look, who is still in, and whether to stop.

One looks after every stage. The i-th look may fail with probability alpha w_i, and the w_i sum to one over any number
of looks, so the chance that any bound ever fails is at most alpha, whenever one stops:

    w_1 .. w_4 = 1/5 each (the rungs of a budget), then 1/10, 1/20, ... (a budget that is raised)

At four looks this is sharper than bounds for looking all the time: 2.05 standard deviations instead of about 3 for a
prior-posterior ratio (Waudby-Smith and Ramdas, arXiv:2006.04347) at alpha = 0.1. With K candidates an error that
matters is always about the best choice b: that it seems worse than some other choice by more than it is. Those are K
comparisons, one-sided, each at (1 - level) / K; no other error leads to a false stop.

A choice is settled when no other can be better by more than the margin. Without a teacher is cheaper, so it wins where
both are within the margin. Every stage is predicted before it runs; how far off the predictions were widens what is
said. Shape suffixes: M member, A arm (0: no teacher).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from distillaw.laws.base import Array
from distillaw.planning.evidence import Interval
from distillaw.quantities import format_count
from distillaw.settling.belief import PilotBelief, believe
from distillaw.settling.noise import SHARED_SEED, PilotPoints
from distillaw.settling.question import NONE, PilotQuestion, PilotRun, Stage, runs_of, stage_flops

PLANNED = 4
"""Looks that share most of the errors allowed."""


def look_alpha(alpha: float, look: int) -> float:
    """The chance of error that a look has, counted from 1.

    Args:
        alpha: of all looks together.
        look: which one.
    """
    share = 1 / (PLANNED + 1)
    return alpha * (share if look <= PLANNED else share * 0.5 ** (look - PLANNED))


def quantile(alpha: float) -> float:
    """Standard deviations that a Gaussian exceeds with this chance, on one side."""
    return NormalDist().inv_cdf(1 - alpha)


SEED = 1
"""Of the draws; the same at every look, so that bounds move with data alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrasts:
    """Losses at the target and bounds on their differences, nats/token."""

    losses_MA: Array  # noqa: N815 - an array
    reach: float
    """Standard deviations of a one-sided bound, at this look, for all K comparisons together."""
    reach_alone: float
    """The same for one interval by itself, two-sided."""

    @property
    def mean_AA(self) -> Array:  # noqa: N802
        """Loss of a - loss of b."""
        mean_A = self.losses_MA.mean(0)
        return mean_A[:, None] - mean_A

    @property
    def sd_AA(self) -> Array:  # noqa: N802
        """Standard deviations of the same."""
        return (self.losses_MA[:, :, None] - self.losses_MA[:, None, :]).std(0)

    @property
    def upper_AA(self) -> Array:  # noqa: N802
        """Upper bounds on the same; minus its transpose are the lower ones."""
        return self.mean_AA + self.reach * self.sd_AA

    def regret(self, arms: list[int]) -> Array:
        """Upper bound on what each of `arms` loses against the best of them; at least 0."""
        return np.maximum(self.upper_AA[np.ix_(arms, arms)].max(axis=1), 0.0)


def target_points(question: PilotQuestion) -> PilotPoints:
    """The target under every arm."""
    return PilotPoints.at(question.target.params, question.tokens, np.arange(1 + len(question.candidates)))


def contrasts(belief: PilotBelief, look: int) -> Contrasts:
    """What a belief says of the target.

    Args:
        belief: after some stages.
        look: how many.
    """
    losses_MA = np.exp(belief.ask(target_points(belief.question), np.random.default_rng(SEED)))
    alpha = look_alpha(1 - belief.question.level, max(look, 1))
    return Contrasts(
        losses_MA=losses_MA,
        reach=quantile(alpha / max(losses_MA.shape[1] - 1, 1)),
        reach_alone=quantile(alpha / 2),
    )


TRUSTED = 4.0
"""Weight of the assumed misfit, in stages' worth of surprise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotPrediction:
    """The gain of one candidate at one design point of a stage, before it ran, and what came; ln loss."""

    stage: int
    candidate: str
    params: float
    tokens: float
    expected: float
    sd: float
    """Of the difference to expect, noise of seeds included."""
    came: float

    @property
    def surprise(self) -> float:
        """In standard deviations."""
        return (self.came - self.expected) / self.sd

    def to_json(self) -> dict[str, object]:
        """A row."""
        return {
            "stage": self.stage,
            "teacher": self.candidate,
            "student_params": self.params,
            "student_tokens": self.tokens,
            "expected_log_gain": self.expected,
            "sd": self.sd,
            "measured_log_gain": self.came,
        }


def widened(checks: Sequence[PilotPrediction]) -> float:
    """By how much to scale the misfit: never down, up to what the surprises say.

    One stage's points and candidates are off together, so a stage counts once, with its mean square.
    """
    stages = {check.stage for check in checks}
    squares = [np.mean([c.surprise**2 for c in checks if c.stage == stage]) for stage in stages]
    return math.sqrt(max(1.0, (TRUSTED + sum(squares)) / (TRUSTED + len(squares))))


def predictions(
    question: PilotQuestion, stages: Sequence[Stage], runs: Sequence[PilotRun]
) -> list[PilotPrediction]:
    """Of every stage but the first, from the runs of those before it."""
    found: list[PilotPrediction] = []
    before = list(runs_of(question, stages[0], runs)) if stages else []
    for i, stage in enumerate(stages[1:], start=1):
        new = [run for run in runs_of(question, stage, runs) if run not in before]
        found += _predict(question, i, before, new, widened(found))
        before += new
    return found


def _predict(
    question: PilotQuestion, index: int, before: Sequence[PilotRun], new: Sequence[PilotRun], scale: float
) -> list[PilotPrediction]:
    """The gains of the new runs, mean over seeds, from the runs before."""
    pairs = _pairs(new)
    if not pairs:
        return []
    belief = believe(question, before, scale=scale)
    names = question.arms
    keys = list(pairs)
    _, params, tokens = zip(*keys, strict=True)
    arm = np.array([[0, names.index(name)] for name, _, _ in keys]).reshape(-1)
    points = PilotPoints.at(np.repeat(params, 2), np.repeat(tokens, 2), arm)
    draws = belief.ask(points, np.random.default_rng(index))
    gains = draws[:, 0::2] - draws[:, 1::2]
    rows = []
    for j, key in enumerate(keys):
        noise = belief.sd * math.sqrt(2 * (1 - SHARED_SEED) / len(pairs[key]))
        rows.append(
            PilotPrediction(
                stage=index,
                candidate=key[0],
                params=key[1],
                tokens=key[2],
                expected=float(gains[:, j].mean()),
                sd=math.hypot(float(gains[:, j].std()), noise),
                came=float(np.mean(pairs[key])),
            )
        )
    return rows


def _pairs(runs: Sequence[PilotRun]) -> dict[tuple[str, float, float], list[float]]:
    """Ln gains by candidate, size and tokens, one per seed that both arms have."""
    alone = {(r.params, r.tokens, r.seed): r.loss for r in runs if r.candidate == NONE}
    found: dict[tuple[str, float, float], list[float]] = {}
    for run in runs:
        own = alone.get((run.params, run.tokens, run.seed))
        if run.candidate != NONE and own is not None and math.isfinite(own) and math.isfinite(run.loss):
            found.setdefault((run.candidate, run.params, run.tokens), []).append(math.log(own / run.loss))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known, and what follows."""

    gains: Mapping[str, Interval]
    """Gain of each candidate over none at the target, nats/token; valid at any time it is looked at."""
    losses: Mapping[str, Interval]
    """Loss at the target, `NONE` included, nats/token; a central interval of the belief."""
    probability: Mapping[str, float]
    """Posterior probability of each candidate, and of `NONE`, that it is the best of those that can be trained."""
    leader: str
    """The choice that is expected to be best; `NONE` where no teacher gains more than the margin."""
    regret: float
    """Upper bound, nats/token, on what the leader loses against the best of all; valid at any time."""
    dropped: Mapping[str, str]
    """Candidate -> why it is out."""
    diverged: frozenset[str]
    """Those of them that are out because training diverged: bounds say nothing of these."""
    is_better: bool
    """Whether the leader is a teacher that surely beats none; or surely loses no more than the margin and should gain
    more."""
    verdict: str | None
    """`distil` or `pretrain` once settled; None while more pilots may settle it."""
    spent: float
    """FLOP so far."""
    predicted: Sequence[PilotPrediction]
    """Every stage after the first: what was expected of each pair before it ran, and what came."""
    belief: PilotBelief
    bounds: Contrasts

    @property
    def best_teacher(self) -> str:
        """The candidate with the largest gain, one that can be trained where there is one."""
        return max(self.gains, key=lambda name: (name not in self.diverged, self.gains[name].mean))


def standing(question: PilotQuestion, stages: Sequence[Stage], runs: Sequence[PilotRun]) -> Standing:
    """Where things stand.

    Args:
        question: what is asked.
        stages: that have been run, in order.
        runs: their runs.
    """
    checks = predictions(question, stages, runs)
    belief = believe(question, runs, scale=widened(checks))
    bounds = contrasts(belief, len(stages))
    names = question.arms
    diverged = _diverged(question, stages, runs)
    sound = [i for i, name in enumerate(names) if name not in diverged]
    dropped = diverged | (_beaten(question, names, bounds, sound) if runs else {})
    arms = [i for i, name in enumerate(names) if name not in dropped]
    regret = dict(zip(arms, bounds.regret(arms), strict=True))
    leader = min(arms, key=lambda i: bounds.losses_MA[:, i].mean())
    if regret[0] <= question.margin:  # cheaper than any teacher
        leader = 0
    is_settled = bool(runs) and bool(regret[leader] <= question.margin)
    is_better = bool(runs) and _is_better(question, bounds, leader, is_settled=is_settled)
    verdict = None
    if is_settled and (leader == 0 or is_better):
        verdict = "distil" if leader else "pretrain"
    return Standing(
        gains={name: _gain(bounds, i) for i, name in enumerate(names) if i},
        losses={name: Interval.of(bounds.losses_MA[:, i], question.level) for i, name in enumerate(names)},
        probability=_probability(names, bounds, sound),
        leader=names[leader],
        regret=float(regret[leader]),
        dropped=dropped,
        diverged=frozenset(diverged),
        is_better=is_better,
        verdict=verdict,
        spent=question.spent + sum(stage_flops(question, stage) for stage in stages),
        predicted=checks,
        belief=belief,
        bounds=bounds,
    )


def _is_better(question: PilotQuestion, bounds: Contrasts, leader: int, *, is_settled: bool) -> bool:
    """Whether the leader is a teacher worth having: one that surely beats none, or that is settled (it cannot lose more
    than the margin) and should gain more than the margin.
    """  # noqa: D205
    if leader == 0:
        return False
    gain = _gain(bounds, leader)
    is_sure = bounds.upper_AA[leader, 0] < 0 and gain.lower > 0
    return bool(is_sure or (is_settled and gain.mean > question.margin))


def _probability(names: Sequence[str], bounds: Contrasts, sound: Sequence[int]) -> dict[str, float]:
    """Share of the draws in which each choice that can be trained is the best."""
    first = np.take(sound, bounds.losses_MA[:, sound].argmin(axis=1))
    counts = np.bincount(first, minlength=len(names))
    return {name: float(count / len(first)) for name, count in zip(names, counts, strict=True)}


def _gain(bounds: Contrasts, arm: int) -> Interval:
    """Two-sided, valid at any look, for this candidate by itself."""
    mean, sd = float(bounds.mean_AA[0, arm]), float(bounds.sd_AA[0, arm])
    return Interval(mean=mean, lower=mean - bounds.reach_alone * sd, upper=mean + bounds.reach_alone * sd)


def _diverged(question: PilotQuestion, stages: Sequence[Stage], runs: Sequence[PilotRun]) -> dict[str, str]:
    """Candidates of whose newest trunks none was finished; one that diverged beside others that did not stays in."""
    found = {}
    for name in (c.name for c in question.candidates):
        newest = next((stage for stage in reversed(stages) if name in stage.candidates), None)
        if newest is None:
            continue
        ends = [
            run
            for run in runs_of(question, newest, runs)
            if run.candidate == name and run.tokens == newest.tokens[-1]
        ]
        if ends and all(math.isinf(run.loss) for run in ends):
            where = f"{' and '.join(newest.labels)} parameters on {format_count(newest.tokens[-1])} tokens"
            found[name] = f"training diverged at {where}"
    return found


def _beaten(
    question: PilotQuestion, names: Sequence[str], bounds: Contrasts, sound: Sequence[int]
) -> dict[str, str]:
    """Candidates that another choice, one that can be trained, beats by more than the margin, surely."""
    found = {}
    for i in sound:
        ahead = -bounds.upper_AA[sound, i]
        j = sound[int(np.argmax(ahead))]
        if i and ahead.max() > question.margin:
            rival = names[j] if j else "no teacher"
            found[names[i]] = f"behind {rival} by at least {ahead.max():.3f} nats/token at the target"
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """Valid at whatever stage it is drawn."""

    verdict: str
    """`distil`, `pretrain` or `too-close`."""
    choice: str
    """A candidate's name or `NONE`: what to do, also where it is too close."""
    bound: float
    """Nats/token: the choice loses at most this against the best one, at the question's level."""
    sentence: str


def conclude(question: PilotQuestion, now: Standing) -> Conclusion:
    """Turn a standing into a conclusion, settled or not.

    Args:
        question: what was asked.
        now: where things stand.
    """
    bound = max(now.regret, question.margin) if now.verdict else now.regret
    sure = f"at {question.level:.0%}, whenever one stops"
    out = (
        f"; nothing is said of {', '.join(sorted(now.diverged))}, whose training diverged"
        if now.diverged
        else ""
    )
    if len(now.diverged) == len(question.candidates):
        return Conclusion(
            verdict="pretrain",
            choice=NONE,
            bound=bound,
            sentence="Pretrain: training diverged with every teacher, so nothing is known of what they could give",
        )
    if now.verdict == "pretrain":
        return Conclusion(
            verdict="pretrain",
            choice=NONE,
            bound=bound,
            sentence=f"Pretrain: no teacher makes the target better by more than {bound:.3f} nats/token ({sure}){out}",
        )
    if now.is_better:
        gain = now.gains[now.leader]
        rest = f"; at most {bound:.3f} nats/token are at stake between it and another choice"
        if now.verdict:
            rest = f"; no other choice is better by more than {bound:.3f}"
        return Conclusion(
            verdict="distil",
            choice=now.leader,
            bound=bound,
            sentence=f"Distil from {now.leader}: it makes the target better by {gain.mean:.3f} nats/token "
            f"[{gain.lower:.3f}, {gain.upper:.3f}] ({sure}){rest}{out}",
        )
    name = f"distil from {now.leader}" if now.leader else "pretrain"
    return Conclusion(
        verdict="too-close",
        choice=now.leader,
        bound=bound,
        sentence=f"Too close: at most {bound:.3f} nats/token are at stake if you {name} ({sure}){out}",
    )
