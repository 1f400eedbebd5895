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
from distillaw.report.page import FigureFiles, Picture, Section, write_page
from distillaw.runs.files import read_json
from distillaw.table import Table, number, text

RECORD = "recipe.json"
TEACHER, BASE, CHAT = "teacher", "base", "chat"
COIN = 0.5
"""What a coin agrees with, and the win rate of a draw."""
AT_CHANCE = "°"
MADE = {
    "original": "the teacher as it came",
    TEACHER: "what students are cut out of",
    "cut": "the student right after the cut",
    BASE: "its best arm",
    "mixture": "that as a mixture of experts, trained on",
    "tuned": "fine-tuned on answers",
    CHAT: "the last one, to talk to",
}
AXES = (("layers", "layers"), ("width", "width"), ("heads", "heads"), ("kv_heads", "KV heads"), ("ffn", "FFN"))


def write_recipe_report(folder: Path, out: Path | None = None, *, figures: FigureFiles | None = None) -> Path:
    """Write the report of a folder that `distillaw recipe` wrote, finished or not; arguments as of `write_any`.

    Raises:
        CacheError: there is no recipe.json.
    """
    if not (folder / RECORD).exists():
        raise CacheError(f"{folder}: no {RECORD}, so no recipe; `distillaw recipe minima --out {folder}` makes one")
    record = read_json(folder / RECORD)
    out = out or folder / "report.html"
    stages = record["stages"]
    sections, details = _sections(record)
    times = [(name, stage["seconds"], stage.get("cpu_seconds")) for name, stage in stages.items()]
    write_page(
        out,
        "recipe.html.j2",
        figures=figures,
        title=f"distillaw recipe: {folder.name}",
        name=record["recipe"],
        command=record["command"],
        sentence=_sentence(stages),
        verdict=_verdict(stages),
        problems=_problems(record),
        sections=[*sections, *details],
        shown=len(sections),
        samples=stages.get("instruct", {}).get("samples"),
        stages=Table(
            [text("stage"), *(number(title, format_seconds, missing="-") for title in ("time", "CPU"))], times
        ),
        specification=json.dumps(record["spec"], indent=2),
    )
    return out


def _sentence(stages: Mapping[str, Any]) -> str:
    law = stages["law"]
    said = f"A student of {format_count(law['params'])} parameters cut out of {format_count(law['teacher_params'])}"
    if "distil" not in stages:
        return f"{said}: not trained yet."
    best = stages["distil"]["arms"][0]
    said += f" comes to {best['loss']:.3f} nats/token, its teacher has {_teacher_loss(stages):.3f}"
    models = stages.get("evaluate", {}).get("models", {})
    return f"{said}; {_beats(models, CHAT)}." if _tasks(models) else f"{said}."


def _teacher_loss(stages: Mapping[str, Any]) -> float:
    return next(row["teacher_loss"] for row in stages["distil"]["arms"] if row["taught"])


