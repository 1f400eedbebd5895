"""Tiny Hugging Face configs of every model type that we can count, built offline."""

import json
from collections.abc import Callable
from typing import Any

import pytest

TINY = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 64,
    "num_experts": 5,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 28,
    "sliding_window": 7,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TINY_GPT2 = {
    "vocab_size": 96,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 6,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., Any]:
    """make(model_type, **changes) -> a transformers config object; changes win over the tiny defaults."""
    pytest.importorskip("transformers")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    def make(model_type: str, **changes: object) -> Any:
        kind = CONFIG_MAPPING[model_type]
        known = set(kind.__dataclass_fields__)
        values = TINY_GPT2 if model_type == "gpt2" else {k: v for k, v in TINY.items() if k in known}
        return kind(**{**values, **changes})

    return make


@pytest.fixture(scope="session")
def as_json() -> Callable[[Any], dict[str, Any]]:
    """What save_pretrained would write into config.json."""
    return lambda config: json.loads(config.to_json_string(use_diff=True))
