"""What a study says of students: which teacher, how many tokens, which size, what the compute buys.

Each section is a figure with its caption and alternative text, sentences, and the table of its numbers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from distillaw.accounting.scenarios import Scenario
from distillaw.errors import DataError
from distillaw.figures.compute import SCENARIOS, Frontier, Paid, draw_paid, frontier, paid_cells
from distillaw.figures.fits import study_laws
from distillaw.figures.losses import (
    IsoBudget,
    IsoCurve,
    TeacherStyle,
    draw_gap,
    draw_isoflop,
    draw_tokens,
    iso_budgets,
    teacher_styles,
)
from distillaw.figures.starts import StartCell, draw_starts, lowest_point, start_cells
from distillaw.figures.style import SERIES, Z90
from distillaw.fitting.result import FitResult
from distillaw.planning.measured import MeasuredPoint
from distillaw.planning.phrases import percent
from distillaw.quantities import flop_text, format_count, plural, power_flop
from distillaw.report.page import Picture, Section
from distillaw.runs.record import StudyRecord, budget_text
from distillaw.table import Table, number, text

SIZE_TITLE = "Which size? Loss at equal compute"
PAID_TITLE = "What the compute buys: loss against everything paid"
LAW_CURVES = (
    "Curves are the laws fitted on this study, with the 90 % interval of a new run; dashed and hatched outside the "
    "fitted range"
)


def student_sections(record: StudyRecord, cells: Sequence[MeasuredPoint]) -> list[Section]:
    """Student loss by teacher, by tokens, by size and by compute."""
    styles, laws = teacher_styles(record), study_laws(record)
    budgets, bills = iso_budgets(record), paid_cells(record, cells)
    tokens_title = "How many tokens? Loss with and without a teacher"
    sizes = isoflop_sentences(budgets)
    return [
        drawn(
            "Which teacher? Student loss against teacher loss",
            lambda: gap_picture(cells),
            notes=gap_sentences(cells) if any(cell.taught for cell in cells) else (),
            table=lambda: cell_table(cells),
            table_title="The numbers of this and the next picture",
        ),
        *start_sections(start_cells(record)),
        drawn(tokens_title, lambda: tokens_picture(cells, styles, laws=laws)),
        drawn(SIZE_TITLE, lambda: isoflop_picture(budgets, styles, laws=laws), notes=sizes),
        drawn(
            PAID_TITLE,
            lambda: paid_picture(bills, cells),
            notes=paid_sentences(bills),
            table=lambda: paid_table(bills),
            table_title="Every student with its bill",
        ),
    ]


def drawn(
    title: str,
    picture: Callable[[], Picture],
    *,
    notes: Sequence[str] = (),
    table: Callable[[], Table] | None = None,
    table_title: str = "",
) -> Section:
    """A section of one picture and its numbers, or of the sentence that says why there is none."""
    try:
        pictures = [picture()]
    except DataError as error:
        return Section(title=title, notes=(*notes, str(error)))
    numbers = None if table is None else table()
    return Section(title=title, pictures=pictures, notes=notes, table=numbers, table_title=table_title)


# --- which teacher, how many tokens -------------------------------------------------------------------------


def gap_picture(cells: Sequence[MeasuredPoint]) -> Picture:
    """Student loss against teacher loss; DataError: no cell has been run with a teacher."""
    words = " ".join(_gap_words(cell) for cell in cells if cell.taught)
    return Picture(
        name="capacity-gap",
        title="Student loss against teacher loss",
        figure=draw_gap(cells),
        alt=f"Student loss against teacher loss. {words}",
        caption="Each panel is one student size and token budget; better teachers stand to the right. A capacity gap "
        "is a curve that turns up again at the right. Points are means over seeds (small dots: single seeds), bars "
        f"the 90 % interval of the {difference(cells)} from the same student without a teacher (dashed). The best "
        "teacher is filled; of more than four, only the weakest, the best and the strongest are named. The vertical "
        "scales differ.",
    )


def difference(cells: Sequence[MeasuredPoint]) -> str:
    """What a gain's interval is of."""
    are_paired = all(cell.is_paired for cell in cells)
    return "paired difference" if are_paired else "difference (runs compared as if independent)"


