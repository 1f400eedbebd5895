"""Time and money: every preset states its sources, and the arithmetic is what it says."""

import pytest

from distillaw.accounting.hardware import estimate_cost, hardware, hardware_presets
from distillaw.errors import ConfigError


@pytest.mark.parametrize("preset", hardware_presets().values(), ids=hardware_presets())
def test_every_preset_states_peak_utilisation_and_sources(preset):
    assert preset.peak_source
    assert preset.mfu_source
    assert preset.dtype in {"bf16", "fp16", "fp32"}
    assert 0 < preset.mfu_low <= preset.mfu <= preset.mfu_high < 1
    assert 1e10 < preset.peak_flop_per_second < 1e16
    assert 1e9 < preset.memory_bytes < 1e12
    if preset.price_per_hour is not None:
        assert "20" in preset.price_source, "a price states its year"


def test_hours_and_price():
    cost = estimate_cost(989e12 * 0.4 * 3600 * 10, hardware("h100-sxm"))
    assert cost.device_hours == pytest.approx(10)
    assert cost.price == pytest.approx(10 * hardware("h100-sxm").price_per_hour)
    assert cost.device_hours_low < cost.device_hours < cost.device_hours_high


def test_the_teacher_of_the_example_scores_28k_tokens_a_second():
    """A 7B teacher at 40 % of 989 TFLOP/s: 1B tokens in about 10 hours."""
    cost = estimate_cost(2 * 7e9 * 1e9, hardware("h200"), mfu=0.4)
    assert cost.device_hours == pytest.approx(10, rel=0.02)


def test_own_assumptions_replace_those_of_the_preset():
    cost = estimate_cost(1e18, hardware("l4"), mfu=0.5, price_per_hour=0.0)
    assert cost.price == 0
    assert cost.device_hours == cost.device_hours_low == cost.device_hours_high
    assert estimate_cost(1e18, hardware("l4")).price is None


def test_a_short_name_is_the_first_variant():
    assert hardware("H100") is hardware("h100-sxm")
    assert hardware("a100") is hardware("a100-80gb")


def test_bad_requests():
    with pytest.raises(ConfigError, match=r"did you mean 'h100-sxm'\?.*Known: h100-sxm"):
        hardware("h100-sxn")
    for mfu in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="fraction of peak"):
            estimate_cost(1.0, hardware("h200"), mfu=mfu)
    for price in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="negative"):
            estimate_cost(1.0, hardware("h200"), price_per_hour=price)
