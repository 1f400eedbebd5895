import math
from pathlib import Path

import numpy as np
import pytest
from synthetic_study import World, write_study

from distillaw.errors import DataError
from distillaw.figures.compute import compute_spent, study_searches
from distillaw.figures.fits import fitted_law
from distillaw.figures.losses import draw_gap, teacher_styles
from distillaw.figures.style import new_figure, spread
from distillaw.planning.measured import design_points
from distillaw.quantities import flop_text, power_text
from distillaw.report.document import searches_picture
from distillaw.report.page import to_svg, typeset
from distillaw.report.students import gap_picture, gap_sentences, tokens_picture
from distillaw.report.trust import fits_picture
from distillaw.runs.record import StudyRecord, budget_text, read_study
from distillaw.runs.spec import executed_tokens


@pytest.fixture(scope="module")
def cells(reported):
    return design_points(read_study(reported))


def test_cells_hold_the_means_and_the_paired_gains(reported, cells):
    runs = {run.run_id: run for run in read_study(reported).runs}
    cell = next(c for c in cells if c.label == "0.1M" and c.tokens == 150_000)
    alone = [runs[f"student-0.1M-alone-s{s}-150kt"].loss for s in range(3)]
    taught = [runs[f"student-0.1M-from-0.3M-s{s}-150kt"].loss for s in range(3)]
    found = next(t for t in cell.taught if t.teacher == "0.3M teacher")
    assert cell.alone == pytest.approx(np.mean(alone))
    assert found.loss == pytest.approx(np.mean(taught))
    assert found.gain == pytest.approx(np.mean(alone) - np.mean(taught))
    assert 0.005 < found.half < 0.05
    assert [t.teacher_loss for t in cell.taught] == sorted((t.teacher_loss for t in cell.taught), reverse=True)
    assert sum(t.is_best for t in cell.taught) == 1


def test_loss_pictures_state_every_number_they_draw(reported, cells):
    for picture in (gap_picture(cells), tokens_picture(cells, teacher_styles(read_study(reported)))):
        for cell in cells:
            assert f"{cell.alone:.3f} without a teacher" in picture.alt
            assert all(f"{t.loss:.3f} from the {t.teacher}" in picture.alt for t in cell.taught)
        assert picture.svg.startswith("<svg")
        assert "nats/token" in picture.svg
    for picture in (gap_picture, lambda none: tokens_picture(none, {})):
        with pytest.raises(DataError, match="No student has been run"):
            picture([])


def test_every_column_of_the_capacity_gap_says_what_its_axis_is(tmp_path):
    write_study(tmp_path, World(), skip=("0.1M-alone-s0-600kt",))
    figure = draw_gap(design_points(read_study(tmp_path)))
    shown = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert len(shown) == 3
    assert [bool(ax.get_xlabel()) for ax in shown] == [False, True, True]
    assert [bool(ax.get_ylabel()) for ax in shown] == [True, False, True]


def test_names_of_teachers_do_not_run_through_the_axis(cells):
    figure = draw_gap(cells)
    figure.canvas.draw()
    for ax in figure.axes:
        left = min(text.get_window_extent().x0 for text in ax.texts)
        assert left > ax.bbox.x0


def test_compute_counts_a_trunk_once_and_every_part(reported):
    record = read_study(reported)
    spent = {s.part: s.flop for s in compute_spent(record)}
    # two budgets of one trunk: 0.8 * 600k + 0.2 * (150k + 600k) = 630k tokens executed, not 750k
    assert executed_tokens([150_000, 600_000], 0.2) == pytest.approx(630_000)
    assert executed_tokens([150_000], 0.2) == pytest.approx(150_000)
    runs = {run.run_id: run.number("train_flops") for run in record.runs}
    wanted = 1.05 * (runs["student-0.02M-alone-s0-600kt"] + runs["student-0.1M-alone-s0-600kt"])
    wanted += runs["student-0.1M-alone-s1-150kt"] + runs["student-0.1M-alone-s2-150kt"]
    assert spent["students without a teacher"] == pytest.approx(wanted)
    assert spent["teacher training"] == pytest.approx(sum(f for run, f in runs.items() if run.startswith("teacher")))
    assert set(spent) == {"teacher training", "students without a teacher", "distilled students", "teacher logits"}


def searched(tuning):
    return StudyRecord(folder=Path(), info={}, runs=(), unfinished=(), tuning=tuning, problems=())


