"""F(N): vectorised, consistent by part, and never fed a count of another convention."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillaw.accounting.architecture import ParamConvention, Params, count_params
from distillaw.accounting.family import FixedAspect
from distillaw.accounting.flops import forward_flops
from distillaw.errors import ConfigError, UnitError

PAPER = FixedAspect()
sizes = st.floats(1e5, 1e12)
contexts = st.integers(1, 1_000_000)
vocabularies = st.integers(2, 300_000)


@given(sizes, contexts, vocabularies)
def test_parts_sum_to_f_of_n(params, context, vocab):
    parts = PAPER.forward_parts(params, context=context, vocab=vocab)
    assert parts.total == pytest.approx(PAPER.forward_flops(params, context=context, vocab=vocab), rel=1e-12)


@given(sizes, contexts, vocabularies)
def test_f_exceeds_two_n_and_grows_with_everything(params, context, vocab):
    F = PAPER.forward_flops(params, context=context, vocab=vocab)
    assert F > 2 * params
    assert PAPER.forward_flops(params * 1.01, context=context, vocab=vocab) > F
    assert PAPER.forward_flops(params, context=2 * context, vocab=vocab) > F
    assert PAPER.forward_flops(params, context=context, vocab=2 * vocab) > F


@given(st.integers(4, 100), contexts, vocabularies, st.sampled_from([1, 2, 4, 8]))
def test_f_of_n_is_the_count_from_the_shape_of_the_same_family(layers, context, vocab, group):
    """With width = aspect layers and an FFN of the exact ratio, only norm gains (2 d a layer) differ."""
    family = FixedAspect(aspect=192.0, group_size=group, ffn_ratio=4.0, head_dim=8)
    width = 192 * layers
    params = layers * width**2 * family.omega
    shape = family.nearest_shape(params, context=context, vocab=vocab)
    assert (shape.layers, shape.width, shape.ffn) == (layers, width, 4 * width)
    from_shape = forward_flops(shape)
    assert from_shape.total - from_shape.vectors == pytest.approx(
        family.forward_flops(params, context=context, vocab=vocab), rel=1e-9
    )


def test_arrays_broadcast():
    params = np.array([1e8, 1e9, 1e10])
    F = PAPER.forward_flops(params)
    assert F.shape == (3,)
    assert F[1] == PAPER.forward_flops(1e9)


@given(sizes, vocabularies, st.sampled_from([1, 2]), st.sampled_from(ParamConvention))
def test_conversion_goes_there_and_back(params, vocab, matrices, convention):
    N = Params(params, ParamConvention.NON_EMBEDDING)
    there = PAPER.convert(N, convention, vocab=vocab, matrices=matrices)
    back = PAPER.convert(there, ParamConvention.NON_EMBEDDING, vocab=vocab, matrices=matrices)
    assert back.value == pytest.approx(params, rel=1e-9)
    assert there.value >= params * (1 - 1e-12)


def test_conversion_agrees_with_the_published_table():
    total = PAPER.convert(Params(1.821e9, ParamConvention.NON_EMBEDDING), ParamConvention.ONE_MATRIX)
    assert total.value == pytest.approx(1.909e9, rel=5e-4)


def test_another_convention_is_refused_with_the_conversion():
    with pytest.raises(UnitError, match=r"non-embedding parameters, got 7e\+09 all-weights.*convert"):
        PAPER.forward_flops(Params(7e9, ParamConvention.ALL_WEIGHTS))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_sizes_are_refused(bad):
    with pytest.raises(ConfigError, match="positive and finite"):
        PAPER.forward_flops(bad)
    with pytest.raises(ConfigError, match="positive and finite"):
        PAPER.forward_flops(1e9, context=bad)
    with pytest.raises(ConfigError, match="aspect"):
        FixedAspect(aspect=bad)


@given(st.floats(1e4, 1e12))
def test_the_nearest_shape_is_near(params):
    shape = FixedAspect(aspect=64.0, head_dim=16).nearest_shape(params)
    assert count_params(shape).non_embedding / params == pytest.approx(1, rel=0.35)
