"""The scale of a study: sizes, budgets, batch and vocabulary, from what the user gave and a template's defaults.

At least 800 steps at the smallest budget, budgets in whole batches, a vocabulary whose matrix is at most 30 % of the
smallest student: what a small study needs to mean anything is decided here, once.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from distillaw.accounting.flops import forward_flops
from distillaw.controls.control import EMBEDDING_SHARE, LEAST_STEPS
from distillaw.errors import ConfigError, DataError
from distillaw.quantities import format_count
from distillaw.runs.files import require_file
from distillaw.runs.spec import Recipe
from distillaw.shapes import Shape, count_non_embedding, shape_for_params

# --- how much text there is ---------------------------------------------------------------------------------


_CHARS_SMALL, _CHARS_LARGE = (512, 2.11), (32768, 4.4)
"""Vocabulary -> characters per token of English: measured on the books of the open study; usual for large ones."""
_USABLE, _EXACT = 0.8, 0.93
"""Share counted on where the number of documents is not known, and where it is: the estimate has an error."""


def chars_per_token(vocab: int) -> float:
    """Characters of English per token of a byte-level BPE of so many entries: linear in ln V between two knowns."""
    (v, c), (w, d) = _CHARS_SMALL, _CHARS_LARGE
    return c + (d - c) * math.log(vocab / v) / math.log(w / v)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSize:
    """What can be known of a corpus without reading it."""

    chars: float
    documents: int | None
    """None where files do not say how many they hold."""

    def half(self, vocab: int, *, held_out: int) -> float:
        """About how many tokens teachers and students get each, so many documents held out."""
        left = _USABLE if self.documents is None else max(0.0, 1 - held_out / max(self.documents, 1)) * _EXACT
        return left * self.chars / chars_per_token(vocab) / 2


SHIPPED_SIZES = {"sotu": TextSize(chars=10.76e6, documents=233)}
"""Of the texts that ship with the package."""


def text_size(corpus: str, *, max_document_chars: int = 0) -> TextSize | None:
    """The size of a corpus; None where it cannot be looked at cheaply."""
    if corpus in SHIPPED_SIZES:  # known, so that a dry run of the quickstart needs no Parquet reader
        size = SHIPPED_SIZES[corpus]
        longest = max_document_chars or math.inf
        return TextSize(chars=min(size.chars, longest * (size.documents or 0)), documents=size.documents)
    path = Path(corpus).expanduser()
    if corpus.startswith("hub:") or not path.exists() or (path / "dataset_info.json").exists():
        return None
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    texts = [file for file in files if file.suffix in (".txt", ".jsonl", ".parquet")]
    if not texts:
        return None
    sizes = [_file_size(file, max_document_chars) for file in texts]
    counts = [size.documents for size in sizes if size.documents is not None]
    documents = sum(counts) if len(counts) == len(sizes) else None
    return TextSize(chars=sum(size.chars for size in sizes), documents=documents)


def _file_size(path: Path, longest: int) -> TextSize:
    if path.suffix == ".parquet":
        return _parquet_size(path, longest)
    size = float(path.stat().st_size)
    if path.suffix == ".txt":
        return TextSize(chars=min(size, longest) if longest else size, documents=1)
    return TextSize(chars=size, documents=None)


def _parquet_size(path: Path, longest: int) -> TextSize:
    """Uncompressed bytes of the widest column, capped by the documents' limit."""
    from pyarrow import ArrowException
    from pyarrow import parquet as pq

    try:
        meta = pq.read_metadata(require_file(path))
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from None
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    columns = [sum(g.column(i).total_uncompressed_size for g in groups) for i in range(meta.num_columns)]
    whole = float(max(columns, default=0))
    chars = min(whole, float(longest * meta.num_rows)) if longest else whole
    return TextSize(chars=chars, documents=meta.num_rows)


# --- what is trained on it ----------------------------------------------------------------------------------


