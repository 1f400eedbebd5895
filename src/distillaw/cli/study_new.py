"""`distillaw study new`: a study file from a template, with its cost and what it would identify before it runs."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from distillaw.accounting.hardware import hardware
from distillaw.cli.console import print_table
from distillaw.cli.machine import count_workers
from distillaw.cli.options import HardwareName, KindName, Number, Numbers, Place, Words, values_of
from distillaw.cli.output import Output
from distillaw.cli.typed import refuse_idle
from distillaw.data.corpus import SHIPPED
from distillaw.errors import ConfigError
from distillaw.protocols.catalogue import KINDS, Limit, kind_named, within
from distillaw.protocols.scale import DesignWishes, text_size
from distillaw.protocols.sheet import study_file
from distillaw.protocols.statement import state
from distillaw.quantities import format_bytes, format_count, format_flop, format_seconds, plural
from distillaw.runs.config import check_choice
from distillaw.runs.files import write_text
from distillaw.runs.places import check_file, check_name
from distillaw.runs.spec import ARMS
from distillaw.sweep.checks import check_study
from distillaw.sweep.cost import StudyCost, study_cost
from distillaw.table import Table, number, text


def new(
    kind: KindName | None = None,
    *,
    out: Path | None = None,
    students: Numbers = (),
    teachers: Numbers = (),
    tokens: Numbers = (),
    starts: Words = (),
    budget: Number | None = None,
    hours: Number | None = None,
    cores: int = 0,
    device: Annotated[HardwareName | None, Parameter(alias="--hardware")] = None,
    corpus: Place = "",
    vocab: int | None = None,
    name: str | None = None,
    force: bool = False,
    output: Output = Output(),
) -> None:
    """Write a study file of a kind at your scale; without a kind, list the kinds.

    Args:
        kind: which question; `distillaw study new` lists them.
        out: the file; default KIND.toml.
        students: student sizes, e.g. 0.1M,0.3M (non-embedding).
        teachers: teacher sizes, e.g. 0.3M,1M; one teacher of each, none beside them (isoflop-teachers trains each on
            several token counts, which is its question). By default the kind chooses its teachers.
        tokens: students' budgets, e.g. 200k,800k; rounded up to whole batches.
        starts: what students begin from: fresh (random weights), pruned (cut out of the teacher under test), fixed (cut
            out of one reference), or several, e.g. fresh,pruned; by default as the kind has it.
        budget: FLOP to spend at most, e.g. 1e15; scales what is not given.
        hours: wall time to spend at most, on --cores of this machine or one --device.
        cores: processes, one core each; 0 takes all cores.
        device: e.g. h200: hours of it, at the low end of its utilisation, since models are small.
        corpus: the text; the design is fitted to what it holds.
        vocab: entries of the vocabulary; by default as many as the smallest student can carry.
        name: name of the study; default the kind.
        force: overwrite the file.
    """
    if kind is None:
        options = "out students teachers tokens starts budget hours cores device corpus vocab name force".split()
        refuse_idle((f"--{option}" for option in options), "kinds are listed at their defaults; name one, --kind")
        _list_kinds(output)
        return
    if cores and device is not None:
        raise ConfigError(
            f"--cores {cores} does nothing beside --device {device}: the hours are those of the device, not of this "
            "machine's cores; give one of the two"
        )
    template = kind_named(kind)
    file = _file_for(out, name, kind, force=force)
    _check(vocab, corpus)
    sizes = {"students": students, "teachers": teachers, "tokens": tokens}
    asked = DesignWishes(
        **{name: tuple(sorted(given)) for name, given in sizes.items()},
        starts=_starts(starts),
        vocab=vocab,
        corpus=corpus,
        text=text_size(corpus) if corpus else None,
    )
    workers = count_workers(cores, "--cores")
    limit = _limit(budget, hours, workers, device)
    sheet = template.sheet(asked) if limit is None else within(template, asked, limit)
    spec = sheet.spec(name or kind)
    check_study(spec)
    cost = study_cost(spec, spec.data.vocab_size)
    said = state(spec, cost)
    heading = [f"{template.name}: {template.question}", ""]
    heading += [f"  distillaw study run {file}" + ("" if corpus else " --corpus PATH"), ""]
    rounded = {tokens: sheet.scale.whole(tokens) for tokens in asked.tokens}
    notes = [*_rounding(rounded, sheet.scale.grain), *spec.left_uncut(), *said.lines(sheet.left_out)]
    costs = bill(cost, workers)
    heading += [costs, *notes]
    write_text(file, study_file(sheet, spec, heading), known=force)
    document = {
        "kind": kind,
        "file": str(file),
        "spec_hash": spec.spec_hash,
        **values_of(cost, "num_runs flops disk_bytes"),
        "seconds": cost.wall_seconds(workers),
        "workers": workers,
        "left_out": sheet.left_out,
        "budgets": [{"asked": one, "written": whole} for one, whole in rounded.items()],
        **said.to_json(),
    }
    if device is not None:
        seconds = format_seconds(_device_seconds(device)(cost))
        costs += f"\nabout {seconds} of one {device} at the low end of its utilisation"
    lines = [f"{template.name}: {template.question}\n", costs, *notes, f"\nwrote {file}"]
    output.answer(document, print, "\n".join(lines))
    shipped, first = (
        ("", "") if corpus else (" --corpus sotu", "with a text of your own in place of the one that ships:")
    )
    output.suggest(f"distillaw study run {shlex.quote(str(file))}{shipped}", first)


def _file_for(out: Path | None, name: str | None, kind: str, *, force: bool) -> Path:
    """Where the study file goes; refused where a name cannot be one or a file would be lost."""
    if name is not None:
        check_name(name, "--name")
    file = out or Path(f"{name or kind}.toml")
    if not file.is_file():
        check_file(file)
    elif not force:
        raise ConfigError(f"{file} exists: give another --out, or --force to overwrite it")
    return file


def _check(vocab: int | None, corpus: str) -> None:
    if vocab is not None and vocab < 257:
        raise ConfigError(f"--vocab {vocab}: at least 257, the bytes and a mark for the end of a document")
    if corpus and corpus not in SHIPPED and not corpus.startswith("hub:") and not Path(corpus).expanduser().exists():
        raise ConfigError(f"--corpus {corpus!r}: no such file or folder")


def _starts(given: Sequence[str]) -> tuple[str, ...]:
    for word in given:
        check_choice("--starts", word, ARMS)
    return tuple(arm for arm in ARMS if arm in given)


def _limit(budget: float | None, hours: float | None, workers: int, hardware: str | None) -> "Limit | None":
    """What may be spent, from --budget or --hours; None without either."""
    if budget is not None and hours is not None:
        raise ConfigError("give either --budget FLOP or --hours, not both")
    if budget is not None:
        return Limit(amount=budget, price=lambda cost: cost.flops, show=format_flop)
    if hours is None:
        return None
    seconds = 3600 * hours
    if hardware is None:
        return Limit(amount=seconds, price=lambda cost: cost.wall_seconds(workers), show=format_seconds)
    return Limit(amount=seconds, price=_device_seconds(hardware), show=format_seconds)


def _device_seconds(name: str) -> "Callable[[StudyCost], float]":
    """Seconds of one device, at the low end of its utilisation."""
    device = hardware(name)
    return lambda cost: cost.flops / (device.peak_flop_per_second * device.mfu_low)


def bill(cost: StudyCost, workers: int) -> str:
    """What a study costs, in one sentence."""
    return (
        f"{plural(cost.num_runs, 'run')} from {plural(len(cost.jobs), 'trunk')}, {format_count(cost.tokens)} tokens, "
        f"{format_flop(cost.flops)}, about {format_seconds(cost.wall_seconds(workers))} on {plural(workers, 'core')}, "
        f"{format_bytes(cost.disk_bytes)} on disk"
    )


def _rounding(rounded: Mapping[float, int], grain: int) -> Iterator[str]:
    """What became of the budgets that were named, where it is not what was named."""
    changed = [f"{format_count(asked)} to {whole:,}" for asked, whole in rounded.items() if asked != whole]
    if changed:
        yield f"budgets are multiples of {grain:,} tokens (four batches), rounded up: {', '.join(changed)}"


def _list_kinds(output: Output) -> None:
    """One line each: what question, at what cost at the defaults."""
    rows = []
    for kind in KINDS:
        spec = kind.sheet(DesignWishes()).spec(kind.name)
        cost = study_cost(spec, spec.data.vocab_size)
        costs = values_of(cost, "num_runs flops disk_bytes") | {"core_seconds": sum(cost.seconds)}
        rows.append({"kind": kind.name, "question": kind.question, **costs})
    columns = [
        text("kind", of=itemgetter("kind")),
        text("question", of=itemgetter("question")),
        number("runs", of=itemgetter("num_runs")),
        number("FLOP", ".1e", of=itemgetter("flops")),
        number("core time", format_seconds, of=itemgetter("core_seconds")),
    ]
    note = "\ncosts are at the defaults; scale them with --students, --teachers, --tokens, --budget or --hours"
    output.answer({"kinds": rows}, print_table, Table.of(columns, rows, note))
    output.suggest("distillaw study new --kind isoflop-students")
