"""`distillaw teachers`: the models that can be named as teachers, with size, training tokens and sources."""

from operator import attrgetter

from distillaw.accounting.families import NamedModel, families, model, named_models
from distillaw.cli.app import print_json
from distillaw.cli.console import print_table
from distillaw.cli.names import TeacherName
from distillaw.cli.output import Output
from distillaw.quantities import format_count
from distillaw.table import Table, number, text

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
    if output.json:
        print_json({"teachers": [_document(each) for each in exact or found]})
    elif len(exact) == 1:
        _show(exact[0])
        output.suggest(
            f"distillaw scout {exact[0].repo} --text sotu",
            "with a text of your own in place of the one that ships:",
        )
    else:
        _list(found)
        output.suggest(f"distillaw teachers {found[-1].name}")


def _list(found: list[NamedModel]) -> None:
    columns = [
        text("name", of=attrgetter("name")),
        number("N", format_count, of=attrgetter("params")),
        number("total", format_count, of=attrgetter("total_params")),
        number("tokens", of=_tokens),
        text("tokenizer", of=attrgetter("tokenizer")),
        text("source of the tokens", of=_tokens_source),
    ]
    print_table(Table.of(columns, found))
    print(
        "\nN: non-embedding parameters, counted from the shape. < and >: the makers say `up to` or `more than`."
    )


def _tokens_source(each: NamedModel) -> str:
    marks = "  [distilled]" * each.distilled + "  [instruction-tuned]" * each.post_trained
    return each.tokens_source.text + marks


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
    own = "name family repo params total_params tokens tokens_bound tokenizer tokenizer_size vocab".split()
    return {
        **{name: getattr(each, name) for name in own},
        "layers": arch.layers,
        "width": arch.width,
        "ffn": block.ffn.width,
        "heads": block.attention.heads,
        "kv_heads": block.attention.kv_heads,
        "head_dim": block.attention.head_dim,
        "context": arch.context,
        "tied": arch.tied,
        "forward_flops_per_token": each.flops_per_token(),
        "distilled": each.distilled,
        "post_trained": each.post_trained,
        "note": each.note,
        "sources": {name: {"text": s.text, "certainty": s.certainty} for name, s in sources.items()},
    }
