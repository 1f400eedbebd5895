"""What `distillaw study next` prints: for a decision the answer and the proposed batch, for a prediction the design."""

import shlex
from operator import itemgetter
from pathlib import Path

from distillaw.accounting.hardware import SECONDS_PER_HOUR, Hardware, estimate_cost
from distillaw.cli.console import print_table
from distillaw.cli.output import same_command
from distillaw.fitting.design import Design
from distillaw.quantities import format_count, format_flop, format_seconds, parse_count, plural
from distillaw.sequential.answer import NextAnswer, expectations, flops_beside, rows_of, snippet
from distillaw.sequential.question import Setup
from distillaw.settling.propose import Proposal
from distillaw.settling.standing import conclude
from distillaw.table import Table, number, text

SHOWN = 12
"""Runs in the printed table; --json has all."""


def print_proposal(setup: Setup, said: Proposal, answer: NextAnswer, budget: float) -> None:
    """The answer as it stands, the batch that is proposed, and its table for the study's file."""
    lines = [*_now(setup, answer), *_proposal(setup, said, answer, budget)]
    if setup.spec is not None and said.stage is not None:
        lines.append(snippet(said.stage))
    print("\n".join(lines))


def _now(setup: Setup, answer: NextAnswer) -> list[str]:
    question = setup.question
    lines = [
        f"{question.target.label} on {format_count(question.tokens)} tokens: pretrain, or distil from one of "
        f"{len(question.candidates)}? Equal tokens; regret of {question.margin:.3g} nats/token does not matter"
    ]
    if setup.untrained:
        lines.append(f"not trained yet, losses guessed: {', '.join(setup.untrained)}; `study run` trains them first")
    lines += setup.notes
    made = f"{plural(len(setup.runs), 'run')} ({format_flop(setup.spent)})"
    if answer.by == "plan":
        lines += ["", f"now, from {made}, as `distillaw plan` has it:", f"  {answer.sentence}"]
    elif setup.runs:
        lines += ["", f"now, from {made}: {answer.sentence}"]
    else:
        lines += ["", "now, from no run: what laws allow alone"]
    return [*lines, *answer.lines()]


def _proposal(setup: Setup, said: Proposal, answer: NextAnswer, budget: float) -> list[str]:
    both = expectations(said)
    if said.stage is None or both is None:
        return ["", f"nothing to run: {_why_nothing(setup, said, answer)}"]
    stage, (before, after) = said.stage, both
    rows = rows_of(setup, stage)
    tokens = ", ".join(map(format_count, stage.tokens))
    right = f", right choice {before.probability_best:.2f} -> {after.probability_best:.2f}" * (answer.by != "plan")
    lines = [
        "",
        f"next batch: {len(rows)} runs, {format_flop(said.flops)} of {format_flop(budget)}",
        f"  students {', '.join(stage.labels)} on {tokens} tokens, seed {', '.join(map(str, stage.seeds))}",
        f"  from {', '.join(stage.candidates)}, and none",
        *_beside(setup, said, budget),
    ]
    if not answer.is_known:
        return [*lines, "worth it: nothing measured reaches the question, and these runs are the nearest to it"]
    lines.append(
        f"then: expected regret {before.expected_regret:.4f} -> {after.expected_regret:.4f} nats/token{right}, "
        f"settled with probability {after.probability_settled:.2f}"
    )
    if answer.by == "plan":
        lines.append("  (by a model of these runs that also prices runs not made yet; the verdict is the planner's)")
    if said.why:
        return [*lines, f"not worth it: {said.why}. The regret that is left is worth less than finding out"]
    return [
        *lines,
        f"worth it: what it should save, {said.worth:.4f} nats/token, would cost the target "
        f"{format_flop(said.worth_flops)} of longer training",
    ]


def _beside(setup: Setup, said: Proposal, budget: float) -> list[str]:
    """What else `study run` would train, which the budget is not asked for."""
    flops = flops_beside(setup, said)
    if not flops:
        return []
    total = format_flop(said.flops + flops)
    over = f"; {total} in all are beyond the budget" if said.flops + flops > budget else ""
    return [
        f"  beside it `study run` trains what the study lacks (searches, teachers, unfinished runs): "
        f"{format_flop(flops)}{over}"
    ]


