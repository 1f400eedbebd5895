"""Baselines of the user's own: what they are read from, the scale of the text that follows, and what it does."""

import json
from pathlib import Path

import numpy as np
import pytest

import distillaw as dl
from benchmarks.verdict.baselines import lone_runs, pairs
from distillaw.errors import ConfigError, DistillawError
from distillaw.planning.baseline import ASSUMED_SEED_SD, Baseline, read_baselines, scale_at
from distillaw.planning.law_evidence import law_evidence
from distillaw.planning.learnt import SEEN_BELOW, Transfer
from distillaw.planning.options import Option
from distillaw.planning.question import PlanQuestion, situation_of
from distillaw.planning.situation import Situation, Teacher
from distillaw.planning.voices import find_voices


@pytest.fixture(scope="module")
def law():
    [voice] = [v for v in find_voices(None, [], published_too=True) if v.kind == "surrogate"]
    return voice.ensemble


def loss(law, params, tokens):
    return float(np.exp(law.log_supervised(np.log([[params]]), np.log([[tokens]]))).mean())


def test_what_is_given_is_read(tmp_path):
    read = read_baselines(["1.95@2B", "1.8@600M@4B", 1.9], params=3e8, tokens=3e9)
    assert [(b.params, b.tokens, b.loss) for b in read] == [(3e8, 2e9, 1.95), (6e8, 4e9, 1.8), (3e8, 3e9, 1.9)]
    table = tmp_path / "curve.csv"
    table.write_text("tokens,loss\n1e9,2.2\n2e9,2.1\n")
    assert [b.tokens for b in read_baselines([str(table)], params=3e8, tokens=None)] == [1e9, 2e9]


@pytest.mark.parametrize(
    ("given", "params", "tokens", "said"),
    [
        ("1.95", 3e8, None, "after how many tokens"),
        ("1.95@2B", None, None, "of which size"),
        ("low@2B", 3e8, None, "no loss"),
        ("1@2@3@4", 3e8, None, "LOSS@PARAMS@TOKENS"),
        ("-1@2B", 3e8, None, "positive"),
        ("nan@2B", 3e8, None, "positive"),
    ],
)
def test_what_cannot_be_read_is_refused(given, params, tokens, said):
    with pytest.raises(ConfigError, match=said):
        read_baselines([given], params=params, tokens=tokens)


def test_tables_without_what_is_needed_are_refused(tmp_path):
    table = tmp_path / "curve.csv"
    table.write_text("tokens,perplexity\n1e9,9\n")
    with pytest.raises(ConfigError, match="no column loss"):
        read_baselines([str(table)], params=3e8, tokens=None)
    table.write_text("tokens,loss\n1B,2.1\n")
    with pytest.raises(ConfigError, match="numbers are needed"):
        read_baselines([str(table)], params=3e8, tokens=None)
    with pytest.raises(DistillawError):
        read_baselines([str(tmp_path / "none.csv")], params=3e8, tokens=None)


@pytest.mark.parametrize("cell", ["nan", "", "-2"])
def test_a_row_that_is_no_baseline_is_named_with_its_table(tmp_path, cell):
    table = tmp_path / "curve.csv"
    table.write_text(f"tokens,loss\n1e9,2.2\n2e9,{cell}\n")
    with pytest.raises(ConfigError, match=r"curve\.csv: row 2: .*loss"):
        read_baselines([table], params=3e8, tokens=None)


def test_tables_are_known_by_their_ending_in_capitals_and_as_paths(tmp_path):
    table = tmp_path / "CURVE.CSV"
    table.write_text("tokens,loss\n1e9,2.2\n")
    for given in (table, str(table)):
        assert read_baselines([given], params=3e8, tokens=None)[0].loss == 2.2


def test_one_value_is_a_list_of_one_and_text_is_not_its_letters():
    asked = {"student_tokens": "20B", "teacher_params": "3B", "teacher_loss": 2.5, "with_flips": False}
    one = dl.plan("300M", **asked, student_loss="2.9@20B").gain
    assert one == dl.plan("300M", **ASKED, teacher_loss=[2.5], student_loss=["2.9@20B"]).gain
    assert one == dl.plan("300M", **asked, student_loss=2.9).gain
    with pytest.raises(ConfigError, match="worse than guessing"):
        dl.plan("300M", **asked, student_loss="39")


