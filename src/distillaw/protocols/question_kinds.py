"""Templates that answer one question with paired runs: which teacher, which loss, how long, how small.

They fit no law of their own (though their plain runs serve one); seeds, streams and rates are common to what is
compared, so that differences are far sharper than losses.
"""

from distillaw.controls.control import LEAST_SEEDS
from distillaw.protocols.scale import Scale
from distillaw.protocols.sheet import Sheet, knobs, more_than_text, seeds, size_name
from distillaw.sweep.spec import ReplicateSpec

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
            sheet.add(
                "the published arm: each student is cut out of the very teacher it learns from"
                if size == scale.students[0]
                else "",
                scale.tokens,
                sizes=[size],
                teachers=labels,
                name="pruned",
                init="pruned",
            )
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
        sheet.add(
            why if not number else "",
            scale.tokens,
            teachers=sheet.labels(),
            name=name,
            training=training,
            seeds=ABLATION_SEEDS,
        )
    sheet.aim(scale.students[-1], scale.tokens[-1])
    _grid_seeds(sheet)
    sheet.left_out |= _ABLATION
    if not any("temperature" in training for training in settings.values()):
        sheet.left_out["lambda"] = "one thing is varied at a time"
    return sheet


def _grid_seeds(sheet: Sheet) -> None:
    """The grid on the seeds of the ablations, so that every difference is paired."""
    for size in sheet.students.params:
        sheet.replicates.append(
            (
                "the same seeds for what they are compared with",
                ReplicateSpec(params=size, seeds=ABLATION_SEEDS),
            )
        )
    sheet.left_out["seeds"] = f"{ABLATION_SEEDS} seeds of everything instead of {LEAST_SEEDS} of two cells"


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
    sheet.add(
        "is a weak teacher better mixed with the data?",
        (scale.tokens[0], scale.tokens[-1]),
        sizes=[scale.students[-1]],
        teachers=labels[:1],
        name="lambda 0.5",
        training={"distill_weight": 0.5},
    )
    sheet.left_out |= {
        "pairs": "no teacher is strong here",
        "lambda": "a lower lambda is tried, the temperature stays",
        "strong-teachers": "the question is about weak ones",
        "hold-out": "the law's form cannot describe a student below its teacher",
    }
    return sheet
