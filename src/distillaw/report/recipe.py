"""`report.html` of a recipe: what was cut, what each arm came to, what the chat model is worth, at what cost.

    distillaw report out/recipe

Reads recipe.json alone; a stage that was not run is left out.
"""

import json
import math
from collections.abc import Mapping, Sequence
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from distillaw.errors import CacheError
from distillaw.figures.frontiers import arm_name, draw_arms, models
from distillaw.pareto.points import ScorePoint, axis_compute, place, place_words
from distillaw.quantities import format_count, format_flop, format_seconds
from distillaw.report.page import FigureFiles, KeyNumber, Picture, Section, write_page
from distillaw.runs.files import read_json
from distillaw.table import Table, number, text

RECORD = "recipe.json"
AXES = (
    ("layers", "layers"),
    ("width", "width"),
    ("heads", "heads"),
    ("kv_heads", "KV heads"),
    ("ffn", "FFN"),
)


def write_recipe_report(folder: Path, out: Path | None = None, *, figures: FigureFiles | None = None) -> Path:
    """Write the report of a folder that `distillaw recipe` wrote, finished or not; arguments as of `write_any`.

    Raises:
        CacheError: there is no recipe.json.
    """
    if not (folder / RECORD).exists():
        raise CacheError(
            f"{folder}: no {RECORD}, so no recipe; `distillaw recipe minima --out {folder}` makes one"
        )
    record = read_json(folder / RECORD)
    out = out or folder / "report.html"
    stages = record["stages"]
    times = [(name, stage["seconds"]) for name, stage in stages.items()]
    write_page(
        out,
        "recipe.html.j2",
        figures=figures,
        title=f"distillaw recipe: {folder.name}",
        name=record["recipe"],
        command=record["command"],
        sentence=_sentence(stages),
        numbers=_numbers(stages),
        problems=_problems(record),
        sections=_sections(record),
        samples=stages.get("instruct", {}).get("samples"),
        stages=Table([text("stage"), number("time", format_seconds)], times),
        specification=json.dumps(record["spec"], indent=2),
    )
    return out


def _sentence(stages: Mapping[str, Any]) -> str:
    law = stages["law"]
    said = f"A student of {format_count(law['params'])} parameters cut out of {format_count(law['teacher_params'])}"
    if "distil" not in stages:
        return f"{said}: not trained yet."
    found = stages["distil"]
    best = found["arms"][0]
    return f"{said}: best of {len(found['arms'])} arms is “{arm_name(best['arm'])}” at {best['loss']:.3f} nats/token."


def _numbers(stages: Mapping[str, Any]) -> list[KeyNumber]:
    rule = "non-embedding parameters"
    found = [KeyNumber("teacher : student", f"{stages['law']['ratio']:.2f}", rule)]
    if "prune" in stages and "loss" in (cut := stages["prune"]["cuts"][-1]):
        note = f"± {cut['lost_se']:.3f}, paired, {cut['heldout_tokens']:,} tokens"
        found.append(KeyNumber("lost by the cut", f"{cut['lost']:.3f} nats/token", note))
    if "upcycle" in stages:
        run = stages["upcycle"]["run"]
        note = f"{run['start_loss']:.3f} before its {format_count(run['tokens'])} tokens, which no dense arm read"
        found.append(KeyNumber("mixture of experts", f"{run['loss']:.3f} nats/token", note))
    if "distil" in stages:
        for pair in stages["distil"]["pairs"][:2]:
            low, high = pair["interval"]
            note = f"{low:+.3f} to {high:+.3f}, 90 %, one seed"
            found.append(KeyNumber(pair["what"], f"{pair['gain']:+.3f} nats/token", note))
    if "instruct" in stages:
        sft = stages["instruct"]["sft"]
        note = f"before fine-tuning {sft['before']['loss']:.3f}; assistant tokens only"
        found.append(KeyNumber("loss on held-out answers", f"{sft['loss']:.3f} nats/token", note))
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


