"""Every control passes on a study made to pass, fails on what it guards against, and says what is missing."""

import json
from dataclasses import asdict

import pytest
from made_study import BUDGETS, SIZES, TEACHERS, MadeStudy

from distillaw.controls import api, design, extra, law_checks, tuning
from distillaw.controls.study_runs import StudyRuns
from distillaw.fitting.api import fit
from distillaw.planning.api import plan
from distillaw.runs.record import read_study
from distillaw.sweep.checks import CONTROLS
from in_process import answer


@pytest.fixture
def study(tmp_path):
    return MadeStudy(tmp_path)


def checked(check, study, **how):
    return check(StudyRuns(study.record(**how)))


def is_control(name):
    return lambda row: row["purpose"] == f"control:{name}"


ALL = {
    control.name: check
    for check, control in (
        (tuning.check_rate, tuning.RATE),
        (tuning.check_batch, tuning.BATCH),
        (tuning.check_horizon, tuning.HORIZON),
        (tuning.check_steps, tuning.STEPS),
        (design.check_disjoint, design.DISJOINT),
        (extra.check_union, extra.UNION),
        (extra.check_seen, extra.SEEN),
        (extra.check_flop, extra.FLOP),
        (design.check_epoch, design.EPOCH),
        (design.check_seeds, design.SEEDS),
        (design.check_errors, design.ERRORS),
        (design.check_range, design.RANGE),
        (design.check_pairs, design.PAIRS),
        (law_checks.check_share, law_checks.SHARE),
        (design.check_lambda, design.LAMBDA),
        (design.check_temperature, design.TEMPERATURE),
    )
}


@pytest.mark.parametrize("name", ALL)
def test_a_study_made_to_pass_passes(study, name):
    control = checked(ALL[name], study)
    assert (control.name, control.status) == (name, "passed"), control.found
    assert not control.remedy and control.guards and control.found


def _end_of_search(study):
    study.tuning["arms"][1]["learning_rate"]["interior"] = False


def _other_batch(study):
    batch = study.tuning["arms"][2]["batch"]
    batch["interior"] = False
    batch["grid"][0]["loss"] = 3.9


def _best_rate_falls(study):
    """At the largest token count half the rate is better by 0.1 nats: the branch is that much too bad."""
    study.edit(
        lambda r: is_control("horizon")(r) and r["tokens"] == BUDGETS[-1] and r["peak_lr"] < 0.01,
        mean=lambda r: r["mean"] - 0.13,
    )


def _teacher_is_its_text(study):
    study.edit(is_control("union"), mean=lambda r: r["mean"] - 0.5)


def _seen_teacher_is_useless(study):
    study.edit(is_control("seen"), mean=lambda r: r["mean"] + 0.4)


def _dear_teachers(study):
    """Tokens that the same FLOP buys are more than twice as many, and worth more than the teacher."""
    study.edit(lambda r: r["role"] == "teacher", train_flops=lambda r: 0.6 * 6 * 400_000 * BUDGETS[-1])
    study.edit(lambda r: r["teacher_run"] and r["purpose"] == "grid", mean=lambda r: r["mean"] + 0.5)


def _loss_is_not_all(study):
    """Students of one of two teachers of equal loss are 0.1 nats worse."""
    study.edit(lambda r: r["teacher_run"] == "teacher-pair-a", mean=lambda r: r["mean"] + 0.12)


def _noisy(study):
    """Gains of about five hundredths against errors of two."""
    study.edit(
        lambda r: r["teacher_run"] is None and r["role"] == "student",
        mean=lambda r: r["mean"] - 0.29 + 0.02 * (-1) ** r["seed"],
    )


