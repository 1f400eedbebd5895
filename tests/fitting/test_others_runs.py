"""The table of docs/fitting.md from a folder that we have not made: what cannot be used is said, the rest is judged."""

import json
import sys

import numpy as np
import pytest

from benchmarks.fits import extrapolation
from benchmarks.fits.lawruns import read_folder, trials

SIZES, RATIOS = np.geomspace(2e7, 2e9, 7), np.geomspace(5, 200, 6)


def loss(N, D):
    """Of an ordinary law."""
    return 1.7 + 400 / N**0.34 + 410 / D**0.28


def rows(noise=0.003):
    """A grid of runs with noise."""
    rng = np.random.default_rng(1)
    return [(n, n * r, loss(n, n * r) * np.exp(noise * rng.normal())) for n in SIZES for r in RATIOS]


def write(path, head, lines):
    """A CSV file."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([head, *(",".join(str(x) for x in line) for line in lines)]) + "\n")


@pytest.fixture
def folder(tmp_path):
    """Two collections that can be judged among files that cannot."""
    write(tmp_path / "texts" / "runs.csv", "Params,Tokens,Val_Loss,text", [(*r, "web") for r in rows()])
    damaged = [("", 1e9, 3), (1e8, "inf", 3), (-1e8, 1e9, 3), (1e8, 1e9, "diverged"), (1e8, 1e9, "nan")]
    written = [(f"{n / 1e6:.0f}M", 6 * n * d, y) for n, d, y in rows()]
    write(tmp_path / "compute" / "runs.csv", "N,C,loss", [*written, *damaged])
    write(tmp_path / "one level" / "runs.csv", "N,D,loss", [(n, 1e19 / n, 3 + k) for k, n in enumerate(range(9, 29))])
    write(tmp_path / "few" / "runs.csv", "N,D,loss", rows()[:9])
    write(tmp_path / "scores" / "runs.csv", "N,D,accuracy", rows())
    write(tmp_path / "scores" / "notes.csv", "who,what", [("a", "b")])
    (tmp_path / "scores" / "empty.csv").touch()
    (tmp_path / "scores" / "picture.csv").write_bytes(bytes(range(256)))
    return tmp_path


def test_files_that_are_no_runs_are_named_with_the_reason(folder, capsys):
    found = {runs.collection: len(runs.N) for runs in read_folder(folder)}
    assert found == {"texts": 42, "compute": 42, "one level": 20}
    said = capsys.readouterr().err
    for words in (
        "compute/runs.csv: 5 of 47 rows left out",
        "few/runs.csv: not used, no set of 16",
        "scores/runs.csv: not used, no column of loss",
        "notes.csv: not used, no column of params",
        "empty.csv: not used, empty",
        "picture.csv: not used, not UTF-8",
    ):
        assert words in said


def test_a_folder_that_is_one_collection_and_what_was_published_as_held_out(tmp_path):
    write(tmp_path / "x_train.csv", "N,D,loss", rows())
    write(tmp_path / "x_test.csv", "tokens,params,extra,loss", [(8e10, 4e9, "a", loss(4e9, 8e10))])
    (runs,) = read_folder(tmp_path)
    assert runs.collection == tmp_path.name
    assert [trial.split for trial in trials(runs)] == ["compute", "size", "tokens", "published"]
    assert runs.N[runs.published] == 4e9 and runs.D[runs.published] == 8e10


def test_one_level_of_compute_is_refused_and_the_others_are_judged(tmp_path, capsys, monkeypatch):
    levels = [(n, d, loss(n, d)) for n in np.geomspace(1e7, 1e9, 8) for d in (1e10, 4e10)]
    write(tmp_path / "two budgets" / "runs.csv", "N,D,loss", levels)
    write(tmp_path / "one level" / "runs.csv", "N,D,loss", [(n, 1e19 / n, 3 + n) for n in range(9, 29)])
    keep = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["extrapolation", "--folder", str(tmp_path), "--out", str(keep)])
    extrapolation.main()
    out, err = capsys.readouterr()
    assert "| two budgets |" in out and "| one level |" not in out
    assert "one level runs, size: refused" in err
    found = json.loads(keep.read_text())
    assert {row["trial"] for row in found["refused"]} == {"one level runs, size", "one level runs, tokens"}


@pytest.mark.parametrize("name", ["few", "nowhere"])
def test_nothing_to_judge_is_one_sentence(folder, monkeypatch, name):
    monkeypatch.setattr(sys, "argv", ["extrapolation", str(folder / name)])
    with pytest.raises(SystemExit, match=r"nothing to judge|no such folder"):
        extrapolation.main()
