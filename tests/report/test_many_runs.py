"""Reports of tables that nobody can draw: they show a part, say which, and look at no run more often for that."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import distillaw as dl
from distillaw.controls import law_checks
from distillaw.fitting.expected import expect
from distillaw.planning.measured import design_points
from distillaw.report.document import MOST_SIZES
from distillaw.runs.record import MOST_SHOWN, Run, read_study
from in_process import answer


def _imported(folder: Path, sizes: np.ndarray, seeds: int) -> Path:
    """Students of each size alone and from two teachers without runs of their own, so many seeds of each."""
    law, rng, rows = (
        dl.published("busbridge2025"),
        np.random.default_rng(0),
        ["run,params,tokens,loss,seed,teacher_loss"],
    )
    for size in sizes:
        alone = float(law.supervised(params=size, tokens=20 * size))
        for seed in range(seeds):
            for teacher in ("", 0.95 * alone, 0.9 * alone):
                loss = (0.98 if teacher else 1.0) * alone * np.exp(rng.normal(0, 0.003))
                rows.append(f"run-{len(rows)},{size:.0f},{20 * size:.0f},{loss:.6f},{seed},{teacher}")
    folder.mkdir()
    (folder / "runs.csv").write_text("\n".join(rows) + "\n")
    assert answer("study", "import", folder / "runs.csv", "--out", folder / "study", "--quiet").returncode == 0
    return folder / "study"


def test_a_report_of_very_many_runs_shows_a_part_and_says_so(tmp_path):
    study = _imported(tmp_path / "many", np.geomspace(1e7, 1e9, 30).round(), seeds=12)
    answer("report", study, code=0)
    page = (study / "report.html").read_text()
    assert "1,080 runs are too many to draw" in page
    assert "1080 finished runs" in page
    assert 100 < len(set(re.findall(r"\brun-\d+\b", page))) <= 1.2 * MOST_SHOWN
    pictured = re.search(r"budget show (\d+) of 30 cells", page)
    assert pictured is not None and int(pictured[1]) <= MOST_SIZES


@pytest.mark.slow
def test_controls_of_very_many_runs_look_at_a_part_and_say_so(tmp_path, monkeypatch):
    """What a control expects of a law takes time that grows with the third power of the runs."""
    study = _imported(tmp_path / "many", np.geomspace(1e7, 1e9, 700).round(), seeds=1)
    looked_at = []
    monkeypatch.setattr(
        law_checks, "expect", lambda law, planned, **how: looked_at.append(planned) or expect(law, planned, **how)
    )
    done = answer("study", "check", study, code=0)
    assert looked_at and max(len(planned.trunk) for planned in looked_at) <= MOST_SHOWN
    assert "of 2,100 runs" in done.stdout
    failed = next(line for line in done.stdout.splitlines() if " failed " in line)
    assert len(failed) < 500, "sizes by the hundred are counted, not listed"


def test_twice_the_runs_are_looked_at_twice_as_often(tmp_path, monkeypatch):
    looks = []
    plain = Run.teacher_run
    monkeypatch.setattr(Run, "teacher_run", property(lambda run: looks.append(run) or plain.fget(run)))
    counts = []
    for sizes in (40, 80):
        study = _imported(tmp_path / str(sizes), np.geomspace(1e7, 1e9, sizes).round(), seeds=1)
        record = read_study(study)
        looks.clear()
        assert len(design_points(record)) == sizes
        counts.append(len(looks))
    assert counts[1] <= 2.2 * counts[0], counts


@pytest.mark.slow
def test_the_verdict_is_about_the_largest_cell_of_all_not_of_those_drawn(tmp_path):
    """A grid at 20 tokens per parameter, and one size beyond it that was run at fewer, so that its compute is usual."""
    study = _imported(tmp_path / "grid", np.geomspace(1e7, 1e9, 500).round(), seeds=1)
    table = (tmp_path / "grid" / "runs.csv").read_text()
    for tokens in np.geomspace(3e8, 3e9, 9).round():
        more = "".join(
            f"big-{taught},2000000000,{tokens:.0f},{2.9 - 0.1 * bool(taught)},0,{taught}\n" for taught in ("", 2.5, 2.6)
        )
        (tmp_path / "grid" / "runs.csv").write_text(table + more)
        assert answer("study", "import", tmp_path / "grid" / "runs.csv", "--out", study).returncode == 0
        drawn = read_study(study).thinned()
        if 2 * 10**9 not in drawn.students_by_size:
            break
    else:
        raise AssertionError("the largest size was drawn every time")
    assert answer("report", study).returncode == 0
    verdict = json.loads((study / "verdict.json").read_text())
    assert verdict["strategies"][0]["student_params"] == 2 * 10**9
    assert "about its largest pair of runs (2B student)" in verdict["note"]
