"""One question in numbers: a student, tokens or FLOP, teachers, who pays for what, and what a forward pass costs.

`question.py` makes it of what was asked. It is moved about (`sensitivity.py` asks changed questions, `judging.py` asks
at equal FLOP), so that it refuses by itself what cannot be planned. What things cost is in bills.py, what could be done
with it in options.py.

Students begin from random weights, a cut of a teacher, or a model trained before. A cut stands where a random start
stands later: the law of starts (`laws/starts.py`) gives the tokens between, its head start, and every law of random
starts is then asked at that many tokens more. With `--start pruned` all strategies begin from one cut, that of the
teacher whose cut has the most of a head start; else cuts are shown beside random starts. Nothing is known here of a
start from another model (`--start pretrained`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from distillaw.accounting.family import PAPER_CONTEXT, PAPER_VOCAB, FixedAspect
from distillaw.accounting.flops import TRAINING_FACTOR
from distillaw.accounting.scenarios import CostShares, Scenario
from distillaw.errors import ConfigError, VocabularyError
from distillaw.laws.base import Array
from distillaw.laws.starts import CUTS, StartLaw
from distillaw.planning.baseline import Baseline
from distillaw.planning.learnt import TeachingRecipe
from distillaw.planning.phrases import say
from distillaw.quantities import did_you_mean, format_size
from distillaw.shapes import ASPECT

SCENARIOS: Mapping[str, CostShares] = {s.name.lower().replace("_", "-"): s.value for s in Scenario}
"""Name -> (delta_Lgt, delta_Pre): whether this student pays for the teacher's logits and for its training."""
LOGITS = ("online", "stored")
STARTS = ("random", "pruned", "pretrained")

BETWEEN = (1e7, 1e8)
"""Parameters. Below, the package's own family of small models; above, that of arXiv 2502.08606v2 (width / layers =
128; its smallest model has 143M); between, a blend. The package's own studies are far below 10M."""
FAMILIES = (FixedAspect(aspect=ASPECT), FixedAspect(aspect=128.0))
"""The package's own (shapes.py), and that of the paper."""

