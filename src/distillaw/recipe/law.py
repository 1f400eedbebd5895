"""What is known before anything is spent: the student's size, what the laws say of its teacher, what it will cost.

The law of capacity gap is consulted for students cut from their teacher; the distillation laws know fresh students
only, and say by how much the case lies outside the runs behind them. Torch-free but for the teacher's configuration.
"""

from dataclasses import asdict
from typing import Any

from distillaw.accounting.flops import forward_flops
from distillaw.errors import ConfigError
from distillaw.laws.published import published
from distillaw.models.cut import advice
from distillaw.models.prune import Wishes, student_shape
from distillaw.models.source import locate
from distillaw.planning.gap import GapQuestion, capacity_gap
from distillaw.recipe.spec import MinimaSpec

RATIO = "zhang2023-constant-ratio"


def consult_laws(spec: MinimaSpec) -> dict[str, Any]:
    """The law stage's record.

    Raises:
        CacheError: no teacher there.
        ConfigError: it cannot be cut so.
    """
    source = locate(spec.teacher)
    line = published(RATIO).capacity_gap
    assert line is not None
    keep = 1 / line.slope if spec.params is None and spec.keep is None else spec.keep
    whole, shape, teacher_params, params = student_shape(
        source.config(), Wishes(params=spec.params, keep=keep), source.name
    )
    share = params / teacher_params
    opinions, disagreement = _opinions(spec, params)
    forward = {name: forward_flops(s, context=spec.training.context).total for name, s in
               (("student", shape), ("teacher", whole))}  # fmt: skip
    arms = (2 + bool(spec.smaller)) * (2 if spec.alone else 1)
    return {
        "teacher": source.name, "teacher_params": teacher_params, "params": params, "keep": share,
        "ratio": teacher_params / params, "teacher_shape": asdict(whole), "shape": asdict(shape),
        "rule": f"teacher = {line.slope:g} x student for students cut from their teacher (arXiv 2311.07052; no "
        "interval is published; its parameters are all weights, here non-embedding ones)",
        "best_teacher_by_rule": line.slope * params, "advice": advice(share),
        "opinions": opinions, "disagreement": disagreement,
        "cost": {"arms": arms, "tokens": spec.tokens, "student_flop": 3 * forward["student"] * spec.tokens * arms,
                 "teacher_flop": forward["teacher"] * spec.tokens},
    }  # fmt: skip


def _opinions(spec: MinimaSpec, params: float) -> tuple[list[object], list[str]]:
    """What the laws say of the teacher's size, and where they disagree; or why none of them was asked.

    A recipe may be tried on fewer tokens than any law speaks of; that stops no recipe.
    """
    try:
        answer = capacity_gap(GapQuestion(
            student_params=params, student_tokens=float(spec.tokens), margin=0.005,
            teacher_tokens=spec.teacher_tokens or None, teacher_tokens_per_param=None if spec.teacher_tokens else 20.0,
        ))  # fmt: skip
    except ConfigError as error:
        return [], [f"no law was asked: {error}"]
    return [opinion.to_json(params) for opinion in answer.opinions], list(answer.disagreement)
