"""Fresh Llama-family models: a `transformers` module from a shape, initialised by a seed.

Initialisation follows the "simple" muP of Wortsman et al. 2023 (arXiv 2309.14322, section 3.2.3): hidden
matrices have standard deviation 1/sqrt(fan_in), and their learning rate falls as 1/width (train/optim.py).
The projections that write into the residual stream are divided by sqrt(2 layers) besides, so that its size
at the start does not grow with depth. Heads are untied unless the shape says otherwise.
"""

import math
from typing import TYPE_CHECKING

import torch

from distillaw.shapes import Shape

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig

EMBEDDING_STD = 0.5
"""Initial standard deviation of token embeddings: 0.1 to 1 do alike, 0.02 costs 0.2 nats (dev/LOG.md, 2026-11-21)."""
ROPE_BASE = 10_000.0
"""That of Llama and Llama 2, made for contexts up to 4,096."""


def llama_config(shape: Shape, *, end_of_text: int = 0) -> "LlamaConfig":
    """The Hugging Face configuration of a shape."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        attention_bias=False,
        mlp_bias=False,
        use_cache=False,
    )


def build_model(shape: Shape, *, seed: int, end_of_text: int = 0) -> "LlamaForCausalLM":
    """A fresh model on the CPU in float32; the same seed gives the same weights on every machine."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(llama_config(shape, end_of_text=end_of_text))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:  # RMSNorm gains
                parameter.fill_(1.0)
                continue
            std = 1 / math.sqrt(parameter.shape[1])
            if "embed_tokens" in name:
                std = EMBEDDING_STD
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= math.sqrt(2 * shape.layers)
            parameter.normal_(0.0, std, generator=generator)
    return model


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """(non-embedding, total) parameters of a module, each tensor once; the embedding and the head are not in N."""
    outside = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    sizes = {id(p): p.numel() for p in model.parameters()}
    total = sum(sizes.values())
    return total - sum(sizes[key] for key in outside), total


def count_config(config: "PreTrainedConfig") -> tuple[int, int]:
    """(non-embedding, total) parameters of a configuration, counted on the module without making weights."""
    return count_parameters(_without_weights(config))


def _without_weights(config: "PreTrainedConfig") -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def weight_flops(config: "PreTrainedConfig") -> float:
    """Forward FLOP per token by two per weight of body and head, for an architecture that accounting does not know.

    An estimate: attention's scores are left out, and every expert of a mixture counts. No weights are made.
    """
    model = _without_weights(config)
    return 2.0 * (count_parameters(model)[0] + model.get_output_embeddings().weight.numel())
