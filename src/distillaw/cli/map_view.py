"""A map as text: a dozen of its cells in a table, so that a terminal is enough."""

from collections.abc import Callable

import numpy as np

from distillaw.planning.maps import Axis, GridMap
from distillaw.quantities import format_count

_ROWS, _COLUMNS, _LINES = 9, 8, 13
"""What 80 columns and half a screen hold."""
_WIDEST = 25
"""Cells along an axis that are printed where a size was asked for."""
Show = Callable[[float], str]


def _nats(value: float) -> str:
    return f"{value:z.3f}"


def _signed(value: float) -> str:
    return f"{value:+z.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _count(value: float) -> str:
    return format_count(value, digits=2) if value < 1e15 else f"{value:.0e}".replace("e+", "e")


_TABLES: dict[str, tuple[tuple[str, Show], ...]] = {
    "gain": (("gain", _signed),),
    "teacher": (
        ("teacher_loss", _nats),
        ("teacher_params", _count),
        ("teacher_tokens", _count),
        ("gain", _signed),
    ),
}
_LISTS: dict[str, tuple[tuple[str, Show], ...]] = {
    "allocation": (
        ("student_share", _percent),
        ("logits_share", _percent),
        ("teacher_share", _percent),
        ("teacher_params", _count),
        ("teacher_tokens", _count),
        ("student_tokens", _count),
        ("student_loss", _nats),
        ("gain", _signed),
    ),
    "teacher-size": (
        ("teacher_loss", _nats),
        ("student_loss", _nats),
        ("student_loss_lowest", _nats),
        ("student_loss_highest", _nats),
        ("supervised_loss", _nats),
    ),
}


def text_map(found: GridMap, *, whole: bool = False) -> str:
    """The map as text.

    Args:
        found: any kind.
        whole: print every cell, up to 25 along an axis, instead of a dozen.
    """
    laws = found.meta["laws"]
    assert isinstance(laws, list)
    lines = [found.title, f"laws: {', '.join(laws)}"]
    if "scenario" in found.meta:
        lines.append(f"scenario: {found.meta['scenario']}")
    body = _list(found, whole) if found.y is None else _tables(found, whole)
    notes = (
        []
        if not whole or max(found.shape) <= _WIDEST
        else [f"{_WIDEST} cells along an axis are shown; --json has all"]
    )
    notes += ["* outside the range in which the laws were fitted"] if not found.inside_range.all() else []
    if "flat" in found.meta:
        notes.append(_flat(found))
    return "\n".join([*lines, "", *body, "", *notes])


def _tables(found: GridMap, whole: bool) -> list[str]:
    assert found.y is not None
    most = (_WIDEST, _WIDEST) if whole else (_ROWS, _COLUMNS)
    rows, columns = (_some(count, limit) for count, limit in zip(found.shape, most, strict=True))
    lines: list[str] = []
    for name, show in _TABLES[found.kind]:
        layer = found.layers[name]
        head = ["", *(_coordinate(found.x, j) for j in columns)]
        table = [head]
        for i in rows[::-1]:
            cells = [_cell(layer.values[i, j], bool(found.inside_range[i, j]), show) for j in columns]
            table.append([_count(found.y.values[i]), *cells])
        lines += [
            f"{layer.label}, {layer.unit}; {found.y.label} down, {found.x.label} across",
            *_aligned(table),
            "",
        ]
    return lines[:-1]


def _list(found: GridMap, whole: bool) -> list[str]:
    shown = _LISTS[found.kind]
    table = [[found.x.label, *(found.layers[name].label for name, _ in shown)]]
    for j in _some(found.shape[0], _WIDEST if whole else _LINES):
        inside = bool(found.inside_range[j])
        cells = [_cell(found[name][j], True, show) for name, show in shown]
        table.append([_coordinate(found.x, j) + ("" if inside else "*"), *cells])
    return _aligned(table)


def _flat(found: GridMap) -> str:
    flat, best = found.meta["flat"], found.meta["best_teacher_params"]
    assert isinstance(flat, dict) and isinstance(best, float)
    low = "the smallest here" if flat["is_open_below"] else format_count(flat["lower"])
    high = "the largest here" if flat["is_open_above"] else format_count(flat["upper"])
    return f"best teacher {format_count(best)}; {low} to {high} are within {100 * flat['within']:g} % of it"


def _cell(value: float, inside: bool, show: Show) -> str:
    return "-" if not np.isfinite(value) else show(float(value)) + ("" if inside else "*")


def _coordinate(axis: Axis, j: int) -> str:
    value = float(axis.values[j])
    return f"{value:.1e}".replace("e+", "e") if axis.unit == "FLOP" else _count(value)


def _some(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _aligned(table: list[list[str]]) -> list[str]:
    """Columns as wide as they must be, numbers to the right."""
    widths = [max(len(row[j]) for row in table) for j in range(len(table[0]))]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