def _adapted_notes(adapt: Mapping[str, Any]) -> list[str]:
    """What became of the teacher before anything was cut out of it."""
    found = []
    if change := adapt.get("vocabulary"):
        facts = change["texts"]["text"]
        found.append(
            f"Its vocabulary: {change['vocab_before']:,} tokens, now {change['vocab']:,}; on held-out text of its own "
            f"split {facts['tokens_per_byte_before']:.4f} tokens per byte, now {facts['tokens_per_byte']:.4f}, and "
            f"{facts['change']:+.4f} ± {facts['change_se']:.4f} bits per byte before it was trained, paired."
        )
    if run := adapt.get("run"):
        found.append(
            f"Trained further on {format_count(run['tokens'])} tokens that no student reads: {run['start_loss']:.3f} "
            f"before, {run['loss']:.3f} ± {run['loss_se']:.3f} nats/token after."
        )
    return found


def _sections(record: Mapping[str, Any]) -> list[Section]:
    stages, law = record["stages"], record["stages"]["law"]
    said = f"{law['rule']}. This teacher has {format_count(law['teacher_params'])} parameters."
    best_teacher = {"of": lambda row: row.get("best_teacher_params"), "missing": "-"}
    columns = [
        text("law", of=itemgetter("law")),
        text("status", of=itemgetter("status")),
        number("best teacher, parameters", format_count, **best_teacher),
    ]
    found = [
        Section(
            title="What the laws say of this student",
            notes=[said, *law["disagreement"]],
            table=Table.of(columns, law["opinions"]),
            table_title="Every opinion on the best teacher",
        )
    ]
    if "adapt" in stages:
        notes = _adapted_notes(stages["adapt"])
        found.append(Section(title="The teacher, adapted first", notes=notes))
    if "prune" in stages:
        cuts = stages["prune"]["cuts"]
        notes, table = _cut_notes(cuts), _cut_table(cuts)
        found.append(Section(title="What was cut", notes=notes, table=table, table_title="Sizes", open=True))
    if "distil" in stages:
        found.append(
            Section(
                title="Pruned, fresh, with and without the teacher: equal tokens",
                pictures=[arms_picture(stages["distil"])],
                notes=pair_sentences(stages["distil"]),
                table=arm_table(stages["distil"]),
                table_title="Every arm",
                open=True,
            )
        )
    if "instruct" in stages:
        found.append(Section(title="The chat model", notes=_chat_notes(stages["instruct"])))
    if "evaluate" in stages:
        models = stages["evaluate"]["models"]
        found += _worth_sections(record, models) + _judged_sections(models)
    return found


def _chat_notes(instruct: Mapping[str, Any]) -> list[str]:
    """What each step of tuning did to what it was tuned for."""
    sft = instruct["sft"]
    whose = "the teacher's answers" if instruct["generated"] else instruct["chats"]
    found = [
        f"Fine-tuned on {sft['conversations']} conversations ({whose}): {sft['before']['loss']:.3f} before, "
        f"{sft['loss']:.3f} ± {sft['loss_se']:.3f} nats/token after, on held-out answers to "
        f"{sft['heldout_conversations']} prompts."
    ]
    if "onpolicy" in instruct:
        run, own = instruct["onpolicy"], instruct["onpolicy"]["onpolicy"]
        low, high = own["change"]["interval"]
        found.append(
            f"Then on {own['answers']} answers of its own ({own['truncated']} cut off): {own['divergence']} to the "
            f"teacher {own['before']['loss']:.3f} before, {own['after']['loss']:.3f} nats/token after, on its own "
            f"answers to held-out prompts; change {own['change']['mean']:+.3f} ({low:+.3f} to {high:+.3f}, 90 %, "
            f"paired). Cost: training {format_flop(run['train_flops'])}, sampling "
            f"{format_flop(run['generation_flops'])}, the teacher {format_flop(run['teacher_flops'])}."
        )
    return found