def _why_nothing(setup: Setup, said: Proposal, answer: NextAnswer) -> str:
    """A settled question by its bound: what is to be done has been said."""
    if said.now.verdict is None or not answer.is_known:
        return said.why
    bound = conclude(setup.question, said.now).bound
    return (
        f"no other choice can be better by more than {bound:.3f} nats/token ({setup.question.level:.0%}, whenever one "
        "stops)"
    )


def next_command(source: str, setup: Setup, said: Proposal, out: Path | None) -> tuple[str, str]:
    """The likely next command, and what comes first."""
    place = shlex.quote(source)
    is_folder = Path(source).is_dir()
    if said.stage is None or said.why:
        first = "no more runs are worth it at this budget; ask with a larger --budget, or decide:"
        return f"distillaw plan --study {place}{_asked(setup)}" if is_folder else same_command(), first
    again = "then ask again with what is left of the budget"
    if setup.spec is None:
        return same_command(), f"make these runs, add them to the table, {again}:"
    if out is None:
        return f"{same_command()} --out next.toml", "to have these runs as a study file (or paste the table):"
    return (f"distillaw study run {shlex.quote(str(out))}{f' --out {place}' if is_folder else ''}", f"run it, {again}:")


def _asked(setup: Setup) -> str:
    """Options of `plan` for another question than the study's own."""
    question = setup.question
    asked = (parse_count(question.target.label), question.tokens)
    if setup.record is None or setup.record.target == asked:
        return ""
    return f" --student {question.target.label} --tokens {question.tokens:.0f}"


def print_design(
    design: Design, target: dict[str, float], against: str | None, device: Hardware | None, price: float | None
) -> None:
    """The runs that sharpen a prediction, and what each budget buys."""
    print(design.basis)
    what = f"{format_count(target['params'])} on {format_count(target['tokens'])} tokens"
    what += f", teacher loss {target['teacher_loss']:g}" if "teacher_loss" in target else ""
    percent = f"{100 * design.level:.0f} %"
    if design.gain is None:
        print(f"target: loss of {what}: {design.loss:.4f} +- {design.before.half_width:.4f} nats/token ({percent})")
    else:
        print(f"target: {what}, against {against}")
        print(
            f"  better by {design.gain:+.4f} +- {design.before.half_width:.4f} nats/token ({percent}), probability "
            f"{_chance(design.before)}"
        )
    print()
    if design.runs:
        print_table(_run_table(design, device, price))
    else:
        print("no run within the budget shrinks this noticeably")
    if len(design.runs) > SHOWN:
        print(f"... and {len(design.runs) - SHOWN} more (--json lists all)")
    print()
    print_table(_budget_table(design))
    print("\nExpected values are linearised at the present law; fit again after every few runs.")


def _run_table(design: Design, device: Hardware | None, price: float | None) -> Table:
    columns = [
        number("run", of=itemgetter(0)),
        number("params", format_count, of=lambda row: row[1].params),
        number("tokens", format_count, of=lambda row: row[1].tokens),
        number("teacher loss", ".4g", of=lambda row: row[1].teacher_loss, missing="-"),
        number("FLOP", ".2g", of=lambda row: row[1].cost),
        number("FLOP in all", ".2g", of=lambda row: row[1].total_cost),
        number("then +-", ".4f", of=lambda row: row[1].after.half_width),
    ]
    if design.gain is not None:
        columns.append(number("probability", of=lambda row: _chance(row[1].after)))
    if device is not None:
        columns.append(number("hours, price in all", of=lambda row: _bill(row[1].total_cost, device, price)))
    return Table.of(columns, enumerate(design.runs[:SHOWN], 1))


def _budget_table(design: Design) -> Table:
    columns = [
        text("with a budget of", format_flop, of=lambda step: step.budget),
        number("runs", of=lambda step: step.num_runs),
        text("interval", lambda half: f"+- {half:.4f}", of=lambda step: step.after.half_width),
    ]
    if design.gain is not None:
        columns.append(text("probability", of=lambda step: _chance(step.after)))
    return Table.of(columns, design.by_budget)


def _chance(expected) -> str:
    return "" if expected.probability is None else f"{expected.probability:.2f}"


def _bill(flop: float, device: Hardware, price: float | None) -> str:
    cost = estimate_cost(flop, device, price_per_hour=price)
    money = "" if cost.price is None else f", ${cost.price:,.0f}"
    return f"{format_seconds(cost.device_hours * SECONDS_PER_HOUR)}{money}"
