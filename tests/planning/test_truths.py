"""The planner against truths that are not its own (benchmarks/verdict/run.py), and the judge itself."""

import numpy as np
import pytest

import distillaw as dl
from benchmarks.verdict import run as planner
from benchmarks.verdict import scores
from benchmarks.verdict.rules import rules
from benchmarks.verdict.sizes import make_size_questions
from benchmarks.verdict.studies import IN_PLACE, SCALES, make_questions, make_study, true_loss
from benchmarks.verdict.summary import summarise
from benchmarks.verdict.truths import FARSEER, NATS_PER_TOKEN, TRUTHS, Field, draw_truth, farseer_alone


def drawn(name, seed=0, scale="pilot"):
    rng = np.random.default_rng(seed)
    truth = draw_truth(name, largest=SCALES[scale][0], rng=rng, in_place=scale in IN_PLACE)
    return truth, make_study(truth, scale, rng), rng


@pytest.mark.parametrize("name", TRUTHS)
def test_a_truth_is_a_loss_surface(name):
    truth, study, _ = drawn(name)
    N = study.sizes[-1]
    grid = N * np.geomspace(2, 2000, 7)
    alone = truth.alone(N, grid)
    assert np.all(np.diff(alone) < 0) and np.all(alone > 0.5)
    good, poor = (truth.taught(N, grid[2], ratio * alone[2]) for ratio in (0.85, 1.1))
    assert good < poor and poor > alone[2]  # a teacher worse than the student does harm


def test_misfit_is_smooth_and_as_large_as_said():
    rng = np.random.default_rng(0)
    fields = [Field.draw(rng, 2, 0.008) for _ in range(400)]
    at = np.array([[f(n, 3.0) for n in (0.0, 0.1, 20.0)] for f in fields])
    assert at.std(0) == pytest.approx(np.full(3, 0.008), rel=0.15)
    near, far = (np.corrcoef(at[:, 0], at[:, k])[0, 1] for k in (1, 2))
    assert near > 0.99 and abs(far) < 0.2


def test_farseer_is_the_published_surface():
    # runs of active-sl-scalebench/farseer_train.csv, bits per byte
    N, D, L = np.array([(397772800, 31999672320, 0.553107692), (284207616, 15999959040, 0.580719656)]).T
    assert farseer_alone(N, D, FARSEER) / NATS_PER_TOKEN == pytest.approx(L, rel=0.005)


def test_seed_noise_is_shared_by_pairs():
    truth, study, _ = drawn("farseer", seed=3)
    table = study.table
    assert set(table) >= {"params", "tokens", "loss", "teacher_loss", "group"}
    alone = [i for i, t in enumerate(table["teacher"]) if t == "" and table["params"][i] in study.sizes]
    errors = np.log(table["loss"][alone] / truth.alone(table["params"][alone], table["tokens"][alone]))
    assert 0 < np.abs(errors).max() < 0.02


def test_rules_choose_what_they_say():
    truth, study, rng = drawn("surrogate-s2")
    for question in make_questions(truth, study, rng, 12):
        choices = question.choices()
        chosen = {name: rule(study, choices).teacher for name, rule in rules(question).items()}
        offered = [choice.teacher for choice in choices[1:]]
        assert chosen["never distil"] is None
        assert chosen["best-loss teacher"].loss == min(t.loss for t in offered)
        assert chosen["largest teacher"].params == max(t.params for t in offered)


def test_sizes_by_the_rule_spend_the_budget():
    truth, study, rng = drawn("surrogate-s2")
    for question in make_size_questions(truth, study, rng):
        alone, *taught = question.choices()
        each = question.forward(alone.params)
        trained = question.compute - each * question.serving
        assert trained == pytest.approx(question.compute / (2 if question.serving else 1), rel=0.4)
        assert 3 * each * alone.tokens == pytest.approx(trained, rel=1e-9)
        assert alone.tokens / alone.params == pytest.approx(20, rel=0.05)
        for choice in taught:
            bill = (3 * each + question.forward(choice.teacher.params)) * choice.tokens
            assert bill == pytest.approx(trained, rel=1e-9)
        best = question.best_loss(truth)
        assert all(true_loss(truth, choice) > 0.999 * best for choice in question.choices())


def test_scores_know_honest_from_boastful():
    rng = np.random.default_rng(0)
    p = rng.beta(0.6, 0.6, 4000)
    came = rng.random(4000) < p
    honest, boastful = scores.brier(p, came), scores.brier(np.round(p), came)
    assert honest["reliability"] < 0.003 < 0.02 < boastful["reliability"]
    assert honest["brier"] < boastful["brier"] < honest["climatology"] + 0.05
    parts = honest["reliability"] - honest["resolution"] + honest["climatology"]
    assert parts == pytest.approx(honest["brier"], abs=0.004)
    assert all(row["low"] <= row["said"] <= row["high"] for row in scores.reliability(p, came)[2:-2])


def test_questions_of_one_study_are_resampled_together():
    rng = np.random.default_rng(0)
    study = np.repeat(np.arange(10), 20)
    theirs = np.repeat(rng.normal(size=10), 20)  # no spread within a study
    got = scores.difference(np.zeros(200), theirs, study, rng)
    naive = 1.645 * theirs.std() / np.sqrt(200)
    assert got["high"] - got["mean"] > 3 * naive


def test_an_interrupted_run_continues_and_a_changed_one_starts_over(tmp_path, monkeypatch):
    asked = []

    def one_study(k, num_questions, bootstrap):
        if k == 2 and 2 not in asked:
            asked.append(k)
            raise KeyboardInterrupt
        asked.append(k)
        return [{"study": k, "questions": num_questions}]

    monkeypatch.setattr(planner, "one_study", one_study)
    partial = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        planner.run(((0, 1, 2), 5, 10), partial)
    rows = planner.run(((0, 1, 2), 5, 10), partial)
    assert asked == [0, 1, 2, 2] and [row["study"] for row in rows] == [0, 1, 2]
    assert {row["questions"] for row in planner.run(((0, 1), 6, 10), partial)} == {6}


@pytest.mark.slow
def test_stated_probabilities_and_regret_on_other_truths():
    rows = planner.run(planner.SIZES["quick"])
    found = summarise(rows)["conditions"]
    for condition in ("laws", "all"):
        whole = found[condition]["parts"]["all"]
        for side in ("distil", "pretrain"):
            assert whole[side]["brier"] < 0.8 * whole[side]["climatology"], (condition, side)
        assert 0.75 <= whole["coverage"]["share"] <= 1.0, condition
        ours = whole["regret"]["planner"]
        theirs = {k: v for k, v in whole["regret"].items() if not k.startswith("planner")}
        assert ours < 0.5 * min(theirs.values()), (condition, ours, theirs)


@pytest.mark.slow
def test_student_tokens_are_what_the_bill_allows():
    truth, study, rng = drawn("surrogate-s1", scale="large")
    fits = planner.fits_of(study, 20)
    for question in make_questions(truth, study, rng, 4):
        verdict = dl.plan(**question.arguments, law=list(fits.values()), published=False)
        own = {c.teacher.name if c.teacher else "": c.tokens for c in question.choices()}
        rows = [row for row in verdict.strategies if row.kind in ("pretrain", "distil")]
        assert len(rows) == len(own)
        for row in rows:
            assert row.student_tokens == pytest.approx(own[row.teacher.name if row.teacher else ""], rel=0.02)
