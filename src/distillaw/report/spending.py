"""Captions of the compute spent and of the searches."""

from collections.abc import Mapping, Sequence

from distillaw.figures.spending import Search, Spent, draw_searches, draw_spent
from distillaw.quantities import flop_text
from distillaw.report.picture import Picture


def spent_picture(spent: Sequence[Spent]) -> Picture:
    """FLOP by part.

    Raises:
        DataError: nothing has been spent.
    """
    figure = draw_spent(spent)
    total = flop_text(sum(s.flop for s in spent))
    parts = ", ".join(f"{s.part} {flop_text(s.flop)}" for s in spent)
    return Picture(
        name="flop", title="Where the compute went", alt=f"FLOP executed, {total} in all: {parts}", figure=figure,
        caption=f"Model FLOP, {total} in all. Token budgets of one trunk share its training, which is "
        "counted once. Forward passes of the teachers (their logits) are counted where students were distilled.",
    )  # fmt: skip


def searches_picture(found: Sequence[Mapping[str, Search]]) -> Picture:
    """The searches for learning rate and batch.

    Raises:
        DataError: there are none.
    """
    figure = draw_searches(found)
    every = [search for arm in found for search in arm.values()]
    doubts = [search.words for search in every if not search.is_fine]
    verdict = "Every chosen value is the lowest tried and lies inside its search range."
    if doubts:
        verdict = f"Not at an interior lowest value: {'; '.join(doubts)}."
    return Picture(
        name="tuning", title="Search for learning rate and batch", figure=figure,
        alt="Search for learning rate and batch. " + " ".join(f"{search.words}." for search in every),
        caption=f"{verdict} An untuned rate fakes a capacity gap or a gain, so every arm is tuned alike: its rate at "
        "the smallest budget, how it falls towards the largest, and one batch for the whole study. The chosen value is "
        "filled; missing points diverged.",
    )  # fmt: skip
