"""`distillaw teachers` and `scout`: real models that can teach, and candidates measured on one's own text."""

import shlex
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from distillaw.accounting.families import NamedModel, families, model, named_models
from distillaw.cli.console import print_table
from distillaw.cli.machine import torch_device
from distillaw.cli.options import Count, OutFolder, Place, TeacherName, values_of
from distillaw.cli.output import Output
from distillaw.cli.typed import typed_options
from distillaw.data.corpus import WHOLE, Reading, check_text
from distillaw.models.source import ModelSource, locate
from distillaw.quantities import format_bytes, format_count, format_seconds
from distillaw.table import Table, number, text

if TYPE_CHECKING:
    from distillaw.evaluate.scout import ScoutedTeacher


_BOUNDS = {"exact": "", "about": "", "at least": "> ", "at most": "< "}


def teachers(text: TeacherName = "", /, *, output: Output = Output()) -> None:
    """List the models that can be named as teachers: parameters, training tokens, tokenizer.

    Args:
        text: only names, families, hub names and tokenizers that hold this text; one model's name shows its sources.
    """
    found = [
        each
        for each in named_models()
        if text.lower() in " ".join((each.name, each.family, each.repo, each.tokenizer)).lower()
    ]
    exact = [each for each in named_models() if text.lower() in (each.name.lower(), each.repo.lower())]
    if not found:
        found = exact = [model(text)]  # another spelling, or the error that names the nearest
    document = {"teachers": [_document(each) for each in exact or found]}
    if len(exact) == 1:
        output.answer(document, _show, exact[0])
        said = "with a text of your own in place of the one that ships:"
        output.suggest(f"distillaw scout {exact[0].repo} --text sotu", said)
    else:
        output.answer(document, _list, found)
        output.suggest(f"distillaw teachers {found[-1].name}")


def _list(found: list[NamedModel]) -> None:
    def source(each: NamedModel) -> str:
        marks = "  [distilled]" * each.distilled + "  [instruction-tuned]" * each.post_trained
        return each.tokens_source.text + marks

    columns = [
        text("name", of=attrgetter("name")),
        number("N", format_count, of=attrgetter("params")),
        number("total", format_count, of=attrgetter("total_params")),
        number("tokens", of=_tokens),
        text("tokenizer", of=attrgetter("tokenizer")),
        text("source of the tokens", of=source),
    ]
    print_table(Table.of(columns, found))
    print("\nN: non-embedding parameters, counted from the shape. < and >: the makers say `up to` or `more than`.")


def _tokens(each: NamedModel) -> str:
    if each.tokens is None or each.tokens_bound is None:
        return "-"
    return _BOUNDS[each.tokens_bound] + format_count(each.tokens)


def _show(each: NamedModel) -> None:
    arch, block = each.architecture, each.architecture.blocks[0]
    attention = block.attention
    shape = (
        f"{arch.layers} layers, width {arch.width}, FFN {block.ffn.width}, {attention.heads} heads of "
        f"{attention.head_dim}, {attention.kv_heads} key-value heads, vocabulary {each.vocab:,}, "
        f"{'tied' if arch.tied else 'untied'}"
    )
    print(f"{each.name}: {families()[each.family].title}, {each.repo}")
    tokens = f"{each.tokens_bound} {each.tokens:,.0f}" if each.tokens else "unknown"
    for label, value, source in (
        ("shape", shape, each.shape_source),
        ("parameters", f"{each.params:,} non-embedding, {each.total_params:,} in all", each.stated_source),
        ("tokens", tokens, each.tokens_source),
        ("tokenizer", f"{each.tokenizer}, {each.tokenizer_size:,} entries", each.tokenizer_source),
    ):
        recalled = "" if source.certainty == "seen" else " (recalled, not read again)"
        print(f"  {label:<11}{value}\n             {source.text}{recalled}")
    if each.distilled:
        print("  DISTILLED  its loss does not follow a supervised law of its size and tokens; measure it")
    if each.post_trained:
        print("  TUNED      instruction-tuned: worse on plain text than its base model; measure it")
    if each.note:
        print(f"  note       {each.note}")


def _document(each: NamedModel) -> dict[str, object]:
    arch, block = each.architecture, each.architecture.blocks[0]
    sources = {
        "shape": each.shape_source,
        "params": each.stated_source,
        "tokens": each.tokens_source,
        "tokenizer": each.tokenizer_source,
    }
    own = "name family repo params total_params tokens tokens_bound tokenizer tokenizer_size vocab distilled"
    return {
        **values_of(each, f"{own} post_trained note"),
        **values_of(arch, "layers width context tied"),
        **values_of(block.attention, "heads kv_heads head_dim"),
        "ffn": block.ffn.width,
        "forward_flops_per_token": each.flops_per_token(),
        "sources": {name: {"text": s.text, "certainty": s.certainty} for name, s in sources.items()},
    }


