import json
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic_study import World, distilled_loss, supervised_loss, write_study

from distillaw.errors import CacheError, ConfigError
from distillaw.planning.api import plan
from distillaw.planning.arms import student_arms
from distillaw.planning.bills import bill
from distillaw.planning.measured import design_points, measure_gain, study_seed_noise
from distillaw.planning.situation import Situation, Teacher
from distillaw.runs.paired import read_scores
from distillaw.runs.record import read_study

KEYS = set(
    (
        "verdict probability probability_distil probability_pretrain equal_compute flips nearest margin strategies "
        "gain crossover_tokens flips_if assumptions inside_range warnings regret_if_wrong reasons evidence"
    ).split()
)
ROW_KEYS = set(
    "name teacher student_params student_tokens teacher_params teacher_tokens teacher_loss compute loss".split()
)


def true_gains(folder):
    """Gain by teacher run at the target cell, from the law that made the study."""
    record = read_study(folder)
    size = record.students[-1].params
    truth = {}
    for run in record.teachers.values():
        mean = supervised_loss(run.params, run.tokens) - 0.15
        truth[run.run_id] = supervised_loss(size, 150_000) - distilled_loss(size, 150_000, mean)
    return truth


def test_the_gain_at_the_target_is_recovered_with_its_interval(study):
    verdict = plan(1e5, student_tokens=150_000, study=study)
    truth = true_gains(study)
    assert verdict.verdict == "distil"
    assert verdict.probability > 0.99
    assert verdict.headline.kind == "measured"
    for row in verdict.strategies:
        if row.teacher is not None:
            # four standard errors of a gain that is known to about 0.01
            assert row.gain.mean == pytest.approx(truth[row.teacher.run_id], abs=0.04)
    assert verdict.gain.lower < truth[verdict.headline.best.teacher.run_id] < verdict.gain.upper


def test_json_holds_the_contract_at_full_precision(study):
    verdict = plan(1e5, student_tokens=150_000, study=study)
    answer = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert KEYS <= answer.keys() and all(hasattr(verdict, key) for key in KEYS)
    for row, said in zip(verdict.strategies, answer["strategies"], strict=True):
        assert ROW_KEYS <= said.keys() and all(hasattr(row, key) for key in ROW_KEYS)
    assert {"mean", "lower", "upper"} == answer["gain"].keys() == answer["strategies"][0]["loss"].keys()
    assert {"lower", "median", "upper"} == answer["crossover_tokens"].keys()
    losses = [row["loss"]["mean"] - 0 for row in answer["strategies"]]
    assert losses == sorted(losses), "best first"
    assert any(row["decides"] for row in answer["evidence"])


def test_strategy_losses_are_the_means_of_the_runs(study):
    record = read_study(study)
    verdict = plan(1e5, student_tokens=150_000, study=record)
    by_id = {run.run_id: run for run in record.runs}
    for row in verdict.strategies:
        assert row.loss.mean == pytest.approx(np.mean([by_id[i].loss for i in row.run_ids]), rel=1e-12)


@pytest.mark.parametrize(("gain_scale", "wanted"), [(-1.0, "pretrain"), (0.0, "too-close")])
def test_harmful_and_worthless_teachers(tmp_path, gain_scale, wanted):
    write_study(tmp_path, World(gain_scale=gain_scale))
    verdict = plan(1e5, student_tokens=150_000, study=tmp_path)
    assert verdict.verdict == wanted
    if wanted == "pretrain":
        assert verdict.strategies[0].teacher is None
        assert "Pretrain" in verdict.sentence
    else:
        assert verdict.next_runs
        assert verdict.call.distil < 0.8
        assert verdict.call.pretrain < 0.8
        # a gain that does not matter is no reason for a teacher: headline and advice say the same
        assert 0 < verdict.gain.mean < verdict.margin
        assert "If you must choose now: pretrain" in verdict.sentence
        assert "cheaper way, without a teacher" in verdict.next_runs[0]


