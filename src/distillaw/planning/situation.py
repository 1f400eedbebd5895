"""What the user has: a student, tokens or compute, teachers, and who pays for what. Bad input stops here.

Costs follow arXiv 2502.08606v2 (spec accounting section 4): 3 F(N_S) per token of training, F(N_T) per token
of teacher logits, 3 F(N_T) D_T for a teacher that must be trained first.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from distillaw.accounting.flops import forward_flops
from distillaw.accounting.scenarios import Scenario
from distillaw.accounting.shapes import ASPECT, HEAD_DIM, shape_for_params
from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean, format_count, format_flop

SCENARIOS: Mapping[str, tuple[float, float]] = {
    s.name.lower().replace("_", "-"): (s.value.delta_lgt, s.value.delta_pre) for s in Scenario
}
"""Name -> (delta_Lgt, delta_Pre): whether this student pays for the teacher's logits and for its training."""

SMALLEST_RATIO = 0.1
"""Fewest tokens per parameter that are called training at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A teacher one has or could train. Its loss alone matters to a law; its size matters to the bill."""

    name: str
    params: float | None = None
    """N_T, non-embedding; None if unknown, and then its logits cannot be priced."""
    tokens: float | None = None
    """D_T it was or would be trained on."""
    loss: float | None = None
    """L_T, nats/token against the user's data; None lets each law estimate it from size and tokens."""
    run_id: str | None = None
    """Its run in the study, if it is one."""
    exists: bool = True
    """False if it must be trained first."""

    def __post_init__(self) -> None:
        """Refuse what is not a teacher."""
        for what in ("params", "tokens", "loss"):
            value = getattr(self, what)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"teacher {what} = {value}: it must be positive and finite")
        if self.loss is None and (self.params is None or self.tokens is None):
            raise ConfigError(
                f"teacher {self.name!r}: a law needs its loss, or its size and tokens to estimate the loss; "
                "give --teacher-loss, or both --teacher-params and --teacher-tokens"
            )

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return {"name": self.name, "params": self.params, "tokens": self.tokens, "loss": self.loss,
                "run_id": self.run_id, "exists": self.exists}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """One question: this student, with these tokens or this compute, alone or from one of these teachers?"""

    student_params: float
    """N_S, non-embedding."""
    label: str = ""
    """The student's size as people call it, where that is not the exact count: `0.1M`."""
    student_tokens: float | None = None
    """D_S: the same tokens for every strategy; None with `compute`."""
    compute: float | None = None
    """FLOP: the same bill for every strategy; None with `student_tokens`."""
    teachers: Sequence[Teacher] = ()
    """Empty takes those of the study, or a ladder of compute-optimal ones where there is none."""
    scenario: str = "inference"
    students_served: int = 1
    """Students that share the bill for training a teacher."""
    vocab: int = 32768
    context: int = 4096
    prices: Mapping[float, float] = field(default_factory=dict)
    """Known F(N), FLOP per token, by size: what a study counted; other sizes are counted from a shape."""

    def __post_init__(self) -> None:
        """Refuse what cannot be planned."""
        if (self.student_tokens is None) == (self.compute is None):
            raise ConfigError(
                "give either the student's tokens or its compute (--tokens 20B or --compute 1e21)"
            )
        for what in ("student_params", "student_tokens", "compute"):
            value = getattr(self, what)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{what} = {value}: it must be positive and finite")
        if self.student_params < 1000:
            raise ConfigError(f"student of {self.student_params:g} parameters: write 300M for 300 million")
        if self.scenario not in SCENARIOS:
            hint = did_you_mean(self.scenario, SCENARIOS)
            raise ConfigError(f"unknown cost scenario {self.scenario!r}{hint}; known: {', '.join(SCENARIOS)}")
        if min(self.vocab, self.context) < 1:
            raise ConfigError(
                f"vocab = {self.vocab}, context = {self.context}: both are positive whole numbers"
            )
        if self.students_served < 1:
            raise ConfigError(f"students_served = {self.students_served}: at least the one being planned")
        if self.compute is not None:
            self._check_tokens(
                self.compute / self.training_flop_per_token, f"compute {format_flop(self.compute)}"
            )
        if self.student_tokens is not None:
            self._check_tokens(self.student_tokens, f"{format_count(self.student_tokens)} tokens")

    def _check_tokens(self, tokens: float, given: str) -> None:
        if tokens < SMALLEST_RATIO * self.student_params:
            raise ConfigError(
                f"{given} for a {format_count(self.student_params)} student is {tokens / self.student_params:.2g} "
                f"tokens per parameter; below {SMALLEST_RATIO} nothing is learnt that a law or a study describes. "
                "Use a smaller student or a larger budget"
            )

    @property
    def size(self) -> str:
        """The student's size in words: its label, else in millions from 0.1M on."""
        n = self.student_params
        return self.label or (f"{n / 1e6:.3g}M" if 0.9995e5 <= n < 0.9995e6 else format_count(n))

    @property
    def training_flop_per_token(self) -> float:
        """3 F(N_S)."""
        return 3 * self.forward_flop(self.student_params)

    def forward_flop(self, params: float) -> float:
        """F(N), FLOP per token: what the study counted for that size, or a count from the derived shape."""
        for size, flop in self.prices.items():
            if abs(math.log(size / params)) < 1e-6:
                return flop
        return _forward_from_shape(params, self.vocab, self.context)

    def bill(self, teacher: Teacher | None, tokens: float) -> dict[str, float | None]:
        """FLOP by part of training the student on `tokens`; None where an unknown teacher size hides a part.

        `total` counts what the scenario says this student pays.
        """
        logits, training = self._shares(teacher)
        student = self.training_flop_per_token * tokens
        if teacher is None:
            return {
                "student_training": student,
                "teacher_logits": 0.0,
                "teacher_training": 0.0,
                "total": student,
            }
        if teacher.params is None:
            return {
                "student_training": student,
                "teacher_logits": None,
                "teacher_training": None,
                "total": None,
            }
        forward = self.forward_flop(teacher.params)
        parts = {
            "student_training": student, "teacher_logits": forward * tokens,
            "teacher_training": 3 * forward * (teacher.tokens or 0.0),
        }  # fmt: skip
        total = student + logits * parts["teacher_logits"] + training * parts["teacher_training"]
        return {**parts, "total": total}

    def tokens_for(self, teacher: Teacher | None) -> float | None:
        """Tokens this strategy can train on: given, or what the compute pays for; None where it pays for none."""
        if self.student_tokens is not None:
            return self.student_tokens
        assert self.compute is not None
        logits, training = self._shares(teacher)
        left, each = self.compute, self.training_flop_per_token
        if teacher is not None:
            if teacher.params is None:
                return None
            forward = self.forward_flop(teacher.params)
            left -= training * 3 * forward * (teacher.tokens or 0.0)
            each += logits * forward
        return left / each if left > SMALLEST_RATIO * self.student_params * each else None

    def _shares(self, teacher: Teacher | None) -> tuple[float, float]:
        """(delta_Lgt, delta_Pre) of this student: an existing teacher's training is paid already."""
        logits, training = SCENARIOS[self.scenario]
        if teacher is None:
            return 0.0, 0.0
        if not teacher.exists:
            training = 1.0
        return logits, training / self.students_served

    @property
    def comparison(self) -> str:
        """`equal-tokens` or `equal-compute`."""
        return "equal-tokens" if self.student_tokens is not None else "equal-compute"


@lru_cache(maxsize=256)
def _forward_from_shape(params: float, vocab: int, context: int) -> float:
    # Below 50M the package's own small family, above it the family of the paper (width / layers = 128).
    head_dim, aspect = (HEAD_DIM, ASPECT) if params < 5e7 else (128, 128.0)
    shape = shape_for_params(params, vocab=vocab, context=context, head_dim=head_dim, aspect=aspect)
    return forward_flops(shape).total