GRAIN = 4
"""Budgets are multiples of so many batches: still whole if the search halves, doubles or quadruples the batch."""
SMALLEST_BATCH, LARGEST_BATCH = 64, 2**20
"""Tokens: half a window of the smallest studies, and a million, beyond what any study planned here needs."""
HELD_OUT, FEW_HELD_OUT = 100, 64
"""Documents held out, and of a corpus with few: errors are clustered by document, so at least 60 are wanted."""
_VOCABULARIES = (32768, 16384, 8192, 4096, 2048, 1024, 512, 384, 288)
"""Sizes tried, the largest first: a usual one of large models, halved down to little more than the 256 bytes."""
_FAMILIES = ((100e6, 64, 128.0), (10e6, 64, 64.0), (3e6, 32, 32.0), (0.0, 16, 16.0))
"""Largest student from which on -> head dimension, width over layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignWishes:
    """What the user gave; the rest is the template's."""

    students: tuple[float, ...] = ()
    teachers: tuple[float, ...] = ()
    tokens: tuple[float, ...] = ()
    starts: tuple[str, ...] = ()
    """Arms of first weights."""
    vocab: int | None = None
    corpus: str = ""
    text: TextSize | None = None
    """The size of the corpus, where it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """A template's own scale, for a laptop."""

    students: tuple[float, ...]
    teachers: tuple[float, ...]
    tokens: tuple[float, ...]
    """Students' budgets."""
    least: tuple[int, int, int] = (1, 1, 1)
    """Fewest student sizes, teacher sizes and budgets that answer the question."""
    starts: tuple[str, ...] = ("fresh",)
    """Arms of first weights."""
    reach: float = 8.0
    """Tokens of the longest teacher over the longest budget in `tokens`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Everything a template needs to know."""

    students: tuple[float, ...]
    """Non-embedding sizes, ascending."""
    teachers: tuple[float, ...]
    are_teachers_named: bool
    """Whether the user named the teachers' sizes: then no others are added, and none is left out."""
    tokens: tuple[int, ...]
    """Students' budgets, ascending, whole batches."""
    starts: tuple[str, ...]
    """Arms of first weights."""
    teacher_tokens: int
    """Most that a teacher reads."""
    vocab: int
    batch: int
    recipe: Recipe
    corpus: str
    text: float | None
    """Tokens of each half of it, where known."""
    held_out: int
    """Documents that nobody reads."""

    def whole(self, tokens: float) -> int:
        """The least budget of whole batches that holds so many tokens, never below the smallest."""
        return max(self.tokens[0], _whole(tokens, self.batch))

    @property
    def grain(self) -> int:
        """Budgets are multiples of so many tokens."""
        return GRAIN * self.batch

    def fits(self, tokens: float) -> bool:
        """Whether one half of the text holds so many tokens; True where the text is not known."""
        return self.text is None or tokens <= self.text