@pytest.mark.slow
def test_probability_is_calibrated_over_simulated_studies(tmp_path):
    rng = np.random.default_rng(11)
    said, came = [], []
    for k in range(60):
        world = World(
            students=(2e4,),
            budgets=(150_000,),
            teachers=((1e5, 2_000_000),),
            documents=60,
            gain_scale=float(rng.uniform(-0.1, 0.2)),
            rng_seed=k,
        )
        folder = tmp_path / str(k)
        folder.mkdir()
        write_study(folder, world)
        verdict = plan(2.5e4, student_tokens=150_000, study=folder)
        truth = world.truth["student-0.02M-alone-s0-150kt"] - world.truth["student-0.02M-from-0.1M-s0-150kt"]
        said.append(verdict.call.distil)
        came.append(truth > verdict.margin)
    said, came = np.array(said), np.array(came)
    assert came[said > 0.9].mean() > 0.85
    assert came[said < 0.1].mean() < 0.15
    # Brier score: 0.25 is knowing nothing; below the mean of p (1 - p) plus noise is calibrated
    assert np.mean((said - came) ** 2) < np.mean(said * (1 - said)) + 0.05


def test_seed_noise_is_borrowed_and_said_so(study):
    verdict = plan(2.5e4, student_tokens=600_000, study=study)
    assert verdict.headline.details["seed_source"] == "study"
    assert "borrowed" in verdict.headline.note


def test_unknown_seed_noise_is_flagged_and_widens(tmp_path, study):
    write_study(tmp_path, World(seeds=1))
    alone = plan(1e5, student_tokens=150_000, study=tmp_path)
    assert alone.headline.status == "SEED_NOISE_UNKNOWN"
    assert any("SEED_NOISE_UNKNOWN" in line for line in alone.warnings)
    known = plan(1e5, student_tokens=150_000, study=study)
    assert alone.gain.upper - alone.gain.lower > 1.5 * (known.gain.upper - known.gain.lower)


def test_repeats_without_a_teacher_alone_still_bound_the_noise(tmp_path):
    write_study(tmp_path, World(), skip=tuple(f"from-{t}-s{s}" for t in ("0.02M", "0.1M", "0.3M") for s in (1, 2)))
    assert plan(1e5, student_tokens=150_000, study=tmp_path).headline.details["seed_source"] == "arm"


def test_beyond_the_budgets_run_the_runs_that_are_missing_are_named(study):
    verdict = plan(1e5, student_tokens=900_000, study=study)
    assert verdict.headline.best.basis == "extrapolated"
    assert not verdict.inside_range
    if verdict.verdict == "too-close":
        assert "the target itself: 0.1M on 900k tokens without a teacher and on 900k" in verdict.next_runs[0]


def test_unequal_seeds_are_paired_over_what_is_common(tmp_path):
    write_study(tmp_path, World(), skip=("from-0.3M-s1", "from-0.3M-s2", "from-0.02M-s2"))
    verdict = plan(1e5, student_tokens=150_000, study=tmp_path)
    seeds = {row.teacher.name: len(row.run_ids) for row in verdict.strategies if row.teacher}
    assert seeds == {"0.3M teacher": 1, "0.1M teacher": 3, "0.02M teacher": 2}
    width = {row.teacher.name: row.gain.upper - row.gain.lower for row in verdict.strategies if row.teacher}
    assert width["0.3M teacher"] > width["0.1M teacher"]


