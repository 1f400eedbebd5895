"""What a verdict says besides its numbers: the equations put in, the notebook, the pilot, how flat the choice is."""

import re
from dataclasses import replace

import numpy as np
import pytest

from distillaw.laws.published import published
from distillaw.planning.api import plan
from distillaw.planning.explain import explanation
from distillaw.planning.learnt import learnt
from distillaw.planning.situation import Teacher, forward_flop
from distillaw.planning.voices import find_voices, fitted_voice
from distillaw.planning.wording import _pilot_flop

EIGHT = Teacher(name="8B", params=8e9, tokens=2e11)


@pytest.fixture(scope="module")
def verdict():
    return plan("1B", compute=3e20, teachers=[EIGHT], law="surrogate-s2", with_flips=False)


def test_the_explanation_puts_in_the_numbers_of_the_law(verdict):
    text = "\n".join(explanation(verdict))
    law = published("surrogate-s2")
    tokens = 3e20 / (3 * forward_flop(verdict.situation, 1e9))
    alone = float(law.supervised(params=1e9, tokens=tokens))
    row = verdict.headline.best
    teacher = float(law.supervised(params=8e9, tokens=2e11))
    taught = float(law.distillation(student_params=1e9, student_tokens=row.student_tokens, teacher_loss=teacher))
    for number in (alone, teacher, taught):
        assert f"{number:.4f}" in text
    said = re.search(r"so L_S = ([\d.]+) \+ ([\d.]+) = ([\d.]+)", text)
    assert float(said[1]) + float(said[2]) == pytest.approx(float(said[3]), abs=2e-4)
    same = float(law.supervised(params=1e9, tokens=row.student_tokens))
    factor = float(law.distillation.break_factor(teacher / same))
    assert f"exp(-h) = {factor:.3f}" in text
    assert f"P(gain > margin) = {verdict.call.distil:.3f}" in text


def test_a_notebook_shows_the_sentence_and_every_strategy():
    verdict = plan("1B", compute=3e20, teachers=[Teacher(name="<b>8B</b>", params=8e9, tokens=2e11)])
    html = verdict._repr_html_()
    assert "<b>8B</b>" not in html, "names are escaped"
    assert html.count("<tr>") == 1 + len(verdict.strategies)
    assert all(line.split("<")[0] in html for line in verdict.flips_if[:1])


def test_the_teacher_range_holds_sizes_that_are_as_good(verdict):
    curve, flat = verdict.teachers.curve, verdict.teachers.curve.best.flat
    law, row = published("surrogate-s2"), verdict.headline.best

    def loss(size):
        teacher = law.supervised(params=size, tokens=verdict.teachers.tokens_per_param * size)
        return float(law.distillation(student_params=1e9, student_tokens=row.student_tokens, teacher_loss=teacher))

    assert loss(curve.best.at) == pytest.approx(curve.best.student_loss, rel=1e-9)
    for end, beyond in ((flat.lower, 0.8), (flat.upper, 1.25)):
        assert loss(end) == pytest.approx(1.005 * curve.best.student_loss, rel=1e-4)
        assert loss(end * beyond) > 1.005 * curve.best.student_loss


def test_a_close_call_names_a_pilot_with_its_price():
    close = plan("1B", student_tokens=2e10, teachers=[replace(EIGHT, params=1e9, tokens=2e10)])
    assert close.verdict == "too-close"
    assert "FLOP" in close.next_runs[0] or "nothing" in close.next_runs[0]
    spent = re.search(r"([\d.]+e\d+) FLOP", close.next_runs[0])
    if spent:
        assert float(spent[1]) < 10 * 1e20


def test_a_pilot_pays_for_the_teacher_it_needs():
    """One shrunk like the student, or one that must be trained; never the logits of the teacher of the target."""
    row = plan("1B", student_tokens=2e10, teachers=[EIGHT], with_flips=False).headline.best
    situation = plan("1B", student_tokens=2e10, teachers=[EIGHT], with_flips=False).situation
    small, _ = _pilot_flop(situation, row, 10.0)
    student, teacher = (forward_flop(situation, n) for n in (1e8, 8e8))
    half, taught = forward_flop(situation, 5e7), 2e9 * teacher + 1e9 * teacher
    assert small == pytest.approx(3 * (6 * student * 2e9 + 6 * half * 1e9 + taught) + 3 * teacher * 2e10)
    whole, _ = _pilot_flop(situation, row, 1.0)
    new, _ = _pilot_flop(situation, replace(row, teacher=replace(EIGHT, exists=False)), 1.0)
    assert new - whole == pytest.approx(3 * forward_flop(situation, 8e9) * 2e11)


