"""`distillaw study next`: which runs would improve a decision most per FLOP, or sharpen a law's prediction.

Where there are teachers to choose from, the question is the verdict (sequential/, settling/propose.py). Where it is
one loss, or the difference of two allocations, it is a law's prediction (fitting/design.py).
"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from distillaw.cli.fit import Family, TableOptions
from distillaw.cli.options import HardwareName, LawName, Number, OutFile, Place, Text
from distillaw.cli.output import Output, command_of
from distillaw.cli.typed import STUDENT, refuse_idle
from distillaw.errors import ConfigError
from distillaw.quantities import parse_count

if TYPE_CHECKING:
    from distillaw.accounting.hardware import Hardware
    from distillaw.sequential.question import Setup


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
        from distillaw.sequential.question import Asked, pose

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
    from distillaw.fitting.design import next_runs as propose_runs
    from distillaw.runs.table import read_table

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
    from distillaw.cli.next_view import print_design

    document = {"source": source, "target": target, "against": _against(against, target), **design.to_json()}
    output.answer(document, print_design, design, target, against, preset, price)
    output.suggest(*_next(source, law, taught="teacher_loss" in target))


def _for_verdict(source: str, setup: "Setup", *, budget: float, out: Path | None, output: Output) -> None:
    """Propose, print, write; `budget` is what may be spent from now on, FLOP."""
    from distillaw.cli.next_view import next_command, print_proposal
    from distillaw.runs.files import write_text
    from distillaw.sequential.answer import answer_json, answer_now, batch_file, planned
    from distillaw.sequential.question import with_budget
    from distillaw.settling.propose import propose, stages_of

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
        from distillaw.runs.record import read_study

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
    from distillaw.accounting.hardware import hardware

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
    from distillaw.accounting.hardware import estimate_cost

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
