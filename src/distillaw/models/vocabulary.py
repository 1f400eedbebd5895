"""A model with more or fewer tokens, written as a model on disk, and what the change did on two texts.

Rows of embedding and head go, stay, move, or start as means of others; tied heads stay tied, biases of heads follow
their rows, and padding rows that no token owned are gone. Some documents of each text are scored by the model before
and after, in bits per byte, the unit that all tokenizers share; the other documents of `text` say which pieces to learn
or to keep. vocabulary.json in the folder is the record; the same wishes again compute nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from distillaw.data.bpe import Bpe, adopt_pieces, count_pieces, learn_pieces, read_bpe, rebuilt, trim_pieces
from distillaw.data.corpus import WHOLE, Reading, read_excerpt
from distillaw.data.tokenizer import encode_to_score
from distillaw.errors import ConfigError, DataError
from distillaw.models.export import Making, save_made
from distillaw.models.fresh import count_parameters
from distillaw.models.scoring import BYTES_PER_TOKEN, SCORED_CONTEXT, SCORED_DOCUMENTS, score_documents
from distillaw.models.source import ModelSource, fingerprint, settle_context
from distillaw.models.teacher import load_weights
from distillaw.quantities import format_bytes
from distillaw.runs.files import content_hash
from distillaw.runs.paired import DocumentScores, clustered_cov, in_bits, paired_difference

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Rows = Sequence[tuple[int, ...]]
"""For each new row the old ones that it is the mean of."""


def give_rows(model: "PreTrainedModel", rows: Rows, *, generator: torch.Generator | None = None) -> None:
    """Change embedding and head in place.

    Args:
        model: any causal language model whose only tables over the vocabulary are these two.
        rows: of the new vocabulary; single ones are copied bit for bit.
        generator: draw rows of several parts from the model's initial distribution instead, the plain resize.
    """
    inside, outside = model.get_input_embeddings(), model.get_output_embeddings()
    count = inside.weight.shape[0]
    if max(max(parts) for parts in rows) >= count:
        raise ConfigError(f"the model has {count} rows, but its tokenizer has ids beyond them")
    std = vars(model.config.get_text_config()).get("initializer_range", 0.02)
    tied = outside.weight is inside.weight
    inside.weight = _renewed(inside.weight, rows, generator, std)
    inside.num_embeddings, inside.padding_idx = len(rows), None
    outside.weight = inside.weight if tied else _renewed(outside.weight, rows, generator, std)
    outside.out_features = len(rows)
    if outside.bias is not None:
        outside.bias = _renewed(outside.bias, rows, None, std)
    model.config.get_text_config().vocab_size = len(rows)
    _check_sizes(model)


@torch.no_grad()
def _renewed(old: torch.nn.Parameter, rows: Rows, generator: torch.Generator | None, std: float) -> torch.nn.Parameter:
    new = old[torch.tensor([parts[0] for parts in rows], device=old.device)].clone()
    for i, parts in enumerate(rows):
        if len(parts) == 1:
            continue
        if generator is not None:
            new[i] = torch.empty(new[i].shape).normal_(0.0, std, generator=generator)
        else:
            new[i] = old[list(parts)].float().mean(0)
    return torch.nn.Parameter(new, requires_grad=old.requires_grad)


def _check_sizes(model: "PreTrainedModel") -> None:
    """The model that the changed configuration describes has weights of just these shapes."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        described = AutoModelForCausalLM.from_config(model.config).state_dict()
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    for name, weight in described.items():
        if shapes.get(name) != weight.shape:
            raise ConfigError(
                f"models of the kind {model.config.model_type} have {name} over the vocabulary besides embedding and "
                "head; their vocabulary is not changed here"
            )