def _gap_words(cell: MeasuredPoint) -> str:
    pairs = ", ".join(f"{t.loss:.3f} from the {t.teacher} of loss {t.teacher_loss:.3f}" for t in cell.taught)
    said = f"{cell.label} on {budget_text(cell.tokens)} tokens: {cell.alone:.3f} without a teacher"
    return f"{said}, {pairs}." if pairs else f"{said}."


def gap_sentences(cells: Sequence[MeasuredPoint]) -> list[str]:
    """Whether a capacity gap was seen: a stronger teacher that is worse by more than two standard deviations."""
    asked = [cell for cell in cells if len(cell.taught) >= 3]
    if not asked:
        return ["A capacity gap cannot be judged here: it takes three teachers of one student and token budget."]
    found = [
        f"{cell.label} student on {budget_text(cell.tokens)} tokens: the {gap.strongest} costs {gap.depth:.3f} ± "
        f"{gap.sd:.3f} nats/token against the {gap.best}."
        for cell in asked
        if (gap := cell.gap) is not None and gap.is_established
    ]
    if not found:
        return [
            f"No capacity gap shows: in none of {len(asked)} cells is the strongest teacher worse than another by more "
            "than two standard deviations."
        ]
    lead = (
        f"A capacity gap shows in {len(found)} of {len(asked)} cells: there the strongest teacher is worse than "
        "another by more than two standard deviations."
    )
    return [lead, " ".join(found)]


# --- what students begin from -------------------------------------------------------------------------------


def start_sections(cells: Sequence[StartCell]) -> list[Section]:
    """Loss against the teacher's size and loss in every arm of first weights; none where all students are fresh."""
    if not cells:
        return []
    caption = (
        "Each panel is one student size and token budget, each colour what its students begin from: fresh, random "
        "weights; pruned, cut out of the teacher that teaches them; fixed, all cut out of one reference. Points are "
        "means over the seeds that a start has in common (small dots: single seeds), the lowest filled; dashed: the "
        "same start without a teacher, "
        "pruned ones at the model that they were cut out of. "
    )
    pictures = [
        Picture(
            name=f"starts-by-teacher-{against}",
            title=f"Student loss against teacher {against}, by first weights",
            figure=draw_starts(cells, against=against),
            alt=f"Student loss against teacher {against}. " + " ".join(start_sentences(cells)),
            caption=caption + more,
        )
        for against, more in (
            ("size", "Upright lines: the best teacher, where it is bracketed, with its 90 % interval."),
            ("loss", "Better teachers stand to the right."),
        )
    ]
    title, numbers = "What to begin from? Fresh, pruned and fixed starts", start_table(cells)
    return [
        Section(
            title=title,
            pictures=pictures,
            notes=start_sentences(cells),
            table=numbers,
            table_title="Every student by its start",
        )
    ]


def start_sentences(cells: Sequence[StartCell]) -> list[str]:
    """For each student and arm the best teacher, or why it is not bracketed."""
    return [f"{cell.title}: {'; '.join(_best_words(cell, arm) for arm in cell.taught)}." for cell in cells]


def _best_words(cell: StartCell, arm: str) -> str:
    points, best = cell.taught[arm], cell.best.get(arm)
    if (lowest := lowest_point(points)) is None:
        return f"{arm}: not trained yet"
    teacher = format_count(lowest.teacher_params) if lowest.teacher_params > 0 else "a teacher of unknown size"
    seeds = plural(len(lowest.losses), "seed") if math.isnan(lowest.se) else f"± {lowest.se:.3f} over seeds"
    text = f"{arm}: lowest of {len(points)} {lowest.loss:.3f} nats/token ({seeds}) from {teacher}"
    if best is None:
        return text
    if best.params is None:
        return f"{text}, best teacher not bracketed ({best.problem})"
    low, high = (format_count(end) if end else "open" for end in best.interval)
    ratio = best.params / cell.params
    return f"{text}, best teacher {format_count(best.params)} ({low} to {high}), {ratio:.2g} times the student"


