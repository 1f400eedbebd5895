"""The caption of score against training compute: published models and your own."""

from collections.abc import Sequence

from distillaw.figures.frontiers import draw_models
from distillaw.pareto.frontier import Point
from distillaw.pareto.words import place_words
from distillaw.report.picture import Picture


def models_picture(points: Sequence[Point], *, score: str, axis: str, frontier: str = "staircase") -> Picture:
    """The drawing for a page; arguments as of `draw_models`."""
    words = "; ".join(place_words(point, points) for point in points if point.is_own)
    others = "" if all(point.is_own for point in points) else " Open: published ones."
    return Picture(
        name="pareto", title="Score against training compute",
        alt=f"{score} against training compute for {len(points)} models. {words}",
        figure=draw_models(points, score=score, axis=axis, frontier=frontier),
        caption=f"Filled: your models, with the 90 % interval of the score; squares are chat models.{others} The line "
        f"is the {frontier} of all points"
        + (": what nobody beats at equal or less compute." if frontier == "staircase"
           else ": the concave hull over the logarithm of compute."),
    )  # fmt: skip
