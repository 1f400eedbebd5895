"""`distillaw pareto`: score against training compute, your models among the published ones."""

import shlex
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Literal

from distillaw.cli.console import print_table
from distillaw.cli.options import Count, OutFolder, Several
from distillaw.cli.output import Output, same_command
from distillaw.errors import ConfigError, DataError
from distillaw.laws.skill import skill_laws, told_skill
from distillaw.pareto.points import FRONTIERS, SCORES, ScorePoint, own_points, place, place_words, published_points
from distillaw.quantities import did_you_mean, format_flop
from distillaw.table import Table, number, text


def pareto(
    *models: Path,
    score: str = "mean6",
    score_at: Annotated[list[str] | None, Several] = None,
    teacher_cost: Literal["none", "forward", "training"] = "forward",
    teacher_tokens: Count | None = None,
    published: bool = True,
    chat: bool = False,
    frontier: Literal["staircase", "hull"] = "staircase",
    out: OutFolder | None = None,
    output: Output = Output(),
) -> None:
    """Draw score against training compute and say where your models stand.

    The axis counts all weights, 6 N D, and of a distilled model the teacher's forward passes, as the published points
    do (arXiv 2311.07052); it is not model FLOP.

    Args:
        models: folders with evaluation.json and result.json, or tables with the columns name, compute, score, se.
        score: mean6 (MMLU, C-Eval, DROP, HumanEval, BBH, GSM8K), one task, or bits_per_byte (never with --published).
            A task that was not measured is predicted from the held-out loss where `plan --metric` has a law for it.
        score_at: LOSS=SCORE that a model has on the text and with the harness of yours, e.g. 3.1=0.62, for such a
            prediction: levels differ by tens of points between texts.
        teacher_cost: of the teacher: nothing, its forward passes, or its training as well.
        teacher_tokens: tokens that the teacher was trained on.
        published: show the published base models too.
        chat: and the published chat models, scored on the same tests.
        frontier: what the line is: the staircase of unbeaten models, or their concave hull over log compute.
        out: write pareto.svg and pareto.png into this folder.
    """
    skill = told_skill(score, score_at) if score_at or score in skill_laws() else None
    counted = {"teacher_cost": teacher_cost, "teacher_tokens": teacher_tokens or 0.0, "skill": skill}
    points = [point for path in models for point in own_points(path, task=score, **counted)]
    points = _among(points, score, published=published, chat=chat)
    best = {point.name for point in FRONTIERS[frontier](points)}
    axis = AXES[teacher_cost]
    if out is not None:
        from distillaw.figures.files import save_all
        from distillaw.figures.frontiers import models as draw_models

        figure = draw_models(points, score=label(score), axis=axis, frontier=frontier)
        save_all(figure, out, "pareto", dpi=120)
    places = [asdict(p) | ({"place": asdict(place(p, points))} if p.is_own else {}) for p in points]
    document = {"score": score, "axis": axis, "frontier": sorted(best), "points": places}
    output.answer(document, _print, points, f"{label(score)} against training compute: {axis}", best, MARKS[frontier])
    if out is None:
        output.suggest(f"{same_command()} --out pareto")
        return
    if not output.json:
        print(f"\n{out / 'pareto.svg'}")
    tasks = "suite" if score == "mean6" else score
    what = "--text YOUR_TEXT" if score == "bits_per_byte" else f"--tasks {shlex.quote(tasks)} --data YOUR_DATA"
    output.suggest(f"distillaw evaluate MODEL {what} --out DIR", first="one more point:")


def _print(points: "list[ScorePoint]", title: str, best: set[str], mark: str) -> None:
    print(f"{title}\n")
    columns = [
        text("", of=lambda point: "*" if point.name in best else ""),
        text("model", of=attrgetter("name")),
        number("compute", format_flop, of=attrgetter("compute")),
        number("score", ".2f", of=attrgetter("score")),
        text("", of=lambda point: "" if point.se is None else f"± {point.se:.2g}"),
        text("", of=_whose),
    ]
    print_table(Table.of(columns, sorted(points, key=attrgetter("compute"))), indent=2)
    print(f"\n* {mark}.")
    if any(not point.is_own for point in points):
        print(
            "Errors of published scores are those of the number of questions and, where a score was read off a "
            "figure, of the reading; prompts and harnesses differ by more."
        )
    for point in points:
        if point.is_own:
            print(f"\n{place_words(point, points)}")


def _among(points: "list[ScorePoint]", score: str, *, published: bool, chat: bool) -> "list[ScorePoint]":
    """The user's points among the published ones that are asked for.

    ConfigError: nothing published has this score, and there is nothing else; DataError: no point at all.
    """
    if published and score in ("mean6", *SCORES):
        points = points + published_points(score, chat=chat)
    elif published and not points:
        raise ConfigError(
            f"--score {score}{did_you_mean(score, ('mean6', *SCORES))}: published are mean6 and {', '.join(SCORES)}"
        )
    if not points:
        raise DataError("no models: name folders with evaluation.json, or leave --published on")
    return points


def _whose(point: "ScorePoint") -> str:
    if point.is_own:
        return "<- yours, predicted from its loss" if point.is_predicted else "<- yours"
    return "chat model" if point.is_chat else ""


AXES = {
    "none": "6 N D of all weights, the teacher left out",
    "forward": "6 N D of all weights, with the teacher's forward passes",
    "training": "6 N D of all weights, with the teacher's forward passes and training",
}
MARKS = {"staircase": "nobody scores as much for less compute", "hull": "a corner of the concave hull over log compute"}
"""What the star of a printed line says."""


def label(score: str) -> str:
    """The ordinate in words."""
    if score == "mean6":
        return "mean of MMLU, C-Eval, DROP, HumanEval, BBH and GSM8K, %"
    return "minus bits per byte (higher is better)" if score == "bits_per_byte" else f"{score}, %"
