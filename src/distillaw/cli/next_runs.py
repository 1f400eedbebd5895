"""`distillaw study next`: which runs would improve a decision most per FLOP, or sharpen a law's prediction.

Where there are teachers to choose from, the question is the verdict (next_verdict.py, settling/propose.py). Where it is
one loss, or the difference of two allocations, it is a law's prediction (fitting/next_runs.py).
"""

import shlex
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from distillaw.cli.app import print_json
from distillaw.cli.console import print_table
from distillaw.cli.counts import Count
from distillaw.cli.fit import Family, parse_columns, parse_where
from distillaw.cli.names import HardwareName, LawName, Place
from distillaw.cli.output import Output, check_place, command_of
from distillaw.cli.typed import STUDENT, formerly
from distillaw.errors import ConfigError
from distillaw.quantities import format_count, format_flop, format_seconds, parse_count
from distillaw.table import Table, number, text

if TYPE_CHECKING:
    from distillaw.accounting.hardware import Hardware
    from distillaw.cli.next_setup import Setup
    from distillaw.fitting.design import Design

SHOWN = 12
"""Runs in the printed table; --json has all."""


def next_runs(
    source: Place,
    *,
    student_params: Annotated[Count | None, STUDENT] = None,
    student_tokens: Annotated[Count | None, Parameter(name="--tokens", alias="--student-tokens")] = None,
    teacher: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    margin: float | None = None,
    out: Path | None = None,
    predict: Annotated[bool, Parameter(negative="")] = False,
    teacher_loss: float | None = None,
    teacher_params: Count | None = None,
    against: str | None = None,
    budget: Count | None = None,
    money: Annotated[float | None, formerly("--dollars")] = None,
    device: Annotated[HardwareName | None, formerly("--hardware")] = None,
    price: float | None = None,
    candidates: Path | None = None,
    guess: LawName | None = None,
    noise: float = 0.003,
    law: Family | None = None,
    columns: str | None = None,
    group: str | None = None,
    where: list[str] | None = None,
    unit: str | None = None,
    params_convention: Literal["non-embedding", "total"] | None = None,
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
        columns: which column is what, as in `distillaw fit`.
        group: column that names the independent run of each row.
        where: learn from the rows with COLUMN=VALUE only (repeatable), as in `distillaw fit`.
        unit: of the losses.
        params_convention: what the params column and --student count.
        bootstrap: (prediction) replicates of the fit.
        level: (prediction) coverage of the interval.
    """
    check_place("--out", out)
    is_prediction = predict or any(
        given is not None for given in (teacher_loss, teacher_params, against, candidates, guess, law)
    )
    read = {
        "columns": parse_columns(columns),
        "group": group,
        "unit": unit,
        "params_convention": params_convention,
    }
    if not is_prediction:
        losses = _losses(teacher)
        setup = _setup(source, student_params, student_tokens, margin, losses, parse_where(where), read)
        if setup is not None:
            from distillaw.cli.next_verdict import next_for_verdict

            flops = _budget(budget, money, _device(device), price)
            next_for_verdict(source, setup, budget=flops, out=out, output=output)
            return
    for name, given in (("--teacher", teacher), ("--margin", margin), ("--out", out)):
        if given is not None:
            raise ConfigError(f"{name} belongs to a verdict; this is a prediction. Leave it out, or the options of a "
                              "prediction (--help marks them)")  # fmt: skip
    from distillaw.fitting.next_runs import next_runs as propose_runs
    from distillaw.runs.table import read_table

    preset = _device(device)
    target = _target(source, student_params, student_tokens, teacher_loss, teacher_params)
    with output.working("fitting and designing"):
        design = propose_runs(
            source, target=target, against=_against(against, target), budget=_budget(budget, money, preset, price),
            candidates=None if candidates is None else read_table(candidates), guess=guess, noise=noise, family=law,
            where=parse_where(where), bootstrap=bootstrap, level=level, **read,
        )  # fmt: skip
    if output.json:
        print_json(
            {"source": source, "target": target, "against": _against(against, target), **design.to_json()}
        )
        return
    _print(design, target, against, preset, price)
    output.suggest(*_next(source, law, taught="teacher_loss" in target))


def _setup(
    source: str,
    params: str | None,
    tokens: str | None,
    margin: float | None,
    losses: dict[str, float],
    where: dict[str, str] | None,
    read: dict,
) -> "Setup | None":
    """The decision that a source poses; None where it poses none: a law, or runs without teachers."""
    from distillaw.cli.next_setup import Asked, setup_of_study
    from distillaw.cli.next_table import setup_of_table
    from distillaw.laws.published import laws_available

    path = Path(source)
    asked = Asked(params=params, tokens=tokens, margin=margin, losses=losses)
    if source in laws_available() or path.suffix == ".json":
        return None
    if path.suffix == ".toml" or (path / "study.json").is_file():
        return setup_of_study(path, asked)
    from distillaw.fitting.problem import observe
    from distillaw.fitting.selection import observe_where
    from distillaw.runs.table import read_table

    table = read_table(path)
    rows = (
        observe_where(table, None, where, lambda part, _: observe(part, **read))
        if where
        else observe(table, **read)
    )
    if not (rows.teacher_loss > 0).any():
        return None
    return setup_of_table(rows, asked)


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
    source: str,
    params: str | None,
    tokens: str | None,
    teacher_loss: float | None,
    teacher_params: str | None,
) -> dict[str, float]:
    """The student in question; a study folder knows its own."""
    if params is None and tokens is None and (Path(source) / "study.json").is_file():
        from distillaw.runs.record import read_study

        known = read_study(Path(source)).target
        params, tokens = (None, None) if known is None else (str(known[0]), str(known[1]))
    if params is None or tokens is None:
        raise ConfigError("name the student in question: --student 7B --tokens 1T")
    target = {"params": parse_count(params, name="--student"),
              "tokens": parse_count(tokens, name="--tokens")}  # fmt: skip
    if teacher_loss is not None:
        target["teacher_loss"] = parse_count(teacher_loss, name="--teacher-loss")
    if teacher_params is not None:
        target["teacher_params"] = parse_count(teacher_params, name="--teacher-params")
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
    from distillaw.accounting.hardware import hardware

    return None if name is None else hardware(name)


def _budget(text: str | None, money: float | None, device: "Hardware | None", price: float | None) -> float:
    """FLOP to spend."""
    if price is not None and device is None:
        raise ConfigError(f"--price {price:g} does nothing without --device NAME, e.g. h100-sxm: name it too")
    if price is not None and not 0 < price < float("inf"):
        raise ConfigError(f"--price {price:g}: US dollars per device-hour, positive and finite, e.g. 2.5")
    if (text is None) == (money is None):
        raise ConfigError("give either --budget FLOP, e.g. --budget 1e21, or --money X with --device NAME")
    if text is not None:
        return parse_count(text, name="--budget")
    from distillaw.accounting.hardware import estimate_cost

    if device is None:
        raise ConfigError(
            "--money needs --device NAME, e.g. h100-sxm: its speed and price turn money into FLOP"
        )
    per_flop = estimate_cost(1.0, device, price_per_hour=price).price
    if not per_flop:
        raise ConfigError(f"{device.name} has no price per hour; give one with --price")
    return parse_count(money or 0.0, name="--money") / per_flop


def _print(
    design: "Design",
    target: dict[str, float],
    against: str | None,
    device: "Hardware | None",
    price: float | None,
) -> None:
    print(design.basis)
    what = f"{format_count(target['params'])} on {format_count(target['tokens'])} tokens"
    what += f", teacher loss {target['teacher_loss']:g}" if "teacher_loss" in target else ""
    percent = f"{100 * design.level:.0f} %"
    if design.gain is None:
        print(
            f"target: loss of {what}: {design.loss:.4f} +- {design.before.half_width:.4f} nats/token ({percent})"
        )
    else:
        print(f"target: {what}, against {against}")
        print(f"  better by {design.gain:+.4f} +- {design.before.half_width:.4f} nats/token ({percent}), probability "
              f"{_chance(design.before)}")  # fmt: skip
    if not design.runs:
        print("\nno run within the budget shrinks this noticeably")
    else:
        _print_runs(design, device, price)
    _print_budgets(design)
    print("\nExpected values are linearised at the present law; fit again after every few runs.")


def _print_runs(design: "Design", device: "Hardware | None", price: float | None) -> None:
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
        bill = number("hours, price in all", of=lambda row: _bill(row[1].total_cost, device, price))
        columns.append(bill)
    table = Table.of(columns, enumerate(design.runs[:SHOWN], 1))
    print()
    print_table(table)
    if len(design.runs) > SHOWN:
        print(f"... and {len(design.runs) - SHOWN} more (--json lists all)")


def _print_budgets(design: "Design") -> None:
    columns = [
        text("with a budget of", format_flop, of=lambda step: step.budget),
        number("runs", of=lambda step: step.num_runs),
        text("interval", lambda half: f"+- {half:.4f}", of=lambda step: step.after.half_width),
    ]
    if design.gain is not None:
        columns.append(text("probability", of=lambda step: _chance(step.after)))
    print()
    print_table(Table.of(columns, design.by_budget))


def _chance(expected) -> str:
    return "" if expected.probability is None else f"{expected.probability:.2f}"


def _bill(flop: float, device: "Hardware", price: float | None) -> str:
    from distillaw.accounting.hardware import SECONDS_PER_HOUR, estimate_cost

    cost = estimate_cost(flop, device, price_per_hour=price)
    money = "" if cost.price is None else f", ${cost.price:,.0f}"
    return f"{format_seconds(cost.device_hours * SECONDS_PER_HOUR)}{money}"


def _next(source: str, law: str | None, *, taught: bool) -> tuple[str, str]:
    """The likely next command, and what comes first."""
    path = Path(source)
    if (path / "study.json").is_file():
        return command_of(path), "add these sizes and tokens to the study's TOML file, then:"
    family = law or ("distillation-reduced" if taught else "supervised")
    table = shlex.quote(source) if path.suffix not in (".json", "") else "runs.csv"
    return (
        f"distillaw fit {table} --law {family} --out law.json",
        f"make these runs, add them to {table}, then:",
    )
