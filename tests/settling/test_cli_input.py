"""What `settle` refuses, and that it does so in one clear sentence before anything is trained."""

from pathlib import Path

import pytest

from distillaw.cli.output import Output
from distillaw.cli.settle import QuestionOptions, settle
from distillaw.errors import ConfigError, DataError, DistillawError
from distillaw.settling.spec import budget_flops, read_settle

WORLD = {"world": "tiny", "student_params": "20k", "student_tokens": "50k", "teacher": ["oracle"], "budget": "20%"}


def _ask(tmp_path: Path, **changes: object) -> None:
    options = QuestionOptions(**{**WORLD, **changes})
    settle(None, question=options, out=tmp_path / "out", output=Output(quiet=True), workers=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, "no candidate teacher"),
        ({"world": None}, "on which text"),
        ({"corpus": "sotu"}, "drop one"),
        ({"world": "tinny"}, "did you mean 'tiny'"),
        ({"student_params": None}, "the target is missing"),
        ({"student_tokens": "many"}, "cannot read"),
        ({"student_params": "-20k"}, "must be positive"),
        ({"teacher": ["oracle", "oracle"]}, "repeats a teacher"),
        ({"teacher": ["no-such-model"]}, "no model there"),
        ({"teacher": ["oracle:widow=3"]}, "window"),
        ({"teacher": ["a/last", "b/last"]}, "both called 'last'"),
        ({"teacher": ["."]}, "is no name"),
        ({"teacher": ["runs/none"]}, "is no name"),
        ({"budget": "-5%"}, "must be positive"),
        ({"budget": "much"}, "a share such as 2%"),
        ({"budget": "250%"}, "training the target itself with every teacher"),
        ({"budget": "0.01%"}, "buys no pilot"),
        ({"margin": -0.01}, "--margin -0.01"),
        ({"margin": 0.0}, "--margin 0"),
        ({"level": 1.0}, "level = 1 must lie in"),
        ({"student_params": "5k"}, "smaller than the smallest pilot"),
        ({"student_tokens": "2k"}, "under 20 batches"),
    ],
)
def test_bad_questions_are_refused_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        _ask(tmp_path, **changes)
    assert not (tmp_path / "out" / "runs").exists()


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path):
    from distillaw.data.tokenizer import word_tokenizer
    from distillaw.models.fresh import build_model
    from distillaw.shapes import shape_for_params

    model = build_model(shape_for_params(8000, vocab=9, context=128), seed=0, end_of_text=8)
    model.save_pretrained(tmp_path / "teacher")
    word_tokenizer([f"v{i}" for i in range(8)]).save_pretrained(str(tmp_path / "teacher"))
    with pytest.raises(DistillawError, match="vocabular"):
        _ask(tmp_path, teacher=[str(tmp_path / "teacher")])
    assert not (tmp_path / "out" / "runs").exists()


def _read(tmp_path: Path, text: str, **options: object):
    path = tmp_path / "settle.toml"
    path.write_text(text)
    return read_settle(path, **options)


GOOD = """
[target]
params = "0.1M"
tokens = "1M"
[[teachers]]
path = "oracle"
[data.world.hmm]
"""


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("[settle]\nbugdet = '2%'", "did you mean 'budget'"),
        ("[students]\nparams = ['1M']", "describes a study"),
        ("seeds = 3", "unknown key 'seeds'"),
        ("[settle]\nmargin = -1.0", "must be positive"),
        ("[settle]\nlevel = 0.2", "must lie in"),
        ("[[teachers]]\nparams = '0.3M'\ntokens = '1M'", "Train it first"),
    ],
)
def test_bad_files_are_refused(tmp_path, extra, message):
    with pytest.raises(ConfigError, match=message):
        _read(tmp_path, GOOD + extra)


def test_flags_stand_on_top_of_the_file(tmp_path):
    spec = _read(
        tmp_path,
        GOOD + "[settle]\nbudget = 1e13\nmargin = 0.02",
        student_tokens="2M",
        level=0.8,
        teacher=["oracle:window=2"],
    )
    assert spec.target is not None
    assert (spec.target.params, spec.target.tokens) == ("0.1M", 2_000_000)
    assert [t.path for t in spec.teachers] == ["oracle", "oracle:window=2"]
    assert (spec.settle.margin, spec.settle.level) == (0.02, 0.8)
    assert budget_flops(spec.settle.budget, 1.0) == 1e13
    assert budget_flops("2%", 1e15) == pytest.approx(2e13)