def test_a_curve_that_rises_is_refused():
    with pytest.raises(ConfigError, match="fall with their tokens"):
        read_baselines(["2.0@1B", "2.1@2B"], params=3e8, tokens=None)
    with pytest.raises(ConfigError, match="fall with their tokens"):  # each step is what chance does, not all of them
        read_baselines(["2.0@1B", "2.018@2B", "2.036@4B", "2.054@8B"], params=3e8, tokens=None)
    with pytest.raises(ConfigError, match="equal runs agree"):
        read_baselines(["2.4@20B", "3.4@20B"], params=3e8, tokens=None)
    read_baselines(["2.0@1B", "2.01@2B"], params=3e8, tokens=None)  # what chance does
    rough = [
        Baseline(params=3e8, tokens=tokens, loss=value, loss_se=0.05) for tokens, value in ((1e9, 2.0), (2e9, 2.1))
    ]
    read_baselines(rough, params=3e8, tokens=None)  # what a short held-out text does


def test_baselines_that_contradict_each_other_leave_more_doubt(law):
    def sd(*factors):
        runs = [
            Baseline(params=size, tokens=2e10, loss=factor * loss(law, size, 2e10))
            for size, factor in zip((3e8, 4e8), factors, strict=True)
        ]
        return scale_at(law, runs, params=3.5e8, tokens=2e10)[1]

    assert sd(1.0, 1.3) > 3 * sd(1.0, 1.01)
    assert sd(1.0, 1.01) == pytest.approx(sd(1.0, 1.0))  # agreement is no proof


def test_far_from_the_laws_range_the_scale_drifts_more(law):
    known = [Baseline(params=1e5, tokens=1e6, loss=4.0)]
    near, far = (scale_at(law, known, params=1e5, tokens=4e6, outside=e)[1] for e in (0.0, 6.0))
    assert far > 2 * near


def test_at_a_baseline_the_scale_is_what_was_measured_and_doubt_grows_away_from_it(law):
    known = [Baseline(params=3e8, tokens=1e10, loss=1.1 * loss(law, 3e8, 1e10))]
    at_home, sd = scale_at(law, known, params=3e8, tokens=1e10)
    assert at_home == pytest.approx(np.log(1.1), abs=1e-4)
    assert sd == pytest.approx(ASSUMED_SEED_SD, rel=0.05)
    sds = [scale_at(law, known, params=3e8, tokens=1e10 * k)[1] for k in (1, 2, 8, 64)]
    assert sds == sorted(sds) and sds[-1] > 0.05
    assert scale_at(law, known, params=3e9, tokens=1e10)[1] > scale_at(law, known, params=6e8, tokens=1e10)[1]


def test_a_curve_tells_how_losses_fall_beside_the_law(law):
    def run(tokens):
        return Baseline(params=3e8, tokens=tokens, loss=1.1 * loss(law, 3e8, tokens) * (tokens / 1e10) ** -0.03)

    truth = np.log(1.1) - 0.03 * np.log(8)
    one = scale_at(law, [run(1e10)], params=3e8, tokens=8e10)
    curve = scale_at(law, [run(1e10 / 2**k) for k in range(4)], params=3e8, tokens=8e10)
    assert abs(curve[0] - truth) < 0.6 * abs(one[0] - truth)
    assert curve[1] < one[1]


ASKED = {"student_tokens": "20B", "teacher_params": ["3B"], "with_flips": False}


def test_with_a_baseline_a_teachers_loss_counts_by_its_ratio():
    def gain(teacher, student):
        return dl.plan("300M", **ASKED, teacher_loss=[teacher], student_loss=[student]).gain

    better, worse = gain(2.5, "2.9@20B"), gain(2.8, "2.9@20B")
    assert better.mean > worse.mean > gain(3.2, "2.9@20B").mean
    twice = gain(5.0, "5.8@20B")  # the same ratio on a text twice as hard
    assert twice.mean / 5.8 == pytest.approx(better.mean / 2.9, rel=1e-6)


def test_a_baseline_sharpens_what_a_teachers_loss_alone_leaves_open():
    def width(**more):
        found = dl.plan("300M", **ASKED, teacher_loss=[2.3], **more).gain
        return found.upper - found.lower

    assert width(student_loss=["2.6@20B"]) < 0.7 * width()
    assert width(student_loss=["2.6@20B"]) < width(student_loss=["2.9@2B"])


def test_the_loss_without_a_teacher_is_the_one_that_was_measured():
    found = dl.plan("300M", **ASKED, teacher_loss=[2.5], student_loss=["2.9@20B"]).headline.pretrain.loss
    assert found.mean == pytest.approx(2.9, abs=0.005)
    assert found.upper - found.lower < 0.05


