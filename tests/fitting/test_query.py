"""One question to one law, asked from Python: the same refusals and the same band as `distillaw predict` gives."""

import pytest

from distillaw.errors import ConfigError, UnitError
from distillaw.fitting.query import load_law, predict_student
from distillaw.laws.published import laws_available, published


def ask(name, **more):
    return predict_student(name, load_law(name), **{"student_params": 1e9, "student_tokens": 30e9} | more)


def test_every_published_answer_has_a_status_and_says_what_its_interval_is():
    for name in laws_available():
        convention = published(name).record.params_convention
        kind = "total" if convention.startswith("total") else "non-embedding"
        for params in (500e6, 900e9):
            answer = ask(name, student_params=params, params_convention=kind)
            assert answer["status"] == ("PUBLISHED" if answer["inside_range"] else "EXTRAPOLATED")
            assert len(answer["interval_meaning"]) > 10


def test_the_band_widens_with_its_level():
    narrow, wide = (ask("busbridge2025", teacher_loss=2.2, level=level)["interval"] for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_a_teacher_outside_the_range_leaves_no_band():
    inside = ask("busbridge2025", teacher_params=2e9, teacher_tokens=100e9)
    outside = ask("busbridge2025", teacher_params=2e12, teacher_tokens=100e12)
    assert inside["interval"] is not None and inside["status"] == "PUBLISHED"
    assert outside["interval"] is None and outside["status"] == "EXTRAPOLATED"


def test_repeated_data():
    answer = ask("muennighoff2023", student_tokens=80e9, unique_tokens=10e9)
    assert (
        answer["student_loss"]
        == answer["supervised_loss"]
        > ask("muennighoff2023", student_tokens=80e9)["student_loss"]
    )
    assert answer["effective_tokens"] < 80e9


@pytest.mark.parametrize(
    ("name", "more", "kind", "message"),
    [
        ("gemstones-hot", {}, UnitError, "say --params-convention total"),
        ("busbridge2025", {"params_convention": "total"}, UnitError, "say --params-convention non-embedding"),
        ("busbridge2025", {"params_convention": "all"}, ConfigError, "params_convention"),
        ("busbridge2025", {"student_tokens": None}, ConfigError, "student_tokens is needed"),
        ("busbridge2025", {"unique_tokens": 1e9}, ConfigError, "muennighoff2023 does"),
        ("busbridge2025", {"teacher_params": 1e9}, ConfigError, "belong together"),
        ("busbridge2025", {"teacher_loss": 2.0, "teacher_params": 1e9, "teacher_tokens": 1e9}, ConfigError, "not both"),
        ("busbridge2025", {"teacher_loss": 25.0}, ConfigError, "nats per token"),
        ("busbridge2025", {"supervised_loss": 1e-9}, ConfigError, "supervised_loss: got 1e-09"),
        ("busbridge2025", {"level": 90}, ConfigError, "share between 0 and 1"),
        ("zhang2023-capacity-gap", {"supervised_loss": 2.0}, ConfigError, "takes nothing else"),
        ("zhang2023-capacity-gap", {"teacher_params": 2e9, "teacher_tokens": 1e9}, ConfigError, "nothing else"),
    ],
)
def test_what_a_law_does_not_answer(name, more, kind, message):
    with pytest.raises(kind, match=message):
        ask(name, **more)
