"""Processes that do not see the same things, or cannot meet: said in one line, before anything is trained."""

import shutil
import socket
from dataclasses import replace

import pytest
import ranked
from stops import train_trunk
from transformers import AutoModelForCausalLM

from distillaw.errors import CacheError, ConfigError
from distillaw.models.parallel import join_ranks
from distillaw.models.source import fingerprint, locate

TEACHER = "/proc/self/cwd/teacher"
"""One name, and for each process the teacher of the folder that it is in."""


@pytest.fixture
def places(tmp_path, trunk, fresh_study):
    """(folder of the first rank, of the second, the spec of a student of the teacher in both)."""
    (run,) = train_trunk(trunk, [2048], fresh_study("made"))
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first, second):
        shutil.copytree(run.path, place / "teacher")
    known = {"teacher_run": TEACHER, "teacher_fingerprint": fingerprint(locate(str(run.path)))}
    return first, second, replace(trunk, batch_tokens=256, **known)


def _train(places, study):
    first, second, spec = places
    ranked.run(2, ranked.train_there, [first, second], study.path, spec, [1024])


def test_copies_train(places, fresh_study):
    _train(places, fresh_study("study"))


def test_another_model_of_that_name(places, fresh_study):
    model = AutoModelForCausalLM.from_pretrained(places[1] / "teacher")
    model.get_output_embeddings().weight.data[7] += 0.1
    model.save_pretrained(places[1] / "teacher")
    study = fresh_study("study")
    with pytest.raises(ConfigError, match=r"not the same on every process: its files .* on rank 1\. Copy"):
        _train(places, study)
    assert not study.run(places[2].run_id(1024)).result()


def test_a_vocabulary_padded_on_one(places, fresh_study):
    model = AutoModelForCausalLM.from_pretrained(places[1] / "teacher")
    model.resize_token_embeddings(320)
    model.save_pretrained(places[1] / "teacher")
    with pytest.raises(ConfigError, match="not the same on every process"):
        _train(places, fresh_study("study"))


def test_no_model_on_one(places, fresh_study):
    shutil.rmtree(places[1] / "teacher")
    with pytest.raises(CacheError, match=r"on rank 1 of 2"):
        _train(places, fresh_study("study"))


def test_a_port_in_use(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0}
        for name, value in known.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(ConfigError, match=rf"cannot meet at 127.0.0.1:{port}"), join_ranks():
            pass
