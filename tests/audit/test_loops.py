"""Training loops: every injected bug is found for its own reason, and designs are not flagged."""

import pytest

from benchmarks.audit.injected_fresh import FRESH, FRESH_DESIGNS
from benchmarks.audit.injected_loops import LOOP_DESIGNS, OPEN_LOOPS, OWN_LOOPS, CleanLoop, InjectedLoop
from distillaw.audit.findings import PROPERTIES
from distillaw.audit.loops import LoopTarget, audit_runs
from thinned import one_in


def verdicts(injected) -> dict[str, set[str]]:
    found = audit_runs(LoopTarget(injected.loop(), injected.contract()), injected.name)
    return {
        verdict: {name for name in PROPERTIES if found.verdict(name) == verdict}
        for verdict in ("wrong", "differs", "right")
    }


@pytest.mark.parametrize("injected", one_in(3, OPEN_LOOPS + OWN_LOOPS), ids=lambda injected: injected.name)
def test_a_bug_is_found_for_its_own_reason(injected):
    found = verdicts(injected)
    assert found["wrong"] & set(injected.properties), found
    assert not found["wrong"] - set(injected.properties), found


@pytest.mark.parametrize("injected", one_in(3, LOOP_DESIGNS), ids=lambda injected: injected.name)
def test_a_declared_design_is_not_flagged(injected):
    found = verdicts(injected)
    assert not found["wrong"] | found["differs"]
    assert {"accumulation", "teacher-state", "student-state", "schedule", "optimizer", "data"} <= found["right"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "injected", [i for i in FRESH + FRESH_DESIGNS if isinstance(i, InjectedLoop)], ids=lambda injected: injected.name
)
def test_what_was_written_afterwards(injected):
    found = verdicts(injected)
    assert bool(found["wrong"] & set(injected.properties)) == bool(injected.properties), found
    assert injected.properties or not found["differs"]


def test_a_clean_loop_is_looked_at_in_every_way():
    clean = next(injected for injected in LOOP_DESIGNS if injected.loop is CleanLoop)
    assert {"resume", "distributed", "value"} <= verdicts(clean)["right"]
