"""What an external teacher has read: its run's folder tells, documents are compared, and the unknown stays unknown."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from distillaw.data.documents import Shared, exposure, refuse_exposed
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.errors import ConfigError
from distillaw.runs.files import write_json

NOTHING = Shared(student=0.0, validation=0.0)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Two studies of one corpus that was split twice: (folder, tokens) each."""
    base = tmp_path_factory.mktemp("studies")
    rng = np.random.default_rng(0)
    texts = [" ".join("".join(rng.choice(list("abcdefgh"), 7)) for _ in range(40)) for _ in range(60)]
    corpus = base / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = []
    for seed in (0, 1):
        spec = DataSpec(corpus=str(corpus), vocab_size=300, validation_documents=10, seed=seed)
        found.append((base / f"study-{seed}", prepare_data(spec, base / f"study-{seed}" / "data")))
    return found


def run(study: Path, name: str, store, **spec: object) -> Path:
    """A run's folder, as far as it says what it was trained on."""
    folder = study / "runs" / name
    write_json(folder / "spec.json", {"data_hash": store.data_hash, "split": "teacher", "init": "fresh"} | spec)
    return folder


def test_a_teacher_of_the_same_split_has_read_nothing_of_its_students_text(studies):
    (study, store), _ = studies
    found = exposure("mine", str(run(study, "mine", store)), store)
    assert found.shared == NOTHING
    refuse_exposed(found)


def test_a_teacher_of_another_split_has_read_half_and_is_refused_with_a_way_out(studies):
    (_, store), (other, others) = studies
    found = exposure("theirs", str(run(other, "theirs", others)), store)
    assert found.shared is not None and found.shared.student > 0.2
    with pytest.raises(ConfigError, match=r"theirs has read \d\d% of the students' documents.*--like"):
        refuse_exposed(found)


def test_a_student_as_teacher_has_read_all_there_is(studies):
    (study, store), _ = studies
    found = exposure("student", str(run(study, "student", store, split="student")), store)
    assert found.shared == Shared(student=1.0, validation=0.0)
    with pytest.raises(ConfigError, match="100%"):
        refuse_exposed(found)


def test_what_a_model_began_from_has_read_counts_too(studies):
    (study, store), _ = studies
    base = run(study, "base", store, split="student")
    cut = run(study, "cut", store, init="pruned", teacher_run=base.name)
    further = run(study, "further", store, init="pretrained", start={"folder": str(base)})
    for folder in (cut, further):
        assert exposure("x", str(folder), store).shared == Shared(student=1.0, validation=0.0)


@pytest.mark.parametrize(
    "how", ["no run", "moved", "from elsewhere", "damaged run", "damaged text", "damaged names", "lost shard"]
)
def test_a_teacher_whose_text_cannot_be_told_is_unknown_and_not_refused(studies, tmp_path, how):
    (study, store), (_, others) = studies
    folder = tmp_path / "runs" / "model"
    if how == "moved":  # its study's text is not there
        run(tmp_path, "model", others)
    elif how == "from elsewhere":
        folder = run(study, "elsewhere", store, init="pretrained", start={"folder": str(tmp_path / "base")})
    elif how == "damaged run":
        (run(tmp_path, "model", store) / "spec.json").write_text("{")
    elif how in ("damaged text", "damaged names", "lost shard"):
        run(tmp_path, "model", others)
        text = Path(shutil.copytree(others.folder, tmp_path / "data"))
        if how == "damaged text":
            (text / "manifest.json").write_text("{")
        elif how == "damaged names":
            (text / "documents.npz").write_bytes(b"PK")
        else:
            next(text.rglob("*.bin")).unlink()
    found = exposure("model", str(folder), store)
    assert found.shared is None and not found.is_known
    refuse_exposed(found)


def test_an_oracle_has_read_nothing(studies):
    assert exposure("oracle", "oracle:window=2", studies[0][1]).shared == NOTHING
