"""Reports without pictures, where their words are read: drawing takes two thirds of what a report takes."""

import contextlib
import html
from collections.abc import Iterator
from unittest import mock


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Every picture is an empty one with its description."""
    empty = property(lambda picture: (f'<svg role="img" aria-label="{html.escape(picture.alt)}"></svg>', ""))
    with (
        mock.patch("distillaw.report.page.Picture._drawn", empty),  # imported here: it takes matplotlib
        mock.patch("distillaw.figures.style._make_plain", lambda figure: None),  # it lays out every tick
    ):
        yield
