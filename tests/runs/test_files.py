"""What a file may be replaced by, and what is said where it may not."""

import errno
import json
import os

import pytest

from distillaw.errors import RunError
from distillaw.evaluate.benchmarks import _rows
from distillaw.evaluate.chat import read_questions
from distillaw.runs.files import append_json_lines, disk_error, read_json_lines, write_text
from distillaw.runs.places import claim_folder
from distillaw.runs.table import read_columns


def test_a_link_is_kept_and_its_file_replaced(tmp_path):
    link = tmp_path / "link"
    claim_folder(tmp_path / "ours")
    file = tmp_path / "ours" / "file"
    file.write_text("old")
    link.symlink_to(file)
    write_text(link, "new")
    assert link.is_symlink() and file.read_text() == "new"


@pytest.mark.parametrize(("make", "words"), [(os.mkfifo, "not a file"), (os.mkdir, "a folder")])
def test_what_is_no_file_is_never_replaced(tmp_path, make, words):
    make(tmp_path / "there")
    before = (tmp_path / "there").lstat()
    (tmp_path / "link").symlink_to("there")
    for name in ("there", "link"):
        with pytest.raises(RunError, match=words):
            write_text(tmp_path / name, "text")
    assert (tmp_path / "there").lstat().st_ino == before.st_ino
    assert sorted(os.listdir(tmp_path)) == ["link", "there"]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "Free space"), (errno.EROFS, "Choose another place"), (errno.ENOTDIR, "Give a file name")],
)
def test_advice_fits_what_happened(tmp_path, number, words):
    said = str(disk_error(tmp_path, OSError(number, os.strerror(number))))
    assert words in said and said.count(". ") == 1


def test_a_break_of_unicode_in_a_text_does_not_break_a_log(tmp_path):
    rows = [{"answer": "a\u2028b\x85c\u2029d\ne"}, {"answer": "next"}]
    append_json_lines(tmp_path / "log.jsonl", rows)
    append_json_lines(tmp_path / "log.jsonl", rows[1:])
    assert read_json_lines(tmp_path / "log.jsonl") == [*rows, rows[1]]


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', "null"])
def test_a_torn_row_ends_what_counts_and_not_what_people_read(tmp_path, torn):
    file = tmp_path / "log.jsonl"
    file.write_text(f'{{"step": 1}}\n{torn}\n{{"step": 3}}\n')
    assert read_json_lines(file) == [{"step": 1}]
    assert read_json_lines(file, past_torn=True) == [{"step": 1}, {"step": 3}]


@pytest.mark.parametrize(
    "read",
    [
        read_json_lines,
        lambda file: [turn for question in read_questions(file) for turn in question.turns],
        lambda file: read_columns(file)["question_id"],
        lambda file: list(_rows(None, file)),
    ],
)
def test_a_break_of_unicode_in_a_row_of_others_ends_no_row(tmp_path, read):
    """Other programs, and logs of earlier versions, leave such characters as they are in JSON."""
    rows = [{"question_id": f"{i}", "turns": [f"say\u2028{i}\x85"]} for i in range(3)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert len(read(file)) == 3


def test_what_was_logged_is_on_disk_before_what_comes_after_it(tmp_path, monkeypatch):
    """A checkpoint that is must not outlive the log of its epochs where the machine loses its power."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    append_json_lines(tmp_path / "log.jsonl", [{"epoch": 1}])
    assert synced == [(tmp_path / "log.jsonl").stat().st_size]
