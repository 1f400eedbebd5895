"""Where things stand after some stages: the gain of every candidate at the target, who is still in, whether to stop.

A choice is settled when no other can be better by more than the margin, at the level asked for, however often one
looked. Without a teacher is cheaper, so it wins where both are within the margin.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.planning.evidence import Interval
from distillaw.quantities import format_count
from distillaw.settling.belief import Belief, believe
from distillaw.settling.contrasts import Contrasts, contrasts
from distillaw.settling.question import PilotRun, Question, Stage, runs_of, stage_flops
from distillaw.settling.selfcheck import Prediction, predictions, widened


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
    predicted: Sequence[Prediction]
    """Every stage after the first: what was expected of each pair before it ran, and what came."""
    belief: Belief
    bounds: Contrasts

    @property
    def best_teacher(self) -> str:
        """The candidate with the largest gain, one that can be trained where there is one."""
        return max(self.gains, key=lambda name: (name not in self.diverged, self.gains[name].mean))


def standing(question: Question, stages: Sequence[Stage], runs: Sequence[PilotRun]) -> Standing:
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
        probability=_probability(names, bounds, sound), leader=names[leader], regret=float(regret[leader]),
        dropped=dropped, diverged=frozenset(diverged), is_better=is_better, verdict=verdict,
        spent=question.spent + sum(stage_flops(question, stage) for stage in stages),
        predicted=checks, belief=belief, bounds=bounds,
    )  # fmt: skip


def _is_better(question: Question, bounds: Contrasts, leader: int, *, is_settled: bool) -> bool:
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


def _diverged(question: Question, stages: Sequence[Stage], runs: Sequence[PilotRun]) -> dict[str, str]:
    """Candidates of whose newest trunks none was finished; one that diverged beside others that did not stays in."""
    found = {}
    for name in (c.name for c in question.candidates):
        newest = next((stage for stage in reversed(stages) if name in stage.candidates), None)
        if newest is None:
            continue
        ends = [run for run in runs_of(question, newest, runs)
                if run.candidate == name and run.tokens == newest.tokens[-1]]  # fmt: skip
        if ends and all(math.isinf(run.loss) for run in ends):
            where = f"{' and '.join(newest.labels)} parameters on {format_count(newest.tokens[-1])} tokens"
            found[name] = f"training diverged at {where}"
    return found


def _beaten(
    question: Question, names: Sequence[str], bounds: Contrasts, sound: Sequence[int]
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
