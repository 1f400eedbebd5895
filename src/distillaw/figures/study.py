"""Figures of a study folder: those of its report, for papers and slides.

Every function takes the folder that `study run` wrote (or a record of it), a width and a font size (`in_style` adds
both), and returns a `matplotlib.figure.Figure`. What a study cannot show is a `DataError` with the reason.
"""

import inspect
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from distillaw.errors import DataError
from distillaw.figures.batches import draw_walks, walks
from distillaw.figures.calibrated import calibrated_groups, draw_calibration
from distillaw.figures.compute import compute_spent as spent_by_part
from distillaw.figures.compute import draw_paid, draw_searches, draw_spent, paid_cells, study_searches
from distillaw.figures.fits import (
    NONE_SCORED,
    draw_coverage,
    draw_fits,
    draw_frozen,
    draw_hold_outs,
    fitted_laws,
    study_laws,
)
from distillaw.figures.fits import hold_outs as hold_outs_of
from distillaw.figures.losses import draw_gap, draw_isoflop, draw_tokens, iso_budgets, teacher_styles
from distillaw.figures.style import in_style
from distillaw.planning.measured import design_points
from distillaw.runs.record import StudyRecord, read_study
from distillaw.verifying.frozen import frozen_files, predictions_folder
from distillaw.verifying.scorecard import Scored, score_places

Study = str | Path | StudyRecord


def _of_study(lacks: str) -> Callable[[Callable[[StudyRecord], Figure]], Callable[..., Figure]]:
    """A drawing of a record as a figure for all: of a folder as well, in style, with arguments and errors described.

    `lacks`: where a study cannot show it.
    """

    def decorate(draw: Callable[[StudyRecord], Figure]) -> Callable[..., Figure]:
        def of_study(study: Study) -> Figure:
            return draw(study if isinstance(study, StudyRecord) else read_study(Path(study)))

        for name in ("__module__", "__name__", "__qualname__"):
            setattr(of_study, name, getattr(draw, name))
        said, mark, example = (inspect.getdoc(draw) or "").partition("\n\nExample:")
        of_study.__doc__ = f"{said}\n\n{_SECTIONS}{lacks}.{mark}{example}"
        return in_style(of_study)

    return decorate


_SECTIONS = """\
Args:
    study: the folder, or a record of it.

Raises:
    CacheError: no such folder, or no study.
    ConfigError: a width or font size that makes no sense.
    DataError: """


@_of_study("no student has been run both with and without a teacher")
def capacity_gap(record: StudyRecord) -> Figure:
    """Student loss against teacher loss: is a stronger teacher ever worse?

    A panel for each student size (column) and token budget (row). Abscissa: held-out loss of the teacher, nats/token,
    better to the right; ordinate: held-out loss of the student, nats/token. Circles are means over seeds, the best
    teacher filled; bars the 90 % interval of the paired difference from the same student without a teacher, which is
    dashed; small dots single seeds.

    Example:
        >>> import distillaw as dl
        >>> figure = dl.figures.capacity_gap("out/quickstart", width="double")  # doctest: +SKIP
        >>> figure.savefig("gap.pdf")  # doctest: +SKIP
    """
    return draw_gap(design_points(record))


@_of_study("no student has been run without a teacher")
def token_curves(record: StudyRecord) -> Figure:
    """Student loss against training tokens, with and without teachers, a panel for each student size.

    Abscissa: tokens, logarithmic; ordinate: held-out loss, nats/token. Black: no teacher, bars the 90 % interval over
    seeds; colours: one teacher each, bars the 90 % interval of the paired difference from black. Where the study's
    fitted laws may be drawn, the curves are theirs, with the 90 % interval of a new run, dashed and hatched outside the
    fitted range; otherwise lines join the points.
    """
    return draw_tokens(design_points(record), teacher_styles(record), laws=study_laws(record))


@_of_study("no law of this study may be drawn")
def predicted_measured(record: StudyRecord) -> Figure:
    """What the laws fitted on a study reproduce of its runs, and what they miss.

    A row for each law. Left: predicted against measured loss, nats/token, with the diagonal; right: predicted minus
    measured in per cent, with a band of the root mean square. Laws that the runs do not identify are not drawn.
    """
    laws = fitted_laws(record)
    if not laws:
        raise DataError(
            f"{record.folder}: no law of this study may be drawn: none is fitted in laws/, or the runs do not identify "
            f"it. `distillaw fit {record.folder} --law supervised` says why; `distillaw study new --kind supervised` "
            "writes a design that identifies one"
        )
    return draw_fits(laws)


