"""`distillaw verify freeze | score`: predictions before runs, and what came of them."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from distillaw.cli.app import print_json
from distillaw.cli.names import LawNames, Place
from distillaw.cli.output import Output, same_command
from distillaw.errors import ConfigError

if TYPE_CHECKING:
    from distillaw.verifying.scorecard import Scorecard

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
    from distillaw.cli.fit import parse_columns
    from distillaw.verifying.api import freeze_study, known_runs
    from distillaw.verifying.asked import study_points, typed_points

    if not cells and from_ is None:
        raise ConfigError(
            "nothing to predict: give --cells params=..,tokens=..[,teacher=..], or --from STUDY.toml"
        )
    if hold_out and from_ is None:
        raise ConfigError("--hold-out: it takes the held-out students of a study file; add --from STUDY.toml")
    mapped = parse_columns(columns)
    runs = known_runs(source, mapped)
    asked = typed_points([parse_columns(text) for text in cells or ()], source, runs, output.say)
    if from_ is not None:
        asked += study_points(from_, source, runs, holdout=hold_out, corpus=corpus, say=output.say)
    with output.working("fitting and predicting"):
        found = freeze_study(
            source, asked, laws=law or (), level=level, after_the_fact=after_the_fact, columns=mapped
        )
    if output.json:
        print_json({"path": str(found.frozen.path), "is_new": found.is_new, **found.frozen.document})
        return
    from distillaw.cli.verify_view import show_frozen

    show_frozen(found)
    output.suggest(f"distillaw verify score {shlex.quote(str(source))}", first="make the runs, then:")


@app.command
def score(
    places: Annotated[list[Path] | None, Parameter(negative=())] = None,
    /,
    *,
    output: Output = Output(),
) -> int:
    """Compare frozen predictions with what was measured: hits, errors, coverage, calibration.

    All studies given are summed. A folder of studies counts all of them, so that `distillaw verify score out` is the
    record of every study so far. Cells that have not been run stay pending. The exit code is 1 where a file was
    tampered with or dropped.

    Args:
        places: study folders, tables of runs, or folders that hold some up to two levels below; default: out.
    """
    from distillaw.verifying.scorecard import score_places

    card = score_places(places or [Path("out")])
    if output.json:
        print_json(card.to_json())
    else:
        from distillaw.cli.verify_view import show_card

        show_card(card)
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
