"""A student cut out of a teacher's weights: width, heads, FFN and depth, without any retraining in between.

    model = prune(load_weights("teacher"), shape)          # the uniform cut of models/cut.py
    model = prune(teacher, shape, cut)                     # any other

Every weight of the student is a slice of one weight of the teacher, in float32. Norms keep their gains, and rotary
base and norm epsilon are the teacher's; nothing is rescaled (nor does the reference recipe).
Shape suffixes: V vocabulary, D hidden width, F FFN neuron, A heads times head dimension.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from distillaw.accounting.shapes import Shape
from distillaw.models.cut import Cut, check_indices, kv_heads, shape_of, uniform_cut
from distillaw.models.fresh import llama_config
from distillaw.models.source import ModelSource, locate
from distillaw.models.teacher import load_weights

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

Read = Callable[[str], torch.Tensor]


def prune(teacher: "PreTrainedModel", student: Shape, cut: Cut | None = None) -> "LlamaForCausalLM":
    """The student that a cut leaves of a teacher, on the CPU in float32.

    Args:
        teacher: of the Llama family, any float type.
        student: its shape; an untied head becomes a copy of a tied teacher's embedding. Of a vocabulary padded in the
            teacher the first `student.vocab` rows are taken.
        cut: the units that stay; None takes the uniform cut.

    Raises:
        ConfigError: the student is no part of the teacher, or the cut does not fit the two.

    Validity:
        Exact: at the teacher's own shape the identity. A student with a key-value head per query head gets copies of
        those that the teacher's query heads shared, so it computes what they did.

    Source:
        spec recipe sections 3 and 4 (MiniMA, arXiv 2311.07052).
    """
    from transformers import LlamaForCausalLM

    name = getattr(teacher, "name_or_path", "") or "the teacher"
    shape = shape_of(teacher.config, name)
    cut = uniform_cut(shape, student) if cut is None else cut
    check_indices(cut, shape, student)
    model = LlamaForCausalLM(pruned_config(teacher.config.to_dict(), student))
    weights = teacher.state_dict()
    with torch.no_grad():
        slices = dict(_slices(weights.__getitem__, cut, shape, student))
        for key, parameter in model.named_parameters():
            parameter.copy_(slices[key])
    return model


def pruned_config(teacher: Mapping[str, object], student: Shape) -> "LlamaConfig":
    """The student's configuration: its own sizes, the teacher's rotary positions, norm epsilon and end of text."""
    config = llama_config(student)
    for key in ("rope_parameters", "rms_norm_eps", "bos_token_id", "eos_token_id"):
        if teacher.get(key) is not None:
            setattr(config, key, teacher[key])
    return config


def open_for_pruning(name: str | Path | ModelSource) -> "PreTrainedModel":
    """The weights of a teacher as they are on disk, on the CPU: the same cut whatever device teaches.

    Raises:
        CacheError: nothing loadable of that name.
        ConfigError: nothing can be cut out of it.
    """
    source = locate(name)
    shape_of(source.config(), source.name)
    return load_weights(source, torch.device("cpu"), None)


def _slices(read: Read, cut: Cut, teacher: Shape, student: Shape) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, weight) of the student, each a copy."""
    width_D, vocab = torch.tensor(cut.width), student.vocab
    embedding_VD = read("model.embed_tokens.weight")[:vocab].index_select(1, width_D)
    yield "model.embed_tokens.weight", embedding_VD
    for i, layer in enumerate(cut.layers):
        yield from _layer(read, i, layer, cut, teacher, student)
    yield "model.norm.weight", read("model.norm.weight")[width_D]
    yield (
        "lm_head.weight",
        embedding_VD if teacher.tied else read("lm_head.weight")[:vocab].index_select(1, width_D),
    )


def _layer(
    read: Read, i: int, layer: int, cut: Cut, teacher: Shape, student: Shape
) -> Iterator[tuple[str, torch.Tensor]]:
    width_D, neurons_F = torch.tensor(cut.width), torch.tensor(cut.ffn[i])
    heads_A = _dimensions(cut.heads[i], teacher.head_dim)
    shared_A = _dimensions(kv_heads(cut.heads[i], teacher, student), teacher.head_dim)
    rows = {"self_attn.q_proj": heads_A, "self_attn.k_proj": shared_A, "self_attn.v_proj": shared_A,
            "mlp.gate_proj": neurons_F, "mlp.up_proj": neurons_F}  # fmt: skip
    columns = {"self_attn.o_proj": heads_A, "mlp.down_proj": neurons_F}
    for name, kept in rows.items():
        weight = read(f"model.layers.{layer}.{name}.weight")
        yield f"model.layers.{i}.{name}.weight", weight[kept].index_select(1, width_D)
    for name, kept in columns.items():
        weight = read(f"model.layers.{layer}.{name}.weight")
        yield f"model.layers.{i}.{name}.weight", weight[width_D].index_select(1, kept)
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield f"model.layers.{i}.{name}.weight", read(f"model.layers.{layer}.{name}.weight")[width_D]


def _dimensions(heads: "tuple[int, ...] | list[int]", head_dim: int) -> torch.Tensor:
    """Rows (or columns) of whole heads, in their order."""
    return (torch.tensor(heads)[:, None] * head_dim + torch.arange(head_dim)).flatten()
