"""Standard output for tables and lists: wide enough in pipes that they are not folded."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.table import Table


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """A reader that has seen enough is no failure (rich would exit with 1): `app.run` ends as after print."""
        raise BrokenPipeError


def console(*, soft_wrap: bool = False) -> Console:
    """A console on standard output; `soft_wrap` leaves long lines to the terminal."""
    return _Output(width=None if sys.stdout.isatty() else 140, highlight=False, soft_wrap=soft_wrap)


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
