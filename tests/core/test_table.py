"""One table, four ways to read it."""

import math
from operator import attrgetter
from types import SimpleNamespace

import pytest

from distillaw.table import Column, Table, number, text

LOSSES = Table(
    [
        text("strategy"),
        number("loss", ".3f", unit="nats/token"),
        number("tokens", lambda tokens: f"{tokens / 1e9:g}B", missing="unknown"),
        text("what it is"),
    ],
    [["pretrain", 2.53, 6e9, "words " * 30], ["distil | two", math.nan, None, "<short>"]],
    note="means over seeds",
)


def test_text_is_aligned_and_has_no_blanks_at_the_end():
    head, first, second, note = LOSSES.lines()
    assert head == "strategy      loss, nats/token   tokens  what it is"
    assert first.startswith("pretrain                 2.530       6B  words words")
    assert second == "distil | two                    unknown  <short>"
    assert note == "means over seeds"
    assert [line[:2] for line in LOSSES.lines(indent=2)] == ["  "] * 4


@pytest.mark.parametrize("width", [60, 72, 80, 120])
def test_text_fits_the_width_and_keeps_numbers_and_words_whole(width):
    lines = LOSSES.lines(width)
    assert max(map(len, lines)) <= width
    assert sum(line.split().count("words") for line in lines) == 30
    assert sum("2.530" in line.split() for line in lines) == 1


def test_where_columns_have_no_room_words_stand_above_their_numbers():
    lines = LOSSES.lines(50)
    assert lines[:4] == [
        "strategy, what it is",
        "  loss, nats/token   tokens",
        "pretrain",
        "             2.530       6B",
    ]
    assert lines[-3:] == ["distil | two, <short>", "                    unknown", "means over seeds"]


def test_headings_are_marked_and_wide_characters_take_two_columns():
    lines = Table([text("name"), number("n")], [["日本", 1], ["abcd", 22]]).lines(mark=str.upper)
    assert lines == ["NAME   N", "日本   1", "abcd  22"]


def test_html_is_escaped_and_sorts_by_value():
    found = LOSSES.html(attributes=' id="t"')
    assert found.startswith('<table id="t">') and found.count("<tr>") == 3
    assert '<td class="number" data-sort="2.53">2.530</td>' in found
    assert '<td class="number" data-sort="Infinity">unknown</td>' in found  # what is missing comes last
    assert '<td class="text">&lt;short&gt;</td>' in found
    assert "style=" not in found and 'style="padding' in LOSSES.notebook()


def test_markdown_keeps_its_columns():
    head, rule, _, last = LOSSES.markdown().splitlines()
    assert head == "| strategy | loss, nats/token | tokens | what it is |"
    assert rule == "| --- | ---: | ---: | --- |"
    assert last == r"| distil \| two |  | unknown | <short> |"


def test_rows_of_objects_and_sort_keys():
    gain = SimpleNamespace(mean=0.5, words="0.5 to 1")
    columns = [number("gain", lambda v: v.words, of=attrgetter("gain"), sort=attrgetter("mean"))]
    table = Table.of(columns, [SimpleNamespace(gain=gain), SimpleNamespace(gain=None)])
    assert table.texts == [["0.5 to 1"], [""]]
    assert 'data-sort="0.5">0.5 to 1<' in table.html()


def test_a_row_of_another_length_is_a_fault():
    with pytest.raises(ValueError, match="zip"):
        Table([Column("one")], [[1, 2]]).lines()


def test_what_is_missing_in_the_sorting_value_comes_last_too():
    column = number("closed", str, sort=lambda row: row["closed"])
    table = Table.of([column], [{"closed": None}, {"closed": -1.0}])
    assert 'data-sort="Infinity"' in table.html() and 'data-sort="-1.0"' in table.html()
