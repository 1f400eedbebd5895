"""One question: what the command is typed and what `dl.plan` is called with are the same fields, refused alike."""

import inspect
from dataclasses import fields, replace

import numpy as np
import pytest
from synthetic_study import World, write_study

import distillaw as dl
from distillaw.cli.plan import AskedOptions, LawOptions, question_of
from distillaw.errors import ConfigError, DistillawError
from distillaw.planning.bills import shares_of
from distillaw.planning.question import PlanQuestion, situation_of, with_measured
from distillaw.planning.situation import Teacher
from distillaw.quantities import parse_count
from distillaw.runs.record import read_study
from random_questions import of_command, random_question

FOR_PYTHON = {"seed", "with_flips", "unlearnt"}


def named(cls):
    return [field.name for field in fields(cls)]


def test_options_arguments_and_fields_are_the_same():
    options = named(AskedOptions) + named(LawOptions)
    assert options == [name for name in named(PlanQuestion) if name not in FOR_PYTHON]
    assert list(inspect.signature(dl.plan).parameters) == named(PlanQuestion)


def test_nothing_typed_is_a_question_of_defaults():
    assert question_of(AskedOptions(), LawOptions()) == PlanQuestion()
    said_no = question_of(AskedOptions(may_train_teacher=True), LawOptions(published=True))
    assert not said_no.may_train_teacher and not said_no.published  # --only-existing, --no-published


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"mfu": 1.5}, "mfu = 1.5"),
        ({"price_per_hour": -3.0}, "price = -3"),
        ({"teachers": ["llama-3.1-8b"], "vocab": 32_000}, "Llama-3.1-8B has 128256 ids"),
        ({"top_k": 50_000}, "the vocabulary has 32768 ids"),
        ({"serve_bandwidth": 1e12}, "--serve-latency"),
        ({"delta_lgt": 1.0, "delta_pre": 0.0, "scenario": "inference"}, "say all that it would"),
        ({"train_teacher": True}, "give both"),
        ({"students_served": 3, "teachers": ["pythia-1.4b"]}, "they share the bill"),
        ({"may_train_teacher": False}, "leaves no teacher"),
        ({"teachers": ["pythia-1.4b"], "teacher_loss": [2.3, 2.2]}, "one loss for each"),
        ({"teachers": [Teacher(name="t", loss=2.1)], "teacher_loss": [2.3]}, "a loss of its own"),
        ({"teacher_params": ["3B"], "teacher_tokens": ["60B", "1T"]}, "one value per teacher"),
        ({"teacher_tokens": ["60B"]}, "they say nothing"),
        ({"level": 1.5}, "between 0.5 and 1"),
        ({"scenario": "typo", "delta_lgt": 0.5}, "unknown cost scenario 'typo'"),
        ({"students_served": 3, "logits": "stored", "scenario": "best-case", "teachers": ["pythia-1.4b"]}, "share"),
    ],
)
def test_what_does_nothing_or_says_too_little_is_refused(asked, match):
    with pytest.raises(ConfigError, match=match):
        situation_of(PlanQuestion(student_params="1B", student_tokens="20B", **asked))


def test_a_question_in_numbers():
    asked = PlanQuestion(
        student_params="300M", money=2000, teacher_params=["3B"], teacher_tokens=["60B"], delta_pre=0.5
    )
    found = situation_of(asked)
    assert found.student_params == 3e8 and found.student_tokens is None and "2,000 $" in found.budget_text
    assert [(t.params, t.tokens, t.exists) for t in found.teachers] == [(3e9, 6e10, True)]
    assert (found.cost_shares.delta_lgt, found.cost_shares.delta_pre) == (1.0, 0.5)


def test_named_teachers_bring_their_vocabulary_and_strategies_have_hours_and_dollars():
    """Rows of Llama-3.1-8B's embedding; hours of an H100 at 40 % of 989e12 FLOP/s, three dollars each."""
    of_paper = dl.plan("1B", student_tokens="20B", with_flips=False)
    verdict = dl.plan("1B", student_tokens="20B", teachers=["llama-3.1-8b"], with_flips=False)
    assert (of_paper.situation.vocab, verdict.situation.vocab) == (32_768, 128_256)
    for row in verdict.to_json()["strategies"]:
        hours = row["compute"]["total"] / (0.4 * 989e12) / 3600
        assert (row["device_hours"], row["dollars"]) == (pytest.approx(hours), pytest.approx(3 * hours))
    other = dl.plan("1B", student_tokens="20B", device="h200", price_per_hour=5, mfu=0.2, with_flips=False)
    assert other.to_json()["device"] == {"name": "h200", "mfu": 0.2, "mfu_range": None, "price_per_hour": 5}


def test_a_budget_that_a_smaller_vocabulary_could_do_with_is_not_refused_before_models_are_read():
    asked = PlanQuestion(student_params="100k", compute=5e10)
    assert situation_of(asked, more_to_come=True).vocab == 1
    with pytest.raises(ConfigError, match="tokens per parameter"):
        situation_of(asked)


