"""The table of published outcomes: every row obeys the rules, was asked first, and is counted on its page."""

from dataclasses import replace

import pytest

from benchmarks.outcomes.ask import ANSWERS, PAGE, rows_of
from benchmarks.outcomes.page import answers, counts, page_tables
from distillaw.errors import ConfigError
from distillaw.outcomes.table import KEPT_OUT, faults_of, gain_of, outcome_of, read_outcomes, winner_of

ROWS = read_outcomes()
BY_ID = {row.id: row for row in ROWS}
LOSS = BY_ID["miniplm-1.2B-eqtok"]


def test_every_row_obeys_the_rules():
    assert [row.id for row in ROWS if faults_of(row)] == []
    assert len(BY_ID) == len(ROWS)


def test_gain_and_winner_follow_from_the_values():
    for row in ROWS:
        assert (row.gain is None) == (gain_of(row) is None), row.id
        if row.gain is not None:
            assert row.gain == pytest.approx(gain_of(row), abs=5e-5), row.id
            assert row.winner == winner_of(row), row.id
    assert LOSS.gain == pytest.approx(3.236 - 3.123)
    assert BY_ID["golf-hard"].gain == pytest.approx(0.6931472 * (1.152 - 1.242), abs=5e-5)  # bits to nats
    assert BY_ID["jugnu-r4a"].gain == pytest.approx(-0.1199, abs=1e-4)  # ln of byte perplexities


@pytest.mark.parametrize(
    ("change", "winner"),
    [
        ({"value_a": 3.236 * 0.998}, "tie"),
        ({"value_a": 3.236 * 0.997}, "A"),
        ({"value_a": 3.123, "value_noise": 0.2}, "tie"),
        ({"metric_kind": "task_average", "value_a": 40.4, "value_b": 40.0}, "tie"),
        ({"metric_kind": "task_average", "value_a": 39.4, "value_b": 40.0}, "B"),
    ],
)
def test_ties(change, winner):
    assert winner_of(replace(LOSS, **change)) == winner


@pytest.mark.parametrize(
    "change",
    [
        {"gain": 0.2},
        {"winner": "B"},
        {"source": f"arXiv:{KEPT_OUT[0]}"},
        {"where_seen": f"notes on {KEPT_OUT[-1].lower()}"},
        {"student_params": 1.3e9},
        {"tokens_a": 12.0},
        {"value_b": None},
        {"start": "pruned"},
        {"assumed": ("value_a",)},
        {"comparison": "teacher-a-vs-b"},
        {"unique_tokens": 1e14},
    ],
)
def test_what_may_not_stand_in_the_table(change):
    assert faults_of(replace(LOSS, **change))


def test_a_cell_that_cannot_be_read_is_named():
    with pytest.raises(ConfigError, match=r"here, x: value_a is 'n/a', not a number"):
        outcome_of({"id": "x", "is_primary": "yes", "value_a": "n/a"}, "here")
    with pytest.raises(ConfigError, match="no column of a table of outcomes: lambda"):
        outcome_of({"id": "x", "lambda": "1"}, "here")


def test_rows_of_a_file_take_what_their_source_says(tmp_path):
    path = tmp_path / "rows.toml"
    path.write_text(
        '[[source]]\nsource = "arXiv:1"\nwhere_seen = "here"\nis_primary = true\nkind = "core"\nstart = "random"\n'
        'comparison = "distil-vs-pretrain-equal-tokens"\nmetric = "loss"\nmetric_kind = "nats_per_token"\n'
        'is_complete = true\n[[source.row]]\nid = "one"\nvalue_a = 2.0\nvalue_b = 2.1\n'
    )
    (row,) = rows_of(path)
    assert (row.id, row.source, row.gain, row.winner) == ("one", "arXiv:1", 0.1, "A")


def test_the_planner_was_asked_before_a_row_entered():
    asked = [answer.id for answer in answers(ANSWERS)]
    assert [row.id for row in ROWS if row.id not in asked] == []
    assert len(set(asked)) == len(asked), "an answer is recorded once"


def test_the_page_counts_what_is_in_the_table():
    page = PAGE.read_text(encoding="utf-8")
    assert counts(ROWS) in page
    for name, table in page_tables(ROWS, answers(ANSWERS)).items():
        assert f"<!-- table {name} -->\n{table}\n<!-- end -->" in page, name


def test_sources_kept_out_are_named_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    assert [source for source in KEPT_OUT if source not in page] == []