def test_losses_and_gains_of_measured_cells_are_those_of_the_runs_to_the_last_digit(tmp_path):
    write_study(tmp_path, World(), skip=("from-0.3M-s1", "from-0.3M-s2", "from-0.02M-s2"))
    record = read_study(tmp_path)
    verdict = plan(1e5, student_tokens=150_000, study=tmp_path)
    assert verdict.headline.kind == "measured" and "consensus" not in verdict.headline.source
    run = {row.run_id: row.loss for row in record.runs}
    losses = {}
    for row in verdict.strategies:
        if row.basis == "measured":
            losses[row.name] = np.mean([run[run_id] for run_id in row.run_ids])
            assert row.loss.mean == losses[row.name]
    alone = losses[verdict.headline.pretrain.name]
    for row in verdict.strategies:
        if row.gain is not None and row.basis == "measured":
            assert row.gain.mean == alone - losses[row.name]
    assert verdict.gain.mean == max(alone - loss for loss in losses.values())
    cell = next(
        c for c in design_points(record) if c.tokens == 150_000 and c.params == verdict.situation.student_params
    )
    assert {t.teacher: t.gain for t in cell.taught} == {
        row.teacher.name: row.gain.mean for row in verdict.strategies if row.teacher and row.basis == "measured"
    }


def test_a_line_drawn_on_carries_the_seed_noise_of_both_its_ends(study):
    record = read_study(study)
    for arm in student_arms(record, 1e5)[1:]:
        alone = student_arms(record, 1e5)[0]
        far = 3 * max(alone.runs)
        ends, step = sorted(alone.runs), 1e-6
        moved = [
            replace(
                alone,
                runs={
                    b: {
                        0: replace(
                            alone.runs[b][0],
                            row={**alone.runs[b][0].row, "loss": alone.runs[b][0].loss + step * (b == end)},
                        )
                    }
                    for b in ends
                },
            )
            for end in ends
        ]
        slopes = [(other.at(far).loss(0) - alone.at(far).loss(0)) / step for other in moved]
        assert alone.at(far).seed_factor == pytest.approx(sum(s**2 for s in slopes), rel=0.05)
        assert alone.at(far).seed_factor > 2 and alone.at(ends[-1]).seed_factor == 1
        drawn, seen = (
            measure_gain(record, alone.at(t), [arm.at(t)], rng=np.random.default_rng(0)) for t in (far, max(alone.runs))
        )
        assert drawn.posterior.se[0] > 2 * seen.posterior.se[0]


def test_what_rates_may_cost_widens_the_gain_and_leaves_the_margin(tmp_path):
    write_study(tmp_path / "study", World(steepness=(0.0, 0.0)), skip=("-x",))
    record = read_study(tmp_path / "study")
    unsaid = replace(
        record, runs=[replace(run, row={**run.row, "peak_lr": None, "branch_lr": None}) for run in record.runs]
    )
    one, other = (plan(1e5, student_tokens=600_000, study=r, with_flips=False) for r in (record, unsaid))
    assert "RATE_NOT_CHECKED" in one.headline.note and "RATE_NOT_CHECKED" not in other.headline.note
    assert one.margin == pytest.approx(other.margin, rel=1e-9)
    assert one.gain.mean == pytest.approx(other.gain.mean, rel=1e-9)
    assert one.gain.upper - one.gain.lower > 3 * (other.gain.upper - other.gain.lower)
    assert abs(one.probability - 0.5) < abs(other.probability - 0.5)
    alone, *taught = (arm.at(600_000) for arm in student_arms(record, 1e5))
    gains = measure_gain(record, alone, taught, rng=np.random.default_rng(0)).posterior
    # one search for all teachers: what it missed blurs no choice among them
    apart = gains.draws[:, 0] - gains.draws[:, 1]
    assert apart.std() < 0.5 * gains.se.min()


def test_a_repeat_that_agrees_by_luck_proves_no_noise_away(study):
    """Two runs that differ by nothing know less of the noise than the assumption did, and more than none."""
    record = read_study(study)
    means = {run.teacher_run: run.loss for run in record.students}
    equal = replace(
        record,
        runs=[replace(run, row={**run.row, "loss": means.get(run.teacher_run, run.loss)}) for run in record.runs],
    )
    once = replace(equal, runs=[run for run in equal.runs if run.seed == 0])
    found, assumed = (study_seed_noise(r, student_params=1e5, tokens=150_000, loss=4.0) for r in (equal, once))
    assert assumed.source == "assumed" and found.source == "cell"
    assert found.dof > assumed.dof
    assert 0.2 * assumed.sd < found.sd < assumed.sd


