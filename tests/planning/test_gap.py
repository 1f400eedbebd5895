"""Opinions on the best teacher: what each law says, where it may say it, and the derivation behind it."""

import numpy as np
import pytest

from distillaw.errors import ConfigError, UnitError
from distillaw.fitting.api import fit
from distillaw.laws.published import published
from distillaw.planning.explain import balance, derivation
from distillaw.planning.gap import GapQuestion, capacity_gap
from distillaw.planning.teacher_curve import teacher_loss_curve
from distillaw.planning.voices import SURROGATES, published_voice
from slopes import slope

S2 = published("surrogate-s2")


def question(size=1e9, per_param=20.0, **others):
    schedule = {} if "teacher_tokens" in others else {"teacher_tokens_per_param": 20.0}
    return GapQuestion(student_params=size, student_tokens=per_param * size, **schedule, **others)


def by_law(answer):
    return {opinion.law: opinion for opinion in answer.opinions}


@pytest.fixture(scope="module")
def surrogate_study():
    """A kappa fit to runs of surrogate S2 without noise, and a capacity-gap fit to its best teachers."""
    N, D, T = (a.ravel() for a in np.meshgrid([2e8, 5e8, 1e9, 2e9], [8e9, 3e10, 1e11], [1.9, 2.0, 2.1, 2.2, 2.4, 2.6]))
    loss = S2.distillation(student_params=N, student_tokens=D, teacher_loss=T)
    noise = 1 + 1e-4 * np.random.default_rng(0).standard_normal(len(N))
    rows = {"student_params": N, "student_tokens": D, "teacher_loss": T, "loss": loss * noise}
    law = fit(rows, family="distillation-kappa", supervised=S2, bootstrap=40)
    sizes, teachers = (a.ravel() for a in np.meshgrid([2e8, 5e8, 1e9, 2e9], np.geomspace(4e8, 6e10, 9)))
    lossy = S2.distillation(
        student_params=sizes,
        student_tokens=160 * sizes,
        teacher_loss=S2.supervised(params=teachers, tokens=20 * teachers),
    )
    cells = {"student_params": sizes, "student_tokens": 160 * sizes, "teacher_params": teachers, "loss": lossy}
    return law, fit(cells, family="capacity-gap", bootstrap=20)


class TestPublishedLaws:
    def test_who_leads_and_who_never_does(self):
        answer = capacity_gap(question(per_param=160))
        found = by_law(answer)
        assert answer.lead is answer.opinions[0] and answer.lead.kind == "surrogate"
        assert set(SURROGATES) | {"busbridge2025", "zhang2023-capacity-gap", "zhang2023-constant-ratio"} < set(found)
        assert found["busbridge2025"].status == "REFUSED" and not found["busbridge2025"].is_usable
        assert "do not plan" in found["busbridge2025"].notes[0]
        spread = [found[name].best_teacher_params for name in SURROGATES]
        assert answer.lead.best_teacher_interval == pytest.approx((min(spread), max(spread)), rel=1e-4)

    def test_the_line_and_its_arm(self):
        found = by_law(capacity_gap(question()))
        line = found["zhang2023-capacity-gap"]
        assert (line.start, line.status) == ("pruned-same", "IN_RANGE")
        assert line.best_teacher_params == pytest.approx(2.4865e9, rel=1e-4)  # 2.498 * 1000 - 11.498 millions
        assert found["surrogate-s1"].start == "random"

    def test_costs_elsewhere_are_those_of_the_laws(self):
        """The line's teacher under S2, by plain calls: 13.4, the constant is not for students from scratch."""
        found = by_law(capacity_gap(question(per_param=160)))
        line, s2 = found["zhang2023-capacity-gap"], found["surrogate-s2"]
        teacher = S2.supervised(params=line.best_teacher_params, tokens=20 * line.best_teacher_params)
        loss = S2.distillation(student_params=1e9, student_tokens=160e9, teacher_loss=teacher)
        assert line.per_cent_elsewhere["surrogate-s2"] == pytest.approx(
            100 * (float(loss) / s2.student_loss - 1), rel=1e-9
        )
        usable = {law for law, opinion in found.items() if opinion.is_usable}
        assert line.per_cent_if_wrong == max(v for k, v in line.per_cent_elsewhere.items() if k in usable)
        assert all(v >= -1e-9 for o in found.values() for v in o.per_cent_elsewhere.values())

    def test_disagreement_is_stated(self):
        text = " ".join(capacity_gap(question()).disagreement)
        assert "(surrogate-s2)" in text and "(surrogate-s1)" in text and "busbridge2025" not in text
        assert "pruned from the teacher they learn from" in text

    def test_out_of_range_is_no_recommendation(self):
        for far in (question(size=2e4), question(size=7e13)):
            answer = capacity_gap(far)
            assert answer.lead is None and answer.to_json()["recommended"] is None
            assert not any(o.is_usable for o in answer.opinions if o.curve is not None)
        for far in (question(size=5e6), question(per_param=0.5)):
            usable = [o for o in capacity_gap(far).opinions if o.is_usable and o.curve is not None]
            assert {o.status for o in usable} == {"FAR_RANGE"}, "as in a plan"
        small = by_law(capacity_gap(question(size=5e6)))
        assert small["zhang2023-capacity-gap"].status == "NOT_APPLICABLE"
        assert small["zhang2023-capacity-gap"].best_teacher_params is None
        assert "at the end of the teachers" in " ".join(capacity_gap(question(size=7e11)).opinions[0].notes)

    def test_a_teacher_at_hand(self):
        found = by_law(capacity_gap(question(teacher_loss=2.1)))["surrogate-s2"]
        loss = S2.distillation(student_params=1e9, student_tokens=2e10, teacher_loss=2.1)
        assert found.teacher_at_hand_cost == pytest.approx(float(loss) - found.by_loss.best.student_loss, abs=1e-12)

    def test_doubts(self):
        notes = " ".join(by_law(capacity_gap(question(per_param=10)))["busbridge2025"].notes)
        assert "below 20" in notes and "hardly inform" in notes


