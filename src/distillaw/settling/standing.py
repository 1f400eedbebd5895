"""Where things stand after some stages: bounds that hold whenever one stops, who leads, who is out, what it ends with.

All that is stated are quantiles of the losses at the target as they are believed at that moment. A belief that is
calibrated stays so under any rule for stopping that looks at the same data (Hendriksen, de Heide and Gruenwald,
arXiv:1807.09077, for averages over the prior), so of what is stated when one stops a tenth is wrong at level 0.9, and
looks need not share the errors. It is not that all looks of one settlement hold together.

    regret(a)  = L_a - min_b L_b        over the choices that can be trained
    bound(a)   = its quantile at the level; of a teacher that beats none, one that does no good counts as infinite

A choice is settled when no other can be better by more than the margin. Without a teacher is cheaper, so it wins where
both are within the margin. Shape suffixes: M member, A arm (0: no teacher).
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

SEED = 1
"""Of the draws; the same at every look, so that bounds move with data alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrasts:
    """Losses at the target and bounds on their differences, nats/token."""

    losses_MA: Array
    level: float

    @property
    def reach(self) -> float:
        """Standard deviations of a one-sided bound on a Gaussian difference."""
        return NormalDist().inv_cdf(self.level)

    @property
    def mean_AA(self) -> Array:
        """Loss of a - loss of b."""
        mean_A = self.losses_MA.mean(0)
        return mean_A[:, None] - mean_A

    @property
    def sd_AA(self) -> Array:
        """Standard deviations of the same."""
        return (self.losses_MA[:, :, None] - self.losses_MA[:, None, :]).std(0)

    def gain_M(self, arm: int) -> Array:
        """Draws of the loss without a teacher less that of an arm."""
        return self.losses_MA[:, 0] - self.losses_MA[:, arm]

    def ahead(self, arm: int, other: int) -> float:
        """Lower bound on what an arm gains over another."""
        return float(np.quantile(self.losses_MA[:, other] - self.losses_MA[:, arm], 1 - self.level))

    def bound(self, arm: int, arms: Sequence[int], *, useful: bool = False) -> float:
        """Upper bound on what an arm loses against the best of `arms`.

        Args:
            useful: whether it also has to be better than no teacher; then it is infinite where that is not sure.
        """
        regret_M = self.losses_MA[:, arm] - self.losses_MA[:, list(arms)].min(1)
        if useful:
            regret_M = np.where(self.gain_M(arm) > 0, regret_M, np.inf)
        return float(np.quantile(regret_M, self.level, method="higher"))


