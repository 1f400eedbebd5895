"""Who pays for the teacher: the total-compute objective, its four named scenarios, and families of students.

    C = 3 F(N_S) D_S + F(N_T) (delta_Lgt D_S + delta_Pre 3 D_T)

Source: arXiv 2502.08606v2, total-compute objective. Everything here takes
forward FLOP per token, from a shape (flops.py) or from N (family.py); arrays broadcast.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from distillaw.accounting.flops import TRAINING_FACTOR, DistillationFlops
from distillaw.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CostShares:
    """Which share of the teacher's costs a student pays, each in [0, 1]."""

    delta_lgt: float
    """Share of the teacher's forward passes over the student's tokens."""
    delta_pre: float
    """Share of the teacher's pretraining."""

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1]."""
        for name, value in (("delta_lgt", self.delta_lgt), ("delta_pre", self.delta_pre)):
            if not 0 <= value <= 1:
                raise ConfigError(
                    f"{name} = {value:g}: it is the share of a teacher cost paid here and lies in [0, 1]; "
                    "write 1/n for a cost shared by n students"
                )


class Scenario(Enum):
    """The four corners of (delta_Lgt, delta_Pre), as the paper names them."""

    BEST_CASE = CostShares(0.0, 0.0)
    """Teacher and logits free, or spread over very many uses."""
    INFERENCE = CostShares(1.0, 0.0)
    """The teacher exists; its logits must be computed."""
    PRETRAINING = CostShares(0.0, 1.0)
    """The teacher must be trained; its logits are stored or otherwise free."""
    PRETRAINING_INFERENCE = CostShares(1.0, 1.0)
    """Everything is paid."""


def total_compute(
    *,
    student_forward: float,
    student_tokens: float,
    teacher_forward: float = 0.0,
    teacher_tokens: float = 0.0,
    shares: CostShares = Scenario.PRETRAINING_INFERENCE.value,
) -> DistillationFlops:
    """C by part, in FLOP.

    Args:
        student_forward: F(N_S), FLOP per token.
        student_tokens: D_S.
        teacher_forward: F(N_T), FLOP per token; 0 without a teacher.
        teacher_tokens: D_T.
        shares: who pays; `Scenario.X.value`, or `amortised(n, ...)`.
    """
    return DistillationFlops(
        student_training=TRAINING_FACTOR * student_forward * student_tokens,
        teacher_logits=shares.delta_lgt * teacher_forward * student_tokens,
        teacher_training=shares.delta_pre * TRAINING_FACTOR * teacher_forward * teacher_tokens,
    )


def amortised(students: int, *, pretraining_paid: bool = True, logits: str = "own") -> CostShares:
    """Shares of one of `students` equal students (docs/accounting.md; the paper has one student).

    Args:
        students: n, students that use the teacher.
        pretraining_paid: False if the teacher was there anyway.
        logits: `own`, each student runs the teacher; `shared`, one pass feeds all (or is stored once and
            re-read: add the storage); `free`, they exist.
    """
    if students < 1:
        raise ConfigError(f"students = {students}: at least one student uses the teacher")
    by_kind = {"own": 1.0, "shared": 1 / students, "free": 0.0}
    if logits not in by_kind:
        raise ConfigError(f"logits = {logits!r}: one of {', '.join(by_kind)}")
    return CostShares(by_kind[logits], 1 / students if pretraining_paid else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentFamily:
    """Compute of a family of students of one teacher, in FLOP: the three numbers to report."""

    total: float
    """C_family: all students, the logits, the teacher."""
    marginal: float
    """One more student like the last on the same tokens: its training, and its logits where not shared."""
    without_teacher: float
    """The same students trained on the same tokens without a teacher."""


def family_compute(
    *,
    student_forwards: Sequence[float],
    student_tokens: Sequence[float],
    teacher_forward: float,
    teacher_tokens: float = 0.0,
    shared_logits: bool = True,
) -> StudentFamily:
    """Compute of unlike students of one teacher: the family is counted, then divided if at all.

        C_family = sum_i 3 F(N_i) D_i + F(N_T) (D_logits + 3 D_T)
        D_logits = max_i D_i if all read prefixes of one token stream, sum_i D_i if each has its own

    Args:
        student_forwards: F(N_i), FLOP per token.
        student_tokens: D_i.
        teacher_forward: F(N_T).
        teacher_tokens: D_T to charge; 0 if the teacher exists.
        shared_logits: whether one teacher pass feeds all students.
    """
    if not student_forwards or len(student_forwards) != len(student_tokens):
        raise ConfigError(
            f"{len(student_forwards)} students and {len(student_tokens)} token counts: give one of each per student"
        )
    training = [TRAINING_FACTOR * f * d for f, d in zip(student_forwards, student_tokens, strict=True)]
    logit_tokens = max(student_tokens) if shared_logits else sum(student_tokens)
    return StudentFamily(
        total=sum(training) + teacher_forward * (logit_tokens + TRAINING_FACTOR * teacher_tokens),
        marginal=training[-1] + (0.0 if shared_logits else teacher_forward * student_tokens[-1]),
        without_teacher=sum(training),
    )


def break_even_students(*, supervised: float, distilled: float, teacher_once: float) -> int | None:
    """The smallest number of students for which one teacher costs less than none.

        smallest n with  teacher_once + n distilled < n supervised

    Args:
        supervised: FLOP of one supervised student that reaches the loss wanted.
        distilled: FLOP of one distilled student that reaches it, with what it pays of the logits.
        teacher_once: FLOP paid once: the teacher's training, and logits that all students share.

    Returns:
        n, or None if a distilled student alone costs no less than a supervised one.
    Source:
        docs/accounting.md. The costs come from laws; report n as the band that their intervals give.
    """
    if min(supervised, distilled, teacher_once) < 0 or not math.isfinite(supervised + distilled + teacher_once):
        raise ConfigError("costs must be finite and not negative")
    if distilled >= supervised:
        return None
    return math.floor(teacher_once / (supervised - distilled)) + 1