def test_interpolated_sums_add_up_to_the_interpolated_loss(study):
    arm = student_arms(read_study(study), 1e5)[0]
    point = arm.at(300_000)
    scores = next(iter(point.ends[150_000].values())).scores
    assert point.basis == "interpolated"
    assert point.sums(0).sum() / scores.tokens.sum() == pytest.approx(point.loss(0), rel=1e-12)
    ends = [arm.at(b).loss(0) for b in (150_000, 600_000)]
    assert ends[1] < point.loss(0) < ends[0]
    floor = arm.floor  # half way in ln tokens, of what lies above the floor
    assert point.loss(0) == pytest.approx(floor + math.sqrt((ends[0] - floor) * (ends[1] - floor)))


def test_a_curve_drawn_on_does_not_fall_through_its_teacher(study):
    for arm in student_arms(read_study(study), 1e5)[1:]:
        budgets = sorted(arm.runs)
        far, last = arm.at(3 * budgets[-1]), arm.at(budgets[-1])
        assert far.basis == "extrapolated"
        assert arm.floor == pytest.approx(arm.teacher.loss, rel=0.02)
        assert 0.995 * arm.teacher.loss < far.loss(0) < last.loss(0)
        assert arm.at(9 * budgets[-1]).curve_sd > far.curve_sd > arm.at(1.5 * budgets[-1]).curve_sd > 0
        scores = last.ends[budgets[-1]][0].scores
        assert far.sums(0).sum() / scores.tokens.sum() == pytest.approx(far.loss(0), rel=1e-12)


def test_a_student_below_its_teacher_is_not_held_by_it(study):
    arm = student_arms(read_study(study), 1e5)[1]
    below = {
        b: {s: replace(run, row={**run.row, "teacher_loss": 1.1 * run.loss}) for s, run in seeds.items()}
        for b, seeds in arm.runs.items()
    }
    last = arm.at(max(arm.runs)).loss(0)  # and not drawn up to it: it has stopped falling
    assert 0.97 * last < replace(arm, runs=below).at(900_000).loss(0) < 1.005 * last
    assert arm.at(900_000).basis == "extrapolated"
    assert arm.at(100_000) is None
    assert arm.at(10.5 * max(arm.runs)) is None


def test_equal_compute_counts_the_logits(study):
    verdict = plan(1e5, student_tokens=150_000, study=study)
    best = verdict.headline.best
    assert verdict.equal_compute.compute == pytest.approx(
        best.compute["student_training"] + best.compute["teacher_logits"]
    )
    assert verdict.equal_compute.pretrain_tokens > 150_000
    assert verdict.equal_compute.gain.mean < verdict.gain.mean
    same = plan(1e5, compute=verdict.equal_compute.compute, study=study)
    totals = [row.compute["total"] for row in same.strategies]
    assert totals == pytest.approx([verdict.equal_compute.compute] * len(totals), rel=1e-9)


def test_crossover_is_a_band_around_the_truth(study):
    verdict = plan(1e5, student_tokens=150_000, study=study)
    band = verdict.crossover_tokens
    assert 150_000 < band["lower"] < band["median"] < 1_800_000
    assert band["upper"] is None  # beyond the runs the line is in doubt: it may lie later than what is drawn
    assert "catches up" in " ".join(verdict.reasons)


def test_missing_heldout_files_fall_back_to_unpaired_and_say_so(tmp_path, study):
    write_study(tmp_path, World())
    for path in tmp_path.glob("runs/*/heldout.parquet"):
        path.unlink()
    verdict = plan(1e5, student_tokens=150_000, study=tmp_path)
    paired = plan(1e5, student_tokens=150_000, study=study)
    assert verdict.headline.status == "UNPAIRED"
    assert verdict.headline.source == "measured runs of this study"
    assert "in pairs" not in verdict.headline.note
    assert paired.headline.is_paired and not verdict.headline.is_paired
    assert verdict.gain.upper - verdict.gain.lower > 3 * (paired.gain.upper - paired.gain.lower)