BROKEN = {
    "interior-rate": (_end_of_search, "0.4M supervised"),
    "interior-batch": (_other_batch, "0.1M distilled would take 128"),
    "horizon": (_best_rate_falls, "x0.5 the rate is better by 0."),
    "steps": (lambda s: s.edit(lambda r: r["tokens"] == BUDGETS[0], steps=400), "400 steps"),
    "disjoint-text": (lambda s: s.edit(lambda r: r["run_id"] == "teacher-good", split="student"), "read their text"),
    "union": (_teacher_is_its_text, "gains -0."),
    "seen-text": (_seen_teacher_is_useless, "gains -0."),
    "equal-flop": (_dear_teachers, "gains -0."),
    "single-epoch": (lambda s: s.edit(lambda r: r["tokens"] == BUDGETS[-1], unique_tokens=BUDGETS[0]), "4 times"),
    "seeds": (lambda s: s.drop(lambda r: r["seed"] > 2 and r["params"] == 400_000), "3 of 400k"),
    "paired-errors": (_noisy, "errors above a third"),
    "teacher-range": (lambda s: s.drop(lambda r: "strong" in r["run_id"]), "0.71 to"),
    "equal-loss-pairs": (_loss_is_not_all, "different in 9"),
    "embedding-share": (lambda s: s.edit(lambda r: r["params"] == 100_000, width=80), "41 %"),
    "lambda": (lambda s: s.edit(is_control("lambda"), mean=lambda r: r["mean"] - 0.1), "lambda 0.5 by +0."),
    "temperature": (lambda s: s.edit(is_control("temperature"), mean=lambda r: r["mean"] - 0.1), "temperature 2 by +"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_a_control_guards_against_fails_it(study, name):
    spoil, words = BROKEN[name]
    spoil(study)
    control = checked(ALL[name], study)
    assert control.status == "failed", control.found
    assert words in control.found
    assert control.remedy


MISSING = {
    "interior-rate": lambda s: s.tuning.clear(),
    "interior-batch": lambda s: [arm["batch"].update(grid=arm["batch"]["grid"][1:2]) for arm in s.tuning["arms"]],
    "horizon": lambda s: s.drop(lambda r: is_control("horizon")(r) and r["tokens"] == BUDGETS[-1]),
    "union": lambda s: s.drop(is_control("union")),
    "seen-text": lambda s: s.drop(lambda r: "seen" in r["run_id"]),
    "equal-flop": lambda s: s.edit(lambda r: r["role"] == "teacher", train_flops=1e15),
    "single-epoch": lambda s: s.edit(lambda r: True, unique_tokens=None),
    "seeds": lambda s: s.drop(lambda r: r["seed"] > 0),
    "equal-loss-pairs": lambda s: s.drop(lambda r: "pair-a" in r["run_id"]),
    "embedding-share": lambda s: s.edit(lambda r: True, width=None, total_params=None),
    "lambda": lambda s: s.drop(is_control("lambda")),
    "temperature": lambda s: s.drop(lambda r: is_control("temperature")(r) and r["params"] == 100_000),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_not_done_and_has_a_remedy(study, name):
    MISSING[name](study)
    control = checked(ALL[name], study)
    assert control.status == "not done", control.found
    assert control.remedy


def test_a_study_without_teachers_has_nothing_to_control_there(study):
    study.drop(lambda r: r["teacher_run"] is not None or r["role"] == "teacher")
    for name in ("disjoint-text", "union", "seen-text", "equal-flop", "teacher-range", "equal-loss-pairs", "lambda"):
        assert checked(ALL[name], study).status == "not applicable", name
    assert checked(ALL["interior-rate"], study).status == "passed"


def test_runs_of_the_search_count_as_other_rates_at_its_budget(study):
    """The tuned rate's neighbours at the smallest tokens have been trained already: only the largest is missing."""
    smallest = [r for r in study.rows.values() if is_control("horizon")(r) and r["tokens"] == BUDGETS[0]]
    for row in smallest:
        row["purpose"] = "tuning"
    assert checked(tuning.check_horizon, study).status == "passed"


def test_one_rate_too_few_is_no_bracket(study):
    study.drop(lambda r: is_control("horizon")(r) and r["tokens"] == BUDGETS[-1] and r["peak_lr"] < 0.01)
    control = checked(tuning.check_horizon, study)
    assert control.status == "not done" and "largest tokens alone" in control.found


def test_runs_at_other_rates_fail_it_wherever_they_are(study):
    """Half a bracket, at a middle budget, says nothing good, and says what it lost."""
    study.drop(lambda r: is_control("horizon")(r) and r["tokens"] == BUDGETS[-1] and r["peak_lr"] > 0.01)
    for row in study.rows.values():
        if is_control("horizon")(row) and row["tokens"] == BUDGETS[-1]:
            twin = row["run_id"].split("-peak_lr")[0].replace(str(BUDGETS[-1]), str(BUDGETS[1]))
            row |= {"tokens": BUDGETS[1], "mean": study.rows[twin]["mean"] - 0.1}
    control = checked(tuning.check_horizon, study)
    assert control.status == "failed"
    assert {one["arm"] for one in control.numbers["excess"] if one["branch_minus_best"]["mean"] > 0} == {
        "alone",
        "taught",
    }


def test_a_teacher_at_a_wrong_rate_fails_it(study):
    study.edit(lambda r: r["run_id"] == "teacher-weak-0.5", mean=lambda r: r["mean"] - 0.1)
    control = checked(tuning.check_horizon, study)
    assert control.status == "failed" and "100k teacher" in control.found


def test_a_gain_within_the_margin_of_a_verdict_is_none(study):
    study.edit(lambda r: is_control("horizon")(r) and r["peak_lr"] < 0.01, mean=lambda r: r["mean"] - 0.027)
    control = checked(tuning.check_horizon, study)
    assert control.status == "passed" and "is better by 0.0" in control.found


@pytest.mark.parametrize(("best", "status"), [(0, "passed"), (-1, "not done")], ids=["inside", "at an end"])
def test_of_imported_runs_the_best_rate_speaks_and_the_others_check_it(tmp_path, best, status):
    """Nothing in a table tells which rate the search chose; the order of its names must not."""
    rows = ["run,params,tokens,loss,peak_lr,seed,teacher_loss,teacher_params"]
    for tokens, loss in ((60_000, 4.0), (960_000, 3.0)):
        for x in (-1, 0, 1):
            alone = loss + 0.3 * (x - (best if tokens == 960_000 else 0)) ** 2
            taught, rate = loss - 0.3 + 0.1 * x * x, 0.01 * 2.0**x
            rows.append(f"alone {tokens} {x},1e5,{tokens},{alone},{rate},0,,")
            rows.append(f"taught {tokens} {x},1e5,{tokens},{taught},{rate},0,2.5,4e5")
    (tmp_path / "runs.csv").write_text("\n".join(rows))
    assert answer("study", "import", tmp_path / "runs.csv", "--out", tmp_path / "out").returncode == 0
    record = read_study(tmp_path / "out")
    assert len(record.students) == 4
    assert tuning.check_horizon(StudyRuns(record)).status == status
    verdict = plan(1e5, student_tokens=960_000, study=record, with_flips=False)
    assert verdict.gain.mean == pytest.approx(0.3)
    assert ("RATE_NOT_CHECKED" in verdict.headline.note) == (status != "passed")


def test_cells_at_other_rates_fail_it_where_an_arm_gains_more_than_the_margin(study):
    """`[[cells]]` of any name: what a run differs in counts, not what it is called."""
    largest = [r for r in study.rows.values() if is_control("horizon")(r) and r["tokens"] == BUDGETS[-1]]
    for row in largest:
        row["purpose"] = "control:mine"
        row["mean"] -= 0.2 * (row["teacher_run"] is None and row["peak_lr"] < 0.01)
    control = checked(tuning.check_horizon, study)
    assert control.status == "failed" and "alone" in control.found and "x0.5" in control.found


def test_a_rate_that_falls_is_told_apart_where_it_has_fallen(study):
    """Trunks of one peak whose rates fall differently differ in the rate at which their branches begin."""
    for row in study.rows.values():
        row |= {"branch_lr": row["peak_lr"], "peak_lr": 0.01}
    assert checked(tuning.check_horizon, study).status == "passed"


def test_a_run_of_another_schedule_is_no_run_at_another_rate(study):
    """The table of an older study may lack a setting that spec.json has."""
    decays = {row["run_id"]: "cosine" if is_control("horizon")(row) else "linear" for row in study.rows.values()}
    record = study.record()
    for run in record.runs:
        folder = study.folder / "runs" / run.run_id
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps({"recipe": {"decay": decays[run.run_id], "distill_weight": 1.0}}))
        object.__setattr__(run, "folder", folder)
    runs = StudyRuns(record)
    assert runs.other_rates("student") == {}
    assert set(runs.variants("lambda")) == {(size, BUDGETS[0], "teacher-good") for size in (SIZES[0], SIZES[-1])}


def test_disjoint_needs_a_manifest_to_pass_and_fails_on_shared_shards(study):
    study.manifest("same", "same")
    assert checked(design.check_disjoint, study).status == "failed"
    (study.folder / "data" / "manifest.json").unlink()
    assert checked(design.check_disjoint, study).status == "undecided"


def test_disjoint_says_what_was_dropped_and_what_was_not_looked_for(study):
    study.manifest("one", "two")
    assert "near ones not looked for" in checked(design.check_disjoint, study).found
    file = study.folder / "data" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"duplicates": {"words": "copies dropped: 3 exact"}}))
    assert "copies dropped: 3 exact" in checked(design.check_disjoint, study).found


