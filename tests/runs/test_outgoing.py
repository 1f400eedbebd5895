"""Names of other people on their way to terminals, pages, figures and spreadsheets."""

import csv
import io

import pytest

from distillaw.runs.files import cell, csv_text, plain


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "\x9b31m", "a\rb", "\u202eexe.txt", "\ud800", "\x00", "\u2028"])
def test_what_is_no_visible_character_is_spelt_out(text):
    shown = plain(text)
    assert shown.isprintable() and "\\" in shown
    shown.encode("utf-8")


@pytest.mark.parametrize("text", ["plain", "naïve 三 👩\u200d💻 \u00ad", "two\nlines\tand a tab", "", "$x^2$ <b>"])
def test_what_can_be_seen_stays(text):
    assert plain(text) == text


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", " =1", "\r=1", "-", "-x"])
def test_no_cell_is_a_formula(text):
    assert str(cell(text))[0] == "'"


@pytest.mark.parametrize("value", ["-0.5", "+3", "-1e-05", "-inf", "0.2", "a=b", "", -0.5, 3, None, True])
def test_numbers_and_names_stay(value):
    assert cell(value) is value or cell(value) == value


def test_a_table_is_what_it_was():
    rows = [{"=name": "-x", "loss": -0.5, "n": 3}, {"=name": 'a,"b', "loss": "-1e-3", "n": ""}]
    found = list(csv.reader(io.StringIO(csv_text(rows))))
    assert found == [["'=name", "loss", "n"], ["'-x", "-0.5", "3"], ['a,"b', "-1e-3", ""]]
