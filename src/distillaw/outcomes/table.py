"""The table of published outcomes, one comparison of A with B a row, and the rules that every row obeys.

    from distillaw.outcomes.table import read_outcomes

    won = [row for row in read_outcomes() if row.winner == "A" and row.kind == "core"]

The rows are outcomes.csv beside this file. An empty cell is not known; what is in a cell stands in the text that
`where_seen` names, but for columns that `assumed` or `computed` name. docs/outcomes.md says what the table is for.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from distillaw.errors import ConfigError, DataError

COMPARISONS = {
    "distil-vs-pretrain-equal-tokens": "A learns from a teacher, B from the text alone, on as many tokens",
    "distil-vs-pretrain-equal-flop": "as many FLOP, the teacher's forward passes counted",
    "distil-vs-pretrain-equal-time": "as many hours on the same hardware",
    "distil-vs-pretrain-equal-text": "the same distinct text, read as often as suits each",
    "distil-vs-pretrain-own-budgets": "each as its authors trained it: nothing is controlled",
    "distil-vs-finetune": "A learns a task or a domain from a teacher, B from its labels or text",
    "teacher-a-vs-b": "one student from two teachers",
    "start-a-vs-b": "one recipe from two starts",
    "tokens-a-vs-b": "one recipe on more and on fewer tokens",
    "recipe-a-vs-b": "two losses, weights, temperatures, targets, or ways to cut",
}
"""What A and B are; unless another is named, their student, tokens and data are the same."""
LOSSES = {"nats_per_token": 1.0, "nats_per_byte": 1.0, "bits_per_byte": math.log(2)}
"""Metrics that are losses, in nats (per token, or per byte)."""
PERPLEXITIES = ("perplexity", "byte_perplexity", "word_perplexity")
"""Metrics whose logarithm is a loss in nats, per token, byte or word."""
SCORES = ("task_average", "task", "relative_percent")
"""Metrics in points of a hundred; the last is a change against a common baseline, in per cent or points; where that
baseline is B, its value is 0."""
TIE_LOSS = 0.0025
"""Share of B's loss within which A and B tie. A convention: seeds move the losses of our open runs by 0.3 to 0.5 %
(docs/open-runs.md), those of larger runs by less."""
TIE_POINTS = 0.5
"""Points of a score within which A and B tie: two standard errors of a share near a half over 40,000 answers, about as
many as averages of eight to ten common tasks rest on."""
KEPT_OUT = (
    *("2410.16215", "2408.00118", "2609.03355", "2502.08606", "2402.14905", "2409.17312", "2308.02019"),
    *("2601.08584", "1910.01108", "2509.01649", "2311.07052"),
    *("marin-community/marin#7656", "Bootstrapped Distillation", "ZheZhang-ovo/BabyLM-Project"),
)
"""Sources kept for a check from outside: none of their outcomes may enter, nor tune anything (docs/outcomes.md)."""
ASKED_ONLY = (
    *("github:ThuanNaN/GPT2-Knowledge-Distillation", "github:bgoertzel-sing/relaleap"),
    *("github:lets-data-science/finetuning-lab", "github:dl1683/moonshot-sutra"),
    *("github:dl1683/moonshot-llm-genome", "github:SymbioGPT", "github:coreonai/core"),
    *("arXiv:2410.18779", "github:numenta/nupic.research#483", "arXiv:2404.19319"),
    *("github:kasper0406/parallel-ss-dep", "arXiv:2101.03961", "arXiv:2201.05596", "github:MiniGPT v1172"),
    *("github:openai/parameter-golf ternary", "github:qwen7b-korean (index id 69090091595)"),
    *("arXiv:2602.05393", "arXiv:2510.05064", "arXiv:2110.08152", "github:Afdel11/llm-distillation"),
)
"""Sources that entered after the constants were learnt and are left out when they are learnt again, so that a score
stays of rows that no constant saw (docs/retrodiction.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One comparison that somebody published. Parameters and tokens are numbers, scores points of a hundred."""

    id: str
    source: str
    """The paper (`arXiv:` and its number) or project (`github:owner/name`): what leave-one-source-out leaves out."""
    place: str
    """Table, figure or thread in it."""
    where_seen: str
    """The text in which the numbers were read."""
    is_primary: bool
    """Whether that text is the authors' own, or a copy of it; else somebody's notes."""
    kind: str
    """`core`: random start, off-policy, logits of nearly the full vocabulary, so that a law of distillation should
    predict it; `beyond`: something else too."""
    comparison: str
    """A key of `COMPARISONS`."""
    metric: str
    metric_kind: str
    """A key of `LOSSES`, one of `PERPLEXITIES` or of `SCORES`."""
    value_a: float | None
    """None where the text says who won and no number; then for B too."""
    value_b: float | None
    value_noise: float | None
    """Published noise of one value, a standard deviation or half a 68 % interval; A and B tie within it."""
    gain: float | None
    """Of A over B: nats (per token, byte or word) where the metric is a loss or a perplexity, else points."""
    winner: str
    """`A`, `B` or `tie`."""
    student_params: float | None
    """Non-embedding."""
    student_total_params: float | None
    start: str
    """`random`, `pruned` (from the teacher) or `pretrained`; of A."""
    start_b: str
    """Of B, where it is another; where starts are compared, both sides learn from the teacher."""
    teacher: str
    """Of A; `teacher_b` where two teachers are compared."""
    teacher_params: float | None
    teacher_total_params: float | None
    teacher_tokens: float | None
    teacher_loss: float | None
    """In the metric's unit, on the text of the values."""
    teacher_b: str
    teacher_b_params: float | None
    teacher_b_total_params: float | None
    teacher_b_tokens: float | None
    teacher_b_loss: float | None
    tokens_a: float | None
    """Tokens that A's student is trained on, repeats counted."""
    tokens_b: float | None
    unique_tokens: float | None
    """Distinct ones, where they are repeated."""
    vocab: float | None
    context: float | None
    distill_weight: float | None
    """Lambda, the weight of the teacher's term: 1 is distillation alone."""
    is_tuned: bool | None
    """Whether the weight is the best of several that were tried."""
    temperature: float | None
    divergence: str
    top_k: float | None
    top_p: float | None
    on_policy: bool | None
    """Whether the student learns on its own samples."""
    text_of: str
    """`teacher` where the student learns from the teacher's samples as from text, `chosen` where the teacher chose the
    text; empty where the text is the data's (or own samples: `on_policy`)."""
    schedule: str
    """`first` where the text alone follows upon the teacher, `annealed` where the teacher's weight falls to nothing."""
    data: str
    """What text, and whether the values are measured on its distribution."""
    recipe: str
    assumed: tuple[str, ...]
    """Columns whose cells are assumptions of this table."""
    computed: tuple[str, ...]
    """Columns computed here from published figures, beside `gain` and `winner`."""
    is_complete: bool
    """Whether all that the planner must know was published: sizes, tokens, who won by how much."""
    notes: str

    @property
    def is_loss(self) -> bool:
        """Whether the gain is in nats."""
        return self.metric_kind in LOSSES or self.metric_kind in PERPLEXITIES

    @property
    def says_of_distilling(self) -> bool:
        """Whether A distils and B trains without a teacher."""
        return self.comparison.startswith("distil-vs-")


def gain_of(row: Outcome) -> float | None:
    """What A is ahead of B: nats where the metric is a loss, else points; None without values."""
    if row.value_a is None or row.value_b is None:
        return None
    if not row.is_loss:
        return row.value_a - row.value_b
    return loss_of(row, row.value_b) - loss_of(row, row.value_a)


def winner_of(row: Outcome) -> str | None:
    """Who won by the rule of ties; None without values."""
    gain = gain_of(row)
    if gain is None:
        return None
    assert row.value_a is not None and row.value_b is not None
    band = TIE_LOSS * loss_of(row, row.value_b) if row.is_loss else TIE_POINTS
    if abs(gain) <= band or abs(row.value_a - row.value_b) <= (row.value_noise or 0.0):
        return "tie"
    return "A" if gain > 0 else "B"


def loss_of(row: Outcome, value: float) -> float:
    """A value of a loss or a perplexity in nats (per token, byte or word)."""
    return LOSSES[row.metric_kind] * value if row.metric_kind in LOSSES else math.log(value)


COLUMNS = tuple(field.name for field in fields(Outcome))


@cache
def read_outcomes() -> tuple[Outcome, ...]:
    """The table that ships, in the order in which rows entered.

    Raises:
        ConfigError: a row that breaks a rule; not in a release, whose table is tested.
    """
    text = files("distillaw.outcomes").joinpath("outcomes.csv").read_text(encoding="utf-8")
    return tuple(_read(text.splitlines(), "outcomes.csv"))  # no cell has a line break


USUAL = {"is_primary": "no", "is_complete": "no", "start": "random"}
"""Of columns that a table of one's own may leave out."""


def read_table_of_outcomes(path: Path) -> tuple[Outcome, ...]:
    """A table of one's own: CSV with some or all of the columns of `Outcome`; gain and winner follow from the values.

    Sources kept out of the table that ships may stand in it: nothing is learnt from it.

    Raises:
        DataError: no such file or no table of outcomes; or rows that break rules, one line for each.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a CSV with columns of the table of outcomes (docs/outcomes.md)")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            names, found = tuple(table.fieldnames or ()), list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from None
    if missing := [name for name in ("id", "comparison", "metric_kind") if name not in names]:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; a table of outcomes has id, comparison, metric_kind, value_a and "
            "value_b (or winner), and what is known of student, teacher and tokens: docs/outcomes.md lists the columns"
        )
    if odd := sorted(name for name in names if name not in COLUMNS):
        raise DataError(f"{path}: no columns of a table of outcomes: {', '.join(odd)}")
    rows, bad, seen = [], [], set()
    for number, cells in enumerate(found, start=2):
        try:
            row = _own_row(cells, f"{path.name}, line {number}")
            if row.id in seen:
                raise ConfigError(f"{path.name}, line {number}, {row.id}: its id is taken")
        except ConfigError as error:
            bad.append(str(error))
            continue
        seen.add(row.id)
        rows.append(row)
    if bad:
        raise DataError("\n".join(bad))
    if not rows:
        raise DataError(f"{path}: no rows")
    return tuple(rows)


def _own_row(given: Mapping[str | None, Any], where: str) -> Outcome:
    """A row of a user's file, with what it may leave out filled in."""
    if None in given:
        raise ConfigError(f"{where}: more cells than columns; a comma inside a cell needs quotes around it")
    cells = {str(name): value or "" for name, value in given.items()}
    usual = USUAL | {"source": where.split(",")[0], "where_seen": where, "metric": cells["metric_kind"]}
    for name, value in usual.items():
        cells[name] = cells.get(name) or value
    cells["kind"] = cells.get("kind") or ("core" if cells["start"] == "random" else "beyond")
    draft = outcome_of(cells, where, is_draft=True)
    gain, winner = gain_of(draft), winner_of(draft)
    row = replace(
        draft,
        gain=draft.gain if draft.gain is not None or gain is None else round(gain, 4),
        winner=draft.winner or winner or "",
    )
    if faults := faults_of(row, may_be_kept_out=True):
        raise ConfigError(f"{where}, {row.id}: {'; '.join(faults)}")
    return row


def outcome_of(cells: Mapping[str, str], where: str, *, is_draft: bool = False) -> Outcome:
    """A row from the text of its cells.

    Args:
        cells: by column; columns that are not named are empty.
        where: the file, for errors.
        is_draft: take a row that may break rules, since its gain and winner are not worked out yet.

    Raises:
        ConfigError: a column that there is not, a cell that cannot be read, or a row that breaks a rule.
    """
    name = f"{where}, {cells.get('id') or 'a row without id'}"
    if odd := sorted(set(cells) - set(COLUMNS)):
        raise ConfigError(f"{name}: no column of a table of outcomes: {', '.join(odd)}")
    row = Outcome(**{f.name: _cell(name, f.name, str(f.type), cells.get(f.name, "")) for f in fields(Outcome)})
    if not is_draft and (faults := faults_of(row)):
        raise ConfigError(f"{name}: {'; '.join(faults)}")
    return row


def _read(file: Iterable[str], name: str) -> Iterator[Outcome]:
    rows = csv.DictReader(file)
    if tuple(rows.fieldnames or ()) != COLUMNS:
        odd = sorted(set(COLUMNS) ^ set(rows.fieldnames or ())) or "another order"
        raise ConfigError(f"{name}: its columns are not those of a table of outcomes: {odd}")
    seen: set[str] = set()
    for cells in rows:
        row = outcome_of(cells, name)
        if row.id in seen:
            raise ConfigError(f"{name}, {row.id}: its id is taken")
        seen.add(row.id)
        yield row


def _cell(row: str, column: str, kind: str, text: str) -> Any:
    """A cell as its column's type."""
    if "bool" in kind:
        if text in ("yes", "no") or ("None" in kind and not text):
            return {"yes": True, "no": False}.get(text)
    elif "float" in kind:
        try:
            return float(text) if text else None
        except ValueError:
            pass
    elif "tuple" in kind:
        return tuple(text.split())
    else:
        return text
    raise ConfigError(f"{row}: {column} is {text!r}, not {'yes or no' if 'bool' in kind else 'a number'}")


def faults_of(row: Outcome, *, may_be_kept_out: bool = False) -> tuple[str, ...]:
    """Rules that a row breaks, in words; empty for a row that may stand in a table."""
    rules: Sequence[tuple[bool, str]] = (
        (bool(row.id and row.source and row.where_seen and row.metric), "id, source, where_seen and metric are needed"),
        (
            may_be_kept_out
            or not any(k.lower() in f"{row.source} {row.where_seen} {row.place}".lower() for k in KEPT_OUT),
            "kept out",
        ),
        (row.kind in ("core", "beyond"), f"kind {row.kind!r} is not core or beyond"),
        (row.comparison in COMPARISONS, f"comparison {row.comparison!r} is none of {', '.join(COMPARISONS)}"),
        (
            row.is_loss or row.metric_kind in SCORES,
            f"metric_kind {row.metric_kind!r} is none of {', '.join((*LOSSES, *PERPLEXITIES, *SCORES))}",
        ),
        (row.start in ("", "random", "pruned", "pretrained"), f"start {row.start!r} is not known"),
        (row.start_b in ("", "random", "pruned", "pretrained"), f"start_b {row.start_b!r} is not known"),
        (row.text_of in ("", "teacher", "chosen"), f"text_of {row.text_of!r} is not teacher or chosen"),
        (row.schedule in ("", "first", "annealed"), f"schedule {row.schedule!r} is not first or annealed"),
        (row.kind == "beyond" or row.start == "random", "a core row starts at random"),
        (row.kind == "beyond" or not row.on_policy, "a core row is off-policy"),
        ((row.comparison == "teacher-a-vs-b") == bool(row.teacher_b), "teacher_b stands where teachers are compared"),
        ((row.value_a is None) == (row.value_b is None), "one value without the other"),
        (row.value_a is not None or not row.is_complete, "a complete row has values"),
        (set(row.assumed) | set(row.computed) <= set(COLUMNS), "assumed and computed name columns"),
        (not {"value_a", "value_b"} & set(row.assumed), "outcome values are never assumed"),
        (row.winner in ("A", "B", "tie"), f"winner {row.winner!r} is not A, B or tie"),
        *_ranges(row),
    )
    faults = tuple(words for holds, words in rules if not holds)
    return faults or _arithmetic(row)


def _ranges(row: Outcome) -> Iterator[tuple[bool, str]]:
    """Slips by orders of magnitude."""
    per_cent = (-100, 100) if row.metric_kind == "relative_percent" else (0, 1e6 if row.is_loss else 100)
    models = ("student", "teacher", "teacher_b")
    bounds = {
        **{f"{who}_{what}": (1e3, 1e13) for who in models for what in ("params", "total_params")},
        **dict.fromkeys(("tokens_a", "tokens_b", "teacher_tokens", "teacher_b_tokens", "unique_tokens"), (1e3, 1e14)),
        **{"vocab": (2, 1e6), "context": (8, 1e6), "distill_weight": (0, 1), "temperature": (0.1, 20), "top_p": (0, 1)},
        **dict.fromkeys(("value_a", "value_b"), per_cent),
    }
    for name, (low, high) in bounds.items():
        value = getattr(row, name)
        yield value is None or low <= value <= high, f"{name} {value} is not within {low:g} and {high:g}"
    if row.unique_tokens is not None and row.tokens_a is not None:
        yield row.unique_tokens <= row.tokens_a, "more distinct tokens than tokens"
    for who in ("student", "teacher"):
        part, whole = getattr(row, f"{who}_params"), getattr(row, f"{who}_total_params")
        if part is not None and whole is not None:
            yield part <= whole, f"{who}_params exceeds {who}_total_params"


def _arithmetic(row: Outcome) -> tuple[str, ...]:
    """Whether gain and winner follow from the values."""
    gain, winner = gain_of(row), winner_of(row)
    if gain is None:
        return () if row.gain is None else ("a gain without values",)
    faults = []
    if row.gain is None or abs(row.gain - gain) > 5e-5:  # gains are written with four decimals
        faults.append(f"gain {row.gain} is not {gain:.4f}")
    if row.winner != winner:
        faults.append(f"winner {row.winner} is not {winner}")
    return tuple(faults)