def test_too_noisy_for_an_answer_is_undecided_and_not_passed(study):
    """A difference that is not significant does not make two things equal."""
    study.edit(lambda r: r["teacher_run"] == "teacher-pair-a", mean=lambda r: r["mean"] + 0.076)
    control = checked(design.check_pairs, study)
    assert control.status == "undecided" and control.remedy
    study.edit(is_control("lambda"), mean=lambda r: r["mean"] - 0.026)
    assert checked(design.check_lambda, study).status == "undecided"


def test_without_losses_by_document_nothing_is_paired(study):
    assert checked(design.check_errors, study, scored=False).status == "not done"
    control = checked(design.check_lambda, study, scored=False)
    assert control.status == "undecided"
    assert not control.numbers["swept"][0]["grid_minus_best"]["paired"]


def test_equal_loss_teachers_of_one_size_are_no_pair(study):
    study.edit(lambda r: r["run_id"] == "teacher-pair-b", params=300_000)
    control = checked(design.check_pairs, study)
    assert control.status == "not done" and "nearest" in control.found


def test_seeds_of_one_trunks_branches_are_one_cell(study):
    """Two token counts of one size share their luck."""
    for seed in range(1, 5):
        for teacher in (None, "good"):
            study.student(100_000, BUDGETS[1], teacher, seed=seed)
    study.drop(lambda r: r["seed"] > 0 and r["params"] == 400_000)
    assert checked(design.check_seeds, study).status == "failed"


