"""`distillaw worlds`: what it prints and writes."""

import json

import numpy as np
import pytest

from distillaw.cli import worlds as cli
from distillaw.cli.output import Output
from distillaw.errors import ConfigError
from distillaw.sweep.checks import load_study
from distillaw.sweep.run_files import load_single
from distillaw.worlds.oracle import Oracle, parse_oracle
from distillaw.worlds.spec import PRESETS, load_world
from distillaw.worlds.world import World
from in_process import answer


def test_list_names_the_shipped_worlds():
    assert all(name in answer("worlds", "list").stdout for name in PRESETS)


def test_show_says_what_the_world_measures(capsys):
    cli.show("tiny", context=64, documents=16, loss=2.0, output=Output(json=True))
    answer = json.loads(capsys.readouterr().out)
    measured = World(PRESETS["tiny"]).entropy(documents=16, context=64)
    assert answer["entropy"] == {"value": measured.value, "error": measured.error}
    by_window = [row["value"] for row in answer["loss_by_window"]]
    assert by_window == sorted(by_window, reverse=True)
    assert by_window[-1] > measured.value
    assert answer["vocab"] == 17
    assert [row["name"].split("by=")[1] for row in answer["teachers"]] == ["window", "temperature", "noise", "uniform"]
    for row in answer["teachers"]:
        teacher = Oracle(World(PRESETS["tiny"]), parse_oracle(row["settings"]))
        assert teacher.loss(documents=64, context=64).value == pytest.approx(2.0, abs=0.03)


def test_show_names_the_ways_that_reach_a_loss_and_refuses_one_that_none_reaches(capsys):
    cli.show("tiny", context=64, documents=2, loss=2.4, output=Output(json=True))  # no window is that bad
    by_window, *others = json.loads(capsys.readouterr().out)["teachers"]
    assert by_window["settings"] is None
    assert "by window: on this world it lies between" in by_window["refusal"]
    assert all(row["settings"] and row["refusal"] is None for row in others)
    cli.show("tiny", context=64, documents=2, loss=2.4)
    assert "oracle:loss=2.4,by=window         cannot be" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"no oracle has a loss of 0\.5 nats"):
        cli.show("tiny", context=64, documents=2, loss=0.5)


def test_make_writes_text_and_files_that_load(tmp_path, capsys):
    cli.make("tiny", out=tmp_path / "w", tokens=20_000, seed=5)
    assert "20k tokens" in capsys.readouterr().out
    spec = load_world(str(tmp_path / "w" / "world.toml"))
    assert spec.seed == 5
    facts = json.loads((tmp_path / "w" / "world.json").read_text())
    assert facts["hash"] == spec.spec_hash
    world = World(spec)
    words = np.load(tmp_path / "w" / "tokens.npy")
    np.testing.assert_array_equal(words, world.documents("student", 0, facts["documents"]))
    lines = (tmp_path / "w" / "text.jsonl").read_text().splitlines()
    assert json.loads(lines[3])["text"] == " ".join(world.spelling[word] for word in words[3])
    single, study = load_single(tmp_path / "w" / "train.toml"), load_study(tmp_path / "w" / "study.toml")
    assert single.data.world == study.data.world == spec
    assert single.teacher.startswith("oracle:loss=")
    assert len(study.external_teachers()) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: cli.show("hmn"), "did you mean 'hmm'"),
        (lambda out: cli.show("tiny", documents=1), "at least 2 documents"),
        (lambda out: cli.show("tiny", loss=99.0), "it lies between"),
        (lambda out: cli.show("nowhere.toml"), "no such file"),
        (lambda out: cli.make("tiny", out=out, tokens=2e12), "world_tokens"),
        (lambda out: cli.make("tiny", out=out, seed=-1), "world.seed"),
    ],
)
def test_bad_input_is_refused(tmp_path, call, message):
    with pytest.raises(ConfigError, match=message):
        call(tmp_path / "w")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("asked", [{"loss": -1.0}, {"loss": float("nan")}, {"documents": 10**9}])
def test_show_refuses_what_cannot_be_before_it_reads_any_text(asked, monkeypatch):
    monkeypatch.setattr(World, "next_probs", lambda *_: pytest.fail("text was read"))
    with pytest.raises(ConfigError, match="above 0" if "loss" in asked else "at most"):
        cli.show("grammar", **asked)
