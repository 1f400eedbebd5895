"""The frame of every page we write: one self-contained file, its style and its parts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.figures.files import FORMATS, checked_format, save_all
from distillaw.report.content import Table, typeset
from distillaw.report.picture import Picture
from distillaw.runs.files import write_text
from distillaw.runs.outgoing import plain
from distillaw.runs.places import check_file
from distillaw.version import __version__

if TYPE_CHECKING:
    from markupsafe import Markup

SCRIPTS = ("sort.js", "save.js", "filter.js")
"""Of every page; it is complete without them."""


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
    out: Path,
    template: str,
    *,
    sections: Sequence[Section],
    figures: FigureFiles | None = None,
    **context: object,
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
    check_file(out)
    write_text(out, render_page(template, sections=sections, **context))
    if figures is not None:
        for picture in (picture for section in sections for picture in section.pictures):
            save_all(picture.figure, figures.folder, picture.name, formats=figures.formats)


def render_page(template: str, **context: object) -> str:
    """The page as text; arguments as of `write_page`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("distillaw.report", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["typeset"] = _typeset_html
    css, *scripts = (_template_text(name) for name in ("report.css", *SCRIPTS))
    page = environment.get_template(template).render(
        version=__version__, css=css, js="\n".join(scripts), **context
    )
    return plain(page)


def _template_text(name: str) -> str:
    return (files("distillaw.report") / "templates" / name).read_text(encoding="utf-8")


def _typeset_html(text: str) -> "Markup":
    """Typeset, escaped, and what stands between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(typeset(str(text))))))


_CODE = re.compile(r"`([^`]+)`")
