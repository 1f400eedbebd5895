"""`distillaw prune`: a student cut out of its teacher, written in Hugging Face format, with what the cut cost."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from distillaw.cli.app import print_json
from distillaw.cli.counts import Count, Number, Whole
from distillaw.cli.names import Device, LawName, Model, OutFolder, Place
from distillaw.cli.output import Output, same_command
from distillaw.cli.typed import STUDENT
from distillaw.data.corpus import WHOLE, Reading, check_text
from distillaw.errors import ConfigError
from distillaw.quantities import format_count

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
    device: Device = "auto",
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
        dry_run: say the student's shape and what is known of such a cut, and stop.
    """
    axes = {"layers": layers, "width": width, "heads": heads, "ffn": ffn}
    shape = {axis: size for axis, size in axes.items() if size is not None}
    by = [
        student_params is not None,
        keep is not None,
        by_law,
        law is not None,
        plan is not None,
        bool(shape),
    ]
    if sum(by) != 1:
        raise ConfigError(
            "give one of --student 50M, --keep 0.4, --by-law, --law FILE, --plan FILE, or sizes (--layers, "
            "--width, --heads, --ffn)"
        )
    if keep is not None and keep > 1:
        raise ConfigError(
            f"--keep {keep:g}: a share of the teacher's parameters, above 0 and at most 1, e.g. 0.4"
        )
    wanted = student_params if plan is None else _planned(plan)
    from distillaw.models.source import locate

    source = locate(teacher)
    if text is not None:
        check_text(text, reading)

    from distillaw.cli.torch_device import torch_device
    from distillaw.models.prune import Wishes, prune_to, size_student
    from distillaw.planning.cut_size import PUBLISHED, size_of_cut

    cut = None
    if by_law or law is not None:
        cut = size_of_cut(size_student(source, Wishes(keep=1.0)).teacher_params, law or PUBLISHED)
    wishes = Wishes(
        params=wanted if cut is None else cut.params,
        keep=keep,
        shape=shape or None,
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
        from distillaw.train.parallel import join_ranks, launched

        with join_ranks("ddp") as ranks:
            output = output if ranks.is_first else replace(output, quiet=True)
            shared = launched()
            place = str(ranks.device) if shared and device == "auto" else torch_device(device, teacher)
            with output.working("cutting") as step:
                group = ranks if shared else None
                how = {"device": place, "command": same_command(), "say": step, "group": group}
                record = prune_to(source, out, wishes, text=text, reading=reading, **how)
            if not ranks.is_first:
                return
    if cut is not None:
        output.step(f"size by the law of capacity gap: {cut.note}")
    shown = {k: v for k, v in record.items() if k != "cut"} | (
        {} if cut is None else {"size_by_law": cut.to_json()}
    )
    print_json(shown) if output.json else _print(record, out)
    if dry_run:
        output.suggest(same_command(without="--dry-run"))
        return
    start, taught_by = shlex.quote(str(out)), shlex.quote(teacher)
    output.suggest(
        f"distillaw distil {start} --teacher {taught_by} --corpus YOUR_TEXT --tokens 20M --out DIR"
    )


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
    from distillaw.runs.files import read_json

    answer: dict[str, Any] = read_json(plan)
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
