"""`distillaw regime`: batch, learning rate and the rest of a run's settings, with their sources and their spread."""

from collections.abc import Iterable
from dataclasses import asdict
from operator import attrgetter
from typing import Annotated, Literal

from cyclopts import Parameter

from distillaw.accounting.hardware import hardware as preset
from distillaw.cli.console import print_sections, print_table
from distillaw.cli.options import Count, HardwareName, Whole, given, options_of
from distillaw.cli.output import Output
from distillaw.cli.typed import refuse_idle
from distillaw.errors import ConfigError
from distillaw.large_batch.advice import Advice, ChosenSetting, Reference, RegimeQuestion, RuleValue, advise
from distillaw.quantities import format_count, format_seconds, plural
from distillaw.table import Table, number, text

_BATCH, _LR, _WARMUP = (Parameter(name=f"--reference-{name}") for name in ("batch", "lr", "warmup"))
ReferenceOptions = options_of(
    Reference,
    prefix="reference-",
    typed={
        "batch_tokens": Annotated[Count | None, _BATCH],
        "peak_lr": Annotated[float | None, _LR],
        "warmup_tokens": Annotated[Count | None, _WARMUP],
        "tokens": Count | None,
        "width": Count | None,
    },
)
RegimeOptions = options_of(
    RegimeQuestion,
    without=("reference",),
    typed={
        "params": Annotated[Count, Parameter(name="--student", alias=("--params", "--student-params"))],
        "tokens": Count,
        "context": Whole,
        "devices": Whole,
        "micro_batch": Whole,
        "optimizer": Literal["adamw", "sgd"],
        "norm": Literal["rmsnorm", "layernorm", "batchnorm", "none"],
        "distils": Annotated[bool, Parameter(name="--distil", negative="")],
        "batch_tokens": Annotated[Count | None, Parameter(name="--batch")],
        "steps": Count | None,
        "width": Count | None,
    },
)


def _reference(options: ReferenceOptions | None) -> Reference | None:
    """The reference, or None where nothing was given.

    ConfigError: part of a reference without its batch or its rate, or numbers that cannot be.
    """
    known = {name: value for name, value in given(options).items() if value is not None}
    if known and not {"batch_tokens", "peak_lr"} <= known.keys():
        raise ConfigError("a reference run needs both --reference-batch and --reference-lr")
    return Reference(**known) if known else None


def regime(
    *,
    asked: RegimeOptions,
    reference: ReferenceOptions | None = None,
    device: Annotated[HardwareName | None, Parameter(alias="--hardware")] = None,
    mfu: float | None = None,
    price: float | None = None,
    output: Output = Output(),
) -> None:
    """Choose batch, rate, warm-up, weight decay, betas and steps of a run, and what its batch wastes.

    Every number names the rule or law it is from; where laws disagree, all are shown.

    Args:
        asked: the run.
        reference: a run whose settings were tuned.
        device: preset of the devices, e.g. h100-sxm, for time and money.
        mfu: model FLOP over peak, 0 to 1; the preset's by default.
        price: US dollars per device-hour; the preset's by default.
    """
    question = RegimeQuestion(**given(asked), reference=_reference(reference))
    if question.optimizer == "sgd":
        of_adamw = ("--reference-weight-decay", "--reference-beta1", "--reference-beta2")
        refuse_idle(of_adamw, "decay and betas are advised on for --optimizer adamw")
    hardware = None if device is None else preset(device)
    advice = advise(question, device=hardware, mfu=mfu, price_per_hour=price)
    output.answer(as_json(advice), print_text, advice)
    output.suggest(
        f"distillaw cost --student {format_count(question.params)} --tokens {format_count(question.tokens)}",
        first="batch, rate and warm-up go into the TOML file of a run or a study; what it costs:",
    )


_WORDS = {"peak_lr": "peak rate", "weight_decay": "weight decay", "warmup": "warm-up"}


def as_json(advice: Advice) -> dict[str, object]:
    """Every number and note of the advice, unrounded."""
    answers = (advice.batch, *advice.settings)
    found = {name: getattr(advice, name) for name in ("steps", "accumulation", "high_rate_steps")}
    return {
        "question": asdict(advice.question),
        "batch_tokens": advice.batch.value,
        "batch_sequences": (advice.batch.value or 0) / advice.question.context,
        **found,
        "settings": {each.setting: asdict(each) | {"low": each.low, "high": each.high} for each in answers},
        "cap_tokens": advice.cap_tokens,
        "critical": [asdict(opinion) for opinion in advice.critical],
        "measured": [asdict(opinion) for opinion in advice.measured],
        "schedule": asdict(advice.schedule) | {"batch_doublings": list(advice.schedule.batch_doublings)},
        "waste": [asdict(waste) for waste in advice.waste],
        "hours": advice.hours,
        "price": advice.price,
        "warnings": list(advice.warnings),
        "statements": list(advice.statements),
    }


