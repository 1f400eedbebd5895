"""`distillaw plan`: the verdict, five lines to decide by and a table to check them with."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from distillaw.cli.app import print_json
from distillaw.errors import ConfigError
from distillaw.quantities import format_count, format_flop, parse_count

if TYPE_CHECKING:
    from rich.table import Table

    from distillaw.planning.decision import Verdict
    from distillaw.planning.situation import Teacher


def plan(
    *,
    student: str | None = None,
    tokens: str | None = None,
    compute: str | None = None,
    study: Path | None = None,
    teacher_loss: Annotated[list[float] | None, Parameter(consume_multiple=True)] = None,
    teacher_params: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    teacher_tokens: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    train_teacher: bool = False,
    law: str | None = None,
    scenario: str = "inference",
    students_served: int = 1,
    vocab: int | None = None,
    context: int | None = None,
    level: float = 0.9,
    json: bool = False,
) -> None:
    """Distil or pretrain one student, from which teacher, how many tokens, and how sure.

    Args:
        student: non-embedding parameters, e.g. 300M; with --study, by default the study's target.
        tokens: tokens the student is trained on, e.g. 20B; the same for every strategy.
        compute: FLOP instead of tokens, e.g. 1e21; the same bill for every strategy.
        study: folder of a study; its paired runs and fitted laws come before any published law.
        teacher_loss: loss of each teacher in nats/token on your text.
        teacher_params: size of each teacher (non-embedding), needed to price its logits.
        teacher_tokens: tokens each teacher was (or would be) trained on.
        train_teacher: the teachers do not exist yet; their training is in the bill.
        law: a published law to decide by (`distillaw laws` lists them).
        scenario: best-case, inference, pretraining or pretraining-inference.
        students_served: students that share the bill for training a teacher.
        vocab: vocabulary, for counting FLOP.
        context: training context in tokens, for counting FLOP.
        level: coverage of the intervals.
        json: print one JSON object with the keys of the interface contract.
    """
    from distillaw.planning.api import plan as decide_plan
    from distillaw.planning.record import read_study

    record = read_study(study) if study is not None else None
    params: str | float | None = student
    wanted: str | float | None = tokens
    if record is not None and student is None and record.target:
        params = record.target[0]
        wanted = record.target[1] if tokens is None and compute is None else tokens
    if params is None:
        raise ConfigError(
            "name the student: --student 300M with --tokens 20B or --compute 1e21 (or --study with a target)"
        )
    verdict = decide_plan(
        params, student_tokens=wanted, compute=compute, study=record,
        teachers=read_teachers(teacher_loss, teacher_params, teacher_tokens, exists=not train_teacher),
        law=law, scenario=scenario, students_served=students_served, vocab=vocab, context=context, level=level,
    )  # fmt: skip
    if json:
        print_json(verdict.to_json())
    else:
        _print(verdict)


def read_teachers(
    losses: list[float] | None, params: list[str] | None, tokens: list[str] | None, *, exists: bool
) -> "tuple[Teacher, ...]":
    """Teachers from parallel lists; lists that are given must be of one length."""
    from distillaw.planning.situation import Teacher

    given = {"--teacher-loss": losses, "--teacher-params": params, "--teacher-tokens": tokens}
    lengths = {len(values) for values in given.values() if values}
    if not lengths:
        return ()
    if len(lengths) > 1:
        counts = ", ".join(f"{name}: {len(values)}" for name, values in given.items() if values)
        raise ConfigError(f"one value per teacher is needed in each option; got {counts}")
    found = []
    for j in range(lengths.pop()):
        size = parse_count(params[j], name="--teacher-params") if params else None
        loss = losses[j] if losses else None
        name = f"{format_count(size)} teacher" if size else f"teacher of loss {loss:g}"
        found.append(
            Teacher(name=name, params=size, loss=loss, exists=exists,
                    tokens=parse_count(tokens[j], name="--teacher-tokens") if tokens else None)
        )  # fmt: skip
    return tuple(found)


def _print(verdict: "Verdict") -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    console.print(str(verdict), markup=False)
    for table in (_losses(verdict), _costs(verdict), _evidence(verdict)):
        console.print()
        console.print(table)
    for title, lines in (
        ("Changes if", verdict.flips_if[1:]), ("Assumes", verdict.assumptions), ("Warnings", verdict.warnings),
        ("Run next", verdict.next_runs),
    ):  # fmt: skip
        if lines:
            console.print(f"\n{title}:", markup=False)
            for line in lines:
                console.print(f"- {line}", markup=False)
    console.print(f"\nnext: {verdict.next_command}", markup=False)


def _table(*columns: str) -> "Table":
    """Columns starting with > are numbers: right-aligned, never folded."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        number = column.startswith(">")
        table.add_column(
            column.removeprefix(">"), justify="right" if number else "left", no_wrap=number, overflow="fold"
        )
    return table


def _losses(verdict: "Verdict") -> "Table":
    from distillaw.planning.wording import interval, nats, percent

    table = _table("student trained", ">teacher loss", ">loss, nats/token", ">gain", ">best?")
    known = verdict.headline.is_informative
    for row in verdict.strategies:
        table.add_row(
            f"from the {row.teacher.name}" if row.teacher else "without a teacher",
            "" if row.teacher_loss is None else nats(row.teacher_loss), interval(row.loss) if known else "unknown",
            interval(row.gain) if known and row.gain else "",
            percent(row.share_best) if known and row.share_best is not None else "",
        )  # fmt: skip
    return table


def _costs(verdict: "Verdict") -> "Table":
    from distillaw.planning.record import budget_text

    table = _table("FLOP", ">tokens", ">student", ">logits", ">teacher", ">paid here", "loss is")
    for row in verdict.strategies:
        parts = ("student_training", "teacher_logits", "teacher_training", "total")
        flop = [row.compute.get(part) for part in parts]
        table.add_row(
            f"from the {row.teacher.name}" if row.teacher else "without a teacher",
            budget_text(row.student_tokens),
            *("unknown" if f is None else format_flop(f).removesuffix(" FLOP") for f in flop), row.basis,
        )  # fmt: skip
    return table


def _evidence(verdict: "Verdict") -> "Table":
    from distillaw.planning.decision import call
    from distillaw.planning.evidence import Interval
    from distillaw.planning.wording import interval, percent

    table = _table("evidence", ">gain", ">P(distil)", ">P(pretrain)", "what it is")
    for source in verdict.evidence:
        gain = interval(Interval.of(source.gain_draws, verdict.level)) if source.is_informative else ""
        chances = ["", ""]
        if source.is_decisive:
            answer = call(source)
            chances = [percent(answer.distil), percent(answer.pretrain)]
        mark = "decides; " if source.source in verdict.headline.deciding else ""
        table.add_row(source.source, gain, *chances, f"{mark}{source.status}: {source.note}")
    return table
