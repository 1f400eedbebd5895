"""Where things stand after some stages: the gain of every candidate at the target, who is still in, whether to stop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distillaw.planning.evidence import Interval
from distillaw.settling.question import PilotRun, Question, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known, and what follows."""

    gains: Mapping[str, Interval]
    """Gain of each candidate over none at the target, nats/token; valid at any time it is looked at."""
    losses: Mapping[str, Interval]
    """Loss at the target, `NONE` included, nats/token."""
    probability: Mapping[str, float]
    """Posterior probability of each candidate, and of `NONE`, that it is the best."""
    leader: str
    """The choice that is safest now, a candidate or `NONE`."""
    regret: float
    """Upper bound, nats/token, on what the leader loses against the best of all; valid at any time."""
    dropped: Mapping[str, str]
    """Candidate -> why it is out."""
    verdict: str | None
    """`distil`, `pretrain` or `too-close` once settled; None while more pilots may settle it."""
    why: str
    """A sentence: why it stopped, or what is still open."""
    spent: float
    """FLOP so far."""
    predicted: Sequence[Mapping[str, object]]
    """Every stage after the first: what was expected of each pair before it ran, and what came (a self-check)."""


def standing(question: Question, stages: Sequence[Stage], runs: Sequence[PilotRun]) -> Standing:
    """Where things stand.

    Args:
        question: what is asked.
        stages: that have been run, in order.
        runs: their runs.
    """
    raise NotImplementedError
