"""Hold-outs, the misspecification term, the ladder of forms, profiles: the doubt is measured, not assumed."""

import numpy as np
import pytest

import distillaw as dl
from distillaw.errors import ConfigError
from distillaw.fitting.api import LawScore, choose, score_all
from distillaw.fitting.calibrate import HoldOuts, calibrate_term
from distillaw.fitting.result import FitStatus
from distillaw.fitting.uncertainty import AXES, DEFAULT_PER_DECADE, UNTRIED, extent_of, outside, unsure


def held(error, decades, s_param=0.001, axis=0):
    n = len(error)
    beyond = np.zeros((n, len(AXES)))
    beyond[:, axis] = decades
    unsure = np.ones_like(beyond)
    return HoldOuts(error=error, s_param=np.full(n, s_param), beyond=beyond, unsure=unsure, cut=np.arange(n) % 5)


def test_large_errors_far_out_raise_the_slope():
    rng = np.random.default_rng(0)
    decades = rng.uniform(0, 2, 200)
    calm = calibrate_term(held(0.001 * rng.standard_normal(200), decades), noise=0.001, level=0.9)
    wild = calibrate_term(held(0.03 * decades * rng.standard_normal(200), decades), noise=0.001, level=0.9)
    assert calm.per_decade < DEFAULT_PER_DECADE < wild.per_decade
    assert wild.obtained > 0.85 > wild.obtained_without, "early cuts count less"


def test_each_axis_has_its_own_slope():
    """Large errors along the tokens and small ones along the sizes are told apart; of teachers they say nothing."""
    rng = np.random.default_rng(0)
    decades = rng.uniform(0, 2, 200)
    error = 0.03 * decades * rng.standard_normal(200)
    one, two = (held(error * scale, decades, axis=axis) for axis, scale in ((2, 1.0), (1, 0.1)))
    both = {name: np.concatenate([getattr(one, name), getattr(two, name)]) for name in HoldOuts.__slots__}
    found = calibrate_term(HoldOuts(**both), noise=0.001, level=0.9)
    assert found.per_tokens > 1.5 * found.per_params
    assert found.per_params < found.per_decade < found.per_tokens, "compute was not tried: between the two"
    nothing = calibrate_term(None, noise=0.001, level=0.9)
    assert nothing.per_loss < found.per_loss < 2 * nothing.per_loss


def test_few_levels_widen_what_lies_beyond_them():
    levels = np.array([9, 3, 9, 0])
    far, near = unsure(levels)[1], unsure(levels + 6)[1]
    assert far == 3 and near < 1.4
    found = calibrate_term(None, noise=0.001, level=0.9, levels=levels)
    assert found.per_params == pytest.approx(3 * DEFAULT_PER_DECADE) and found.per_decade < found.per_params


def test_beyond_what_hold_outs_reached_small_errors_say_little():
    """Hold-outs a third of a decade out that err by nothing do not carry a law three times as far."""
    rng = np.random.default_rng(0)
    near = held(1e-4 * rng.standard_normal(50), rng.uniform(0, 0.3, 50), axis=1)
    levels = np.array([12, 12, 12, 0])
    found = calibrate_term(near, noise=0.001, level=0.9, levels=levels)
    out = np.zeros((2, len(AXES)))
    out[:, 1] = found.tried[1], 1.0
    assert 0.28 < found.tried[1] < 0.3 and found.per_params < DEFAULT_PER_DECADE
    assert found.spread(out)[0] == pytest.approx(found.at_edge + found.per_params * found.tried[1])
    assert np.diff(found.spread(out)) == pytest.approx(UNTRIED * (1 - found.tried[1]))
    taught = calibrate_term(near, noise=0.001, level=0.9, levels=np.array([12, 12, 12, 5]))
    assert taught.tried is None and taught.spread(out)[1] < found.spread(out)[1]


def test_how_far_outside_and_on_which_side():
    low, top = np.array([6e17, 1e8, 1e9, 2.0, 0]), np.array([6e20, 1e9, 1e11, 3.0, 0])
    points = extent_of(np.array([1e10, 1e7, 1e9]), np.array([1e10, 1e10, 1e11]), np.array([2.5, np.nan, 2.0 / np.e]))
    found = outside(points, top, low)
    assert found == pytest.approx(np.array([[0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1.0, 0]]), abs=1e-12)
    assert outside(points, np.zeros(5)) == pytest.approx(np.zeros((3, 6)))


