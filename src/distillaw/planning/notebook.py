"""A verdict as HTML for notebooks: the sentence, the strategies, what would change it."""

from html import escape
from typing import TYPE_CHECKING

from distillaw.quantities import format_count

if TYPE_CHECKING:
    from distillaw.planning.decision import Verdict

_CELL = "padding:2px 10px;text-align:"


def verdict_html(verdict: "Verdict") -> str:
    """Text and one table, without style sheets, so that it reads in any notebook."""
    from distillaw.planning.wording import interval, percent, title

    rows = []
    for row in verdict.strategies:
        numbers = (
            "" if row.teacher_loss is None else f"{row.teacher_loss:.3f}", format_count(row.student_tokens),
            interval(row.loss), "" if row.gain is None else interval(row.gain),
            "" if row.share_best is None else percent(row.share_best),
        )  # fmt: skip
        cells = "".join(f'<td style="{_CELL}right">{escape(text)}</td>' for text in numbers)
        rows.append(f'<tr><td style="{_CELL}left">{escape(row.name)}</td>{cells}</tr>')
    heads = ("strategy", "teacher loss", "tokens", "loss, nats/token", "gain", "best?")
    head = "".join(f'<th style="{_CELL}left">{text}</th>' for text in heads)
    flips = "".join(f"<li>{escape(line)}</li>" for line in verdict.flips_if)
    warnings = "".join(f"<li>{escape(line)}</li>" for line in verdict.warnings)
    return (
        f"<div><p><b>{title(verdict)}</b> {escape(verdict.sentence)}.</p><table><tr>{head}</tr>{''.join(rows)}"
        f"</table><p>Changes if</p><ul>{flips}</ul>"
        + (f"<p>Warnings</p><ul>{warnings}</ul>" if warnings else "")
        + "</div>"
    )