def test_the_smallest_batch_there_is_counts_as_interior(study):
    for arm in study.tuning["arms"]:
        arm["batch"].update(
            interior=False, best=128, grid=[{"batch_tokens": b, "loss": 4 + b / 1e4} for b in (128, 256)]
        )
    assert checked(tuning.check_batch, study).status == "passed"


def test_conventions_agree_where_a_law_holds_and_part_where_embeddings_lead(study):
    control = checked(law_checks.check_conventions, study)
    assert control.status == "passed", control.found
    assert {one["family"] for one in control.numbers["fits"]} == {"supervised", "distillation-kappa"}
    # vocabulary matrices of any size, unrelated to the model's: no power of the total is a power of the rest
    study.edit(lambda r: r["params"] == 200_000, total_params=4_000_000)
    study.edit(lambda r: r["params"] == 400_000, total_params=600_000)
    assert checked(law_checks.check_conventions, study).status == "failed"


def test_a_table_without_totals_has_no_second_convention(study):
    study.edit(lambda r: True, total_params=None)
    assert checked(law_checks.check_conventions, study).status == "not done"


def test_precision_compares_what_the_design_promised_with_what_the_fit_has(study):
    record = study.record()
    before = law_checks.check_c0(StudyRuns(record))
    assert before.status == "not done" and before.numbers["expected"] > 0
    table = {
        key: [run.row.get(key) for run in record.runs]
        for key in ("params", "tokens", "loss", "teacher_loss", "group", "purpose")
    }
    law = fit(table, family="distillation-reduced", bootstrap=40, check=False, calibrate=False)
    (study.folder / "laws").mkdir()
    law.save(study.folder / "laws" / "distillation-reduced.json")
    runs = StudyRuns(study.record())
    c0, ratio = law_checks.check_c0(runs), law_checks.check_ratio(runs)
    assert c0.status == ("passed" if c0.numbers["reached"] <= 0.3 else "failed")
    assert c0.numbers["reached"] == pytest.approx(law.curve.coefficients(replicates=True)["c0"].std(), rel=0.6)
    assert ratio.numbers["bracketed_cells"] == len(SIZES) * len(BUDGETS)
    assert 0 < ratio.numbers["reached"] < 0.1


def test_all_controls_have_names_of_their_own_and_plain_json(study):
    controls = api.check_controls(study.record())
    names = [control.name for control in controls]
    assert len(names) == len(set(names)) == len(api.check_design(study.record())) + 2
    assert set(names) == set(CONTROLS), "what a study file may leave out"
    for control in controls:
        assert json.loads(json.dumps(asdict(control), allow_nan=False))["status"] == control.status


def test_a_control_that_a_study_leaves_out_is_shown_and_not_counted(study):
    _end_of_search(study)
    study.info["spec"] = {"without_controls": ["interior-rate"]}
    (control,) = [c for c in api.check_design(study.record()) if c.name == "interior-rate"]
    assert control.status == "not applicable" and not control.remedy
    assert "left out by the study file" in control.found and "0.4M supervised" in control.found


def test_doubts_name_what_did_not_pass_by_what_it_concerns(study):
    _teacher_is_its_text(study)
    study.drop(is_control("lambda")).edit(lambda r: r["params"] == 100_000, width=80)
    controls = api.check_design(study.record())
    assert api.doubts(controls, "laws") == {"failed": ["embedding-share"], "not done": ["lambda"]}
    assert "union" in api.doubts(controls, "gains")["failed"]
    assert "embedding-share" in api.caveat(api.doubts(controls, "laws"))
    assert api.caveat({"not done": ["lambda"]}) == ""
    assert api.summary(controls).endswith("2 failed, 1 not done")


def test_a_folder_without_students_has_no_controls(study):
    study.drop(lambda r: r["role"] == "student")
    assert api.check_controls(study.record()) == []


def test_teachers_of_the_made_study_are_what_the_tests_say(study):
    assert abs(TEACHERS["pair-a"][2] / TEACHERS["pair-b"][2] - 1) < design.SAME_LOSS
