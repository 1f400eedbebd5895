"""The answer of `distillaw regime` as text and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter

from distillaw.cli.console import print_sections, print_table
from distillaw.large_batch.advice import Advice
from distillaw.large_batch.question import ChosenSetting, RuleValue
from distillaw.quantities import format_count, format_seconds, plural
from distillaw.table import Table, number, text


def _answer(answer: ChosenSetting) -> dict[str, object]:
    return asdict(answer) | {"low": answer.low, "high": answer.high}


_WORDS = {"peak_lr": "peak rate", "weight_decay": "weight decay", "warmup": "warm-up"}


def as_json(advice: Advice) -> dict[str, object]:
    """Every number and note of the advice, unrounded."""
    question = advice.question
    return {
        "question": asdict(question),
        "batch_tokens": advice.batch.value,
        "batch_sequences": (advice.batch.value or 0) / question.context,
        "steps": advice.steps,
        "accumulation": advice.accumulation,
        "high_rate_steps": advice.high_rate_steps,
        "settings": {answer.setting: _answer(answer) for answer in (advice.batch, *advice.settings)},
        "cap_tokens": advice.cap_tokens,
        "critical": [asdict(opinion) for opinion in advice.critical],
        "measured": [asdict(opinion) for opinion in advice.measured],
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
    _print_settings(advice)
    _print_opinions([advice.batch, *advice.settings])
    _print_waste(advice)
    print_sections({"warnings": advice.warnings, "note": advice.statements})


def _print_settings(advice: Advice) -> None:
    columns = [
        text("setting", of=_name),
        number("advised", of=lambda answer: _number(answer.value, answer)),
        number("least", of=lambda answer: _number(answer.low, answer)),
        number("most", of=lambda answer: _number(answer.high, answer)),
        text("taken from", of=lambda answer: answer.chosen),
    ]
    print_table(Table.of(columns, (advice.batch, *advice.settings)))


def _print_opinions(answers: Sequence[ChosenSetting]) -> None:
    rows, opinions = [], []
    for answer in answers:
        for opinion in answer.opinions:
            words = f"{opinion.formula}; {opinion.source}; {opinion.certainty}"
            rows.append((_name(answer), opinion.name, _number(opinion.value, answer), words))
            opinions.append(opinion)
    columns = [text("setting"), text("rule"), number("value"), text("formula; source; certainty")]
    print("\nrule by rule:")
    print_table(Table(columns, rows))
    print_sections({"doubts": _doubts(opinions)})


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


def _doubts(opinions: Sequence[RuleValue]) -> list[str]:
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