class TestFittedLaws:
    def test_a_fit_speaks_first_and_finds_the_truth(self, surrogate_study):
        law, _ = surrogate_study
        answer = capacity_gap(question(per_param=40), laws=[law])
        assert answer.lead is answer.opinions[0] and answer.lead.kind == "fitted"
        truth = by_law(answer)["surrogate-s2"]
        assert answer.lead.best_teacher_params == pytest.approx(truth.best_teacher_params, rel=0.1)
        assert answer.lead.student_loss == pytest.approx(truth.student_loss, rel=1e-3)
        lower, upper = answer.lead.best_teacher_interval
        assert lower < answer.lead.best_teacher_params < upper

    def test_far_laws_have_no_say_in_what_a_fit_may_cost(self, surrogate_study):
        """A small study: every published law is far away, so none says that following the fit is wrong."""
        law, _ = surrogate_study
        near = capacity_gap(question(per_param=40), laws=[law]).opinions[0]
        assert near.per_cent_if_wrong is not None and "no data term" not in " ".join(near.notes)
        far = capacity_gap(question(size=3e13, per_param=0.4), laws=[law])
        assert all(opinion.per_cent_if_wrong is None for opinion in far.opinions) and far.disagreement == ()

    def test_a_fitted_line_by_file(self, surrogate_study, tmp_path):
        _, line = surrogate_study
        path = line.save(tmp_path / "gap.json")
        found = capacity_gap(question(per_param=160), laws=[str(path)]).opinions[0]
        truth = by_law(capacity_gap(question(per_param=160)))["surrogate-s2"].best_teacher_params
        assert (found.kind, found.start, found.status) == ("line", "random", "IN_RANGE")
        assert found.best_teacher_params == pytest.approx(truth, rel=0.1)
        lower, upper = found.best_teacher_interval
        assert lower <= found.best_teacher_params <= upper

    def test_other_conventions_and_supervised_fits_are_refused(self, surrogate_study):
        from dataclasses import replace

        law, _ = surrogate_study
        total = replace(law, provenance={**law.provenance, "params_convention": "total"})
        with pytest.raises(UnitError, match="counts total parameters"):
            capacity_gap(question(), laws=[total])
        N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e8, 1e10, 5), np.geomspace(2e9, 2e11, 5)))
        plain = fit(
            {"params": N, "tokens": D, "loss": S2.supervised(params=N, tokens=D)}, family="supervised", bootstrap=0
        )
        with pytest.raises(ConfigError, match="says nothing of teachers"):
            capacity_gap(question(), laws=[plain])


def test_bad_questions():
    with pytest.raises(ConfigError, match="irreducible"):
        capacity_gap(question(teacher_loss=1.1))
    with pytest.raises(ConfigError, match="hoffmann2022"):
        capacity_gap(question(), laws=["hoffmann2022"])
    with pytest.raises(ConfigError, match="not both"):
        capacity_gap(GapQuestion(student_params=1e9, student_tokens=2e10))
    with pytest.raises(ConfigError, match="student of -1 parameters"):
        capacity_gap(question(size=-1.0))


class TestDerivation:
    @pytest.mark.parametrize("name", ["busbridge2025", *SURROGATES])
    def test_the_terms_add_up_to_the_gradient(self, name):
        law = published(name).distillation
        ensemble = published_voice(name, [published(name)]).ensemble
        at = {"student_params": 1e9, "student_tokens": 2e10}
        losses = np.linspace(1.5, 2.8, 14)
        rows = balance(ensemble, **at, teacher_loss=losses)
        np.testing.assert_allclose(rows.slope, slope(lambda loss: law(**at, teacher_loss=loss), losses), atol=1e-9)
        np.testing.assert_allclose(rows.factor, law.break_factor(rows.ratio), rtol=1e-9)
        np.testing.assert_allclose(rows.student_loss, law(**at, teacher_loss=losses), rtol=1e-12)

    def test_the_sign_changes_at_the_best_teacher(self):
        ensemble = published_voice("together", [published(name) for name in SURROGATES]).ensemble
        at = {"student_params": 5e8, "student_tokens": 4e10}
        best = teacher_loss_curve(ensemble, **at).best.at
        below, here, above = balance(ensemble, **at, teacher_loss=[0.99 * best, best, 1.01 * best]).slope
        assert below < 0 < above and abs(here) < 1e-6
        text = derivation(ensemble, name="together", **at)
        assert f"L_T* = {best:.4f}" in text and "<- best" in text
