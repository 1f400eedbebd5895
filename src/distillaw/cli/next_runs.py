"""`distillaw study next`: which runs would improve a decision most per FLOP, or sharpen a law's prediction.

Where there are teachers to choose from, the question is the verdict (sequential/, settling/propose.py). Where it is
one loss, or the difference of two allocations, it is a law's prediction (fitting/design.py).
"""

import shlex
from operator import itemgetter
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from distillaw.accounting.hardware import SECONDS_PER_HOUR, Hardware, estimate_cost, hardware
from distillaw.cli.console import print_table
from distillaw.cli.fit import Family, TableOptions
from distillaw.cli.options import HardwareName, LawName, Number, OutFile, Place, Text
from distillaw.cli.output import Output, command_of, same_command
from distillaw.cli.typed import STUDENT, refuse_idle
from distillaw.errors import ConfigError
from distillaw.fitting.design import Design
from distillaw.fitting.design import next_runs as propose_runs
from distillaw.quantities import format_count, format_flop, format_seconds, parse_count, plural
from distillaw.runs.files import write_text
from distillaw.runs.record import read_study
from distillaw.runs.table import read_table
from distillaw.sequential.answer import (
    NextAnswer,
    answer_json,
    answer_now,
    batch_file,
    expectations,
    flops_beside,
    planned,
    rows_of,
    snippet,
)
from distillaw.sequential.question import Asked, Setup, pose, with_budget
from distillaw.settling.propose import Proposal, propose, stages_of
from distillaw.settling.standing import conclude
from distillaw.table import Table, number, text


def next_runs(
    source: Place,
    *,
    student_params: Annotated[Text | None, STUDENT] = None,
    student_tokens: Annotated[Text | None, Parameter(name="--tokens", alias="--student-tokens")] = None,
    teacher: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    margin: float | None = None,
    out: OutFile | None = None,
    predict: Annotated[bool, Parameter(negative="")] = False,
    teacher_loss: float | None = None,
    teacher_params: Number | None = None,
    against: str | None = None,
    budget: Number | None = None,
    money: Annotated[float | None, Parameter(alias="--dollars")] = None,
    device: Annotated[HardwareName | None, Parameter(alias="--hardware")] = None,
    price: float | None = None,
    candidates: Path | None = None,
    guess: LawName | None = None,
    noise: float = 0.003,
    law: Family | None = None,
    table: TableOptions = TableOptions(),
    bootstrap: int = 400,
    level: float = 0.9,
    output: Output = Output(),
) -> None:
    """Propose the next runs: for the verdict (distil or not, from which teacher), or for a law's prediction.

    The verdict is the question where the source has teachers: a study file or folder, or a table of runs. It works
    from no run on; ask again after every batch. The prediction is the question with --predict, with any option that
    is marked (prediction), for a fitted or published law, and for a table without teachers.

    Args:
        source: a study file (TOML) or folder, a table of runs (CSV, Parquet, JSON lines); for a prediction also a
            fitted law (JSON), or the name of a published law as a guess without runs.
        student_params: of the student in question, e.g. 7B; a study's target by default.
        student_tokens: tokens it is trained on, e.g. 1T.
        teacher: LABEL=LOSS of a teacher of the study whose loss is not known yet, nats/token (repeatable).
        margin: regret that does not matter, nats/token; by default 0.25 % of the best teacher's loss.
        out: write the batch: a study file to run, or rows (CSV) where the source is a plain table.
        predict: sharpen one prediction, though there are teachers.
        teacher_loss: (prediction) of its teacher, nats/token; leave out for a student trained alone.
        teacher_params: (prediction) of its teacher, to price the teacher's forward pass in runs with it.
        against: (prediction) another allocation, PARAMS,TOKENS[,TEACHER_LOSS]: what shrinks is then the difference.
        budget: FLOP to spend, e.g. 1e21; or --money with --device.
        money: US dollars to spend instead.
        device: preset of the price and of the hours shown, e.g. h100-sxm.
        price: US dollars per device-hour, instead of the preset's.
        candidates: (prediction) table of the runs that could be made (params, tokens, teacher_loss, teacher_params,
            cost); by default sizes and tokens in factors of two from the smallest run to the student in question.
        guess: (prediction) published law to design from where the runs do not carry one, e.g. surrogate-s2.
        noise: (prediction) spread of one run's ln loss that a guess assumes.
        law: (prediction) the family to fit to a table.
        table: how a table is read.
        bootstrap: (prediction) replicates of the fit.
        level: (prediction) coverage of the interval.
    """
    is_prediction = predict or any(
        given is not None for given in (teacher_loss, teacher_params, against, candidates, guess, law)
    )
    rows = None
    if not is_prediction:
        asked = Asked(params=student_params, tokens=student_tokens, margin=margin, losses=_losses(teacher))
        setup, rows = pose(source, asked, **table.read)
        if setup is not None:
            refuse_idle(("--noise", "--bootstrap", "--level"), "it is about a prediction, --predict")
            flops = _budget(budget, money, _device(device), price)
            _for_verdict(source, setup, budget=flops, out=out, output=output)
            return
    refuse_idle(
        ("--teacher", "--margin", "--out"), "it is about a verdict, and this is a prediction (--help marks its options)"
    )
    preset = _device(device)
    target = _target(source, student_params, student_tokens, teacher_loss, teacher_params)
    with output.working("fitting and designing"):
        design = propose_runs(
            source if rows is None else rows,
            target=target,
            against=_against(against, target),
            budget=_budget(budget, money, preset, price),
            candidates=None if candidates is None else read_table(candidates),
            guess=guess,
            noise=noise,
            family=law,
            bootstrap=bootstrap,
            level=level,
            **table.read,
        )
    document = {"source": source, "target": target, "against": _against(against, target), **design.to_json()}
    output.answer(document, print_design, design, target, against, preset, price)
    output.suggest(*_next(source, law, taught="teacher_loss" in target))


