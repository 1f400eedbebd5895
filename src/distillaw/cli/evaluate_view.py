"""What `distillaw evaluate` prints: what it would ask, and what it found."""

from pathlib import Path

from distillaw.cli.app import print_json
from distillaw.cli.console import numbers_table, print_table
from distillaw.quantities import format_count


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
    from distillaw.evaluate.benchmarks import choose_tasks, known_tasks, read_tasks
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
    table = numbers_table("benchmark", ">questions", ">of", ">subtasks", ">shots", "data")
    for each in plan:
        table.add_row(str(each["task"]), str(each["questions"]), str(each["available"]), str(each["subtasks"]),
                      str(each["shots"]), str(each["data"]))  # fmt: skip
    print_table(table)
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
    table = numbers_table("benchmark", ">score", ">95 %", ">guess", ">questions", ">shots", "metric", "")
    for task, score in record["scores"].items():
        low, high = score["interval"]
        table.add_row(
            task, f"{100 * score['score']:.2f} ± {100 * score['se']:.2f}", f"{100 * low:.1f} to {100 * high:.1f}",
            f"{100 * score['chance']:.1f}", f"{score['n']} of {score['available']}", str(score["shots"]),
            score["metric"], "at chance" if score["near_chance"] else "",
        )  # fmt: skip
    print_table(table)
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
