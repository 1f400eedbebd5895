"""Captions of the figures of a large-batch report."""

from collections.abc import Sequence

from distillaw.figures.image_runs import draw_columns, draw_image_walks
from distillaw.large_batch.images.results import ColumnScore, ImageWalk
from distillaw.large_batch.images.spec import PaperRow
from distillaw.report.page import Picture


def columns_picture(scores: Sequence[ColumnScore], row: PaperRow | None) -> Picture:
    """Accuracy of each column: ours with seeds and interval, the paper's single numbers beside it."""
    words = ", ".join(f"{score.column} {score.mean:.2f} %" for score in scores)
    caption = "Small dots: seeds; rings: their mean, with its 95 % interval for other seeds and test images."
    if row is not None:
        words += "; paper: " + ", ".join(f"{column} {value:.2f} %" for column, value in row.accuracy.items())
        caption += " Right: what the paper prints, single numbers without intervals. The scales differ."
    return Picture(
        name="columns",
        title="Columns",
        alt=f"Test accuracy by column. {words}",
        caption=caption,
        figure=draw_columns(scores, row),
    )


def walks_picture(walks: Sequence[ImageWalk]) -> Picture:
    """||w_t - w_0|| against log t, a panel before and one after LR + GBN."""
    words = "; ".join(
        f"batch {walk.batch} {'after' if walk.is_corrected else 'before'}: slope {walk.slope.value:.3f}, "
        f"end {walk.end.value:.2f}"
        for walk in walks
    )
    alt = f"Distance from the initial weights against the logarithm of the update. {words}"
    return Picture(
        name="walks",
        title="Diffusion",
        alt=alt,
        figure=draw_image_walks(walks),
        caption="A solid curve per seed, in the phase of the first, constant rate. Fits "
        "are averages over seeds: dashed a + b ln t, a straight line here; dotted c t^p. Corrected, the rate follows "
        "the batch and large batches are normalised in ghosts; the reference batch has nothing to correct.",
    )
