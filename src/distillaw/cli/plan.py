"""`distillaw plan`: the verdict, five lines to decide by and tables to check them with."""

from pathlib import Path

from distillaw.cli.app import print_json
from distillaw.cli.counts import Count
from distillaw.cli.output import Output
from distillaw.cli.plan_options import (
    BudgetOptions,
    CandidateOptions,
    LawOptions,
    ScoutOptions,
    ServingOptions,
)


def plan(
    *,
    question: Path | None = None,
    student: Count | None = None,
    budget: BudgetOptions | None = None,
    serving: ServingOptions | None = None,
    candidates: CandidateOptions | None = None,
    scouting: ScoutOptions | None = None,
    laws: LawOptions | None = None,
    vocab: int | None = None,
    context: int | None = None,
    explain: bool = False,
    output: Output = Output(),
) -> None:
    """Decide whether to distil or pretrain one student, from which teacher, how many tokens, and how sure.

    Args:
        question: TOML file of options, as the planner page saves it: a table [plan] whose keys are the options below.
            Options typed beside it win.
        student: non-embedding parameters, e.g. 300M; with --study, by default the study's target. Left out, the best
            size for the budget is searched.
        budget: what may be spent.
        serving: how large a student can be served.
        candidates: the teachers, and who pays for them.
        scouting: teachers that are measured on your text first.
        laws: whom to ask.
        vocab: vocabulary, for counting FLOP.
        context: training context in tokens, for counting FLOP.
        explain: walk through the equations with the numbers put in.
    """
    del question  # its options were put among the others before this was called (plan_file.py)
    from distillaw.cli.plan_question import ask

    with output.working("planning"):
        verdict = ask(
            student, budget or BudgetOptions(), serving or ServingOptions(), candidates or CandidateOptions(),
            scouting or ScoutOptions(), laws or LawOptions(), vocab=vocab, context=context, output=output,
        )  # fmt: skip
    if output.json:
        from distillaw.planning.explain import explanation

        print_json(verdict.to_json() | ({"explanation": explanation(verdict)} if explain else {}))
        return
    from distillaw.cli.plan_view import show

    show(verdict, with_explanation=explain)
    output.suggest(verdict.next_command)
