"""Stages that could be run next: for every choice of teachers and seeds the place nearest to the target.

Near is ln N and ln D together, as in the ladder of `settle` (design.py): what a belief says of pilots far from the
target is what it is most often wrong about.
"""

import math
from collections.abc import Sequence

from distillaw.settling.design import BESIDE, BRANCHES, RATIO
from distillaw.settling.pricing import Made, extra_flops, wanted_by
from distillaw.settling.question import Question, Size, Stage

STEPS = 24
"""Token budgets that are looked at, each over the next by 2^(1/2)."""
SAME_TOKENS = 0.03
"""Budgets that differ by less than this share are one: it is the one that has runs."""
SEEDS = ((0,), (0, 1))
"""Of a batch."""


def stage_pool(question: Question, made: Made, groups: Sequence[tuple[str, ...]], cap: float) -> list[Stage]:
    """The stage nearest to the target that so many FLOP buy, for each group of teachers, with one seed and with two.

    Args:
        question: knows sizes and tokens.
        made: runs that exist; they are free.
        groups: candidates that are run together.
        cap: FLOP.
    """
    found = [_nearest(question, made, group, seeds, cap) for group in groups for seeds in SEEDS]
    return list(dict.fromkeys(stage for stage in found if stage is not None))


def nearest_of(question: Question, made: Made, offered: Sequence[Stage], cap: float) -> list[Stage]:
    """The same among stages that are offered, e.g. the cells of a table: the nearest for each group and its seeds."""
    found: dict[tuple[tuple[str, ...], tuple[int, ...]], Stage] = {}
    for stage in sorted(offered, key=lambda one: _distance(question, one)):
        if 0 < extra_flops(question, made, wanted_by([stage])) <= cap:
            found.setdefault((stage.candidates, stage.seeds), stage)
    return list(found.values())


def _distance(question: Question, stage: Stage) -> float:
    smaller = math.log(question.target.params / question.size(stage.size).params)
    return math.hypot(smaller, math.log(question.tokens / stage.tokens[-1]))


def _nearest(
    question: Question, made: Made, group: tuple[str, ...], seeds: tuple[int, ...], cap: float
) -> Stage | None:
    """Of the stages with something new."""
    found: list[Stage] = []
    for i, size in enumerate(question.sizes):
        also = (question.sizes[i - BESIDE].label,) if i >= BESIDE else ()
        for k in range(STEPS):
            tokens = _branches(question, size, made, question.tokens / 2 ** (k / 2))
            smaller, shorter = math.log(question.target.params / size.params), k / 2 * math.log(2)
            if not tokens or abs(smaller - shorter) > math.log(RATIO):
                continue
            stage = Stage(size=size.label, also=also, tokens=tokens, candidates=group, seeds=seeds)
            if 0 < extra_flops(question, made, wanted_by([stage])) <= cap:
                found.append(stage)
                break
    return min(found, key=lambda stage: _distance(question, stage), default=None)


def _branches(question: Question, size: Size, made: Made, longest: float) -> tuple[int, ...]:
    """Budgets of a trunk; empty where there are too few tokens."""
    unit = question.batch_tokens
    known = sorted({tokens for (label, _, _), have in made.items() if label == size.label for tokens in have})
    found = {unit * int(longest * part / unit) for part in BRANCHES}
    return tuple(sorted({_snapped(tokens, known) for tokens in found if tokens >= question.least_tokens}))


def _snapped(tokens: int, known: Sequence[int]) -> int:
    """The budget that is as good as this one and has runs, if there is one."""
    nearest = min(known, key=lambda t: abs(math.log(t / tokens)), default=tokens)
    return nearest if abs(math.log(nearest / tokens)) < SAME_TOKENS else tokens
