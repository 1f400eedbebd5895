"""One tiny text and the trunks trained on it: seconds in all."""

from dataclasses import replace

import pytest

from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.runs.places import claim_folder
from distillaw.runs.spec import Recipe, TrunkSpec
from distillaw.runs.store import StudyFolder
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import Facts, Progress
from distillaw.sweep.spec import StudentsSpec, StudySpec

STUDY = StudySpec(
    name="tiny",
    students=StudentsSpec(params=("0.03M",), tokens=(4096,)),
    batch_tokens=128,
    data=DataSpec(vocab_size=300, validation_documents=20, validation_tokens_per_document=96, max_document_chars=800),
    training=Recipe(context=32, warmup_tokens=512),
)


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A prepared data folder, shared by all tests."""
    return prepare_data(STUDY.data, tmp_path_factory.mktemp("text") / "data")


@pytest.fixture
def study(tmp_path, text):
    """An empty study folder on the shared text."""
    claim_folder(tmp_path)
    (tmp_path / "data").symlink_to(text.folder)
    return StudyFolder(tmp_path)


@pytest.fixture
def trunk(text) -> TrunkSpec:
    """A student of 25k parameters."""
    facts = Facts(vocab_size=300, data_hash=text.data_hash, fingerprints={})
    spec = replace(STUDY, tuning=replace(STUDY.tuning, enabled=False))
    return Planner(spec, facts, Progress(losses={}, failures={})).ready_jobs().jobs[0].trunk


@pytest.fixture
def fresh_study(tmp_path, text):
    """fresh_study(name) -> a further empty study folder on the shared text."""

    def make(name: str) -> StudyFolder:
        folder = StudyFolder(tmp_path / name)
        claim_folder(folder.path)
        folder.data.symlink_to(text.folder)
        return folder

    return make
