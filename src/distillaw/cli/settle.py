"""`distillaw settle`: the cheapest paired pilots that decide between teachers and none, with a bound on regret."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from distillaw.cli.console import print_sections, print_table
from distillaw.cli.machine import count_workers
from distillaw.cli.options import Place, Text
from distillaw.cli.output import Output, same_command
from distillaw.cli.typed import STUDENT
from distillaw.planning.decision import WORDS
from distillaw.planning.evidence import Interval
from distillaw.planning.phrases import interval, nats, percent
from distillaw.quantities import bare_flop, format_bytes, format_count, format_flop, format_seconds, plural
from distillaw.runs.places import check_file, check_folder
from distillaw.settling.spec import read_settle
from distillaw.table import Table, number, text


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionOptions:
    """The question, instead of or on top of the file's."""

    corpus: Place | None = None
    """The text: `sotu` (shipped), files, a folder; see docs/studies.md."""
    world: str | None = None
    """A synthetic language as the text: a name of `distillaw worlds list`, or a TOML file."""
    like: Place | None = None
    """A finished study's folder: its text, splits and tokenizer, so that its teachers can teach."""
    student_params: Annotated[Text | None, STUDENT] = None
    """Non-embedding parameters of the target, e.g. 0.3M."""
    student_tokens: Annotated[Text | None, Parameter(name="--tokens", alias="--student-tokens")] = None
    """Tokens the target will be trained on, e.g. 5M; the same with every teacher and with none."""
    teacher: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None
    """A teacher that exists: a model folder, a GGUF file, or an oracle of the world; once for each."""
    budget: Text | None = None
    """What pilots may cost: a share of training the target, e.g. 2%, or FLOP, e.g. 1e13."""
    margin: Annotated[float | None, Parameter(allow_leading_hyphen=True)] = None
    """Regret that does not matter, nats/token; by default 0.25 % of the best teacher's loss."""
    level: float | None = None
    """Chance that what is said holds, whenever one stops; 0.9 by default."""


def settle(
    file: Path | None = None,
    *,
    question: QuestionOptions | None = None,
    out: Path | None = None,
    dry_run: bool = False,
    workers: int = 0,
    output: Output = Output(),
) -> None:
    """Settle by paired pilots whether to distil a student, from which teacher, or pretrain it, at a bound on regret.

    Pilots share tokens, order and seeds with and without each teacher, grow from stage to stage, drop losing teachers,
    and stop as soon as the answer holds. Safe to interrupt and to repeat; a larger --budget goes on.

    Args:
        file: a study's [data], [training], [[teachers]] and [target], and a [settle] table.
        question: what is to be settled, instead of or on top of the file.
        out: folder, an ordinary study folder; default out/NAME.
        dry_run: only the next stage and what may follow: FLOP, time, disk; nothing is trained.
        workers: processes, one core each; 0 takes all cores.
    """
    from distillaw.cli.display import make_display
    from distillaw.sweep.study import require_trainable

    require_trainable()
    spec = read_settle(file, **asdict(question or QuestionOptions()))
    folder = out or Path("out") / spec.name
    check_folder(folder)
    check_file(folder / "verdict.json")
    from distillaw.settling.loop import preview, settle_in
    from distillaw.settling.verdict import verdict_json

    with make_display(0.0, quiet=output.quiet) as display:
        run = {"workers": count_workers(workers), "display": display, "command": same_command()}
        answer = preview(spec, folder, **run) if dry_run else verdict_json(settle_in(spec, folder, **run))
    output.answer(answer, show_preview if dry_run else show, answer)
    output.suggest(same_command(without="--dry-run") if dry_run else f"distillaw report {shlex.quote(str(folder))}")


Answer = Mapping[str, Any]


def show(answer: Answer) -> None:
    """Print a verdict, as `plan` prints its own."""
    print(f"{WORDS[answer['verdict']].title}  {answer['sentence']}")
    share = f"{answer['share_of_target']:.2%} of training the target once"
    pilots, stages = sum(len(stage["runs"]) for stage in answer["stages"]), plural(len(answer["stages"]), "stage")
    print(f"Decided by {pilots} pilots in {stages} that cost {format_flop(answer['compute_spent'])}, {share}.")
    for table in (_strategies(answer), _stages(answer)):
        if table.rows:
            print()
            print_table(table)
    sections = {
        "Dropped": [f"{name}: {why}" for name, why in answer["dropped"].items()],
        "Changes if": answer["flips_if"],
        "Assumes": answer["assumptions"],
        "Warnings": answer["warnings"],
    }
    print_sections(sections)
    print(f"\nruns, tables and verdict.json: {answer['folder']}")