def test_hold_outs_that_go_nowhere_say_so():
    found = calibrate_term(held(np.full(20, 0.01), np.zeros(20)), noise=0.001, level=0.9)
    assert found.max_decades == 0 and "none beyond the runs" in found.label


def test_a_better_teacher_than_any_widens_the_interval():
    table, law = distilled("surrogate-s2", (5, 4, 6), 0)
    fit = dl.fit(table, family="distillation-reduced", supervised=law, bootstrap=40, check=False)
    at = {"student_params": 1e9, "student_tokens": 5e10}
    within, better = (fit.predict(**at, teacher_loss=x) for x in (1.95, 1.6))
    width = [float(np.log(p.upper / p.lower)) for p in (within, better)]
    assert width[1] > 1.5 * width[0]
    cuts = {(cut["axis"], cut["share"]) for cut in fit.details["held_out_by_cut"]}
    assert {("teacher_loss", 0.75), ("teacher_loss", -0.75), ("params", -0.75)} <= cuts


def test_nothing_held_out_keeps_the_default_and_says_so(grid):
    few = dl.fit({k: v[:10] for k, v in grid.items()}, family="supervised", bootstrap=20)
    assert few.calibration.num_held_out == 0 and few.calibration.label == "default, not calibrated"


def test_a_wrong_law_is_found_out(with_noise):
    """Data with a bend that gamma = 1 lacks: its own hold-outs must widen its intervals until they hold."""
    law = dl.published("busbridge2025").supervised
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(2e7, 2e9, 8), np.geomspace(5e8, 5e10, 8)))
    table = with_noise({"params": N, "tokens": D, "loss": law(params=N, tokens=D)}, 0.0005, 1)
    result = dl.fit(table, family="chinchilla", delta=1e-3, bootstrap=200)
    assert result.calibration.obtained > result.calibration.obtained_without
    at = {"params": 1e11, "tokens": 2e12}
    far, narrow = result.predict(**at), np.percentile(result.draws(**at, noise=False), [5, 95])
    truth = law(**at)
    assert far.lower < truth < far.upper
    assert not narrow[0] < truth < narrow[1]


def test_a_step_up_the_ladder_must_gain_in_both():
    def score(form, aic, error):
        return LawScore(form=form, num_params=5, aic=aic, held_out_error=error)

    base = score("reduced", -100.0, 0.01)
    assert choose([base, score("kappa", -150.0, 0.02)]) == "reduced"  # fits better, predicts worse
    assert choose([base, score("kappa", -100.5, 0.001)]) == "reduced"  # predicts better by luck only
    assert choose([base, score("kappa", -150.0, 0.005)]) == "kappa"


def distilled(source, shape, seed):
    law = dl.published(source)
    axes = (np.geomspace(1.4e8, 7.75e9, shape[0]), np.geomspace(3e9, 5e11, shape[1]), np.linspace(1.9, 2.7, shape[2]))
    N, D, T = (v.ravel() for v in np.meshgrid(*axes))
    loss = law.distillation(student_params=N, student_tokens=D, teacher_loss=T)
    loss = loss * np.exp(0.003 * np.random.default_rng(seed).standard_normal(len(N)))
    return {"params": N, "tokens": D, "loss": loss, "teacher_loss": T}, law


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "shape", "form"),
    [
        ("busbridge2025", (5, 4, 6), "reduced"),  # 120 runs whose data term is not there
        ("surrogate-s2", (9, 8, 10), "kappa"),  # 720 runs whose data term is
        ("surrogate-s2", (3, 3, 4), "reduced"),  # 36 runs: too few to climb
    ],
)
def test_the_form_that_held_out_runs_support(source, shape, form):
    table, law = distilled(source, shape, 0)
    result = dl.fit(table, family="distillation-auto", supervised=law, bootstrap=20, check=False)
    assert result.details["form"] == form
    assert any(f"form {form}" in note for note in result.notes)


def test_behaviours_are_reported_not_assumed():
    table, law = distilled("surrogate-s2", (5, 4, 6), 0)
    found = dl.fit(table, family="distillation-kappa", supervised=law, bootstrap=0, check=False).details["behaviours"]
    assert found["capacity_gap"] is True
    assert found["break"] == pytest.approx(0.93, abs=0.01)
    assert abs(found["infinite_data_error"]) < 0.03  # within 1 % for the printed truth


def test_students_better_than_their_teacher_are_noted():
    table, law = distilled("surrogate-s2", (5, 4, 6), 0)
    table["loss"][7] = table["teacher_loss"][7] * 0.99
    better = int((table["loss"] < table["teacher_loss"]).sum())  # noise makes others where L_S is nearly L_T
    notes = dl.fit(table, family="distillation-reduced", supervised=law, bootstrap=0, check=False).notes
    assert any(f"{better} of 120 students have a lower loss than their teacher" in note for note in notes)