def test_a_weak_teacher_a_small_one_and_short_training_are_said():
    verdict = plan("1B", student_tokens=5e8, teachers=[Teacher(name="bad", params=2e8, loss=3.9)], with_flips=False)
    text = "\n".join(verdict.warnings)
    assert "no better than the student" in text
    assert "smaller than the student" in text
    assert "0.5 tokens per parameter" in text


def test_a_measured_loss_is_brought_to_the_laws_scale_or_widens_it():
    loss = float(published("surrogate-s1").supervised(params=8e9, tokens=2e11))

    def gain(**teacher):
        there = Teacher(name="8B", params=8e9, estimate_error=0.0, **teacher)
        return plan("1B", student_tokens=2e10, teachers=[there], with_flips=False)

    estimated, harder = gain(tokens=2e11), gain(tokens=2e11, loss=1.3 * loss)
    assert harder.gain.mean == pytest.approx(1.3 * estimated.gain.mean, rel=1e-2), "text 30 % harder, all losses alike"
    own = gain(tokens=2e11, loss=loss)
    assert harder.crossover_tokens == pytest.approx(own.crossover_tokens), "one ratio of losses, one crossover"
    told = "\n".join(explanation(harder))
    assert f"L_T = {1.3 * loss:.4f} given, " in told and "losses on yours are 1.3000 times as high" in told
    alone = gain(loss=loss)
    assert alone.gain.upper - alone.gain.lower > 1.5 * (estimated.gain.upper - estimated.gain.lower)
    other = gain(loss=1.5 * loss)
    assert other.verdict == "too-close"
    assert "no probability" in explanation(other)[-1] and "P(gain" not in explanation(other)[-1]
    assert any(e.status == "OTHER_TEXT" for e in other.evidence)


def test_the_losses_shown_by_law_are_those_of_a_distillation_that_laws_describe():
    answer = plan("1B", compute=1e21, max_params="4B", teachers=[EIGHT], with_flips=False)
    source = next(e for e in answer.evidence if "laws" in e.details)
    shown = [law["distil"] for law in source.details["laws"].values()]
    taken_off = -learnt().compute * source.pretrain.loss.mean  # at equal compute, beside what laws say
    assert np.mean(shown) + taken_off == pytest.approx(source.best.loss.mean, abs=2e-3)


def test_named_teachers_come_with_their_size_and_a_warning():
    verdict = plan("1B", compute=1e21, teachers=["pythia-6.9b"], with_flips=False)
    row = next(r for r in verdict.strategies if r.kind == "distil")
    assert row.teacher.params == pytest.approx(6.44e9, rel=0.01)
    assert any("measure it on yours" in line for line in verdict.warnings)


def test_a_fitted_law_speaks_with_its_replicates(tmp_path):
    import distillaw as dl

    rng = np.random.default_rng(3)
    law = published("surrogate-s2")
    sizes, tokens = np.geomspace(1.5e8, 4e9, 5), np.geomspace(3e9, 3e11, 5)
    N, D, T = (a.ravel() for a in np.meshgrid(sizes, tokens, [np.nan, 2.0, 2.2, 2.5]))
    taught = law.distillation(student_params=N, student_tokens=D, teacher_loss=np.nan_to_num(T, nan=2.0))
    L = np.where(np.isnan(T), law.supervised(params=N, tokens=D), taught)
    table = {"params": N, "tokens": D, "teacher_loss": T, "loss": L * np.exp(0.002 * rng.normal(size=len(L)))}
    fit = dl.fit(table, family="distillation-kappa", group="none", bootstrap=60, check=False, calibrate=False)
    path = fit.save(tmp_path / "law.json")
    voice = fitted_voice(fit, "mine")
    assert voice.ensemble.size == 60
    np.testing.assert_allclose(
        np.sort(voice.ensemble.distillation(student_params=1e9, student_tokens=2e10, teacher_loss=2.1)),
        np.sort(fit.draws(noise=False, student_params=1e9, student_tokens=2e10, teacher_loss=2.1)[:, 0]),
        rtol=1e-9,
    )
    verdict = plan("1B", student_tokens=2e10, teachers=[Teacher(name="t", params=4e9, loss=2.1)], law=path)
    truth = float(law.supervised(params=1e9, tokens=2e10)) - float(
        law.distillation(student_params=1e9, student_tokens=2e10, teacher_loss=2.1)
    )
    assert verdict.gain.lower < truth < verdict.gain.upper
    assert verdict.headline.deciding[0] == str(path)
    names = [voice.source for voice in find_voices(None, [path], published_too=["surrogate-s1"])]
    assert names == [str(path), "surrogates S1-S3 (not published)"]
