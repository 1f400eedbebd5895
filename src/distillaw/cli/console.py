"""Standard output for tables and lists: as wide as the terminal; unfolded and without any code in a pipe or file."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.segment import Segment

import distillaw.table
from distillaw.cli.folding import PIPE_WIDTH, PlainOutput, columns
from distillaw.runs.outgoing import plain

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, Group, RenderableType
    from rich.table import Column, Table


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """A reader that has seen enough is no failure (rich would exit with 1): `app.run` ends as after print."""
        raise BrokenPipeError

    def render(
        self, renderable: "RenderableType", options: "ConsoleOptions | None" = None
    ) -> Iterator[Segment]:
        """What is shown, with control characters of names spelt out; rich's own stand apart from text."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else plain(text), style, control)


def console(*, soft_wrap: bool = False) -> Console:
    """A console on standard output; `soft_wrap` leaves long lines to the terminal."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return _Output(width=width, highlight=False, soft_wrap=soft_wrap, color_system=_colours())


def error_console() -> Console:
    """A console on standard error, for bars."""
    file = _Codes(sys.stderr) if isinstance(sys.stderr, PlainOutput) else None
    return _Output(stderr=True, file=file, highlight=False, color_system=_colours())  # type: ignore[arg-type]


class _Codes:
    """A plain stream that lets codes through."""

    def __init__(self, stream: PlainOutput) -> None:
        self.write, self.flush = stream.write_codes, stream.flush
        self.isatty, self.fileno, self.encoding = stream.isatty, stream.fileno, stream.encoding


def _colours():
    """None, which is no code at all, where there shall be no colour: https://no-color.org asks for less."""
    return None if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else "auto"


def print_table(table: "Table | distillaw.table.Table") -> None:
    """A table on standard output; where it has too little room, headings over two lines, or rows over several."""
    if isinstance(table, distillaw.table.Table):
        for line in table.lines(columns(), mark=_bold):
            print(line)
        return
    output = console()
    if not _fits(table, output.width):
        _break_headings(table)
    with output.capture() as captured:
        output.print(table if _fits(table, output.width) else _stacked(table, output.width))
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _bold(line: str) -> str:
    """In a terminal with colours; lines with codes are not folded again."""
    return f"\x1b[1m{line}\x1b[0m" if sys.stdout.isatty() and _colours() else line


_NAME, _SENTENCE = 14, 30
"""Columns that names and sentences get at least."""
_GAP = 2


def _fits(table: "Table", width: int) -> bool:
    wanted = [_width(column) if column.no_wrap else _room(column) for column in table.columns]
    return sum(wanted) + _GAP * (len(wanted) - 1) <= width


def _room(column: "Column") -> int:
    """What a column of words needs to be read: its longest word whole."""
    words = (word for cell in (column.header, *column.cells) for word in str(cell).split())
    least = _SENTENCE if _width(column) > 2 * _SENTENCE else _NAME
    return max(min(_width(column), least), min(max(map(len, words), default=0), _SENTENCE))


def _width(column: "Column") -> int:
    from rich.text import Text

    cells = (*str(column.header).split("\n"), *column.cells)
    return max((cell if isinstance(cell, Text) else Text(str(cell))).cell_len for cell in cells)


def _break_headings(table: "Table") -> None:
    """Headings longer than what stands beneath them go over several lines."""
    import textwrap

    for column in table.columns:
        heading, column.header = str(column.header), ""
        words = max(map(len, heading.split()), default=1)
        column.header = textwrap.fill(heading, max(_width(column), words, 6), break_on_hyphens=False)


def _stacked(table: "Table", width: int) -> "Group":
    """The words of a row at full width, its numbers as a table of their own beneath the first of them."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    numbers = [column for column in table.columns if column.no_wrap]
    words = [column for column in table.columns if not column.no_wrap]
    widths = [max(_width(column), len(" ".join(str(column.header).split()))) for column in numbers]

    def line(cells: Iterable[object]) -> Text:
        return Text((" " * _GAP).join(str(cell).rjust(w) for cell, w in zip(cells, widths, strict=True)))

    headings = {id(column): " ".join(str(column.header).split()) for column in table.columns}
    parts: list[object] = [Text(", ".join(headings[id(c)] for c in words if c.header), style="bold")]
    if numbers:
        parts.append(Padding(line(headings[id(c)] for c in numbers), (0, 0, 0, _GAP)))
    rows = [list(column.cells) for column in table.columns]
    for row in zip(*rows, strict=True):
        text = [
            cell for cell, column in zip(row, table.columns, strict=True) if not column.no_wrap and str(cell)
        ]
        count = [cell for cell, column in zip(row, table.columns, strict=True) if column.no_wrap]
        short = [str(cell) for cell in text if len(str(cell)) <= 2 * _SENTENCE]
        parts.append(Text(", ".join(short)))
        parts += [Padding(line(count), (0, 0, 0, _GAP))] if any(map(str, count)) else []
        parts += [Padding(cell, (0, 0, 0, 2 * _GAP)) for cell in text if len(str(cell)) > 2 * _SENTENCE]
    return Group(*parts)  # type: ignore[arg-type]


def print_sections(output: Console, sections: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Titles with their lines as lists; titles without lines are left out."""
    for title, lines in sections:
        if lines:
            output.print(f"\n{title}:", markup=False)
            for line in lines:
                output.print(f"- {line}", markup=False)


def numbers_table(*columns: str) -> "Table":
    """A table without lines. Columns starting with > are numbers: right-aligned, never folded."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        number = column.startswith(">")
        table.add_column(
            column.removeprefix(">"), justify="right" if number else "left", no_wrap=number, overflow="fold"
        )
    return table
