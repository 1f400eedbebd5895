"""Counts from a config.json against the real Hugging Face module: parameters and FLOP, exactly.

torch's counter sees matrix products only and ignores causality, so it is compared with `causal=False`
matrix products; for fused attention on a CPU it sees nothing, hence eager attention.
"""

import pytest

from distillaw.accounting.architecture import Architecture, count_params
from distillaw.accounting.config import READERS, architecture_from_config
from distillaw.accounting.flops import forward_flops
from distillaw.accounting.memory import serving_memory
from distillaw.shapes import shape_for_params

torch = pytest.importorskip("torch")
pytest.importorskip("distillaw.models.pyramid")  # makes its model type known

VARIANTS = [
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"num_key_value_heads": None, "head_dim": None}),
    ("mistral", {"sliding_window": None}),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen2_moe", {"mlp_only_layers": [1], "qkv_bias": False}),
    ("qwen2_moe", {"decoder_sparse_step": 2, "use_sliding_window": True}),
    ("qwen3", {"attention_bias": True, "use_sliding_window": True, "max_window_layers": 2}),
    ("qwen3_moe", {"decoder_sparse_step": 2}),
    ("qwen3_moe", {"mlp_only_layers": [0, 2], "use_sliding_window": True}),
    ("gemma", {"attention_bias": True}),
    ("gemma2", {"tie_word_embeddings": False}),
    ("gemma3_text", {"num_hidden_layers": 7}),
    ("gpt2", {"n_inner": 100, "tie_word_embeddings": False}),
    ("gpt_neox", {"attention_bias": False, "tie_word_embeddings": True}),
    ("granite", {"attention_bias": True, "mlp_bias": True}),
    ("olmo2", {"attention_bias": True}),
    ("smollm3", {"use_sliding_window": True, "sliding_window": 5, "no_rope_layer_interval": 2}),
    ("qwen2_moe", {"head_dim": 10}),
    ("phi3", {"head_dim": 10}),
    ("olmo2", {"head_dim": 10}),
    ("smollm3", {"head_dim": 10}),
    ("granite", {"head_dim": 10}),
    ("starcoder2", {"head_dim": 10}),
    ("starcoder2", {"use_bias": False, "tie_word_embeddings": False}),
]
CASES = [(kind, {}) for kind in READERS] + VARIANTS
IDS = ["-".join([kind, *(f"{k}={v}" for k, v in changes.items())]) for kind, changes in CASES]


def build(config, **options):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, attn_implementation="eager", **options)


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=IDS)
def test_parameters_equal_those_of_the_module(kind, changes, tiny_config, as_json):
    config = tiny_config(kind, **changes)
    with torch.device("meta"):
        model = build(config)
    count = count_params(architecture_from_config(as_json(config)))
    tables = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
    head = model.get_output_embeddings().weight
    tied = head is model.get_input_embeddings().weight
    assert count.total == sum(p.numel() for p in model.parameters())
    assert count.embedding == tables
    assert count.head == (0 if tied else head.numel())
    assert count.non_embedding == count.total - count.embedding - count.head
    assert count.one_matrix == count.non_embedding + model.get_input_embeddings().weight.numel()


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=IDS)
def test_flop_equal_those_that_torch_counts(kind, changes, tiny_config, as_json):
    from torch.utils.flop_counter import FlopCounterMode

    config = tiny_config(kind, **changes)
    torch.manual_seed(0)
    experts = {"experts_implementation": "eager"} if "num_experts_per_tok" in as_json(config) else {}
    model = build(config, **experts)
    tokens = torch.randint(0, 96, (2, 24))
    with FlopCounterMode(display=False) as forward:
        model(tokens)
    with FlopCounterMode(display=False) as step:
        model(tokens, labels=tokens).loss.backward()
    ours = forward_flops(architecture_from_config(as_json(config)), context=24, causal=False)
    assert forward.get_total_flops() == ours.matmuls * tokens.numel()
    assert step.get_total_flops() == 3 * ours.matmuls * tokens.numel()


def test_a_fresh_shape_counts_as_the_llama_that_is_built_from_it(tiny_config):
    shape = shape_for_params(1e5, vocab=512, context=64)
    config = tiny_config(
        "llama",
        vocab_size=512,
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
    )
    with torch.device("meta"):
        model = build(config)
    assert count_params(shape).total == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gemma"])
def test_the_key_value_cache_has_the_bytes_that_serving_memory_says(kind, tiny_config, as_json):
    from transformers import DynamicCache

    config = tiny_config(kind)
    cache = DynamicCache()
    with torch.no_grad():
        build(config)(torch.randint(0, 96, (2, 24)), past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    memory = serving_memory(
        architecture_from_config(as_json(config)), sequences=2, context=24, cache_bytes=4, weight_bytes=4
    )
    assert memory.kv_cache == held


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3_text"])
def test_a_sliding_window_bounds_the_key_value_cache(kind, tiny_config, as_json):
    """Between steps transformers keeps window - 1 tokens of a sliding layer; the next token fills the window."""
    from transformers import DynamicCache

    config = tiny_config(kind)
    cache = DynamicCache(config=config)
    with torch.no_grad():
        build(config)(torch.randint(0, 96, (2, 24)), past_key_values=cache, use_cache=True)
    arch = architecture_from_config(as_json(config))
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    next_token = (
        4
        * 2
        * sum(2 * b.count * b.attention.kv_heads * b.attention.head_dim for b in arch.blocks if b.attention.window)
    )
    assert serving_memory(arch, sequences=2, context=24, cache_bytes=4).kv_cache == held + next_token


@pytest.mark.parametrize("kind", sorted(READERS))
def test_published_sizes_of_the_defaults_of_each_model_type(kind):
    """The default config of transformers is a released model; a partial config.json must mean the same."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[kind](bos_token_id=1, eos_token_id=2)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    needed = {
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
    }
    partial = {k: v for k, v in config.to_dict().items() if k in needed} | {"model_type": kind}
    arch = architecture_from_config(partial)
    assert count_params(arch).total == sum(p.numel() for p in model.parameters())
    assert arch.context == config.max_position_embeddings
    assert windows(arch) == windows(architecture_from_config(config.to_dict()))


def windows(arch: Architecture) -> list[tuple[int, int | None]]:
    return [(block.count, block.attention.window) for block in arch.blocks]
