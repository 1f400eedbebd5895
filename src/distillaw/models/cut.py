"""Which units of a teacher a student keeps that is cut out of it: plain indices, chosen without looking at a weight.

The uniform cut is that of MiniMA (arXiv 2311.07052, reference repository GeneZC/MiniMA): every layer loses the same
share of heads and FFN neurons, all layers the same hidden dimensions, and whole layers go from both ends. Which
units of an axis go is a matter of importance; without a ranking the first ones stay, as in a teacher whose weights
were sorted before. `models/prune.py` applies a cut to weights. Torch-free.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillaw.accounting.shapes import Shape
from distillaw.errors import ConfigError
from distillaw.models.axes import family_shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedConfig

    from distillaw.models.importance import Importance

MODEL_TYPES = ("llama", "mistral")
"""Whose weights have our names and our meaning: gated FFN, RMSNorm, rotary positions."""
AXES = ("layers", "width", "heads", "kv_heads", "ffn")

Indices = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The units of the teacher that a student keeps, in the student's order."""

    layers: Indices
    """Teacher layer of each student layer."""
    width: Indices
    """Hidden dimensions: the same in embedding, head, norms and every layer, since they share one residual stream."""
    heads: tuple[Indices, ...]
    """Per student layer, query heads. Those of one key-value head of the student shared one in the teacher."""
    ffn: tuple[Indices, ...]
    """Per student layer, neurons."""


def uniform_cut(teacher: Shape, student: Shape) -> Cut:
    """The cut that keeps the first units of every axis and the middle layers.

    Of an odd number of layers to drop the last one goes too.

    Raises:
        ConfigError: the student cannot be cut out of the teacher (`check_cut`).

    Source:
        MiniMA's way, arXiv 2311.07052 (32 to 24 layers: the first 4 and the last 4 go).
    """
    check_cut(teacher, student)
    first = (teacher.layers - student.layers) // 2
    return Cut(
        layers=tuple(range(first, first + student.layers)), width=tuple(range(student.width)),
        heads=(tuple(range(student.heads)),) * student.layers, ffn=(tuple(range(student.ffn)),) * student.layers,
    )  # fmt: skip


