"""`distillaw verify` and `retrodict`: predictions before runs and what came of them; `plan` and published outcomes."""

import shlex
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from distillaw.cli.app import complain
from distillaw.cli.console import print_sections, print_table
from distillaw.cli.fit import parse_columns
from distillaw.cli.options import LawNames, Place
from distillaw.cli.output import Output, same_command
from distillaw.errors import ConfigError, DataError
from distillaw.quantities import format_count
from distillaw.table import Table, number, text
from distillaw.verifying import scorecard
from distillaw.verifying.scorecard import (
    Scorecard,
    interval_words,
    prediction_table,
    score_places,
    sum_tables,
    teacher_words,
    what_columns,
)

if TYPE_CHECKING:
    from distillaw.verifying.api import Freeze
    from distillaw.verifying.frozen import FrozenPrediction
    from distillaw.verifying.retrodiction import Retrodiction


app = App(name="verify", help="Freeze predictions before runs, and score them on what was measured.")


@app.command
def freeze(
    source: Path,
    *,
    cells: list[str] | None = None,
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    hold_out: bool = False,
    law: LawNames | None = None,
    level: float = 0.9,
    after_the_fact: bool = False,
    columns: str | None = None,
    corpus: Place | None = None,
    output: Output = Output(),
) -> None:
    """Write down, with a hash, what every law and `plan` say of runs that have not been made.

    The hash shows that a file was changed, not when it was made: put it where others see it, a commit or an e-mail.

    Args:
        source: a study folder, or a table of runs (CSV, Parquet, JSON lines; then by laws alone).
        cells: a cell to predict, params=0.4M,tokens=1.8M[,teacher=0.8M@4M | ,teacher_loss=2.9] (repeatable);
            teacher=all stands for none and every teacher of the table.
        from_: a study file: all its students that are not trained yet.
        hold_out: with --from, only the students it holds out.
        law: a published law's name or a file of `distillaw fit --out` (repeatable), instead of the laws of the study
            (fitted again, on the runs there are) and the consensus of `plan`.
        level: of the intervals that hits are counted with.
        after_the_fact: predict cells that have been run, too: marked as such and never counted.
        columns: which column is what, as in `distillaw fit`.
        corpus: the text of the study file, where it names none.
    """
    if not cells and from_ is None:
        raise ConfigError("nothing to predict: give --cells params=..,tokens=..[,teacher=..], or --from STUDY.toml")
    if hold_out and from_ is None:
        raise ConfigError("--hold-out: it takes the held-out students of a study file; add --from STUDY.toml")
    mapped = parse_columns(columns)
    from distillaw.verifying.api import freeze_study, known_runs, study_points, typed_points

    runs = known_runs(source, mapped)
    asked = typed_points([parse_columns(text) for text in cells or ()], source, runs, output.say)
    if from_ is not None:
        asked += study_points(from_, source, runs, holdout=hold_out, corpus=corpus, say=output.say)
    with output.working("fitting and predicting"):
        found = freeze_study(source, asked, laws=law or (), level=level, after_the_fact=after_the_fact, columns=mapped)
    document = {"path": str(found.frozen.path), "is_new": found.is_new, **found.frozen.document}
    output.answer(document, show_frozen, found)
    output.suggest(f"distillaw verify score {shlex.quote(str(source))}", first="make the runs, then:")


@app.command
def score(places: Annotated[list[Path] | None, Parameter(negative=())] = None, /, *, output: Output = Output()) -> int:
    """Compare frozen predictions with what was measured: hits, errors, coverage, calibration.

    All studies given are summed. A folder of studies counts all of them, so that `distillaw verify score out` is the
    record of every study so far. Cells that have not been run stay pending. The exit code is 1 where a file was
    tampered with or dropped.

    Args:
        places: study folders, tables of runs, or folders that hold some up to two levels below; default: out.
    """
    card = score_places(places or [Path("out")])
    output.answer(card.to_json(), show_card, card)
    output.suggest(*_next(card, (places or [Path("out")])[0]))
    return 0 if card.is_sound else 1


def _next(card: "Scorecard", place: Path) -> tuple[str, str]:
    """The report of what was scored, the runs that are missing, or predictions at all."""
    if card.counts["scored"]:
        study = place if (place / "study.json").is_file() else "STUDY"
        return f"distillaw report {shlex.quote(str(study))}", ""
    if card.predictions:
        return same_command(), "make the runs that are pending, then:"
    return "distillaw verify freeze STUDY --from STUDY.toml", ""


