"""A world as a corpus and an oracle as a teacher, in the ordinary commands."""

import json

import numpy as np
import pytest
import torch

from distillaw.data.prepare import DataSpec, prepare_data, world_of
from distillaw.data.tokenizer import load_tokenizer
from distillaw.errors import CacheError, ConfigError
from distillaw.models.scoring import make_heldout, score_heldout
from distillaw.models.teacher import load_any_teacher
from distillaw.runs.config import from_table
from distillaw.runs.files import read_json
from distillaw.sweep.checks import check_study
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import Progress
from distillaw.sweep.run_files import load_single
from distillaw.sweep.spec import StudySpec
from distillaw.sweep.study import check_facts
from distillaw.train.student import OnlineTeacher
from in_process import answer

WORLD = """
[data.world]
vocab = 33
document_tokens = 64
[data.world.hmm]
states = 24
branching = 3
transition_nats = 0.6
emission_nats = 1.8
"""
RUN = (
    """
name = "{name}"
params = "0.03M"
tokens = 8192
peak_lr = 0.01
batch_tokens = 256
{teacher}
[training]
context = 32
warmup_tokens = 512
[data]
validation_documents = 60
validation_tokens_per_document = 64
world_tokens = 30000
"""
    + WORLD
)


def write_run(folder, name, teacher=""):
    file = folder / f"{name}.toml"
    file.write_text(RUN.format(name=name, teacher=teacher))
    return file


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return prepare_data(load_single(write_run(folder, "text")).data, folder / "data")


def distillaw(*arguments) -> dict:
    return json.loads(answer(*arguments, "--json", code=0).stdout)


def test_shards_are_the_world_by_position(store):
    world = world_of(store)
    for section in ("student", "teacher"):
        tokens = np.concatenate(store.split(section, context=1).shards)
        np.testing.assert_array_equal(tokens, world.tokens(0, len(tokens), section=section))
        assert store.split(section, context=32).num_tokens >= 15_000
    heldout = store.heldout_documents()
    assert [ids[0] for ids in heldout] == [world.end_of_text] * 60
    np.testing.assert_array_equal(np.stack(heldout)[:, 1:], world.documents("validation", 0, 60))


def test_the_tokenizer_is_the_identity_on_words(store):
    tokenizer, world = load_tokenizer(str(store.tokenizer_folder)), world_of(store)
    words = world.documents("student", 0, 1)[0]
    text = " ".join(world.spelling[word] for word in words)
    assert tokenizer(text)["input_ids"] == words.tolist()
    assert tokenizer.decode(words) == text
    assert tokenizer.eos_token_id == world.end_of_text


def test_more_text_does_not_change_what_was_there(store, tmp_path):
    spec = from_table(DataSpec, without_none(store.manifest["spec"]), "spec")
    more = prepare_data(
        DataSpec(**{name: getattr(spec, name) for name in spec.__slots__} | {"world_tokens": 90_000}), tmp_path / "more"
    )
    short, long = (np.concatenate(s.split("student", context=1).shards) for s in (store, more))
    np.testing.assert_array_equal(long[: len(short)], short)
    np.testing.assert_array_equal(np.stack(more.heldout_documents()), np.stack(store.heldout_documents()))
    with pytest.raises(CacheError, match="world_tokens was 30000, now 90000"):
        prepare_data(from_table(DataSpec, without_none(more.manifest["spec"]), "spec"), store.folder)


def without_none(value):
    if isinstance(value, dict):
        return {name: without_none(entry) for name, entry in value.items() if entry is not None}
    return value


def test_an_oracle_teaches_and_is_scored_as_any_teacher(store):
    teacher = load_any_teacher("oracle:window=2", store, load_tokenizer(str(store.tokenizer_folder)), context=32)
    windows = torch.from_numpy(store.split("student", context=32).windows(range(4)))
    signal = OnlineTeacher(teacher).signal(windows, np.arange(4))
    assert signal.teacher_logits is not None
    torch.testing.assert_close(signal.teacher_logits.exp().sum(-1), torch.ones(4, 32))
    expected = teacher.oracle.probs(windows[:, :-1].numpy())
    np.testing.assert_allclose(signal.teacher_logits.exp().numpy(), expected, rtol=1e-5, atol=1e-7)
    measured = score_heldout(teacher, make_heldout(store.heldout_documents(), context=32))
    exact = teacher.oracle.loss(documents=200, context=32)
    assert abs(measured.loss - exact.value) < 4 * measured.loss_se


