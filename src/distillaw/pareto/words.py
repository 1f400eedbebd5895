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
        error, sure = f" ± {found.ahead_se:.2g}", f" (probability to be ahead {_chance(found.probability)})"
    return f"{abs(found.ahead):.3g}{error} {side} the best at no more compute, {found.best.name}{sure}"


def _times(ratio: float) -> str:
    """A ratio to two digits: 0.35 times, 1/2,000 of, 80,000,000 times."""
    if ratio < 0.01:
        return f"1/{float(f'{1 / ratio:.2g}'):,.0f} of"
    return f"{float(f'{ratio:.2g}'):,.0f} times" if ratio >= 100 else f"{ratio:.2g} times"


def _chance(probability: float) -> str:
    """Per cent; what rounds to certainty is not said to be certain."""
    return (
        "over 99 %" if probability > 0.995 else "under 1 %" if probability < 0.005 else f"{probability:.0%}"
    )
