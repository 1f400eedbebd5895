import json
from functools import partial

import numpy as np
import pytest
from law_sets import SURROGATES, disagreeing, laws

from distillaw.accounting.family import FixedAspect
from distillaw.accounting.scenarios import CostShares, Scenario
from distillaw.errors import ConfigError
from distillaw.laws.base import EDGE
from distillaw.laws.published import published
from distillaw.planning.api import plan
from distillaw.planning.gap import GapQuestion, capacity_gap
from distillaw.planning.map_grid import GridCells, Laws, Terms, grid_losses, laws_for_map
from distillaw.planning.maps import allocation_map, gain_map, teacher_map
from distillaw.planning.optimum import optimal_distillation
from distillaw.planning.situation import Teacher

F = FixedAspect().forward_flops
BOX = published("surrogate-s1").distillation.range
TEACHER = Teacher(name="8B", params=8e9, tokens=2e11)
S123 = Laws(ensemble=laws(*SURROGATES), names=SURROGATES, range=BOX)
PRINTED = Laws(ensemble=laws("busbridge2025"), names=("busbridge2025",), range=BOX)
N, D, C = np.geomspace(1e8, 1e11, 200), np.geomspace(1e9, 1e13, 150), np.geomspace(1e20, 1e24, 150)


def kappa_and_reduced():
    """A fitted-like ensemble: eps = 0 and a power of the tokens outside the sum."""
    chosen = laws("surrogate-s1", "surrogate-s2")
    return type(chosen)(plain=chosen.plain, student=chosen.student | {"eps": np.zeros(2), "q": np.array([0.0, 0.02])})


@pytest.mark.parametrize(
    "ensemble",
    [S123.ensemble, PRINTED.ensemble, disagreeing(np.random.default_rng(0), size=4, spread=0.01), kappa_and_reduced()],
)
@pytest.mark.parametrize("given", ["loss", "size"])
def test_grid_losses_are_those_of_the_ensemble(ensemble, given):
    n, d = np.log(N)[:, None], np.log(D)[None]
    n_t, d_t = n + 0.3 * np.sin(d), d + 0.2 * np.cos(n)
    if given == "loss":
        cells = GridCells(n=n, d=d, teacher_loss=np.full((1, 1), np.log(2.1)))
        log_teacher = np.full((1, 1, 1), np.log(2.1))
    else:
        cells = GridCells(n=n, d=d, teacher_n=n_t, teacher_d=d_t, supervised=d + 0.1 * n)
        log_teacher = ensemble.log_supervised(n_t[None], d_t[None])
    found = grid_losses(ensemble, cells)
    supervised = np.exp(ensemble.log_supervised(n[None], (d if given == "loss" else d + 0.1 * n)[None]))
    student = np.exp(ensemble.log_distilled(n[None], d[None], log_teacher))
    np.testing.assert_allclose(found.student, student.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.supervised, supervised.mean(0), rtol=1e-12)
    np.testing.assert_allclose(
        found.teacher, np.broadcast_to(np.exp(log_teacher).mean(0), found.teacher.shape), rtol=1e-12
    )
    np.testing.assert_allclose(found.lowest_gain, (supervised - student).min(0), atol=1e-12)
    np.testing.assert_allclose(found.highest_gain, (supervised - student).max(0), atol=1e-12)


@pytest.mark.parametrize("scenario", [*Scenario, CostShares(0.1, 0.01)])
@pytest.mark.parametrize(("which", "bound"), [(S123, 2e-5), (PRINTED, 5e-4)])
def test_a_teacher_map_is_what_each_cell_solved_alone_is(which, bound, scenario):
    found = teacher_map(which, student_params=N, compute=C, terms=Terms(scenario=scenario))
    rng = np.random.default_rng(0)
    i, j = rng.integers(0, len(N), 60), rng.integers(0, len(C), 60)
    shares = scenario.value if isinstance(scenario, Scenario) else scenario
    plan = optimal_distillation(which.ensemble, student_params=N[i], compute=C[j], shares=shares)
    excess = found["student_loss"][i, j] / plan.student_loss - 1
    assert excess.min() > -1e-7 and excess.max() < bound
    assert np.quantile(excess, 0.5) < 1e-6
    np.testing.assert_allclose(found["supervised_loss"][i, j], plan.supervised_loss, rtol=1e-12)
    # what is stated of the error holds on cells that were not looked at, but for a factor
    stated = max(found.meta["largest_relative_error"], found.meta["largest_relative_error_of_those"])
    assert excess.max() <= 3 * stated + 1e-9
    shares_sum = found["student_share"] + found["logits_share"] + found["teacher_share"]
    np.testing.assert_allclose(shares_sum, 1, rtol=1e-9)


def test_a_gain_map_with_the_best_teacher_is_the_best_case():
    found = gain_map(S123, student_params=N, student_tokens=D)
    i, j = np.arange(0, 200, 23), np.arange(3, 150, 17)
    plan = optimal_distillation(
        S123.ensemble, student_params=N[i], compute=3 * F(N[i]) * D[j], shares=Scenario.BEST_CASE.value
    )
    np.testing.assert_allclose(found["gain"][i, j], plan.gain, atol=2e-5)
    assert (found["gain_lowest"] <= found["gain"] + 1e-12).all()
    assert (found["gain"] <= found["gain_highest"] + 1e-12).all()


