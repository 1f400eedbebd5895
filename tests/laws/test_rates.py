import math

import numpy as np
import pytest

from distillaw.laws.rates import FALL, FORM, SIZE, UNKNOWN, Optimum, fit_rate_law, lowest


def _optimum(params, tokens, octaves, sd=0.1):
    return Optimum(params=params, tokens=tokens, octaves=octaves, sd=sd)


def test_the_lowest_point_of_a_parabola_and_how_sure_it_is():
    place, sd, excess = lowest([3.0 + 0.1 * (x - 0.2) ** 2 for x in (-1, 0, 1)])
    assert (place, excess * 3.004) == (pytest.approx(0.2), pytest.approx(0.004))
    assert FORM < sd < 0.2
    flat = [3.0 + 0.002 * x**2 for x in (-1, 0, 1)]
    assert lowest(flat).sd == UNKNOWN, "flatter than chance: it may lie anywhere within a step"
    assert lowest([math.inf, 3.0, math.inf]) == (0.0, UNKNOWN, 0.0)
    assert lowest([3.0, 3.0, 3.0]) == (0.0, UNKNOWN, 0.0)


def test_the_error_of_a_lowest_point_is_that_of_repeated_searches():
    rng, truth = np.random.default_rng(0), np.array([3.0 + 0.05 * (x - 0.1) ** 2 for x in (-1, 0, 1)])
    drawn = [lowest(truth + 0.003 * 3.0 * rng.normal(size=3)) for _ in range(4_000)]
    spread = np.std([one.octaves for one in drawn])
    claimed = math.sqrt(np.mean([one.sd**2 for one in drawn]) - FORM**2)
    assert claimed == pytest.approx(spread, rel=0.15)


def test_precise_searches_decide_and_vague_ones_leave_what_is_known_of_others():
    exact = [_optimum(1e5, 1e5, -7.0, 1e-3), _optimum(4e5, 1e5, -7.6, 1e-3), _optimum(1e5, 1.6e6, -9.0, 1e-3)]
    level, drift, fall = fit_rate_law(exact, arm="text").mean
    assert (level, drift, fall) == (
        pytest.approx(-7, abs=0.01),
        pytest.approx(-0.3, abs=0.01),
        pytest.approx(0.5, abs=0.01),
    )
    vague = [_optimum(1e5, 1e5, -7.0, 0.1), _optimum(1e5, 2e5, -8.0, UNKNOWN)]
    for arm in FALL:
        law = fit_rate_law(vague, arm=arm)
        assert law.mean[1] == pytest.approx(SIZE[0])
        assert abs(law.mean[2] - FALL[arm][0]) < 0.1, (
            "one octave of tokens and a minimum open by one: hardly news"
        )


def test_doubt_grows_with_the_distance_from_what_was_searched():
    law = fit_rate_law([_optimum(1e5, 1e5, -7.0), _optimum(1e5, 1.6e6, -8.0)], arm="text")
    between = law.octaves(1e5, 4e5)[1]
    assert law.octaves(1e5, 1e5)[1] == pytest.approx(0.1, abs=0.01)
    assert between < law.octaves(1e5, 1.6e7)[1] < law.octaves(1e5, 1.6e8)[1]
    assert law.octaves(1e5, 1e5)[1] < law.octaves(1e6, 1e5)[1] < law.octaves(1e7, 1e5)[1]


def test_intervals_hold_where_the_prior_does():
    """Rates drawn as the priors say, searched with noise: 90 % of what is foreseen at ten times the tokens."""
    rng, inside = np.random.default_rng(1), 0
    for _ in range(2_000):
        level, drift, fall = rng.normal(
            (-7, *[pair[0] for pair in (SIZE, FALL["text"])]), (2, SIZE[1], FALL["text"][1])
        )
        best = lambda n, d, a=level, s=drift, q=fall: a + s * math.log2(n / 1e5) - q * math.log2(d / 1e5)  # noqa: E731
        found = [
            _optimum(n, d, best(n, d) + 0.2 * rng.normal(), 0.2)
            for n, d in ((1e5, 1e5), (8e5, 1e5), (1e5, 1.6e6))
        ]
        mean, sd = fit_rate_law(found, arm="text").octaves(8e5, 1.6e7)
        inside += abs(mean - best(8e5, 1.6e7)) < 1.645 * sd
    assert 0.88 < inside / 2_000 < 0.92