def test_students_share_a_bill_where_the_finished_question_has_one(study, tmp_path):
    """A study's own teachers exist, and its target is a budget in tokens; without teachers one has to be trained."""
    record, asked = read_study(study), PlanQuestion(study=study, students_served=3)
    assert record.teachers and record.target == (1e5, 150_000)
    for named in (asked, replace(asked, student_params=1e5, student_tokens=150_000)):
        with pytest.raises(ConfigError, match="they share the bill"):
            situation_of(named, record)
    write_study(tmp_path, World(teachers=(), seeds=1, documents=5))
    alone = read_study(tmp_path)
    found = situation_of(replace(asked, student_params=1e5, student_tokens=150_000), alone)
    assert found.students_served == 3 and not found.teachers


def test_a_serving_limit_counts_with_the_vocabulary_and_context_of_the_question(study):
    """Those of a study, as its FLOP do; those of teachers that were measured, once they are known."""
    asked = PlanQuestion(compute="1e14", serve_memory="1e6", vocab=1024, context=128)
    record = read_study(study)
    of_study = situation_of(replace(asked, vocab=None, context=None, study=study), record)
    assert of_study.max_params == situation_of(asked).max_params
    scouting = replace(asked, vocab=None)
    before = situation_of(scouting, more_to_come=True)
    after = with_measured(before, scouting, None, teachers=[Teacher(name="t", loss=2.0)], vocab=1024)
    assert before.max_params > after.max_params == of_study.max_params


def arguments(asked):
    """A random question as the arguments of `dl.plan`; teachers without loss and with, as they were given."""
    own = {f"teacher_{key}": [one[key] for one in asked["own"] if one[key]] for key in ("params", "tokens", "loss")}
    own["teacher_loss"] = [float(loss) for loss in asked["losses"] or own["teacher_loss"]]
    names = {
        "scenario": "scenario",
        "logits": "logits",
        "uniqueTokens": "unique_tokens",
        "maxStudent": "max_params",
        "trainOwn": "train_teacher",
    }
    found = {name: asked[key] for key, name in names.items() if key in asked}
    found |= {"student_params": asked["student"], "teachers": asked["named"], **own}
    found["compute" if asked["budgetKind"] == "compute" else "student_tokens"] = asked["budget"]
    found["students_served"] = int(asked.get("studentsServed", 1))
    return {key: value for key, value in found.items() if value} | {"with_flips": False}


def numbers(verdict):
    """What an answer says, but for its words."""
    rows = {row.name: (row.loss, row.gain, row.share_best, dict(row.compute)) for row in verdict.strategies}
    return verdict.call, verdict.gain, verdict.crossover_tokens, rows


def check_bill(row, situation):
    """The parts that this student pays are the whole, and that is the budget where it is one of FLOP."""
    paid, shares = row.compute, shares_of(situation, row.teacher)
    if paid["total"] is not None:
        logits, training = (paid[f"teacher_{part}"] or 0.0 for part in ("logits", "training"))
        whole = paid["student_training"] + shares.delta_lgt * logits + shares.delta_pre * training
        assert paid["total"] == pytest.approx(whole), row.name
        assert paid["total"] == pytest.approx(situation.compute or whole), row.name


def test_what_must_hold_of_any_answer():
    """Spelling and order say nothing, parts add up, chance and gain have one sign, 1 % of a budget moves little."""
    rng, asked = np.random.default_rng(5), 0
    counts = ("student_params", "student_tokens", "compute", "unique_tokens", "max_params")
    for _ in range(60):  # of which most are refused
        if asked == 4:
            break
        call = arguments(of_command(random_question(rng)))
        try:
            said = dl.plan(**call)
        except DistillawError:
            continue
        asked += 1
        plain = {key: parse_count(value) if key in counts else value for key, value in call.items()}
        turned = {key: value[::-1] if isinstance(value, list) else value for key, value in plain.items()}
        assert numbers(dl.plan(**turned)) == numbers(said), call
        for row in said.strategies:
            check_bill(row, said.situation)
        assert sum(row.share_best or 0.0 for row in said.strategies) == pytest.approx(1)
        likely = {1: said.call.distil, -1: said.call.pretrain} if said.headline.is_decisive else {}
        assert all(p < 0.5 or sign * np.median(said.headline.gain_draws) > 0 for sign, p in likely.items()), call
        budget = "compute" if "compute" in plain else "student_tokens"
        near = dl.plan(**plain | {budget: 1.01 * plain[budget]})
        if near.headline.is_decisive == said.headline.is_decisive:
            assert near.call.distil == pytest.approx(said.call.distil, abs=0.02), call
            assert near.gain.mean == pytest.approx(said.gain.mean, abs=0.05 * (said.gain.upper - said.gain.lower)), call
    assert asked == 4