def keep_documents(file, count):
    """A run that was scored on fewer documents."""
    pq.write_table(pq.read_table(file).slice(0, count), file)
    result = file.with_name("result.json")
    result.write_text(json.dumps(json.loads(result.read_text()) | {"loss": read_scores(file).loss}))


def test_one_document_or_another_held_out_set_is_not_paired(tmp_path):
    write_study(tmp_path / "one", World(documents=2, seeds=1))
    for path in (tmp_path / "one").glob("runs/*/heldout.parquet"):
        keep_documents(path, 1)
    assert plan(1e5, student_tokens=150_000, study=tmp_path / "one").headline.noise > 0
    write_study(tmp_path / "other", World())
    path = tmp_path / "other" / "runs" / "student-0.1M-from-0.3M-s0-150kt" / "heldout.parquet"
    keep_documents(path, 40)
    verdict = plan(1e5, student_tokens=150_000, study=tmp_path / "other")
    assert any("compared as if independent" in line for line in verdict.warnings)


def test_teachers_that_the_study_does_not_know_are_judged_by_laws_alone(study):
    verdict = plan(1e5, student_tokens=150_000, study=study, teachers=[Teacher(name="t", params=1e6, loss=3.2)])
    silent = verdict.to_json()["evidence"][0]
    assert (silent["status"], silent["gain"]) == ("NOT_RUN", None)
    assert "not distilled from the teachers considered" in silent["note"]
    assert verdict.verdict == "too-close"


def test_a_student_the_study_did_not_run_is_not_answered_with_confidence(study):
    verdict = plan("5M", student_tokens="20M", study=study)
    assert verdict.verdict == "too-close"
    assert verdict.probability == 0.5
    assert not verdict.inside_range
    assert any("target itself" in line for line in verdict.next_runs)


def test_published_laws_answer_inside_their_range_and_refuse_far_outside():
    teacher = Teacher(name="8B teacher", params=8e9, tokens=2e11)
    inside = plan("1B", student_tokens="20B", teachers=[teacher])
    assert inside.inside_range
    assert inside.headline.kind == "surrogate"
    assert any("ot published" in line for line in inside.warnings)
    outside = plan("0.1M", student_tokens="0.5M")
    assert (outside.verdict, outside.probability, outside.inside_range) == ("too-close", 0.5, False)
    assert not outside.headline.is_informative


def test_table_6_verbatim_never_carries_a_plan():
    teacher = Teacher(name="8B teacher", params=8e9, tokens=2e11)
    verdict = plan("1B", student_tokens="20B", teachers=[teacher], law="busbridge2025")
    shown = {row["source"]: row for row in verdict.to_json()["evidence"]}["busbridge2025"]
    assert shown["status"] == "REFUSED"
    assert shown["probability_distil"] is None
    assert not shown["decides"]
    assert "busbridge2025 was asked for and may not carry a plan" in verdict.warnings[0]
    single = plan("1B", student_tokens="20B", teachers=[teacher], law="surrogate-s2")
    assert single.headline.source == "surrogate-s2"
    band = single.crossover_tokens
    assert band["upper"] is None or band["upper"] > 1.5 * band["lower"], "one law, and still a band"


def test_paying_for_the_teacher_flips_the_answer_at_equal_compute():
    teacher = Teacher(name="2B teacher", params=2e9, tokens=4e10, exists=False)
    verdict = plan("1B", student_tokens="20B", teachers=[teacher])
    assert verdict.verdict == verdict.equal_compute.call.verdict == "pretrain"