def show_frozen(found: "Freeze") -> None:
    """What was frozen, and its hash."""
    one = found.frozen
    columns = [
        *what_columns(lambda p: p),
        number("predicted", of=lambda p: f"{p.mean:+.4f}" if p.quantity == "gain" else f"{p.mean:.4f}"),
        number("interval", interval_words, of=lambda p: p.intervals.get(one.level), missing="none"),
        text("range", of=_range),
    ]
    print_table(Table.of(columns, one.predictions))
    choices = []
    for choice in one.choices:
        first, best = choice.points[0], teacher_words(choice.points[choice.best])
        student = f"{format_count(first.params)} parameters, {format_count(first.tokens)} tokens"
        choices.append(f"{choice.by}, {student}: {best} ({choice.probabilities[choice.best]:.0%})")
    silent = [f"{name}: {why}" for name, why in found.silent.items()]
    print_sections({"Best teacher": choices, "Silent": silent})
    state = "frozen" if found.is_new else "the same predictions were frozen before"
    print(f"\n{state}: {one.path}\nhash    {one.hash}")
    print(f"follows {one.document['previous'] or 'nothing: the first file'}")
    print("The hash shows a change, not a date: put it into a commit or an e-mail now.")


def _range(prediction: "FrozenPrediction") -> str:
    if prediction.after_the_fact:
        return "after the fact"
    if prediction.inside_range:
        return "inside"
    sizes = {"student_params": "params", "student_tokens": "tokens"}
    outside = prediction.efolds_outside
    found = [f"{name} x{exp(outside[key]):.2g}" for key, name in sizes.items() if key in outside]
    found += ["teacher loss"] if "teacher_loss" in outside else []
    return f"beyond: {', '.join(found) or 'tokens per parameter'}"


def show_card(card: "Scorecard") -> None:
    """Every prediction, then the sums."""
    for study in card.studies:
        files = [f"{one.path.name} ({'intact' if one.is_intact else 'TAMPERED'})" for one in study.files]
        print(f"{study.name}: {', '.join(files)}")
        if len(card.studies) == 1:
            print_table(prediction_table(study.predictions))
        print_sections({"Mind": study.problems})
    counts = ", ".join(f"{n} {state}" for state, n in card.counts.items() if n)
    studies = f"{len(card.studies)} {'study' if len(card.studies) == 1 else 'studies'}"
    print(f"\n{studies}: {counts or 'nothing predicted'}")
    for title, table in sum_tables(card).items():
        print(f"\n{title}:")
        print_table(table)
    sections = {
        "Best": [best_sentence(entry) for entry in scorecard.head_to_head(card.predictions)],
        "Not scored": [*card.unreadable, *card.copies],
        "Read as": scorecard.CAVEATS if card.counts["scored"] else (),
    }
    print_sections(sections)


def best_sentence(entry: dict[str, Any]) -> str:
    """Who predicted best on common design points."""
    losses = f"losses {'from a teacher' if entry['is_taught'] else 'alone'}"
    kind = "gains" if entry["quantity"] == "gain" else losses
    ranks = ", ".join(f"{r['by']} ({100 * r['rms_share']:.2f} % off)" for r in entry["ranking"])
    return f"{kind}, {entry['num']} cells that all predicted, best interval score first: {ranks}"


def retrodict(file: Path | None = None, /, *, output: Output = Output()) -> int:
    """Compare what `plan` says of published outcomes with what happened: calls, probabilities, intervals.

    A row is asked by its own question: sizes, tokens and budgets, never what came out. Rows that `plan` has no question
    for are counted, not scored.

    Args:
        file: CSV of the columns that docs/outcomes.md lists; by default the table that ships. Gain and winner follow
            from value_a and value_b; what is not known stays empty.
    """
    from distillaw.verifying.retrodiction import retrodict

    try:
        with output.working("asking the planner"):
            found = retrodict(file)
    except DataError as error:  # a file of questions, as that of `plan --question`: wrong usage
        return complain(error, 2, keep_lines=True)
    output.answer(found.to_json(), _show_retrodiction, found)
    if file is None:
        output.suggest("distillaw plan --student 300M --tokens 20B --teacher pythia-1.4b")
    return 0


def _show_retrodiction(found: "Retrodiction") -> None:
    from distillaw.verifying.retrodiction import GROUPS, row_table, score_table

    print_table(row_table(found))
    print()
    print_table(score_table([one for name in GROUPS for one in found.by(name) if one.refused < len(one.rows)]))
    score = found.score
    calls, asked = score.right + score.wrong, len(score.rows) - score.refused
    print(f"\n{asked} of {len(score.rows)} rows have a question; {calls} of them are called, {score.right} right.")
    if score.brier is not None and score.base is not None:
        print(f"Brier score {score.brier:.3f}; that of the share of rows that A won {score.base:.3f}.")
