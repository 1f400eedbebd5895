"""`distillaw toys` through the console script."""

import csv
import json
from functools import partial

import pytest

from in_process import answer as in_process

TINY = (*"--num-classes 2 --students 4 --teacher-widths 4 6 --long-width 4 --teacher-steps 10 20 --trials 2".split(),)


toys = partial(in_process, "toys")


def test_kernel_as_text_json_and_files(tmp_path):
    done = toys("kernel")
    assert done.returncode == 0 and "1.235 n" in done.stdout and "flat n to m*" in done.stdout
    done = toys(
        *"kernel --json --size 60 --teacher-budget 2 --student-budget 1.8 --students 20 30 --out".split(), str(tmp_path)
    )
    answer = json.loads(done.stdout)
    assert answer["schema_version"] == 1 and [row["n"] for row in answer["students"]] == [20, 30]
    row = answer["students"][0]
    assert row["error_at_n"] < min(row["error_at_one"], row["error_at_last"]) and row["flat_until"] >= 20
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["kernel.csv", "kernel.png", "kernel.svg"]
    with (tmp_path / "kernel.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 60 and float(rows[19]["student_error"]) == row["error_at_n"]
    first = (tmp_path / "kernel.svg").read_bytes()
    assert b"<svg" in first and b"xmlns" in first
    toys(*"kernel --size 60 --teacher-budget 2 --student-budget 1.8 --students 20 30 --out".split(), str(tmp_path))
    assert (tmp_path / "kernel.svg").read_bytes() == first


def test_a_target_below_the_published_students_says_what_was_typed():
    done = toys("kernel", "--size", "20")
    assert done.returncode == 2 and "--size 20" in done.stderr and "--students" in done.stderr
    small = "kernel --size 20 --students 3 5 --teacher-budget 2 --student-budget 1.8"
    assert toys(*small.split()).returncode == 0


@pytest.mark.slow
def test_mapping_as_text_json_and_files(tmp_path):
    done = toys("mapping", *TINY, "--json", "--out", str(tmp_path), code=0)
    answer = json.loads(done.stdout)
    assert answer["schema_version"] == 1 and answer["grid"]["students"] == [4]
    assert [(curve["axis"], len(curve["student_loss"])) for curve in answer["curves"]] == [("width", 2), ("steps", 2)]
    assert len(answer["outcomes"]) == 2 * 5 and "about" in done.stderr
    with (tmp_path / "mapping.csv").open() as file:
        losses = [float(row["student_loss"]) for row in csv.DictReader(file)]
    assert losses == [row["student_loss"] for row in answer["outcomes"]]
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["mapping.csv", "mapping.png", "mapping.svg"]
    again = toys("mapping", *TINY, "--json", "--workers", "1")
    assert json.loads(again.stdout)["outcomes"] == answer["outcomes"]  # whatever the number of processes
    text = toys("mapping", *TINY[:-1], "1").stdout
    assert "unknown" in text and "+- ?" in text and "student of 4" in text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("kernel", "--student-budget", "6"), "give D <= T"),
        (("kernel", "--students", "-3"), "--students"),
        (("kernel", "--students", "2.5"), "whole number"),
        (("kernel", "--size", "-4"), "--size"),
        (("kernel", "--size", "100000000"), "at most 1000000"),
        (("kernel", "--seed", "-1"), "seed"),
        (("mapping", "--num-classes", "1"), "give 2 to 10"),
        (("mapping", "--students", "9", "5"), "rising whole numbers"),
        (("mapping", "--students", "100000"), "widths up to 4096"),
        (("mapping", "--workers", "-1"), "--workers"),
        (("mapping", "--sampler", "fair"), "sampler"),
    ],
)
def test_bad_input(args, words):
    done = toys(*args)
    assert done.returncode == 2 and words in done.stderr + done.stdout and "Traceback" not in done.stderr
