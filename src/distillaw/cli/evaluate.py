"""`distillaw evaluate`: held-out loss, calibration, benchmarks and judged chat of a finished model."""

import shlex
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from distillaw.cli.console import print_table
from distillaw.cli.machine import ReadingOptions, joined, torch_dtype
from distillaw.cli.options import Number, Place, Whole, given, options_of
from distillaw.cli.output import Output, same_command
from distillaw.cli.typed import refuse_idle, typed_options
from distillaw.data.corpus import WHOLE, Reading, check_text
from distillaw.errors import ConfigError
from distillaw.evaluate.benchmarks import choose_tasks, known_tasks, read_tasks
from distillaw.evaluate.wishes import ChatWishes, TextWishes, Way
from distillaw.models.source import check_config, locate
from distillaw.quantities import format_count
from distillaw.runs.places import check_folder
from distillaw.table import Table, number, text

TextOptions = options_of(TextWishes, without=("reading",), typed={"text": Place | None, "max_bytes": Number})
WayOptions = options_of(Way)
ChatOptions = options_of(
    ChatWishes,
    without=("limit",),
    typed={
        "questions": Path | None,
        "judge": str | None,
        "judge_seconds": Number,
        "against": Place | None,
        "max_tokens": Annotated[int, Parameter(name="--answer-tokens")],
    },
)


