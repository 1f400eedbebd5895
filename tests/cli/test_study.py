"""`distillaw study` and `train` as a stranger uses them: through the console script, with real tiny training."""

import json

import pytest

from in_process import answer as _call
from tiny import study_text

TINY = study_text(
    "tiny",
    """[students]
params = ["0.03M"]
tokens = ["4k", "8k"]
[[teachers]]
params = "0.05M"
tokens = "8k"
[target]
params = "0.03M"
tokens = "8k"
""",
    tuning="rounds = 1\nbatch = false",
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished tiny study: its file, folder, and what the command printed."""
    base = tmp_path_factory.mktemp("study")
    (base / "tiny.toml").write_text(TINY)
    done = _call("study", "run", base / "tiny.toml", "--out", base / "out", "--set", "tuning.rounds=1", "--json")
    assert done.returncode == 0, done.stderr
    return base / "tiny.toml", base / "out", done


def test_one_command_goes_from_text_to_verdict_and_report(study):
    _, folder, done = study
    answer = json.loads(done.stdout)
    assert answer["schema_version"] == 1 and answer["failed_runs"] == {}
    assert answer["verdict"]["verdict"] in ("distil", "pretrain", "too-close")
    assert 0 <= answer["verdict"]["probability"] <= 1
    html = (folder / "report.html").read_text()
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert (folder / "runs.parquet").exists() and (folder / "tuning.json").exists()
    assert {p.stem for p in (folder / "laws").glob("*.json")} >= {"supervised", "distillation-reduced"}


def test_the_reports_losses_equal_the_results(study):
    _, folder, _ = study
    html = (folder / "report.html").read_text()
    for path in folder.glob("runs/*/result.json"):
        result = json.loads(path.read_text())
        assert result["run_id"] in html
        assert f"{result['loss']:.4f}" in html


def test_the_search_is_recorded_with_interior_optima_or_their_absence(study):
    _, folder, _ = study
    tuning = json.loads((folder / "tuning.json").read_text())
    assert {arm["arm"] for arm in tuning["arms"]} == {"supervised", "distilled", "teacher"}
    for arm in tuning["arms"]:
        if arm["arm"] == "teacher":  # its rate is the lone students'; only how it falls is its own
            continue
        grid = arm["learning_rate"]["grid"]
        assert len(grid) >= 3
        losses = {point["peak_lr"]: point["loss"] for point in grid}
        assert losses[arm["learning_rate"]["best"]] == min(losses.values())
        ends = (min(losses), max(losses))
        assert arm["learning_rate"]["interior"] == (arm["learning_rate"]["best"] not in ends)


def test_what_was_set_beside_the_file_is_recorded(study):
    _, folder, done = study
    assert "set: tuning.rounds=1" in done.stderr
    assert json.loads((folder / "study.json").read_text())["set"] == ["tuning.rounds=1"]


def test_a_second_run_trains_nothing_and_says_the_same(study):
    path, folder, first = study
    again = _call("study", "run", path, "--out", folder, "--set", "tuning.rounds=1", "--json", code=0)
    answer = json.loads(again.stdout)
    assert answer["new_runs"] == []
    assert answer["verdict"] == json.loads(first.stdout)["verdict"]


def test_a_dry_run_counts_what_is_left_in_the_folder(study, tmp_path):
    path, folder, _ = study
    asked = ("study", "run", path, "--out", folder, "--set", "tuning.rounds=1", "--dry-run")
    said = json.loads(_call(*asked, "--json").stdout)
    assert said["left"] == {"num_runs": 0, "flops": 0, "tokens": 0, "seconds": 0} and said["num_runs"] > 10
    lost = max(folder.glob("runs/student-*-from-*-8000t"))
    lost.rename(tmp_path / "lost")
    try:
        left = json.loads(_call(*asked, "--json").stdout)["left"]
        assert 0 < left["num_runs"] < said["num_runs"] / 2 and 0 < left["tokens"] and 0 < left["seconds"]
        words = f"left to train in {folder}: {left['num_runs']} run"
        assert words in _call(*asked).stdout
    finally:
        (tmp_path / "lost").rename(lost)


def test_show_spends_nothing_and_agrees_with_what_is_then_run(study, tmp_path):
    path, folder, _ = study
    shown = json.loads(_call("study", "show", path, "--json", cwd=tmp_path).stdout)
    assert list(tmp_path.iterdir()) == []
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "runs.parquet").to_pylist()
    grid = {
        (r["role"], "distilled" if r["teacher_run"] else "supervised", r["params"], r["tokens"] // 192)
        for r in rows
        if r["purpose"] != "tuning"
    }
    planned = {
        (t["role"], t["arm"], t["params"], round(n / 192))
        for t in shown["trunks"]
        if t["purpose"] != "tuning"
        for n in t["tokens"]
    }
    assert {g[:3] for g in grid} == {p[:3] for p in planned}
    assert len(grid) == len(planned)
    text = _call("study", "show", path).stdout
    assert (
        "FLOP" in text and "on disk" in text and text.strip().splitlines()[-1].startswith("next: distillaw study run")
    )


def test_train_makes_one_run_and_finds_it_again(study, tmp_path):
    _, folder, _ = study
    teacher = next(p.parent for p in folder.glob("runs/teacher-*/result.json"))
    spec = tmp_path / "one.toml"
    spec.write_text(
        'name = "one"\nparams = "0.03M"\ntokens = "4k"\npeak_lr = 0.01\nbatch_tokens = 128\n'
        f'teacher = "{teacher}"\n[data]\ntokenizer = "{teacher}"\nvalidation_documents = 20\n'
        "validation_tokens_per_document = 96\nmax_document_chars = 800\n[training]\ncontext = 32\n"
    )
    result = json.loads(_call("train", spec, "--out", tmp_path / "run", "--json", code=0).stdout)
    assert result["teacher_run"] == str(teacher.resolve())
    assert result["teacher_loss"] == json.loads((teacher / "result.json").read_text())["loss"]
    again = _call("train", spec, "--out", tmp_path / "run", "--json")
    assert json.loads(again.stdout) == result


def test_a_teacher_of_another_vocabulary_is_refused_before_anything_is_trained(study, tmp_path):
    _, folder, _ = study
    teacher = next(p.parent for p in folder.glob("runs/teacher-*/result.json"))
    spec = tmp_path / "one.toml"
    spec.write_text(
        f'name = "one"\nparams = "0.03M"\ntokens = "4k"\npeak_lr = 0.01\nbatch_tokens = 128\nteacher = "{teacher}"\n'
        "[data]\nvocab_size = 310\nvalidation_documents = 20\nmax_document_chars = 800\n[training]\ncontext = 32\n"
    )
    done = _call("train", spec, "--out", tmp_path / "run", code=2)
    assert "another vocabulary" in done.stderr and "data.tokenizer" in done.stderr
    assert not (tmp_path / "run" / "runs").exists()


@pytest.mark.parametrize(
    ("edit", "code", "words"),
    [
        (("peak_lr", "peak_rate"), 2, ["unknown key 'peak_rate'", "peak_lr"]),
        (("[data]", '[data]\ncorpus = "nowhere.txt"'), 2, ["nowhere.txt", "no such file"]),
        (('tokens = "8k"\n[target]', 'tokens = "16M"\n[target]'), 1, ["teacher split has", "single-epoch"]),
        (("validation_documents = 20", "validation_documents = 2000"), 1, ["233 documents", "2000 held-out"]),
    ],
)
def test_bad_studies_fail_with_one_clear_line_and_the_right_code(tmp_path, edit, code, words):
    path = tmp_path / "bad.toml"
    assert edit[0] in TINY
    path.write_text(TINY.replace(*edit))
    done = _call("study", "run", path, "--out", tmp_path / "out")
    assert done.returncode == code, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("runs/*/result.json"))


@pytest.mark.parametrize(
    ("processes", "settings", "words"),
    [
        (3, (), "a batch of 4 sequences cannot be shared evenly"),
        (2, ("--set", "tuning.batch=true"), "a batch of 1 sequences, which the search of the batch may try for 4"),
    ],
)
def test_a_batch_that_processes_cannot_share_is_refused_before_it_is_priced(tmp_path, processes, settings, words):
    (tmp_path / "tiny.toml").write_text(TINY)
    four = ("--set", "batch_tokens=128", "--set", "training.context=32")
    asked = ("--dry-run", "--processes", f"{processes}", *four, *settings)
    assert words in _call("study", "run", tmp_path / "tiny.toml", *asked, code=2).stderr


def test_unknown_commands_are_wrong_usage():
    assert _call("stduy").returncode == 2
    assert _call("study", "show").returncode == 2