def print_text(advice: Advice) -> None:
    """The settings first, what they are from after them, then waste, warnings and statements."""
    question, batch = advice.question, advice.batch.value or 0.0
    size, tokens = format_count(question.params), format_count(question.tokens)
    devices = plural(question.devices, "device")
    print(f"{size} parameters, {tokens} tokens, {devices}: {advice.steps:,} steps")
    print(
        f"batch {batch:,.0f} tokens = {batch / question.context:,.4g} sequences of {question.context:,}; "
        f"{question.devices} x {question.micro_batch} sequences at once, {advice.accumulation} times\n"
    )
    answers = (advice.batch, *advice.settings)
    columns = [
        text("setting", of=_name),
        number("advised", of=lambda answer: _number(answer.value, answer)),
        number("least", of=lambda answer: _number(answer.low, answer)),
        number("most", of=lambda answer: _number(answer.high, answer)),
        text("taken from", of=attrgetter("chosen")),
    ]
    print_table(Table.of(columns, answers))
    print("\nrule by rule:")
    columns = [
        text("setting", of=lambda pair: _name(pair[0])),
        text("rule", of=lambda pair: pair[1].name),
        number("value", of=lambda pair: _number(pair[1].value, pair[0])),
        text("formula; source; certainty", of=lambda pair: f"{pair[1].formula}; {pair[1].source}; {pair[1].certainty}"),
    ]
    opinions = [(answer, opinion) for answer in answers for opinion in answer.opinions]
    print_table(Table.of(columns, opinions))
    print_sections({"doubts": _doubts(opinion for _, opinion in opinions)})
    _print_schedule(advice)
    _print_waste(advice)
    print_sections({"warnings": advice.warnings, "note": advice.statements})


def _print_schedule(advice: Advice) -> None:
    schedule = advice.schedule
    if len(schedule.phases) == 1:
        print("\na batch that grows: the laws allow no doubling before the rate falls; keep it constant")
        return
    print(
        f"\na batch that grows: {schedule.steps:,} steps, {100 * schedule.steps_saved:.0f} % fewer "
        f"(batch_doublings = {list(schedule.batch_doublings)}):"
    )
    columns = [
        number("from token", format_count, of=attrgetter("from_tokens")),
        number("batch", ",.0f", of=attrgetter("batch_tokens")),
        number("peak rate", ".4g", of=attrgetter("peak_lr"), missing="-"),
        number("steps", ",", of=attrgetter("steps")),
    ]
    print_table(Table.of(columns, schedule.phases))
    if schedule.hours is not None:
        print(
            f"on devices that grow with it: {format_seconds(3600 * schedule.hours)}; on as many as now nothing is saved"
        )
    print_sections({"doubts": schedule.doubts})


def _print_waste(advice: Advice) -> None:
    print(
        f"\nwhat this batch costs (E/E_min = 1 + B/B_crit, S/S_min = 1 + B_crit/B); "
        f"20 % more tokens from {advice.cap_tokens:,.0f} on:"
    )
    columns = [
        text("law of B_crit", of=attrgetter("law")),
        number("B_crit", ".3g", of=attrgetter("critical_tokens")),
        number("tokens/least", ".3f", of=attrgetter("tokens_over_fewest")),
        number("steps/least", ".2f", of=attrgetter("steps_over_fewest")),
        number("extra tokens", format_count, of=attrgetter("extra_tokens")),
    ]
    if advice.hours is not None:
        time = number("extra time", format_seconds, of=lambda waste: 3600 * (waste.extra_hours or 0.0))
        columns += [time, number("extra USD", ",.2f", of=attrgetter("extra_price"), missing="-")]
    print_table(Table.of(columns, advice.waste))
    for opinion in advice.measured:
        print(f"measured: {opinion.value:.3g} tokens, {opinion.formula}; {opinion.source}")
    if advice.hours is not None:
        price = "" if advice.price is None else f", {advice.price:,.2f} USD"
        how = "(6 N D of the student alone, the preset's utilisation at every batch)"
        print(f"the whole run: {format_seconds(3600 * advice.hours)}{price} {how}")
    print_sections({"doubts": _doubts(advice.critical)})


def _doubts(opinions: Iterable[RuleValue]) -> list[str]:
    """Each doubt once, with whom it is of."""
    notes: dict[str, dict[str, None]] = {}
    for opinion in opinions:
        for note in opinion.notes:
            notes.setdefault(note, {})[opinion.name] = None
    return [f"{', '.join(who)}: {note}" for note, who in notes.items()]


def _name(answer: ChosenSetting) -> str:
    return _WORDS.get(answer.setting, answer.setting)


def _number(value: float | None, answer: ChosenSetting) -> str:
    if value is None:
        return "-"
    if answer.unit == "tokens":
        return f"{value:,.0f}"
    return f"{value:,.0f} steps" if answer.unit == "steps" else f"{value:.4g}"
