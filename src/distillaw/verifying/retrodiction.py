"""The planner held against published outcomes: calls, Brier score against the base rate, intervals of gains.

Brier      mean over rows of (p - w)^2;  p: probability that A wins by the margin, w = 1 where it did, 0 where B did or
           they tied;  p = 1/2 where no law reaches the question
base rate  share of the rows that A won; its Brier score is that of somebody who knows this share and nothing else
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from distillaw.outcomes.table import Outcome, loss_of, read_outcomes, read_table_of_outcomes
from distillaw.planning.learnt import learnt
from distillaw.table import Table, number, text
from distillaw.verifying.outcome_question import Answer, ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrodiction:
    """What the planner says of every row of a table, beside what happened."""

    rows: tuple[tuple[Outcome, Answer], ...]

    @property
    def score(self) -> "Score":
        """Over all rows."""
        [found] = self.by("all")
        return found

    def by(self, what: str) -> list["Score"]:
        """Scores of groups of rows; `what` is a key of `GROUPS`."""
        return scores(self.rows, what)

    def to_json(self) -> dict[str, object]:
        """The object of `distillaw retrodict --json`."""
        score = self.score
        return {
            "brier": score.brier,
            "base_rate": score.share_won,
            "base_rate_brier": score.base,
            "calls": score.right + score.wrong,
            "right": score.right,
            "asked": len(score.rows) - score.refused,
            "refused": score.refused,
            "coverage": {"covered": score.covered, "intervals": score.intervals, "level": 0.9},
            "groups": {name: [_group(one) for one in self.by(name)] for name in GROUPS if name != "all"},
            "rows": [_row(row, answer) for row, answer in self.rows],
        }


def retrodict(path: Path | None = None) -> Retrodiction:
    """Ask the planner about every row of a table of outcomes.

    Args:
        path: CSV of the columns of `distillaw.outcomes.table`; None is the table that ships.

    Raises:
        DataError: a file that is no such table, with one line for each row that breaks a rule.
    """
    rows = read_outcomes() if path is None else read_table_of_outcomes(path)
    return Retrodiction(rows=tuple((row, ask(row)) for row in rows))


def _row(row: Outcome, answer: Answer) -> dict[str, object]:
    names = {"A": "distil", "B": "pretrain"} if row.says_of_distilling else {}
    is_asked = answer.status != "refused"
    probability = probability_of(answer) if is_asked else None
    return {
        "id": row.id,
        "source": row.source,
        "kind": row.kind,
        "comparison": row.comparison,
        "question": answer.question,
        "verdict": names.get(answer.call, answer.call) or None,
        "probability_distil": probability if row.says_of_distilling else None,
        "probability_a": probability,
        "gain": None
        if answer.gain is None
        else {"mean": answer.gain, "lower": answer.gain_lower, "upper": answer.gain_upper},
        "outcome": names.get(row.winner, row.winner),
        "winner": row.winner,
        "published_gain": row.gain,
        "metric_kind": row.metric_kind,
        "score": None if probability is None else (probability - (row.winner == "A")) ** 2,
        "is_right": answer.call == row.winner if answer.call in ("A", "B") else None,
        "inside_range": answer.inside_range,
        "status": answer.status,
        "why": answer.why,
    }


def _group(one: "Score") -> dict[str, object]:
    plain = ("group", "refused", "unknown", "right", "wrong", "too_close", "brier", "covered", "intervals")
    return {name: getattr(one, name) for name in plain} | {
        "rows": len(one.rows),
        "base_rate": one.share_won,
        "base_rate_brier": one.base,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What became of the answers to a group of rows."""

    group: str
    rows: tuple[Outcome, ...]
    refused: int
    """Not asked, or refused."""
    unknown: int
    """Answered that no law reaches the question."""
    right: int
    wrong: int
    """A side was called and the other one won, or nobody did."""
    too_close: int
    """Answered without a call."""
    brier: float | None
    """Mean squared error of the probability that A wins, over the rows that were answered or unknown."""
    share_won: float | None
    """Share of these rows that A won."""
    base: float | None
    """Brier score of that share: of somebody who knows it and nothing else."""
    covered: int
    """Published gains inside the 90 % interval, of `intervals`."""
    intervals: int

    def won(self, side: str) -> int:
        """Rows that `A` or `B` won, or whose sides tie."""
        return sum(row.winner == side for row in self.rows)


