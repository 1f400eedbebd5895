"""The frame of every page we write: one self-contained file with its figures, tables, style and scripts.

Figures are small inline SVG that follow the page: text stays text, and every colour is written `var(--name, #hex)`, so
that light and dark follow the page and a figure saved from it keeps the light colours. The same figure as a PDF of
vectors lies beside it in the page.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from distillaw.figures.files import FORMATS, checked_format, figure_bytes, laid_out, save_all
from distillaw.figures.style import GRID, INK, MUTED, PAPER, SERIES
from distillaw.quantities import power_text
from distillaw.runs.files import plain, write_text
from distillaw.runs.places import check_file
from distillaw.table import Table
from distillaw.version import __version__

if TYPE_CHECKING:
    from markupsafe import Markup

SCRIPTS = ("sort.js", "save.js", "filter.js")
"""Of every page; it is complete without them."""
_COLORS = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}
_COLORS |= {color: f"s{i + 1}" for i, color in enumerate(SERIES)}


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


@dataclass(frozen=True, slots=True)
class KeyNumber:
    """One number that a reader takes away, with its interval and what it is."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with its pictures, sentences and, folded away, the numbers behind them."""

    title: str
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    table: Table | None = None
    table_title: str = ""
    open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureFiles:
    """Where every figure of a page is written as files of its own."""

    folder: Path
    formats: Sequence[str] = FORMATS

    def __post_init__(self) -> None:
        """Refuse formats that no figure is written in."""
        for kind in self.formats:
            checked_format(kind)


def write_page(
    out: Path, template: str, *, sections: Sequence[Section], figures: FigureFiles | None = None, **context: object
) -> None:
    """Write a page from a template of this package, with style and scripts inside; and its figures as files.

    Args:
        out: the HTML file.
        template: its file name.
        sections: of the page.
        figures: where to write every figure, NAME.svg and so on; None: only in the page.
        context: what else the template names; a name that is missing is an error.

    Raises:
        ConfigError: a file of another origin is there.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    check_file(out)
    environment = Environment(
        loader=PackageLoader("distillaw.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"typeset": typeset_html, "as_table": _table_html}
    folder = files("distillaw.report") / "templates"
    css, *scripts = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", *SCRIPTS))
    page = environment.get_template(template).render(
        version=__version__, css=css, js="\n".join(scripts), sections=sections, **context
    )
    write_text(out, plain(page))
    if figures is not None:
        for picture in (picture for section in sections for picture in section.pictures):
            save_all(picture.figure, figures.folder, picture.name, formats=figures.formats)


def _table_html(table: Table, name: str = "", *, is_sortable: bool = False) -> "Markup":
    """A table that scrolls sideways by itself; its facets get filters (filter.js), a sortable one headings to click."""
    from markupsafe import Markup

    label = html.escape(name, quote=True)
    attributes = ' class="sortable"' if is_sortable else ""
    if facets := "|".join(column.heading for column in table.columns if column.is_facet):
        attributes += f' data-facets="{facets}" data-name="{label}"'
    body = table.html(write=typeset_html, attributes=attributes)
    return Markup(f'<div class="scroll" tabindex="0" role="region" aria-label="{label or "table"}">{body}</div>')


def typeset_html(text: str) -> "Markup":
    """Typeset, escaped, and what stands between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(typeset(str(text))))))


def typeset(text: str) -> str:
    """Powers of ten as people write them (2.96e11 becomes 2.96 x 10^11), true minus signs, no break in a number.

    Names of statuses become words, +- becomes one sign.
    """
    text = _STATUS.sub(lambda found: status_words(found[0]), text).replace("+-", "±")
    text = _POWER.sub(lambda found: power_text(float(found[0])), text)
    for unit in ("%", "FLOP"):
        text = text.replace(f" {unit}", f"\u00a0{unit}")
    return _MINUS.sub("−", text).replace(" × ", "\u00a0×\u00a0")


def status_words(status: str) -> str:
    """A status within a sentence: `TOO_FEW_RUNS` is read as `too few runs`."""
    return status.replace("_", " ").lower()


_CODE = re.compile(r"`([^`]+)`")
_STATUS = re.compile(r"\b(?!DISTILLAW_)[A-Z]{2,}(?:_[A-Z]{2,})+\b(?!=)")
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")
_POWER = re.compile(r"\b\d(?:\.\d+)?e\+?\d{1,2}\b")


def to_svg(figure: Figure, *, name: str, alt: str) -> str:
    """The figure as an `<svg>` element whose ids cannot meet those of another figure."""
    text = figure_bytes(figure, "svg", name=name, facecolor="none").decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    for color, variable in _COLORS.items():
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