LARGEST = {"parameters": 1e15, "tokens": 1e20, "FLOP": 1e35, "nats/token": 14.0}
"""Beyond these nothing is planned: a thousand times the largest that anybody speaks of; the loss of guessing among a
million tokens, more than any vocabulary has."""
SMALLEST_RATIO = 0.1
"""Fewest tokens per parameter that are called training at all: a tenth of the least that any law was fitted on."""
FOREIGN_TEXT_ERROR = 0.03
"""Standard error of a law's estimate for a model that saw other text than the user's, as a share of the loss; twice
that for one that was itself distilled. Models alike in size and tokens, trained on three corpora, differ by 0.02 to
0.03 on four web texts, by 0.11 to 0.37 on code, old news and mixtures (Gadre et al. 2024, arXiv:2403.08540)."""
OWN_TEXT_ERROR = 0.01
"""The same on the text that a law was fitted on: what the papers report."""
SMALLEST_STUDENT = 1000
"""Fewer parameters than this are a slip of the pen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A teacher one has or could train. Its loss alone matters to a law; its size matters to the bill."""

    name: str
    params: float | None = None
    """N_T, non-embedding; None if unknown, and then its logits cannot be priced."""
    tokens: float | None = None
    """D_T it was or would be trained on."""
    loss: float | None = None
    """L_T, nats/token against the user's data; None lets each law estimate it from size and tokens."""
    loss_se: float = 0.0
    """Standard error of `loss`, nats/token."""
    estimate_error: float | None = None
    """How far its loss strays from what a law makes of its size and tokens, standard deviation as a share of the loss.
    None: `FOREIGN_TEXT_ERROR` where it was measured on the user's text and trained elsewhere, else `OWN_TEXT_ERROR`."""
    run_id: str | None = None
    """Its run in the study, if it is one."""
    exists: bool = True
    """False if it must be trained first."""
    tokenizer: str | None = None
    """Name of its tokenizer; losses per token of different tokenizers are never compared."""
    models: int = 1
    """Models of this size whose mean it is."""

    def __post_init__(self) -> None:
        """Refuse what is not a teacher."""
        for what in ("params", "tokens", "loss"):
            value = getattr(self, what)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"teacher {what} = {value}: it must be positive and finite")
        errors = {"loss_se": (self.loss_se, self.loss or math.inf), "estimate_error": (self.law_error, 1.0)}
        for what, (value, largest) in errors.items():
            if not 0 <= value < largest:
                raise ConfigError(say("teacher standard error", what=what, value=value))
        if self.loss is None and (self.params is None or self.tokens is None):
            raise ConfigError(say("teacher needs", name=self.name))

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        shown = ("name", "params", "tokens", "loss", "run_id", "exists", "tokenizer")
        return {name: getattr(self, name) for name in shown}

    @property
    def law_error(self) -> float:
        """`estimate_error`, or what is usual."""
        if self.estimate_error is not None:
            return self.estimate_error
        is_foreign = self.loss is not None and self.exists and self.run_id is None
        return FOREIGN_TEXT_ERROR if is_foreign else OWN_TEXT_ERROR

    @property
    def called(self) -> str:
        """Its name within a sentence: the 8B, the 300M teacher, the teacher, but my-teacher."""
        is_noun = self.name[:1].isdigit() or self.name == "teacher"
        return f"the {self.name}" if is_noun else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """This student, with these tokens or this compute: alone, or from one of these teachers?"""

    student_params: float | None
    """N_S, non-embedding; None leaves the size free, up to `max_params`."""
    label: str = ""
    """The student's size as people call it, where that is not the exact count: `0.1M`."""
    student_tokens: float | None = None
    """D_S: the same tokens for every strategy; None with `compute`."""
    compute: float | None = None
    """FLOP: the same bill for every strategy; None with `student_tokens`."""
    budget_text: str = ""
    """The budget as the user gave it, where that was money or device-hours."""
    max_params: float | None = None
    """Largest student that can be served, non-embedding."""
    limit_text: str = "as given"
    """Where that limit comes from."""
    teachers: Sequence[Teacher] = ()
    """Those that exist, or that the user wants considered at these sizes."""
    start: str = "random"
    """What students begin from: `random` weights, `pruned` out of a teacher, or a model `pretrained` before."""
    start_law: StartLaw = CUTS
    """The head start of a cut."""
    start_shift: float = 0.0
    """Standard deviations by which ln of the head start is moved: to see what its doubt does."""
    baselines: Sequence[Baseline] = ()
    """Models that the user trained without a teacher on this text."""
    may_train_teacher: bool = True
    """Whether training a teacher of the best size is an option (under `compute`)."""
    scenario: str = "inference"
    shares: CostShares | None = None
    """Shares of the teacher's costs that replace those of the scenario."""
    students_served: int = 1
    """Students that share the bill for training a teacher, and for logits that are stored."""
    logits: str = "online"
    """`online`, each student runs the teacher; `stored`, one pass serves all of them."""
    recipe: TeachingRecipe = field(default_factory=TeachingRecipe)
    unique_tokens: float | None = None
    """Distinct training tokens at hand; None is as many as one likes."""
    inference_tokens: float = 0.0
    """Tokens that the student will serve over its lifetime; their FLOP are in the bill."""
    vocab: int = PAPER_VOCAB
    context: int = PAPER_CONTEXT
    prices: Mapping[float, float] = field(default_factory=dict)
    """Known F(N), FLOP per token, by size: what a study counted; other sizes are counted from a shape."""

    def __post_init__(self) -> None:
        """Refuse what cannot be planned."""
        if (self.student_tokens is None) == (self.compute is None):
            raise ConfigError(say("one budget"))
        for what, unit in _UNITS.items():
            value = getattr(self, what)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{what} = {value}: it must be positive and finite")
            check_plausible(what, value, unit)
        check_plausible("inference_tokens", self.inference_tokens, "tokens")
        for teacher in self.teachers:
            check_plausible(f"{teacher.name}: parameters", teacher.params, "parameters")
            check_plausible(f"{teacher.name}: tokens", teacher.tokens, "tokens")
        if not self.inference_tokens >= 0:
            raise ConfigError(f"inference_tokens = {self.inference_tokens}: it cannot be negative")
        if self.scenario not in SCENARIOS:
            hint = did_you_mean(self.scenario, SCENARIOS)
            raise ConfigError(f"unknown cost scenario {self.scenario!r}{hint}; known: {', '.join(SCENARIOS)}")
        for name, known in (("logits", LOGITS), ("start", STARTS)):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"{name} = {value!r}: one of {', '.join(known)}")
        if min(self.vocab, self.context) < 1:
            raise ConfigError(say("vocab", vocab=self.vocab, context=self.context))
        if self.students_served < 1:
            raise ConfigError(say("students served", count=self.students_served))
        self._check_size()
        # losses per token of different tokenizers are different units, and a student has one vocabulary
        named = {t.tokenizer for t in self.teachers if t.tokenizer is not None}
        if len(named) > 1:
            raise VocabularyError(say("tokenizers", count=len(named), names=", ".join(sorted(named))))

    def _check_size(self) -> None:
        """A size that is a size, and a budget that trains it at all."""
        size = self.student_params if self.student_params is not None else self.max_params
        if size is None:
            if self.student_tokens is not None:
                raise ConfigError(say("largest is best"))
            return
        check_size(size)
        # a size that was searched in its logarithm may end a rounding above the limit
        if self.student_params and self.max_params is not None and size > self.max_params * (1 + 1e-9):
            raise ConfigError(say("over the limit", params=size, limit=self.max_params))
        if self.student_params is None and self.student_tokens is None:
            return
        tokens, compute = training_tokens(self, size), self.compute
        if tokens <= 0:
            raise ConfigError(say("serving takes all", compute=compute, served=self.inference_tokens, params=size))
        check_ratio(size, tokens, given="" if compute is None else say("given compute", compute=compute))

    @property
    def size(self) -> str:
        """The student's size in words: its label, where it has one."""
        n = self.student_params
        if n is None:
            if self.max_params is None:
                return say("free size")
            return say("free size up to", limit=self.max_params)
        return self.label or format_size(n)

    @property
    def student(self) -> str:
        """`a 0.1M student on 0.5M tokens` or `... within 1e21 FLOP`."""
        if self.student_tokens is not None:
            return say("student on tokens", size=self.size, tokens=self.student_tokens)
        assert self.compute is not None
        return say("student within", size=self.size, compute=self.compute)

    @property
    def cost_shares(self) -> CostShares:
        """(delta_Lgt, delta_Pre) of a teacher that has yet to be trained, before it is shared."""
        return self.shares if self.shares is not None else SCENARIOS[self.scenario]

    @property
    def comparison(self) -> str:
        """`equal-tokens` or `equal-compute`."""
        return "equal-tokens" if self.student_tokens is not None else "equal-compute"


