"""`distillaw vocabulary extend | trim`: more tokens for another language, fewer for one's own; rows follow."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from cyclopts import App, Parameter

from distillaw.cli.app import print_json
from distillaw.cli.counts import Count, whole_count
from distillaw.cli.names import Device, Model, Place, TextColumn
from distillaw.cli.output import Output, check_place, same_command
from distillaw.errors import ConfigError
from distillaw.quantities import format_count, parse_count

if TYPE_CHECKING:
    from distillaw.models.vocabulary import Making, Texts

app = App(
    name="vocabulary", help="Give a model more tokens, or fewer: tokenizer, embedding and head together."
)


Out: TypeAlias = Annotated[Path, Parameter(help="folder of the new model.")]
Multiple: TypeAlias = Annotated[int, Parameter(help="the size becomes a multiple of it; 1 leaves it.")]
MaxBytes: TypeAlias = Annotated[Count, Parameter(help="text read at most.")]
HeldoutBytes: TypeAlias = Annotated[Count, Parameter(help="bytes of each text that are scored.")]
Context: TypeAlias = Annotated[
    int | None, Parameter(help="tokens of a window in scoring; 512, or what the model allows.")
]
SectionChars: TypeAlias = Annotated[
    int, Parameter(help="cut documents at line ends into sections of about so many characters.")
]
DryRun: TypeAlias = Annotated[
    bool, Parameter(help="pieces and tokens per byte only; no weights are read, nothing is written.")
]


@app.command
def extend(
    model: Model,
    *,
    text: Place,
    out: Out,
    pieces: Count | None = None,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    chinese: bool = False,
    rows: Literal["mean", "random"] = "mean",
    seed: int = 0,
    other: Place | None = None,
    multiple: Multiple = 64,
    max_bytes: MaxBytes = "100M",
    heldout_bytes: HeldoutBytes = "64k",
    context: Context = None,
    text_column: TextColumn = "text",
    section_chars: SectionChars = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
    output: Output = Output(),
) -> None:
    """Add pieces for a text that the tokenizer cuts small: learnt on it, or another tokenizer's.

    Args:
        text: the foreign text: .txt, .jsonl or .parquet, a folder, `hub:owner/name`, `mix:...`.
        pieces: new pieces, e.g. 8k; the size is rounded up with further ones.
        from_: take the pieces of this tokenizer (a folder or name) instead of learning.
        chinese: of those only pieces with a Chinese character or mark; others pad the size.
        rows: new rows start at the mean of the rows that stood for their text, or at random (for comparison).
        seed: of random rows.
        other: a text in the language that the model knows, measured before and after too.
    """
    check_place("--out", out, is_folder=True)
    from distillaw.models.source import locate

    wanted = None if pieces is None else whole_count(pieces, name="--pieces")
    source, donor = locate(model), None if from_ is None else locate(from_)
    texts = _texts(text, other, max_bytes, heldout_bytes, context, text_column, section_chars, multiple)
    from distillaw.models.vocabulary import extend_vocabulary

    with output.working("extending") as step:
        record = extend_vocabulary(
            source,
            out,
            texts,
            pieces=wanted,
            donor=donor,
            chinese=chinese,
            rows=rows,
            multiple=multiple,
            seed=seed,
            making=_making(device, dry_run, step),
        )
    print_json(record) if output.json else _print(record, out)
    output.suggest(*_next(out, dry=dry_run))


@app.command
def trim(
    model: Model,
    *,
    text: Place,
    out: Out,
    keep: Count | None = None,
    min_count: int = 1,
    other: Place | None = None,
    multiple: Multiple = 64,
    max_bytes: MaxBytes = "100M",
    heldout_bytes: HeldoutBytes = "64k",
    context: Context = None,
    text_column: TextColumn = "text",
    section_chars: SectionChars = 0,
    device: Device = "auto",
    dry_run: DryRun = False,
    output: Output = Output(),
) -> None:
    """Drop the pieces that a text does not use. Any text can still be said; bytes and special tokens stay.

    Args:
        text: what the model is for: .txt, .jsonl or .parquet, a folder, `hub:owner/name`, `mix:...`.
        keep: tokens to keep, the most used ones.
        min_count: without --keep: pieces stay that the text uses so often.
        other: another text, measured before and after too.
        multiple: the size becomes a multiple of it, by pieces used less; 1 leaves it.
    """
    check_place("--out", out, is_folder=True)
    from distillaw.models.source import locate

    wanted = None if keep is None else whole_count(keep, name="--keep")
    source = locate(model)
    texts = _texts(text, other, max_bytes, heldout_bytes, context, text_column, section_chars, multiple)
    from distillaw.models.vocabulary import trim_vocabulary

    with output.working("trimming") as step:
        making = _making(device, dry_run, step)
        record = trim_vocabulary(
            source, out, texts, keep=wanted, min_count=min_count, multiple=multiple, making=making
        )
    print_json(record) if output.json else _print(record, out)
    output.suggest(*_next(out, dry=dry_run))


def _texts(
    text: str,
    other: str | None,
    max_bytes: str,
    heldout_bytes: str,
    context: int | None,
    text_column: str,
    section_chars: int,
    multiple: int,
) -> "Texts":
    """What is read, refused before a model is loaded."""
    from distillaw.data.corpus import Reading, check_text

    reading = Reading(text_column=text_column, section_chars=section_chars)
    for each in (text, other):
        if each is not None:
            check_text(each, reading)
    if multiple < 1:
        raise ConfigError(f"--multiple {multiple}: at least 1; 64 suits matrix products")
    scored = whole_count(heldout_bytes, name="--heldout-bytes")
    if scored < 1000:
        raise ConfigError(
            f"--heldout-bytes {heldout_bytes}: at least 1000, or nothing is known of the change"
        )
    from distillaw.models.vocabulary import Texts

    most = parse_count(max_bytes, name="--max-bytes")
    return Texts(
        text=text, other=other, reading=reading, max_bytes=most, heldout_bytes=scored, context=context
    )


def _making(device: str, dry_run: bool, step: Callable[[str], None]) -> "Making":
    from transformers.utils.logging import disable_progress_bar

    from distillaw.cli.torch_device import torch_device
    from distillaw.models.vocabulary import Making

    disable_progress_bar()
    return Making(device=torch_device(device), dry_run=dry_run, command=same_command(), say=step)


def _print(record: dict, out: Path) -> None:
    changed = record["vocab"] - record["vocab_before"]
    print(f"{record['model']}: {record['vocab_before']:,} -> {record['vocab']:,} tokens ({changed:+,})")
    if "total_params" in record:
        before, after = record["total_params_before"], record["total_params"]
        print(f"{'parameters':12}{format_count(before)} -> {format_count(after)} ({after / before - 1:+.1%})")
    if first := record.get("first_pieces"):
        print(f"{'new':12}{' '.join(map(repr, first))} ...")
    for name, facts in record["texts"].items():
        print(
            f"\n{name}: {facts['documents']} held-out documents, {facts['bytes']:,} bytes; ± one standard error"
        )
        _row("tokens per byte", facts, "tokens_per_byte")
        if "change" in facts:
            _row("bits per byte", facts, "bits_per_byte")
            print(f"  {'change':17}{facts['change']:+.4f} ± {facts['change_se']:.4f} bits per byte, paired")
    if "total_params" not in record:
        print("\ndry run: no weights were read, nothing was written")
        return
    print(f"\n{out}")


def _next(out: Path, *, dry: bool) -> tuple[str, str]:
    if dry:
        return same_command(without="--dry-run"), ""
    return (
        "distillaw train SPEC.toml --out DIR",
        f'continued training on both languages (docs/vocabulary.md): put start = "{out}" and data.tokenizer = "{out}" '
        "into SPEC.toml, then:",
    )


def _row(words: str, facts: dict, key: str) -> None:
    before, after = (f"{facts[k]:.4f} ± {facts[k + '_se']:.4f}" for k in (f"{key}_before", key))
    print(f"  {words:17}{before} -> {after}")
