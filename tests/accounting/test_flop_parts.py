"""FLOP and parameter counts from shapes: what they must never depend on, and what they must refuse."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillaw.accounting.architecture import Architecture, Attention, Block, FeedForward, as_architecture, count_params
from distillaw.accounting.flops import forward_flops, mean_keys
from distillaw.errors import ConfigError
from distillaw.shapes import Shape, count_non_embedding

shapes = st.builds(
    lambda layers, heads, groups, head_dim, ffn, vocab, context, tied: Shape(
        layers=layers,
        width=heads * groups * head_dim,
        ffn=ffn,
        heads=heads * groups,
        kv_heads=heads,
        head_dim=head_dim,
        vocab=vocab,
        context=context,
        tied=tied,
    ),
    st.integers(1, 80),
    st.integers(1, 16),
    st.integers(1, 8),
    st.sampled_from([8, 16, 64, 128]),
    st.integers(8, 30_000),
    st.integers(2, 300_000),
    st.integers(1, 200_000),
    st.booleans(),
)


@given(shapes)
def test_total_is_the_formula_of_the_paper(shape):
    parts = forward_flops(shape)
    N, d = count_params(shape).non_embedding, shape.width
    assert parts.total == 2 * N + 2 * shape.layers * shape.context * d + 2 * shape.vocab * d
    assert parts.full_count == parts.total + 2.5 * shape.layers * shape.heads * shape.context + 2 * d


@given(shapes)
def test_tying_changes_parameters_but_not_flop(shape):
    tied, untied = replace(shape, tied=True), replace(shape, tied=False)
    assert forward_flops(tied) == forward_flops(untied)
    assert count_params(untied).total - count_params(tied).total == shape.vocab * shape.width


@given(shapes)
def test_conventions_nest(shape):
    count = count_params(shape)
    assert count.non_embedding == count_non_embedding(shape) == count.active_non_embedding
    assert count.total == count.non_embedding + count.embedding + count.head
    assert count.non_embedding < count.one_matrix <= count.total


@given(shapes)
def test_causal_attention_is_half_of_the_square_and_nothing_else_changes(shape):
    causal, full = forward_flops(shape), forward_flops(shape, causal=False)
    assert full.attention_scores == 2 * causal.attention_scores
    assert full.total - full.attention_scores == causal.total - causal.attention_scores


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_mean_keys_of_a_window_is_the_exact_mean_but_for_half_a_key(tokens, window):
    """The discrete mean of min(i, w) over i = 1..n; the continuous convention is at most half a key below."""
    held = min(tokens, window)
    exact = (held * (held + 1) / 2 + (tokens - held) * held) / tokens
    ours = mean_keys(tokens, window=window)
    assert 0 <= exact - ours <= 0.5 + 1e-9
    assert ours <= mean_keys(tokens) + 1e-9 <= mean_keys(tokens, causal=False)


def test_a_window_wider_than_the_context_changes_nothing():
    assert mean_keys(512, window=512) == mean_keys(512, window=4096) == mean_keys(512) == 256


def mixture(experts: int, active: int) -> Architecture:
    ffn = FeedForward(width=64, experts=experts, active_experts=active)
    attention = Attention(heads=4, kv_heads=2, head_dim=8)
    block = Block(count=3, attention=attention, ffn=ffn, norm_params=64)
    return Architecture(name="moe", width=32, vocab=100, context=16, blocks=(block,), final_norm_params=32)


@given(st.integers(2, 64), st.data())
def test_idle_experts_cost_parameters_but_no_flop_beyond_the_router(experts, data):
    active = data.draw(st.integers(1, experts - 1))
    count, more = count_params(mixture(experts, active)), count_params(mixture(experts + 1, active))
    one_expert = 3 * 3 * 32 * 64
    assert more.non_embedding - count.non_embedding == one_expert + 3 * 32  # its row of the router
    assert more.active_non_embedding - count.active_non_embedding == 3 * 32
    assert count.non_embedding - count.active_non_embedding == (experts - active) * one_expert
    flop, flop_more = forward_flops(mixture(experts, active)), forward_flops(mixture(experts + 1, active))
    assert flop_more.total - flop.total == 2 * 3 * 32 == flop_more.router - flop.router


def test_context_on_request():
    shape = Shape(layers=2, width=32, ffn=64, heads=4, kv_heads=4, head_dim=8, vocab=100, context=16)
    assert forward_flops(shape, context=64) == forward_flops(replace(shape, context=64))
    for bad in (0, -1, 1.5, math.nan, True):
        with pytest.raises(ConfigError, match="context"):
            forward_flops(shape, context=bad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers = 0"),
        ({"width": -8}, "width = -8"),
        ({"heads": 3, "kv_heads": 2}, "not a multiple of kv_heads"),
        ({"ffn": 2.5}, "ffn = 2.5"),
        ({"vocab": True}, "vocab = True"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    shape = Shape(layers=2, width=32, ffn=64, heads=4, kv_heads=4, head_dim=8, vocab=100, context=16)
    with pytest.raises(ConfigError, match=message):
        as_architecture(replace(shape, **change))


def test_more_active_experts_than_experts_are_refused():
    with pytest.raises(ConfigError, match="active experts = 3 of 2"):
        FeedForward(width=4, experts=2, active_experts=3)
