"""The templates: those that fit a law, and those that answer one question with paired runs.

Of laws: the three protocols of the distillation law (arXiv 2502.08606v2), a supervised grid, a cheap L (ours,
docs/protocols.md). What they share: at least one axis moves L_T at fixed (N_S, D_S), one moves D_S, one moves N_S.
Questions (which teacher, which loss, how long, how small) share seeds, streams and rates among what is compared, so
that differences are far sharper than losses.
"""

from distillaw.controls.control import LEAST_SEEDS
from distillaw.protocols.scale import Scale
from distillaw.protocols.sheet import (
    ALONE,
    AS_NAMED,
    Sheet,
    all_controls,
    holdout,
    knobs,
    more_than_text,
    seeds,
    size_name,
)
from distillaw.sweep.spec import ReplicateSpec


def isoflop_students(scale: Scale) -> Sheet:
    """Teachers of one ratio of tokens to size; students along lines of equal compute."""
    sheet = Sheet(scale=scale)
    sheet.grid(scale.students, scale.tokens[:1])
    _fixed_ratio_teachers(sheet)
    largest = scale.students[-1]
    for size in scale.students:
        budgets = [scale.whole(tokens * largest / size) for tokens in scale.tokens]
        first = size == scale.students[0]
        why = f"lines of equal compute: {size_name(size)} reads most tokens" if first else ""
        _within_text(sheet, why, budgets, size)
    sheet.aim(largest, scale.tokens[-1])
    all_controls(sheet)
    holdout(sheet, largest, scale.whole(2 * scale.tokens[-1]))
    return sheet


