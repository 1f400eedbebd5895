"""Predictions and what came of them as tables, the same ones for `verify` and for a study's report."""

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from operator import attrgetter, itemgetter
from typing import Any

from distillaw.quantities import format_count
from distillaw.table import Column, Table, number, text
from distillaw.verifying import scorecard
from distillaw.verifying.frozen import FrozenPrediction, PredictedPoint
from distillaw.verifying.scorecard import Scorecard, Scored


def what_columns(prediction: Callable[[Any], FrozenPrediction]) -> list[Column]:
    """Who says something, of what; `prediction` of a row."""
    return [
        text("by", of=lambda row: prediction(row).by),
        text("of", of=lambda row: prediction(row).quantity),
        number("params", format_count, of=lambda row: prediction(row).point.params),
        number("tokens", format_count, of=lambda row: prediction(row).point.tokens),
        text("teacher", of=lambda row: teacher_words(prediction(row).point)),
    ]


def teacher_words(point: PredictedPoint) -> str:
    """Who teaches, by its loss."""
    return f"loss {point.teacher_loss:.4f}" if point.is_distilled else "none"


def interval_words(ends: tuple[float, float]) -> str:
    """Both ends of an interval, nats/token."""
    return f"[{ends[0]:.4f}, {ends[1]:.4f}]"


def prediction_table(predictions: Sequence[Scored]) -> Table:
    """Every prediction, what was measured, and how far the two are apart."""

    def known(value: Callable[[Scored], float | None]) -> Callable[[Scored], float | None]:
        return lambda row: None if isnan(row.measured) else value(row)

    columns = [
        *what_columns(attrgetter("prediction")),
        number("predicted", ".4f", of=attrgetter("prediction.mean")),
        number("interval", interval_words, of=attrgetter("interval"), missing="none"),
        number("measured", ".4f", of=attrgetter("measured")),
        number("seeds", of=lambda row: row.num_seeds or None),
        number("error", "+.4f", of=known(attrgetter("error"))),
        number("%", "+.2f", of=known(lambda row: 100 * row.share)),
        number("z", "+.1f", of=known(attrgetter("z"))),
        number("beyond", lambda factor: f"x{factor:.3g}", of=attrgetter("factor_beyond")),
        text("", of=_outcome),
    ]
    return Table.of(columns, sorted(predictions, key=_order))


def _order(row: Scored) -> tuple[object, ...]:
    p, point = row.prediction, row.prediction.point
    return p.quantity != "loss", p.by, point.params, point.tokens, point.teacher_loss or 99.0


def _outcome(row: Scored) -> str:
    if not row.counts:
        return f"{row.status}{': ' + row.problem if row.problem else ''}"
    return {None: "no interval", True: "hit", False: "MISS"}[row.is_hit()]


def sum_tables(card: Scorecard) -> Mapping[str, Table]:
    """The sums by title: by forecaster, by distance, calibration, decisions; empty ones are left out."""
    rows = card.predictions
    tables = {
        "By forecaster": Table.of(_FORECASTERS, scorecard.by_forecaster(rows)),
        "By distance": Table.of(_DISTANCES, scorecard.by_distance(rows)),
        "Calibration": Table.of(_CALIBRATION, scorecard.calibration(rows)),
        "Decisions": Table.of(_DECISIONS, scorecard.decisions(rows, card.choices)),
    }
    return {title: table for title, table in tables.items() if table.rows}


def _distance(entry: dict[str, Any]) -> str:
    if entry["to"] == 1.0:
        return "inside"
    return f"x{entry['from']:g} to x{entry['to']:g}" if entry["to"] else f"more than x{entry['from']:g}"


def _hundredths(spec: str) -> Callable[[float], str]:
    return lambda share: format(100 * share, spec)


_SHARE, _BIAS = _hundredths(".2f"), _hundredths("+.2f")


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _wilson(ends: tuple[float, float]) -> str:
    return f"{100 * ends[0]:.0f} to {100 * ends[1]:.0f} %"


def _bins(entry: dict[str, Any]) -> str:
    return ", ".join(f"{b['said']:.0%}: {b['came']:.0%} of {b['num']}" for b in entry["calibration"])


_FORECASTERS = [
    text("by", of=attrgetter("by")),
    text("of", of=attrgetter("quantity")),
    number("cells", of=attrgetter("num")),
    number("rms error", ".4f", of=attrgetter("rms")),
    number("rms %", _SHARE, of=attrgetter("rms_share")),
    number("bias %", _BIAS, of=attrgetter("bias_share")),
    number("hits", of=lambda one: f"{one.hits}/{one.num_intervals}"),
    number("coverage", _percent, of=attrgetter("coverage")),
    number("90 % Wilson", _wilson, of=attrgetter("coverage_interval")),
    number("width %", _SHARE, of=attrgetter("width_share")),
    number("interval score %", _SHARE, of=attrgetter("interval_score")),
]
_DISTANCES = [
    text("by", of=itemgetter("by")),
    text("beyond the runs fitted", of=_distance),
    number("losses", of=itemgetter("num")),
    number("rms %", _SHARE, of=itemgetter("rms_share")),
    number("bias %", _BIAS, of=itemgetter("bias_share")),
    number("coverage", _percent, of=itemgetter("coverage")),
]
_CALIBRATION = [
    text("by", of=itemgetter("by")),
    text("of", of=itemgetter("quantity")),
    number("nominal", _percent, of=itemgetter("level")),
    number("obtained", _percent, of=itemgetter("obtained")),
    number("90 % Wilson", _wilson, of=itemgetter("interval")),
    number("predictions", of=itemgetter("num")),
]
_DECISIONS = [
    text("question", of=itemgetter("question")),
    text("by", of=itemgetter("by")),
    number("right", of=lambda entry: f"{entry['right']}/{entry['num']}"),
    number("Brier", ".3f", of=itemgetter("brier")),
    number("regret, nats", ".4f", of=itemgetter("regret")),
    text("said: came", of=_bins),
]
