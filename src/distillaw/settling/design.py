"""The next stage: a ladder of pilots towards the target, each four times the cost of the last; or the nearest place.

What is left of the budget is divided over the rungs that are left as 1 : 4 : 16 : 64, so whatever is decided early
has cost little, and candidates that are dropped make the later rungs larger. A rung is the size and tokens nearest to
the target (ln N and ln D together) that its share buys, and a quarter of that size beside it, both on a quarter of the
tokens as well. It stops before a rung where nothing could be settled any more even if all the rest went as
well as it may. `study next` has no ladder: it looks at the nearest place for every choice of teachers and seeds,
since what a belief says of pilots far from the target is what it is most often wrong about. Shape suffix: A arm (0:
no teacher).
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from distillaw.errors import ConfigError
from distillaw.quantities import format_count, format_flop
from distillaw.settling.question import NONE, Made, PilotQuestion, PilotRun, Stage, extra_flops, stage_flops, wanted_by
from distillaw.settling.standing import Standing, standing, target_points

RUNGS = 4
"""Stages that a budget is divided over, if it is large enough."""
GROWTH = 4.0
"""Cost of a rung over that of the one before."""
LARGER = 1.5
"""Parameters times tokens of a rung's largest pilot, at least, over those of the rungs before."""
REPEATED = 2
"""Rungs that are run with two seeds, which shows the noise; the others have one."""
BRANCHES = (0.25, 1.0)
"""Budgets of a rung, as shares of its tokens, each a run of its own. With a half as well, on 96 of the decisions that
constants are chosen by, mean regret is 8.2 instead of 6.3 millinats, and 16 instead of 22 are decided."""
BESIDE = 2
"""How many sizes below a rung's student another one is trained beside it: what size does, for a quarter more."""
RATIO = 12.0
"""Tokens per parameter of a pilot lie within this factor of the target's: gains depend on them more than on size."""
LUCK = 1.5
"""Standard deviations by which means may yet move: pilots go on while something could still be settled."""


def next_stage(question: PilotQuestion, stages: Sequence[Stage], runs: Sequence[PilotRun]) -> Stage | None:
    """What to run next; None when it is settled, or nothing affordable would settle it.

    The same answer for the same arguments, so that an interrupted settlement goes on where it stopped.

    Raises:
        ConfigError: the budget buys no pilot at all (before the first stage).
    """
    now = standing(question, stages, runs)
    left = question.budget - now.spent
    names = tuple(c.name for c in question.candidates if c.name not in now.dropped)
    last = nearest_stage(question, names, left, 1)
    if now.verdict is not None or not names or last is None:
        if not stages and last is None:
            raise ConfigError(_nothing_affordable(question))
        return None
    if len(stages) > 1 and is_hopeless(question, now, last):
        return None
    return _rung(question, stages, names, left)


def rungs_ahead(question: PilotQuestion, stages: Sequence[Stage], names: tuple[str, ...], left: float) -> list[Stage]:
    """The stages that would follow if nobody were dropped and nothing settled: what so many FLOP more would run."""
    found: list[Stage] = []
    while (stage := _rung(question, [*stages, *found], names, left)) is not None:
        found.append(stage)
        left -= stage_flops(question, stage)
    return found


def _rung(question: PilotQuestion, stages: Sequence[Stage], names: tuple[str, ...], left: float) -> Stage | None:
    """The next rung of the ladder that what is left pays for, larger than those before; None where it pays for none."""
    reached = [question.size(one.size).params * one.tokens[-1] for one in stages]
    for rungs in range(max(RUNGS - len(stages), 1), 0, -1):
        share = left / sum(GROWTH**i for i in range(rungs))
        found = nearest_stage(question, names, share, 2 if len(stages) < REPEATED and rungs > 1 else 1)
        if found and question.size(found.size).params * found.tokens[-1] >= LARGER * max(reached, default=0.0):
            return found
    return None


def nearest_stage(question: PilotQuestion, names: tuple[str, ...], flops: float, seeds: int) -> Stage | None:
    """The stage of at most this cost that lies nearest to the target; None where it buys none.

    Near is ln N and ln D together. Where teachers cost more than students it is a larger student on fewer tokens.
    """
    found = [_affordable(question, one, flops) for one in _by_size(question, names, tuple(range(seeds)))]
    alike = [stage for stage in found if stage and abs(np.subtract(*_away(question, stage))) <= math.log(RATIO)]
    return min(alike, key=lambda stage: math.hypot(*_away(question, stage)), default=None)


def _by_size(question: PilotQuestion, names: tuple[str, ...], seeds: tuple[int, ...]) -> Iterator[Stage]:
    """A stage of every size, with another one beside it, still without tokens."""
    for i, size in enumerate(question.sizes):
        also = (question.sizes[i - BESIDE].label,) if i >= BESIDE else ()
        yield Stage(size=size.label, also=also, tokens=(), candidates=names, seeds=seeds)


def _away(question: PilotQuestion, stage: Stage) -> tuple[float, float]:
    """By how much the target is larger and longer, e-folds."""
    params = question.size(stage.size).params
    return math.log(question.target.params / params), math.log(question.tokens / stage.tokens[-1])


