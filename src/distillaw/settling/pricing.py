"""What further runs cost beside those that exist: extensions of trunks, cooldowns, and shared teacher forwards.

A trunk is kept at its last branch point. A longer budget goes on from there; a shorter one has the trunk start over
(train/trunk.py). Trunks of one seed read one text, so a teacher's forward pass serves all of its students that are
trained together.
"""

from collections.abc import Iterable, Mapping, Sequence

from distillaw.settling.question import NONE, PilotRun, Question, Stage

Trunk = tuple[str, str, int]
"""Size, candidate or `NONE`, seed."""
Made = Mapping[Trunk, frozenset[int]]
"""The budgets that each trunk has runs at."""


def made_by(question: Question, runs: Sequence[PilotRun]) -> Made:
    """The trunks of some runs; runs of a size that the question does not know are nobody's trunk."""
    labels = {size.params: size.label for size in question.sizes}
    found: dict[Trunk, set[int]] = {}
    for run in runs:
        if run.params in labels:
            found.setdefault((labels[run.params], run.candidate, run.seed), set()).add(round(run.tokens))
    return {trunk: frozenset(tokens) for trunk, tokens in found.items()}


def wanted_by(stages: Iterable[Stage]) -> Made:
    """The trunks of some stages."""
    found: dict[Trunk, set[int]] = {}
    for stage in stages:
        for label in stage.labels:
            for name in (NONE, *stage.candidates):
                for seed in stage.seeds:
                    found.setdefault((label, name, seed), set()).update(stage.tokens)
    return {trunk: frozenset(tokens) for trunk, tokens in found.items()}


def joined(one: Made, other: Made) -> Made:
    """The budgets of both."""
    return {trunk: one.get(trunk, frozenset()) | other.get(trunk, frozenset()) for trunk in {*one, *other}}


def extra_flops(question: Question, made: Made, wanted: Made) -> float:
    """FLOP of training what is wanted beside what exists, all of it together; runs that exist are free.

    Args:
        question: knows what a token costs.
        made: runs that exist.
        wanted: runs to make.
    """
    total = 0.0
    read: dict[tuple[str, int], list[tuple[float, float]]] = {}
    cooled: dict[tuple[str, int], set[int]] = {}
    for (label, name, seed), budgets in wanted.items():
        have = made.get((label, name, seed), frozenset())
        new = budgets - have
        if not new:
            continue
        begin, end = _stretch(have, new, question.cooldown)
        total += question.size(label).flops * (end - begin + question.cooldown * sum(new))
        if name != NONE:
            read.setdefault((name, seed), []).append((begin, end))
            cooled.setdefault((name, seed), set()).update(new)
    for (name, seed), stretches in read.items():
        tokens = _covered(stretches) + question.cooldown * sum(cooled[name, seed])
        total += question.candidate(name).flops * tokens
    return total


def _stretch(have: frozenset[int], new: frozenset[int], cooldown: float) -> tuple[float, float]:
    """Tokens between which a trunk is trained at constant rate."""
    last = max(have, default=0)
    begin = last if last <= min(new) else 0
    return (1 - cooldown) * begin, (1 - cooldown) * max(new)


def _covered(stretches: Sequence[tuple[float, float]]) -> float:
    """Length of the union of some stretches."""
    total, reached = 0.0, 0.0
    for begin, end in sorted(stretches):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
