"""`distillaw plan`: the verdict, five lines to decide by and tables to check them with."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.cli.app import print_json
from distillaw.cli.console import print_sections, print_table
from distillaw.cli.output import Output
from distillaw.cli.plan_options import AskedOptions, LawOptions, ScoutOptions, question_of

if TYPE_CHECKING:
    from distillaw.planning.question import PlanQuestion
    from distillaw.planning.verdict import Verdict


def plan(
    *,
    question: Path | None = None,
    asked: AskedOptions = AskedOptions(),
    scouting: ScoutOptions = ScoutOptions(),
    laws: LawOptions = LawOptions(),
    explain: bool = False,
    output: Output = Output(),
) -> None:
    """Decide whether to distil or pretrain one student, from which teacher, how many tokens, and how sure.

    Args:
        question: TOML file of options, as the planner page saves it: a table [plan] whose keys are the options below.
            Options typed beside it win.
        asked: the student, its budget, its teachers and who pays for them.
        scouting: teachers that are measured on your text first.
        laws: whom to ask.
        explain: walk through the equations with the numbers put in.
    """
    del question  # its options were put among the others before this was called (plan_file.py)
    with output.working("planning"):
        verdict = _answer(question_of(asked, laws), scouting, output)
    if output.json:
        from distillaw.planning.explain import explanation

        print_json(verdict.to_json() | ({"explanation": explanation(verdict)} if explain else {}))
        return
    show(verdict, with_explanation=explain)
    output.suggest(verdict.next_command)


def _answer(question: "PlanQuestion", scouting: ScoutOptions, output: Output) -> "Verdict":
    """The verdict; teachers are measured once all else that was typed can be planned with."""
    from distillaw.cli.plan_scout import check_scouting, scouted
    from distillaw.planning.api import answer
    from distillaw.planning.question import situation_of, with_measured

    check_scouting(scouting)
    record = question.record
    situation = situation_of(question, record, more_to_come=bool(scouting.scout))
    if not scouting.scout:
        return answer(question, situation, record)
    found = scouted(scouting, record, output)
    situation = with_measured(situation, question, record, teachers=found.teachers, vocab=found.vocab)
    verdict = answer(question, situation, record)
    return replace(verdict, warnings=(*found.warnings, *verdict.warnings))


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