@pytest.mark.parametrize(
    ("call", "match"),
    [
        ({"student_params": "1B"}, "give one budget"),
        ({"student_params": "1B", "student_tokens": 1e10, "compute": 1e20}, "give one budget"),
        ({"student_params": -5, "student_tokens": 1e10}, "positive"),
        ({"student_params": "1B", "student_tokens": 0}, "positive"),
        ({"student_params": "1B", "student_tokens": 1e6}, "tokens per parameter"),
        ({"student_params": "1B", "compute": 1e12}, "tokens per parameter"),
        ({"student_params": 300, "student_tokens": 1e6}, "write 300M"),
        ({"student_params": "1B", "student_tokens": 1e10, "scenario": "best-cse"}, "did you mean 'best-case'"),
        ({"student_params": "1B", "student_tokens": 1e10, "law": "busbrige2025"}, "did you mean"),
        ({"student_params": "1B", "student_tokens": 1e10, "law": "besiroglu2024"}, "no distillation part"),
        ({"student_params": "1B", "student_tokens": 1e10, "level": 5}, "level"),
        ({"student_params": "1B", "student_tokens": 1e10, "vocab": 0}, "vocab = 0"),
        ({"student_params": "1B", "student_tokens": 1e10, "teachers": [Teacher(name="t", loss=1.0)]}, "irreducible"),
        ({"student_params": "1B", "student_tokens": 1e10, "teachers": [Teacher(name="t", loss=11.0)]}, "guessing"),
    ],
)
def test_bad_input_is_refused_with_the_rule(call, match):
    with pytest.raises(ConfigError, match=match):
        plan(**call)


def test_a_teacher_needs_a_loss_or_size_and_tokens():
    with pytest.raises(ConfigError, match="its loss, or its size and tokens"):
        Teacher(name="t", params=1e9)
    with pytest.raises(ConfigError, match="positive"):
        Teacher(name="t", loss=-1.0)


def test_a_teacher_worse_or_smaller_than_the_student_is_named():
    verdict = plan("1B", student_tokens="20B", teachers=[Teacher(name="weak one", params=2e8, loss=2.6)])
    text = " ".join(verdict.warnings)
    assert "no better than the student by itself" in text
    assert "smaller than the student" in text
    assert verdict.verdict != "distil"


def test_a_folder_that_is_no_study_is_named(tmp_path):
    with pytest.raises(CacheError, match="not a study folder"):
        plan("1B", student_tokens=1e10, study=tmp_path)
    with pytest.raises(CacheError, match="no such folder"):
        plan("1B", student_tokens=1e10, study=tmp_path / "nowhere")


def test_bill_parts_and_scenarios():
    teacher = Teacher(name="t", params=4e9, tokens=8e10, exists=False)
    for scenario, paid in (("inference", (1, 1)), ("best-case", (0, 1))):
        situation = Situation(student_params=1e9, student_tokens=2e10, scenario=scenario, students_served=4)
        found = bill(situation, 1e9, 2e10, teacher)
        wanted = found["student_training"] + paid[0] * found["teacher_logits"] + paid[1] * found["teacher_training"] / 4
        assert found["total"] == pytest.approx(wanted)
    plain = Situation(student_params=1e9, student_tokens=2e10)
    assert bill(plain, 1e9, 2e10, Teacher(name="t", loss=2.0))["total"] is None


def test_beyond_its_budgets_a_good_teacher_is_worth_no_less_for_a_bad_one_beside_it(tmp_path):
    """On the kernel's documentation 0.148 nats became 0.005, in a verdict that printed 0.148 and advised against it."""
    write_study(tmp_path, World(teachers=((3e5, 2_000_000), (2e4, 400_000))))
    record = read_study(tmp_path)
    baseline, *taught = (arm.at(3_000_000) for arm in student_arms(record, record.students[-1].params))
    gain = measure_gain(record, baseline, taught, rng=np.random.default_rng(0))
    assert {c.basis for c in gain.candidates} == {"extrapolated"}
    found, best = gain.posterior, int(np.argmax(gain.posterior.estimate))
    assert found.estimate[best] - found.estimate.min() > 0.3
    assert found.mean[best] > found.estimate[best] - 0.2 * found.se[best]
