"""A student cut out of a teacher's weights: width, heads, FFN and depth, without any retraining in between.

    model = prune(load_weights("teacher"), shape)          # the uniform cut of models/cut.py
    model = prune(teacher, shape, cut)                     # any other

Every weight of the student is a slice of one weight of the teacher, in float32, along the axes that models/axes.py
gives its name. Norms keep their gains, and everything but the sizes is the teacher's; nothing is rescaled (nor does the
reference recipe).
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from distillaw.accounting.shapes import Shape
from distillaw.models.axes import axes_of, family_shape, sized_config
from distillaw.models.cut import Cut, check_indices, kv_heads, shape_of, uniform_cut
from distillaw.models.source import ModelSource, locate
from distillaw.models.teacher import load_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Read = Callable[[str], torch.Tensor]


def prune(teacher: "PreTrainedModel", student: Shape, cut: Cut | None = None) -> "PreTrainedModel":
    """The student that a cut leaves of a teacher, on the CPU in float32, of the teacher's own kind.

    Args:
        teacher: of a family of models/axes.py, any float type.
        student: its shape; an untied head becomes a copy of a tied teacher's embedding. Of a vocabulary padded in the
            teacher the first `student.vocab` rows are taken.
        cut: the units that stay; None takes the uniform cut.

    Raises:
        ConfigError: the student is no part of the teacher, or the cut does not fit the two.

    Validity:
        Exact: at the teacher's own shape the identity. A student with a key-value head per query head gets copies of
        those that the teacher's query heads shared, so it computes what they did.

    Source:
        MiniMA, arXiv 2311.07052.
    """
    name = getattr(teacher, "name_or_path", "") or "the teacher"
    shape = family_shape(teacher.config, name)
    cut = uniform_cut(shape, student) if cut is None else cut
    check_indices(cut, shape, student)
    model = type(teacher)(sized_config(teacher.config, student, cut.layers))
    weights = teacher.state_dict()
    head = None if student.tied else model.get_output_embeddings()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            source = key
            if shape.tied and head is not None and parameter is head.weight:
                source = _name_of(teacher, teacher.get_input_embeddings().weight)
            parameter.copy_(_sliced(weights.__getitem__, source, cut, shape, student))
    return model


def open_for_pruning(name: str | Path | ModelSource) -> "PreTrainedModel":
    """The weights of a teacher as they are on disk, on the CPU: the same cut whatever device teaches.

    Raises:
        CacheError: nothing loadable of that name.
        ConfigError: no student of ours can be cut out of it.
    """
    source = locate(name)
    shape_of(source.config(), source.name)
    return load_weights(source, torch.device("cpu"), None)


def _name_of(model: "PreTrainedModel", weight: torch.Tensor) -> str:
    return next(name for name, parameter in model.named_parameters() if parameter is weight)


def _sliced(read: Read, name: str, cut: Cut, teacher: Shape, student: Shape) -> torch.Tensor:
    """The student's weight of a name, a copy."""
    layer, axes = axes_of(name)
    weight = read(name if layer is None else name.replace(f".{layer}.", f".{cut.layers[layer]}.", 1))
    for dim, axis in enumerate(axes):
        kept = _kept(axis, 0 if layer is None else layer, cut, teacher, student)
        if kept is not None:
            weight = weight.index_select(dim, kept.to(weight.device))
    return weight


def _kept(axis: str, layer: int, cut: Cut, teacher: Shape, student: Shape) -> torch.Tensor | None:
    """Rows or columns of the teacher's weight that stay along an axis, in the student's order; None: all."""
    if axis == "head_dim":
        return None
    if axis == "vocab":
        return torch.arange(student.vocab)
    if axis == "width":
        return torch.tensor(cut.width)
    if axis == "ffn":
        return torch.tensor(cut.ffn[layer])
    if axis == "kv_heads":
        return _dimensions(kv_heads(cut.heads[layer], teacher, student), teacher.head_dim)
    return _dimensions(cut.heads[layer], 3 * teacher.head_dim if axis == "qkv" else teacher.head_dim)


def _dimensions(heads: "tuple[int, ...] | list[int]", head_dim: int) -> torch.Tensor:
    """Rows (or columns) of whole heads, in their order."""
    return (torch.tensor(heads)[:, None] * head_dim + torch.arange(head_dim)).flatten()
