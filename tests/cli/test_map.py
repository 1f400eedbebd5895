"""`distillaw map` through the console script."""

import json
import shlex

import numpy as np
import pytest

from in_process import answer as distillaw


@pytest.mark.parametrize(
    "args", [("gain",), ("teacher", "--size", "5"), ("allocation", "--student", "1B", "--size", "9")]
)
def test_every_kind_prints_a_table_and_its_doubts(args):
    done = distillaw("map", *args, code=0)
    assert "surrogate-s1, surrogate-s2, surrogate-s3" in done.stdout
    assert "Not published" in done.stderr
    assert "* outside the range" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith(f"next: distillaw map {args[0]}")


def test_the_printed_law_is_flagged_loudly():
    done = distillaw("map", "gain", "--law", "busbridge2025", "--size", "4")
    assert done.returncode == 0 and "DO NOT PLAN WITH THIS MAP" in done.stderr
    answer = json.loads(distillaw("map", "gain", "--law", "busbridge2025", "--size", "4", "--json").stdout)
    assert answer["warnings"][0].startswith("DO NOT PLAN")


def test_a_size_that_was_asked_for_is_printed_whole():
    done = distillaw("map", "gain", "--size", "5x9")
    title = next(i for i, line in enumerate(done.stdout.splitlines()) if line.startswith("gain of"))
    table = done.stdout.split("\n\n")[1].splitlines()[1:]
    assert title and [len(line.split()) for line in table] == [9, *5 * [10]]
    assert "+0.000*" in done.stdout and "-0.000" not in done.stdout


def test_json_holds_the_cells():
    answer = json.loads(distillaw("map", "gain", "--teacher-loss", "2.2", "--size", "4x6", "--json").stdout)
    assert answer["schema_version"] == 1 and answer["kind"] == "gain"
    cells = answer["cells"]
    assert np.shape(cells["gain"]) == (4, 6) == np.shape(cells["inside_range"])
    assert cells["student_params"][0] == pytest.approx(1e8) and len(cells["student_tokens"]) == 6


def test_out_writes_files_and_the_next_command_works(tmp_path):
    first = distillaw(*"map teacher --scenario inference --max-teacher-tokens 10T --size 4".split(), cwd=tmp_path)
    again = shlex.split(first.stdout.rstrip().splitlines()[-1].removeprefix("next: distillaw "))
    done = distillaw(*again, "--size", "12", "--json", cwd=tmp_path, code=0)
    names = sorted(path.name for path in (tmp_path / "maps").glob("[!.]*"))
    assert names == [f"teacher-inference.{ending}" for ending in ("csv", "json", "npz", "png", "svg")]
    answer = json.loads(done.stdout)
    assert len(answer["files"]) == 5 and "cells" not in answer
    assert answer["layers"]["teacher_tokens"]["highest"] == pytest.approx(1e13)
    meta = json.loads((tmp_path / "maps" / "teacher-inference.json").read_text())
    assert meta["delta_lgt"] == 1.0 and meta["axes"]["x"]["unit"] == "FLOP"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("gain", "--tokens", "1B"), "range of two numbers"),
        (("gain", "--student", "1B..1M"), "smaller one"),
        (("gain", "--student", "1x..1B"), "cannot read"),
        (("gain", "--compute", "1e19..1e20"), "a map of kind gain takes --student"),
        (("gain", "--teacher-params", "7B"), "both --teacher-params and --teacher-tokens"),
        (("teacher", "--scenario", "inferense"), "did you mean 'inference'"),
        (("gain", "--teacher-loss", "0.1"), "irreducible loss of these laws"),
        (("gain", "--teacher-loss", "1e9"), "--teacher-loss = 1e+09: more than 14 nats/token"),
        (("gain", "--tokens", "1..1e30"), "more than 1e+20 tokens"),
        (("teacher", "--max-teacher-tokens", "1"), "allow more than that"),
        (("teacher", "--size", "1e3"), "rows x columns"),
        (("teacher", "--size", "100000x100000"), "cells"),
        (("allocation",), "--student 1B"),
        (("allocation", "--student", "1B..2B"), "not the range"),
        (("gain", "--law", "hoffmann2022"), "no distillation part"),
        (("gain", "--law", "surrogate-s4"), "did you mean"),
    ],
)
def test_bad_input_gets_one_clear_line(args, words):
    done = distillaw("map", *args)
    assert done.returncode == 2 and words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
