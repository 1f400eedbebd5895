"""Figures of what else is drawn: maps, verdicts, models among published ones, branch tests, large batches, recipes."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillaw.errors import CacheError, DataError
from distillaw.figures.arms import draw_arms
from distillaw.figures.forks import draw_excess
from distillaw.figures.frontiers import draw_models
from distillaw.figures.image_runs import draw_columns, draw_image_walks
from distillaw.figures.maps import draw_map
from distillaw.figures.style import INK, MUTED, PAGE, SERIES, Look, in_style, new_figure, set_title
from distillaw.large_batch.images.results import read_record, read_walks, score_columns
from distillaw.large_batch.images.spec import hoffer2017
from distillaw.pareto.frontier import Point
from distillaw.planning.evidence import Strategy
from distillaw.planning.maps import GridMap
from distillaw.planning.verdict import Verdict
from distillaw.runs.files import read_json


def plan_map(found: GridMap, *, width: float | str | None = None, font_size: float | None = None) -> Figure:
    """A map of `distillaw map`: where distilling pays, the best teachers, what the compute goes into.

    Args:
        found: from `distillaw.planning.maps`; its axes carry their units.
        width: inches, `single` or `double` for one or two columns of a paper; by default what the panels need.
        font_size: points; 8 by default where a width is given.
    """
    return draw_map(found, look=Look.of(width, font_size))


def strategies(
    verdict: Verdict, *, width: float | str | None = None, font_size: float | None = None
) -> Figure:
    """What a plan compares: the student's loss under each strategy (left) and its gain over pretraining (right).

    Best first; nats/token with the interval of the verdict's level; blue: with a teacher, grey: without. Losses are
    less certain than gains wherever runs were paired.

    Args:
        verdict: from `distillaw.plan`.
        width: as in `plan_map`.
        font_size: likewise.

    Raises:
        DataError: the verdict has no strategies.

    Example:
        >>> import distillaw as dl
        >>> figure = dl.figures.strategies(dl.plan(1e9, student_tokens=2e10))
        >>> figure.axes[1].get_xlabel()
        'gain over pretraining, nats/token'
    """
    return _draw_strategies(verdict.strategies, look=Look.of(width, font_size))


@in_style
def _draw_strategies(rows: Sequence[Strategy], *, look: Look = PAGE) -> Figure:
    if not rows:
        raise DataError("this verdict compares no strategies")
    figure, [[losses, gains]] = new_figure(1, 2, width=8.2, height=0.34 * len(rows) + 0.9, look=look)
    for place, row in enumerate(rows):
        color = SERIES[0] if row.teacher is not None else MUTED
        for ax, value in ((losses, row.loss), (gains, row.gain)):
            if value is not None:
                ax.plot([value.lower, value.upper], [-place, -place], color=color, linewidth=2.0, alpha=0.45)
                ax.plot(value.mean, -place, "o", color=color, markersize=5)
    losses.set_yticks([-place for place in range(len(rows))], [row.name for row in rows])
    gains.set_yticks([-place for place in range(len(rows))], [""] * len(rows))
    gains.axvline(0, color=INK, linewidth=0.8)
    for ax, words in ((losses, "student loss, nats/token"), (gains, "gain over pretraining, nats/token")):
        _rows_axis(ax, len(rows), words)
    set_title(losses, "loss")
    set_title(gains, "gain")
    return figure


def _rows_axis(ax: Axes, rows: int, words: str) -> None:
    ax.set_ylim(-rows + 0.5, 0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(True, axis="x")
    ax.set_xlabel(words)


def models(
    points: Sequence[Point], *, score: str, axis: str, frontier: str = "staircase", width: float | str | None = None,
    font_size: float | None = None,
) -> Figure:  # fmt: skip
    """Score against training compute, your own models among published ones, with the frontier of all.

    Args:
        points: from `distillaw.pareto.own.own_points` and `distillaw.pareto.published.published_points`.
        score: what the ordinate is, with its unit.
        axis: what the abscissa counts, in words; FLOP, logarithmic.
        frontier: `staircase` or `hull`.
        width: as in `plan_map`.
        font_size: likewise.

    Raises:
        DataError: a point without a finite compute and score.
    """
    return draw_models(points, score=score, axis=axis, frontier=frontier, look=Look.of(width, font_size))


def branch(
    folder: str | Path, *, fork: int = -1, width: float | str | None = None, font_size: float | None = None
) -> Figure:
    """What larger batches cost after a fork: excess loss, nats/token, against the batch in tokens, by loss.

    Bars: the interval of the test's level over orders and held-out documents; dashed: the tolerance; dotted: the
    critical batch.

    Args:
        folder: what `distillaw branch` wrote.
        fork: which of its forks, in the order of training; by default the last.
        width: as in `plan_map`.
        font_size: likewise.

    Raises:
        CacheError: no branch.json there.
    """
    record = _json(Path(folder) / "branch.json", "distillaw branch")
    return draw_excess(record, record["forks"][fork], look=Look.of(width, font_size))


def recipe_arms(
    folder: str | Path, *, width: float | str | None = None, font_size: float | None = None
) -> Figure:
    """The arms of a recipe: held-out loss before (ring) and after (dot, 90 % interval over documents) training.

    Args:
        folder: what `distillaw recipe` wrote.
        width: as in `plan_map`.
        font_size: likewise.

    Raises:
        CacheError: no recipe.json there.
        DataError: its arms have not been trained yet.
    """
    stages = _json(Path(folder) / "recipe.json", "distillaw recipe")["stages"]
    if "distil" not in stages:
        raise DataError(f"{folder}: its arms have not been trained yet")
    return draw_arms(stages["distil"], look=Look.of(width, font_size))


def large_batch(
    folder: str | Path, *, width: float | str | None = None, font_size: float | None = None
) -> Figure:
    """Test accuracy of each column of a large-batch study, per cent, beside the paper's single numbers.

    Dots: seeds; rings: means with the 95 % interval for other seeds and test images.

    Args:
        folder: what `distillaw large-batch run` wrote.
        width: as in `plan_map`.
        font_size: likewise.

    Raises:
        CacheError: there is no such study.
        DataError: no cell has finished.
    """
    record = read_record(Path(folder))
    if not record.results:
        raise DataError(f"{folder}: no cell has finished yet")
    row = hoffer2017().row(record.study.paper) if record.study.paper else None
    scores = score_columns(record, row.accuracy if row else {})
    return draw_columns(scores, row, look=Look.of(width, font_size))


def large_batch_distances(
    folder: str | Path, *, width: float | str | None = None, font_size: float | None = None
) -> Figure:
    """Distance from the first weights against the logarithm of the update, a panel before and one after corrections.

    Args:
        folder: what `distillaw large-batch run` wrote.
        width: as in `plan_map`.
        font_size: likewise.

    Raises:
        CacheError: there is no such study.
        DataError: no run kept its distances.
    """
    walks = read_walks(read_record(Path(folder)))
    if not walks:
        raise DataError(f"{folder}: no cell kept its distances")
    return draw_image_walks(walks, look=Look.of(width, font_size))


def _json(path: Path, command: str) -> dict:
    if not path.exists():
        raise CacheError(f"{path}: no such file; `{command}` writes it")
    return read_json(path)
