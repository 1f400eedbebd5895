"""One table for the terminal, pages, notebooks and Markdown: columns say how values are shown, rows hold values.

    from distillaw.table import Table, number, text

    losses = Table(
        [text("strategy"), number("loss", ".3f", unit="nats/token"), number("tokens", format_count)],
        [["pretrain", 2.53, 6e9], ["distil", 2.49, None]],
        note="means over seeds",
    )
    losses.lines()      # aligned text, for `print`; with a width, words are folded or stand above their numbers
    losses.html()       # a <table> whose cells sort by value; `notebook()`: the same without a style sheet
    losses.markdown()

Commands print it with `distillaw.cli.console.print_table`, which knows the terminal's width. Where rows are objects, a
column says where its value comes from and `Table.of` builds the rows:

    Table.of([text("run", of=attrgetter("run_id")), number("loss", ".4f", of=lambda run: run.loss)], runs)

A value that is None or not finite is shown as the column's `missing`; one that is text already is shown as it is.
This module imports nothing but the standard library: whoever has numbers to show may build tables.
"""

import math
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

GAP = 2
"""Blanks between columns of text."""
NAME, SENTENCE = 14, 30
"""Characters that columns of names and of sentences get at least before words move above their numbers: names of
our laws and arms, half a line of the narrowest terminal (80)."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
Show = str | Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and how the values beneath it are written; made by `number` and `text`."""

    title: str
    show: Show = ""
    """A format such as `.3f`, or a function of the value."""
    unit: str = ""
    is_number: bool = False
    """Right-aligned, never folded, sorted by value."""
    of: Callable[[Any], Any] = lambda row: row
    """Takes the value from an object (`Table.of`); by default the object is the value."""
    sort: Callable[[Any], float | str] | None = None
    """What pages sort by where the value itself has no order, e.g. the mean of an interval."""
    missing: str = ""
    """Shown for None and what is not finite."""
    is_facet: bool = False
    """Pages let readers filter rows by its values."""
    is_wrapped: bool = False
    """Sentences: pages fold them."""

    @property
    def heading(self) -> str:
        """The title with its unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def text(self, value: Any) -> str:
        """The value as it is read."""
        if _is_missing(value):
            return self.missing
        if isinstance(value, str):
            return value
        return self.show(value) if callable(self.show) else format(value, self.show)

    def sort_key(self, value: Any) -> str:
        """What JavaScript compares; what is missing among numbers comes last."""
        key = value if self.sort is None or _is_missing(value) else self.sort(value)
        if _is_missing(key):
            return "Infinity" if self.is_number else ""
        return str(key)


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def number(title: str, show: Show = "", **more: Any) -> Column:
    """A column of numbers, or of what is read like one; `more` are fields of `Column`."""
    return Column(title, show, is_number=True, **more)


def text(title: str, show: Show = "", **more: Any) -> Column:
    """A column of names or sentences; `more` are fields of `Column`."""
    return Column(title, show, **more)


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, rows of values in their order, and a line beneath."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]] = field(default_factory=list)
    note: str = ""

    @classmethod
    def of(cls, columns: Sequence[Column], objects: Iterable[Any], note: str = "") -> "Table":
        """A row for each object, by the columns' `of`."""
        return cls(columns, [[column.of(each) for column in columns] for each in objects], note)

    @property
    def texts(self) -> list[list[str]]:
        """Every cell as it is read."""
        return [[column.text(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]

    def html(self, *, write: Callable[[str], str] = escape, attributes: str = "") -> str:
        """A `<table>` for pages that style the classes number, text and wrap.

        Args:
            write: makes HTML of a cell's text.
            attributes: of the table, as HTML.
        """
        kinds = [_html_class(column) for column in self.columns]
        heads = "".join(
            f'<th scope="col" class="{kind}">{escape(column.heading)}</th>'
            for column, kind in zip(self.columns, kinds, strict=True)
        )
        rows = []
        for values, texts in zip(self.rows, self.texts, strict=True):
            cells = zip(self.columns, kinds, values, texts, strict=True)
            rows.append("".join(_html_cell(*cell, write) for cell in cells))
        body = "\n".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table{attributes}>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"

    def notebook(self) -> str:
        """A `<table>` that carries its style, for pages of others."""
        styles = [f"padding:2px 10px;text-align:{'right' if column.is_number else 'left'}" for column in self.columns]

        def row(tag: str, cells: Iterable[str]) -> str:
            styled = zip(styles, cells, strict=True)
            return "".join(f'<{tag} style="{style}">{escape(cell)}</{tag}>' for style, cell in styled)

        head = row("th", (column.heading for column in self.columns))
        body = "".join(f"<tr>{row('td', texts)}</tr>" for texts in self.texts)
        return f"<table><tr>{head}</tr>{body}</table>"

    def markdown(self) -> str:
        """A table of GitHub's Markdown."""
        rule = ["---:" if column.is_number else "---" for column in self.columns]
        lines = [[column.heading for column in self.columns], rule, *self.texts]
        lines = [[cell.replace("|", r"\|") for cell in line] for line in lines]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def lines(self, width: int | None = None, *, indent: int = 0, mark: Callable[[str], str] = str) -> list[str]:
        """Aligned text without blanks at the ends of lines.

        Args:
            width: columns there are; None: any number. What does not fit has its headings folded, then its words,
                and at last its words above its numbers.
            indent: of every line.
            mark: of lines of headings, e.g. bold.
        """
        layout = _TextLayout.of(self)
        room = math.inf if width is None else width - indent
        if not layout.fits(room):
            layout = layout.with_folded_headings()
        found = layout.lines(room, mark) if layout.fits(room) else layout.stacked(int(room), mark)
        found += [self.note] if self.note else []
        return [f"{' ' * indent}{line}".rstrip() for line in found]


def _html_class(column: Column) -> str:
    if column.is_number:
        return "number"
    return "text wrap" if column.is_wrapped else "text"


def _html_cell(column: Column, kind: str, value: Any, text: str, write: Callable[[str], str]) -> str:
    key = column.sort_key(value)
    sort = "" if key == text else f' data-sort="{escape(key)}"'
    return f'<td class="{kind}"{sort}>{write(text)}</td>'


@dataclass(frozen=True, slots=True)
class _TextLayout:
    """A table as text: cells in columns of characters."""

    heads: list[str]
    rows: list[list[str]]
    is_number: list[bool]

    @classmethod
    def of(cls, table: Table) -> "_TextLayout":
        heads = [column.heading for column in table.columns]
        return cls(heads, table.texts, [column.is_number for column in table.columns])

    def column(self, i: int) -> list[str]:
        return [row[i] for row in self.rows]

    @property
    def widths(self) -> list[int]:
        return [_width([head, *self.column(i)]) for i, head in enumerate(self.heads)]

    @property
    def least(self) -> list[int]:
        """What each column needs: numbers whole, of words the longest."""
        return [
            width if self.is_number[i] else _room([self.heads[i], *self.column(i)])
            for i, width in enumerate(self.widths)
        ]

    def fits(self, room: float) -> bool:
        return sum(self.least) + GAP * (len(self.heads) - 1) <= room

    def with_folded_headings(self) -> "_TextLayout":
        """Headings longer than what stands beneath them go over several lines."""
        heads = []
        for i, head in enumerate(self.heads):
            words = max(map(len, head.split()), default=1)
            least = max(_width(self.column(i)), words, 6)  # below six characters a heading is a pile of syllables
            heads.append(textwrap.fill(head, least, break_on_hyphens=False))
        return replace(self, heads=heads)

    def lines(self, room: float, mark: Callable[[str], str]) -> list[str]:
        widths, least = self.widths, self.least
        while sum(widths) + GAP * (len(widths) - 1) > room:
            shrinkable = [i for i, width in enumerate(widths) if width > least[i]]
            widths[max(shrinkable, key=lambda i: widths[i])] -= 1
        head, *rows = (self._row(cells, widths) for cells in [self.heads, *self.rows])
        return [mark(line) for line in head] + [line for row in rows for line in row]

    def _row(self, cells: list[str], widths: list[int]) -> list[str]:
        folded = [_fold(cell, width) for cell, width in zip(cells, widths, strict=True)]
        lines = []
        for i in range(max(map(len, folded), default=0)):
            parts = [cell[i] if i < len(cell) else "" for cell in folded]
            columns = zip(parts, widths, self.is_number, strict=True)
            lines.append((" " * GAP).join(_pad(*column) for column in columns).rstrip())
        return lines

    def stacked(self, room: int, mark: Callable[[str], str]) -> list[str]:
        """The words of a row at full width, its numbers as a table of their own beneath the first of them."""
        heads = [" ".join(head.split()) for head in self.heads]
        flat = replace(self, heads=heads)
        numbers = [i for i, is_number in enumerate(self.is_number) if is_number]
        words = [i for i, is_number in enumerate(self.is_number) if not is_number]
        widths = [flat.widths[i] for i in numbers]
        gap = " " * (GAP if sum(widths) + GAP * len(widths) <= room else 1)  # numbers are not folded

        def counts(cells: list[str]) -> list[str]:
            parts = [_pad(cells[i], width, True) for i, width in zip(numbers, widths, strict=True)]
            return [" " * GAP + gap.join(parts)] if any(cells[i] for i in numbers) else []

        found = [mark(line) for line in _fold(", ".join(heads[i] for i in words if heads[i]), room)]
        found += [mark(line) for line in counts(heads)]
        for row in self.rows:
            said = [row[i] for i in words if row[i]]
            short = ", ".join(each for each in said if _cells(each) <= 2 * SENTENCE)
            long = [each for each in said if _cells(each) > 2 * SENTENCE]
            found += [*_fold(short, room), *counts(row)]
            found += [" " * 2 * GAP + line for sentence in long for line in _fold(sentence, room - 2 * GAP)]
        return found


def _room(cells: list[str]) -> int:
    """What a column of words needs to be read: its longest word whole."""
    width = _width(cells)
    least = SENTENCE if width > 2 * SENTENCE else NAME
    words = max((_cells(word) for cell in cells for word in cell.split()), default=0)
    return max(min(width, least), min(words, SENTENCE))


def _width(cells: Iterable[str]) -> int:
    return max((_cells(line) for cell in cells for line in cell.split("\n")), default=0)


def _cells(word: str) -> int:
    """Columns of a terminal that a text takes: two for a wide character, none for an accent of its own or a colour."""
    word = _COLOUR.sub("", word)
    if word.isascii():
        return len(word)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in word)
    return len(word) + wide - sum(map(bool, map(unicodedata.combining, word)))


def _fold(cell: str, width: int) -> list[str]:
    """The lines of a cell, each at most so wide; words that are longer are broken."""
    lines: list[str] = []
    for line in cell.split("\n"):
        taken = _cells(line)
        if taken <= width:
            lines.append(line)
        else:  # of wide characters fewer have room
            fewer = max(1, width * len(line) // taken)
            lines += textwrap.wrap(line, fewer, break_on_hyphens=False)
    return lines


def _pad(cell: str, width: int, is_number: bool) -> str:
    blanks = " " * (width - _cells(cell))
    return blanks + cell if is_number else cell + blanks