def target_points(question: PilotQuestion) -> PilotPoints:
    """The target under every arm."""
    return PilotPoints.at(question.target.params, question.tokens, np.arange(1 + len(question.candidates)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotPrediction:
    """The gain of one candidate at one design point of a stage, before it ran, and what came; ln loss."""

    stage: int
    teacher: str
    student_params: float
    student_tokens: float
    expected_log_gain: float
    sd: float
    """Of the difference to expect, noise of seeds included."""
    measured_log_gain: float

    @property
    def surprise(self) -> float:
        """In standard deviations."""
        return (self.measured_log_gain - self.expected_log_gain) / self.sd


def predictions(question: PilotQuestion, stages: Sequence[Stage], runs: Sequence[PilotRun]) -> list[PilotPrediction]:
    """Of every stage but the first, from the runs of those before it."""
    found, before = list[PilotPrediction](), list[PilotRun]()
    for i, stage in enumerate(stages):
        new = [run for run in runs_of(question, stage, runs) if run not in before]
        found += _predict(question, i, before, new) if i else []
        before += new
    return found


def _predict(
    question: PilotQuestion, index: int, before: Sequence[PilotRun], new: Sequence[PilotRun]
) -> list[PilotPrediction]:
    """The gains of the new runs, mean over seeds, from the runs before."""
    alone = {(r.params, r.tokens, r.seed): r.loss for r in new if r.candidate == NONE}
    pairs: dict[tuple[str, float, float], list[float]] = {}
    """Ln gains by candidate, size and tokens, one per seed that both arms have."""
    for run in new:
        own = alone.get((run.params, run.tokens, run.seed), math.inf)
        if run.candidate != NONE and math.isfinite(own) and math.isfinite(run.loss):
            pairs.setdefault((run.candidate, run.params, run.tokens), []).append(math.log(own / run.loss))
    if not pairs:
        return []
    belief = believe(question, before)
    names, params, tokens = zip(*pairs, strict=True)
    arm = np.array([[0, question.arms.index(name)] for name in names]).reshape(-1)
    points = PilotPoints.at(np.repeat(params, 2), np.repeat(tokens, 2), arm)
    draws = belief.ask(points, np.random.default_rng(index))
    gains = draws[:, 0::2] - draws[:, 1::2]
    return [
        PilotPrediction(
            stage=index,
            teacher=key[0],
            student_params=key[1],
            student_tokens=key[2],
            expected_log_gain=float(gain.mean()),
            sd=math.hypot(float(gain.std()), belief.sd * math.sqrt(2 * (1 - SHARED_SEED) / len(came))),
            measured_log_gain=float(np.mean(came)),
        )
        for (key, came), gain in zip(pairs.items(), gains.T, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known, and what follows."""

    gains: Mapping[str, Interval]
    """Gain of each candidate over none at the target, nats/token; a central interval of the belief."""
    losses: Mapping[str, Interval]
    """Loss at the target, `NONE` included, nats/token; likewise."""
    probability: Mapping[str, float]
    """Posterior probability of each candidate, and of `NONE`, that it is the best of those that can be trained."""
    leader: str
    """The choice that is expected to be best; `NONE` where no teacher gains more than the margin."""
    regret: float
    """Upper bound, nats/token, on what the leader loses against the best of all."""
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
    """Where things stand after some stages, in order, and their runs."""
    belief = believe(question, runs)
    losses_MA = np.exp(belief.ask(target_points(question), np.random.default_rng(SEED)))
    bounds = Contrasts(losses_MA=losses_MA, level=question.level)
    names = question.arms
    diverged = _diverged(question, stages, runs)
    sound = [i for i, name in enumerate(names) if name not in diverged]
    dropped = diverged | (_beaten(question, names, bounds, sound) if runs else {})
    leader = min((i for i in sound if names[i] not in dropped), key=lambda i: float(bounds.losses_MA[:, i].mean()))
    if bounds.bound(0, sound) <= question.margin:  # cheaper than any teacher
        leader = 0
    regret = bounds.bound(leader, sound)
    sure = bounds.bound(leader, sound, useful=True) if leader else math.inf
    is_settled = bool(runs) and regret <= question.margin
    gain = float(bounds.gain_M(leader).mean())
    is_better = bool(runs) and (math.isfinite(sure) or (is_settled and gain > question.margin))
    verdict = None
    if is_settled and (leader == 0 or is_better):
        verdict = "distil" if leader else "pretrain"
    first_M = np.take(sound, bounds.losses_MA[:, sound].argmin(axis=1))
    level = question.level
    return Standing(
        gains={name: Interval.of(bounds.gain_M(i), level) for i, name in enumerate(names) if i},
        losses={name: Interval.of(bounds.losses_MA[:, i], level) for i, name in enumerate(names)},
        probability={name: float((first_M == i).mean()) for i, name in enumerate(names)},
        leader=names[leader],
        regret=sure if math.isfinite(sure) else regret,
        dropped=dropped,
        diverged=frozenset(diverged),
        is_better=is_better and leader > 0,
        verdict=verdict,
        spent=question.spent + sum(stage_flops(question, stage) for stage in stages),
        predicted=predictions(question, stages, runs),
        belief=belief,
        bounds=bounds,
    )


def _diverged(question: PilotQuestion, stages: Sequence[Stage], runs: Sequence[PilotRun]) -> dict[str, str]:
    """Candidates of whose newest trunks none was finished; one that diverged beside others that did not stays in."""
    found = {}
    for name in (c.name for c in question.candidates):
        newest = next((stage for stage in reversed(stages) if name in stage.candidates), None)
        if newest is None:
            continue
        ends = [
            run for run in runs_of(question, newest, runs) if run.candidate == name and run.tokens == newest.tokens[-1]
        ]
        if ends and all(math.isinf(run.loss) for run in ends):
            where = f"{' and '.join(newest.labels)} parameters on {format_count(newest.tokens[-1])} tokens"
            found[name] = f"training diverged at {where}"
    return found


def _beaten(question: PilotQuestion, names: Sequence[str], bounds: Contrasts, sound: Sequence[int]) -> dict[str, str]:
    """Candidates that another choice, one that can be trained, beats by more than the margin, surely."""
    found = {}
    for i in sound:
        ahead, j = max((bounds.ahead(j, i), j) for j in sound)
        if i and ahead > question.margin:
            rival = names[j] if j else "no teacher"
            found[names[i]] = f"behind {rival} by at least {ahead:.3f} nats/token at the target"
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
    """Turn a standing into a conclusion, settled or not."""
    bound = max(now.regret, question.margin) if now.verdict else now.regret
    sure = f"at {question.level:.0%}, whenever one stops"
    out = f"; nothing is said of {', '.join(sorted(now.diverged))}, whose training diverged" if now.diverged else ""
    verdict, choice = "too-close", now.leader
    if len(now.diverged) == len(question.candidates):
        verdict, choice, out = "pretrain", NONE, ""
        sentence = "Pretrain: training diverged with every teacher, so nothing is known of what they could give"
    elif now.verdict == "pretrain":
        verdict, choice = "pretrain", NONE
        sentence = f"Pretrain: no teacher makes the target better by more than {bound:.3f} nats/token ({sure})"
    elif now.is_better:
        verdict, gain = "distil", now.gains[now.leader]
        rest = f"at most {bound:.3f} nats/token are at stake between it and another choice"
        if now.verdict:
            rest = f"no other choice is better by more than {bound:.3f}"
        sentence = (
            f"Distil from {now.leader}: it makes the target better by {gain.mean:.3f} nats/token "
            f"[{gain.lower:.3f}, {gain.upper:.3f}] ({sure}); {rest}"
        )
    else:
        name = f"distil from {now.leader}" if now.leader else "pretrain"
        sentence = f"Too close: at most {bound:.3f} nats/token are at stake if you {name} ({sure})"
    return Conclusion(verdict=verdict, choice=choice, bound=bound, sentence=sentence + out)
