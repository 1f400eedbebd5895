"""The report's section on distances, against walks whose law is known."""

import json
import math

import pytest
from synthetic_study import write_study

from distillaw.errors import DataError
from distillaw.figures.batches import walks
from distillaw.large_batch.diffusion import log_steps
from distillaw.report.document import _walk_section, walk_notes, walk_table, walks_picture, write_report
from distillaw.runs.record import read_study
from undrawn import undrawn

PEAK = (10, 800)


def _longest(record):
    """A run of each trunk: that of its largest budget."""
    return list({run.row["group"]: run for run in sorted(record.students, key=lambda r: r.tokens)}.values())


def _write_walk(folder, distance, *, steps=1000):
    rows = [
        {"step": t - 1, "lr": 0.01 if PEAK[0] <= t <= PEAK[1] else 0.005, "total": distance(t)}
        for t in log_steps(steps)
    ]
    (folder / "distances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_norms(folder, *, small, big, grad_sq, trace):
    """Gradient norms whose noise scale is trace / grad_sq, with a little scatter."""
    rows = [
        {
            "step": 20 * i,
            "grad_sq_small": (grad_sq + trace / small) * (1 + 0.01 * math.sin(i)),
            "grad_sq_big": (grad_sq + trace / big) * (1 + 0.01 * math.cos(i)),
            "small_tokens": small,
        }
        for i in range(1, 40)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def record(tmp_path):
    write_study(tmp_path)
    return read_study(tmp_path)


def test_a_study_without_distances_says_so(record):
    assert walks(record) == []
    with pytest.raises(DataError, match="No run kept"):
        walks_picture([])
    assert any("No run kept its distances" in note for note in _walk_section(walks(record)).notes)


def test_fits_are_of_the_peak_rate_alone_and_tell_the_two_laws_apart(record):
    first, second = _longest(record)[:2]
    _write_walk(first.folder, lambda t: 1 + 2 * math.log(t) if PEAK[0] <= t <= PEAK[1] else 50.0)
    _write_walk(second.folder, lambda t: 0.5 * t**0.3)
    found = {walk.run.run_id: walk for walk in walks(record)}
    logs, power = found[first.run_id], found[second.run_id]
    assert logs.constant[0] == 10 and logs.constant[1] in log_steps(1000) and logs.constant[1] <= 800
    assert (logs.fit.better, logs.fit.a, logs.fit.b) == ("log", pytest.approx(1), pytest.approx(2))
    assert (power.fit.better, power.fit.p) == ("power", pytest.approx(0.3))
    notes = walk_notes(list(found.values()))
    assert "in 1 of 2 runs" in notes[0] and len(notes) == 1  # no noise scale, no word of it
    picture = walks_picture(list(found.values()))
    assert "50 after 1000 steps" in picture.alt and "‖w(t) − w(0)‖" in picture.svg


def test_the_noise_scale_comes_with_its_interval(record):
    run = _longest(record)[0]
    _write_walk(run.folder, lambda t: 1 + math.log(t))
    big = run.number("batch_tokens")
    _write_norms(run.folder, small=big / 4, big=big, grad_sq=0.2, trace=0.2 * 5000)
    (walk,) = walks(record)
    assert walk.noise.low < 5000 < walk.noise.high and walk.noise.value == pytest.approx(5000, rel=0.05)
    table = walk_table([walk])
    (noise,) = (row[-1] for row in table.texts)
    assert noise.startswith(("4", "5")) and "[" in noise
    assert "no critical batch" in walk_notes([walk])[1]


def test_the_report_has_the_section(record):
    _write_walk(_longest(record)[0].folder, lambda t: math.log(1 + t))
    with undrawn():
        text = write_report(record.folder).read_text()
    assert "How far the weights went" in text and '<figure id="diffusion"' in text