def test_the_search_marks_the_chosen_value_and_says_when_it_lies_at_the_edge():
    grid = [{"peak_lr": 0.01 * 2.0**i, "loss": 4.4 - 0.1 * i, "multiplier": 2.0**i, "run_id": "x"} for i in (-1, 0, 1)]
    grid.append({"peak_lr": 0.04, "loss": None, "multiplier": 4.0, "run_id": "diverged"})
    batch = {"grid": [], "best": 1024, "interior": False}
    rate = {"grid": grid, "best": 0.02, "interior": False}
    arm = {"arm": "supervised", "params": 20_000, "batch": batch, "learning_rate": rate}
    picture = searches_picture(study_searches(searched({"arms": [arm]})))
    assert "at the edge" in picture.svg
    assert "Not at an interior lowest value: supervised 20k: peak learning rate 0.02, at the edge." in picture.caption
    arm["learning_rate"]["best"], arm["learning_rate"]["interior"] = 0.01, True
    assert (
        "peak learning rate 0.01, 0.100 above the lowest"
        in searches_picture(study_searches(searched({"arms": [arm]}))).caption
    )
    assert study_searches(searched({"arms": []})) == study_searches(searched({})) == []
    with pytest.raises(DataError, match="ran no search"):
        searches_picture([])


def test_predicted_against_measured_uses_the_fit_s_own_residuals():
    from distillaw.fitting.api import fit

    rng = np.random.default_rng(0)
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(2e4, 1e6, 5), np.geomspace(1e5, 1e7, 5)))
    L = (1.2 + (189 * N**-0.35 + 368 * D**-0.3) ** 0.45) * np.exp(rng.normal(0, 0.003, 25))
    result = fit({"params": N, "tokens": D, "loss": L}, family="chinchilla", bootstrap=0, check=False)
    law = fitted_law("supervised law", result, L)
    assert law.predicted == pytest.approx(result.law.supervised(params=N, tokens=D), rel=1e-9)
    picture = fits_picture([law])
    typical = 100 * math.sqrt(np.mean(np.log(law.predicted / L) ** 2))
    assert f"{typical:.2f} %" in picture.alt
    with pytest.raises(DataError, match="No law is drawn"):
        fits_picture([])


def test_powers_of_ten_are_written_as_people_write_them():
    assert power_text(2.96e11) == "2.96 × 10¹¹"
    assert power_text(1e13) == "10¹³"
    assert flop_text(5.2e-3) == "5.2 × 10⁻³ FLOP"
    assert power_text(0) == "0"
    assert typeset("costs 2.96e11 FLOP, run s1e2f") == "costs 2.96\u00a0×\u00a010¹¹\u00a0FLOP, run s1e2f"
    assert typeset("nothing below 7.68e+06, 0.188 +- 0.009") == "nothing below 7.68\u00a0×\u00a010⁶, 0.188 ± 0.009"
    assert typeset("law: NO_SUPERVISED_LAW: no gain") == "law: no supervised law: no gain"
    assert typeset("DISTILLAW_DISTANCES=never, L_T, S1-S3") == "DISTILLAW_DISTANCES=never, L_T, S1-S3"
    assert typeset("gain -0.3 [-0.4, 0.1], S1-S3, 90 %") == "gain −0.3 [−0.4, 0.1], S1-S3, 90\u00a0%"
    assert [budget_text(n) for n in (79_872, 1_800_192, 125_000, 266_900)] == ["80k", "1.8M", "125k", "267k"]


def test_labels_are_moved_apart_and_keep_their_order():
    placed = spread([1.0, 1.01, 1.02, 3.0], 0.1)
    assert placed == sorted(placed)
    assert np.diff(placed).min() >= 0.1 - 1e-12
    assert np.mean(placed[:3]) == pytest.approx(1.01)
    assert placed[3] == 3.0
    assert spread([2.0, 1.0], 0.1) == [2.0, 1.0]


def test_a_figure_is_the_same_twice_and_carries_no_date():
    def draw():
        figure, axes = new_figure(1, 1, width=2, height=2)
        axes[0][0].plot([0, 1], [0, 1])
        return to_svg(figure, name="x", alt="a line")

    assert draw() == draw()
    assert "20" + "26-" not in draw()
    assert "<text" in draw(), "text stays text"


def test_a_capacity_gap_is_claimed_only_where_it_is_deeper_than_its_noise(tmp_path):
    write_study(tmp_path / "deep", World(seeds=3, teachers=((1e5, 1e6), (4e5, 3e6), (3e6, 2e8)), budgets=(1_800_000,)))
    deep = design_points(read_study(tmp_path / "deep"))
    assert all(cell.gap is not None and cell.gap.is_established for cell in deep)
    lead, first, *_ = gap_sentences(deep)
    assert "shows in 2 of 2 cells" in lead
    assert f"{deep[0].gap.depth:.3f} ± {deep[0].gap.sd:.3f}" in first
    write_study(tmp_path / "flat", World(gain_scale=0.0, students=(1e5,), budgets=(150_000,)))
    flat = design_points(read_study(tmp_path / "flat"))
    assert "in none of 1 cells" in gap_sentences(flat)[0]
    assert "cannot be judged" in gap_sentences([])[0]