def renumber_tokens(model: "PreTrainedModel", new_ids: Mapping[int, int]) -> None:
    """Give every `..._token_id` of the configurations the id that its token has now; of one that is gone, None."""
    holders = (model.config, model.config.get_text_config(), model.generation_config)
    for holder in {id(each): each for each in holders if each is not None}.values():
        for key, old in list(vars(holder).items()):
            if key.endswith("_token_id") and old is not None:
                ids = [new_ids[i] for i in (old if isinstance(old, list) else [old]) if i in new_ids]
                setattr(holder, key, ids if isinstance(old, list) else next(iter(ids), None))


RECORD = "vocabulary.json"
MAX_BYTES, HELDOUT_BYTES = 100e6, 65_536
"""Text read, and bytes scored of each text, unless said otherwise."""
MULTIPLE = 64
"""Sizes of vocabularies are multiples of it, filled with real pieces: matrix products want that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What is read."""

    text: str
    """What the vocabulary is for, as `read_documents` takes it."""
    other: str | None = None
    """Another text on which the change is measured too: for an extension, the language that the model knows."""
    reading: Reading = WHOLE
    max_bytes: float = MAX_BYTES
    heldout_bytes: int = HELDOUT_BYTES
    context: int | None = None
    """Tokens of a window in scoring; None: SCORED_CONTEXT, or what the model allows."""


@dataclass(frozen=True, slots=True)
class _Change:
    """A new vocabulary: its pieces, what each of its rows is made of, and what to say of it."""

    bpe: Bpe
    rows: Rows
    facts: dict[str, object]


