"""A settlement in the terminal: the answer, three tables, what it assumes; or what a dry run says."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from distillaw.cli.console import print_sections, print_table
from distillaw.quantities import format_bytes, format_count, format_flop, format_seconds
from distillaw.table import Table, number, text

Answer = Mapping[str, Any]


def show(answer: Answer) -> None:
    """Print a verdict, as `plan` prints its own."""
    from distillaw.planning.decision import WORDS

    print(f"{WORDS[answer['verdict']].title}  {answer['sentence']}")
    share = f"{answer['share_of_target']:.2%} of training the target once"
    print(f"Decided by {_pilots(answer)} that cost {format_flop(answer['compute_spent'])}, {share}.")
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


def _pilots(answer: Answer) -> str:
    runs = sum(len(stage["runs"]) for stage in answer["stages"])
    stages = len(answer["stages"])
    return f"{runs} pilots in {stages} stage{'s' if stages != 1 else ''}"


def _interval(value: Answer) -> str:
    from distillaw.planning.evidence import Interval
    from distillaw.planning.phrases import interval

    return interval(Interval(**value))


def _flop(value: float) -> str:
    return format_flop(value).removesuffix(" FLOP")


def _strategies(answer: Answer) -> Table:
    from distillaw.planning.phrases import nats, percent

    columns = [
        text("strategy", of=lambda row: row["name"] + (" (dropped)" if row["dropped"] else "")),
        number("teacher loss", nats, of=itemgetter("teacher_loss")),
        number("loss", _interval, unit="nats/token", of=itemgetter("loss")),
        number("gain, any time", _interval, of=itemgetter("gain")),
        number("best?", percent, of=itemgetter("probability_best")),
        number("target's FLOP", _flop, of=lambda row: row["compute"]["total"]),
    ]
    return Table.of(columns, answer["strategies"])


def _stages(answer: Answer) -> Table:
    from distillaw.planning.phrases import nats

    columns = [
        text("stage"),
        number("sizes", ", ".join),
        number("tokens", _counts),
        number("seeds", lambda seeds: str(len(seeds))),
        number("teachers", lambda teachers: str(len(teachers))),
        text("leads"),
        number("its gain", _interval),
        number("at stake", nats, missing="unknown"),
        number("spent", _flop),
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
    print(
        f"margin: {answer['margin']:.4f} nats/token; bounds hold with probability {answer['level']:g}, at any time"
    )
    for teacher in answer["teachers"]:
        print(
            f"teacher: {teacher['name']}, loss {teacher['loss']:.4f} nats/token on the held-out text, "
            f"{teacher['flops_per_token']:.3g} FLOP per token"
        )
    print(f"sizes of pilots: {', '.join(size['size'] for size in answer['sizes'])}")
    search, stage, later = answer["search"], answer["next_stage"], answer["later_stages"]
    if answer["compute_spent"]:
        print(f"done: {_done(answer)}, {format_flop(answer['compute_spent'])}")
    if not answer["has_search"]:
        print("no search for a learning rate: it would cost more than the budget has to spare")
    elif search is not None:
        far = search["horizon_tokens"]
        reach = f"{format_count(search['tokens'])}" + (f" and {format_count(far)}" if far else "")
        print(
            f"search for the learning rate: {search['runs']} runs on {reach} tokens or a few more, {_costs(search)}"
        )
    if stage is None:
        print("no further stage: it is settled, or nothing that is affordable would settle it")
        return
    left = " (what is left of it)" if stage["is_begun"] else ""
    print(
        f"stage {answer['stages_done'] + 1}{left}: {', '.join(stage['sizes'])} parameters on "
        f"{_counts(stage['tokens'])} tokens, none and "
        f"{', '.join(stage['teachers'])}, {_seeds(stage)}: {stage['runs']} runs, {_costs(stage)}"
    )
    if later["largest_size"] is None:
        print("later stages: none, this one takes what there is")
    else:
        print(
            f"later stages, until it is settled: at most {_costs(later)}; the largest pilot that could be paid has "
            f"{later['largest_size']} parameters"
        )
    print("nothing was trained; the text and the teachers' losses are kept in " + answer["folder"])


def _done(answer: Answer) -> str:
    stages = answer["stages_done"]
    counted = f"{stages} stage{'s' if stages != 1 else ''}"
    return f"{counted} and the search for the learning rate" if answer["has_search"] else counted


def _seeds(stage: Answer) -> str:
    return f"{len(stage['seeds'])} seed{'s' if len(stage['seeds']) > 1 else ''}"


def _counts(values: Sequence[float]) -> str:
    return ", ".join(format_count(value) for value in values)


def _costs(part: Answer) -> str:
    return (
        f"{format_flop(part['compute'])}, about {format_seconds(part['seconds'])}, "
        f"{format_bytes(part['disk_bytes'])}"
    )
