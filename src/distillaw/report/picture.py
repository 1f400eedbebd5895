"""Figures on a page: small inline SVG that follows it, text stays text, colours are CSS variables.

Every colour is written as `var(--name, #hex)`: light and dark follow the page, and a figure saved from it keeps the
light colours. The same figure as a PDF of vectors lies beside it in the page.
"""

import base64
import html
import re
from dataclasses import dataclass
from functools import cached_property

from matplotlib.figure import Figure

from distillaw.figures.files import figure_bytes, laid_out
from distillaw.figures.style import GRID, INK, MUTED, PAPER, SERIES

_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {
    c: f"s{i + 1}" for i, c in enumerate(SERIES)
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure ready for the page."""

    name: str
    title: str
    caption: str
    """What to see, and what the bars and bands are."""
    alt: str
    """The content in words, for those who cannot see it."""
    figure: Figure

    @property
    def svg(self) -> str:
        """The figure as an element of the page."""
        return self._drawn[0]

    @property
    def pdf(self) -> str:
        """The figure as a PDF in base64."""
        return self._drawn[1]

    @cached_property
    def _drawn(self) -> tuple[str, str]:
        with laid_out(self.figure):
            svg = to_svg(self.figure, name=self.name, alt=self.alt)
            pdf = figure_bytes(self.figure, "pdf", name=self.name)
        return svg, base64.b64encode(pdf).decode("ascii")


def to_svg(figure: Figure, *, name: str, alt: str) -> str:
    """The figure as an `<svg>` element whose ids cannot meet those of another figure."""
    text = figure_bytes(figure, "svg", name=name, facecolor="none").decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    for color, variable in _NAMES.items():
        text = text.replace(color, f"var(--{variable}, {color})")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'href="#{name}-\2"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    # The page's font; matplotlib has measured DejaVu Sans, which is wider than any system font.
    text = re.sub(r"font: (\d[\d.]*px) [^;\"]+", r"font: \1 var(--sans, sans-serif)", text)
    text = re.sub(r"font: (\w+) (\d[\d.]*px) [^;\"]+", r"font: \1 \2 var(--sans, sans-serif)", text)
    # Inside HTML an <svg> needs no namespace declarations; "Save as SVG" on the page writes them.
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    label = html.escape(alt, quote=True)
    return re.sub(r"<svg", f'<svg role="img" aria-label="{label}"', text, count=1).strip()