def extend_vocabulary(
    source: ModelSource,
    out: Path,
    texts: Texts,
    *,
    pieces: int | None = None,
    donor: ModelSource | None = None,
    chinese: bool = False,
    rows: Literal["mean", "random"] = "mean",
    multiple: int = MULTIPLE,
    seed: int = 0,
    making: Making = Making(),
) -> dict[str, object]:
    """Give a model tokens for another text.

    Args:
        pieces: new ones wanted, before the size is rounded up; with a donor None takes all of its.
        donor: take the pieces of its tokenizer instead of learning them.
        chinese: of a donor's pieces only Chinese ones; others without digits fill the size up.
        rows: each new row is the mean of the rows that stood for its text, or drawn at random.
        multiple: of it the size becomes one.

    Raises:
        CacheError: no model there.
        ConfigError: no byte-pair tokenizer, or `out` holds something else.
        DataError: too little text.
        RunError: the disk is full.
    """
    if pieces is None and donor is None:
        raise ConfigError("say how many pieces to learn (--pieces 8000), or whose to take (--from TOKENIZER)")
    if pieces is not None and pieces < 1:
        raise ConfigError(f"--pieces {pieces}: at least one new piece")
    if chinese and donor is None:
        raise ConfigError("--chinese chooses among the pieces of another tokenizer: give --from TOKENIZER")

    def change(tokenizer: "PreTrainedTokenizerBase", bpe: Bpe, documents: list[str]) -> _Change:
        size, last = len(bpe.pieces), max(bpe.pieces.values())
        if set(bpe.pieces.values()) != set(range(size)):
            raise ConfigError(
                f"{source.name}: the ids of its {size} tokens go up to {last}, with gaps; new "
                "pieces follow without one. `distillaw vocabulary trim` numbers them anew"
            )
        if donor is None:
            assert pieces is not None
            making.say(f"learning pieces from {len(documents)} documents")
            wanted = -(-(size + pieces) // multiple) * multiple - size
            grown = learn_pieces(tokenizer, bpe, documents, count=wanted)
        else:
            other = read_bpe(donor.name, donor.tokenizer())
            grown = adopt_pieces(tokenizer, bpe, other, count=pieces, chinese=chinese, multiple=multiple)
        if not grown.new:
            raise ConfigError(f"{source.name} has all these pieces already; nothing to add")
        made = [(i,) for i in range(size)] + [piece.parts for piece in grown.new]
        said = (grown.bpe.text_of(piece.piece) for piece in grown.new)
        first = list(islice((text for text in said if text is not None), 8))
        return _Change(grown.bpe, made, {"pieces_added": len(grown.new), "first_pieces": first})

    asked: dict[str, object] = {"verb": "extend", "pieces": pieces, "chinese": chinese, "rows": rows}
    took = {"multiple": multiple, "donor": None if donor is None else str(donor.folder), "seed": seed}
    generator = torch.Generator().manual_seed(seed) if rows == "random" else None
    return _change_model(source, out, texts, change, asked | took, generator, making)


def trim_vocabulary(
    source: ModelSource,
    out: Path,
    texts: Texts,
    *,
    keep: int | None = None,
    min_count: int = 1,
    multiple: int = MULTIPLE,
    making: Making = Making(),
) -> dict[str, object]:
    """Take from a model the tokens that a text does not use; what is not said here is as in `extend_vocabulary`.

    Args:
        texts: the text to keep pieces for; of another one it is measured what it loses.
        keep: tokens wanted; the pieces used most stay.
        min_count: without `keep`: pieces used so often in the text stay.
        multiple: of it the size becomes one by pieces used less.
    """
    if keep is not None and min_count != 1:
        raise ConfigError("--keep and --min-count both say what stays; give one of them")
    if min_count < 1:
        raise ConfigError(f"--min-count {min_count}: at least 1, the pieces that occur at all")

    def change(tokenizer: "PreTrainedTokenizerBase", bpe: Bpe, documents: list[str]) -> _Change:
        making.say(f"counting the pieces of {len(documents)} documents")
        counts = count_pieces(tokenizer, documents)
        less = trim_pieces(bpe, counts, keep=keep, min_count=min_count, multiple=multiple)
        gone = len(bpe.pieces) - len(less.kept)
        if not gone:
            raise ConfigError(f"all {len(bpe.pieces)} pieces of {source.name} stay; raise --min-count or give --keep")
        used = {"pieces_used": len(counts), "tokens_counted": counts.total()}
        return _Change(less.bpe, [(i,) for i in less.kept], {"pieces_dropped": gone} | used)

    settings: dict[str, object] = {"verb": "trim", "keep": keep, "min_count": min_count, "multiple": multiple}
    return _change_model(source, out, texts, change, settings, None, making)


def _change_model(
    source: ModelSource,
    out: Path,
    texts: Texts,
    change: Callable[["PreTrainedTokenizerBase", Bpe, list[str]], _Change],
    settings: dict[str, object],
    generator: torch.Generator | None,
    making: Making,
) -> dict[str, object]:
    """Read, change, measure, write."""
    identity = content_hash({"model": fingerprint(source), **settings, **asdict(texts)}, digits=16)
    if (done := making.found(out, RECORD, identity)) is not None:
        return done
    context = settle_context([source], texts.context, SCORED_CONTEXT)
    tokenizer = source.tokenizer()
    old = read_bpe(source.name, tokenizer)
    heldout, documents = _read(texts)
    new = change(tokenizer, old, documents)
    changed = rebuilt(source.name, tokenizer, new.bpe)
    measured = {name: _Measured(docs, source.name, tokenizer, changed) for name, docs in heldout.items()}
    record: dict[str, object] = {"identity": identity, "command": making.command, "model": source.name}
    record |= settings | {"vocab_before": len(old.pieces), "vocab": len(new.bpe.pieces)} | new.facts
    record |= {"context": context, "texts": {name: each.lengths() for name, each in measured.items()}}
    if making.dry_run:
        return record
    making.say(f"{source.name}: loading and scoring {', '.join(heldout)}")
    model = load_weights(source, torch.device(making.device), torch.float32)
    record |= {"model_fingerprint": fingerprint(source), "total_params_before": count_parameters(model)[1]}
    before = {name: each.scored(model, each.before, context) for name, each in measured.items()}
    give_rows(model, new.rows, generator=generator)
    if settings["verb"] == "trim":
        renumber_tokens(model, {parts[0]: i for i, parts in enumerate(new.rows)})
    making.say(f"scoring with {len(new.rows)} tokens")
    for name, facts in record["texts"].items():  # type: ignore[attr-defined]
        after = measured[name].scored(model, measured[name].after, context)
        facts |= _losses(before[name], after)
    record["total_params"] = count_parameters(model)[1]
    save_made(model, changed, out, {RECORD: record})
    return record


def _read(texts: Texts) -> tuple[dict[str, list[str]], list[str]]:
    """(documents to score by text, each cut to its share of the bytes; the documents to learn from)."""
    heldout: dict[str, list[str]] = {}
    learn: list[str] = []
    for name, corpus in (("text", texts.text), ("other", texts.other)):
        if corpus is None:
            continue
        budget = texts.max_bytes if name == "text" else BYTES_PER_TOKEN * texts.heldout_bytes + 1e6
        documents = read_excerpt(corpus, texts.reading, max_bytes=budget).documents
        scored = max(2, min(SCORED_DOCUMENTS, len(documents) // 2))
        share = max(1, texts.heldout_bytes // scored)
        heldout[name] = [text.encode()[:share].decode(errors="ignore") for text in documents[:scored]]
        if name == "text":
            learn = documents[scored:]
    if not learn:
        raise DataError(
            f"{texts.text}: {len(heldout['text'])} documents, all of them needed to measure on; give more text, cut it "
            f"into sections (--section-chars 4000), or read more than {format_bytes(texts.max_bytes)} (--max-bytes)"
        )
    return heldout, learn


class _Measured:
    """Held-out documents of one text under the old vocabulary and the new one, in bytes, which both share."""

    def __init__(
        self, documents: list[str], name: str, old: "PreTrainedTokenizerBase", new: "PreTrainedTokenizerBase"
    ) -> None:
        self.before, self.after = (encode_to_score(name, each, documents) for each in (old, new))
        self.sizes = np.array([len(text.encode()) for text in documents], dtype=np.int64)

    def lengths(self) -> dict[str, object]:
        """Tokens per byte, with standard errors by document."""
        # the start token is none of the text
        counts = [[len(a) - 1, len(b) - 1] for a, b in zip(self.before, self.after, strict=True)]
        tokens = np.array(counts, dtype=np.float64)
        se = np.sqrt(np.diag(clustered_cov(tokens, self.sizes)))
        rates = tokens.sum(0) / self.sizes.sum()
        return {
            "documents": len(self.sizes),
            "bytes": int(self.sizes.sum()),
            "tokens_before": int(tokens[:, 0].sum()),
            "tokens": int(tokens[:, 1].sum()),
            "tokens_per_byte_before": float(rates[0]),
            "tokens_per_byte_before_se": float(se[0]),
            "tokens_per_byte": float(rates[1]),
            "tokens_per_byte_se": float(se[1]),
        }

    def scored(self, model: "PreTrainedModel", ids: Sequence[np.ndarray], context: int) -> DocumentScores:
        """Sums of -ln p by document, with its bytes as weights: losses of it are nats per byte."""
        found = score_documents(model, ids, context=context, stride=context)
        if not np.isfinite(found.loss_sum).all():
            raise DataError("a loss is not finite: the model's weights are damaged")
        return DocumentScores.numbered(tokens=self.sizes, loss_sum=found.loss_sum)


def _losses(before: DocumentScores, after: DocumentScores) -> dict[str, object]:
    change, bit = in_bits(paired_difference(after, before)), math.log(2)
    return {
        "bits_per_byte_before": before.loss / bit,
        "bits_per_byte_before_se": before.loss_se / bit,
        "bits_per_byte": after.loss / bit,
        "bits_per_byte_se": after.loss_se / bit,
        "change": change.mean,
        "change_se": change.se,
    }
