"""All parts in one folder: what is stored, what is not done twice, the run table, and what strangers get told."""

import json
import shutil

import pytest
from pyarrow import parquet as pq

from distillaw.cli.app import app, run
from distillaw.errors import ConfigError
from distillaw.evaluate.suite import evaluate_model
from distillaw.evaluate.wishes import ChatWishes, TextWishes
from distillaw.models.source import locate
from distillaw.runs.files import read_json
from distillaw.runs.places import claim_folder
from distillaw.runs.store import RESULT_KEYS, StudyFolder

TEMPLATE = "{% for m in messages %}<{{m.role}}>{{m.content}}{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def student(candidate):
    folder = candidate("pupil", 290, context=512)
    tokenizer = locate(folder).tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def teacher(candidate, student):
    return candidate("master", 290, params=5e4, context=512, tokenizer=locate(student).tokenizer())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("evals")
    rows = [{"sentence_good": f"the senate {i}", "sentence_bad": f"senate the {i}"} for i in range(12)]
    (root / "blimp").mkdir()
    (root / "blimp" / "order.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = [{"question_id": i, "category": "c", "turns": [f"why {i}?", "and then?"]} for i in range(4)]
    (root / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    return root


def measure(student, out, **settings):
    said = []
    return evaluate_model(student, out=out, say=said.append, **settings), said


def test_parts_are_kept_and_joined(student, teacher, data, text, tmp_path):
    wishes = TextWishes(text=text, context=32)
    first, _ = measure(student, tmp_path, text=wishes, teacher=teacher)
    assert set(first["heldout"]) >= {
        "loss",
        "loss_se",
        "bits_per_byte",
        "bits_per_byte_se",
        "tokens",
        "documents",
    }
    assert set(first["calibration"]) >= {"ece_data", "ece_data_se", "ece_teacher", "ece_teacher_se"}
    both, said = measure(student, tmp_path, text=wishes, teacher=teacher, tasks=["blimp"], data=data)
    assert sum("measured before" in line for line in said) == 1
    assert both["heldout"] == first["heldout"]
    assert set(both["scores"]["blimp"]) >= {
        "score",
        "se",
        "n",
        "shots",
        "metric",
        "chance",
        "interval",
        "near_chance",
    }
    assert both["mean_of_six"] is None
    assert read_json(tmp_path / "evaluation.json") == json.loads(json.dumps(both))
    again, said = measure(student, tmp_path, text=wishes, teacher=teacher, tasks=["blimp"], data=data)
    assert sum("measured before" in line for line in said) == len(said) == 2
    assert json.loads(json.dumps(again["scores"])) == json.loads(json.dumps(both["scores"]))
    with pytest.raises(ConfigError, match="evaluation of another model"):
        measure(teacher, tmp_path, tasks=["blimp"], data=data)


def test_against_itself_a_model_is_calibrated_and_behind_by_nothing(student, text, tmp_path):
    record, _ = measure(student, tmp_path, text=TextWishes(text=text, context=32), teacher=student)
    assert record["calibration"]["ece_teacher"] == pytest.approx(0, abs=1e-9)
    assert record["heldout"]["behind_teacher"] == pytest.approx(0, abs=1e-9)
    assert record["heldout"]["kl_from_teacher"] == pytest.approx(0, abs=1e-6)


def test_bits_per_byte_are_those_of_the_scout(student, text, tmp_path):
    from distillaw.evaluate.scout import scout_teachers

    record, _ = measure(student, tmp_path, text=TextWishes(text=text, context=32))
    (scouted,) = scout_teachers([student], text, context=32)
    assert record["heldout"]["bits_per_byte"] == pytest.approx(scouted.bits_per_byte)
    assert record["heldout"]["bits_per_byte_se"] == pytest.approx(scouted.bits_per_byte_se)


def test_chat_is_judged_by_a_local_model_pairwise_and_graded(student, teacher, data, tmp_path):
    wishes = ChatWishes(
        questions=data / "questions.jsonl", judge=str(teacher), against=str(student), max_tokens=8
    )
    record, said = measure(student, tmp_path, chat=wishes)
    (found,) = record["chat"].values()
    assert (found["turns"], found["unparseable"], found["win_rate"]) == (8, 0, 0.5), "against itself"
    _, said = measure(student, tmp_path, chat=wishes)
    assert not any("answering" in line for line in said)
    graded = ChatWishes(questions=data / "questions.jsonl", judge=str(teacher), max_tokens=8, limit=3)
    record, _ = measure(student, tmp_path, chat=graded)
    assert len(record["chat"]) == 2
    grade = next(each for each in record["chat"].values() if each["kind"] == "single")
    assert 1 <= grade["grade"] <= 10
    assert grade["questions"] == 3


def test_a_local_judge_says_what_it_finds_likeliest(teacher, student):
    import torch

    from distillaw.evaluate.judges import VERDICT, ChatModel

    chat = ChatModel.load(str(student), device="cpu")
    messages = [{"role": "user", "content": "which?"}]
    options = ["[[A]]", "[[B]]", "[[C]]"]
    scores = []
    for option in options:
        ids = [
            chat.tokenizer(each, add_special_tokens=False)["input_ids"]
            for each in ("<user>which?<assistant>", VERDICT, option)
        ]
        whole = torch.tensor([ids[0] + ids[1] + ids[2]])
        logp = chat.model(input_ids=whole).logits[0].double().log_softmax(-1)
        start = len(ids[0]) + len(ids[1])
        scores.append(sum(float(logp[t - 1, whole[0, t]]) for t in range(start, whole.shape[1])))
    assert chat.ask(messages, options) == options[scores.index(max(scores))]


def test_an_answer_that_spells_a_special_token_does_not_end_its_turn(student):
    from distillaw.evaluate.judges import ChatModel

    chat = ChatModel.load(str(student), device="cpu")
    end = chat.tokenizer.eos_token
    plain, spelt = (
        chat.prompt([{"role": "user", "content": f"which{text}?"}])[0].tolist() for text in ("", end)
    )
    assert spelt.count(chat.tokenizer.eos_token_id) == plain.count(chat.tokenizer.eos_token_id)
    assert f"which{end}?" in chat.tokenizer.decode(spelt)


def test_a_runs_scores_land_in_the_run_table(student, data, text, tmp_path):
    study = StudyFolder(tmp_path / "study")
    claim_folder(study.path)
    for name in ("a", "b"):
        facts = {"run_id": name, "role": "student", "params": 1, "tokens": 1, "loss": 1.0, "purpose": "law"}
        study.run(name).finish(dict.fromkeys(RESULT_KEYS) | facts)
    study.write_table({("a", "fresh"): "law", ("b", "fresh"): "law"})
    assert pq.read_table(study.path / "runs.parquet").column_names == list(RESULT_KEYS)
    shutil.copytree(student, study.run("a").path, dirs_exist_ok=True)
    out = study.run("a").path / "evaluation"
    record, _ = measure(
        study.run("a").path, out, text=TextWishes(text=text, context=32), tasks=["blimp"], data=data
    )
    rows = {row["run_id"]: row for row in pq.read_table(study.path / "runs.parquet").to_pylist()}
    assert rows["a"]["score_blimp"] == record["scores"]["blimp"]["score"]
    assert rows["a"]["score_blimp_se"] == record["scores"]["blimp"]["se"]
    assert rows["a"]["bits_per_byte"] == record["heldout"]["bits_per_byte"]
    assert rows["a"]["text_ece"] == record["calibration"]["ece_data"]
    assert (rows["b"]["score_blimp"], rows["b"]["purpose"]) == (None, "law")
    study.write_table({("a", "fresh"): "law", ("b", "fresh"): "other"})  # as the study does when it goes on
    assert "score_blimp" in pq.read_table(study.path / "runs.parquet").column_names


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "o"], 2, "nothing to measure"),
        (["--tasks", "blimp"], 2, "--out DIR"),
        (["--out", "o", "--tasks", "blimp"], 2, "give --data DIR"),
        (["--out", "o", "--tasks", "mmlu", "--data", "{data}"], 1, "evaluation data missing"),
        (["--out", "o", "--tasks", "blimpp", "--data", "{data}"], 2, "did you mean blimp"),
        (["--out", "o", "--tasks", "blimp", "--data", "{data}", "--limit", "1"], 2, "at least 2 questions"),
        (["--out", "o", "--tasks", "blimp", "--data", "{data}", "--shots", "3"], 2, "it has no examples"),
        (["--out", "o", "--text", "none.txt"], 2, "none.txt"),
        (["--out", "o", "--teacher", "x", "--tasks", "blimp", "--data", "{data}"], 2, "--text FILE"),
        (["--out", "o", "--questions", "{data}/questions.jsonl"], 2, "needs both"),
        (["--out", "o", "--questions", "none.jsonl", "--judge", "http://x"], 2, "no such file"),
        (["--out", "o", "--samples", "0", "--tasks", "blimp"], 2, "--samples 0"),
    ],
)
def test_wrong_input_is_told_clearly(student, data, tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    arguments = [each.format(data=data) for each in arguments]
    verb = ["evaluate", str(student), "--quiet", *arguments]
    assert run(lambda: app(verb, exit_on_error=False, result_action="return_value")) == code
    assert message in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_asked(student, data, tmp_path, capsys):
    verb = [
        "evaluate",
        str(student),
        "--out",
        str(tmp_path / "o"),
        "--tasks",
        "blimp",
        "--data",
        str(data),
        "--limit",
        "5",
        "--dry-run",
        "--json",
    ]
    assert run(lambda: app(verb, exit_on_error=False, result_action="return_value")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema_version"], answer["tasks"][0]["questions"], answer["tasks"][0]["available"]) == (
        1,
        5,
        12,
    )
    assert not (tmp_path / "o").exists()
