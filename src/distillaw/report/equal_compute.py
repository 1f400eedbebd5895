"""Caption and words of loss against student size at equal compute."""

from collections.abc import Mapping, Sequence

from distillaw.figures.equal_compute import IsoBudget, IsoCurve, draw_isoflop
from distillaw.figures.teachers import TeacherStyle
from distillaw.fitting.result import FitResult
from distillaw.quantities import flop_text, format_count
from distillaw.report.losses import LAW_CURVES, repeated_colors
from distillaw.report.picture import Picture
from distillaw.runs.record import budget_text

TITLE = "Which size? Loss at equal compute"


def isoflop_picture(
    budgets: Sequence[IsoBudget],
    styles: Mapping[str, TeacherStyle],
    *,
    laws: Mapping[str, FitResult] | None = None,
) -> Picture:
    """Loss against size; arguments as of `draw_isoflop`.

    Raises:
        DataError: no three sizes meet at one compute.
    """
    how = "Lines join them" if not laws else LAW_CURVES
    return Picture(
        name="isoflop", title=TITLE, figure=draw_isoflop(budgets, styles, laws=laws),
        alt="Student loss against student size at equal compute. " + " ".join(isoflop_sentences(budgets)),
        caption="Each panel is one compute: training of the student and forward passes of its teacher, whose own "
        "training is not counted; a smaller student reads more tokens. Dots are the runs, read off between their "
        "token budgets, rings up to a quarter beyond them; bars: 90 % interval over seeds and of that reading "
        f"(held-out documents are the same for all). {how}. At most four teachers are drawn, the best ones."
        + repeated_colors(styles),
    )  # fmt: skip


def isoflop_sentences(budgets: Sequence[IsoBudget]) -> list[str]:
    """Which size was best at each compute, without a teacher and with the best one."""
    return [_sentence(budget) for budget in budgets]


def _sentence(budget: IsoBudget) -> str:
    said = f"At {flop_text(budget.compute)}: {_best(budget.curves[0])} without a teacher"
    taught = min(budget.curves[1:], key=lambda c: c.best.loss, default=None)
    return f"{said}; {_best(taught)} from the {taught.name}." if taught else f"{said}."


def _best(curve: IsoCurve) -> str:
    best, sizes = curve.best, sorted(p.params for p in curve.points)
    edge = {sizes[0]: ", the smallest that reaches it", sizes[-1]: ", the largest"}.get(best.params, "")
    return (
        f"best size {format_count(best.params)} on {budget_text(best.tokens)} tokens ({best.loss:.3f} ± "
        f"{best.half:.3f} nats/token{edge})"
    )