def _beats(models: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """In which tasks a model is better than guessing."""
    tasks = _tasks(models)
    above = [task for task in tasks if not models[name]["scores"][task]["near_chance"]]
    which = f" ({', '.join(above)})" if above else ""
    return f"the {name} model beats guessing in {len(above) or 'none'} of {len(tasks)} tasks{which}"


def _verdict(stages: Mapping[str, Any]) -> list[str]:
    """What came of it, a sentence a stage: text, the teacher's worth, answers, tasks, chat, cost."""
    found = []
    if "distil" in stages:
        best, teacher = stages["distil"]["arms"][0], _teacher_loss(stages)
        read = f"Held-out text: {best['loss']:.3f} ± {best['loss_se']:.3f} nats/token"
        if (start := best["start_loss"]) is not None and start > teacher:
            back = (start - best["loss"]) / (start - teacher)
            read += f"; {start:.3f} right after the cut, so {back:.0%} of what the cut lost came back"
        found += [f"{read}.", *(f"The teacher's worth: {said}" for said in pair_sentences(stages["distil"])[:1])]
    if "upcycle" in stages:
        run = stages["upcycle"]["run"]
        found.append(
            f"Mixture of experts: {run['start_loss']:.3f} before, {run['loss']:.3f} nats/token after its "
            f"{format_count(run['tokens'])} tokens, which no dense arm read."
        )
    if "instruct" in stages:
        found += _chat_notes(stages["instruct"])
    if models := stages.get("evaluate", {}).get("models"):
        if _tasks(models):
            each = [_beats(models, name) for name in (TEACHER, BASE, CHAT)]
            found.append(f"Tasks: {'; '.join(each)}.")
        rows = [row for row in _judged(models) if row["model"] == CHAT]
        found += [f"Chat, {row['asked']}, judged by {_judge(row)}: {_chat_verdict(row)}" for row in rows]
    arms = stages["distil"]["arms"] if "distil" in stages else []
    runs = [*arms, *(stages.get("instruct", {}).get(step, {}) for step in ("sft", "dpo", "onpolicy"))]
    flop = sum(row.get(f"{part}_flops") or 0 for row in runs for part in ("train", "generation", "teacher"))
    spent = format_seconds(sum(stage["seconds"] for stage in stages.values()))
    return [
        *found,
        f"Cost: {spent} in all; {format_flop(flop)} of the arms and the tuning: training, sampling, teacher.",
    ]


def _chat_verdict(row: Mapping[str, Any]) -> str:
    """What a judge's verdicts on one file of questions come to, or that they say nothing."""
    if row["agreement_interval"][0] <= COIN:
        return (
            f"nothing can be said; with the answers in the other order it agrees with itself on {row['agreement']:.0%} "
            f"of {row['turns']} turns, a coin on half."
        )
    low, high = row["win_rate_interval"]
    word = "a draw" if low <= COIN <= high else "worse than the teacher" if high < COIN else "better than the teacher"
    return f"{word}, {row['win_rate']:.0%} won ({low:.0%} to {high:.0%}, 95 %, {row['turns']} turns)."


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


def _sections(record: Mapping[str, Any]) -> tuple[list[Section], list[Section]]:
    """What each stage came to, and what that rests on."""
    stages, law = record["stages"], record["stages"]["law"]
    sections, details = [], []
    if "distil" in stages:
        sections.append(
            Section(
                title="Pruned, fresh, with and without the teacher: equal tokens",
                pictures=[arms_picture(stages["distil"])],
                notes=pair_sentences(stages["distil"]),
                table=arm_table(stages["distil"]),
                table_title="Every arm",
            )
        )
    if "evaluate" in stages:
        models = stages["evaluate"]["models"]
        sections += [_scores_section(models), *_judged_sections(models)]
        details += _compute_sections(record, models)
    if "prune" in stages:
        cuts = stages["prune"]["cuts"]
        notes, table = _cut_notes(cuts), _cut_table(cuts)
        details.append(Section(title="What was cut", notes=notes, table=table, table_title="Sizes"))
    if "adapt" in stages:
        notes = _adapted_notes(stages["adapt"])
        details.append(Section(title="The teacher, adapted first", notes=notes))
    said = f"{law['rule']}. This teacher has {format_count(law['teacher_params'])} parameters."
    best_teacher = {"of": lambda row: row.get("best_teacher_params"), "missing": "-"}
    columns = [
        text("law", of=itemgetter("law")),
        text("status", of=itemgetter("status")),
        number("best teacher, parameters", format_count, **best_teacher),
    ]
    details.append(
        Section(
            title="What the laws say of this student's size",
            notes=[said, *law["disagreement"]],
            table=Table.of(columns, law["opinions"]),
            table_title="Every opinion on the best teacher",
        )
    )
    return sections, details


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


def _judged(models: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The sums of each judge on each model's answers to each file of questions."""
    return [
        {**chat, **verdicts, "model": name, "asked": _asked(about), "about": about}
        for name, model in models.items()
        for about, chat in model.get("chat", {}).items()
        for verdicts in (chat, chat.get("second"))
        if verdicts is not None
    ]


def _asked(about: str) -> str:
    """What a reader calls the questions: their folder, where the file has FastChat's own name."""
    return about.partition(" against ")[0].removesuffix("/question")


def _judge(row: Mapping[str, Any]) -> str:
    return Path(row["judge"]["name"]).name


def _judged_sections(models: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """Whose answers a judge took for the better ones, and whether that judge is worth asking."""
    rows = _judged(models)
    if not rows:
        return []
    columns = [
        text("model", of=itemgetter("model")),
        text("questions", of=itemgetter("asked")),
        text("judge", of=_judge),
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
    for judge in dict.fromkeys(map(_judge, rows)):
        own = [row for row in rows if _judge(row) == judge]
        if any(row["about"].endswith(f" against {row['judge']['name']}") for row in own):
            notes.append(f"{judge} is that teacher: it judges its own answers, which nobody should.")
        if all(row["agreement_interval"][0] <= COIN for row in own):
            notes.append(
                f"Turn the order of the answers round, and {judge} agrees with itself no better than a coin would "
                "(50 %): its verdicts do not say which answers are better."
            )
    for row in rows:
        if "agreement" in row.get("judges", {}) and row["judge"] != row.get("second", {}).get("judge"):
            both = row["judges"]
            notes.append(
                f"{row['model']}, {row['asked']}: both judges agree on {both['agreement']:.0%} of {both['turns']} "
                f"turns; blindly, with their habits, they would on {both['by_chance']:.0%}."
            )
    notes += [
        f"{name}, {_asked(about)}: of {each['answers']} answers {_wrong(each)}."
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
        "unended": "do not end within the limit of tokens",
    }
    return ", ".join(f"{counts[key]:.0f} {said}" for key, said in words.items() if counts[key])


def _scores_section(models: Mapping[str, Mapping[str, Any]]) -> Section:
    return Section(
        title="What each model can do",
        notes=score_notes(models),
        table=score_table(models),
        table_title="Scores with standard errors",
        open=True,
    )


def _compute_sections(record: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    points, label = own_frontier(_costs(record), models)
    axis = "6 N D of all weights, with the teacher's forward passes"
    picture = models_picture(points, score=label, axis=axis)
    note = (
        "Published models score the mean of six benchmarks: “distillaw pareto” puts these among them."
        if all(model.get("mean_of_six") for model in models.values())
        else "Published models are not here: they score the mean of six benchmarks, which these were not all asked."
    )
    # the cheapest has nobody to be compared with
    places = [f"{place_words(p, points)}." for p in points if place(p, points).best is not None]
    return [Section(title="Compute against score", pictures=[picture], notes=[note, *places])]


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
        training = axis_compute({"total_params": teacher_params, "tokens": teacher_tokens}, teacher_cost="none")
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
        ("calibration error, text, %", "calibration", "ece_data", 100.0, 2),
        ("calibration error, teacher, %", "calibration", "ece_teacher", 100.0, 2),
    ]
    rows: list[list[object]] = []
    for words, part, key, factor, digits in measures:
        found = [model[part] if key in model.get(part, ()) else None for model in models.values()]
        scores = [None if each is None else (each[key], each[f"{key}_se"]) for each in found]
        rows.append([words, None, *(_with_error(score, factor, digits) for score in scores)])
    for task in _tasks(models):
        found = [model["scores"][task] for model in models.values()]
        chance = _with_error((found[0]["chance"], None), 100.0, 1)
        cells = [_with_error((each["score"], each["se"]), 100.0, 1, AT_CHANCE * each["near_chance"]) for each in found]
        rows.append([f"{task}, %", chance, *cells])
    columns = [
        number(name, lambda score: score.words, sort=attrgetter("value"), missing="-") for name in ("guessing", *models)
    ]
    return Table([text(""), *columns], rows)


class _ScoreText(NamedTuple):
    value: float
    words: str


def _with_error(
    score: tuple[float, float | None] | None, factor: float, digits: int, mark: str = ""
) -> _ScoreText | None:
    if score is None or score[0] is None:
        return None
    value, se = factor * score[0], score[1]
    known = se is not None and math.isfinite(se)
    error = f" ± {factor * se:.{digits}f}" if se is not None and known else ""
    return _ScoreText(value, f"{value:.{digits}f}{error}{mark}")


def score_notes(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the rows of the scores are, and which of them say nothing."""
    asked = [f"{models[TEACHER]['scores'][task]['n']} of {task}" for task in _tasks(models)]
    found = [
        f"{'; '.join(f'{name}: {MADE[name]}' for name in models)}.",
        "Losses on documents that no model was trained on here, each scored from its beginning: lower is better. "
        f"Questions, the same for every model: {', '.join(asked) or 'none'}.",
    ]
    if any(model["scores"][task]["near_chance"] for task in _tasks(models) for model in models.values()):
        found.append(
            f"{AT_CHANCE}: the 95 % interval reaches down to what guessing gives, so the score cannot be told from it; "
            "read no difference between such scores."
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
        points.append(ScorePoint(name=label, compute=compute, score=score, se=se, is_own=True, is_chat=is_chat))
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
