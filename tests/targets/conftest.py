"""One tiny text, a tiny teacher with random weights, and how a store of them is built."""

from pathlib import Path

import pytest
import torch

from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.data.tokenizer import load_tokenizer
from distillaw.models.fresh import build_model
from distillaw.models.teacher import load_teacher
from distillaw.shapes import shape_for_params
from distillaw.targets.build import build_shards, make_plan, opened_for_building
from distillaw.targets.make import TargetMaker
from distillaw.targets.manifest import Scheme, TargetRequest

CONTEXT = 32
DEFAULT = Scheme()


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """Prepared tokens of vocabulary 300."""
    spec = DataSpec(vocab_size=300, validation_documents=20, max_document_chars=400)
    return prepare_data(spec, tmp_path_factory.mktemp("text") / "data")


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory, text) -> Path:
    """A Hugging Face folder whose distributions are neither flat nor certain."""
    return save_teacher(tmp_path_factory.mktemp("teacher") / "teacher", text, seed=1)


def save_teacher(folder: Path, text, *, seed: int) -> Path:
    """A small random model; its head is scaled up, since fresh heads predict next to nothing."""
    model = build_model(shape_for_params(3e4, vocab=300, context=CONTEXT), seed=seed)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2)
    model.save_pretrained(folder)
    load_tokenizer(str(text.tokenizer_folder)).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def teacher(teacher_folder, text):
    """The teacher, loaded."""
    return load_teacher(teacher_folder, load_tokenizer(str(text.tokenizer_folder)), context=CONTEXT)


@pytest.fixture
def build(tmp_path, text, teacher):
    """build(name, scheme=Scheme(...), tokens=...) -> (folder, maker, plan), in a fresh folder per name."""

    def call(name: str = "cache", *, scheme: Scheme = DEFAULT, shard_bytes: int = 20_000, **options):
        folder = tmp_path / name
        request = TargetRequest(scheme=scheme, context=CONTEXT, shard_bytes=shard_bytes, **options)
        split = text.split("student", context=CONTEXT)
        maker = TargetMaker(teacher=teacher, split=split, scheme=scheme, seed=request.seed)
        with opened_for_building(folder, make_plan(request, teacher, text)) as plan:
            build_shards(folder, plan, maker)
        return folder, maker, plan

    return call
