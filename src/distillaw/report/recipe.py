"""`report.html` of a recipe: what was cut, what each arm came to, what the chat model is worth, at what cost.

    distillaw report out/recipe

Reads recipe.json alone; a stage that was not run is left out.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillaw.errors import CacheError
from distillaw.pareto.frontier import Point, place
from distillaw.pareto.own import axis_compute
from distillaw.pareto.words import place_words
from distillaw.quantities import format_count, format_seconds
from distillaw.report.arms import arm_name, arm_table, arms_picture, pair_sentences
from distillaw.report.content import Figure, Table, Value, number
from distillaw.report.page import FigureFiles, Section, write_page
from distillaw.report.pareto import models_picture
from distillaw.report.scores import own_frontier, score_notes, score_table
from distillaw.runs.files import read_json

RECORD = "recipe.json"
AXES = (
    ("layers", "layers"),
    ("width", "width"),
    ("heads", "heads"),
    ("kv_heads", "KV heads"),
    ("ffn", "FFN"),
)


def write_recipe_report(folder: Path, out: Path | None = None, *, figures: FigureFiles | None = None) -> Path:
    """Write the report of a recipe's folder.

    Args:
        folder: what `distillaw recipe` wrote, finished or not.
        out: the HTML file; by default report.html in the folder.
        figures: where to write every figure as files of its own; None: only in the page.

    Raises:
        CacheError: there is no recipe.json.
    """
    if not (folder / RECORD).exists():
        raise CacheError(
            f"{folder}: no {RECORD}, so no recipe; `distillaw recipe minima --out {folder}` makes one"
        )
    record: dict[str, Any] = read_json(folder / RECORD)
    out = out or folder / "report.html"
    stages = record["stages"]
    write_page(
        out, "recipe.html.j2", figures=figures,
        title=f"distillaw recipe: {folder.name}", name=record["recipe"], command=record["command"],
        sentence=_sentence(stages), numbers=_numbers(stages), problems=_problems(record), sections=_sections(record),
        samples=stages.get("instruct", {}).get("samples"),
        stages=_stage_table(stages), specification=json.dumps(record["spec"], indent=2),
    )  # fmt: skip
    return out


def _sentence(stages: Mapping[str, Any]) -> str:
    law = stages["law"]
    said = f"A student of {format_count(law['params'])} parameters cut out of {format_count(law['teacher_params'])}"
    if "distil" not in stages:
        return f"{said}: not trained yet."
    found = stages["distil"]
    best = found["arms"][0]
    return f"{said}: best of {len(found['arms'])} arms is “{arm_name(best['arm'])}” at {best['loss']:.3f} nats/token."


def _numbers(stages: Mapping[str, Any]) -> list[Figure]:
    law = stages["law"]
    found = [Figure(label="teacher : student", value=f"{law['ratio']:.2f}",
                    note="non-embedding parameters; the law of capacity gap says 2.5 for pruned students")]  # fmt: skip
    if "prune" in stages and "loss" in (cut := stages["prune"]["cuts"][-1]):
        found.append(Figure(label="lost by the cut", value=f"{cut['lost']:.3f} nats/token",
                            note=f"± {cut['lost_se']:.3f}, paired, {cut['heldout_tokens']:,} tokens"))  # fmt: skip
    if "distil" in stages:
        for pair in stages["distil"]["pairs"][:2]:
            low, high = pair["interval"]
            found.append(Figure(label=pair["what"], value=f"{pair['gain']:+.3f} nats/token",
                                note=f"{low:+.3f} to {high:+.3f}, 90 %, one seed"))  # fmt: skip
    if "instruct" in stages:
        sft = stages["instruct"]["sft"]
        found.append(Figure(label="loss on held-out answers", value=f"{sft['loss']:.3f} nats/token",
                            note=f"before fine-tuning {sft['before']['loss']:.3f}; assistant tokens only"))  # fmt: skip
    return found


def _problems(record: Mapping[str, Any]) -> list[str]:
    stages, spec = record["stages"], record["spec"]
    advice = stages["law"]["advice"]
    found = [f"{advice[0].upper()}{advice[1:]}."] if stages["law"]["keep"] < 2 / 3 else []
    if "distil" in stages:
        found.append(
            f"Arms were trained once each on {format_count(spec['tokens'])} tokens: the intervals are of the "
            "held-out documents, not of the seed, and so short a training says little about a long one."
        )
    missing = [stage for stage in ("prune", "distil", "instruct", "evaluate") if stage not in stages]
    if missing:
        found.append(f"Not run yet: {', '.join(missing)}.")
    return found


def _sections(record: Mapping[str, Any]) -> list[Section]:
    stages = record["stages"]
    found = [Section(title="What the laws say of this student", notes=_law_notes(stages["law"]),
                     table=_opinion_table(stages["law"]), table_title="Every opinion on the best teacher")]  # fmt: skip
    if "prune" in stages:
        found.append(Section(title="What was cut", notes=_cut_notes(stages["prune"]["cuts"]), open=True,
                             table=_cut_table(stages["prune"]["cuts"]), table_title="Sizes"))  # fmt: skip
    if "distil" in stages:
        found.append(Section(title="Pruned, fresh, with and without the teacher: equal tokens", open=True,
                             pictures=[arms_picture(stages["distil"])], notes=pair_sentences(stages["distil"]),
                             table=arm_table(stages["distil"]), table_title="Every arm"))  # fmt: skip
    if "evaluate" in stages:
        models = stages["evaluate"]["models"]
        found.append(Section(title="What each model is worth", notes=score_notes(models), open=True,
                             table=score_table(models), table_title="Scores with standard errors"))  # fmt: skip
        points, label = own_frontier(_costs(record), models)
        if points:
            axis = "6 N D of all weights, with the teacher's forward passes"
            found.append(Section(title="Compute against score",
                                 pictures=[models_picture(points, score=label, axis=axis)],
                                 notes=[_axis_note(stages), *_places(points)]))  # fmt: skip
    return found


def _costs(record: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """Point -> (model, training FLOP on the published axis); fine-tuning is added to the base model's.

    With the teacher's tokens known the teacher itself is a point, and the base model once more with its teacher's
    training.
    """
    stages, teacher_tokens = record["stages"], float(record["spec"]["teacher_tokens"])
    best = stages["distil"]["arms"][0]
    taught = next(row for row in stages["distil"]["arms"] if row["taught"])
    teacher_params = taught["teacher_total_params"]
    row = {"total_params": best["total_params"], "tokens": best["tokens"],
           "teacher_total_params": teacher_params if best["taught"] else None}  # fmt: skip
    base = axis_compute(row, teacher_cost="forward")
    tuned = 6.0 * best["total_params"] * stages["instruct"]["sft"]["all_tokens"]
    costs = {"base": ("base", base), "chat": ("chat", base + tuned)}
    if teacher_tokens and teacher_params:
        training = axis_compute(
            {"total_params": teacher_params, "tokens": teacher_tokens}, teacher_cost="none"
        )
        whole = axis_compute(row, teacher_cost="training", teacher_tokens=teacher_tokens)
        costs |= {"teacher": ("teacher", training), "base + teacher": ("base", whole)}
    return costs


def _places(points: Sequence[Point]) -> list[str]:
    """Where each model stands; the cheapest has nobody to be compared with."""
    return [f"{place_words(point, points)}." for point in points if place(point, points).best is not None]


def _axis_note(stages: Mapping[str, Any]) -> str:
    return (
        "The published points are drawn by “distillaw pareto”: they are means of six benchmarks, and a model without "
        "all six has no place among them. Here only this recipe's own models stand on one axis."
        if not all("mean_of_six" in m and m["mean_of_six"] for m in stages["evaluate"]["models"].values())
        else "Published models score the mean of six benchmarks: “distillaw pareto” puts these among them."
    )


def _law_notes(law: Mapping[str, Any]) -> list[str]:
    return [f"{law['rule']}: the best teacher of this student would have "
            f"{format_count(law['best_teacher_by_rule'])} parameters, this one has "
            f"{format_count(law['teacher_params'])}.",
            *law["disagreement"]]  # fmt: skip


def _opinion_table(law: Mapping[str, Any]) -> Table:
    rows = []
    for opinion in law["opinions"]:
        best = opinion.get("best_params")
        size = Value(text="-" if best is None else format_count(best), sort=best or 0.0)
        rows.append(
            [Value(text=opinion["law"], kind="text"), Value(text=opinion["status"], kind="text"), size]
        )
    return Table(columns=["law", "status", "best teacher, parameters"], rows=rows)


def _cut_notes(cuts: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"To {cut['keep']:.0%} of {format_count(cut['teacher_params'])}, units ranked by {cut['importance']} on "
        f"{cut['calibration_windows']} windows of {cut['context']} tokens: "
        f"{cut['loss']:.3f} ± {cut['loss_se']:.3f} nats/token right after the cut, the teacher "
        f"{cut['teacher_loss']:.3f}, a uniform guess {cut['uniform_guess']:.2f}, on {cut['heldout_tokens']:,} "
        "tokens of the calibration documents that ranked nothing."
        for cut in cuts
    ]  # fmt: skip


def _cut_table(cuts: Sequence[Mapping[str, Any]]) -> Table:
    shapes = [cuts[0]["teacher_shape"], *(cut["shape"] for cut in cuts)]
    rows = [[Value(text=words, kind="text"), *(number(float(shape[axis]), 0) for shape in shapes)]
            for axis, words in AXES]  # fmt: skip
    names = ["student"] if len(cuts) == 1 else [f"step {i + 1}" for i in range(len(cuts))]
    return Table(columns=["", "teacher", *names], rows=rows)


def _stage_table(stages: Mapping[str, Any]) -> Table:
    return Table(columns=["stage", "time"], rows=[
        [Value(text=name, kind="text"), Value(text=format_seconds(stage["seconds"]), sort=stage["seconds"])]
        for name, stage in stages.items()
    ])  # fmt: skip
