"""A teacher's answers: each prompt once, the same after a kill, cut ones marked, learnt by a student."""

import json
import shutil

import pytest
import torch
from families import chatml_tokenizer, save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillaw.errors import ConfigError, DataError, DivergedError
from distillaw.instruct.conversations import read_conversations
from distillaw.instruct.generate import about_answers, about_file, contrast_answers, generate_answers
from distillaw.instruct.prepare import read_pairs
from distillaw.instruct.spec import SftSpec
from distillaw.instruct.stages import run_sft
from distillaw.runs.files import read_json


@pytest.fixture(scope="module")
def teacher(model, chats, tmp_path_factory):
    """A model that has learnt to answer, and to stop."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    run_sft(
        SftSpec(
            model=str(model),
            data=str(chats),
            template="chatml",
            lr=1e-2,
            epochs=20,
            patience=20,
            batch=8,
            max_tokens=96,
        ),
        out,
    )
    return out / "model"


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"What is {a} and {b}{'?' * (1 + a)}\n" for a in range(4) for b in range(3)))
    return file


def rows(file):
    return {row["prompt"]: row for row in map(json.loads, file.read_text().splitlines())}


def test_answers_are_those_of_each_prompt_alone(teacher, prompts, tmp_path):
    out = generate_answers(teacher, prompts, tmp_path / "a.jsonl", max_new_tokens=16, batch=5)
    found = rows(out)
    assert sorted(found) == list(range(12)) and any(not row["truncated"] for row in found.values())
    tokenizer, model = AutoTokenizer.from_pretrained(teacher), AutoModelForCausalLM.from_pretrained(teacher)
    for row in found.values():
        ids = tokenizer.apply_chat_template(
            row["messages"][:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        alone = model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :]
        assert tokenizer.decode(alone, skip_special_tokens=True).strip() == row["messages"][1]["content"]
        assert row["truncated"] == (tokenizer.eos_token_id not in alone)
    about = json.loads(about_file(out).read_text())
    assert about["answers"] == 12 and about["truncated"] == sum(row["truncated"] for row in found.values())
    assert about_answers(out)["teacher"] == str(teacher) and about_answers(prompts) == {}


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_what_a_kill_tore_is_answered_again_the_same(teacher, prompts, tmp_path, temperature):
    settings = {"max_new_tokens": 12, "batch": 4, "temperature": temperature, "seed": 3}
    whole = generate_answers(teacher, prompts, tmp_path / "whole.jsonl", **settings)
    torn = tmp_path / "torn.jsonl"
    lines = whole.read_text().splitlines(keepends=True)
    torn.write_text("".join(lines[:6]) + lines[6][:20])  # amid the second batch, amid a line
    about = read_json(about_file(whole))
    for key in ("answers", "truncated", "tokens", "flops", "seconds", "device"):
        del about[key]
    about_file(torn).write_text(json.dumps(about))
    generate_answers(teacher, prompts, torn, **settings)
    assert rows(torn) == rows(whole) and len(torn.read_text().splitlines()) == 12
    said = []
    generate_answers(teacher, prompts, torn, say=said.append, **settings)
    assert said == [f"{torn}: answered before, nothing to do"]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_model_of_nan_writes_no_answers(teacher, prompts, tmp_path, temperature):
    """Greedily it would write one token over and over."""
    broken = AutoModelForCausalLM.from_pretrained(teacher)
    broken.get_output_embeddings().weight.data.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "nan")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(str(tmp_path / "nan"))
    with pytest.raises(DivergedError, match="its probabilities are not finite"):
        generate_answers(tmp_path / "nan", prompts, tmp_path / "a.jsonl", max_new_tokens=4, temperature=temperature)
    assert not (tmp_path / "a.jsonl").exists()


def test_seeds_and_settings_matter(teacher, prompts, tmp_path):
    drawn = {"max_new_tokens": 12, "temperature": 1.5}
    one, two = (generate_answers(teacher, prompts, tmp_path / f"{s}.jsonl", seed=s, **drawn) for s in (1, 2))
    assert rows(one) != rows(two)
    with pytest.raises(ConfigError, match="holds answers by"):
        generate_answers(teacher, prompts, one, seed=2, **drawn)
    other = tmp_path / "mine.jsonl"
    other.write_text("{}\n")
    with pytest.raises(ConfigError, match="was not written by this command"):
        generate_answers(teacher, prompts, other, max_new_tokens=12)
    with pytest.raises(DataError, match="leave no room for 300 new tokens in the 256"):
        generate_answers(teacher, prompts, tmp_path / "x.jsonl", max_new_tokens=300)
    with pytest.raises(ConfigError, match="temperature = -1"):
        generate_answers(teacher, prompts, tmp_path / "x.jsonl", temperature=-1)


def test_a_student_learns_from_answers_and_the_run_names_the_teacher(teacher, model, tmp_path):
    asked = tmp_path / "p.txt"
    asked.write_text("".join(f"What is {a} and {b}?\n" for a in range(8) for b in range(4)))
    answers = generate_answers(teacher, asked, tmp_path / "answers.jsonl", max_new_tokens=24, batch=16)
    cut = sum(each.truncated for each in read_conversations(answers))
    result = run_sft(
        SftSpec(model=str(model), data=str(answers), template="chatml", lr=5e-3, epochs=2, batch=8, validation=0.2),
        tmp_path / "run",
    )
    assert result["teacher_run"] == str(teacher) and result["teacher_flops"] > 0 and result["change"]["interval"][1] < 0
    assert result["data"]["skipped"].get("answer cut off", 0) == cut


def test_pairs_of_two_models_say_who_wrote_what_and_that_nobody_judged(teacher, prompts, tmp_path):
    with torch.no_grad():
        student = save_model(tmp_path / "student", chatml_tokenizer(), seed=5)
        shutil.copy(teacher / "chat_template.jinja", student)
    files = [
        generate_answers(who, prompts, tmp_path / f"{i}.jsonl", max_new_tokens=16)
        for i, who in enumerate((teacher, student))
    ]
    cut = [{i for i, row in rows(file).items() if row["truncated"]} for file in files]
    found = contrast_answers(*files, tmp_path / "pairs.jsonl")
    assert found.cut_off == len(cut[0] | cut[1]) and found.pairs + found.cut_off + found.alike == 12
    same = contrast_answers(files[0], files[0], tmp_path / "same.jsonl")
    assert same.pairs == 0 and same.alike == 12 - len(cut[0])
    kept = list(map(json.loads, (tmp_path / "pairs.jsonl").read_text().splitlines()))
    assert all(row["judged"] is False and row["chosen_by"] == str(teacher) for row in kept)
    assert len(list(read_pairs(tmp_path / "pairs.jsonl"))) == found.pairs