def scale_for(asked: DesignWishes, defaults: Defaults, factor: float = 1.0) -> Scale:
    """The scale at which a template is written out.

    Sizes and tokens share `factor`, compute relative to the defaults, unless one of them was given.
    """
    if asked.teachers and not defaults.teachers:
        raise ConfigError("--teachers: this kind of study trains students without a teacher; leave the option out")
    for name, needed in zip(("students", "teachers", "tokens"), defaults.least, strict=True):
        given = getattr(asked, name)
        if given and len(set(given)) < needed:
            listed = ", ".join(format_count(value) for value in given)
            raise ConfigError(f"--{name} {listed}: this kind of study needs at least {needed} different ones")
    sized = bool(asked.students or asked.teachers)
    if asked.students:  # the user's sizes over the template's, by whichever was given
        relative = max(asked.students) / max(defaults.students)
    elif asked.teachers:
        relative = max(asked.teachers) / max(defaults.teachers or defaults.students)
    else:
        relative = factor if asked.tokens else math.sqrt(factor)
    by_tokens = relative * factor if sized else math.sqrt(factor)
    students = asked.students or tuple(float(f"{size * relative:.2g}") for size in defaults.students)
    teachers = asked.teachers or tuple(float(f"{size * relative:.2g}") for size in defaults.teachers)
    shortest = min(asked.tokens) if asked.tokens else by_tokens * min(defaults.tokens)
    batch = _batch(shortest)
    recipe = _recipe(max(students), batch)
    fitting = (v for v in _VOCABULARIES if embedding_share(min(students), v, recipe) <= EMBEDDING_SHARE)
    vocab = asked.vocab or next(fitting, _VOCABULARIES[-1])
    documents = math.inf if asked.text is None else asked.text.documents or math.inf
    held_out = HELD_OUT if documents >= 4 * HELD_OUT else FEW_HELD_OUT
    text = None if asked.text is None else asked.text.half(vocab, held_out=held_out)
    usual = tuple(tokens * by_tokens for tokens in defaults.tokens)
    wanted = asked.tokens or _within(text, usual, defaults.least[2])
    tokens = tuple(sorted({_whole(t, batch) for t in wanted}))
    if text is not None and tokens[-1] > text:
        raise ConfigError(
            f"students read {tokens[-1]:,} tokens and one half of {asked.corpus} holds about {text:,.0f}: a "
            f"study reads its text once. Give a larger --corpus, fewer --tokens, or a smaller --budget"
        )
    longest = min(defaults.reach * tokens[-1], math.inf if text is None else text)
    return Scale(
        students=tuple(sorted(set(students))),
        teachers=tuple(sorted(set(teachers))),
        are_teachers_named=bool(asked.teachers),
        tokens=tokens,
        starts=asked.starts or defaults.starts,
        batch=batch,
        teacher_tokens=math.floor(longest / (GRAIN * batch)) * GRAIN * batch,
        vocab=vocab,
        recipe=recipe,
        corpus=asked.corpus,
        text=text,
        held_out=held_out,
    )


def _whole(tokens: float, batch: int) -> int:
    """Tokens rounded up to whole batches, still whole in batches of four times the size."""
    return math.ceil(tokens / (GRAIN * batch) - 1e-9) * GRAIN * batch


def _within(text: float | None, tokens: tuple[float, ...], least: int) -> tuple[float, ...]:
    """A template's budgets as far as the text goes; closer together where too few would be left."""
    if text is None or tokens[-1] <= text:
        return tokens
    kept = tuple(t for t in tokens if t <= text)
    if len(kept) >= least or not kept:
        return kept or tokens
    step = (0.98 * text / tokens[0]) ** (1 / (least - 1))
    return tuple(tokens[0] * step**i for i in range(least))


def _batch(shortest: float) -> int:
    """The largest power of two that gives the smallest budget enough steps."""
    if shortest < LEAST_STEPS * SMALLEST_BATCH:
        raise ConfigError(
            f"the smallest budget is {format_count(shortest)} tokens; {LEAST_STEPS} steps of the smallest batch "
            f"({SMALLEST_BATCH} tokens) are {format_count(LEAST_STEPS * SMALLEST_BATCH)}. Give at least that in "
            "--tokens"
        )
    return int(min(2 ** math.floor(math.log2(shortest / LEAST_STEPS) + 1e-9), LARGEST_BATCH))


def _recipe(largest: float, batch: int) -> Recipe:
    context = 128 if batch < 4096 else 256 if batch < 65536 else 1024
    head_dim, aspect = next((dim, ratio) for size, dim, ratio in _FAMILIES if largest >= size)
    warmup = max(10_000, 40 * batch)
    return Recipe(context=min(context, batch), head_dim=head_dim, aspect=aspect, warmup_tokens=warmup)


def embedding_share(params: float, vocab: int, recipe: Recipe) -> float:
    """One embedding matrix over N of the shape that a size comes to."""
    shape = shape_of(params, vocab, recipe)
    return vocab * shape.width / count_non_embedding(shape)


def shape_of(params: float, vocab: int, recipe: Recipe) -> Shape:
    """The shape that a size comes to."""
    return shape_for_params(params, vocab=vocab, context=recipe.context, head_dim=recipe.head_dim, aspect=recipe.aspect)


def tokens_alone(tokens: float, student: Shape, teacher: Shape, teacher_tokens: float) -> float:
    """Tokens of a student alone that cost what distilling it on `tokens` and training its teacher cost together."""
    own, other = forward_flops(student).total, forward_flops(teacher).total
    return tokens * (1 + other / (3 * own)) + teacher_tokens * other / own