def start_table(cells: Sequence[StartCell]) -> Table:
    """Mean losses of every student of every arm."""
    columns = [
        number("student", attrgetter("label"), sort=attrgetter("params")),
        number("tokens", budget_text),
        text("start"),
        text("taught"),
        number("teacher or source", format_count, missing=""),
        number("its loss", ".4f", missing=""),
        number("seeds"),
        number("loss", ".4f"),
        number("± seeds", ".4f", missing=""),
    ]
    rows = [
        (
            cell,
            cell.tokens,
            arm,
            words,
            point.teacher_params,
            point.teacher_loss,
            len(point.losses),
            point.loss,
            point.se,
        )
        for cell in cells
        for words, arms in (("from its teacher", cell.taught), ("alone", cell.alone))
        for arm, points in arms.items()
        for point in points
    ]
    return Table(columns, rows)


def cell_table(cells: Sequence[MeasuredPoint]) -> Table:
    """Gains of every cell: the numbers of the first two pictures."""
    columns = [
        number("student", attrgetter("label"), sort=attrgetter("params")),
        number("tokens", budget_text),
        text("teacher"),
        number("teacher loss", ".4f"),
        number("seeds"),
        number("loss", ".4f"),
        number("no teacher", ".4f"),
        number("paired gain" if all(cell.is_paired for cell in cells) else "gain", ".4f"),
        number("± 90 %", ".4f"),
        number("best?", percent),
    ]
    rows = []
    for cell in cells:
        for t in cell.taught:
            teacher, seeds = t.teacher.replace(" teacher", ""), len(t.seeds)
            losses = (t.teacher_loss, seeds, t.loss, cell.alone, t.gain, t.half)
            rows.append((cell, cell.tokens, teacher, *losses, t.share_best))
    return Table(columns, rows)


def tokens_picture(
    cells: Sequence[MeasuredPoint], styles: Mapping[str, TeacherStyle], *, laws: Mapping[str, FitResult] | None = None
) -> Picture:
    """Student loss against tokens; arguments as of `draw_tokens`; DataError: there are no cells."""
    how = LAW_CURVES if laws else "Lines join the measured points"
    return Picture(
        name="token-curves",
        title="Loss against tokens, distilled and not",
        figure=draw_tokens(cells, styles, laws=laws),
        alt="Student loss against training tokens. " + " ".join(_gap_words(cell) for cell in cells),
        caption="“No teacher” with the 90 % interval over seeds; from each teacher with the 90 % interval of the "
        f"{difference(cells)} from no teacher, seeds and held-out documents. {how}. Where the two meet, the teacher no "
        "longer helps. The standard errors of single losses are in the table of runs." + repeated_colors(styles),
    )


def repeated_colors(styles: Mapping[str, TeacherStyle]) -> str:
    """How teachers are told apart where they are more than colours, as a caption goes on."""
    if len({style.marker for style in styles.values()}) < 2:
        return ""
    again = "colours come again with another marker, the same in all figures"
    return f" More than {len(SERIES)} teachers: {again}."


# --- which size ---------------------------------------------------------------------------------------------


def isoflop_picture(
    budgets: Sequence[IsoBudget], styles: Mapping[str, TeacherStyle], *, laws: Mapping[str, FitResult] | None = None
) -> Picture:
    """Loss against size; arguments as of `draw_isoflop`; DataError: no three sizes meet at one compute."""
    return Picture(
        name="isoflop",
        title=SIZE_TITLE,
        figure=draw_isoflop(budgets, styles, laws=laws),
        alt="Student loss against student size at equal compute. " + " ".join(isoflop_sentences(budgets)),
        caption="Each panel is one compute: training of the student and forward passes of its teacher, whose own "
        "training is not counted; a smaller student reads more tokens. Dots are the runs, read off between their "
        "token budgets, rings up to a quarter beyond them; bars: 90 % interval over seeds and of that reading "
        f"(held-out documents are the same for all). {LAW_CURVES if laws else 'Lines join them'}. At most four "
        "teachers are drawn, the best ones." + repeated_colors(styles),
    )


def isoflop_sentences(budgets: Sequence[IsoBudget]) -> list[str]:
    """Which size was best at each compute, without a teacher and with the best one."""
    found = []
    for budget in budgets:
        said = f"At {flop_text(budget.compute)}: {_best(budget.curves[0])} without a teacher"
        taught = min(budget.curves[1:], key=lambda curve: curve.best.loss, default=None)
        found.append(f"{said}; {_best(taught)} from the {taught.name}." if taught else f"{said}.")
    return found


