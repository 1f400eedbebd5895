import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillaw.errors import ConfigError
from distillaw.quantities import bits_per_byte, format_count, format_seconds, nats_per_token, parse_count, times


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.82B", 1.82e9), ("512b", 512e9), ("1e21", 1e21), ("300M", 3e8), ("20k", 2e4), ("20_000", 2e4)],
)
def test_numbers_as_people_type_them(text, value):
    assert parse_count(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "many", "-3M", "0", "nan", "inf", "1.2.3", "3MB", True])
def test_what_is_no_count_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match="300M"):
        parse_count(text, name="tokens")


@given(value=st.floats(1, 9e14), digits=st.integers(1, 6))
def test_what_is_printed_is_read_back_to_its_digits(value, digits):
    text = format_count(value, digits=digits)
    assert "e" not in text
    assert parse_count(text) == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


def test_counts_and_durations_as_people_write_them():
    assert [format_count(v) for v in (999_600, 110_000, 1.8e6, 512, 3.2e21)] == ["1M", "110k", "1.8M", "512", "3.20e21"]
    assert [format_seconds(v) for v in (0.44, 42, 370, 7500)] == ["0.4 s", "42 s", "6 min 10 s", "2 h 05 min"]
    assert [format_seconds(v) for v in (1e6, 1e8, 8974877 * 3600)] == ["11 days 13 h", "3.2 years", "1,024 years"]


def test_a_ratio_is_never_rounded_to_one():
    assert [times(v) for v in (1.02, 1.0004, 0.997, 7.21, 722, 25_012)] == [
        "1.02",
        "1.0004",
        "0.997",
        "7.2",
        "720",
        "25,000",
    ]


@pytest.mark.parametrize("text", ["1,82B", "1,820B", "1,00", "12,34,567", "1__0", "1.82Q", "1e4M2", "+-3"])
def test_a_decimal_comma_is_not_taken_for_thousands(text):
    with pytest.raises(ConfigError, match="cannot read"):
        parse_count(text)


def test_a_suffix_is_exact():
    assert [parse_count(t) for t in ("4.35M", "32.1k", "1.1M", "1,234,567", "2.3e3k")] == [
        4_350_000,
        32_100,
        1_100_000,
        1_234_567,
        2_300_000,
    ]


def test_bits_per_byte_of_known_losses():
    assert bits_per_byte(math.log(256), bytes_per_token=1) == pytest.approx(8)  # a uniform guess among bytes
    assert bits_per_byte(3.573, bytes_per_token=4.4515) == pytest.approx(1.158, abs=5e-4)  # SmolLM2 on a novel
    assert nats_per_token(1.0, bytes_per_token=4) == pytest.approx(4 * math.log(2))


@given(loss=st.floats(1e-3, 20), size=st.floats(0.5, 20))
def test_nats_and_bits_are_inverse(loss, size):
    there = bits_per_byte(loss, bytes_per_token=size)
    assert nats_per_token(there, bytes_per_token=size) == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("size", [0, -1, float("inf"), float("nan")])
def test_bytes_per_token_are_positive(size):
    with pytest.raises(ConfigError, match="bytes_per_token"):
        bits_per_byte(3.0, bytes_per_token=size)
