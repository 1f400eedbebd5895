"""Importance measured by two ranks together is that of one process, and so is the student."""

import json
import subprocess
import sys

import pytest
import ranked
from safetensors.torch import load_file

from distillaw.data.corpus import read_documents
from distillaw.data.tokenizer import train_tokenizer
from distillaw.errors import ConfigError, DataError
from distillaw.models.fresh import build_model
from distillaw.runs.files import read_json
from distillaw.shapes import Shape

SHAPE = Shape(layers=3, width=48, ffn=96, heads=3, kv_heads=3, head_dim=16, vocab=300, context=128)
WISHES = {
    "keep": 0.6,
    "tokens": 1500,
    "heldout_tokens": 700,
    "context": 64,
}  # 23 windows: the ranks' parts differ


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    documents = [text[:1200] for text, _ in zip(read_documents("sotu"), range(30), strict=False)]
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in documents), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = train_tokenizer(list(read_documents(text)), vocab_size=300)
    build_model(SHAPE, seed=0, end_of_text=tokenizer.eos_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    "by", ["gradient", *(pytest.param(by, marks=pytest.mark.slow) for by in ("activation", "uniform"))]
)
def test_two_ranks_cut_the_same_student_as_one_process(teacher, text, tmp_path, by):
    wishes = WISHES | {"by": by}
    (alone,) = ranked.run(1, ranked.prune, teacher, tmp_path / "one", wishes, text)
    first, second = ranked.run(2, ranked.prune, teacher, tmp_path / "two", wishes, text)
    assert first == second
    assert first["calibration_windows"] == alone["calibration_windows"] == (0 if by == "uniform" else 23)
    assert first["cut"] == alone["cut"] and first["identity"] == alone["identity"]
    for key in ("loss", "teacher_loss", "lost", "lost_se", "heldout_tokens"):
        assert first[key] == pytest.approx(alone[key], rel=1e-6)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all((one[key] == two[key]).all() for key in one | two)
    again = ranked.run(2, ranked.prune, teacher, tmp_path / "two", wishes, text)  # reads the record
    assert again[0] == read_json(tmp_path / "two" / "prune.json")


def test_scores_are_equal_to_rounding(teacher, text):
    import torch

    from distillaw.data.corpus import WHOLE
    from distillaw.models.prune import Wishes, _importance, _read
    from distillaw.models.source import locate
    from distillaw.models.teacher import load_weights

    source, wishes = locate(teacher), Wishes(**WISHES)
    calibration, _ = _read(text, WHOLE, source.tokenizer(), wishes)
    alone = _importance(load_weights(source, torch.device("cpu"), None), calibration, wishes, None, print)
    shared, _ = ranked.run(2, ranked.importance, teacher, calibration.tolist(), WISHES)
    for axis in ("layers", "width", "heads", "ffn"):
        assert getattr(shared, axis) == pytest.approx(getattr(alone, axis), rel=1e-5, abs=1e-12)


def test_a_rank_that_fails_stops_all(teacher, text, tmp_path):
    with pytest.raises(ConfigError, match="windows cannot be shared by 2 processes"):
        ranked.run(2, ranked.prune, teacher, tmp_path / "no", WISHES | {"tokens": 64}, text)
    with pytest.raises(DataError):
        ranked.run(2, ranked.fail_on_the_second)
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_torchrun_starts_it_and_one_process_speaks(teacher, text, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "-m",
            "distillaw",
            "prune",
            str(teacher),
            "--out",
            str(tmp_path / "cut"),
            "--keep",
            "0.6",
            "--text",
            text,
            "--tokens",
            "1500",
            "--heldout-tokens",
            "700",
            "--context",
            "64",
            "--json",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["calibration_windows"] == 23
