"""The kinds of study with their templates: those that fit a law, and those that answer one question with paired runs.

Of laws: the three protocols of the distillation law (arXiv 2502.08606v2), a supervised grid, a cheap L (ours,
docs/protocols.md). What they share: at least one axis moves L_T at fixed (N_S, D_S), one moves D_S, one moves N_S.
Questions (which teacher, which loss, how long, how small) share seeds, streams and rates among what is compared, so
that differences are far sharper than losses.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distillaw.controls.control import EMBEDDING_SHARE, LEAST_SEEDS
from distillaw.errors import ConfigError
from distillaw.protocols.scale import Defaults, DesignWishes, Scale, embedding_share, scale_for
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
from distillaw.quantities import did_you_mean
from distillaw.runs.spec import ARMS
from distillaw.sweep.cost import StudyCost, study_cost
from distillaw.sweep.spec import ReplicateSpec

_STEP = 204_800.0
"""800 steps of 256 tokens."""
_SIZES = (0.1e6, 0.2e6, 0.4e6)
"""Of students by default: octaves that the cores of one machine can train; --students has others."""
_TEACHERS = (0.2e6, 0.4e6, 0.8e6, 1.6e6)
"""Students and teachers where none are asked for: a study of these takes two cores a few hours (docs/protocols.md)."""
_TWO = {"students": (0.1e6, 0.3e6), "teachers": (0.2e6, 1e6), "least": (1, 2, 1)}
"""Sizes of ablations: enough to see whether their answer depends on size."""


def _tokens(count: int, factor: float = 2.0) -> tuple[float, ...]:
    return tuple(_STEP * factor**i for i in range(count))


Template = Callable[[Scale], Sheet]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of study."""

    name: str
    question: str
    """What it answers, in one line."""
    defaults: Defaults
    build: Template

    def sheet(self, asked: DesignWishes, factor: float = 1.0) -> Sheet:
        """The study at the user's scale."""
        return self.build(scale_for(asked, self.defaults, factor))


KINDS: list[Kind] = []
"""In the order in which they are listed."""


def _kind(question: str, defaults: Defaults) -> Callable[[Template], Template]:
    """A template under its function's name; what it answers says what it does."""

    def register(build: Template) -> Template:
        name = build.__name__.strip("_").replace("_", "-")
        KINDS.append(Kind(name=name, question=question, defaults=defaults, build=build))
        return build

    return register


@_kind(
    "how does a student's loss depend on its size and tokens? fixed-ratio teachers x IsoFLOP students",
    Defaults(students=_SIZES, teachers=_TEACHERS, tokens=_tokens(3), least=(3, 3, 2)),
)
def _isoflop_students(scale: Scale) -> Sheet:
    sheet = Sheet.of_grid(scale, scale.tokens[:1])
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


