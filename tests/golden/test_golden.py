"""What the command line said before the house was rebuilt, it says still; changes on purpose are in CHANGELOG.md."""

import json
import math

import pytest
import record
import small

RECORDED = {str(one["call"]): one for one in record.recorded()}


EXACT = 1e-9
"""Of a number, on the arithmetic that it was recorded on."""
ELSEWHERE = 1e-3
"""Searches end at other last digits on other processors: between an AMD EPYC and an Intel Xeon numbers of these answers
differ by up to 1.7e-4 of themselves (the width of an interval calibrated at `--delta 1e-2`)."""
UNDETERMINED = {"fit {open} --law distillation --bootstrap 4 --supervised besiroglu2024"}
"""Its fit ends at a bound with a condition number of 1e7: its two solvers disagree, and so do two processors."""


def _differences(was: object, now: object, where: str = "", tolerance: float = EXACT) -> list[str]:
    """Where two answers differ; numbers by more than the tolerance, relative to themselves."""
    if isinstance(was, dict) and isinstance(now, dict):
        keys = sorted(was.keys() | now.keys())
        return [
            d for key in keys for d in _differences(was.get(key, "-"), now.get(key, "-"), f"{where}.{key}", tolerance)
        ]
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        return [
            d
            for k, (a, b) in enumerate(zip(was, now, strict=True))
            for d in _differences(a, b, f"{where}[{k}]", tolerance)
        ]
    if (
        isinstance(was, float)
        and isinstance(now, (int, float))
        and math.isclose(was, now, rel_tol=tolerance, abs_tol=max(1e-12, 1e-6 * tolerance))
    ):
        return []
    return [] if was == now else [f"{where}: was {was!r}, is {now!r}"]


def test_every_call_is_recorded():
    assert list(RECORDED) == record.invocations()
    assert len(RECORDED) >= 150


def test_a_difference_is_seen():
    was = {"a": [1.0, {"b": "x"}], "c": 2.0}
    assert _differences(was, {"a": [1.0 + 1e-12, {"b": "x"}], "c": 2.0}) == []
    assert _differences(was, {"a": [1.0001, {"b": "y"}]}) == [
        ".a[0]: was 1.0, is 1.0001",
        ".a[1].b: was 'x', is 'y'",
        ".c: was 2.0, is '-'",
    ]


@pytest.mark.parametrize("call", record.invocations())
def test_it_says_what_it_said(call):
    was, now = RECORDED[call], record.ask(call)
    there, here = was["arithmetic"], now["arithmetic"]
    tolerance = EXACT if there == here else math.inf if call in UNDETERMINED else ELSEWHERE
    assert _differences(was, now | {"arithmetic": there}, tolerance=tolerance) == []


def test_a_small_study_and_a_store_hold_what_they_held(tmp_path):
    was, now = json.loads(small.RECORD.read_text()), small.measure(tmp_path)
    assert (now["data_hash"], list(now["losses"])) == (was["data_hash"], list(was["losses"]))
    if now["machine"] == was["machine"]:
        assert now == was
    else:  # other products: rounding grows over a few hundred steps
        for run_id, (purpose, loss, *_) in now["losses"].items():
            assert (purpose, loss) == (was["losses"][run_id][0], pytest.approx(was["losses"][run_id][1], rel=0.02))
