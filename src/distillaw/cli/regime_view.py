"""The answer of `distillaw regime` as text and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict

from distillaw.cli.console import console, numbers_table, print_sections, print_table
from distillaw.large_batch.advice import Advice
from distillaw.large_batch.question import Answer, Opinion
from distillaw.quantities import format_count, format_seconds


def _answer(answer: Answer) -> dict[str, object]:
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
    output = console(soft_wrap=True)
    output.print(
        f"{format_count(question.params)} parameters, {format_count(question.tokens)} tokens, {question.devices} "
        f"device{'s' if question.devices > 1 else ''}: {advice.steps:,} steps", markup=False,
    )  # fmt: skip
    output.print(
        f"batch {batch:,.0f} tokens = {batch / question.context:,.4g} sequences of {question.context:,}; "
        f"{question.devices} x {question.micro_batch} sequences at once, {advice.accumulation} times\n",
        markup=False,
    )
    _print_settings(advice, output)
    _print_opinions([advice.batch, *advice.settings], output)
    _print_waste(advice, output)
    print_sections(output, (("warnings", advice.warnings), ("note", advice.statements)))


def _print_settings(advice: Advice, output) -> None:
    table = numbers_table("setting", ">advised", ">least", ">most", "taken from")
    for answer in (advice.batch, *advice.settings):
        table.add_row(
            _name(answer), _number(answer.value, answer), _number(answer.low, answer),
            _number(answer.high, answer), answer.chosen,
        )  # fmt: skip
    print_table(table)


def _print_opinions(answers: Sequence[Answer], output) -> None:
    output.print("\nrule by rule:", markup=False)
    table = numbers_table("setting", "rule", ">value", "formula; source; certainty")
    notes: dict[str, list[str]] = {}
    for answer in answers:
        for opinion in answer.opinions:
            words = f"{opinion.formula}; {opinion.source}; {opinion.certainty}"
            table.add_row(_name(answer), opinion.name, _number(opinion.value, answer), words)
            _collect(opinion, notes)
    print_table(table)
    print_sections(output, [("doubts", [f"{', '.join(who)}: {note}" for note, who in notes.items()])])


def _print_waste(advice: Advice, output) -> None:
    output.print(
        f"\nwhat this batch costs (E/E_min = 1 + B/B_crit, S/S_min = 1 + B_crit/B); "
        f"20 % more tokens from {advice.cap_tokens:,.0f} on:", markup=False,
    )  # fmt: skip
    timed = advice.hours is not None
    columns = ["law of B_crit", ">B_crit", ">tokens/least", ">steps/least", ">extra tokens"]
    table = numbers_table(*columns, *((">extra time", ">extra USD") if timed else ()))
    for waste in advice.waste:
        row = [waste.law, f"{waste.critical_tokens:.3g}", f"{waste.tokens_over_fewest:.3f}",
               f"{waste.steps_over_fewest:.2f}", format_count(waste.extra_tokens)]  # fmt: skip
        if timed:
            row.append(format_seconds(3600 * (waste.extra_hours or 0.0)))
            row.append("-" if waste.extra_price is None else f"{waste.extra_price:,.2f}")
        table.add_row(*row)
    print_table(table)
    for opinion in advice.measured:
        output.print(
            f"measured: {opinion.value:.3g} tokens, {opinion.formula}; {opinion.source}", markup=False
        )
    if advice.hours is not None:
        price = "" if advice.price is None else f", {advice.price:,.2f} USD"
        output.print(f"the whole run: {format_seconds(3600 * advice.hours)}{price} (6 N D of the student alone, the "
                     "preset's utilisation at every batch)", markup=False)  # fmt: skip
    doubts: dict[str, list[str]] = {}
    for opinion in advice.critical:
        _collect(opinion, doubts)
    print_sections(output, [("doubts", [f"{', '.join(who)}: {note}" for note, who in doubts.items()])])


def _collect(opinion: Opinion, notes: dict[str, list[str]]) -> None:
    for note in opinion.notes:
        who = notes.setdefault(note, [])
        if opinion.name not in who:
            who.append(opinion.name)


def _name(answer: Answer) -> str:
    return _WORDS.get(answer.setting, answer.setting)


def _number(value: float | None, answer: Answer) -> str:
    if value is None:
        return "-"
    if answer.unit == "tokens":
        return f"{value:,.0f}"
    return f"{value:,.0f} steps" if answer.unit == "steps" else f"{value:.4g}"
