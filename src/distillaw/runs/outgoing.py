"""Text on its way to eyes and spreadsheets: names of studies, runs and teachers are other people's.

A terminal obeys control characters, an editor turns writing round at others, a spreadsheet computes what begins with =.
What leaves passes here once: the terminal's streams (cli/console.py), pages (report/page.py), figures
(figures/style.py), tables (`csv_text`). JSON escapes what it must by itself.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping

_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)
"""All controls but tab and line feed, what turns the direction of writing, halves of characters."""


def plain(text: str) -> str:
    r"""The text with what is no visible character spelt out, as `\x1b`."""
    return text if text.isascii() and text.isprintable() else _FORBIDDEN.sub(_spelt, text)


def _spelt(match: re.Match[str]) -> str:
    point = ord(match[0])
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def cell(value: object) -> object:
    """A cell of a table that no spreadsheet takes for a formula: text that begins like one gets an apostrophe."""
    if not isinstance(value, str) or not value.lstrip().startswith(("=", "+", "-", "@")):
        return plain(value) if isinstance(value, str) else value
    try:
        float(value)
    except ValueError:
        return "'" + plain(value)
    return value


def csv_text(rows: Iterable[Mapping[str, object]]) -> str:
    """A table as CSV; the first row has all columns."""
    table = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, [cell(name) for name in table[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({cell(name): cell(value) for name, value in row.items()} for row in table)
    return text.getvalue()
