"""From runs to a frozen file and a score: real fits, real plans, the real command."""

import json
import subprocess
import sys

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from forecasts import row, write_table
from synthetic_study import World, write_study

from distillaw.errors import ConfigError, DataError
from distillaw.fitting.api import fit
from distillaw.report.document import write_report
from distillaw.report.trust import frozen_section
from distillaw.runs.files import write_json
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import Facts, Progress
from distillaw.sweep.spec import DesignSpec, StudentsSpec, StudySpec, TeacherSpec, TuningSpec
from distillaw.verifying import api
from distillaw.verifying.api import freeze_study, job_points, missing_points, typed_points
from distillaw.verifying.frozen import PredictedPoint, read_runs
from distillaw.verifying.scorecard import score_study
from in_process import answer as run
from undrawn import undrawn

WORLD = World(students=(2e4, 3.5e4, 6e4, 1e5, 1.6e5, 2.5e5), budgets=(150_000, 400_000, 1_200_000), seeds=2)
LARGEST = 1_200_000
GRID = [(N, D) for N in (2e4, 5e4, 1e5, 2e5) for D in (1e5, 2e5, 4e5, 8e5)]


def loss_of(N, D):
    return 1.2 + (189 * N**-0.35 + 368 * D**-0.30) ** 0.45


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study without its largest budget, frozen on it; the whole table waits beside it."""
    folder = tmp_path_factory.mktemp("frozen") / "study"
    write_study(folder, WORLD, skip=("-1200kt",))
    write_study(folder.parent / "whole", WORLD)
    hidden = [r.point for r in read_runs(folder.parent / "whole") if r.answers and r.point.tokens == LARGEST]
    return folder, hidden, freeze_study(folder, hidden)


@pytest.fixture
def scored(study, tmp_path):
    """A copy of that study after its largest budget was run."""
    frozen = study[2]
    copy = tmp_path / "study"
    write_study(copy, WORLD)
    (copy / "predictions").mkdir()
    (copy / "predictions" / frozen.frozen.path.name).write_text(frozen.frozen.path.read_text())
    return copy


def test_every_law_and_plan_speak_of_every_cell(study):
    folder, hidden, found = study
    said = {(p.by, p.quantity) for p in found.frozen.predictions}
    assert {
        ("supervised", "loss"),
        ("distillation-reduced", "loss"),
        ("consensus", "gain"),
        ("consensus", "loss"),
    } <= said
    for p in found.frozen.predictions:
        low, high = p.intervals[0.9]
        assert low < p.mean < high and not p.after_the_fact
        if 0.5 in p.intervals:
            inner = p.intervals[0.5]
            assert low < inner[0] < inner[1] < high
    assert not missing_points(folder, hidden) and found.frozen.is_intact
    law = next(f for f in found.frozen.document["forecasters"] if f["name"] == "supervised")
    assert len(law["runs"]) == law["num_rows"] and not any("1200kt" in name for name in law["runs"])


def test_every_prediction_meets_its_measurement(scored):
    score = score_study(scored)
    assert score.is_sound and not score.problems
    assert {p.status for p in score.predictions} == {"scored"}
    ran = [r for r in read_runs(scored) if r.answers and r.point.tokens == LARGEST]
    table = {(r.point.params, r.point.teacher): r.loss for r in ran}
    for p in score.predictions:
        point = p.prediction.point
        alone, own = table[point.params, ""], table[point.params, point.teacher]
        assert p.measured == pytest.approx(own if p.prediction.quantity == "loss" else alone - own)
    assert {c.choice.by for c in score.choices if c.counts} >= {"consensus"}


def test_the_report_shows_what_was_frozen_and_what_came(scored, study):
    with undrawn():
        html = write_report(scored).read_text()
    assert study[2].frozen.hash in html and 'id="frozen"' in html
    assert "Losses inside their intervals" in html and "Every prediction" in html
    path = next((scored / "predictions").glob("[0-9]*.json"))
    path.write_text(path.read_text().replace('"level": 0.9', '"level": 0.8'))
    assert any("TAMPERED" in note for note in frozen_section(scored).notes)


def test_the_command_scores_a_study(scored):
    done = run("verify", "score", scored, "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert card["schema_version"] == 1 and card["is_sound"] and card["counts"]["scored"] > 20
    assert {"forecasters", "calibration", "decisions", "by_distance", "head_to_head"} <= card.keys()
    text = run("verify", "score", scored.parent).stdout
    assert "By forecaster" in text and "Decisions" in text
    path = next((scored / "predictions").glob("[0-9]*.json"))
    path.write_text(path.read_text().replace('"level": 0.9', '"level": 0.8'))
    tampered = run("verify", "score", scored)
    assert tampered.returncode == 1 and "TAMPERED" in tampered.stdout


# --- tables of other people, by a law of one's own: fast ------------------------------------------------------


@pytest.fixture(scope="module")
def law(tmp_path_factory):
    """A supervised law fitted on a table, as a file, and the rows behind it."""
    folder = tmp_path_factory.mktemp("law")
    rows = [row(f"r{k}", PredictedPoint(params=N, tokens=D), loss_of(N, D)) for k, (N, D) in enumerate(GRID)]
    path = write_table(folder / "runs.csv", rows)
    file = folder / "own.json"
    fit(path, family="supervised", bootstrap=60, check=False).save(file)
    return file, rows


@pytest.fixture
def table(law, tmp_path):
    """That table in a folder of its own."""
    return write_table(tmp_path / "runs.csv", law[1])


NEW = PredictedPoint(params=2e5, tokens=1.6e6)


def test_a_table_is_frozen_and_scored(table, law):
    found = freeze_study(table, [NEW], laws=[str(law[0])])
    assert found.frozen.path.parent.name == "runs.predictions"
    (p,) = found.frozen.predictions
    assert p.mean == pytest.approx(loss_of(2e5, 1.6e6), rel=0.01)
    assert p.efolds_outside["student_tokens"] == pytest.approx(0.693, abs=0.001) and not p.inside_range
    write_table(table, [*law[1], row("new", NEW, loss_of(2e5, 1.6e6))])
    (one,) = score_study(table).predictions
    assert one.is_hit() and one.counts and one.factor_beyond == pytest.approx(2.0)


def test_the_runs_behind_a_law_are_named_by_their_rows_in_the_whole_table(law, tmp_path):
    """Rows of pruned starts stand among them: laws of fresh students leave them out, but keep the count."""
    cuts = [row(f"cut{k}", PredictedPoint(params=N, tokens=D), 3.0) for k, (N, D) in enumerate(GRID)]
    mixed = [
        r | {"init": init}
        for pair in zip(cuts, law[1], strict=True)
        for r, init in zip(pair, ("pruned", ""), strict=True)
    ]
    table = write_table(tmp_path / "mixed.csv", mixed)
    (described,) = freeze_study(table, [NEW]).frozen.document["forecasters"]
    assert described["name"] == "supervised" and described["runs"] == [r["run_id"] for r in law[1]]


def test_freezing_twice_gives_the_same_file(table, law):
    first = freeze_study(table, [NEW], laws=[str(law[0])])
    again = freeze_study(table, [NEW, NEW], laws=[str(law[0])])
    assert first.is_new and not again.is_new and again.frozen.path == first.frozen.path


def test_a_measured_cell_is_refused_or_marked(table, law):
    known = PredictedPoint(params=2e5, tokens=8e5)
    with pytest.raises(ConfigError, match=r"have been run already.*r15"):
        freeze_study(table, [NEW, known], laws=[str(law[0])])
    found = freeze_study(table, [NEW, known], laws=[str(law[0])], after_the_fact=True)
    assert [p.after_the_fact for p in found.frozen.predictions] == [False, True]
    assert missing_points(table, [NEW, known]) == [known]
    assert [p.status for p in score_study(table).predictions] == ["pending", "after the fact"]


def test_a_run_that_the_table_does_not_have_yet_is_known(study, tmp_path):
    folder = tmp_path / "study"
    write_study(folder, WORLD, skip=("-1200kt",))
    before = pq.read_table(folder / "runs.parquet")
    pq.write_table(before.filter(pc.less(before["tokens"], 400_000)), folder / "runs.parquet")
    point = next(r.point for r in read_runs(study[0]) if r.answers and r.point.tokens == 400_000)
    with pytest.raises(ConfigError, match="have been run already"):
        freeze_study(folder, [point])


def test_a_law_that_is_not_made_for_the_cells_is_named(table, law):
    taught = PredictedPoint(params=2e5, tokens=1.6e6, teacher="t", teacher_loss=2.5)
    with pytest.raises(ConfigError, match="own: none of the cells is of its kind"):
        freeze_study(table, [taught], laws=[str(law[0])])


def test_a_table_with_a_nan_names_the_row(table, law):
    write_table(table, [*law[1], row("bad", PredictedPoint(params=3e5, tokens=1e5), "nan")])
    with pytest.raises((DataError, ConfigError), match="nan"):
        freeze_study(table, [NEW])


def test_a_law_of_a_paper_is_scored_without_intervals(table):
    found = freeze_study(table, [NEW], laws=["busbridge2025"])
    (p,) = found.frozen.predictions
    assert not p.intervals and not p.inside_range


# --- which cells are meant ------------------------------------------------------------------------------------


def test_cells_as_typed(tmp_path):
    teachers = [
        row("teacher-a", PredictedPoint(params=388_080, tokens=1e6), 3.2, role="teacher", purpose="teacher"),
        row("teacher-b", PredictedPoint(params=775_584, tokens=4e6), 2.9, role="teacher", purpose="teacher"),
    ]
    table = write_table(tmp_path / "runs.csv", [row("s", PredictedPoint(params=111_024, tokens=2e5), 3.8), *teachers])
    runs = read_runs(table)

    def points(text):
        return typed_points([dict(part.split("=") for part in text.split(","))], table, runs)

    assert points("params=111k,tokens=1.8M") == [
        PredictedPoint(params=111_024, tokens=1.8e6)
    ]  # an existing size, exactly
    (one,) = points("params=111024,tokens=1.8M,teacher=0.8M@4M")
    assert one.teacher == "teacher-b" and one.teacher_loss == 2.9
    assert len(points("params=111024,tokens=1.8M,teacher=all")) == 3
    assert points("params=111024,tokens=1.8M,teacher_loss=2.7")[0].teacher_loss == 2.7
    with pytest.raises(ConfigError, match="no trained teachers are meant; there are: 388k@1M, 776k@4M"):
        points("params=111024,tokens=1.8M,teacher=3M@9M")
    with pytest.raises(ConfigError, match=r"unknown 'parms'.*params"):
        points("parms=111024,tokens=1.8M")
    with pytest.raises(ConfigError, match=r"give params=\.\.,tokens="):
        points("params=111024")


def test_jobs_give_the_cells_of_held_out_students():
    spec = StudySpec(
        name="held",
        students=StudentsSpec(params=("0.03M",), tokens=(10_000,)),
        batch_tokens=256,
        teachers=(TeacherSpec(params="0.05M", tokens=20_000),),
        tuning=TuningSpec(enabled=False),
        cells=(DesignSpec(params=("0.1M",), tokens=(80_000,), seeds=2, holdout=True),),
    )
    facts = Facts(vocab_size=512, data_hash="d", fingerprints={})
    first = Planner(spec, facts, Progress(losses={}, failures={})).ready_jobs().jobs
    (teacher,) = [job.trunk.run_id(20_000) for job in first if job.trunk.role == "teacher"]
    jobs = Planner(spec, facts, Progress(losses={teacher: 5.0}, failures={})).ready_jobs().jobs
    with pytest.raises(ConfigError, match="its loss is not known yet"):
        job_points(jobs, [], holdout=True)
    runs = [r for r in [_teacher_run(teacher)]]
    held = job_points(jobs, runs, holdout=True)
    assert [(point.tokens, point.teacher_loss) for point in held] == [
        (80_000, None),
        (80_000, 5.0),
    ]  # seeds share a cell
    assert len(job_points(jobs, runs, holdout=False)) == 4


@pytest.mark.parametrize(
    ("starts", "cells"),
    [(("pruned",), 2), (("pruned", "fixed"), 3), (("fresh", "pruned", "fixed"), 3)],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_held_out_students_are_those_of_the_arm_that_laws_are_fitted_on(starts, cells):
    """Without fresh ones nothing was frozen and nothing said. Pruned ones that have no teacher are no one cell."""
    spec = StudySpec(
        name="held",
        students=StudentsSpec(
            params=("0.03M",), tokens=(10_000,), starts=starts, reference="0.1M@20k" if "fixed" in starts else ""
        ),
        batch_tokens=256,
        teachers=tuple(TeacherSpec(params=size, tokens=20_000) for size in ("0.05M", "0.1M")),
        tuning=TuningSpec(enabled=False),
        cells=(DesignSpec(tokens=(80_000,), holdout=True),),
    )
    facts = Facts(vocab_size=512, data_hash="d", fingerprints={})
    first = Planner(spec, facts, Progress(losses={}, failures={})).ready_jobs().jobs
    teachers = [job.trunk.run_id(20_000) for job in first if job.trunk.role == "teacher"]
    jobs = Planner(spec, facts, Progress(losses=dict.fromkeys(teachers, 5.0), failures={})).ready_jobs().jobs
    held = job_points(jobs, [_teacher_run(name) for name in teachers], holdout=True)
    assert len(held) == cells and {point.teacher for point in held} >= set(teachers)


def test_jobs_are_foreseen_with_the_weights_that_the_study_has(tmp_path, monkeypatch):
    """A model that students are only cut out of teaches nobody: study.json alone says its fingerprint."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (tmp_path / "held.toml").write_text(
        'name = "held"\nbatch_tokens = 256\n[data]\ncorpus = "sotu"\n[tuning]\nenabled = false\n[students]\n'
        f'params = ["0.03M"]\ntokens = ["10k"]\nstarts = ["fresh", "fixed"]\nreference = "{model}"\n'
        + "".join(f'[[teachers]]\nparams = "{size}"\ntokens = "20k"\n' for size in ("0.05M", "0.1M"))
    )
    text = {"vocab_size": 512, "data_hash": "d"}
    write_json(tmp_path / "study.json", {"data": text, "fingerprints": {str(model): "abc"}})
    seen = []
    monkeypatch.setattr(
        api, "Planner", lambda spec, facts, progress: seen.append(facts) or Planner(spec, facts, progress)
    )
    assert api.study_points(tmp_path / "held.toml", tmp_path, [], holdout=False, corpus=None)
    assert seen[0].fingerprints == {str(model): "abc"}


