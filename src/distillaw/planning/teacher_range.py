"""How much the teacher's size matters for this student: the best size, and the range that is as good.

The bottom of the curve is flat (docs/gap.md); a verdict that names a teacher says how flat.
"""

from dataclasses import dataclass

from distillaw.planning.bills import effective_tokens
from distillaw.planning.evidence import Strategy
from distillaw.planning.situation import Situation
from distillaw.planning.teacher_curve import FLAT, TeacherCurve, teacher_curve
from distillaw.planning.voices import Voice
from distillaw.quantities import format_count

TOKENS_PER_PARAM = 20.0
"""Of teachers whose training tokens are not known: about compute-optimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRange:
    """The curve over teacher sizes, for teachers trained like the one chosen."""

    curve: TeacherCurve
    """In the nats of the law's text."""
    tokens_per_param: float
    scale: float = 1.0
    """The user's losses over the law's."""

    def to_json(self) -> dict[str, object]:
        """Best size, flat range, what other sizes cost, and the curve itself; losses on the user's text."""
        best, scale = self.curve.best, self.scale
        return {
            "best": best.at, "student_loss": scale * best.student_loss, "at_edge": best.at_edge,
            "within": FLAT, "flat": best.flat.to_json(), "tokens_per_param": self.tokens_per_param,
            "costs": [cost.scaled(scale).to_json() for cost in self.curve.costs],
            "sizes": self.curve.sizes.tolist(), "losses": (scale * self.curve.mean).tolist(),
        }  # fmt: skip

    @property
    def sentence(self) -> str:
        """For people."""
        best, flat = self.curve.best, self.curve.best.flat
        low = "the smallest searched" if flat.is_open_below else format_count(flat.lower)
        high = "the largest searched" if flat.is_open_above else format_count(flat.upper)
        edge = " or beyond" if best.at_edge else ""
        return (
            f"Teacher size: of teachers trained on {format_count(self.tokens_per_param)} tokens per parameter the best "
            f"has {format_count(best.at)}{edge}; {low} to {high} are within {100 * FLAT:.1f} % of the loss."
        )


def teacher_range(situation: Situation, voice: Voice, row: Strategy, *, scale: float) -> TeacherRange:
    """The curve for the student of a strategy, over teachers trained on as many tokens per parameter as its own.

    Args:
        situation: the question.
        voice: the law asked.
        row: the strategy.
        scale: the user's losses over the law's.
    """
    assert voice.ensemble is not None
    teacher = row.teacher
    known = teacher is not None and teacher.params and teacher.tokens
    ratio = teacher.tokens / teacher.params if known else TOKENS_PER_PARAM  # type: ignore[union-attr, operator]
    tokens = float(effective_tokens(situation, row.student_tokens))
    curve = teacher_curve(voice.ensemble, student_params=row.student_params, student_tokens=tokens,
                          teacher_tokens_per_param=ratio)  # fmt: skip
    return TeacherRange(curve=curve, tokens_per_param=ratio, scale=scale)
