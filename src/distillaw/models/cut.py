"""Which units of a teacher a student keeps that is cut out of it: sizes and plain indices, no weight is looked at.

The uniform cut is that of MiniMA (arXiv 2311.07052, reference repository GeneZC/MiniMA): every layer loses the same
share of heads and FFN neurons, all layers the same hidden dimensions, and whole layers go from both ends. Which units
of an axis go is a matter of importance; without a ranking the first ones stay, as in a teacher whose weights were
sorted before. For a wanted size, depth costs more than width (Minitron, arXiv 2407.14679), so depth stays whole up to a
cut of a third and takes a quarter of what goes, in logarithms, beyond; width, heads and FFN are cut by one share each,
which leaves a matrix with the square of it. `models/prune.py` applies a cut to weights. Torch-free.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distillaw.errors import ConfigError
from distillaw.shapes import Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedConfig


FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt_neox")
"""Model types whose cuts are tested weight by weight."""
GATED = ("self_attn.o_proj", "mlp.down_proj")
NEOX = ("attention.dense", "mlp.dense_4h_to_h")
"""The two projections of a layer that write into the residual stream: what they read are heads and FFN neurons."""

_Axes = Mapping[str, tuple[str, ...]]
_OUTSIDE: _Axes = {
    **dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), ("vocab", "width")),
    **dict.fromkeys(("gpt_neox.embed_in.weight", "embed_out.weight"), ("vocab", "width")),
    **dict.fromkeys(("model.norm.weight", "gpt_neox.final_layer_norm.weight"), ("width",)),
    "gpt_neox.final_layer_norm.bias": ("width",),
}
_INSIDE: _Axes = {
    "self_attn.q_proj": ("heads", "width"),
    **dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), ("kv_heads", "width")),
    "attention.query_key_value": ("qkv", "width"),
    **dict.fromkeys(("self_attn.o_proj", "attention.dense"), ("width", "heads")),
    **dict.fromkeys(("self_attn.q_norm", "self_attn.k_norm"), ("head_dim",)),
    **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj", "mlp.dense_h_to_4h"), ("ffn", "width")),
    **dict.fromkeys(("mlp.down_proj", "mlp.dense_4h_to_h"), ("width", "ffn")),
    **dict.fromkeys(("input_layernorm", "post_attention_layernorm"), ("width",)),
    **dict.fromkeys(("pre_feedforward_layernorm", "post_feedforward_layernorm"), ("width",)),
}
_LAYER = re.compile(r"(?:model|gpt_neox)\.layers\.(\d+)\.(.+)\.(weight|bias)")


def axes_of(name: str) -> tuple[int | None, tuple[str, ...]]:
    """(layer, axes) of a weight: width, heads, kv_heads, qkv (query, key, value of each head), ffn, vocab, head_dim."""
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
    """The sizes of a model of one of the families."""
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
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        ffn=text.intermediate_size,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocab=text.vocab_size,
        context=text.max_position_embeddings,
        tied=text.tie_word_embeddings,
    )


def sized_config(teacher: "PreTrainedConfig", student: Shape, layers: tuple[int, ...]) -> "PreTrainedConfig":
    """The teacher's configuration with the student's sizes; kinds of attention go with the layers that stay."""
    if teacher.model_type == "gpt_neox" and student.width != student.heads * student.head_dim:
        raise ConfigError(
            f"a GPT-NeoX model's width is its heads times their size; {student.width} is not {student.heads} x "
            f"{student.head_dim}. Cut width and heads alike"
        )
    values = teacher.to_dict()
    sizes = {
        "num_hidden_layers": student.layers,
        "hidden_size": student.width,
        "intermediate_size": student.ffn,
        "num_attention_heads": student.heads,
        "num_key_value_heads": student.kv_heads,
        "head_dim": student.head_dim,
        "vocab_size": student.vocab,
        "tie_word_embeddings": student.tied,
    }
    if teacher.model_type == "gpt_neox":
        del sizes["num_key_value_heads"], sizes["head_dim"]
    values |= sizes | {"max_position_embeddings": student.context}
    if values.get("layer_types"):
        values["layer_types"] = [values["layer_types"][i] for i in layers]
    return type(teacher).from_dict(values)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Scores of all units; larger matters more, comparable within one axis of one layer."""

    by: str
    windows: int
    layers: "NDArray[np.float64]"
    """Shape (layers,)."""
    width: "NDArray[np.float64]"
    """Shape (D,)."""
    heads: "NDArray[np.float64]"
    """Shape (layers, H)."""
    ffn: "NDArray[np.float64]"
    """Shape (layers, F)."""


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
        layers=tuple(range(first, first + student.layers)),
        width=tuple(range(student.width)),
        heads=(tuple(range(student.heads)),) * student.layers,
        ffn=(tuple(range(student.ffn)),) * student.layers,
    )