def test_beyond_its_range_a_law_speaks_by_ratio_with_its_doubt_or_not_at_all():
    asked = {"student_tokens": "30M", "teacher_params": ["300M"], "with_flips": False}
    unknown = dl.plan("10M", **asked, teacher_loss=[3.0])
    assert not unknown.headline.is_decisive
    by_ratio = dl.plan("10M", **asked, teacher_loss=[3.0], student_loss=["4.0@30M"])
    assert by_ratio.headline.is_decisive and not by_ratio.inside_range
    assert by_ratio.headline.status == "BY_RATIO"
    assert 0.5 < by_ratio.call.distil < 0.98
    guessed = dl.plan("0.1M", **(asked | {"student_tokens": "0.5M"}), teacher_tokens=["6B"], student_loss=["4.0@0.5M"])
    assert not guessed.headline.is_decisive


SMALL = {"student_tokens": "6M", "teacher_params": ["3M"], "with_flips": False}


def test_what_a_teacher_costs_it_costs_whole():
    """Of gains students far below the range had a share, of losses all (benchmarks/results/baselines.json, `lost`)."""
    verdict = dl.plan("0.3M", **SMALL, teacher_loss=[4.1], student_loss=["4.0@6M"], distill_weight=1)
    assert verdict.headline.status == "BY_RATIO"
    assert verdict.call.distil < 0.13 and verdict.gain.mean < -0.07


@pytest.mark.parametrize(
    ("student", "asked"),
    [
        ("0.3M", SMALL | {"teacher_loss": [2.5], "student_loss": ["4.0@6M"]}),  # a ratio of 0.6
        ("0.3M", SMALL | {"teacher_loss": [6.0], "student_loss": ["4.0@6M"]}),  # of 1.5
        ("3k", SMALL | {"teacher_loss": [3.6], "student_loss": ["4.0@6M"]}),  # smaller than any that was run
        ("0.3M", SMALL | {"student_tokens": "6B", "teacher_loss": [3.6], "student_loss": ["4.0@6B"]}),
        (
            "10T",
            {
                "student_tokens": "100T",
                "teacher_params": ["30T"],
                "teacher_loss": [1.5],
                "student_loss": ["1.6@100T"],
                "with_flips": False,
            },
        ),
    ],
)
def test_where_nothing_of_the_kind_was_seen_nothing_is_decided(student, asked):
    found = dl.plan(student, **asked)
    assert found.headline.status != "BY_RATIO" and not found.headline.is_decisive


def test_a_teachers_loss_outside_alone_is_not_asked_by_ratio():
    """The student is in range: how far laws hold there for such teachers does not depend on a baseline."""
    found = dl.plan("300M", **ASKED, teacher_loss=[1.5], student_loss=["2.9@20B"])
    assert found.headline.status == "OUT_OF_RANGE" and not found.headline.is_decisive


def test_below_the_range_a_distant_baseline_decides_nothing():
    near, far = (
        dl.plan("0.3M", **SMALL, teacher_loss=[3.4], student_loss=[given]).headline for given in ("4.0@6M", "4.4@1M")
    )
    assert near.is_decisive and not far.is_decisive
    assert "as many tokens" in far.note


@pytest.mark.parametrize(("teacher", "alone"), [(0.05, 2.9), (0.8, 2.9), (1.2, 2.9), (2.6, 5.8)])
def test_losses_in_other_units_are_refused_beside_a_baseline_too(teacher, alone):
    with pytest.raises(ConfigError, match="bits per byte"):
        dl.plan("300M", **ASKED, teacher_loss=[teacher], student_loss=[f"{alone}@20B"])


def test_on_an_easier_text_a_loss_below_the_laws_own_floor_is_none():
    assert dl.plan("300M", **ASKED, teacher_loss=[0.8], student_loss=["0.9@20B"]).headline.is_decisive


def test_with_a_free_size_the_scale_is_that_of_the_student_found():
    asked = {"teacher_params": ["70B"], "teacher_loss": [1.8], "student_loss": ["3.0@100M@2B"], "with_flips": False}
    free = dl.plan(None, compute=1e22, **asked)
    row = free.headline.pretrain
    fixed = dl.plan(row.student_params, student_tokens=row.student_tokens, **asked).headline.pretrain
    assert row.student_params > 1e9
    assert row.loss.mean == pytest.approx(fixed.loss.mean, rel=1e-3)
    assert row.loss.upper - row.loss.lower == pytest.approx(fixed.loss.upper - fixed.loss.lower, rel=0.01)


BY_RATIO = {"teacher_params": ["1B"], "teacher_loss": [3.3], "student_loss": ["3.6@1B"], "with_flips": False}


