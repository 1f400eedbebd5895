"""`distillaw retrodict`: the planner held against published outcomes."""

from pathlib import Path

from distillaw.cli.app import print_json
from distillaw.cli.console import print_table
from distillaw.cli.output import Output


def retrodict(file: Path | None = None, /, *, output: Output = Output()) -> None:
    """Compare what `plan` says of published outcomes with what happened: calls, probabilities, intervals.

    A row is asked by its own question: sizes, tokens and budgets, never what came out. Rows that `plan` has no question
    for are counted, not scored.

    Args:
        file: CSV of the columns that docs/outcomes.md lists; by default the table that ships. Gain and winner follow
            from value_a and value_b; what is not known stays empty.
    """
    from distillaw.verifying.retrodiction import GROUPS, retrodict, row_table, score_table

    with output.working("asking the planner"):
        found = retrodict(file)
    if output.json:
        print_json(found.to_json())
        return
    print_table(row_table(found))
    print()
    print_table(
        score_table([one for name in GROUPS for one in found.by(name) if one.refused < len(one.rows)])
    )
    score = found.score
    calls, asked = score.right + score.wrong, len(score.rows) - score.refused
    print(
        f"\n{asked} of {len(score.rows)} rows have a question; {calls} of them are called, {score.right} right."
    )
    if score.brier is not None and score.base is not None:
        print(f"Brier score {score.brier:.3f}; that of the share of rows that A won {score.base:.3f}.")
    output.suggest("distillaw plan --student 300M --tokens 20B --teacher pythia-1.4b")
