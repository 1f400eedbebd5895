"""Published batch laws: every record has its source and reproduces its golden value; the trade-off is the hyperbola."""

import pytest

from distillaw.errors import ConfigError
from distillaw.large_batch.rules import batch_laws, steps_over_fewest, tokens_over_fewest


@pytest.mark.parametrize("law", batch_laws(), ids=lambda law: law.name)
def test_a_record_is_complete_and_reproduces_its_golden_value(law):
    assert law.source.startswith("arXiv:") and law.certainty and law.fitted_on and law.known_problems
    assert law.gives in ("best", "critical", "measured", "rate", "window")
    assert (law.overhead is not None) == (law.gives == "critical")
    golden = law.golden
    assert law(**golden["coords"]) == pytest.approx(golden["value"], abs=golden["tolerance"])


def test_values_computed_by_hand():
    laws = {law.name: law for law in batch_laws()}
    kaplan = laws["kaplan2020-critical"]
    assert [kaplan(loss=L) for L in (4.0, 3.0, 2.0)] == pytest.approx([2.7e5, 1.07e6, 7.4e6], rel=0.01)
    assert laws["zhang2024-chinchilla"](params=1.2e9) == pytest.approx(1.34e6, rel=0.01)
    by_tokens, at_20 = laws["zhang2024-tokens"], laws["zhang2024-chinchilla"]
    assert by_tokens(tokens=20 * 5e8) / at_20(params=5e8) == pytest.approx(93.66 / 93.20, rel=1e-3)
    for tokens in (2e9, 1e10, 1e11):  # a fifth of Bergsma's against Zhang's 20 %: they agree closely
        bergsma = laws["bergsma2025-critical"]
        assert 0.2 * bergsma.hyperbola(tokens=tokens) == pytest.approx(by_tokens(tokens=tokens), rel=0.15)
        assert by_tokens.hyperbola(tokens=tokens) == pytest.approx(5 * by_tokens(tokens=tokens))


def test_the_trade_off():
    for ratio in (0.01, 0.2, 1.0, 30.0):
        E, S = tokens_over_fewest(ratio * 1e6, 1e6), steps_over_fewest(ratio * 1e6, 1e6)
        assert (S - 1) * (E - 1) == pytest.approx(1)
        assert E / S == pytest.approx(ratio)  # E = B S and B_crit = E_min / S_min
    assert tokens_over_fewest(2e5, 1e6) == pytest.approx(1.2)


def test_a_law_says_where_it_was_fitted_and_what_it_needs():
    laws = {law.name: law for law in batch_laws()}
    assert laws["steplaw2025-best"].complaints(tokens=1e9, params=1e8) == ["fitted range not known"]
    assert "below the fitted range" in laws["bergsma2025-best"].complaints(tokens=1e9, params=1e6)[0]
    assert not laws["zhang2024-chinchilla"].applies(params=3e8, tokens=1e12, tokens_per_param=3e3)
    assert not laws["kaplan2020-critical"].applies(params=3e8, tokens=6e9)
    with pytest.raises(ConfigError, match="needs loss"):
        laws["kaplan2020-critical"](params=1e9)