def _teacher_run(run_id):
    from distillaw.verifying.frozen import TableRun

    return TableRun(
        run_id=run_id,
        point=PredictedPoint(params=5e4, tokens=2e4),
        loss=5.0,
        seed="0",
        role="teacher",
        purpose="teacher",
        conditions=("", "", "", ""),
        row=0,
    )


# --- the command ----------------------------------------------------------------------------------------------


def test_the_command_freezes_a_table_and_refuses_what_it_cannot(table, law):
    done = run("verify", "freeze", table, "--cells", "params=200k,tokens=1.6M", "--law", law[0])
    assert done.returncode == 0, done.stderr
    (path,) = (table.parent / "runs.predictions").glob("[0-9]*.json")
    assert json.loads(path.read_text())["hash"] in done.stdout
    assert "beyond: tokens x2" in done.stdout
    again = run("verify", "freeze", table, "--cells", "params=200k,tokens=1.6M", "--law", law[0], "--json")
    assert json.loads(again.stdout)["is_new"] is False
    for arguments in ((), ("--cells", "params=1,tokens=1", "--hold-out"), ("--cells", "params=x,tokens=1")):
        bad = run("verify", "freeze", table, *arguments)
        assert bad.returncode == 2 and "Traceback" not in bad.stderr


def test_help_and_score_import_nothing_heavy(table, law):
    freeze_study(table, [NEW], laws=[str(law[0])])
    code = (
        "import sys; from distillaw.cli.app import app, run; "
        f"asked = ['verify', 'score', {str(table)!r}, '--json']; "
        "run(lambda: app(asked, exit_on_error=False, result_action='return_value')); "
        "assert not {'torch', 'transformers', 'matplotlib'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