def _best(curve: IsoCurve) -> str:
    best, sizes = curve.best, sorted(p.params for p in curve.points)
    edge = {sizes[0]: ", the smallest that reaches it", sizes[-1]: ", the largest"}.get(best.params, "")
    return (
        f"best size {format_count(best.params)} on {budget_text(best.tokens)} tokens ({best.loss:.3f} ± "
        f"{best.half:.3f} nats/token{edge})"
    )


# --- what the compute buys ----------------------------------------------------------------------------------


def paid_picture(paid: Sequence[Paid], cells: Sequence[MeasuredPoint]) -> Picture:
    """Loss against compute; `cells` are those that the bills are of.

    DataError: no student has been run both with and without a teacher.
    """
    return Picture(
        name="pareto",
        title=PAID_TITLE,
        figure=draw_paid(paid),
        alt="Student loss against compute paid. " + " ".join(paid_sentences(paid)),
        caption="Left, the student's training and its teacher's forward passes are paid; right, the teacher's training "
        "as well, as if for this one student. Every run pays for itself: no trunk is shared. Bars: 90 % interval, "
        f"without a teacher over seeds, distilled of the {difference(cells)} from no teacher. Filled: not beaten by "
        "its own colour at equal or less compute; steps join them.",
    )


def paid_sentences(paid: Sequence[Paid]) -> list[str]:
    """Where distilled students are ahead of what no teacher gives for as much, where behind, and where nobody knows."""
    found = [frontier(paid, scenario) for scenario in SCENARIOS]
    return [_paid_sentence(one) for one in found if one.taught and one.alone]


def _paid_sentence(found: Frontier) -> str:
    """Every count is of students that were run; where none without a teacher costs as much, nothing is claimed."""
    total, better, worse, unknown = len(found.taught), found.better, len(found.worse), len(found.unknown)
    parts = [
        (len(better), "better than every cheaper student without a teacher and the next dearer one"),
        (worse, "worse than one without a teacher that cost no more"),
        (total - len(better) - worse - unknown, "neither"),
        (unknown, "dearer than any without a teacher, so that nobody knows what that gives for as much"),
    ]
    said = ", ".join(f"{count} {'is' if count == 1 else 'are'} {words}" for count, words in parts if count)
    lead = SCENARIOS[found.scenario].capitalize()
    beyond = " (beyond the 90 % interval of the difference)" if better or worse else ""
    whom, most = plural(total, "distilled student"), ""
    if better:
        paid, where = max(better, key=lambda pair: pair[1].ahead or 0.0)
        assert where.best is not None and where.ahead is not None
        ahead = f"{where.ahead:.3f} ± {Z90 * (where.ahead_se or 0.0):.3f}"
        most = (
            f" Most is gained by {paid.name}: {paid.loss:.3f} nats/token for "
            f"{flop_text(paid.compute(found.scenario))}, {ahead} below {where.best.name} "
            f"({flop_text(where.best.compute)})."
        )
    return f"{lead}: of {whom} that no other distilled one beats for less, {said}{beyond}.{most}"


def paid_table(paid: Sequence[Paid]) -> Table:
    """Every cell with its loss and its bill, cheapest first."""
    unbeaten = {}
    for scenario, words in SCENARIOS.items():
        found = frontier(paid, scenario)
        for one in (*found.alone, *found.taught):
            unbeaten.setdefault(one.name, []).append(words)
    bills = [
        number(f"paid, {words}", power_flop, of=lambda one, s=scenario: one.compute(s), missing="unknown")
        for scenario, words in SCENARIOS.items()
    ]
    return Table.of(
        [
            text("student", of=attrgetter("name")),
            number("loss", ".4f", of=attrgetter("loss")),
            number("± 90 %", ".4f", of=attrgetter("half")),
            number("student", power_flop, unit="FLOP", of=attrgetter("student")),
            number("teacher logits", power_flop, unit="FLOP", of=attrgetter("logits")),
            number("teacher training", power_flop, unit="FLOP", of=attrgetter("teacher"), missing="unknown"),
            *bills,
            text("unbeaten by its own kind", of=lambda one: "; ".join(unbeaten.get(one.name, ()))),
        ],
        sorted(paid, key=lambda one: one.compute(Scenario.INFERENCE)),
    )