def _judged_sections(models: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """Whose answers a judge took for the better ones, and whether that judge is worth asking."""
    rows = [
        {"model": name, "questions": about.partition(" against ")[0], **chat, **verdicts}
        for name, model in models.items()
        for about, chat in model.get("chat", {}).items()
        for verdicts in (chat, chat.get("second"))
        if verdicts is not None
    ]
    if not rows:
        return []
    columns = [
        text("model", of=itemgetter("model")),
        text("questions", of=itemgetter("questions")),
        text("judge", of=lambda row: Path(row["judge"]["name"]).name),
        text("win rate, %", of=lambda row: _percent(row, "win_rate")),
        text("at equal lengths, %", of=lambda row: _percent(row, "length_controlled")),
        text("both orders agree, %", of=lambda row: _percent(row, "agreement")),
        number("answer shown first wins", ".0%", of=lambda row: row.get("first_place"), missing="-"),
        number("turns", of=itemgetter("turns")),
        number("unread verdicts", of=itemgetter("unparseable")),
    ]
    notes = [
        "Each model's answers stood beside the teacher's, once first and once second; a verdict that turns with the "
        "order is a tie. 50 % is a draw; intervals are of 95 %, over questions."
    ]
    for judge in dict.fromkeys(Path(row["judge"]["name"]).name for row in rows):
        own = [row for row in rows if Path(row["judge"]["name"]).name == judge]
        if all(row["agreement_interval"][0] <= 0.5 for row in own):
            notes.append(
                f"Turn the order of the answers round, and {judge} agrees with itself no better than a coin would "
                "(50 %): its verdicts do not say which answers are better."
            )
    for row in rows:
        if "agreement" in row.get("judges", {}) and row["judge"] != row.get("second", {}).get("judge"):
            both = row["judges"]
            notes.append(
                f"{row['model']}, {row['questions']}: both judges agree on {both['agreement']:.0%} of {both['turns']} "
                f"turns; blindly, with their habits, they would on {both['by_chance']:.0%}."
            )
    notes += [
        f"{name}, {about.partition(' against ')[0]}: of {each['answers']} answers {_wrong(each)}."
        for name, model in models.items()
        for about, chat in model.get("chat", {}).items()
        for each in [chat["answers"]["model"]]
        if _wrong(each)
    ]
    table = {"table": Table.of(columns, rows), "table_title": "Verdicts", "open": True}
    return [Section(title="Judged chat, against the teacher", notes=notes, **table)]


def _percent(row: Mapping[str, Any], key: str) -> str:
    if key not in row:
        return "-"
    low, high = row[f"{key}_interval"]
    return f"{100 * row[key]:.0f} ({100 * low:.0f} to {100 * high:.0f})"


def _wrong(counts: Mapping[str, Any]) -> str:
    words = {
        "empty": "are empty",
        "refusing": "refuse",
        "repeating": "repeat themselves",
        "unended": "never end",
    }
    return ", ".join(f"{counts[key]:.0f} {said}" for key, said in words.items() if counts[key])


def _worth_sections(record: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    scores = Section(
        title="What each model is worth",
        notes=score_notes(models),
        table=score_table(models),
        table_title="Scores with standard errors",
        open=True,
    )
    points, label = own_frontier(_costs(record), models)
    if not points:
        return [scores]
    axis = "6 N D of all weights, with the teacher's forward passes"
    picture = models_picture(points, score=label, axis=axis)
    note = (
        "The published points are drawn by “distillaw pareto”: they are means of six benchmarks, and a model without "
        "all six has no place among them. Here only this recipe's own models stand on one axis."
        if not all(model.get("mean_of_six") for model in models.values())
        else "Published models score the mean of six benchmarks: “distillaw pareto” puts these among them."
    )
    # the cheapest has nobody to be compared with
    places = [f"{place_words(p, points)}." for p in points if place(p, points).best is not None]
    return [scores, Section(title="Compute against score", pictures=[picture], notes=[note, *places])]


def _costs(record: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """Point -> (model, training FLOP on the published axis); fine-tuning is added to the base model's.

    With the teacher's tokens known the teacher itself is a point, and the base model once more with its teacher's
    training.
    """
    stages, teacher_tokens = record["stages"], float(record["spec"]["teacher_tokens"])
    best = stages["distil"]["arms"][0]
    taught = next(row for row in stages["distil"]["arms"] if row["taught"])
    teacher_params = taught["teacher_total_params"]
    row = {
        "total_params": best["total_params"],
        "tokens": best["tokens"],
        "teacher_total_params": teacher_params if best["taught"] else None,
    }
    base = axis_compute(row, teacher_cost="forward")
    costs = {"base": ("base", base)}
    student, params = base, best["total_params"]
    if "upcycle" in stages:
        params = stages["upcycle"]["mixture"]["mixture"]["active_total_params"]  # what a token visits
        tokens = stages["upcycle"]["run"]["tokens"]
        further = {"total_params": params, "tokens": tokens, "teacher_total_params": teacher_params}
        student = axis_compute(further | {"compute_before": base}, teacher_cost="forward")
        costs["mixture"] = ("mixture", student)
    student += 6.0 * params * stages["instruct"]["sft"]["all_tokens"]
    if "onpolicy" in stages["instruct"]:
        own = stages["instruct"]["onpolicy"]
        costs["tuned"] = ("tuned", student)
        sampled = own["onpolicy"]["sampled_tokens"]
        student += (6.0 * params + 2.0 * (teacher_params or 0.0)) * own["all_tokens"] + 2.0 * params * sampled
    costs["chat"] = ("chat", student)
    if teacher_tokens and teacher_params:
        training = axis_compute(
            {"total_params": teacher_params, "tokens": teacher_tokens}, teacher_cost="none"
        )
        whole = axis_compute(row, teacher_cost="training", teacher_tokens=teacher_tokens)
        costs |= {"teacher": ("teacher", training), "base + teacher": ("base", whole)}
    return costs


def _cut_notes(cuts: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"To {cut['keep']:.0%} of {format_count(cut['teacher_params'])}, units ranked by {cut['importance']} on "
        f"{cut['calibration_windows']} windows of {cut['context']} tokens: "
        f"{cut['loss']:.3f} ± {cut['loss_se']:.3f} nats/token right after the cut, the teacher "
        f"{cut['teacher_loss']:.3f}, a uniform guess {cut['uniform_guess']:.2f}, on {cut['heldout_tokens']:,} "
        "tokens of the calibration documents that ranked nothing."
        for cut in cuts
    ]


def _cut_table(cuts: Sequence[Mapping[str, Any]]) -> Table:
    shapes = [cuts[0]["teacher_shape"], *(cut["shape"] for cut in cuts)]
    names = ["student"] if len(cuts) == 1 else [f"step {i + 1}" for i in range(len(cuts))]
    columns = [text(""), *(number(name) for name in ("teacher", *names))]
    return Table(columns, [[words, *(shape[axis] for shape in shapes)] for axis, words in AXES])


# --- the arms of one student: where each began, where it ended, how far it is behind the best ---------------


def arms_picture(record: Mapping[str, Any]) -> Picture:
    """The arms of a recipe, best on top."""
    alt = "; ".join(f"{arm_name(row['arm'])} {row['loss']:.3f}" for row in record["arms"])
    return Picture(
        name="arms",
        title="Arms at equal tokens",
        alt=f"Held-out loss of each arm: {alt}",
        figure=draw_arms(record),
        caption=f"Every arm read the same {format_count(record['tokens'])} tokens. Rings: before the first step; dots: "
        "after the last, with the 90 % interval of the held-out documents; blue: taught, grey: from the text alone. "
        "Differences between arms are known better than these intervals: they are paired.",
    )


def pair_sentences(record: Mapping[str, Any]) -> list[str]:
    """What start and teacher were worth."""
    return [
        f"{pair['what'][0].upper()}{pair['what'][1:]}: {pair['gain']:+.3f} nats/token ({pair['interval'][0]:+.3f} to "
        f"{pair['interval'][1]:+.3f}, 90 %, paired over {pair['documents']} documents, one seed)."
        for pair in record["pairs"]
    ]


def arm_table(record: Mapping[str, Any]) -> Table:
    """Every arm with its numbers."""
    return Table.of(
        [
            text("arm", of=lambda row: arm_name(row["arm"])),
            number("parameters", format_count, of=itemgetter("params")),
            number("loss before", ".3f", unit="nats/token", of=itemgetter("start_loss")),
            number("loss after", ".4f", of=itemgetter("loss")),
            number("se", ".4f", of=itemgetter("loss_se")),
            number("behind the best", ".4f", of=itemgetter("behind_best")),
            number("learning rate", "g", of=itemgetter("peak_lr")),
            number("seconds", ".0f", of=itemgetter("seconds")),
        ],
        record["arms"],
    )


# --- what the models scored, and at what compute ------------------------------------------------------------


def score_table(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row per measure, a column per model; what a model was not asked is a dash."""
    measures = [
        ("held-out loss, nats/token", "heldout", "loss", 1.0, 3),
        ("bits per byte", "heldout", "bits_per_byte", 1.0, 3),
        ("calibration error against the text, %", "calibration", "ece_data", 100.0, 2),
        ("calibration error against the teacher, %", "calibration", "ece_teacher", 100.0, 2),
    ]
    rows: list[list[object]] = []
    for words, part, key, factor, digits in measures:
        found = [model[part] if key in model.get(part, ()) else None for model in models.values()]
        scores = [None if each is None else (each[key], each[f"{key}_se"]) for each in found]
        rows.append([words, *(_with_error(score, factor, digits) for score in scores)])
    for task in _tasks(models):
        found = [model["scores"][task] for model in models.values()]
        rows.append([f"{task}, %", *(_with_error((each["score"], each["se"]), 100.0, 1) for each in found)])
    columns = [
        number(name, lambda score: score.words, sort=attrgetter("value"), missing="-") for name in models
    ]
    return Table([text(""), *columns], rows)


class _ScoreText(NamedTuple):
    value: float
    words: str


def _with_error(score: tuple[float, float | None] | None, factor: float, digits: int) -> _ScoreText | None:
    if score is None or score[0] is None:
        return None
    value, se = factor * score[0], score[1]
    known = se is not None and math.isfinite(se)
    error = f" ± {factor * se:.{digits}f}" if se is not None and known else ""
    return _ScoreText(value, f"{value:.{digits}f}{error}")


def score_notes(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which scores say nothing: their interval holds what guessing gives."""
    found = [
        "Losses on documents that no model was trained on here, each scored from its beginning; questions are the "
        "same for every model."
    ]
    for task in _tasks(models):
        at_chance = [
            name for name, m in models.items() if task in m["scores"] and m["scores"][task]["near_chance"]
        ]
        if at_chance:
            found.append(
                f"{task}: {', '.join(at_chance)} cannot be told from guessing; read no difference there."
            )
    return found


def own_frontier(
    costs: Mapping[str, tuple[str, float]], models: Mapping[str, Mapping[str, Any]]
) -> tuple[list[ScorePoint], str]:
    """Points of the recipe's own models: the mean of the tasks they all have, else minus the bits per byte.

    Args:
        costs: point -> (model, FLOP).
        models: model -> its evaluation.
    """
    tasks = _tasks(models)
    points = []
    for label, (name, compute) in costs.items():
        scores = [models[name]["scores"][task] for task in tasks if task in models[name]["scores"]]
        if tasks and len(scores) == len(tasks):
            score = 100 * sum(s["score"] for s in scores) / len(scores)
            se = 100 * math.hypot(*(s["se"] or 0.0 for s in scores)) / len(scores)
        else:
            heldout = models[name]["heldout"]
            score, se = -heldout["bits_per_byte"], heldout["bits_per_byte_se"]
        is_chat = name in ("tuned", "chat")
        points.append(
            ScorePoint(name=label, compute=compute, score=score, se=se, is_own=True, is_chat=is_chat)
        )
    return points, f"mean of {', '.join(tasks)}, %" if tasks else "minus bits per byte (higher is better)"


def _tasks(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return sorted(set.intersection(*(set(m["scores"]) for m in models.values()))) if models else []


def models_picture(points: Sequence[ScorePoint], *, score: str, axis: str) -> Picture:
    """The drawing of the recipe's own models for its page; arguments as of `distillaw.figures.models`."""
    words = "; ".join(place_words(point, points) for point in points)
    return Picture(
        name="pareto",
        title="Score against training compute",
        alt=f"{score} against training compute for {len(points)} models. {words}",
        figure=models(points, score=score, axis=axis),
        caption="Filled: your models, with the 90 % interval of the score; squares are chat models. The line is the "
        "staircase of all points: what nobody beats at equal or less compute.",
    )