def test_the_crossover_is_where_the_planner_itself_sees_it():
    band = dl.plan("60M", student_tokens="1B", **BY_RATIO).crossover

    def helps(tokens):
        [law] = [e for e in dl.plan("60M", student_tokens=tokens, **BY_RATIO).evidence if e.kind == "surrogate"]
        return (law.posterior.draws[:, 0] > 0).mean()

    assert helps(band.median) == pytest.approx(0.5, abs=0.05)
    assert helps(band.searched[1]) == pytest.approx(band.share_none, abs=0.05)


def test_by_ratio_teachers_are_those_that_were_measured():
    """Losses of teachers of other sizes are the law's guess, far from its range, and no ratio is known."""
    assert dl.plan("60M", student_tokens="1B", **BY_RATIO).teachers is None
    assert dl.plan("300M", **ASKED, teacher_loss=[2.5], student_loss=["2.9@20B"]).teachers is not None


def test_of_the_doubt_about_the_text_the_same_share_is_kept_as_of_the_gain():
    """A scale that is off moves the teacher's loss on the law's text, and with it the law's gain."""
    [voice] = [v for v in find_voices(None, [], published_too=True) if v.kind == "surrogate"]
    teacher = Teacher(name="teacher", loss=3.4)
    alone = Option(kind="pretrain", student_params=3e5, student_tokens=6e6)
    options = alone, Option(kind="distil", student_params=3e5, student_tokens=6e6, teacher=teacher)

    def by_text(share):
        sure = Transfer(share=share, share_sd=0.0, left_sd=0.02, seen=SEEN_BELOW.seen)
        doubts = []
        for se in (0.0, 0.1):
            known = Baseline(params=3e5, tokens=6e6, loss=4.0, loss_se=se)
            asked = Situation(student_params=3e5, student_tokens=6e6, teachers=(teacher,), baselines=(known,))
            doubts.append(law_evidence(asked, voice, options, level=0.9, transfer=sure).details["doubt"])
        return np.sqrt(doubts[1] ** 2 - doubts[0] ** 2)

    assert by_text(0.35) == pytest.approx(0.35 * by_text(1.0), rel=0.02)


def test_the_share_is_whole_in_range_and_least_known_on_the_way_below_it():
    assert (SEEN_BELOW.mean(0.0), SEEN_BELOW.sd(0.0)) == (1.0, 0.0)
    assert SEEN_BELOW.mean(1.0) == SEEN_BELOW.share and SEEN_BELOW.sd(1.0) == SEEN_BELOW.share_sd
    assert SEEN_BELOW.sd(0.5) > SEEN_BELOW.share_sd


def test_what_is_said_of_students_below_the_range_is_what_the_benchmark_found():
    found = json.loads(Path("benchmarks/results/baselines.json").read_text())["gains"]
    assert SEEN_BELOW.share == pytest.approx(found["all"]["share"], abs=0.01)
    assert found["all"]["share_sd"] <= SEEN_BELOW.share_sd <= found["all"]["share_sd"] + 0.03
    assert SEEN_BELOW.left_sd == pytest.approx(found["all"]["left_sd"], abs=0.001)
    for name, (low, high) in SEEN_BELOW.seen.as_dict().items():
        assert [low, high] == pytest.approx(found["seen"][name], rel=1e-2)


def table(**columns):
    usual = {"role": "student", "lambda": 1.0, "temperature": 1.0, "rescaled": 1.0, "seed": 0.0, "peak_lr": 0.01}
    usual |= {"batch_tokens": 512.0, "params": 1e5, "tokens": 1e6}
    count = len(columns["loss"])
    return {k: np.array([v] * count) for k, v in usual.items()} | {k: np.array(v) for k, v in columns.items()}


def test_a_distilled_run_is_paired_with_its_own_text_at_the_best_rate_of_each_arm():
    runs = table(
        world=["a", "a", "a", "b", "b"],
        teacher=["none", "none", "x", "none", "x"],
        teacher_loss=[np.nan, np.nan, 3.0, np.nan, 3.0],
        peak_lr=[0.01, 0.02, 0.01, 0.01, 0.01],
        loss=[4.0, 3.9, 3.6, 5.0, 4.5],
    )
    assert {pair.design.text: pair.run for pair in pairs(runs)} == pytest.approx({"a": 1 - 3.6 / 3.9, "b": 0.1})


