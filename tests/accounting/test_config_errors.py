"""A config.json that cannot be counted exactly is refused, with the key and what to do."""

import json

import pytest

from distillaw.accounting.config import architecture_from_config, read_architecture
from distillaw.errors import ConfigError

LLAMA = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "vocab_size": 96,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "lama"}, r"'lama' is not known \(did you mean 'llama'\?\).*--layers"),
        ({"model_type": None}, "model_type None"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"hidden_size": "48"}, "hidden_size = '48'; it must be a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"num_key_value_heads": 4}, "not a multiple of kv_heads = 4"),
        ({"hidden_size": 50}, "not a multiple of 6 heads"),
        ({"tie_word_embeddings": "yes"}, "must be true or false"),
        ({"text_config": {}}, "multimodal"),
        ({"model_type": "qwen2", "use_sliding_window": True, "layer_types": ["full_attention"]}, "3 layers"),
        (
            {"model_type": "gemma2", "layer_types": ["full_attention", "linear_attention", "full_attention"]},
            "linear_attention",
        ),
        ({"model_type": "qwen2_moe", "mlp_only_layers": 3}, "must be a list"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "cross-attention"),
        (
            {"model_type": "mixtral", "num_key_value_heads": 6, "num_local_experts": 2, "num_experts_per_tok": 3},
            "active experts = 3 of 2",
        ),
    ],
)
def test_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        architecture_from_config({**LLAMA, **change})


def test_a_file_or_its_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert read_architecture(tmp_path) == read_architecture(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not a JSON file"), ("[1]", "holds a list"), (b"\xff\xfe", "not a JSON file")]
)
def test_files_that_hold_no_config(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        read_architecture(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_architecture(tmp_path / "nowhere.json")
