"""`distillaw scout`: candidate teachers measured on the user's own text, compared in bits per byte."""

from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.cli.app import print_json
from distillaw.cli.counts import Count
from distillaw.cli.names import Place
from distillaw.cli.output import Output, as_typed, check_place
from distillaw.quantities import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from distillaw.evaluate.scout import ScoutedTeacher
    from distillaw.runs.paired import PairedDifference

MODEST_DOCUMENTS = 30
"""Below this many documents the clustered error is itself too uncertain to lean on."""


def scout(
    *models: Place,
    text: Place,
    max_bytes: Count | None = None,
    context: int | None = None,
    stride: int | None = None,
    text_column: str = "text",
    max_document_chars: int = 0,
    section_chars: int = 0,
    out: Path | None = None,
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
        text_column: the field that holds the text.
        max_document_chars: read only the first characters of each document, e.g. 4000: more documents for the bytes.
        section_chars: cut documents at line ends into sections of about so many characters, each a document.
        out: folder that keeps results; the same model and text are not measured again.
        device: cpu, cuda or auto (cuda where there is one).
    """
    check_place("--out", out, is_folder=True)
    from distillaw.cli.measure import measure
    from distillaw.data.corpus import Reading

    reading = Reading(
        text_column=text_column, max_document_chars=max_document_chars, section_chars=section_chars
    )
    found = measure(
        models, text, reading, max_bytes=max_bytes, context=context, stride=stride, out=out, device=device,
        output=output,
    )  # fmt: skip
    best_first = sorted(found, key=lambda each: each.bits_per_byte)
    print_json(_document(best_first)) if output.json else _print(best_first)
    output.suggest("distillaw plan --student 300M --tokens 6B" + as_typed({
        # the best teacher's tokenizer: the losses of others are of other tokens, and a plan refuses them
        "--scout": [each.name for each in best_first if each.tokenizer == best_first[0].tokenizer],
        "--text": text, "--max-bytes": max_bytes, "--max-document-chars": max_document_chars or None,
        "--section-chars": section_chars or None, "--text-column": None if text_column == "text" else text_column,
        "--scout-out": out,
    }))  # fmt: skip


def _print(found: "list[ScoutedTeacher]") -> None:
    from distillaw.evaluate.scout import difference

    best, groups = found[0], _groups(found)
    windows = f"windows of {best.context} tokens"
    if best.stride < best.context:
        windows += f", {best.stride} scored"
    print(f"{best.documents} documents, {format_bytes(best.bytes)} ({best.text_hash}), {windows}\n")
    width = max(len(each.name) for each in found)
    row = f"{{:<{width}}} {{:>7}} {{:>7}}  {{:<15}}  {{:<15}}  {{:>10}} {{:>10}}  {{}}"
    print(
        row.format(
            "model", "N", "total", "bits/byte", "behind the best", "nats/token", "bytes/token", "tokenizer"
        )
    )
    for each in found:
        gap = None if each is best else difference(each, best)
        print(row.format(
            each.name, format_count(each.params), format_count(each.total_params),
            f"{each.bits_per_byte:.4f} ± {each.bits_per_byte_se:.4f}",
            "" if gap is None else f"{gap.mean:.4f} ± {gap.se:.4f}",
            f"{each.nats_per_token:.4f}", f"{each.bytes_per_token:.3f}",
            f"{groups[each.tokenizer]} ({format_count(each.vocab)})",
        ))  # fmt: skip
    print(
        "\n±: one standard error over documents; differences are paired, so they are known better than either value."
    )
    if best.documents < MODEST_DOCUMENTS:
        print(
            f"WARNING: {best.documents} documents; below {MODEST_DOCUMENTS} the errors themselves are uncertain."
        )
    if len(groups) > 1:
        print(
            "Tokenizers differ: a student can be distilled only from teachers of its own (docs/teachers.md)."
        )
    spent = sum(each.seconds for each in found if not each.is_cached)
    took = f"measured in {format_seconds(spent)}" if spent else "all measured before"
    print(f"{took}; the loss for a plan is nats/token of the student's tokenizer")


def _groups(found: "list[ScoutedTeacher]") -> dict[str, str]:
    """A letter for each token-to-id map, in order of appearance."""
    tokenizers = dict.fromkeys(each.tokenizer for each in found)
    return {tokenizer: chr(ord("A") + index % 26) for index, tokenizer in enumerate(tokenizers)}


def _document(found: "list[ScoutedTeacher]") -> dict[str, object]:
    from distillaw.evaluate.scout import difference

    best = found[0]
    return {
        "text": {"documents": best.documents, "bytes": best.bytes, "hash": best.text_hash,
                 "context": best.context, "stride": best.stride},
        "teachers": [
            {
                "name": each.name, "fingerprint": each.fingerprint, "params": each.params,
                "total_params": each.total_params, "bits_per_byte": each.bits_per_byte,
                "bits_per_byte_se": each.bits_per_byte_se, "nats_per_token": each.nats_per_token,
                "nats_per_token_se": each.nats_per_token_se, "bytes_per_token": each.bytes_per_token,
                "tokens": each.tokens, "vocab": each.vocab, "tokenizer": each.tokenizer,
                "same_tokenizer_as": list(each.same_tokenizer_as), "seconds": each.seconds, "cached": each.is_cached,
            }
            for each in found
        ],
        "differences": [
            _difference(first.name, second.name, difference(first, second))
            for index, second in enumerate(found) for first in found[index + 1 :]
        ],
    }  # fmt: skip


def _difference(first: str, second: str, gap: "PairedDifference") -> dict[str, object]:
    return {
        "first": first, "second": second, "bits_per_byte": gap.mean, "se": gap.se, "level": 0.9,
        "interval": list(gap.interval(0.9)),
    }  # fmt: skip
