"""Tiny random models of many families over one small tokenizer; nothing is downloaded."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from distillaw.data.tokenizer import train_tokenizer

TEXT = ["the teacher speaks and the student listens; then the student speaks and the teacher sleeps " * 4]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GPT2_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES = {
    "llama": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES | {"head_dim": 8},
    "mistral": SIZES,
    "gemma2": SIZES | {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 0.5},
    "gemma3_text": SIZES | {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 0.5},
    "gpt_neox": SIZES | {"rotary_pct": 0.25},
    "gpt2": GPT2_SIZES,
    "opt": SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 16},  # a projection between body and head
    "phi": SIZES,  # a bias in the head
    "phi3": SIZES,
    "granite": SIZES | {"logits_scaling": 8.0, "embedding_multiplier": 3.0},
    "cohere": SIZES | {"logit_scale": 0.25},
    "falcon_h1": SIZES | {"lm_head_multiplier": 0.3, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
    "mixtral": SIZES | {"num_local_experts": 4},
    "qwen3_moe": SIZES | EXPERTS | {"head_dim": 8},
}
"""Model type -> config; every kind of head that transformers has."""


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level tokenizer of 270 tokens."""
    return train_tokenizer(TEXT, vocab_size=270)


@pytest.fixture(params=list(FAMILIES))
def family(request) -> str:
    """Every family in turn."""
    return request.param


@pytest.fixture(scope="session")
def random_model():
    """Makes a random model of a family: float32, eval mode, logits of a size where caps and factors show."""

    def make(kind, *, vocab_size=270, **changes):
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, vocab_size=vocab_size, **(FAMILIES.get(kind, SIZES) | changes))
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(10)
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):  # they start at 0, where a forgotten one would not show
                    parameter.normal_(0, 0.1)
        return model

    return make


@pytest.fixture
def save_teacher(tmp_path, tokenizer, random_model):
    """Write a random model of a family and a tokenizer into a folder; returns (folder, model)."""

    def save(kind="llama", *, with_tokenizer=tokenizer, **changes):
        model = random_model(kind, **changes)
        model.save_pretrained(tmp_path / kind)
        if with_tokenizer is not None:
            with_tokenizer.save_pretrained(str(tmp_path / kind))
        return tmp_path / kind, model

    return save
