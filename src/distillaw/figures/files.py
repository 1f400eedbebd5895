"""Figures as files: SVG, PNG and PDF on white, written atomically, the same bytes for the same figure."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from distillaw.errors import CacheError, ConfigError
from distillaw.figures.style import PAGE
from distillaw.quantities import did_you_mean
from distillaw.runs.files import read_json, write_with
from distillaw.runs.places import claim_folder

FORMATS = ("svg", "png", "pdf")
DPI = 200
"""Of a PNG."""
# matplotlib writes the date otherwise
_METADATA = {
    "svg": {"Date": None, "Creator": "distillaw"},
    "png": {"Software": "distillaw"},
    "pdf": {"CreationDate": None, "Creator": "distillaw"},
}
"""By it runs/places.py knows a figure of ours, too."""


def save(figure: Figure, path: str | Path, *, dpi: float = DPI) -> Path:
    """Write a figure; the ending of the path says how. On white, without a date: the same figure, the same bytes.

    Args:
        figure: any that this package returns.
        path: ends in .svg, .png or .pdf; folders are made where missing. Text stays text in SVG and PDF.
        dpi: of a PNG.

    Returns:
        The path.

    Raises:
        ConfigError: another ending.
        RunError: the folder cannot be written.

    Example:
        >>> import distillaw as dl
        >>> figure = dl.figures.loss_over_tokens("surrogate-s1", student_params=1e9, teacher_loss=2.1)
        >>> dl.figures.save(figure, "loss.pdf").name  # doctest: +SKIP
        'loss.pdf'
    """
    path = Path(path)
    kind = checked_format(path.suffix.removeprefix("."), f"{path}: ")
    write_with(path, lambda part: part.write_bytes(figure_bytes(figure, kind, name=path.stem, dpi=dpi)))
    return path


def save_all(
    figure: Figure, folder: Path, name: str, *, formats: Sequence[str] = ("svg", "png"), dpi: float = DPI
) -> list[Path]:
    """Write a figure as NAME.svg, NAME.png ...; arguments as of `save`.

    Raises:
        ConfigError: the folder holds what distillaw has not made.
    """
    claim_folder(folder)
    with laid_out(figure):
        return [save(figure, folder / f"{name}.{kind}", dpi=dpi) for kind in formats]


def checked_format(kind: str, where: str = "") -> str:
    """One of `FORMATS`; ConfigError: it is none."""
    if kind not in FORMATS:
        raise ConfigError(
            f"{where}{kind!r}{did_you_mean(kind, FORMATS)} is no format of a figure; use {', '.join(FORMATS)}"
        )
    return kind


def figure_bytes(figure: Figure, kind: str, *, name: str, dpi: float = DPI, facecolor: str = "white") -> bytes:
    """What `save` writes; `name` seeds the ids of an SVG."""
    buffer = io.BytesIO()
    with mpl.rc_context(PAGE.settings | {"svg.hashsalt": name, "pdf.fonttype": 42}), laid_out(figure):
        figure.savefig(buffer, format=kind, dpi=dpi, facecolor=facecolor, metadata=_METADATA[kind])
    return buffer.getvalue()


@contextmanager
def laid_out(figure: Figure) -> Iterator[None]:
    """Panels where the figure's layout puts them, worked out once for all files that are written meanwhile.

    Left to itself matplotlib lays a figure out for every file, which takes as long as drawing it. Afterwards they are
    back where they were: a layout starts from the last one and would end a hair beside it.
    """
    engine = figure.get_layout_engine()
    before = [(ax, ax.get_position(original=True), ax.get_in_layout()) for ax in figure.axes]
    if engine is not None:
        with mpl.rc_context(PAGE.settings):
            engine.execute(figure)
        figure.set_layout_engine("none")
    try:
        yield
    finally:
        for ax, place, is_laid_out in before:
            ax.set_position(place)
            ax.set_in_layout(is_laid_out)  # a position set by hand takes it out
        if engine is not None:
            figure.set_layout_engine(engine)


def read_record_file(path: Path, command: str) -> dict[str, Any]:
    """What a command wrote into its folder; CacheError: it is not there."""
    if not path.exists():
        raise CacheError(f"{path}: no such file; `{command}` writes it")
    return read_json(path)