def _affordable(question: PilotQuestion, one: Stage, flops: float) -> Stage | None:
    """A stage with the most tokens that the FLOP buy, up to the target's own; None where too few.

    Its price follows the tokens only about, since budgets that are near one another may share a rate and a trunk.
    """
    unit = question.batch_tokens

    def with_batches(count: int) -> Stage:
        return replace(one, tokens=budgets(question, count * unit))

    counts = range(-(-question.least_tokens // unit), int(question.tokens // unit) + 1)
    most = bisect_right(counts, flops, key=lambda count: stage_flops(question, with_batches(count)))
    return with_batches(counts[most - 1]) if most else None


def budgets(question: PilotQuestion, longest: float) -> tuple[int, ...]:
    """The budgets of a stage, ascending, in whole batches; those of too few tokens are left out."""
    unit = question.batch_tokens
    found = {unit * int(longest * part / unit) for part in BRANCHES}
    return tuple(sorted(tokens for tokens in found if tokens >= question.least_tokens))


def _nothing_affordable(question: PilotQuestion) -> str:
    """Names the cheapest pilot: with enough tokens, and enough and not too many of them per parameter."""
    names = tuple(c.name for c in question.candidates)
    ratio, unit, count = question.tokens / question.target.params, question.batch_tokens, len(names)
    longest = {question.target.label: question.tokens}
    for size in question.sizes:
        tokens = max(question.least_tokens, unit * math.ceil(ratio / RATIO * size.params / unit))
        if tokens <= min(ratio * RATIO * size.params, question.tokens):
            longest[size.label] = tokens
    stages = [
        Stage(size=label, tokens=budgets(question, tokens) or (int(tokens),), candidates=names, seeds=(0,))
        for label, tokens in longest.items()
    ]
    least = min(stages, key=lambda stage: stage_flops(question, stage))
    cost = stage_flops(question, least)
    spent = f" ({format_flop(question.spent)} of it spent on learning rates)" if question.spent else ""
    share = (cost + question.spent) / question.target_flops
    return (
        f"a budget of {format_flop(question.budget)}{spent} "
        f"buys no pilot that says anything: the cheapest, {least.size} parameters on {format_count(least.tokens[0])} "
        f"tokens with {count} teacher{'s' if count > 1 else ''} and none, costs {format_flop(cost)}; "
        f"{'with what is spent ' if spent else ''}it is {share:.2%} of the target's training (a pilot has at "
        f"least {format_count(question.least_tokens)} tokens, and tokens per parameter within {RATIO:g} times the "
        "target's). Raise the budget, give fewer teachers, or train the target itself"
    )


def is_hopeless(question: PilotQuestion, now: Standing, last: Stage) -> bool:
    """Whether no choice could be settled even if the whole rest of the budget went as well as it may.

    As well as it may: every mean moves by LUCK of its standard deviations in the choice's favour, and nothing is left
    of the uncertainty but the misfit between the last pilots and the target.
    """
    belief, target, bounds = now.belief, target_points(question), now.bounds
    seen = belief.measured.join(question.points(question.places(last)))
    across = belief.misfit(target, seen)
    inside = belief.misfit(seen, seen) + 1e-8 * np.eye(len(seen.arm))
    left = belief.misfit(target, target) - across @ np.linalg.solve(inside, across.T)
    var = np.diag(left)
    least_AA = float(now.losses[NONE].mean) * np.sqrt(np.maximum(var[:, None] + var - 2 * left, 0.0))
    best_AA = bounds.mean_AA - LUCK * bounds.sd_AA + bounds.reach * least_AA
    arms = [i for i, name in enumerate(question.arms) if name not in now.dropped]
    return bool((best_AA[np.ix_(arms, arms)].max(axis=1) > question.margin).all())


STEPS = 24
"""Token budgets that are looked at, each over the next by 2^(1/2)."""
SAME_TOKENS = 0.03
"""Budgets that differ by less than this share are one: it is the one that has runs."""
SEEDS = ((0,), (0, 1))
"""Of a batch."""


def stage_pool(question: PilotQuestion, made: Made, groups: Sequence[tuple[str, ...]], cap: float) -> list[Stage]:
    """The stage nearest to the target that so many FLOP buy, for each group of teachers, with one seed and with two.

    Runs that exist are free.
    """
    found = [_nearest(question, made, group, seeds, cap) for group in groups for seeds in SEEDS]
    return list(dict.fromkeys(stage for stage in found if stage is not None))


def _nearest(
    question: PilotQuestion, made: Made, group: tuple[str, ...], seeds: tuple[int, ...], cap: float
) -> Stage | None:
    """Of the stages with something new."""
    found: list[Stage] = []
    for one in _by_size(question, group, seeds):
        known = sorted({tokens for (label, *_), have in made.items() if label == one.size for tokens in have})
        smaller = math.log(question.target.params / question.size(one.size).params)
        for k in range(STEPS):
            tokens = {_snapped(t, known) for t in budgets(question, question.tokens / 2 ** (k / 2))}
            stage = replace(one, tokens=tuple(sorted(tokens)))
            if not tokens or abs(smaller - k / 2 * math.log(2)) > math.log(RATIO):
                continue
            if 0 < extra_flops(question, made, wanted_by(question, [stage])) <= cap:
                found.append(stage)
                break
    return min(found, key=lambda stage: math.hypot(*_away(question, stage)), default=None)


def _snapped(tokens: int, known: Sequence[int]) -> int:
    """The budget that is as good as this one and has runs, if there is one."""
    nearest = min(known, key=lambda t: abs(math.log(t / tokens)), default=tokens)
    return nearest if abs(math.log(nearest / tokens)) < SAME_TOKENS else tokens
