"""`--set`, `study run --dry-run`, `study status --watch`, and a target that is not among the students."""

import json
from pathlib import Path

import pytest

from distillaw.errors import ConfigError
from distillaw.runs.config import with_settings
from distillaw.sweep.checks import load_study
from distillaw.sweep.run_files import load_single
from distillaw.sweep.status import StudyStatus
from in_process import answer

QUICKSTART = Path(__file__).parents[2] / "studies" / "quickstart.toml"


def test_settings_are_the_file_s_own_with_the_file_s_checks():
    settings = [
        "students.params=[0.1M, 0.2M]",
        "data.vocab_size = 384",
        "teachers.3.tokens=500k",
        "target.params=0.2M",
        'name="other"',
        "replicates.1.seeds=2",
        "tuning.batch=false",
        "training.decay=cosine",
    ]
    spec, usual = load_study(QUICKSTART, settings=settings), load_study(QUICKSTART)
    assert spec.students.params == ("0.1M", "0.2M") and spec.data.vocab_size == 384
    assert [t.tokens for t in spec.teachers] == [125_000, 200_000, 500_000] and spec.name == "other"
    assert spec.target.params == "0.2M" and spec.replicates[0].seeds == 2 and not spec.tuning.batch
    assert spec.training.decay == "cosine"
    same = ("cells", "early_stop", "batch_tokens", "peak_lr", "seed")
    assert all(getattr(spec, name) == getattr(usual, name) for name in same)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("students.sizes=[0.1M]", "unknown key 'sizes'"),
        ("studnets.params=[0.1M]", "did you mean 'students'"),
        ("students.params", "write KEY=VALUE"),
        ("=3", "write KEY=VALUE"),
        ("students.params=0.1M", "expected a list"),
        ("teachers.4.tokens=1M", "a list of 3; give the number of an entry, counted from 1"),
        ("teachers.x=1", "a list of 3"),
        ("name.first=1", "no table with keys"),
        ("name.first.second=1", "no table with keys"),
        ("batch_tokens=100", "not a multiple of training.context"),
        ("target.tokens=0", "[target] tokens = 0"),
        ("target.params=big", "[target] params"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(setting, words):
    done = answer("study", "show", QUICKSTART, "--set", setting)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_settings_of_a_run(tmp_path):
    file = tmp_path / "one.toml"
    file.write_text('name = "one"\nparams = "0.1M"\ntokens = "80k"\npeak_lr = 0.01\n')
    single = load_single(file, settings=["seed=3", "training.weight_decay=0.2", "tokens=90k"])
    assert (single.seed, single.training.weight_decay, single.tokens) == (3, 0.2, 90_000)
    with pytest.raises(ConfigError, match="unknown key 'tokns'"):
        load_single(file, settings=["tokns=90k"])
    refused = answer("train", file, "--out", tmp_path / "out", "--set", "temperature=2")
    assert refused.returncode == 2 and "unknown key" in refused.stderr and not (tmp_path / "out").exists()


def test_hostile_settings_are_values_or_refused():
    assert with_settings({}, ["a.b.c=[1, two, 3.5]"]) == {"a": {"b": {"c": [1, "two", 3.5]}}}
    assert with_settings({}, ['a="[x"']) == {"a": "[x"}
    assert with_settings({}, ["a=1\nb=2"]) == {"a": "1\nb=2"}  # one key, whatever its value holds
    deep = "a" + ".a" * 5000
    assert with_settings({}, [f"{deep}=1"])
    for wrong in ("", ".", "a..b=1", "a=", " =1"):
        with pytest.raises(ConfigError, match="KEY=VALUE"):
            with_settings({}, [wrong])


def test_a_dry_run_says_what_show_says_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (QUICKSTART, "--workers", "2", "--set", "students.tokens=[50k,160k]")
    shown, dry = (answer("study", "show", *words), answer("study", "run", *words, "--dry-run", "--out", "there"))
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.rsplit("\nnext: ")[0] == shown.stdout.rsplit("\nnext: ")[0]
    assert "set: students.tokens=[50k,160k]" in dry.stdout
    said = json.loads(answer("study", "run", *words, "--dry-run", "--json").stdout)
    assert said == json.loads(answer("study", "show", *words, "--json").stdout)
    assert said["set"] == ["students.tokens=[50k,160k]"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("params", "tokens", "words"),
    [
        ("0.1M", "50k", None),
        ("100k", "100k", None),
        ("0.1M", "75k", "read off between the budgets"),
        ("0.1M", "10M", "rests on laws"),
        ("0.6M", "50k", "rests on laws"),
    ],
)
def test_a_target_that_is_no_student_is_said_to_be_none(params, tokens, words):
    shown = answer("study", "show", QUICKSTART, "--set", f"target.params={params}", "--set", f"target.tokens={tokens}")
    assert shown.returncode == 0, shown.stderr
    note = [line for line in shown.stdout.splitlines() if line.startswith("target: ")]
    assert len(note) == (words is not None)
    assert words is None or words in note[0]


def _moments(monkeypatch, moments):
    """What a watcher sees, look by look; an exception is raised."""
    left = iter(moments)

    def look(folder):
        moment = next(left)
        if isinstance(moment, BaseException):
            raise moment
        return moment

    monkeypatch.setattr("distillaw.cli.study_status.read_status", look)
    monkeypatch.setattr("distillaw.cli.study_status.WATCH_SECONDS", 0.0)


def _moment(done, *, running=True, failures=None, left=60.0):
    return StudyStatus(
        name="tiny",
        folder="out",
        scheduler="somebody",
        is_running=running,
        done=done,
        known=3,
        others=0,
        running=[],
        waiting=[],
        failures=failures or {},
        diverged=[],
        stopped=[],
        flops=1e9,
        core_seconds=1.0,
        lost_seconds=0.0,
        left_seconds=0.0 if done == 3 else left,
        left_how="a guess",
    )


def test_watching_says_each_change_and_ends_with_the_study(monkeypatch):
    _moments(monkeypatch, [_moment(0), _moment(1), _moment(1, left=50.0), _moment(2), _moment(3, running=False)])
    done = answer("study", "status", "out", "--watch", code=0)
    lines = [line for line in done.stdout.splitlines() if line.startswith("tiny: ")]
    assert [line[len("tiny: ")] for line in lines] == ["0", "1", "2", "3"]
    assert done.stdout.endswith("next: distillaw report out\n") and "left: nothing" in done.stdout


@pytest.mark.parametrize("last", [_moment(2, running=False), _moment(3, running=False, failures={"a": "nan"})])
def test_watching_ends_where_nobody_works_or_something_failed_and_the_code_says_so(monkeypatch, last):
    _moments(monkeypatch, [_moment(1), last])
    assert answer("study", "status", "out", "--watch", "--quiet").returncode == 1


def test_a_watcher_that_has_enough_leaves_without_a_word_on_the_study(monkeypatch):
    _moments(monkeypatch, [_moment(1), KeyboardInterrupt()])
    done = answer("study", "status", "out", "--watch")
    assert (done.returncode, done.stderr) == (130, "")


def test_json_of_a_watch_is_one_object_at_the_end(monkeypatch):
    _moments(monkeypatch, [_moment(1), _moment(2), _moment(3, running=False)])
    assert json.loads(answer("study", "status", "out", "--watch", "--json").stdout)["done"] == 3
