"""Memory: states exactly, activations against what autograd of the real module keeps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillaw.accounting.architecture import count_params
from distillaw.accounting.memory import Precision, serving_memory, training_memory
from distillaw.errors import ConfigError
from distillaw.shapes import Shape


def tiny(layers: int = 3, kv_heads: int = 2) -> Shape:
    return Shape(layers=layers, width=64, ffn=160, heads=4, kv_heads=kv_heads, head_dim=16, vocab=128, context=32)


@pytest.mark.parametrize(("precision", "per_param"), [("fp32", 16), ("mixed", 16), ("bf16", 8)])
def test_bytes_per_parameter(precision, per_param):
    memory = training_memory(tiny(), precision=Precision.named(precision))
    states = memory.weights + memory.gradients + memory.optimizer
    assert states == per_param * count_params(tiny()).total
    assert memory.total == states + memory.activations + memory.logits + memory.teacher


def test_adamw_states_equal_those_of_torch():
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(7, 5)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 7)).sum().backward()
    optimizer.step()
    held = sum(v.nbytes for s in optimizer.state.values() for k, v in s.items() if k != "step")
    assert held == Precision.FP32.value.optimizer * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_of_one_layer_equal_what_autograd_keeps(kv_heads, attention, dtype):
    pytest.importorskip("transformers")
    per_layer = _kept_by_torch(3, kv_heads, attention, dtype) - _kept_by_torch(2, kv_heads, attention, dtype)
    precision = Precision.FP32 if dtype == "float32" else Precision.BF16
    ours = [
        training_memory(
            tiny(n, kv_heads), sequences=2, precision=precision, eager_attention=attention == "eager"
        ).activations
        for n in (2, 3)
    ]
    assert ours[1] - ours[0] == per_layer


def _kept_by_torch(layers: int, kv_heads: int, attention: str, dtype: str) -> int:
    """Bytes of distinct storages that the backward pass of a Llama needs, parameters excepted."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=32,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=getattr(torch, dtype))
    model.train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # holds it, so that no address is used twice
        return tensor

    tokens = torch.zeros(2, 32, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(tokens, labels=tokens)
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in weights)


@given(st.integers(1, 64), st.integers(1, 4096), st.sampled_from(Precision))
def test_activations_scale_with_tokens_and_recomputation_saves_some(sequences, context, precision):
    many = training_memory(tiny(12), sequences=sequences, context=context, precision=precision)
    one = training_memory(tiny(12), context=context, precision=precision)
    assert many.activations == pytest.approx(sequences * one.activations)
    assert many.optimizer == one.optimizer
    less = training_memory(tiny(12), sequences=sequences, context=context, precision=precision, recompute=True)
    assert less.activations < many.activations / 4
    assert less.weights == many.weights


def test_an_online_teacher_adds_its_weights_and_its_logits():
    alone = training_memory(tiny(), precision=Precision.FP32)
    taught = training_memory(tiny(), precision=Precision.FP32, online_teacher_params=1e6)
    assert taught.teacher == 4e6
    # 3 and 5 tensors of tokens x vocabulary: "(4-6) N V 4 B" with the student's own copies (spec logits 3c)
    assert (alone.logits, taught.logits) == (3 * 32 * 128 * 4, 5 * 32 * 128 * 4)


def test_serving_holds_weights_and_every_token():
    memory = serving_memory(tiny(), sequences=8, context=100, weight_bytes=0.5, cache_bytes=1)
    assert memory.weights == count_params(tiny()).total / 2
    assert memory.kv_cache == 8 * 100 * 3 * 2 * 2 * 16
    assert memory.total == memory.weights + memory.kv_cache


def test_bad_requests():
    with pytest.raises(ConfigError, match="fp32, mixed, bf16"):
        Precision.named("int3")
    with pytest.raises(ConfigError, match="at least 1 token"):
        serving_memory(tiny(), context=0)
