"""Captions and words of the capacity gap and the token curves."""

from collections.abc import Mapping, Sequence

from distillaw.figures.losses import draw_gap, draw_tokens
from distillaw.figures.style import SERIES
from distillaw.figures.teachers import TeacherStyle
from distillaw.fitting.result import FitResult
from distillaw.planning.measured import DesignPoint
from distillaw.report.picture import Picture
from distillaw.runs.record import budget_text


def gap_picture(cells: Sequence[DesignPoint]) -> Picture:
    """Student loss against teacher loss.

    Raises:
        DataError: no cell has been run with a teacher.
    """
    words = " ".join(_gap_words(cell) for cell in cells if cell.taught)
    return Picture(
        name="capacity-gap", title="Student loss against teacher loss", figure=draw_gap(cells),
        alt=f"Student loss against teacher loss. {words}",
        caption="Each panel is one student size and token budget; better teachers stand to the right. A capacity gap "
        "is a curve that turns up again at the right. Points are means over seeds (small dots: single seeds), bars "
        f"the 90 % interval of the {difference(cells)} from the same student without a teacher (dashed). The best "
        "teacher is filled; of more than four, only the weakest, the best and the strongest are named. The vertical "
        "scales differ.",
    )  # fmt: skip


def difference(cells: Sequence[DesignPoint]) -> str:
    """What a gain's interval is of."""
    are_paired = all(cell.is_paired for cell in cells)
    return "paired difference" if are_paired else "difference (runs compared as if independent)"


def _gap_words(cell: DesignPoint) -> str:
    pairs = ", ".join(f"{t.loss:.3f} from the {t.teacher} of loss {t.teacher_loss:.3f}" for t in cell.taught)
    said = f"{cell.label} on {budget_text(cell.tokens)} tokens: {cell.alone:.3f} without a teacher"
    return f"{said}, {pairs}." if pairs else f"{said}."


def tokens_picture(
    cells: Sequence[DesignPoint],
    styles: Mapping[str, TeacherStyle],
    *,
    laws: Mapping[str, FitResult] | None = None,
) -> Picture:
    """Student loss against tokens; arguments as of `draw_tokens`.

    Raises:
        DataError: there are no cells.
    """
    how = "Lines join the measured points" if not laws else LAW_CURVES
    return Picture(
        name="token-curves", title="Loss against tokens, distilled and not",
        figure=draw_tokens(cells, styles, laws=laws),
        alt="Student loss against training tokens. " + " ".join(_gap_words(cell) for cell in cells),
        caption="“No teacher” with the 90 % interval over seeds; from each teacher with the 90 % interval of the "
        f"{difference(cells)} from no teacher, seeds and held-out documents. {how}. Where the two meet, the teacher no "
        "longer helps. The standard errors of single losses are in the table of runs." + repeated_colors(styles),
    )  # fmt: skip


def repeated_colors(styles: Mapping[str, TeacherStyle]) -> str:
    """How teachers are told apart where they are more than colours, as a caption goes on."""
    if len({style.marker for style in styles.values()}) < 2:
        return ""
    return (
        f" More than {len(SERIES)} teachers: colours come again with another marker, the same in all figures."
    )


LAW_CURVES = (
    "Curves are the laws fitted on this study, with the 90 % interval of a new run; dashed and hatched outside the "
    "fitted range"
)