@_of_study("nothing was frozen, or nothing is scored yet")
def frozen_predictions(record: StudyRecord) -> Figure:
    """Predictions frozen before the runs against what was then measured.

    Ordinate: predicted minus measured, per cent of the loss, with the frozen 90 % interval; a bar across zero held
    (dot), another missed (cross). A block for each forecaster, cells farther beyond the fitted runs to the right; a
    panel for losses and one for gains over no teacher.
    """
    return draw_frozen(_scored(record))


@_of_study("nothing was frozen, or nothing is scored yet")
def coverage(record: StudyRecord) -> Figure:
    """How often intervals frozen before the runs held, against how often they promised to.

    Abscissa: the level of the interval, per cent; ordinate: measured values inside, per cent, with Wilson's 90 %
    interval (predictions of one law err together, so it is too narrow); a curve for each forecaster, a panel for losses
    and one for gains. On the dashed diagonal intervals keep their word.
    """
    return draw_coverage(_scored(record))


@_of_study("no law of this study had runs enough")
def hold_outs(record: StudyRecord) -> Figure:
    """How well a study's laws predicted the larger runs that were held out from them.

    The smallest 40 to 80 % of the runs are fitted, the others predicted. Bars: mean half width of the 90 % interval;
    dots: root mean square error, both in per cent of the loss; above, how many lay inside. Abscissa: decades of compute
    beyond the fitted runs.
    """
    return draw_hold_outs(hold_outs_of(record))


@_of_study("no three sizes meet at one compute")
def isoflop(record: StudyRecord) -> Figure:
    """Loss against student size at equal compute, without a teacher and from the best ones.

    A panel for each compute: training of the student and forward passes of its teacher, FLOP. Abscissa: non-embedding
    parameters, logarithmic; ordinate: held-out loss, nats/token. Dots: runs, read off between their token budgets,
    rings up to a quarter beyond them; bars the 90 % interval over seeds and of that reading. Curves: the study's
    laws where they may be drawn, with the interval of a new run, dashed and hatched outside the fitted range.
    """
    return draw_isoflop(iso_budgets(record), teacher_styles(record), laws=study_laws(record))


@_of_study("no student has been run both with and without a teacher")
def pareto(record: StudyRecord) -> Figure:
    """Loss against the compute that was paid, and what nobody beats for less, with and without a teacher.

    Abscissa: FLOP, logarithmic: training of the student and forward passes of its teacher (left), and the training of
    the teacher as well (right). Ordinate: held-out loss, nats/token; bars 90 %, as in `token_curves`. Filled: unbeaten
    by any other of its colour at no more compute; steps join them.
    """
    return draw_paid(paid_cells(record, design_points(record)))


@_of_study("no run has finished")
def compute_spent(record: StudyRecord) -> Figure:
    """FLOP executed by part: teachers, students, the teachers' forward passes, searches.

    Bars with their numbers written on, model FLOP; token budgets of one trunk share its training, which counts once.
    """
    return draw_spent(spent_by_part(record))


@_of_study("the study ran no search, or its record is missing")
def searches(record: StudyRecord) -> Figure:
    """The searches for learning rate (above) and batch (below), a column for each arm and size.

    Ordinate: held-out loss, nats/token; the chosen value is filled and said to be interior, at the edge or above the
    lowest.
    """
    return draw_searches(study_searches(record))


@_of_study("no run kept its distances")
def weight_distances(record: StudyRecord) -> Figure:
    """How far the weights went from where they began, against the logarithm of the step, a panel for each size.

    Euclidean distance over all weights; black without a teacher, blue with one; dotted in warm-up and decay; dashed,
    a + b ln t fitted at the peak rate.
    """
    return draw_walks(walks(record))


@_of_study("no taught student has measured it")
def calibration(record: StudyRecord) -> Figure:
    """Calibration errors against the text and against the teacher, and KL(teacher || student), over the teacher's loss.

    A line for each student size and token budget; better teachers to the right; dashed, the same student without a
    teacher. Errors in per cent in 21 equal bins, KL in nats/token; bars are 90 % intervals over documents.
    """
    return draw_calibration(calibrated_groups(record))


def _scored(record: StudyRecord) -> list[Scored]:
    """Frozen predictions with what was measured; those that do not count are left out."""
    if not frozen_files(predictions_folder(record.folder)):
        raise DataError(f"{record.folder}: nothing was predicted before its runs; `distillaw verify freeze` does it")
    rows = [row for row in score_places([record.folder]).predictions if row.counts]
    if not rows:
        raise DataError(f"{record.folder}: {NONE_SCORED} `distillaw verify score {record.folder}` says what is missing")
    return rows
