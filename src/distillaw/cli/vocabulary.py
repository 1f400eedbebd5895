"""`distillaw vocabulary extend | trim`: more tokens for another language, fewer for one's own; rows follow."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from cyclopts import App, Parameter

from distillaw.cli.app import print_json
from distillaw.cli.counts import Number, Whole
from distillaw.cli.names import Device, Model, OutFolder, Place
from distillaw.cli.output import Output, same_command
from distillaw.data.corpus import WHOLE, Reading, check_text
from distillaw.errors import ConfigError
from distillaw.quantities import format_count

if TYPE_CHECKING:
    from distillaw.models.vocabulary import Making, Texts

app = App(
    name="vocabulary", help="Give a model more tokens, or fewer: tokenizer, embedding and head together."
)


Out: TypeAlias = Annotated[OutFolder, Parameter(help="folder of the new model.")]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What both verbs are asked of the text and of the work."""

    multiple: int = 64
    """the size becomes a multiple of it, where pieces are dropped by keeping some used less; 1 leaves it."""
    max_bytes: Number = 1e8
    """text read at most."""
    heldout_bytes: Whole = 64_000
    """bytes of each text that are scored."""
    context: int | None = None
    """tokens of a window in scoring; 512, or what the model allows."""
    reading: Annotated[Reading, Parameter(name="*")] = WHOLE
    """what is read of each document."""
    device: Device = "auto"
    dry_run: bool = False
    """pieces and tokens per byte only; no weights are read, nothing is written."""

    def texts(self, text: str, other: str | None) -> "Texts":
        """What is read, refused before a model is loaded."""
        for each in (text, other):
            if each is not None:
                check_text(each, self.reading)
        if self.multiple < 1:
            raise ConfigError(f"--multiple {self.multiple}: at least 1; 64 suits matrix products")
        if self.heldout_bytes < 1000:
            raise ConfigError(
                f"--heldout-bytes {self.heldout_bytes}: at least 1000, or nothing is known of the change"
            )
        from distillaw.models.vocabulary import Texts

        sizes = {"max_bytes": self.max_bytes, "heldout_bytes": self.heldout_bytes, "context": self.context}
        return Texts(text=text, other=other, reading=self.reading, **sizes)  # type: ignore[arg-type]

    def making(self, step: Callable[[str], None]) -> "Making":
        """How the model is made."""
        from distillaw.cli.torch_device import torch_device
        from distillaw.models.vocabulary import Making

        where = torch_device(self.device)
        return Making(device=where, dry_run=self.dry_run, command=same_command(), say=step)


@app.command
def extend(
    model: Model,
    *,
    text: Place,
    out: Out,
    pieces: Whole | None = None,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    chinese: bool = False,
    rows: Literal["mean", "random"] = "mean",
    seed: int = 0,
    other: Place | None = None,
    reads: Reads = Reads(),
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
    from distillaw.models.source import locate

    source, donor = locate(model), None if from_ is None else locate(from_)
    texts = reads.texts(text, other)
    from distillaw.models.vocabulary import extend_vocabulary

    asked = {
        "pieces": pieces,
        "donor": donor,
        "chinese": chinese,
        "rows": rows,
        "multiple": reads.multiple,
        "seed": seed,
    }
    with output.working("extending") as step:
        record = extend_vocabulary(source, out, texts, **asked, making=reads.making(step))
    _show(record, out, output, dry=reads.dry_run)


@app.command
def trim(
    model: Model,
    *,
    text: Place,
    out: Out,
    keep: Whole | None = None,
    min_count: int = 1,
    other: Place | None = None,
    reads: Reads = Reads(),
    output: Output = Output(),
) -> None:
    """Drop the pieces that a text does not use. Any text can still be said; bytes and special tokens stay.

    Args:
        text: what the model is for: .txt, .jsonl or .parquet, a folder, `hub:owner/name`, `mix:...`.
        keep: tokens to keep, the most used ones.
        min_count: without --keep: pieces stay that the text uses so often.
        other: another text, measured before and after too.
    """
    from distillaw.models.source import locate

    source = locate(model)
    texts = reads.texts(text, other)
    from distillaw.models.vocabulary import trim_vocabulary

    with output.working("trimming") as step:
        asked = {"keep": keep, "min_count": min_count, "multiple": reads.multiple}
        record = trim_vocabulary(source, out, texts, **asked, making=reads.making(step))
    _show(record, out, output, dry=reads.dry_run)


def _show(record: dict, out: Path, output: Output, *, dry: bool) -> None:
    print_json(record) if output.json else _print(record, out)
    if dry:
        output.suggest(same_command(without="--dry-run"))
        return
    put = f'put start = "{out}" and data.tokenizer = "{out}" into SPEC.toml, then:'
    first = f"continued training on both languages (docs/vocabulary.md): {put}"
    output.suggest("distillaw train SPEC.toml --out DIR", first=first)


def _print(record: dict, out: Path) -> None:
    changed = record["vocab"] - record["vocab_before"]
    print(f"{record['model']}: {record['vocab_before']:,} -> {record['vocab']:,} tokens ({changed:+,})")
    if "total_params" in record:
        before, after = record["total_params_before"], record["total_params"]
        print(f"{'parameters':12}{format_count(before)} -> {format_count(after)} ({after / before - 1:+.1%})")
    if first := record.get("first_pieces"):
        print(f"{'new':12}{' '.join(map(repr, first))} ...")
    for name, facts in record["texts"].items():
        held = f"{facts['documents']} held-out documents, {facts['bytes']:,} bytes"
        print(f"\n{name}: {held}; ± one standard error")
        _row("tokens per byte", facts, "tokens_per_byte")
        if "change" in facts:
            _row("bits per byte", facts, "bits_per_byte")
            print(f"  {'change':17}{facts['change']:+.4f} ± {facts['change_se']:.4f} bits per byte, paired")
    if "total_params" not in record:
        print("\ndry run: no weights were read, nothing was written")
        return
    print(f"\n{out}")


def _row(words: str, facts: dict, key: str) -> None:
    before, after = (f"{facts[k]:.4f} ± {facts[k + '_se']:.4f}" for k in (f"{key}_before", key))
    print(f"  {words:17}{before} -> {after}")
