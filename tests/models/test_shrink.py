"""Shapes for a target size: near it, balanced, within the teacher; advice for how much is cut."""

from dataclasses import replace

import pytest

from distillaw.errors import ConfigError
from distillaw.models.cut import advice, check_cut, shrink
from distillaw.shapes import Shape, count_non_embedding

LLAMA2 = Shape(layers=32, width=4096, ffn=11008, heads=32, kv_heads=32, head_dim=128, vocab=32000, context=4096)
SMOL = Shape(layers=30, width=576, ffn=1536, heads=9, kv_heads=3, head_dim=64, vocab=49152, context=2048, tied=True)
TINY = replace(SMOL, layers=4, width=96, ffn=256, heads=6, kv_heads=6, head_dim=16)
TEACHERS = {"llama-2-7b": LLAMA2, "smollm2": SMOL, "tiny": TINY}


@pytest.mark.parametrize("keep", [0.9, 0.7, 0.5, 0.42, 0.3, 0.15])
@pytest.mark.parametrize("name", TEACHERS)
def test_near_the_size_within_the_teacher_and_balanced(name, keep):
    teacher = TEACHERS[name]
    wanted = keep * count_non_embedding(teacher)
    student = shrink(teacher, wanted, count_non_embedding)
    check_cut(teacher, student)
    assert count_non_embedding(student) == pytest.approx(wanted, rel=0.05)
    assert student.width % 8 == student.ffn % 8 == 0
    assert (student.layers == teacher.layers) == (keep > 2 / 3)
    shares = [getattr(student, axis) / getattr(teacher, axis) for axis in ("width", "heads", "ffn")]
    assert max(shares) / min(shares) < 2.2  # SmolLM2 has three groups of heads


def test_the_student_of_the_reference_recipe_is_near():
    """MiniMA kept three quarters of every axis: 42.0 %; ours keeps more depth, less width."""
    student = shrink(LLAMA2, 2.718e9, count_non_embedding)
    assert student.layers in (25, 26, 27) and 0.65 < student.width / 4096 < 0.8


def test_the_whole_and_more():
    assert shrink(SMOL, count_non_embedding(SMOL), count_non_embedding) == SMOL
    with pytest.raises(ConfigError, match="2e\\+08 non-embedding parameters are not between 0 and the teacher's 106,2"):
        shrink(SMOL, 2e8, count_non_embedding)
    with pytest.raises(ConfigError, match="no shape of 1,000 non-embedding parameters"):
        shrink(SMOL, 1000, count_non_embedding)


def test_a_family_whose_width_is_its_heads_keeps_it_so():
    student = shrink(LLAMA2, 3e9, count_non_embedding, square=True)
    assert student.width == student.heads * student.head_dim


def test_advice_grows_with_the_cut():
    assert "one shot recovers well" in advice(0.7)
    assert "more tokens" in advice(0.55)
    assert "77% -> 59% -> 45%" in advice(0.45) and "fresh" not in advice(0.45)
    assert "compare with a fresh student first" in advice(0.2)
