"""The tables of a verdict, the same in the terminal, on pages and in notebooks; and the notebook's page itself."""

from collections.abc import Callable
from html import escape
from operator import attrgetter
from typing import TYPE_CHECKING

from distillaw.planning.decision import call
from distillaw.planning.evidence import Evidence, Strategy, nats
from distillaw.planning.wording import interval, percent, title
from distillaw.quantities import format_count, format_flop
from distillaw.runs.record import budget_text
from distillaw.table import Table, number, text

if TYPE_CHECKING:
    from distillaw.planning.decision import Verdict

SPECULATIVE = "* an estimate that no law describes: shown, never decides"


def strategy_table(verdict: "Verdict") -> Table:
    """Losses and gains of every strategy, best first."""
    mean, is_known = attrgetter("mean"), verdict.headline.is_informative

    def known(name: str) -> Callable[[Strategy], object]:
        return lambda row: getattr(row, name) if is_known else None

    return Table.of(
        [
            text("strategy", of=_name),
            number("teacher loss", nats, of=attrgetter("teacher_loss")),
            number("loss", interval, unit="nats/token", of=known("loss"), sort=mean, missing="unknown"),
            number("gain", interval, of=known("gain"), sort=mean),
            number("best teacher?", percent, of=known("share_best")),
        ],
        verdict.strategies,
        note=SPECULATIVE if any(row.is_speculative for row in verdict.strategies) else "",
    )


def cost_table(verdict: "Verdict") -> Table:
    """FLOP of each strategy by part, and what the scenario has this student pay."""
    parts = {"training": "student_training", "logits": "teacher_logits", "teacher": "teacher_training"}
    if verdict.situation.inference_tokens:
        parts["serving"] = "serving"
    parts["paid here"] = "total"
    flop = [
        number(words, _flop, of=lambda row, part=part: row.compute.get(part), missing="unknown")
        for words, part in parts.items()
    ]
    return Table.of(
        [
            text("FLOP", of=_name),
            number("student", format_count, of=attrgetter("student_params")),
            number("tokens", budget_text, of=attrgetter("student_tokens")),
            *flop,
            text("loss is", of=lambda row: "estimate" if row.is_speculative else row.basis),
        ],
        verdict.strategies,
    )


def evidence_table(verdict: "Verdict") -> Table:
    """Every source side by side, with what it says and whether it decides."""

    def gain(source: Evidence) -> object:
        return source.gain(verdict.level) if source.is_informative else None

    def what(source: Evidence) -> str:
        mark = "decides; " if source.source in verdict.headline.deciding else ""
        return f"{mark}{source.status}: {source.note}"

    def chance(side: str) -> Callable[[Evidence], object]:
        return lambda source: getattr(call(source), side) if source.is_decisive else None

    return Table.of(
        [
            text("evidence", of=attrgetter("source")),
            number("gain", interval, of=gain, sort=attrgetter("mean")),
            number("P(distil)", percent, of=chance("distil")),
            number("P(pretrain)", percent, of=chance("pretrain")),
            text("what it is", of=what, is_wrapped=True),
        ],
        verdict.evidence,
    )


def _name(row: Strategy) -> str:
    """What is done; a star marks what no law and no run describes."""
    return row.name + (" *" if row.is_speculative else "")


def _flop(value: float) -> str:
    return format_flop(value).removesuffix(" FLOP")


def verdict_html(verdict: "Verdict") -> str:
    """The sentence, the strategies and what would change it, for notebooks."""
    flips = "".join(f"<li>{escape(line)}</li>" for line in verdict.flips_if)
    warnings = "".join(f"<li>{escape(line)}</li>" for line in verdict.warnings)
    said = f"<p><b>{title(verdict)}</b> {escape(verdict.sentence)}.</p>{strategy_table(verdict).notebook()}"
    minds = f"<p>Warnings</p><ul>{warnings}</ul>" if warnings else ""
    return f"<div>{said}<p>Changes if</p><ul>{flips}</ul>{minds}</div>"
