"""The frame of every page we write: one self-contained file, its style and its parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from distillaw.report.content import Table, typeset
from distillaw.report.picture import Picture
from distillaw.version import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with its pictures, sentences and, folded away, the numbers behind them."""

    title: str
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    table: Table | None = None
    table_title: str = ""
    open: bool = False


def render_page(template: str, **context: object) -> str:
    """A page from a template of this package, with style and script inside.

    Args:
        template: its file name.
        context: what it names; a name that is missing is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("distillaw.report", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["typeset"] = typeset
    templates = files("distillaw.report") / "templates"
    text = {name: (templates / f"report.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    return environment.get_template(template).render(version=__version__, **text, **context)
