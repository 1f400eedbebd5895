"""The streams that people read: no control character of a name reaches a terminal, long lines are folded in one.

Folded lines break between words, the next one indented. Pipes and files get them whole.
"""

import io
import re
import shutil
import sys
import textwrap
import unicodedata

from distillaw.runs.outgoing import plain

HANG = 2
"""Columns by which what is folded is indented further."""


PIPE_WIDTH = 10_000
"""Columns of what is no terminal: a row of a table is one line there."""


def columns() -> int:
    """Columns to fit: the terminal's; in a pipe or a file any number."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH


def write_for_people() -> None:
    """Write what is printed from now on without control characters, and folded if standard output is a terminal."""
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        if isinstance(stream, io.TextIOWrapper):
            kind = FoldedOutput if name == "stdout" and stream.isatty() else PlainOutput
            # what a terminal lacks is shown as ?
            new = kind(
                stream.buffer,
                encoding=stream.encoding,
                errors="replace",
                line_buffering=stream.line_buffering,
            )
            setattr(sys, name, new)


def write_whole(text: str) -> None:
    """Write to standard output what is not for eyes alone, unfolded."""
    if isinstance(sys.stdout, FoldedOutput):
        sys.stdout.write_whole(text)
    else:
        sys.stdout.write(text)


_COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")


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
        """Write what moves the cursor, of bars; the names in it are plain (console.py)."""
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
        c if c in "\n\t" or unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode()
        for c in message
    )


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]} ... {text[-most // 5 :]} ({len(text):,} characters)"


_LONGEST_WORD = 400
_LONGEST_MESSAGE = 1200


def fold(line: str, width: int) -> str:
    """A line as several of at most `width` columns, broken between words; codes and commands stay as they are."""
    if len(line) <= width or "\x1b" in line or line.startswith("next: distillaw"):
        return line
    return textwrap.fill(
        line, width, subsequent_indent=" " * _hang(line, width), break_long_words=False, break_on_hyphens=False,
        replace_whitespace=False,
    )  # fmt: skip


def _hang(line: str, width: int) -> int:
    """Where the next line begins: under the text that follows a label, else a little further in than this one."""
    label = re.match(r"\s*(?:- )?\S+(?: \S+)*?\s{2,}(?=\S)", line)
    if label is not None and label.end() <= width // 2:
        return label.end()
    return min(len(line) - len(line.lstrip()) + HANG, width // 2)
