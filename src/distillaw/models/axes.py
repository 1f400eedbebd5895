"""Which axes each weight of a decoder has, by its name: what a cut needs to know of an architecture.

    axes_of("model.layers.3.self_attn.q_proj.weight")  ->  (3, "self_attn.q_proj", ("heads", "width"))

One table serves Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3 (text), and GPT-NeoX (Pythia), whose names do not collide.
A weight that the table does not know is refused, never guessed. Torch-free.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from distillaw.accounting.shapes import Shape
from distillaw.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt_neox")
"""Model types whose cuts are tested weight by weight."""
GATED = ("self_attn.o_proj", "mlp.down_proj")
NEOX = ("attention.dense", "mlp.dense_4h_to_h")
"""The two projections of a layer that write into the residual stream: what they read are heads and FFN neurons."""

_OUTSIDE: Mapping[str, tuple[str, ...]] = {
    "model.embed_tokens.weight": ("vocab", "width"), "model.norm.weight": ("width",),
    "lm_head.weight": ("vocab", "width"), "gpt_neox.embed_in.weight": ("vocab", "width"),
    "gpt_neox.final_layer_norm.weight": ("width",), "gpt_neox.final_layer_norm.bias": ("width",),
    "embed_out.weight": ("vocab", "width"),
}  # fmt: skip
_INSIDE: Mapping[str, tuple[str, ...]] = {
    "self_attn.q_proj": ("heads", "width"), "self_attn.k_proj": ("kv_heads", "width"),
    "self_attn.v_proj": ("kv_heads", "width"), "self_attn.o_proj": ("width", "heads"),
    "self_attn.q_norm": ("head_dim",), "self_attn.k_norm": ("head_dim",),
    "mlp.gate_proj": ("ffn", "width"), "mlp.up_proj": ("ffn", "width"), "mlp.down_proj": ("width", "ffn"),
    "input_layernorm": ("width",), "post_attention_layernorm": ("width",),
    "pre_feedforward_layernorm": ("width",), "post_feedforward_layernorm": ("width",),
    "attention.query_key_value": ("qkv", "width"), "attention.dense": ("width", "heads"),
    "mlp.dense_h_to_4h": ("ffn", "width"), "mlp.dense_4h_to_h": ("width", "ffn"),
}  # fmt: skip
_LAYER = re.compile(r"(?:model|gpt_neox)\.layers\.(\d+)\.(.+)\.(weight|bias)")


def axes_of(name: str) -> tuple[int | None, tuple[str, ...]]:
    """(layer, axes) of a weight: width, heads, kv_heads, qkv (of each head query, key and value), ffn, vocab, head_dim.

    Raises:
        ConfigError: a weight of no known kind.
    """
    if name in _OUTSIDE:
        return None, _OUTSIDE[name]
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in _INSIDE:
        raise ConfigError(
            f"nothing is known of the weight {name!r}, so it cannot be cut. Models of these types can: "
            f"{', '.join(FAMILIES)}"
        )
    axes = _INSIDE[match[2]]
    return int(match[1]), axes if match[3] == "weight" else axes[:1]


def family_shape(config: "PreTrainedConfig", name: str) -> Shape:
    """The sizes of a model of one of the families.

    Raises:
        ConfigError: another family, or quantised weights.
    """
    text = config.get_text_config()
    reason = ""
    if text.model_type not in FAMILIES:
        reason = f"its model type is {config.model_type!r}; what can be cut are {', '.join(FAMILIES)}"
    elif getattr(config, "quantization_config", None):
        reason = "its weights are quantised: save it unquantised first, or take the model it was made from"
    if reason:
        raise ConfigError(f"{name} cannot be pruned: {reason}")
    heads = text.num_attention_heads
    return Shape(
        layers=text.num_hidden_layers, width=text.hidden_size, ffn=text.intermediate_size, heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads, vocab=text.vocab_size,
        context=text.max_position_embeddings, tied=text.tie_word_embeddings,
    )  # fmt: skip


def sized_config(teacher: "PreTrainedConfig", student: Shape, layers: tuple[int, ...]) -> "PreTrainedConfig":
    """The teacher's configuration with the student's sizes; kinds of attention go with the layers that stay.

    Raises:
        ConfigError: the family ties the width to the heads, and the student's differ.
    """
    if teacher.model_type == "gpt_neox" and student.width != student.heads * student.head_dim:
        raise ConfigError(
            f"a GPT-NeoX model's width is its heads times their size; {student.width} is not {student.heads} x "
            f"{student.head_dim}. Cut width and heads alike"
        )
    values = teacher.to_dict()
    sizes = {"num_hidden_layers": student.layers, "hidden_size": student.width, "intermediate_size": student.ffn,
             "num_attention_heads": student.heads, "num_key_value_heads": student.kv_heads,
             "head_dim": student.head_dim, "vocab_size": student.vocab,
             "tie_word_embeddings": student.tied}  # fmt: skip
    if teacher.model_type == "gpt_neox":
        del sizes["num_key_value_heads"], sizes["head_dim"]
    values |= sizes | {"max_position_embeddings": student.context}
    if values.get("layer_types"):
        values["layer_types"] = [values["layer_types"][i] for i in layers]
    return type(teacher).from_dict(values)
