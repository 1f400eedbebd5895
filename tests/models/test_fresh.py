import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from distillaw.accounting.architecture import count_params
from distillaw.accounting.flops import forward_flops
from distillaw.models.fresh import build_model, count_parameters, weight_flops
from distillaw.shapes import shape_for_params


@pytest.mark.parametrize("target", [5e4, 1e5, 3e5, 1e6])
def test_counts_are_exact_against_the_module(target):
    shape = shape_for_params(target, vocab=512, context=128)
    model = build_model(shape, seed=0)
    counts = count_params(shape)
    assert count_parameters(model) == (counts.non_embedding, counts.total)
    assert counts.total - counts.non_embedding == 2 * 512 * shape.width  # untied: embedding and head
    assert 1 / 1.35 < counts.non_embedding / target < 1.35


def test_flops_are_exact_against_torchs_counter_with_eager_attention():
    shape = shape_for_params(1e5, vocab=512, context=64)
    model = build_model(shape, seed=0)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(1, 64, dtype=torch.long))
    # The counter sees matrix products only, and the whole square of attention, not its causal half.
    assert counter.get_total_flops() / 64 == forward_flops(shape, causal=False).matmuls


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    shape = shape_for_params(5e4, vocab=300, context=32)
    torch.manual_seed(1)
    first = build_model(shape, seed=5).state_dict()
    torch.manual_seed(2)
    second = build_model(shape, seed=5).state_dict()
    other = build_model(shape, seed=6).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_a_saved_model_loads_and_gives_identical_logits(tmp_path):
    from transformers import AutoModelForCausalLM

    model = build_model(shape_for_params(5e4, vocab=300, context=32), seed=0).eval()
    model.save_pretrained(tmp_path)
    ids = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


@pytest.mark.parametrize("kind", ["cohere", "olmo", "stablelm"])
def test_flops_by_weights_are_near_those_counted_at_a_short_context(kind):
    config = AutoConfig.for_model(
        kind,
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        attn_implementation="eager",
    )
    model = AutoModelForCausalLM.from_config(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(1, 4, dtype=torch.long))
    assert weight_flops(config) == pytest.approx(counter.get_total_flops() / 4, rel=0.05)
