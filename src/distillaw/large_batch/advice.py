"""Batch, rate, betas, decay, warm-up and steps of a run: what every rule and law says, what is taken, what it wastes.

distillaw regime --student 300M --tokens 6B --reference-batch 262k --reference-lr 3e-3 --devices 8
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

from distillaw.accounting.hardware import Hardware, estimate_cost
from distillaw.errors import ConfigError
from distillaw.large_batch.rules import (
    RATE_RULES,
    BatchLaw,
    Settings,
    batch_laws,
    decay_for_window,
    half_life_beta2,
    mup_simple_rate,
    sde_betas,
    steps_over_fewest,
    timescale_decay,
    tokens_over_fewest,
)

CAP = 0.2
"""Most extra tokens, as a share of the fewest, that the advice accepts by itself: our choice, where the hyperbola
still saves many steps for each token (S/S_min = 6 there, 2 at B_crit, for 0.8 more of the fewest tokens)."""
REFERENCE_EXPONENT = 0.383
"""nanochat carries its reference batch over by (D/D_ref) to it, after Bergsma et al. 2025 (arXiv 2505.13738)."""
USUAL_BETAS = (0.9, 0.95)
"""What distillaw's own engine uses (train/optim.py): a convention of language models, no law."""
MAREK_EXPONENT = math.log(3) / math.log(1024)
"""Best rates moved about 3x between batches of 1 and 1024 sequences (Marek et al. 2025, arXiv 2507.07101)."""
FEW_STEPS = 300
"""Steps at the high rate below which scaling the rate up can be far worse than not scaling it."""
TESTED_RATIO = 4.0
"""The root rule is advised from a quarter to four times the reference batch."""
SAYS = {
    # rule: formula, source, certainty
    "sqrt": ("eta sqrt(B/B_ref)", "arXiv:1705.08741 (SGD), arXiv:2205.10287 (Adam)", "secondary; the root also code"),
    "linear": ("eta B/B_ref", "arXiv:1404.5997, arXiv:1706.02677 (SGD)", "secondary"),
    "constant": ("eta", "no rule: what not scaling gives", "-"),
    "marek": (
        "eta (B/B_ref)^0.159: best rates moved about 3x from B = 1 to 1024 sequences",
        "arXiv:2507.07101; the power is drawn here through its two ends",
        "paper (full text read)",
    ),
    "reference-scaled": (
        "B = B_ref (D/D_ref)^0.383",
        "nanochat (code), exponent of arXiv:2505.13738",
        "code; exponent secondary",
    ),
    "keep": ("as the reference", "your reference run", "-"),
    "half-life": ("beta2^(B/B_ref)", "arXiv:2507.07101", "paper"),
    "sde": ("1 - k (1 - {beta}), k = B/B_ref", "arXiv:2205.10287", "recalled"),
    "timescale": (
        "lambda (B/B_ref)(eta_ref/eta)(D_ref/D)",
        "the reference's own averaging window, arXiv:2405.13698; nanochat (code)",
        "code",
    ),
    "reference-tokens": (
        "the reference's tokens over B",
        "your reference run",
        "convention: no law of warm-up is known here",
    ),
    "second-moment": ("2/(1 - beta2) steps", "Ma & Yarats 2021, arXiv:1910.04209", "recalled"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A run whose settings were tuned."""

    batch_tokens: float
    """Its batch in tokens, e.g. 524288; with its rate what a reference must say."""
    peak_lr: float
    """Its peak rate."""
    tokens: float | None = None
    """Its tokens."""
    width: float | None = None
    """Its width; with --width the rate is moved by muP."""
    weight_decay: float | None = None
    """Its weight decay, PyTorch's."""
    beta1: float | None = None
    """0.9 is assumed."""
    beta2: float | None = None
    """0.95 is assumed."""
    warmup_tokens: float | None = None
    """Its warm-up in tokens."""

    def __post_init__(self) -> None:
        _check_positive(self, "--reference-", zero=("weight_decay", "beta1"))
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            if beta is not None and beta >= 1:
                raise ConfigError(f"--reference-{name} {beta:g}: it must lie below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegimeQuestion:
    """The run to be advised on."""

    params: float
    """non-embedding parameters, e.g. 300M."""
    tokens: float
    """tokens of the run, e.g. 6B."""
    context: int = 4096
    """Tokens of a sequence."""
    devices: int = 1
    """How many share the batch."""
    micro_batch: int = 1
    """Sequences that one device takes at once."""
    optimizer: str = "adamw"
    """`adamw` or `sgd`."""
    norm: str = "rmsnorm"
    """What the model normalises with; only batchnorm has batch statistics."""
    distils: bool = False
    """The run learns from a teacher."""
    batch_tokens: float | None = None
    """Judge this batch, in tokens, instead of choosing one."""
    steps: float | None = None
    """Or the batch that so many updates mean."""
    width: float | None = None
    """Of the model, to move the rate from --reference-width."""
    loss: float | None = None
    """Expected final loss in nats per token, for the law in the loss."""
    cooldown: float = 0.2
    """Share of the run at a falling rate."""
    reference: Reference | None = None

    def __post_init__(self) -> None:
        _check_positive(self, "--", zero=("cooldown",))
        if self.batch_tokens is not None and self.steps is not None:
            raise ConfigError("give --batch or --steps, not both: at given tokens one is the other")
        if self.cooldown > 1:
            raise ConfigError(f"--cooldown {self.cooldown:g}: a share of the run, at most 1")
        if (batch := self.asked_batch) is not None and batch > self.tokens:
            raise ConfigError(
                f"a batch of {batch:g} tokens in a run of {self.tokens:g}: not one step. Take a smaller batch"
            )
        reference = self.reference
        if reference is not None and (self.width is None) != (reference.width is None):
            raise ConfigError("--width and --reference-width belong together: the rate moves with their ratio")
        if reference is None and self.width is not None:
            raise ConfigError("--width needs a reference: --reference-batch, --reference-lr, --reference-width")

    @property
    def asked_batch(self) -> float | None:
        """The batch that was given, as such or by the steps."""
        return self.tokens / self.steps if self.steps is not None else self.batch_tokens

    @property
    def quantum(self) -> int:
        """Tokens that all devices take at once: batches are multiples of it."""
        return self.context * self.devices * self.micro_batch

    @property
    def coords(self) -> dict[str, float]:
        """Inputs of the laws."""
        known = {
            "params": self.params,
            "tokens": self.tokens,
            "compute": 6 * self.params * self.tokens,
            "tokens_per_param": self.tokens / self.params,
        }
        return known if self.loss is None else known | {"loss": self.loss}


@dataclass(frozen=True, slots=True)
class RuleValue:
    """What one rule or law says."""

    name: str
    value: float | None
    """None where the rule does not hold; the notes say why."""
    formula: str
    source: str
    certainty: str
    notes: tuple[str, ...] = ()
    """Its range at this point, and its doubts."""


@dataclass(frozen=True, slots=True)
class ChosenSetting:
    """One setting: what is advised, by which opinion, among all that were asked."""

    setting: str
    unit: str
    value: float | None
    chosen: str
    """Name of the opinion taken, or how the value came about."""
    opinions: tuple[RuleValue, ...] = ()

    @property
    def low(self) -> float | None:
        """The least of the opinions."""
        return min(_values(self.opinions), default=None)

    @property
    def high(self) -> float | None:
        """The largest of the opinions."""
        return max(_values(self.opinions), default=None)


def _values(opinions: Iterable[RuleValue]) -> list[float]:
    return [opinion.value for opinion in opinions if opinion.value is not None]


def _check_positive(record: RegimeQuestion | Reference, prefix: str, *, zero: tuple[str, ...]) -> None:
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or value < 0 or (value == 0 and field.name not in zero):
            option = {"batch_tokens": "batch", "peak_lr": "lr"}.get(field.name, field.name.replace("_", "-"))
            raise ConfigError(f"{prefix}{option} {value:g}: it must be positive and finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """What a batch costs beyond the least, under one law of the critical batch."""

    law: str
    critical_tokens: float
    """B_crit of the hyperbola."""
    tokens_over_fewest: float
    steps_over_fewest: float
    extra_tokens: float
    """Of the run's tokens, those that a very small batch would not have needed."""
    extra_hours: float | None = None
    """The same in wall time; None where no hardware was named."""
    extra_price: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPhase:
    """A stretch of a run at one batch."""

    from_tokens: float
    batch_tokens: float
    peak_lr: float | None
    """By the rule that the advised rate was taken by; None where no rate is advised."""
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSchedule:
    """A batch that begins as advised and doubles as soon as the strictest law allows it at the tokens read."""

    phases: tuple[BatchPhase, ...]
    """One: no doubling is allowed before the rate falls."""
    steps: int
    steps_saved: float
    """Of the constant batch's, a share."""
    hours: float | None
    """Of the run, if devices grow with the batch; on as many as at first nothing is saved. None without hardware."""
    source: str
    doubts: tuple[str, ...]

    @property
    def batch_doublings(self) -> tuple[int, ...]:
        """As [training] takes them."""
        return tuple(max(1, round(phase.from_tokens)) for phase in self.phases[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The answer of `distillaw regime`."""

    question: RegimeQuestion
    batch: ChosenSetting
    steps: int
    accumulation: int
    """Micro-batches that each device adds up in one step."""
    high_rate_steps: int
    """Steps after warm-up and before the rate falls."""
    settings: tuple[ChosenSetting, ...]
    """peak_lr, beta1, beta2, weight_decay, warmup."""
    critical: tuple[RuleValue, ...]
    """B_crit of the hyperbola, tokens."""
    measured: tuple[RuleValue, ...]
    cap_tokens: float
    waste: tuple[Waste, ...]
    schedule: BatchSchedule
    hours: float | None
    """Wall time of the run, its student's 6 N D only."""
    price: float | None
    warnings: tuple[str, ...]
    statements: tuple[str, ...]

    def setting(self, name: str) -> ChosenSetting | None:
        """The answer for one setting, if it was asked."""
        return next((answer for answer in self.settings if answer.setting == name), None)


def advise(
    question: RegimeQuestion,
    *,
    device: Hardware | None = None,
    mfu: float | None = None,
    price_per_hour: float | None = None,
) -> Advice:
    """Advice on one run.

    Args:
        device: what it is trained on, for hours and money; None leaves them out.
        mfu: utilisation instead of the preset's.
        price_per_hour: US dollars per device-hour instead of the preset's.

    Raises:
        ConfigError: inputs that cannot be a run; a reference batch that is absurdly far away.
    """
    if device is None and (mfu is not None or price_per_hour is not None):
        raise ConfigError("--mfu and --price belong to --device: name it too")
    answer, warnings = choose_batch(question)
    batch = answer.value
    assert batch is not None
    rate = choose_rate(question, batch)
    betas = choose_betas(question, batch)
    warmup = choose_warmup(question, batch, betas[1].value if betas else None)
    steps = max(1, round(question.tokens / batch))
    high = max(0, round(steps * (1 - question.cooldown) - (warmup.value or 0)))
    hours = price = None
    if device is not None:
        cost = estimate_cost(question.coords["compute"], device, mfu=mfu, price_per_hour=price_per_hour)
        hours, price = cost.device_hours / question.devices, cost.price
    critical = _by_laws("critical", question)
    waste = [_waste(law.name, law.value or 0.0, question, batch, hours, price) for law in critical]
    return Advice(
        question=question,
        batch=answer,
        steps=steps,
        high_rate_steps=high,
        cap_tokens=cap_tokens(question),
        accumulation=max(1, round(batch / question.quantum)),
        settings=(rate, *betas, choose_decay(question, batch, rate.value), warmup),
        critical=tuple(critical),
        measured=tuple(
            _by_law(law, question) for law in batch_laws("measured") if not law.complaints(params=question.params)
        ),
        schedule=grow_batch(question, batch, rate, hours),
        hours=hours,
        price=price,
        waste=tuple(waste),
        warnings=(*warnings, *_warnings(question, batch, high, steps, warmup.value)),
        statements=tuple(_statements(question, batch)),
    )


def _waste(
    law: str, critical: float, question: RegimeQuestion, batch: float, hours: float | None, price: float | None
) -> Waste:
    over = tokens_over_fewest(batch, critical)
    share = 1 - 1 / over
    return Waste(
        law=law,
        critical_tokens=critical,
        tokens_over_fewest=over,
        steps_over_fewest=steps_over_fewest(batch, critical),
        extra_tokens=share * question.tokens,
        extra_hours=None if hours is None else share * hours,
        extra_price=None if price is None else share * price,
    )


def _warnings(question: RegimeQuestion, batch: float, high: int, steps: int, warmup: float | None) -> list[str]:
    said, reference = [], question.reference
    if reference is not None:
        ratio = batch / reference.batch_tokens
        if not 1 / TESTED_RATIO <= ratio <= TESTED_RATIO:
            said.append(
                f"the batch is {ratio:.3g} times the reference: outside a quarter to four times no rule of the rate is "
                "trusted; search the rate again"
            )
        if question.optimizer == "sgd":
            said.append(
                "the linear rule of SGD keeps the noise per epoch and holds only far below the noise scale; the root "
                "rule keeps the covariance of one step and is the natural one at equal steps"
            )
    if high < FEW_STEPS:
        said.append(
            f"only {high} steps at the high rate (of {steps}): below {FEW_STEPS} a rate scaled up with the batch can "
            "be far worse than one left alone (90.4 against 94.8 % at 30 such steps on MNIST). Take a smaller batch"
        )
    if warmup is not None and warmup > 0.5 * steps:
        said.append(f"a warm-up of {warmup:.0f} of {steps} steps leaves little: shorten it or take a smaller batch")
    return said


def _statements(question: RegimeQuestion, batch: float) -> list[str]:
    said = [
        "all laws here were fitted on next-token cross-entropy"
        + (
            "; none is known for a distillation loss, whose soft targets lower the noise: prefer the branch test"
            if question.distils
            else ""
        )
    ]
    if (reference := question.reference) is not None:
        ratio = batch / reference.batch_tokens
        said.append(
            f"regime adaptation: as many steps as at the reference's batch of {reference.batch_tokens:,.0f} tokens "
            f"cost {ratio:.3g} times the tokens, {ratio * (reference.tokens or question.tokens):.3g}"
        )
    said.append(
        "to measure: log the noise scale (docs/regime.md), a diagnostic only; to decide: `distillaw branch` forks it "
        "at k times the batch and sqrt(k) times the rate and keeps the largest k whose loss is within the seed noise "
        "of every smaller one (docs/branch.md; Merrill 2025, arXiv:2505.23971)"
    )
    if question.norm == "batchnorm":
        said.append(
            "ghost batch normalisation applies to this model: statistics over ghosts of the reference's batch "
            "(docs/large-batch.md)"
        )
    else:
        said.append(
            f"ghost batch normalisation does nothing here: a model with {question.norm} has no batch statistics; what "
            "the batch still sets is the gradient's noise, tr(Sigma)/B (docs/branch.md has it alone and distilled)"
        )
    said.append(
        f"waste counts what a very small batch would not need at the same loss, E/E_min = 1 + B/B_crit; the cap "
        f"is B at {100 * CAP:.0f} % more tokens"
    )
    return said


# --- what each rule and law says, and which is taken --------------------------------------------------------


def _by_rule(name: str, value: float | None, *notes: str, **symbols: str) -> RuleValue:
    formula, source, certainty = SAYS[name]
    return RuleValue(name, value, formula.format(**symbols), source, certainty, notes)


def _by_law(law: BatchLaw, question: RegimeQuestion) -> RuleValue:
    """A law's value at the question's coordinates (B_crit of the hyperbola) with its source, range and doubts."""
    coords = question.coords
    value = law.hyperbola(**coords) if law.gives == "critical" else law(**coords)
    notes = (*law.complaints(**coords), *law.known_problems)
    return RuleValue(law.name, value, law.formula, law.source, law.certainty, notes)


def _by_laws(gives: str, question: RegimeQuestion) -> list[RuleValue]:
    """What each law of a kind says, if it applies here."""
    return [_by_law(law, question) for law in batch_laws(gives) if law.applies(**question.coords)]


def _middle(opinions: Sequence[RuleValue]) -> float | None:
    """Geometric mean."""
    logs = list(map(math.log, _values(opinions)))
    return math.exp(sum(logs) / len(logs)) if logs else None


def cap_tokens(question: RegimeQuestion) -> float:
    """The batch that costs `CAP` more tokens under the strictest law in this run's own tokens."""
    return min(CAP * law.hyperbola(**question.coords) for law in _laws_of_tokens())


def _laws_of_tokens() -> list[BatchLaw]:
    """Those of the critical batch that ask for the run's own tokens alone."""
    return [law for law in batch_laws("critical") if law.exponents.keys() == {"tokens"}]


def choose_batch(question: RegimeQuestion) -> tuple[ChosenSetting, list[str]]:
    """The batch in tokens, and what must be said with it.

    Raises:
        ConfigError: the devices take more at once than the run has.
    """
    opinions, cap, quantum = _by_laws("best", question), cap_tokens(question), question.quantum
    reference, said = question.reference, []
    if reference is not None and reference.tokens is not None:  # its own batch carried over to these tokens
        grown = (question.tokens / reference.tokens) ** REFERENCE_EXPONENT
        opinions.append(_by_rule("reference-scaled", reference.batch_tokens * grown))

    def whole(batch: float) -> float:
        """The nearest whole multiple, at least one."""
        return float(max(1, round(batch / quantum)) * quantum)

    if (batch := question.asked_batch) is None:
        middle = _middle(opinions)
        assert middle is not None, "a law of the best batch applies to every run"
        batch = whole(min(middle, cap))
        chosen = f"cap at {100 * CAP:.0f} % more tokens" if middle > cap else "geometric middle of the laws"
    elif question.steps is not None:
        batch, chosen = whole(batch), "the tokens over the steps asked"
    else:
        chosen = "as asked"
        if abs(batch / quantum - round(batch / quantum)) > 1e-9:
            said.append(
                f"a batch of {batch:,.0f} tokens is no multiple of the {quantum:,} that the devices take at once; "
                f"the nearest is {whole(batch):,.0f}"
            )
    if batch > question.tokens:
        raise ConfigError(
            f"the devices take {quantum:,} tokens at once, the run has {question.tokens:,.0f}: not one step. Take "
            "fewer devices, a smaller micro-batch or a shorter context"
        )
    if batch > 1.05 * cap:  # rounding to whole multiples is not worth a word
        why = " The devices force it: fewer devices or a smaller micro-batch" if batch <= quantum else ""
        said.append(
            f"this batch is {batch / cap:.2g} times the one at {100 * CAP:.0f} % more tokens ({cap:,.0f}).{why}"
        )
    return ChosenSetting("batch", "tokens", batch, chosen, tuple(opinions)), said


def grow_batch(question: RegimeQuestion, batch: float, rate: ChosenSetting, hours: float | None) -> BatchSchedule:
    """The schedule that begins at a batch and its rate; `hours`: of the run.

    b_k = 2^k B from t_k = min {t : cap(t) >= b_k} on, B the batch in tokens
    """
    laws = _laws_of_tokens()
    places, grown = [0.0], 2 * batch
    while True:
        # every cap is a power of the tokens: where the strictest reaches the batch is where the last of them does
        caps = [(CAP * law.hyperbola(**question.coords), law.exponents["tokens"]) for law in laws]
        place = max(question.tokens * (grown / cap) ** (1 / power) for cap, power in caps)
        if place >= (1 - question.cooldown) * question.tokens:
            break
        places, grown = [*places, place], 2 * grown
    rule = RATE_RULES["linear" if question.optimizer == "sgd" else "sqrt"]
    phases = []
    for k, (begin, end) in enumerate(itertools.pairwise([*places, question.tokens])):
        own = batch * 2**k
        peak = None if rate.value is None else rule(rate.value, batch=own, reference=batch)
        phases.append(
            BatchPhase(from_tokens=begin, batch_tokens=own, peak_lr=peak, steps=max(1, round((end - begin) / own)))
        )
    steps = sum(phase.steps for phase in phases)
    saved = max(0.0, 1 - steps / max(1, round(question.tokens / batch)))
    return BatchSchedule(
        phases=tuple(phases),
        steps=steps,
        steps_saved=saved,
        hours=None if hours is None else (1 - saved) * hours,
        source=f"{', '.join(law.name for law in laws)}, read as of the tokens so far; the root rule of the rate as in "
        "arXiv:2505.23971, who saved 43 % of the steps of a 1B model",
        doubts=(
            "the laws are of whole runs: that they hold of the tokens read so far is assumed",
            "arXiv:2505.23971 measured a rise that levels off, not a power; measure yours: `distillaw branch`",
            "measured at 0.1M parameters, past the critical batch: the same loss in 40 % [38, 41] fewer steps for 15 % "
            "more tokens, distilled 33 % [25, 39] for 29 %; of as many steps a constant batch ends 0.011 nats lower "
            "alone [-0.001, 0.023], 0.010 higher distilled [0.002, 0.018] (90 %, three seeds; docs/regime.md)",
        ),
    )


def choose_rate(question: RegimeQuestion, batch: float) -> ChosenSetting:
    """The peak rate: from the reference by rule; without one, laws only, as a band."""
    is_sgd, reference = question.optimizer == "sgd", question.reference
    laws = [] if is_sgd else _by_laws("rate", question)
    if reference is None:
        band = "geometric middle of the laws: a band, not a value"
        how = band if laws else "no law for SGD without a reference"
        return ChosenSetting("peak_lr", "", _middle(laws), how, tuple(laws))
    rate, notes = reference.peak_lr, []
    if question.width is not None and reference.width is not None:
        rate = mup_simple_rate(rate, width=question.width, base_width=reference.width)
        notes.append(
            f"hidden matrices and head; widths {reference.width:g} -> {question.width:g}, eta base/width "
            "(arXiv:2309.14322); embeddings and gains keep the rate of the reference's width"
        )
    kept = [name for name in RATE_RULES if is_sgd or name != "linear"]
    values = {name: RATE_RULES[name](rate, batch=batch, reference=reference.batch_tokens) for name in kept}
    if not is_sgd:
        values["marek"] = rate * (batch / reference.batch_tokens) ** MAREK_EXPONENT
    chosen = "linear" if is_sgd else "sqrt"
    rules = [_by_rule(name, value, *notes) for name, value in values.items()]
    return ChosenSetting("peak_lr", "", values[chosen], chosen, (*rules, *laws))


def choose_betas(question: RegimeQuestion, batch: float) -> list[ChosenSetting]:
    """beta1 and beta2; none for SGD."""
    reference, names = question.reference, ("beta1", "beta2")
    if question.optimizer == "sgd":
        return []
    if reference is None:
        usual = "usual of language models (train/optim.py); the rules need a reference"
        return [ChosenSetting(name, "", value, usual) for name, value in zip(names, USUAL_BETAS, strict=True)]
    given = {name: getattr(reference, name) for name in names}
    betas = {
        name: usual if given[name] is None else given[name] for name, usual in zip(names, USUAL_BETAS, strict=True)
    }
    tuned = Settings(batch=reference.batch_tokens, peak_lr=reference.peak_lr, **betas)

    def keep(name: str) -> RuleValue:
        notes = ["not given: the usual value is assumed"] if given[name] is None else []
        return _by_rule("keep", betas[name], *notes)

    def moved(name: str) -> RuleValue:
        return _holding("sde", lambda: getattr(sde_betas(tuned, batch=batch), name), beta=name)

    half = _holding("half-life", lambda: half_life_beta2(tuned.beta2, batch=batch, reference=tuned.batch))
    taken, how = half.value, "half-life"
    if taken is None:
        taken, how = betas["beta2"], "keep: half-life does not hold"
    return [
        ChosenSetting("beta1", "", betas["beta1"], "keep", (keep("beta1"), moved("beta1"))),
        ChosenSetting("beta2", "", taken, how, (half, moved("beta2"), keep("beta2"))),
    ]


def _holding(name: str, compute: Callable[[], float], **symbols: str) -> RuleValue:
    """The rule's value, or the reason why it does not hold."""
    try:
        return _by_rule(name, compute(), **symbols)
    except ConfigError as error:
        return _by_rule(name, None, str(error), **symbols)


def choose_decay(question: RegimeQuestion, batch: float, peak_lr: float | None) -> ChosenSetting:
    """PyTorch's weight decay: by the published averaging window, and by the reference's own."""
    if question.optimizer == "sgd" or peak_lr is None:
        return ChosenSetting("weight_decay", "", None, "the laws are AdamW's and need a rate")
    (window,) = batch_laws("window")
    tau = window(**question.coords)
    by_law = RuleValue(
        "bergsma2025-window",
        decay_for_window(tau, batch=batch, peak_lr=peak_lr, tokens=question.tokens),
        f"B/(eta D tau), tau = {tau:.3g} of the run",
        window.source,
        "secondary, three sources",
        tuple(window.complaints(**question.coords)),
    )
    opinions, reference = [by_law], question.reference
    if reference is not None and reference.weight_decay is not None:
        value = timescale_decay(
            reference.weight_decay,
            batch=batch,
            reference=reference.batch_tokens,
            rate_ratio=peak_lr / reference.peak_lr,
            tokens_ratio=question.tokens / (reference.tokens or question.tokens),
        )
        notes = [] if reference.tokens is not None else ["D_ref not given: taken as D"]
        opinions.append(_by_rule("timescale", value, *notes))
    return ChosenSetting("weight_decay", "", by_law.value, by_law.name, tuple(opinions))


def choose_warmup(question: RegimeQuestion, batch: float, beta2: float | None) -> ChosenSetting:
    """Warm-up in steps: the reference's tokens, and the time that Adam's second moment needs."""
    reference, steps = question.reference, {}
    if reference is not None and reference.warmup_tokens is not None:
        steps["reference-tokens"] = reference.warmup_tokens / batch
    if beta2 is not None:
        steps["second-moment"] = 2 / (1 - beta2)
    if not steps:
        return ChosenSetting("warmup", "steps", None, "no rule without a reference's warm-up")
    longest = max(steps, key=steps.__getitem__)
    how = f"the longer: {longest}" if len(steps) > 1 else f"{longest} alone"
    if "reference-tokens" not in steps:
        how = "a floor, no law: second-moment. Give --reference-warmup"
    value = float(max(1, math.ceil(steps[longest])))
    opinions = tuple(_by_rule(name, n) for name, n in steps.items())
    return ChosenSetting("warmup", "steps", value, how, opinions)
