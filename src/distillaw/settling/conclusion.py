"""What a settlement ends with: a choice, a bound on its regret, and a sentence."""

from dataclasses import dataclass

from distillaw.settling.question import NONE, Question
from distillaw.settling.standing import Standing


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


def conclude(question: Question, now: Standing) -> Conclusion:
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
            verdict="pretrain", choice=NONE, bound=bound,
            sentence="Pretrain: training diverged with every teacher, so nothing is known of what they could give",
        )  # fmt: skip
    if now.verdict == "pretrain":
        return Conclusion(
            verdict="pretrain", choice=NONE, bound=bound,
            sentence=f"Pretrain: no teacher makes the target better by more than {bound:.3f} nats/token ({sure}){out}",
        )  # fmt: skip
    if now.is_better:
        gain = now.gains[now.leader]
        rest = f"; at most {bound:.3f} nats/token are at stake between it and another choice"
        if now.verdict:
            rest = f"; no other choice is better by more than {bound:.3f}"
        return Conclusion(
            verdict="distil", choice=now.leader, bound=bound,
            sentence=f"Distil from {now.leader}: it makes the target better by {gain.mean:.3f} nats/token "
                     f"[{gain.lower:.3f}, {gain.upper:.3f}] ({sure}){rest}{out}",
        )  # fmt: skip
    name = f"distil from {now.leader}" if now.leader else "pretrain"
    return Conclusion(
        verdict="too-close", choice=now.leader, bound=bound,
        sentence=f"Too close: at most {bound:.3f} nats/token are at stake if you {name} ({sure}){out}",
    )  # fmt: skip
