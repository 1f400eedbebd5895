"""What the page says would change the answer: each found again by asking the page the changed question."""

import numpy as np
import pytest

from random_questions import changed, random_question

pytestmark = pytest.mark.slow

_ASK = """q => { try { return distillaw.plan(q).verdict; } catch (error) { return `refused: ${error.message}`; } }"""


def on_page(asked):
    """The page has no losses of named teachers."""
    return {key: value for key, value in asked.items() if key != "losses"}


def test_every_change_named_gives_the_verdict_promised(open_page, planner):
    page = open_page(planner)
    rng = np.random.default_rng(1)
    found = {}
    for _ in range(500):
        asked = random_question(rng)
        now = page.evaluate(_ASK, on_page(asked))
        if now.startswith("refused"):
            continue
        for flip in page.evaluate("q => distillaw.flips(q)", on_page(asked)):
            then = page.evaluate(_ASK, on_page(changed(asked, flip)))
            assert then == flip["verdict"] != now, (asked, flip, then)
            found[flip["input"]] = found.get(flip["input"], 0) + 1
    assert set(found) >= {
        "tokens",
        "compute",
        "student_params",
        "students_served",
        "scenario",
        "teacher_loss",
        "teacher",
    }


def test_a_flip_by_teacher_loss_is_one(open_page, planner):
    """The page's own example: a flip at 1.900 that was none."""
    page = open_page(planner)
    asked = {
        "student": "1B",
        "budget": "100B",
        "named": [],
        "own": [{"params": "6.98B", "tokens": "15T", "loss": "2.3"}],
    }
    flips = page.evaluate("q => distillaw.flips(q)", asked)
    now = page.evaluate(_ASK, asked)
    for flip in flips:
        then = page.evaluate(_ASK, changed(asked | {"losses": []}, flip))
        assert then == flip["verdict"] != now, flip