@pytest.mark.slow
def test_train_from_an_oracle_and_from_its_stored_targets(tmp_path):
    """The ordinary command; whole stored targets give the same student as the oracle beside it."""
    beside = distillaw("train", write_run(tmp_path, "run", 'teacher = "oracle:window=2"'), "--out", tmp_path / "run")
    assert beside["teacher_run"] == "oracle:window=2"
    assert beside["run_id"].startswith("student-0.03M-from-oracle-s0-")
    teacher = read_json(next((tmp_path / "run" / "teachers").iterdir()))
    assert beside["teacher_loss"] == teacher["loss"]
    assert teacher["settings"] == "oracle:window=2"
    assert beside["teacher_loss"] < beside["loss"] < np.log(33)
    file = write_run(tmp_path, "plain")
    cache = ("cache", "build", "--teacher", "oracle:window=2", "--data", file, "--out", tmp_path / "cache")
    built = distillaw(*cache, "--estimator", "full", "--quiet")
    assert built["teacher"] == "oracle:window=2"
    distillaw("cache", "verify", tmp_path / "cache")
    file = write_run(tmp_path, "run", f'targets = "{tmp_path / "cache"}"')
    stored = distillaw("train", file, "--out", tmp_path / "stored")
    assert stored["loss"] == pytest.approx(beside["loss"], rel=1e-6)
    assert stored["teacher_loss"] == beside["teacher_loss"]


def test_another_oracle_is_another_run(store, tmp_path):
    class Quiet:
        def note(self, message): ...

    ids = set()
    for name in ("oracle", "oracle:window=1", "oracle:loss=2.5,by=noise"):
        spec = load_single(write_run(tmp_path, "run", f'teacher = "{name}"')).as_study()
        facts = check_facts(spec, store, Quiet())
        ready = Planner(spec, facts, Progress(losses={}, failures={})).ready_jobs()
        ids |= {job.trunk.trunk_id for job in ready.jobs if job.trunk.arm == "distilled"}
    assert len(ids) == 3
    with pytest.raises(ConfigError, match="it lies between"):
        check_facts(load_single(write_run(tmp_path, "run", 'teacher = "oracle:loss=9"')).as_study(), store, Quiet())


@pytest.mark.parametrize(
    ("teacher", "extra", "message"),
    [
        ("oracle:windw=1", WORLD, "did you mean"),
        ("oracle", "", r"add a\s+\[data.world\]"),
        ("", "corpus = 'mine.txt'\n" + WORLD, "drop one"),
        ("", WORLD + "[data.world.ngram]\n", "got hmm and ngram"),
    ],
)
def test_contradictions_are_refused_before_anything_is_made(tmp_path, teacher, extra, message):
    file = tmp_path / "bad.toml"
    head = "name = 'bad'\nparams = '0.03M'\ntokens = 8192\npeak_lr = 0.01\nbatch_tokens = 256\n"
    head += f"teacher = '{teacher}'\n[data]\n"
    file.write_text(head + extra)
    with pytest.raises(ConfigError, match=message):
        load_single(file)


def test_an_oracle_of_a_text_that_is_no_world_is_refused(tmp_path):
    text = prepare_data(DataSpec(vocab_size=300, validation_documents=20, max_document_chars=300), tmp_path / "data")
    with pytest.raises(ConfigError, match="no world's"):
        load_any_teacher("oracle", text, load_tokenizer(str(text.tokenizer_folder)), context=32)


def test_a_study_names_oracles_as_teachers(tmp_path):
    table = {
        "name": "s",
        "students": {"params": ["0.03M"], "tokens": [32768]},
        "teachers": [{"path": "oracle"}, {"path": "oracle:window=1"}],
        "data": {"world": {"hmm": {}}},
    }
    spec = from_table(StudySpec, table, "study")
    check_study(spec)
    assert [*spec.external_teachers()] == ["oracle", "oracle:window=1"]
    with pytest.raises(ConfigError, match="not trained"):
        check_study(from_table(StudySpec, table | {"teachers": [{"path": "oracle", "params": "1M"}]}, "study"))