def ranked_cut(teacher: Shape, student: Shape, scores: Importance) -> Cut:
    """The cut that keeps the units that matter most, in the teacher's order.

    Heads are ranked by whole groups of those that share keys and values, by the mean over the group; where the
    student has a key-value head per query head, one by one.
    """
    check_cut(teacher, student)
    depth = teacher.layers
    wanted = (depth,), (teacher.width,), (depth, teacher.heads), (depth, teacher.ffn)
    got = scores.layers.shape, scores.width.shape, scores.heads.shape, scores.ffn.shape
    if got != wanted:
        raise ConfigError(f"importance of another model: its scores have the shapes {got}, the teacher {wanted}")
    layers = _top(scores.layers, student.layers)
    group = student.heads // student.kv_heads
    heads = []
    for layer in layers:
        groups = scores.heads[layer].reshape(-1, group).mean(axis=1)
        heads.append(tuple(group * g + h for g in _top(groups, student.heads // group) for h in range(group)))
    return Cut(
        layers=layers,
        width=_top(scores.width, student.width),
        heads=tuple(heads),
        ffn=tuple(_top(scores.ffn[layer], student.ffn) for layer in layers),
    )


def _top(scores: "NDArray[np.float64]", count: int) -> Indices:
    """The largest scores' indices, ascending; of equals the first."""
    return tuple(sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:count]))


def check_cut(teacher: Shape, student: Shape, *, name: str = "the teacher", label: str = "the student") -> None:
    """Refuse a student that is no part of its teacher.

    Raises:
        ConfigError: it is larger along an axis, its heads are of another size or grouped otherwise, or it reads more
            context.
    """
    if misfit := next(_misfits(teacher, student), None):
        raise ConfigError(f"{label} cannot be cut out of {name}: {misfit}")


def _misfits(teacher: Shape, student: Shape) -> Iterator[str]:
    """Why a student is no part of its teacher, and what to do."""
    for axis in AXES:
        theirs, ours = getattr(teacher, axis), getattr(student, axis)
        # where every query head has a key-value head it gets a copy of the one that it used
        if ours > theirs and not (axis == "kv_heads" and student.kv_heads == student.heads):
            yield (
                f"it has {ours} {axis}, its teacher {theirs}. A pruned student is no larger than its teacher along any "
                "axis: choose a smaller student or a larger teacher"
            )
    if student.head_dim != teacher.head_dim:
        yield (
            f"heads are cut whole, and its teacher's have {teacher.head_dim} dimensions, its own {student.head_dim}. "
            f"Set training.head_dim = {teacher.head_dim}"
        )
    if student.width % student.heads:
        yield (
            f"width {student.width} is no multiple of its {student.heads} heads, which transformers wants of a Llama"
        )
    group, theirs = student.heads // student.kv_heads, teacher.heads // teacher.kv_heads
    if group not in (1, theirs):
        yield (
            f"{group} of its query heads share keys and values, {theirs} of its teacher's. Groups are cut whole: "
            f"{theirs}, or 1 (a copy of keys and values for every head)"
        )
    for axis, what in (("context", "context"), ("vocab", "tokens of vocabulary")):
        ours, theirs = getattr(student, axis), getattr(teacher, axis)
        if ours > theirs:
            yield f"{ours} {what}, but the teacher has {theirs}"


def check_indices(cut: Cut, teacher: Shape, student: Shape) -> None:
    """Refuse indices that are not those of a cut from this teacher to this student."""
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
        raise ConfigError(f"no student can be cut out of {name}: {reason}. Choose another teacher, or init = 'fresh'")
    return family_shape(config, name)


MULTIPLE = 8
"""Widths and FFNs are multiples of it: tensor cores want 8 in half precision, tensor parallelism more."""
DEPTH_SHARE = 0.25
"""Of the logarithm of a cut beyond a third, what comes off the depth: our choice, after Minitron (see above)."""
WITHIN = 0.02
"""How far from the wanted size a shape may be, if any rounding allows."""

Count = Callable[[Shape], int]


def shrink(teacher: Shape, params: float, count: Count, *, multiple: int = MULTIPLE, square: bool = False) -> Shape:
    """The shape nearest to a number of non-embedding parameters.

    Args:
        count: N of a shape of the teacher's family.
        square: whether the family needs width = heads x head size (GPT-NeoX).

    Raises:
        ConfigError: larger than the teacher, or no shape within a factor 1.5.
    """
    whole = count(teacher)
    if not 0 < params <= whole * (1 + 1e-9):
        raise ConfigError(f"{params:g} non-embedding parameters are not between 0 and the teacher's {whole:,}")
    if params >= whole * (1 - 1e-9):
        return teacher
    keep = params / whole
    if keep >= 2 / 3:
        layers, depths = teacher.layers, {teacher.layers}
    else:
        layers = max(1, round(teacher.layers * keep**DEPTH_SHARE))
        depths = {layers, min(layers + 1, teacher.layers), max(layers - 1, 1)}
    around = (_of_depth(teacher, depth, params, count, multiple, square) for depth in depths)
    found = [shape for shapes in around for shape in shapes]
    best = min(found, key=lambda shape: _misfit(teacher, shape, params, count, layers), default=None)
    if best is None or not 1 / 1.5 < count(best) / params < 1.5:
        nearest = "none" if best is None else f"the nearest has {count(best):,}"
        raise ConfigError(
            f"no shape of {params:,.0f} non-embedding parameters can be cut out of {teacher.layers} layers of width "
            f"{teacher.width} in multiples of {multiple} ({nearest}). Choose another size or a smaller multiple"
        )
    return best


def _of_depth(teacher: Shape, layers: int, params: float, count: Count, multiple: int, square: bool) -> Iterator[Shape]:
    """Shapes of a depth: every number of whole head groups, widths around the same share, the FFN that fits."""
    group = teacher.heads // teacher.kv_heads
    for groups in range(1, teacher.kv_heads + 1):
        heads = groups * group
        share = heads / teacher.heads
        step = math.lcm(multiple, heads)
        near = math.floor(share * teacher.width / step)
        around = {min(k * step, teacher.width) for k in (near, near + 1) if k}
        widths = {heads * teacher.head_dim} if square else around
        for width in widths:
            if width % heads or width > teacher.width:
                continue
            shape = replace(teacher, layers=layers, heads=heads, kv_heads=groups, width=width)
            per = (count(replace(shape, ffn=2 * multiple)) - count(replace(shape, ffn=multiple))) / multiple
            room = (params - count(replace(shape, ffn=multiple))) / per + multiple
            low, high = multiple * math.floor(room / multiple), multiple * math.ceil(room / multiple)
            for ffn in {low, high, teacher.ffn}:
                if multiple <= ffn <= teacher.ffn:
                    yield replace(shape, ffn=ffn)


def _misfit(teacher: Shape, shape: Shape, params: float, count: Count, layers: int) -> float:
    """Size first, beyond what rounding explains; then equal shares on the three axes, and the depth meant."""
    miss = abs(math.log(count(shape) / params))
    shares = [math.log(getattr(shape, axis) / getattr(teacher, axis)) for axis in ("width", "heads", "ffn")]
    depth = abs(math.log(shape.layers / layers))
    return 20 * max(0.0, miss - WITHIN) + miss + max(shares) - min(shares) + depth


def advice(keep: float) -> str:
    """What is known of cuts of this size: keep is the share of non-embedding parameters that stays.

    Source:
        NVIDIA Model-Optimizer guide, Minitron, Sheared-LLaMA.
    """
    cut = 1 - keep
    if cut <= 1 / 3:
        return "up to a third in one shot recovers well; about 1e11 tokens were used at 4B (arXiv 2408.11796)"
    if cut <= 1 / 2:
        return "a third to a half in one shot recovers with more tokens than a smaller cut"
    steps = max(2, math.ceil(math.log(keep) / math.log(0.7)))
    sizes = " -> ".join(f"{keep ** (i / steps):.0%}" for i in range(1, steps + 1))
    text = (
        "more than half in one shot is beyond what is known to recover well; a cascade would cut to "
        f"{sizes}, distilling between"
    )
    return text + ("; compare with a fresh student first" if cut > 3 / 4 else "")
