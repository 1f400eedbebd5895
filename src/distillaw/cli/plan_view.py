"""A verdict in the terminal: five lines, three tables, what would change it, what it assumes."""

from typing import TYPE_CHECKING

from distillaw.cli.console import console as standard_output
from distillaw.cli.console import numbers_table, print_sections, print_table
from distillaw.quantities import format_count, format_flop

if TYPE_CHECKING:
    from rich.table import Table

    from distillaw.planning.evidence import Strategy
    from distillaw.planning.verdict import Verdict


def show(verdict: "Verdict", *, with_explanation: bool = False) -> None:
    """Print it; tables are folded to the terminal, or to 140 columns in a pipe."""
    console = standard_output(soft_wrap=True)
    left_out = [line for line in verdict.warnings if line.startswith("left out")]
    warnings = [line for line in verdict.warnings if line not in left_out]
    console.print("\n".join([str(verdict), *(f"L{line[1:]}." for line in left_out)]), markup=False)
    for table in (_losses(verdict), _costs(verdict), _evidence(verdict)):
        console.print()
        print_table(table)
    sections = [("Changes if", verdict.flips_if[1:]), ("Assumes", verdict.assumptions), ("Warnings", warnings),
                ("Run next", verdict.next_runs)]  # fmt: skip
    if verdict.teachers is not None:
        console.print(f"\n{verdict.teachers.sentence}", markup=False)
    for line in _consequences(verdict):
        console.print(line, markup=False)
    if with_explanation:
        from distillaw.planning.explain import explanation

        sections.insert(0, ("How it comes about", explanation(verdict)))
    print_sections(console, sections)


def _consequences(verdict: "Verdict") -> list[str]:
    """From how many tokens on a teacher is not needed, where no line above says it; what a wrong answer costs."""
    from distillaw.planning.phrases import interval
    from distillaw.planning.wording import caught_up

    if not verdict.headline.is_decisive:
        return []
    lines, band = [], verdict.crossover
    if band is not None and band.median is not None and verdict.verdict != "distil":
        lines.append(f"Catching up: at {caught_up(band, verdict.level)}.")
    return [*lines, f"If this answer is wrong it costs {interval(verdict.regret_if_wrong)} nats/token."]


def _name(row: "Strategy") -> str:
    """What is done; a star marks what no law and no run describes."""
    return row.name + (" *" if row.is_speculative else "")


def _losses(verdict: "Verdict") -> "Table":
    from distillaw.planning.phrases import interval, nats, percent

    table = numbers_table("strategy", ">teacher loss", ">loss, nats/token", ">gain", ">best teacher?")
    known = verdict.headline.is_informative
    for row in verdict.strategies:
        table.add_row(
            _name(row), "" if row.teacher_loss is None else nats(row.teacher_loss),
            interval(row.loss) if known else "unknown", interval(row.gain) if known and row.gain else "",
            percent(row.share_best) if known and row.share_best is not None else "",
        )  # fmt: skip
    if any(row.is_speculative for row in verdict.strategies):
        table.caption = "* an estimate that no law describes: shown, never decides"
        table.caption_justify = "left"
    return table


def _costs(verdict: "Verdict") -> "Table":
    from distillaw.runs.record import budget_text

    serving = ["serving"] if verdict.situation.inference_tokens else []
    table = numbers_table(
        "FLOP", ">student", ">tokens", ">training", ">logits", ">teacher", *(f">{s}" for s in serving),
        ">paid here", "loss is",
    )  # fmt: skip
    parts = ("student_training", "teacher_logits", "teacher_training", *serving, "total")
    for row in verdict.strategies:
        flop = [row.compute.get(part) for part in parts]
        table.add_row(
            _name(row), format_count(row.student_params), budget_text(row.student_tokens),
            *("unknown" if f is None else format_flop(f).removesuffix(" FLOP") for f in flop),
            "estimate" if row.is_speculative else row.basis,
        )  # fmt: skip
    return table


def _evidence(verdict: "Verdict") -> "Table":
    from distillaw.planning.decision import call
    from distillaw.planning.phrases import interval, percent

    table = numbers_table("evidence", ">gain", ">P(distil)", ">P(pretrain)", "what it is")
    for source in verdict.evidence:
        gain = interval(source.gain(verdict.level)) if source.is_informative else ""
        chances = ["", ""]
        if source.is_decisive:
            answer = call(source)
            chances = [percent(answer.distil), percent(answer.pretrain)]
        mark = "decides; " if source.source in verdict.headline.deciding else ""
        table.add_row(source.source, gain, *chances, f"{mark}{source.status}: {source.note}")
    return table
