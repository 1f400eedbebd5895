"""The inputs of the page: the fields of `PlanQuestion` that it asks about, what they are called and what they take."""

from collections.abc import Sequence
from dataclasses import Field, fields
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from distillaw.accounting.family import PAPER_CONTEXT
from distillaw.accounting.hardware import hardware_presets
from distillaw.planning.question import OptionHelp, PlanQuestion

BUDGETS = {
    "tokens": {"usual": "20B", "low": 1e5, "high": 1e14, "unit": "tokens", "name": "tokens"},
    "compute": {"usual": "1e21", "low": 1e11, "high": 1e26, "unit": "FLOP", "name": "compute (FLOP)"},
    "device-hours": {"usual": "500", "low": 1, "high": 1e8, "unit": "hours", "name": "device-hours"},
    "money": {"usual": "2000", "low": 10, "high": 1e9, "unit": "US dollars", "name": "money (US dollars)"},
}
"""The four budgets: an amount to begin with, and the ends of the slider, from a pocket study to the largest runs."""
_ASKED_OTHERWISE = (*BUDGETS, "teacher", "teacher-params", "teacher-tokens", "teacher-loss", "train-teacher")
"""Options for which the page has inputs of another shape: one budget of a kind, and a table of teachers."""
_OF_COMMAND = (
    "study",
    "no-published",
    "delta-lgt",
    "delta-pre",
    "student-loss",
    "distill-weight",
    "schedule",
    "policy",
    "ensemble",
    "temperature",
    "top-k",
    "top-p",
    "divergence",
    "metric",
    "score-at",
)
"""Options that the page does not have."""
_USUAL = {
    "student": "1B",
    "device": "h100-sxm",
    "scenario": "inference",
    "weight-bytes": "2",
    "context": str(PAPER_CONTEXT),
}
"""What is taken where nothing is given; a student, for the page begins with one."""
_BETWEEN = {"mfu": (1e-9, 1), "level": (0.5, 0.999999)}
"""Ends of fractions, as far as an address may say them."""


def question_fields(laws: Sequence[str]) -> list[dict[str, object]]:
    """By field: its option, what it takes (count, positive, fraction, whole, choice, flag), its usual value, choices.

    Args:
        laws: names of those that can be asked first.
    """
    hints = get_type_hints(PlanQuestion, include_extras=True)
    found = [_field(each, hints[each.name]) for each in fields(PlanQuestion)]
    left_out = {*_ASKED_OTHERWISE, *_OF_COMMAND}
    asked = [field for field in found if field is not None and field["option"] not in left_out]
    of_laws = {"kind": "choice", "choices": ["", *laws]}
    return [field | of_laws if field["option"] == "law" else field for field in asked]


def _field(field: Field[Any], hint: Any) -> dict[str, object] | None:
    if get_origin(hint) is not Annotated:
        return None
    taken, asked = get_args(hint)[:2]
    assert isinstance(asked, OptionHelp)
    option = asked.negates or asked.name or field.name.replace("_", "-")
    choices = _choices(option, taken)
    usual = _USUAL.get(option, field.default)
    if isinstance(usual, bool):
        usual = False
    return {
        "option": option,
        "kind": _kind(option, taken, has_choices=choices is not None),
        "usual": usual if isinstance(usual, bool) else "" if usual is None else str(usual),
        "choices": choices,
        "between": _BETWEEN.get(option),
        "help": asked.help,
    }


def _kind(option: str, taken: Any, *, has_choices: bool) -> str:
    types = get_args(taken) if get_origin(taken) in (Union, UnionType) else (taken,)
    if has_choices:
        return "choice"
    if option in _BETWEEN:
        return "fraction"
    kinds = {bool: "flag", int: "whole", str: "count", float: "positive"}
    return next((kind for each, kind in kinds.items() if each in types), "name")


def _choices(option: str, taken: Any) -> list[str] | None:
    if option == "device":
        return list(hardware_presets())
    types = get_args(taken) if get_origin(taken) in (Union, UnionType) else (taken,)
    return next((list(get_args(each)) for each in types if get_origin(each) is Literal), None)