def test_a_gain_map_with_a_given_teacher():
    by_loss = gain_map(S123, student_params=N, student_tokens=D, teacher_loss=2.2)
    expected = S123.ensemble.distillation(student_params=N[:, None], student_tokens=D, teacher_loss=2.2).mean(0)
    np.testing.assert_allclose(by_loss["student_loss"], expected, rtol=1e-12)
    by_size = gain_map(S123, student_params=N, student_tokens=D, teacher=(7e9, 2e12))
    loss = float(S123.ensemble.supervised(params=7e9, tokens=2e12)[0])
    same = gain_map(S123, student_params=N, student_tokens=D, teacher_loss=loss)
    np.testing.assert_allclose(by_size["gain"], same["gain"], atol=1e-12)
    with pytest.raises(ConfigError, match="not both"):
        gain_map(S123, student_params=N, student_tokens=D, teacher_loss=2.2, teacher=(7e9, 2e12))


def test_cells_outside_the_range_are_flagged():
    found = gain_map(S123, student_params=N, student_tokens=D, teacher_loss=2.2)
    ratio = D / N[:, None]
    in_box = (
        (N[:, None] >= 143e6 * (1 - EDGE))
        & (N[:, None] <= 12.6e9 * (1 + EDGE))
        & (D >= 2e9 * (1 - EDGE))
        & (D <= 512e9 * (1 + EDGE))
        & (ratio >= 20 * (1 - EDGE))
        & (ratio <= 320 * (1 + EDGE))
    )
    np.testing.assert_array_equal(found.inside_range, in_box)
    assert not gain_map(S123, student_params=N, student_tokens=D, teacher_loss=1.6).inside_range.any()


def test_what_cannot_be_paid_is_empty():
    terms = Terms(scenario=Scenario.PRETRAINING, teacher_params=(1e9, 1e11), teacher_tokens=(2e10, 1e13))
    found = teacher_map(S123, student_params=N, compute=np.geomspace(1e17, 1e21, 150), terms=terms)
    least = 3 * F(1e9) * 2e10 + 3 * F(N) * 1e6
    cannot = found.x.values < least[:, None]
    np.testing.assert_array_equal(np.isnan(found["student_loss"]), cannot)
    assert not found.inside_range[cannot].any()
    nothing = teacher_map(S123, student_params=N[:9], compute=np.geomspace(1e15, 1e16, 9), terms=terms)
    assert np.isnan(nothing["gain"]).all() and np.isnan(nothing["teacher_params"]).all()


def test_allocation():
    spent = allocation_map(S123, student_params=1e9, compute=C, terms=Terms(scenario=Scenario.PRETRAINING_INFERENCE))
    assert spent.shape == (150,) and spent.meta["scenario"] == "pretraining-inference"
    np.testing.assert_allclose(spent["student_share"] + spent["logits_share"] + spent["teacher_share"], 1)


def test_files(tmp_path):
    found = gain_map(S123, student_params=N[:30], student_tokens=D[:20], teacher_loss=2.2)
    files = found.save(tmp_path / "maps")
    assert [f.name for f in files] == [f"gain-given-teacher.{ending}" for ending in ("csv", "npz", "json")]
    assert sorted(p.name for p in (tmp_path / "maps").glob("[!.]*")) == sorted(f.name for f in files)
    table = np.genfromtxt(files[0], delimiter=",", names=True)
    assert len(table) == 600
    np.testing.assert_allclose(table["gain"].reshape(30, 20), found["gain"], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(table["student_params"][::20], N[:30], rtol=1e-6)
    with np.load(files[1]) as arrays:
        np.testing.assert_array_equal(arrays["gain"], found["gain"])
        np.testing.assert_array_equal(arrays["inside_range"], found.inside_range)
    meta = json.loads(files[2].read_text())
    assert meta["laws"] == list(SURROGATES) and meta["axes"]["y"]["count"] == 30


def test_bad_axes_are_refused():
    with pytest.raises(ConfigError, match="at least two values"):
        gain_map(S123, student_params=[1e9], student_tokens=D, teacher_loss=2.2)
    with pytest.raises(ConfigError, match="ascending"):
        teacher_map(S123, student_params=N[::-1], compute=C, terms=Terms(scenario=Scenario.INFERENCE))


def test_which_laws(tmp_path):
    assert laws_for_map([]).names == SURROGATES
    assert laws_for_map([]).range.as_dict() == BOX.as_dict()
    printed = laws_for_map(["busbridge2025"])
    assert printed.warnings[0].startswith("DO NOT PLAN")
    with pytest.raises(ConfigError, match="no distillation part"):
        laws_for_map(["hoffmann2022"])
    with pytest.raises(ConfigError, match="surrogate-s1"):
        laws_for_map(["surogate-s1"])


def test_small_students_are_not_refused_their_small_teachers():
    small = Terms(
        scenario=Scenario.PRETRAINING_INFERENCE, forward=partial(FixedAspect().forward_flops, context=128, vocab=512)
    )
    found = teacher_map(
        S123, student_params=np.geomspace(1e5, 1e6, 5), compute=np.geomspace(1e13, 1e14, 5), terms=small
    )
    assert np.isfinite(found["student_loss"]).all()


def test_cells_where_a_plan_decides_nothing_are_those_of_its_rule():
    """Below 0.3 tokens per parameter, and beyond the reach; a plan and the best teacher of `gap` know the same edge."""
    laws = laws_for_map(())
    sizes, budgets = [1e9, 2e9], [0.25e9, 0.5e9, 1e9]
    found = gain_map(laws, student_params=sizes, student_tokens=budgets, teacher_loss=2.2)
    assert found.beyond.tolist() == [[True, False, False], [True, True, False]]
    for i, params in enumerate(sizes):
        for j, tokens in enumerate(budgets):
            q = GapQuestion(student_params=params, student_tokens=tokens, teacher_tokens_per_param=20)
            assert (capacity_gap(q).opinions[0].status == "OUT_OF_RANGE") == found.beyond[i, j]
            verdict = plan(params, student_tokens=tokens, teachers=[TEACHER], with_flips=False)
            assert (verdict.evidence[0].status == "OUT_OF_RANGE") == found.beyond[i, j]
