"""Predicted against measured: caption and words around figures/fits.py."""

from collections.abc import Sequence

from distillaw.figures.fits import FittedLaw, draw_fits
from distillaw.report.picture import Picture


def fits_picture(laws: Sequence[FittedLaw], *, name: str, title: str, caption: str, of: str = "") -> Picture:
    """Predicted against measured, and residuals; `of` as in `draw_fits`.

    Raises:
        DataError: there is no law.
    """
    words = [
        f"{law.label}: {len(law.measured)} runs, root mean square error {law.rms:.2f} %." for law in laws
    ]
    caption += " The band at the right is the root mean square of what is left over."
    return Picture(
        name=name,
        title=title,
        caption=caption,
        alt=f"{title}. {' '.join(words)}",
        figure=draw_fits(laws, of=of),
    )