def _interval(value: Answer) -> str:
    return interval(Interval(**value))


def _strategies(answer: Answer) -> Table:
    columns = [
        text("strategy", of=lambda row: row["name"] + (" (dropped)" if row["dropped"] else "")),
        number("teacher loss", nats, of=itemgetter("teacher_loss")),
        number("loss", _interval, unit="nats/token", of=itemgetter("loss")),
        number("gain", _interval, of=itemgetter("gain")),
        number("best?", percent, of=itemgetter("probability_best")),
        number("target's FLOP", bare_flop, of=lambda row: row["compute"]["total"]),
    ]
    return Table.of(columns, answer["strategies"])


def _stages(answer: Answer) -> Table:
    columns = [
        text("stage"),
        number("sizes", ", ".join),
        number("tokens", _counts),
        number("seeds", lambda seeds: str(len(seeds))),
        number("teachers", lambda teachers: str(len(teachers))),
        text("leads"),
        number("its gain", _interval),
        number("at stake", nats, missing="unknown"),
        number("spent", bare_flop),
    ]
    rows = []
    for place, stage in enumerate(answer["stages"], start=1):
        pilots = (place, stage["sizes"], stage["tokens"], stage["seeds"], stage["teachers"])
        leader = (stage["leader"], stage["gains"].get(stage["leader"]))
        rows.append((*pilots, *leader, stage["regret_bound"], stage["compute_spent"]))
    return Table(columns, rows)


def show_preview(answer: Answer) -> None:
    """Print a dry run."""
    print(
        f"target: {format_flop(answer['target_compute'])} without a teacher; pilots may cost "
        f"{format_flop(answer['budget'])} ({answer['share_of_target']:.2%} of it)"
    )
    print(f"margin: {answer['margin']:.4f} nats/token; what is said holds at {answer['level']:g}, whenever one stops")
    for teacher in answer["teachers"]:
        print(
            f"teacher: {teacher['name']}, loss {teacher['loss']:.4f} nats/token on the held-out text, "
            f"{teacher['flops_per_token']:.3g} FLOP per token"
        )
    print(f"sizes of pilots: {', '.join(size['size'] for size in answer['sizes'])}")
    search, stage, later = answer["search"], answer["next_stage"], answer["later_stages"]
    if answer["compute_spent"]:
        searched = " and the search for the learning rate" * bool(answer["has_search"])
        print(f"done: {plural(answer['stages_done'], 'stage')}{searched}, {format_flop(answer['compute_spent'])}")
    if not answer["has_search"]:
        print("no search for a learning rate: it would cost more than the budget has to spare")
    elif search is not None:
        far = search["horizon_tokens"]
        reach = f"{format_count(search['tokens'])}" + (f" and {format_count(far)}" if far else "")
        print(f"search for the learning rate: {search['runs']} runs on {reach} tokens or a few more, {_costs(search)}")
    if stage is None:
        print("no further stage: it is settled, or nothing that is affordable would settle it")
        return
    left = " (what is left of it)" if stage["is_begun"] else ""
    print(
        f"stage {answer['stages_done'] + 1}{left}: {', '.join(stage['sizes'])} parameters on "
        f"{_counts(stage['tokens'])} tokens, none and "
        f"{', '.join(stage['teachers'])}, {plural(len(stage['seeds']), 'seed')}: {stage['runs']} runs, {_costs(stage)}"
    )
    if later["largest_size"] is None:
        print("later stages: none, this one takes what there is")
    else:
        print(
            f"later stages, until it is settled: at most {_costs(later)}; the largest pilot that could be paid has "
            f"{later['largest_size']} parameters"
        )
    print("nothing was trained; the text and the teachers' losses are kept in " + answer["folder"])


def _counts(values: Sequence[float]) -> str:
    return ", ".join(format_count(value) for value in values)


def _costs(part: Answer) -> str:
    return (
        f"{format_flop(part['compute'])}, about {format_seconds(part['seconds'])}, {format_bytes(part['disk_bytes'])}"
    )