def isoflop_teachers(scale: Scale) -> Sheet:
    """Teachers along lines of equal compute; students of one ratio of tokens to size."""
    sheet = Sheet(scale=scale)
    sheet.grid(scale.students, scale.tokens[:1])
    middle = scale.teachers[len(scale.teachers) // 2]
    for share in (1 / 16, 1 / 4, 1):
        for size in scale.teachers:
            tokens = share * scale.teacher_tokens * middle / size
            if scale.tokens[0] <= tokens <= scale.teacher_tokens * 1.001:
                why = (
                    ""
                    if sheet.teachers
                    else "lines of equal compute; either side of the best size has equal losses"
                )
                sheet.teacher(size, tokens, why)
    why = "students of one ratio of tokens to size"
    for size in scale.students:
        budgets = [scale.whole(t * size / scale.students[0]) for t in scale.tokens]
        if budgets != list(sheet.students.tokens):  # else the grid has them
            _within_text(sheet, why, budgets, size)
            why = ""
    largest = scale.students[-1]
    tokens = scale.whole(scale.tokens[-1] * largest / scale.students[0])
    sheet.aim(largest, tokens if scale.fits(tokens) else scale.tokens[0])
    all_controls(sheet)
    holdout(sheet, largest, scale.whole(2 * tokens))
    return sheet


def fixed_ratio(scale: Scale) -> Sheet:
    """Teachers of one ratio; every student size at several ratios of its own."""
    sheet = Sheet(scale=scale)
    sheet.grid(scale.students, scale.tokens[:1])
    _fixed_ratio_teachers(sheet)
    for size in scale.students:
        budgets = [scale.whole(tokens * size / scale.students[0]) for tokens in scale.tokens]
        ratios = ", ".join(f"{tokens / scale.students[0]:.2g}" for tokens in scale.tokens)
        why = f"ratios of tokens to size of {ratios}" if size == scale.students[0] else ""
        _within_text(sheet, why, budgets, size)
    sheet.aim(scale.students[0], scale.tokens[-1])
    all_controls(sheet)
    largest = scale.students[-1]
    holdout(sheet, largest, scale.whole(1.5 * scale.tokens[-1] * largest / scale.students[0]))
    return sheet


def supervised(scale: Scale) -> Sheet:
    """Sizes by budgets, without teachers."""
    sheet = Sheet(scale=scale)
    sheet.grid(scale.students, scale.tokens)
    sheet.aim(scale.students[-1], scale.tokens[-1])
    seeds(sheet)
    holdout(sheet, scale.students[-1], scale.whole(4 * scale.tokens[-1]))
    return sheet


def l_shaped(scale: Scale) -> Sheet:
    """Three arms that meet in one corner: size, tokens, teacher; never the expensive corner."""
    sheet = Sheet(scale=scale)
    small, large = scale.students[0], scale.students[-1]
    sheet.grid((small, large), scale.tokens[:2])
    sheet.ladder(5, beside=(large, scale.tokens[1]))
    sheet.pairs(1)
    labels = sheet.labels()
    middle, strong = labels[len(labels) // 2], labels[-1]
    sheet.add(
        "the arm of sizes: one middle teacher, few tokens",
        scale.tokens[:1],
        sizes=scale.students[1:-1],
        teachers=[ALONE, middle],
    )
    sheet.add(
        "the arm of tokens: the smallest size, two teachers",
        scale.tokens[2:],
        sizes=[small],
        teachers=[ALONE, middle, strong],
    )
    sheet.add(
        "two points inside, to see whether the arms add up",
        scale.tokens[2:3],
        sizes=[scale.students[1]],
        teachers=[ALONE, middle, strong],
    )
    sheet.aim(large, scale.tokens[1])
    seeds(sheet)
    holdout(sheet, large, scale.tokens[3])
    sheet.left_out |= {
        "union": "cheap: use it where the teacher's text is your own",
        "seen-text": "cheap: one more teacher",
        "equal-flop": "cheap: the verdict prices the teacher by accounting",
        "lambda": "cheap: lambda and temperature stay at 1",
    }
    return sheet


def _fixed_ratio_teachers(sheet: Sheet) -> None:
    """Teachers with the tokens per parameter that the longest run allows the largest, a weak one, and a pair."""
    scale = sheet.scale
    ratio = scale.teacher_tokens / scale.teachers[-1]
    for size in scale.teachers:
        why = f"{ratio:.3g} tokens per parameter" if size == scale.teachers[0] else ""
        sheet.teacher(size, ratio * size, why)
    if scale.are_teachers_named:
        sheet.left_out |= AS_NAMED
        return
    loss = 1.04 * float(sheet.law(params=scale.students[-1], tokens=scale.tokens[-1]))
    weak = float(sheet.law.tokens_for_loss(params=scale.teachers[0], loss=loss))
    if weak < 0.8 * ratio * scale.teachers[0]:
        why = "weaker than the best student alone: where a teacher must not help"
        sheet.teacher(scale.teachers[0], weak, why)
    sheet.pairs(1)


def _within_text(sheet: Sheet, why: str, budgets: list[int], size: float) -> None:
    """A size's own budgets, those aside that the text does not hold."""
    kept = [tokens for tokens in dict.fromkeys(budgets) if sheet.scale.fits(tokens)]
    if len(kept) < len(set(budgets)):
        listed = ", ".join(f"{tokens:,}" for tokens in sorted(set(budgets) - set(kept)))
        why += f"{'; ' if why else ''}the text has not enough for {listed} tokens"
    if kept:
        sheet.add(why, kept, sizes=[size])


ABLATION_SEEDS = 3
"""Of every run of an ablation: the smallest number whose spread is more than one difference."""
_ABLATION = {
    "union": "the settings are compared among themselves, not with training alone",
    "seen-text": "the settings are compared among themselves, not with training alone",
    "equal-flop": "the settings cost the same",
    "hold-out": "no law is to be predicted",
    "pairs": "two teachers, weak and strong, are enough to see whether the answer depends on them",
}
"""What ablations do without."""


def capacity_gap(scale: Scale) -> Sheet:
    """Students by teachers of one text and token count, fresh and cut out of their own teachers."""
    sheet = Sheet(scale=scale, batch_search=False)
    sheet.grid(scale.students, scale.tokens)
    steps = "" if scale.are_teachers_named else ", steps of about two in size"
    sheet.family(f"one family: all read the same tokens{steps}")
    for size in scale.students:
        cuttable = [f"{size_name(t)}" for t in scale.teachers if t > 1.2 * size]
        labels = [label for label in sheet.labels() if label.split("@")[0] in cuttable]
        if labels:
            why = "the published arm: each student is cut out of the very teacher it learns from"
            arm = {"sizes": [size], "teachers": labels, "name": "pruned", "init": "pruned"}
            sheet.add(why if size == scale.students[0] else "", scale.tokens, **arm)
    sheet.aim(scale.students[0], scale.tokens[0])
    seeds(sheet)
    sheet.left_out |= {
        "union": "teachers are compared with each other; their text is the same",
        "seen-text": "teachers are compared with each other; their text is the same",
        "equal-flop": "teachers are taken as given",
        "lambda": "cheap: lambda and temperature stay at 1",
        "hold-out": "the question is a place, not a loss",
        "pairs": "the published pilot varies size alone; isoflop-teachers tells size from loss",
        "tuning": "the batch stays as it is, so that all arms are paired",
    }
    return sheet


def teacher_choice(scale: Scale) -> Sheet:
    """One student, many teachers."""
    sheet = Sheet(scale=scale, batch_search=False)
    sheet.grid(scale.students, scale.tokens)
    sheet.ladder(6)
    sheet.pairs(2)
    sheet.aim(scale.students[-1], scale.tokens[-1])
    more_than_text(sheet)
    seeds(sheet)
    knobs(sheet)
    sheet.left_out["hold-out"] = "the choice is among teachers that are measured"
    return sheet


def weights_and_temperature(scale: Scale) -> Sheet:
    """Weights and temperatures, each by itself, on two cells with a weak and a strong teacher."""
    settings: dict[str, dict[str, object]] = {}
    for value in (0.5, 0.7, 0.9, 0.97):
        settings[f"lambda {value:g}"] = {"distill_weight": value}
    for value in (0.5, 2.0, 4.0):
        settings[f"temperature {value:g}"] = {"temperature": value}
    return _ablation(scale, settings, "lambda 1 and temperature 1 are the grid; lambda 0 is training alone")


def divergence(scale: Scale) -> Sheet:
    """Divergences from teacher to student and back, against the forward KL."""
    names = ("reverse-kl", "jsd", "skew-kl", "skew-reverse-kl")
    return _ablation(scale, {name: {"divergence": name} for name in names}, "the grid has the forward KL")


def truncation(scale: Scale) -> Sheet:
    """Fewer of the teacher's likeliest tokens, alone and mixed with the data."""
    few, some, many = (max(2, scale.vocab // share) for share in (64, 16, 4))
    settings: dict[str, dict[str, object]] = {f"top-{k}": {"top_k": k} for k in (few, some, many)}
    settings["top-p 0.9"] = {"top_p": 0.9}
    settings[f"top-{some} lambda 0.7"] = {"top_k": some, "distill_weight": 0.7}
    return _ablation(
        scale, settings, "the grid has the whole distribution; mixing with the data repairs lost mass"
    )


def _ablation(scale: Scale, settings: dict[str, dict[str, object]], why: str) -> Sheet:
    """Each setting on every cell of the grid, from a weak and a strong teacher, on three seeds."""
    sheet = Sheet(scale=scale, batch_search=False)
    sheet.grid(scale.students, scale.tokens)
    sheet.ladder(2, worst=0.98)
    for number, (name, training) in enumerate(settings.items()):
        arm = {"teachers": sheet.labels(), "name": name, "training": training, "seeds": ABLATION_SEEDS}
        sheet.add("" if number else why, scale.tokens, **arm)
    sheet.aim(scale.students[-1], scale.tokens[-1])
    for size in sheet.students.params:  # so that every difference is paired
        same = ReplicateSpec(params=size, seeds=ABLATION_SEEDS)
        sheet.replicates.append(("the same seeds for what they are compared with", same))
    sheet.left_out["seeds"] = f"{ABLATION_SEEDS} seeds of everything instead of {LEAST_SEEDS} of two cells"
    sheet.left_out |= _ABLATION
    if not any("temperature" in training for training in settings.values()):
        sheet.left_out["lambda"] = "one thing is varied at a time"
    return sheet


def long_run(scale: Scale) -> Sheet:
    """One student over a long range of tokens: where training alone catches up."""
    sheet = Sheet(scale=scale, batch_search=False)
    sheet.grid(scale.students, scale.tokens)
    sheet.ladder(3, worst=0.98)
    sheet.aim(scale.students[0], scale.tokens[-1])
    more_than_text(sheet, bill=False)
    seeds(sheet)
    sheet.left_out |= {
        "equal-flop": "the curve of the student alone is the answer: read it at any bill",
        "lambda": "a second question: whether a lower lambda late keeps up (lambda-temperature asks it)",
        "pairs": "three teachers, far apart in loss",
        "hold-out": "the longest budget is the answer itself",
    }
    return sheet


def weak_to_strong(scale: Scale) -> Sheet:
    """Students at least as large as their teachers, over the token axis."""
    sheet = Sheet(scale=scale, batch_search=False)
    sheet.grid(scale.students, scale.tokens)
    for size in scale.teachers:
        why = "" if size > scale.teachers[0] else "teachers no larger than their students"
        sheet.teacher(size, min(2 * scale.tokens[-1], scale.teacher_tokens), why)
    labels = sheet.labels()
    sheet.aim(scale.students[-1], scale.tokens[-1])
    more_than_text(sheet)
    seeds(sheet)
    ends, mixed = (
        (scale.tokens[0], scale.tokens[-1]),
        {"name": "lambda 0.5", "training": {"distill_weight": 0.5}},
    )
    why = "is a weak teacher better mixed with the data?"
    sheet.add(why, ends, sizes=[scale.students[-1]], teachers=labels[:1], **mixed)
    sheet.left_out |= {
        "pairs": "no teacher is strong here",
        "lambda": "a lower lambda is tried, the temperature stays",
        "strong-teachers": "the question is about weak ones",
        "hold-out": "the law's form cannot describe a student below its teacher",
    }
    return sheet