GROUPS: Mapping[str, Callable[[Outcome], str]] = {
    "all": lambda row: "all rows",
    "kind": attrgetter("kind"),
    "metric": attrgetter("metric_kind"),
    "comparison": attrgetter("comparison"),
    "source": attrgetter("source"),
    "learnt": lambda row: f"{'' if learnt(row.source) != learnt() else 'not '}learnt from",
}
"""By what rows are put together; `learnt`: by whether their source taught the constants of `planning.learnt`."""


def scores(answered: Iterable[tuple[Outcome, Answer]], by: str) -> list[Score]:
    """Scores of groups of rows with their answers; `by` is a key of `GROUPS`."""
    parts: dict[str, list[tuple[Outcome, Answer]]] = defaultdict(list)
    for row, answer in answered:
        parts[GROUPS[by](row)].append((row, answer))
    return [_score(name, part) for name, part in sorted(parts.items())]


def _score(group: str, rows: Sequence[tuple[Outcome, Answer]]) -> Score:
    pairs = [(row, answer) for row, answer in rows if answer.status != "refused"]
    told = [(row, answer) for row, answer in pairs if answer.status == "answered"]
    called = [(row, answer) for row, answer in told if answer.call in ("A", "B")]
    right = sum(answer.call == row.winner for row, answer in called)
    won = [float(row.winner == "A") for row, _ in pairs]
    base = sum(won) / len(won) if won else None
    intervals = [inside for row, answer in told if (inside := _is_inside(row, answer)) is not None]
    return Score(
        group=group,
        rows=tuple(row for row, _ in rows),
        refused=len(rows) - len(pairs),
        unknown=len(pairs) - len(told),
        right=right,
        wrong=len(called) - right,
        too_close=len(told) - len(called),
        brier=_mean((probability_of(answer) - w) ** 2 for (_, answer), w in zip(pairs, won, strict=True)),
        share_won=base,
        base=None if base is None else base * (1 - base),
        covered=sum(intervals),
        intervals=len(intervals),
    )


def _is_inside(row: Outcome, answer: Answer) -> bool | None:
    """Whether the published gain lies in the interval, as shares of B's loss; None where there is no such gain.

    Losses per byte, word and token then compare. An answer without B's loss counts where its unit is the row's.
    """
    if None in (answer.gain_lower, answer.gain_upper) or row.gain is None or not row.is_loss:
        return None
    unit = 1.0
    if answer.loss is not None:
        unit = loss_of(row, row.value_b or 1.0) / answer.loss
    elif row.metric_kind not in ("nats_per_token", "perplexity"):
        return None
    return float(answer.gain_lower or 0.0) * unit <= row.gain <= float(answer.gain_upper or 0.0) * unit


def probability_of(answer: Answer) -> float:
    """That A wins; one half where no law reaches the question, whatever was made of the teachers."""
    return 0.5 if answer.status == "unknown" or answer.probability_a is None else answer.probability_a


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def score_table(found: Sequence[Score]) -> Table:
    """Calls, probabilities and intervals."""
    return Table.of(
        [
            text("rows", of=attrgetter("group")),
            number("n", "d", of=lambda s: len(s.rows)),
            number("refused", "d", of=attrgetter("refused")),
            number("unknown", "d", of=attrgetter("unknown")),
            number("too close", "d", of=attrgetter("too_close")),
            number("right", "d", of=attrgetter("right")),
            number("wrong", "d", of=attrgetter("wrong")),
            number("Brier", ".3f", of=attrgetter("brier")),
            number("base rate's", ".3f", of=attrgetter("base")),
            number("in 90 % interval", of=lambda s: f"{s.covered} of {s.intervals}" if s.intervals else None),
        ],
        found,
    )


def row_table(found: Retrodiction) -> Table:
    """The rows that were asked: what was said, and what happened."""
    asked = [pair for pair in found.rows if pair[1].status != "refused"]
    return Table.of(
        [
            text("row", of=lambda pair: pair[0].id),
            text("comparison", of=lambda pair: pair[0].comparison),
            text("call", of=lambda pair: "unknown" if pair[1].status == "unknown" else pair[1].call),
            number("P(A)", ".2f", of=lambda pair: probability_of(pair[1])),
            text("won", of=lambda pair: pair[0].winner),
            number("score", ".2f", of=lambda pair: (probability_of(pair[1]) - (pair[0].winner == "A")) ** 2),
        ],
        asked,
        note="A distils, or learns from the first of two teachers; score: squared error of P(A)",
    )
