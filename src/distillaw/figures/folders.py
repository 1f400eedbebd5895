"""Figures of the folders of branch tests and of large-batch studies."""

from pathlib import Path

from matplotlib.figure import Figure

from distillaw.errors import DataError
from distillaw.figures.files import read_record_file
from distillaw.figures.forks import draw_excess
from distillaw.figures.image_runs import draw_columns, draw_image_walks
from distillaw.figures.style import in_style
from distillaw.large_batch.images.results import read_record, read_walks, score_columns
from distillaw.large_batch.images.spec import hoffer2017


@in_style
def branch(folder: str | Path, *, fork: int = -1) -> Figure:
    """What larger batches cost after a fork: excess loss, nats/token, against the batch in tokens, by loss.

    Bars: the interval of the test's level over orders and held-out documents; dashed: the tolerance; dotted: the
    critical batch.

    Args:
        folder: what `distillaw branch` wrote.
        fork: which of its forks, in the order of training; by default the last.

    Raises:
        CacheError: no branch.json there.
    """
    record = read_record_file(Path(folder) / "branch.json", "distillaw branch")
    return draw_excess(record, record["forks"][fork])


@in_style
def large_batch(folder: str | Path) -> Figure:
    """Test accuracy of each column of a large-batch study, per cent, beside the paper's single numbers.

    Dots: seeds; rings: means with the 95 % interval for other seeds and test images.

    Args:
        folder: what `distillaw large-batch run` wrote.

    Raises:
        CacheError: there is no such study.
        DataError: no cell has finished.
    """
    record = read_record(Path(folder))
    if not record.results:
        raise DataError(f"{folder}: no cell has finished yet")
    row = hoffer2017().row(record.study.paper) if record.study.paper else None
    scores = score_columns(record, row.accuracy if row else {})
    return draw_columns(scores, row)


@in_style
def large_batch_distances(folder: str | Path) -> Figure:
    """Distance from the first weights against the logarithm of the update, a panel before and one after corrections.

    Args:
        folder: what `distillaw large-batch run` wrote.

    Raises:
        CacheError: there is no such study.
        DataError: no run kept its distances.
    """
    walks = read_walks(read_record(Path(folder)))
    if not walks:
        raise DataError(f"{folder}: no cell kept its distances")
    return draw_image_walks(walks)