def test_two_rows_of_one_run_are_refused_and_other_recipes_left_out():
    lone = {"teacher": ["none"] * 2, "teacher_loss": [np.nan] * 2, "world": ["a"] * 2, "loss": [4.0, 3.0]}
    with pytest.raises(ValueError, match="two rows"):
        lone_runs(table(**lone))
    assert list(lone_runs(table(**lone, rescaled=[1.0, 0.9])).values()) == [4.0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"student_loss": ["12@20B"]}, "worse than guessing"),
        ({"student_loss": ["2.9"], "student_tokens": None, "compute": 1e20}, "after how many tokens"),
    ],
)
def test_questions_that_a_baseline_does_not_go_with_are_refused(more, said):
    with pytest.raises(ConfigError, match=said):
        dl.plan("300M", **(ASKED | {"teacher_loss": [2.5]} | more))


def test_a_study_has_baselines_of_its_own(tmp_path):
    asked = PlanQuestion(student_params="1B", student_tokens="20B", student_loss=["2@20B"], study=tmp_path)
    with pytest.raises(ConfigError, match="baselines of its own"):
        situation_of(asked)


def flips(*student_loss):
    asked = {"student_tokens": "98M", "teacher_params": ["3B"], "teacher_loss": [3.4]}
    return dl.plan("63M", **asked, student_loss=list(student_loss)).flips


def test_what_a_baseline_takes_from_the_question_is_not_moved_without_it():
    """Asked with another size, `4.0@98M` would be the loss of a model of that size."""
    assert "tokens" in {flip.input for flip in flips("4.0@63M@98M")}
    assert "student_params" not in {flip.input for flip in flips("4.0@98M")}
    alone = {flip.input for flip in flips("4.0")}
    assert alone and alone <= {"teacher_loss", "scenario", "students_served"}


def test_every_flip_beside_a_baseline_is_found_again():
    found = flips("4.0@63M@98M")
    assert found
    for flip in found:
        asked = {"student_params": 63e6, "tokens": 98e6, "teacher_loss": 3.4} | {flip.input: flip.then}
        again = dl.plan(
            asked["student_params"],
            student_tokens=asked["tokens"],
            teacher_params=["3B"],
            teacher_loss=[asked["teacher_loss"]],
            student_loss=["4.0@63M@98M"],
            with_flips=False,
        )
        assert again.verdict == flip.verdict, flip


def test_beside_fitted_laws_alone_a_baseline_does_nothing_and_is_refused(tmp_path):
    law = dl.fit("src/distillaw/studies/open_runs.parquet", family="distillation-reduced", bootstrap=10)
    with pytest.raises(ConfigError, match="does nothing here"):
        dl.plan("300M", **ASKED, teacher_loss=[2.5], student_loss=["2.9@20B"], law=law, published=False)


def test_at_equal_flop_the_baseline_counts_at_the_tokens_bought():
    """The scale of the text is not that of the tokens asked about: it drifts on the way to the others."""
    asked = {"student_tokens": "20B", "teacher_params": ["3B"], "teacher_loss": [2.5], "with_flips": False}
    near, far = (
        dl.plan("300M", **asked, student_loss=["2.9@20B", f"{loss}@5B"]).equal_compute.gain.mean for loss in (3.1, 3.3)
    )
    assert near != pytest.approx(far, abs=1e-4)


def test_losses_that_may_be_of_another_unit_are_asked_about():
    """0.9 at 20B tokens is bits per byte of plain text, or nats per token of very easy text."""
    asked = {"student_tokens": "20B", "teacher_params": ["8B"], "teacher_tokens": ["1T"], "with_flips": False}
    said = dl.plan("1B", **asked, student_loss=["0.9@20B"], teacher_loss=[0.75])
    usual = dl.plan("1B", **asked, student_loss=["2.4@20B"], teacher_loss=[2.0])
    assert any(line.startswith("are these losses nats per token?") for line in said.warnings)
    assert not any("nats per token?" in line for line in usual.warnings)


def test_a_teacher_that_was_not_measured_makes_nobody_surer():
    """The 26M student of openai/parameter-golf: 97 % were said beside a baseline, 86 % with the teacher measured."""
    asked = {"student_tokens": "2.1B", "teacher_params": ["106M"], "teacher_tokens": ["26B"], "vocab": 1024}
    asked |= {"student_loss": ["1.95@2B"], "may_train_teacher": False, "with_flips": False}
    guessed, measured = dl.plan("26M", **asked), dl.plan("26M", **asked, teacher_loss=[1.604])
    assert guessed.call.distil <= measured.call.distil + 0.01 < 0.9
    assert guessed.gain.upper - guessed.gain.lower >= measured.gain.upper - measured.gain.lower
