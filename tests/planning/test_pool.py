"""Several sources as one belief: narrower where they agree, wide where they do not, outliers outvoted."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats

from distillaw.planning.api import plan
from distillaw.planning.decision import agree, disagreement, witnesses
from distillaw.planning.gains import LAW_DOF, LAW_SCALE, GainBelief, pooled_draws
from distillaw.planning.situation import Teacher

ORDER = np.random.default_rng(0).normal(size=20_000)


def law(*centres, sd):
    return GainBelief.of_law(np.array(centres), sd)


def test_a_kernel_is_as_wide_as_its_normal_at_90_per_cent():
    half = stats.t(LAW_DOF, scale=LAW_SCALE).ppf(0.95)
    assert half == pytest.approx(stats.norm.ppf(0.95), rel=1e-3)


def test_the_density_is_the_mixture_of_t_densities():
    grid = np.linspace(-0.3, 0.3, 101)
    belief = law(-0.05, 0.02, 0.04, sd=0.02)
    want = np.mean([stats.t(LAW_DOF, loc=c, scale=belief.scale).pdf(grid) for c in belief.centres], axis=0)
    got = np.exp(belief.log_density(grid))
    np.testing.assert_allclose(got / got.sum(), want / want.sum(), rtol=1e-10)


def test_agreed_draws_are_the_normalised_product():
    one, two = law(0.00, 0.03, sd=0.02), GainBelief(centres=np.array([0.05]), scale=0.01, dof=12.0)
    draws = pooled_draws([one, two], ORDER)

    def product(x):
        return np.exp(one.log_density(np.array([x]))[0]) * stats.t(12.0, loc=0.05, scale=0.01).pdf(x)

    mass = integrate.quad(product, -1, 1, points=[0, 0.03, 0.05], limit=200)[0]
    mean = integrate.quad(lambda x: x * product(x) / mass, -1, 1, points=[0, 0.03, 0.05], limit=200)[0]
    assert draws.mean() == pytest.approx(mean, abs=2e-4)
    assert np.array_equal(np.argsort(draws), np.argsort(ORDER)), "the order of the trusted source is kept"


def test_agreement_narrows_and_disagreement_widens():
    alone = pooled_draws([law(0.05, sd=0.02)], ORDER).std()
    assert pooled_draws([law(0.05, sd=0.02), law(0.06, sd=0.02)], ORDER).std() < 0.9 * alone
    apart = pooled_draws([law(-0.10, sd=0.02), law(0.10, sd=0.02)], ORDER)
    assert apart.std() > 3 * alone
    assert abs(apart.mean()) < 0.02


def test_what_all_sources_owe_to_their_rates_does_not_shrink_as_they_agree():
    one, two = (law(x, sd=0.02) for x in (0.05, 0.06))
    agreed = pooled_draws([one, two], ORDER)
    doubted = pooled_draws([replace(one, rates=0.1), replace(two, rates=0.1)], ORDER)
    assert doubted.std() == pytest.approx(np.hypot(agreed.std(), 0.1), rel=0.02)
    assert doubted.mean() == pytest.approx(agreed.mean(), abs=3e-3)


def test_a_sharp_measurement_outvotes_a_distant_law():
    measured = GainBelief(centres=np.array([0.05]), scale=0.005, dof=6.0)
    alone, both = pooled_draws([measured], ORDER), pooled_draws([measured, law(-0.3, sd=0.03)], ORDER)
    assert abs(both.mean() - alone.mean()) < 0.002


def test_teachers_of_one_name_stay_two():
    two = [Teacher(name="a", params=2e9, tokens=4e10), Teacher(name="a", params=8e9, tokens=2e11)]
    source = plan("1B", student_tokens=2e10, teachers=two, with_flips=False).evidence[0]
    both = agree([source, replace(source, source="another")], level=0.9)
    assert [row.teacher for row in both.alternatives] == [row.teacher for row in source.alternatives]


def test_the_range_is_that_of_the_source_that_knows_the_best():
    own, other = (
        plan(
            "1B", student_tokens=2e10, teachers=[Teacher(name=str(size), params=size, tokens=2e11)], with_flips=False
        ).evidence[0]
        for size in (1e9, 8e9)
    )
    both = agree([replace(own, inside_range=True), replace(other, inside_range=False)], level=0.9)
    assert both.best.teacher.params == 8e9
    assert not both.inside_range


def test_a_witness_of_little_weight_moves_little():
    own, other = law(0.05, sd=0.02), law(0.0, sd=0.02)
    full, third = (pooled_draws([own, other], ORDER, [1.0, w]) for w in (1.0, 0.3))
    assert 0.025 == pytest.approx(full.mean(), abs=0.002)
    assert 0.03 < third.mean() < 0.05
    none, alone = pooled_draws([own, other], ORDER, [1.0, 0.0]), pooled_draws([own], ORDER)
    inner = np.linspace(0.01, 0.99, 50)  # the grid is coarse far out in the tails
    np.testing.assert_allclose(np.quantile(none, inner), np.quantile(alone, inner), atol=2e-4)


def test_published_laws_are_one_witness_and_their_disagreement_is_said():
    teacher = Teacher(name="8B", params=8e9, tokens=2e11)
    verdict = plan("1B", student_tokens="20B", teachers=[teacher], law=["surrogate-s2"], with_flips=False)
    assert [e.source for e in witnesses(verdict.evidence)] == ["surrogate-s2"]
    assert verdict.headline.source == "surrogate-s2"
    assert disagreement(verdict.evidence, 0.9) is None
    assert disagreement(verdict.evidence, 0.02) is not None