def evaluate(
    model: Place,
    *,
    out: Path | None = None,
    on_text: TextOptions | None = None,
    teacher: Place | None = None,
    tasks: str | None = None,
    data: Path | None = None,
    limit: Whole | None = None,
    shots: int | None = None,
    way: WayOptions | None = None,
    judged: ChatOptions | None = None,
    task_folder: Path | None = None,
    skip_missing: bool = False,
    reading: Annotated[Reading, Parameter(name="*")] = WHOLE,
    execution: ReadingOptions | None = None,
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Measure a finished model; what was measured before is read, and a kill loses nothing finished.

    Args:
        model: Hugging Face folder, FOLDER/FILE.gguf, name on the hub, or STUDY/runs/RUN_ID.
        out: folder of the results of this model; default: `evaluation` in a run's folder.
        on_text: held-out loss and calibration.
        teacher: model of the same vocabulary against which calibration is measured too.
        tasks: benchmarks and sets, e.g. mmlu,gsm8k or suite or zero-shot.
        data: folder of the evaluation data, one folder per benchmark (docs/evaluate.md).
        limit: questions of each benchmark, and of the chat questions, at most; the same ones for every model.
        shots: examples before each question, instead of each benchmark's own number.
        way: how questions are put.
        judged: chat that is judged.
        task_folder: folder of further benchmarks as YAML.
        skip_missing: leave out benchmarks whose files are not there instead of refusing.
        reading: what is read of each document.
        execution: where and how; several processes share the windows and the questions.
        dry_run: say what would be asked, and stop.
    """
    out = _out(model, out)
    check_folder(out)
    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    on_text, judged, asked = on_text or TextOptions(), judged or ChatOptions(), Way(**given(way))
    if (judged.questions is None) != (judged.judge is None) or (
        judged.against is not None and judged.questions is None
    ):
        raise ConfigError(
            "judged chat needs both: --questions FILE and --judge URL or FOLDER; --against MODEL makes it pairwise"
        )
    _refuse_idle(names, task_folder, way=asked, text=on_text.text, judged=judged)
    if dry_run:
        chosen = {"limit": limit, "shots": shots, "skip_missing": skip_missing}
        _preview(model, names, data, task_folder, chosen, output)
        return
    if on_text.text is not None:
        check_text(on_text.text, reading)

    with joined(execution, output, model) as (ranks, output), output.working("evaluating") as step:
        from distillaw.evaluate.suite import evaluate_model

        record = evaluate_model(
            model,
            out=out,
            text=None if on_text.text is None else TextWishes(**given(on_text), reading=reading),
            teacher=teacher,
            tasks=names,
            data=data,
            limit=limit,
            shots=shots,
            way=asked,
            chat=None if judged.questions is None else ChatWishes(**given(judged), limit=limit),
            task_folder=task_folder,
            skip_missing=skip_missing,
            ranks=ranks,
            dtype=torch_dtype(execution),
            command=same_command(),
            say=step,
        )
    if not ranks.is_first:
        return
    output.answer(record, _print, record, out)
    output.suggest(*_next(record, out))


def _next(record: dict, out: Path) -> tuple[str, str]:
    """The model among others, where its compute is known; else the other model to compare it with."""
    if not ((out / "result.json").exists() or (out.parent / "result.json").exists()):
        return (
            f"distillaw evaluate MODEL{typed_options(without=('--model', '--out'))} --out DIR",
            "another model, to compare the scores with their errors:",
        )
    score = "" if record.get("mean_of_six") else " --score " + next(iter(record["scores"]), "bits_per_byte")
    return f"distillaw pareto {shlex.quote(str(out))}{score}", ""


_OF_TEXT = (
    *("--teacher", "--max-bytes", "--context", "--bins"),
    *("--text-column", "--max-document-chars", "--section-chars", "--tokenizer"),
)
_OF_TASKS = ("--data", "--shots", "--chat", "--samples", "--temperature", "--task-folder", "--skip-missing")
_OF_CHAT = (
    *("--judge-model", "--judge-prompts", "--answer-tokens", "--judge-seconds"),
    *("--second-judge", "--second-judge-model"),
)


def _refuse_idle(
    names: list[str], task_folder: Path | None, *, way: Way, text: str | None, judged: ChatOptions
) -> None:
    """Refuse what belongs to a part that is not asked for; ConfigError: such an option, or an unknown task."""
    if text is None:
        refuse_idle(_OF_TEXT, "it is about held-out text, --text FILE")
    if judged.questions is None:
        refuse_idle(_OF_CHAT, "it is about judged chat, --questions FILE with --judge")
    else:
        for option, judge in {"--judge": judged.judge, "--second-judge": judged.second_judge}.items():
            if "://" not in (judge or ""):
                why = f"it is the name of a model behind a URL, and {option} is {'a folder' if judge else 'not given'}"
                refuse_idle((f"{option}-model",), why)
        if "://" not in f"{judged.judge} {judged.second_judge}":
            refuse_idle(("--judge-seconds",), "it is about a judge behind a URL")
    if not names:
        refuse_idle(_OF_TASKS, "it is about benchmarks, --tasks mmlu,gsm8k")
        if judged.questions is None:
            refuse_idle(("--limit",), "it is about benchmarks and chat questions, --tasks or --questions")
        return
    if not any(spec.executed for spec in choose_tasks(names, known_tasks(task_folder))):
        refuse_idle(("--samples", "--temperature"), "programs are written for --tasks humaneval alone")
    if way.samples == 1:
        refuse_idle(("--temperature",), "a single program is not drawn, so that several need --samples 10")


def _out(model: str, out: Path | None) -> Path:
    """The given folder, or `evaluation` in a run's own."""
    run = Path(model)
    if out is None and (run / "result.json").exists():
        return run / "evaluation"
    if out is None:
        raise ConfigError("--out DIR: where the results of this model go, e.g. --out out/evaluation")
    return out


def _preview(
    model: str, names: list[str], data: Path | None, task_folder: Path | None, asked: dict[str, Any], output: Output
) -> None:
    """Which questions would be asked; no model is loaded.

    ConfigError: no such model or task; DataError: evaluation data missing.
    """
    check_config(locate(model), context=None)
    chosen = choose_tasks(names, known_tasks(task_folder)) if names else []
    rows, absent = read_tasks(chosen, data, **asked)
    plan = [
        {
            "task": task,
            "questions": each.asked,
            "available": each.available,
            "shots": each.num_shots,
            "subtasks": len(each.test),
            "data": each.data_hash,
        }
        for task, each in rows.items()
    ]

    def show() -> None:
        numbers = {"questions": "questions", "of": "available", "subtasks": "subtasks", "shots": "shots"}
        columns = [number(title, of=itemgetter(key)) for title, key in numbers.items()]
        print_table(
            Table.of([text("benchmark", of=itemgetter("task")), *columns, text("data", of=itemgetter("data"))], plan)
        )
        if absent:
            print(f"left out, files missing: {', '.join(absent)}")

    output.answer({"model": model, "tasks": plan, "absent": absent}, show)
    output.suggest(same_command(without="--dry-run"))


def _print(record: dict, out: Path) -> None:
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
        rows += [
            ("teacher_loss", "loss of the teacher", "nats/token"),
            ("behind_teacher", "behind it, paired", "nats/token"),
            ("kl_from_teacher", "KL(teacher || model)", "nats/token"),
        ]
    for key, name, unit in rows:
        print(f"  {name:36} {heldout[key]:.4f} ± {heldout[f'{key}_se']:.4f} {unit}".rstrip())
    print(f"calibration error of the first choice, {calibration['bins']} bins (perfect calibration would show):")
    for name, meaning in calibration["meaning"].items():
        value, se, floor = (calibration[f"ece_{name}{suffix}"] for suffix in ("", "_se", "_floor"))
        against = "" if name == "of_teacher" else "against "
        print(f"  {value:7.2%} ± {se:.2%} ({floor:.2%})  {against}{meaning}")


def _print_scores(record: dict) -> None:
    print()
    numbers = (number("score"), number("95 %"), number("guess", ".1f"), number("questions"), number("shots"))
    columns = [text("benchmark"), *numbers, text("metric"), text("")]
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
    print(f"\nchat, {name}: {chat['questions']} questions, {chat['turns']} turns")
    _print_sums(chat, chat["kind"])
    if "second" in chat:
        _print_sums(chat["second"], chat["kind"])
        both = chat["judges"]
        if "agreement" in both:
            low, high = both["agreement_interval"]
            print(
                f"  both agree on {both['agreement']:.1%} of {both['turns']} turns (95 % {low:.1%} to {high:.1%}); "
                f"blindly, with these habits, on {both['by_chance']:.1%}"
            )
        elif both.get("correlation") is not None:
            print(f"  grades of both correlate {both['correlation']:.2f}; the second's are {both['difference']:+.2f}")
    for side, counts in chat["answers"].items():
        wrong = [f"{counts[key]} {key}" for key in ("empty", "refusing", "repeating", "unended") if counts[key]]
        print(
            f"  answers, {side}: {counts['answers']}, {counts['characters']:.0f} characters on average"
            + (f"; {', '.join(wrong)}, judged as they are" if wrong else "")
        )


def _print_sums(chat: dict, kind: str) -> None:
    print(f"  judged by {chat['judge']['name']}")
    if kind == "single":
        low, high = chat["grade_interval"]
        print(f"    grade {chat['grade']:.2f} ± {chat['grade_se']:.2f} of 10 (95 % {low:.2f} to {high:.2f})")
        for turn, each in chat["by_turn"].items():
            print(f"      {turn}: {each['grade']:.2f} of {each['n']:.0f}")
    else:
        low, high = chat["win_rate_interval"]
        rate = f"{chat['win_rate']:.1%} ± {chat['win_rate_se']:.1%} (95 % {low:.1%} to {high:.1%})"
        print(f"    win rate {rate}: {chat['wins']} won, {chat['ties']} tied, {chat['losses']} lost")
        if "length_controlled" in chat:
            low, high = chat["length_controlled_interval"]
            print(f"    at equal lengths {chat['length_controlled']:.1%} (95 % {low:.1%} to {high:.1%})")
        low, high = chat["agreement_interval"]
        print(
            f"    both orders agree on {chat['agreement']:.1%} (95 % {low:.1%} to {high:.1%}); a flip counts as a tie"
        )
        if "first_place" in chat:
            share, se = chat["first_place"], chat["first_place_se"]
            print(
                f"    decisive verdicts for the answer shown first: {share:.1%} ± {se:.1%} (50 % without bias of place)"
            )
    if chat["unparseable"]:
        print(f"    {chat['unparseable']} of {chat['verdicts']} verdicts could not be read; they count for nobody")
        if kind == "pair":
            low, high = chat["win_rate_bounds"]
            print(f"    all of them lost or all won, the rate would be {low:.1%} or {high:.1%}")