def _for_verdict(source: str, setup: "Setup", *, budget: float, out: Path | None, output: Output) -> None:
    """Propose, print, write; `budget` is what may be spent from now on, FLOP."""
    setup = with_budget(setup, budget)
    history = stages_of(setup.question, setup.runs)
    with output.working("designing"):
        verdict = planned(setup)
        is_known = verdict is None or verdict.headline.is_decisive
        said = propose(setup.question, history, setup.runs, spent=setup.spent, budget=budget, may_end=is_known)
        answer = answer_now(setup, said.now, verdict)
    if out is not None and said.stage is not None:
        write_text(out, batch_file(setup, said.stage))
    elif out is not None:
        output.say(f"{out} is not written: there is nothing to run ({said.why})")
    output.answer(answer_json(source, setup, said, answer), print_proposal, setup, said, answer, budget)
    output.suggest(*next_command(source, setup, said, out))


def _losses(given: list[str] | None) -> dict[str, float]:
    """{label: loss} from LABEL=LOSS."""
    found = {}
    for pair in given or []:
        label, sign, loss = pair.rpartition("=")
        if not sign or not label:
            raise ConfigError(f"--teacher {pair!r}: write LABEL=LOSS, e.g. 0.3M@4M=3.9")
        found[label] = parse_count(loss, name=f"--teacher {label}")
    return found


def _target(
    source: str, params: str | None, tokens: str | None, teacher_loss: float | None, teacher_params: float | None
) -> dict[str, float]:
    """The student in question; a study folder knows its own."""
    if params is None and tokens is None and (Path(source) / "study.json").is_file():
        known = read_study(Path(source)).target
        params, tokens = (None, None) if known is None else (str(known[0]), str(known[1]))
    if params is None or tokens is None:
        raise ConfigError("name the student in question: --student 7B --tokens 1T")
    target = {"params": parse_count(params, name="--student"), "tokens": parse_count(tokens, name="--tokens")}
    if teacher_loss is not None:
        target["teacher_loss"] = parse_count(teacher_loss, name="--teacher-loss")
    if teacher_params is not None:
        target["teacher_params"] = teacher_params
    return target


def _against(text: str | None, target: dict[str, float]) -> dict[str, float] | None:
    """The alternative from PARAMS,TOKENS[,TEACHER_LOSS]."""
    if text is None:
        return None
    if text == "pretrain":
        raise ConfigError(
            "--against pretrain: whether to distil is the verdict. Leave out --against and --teacher-loss, and give a "
            "study or a table with its teachers"
        )
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 3):
        raise ConfigError(f"--against {text!r}: write PARAMS,TOKENS[,TEACHER_LOSS] such as 3B,2T,2.1")
    names = ("params", "tokens", "teacher_loss")
    return {name: parse_count(part, name="--against") for name, part in zip(names, parts, strict=False)}


def _device(name: str | None) -> "Hardware | None":
    return None if name is None else hardware(name)


def _budget(flops: float | None, money: float | None, device: "Hardware | None", price: float | None) -> float:
    """FLOP to spend."""
    if price is not None and device is None:
        raise ConfigError(f"--price {price:g} does nothing without --device NAME, e.g. h100-sxm: name it too")
    if price is not None and not 0 < price < float("inf"):
        raise ConfigError(f"--price {price:g}: US dollars per device-hour, positive and finite, e.g. 2.5")
    if (flops is None) == (money is None):
        raise ConfigError("give either --budget FLOP, e.g. --budget 1e21, or --money X with --device NAME")
    if flops is not None:
        return flops
    if device is None:
        raise ConfigError("--money needs --device NAME, e.g. h100-sxm: its speed and price turn money into FLOP")
    per_flop = estimate_cost(1.0, device, price_per_hour=price).price
    if not per_flop:
        raise ConfigError(f"{device.name} has no price per hour; give one with --price")
    return parse_count(money or 0.0, name="--money") / per_flop


def _next(source: str, law: str | None, *, taught: bool) -> tuple[str, str]:
    """The likely next command, and what comes first."""
    path = Path(source)
    if (path / "study.json").is_file():
        return command_of(path), "add these sizes and tokens to the study's TOML file, then:"
    family = law or ("distillation-reduced" if taught else "supervised")
    table = shlex.quote(source) if path.suffix not in (".json", "") else "runs.csv"
    return (f"distillaw fit {table} --law {family} --out law.json", f"make these runs, add them to {table}, then:")


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