MODEST_DOCUMENTS = 30
"""Below this many documents the clustered error is itself too uncertain to lean on."""


def scout(
    *models: Place,
    text: Place,
    max_bytes: Count | None = None,
    context: int | None = None,
    stride: int | None = None,
    reading: Annotated[Reading, Parameter(name="*")] = WHOLE,
    out: OutFolder | None = None,
    device: str = "auto",
    output: Output = Output(),
) -> None:
    """Measure candidate teachers on your own text, in bits per byte.

    Args:
        models: Hugging Face folders, FOLDER/FILE.gguf, or names on the hub.
        text: .txt, .jsonl or .parquet file, a folder of them, a saved dataset, `hub:owner/name`, or `sotu`.
        max_bytes: text read at most, by whole documents, e.g. 2M; default: all.
        context: tokens a model sees at once, the same for all; default: 1024, or what the shortest allows.
        stride: tokens scored by each window after the first of a document; default: the context (no overlap).
        reading: what is read of each document.
        out: folder that keeps results; the same model and text are not measured again.
        device: cpu, cuda or auto (cuda where there is one).
    """
    how = {"max_bytes": max_bytes, "context": context, "stride": stride, "out": out}
    found = measure(models, text, reading, device=device, output=output, **how)
    from distillaw.evaluate.scout import scout_record

    best_first = sorted(found, key=lambda each: each.bits_per_byte)
    output.answer(scout_record(best_first), _print, best_first)
    # the best teacher's tokenizer: the losses of others are of other tokens, and a plan refuses them
    alike = [each.name for each in best_first if each.tokenizer == best_first[0].tokenizer]
    same_text = typed_options(without=("--out", "--context", "--stride", "--device"))
    kept = "" if out is None else f" --scout-out {shlex.quote(str(out))}"
    output.suggest(f"distillaw plan --student 300M --tokens 6B --scout {shlex.join(alike)}{same_text}{kept}")


def _print(found: "list[ScoutedTeacher]") -> None:
    from distillaw.evaluate.scout import difference

    best = found[0]
    tokenizers = dict.fromkeys(each.tokenizer for each in found)
    groups = {tokenizer: chr(ord("A") + index % 26) for index, tokenizer in enumerate(tokenizers)}
    windows = f"windows of {best.context} tokens"
    if best.stride < best.context:
        windows += f", {best.stride} scored"
    print(f"{best.documents} documents, {format_bytes(best.bytes)} ({best.text_hash}), {windows}\n")

    def behind(each: "ScoutedTeacher") -> str:
        gap = None if each is best else difference(each, best)
        return "" if gap is None else f"{gap.mean:.4f} ± {gap.se:.4f}"

    columns = [
        text("model", of=attrgetter("name")),
        number("N", format_count, of=attrgetter("params")),
        number("total", format_count, of=attrgetter("total_params")),
        number("bits/byte", of=lambda each: f"{each.bits_per_byte:.4f} ± {each.bits_per_byte_se:.4f}"),
        number("behind the best", of=behind),
        number("nats/token", ".4f", of=attrgetter("nats_per_token")),
        number("bytes/token", ".3f", of=attrgetter("bytes_per_token")),
        text("tokenizer", of=lambda each: f"{groups[each.tokenizer]} ({format_count(each.vocab)})"),
    ]
    print_table(Table.of(columns, found))
    print("\n±: one standard error over documents; differences are paired, so they are known better than either value.")
    if best.documents < MODEST_DOCUMENTS:
        print(f"WARNING: {best.documents} documents; below {MODEST_DOCUMENTS} the errors themselves are uncertain.")
    if len(groups) > 1:
        print("Tokenizers differ: a student can be distilled only from teachers of its own (docs/teachers.md).")
    spent = sum(each.seconds for each in found if not each.is_cached)
    took = f"measured in {format_seconds(spent)}" if spent else "all measured before"
    print(f"{took}; the loss for a plan is nats/token of the student's tokenizer")


def measure(
    models: Sequence[str],
    text: str,
    reading: Reading = WHOLE,
    *,
    device: str = "auto",
    output: Output = Output(),
    **how: Any,
) -> "list[ScoutedTeacher]":
    """One result per model, in order; progress goes to stderr. Arguments and errors as in `scout_teachers`."""
    sources = check_inputs(models, text, reading)

    from distillaw.evaluate.scout import scout_teachers
    from distillaw.models.parallel import keep_freed_memory

    keep_freed_memory()
    with output.working("measuring") as step:
        return scout_teachers(sources, text, reading, **how, device=torch_device(device, *models), say=step)


def check_inputs(models: Sequence[str], text: str, reading: Reading) -> "list[ModelSource]":
    """The models, and a text that can be read, without torch; arguments and errors as in `measure`."""
    check_text(text, reading)
    return [locate(model) for model in models]
