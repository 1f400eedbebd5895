"""The shape of a student of a wanted size that can be cut out of its teacher, and how bold that cut is. Torch-free.

Depth costs more than width for the same parameters (Minitron, arXiv 2407.14679), so depth
stays whole up to a cut of a third and takes a quarter of what goes, in logarithms, beyond. Width, heads and FFN are cut
by one share each, which leaves a matrix with the square of it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from distillaw.accounting.shapes import Shape
from distillaw.errors import ConfigError

MULTIPLE = 8
"""Widths and FFNs are multiples of it: tensor cores want 8 in half precision, tensor parallelism more."""
DEPTH_SHARE = 0.25
WITHIN = 0.02
"""How far from the wanted size a shape may be, if any rounding allows."""

Count = Callable[[Shape], int]


def shrink(
    teacher: Shape, params: float, count: Count, *, multiple: int = MULTIPLE, square: bool = False
) -> Shape:
    """The shape nearest to a number of non-embedding parameters.

    Args:
        teacher: what it is cut out of.
        params: wanted N, at most the teacher's.
        count: N of a shape of the teacher's family.
        multiple: width and FFN are multiples of it.
        square: whether the family needs width = heads x head size (GPT-NeoX).

    Raises:
        ConfigError: larger than the teacher, or no shape within a factor 1.5.
    """
    whole = count(teacher)
    if not 0 < params <= whole * (1 + 1e-9):
        raise ConfigError(
            f"{params:g} non-embedding parameters are not between 0 and the teacher's {whole:,}"
        )
    if params >= whole * (1 - 1e-9):
        return teacher
    keep = params / whole
    if keep >= 2 / 3:
        layers, depths = teacher.layers, {teacher.layers}
    else:
        layers = max(1, round(teacher.layers * keep**DEPTH_SHARE))
        depths = {layers, min(layers + 1, teacher.layers), max(layers - 1, 1)}
    found = [
        shape for depth in depths for shape in _of_depth(teacher, depth, params, count, multiple, square)
    ]
    best = min(found, key=lambda shape: _cost(teacher, shape, params, count, layers), default=None)
    if best is None or not 1 / 1.5 < count(best) / params < 1.5:
        nearest = "none" if best is None else f"the nearest has {count(best):,}"
        raise ConfigError(
            f"no shape of {params:,.0f} non-embedding parameters can be cut out of {teacher.layers} layers of width "
            f"{teacher.width} in multiples of {multiple} ({nearest}). Choose another size or a smaller multiple"
        )
    return best


def _of_depth(
    teacher: Shape, layers: int, params: float, count: Count, multiple: int, square: bool
) -> Iterator[Shape]:
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
            for ffn in {
                multiple * math.floor(room / multiple),
                multiple * math.ceil(room / multiple),
                teacher.ffn,
            }:
                if multiple <= ffn <= teacher.ffn:
                    yield replace(shape, ffn=ffn)


def _cost(teacher: Shape, shape: Shape, params: float, count: Count, layers: int) -> float:
    """Size first, beyond what rounding explains; then equal shares on the three axes, and the depth meant."""
    miss = abs(math.log(count(shape) / params))
    shares = [math.log(getattr(shape, axis) / getattr(teacher, axis)) for axis in ("width", "heads", "ffn")]
    return (
        20 * max(0.0, miss - WITHIN) + miss + max(shares) - min(shares) + abs(math.log(shape.layers / layers))
    )


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