def ranked_cut(teacher: Shape, student: Shape, scores: "Importance") -> Cut:
    """The cut that keeps the units that matter most, in the teacher's order.

    Heads are ranked by whole groups of those that share keys and values, by the mean over the group; where the
    student has a key-value head per query head, one by one.

    Raises:
        ConfigError: the student cannot be cut out of the teacher (`check_cut`), or the scores are of another model.
    """
    check_cut(teacher, student)
    wanted = (
        (teacher.layers,),
        (teacher.width,),
        (teacher.layers, teacher.heads),
        (teacher.layers, teacher.ffn),
    )
    got = scores.layers.shape, scores.width.shape, scores.heads.shape, scores.ffn.shape
    if got != wanted:
        raise ConfigError(
            f"importance of another model: its scores have the shapes {got}, the teacher {wanted}"
        )
    layers = _top(scores.layers, student.layers)
    group = student.heads // student.kv_heads
    heads = []
    for layer in layers:
        groups = scores.heads[layer].reshape(-1, group).mean(axis=1)
        heads.append(tuple(group * g + h for g in _top(groups, student.heads // group) for h in range(group)))
    return Cut(
        layers=layers, width=_top(scores.width, student.width), heads=tuple(heads),
        ffn=tuple(_top(scores.ffn[layer], student.ffn) for layer in layers),
    )  # fmt: skip


def _top(scores: "NDArray[np.float64]", count: int) -> Indices:
    """The largest scores' indices, ascending; of equals the first."""
    return tuple(sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:count]))


def check_cut(
    teacher: Shape, student: Shape, *, name: str = "the teacher", label: str = "the student"
) -> None:
    """Refuse a student that is no part of its teacher.

    Raises:
        ConfigError: it is larger along an axis, its heads are of another size or grouped otherwise, or it reads more
            context.
    """
    for axis in AXES:
        theirs, ours = getattr(teacher, axis), getattr(student, axis)
        if axis == "kv_heads" and student.kv_heads == student.heads:
            continue  # every query head gets a copy of the key-value head that it used
        if ours > theirs:
            raise ConfigError(
                f"{label} cannot be cut out of {name}: it has {ours} {axis}, its teacher {theirs}. A pruned student "
                "is no larger than its teacher along any axis: choose a smaller student or a larger teacher"
            )
    if student.head_dim != teacher.head_dim:
        raise ConfigError(
            f"{label} cannot be cut out of {name}: heads are cut whole, and its teacher's have {teacher.head_dim} "
            f"dimensions, its own {student.head_dim}. Set training.head_dim = {teacher.head_dim}"
        )
    if student.width % student.heads:
        raise ConfigError(
            f"{label} cannot be cut out of {name}: width {student.width} is no multiple of its {student.heads} heads, "
            "which transformers wants of a Llama"
        )
    group, theirs = student.heads // student.kv_heads, teacher.heads // teacher.kv_heads
    if group not in (1, theirs):
        raise ConfigError(
            f"{label} cannot be cut out of {name}: {group} of its query heads share keys and values, {theirs} of its "
            f"teacher's. Groups are cut whole: {theirs}, or 1 (a copy of keys and values for every head)"
        )
    for what, ours, theirs in (("context", student.context, teacher.context),
                               ("tokens of vocabulary", student.vocab, teacher.vocab)):  # fmt: skip
        if ours > theirs:
            raise ConfigError(
                f"{label} cannot be cut out of {name}: {ours} {what}, but the teacher has {theirs}"
            )


def check_indices(cut: Cut, teacher: Shape, student: Shape) -> None:
    """Refuse indices that are not those of a cut from this teacher to this student.

    Raises:
        ConfigError: a wrong number of units, a unit twice, one that the teacher does not have, or query heads of one
            group that shared no key-value head.
    """
    check_cut(teacher, student)
    axes = [
        ("layers", cut.layers, student.layers, teacher.layers),
        ("width", cut.width, student.width, teacher.width),
        ("layers of heads", range(len(cut.heads)), student.layers, student.layers),
        ("layers of ffn", range(len(cut.ffn)), student.layers, student.layers),
        *(("heads", heads, student.heads, teacher.heads) for heads in cut.heads),
        *(("ffn", neurons, student.ffn, teacher.ffn) for neurons in cut.ffn),
    ]
    for name, kept, wanted, available in axes:
        if len(kept) != wanted or len(set(kept)) != wanted or not 0 <= min(kept) <= max(kept) < available:
            raise ConfigError(
                f"cut: {name} keeps {len(kept)} units ({len(set(kept))} different, {min(kept, default=None)} to "
                f"{max(kept, default=None)}); {wanted} different ones of {available} are wanted"
            )
    for heads in cut.heads:
        kv_heads(heads, teacher, student)


def kv_heads(heads: Indices, teacher: Shape, student: Shape) -> list[int]:
    """The teacher's key-value head behind each of the student's.

    Raises:
        ConfigError: query heads of one group of the student used different ones.
    """
    ours, theirs = student.heads // student.kv_heads, teacher.heads // teacher.kv_heads
    used = [[head // theirs for head in heads[i : i + ours]] for i in range(0, len(heads), ours)]
    for group in used:
        if len(set(group)) > 1:
            raise ConfigError(
                f"cut: heads {list(heads)}: {ours} in a row share keys and values in the student, but in the teacher "
                f"they used the key-value heads {group}; keep whole groups of {theirs}"
            )
    return [group[0] for group in used]


def shape_of(config: "PreTrainedConfig", name: str) -> Shape:
    """The shape of a Hugging Face configuration of the Llama family.

    Raises:
        ConfigError: another family, biases, sliding windows, or quantised weights: no student of ours can be a part.
    """
    reason = ""
    if config.model_type not in MODEL_TYPES:
        reason = f"its model type is {config.model_type!r}, not one of {', '.join(MODEL_TYPES)}"
    elif getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        reason = "it has biases, which our students have not"
    elif getattr(config, "sliding_window", None):
        reason = f"its attention sees a window of {config.sliding_window} tokens, our students' sees all"
    elif getattr(config, "quantization_config", None):
        reason = "its weights are quantised; take the model it was made from"
    elif config.hidden_act != "silu":
        reason = f"its activation is {config.hidden_act!r}, not 'silu'"
    if reason:
        raise ConfigError(
            f"no student can be cut out of {name}: {reason}. Choose another teacher, or init = 'fresh'"
        )
    return family_shape(config, name)
