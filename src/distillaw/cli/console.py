"""The streams that people read: tables and lines on standard output, notes on standard error.

No control character of a name reaches a terminal, and long lines are folded in one, between words, the next line
indented. Pipes and files get lines whole and without any code.
"""

import io
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from distillaw.runs.files import plain
from distillaw.table import Table

if TYPE_CHECKING:
    from rich.console import Console

HANG = 2
"""Columns by which what is folded is indented further."""
_LONGEST_WORD, _LONGEST_MESSAGE = 400, 1200
"""Characters of a word and of an error; what is longer says nothing more to eyes and is cut in the middle."""
_COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")


# --- what is said -------------------------------------------------------------------------------------------


def say(message: str, *, quiet: bool = False) -> None:
    """One line on stderr."""
    if not quiet:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()


def print_table(table: Table, *, indent: int = 0) -> None:
    """A table on standard output, as wide as the terminal; whole in a pipe or a file."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in table.lines(width, indent=indent, mark=_bold):
        print(line)


def print_sections(sections: Mapping[str, Sequence[str]]) -> None:
    """Titles with their lines as lists; titles without lines are left out."""
    for title, lines in sections.items():
        if lines:
            print(f"\n{title}:", *(f"- {line}" for line in lines), sep="\n")


def write_whole(text: str) -> None:
    """Write to standard output what is not for eyes alone, unfolded."""
    if isinstance(sys.stdout, FoldedOutput):
        sys.stdout.write_whole(text)
    else:
        sys.stdout.write(text)


def coloured(text: str, code: str) -> str:
    """Text in a colour of ECMA-48, where standard output is a terminal with colours."""
    return f"\x1b[{code}m{text}\x1b[0m" if sys.stdout.isatty() and _has_colours() else text


def _bold(line: str) -> str:
    return coloured(line, "1")  # a line with codes is not folded again


def _has_colours() -> bool:
    """Not where there shall be no code: https://no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


# --- streams ------------------------------------------------------------------------------------------------


def write_for_people() -> None:
    """Write what is printed from now on without control characters, and folded if standard output is a terminal."""
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        if isinstance(stream, io.TextIOWrapper):
            kind = FoldedOutput if name == "stdout" and stream.isatty() else PlainOutput
            # what a terminal lacks is shown as ?
            how = {"errors": "replace", "line_buffering": stream.line_buffering}
            setattr(sys, name, kind(stream.buffer, encoding=stream.encoding, **how))


class PlainOutput(io.TextIOWrapper):
    """A text stream that spells control characters out; a terminal gets colours."""

    def write(self, text: str) -> int:
        """Write what can be seen."""
        if "\x1b" in text and self.isatty():
            parts = _COLOURS.split(text)
            shown = "".join(part if i % 2 else plain(part) for i, part in enumerate(parts))
        else:
            shown = plain(text)
        super().write(shown)
        return len(text)

    def write_codes(self, text: str) -> int:
        """Write what moves the cursor, of bars; the names in it are plain (`live_console`)."""
        return super().write(text)


class FoldedOutput(PlainOutput):
    """Lines are folded to the width of the terminal; codes and commands are left alone."""

    _begun = ""

    def write(self, text: str) -> int:
        """Hold back a line until it has ended."""
        *lines, rest = (self._begun + text).split("\n")
        self._begun = ""
        if lines:
            width = shutil.get_terminal_size().columns
            super().write("".join(f"{fold(line, width)}\n" for line in lines))
        self._begun = rest
        return len(text)

    def write_whole(self, text: str) -> None:
        """Write what a program may read: JSON, a script."""
        self.flush()
        super().write(text)

    def flush(self) -> None:
        """Write what has begun, too."""
        if self._begun:
            begun, self._begun = self._begun, ""
            super().write(begun)
        super().flush()


class _Codes:
    """A plain stream that lets codes through."""

    def __init__(self, stream: PlainOutput) -> None:
        self.write, self.flush = stream.write_codes, stream.flush
        self.isatty, self.fileno, self.encoding = stream.isatty, stream.fileno, stream.encoding


def live_console(*, stderr: bool = True) -> "Console":
    """What bars and screens that are redrawn are drawn on."""
    from rich.console import Console
    from rich.segment import Segment

    class LiveConsole(Console):
        def on_broken_pipe(self) -> None:
            """A reader that has seen enough is no failure (rich would exit with 1): `app.run` ends as after print."""
            raise BrokenPipeError

        def render(self, *args, **options) -> Iterator[Segment]:
            """What is shown, with control characters of names spelt out; rich's own stand apart from text."""
            for text, style, control in super().render(*args, **options):
                yield Segment(text if control else plain(text), style, control)

    stream = sys.stderr if stderr else sys.stdout
    file = _Codes(stream) if stderr and isinstance(stream, PlainOutput) else None
    colours = "auto" if _has_colours() else None
    return LiveConsole(stderr=stderr, file=file, highlight=False, color_system=colours)  # type: ignore[arg-type]


# --- lines --------------------------------------------------------------------------------------------------


def plain_line(message: str, *, keep_lines: bool = False) -> str:
    """A message as it may stand in a terminal, whatever names and values it quotes.

    Control and other invisible characters are escaped, words of thousands of characters and long lists are cut in the
    middle; `keep_lines` leaves line ends.
    """
    if not keep_lines:
        message = " ".join(message.split("\n"))
    message = re.sub(r"\S+", lambda word: _cut(word[0], _LONGEST_WORD), message)
    message = _cut(message, _LONGEST_MESSAGE)
    return "".join(
        c if c in "\n\t" or unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode() for c in message
    )


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]} ... {text[-most // 5 :]} ({len(text):,} characters)"


def fold(line: str, width: int) -> str:
    """A line as several of at most `width` columns, broken between words; codes and commands stay as they are."""
    if len(line) <= width or "\x1b" in line or line.startswith("next: distillaw"):
        return line
    hang = " " * _hang(line, width)
    how = {"break_long_words": False, "break_on_hyphens": False, "replace_whitespace": False}
    return textwrap.fill(line, width, subsequent_indent=hang, **how)


def _hang(line: str, width: int) -> int:
    """Where the next line begins: under the text that follows a label, else a little further in than this one."""
    label = re.match(r"\s*(?:- )?\S+(?: \S+)*?\s{2,}(?=\S)", line)
    if label is not None and label.end() <= width // 2:
        return label.end()
    return min(len(line) - len(line.lstrip()) + HANG, width // 2)
