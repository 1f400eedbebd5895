"""`distillaw distil`: a student from its start to its best, beside what else could have become of it."""

import shlex
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from distillaw.cli.app import print_json
from distillaw.cli.console import print_table
from distillaw.cli.counts import Numbers, Whole
from distillaw.cli.names import OutFolder, Place
from distillaw.cli.output import Output, same_command
from distillaw.data.corpus import WHOLE, Reading
from distillaw.quantities import format_count, format_flop
from distillaw.table import Table, number, text


def distil(
    start: Place,
    *,
    teacher: Place,
    corpus: Place,
    tokens: Whole,
    out: OutFolder,
    smaller: Place = "",
    rates: Numbers = (1e-3,),
    distill_weight: Annotated[float, Parameter(name="--lambda")] = 0.5,
    alone: bool = True,
    fresh: bool = True,
    batch: Whole = 1024,
    context: int = 512,
    seed: int = 0,
    reading: Annotated[Reading, Parameter(name="*")] = WHOLE,
    validation_documents: int = 64,
    output: Output = Output(),
) -> None:
    """Train a student from its start with its teacher, and its other arms at equal tokens; resumable.

    The arms: the start as it is, fresh weights of the same architecture, a smaller model that was trained before;
    each taught and alone. They read the same batches, the teacher reads each batch once for all, and their held-out
    losses are compared in pairs. One arm alone: distillaw train with `start` in its file.

    Args:
        start: the student, a Hugging Face folder, mostly of `distillaw prune`.
        teacher: Hugging Face folder, FOLDER/FILE.gguf, or name on the hub, of the same vocabulary.
        corpus: text: .txt, .jsonl or .parquet, a folder, `hub:owner/name`, `sotu`.
        tokens: tokens of each arm.
        out: folder for tokens, checkpoints and runs.
        smaller: a smaller model that was trained before, as one more start.
        rates: peak learning rates of AdamW, e.g. 3e-4,1e-3; of several each arm keeps its best of a pilot.
        distill_weight: share of the teacher in the loss; the rest is the text's next token.
        alone: also train each start without the teacher.
        fresh: also train fresh weights of the same architecture.
        batch: tokens of a batch.
        context: tokens of a sequence.
        seed: order of batches, fresh weights.
        reading: what is read of each document.
        validation_documents: documents held out.
    """
    from distillaw.models.source import locate
    from distillaw.sweep.study import require_trainable

    locate(teacher)  # what is not there is said before torch is imported
    require_trainable()

    from distillaw.cli.display import make_display
    from distillaw.sweep.arms import ArmsSpec, count_arms, recipe_of_arms, text_of_arms, train_arms

    spec = ArmsSpec(
        teacher=teacher,
        start=start,
        smaller=smaller,
        tokens=tokens,
        rates=rates,
        alone=alone,
        fresh=fresh,
        batch_tokens=batch,
        seed=seed,
        data=text_of_arms(
            corpus,
            teacher,
            **asdict(reading),
            validation_documents=validation_documents,
        ),
        training=recipe_of_arms(tokens, context=context, distill_weight=distill_weight),
    )
    arms = count_arms(fresh=fresh, smaller=smaller, alone=alone)
    with make_display(arms * tokens, quiet=output.quiet) as display:
        record = train_arms(spec, out, display=display, command=same_command())
    print_json(record) if output.json else print_arms(record, out)
    best = out / "runs" / record["arms"][0]["run_id"]
    output.suggest(f"distillaw evaluate {shlex.quote(str(best))} --text YOUR_TEXT")


def print_arms(record: dict[str, Any], out: Path) -> None:
    """The arms by loss, and what start and teacher were worth."""
    rows = record["arms"]
    teacher = next((row["teacher_loss"] for row in rows if row["taught"]), None)
    print(
        f"{len(rows)} arms at {format_count(record['tokens'])} tokens; held-out loss on {record['heldout_tokens']:,} "
        f"tokens of {record['heldout_documents']} documents"
    )
    print(f"teacher {record['teacher']}: {teacher:.3f} nats/token\n")
    columns = [
        text("arm", of=itemgetter("arm")),
        number("before", ".3f", of=itemgetter("start_loss"), missing="-"),
        number("after", of=lambda row: f"{row['loss']:.3f} ± {row['loss_se']:.3f}"),
        number("behind the best", of=_behind),
        number("rate", "g", of=itemgetter("peak_lr")),
    ]
    print_table(Table.of(columns, rows), indent=2)
    print()
    for pair in record["pairs"]:
        low, high = pair["interval"]
        print(f"{pair['what']}: {pair['gain']:+.3f} [{low:+.3f}, {high:+.3f}] nats/token")
    spent = sum(row["train_flops"] for row in rows)
    print(f"\nintervals: 90 %, paired over documents, one seed. Students' training {format_flop(spent)}.")
    print(f"best: {out / 'runs' / rows[0]['run_id']}")


def _behind(row: dict[str, Any]) -> str:
    if not row["behind_best_interval"]:
        return "best"
    low, high = row["behind_best_interval"]
    return f"{row['behind_best']:.3f} [{low:.3f}, {high:.3f}]"