def test_text_shorter_than_the_longest_pilot_is_refused(tmp_path):
    path = tmp_path / "settle.toml"
    path.write_text(GOOD.replace("[data.world.hmm]", '[data]\nworld_tokens = "100k"\n[data.world.hmm]'))
    with pytest.raises(DataError, match="the student split has"):
        settle(path, question=QuestionOptions(budget="40%"), out=tmp_path / "out", output=Output(quiet=True), workers=1)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "out" / "runs").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds what distillaw has not made"):
        _ask(tmp_path)


def test_a_dry_run_says_what_would_follow_and_trains_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    settle(
        None,
        question=QuestionOptions(**{**WORLD, "student_tokens": "400k"}),
        out=out,
        dry_run=True,
        output=Output(quiet=True),
        workers=1,
    )
    text = capsys.readouterr().out
    assert "stage 1: " in text
    assert "none and oracle" in text
    assert "later stages" in text
    assert not (out / "runs").exists()
    assert not (out / "settle.json").exists()


def test_the_shipped_questions_can_be_read():
    files = sorted((Path(__file__).parents[2] / "studies" / "settle").glob("*.toml"))
    assert files
    for path in files:
        spec = read_settle(path)
        assert spec.target is not None
        assert len(spec.teachers) > 1


@pytest.fixture(scope="module")
def taught_study(tmp_path_factory):
    """A study's folder with prepared text, and two models that say which half of it they were trained on."""
    from distillaw.data.prepare import DataSpec, prepare_data
    from distillaw.data.tokenizer import load_tokenizer
    from distillaw.models.fresh import build_model
    from distillaw.runs.files import write_json
    from distillaw.shapes import shape_for_params

    base = tmp_path_factory.mktemp("taught")
    spec = DataSpec(
        corpus="sotu",
        vocab_size=300,
        validation_documents=20,
        validation_tokens_per_document=64,
        max_document_chars=2000,
    )
    store = prepare_data(spec, base / "study" / "data")
    tokenizer = load_tokenizer(str(store.tokenizer_folder))
    model = build_model(shape_for_params(8000, vocab=300, context=128), seed=0, end_of_text=tokenizer.eos_token_id)
    for split in ("teacher", "student"):
        folder = base / "study" / "runs" / f"of-{split}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(str(folder))
        write_json(folder / "spec.json", {"data_hash": store.data_hash, "split": split, "init": "fresh"})
    return base / "study", store


def _ask_like(study: Path, out: Path, *teachers: str, **changes: object) -> None:
    settle(
        None,
        question=QuestionOptions(
            like=study,
            student_params="20k",
            student_tokens="50k",
            budget="100%",
            teacher=[str(study / "runs" / name) for name in teachers],
            **changes,
        ),
        out=out,
        dry_run=True,
        output=Output(quiet=True),
        workers=1,
    )


def test_a_study_s_text_and_split_are_taken_as_they_are(taught_study, tmp_path, capsys):
    from distillaw.data.shards import TokenStore

    study, store = taught_study
    _ask_like(study, tmp_path / "out", "of-teacher")
    assert TokenStore.open(tmp_path / "out" / "data", verify=True).data_hash == store.data_hash
    assert "of-teacher" in capsys.readouterr().out
    _ask_like(study, tmp_path / "out", "of-teacher")  # and again


def test_a_teacher_that_has_read_its_students_text_is_refused(taught_study, tmp_path):
    with pytest.raises(ConfigError, match=r"of-student has read 100% of the students' documents .*--like"):
        _ask_like(taught_study[0], tmp_path / "out", "of-student")
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"corpus": "sotu"}, "drop one"), ({"world": "tiny"}, "drop one"), ({"like": "nowhere"}, "no study's folder")],
)
def test_a_text_is_said_once_and_must_be_there(taught_study, tmp_path, changes, message):
    study, _ = taught_study
    with pytest.raises(ConfigError, match=message):
        settle(
            None,
            question=QuestionOptions(**{"like": study, **WORLD, "world": None} | changes),
            out=tmp_path / "out",
            output=Output(quiet=True),
            workers=1,
        )
    with pytest.raises(ConfigError, match=r"\[data\]: the text is one of them"):
        _read(tmp_path, GOOD, like=study)
