"""What each option costs, FLOP by part, and what a budget buys.

    C = 3 F(N_S) D_S + F(N_T) (delta_Lgt D_S + delta_Pre 3 D_T) + F(N_S) D_serving

Costs follow arXiv 2502.08606v2. Training a teacher is shared by the students it serves,
and so are logits that are stored. An existing teacher's training is paid already unless the scenario says otherwise.
"""

import math

import numpy as np

from distillaw.accounting.flops import TRAINING_FACTOR
from distillaw.accounting.scenarios import CostShares
from distillaw.laws.base import Array
from distillaw.laws.published import published
from distillaw.planning.situation import SMALLEST_RATIO, Situation, Teacher, forward_curve, forward_flop
from distillaw.planning.starts import cut_source, log_head_start


def shares_of(situation: Situation, teacher: Teacher | None) -> CostShares:
    """(delta_Lgt, delta_Pre) of one student: what it pays of the teacher's logits and training."""
    if teacher is None:
        return CostShares(0.0, 0.0)
    shares = situation.cost_shares
    n = situation.students_served
    logits = shares.delta_lgt / (n if situation.logits == "stored" else 1)
    training = shares.delta_pre if teacher.exists else 1.0
    return CostShares(logits, training / n)


def _hides_cost(situation: Situation, teacher: Teacher | None) -> bool:
    """True where this student pays for a teacher whose price nobody knows: its size, or the tokens of its training."""
    if teacher is None:
        return False
    shares = shares_of(situation, teacher)
    if teacher.params is None:
        return max(shares.delta_lgt, shares.delta_pre) > 0
    return teacher.tokens is None and shares.delta_pre > 0


def tokens_for(situation: Situation, params: float, teacher: Teacher | None) -> float | None:
    """Tokens that a student of this size can have from a teacher: given, or bought; None where it buys none.

    Where tokens are given nobody pays for training a teacher: none that this student would have to pay for.
    """
    if situation.student_tokens is not None:
        return situation.student_tokens if shares_of(situation, teacher).delta_pre == 0 else None
    if _hides_cost(situation, teacher):
        return None
    assert situation.compute is not None
    tokens = float(tokens_on(situation, situation.compute, forward_flop(situation, params), teacher))
    return tokens if tokens > SMALLEST_RATIO * params else None


def tokens_bought(situation: Situation, sizes: Array, teacher: Teacher | None) -> Array:
    """The same for many sizes; nothing where the teacher's size is unknown, negative where it costs too much."""
    if _hides_cost(situation, teacher):
        return np.zeros(len(sizes))
    assert situation.compute is not None
    return tokens_on(situation, situation.compute, forward_curve(situation, sizes), teacher)


def tokens_on(
    situation: Situation, compute: Array | float, student: Array | float, teacher: Teacher | None
) -> Array:
    """D = (C - serving - teacher training) / (3 F(N_S) + delta_Lgt F(N_T)); of the shape that both broadcast to.

    Args:
        situation: who pays for what.
        compute: C, FLOP.
        student: F(N_S), FLOP per token.
        teacher: of known size, or free, or None.
    """
    left, each = compute - student * situation.inference_tokens, TRAINING_FACTOR * student
    if teacher is not None and teacher.params is not None:
        forward, shares = _forward(situation, teacher), shares_of(situation, teacher)
        left = left - shares.delta_pre * TRAINING_FACTOR * forward * (teacher.tokens or 0.0)
        each = each + shares.delta_lgt * forward
    return np.asarray(left / each)


def _forward(situation: Situation, teacher: Teacher) -> float:
    """FLOP per token of a teacher of known size: of all its models."""
    assert teacher.params is not None
    return teacher.models * forward_flop(situation, teacher.params)


def bill(
    situation: Situation,
    params: float,
    tokens: float,
    teacher: Teacher | None,
    *,
    distilled_share: float = 1.0,
) -> dict[str, float | None]:
    """FLOP by part of training a student of this size on these tokens.

    Args:
        situation: who pays for what.
        params: N_S.
        tokens: D_S in all.
        teacher: or None.
        distilled_share: share of the tokens that come with the teacher's targets.

    Returns:
        Parts at full cost; `total` counts the shares that this student pays. None where an unknown teacher size
        hides a part.
    """
    student = forward_flop(situation, params)
    parts: dict[str, float | None] = {
        "student_training": TRAINING_FACTOR * student * tokens,
        "teacher_logits": 0.0,
        "teacher_training": 0.0,
    }
    if situation.inference_tokens:
        parts["serving"] = student * situation.inference_tokens
    own = TRAINING_FACTOR * student * tokens + student * situation.inference_tokens
    if teacher is None:
        return {**parts, "total": own}
    if teacher.params is None:
        total = None if _hides_cost(situation, teacher) else own
        return {**parts, "teacher_logits": None, "teacher_training": None, "total": total}
    forward, shares = _forward(situation, teacher), shares_of(situation, teacher)
    logits, training = forward * tokens * distilled_share, TRAINING_FACTOR * forward * (teacher.tokens or 0.0)
    total = (
        None
        if _hides_cost(situation, teacher)
        else own + shares.delta_lgt * logits + shares.delta_pre * training
    )
    known = training if teacher.tokens is not None else None
    return {**parts, "teacher_logits": logits, "teacher_training": known, "total": total}


def effective_tokens(situation: Situation, tokens: Array | float) -> Array:
    """Fresh tokens that these are worth where the data must be repeated (Muennighoff et al. 2023)."""
    D = np.asarray(tokens, dtype=np.float64)
    if situation.unique_tokens is None or np.all(D <= situation.unique_tokens):
        return D
    correction = published("muennighoff2023").repetition
    assert correction is not None
    return correction.effective_tokens(tokens=D, unique_tokens=situation.unique_tokens)


def student_tokens_worth(situation: Situation, tokens: Array | float, *, taught: bool) -> Array:
    """Fresh tokens after which a random start stands where this student does: repeats count less, cuts begin ahead."""
    worth = effective_tokens(situation, tokens)
    source = cut_source(situation) if situation.start == "pruned" else None
    if source is None:
        return worth
    ahead, sd = log_head_start(situation, source, taught=taught)
    return worth + math.exp(ahead + situation.start_shift * sd)
