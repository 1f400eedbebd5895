"""`distillaw plan --scout` end to end, on tiny models that are really measured."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch

from in_process import answer as in_process

sys.path.insert(0, str(Path(__file__).parents[1] / "planning"))

from synthetic_study import write_study

from distillaw.cli.output import Output
from distillaw.cli.plan import ScoutOptions, _answer
from distillaw.data.corpus import Reading
from distillaw.data.tokenizer import tokenizer_hash, train_tokenizer
from distillaw.errors import ConfigError, VocabularyError
from distillaw.models.fresh import build_model
from distillaw.planning.question import PlanQuestion
from distillaw.runs.files import write_json
from distillaw.runs.places import MARK
from distillaw.shapes import shape_for_params

DOCUMENTS = [f"chapter {n}: the senate met, the house met, and the treaty of 18{n} was read\n" for n in range(40)]
VOCAB = 260


def trained(params, tokenizer):
    """A model that has read the text a few times: better than guessing."""
    model = build_model(shape_for_params(params, vocab=len(tokenizer), context=32), seed=0)
    ids = torch.tensor(tokenizer("".join(DOCUMENTS))["input_ids"])
    windows = ids[: len(ids) // 32 * 32].view(-1, 32)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(10):
        optimizer.zero_grad()
        model(input_ids=windows, labels=windows).loss.backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A text; models `a`, `b` of one tokenizer and `other` of another."""
    root = tmp_path_factory.mktemp("scout")
    (root / "text.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in DOCUMENTS))
    for name, vocab, params in (("a", VOCAB, 2e4), ("b", VOCAB, 8e4), ("other", 290, 2e4)):
        tokenizer = train_tokenizer(DOCUMENTS, vocab_size=vocab)
        tokenizer.save_pretrained(str(root / name))
        trained(params, tokenizer).save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    return folder


def asked(scouting, *, student="100k", tokens="1M", **question):
    asked = PlanQuestion(student_params=student, student_tokens=tokens, **question)
    return _answer(asked, scouting, Output())


def scouting(place, *names, **options):
    return ScoutOptions(scout=[str(place / name) for name in names], **{"text": str(place / "text.jsonl"), **options})


def test_from_model_folders_to_a_verdict(place):
    measured = ["--scout", place / "a", place / "b", "--text", place / "text.jsonl", "--max-bytes", "2k"]
    command = ["plan", "--student", "100k", "--tokens", "1M", *measured, "--scout-out", place / "kept"]
    done = in_process(*command, "--json", code=0)
    assert "Loading weights" not in done.stderr
    answer = json.loads(done.stdout)
    taught = {row["teacher"]["name"]: row for row in answer["strategies"] if row["kind"] == "distil"}
    assert taught.keys() == {"a", "b"}
    for kept in (place / "kept").glob("*.json"):
        record = json.loads(kept.read_text())
        loss = sum(record["loss_sum"]) / sum(record["tokens_per_document"])
        assert 1 < loss < math.log(VOCAB)
        assert loss in [pytest.approx(row["teacher_loss"]) for row in taught.values()]
    assert f"vocabulary of {VOCAB}" in " ".join(answer["assumptions"]), "the models' own vocabulary prices the FLOP"
    again = in_process(*command)
    assert again.stderr.count("measured before") == 2
    assert again.stdout.startswith("UNKNOWN")


def test_tokens_of_the_teachers_bring_the_laws_to_the_scale_of_the_text(place):
    def scale(**options):
        verdict = asked(scouting(place, "a", **options), student="1B", tokens="20B")
        return verdict.evidence[0].details["text_scale"]

    assert scale() == 1
    assert scale(scout_tokens=[1e6]) != 1
    (place / "a" / MARK).touch()
    write_json(place / "a" / "result.json", {"run_id": "a", "tokens": 1_000_000, "teacher_run": None})
    assert scale() == scale(scout_tokens=[1e6]), "read from the run"
    write_json(place / "a" / "result.json", {"run_id": "a", "tokens": 1_000_000, "teacher_run": "t"})
    assert scale() == 1, "no law knows what a distilled teacher's tokens are worth"
    (place / "a" / "result.json").unlink()


def test_a_teacher_of_the_study_is_not_measured_again(study, capsys):
    from distillaw.runs.record import read_study

    run = list(read_study(study).teachers.values())[-1]
    verdict = asked(ScoutOptions(scout=[str(run.folder)]), student=None, tokens=None, study=study)
    assert verdict.headline.status == "PAIRED"
    assert verdict.headline.best.teacher.run_id == run.run_id
    assert verdict.headline.best.teacher_loss == run.loss
    assert "a teacher of the study" in capsys.readouterr().err


def test_another_teacher_beside_a_study(place, study, tmp_path):
    here = tmp_path / "study"
    shutil.copytree(study, here)
    question = scouting(place, "a", max_bytes=2000)
    verdict = asked(question, student=None, tokens=None, study=here)
    assert "held-out documents" in verdict.warnings[0]
    tokenizer = train_tokenizer(DOCUMENTS, vocab_size=VOCAB)
    (here / "data").mkdir(exist_ok=True)
    write_json(here / "data" / "manifest.json", {"tokenizer_hash": tokenizer_hash(tokenizer)})
    assert asked(question, student=None, tokens=None, study=here).verdict == verdict.verdict
    write_json(here / "data" / "manifest.json", {"tokenizer_hash": "another"})
    with pytest.raises(VocabularyError, match="not the study's"):
        asked(question, student=None, tokens=None, study=here)


def test_what_is_wrong_is_said_before_anything_is_measured(place, monkeypatch):
    def measured(*_, **__):
        pytest.fail("measured first")

    monkeypatch.setattr("distillaw.evaluate.scout.scout_teachers", measured)
    text = str(place / "text.jsonl")
    with pytest.raises(VocabularyError, match=r"2 tokenizers.*distillaw scout"):
        asked(scouting(place, "a", "other"))
    with pytest.raises(ConfigError, match="one budget"):
        asked(scouting(place, "a"), tokens=None)
    with pytest.raises(ConfigError, match="tokens per parameter"):
        asked(scouting(place, "a"), student="1B")
    with pytest.raises(ConfigError, match="1 values for 2 models"):
        asked(scouting(place, "a", "b", scout_tokens=[1e6]))
    with pytest.raises(ConfigError, match="--scout-out is for --scout"):
        asked(ScoutOptions(scout_out=place))
    with pytest.raises(ConfigError, match="corpus 'nowhere': no such file"):
        asked(scouting(place, "a", text="nowhere"))
    with pytest.raises(ConfigError, match="--section-chars -1"):
        asked(scouting(place, "a", text=text, reading=Reading(section_chars=-1)))
