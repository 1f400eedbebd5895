"""Frontiers against a brute-force definition, places against a hand calculation, published points against the paper."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillaw.accounting.architecture import ParamConvention, Params, distillation_axis
from distillaw.errors import DataError
from distillaw.pareto.points import SCORES, ScorePoint, hull, place, published_points, staircase

POINTS = st.lists(st.tuples(st.floats(1, 1e6), st.floats(0, 100)).map(lambda t: t), min_size=1, max_size=12).map(
    lambda rows: [ScorePoint(name=str(i), compute=c, score=s) for i, (c, s) in enumerate(rows)]
)


@given(POINTS)
def test_the_staircase_is_what_nobody_beats(points):
    def beaten(p):
        return any(
            (q.compute <= p.compute and q.score > p.score) or (q.compute < p.compute and q.score >= p.score)
            for q in points
        )

    wanted = {(p.compute, p.score) for p in points if not beaten(p)}
    assert {(p.compute, p.score) for p in staircase(points)} == wanted


@given(POINTS)
def test_the_hull_is_concave_and_above_all(points):
    corners = hull(points)
    slopes = [(b.score - a.score) / math.log(b.compute / a.compute) for a, b in itertools.pairwise(corners)]
    assert all(first >= second - 1e-9 * max(1, first) for first, second in itertools.pairwise(slopes))
    for p in points:
        for a, b in itertools.pairwise(corners):
            if a.compute <= p.compute <= b.compute:
                share = math.log(p.compute / a.compute) / math.log(b.compute / a.compute)
                assert p.score <= a.score + share * (b.score - a.score) + 1e-6


def test_a_place_by_hand():
    others = [ScorePoint(name="cheap", compute=1, score=20, se=0.3), ScorePoint(name="dear", compute=9, score=30)]
    own = ScorePoint(name="ours", compute=2, score=20.5, se=0.4, is_own=True)
    found = place(own, others)
    assert found.best == others[0] and found.cheapest == others[1]
    assert found.ahead == pytest.approx(0.5) and found.ahead_se == pytest.approx(0.5)
    assert found.probability == pytest.approx(0.8413447, abs=1e-6)  # one standard error ahead
    alone = place(own, [others[1]])
    assert alone.best is None and alone.probability is None
    behind = place(ScorePoint(name="x", compute=3, score=19, se=None), [ScorePoint(name="y", compute=1, score=20)])
    assert behind.ahead == -1 and behind.probability is None


def test_nonsense_is_refused():
    for compute, score in ((0.0, 1.0), (1.0, math.nan), (math.inf, 1.0)):
        with pytest.raises(DataError, match="finite"):
            staircase([ScorePoint(name="bad", compute=compute, score=score)])


def test_the_published_means_are_those_printed():
    points = {point.name: point for point in published_points()}
    printed = {"MiniMA-3B": 21.66, "MiniMA-2-3B": 27.14, "LLaMA-2-7B": 28.48, "MiniMix-2/4x3B": 32.90}
    for name, mean in printed.items():
        assert round(points[name].score, 2) == mean
    pythia = points["Pythia-2.8B"]  # read off the figure to 0.2, and its questions are as few as anybody's
    assert math.hypot(0.2, 0.3) < pythia.se < math.hypot(0.2, 0.6)
    assert len({name.lower().replace("-", "") for name in points}) == len(points)  # each model once


def test_the_published_axis_is_ours():
    """MiniMA-3B: 6 N_S D + 2 N_T D of 126e9 tokens, printed as 4.0 (two digits)."""
    sizes = [Params(n, ParamConvention.ALL_WEIGHTS) for n in (3.02e9, 6.879e9)]
    points = {point.name: point for point in published_points()}
    assert points["MiniMA-3B"].compute == pytest.approx(distillation_axis(*sizes, 126e9), rel=0.0125)


def test_every_task_of_the_table_can_be_drawn():
    for task in SCORES:
        points = published_points(task)
        assert len(points) == 11 and all(0 < point.se < 4 for point in points)


def test_chat_models_are_shown_where_they_are_asked_for():
    base, everybody = published_points(), published_points(chat=True)
    assert not any(point.is_chat for point in base)
    assert {p.name for p in everybody} - {p.name for p in base} == {"MiniChat-3B", "MiniChat-2-3B"}
    assert all(p.is_chat == p.name.startswith("MiniChat") for p in everybody)