def test_profiles_agree_with_the_bootstrap(with_noise):
    law = dl.published("busbridge2025").supervised
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1.4e8, 8e9, 8), np.geomspace(4e9, 5e11, 8)))
    result = dl.fit(
        with_noise({"params": N, "tokens": D, "loss": law(params=N, tokens=D)}, 0.003, 1),
        family="supervised",
        bootstrap=300,
    )
    for name in ("E", "gamma"):
        low, high = result.conf_int(method="profile")[name]
        a, b = result.conf_int()[name]
        assert (high - low) / (b - a) == pytest.approx(1.0, abs=0.35)


def test_a_parameter_without_a_bound_makes_the_fit_weakly_identified(with_noise):
    """Size and tokens tied by one ratio: nothing tells the two terms apart."""
    N = np.geomspace(1e8, 1e10, 40)
    loss = dl.published("busbridge2025").supervised(params=N, tokens=20 * N)
    result = dl.fit(
        with_noise({"params": N, "tokens": 20 * N, "loss": loss}, 0.002, 0), family="supervised", bootstrap=0
    )
    assert result.status in (FitStatus.WEAKLY_IDENTIFIED, FitStatus.AT_BOUND)


def test_details_hold_the_calibration_by_decade(grid, with_noise):
    result = dl.fit(with_noise(grid, 0.003, 1), family="chinchilla", bootstrap=30, check=False)
    table = result.details["calibration_by_decade"]
    assert sum(row["num"] for row in table) == result.calibration.num_held_out
    assert sum(row["num"] * row["inside"] for row in table) == pytest.approx(
        result.calibration.num_held_out * result.calibration.obtained
    )
    assert all(row["inside_without"] <= row["inside"] and row["from"] <= row["to"] for row in table)
    assert table[-1]["to"] == pytest.approx(result.calibration.max_decades)


def test_a_prediction_outside_the_runs_is_extrapolated(grid):
    result = dl.fit(grid, family="supervised", bootstrap=0, check=False)
    assert result.predict(params=1e9, tokens=1e11).status is result.status
    assert result.predict(params=[1e9, 1e12], tokens=1e11).status is FitStatus.EXTRAPOLATED


def test_families_are_compared_on_the_same_held_out_runs(with_noise):
    """Data of a free gamma: gamma = 1 errs more on held-out runs, and what it says far out is disowned."""
    law = dl.published("busbridge2025").supervised
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1.4e8, 1e10, 6), np.geomspace(3e9, 5e11, 6)))
    table = with_noise({"params": N, "tokens": D, "loss": law(params=N, tokens=D)}, 0.002, 3)
    result = dl.fit(table, family="supervised", bootstrap=50, compare=["chinchilla"])
    ours, theirs = result.details["comparison"]
    assert (ours["form"], theirs["form"]) == ("supervised", "chinchilla")
    assert ours["held_out_error"] < theirs["held_out_error"] and ours["aic"] < theirs["aic"]
    assert any("times the largest compute chinchilla predicts" in note for note in result.notes)
    text = result.summary()
    assert "held-out error" in text and text.index("CONVERGED") < text.index("held-out error")


def test_only_cuts_that_all_laws_have_are_compared(grid, with_noise):
    table = {k: v[::2] for k, v in with_noise(grid, 0.003, 1).items()}  # 15 runs: the cut at 60 % is too early for one
    fits = {name: dl.fit(table, family=name, bootstrap=1, check=False) for name in ("supervised", "chinchilla")}
    shares = {name: {cut["share"] for cut in fit.details["held_out_by_cut"]} for name, fit in fits.items()}
    assert shares["supervised"] < shares["chinchilla"]
    common = [cut for cut in fits["chinchilla"].details["held_out_by_cut"] if cut["share"] in shares["supervised"]]
    expected = sum(c["num"] * c["mean_square"] for c in common) / sum(c["num"] for c in common)
    assert score_all(fits)[1].held_out_error ** 2 == pytest.approx(expected)


def test_a_comparison_of_other_kinds_is_refused(grid):
    for family, other in (("supervised", "distillation"), ("supervised", "supervised"), ("capacity-gap", "chinchilla")):
        with pytest.raises(ConfigError, match=f"compare: {other} cannot be set against {family}"):
            dl.fit(grid, family=family, compare=[other], bootstrap=0)
