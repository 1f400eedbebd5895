"""Records: every coefficient has a source, every golden prediction is reproduced, doubts travel along."""

import csv

import pytest

from distillaw.errors import ConfigError
from distillaw.laws.published import laws_available, published


@pytest.mark.parametrize("name", laws_available())
def test_record_is_complete(name):
    record = published(name).record
    for text in (record.title, record.source, record.obtained, record.unit, record.params_convention, record.data):
        assert text.strip()
    if name == "distillaw2026-small":  # ours: the table that it was fitted to ships beside it
        assert "docs/open-runs.md" in record.source and "open_runs.parquet" in record.source
    else:
        places = ("Eq. ", "Table ", "repository", "ACL 2025")
        assert "arXiv" in record.source
        assert not record.published or any(place in record.source for place in places)
    assert record.coefficients and record.known_problems and record.goldens
    assert all(error.source and 0 < error.relative < 0.5 for error in record.errors)
    for _, coefficients in record.coefficients:
        for c in coefficients:
            assert c.low is None or c.low <= c.value <= c.high


@pytest.mark.parametrize("name", laws_available())
def test_golden_predictions(name):
    law = published(name)
    for golden in law.record.goldens:
        part = {
            "supervised": law.supervised,
            "distillation": law.distillation,
            "best_teacher": law.capacity_gap,
            "repeated": law.repeated,
        }
        value = float(part[golden.target](**dict(golden.coords)))
        assert abs(value - golden.value) <= golden.tolerance, golden


def test_busbridge_is_table_6_verbatim(published_data):
    law = published("busbridge2025")
    with (published_data / "busbridge_table6_coefficients.csv").open() as file:
        rows = {row["coef"]: row for row in csv.DictReader(file)}
    for part in ("supervised", "distillation"):
        coefficients = dict(law.record.coefficients)[part]
        for c in coefficients:
            assert c.value == float(rows[c.symbol][part])
            low, high = (float(x) for x in rows[c.symbol][f"{part}_ci90"].split("-"))
            assert (c.low, c.high) == (low, high)


def test_busbridge_warns_and_must_not_be_planned_with():
    law = published("busbridge2025")
    assert law.record.refuse_plan
    assert "do not reproduce" in law.warnings[0]


def test_the_digits_of_hoffmann_round_to_the_printed_ones():
    law = published("hoffmann2022").supervised
    assert [round(law.E, 2), round(law.A, 1), round(law.B, 1)] == [1.69, 406.4, 410.7]  # Eq. 10
    assert [round(law.alpha, 2), round(law.beta, 2)] == [0.34, 0.28]


def test_surrogates_say_that_they_are_not_published():
    for name in ("surrogate-s1", "surrogate-s2", "surrogate-s3"):
        record = published(name).record
        assert not record.published
        assert "NOT PUBLISHED" in record.title and record.known_problems[0].startswith("Not published")


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'busbridge2025'"):
        published("busbridge2024")
