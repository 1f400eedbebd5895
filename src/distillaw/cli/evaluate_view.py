"""What `distillaw evaluate` prints: what it would ask, and what it found."""

from operator import itemgetter
from pathlib import Path

from distillaw.cli.app import print_json
from distillaw.cli.console import print_table
from distillaw.quantities import format_count
from distillaw.table import Table, number, text


def preview(
    model: str,
    names: list[str],
    data: Path | None,
    limit: int | None,
    shots: int | None,
    task_folder: Path | None,
    *,
    skip_missing: bool,
    as_json: bool,
) -> None:
    """Which questions would be asked; no model is loaded.

    Raises:
        ConfigError: no such model or task.
        DataError: evaluation data missing.
    """
    from distillaw.evaluate.task_rows import read_tasks
    from distillaw.evaluate.task_specs import choose_tasks, known_tasks
    from distillaw.models.source import check_config, locate

    check_config(locate(model), context=None)
    chosen = choose_tasks(names, known_tasks(task_folder)) if names else []
    rows, absent = read_tasks(chosen, data, limit=limit, shots=shots, skip_missing=skip_missing)
    plan = [
        {"task": task, "questions": each.asked, "available": each.available, "shots": each.num_shots,
         "subtasks": len(each.test), "data": each.data_hash}
        for task, each in rows.items()
    ]  # fmt: skip
    if as_json:
        print_json({"model": model, "tasks": plan, "absent": absent})
        return
    columns = [
        text("benchmark", of=itemgetter("task")),
        number("questions", of=itemgetter("questions")),
        number("of", of=itemgetter("available")),
        number("subtasks", of=itemgetter("subtasks")),
        number("shots", of=itemgetter("shots")),
        text("data", of=itemgetter("data")),
    ]
    print_table(Table.of(columns, plan))
    if absent:
        print(f"left out, files missing: {', '.join(absent)}")


def print_evaluation(record: dict, out: Path) -> None:
    """The summary: each number with its error and what guessing would give."""
    print(f"{record['model']} ({record['model_fingerprint']})")
    if "heldout" in record:
        _print_text(record["heldout"], record["calibration"])
    if record["scores"]:
        _print_scores(record)
    for name, chat in record.get("chat", {}).items():
        _print_chat(name, chat)
    print(f"\n{out / 'evaluation.json'}")


def _print_text(heldout: dict, calibration: dict) -> None:
    print(f"\nheld-out text: {heldout['documents']} documents, {format_count(heldout['tokens'])} tokens")
    rows = [("loss", "loss", "nats/token"), ("bits_per_byte", "bits per byte", "")]
    if "teacher_loss" in heldout:
        rows += [("teacher_loss", "loss of the teacher", "nats/token"),
                 ("behind_teacher", "behind it, paired", "nats/token"),
                 ("kl_from_teacher", "KL(teacher || model)", "nats/token")]  # fmt: skip
    for key, name, unit in rows:
        print(f"  {name:36} {heldout[key]:.4f} ± {heldout[f'{key}_se']:.4f} {unit}".rstrip())
    print(
        f"calibration error of the first choice, {calibration['bins']} bins (perfect calibration would show):"
    )
    for name, meaning in calibration["meaning"].items():
        value, se, floor = (calibration[f"ece_{name}{suffix}"] for suffix in ("", "_se", "_floor"))
        print(f"  {value:7.2%} ± {se:.2%} ({floor:.2%})  against {meaning}" if name != "of_teacher"
              else f"  {value:7.2%} ± {se:.2%} ({floor:.2%})  {meaning}")  # fmt: skip


def _print_scores(record: dict) -> None:
    print()
    columns = [
        text("benchmark"),
        number("score"),
        number("95 %"),
        number("guess", ".1f"),
        number("questions"),
        number("shots"),
        text("metric"),
        text(""),
    ]
    rows = []
    for task, score in record["scores"].items():
        low, high = score["interval"]
        value = f"{100 * score['score']:.2f} ± {100 * score['se']:.2f}"
        asked, near = f"{score['n']} of {score['available']}", "at chance" if score["near_chance"] else ""
        interval, guess = f"{100 * low:.1f} to {100 * high:.1f}", 100 * score["chance"]
        rows.append((task, value, interval, guess, asked, score["shots"], score["metric"], near))
    print_table(Table(columns, rows))
    print("±: one standard error over questions, in points of 100; guess: what guessing scores")
    near = [task for task, score in record["scores"].items() if score["near_chance"]]
    if near:
        print(f"WARNING: at chance: {', '.join(near)}; differences between such scores mean nothing")
    for task, score in record["scores"].items():
        for note in score["notes"]:
            print(f"{task}: {note}")
    if (mean := record.get("mean_of_six")) is not None:
        print(f"mean of six {100 * mean['score']:.2f} ± {100 * mean['se']:.2f} ({', '.join(mean['tasks'])})")


def _print_chat(name: str, chat: dict) -> None:
    print(
        f"\nchat, {name}, judged by {chat['judge']['name']}: {chat['questions']} questions, {chat['turns']} turns"
    )
    if chat["kind"] == "single":
        low, high = chat["grade_interval"]
        print(f"  grade {chat['grade']:.2f} ± {chat['grade_se']:.2f} of 10 (95 % {low:.2f} to {high:.2f})")
        for turn, each in chat["by_turn"].items():
            print(f"    {turn}: {each['grade']:.2f} of {each['n']:.0f}")
    else:
        low, high = chat["win_rate_interval"]
        print(f"  win rate {chat['win_rate']:.1%} ± {chat['win_rate_se']:.1%} (95 % {low:.1%} to {high:.1%}): "
              f"{chat['wins']} won, {chat['ties']} tied, {chat['losses']} lost")  # fmt: skip
        low, high = chat["agreement_interval"]
        print(
            f"  the two orders agree on {chat['agreement']:.1%} (95 % {low:.1%} to {high:.1%}); a flip counts as a tie"
        )
        if "first_place" in chat:
            share, se = chat["first_place"], chat["first_place_se"]
            print(
                f"  decisive verdicts for the answer shown first: {share:.1%} ± {se:.1%} (50 % without a bias of place)"
            )
    if chat["unparseable"]:
        print(
            f"  {chat['unparseable']} of {chat['verdicts']} verdicts could not be read; they count for nobody"
        )