@_kind(
    "does a teacher act through its loss alone? IsoFLOP teachers x fixed-ratio students",
    Defaults(students=_SIZES, teachers=_TEACHERS, tokens=_tokens(1), least=(2, 3, 1), reach=24),
)
def _isoflop_teachers(scale: Scale) -> Sheet:
    sheet = Sheet.of_grid(scale, scale.tokens[:1])
    middle = scale.teachers[len(scale.teachers) // 2]
    for share in (1 / 16, 1 / 4, 1):
        for size in scale.teachers:
            tokens = share * scale.teacher_tokens * middle / size
            if scale.tokens[0] <= tokens <= scale.teacher_tokens * 1.001:
                why = "" if sheet.teachers else "lines of equal compute; either side of the best size has equal losses"
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


@_kind(
    "how deep is the capacity gap, at how many tokens? fixed-ratio teachers x fixed-ratio students",
    Defaults(students=_SIZES, teachers=(0.1e6, *_TEACHERS), tokens=_tokens(4), least=(2, 4, 3), reach=4),
)
def _fixed_ratio(scale: Scale) -> Sheet:
    sheet = Sheet.of_grid(scale, scale.tokens[:1])
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


@_kind(
    "what does a model reach alone? sizes x budgets without teachers",
    Defaults(students=(0.1e6, 0.2e6, 0.4e6, 0.8e6), teachers=(), tokens=_tokens(5), least=(3, 0, 3)),
)
def _supervised(scale: Scale) -> Sheet:
    sheet = Sheet.of_grid(scale, scale.tokens)
    sheet.aim(scale.students[-1], scale.tokens[-1])
    seeds(sheet)
    holdout(sheet, scale.students[-1], scale.whole(4 * scale.tokens[-1]))
    return sheet


@_kind(
    "a first distillation law, cheap: one arm each of sizes, tokens and teachers instead of a grid",
    Defaults(students=_SIZES, teachers=_TEACHERS, tokens=_tokens(5), least=(3, 2, 4), reach=2),
)
def _l_shaped(scale: Scale) -> Sheet:
    small, large = scale.students[0], scale.students[-1]
    sheet = Sheet.of_grid(scale, scale.tokens[:2], sizes=(small, large))
    sheet.ladder(5, beside=(large, scale.tokens[1]))
    sheet.pairs(1)
    labels = sheet.labels()
    middle, strong = labels[len(labels) // 2], labels[-1]
    for why, tokens, sizes, teachers in (
        ("the arm of sizes: one middle teacher, few tokens", scale.tokens[:1], scale.students[1:-1], [middle]),
        ("the arm of tokens: the smallest size, two teachers", scale.tokens[2:], [small], [middle, strong]),
        ("two points inside, to see whether the arms add up", scale.tokens[2:3], scale.students[1:2], [middle, strong]),
    ):
        sheet.add(why, tokens, sizes=sizes, teachers=[ALONE, *teachers])
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
    **dict.fromkeys(("union", "seen-text"), "the settings are compared among themselves, not with training alone"),
    "equal-flop": "the settings cost the same",
    "hold-out": "no law is to be predicted",
    "pairs": "two teachers, weak and strong, are enough to see whether the answer depends on them",
}
"""What ablations do without."""


@_kind(
    "what is the best teacher's size over the student's? students fresh, pruned from their teachers, and from one cut",
    Defaults(
        students=(0.05e6, 0.08e6, 0.12e6, 0.2e6, 0.3e6),
        teachers=(0.1e6, *_TEACHERS),
        tokens=_tokens(2, 4),
        least=(2, 4, 1),
        reach=6,
        starts=ARMS,
    ),
)
def _capacity_gap(scale: Scale) -> Sheet:
    sheet = Sheet.of_grid(scale, scale.tokens, batch_search=False)
    steps = "" if scale.are_teachers_named else ", steps of about two in size"
    sheet.family(f"one family: all read the same tokens{steps}")
    sheet.aim(scale.students[0], scale.tokens[0])
    seeds(sheet)
    sheet.left_out |= {
        **dict.fromkeys(("union", "seen-text"), "teachers are compared with each other; their text is the same"),
        "equal-flop": "teachers are taken as given",
        "lambda": "cheap: lambda and temperature stay at 1",
        "hold-out": "the question is a place, not a loss",
        "pairs": "the published pilot varies size alone; isoflop-teachers tells size from loss",
        "tuning": "the batch stays as it is, so that all arms are paired",
    }
    return sheet


@_kind(
    "which teacher for one student? teachers from weaker than the student to much stronger, in pairs",
    Defaults(students=(0.2e6,), teachers=_TEACHERS, tokens=_tokens(2, 4), least=(1, 2, 1)),
)
def _teacher_choice(scale: Scale) -> Sheet:
    sheet = Sheet.of_grid(scale, scale.tokens, batch_search=False)
    sheet.ladder(6)
    sheet.pairs(2)
    sheet.aim(scale.students[-1], scale.tokens[-1])
    more_than_text(sheet)
    seeds(sheet)
    knobs(sheet)
    sheet.left_out["hold-out"] = "the choice is among teachers that are measured"
    return sheet


@_kind("how much teacher and how much data, at which temperature?", Defaults(**_TWO, tokens=_tokens(2, 4)))
def _lambda_temperature(scale: Scale) -> Sheet:
    settings = {f"lambda {value:g}": {"distill_weight": value} for value in (0.5, 0.7, 0.9, 0.97)}
    settings |= {f"temperature {value:g}": {"temperature": value} for value in (0.5, 2.0, 4.0)}
    return _ablation(scale, settings, "lambda 1 and temperature 1 are the grid; lambda 0 is training alone")


@_kind("forward or reverse KL, or something between?", Defaults(**_TWO, tokens=_tokens(2, 4)))
def _divergence(scale: Scale) -> Sheet:
    names = ("reverse-kl", "jsd", "skew-kl", "skew-reverse-kl")
    return _ablation(scale, {name: {"divergence": name} for name in names}, "the grid has the forward KL")


@_kind(
    "how many of the teacher's tokens must be stored? top-k and top-p, alone and mixed with the data",
    Defaults(**_TWO, tokens=_tokens(2, 4)),
)
def _truncation(scale: Scale) -> Sheet:
    few, some, many = (max(2, scale.vocab // share) for share in (64, 16, 4))
    settings = {f"top-{k}": {"top_k": k} for k in (few, some, many)}
    settings |= {"top-p 0.9": {"top_p": 0.9}, f"top-{some} lambda 0.7": {"top_k": some, "distill_weight": 0.7}}
    return _ablation(scale, settings, "the grid has the whole distribution; mixing with the data repairs lost mass")


def _ablation(scale: Scale, settings: Mapping[str, Mapping[str, Any]], why: str) -> Sheet:
    """Each setting on every cell of the grid, from a weak and a strong teacher, on three seeds."""
    sheet = Sheet.of_grid(scale, scale.tokens, batch_search=False)
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


@_kind(
    "after how many tokens has training alone caught up?",
    Defaults(students=(0.1e6,), teachers=(0.2e6, 0.4e6, 0.8e6), tokens=_tokens(6), least=(1, 2, 3), reach=1),
)
def _long_run(scale: Scale) -> Sheet:
    sheet = Sheet.of_grid(scale, scale.tokens, batch_search=False)
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


@_kind(
    "when does a student beat a teacher that is smaller than itself?",
    Defaults(students=(0.2e6, 0.4e6, 0.8e6), teachers=(0.1e6, 0.2e6), tokens=_tokens(4), least=(1, 1, 3)),
)
def _weak_to_strong(scale: Scale) -> Sheet:
    sheet = Sheet.of_grid(scale, scale.tokens, batch_search=False)
    for size in scale.teachers:
        why = "" if size > scale.teachers[0] else "teachers no larger than their students"
        sheet.teacher(size, min(2 * scale.tokens[-1], scale.teacher_tokens), why)
    labels = sheet.labels()
    sheet.aim(scale.students[-1], scale.tokens[-1])
    more_than_text(sheet)
    seeds(sheet)
    ends, mixed = (scale.tokens[0], scale.tokens[-1]), {"name": "lambda 0.5", "training": {"distill_weight": 0.5}}
    why = "is a weak teacher better mixed with the data?"
    sheet.add(why, ends, sizes=[scale.students[-1]], teachers=labels[:1], **mixed)
    sheet.left_out |= {
        "pairs": "no teacher is strong here",
        "lambda": "a lower lambda is tried, the temperature stays",
        "strong-teachers": "the question is about weak ones",
        "hold-out": "the law's form cannot describe a student below its teacher",
    }
    return sheet


def kind_named(name: str) -> Kind:
    """The kind of that name.

    Raises:
        ConfigError: unknown (with the nearest known one).
    """
    known = {kind.name: kind for kind in KINDS}
    if name not in known:
        raise ConfigError(f"--kind {name!r}{did_you_mean(name, known)} is none of {', '.join(known)}")
    return known[name]


# --- within a budget of FLOP or hours: the scale is searched, the shape stays -------------------------------


SMALLEST, LARGEST = 1 / 64, 2.0**40
"""Compute relative to a kind's defaults."""
_ROUNDS = 18
"""Halvings of a doubling: the scale is then known to four parts in a million."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What may be spent."""

    amount: float
    price: Callable[[StudyCost], float]
    """What a study costs in the unit of the amount."""
    show: Callable[[float], str]
    """An amount in words."""


def within(kind: Kind, asked: DesignWishes, limit: Limit) -> Sheet:
    """The study of this kind that spends most of a budget; sizes or tokens must be left open.

    Raises:
        ConfigError: nothing left to choose, or the smallest study costs more (its cost is named).
    """
    if asked.tokens and (asked.students or asked.teachers):
        raise ConfigError("--tokens with sizes and a budget leave nothing to choose: drop one of them")
    low = 1.0  # the smallest scale that the rules of a study allow
    while low / 2 >= SMALLEST and _is_allowed(kind, asked, low / 2):
        low /= 2
    least = _price(kind, asked, low, limit)
    if least > limit.amount:
        raise ConfigError(
            f"--kind {kind.name} within {limit.show(limit.amount)}: the smallest that works costs {limit.show(least)} "
            "(800 steps at the smallest budget, a vocabulary of at most 30 % of the smallest student). Give at least "
            "that, smaller --students and --teachers, or another kind; `distillaw study new` lists them with costs"
        )
    high = low
    while high < LARGEST and _fits(kind, asked, 2 * high, limit):
        high *= 2
    low, high = high, 2 * high
    for _ in range(_ROUNDS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _fits(kind, asked, middle, limit) else (low, middle)
        if high / low < 1.01:
            break
    return kind.sheet(asked, low)


def _is_allowed(kind: Kind, asked: DesignWishes, factor: float) -> bool:
    try:
        scale = kind.sheet(asked, factor).scale
    except ConfigError:
        return False
    share = embedding_share(scale.students[0], scale.vocab, scale.recipe)
    return bool(asked.students) or share <= EMBEDDING_SHARE


def _fits(kind: Kind, asked: DesignWishes, factor: float, limit: Limit) -> bool:
    try:
        return _price(kind, asked, factor, limit) <= limit.amount
    except ConfigError:  # more than the text holds
        return False


def _price(kind: Kind, asked: DesignWishes, factor: float, limit: Limit) -> float:
    spec = kind.sheet(asked, factor).spec(kind.name)
    return limit.price(study_cost(spec, spec.data.vocab_size))
