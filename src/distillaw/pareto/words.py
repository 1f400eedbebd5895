"""Where a model stands, in a sentence with its uncertainty."""

from collections.abc import Sequence

from distillaw.pareto.frontier import Place, Point, place


def place_words(point: Point, points: Sequence[Point]) -> str:
    """Where one model stands, in a sentence with its uncertainty."""
    found = place(point, points)
    if found.best is None:
        return f"{point.name}: no other model here costs as little, so nothing is said of its place"
    said = f"{point.name}: {_versus(found)}"
    if found.cheapest is not None:
        ratio = found.cheapest.compute / point.compute
        said += f"; as good at {_times(ratio)} its compute: {found.cheapest.name}"
    return said


def _versus(found: Place) -> str:
    assert found.best is not None and found.ahead is not None
    side = "ahead of" if found.ahead > 0 else "behind"
    error = sure = ""
    if found.ahead_se is not None and found.probability is not None:
        error, sure = f" ± {found.ahead_se:.2g}", f" (probability to be ahead {found.probability:.0%})"
    return f"{abs(found.ahead):.3g}{error} {side} the best at no more compute, {found.best.name}{sure}"


def _times(ratio: float) -> str:
    return f"{ratio:.2g} times" if ratio < 1000 else f"{ratio:.0e} times"