_UNITS = {
    "student_params": "parameters",
    "student_tokens": "tokens",
    "compute": "FLOP",
    "max_params": "parameters",
    "unique_tokens": "tokens",
}


def forward_flop(situation: Situation, params: float) -> float:
    """F(N), FLOP per token, of one size; as `forward_curve`."""
    if not situation.prices:
        return _counted(params, situation.context, situation.vocab)
    return float(forward_curve(situation, np.asarray(params, dtype=np.float64)))


def forward_curve(situation: Situation, params: Array) -> Array:
    """F(N), FLOP per token: the count of a family, smooth in N, drawn through what the study counted.

    Where the study counted, that is the answer; between two such sizes the ratio to the family's count goes straight
    in ln N, and beyond the last it stays.
    """
    context, vocab = situation.context, situation.vocab
    counted = _blend(params, context, vocab)
    if not situation.prices:
        return counted
    sizes = sorted(situation.prices)
    off = [math.log(situation.prices[size] / _counted(size, context, vocab)) for size in sizes]
    return counted * np.exp(np.interp(np.log(params), np.log(sizes), off))


@lru_cache(maxsize=4096)
def _counted(params: float, context: int, vocab: int) -> float:
    return float(_blend(np.asarray(params, dtype=np.float64), context, vocab))


def _blend(params: Array, context: int, vocab: int) -> Array:
    """Both families' F(N) (accounting/family.py) at once, unchecked: the inner loop of every search."""
    low, high = np.log(BETWEEN)
    part = np.clip((np.log(params) - low) / (high - low), 0.0, 1.0)
    share = part**2 * (3 - 2 * part)  # no kink at the ends
    root = np.cbrt(params)
    small, large = (1 + f.sigma1 * context / root + f.sigma2 * vocab / root**2 for f in FAMILIES)
    return 2 * params * small ** (1 - share) * large**share


def training_tokens(situation: Situation, params: float) -> float:
    """Tokens that a student of this size trained alone can have; not positive where serving takes all."""
    if situation.student_tokens is not None:
        return situation.student_tokens
    assert situation.compute is not None
    forward = forward_flop(situation, params)
    return (situation.compute - forward * situation.inference_tokens) / (TRAINING_FACTOR * forward)


