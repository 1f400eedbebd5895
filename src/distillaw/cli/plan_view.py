"""A verdict in the terminal: five lines, three tables, what would change it, what it assumes."""

from typing import TYPE_CHECKING

from distillaw.cli.console import print_sections, print_table

if TYPE_CHECKING:
    from distillaw.planning.verdict import Verdict


def show(verdict: "Verdict", *, with_explanation: bool = False) -> None:
    """Print it; tables are folded to the terminal."""
    from distillaw.planning.verdict import cost_table, evidence_table, nearest_table, strategy_table

    first = [line for line in verdict.warnings if line.startswith(("left out", "are these losses"))]
    warnings = [line for line in verdict.warnings if line not in first]
    print("\n".join([str(verdict), *(f"{line[0].upper()}{line[1:]}." for line in first)]))
    tables = (strategy_table(verdict), cost_table(verdict), evidence_table(verdict), nearest_table(verdict))
    for table in tables:
        print()
        print_table(table)
    if verdict.teachers is not None:
        print(f"\n{verdict.teachers.sentence}")
    print("On-policy distillation (distillaw instruct onpolicy) is left out: no law says what it is worth.")
    for line in _consequences(verdict):
        print(line)
    sections = {
        "Changes if": verdict.flips_if[1:],
        "Assumes": verdict.assumptions,
        "Warnings": warnings,
        "Run next": verdict.next_runs,
    }
    if with_explanation:
        from distillaw.planning.explain import explanation

        sections = {"How it comes about": explanation(verdict), **sections}
    print_sections(sections)


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