def check_plausible(what: str, value: float | None, unit: str) -> None:
    """Refuse a slip of the pen: more than anything that can be planned; None passes.

    Raises:
        ConfigError: says it.
    """
    if value is not None and value > LARGEST[unit]:
        raise ConfigError(say("slip", what=what, value=value, largest=LARGEST[unit], unit=unit))


def check_size(params: float, who: str = "student") -> None:
    """Refuse a model that nobody would call one.

    Raises:
        ConfigError: fewer than `SMALLEST_STUDENT` parameters.
    """
    if params < SMALLEST_STUDENT:
        raise ConfigError(say("tiny model", who=who, params=params))


def check_ratio(params: float, tokens: float, who: str = "student", *, given: str = "") -> None:
    """Refuse a model that reads too little to be called trained.

    Raises:
        ConfigError: fewer than `SMALLEST_RATIO` tokens per parameter; `given` says the budget that was not tokens.
    """
    if tokens < SMALLEST_RATIO * params:
        slots = {"given": given or say("given tokens", tokens=tokens), "who": who, "params": params}
        raise ConfigError(say("few per parameter", **slots, ratio=tokens / params, least=SMALLEST_RATIO))


def check_trained(params: float, tokens: float, who: str = "student") -> None:
    """Refuse a model that nobody would call one, or that reads too little to be called trained.

    Raises:
        ConfigError: fewer parameters or tokens per parameter than anything is known of.
    """
    check_size(params, who)
    check_ratio(params, tokens, who)
    check_plausible(f"tokens of a {format_size(params)} {who}", tokens, "tokens")


def check_losses(situation: Situation, floor: float) -> None:
    """Refuse losses of teachers and baselines that no model on this text can have.

    Raises:
        ConfigError: a loss above that of guessing, or a teacher's at or below the floor: the lowest irreducible loss of
            the laws that must judge it, nats/token of the user's text.
    """
    guessing = math.log(situation.vocab)
    for name, losses in (
        ("worse than guessing", [t.loss for t in situation.teachers if t.loss is not None]),
        ("baseline guesses", [b.loss for b in situation.baselines]),
    ):
        if losses and max(losses) > guessing:
            raise ConfigError(say(name, loss=max(losses), vocab=situation.vocab, most=guessing))
    for teacher in situation.teachers:
        if teacher.loss is not None and teacher.loss <= floor:
            raise ConfigError(say("below the floor", loss=teacher.loss, floor=floor))


def cut_problem(teacher: Teacher, student_params: float | None, situation: Situation) -> str:
    """The phrase that says why the law of starts does not reach a cut of this teacher; empty where it does."""
    if student_params is None:
        return "cut of free size"
    if not teacher.exists:
        return "cut of none"
    if situation.cost_shares.delta_pre > 0:
        return "cut is billed"
    if teacher.params is None or teacher.tokens is None:
        return "cut of unknown"
    if teacher.params <= student_params:
        return "cut is no cut"
    inside = situation.start_law.inside(student_params=student_params, source_params=teacher.params)
    return "" if inside else "cut too small"


def log_head_start(situation: Situation, teacher: Teacher, *, taught: bool) -> tuple[float, float]:
    """Ln of the head start of a cut of a teacher without a `cut_problem`, tokens, and its standard deviation."""
    assert teacher.params and teacher.tokens and situation.student_params
    coords = (np.log(x) for x in (situation.student_params, teacher.params, teacher.tokens))
    members = situation.start_law.log_head_start(*coords, taught=taught)
    return float(members.mean()), math.hypot(situation.start_law.spread, float(members.std()))


def cut_source(situation: Situation) -> Teacher | None:
    """The teacher that students are cut out of: of those that the law reaches, the one of the largest head start."""
    reached = [t for t in situation.teachers if not cut_problem(t, situation.student_params, situation)]
    return max(reached, key=lambda t: log_head_start(situation, t, taught=True)[0], default=None)


def begins_from(situation: Situation, teacher: Teacher, student_params: float) -> Situation:
    """The question with students of this size that are cut out of this teacher."""
    return replace(situation, start="pruned", teachers=(teacher,), student_params=student_params)


def start_problem(situation: Situation) -> str:
    """The phrase that says why no law covers the start that was asked for; empty where one does."""
    if situation.start == "pretrained":
        return "pretrained unknown"
    if situation.start == "random" or cut_source(situation) is not None:
        return ""
    if not situation.teachers:
        return "cut of none"
    return cut_problem(situation.teachers[0], situation.student_params, situation)
