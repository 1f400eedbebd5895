"""All parts in one folder: what is stored, what is not done twice, the run table, and what strangers get told."""

import json
import re
import shutil
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from pyarrow import parquet as pq

from distillaw.errors import ConfigError
from distillaw.evaluate.suite import evaluate_model
from distillaw.evaluate.wishes import ChatWishes, TextWishes
from distillaw.models.source import locate
from distillaw.runs.files import read_json
from distillaw.runs.places import claim_folder
from distillaw.runs.store import RESULT_KEYS, StudyFolder
from in_process import answer

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
    assert set(first["heldout"]) >= {"loss", "loss_se", "bits_per_byte", "bits_per_byte_se", "tokens", "documents"}
    assert set(first["calibration"]) >= {"ece_data", "ece_data_se", "ece_teacher", "ece_teacher_se"}
    both, said = measure(student, tmp_path, text=wishes, teacher=teacher, tasks=["blimp"], data=data)
    assert sum("measured before" in line for line in said) == 1
    assert both["heldout"] == first["heldout"]
    assert set(both["scores"]["blimp"]) >= set("score se n shots metric chance interval near_chance".split())
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
    wishes = ChatWishes(questions=data / "questions.jsonl", judge=str(teacher), against=str(student), max_tokens=8)
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


class Judge(HTTPServer):
    """An OpenAI-compatible server; of question i it says `replies[i]`, bytes as the whole body."""

    def __init__(self, replies):
        super().__init__(("127.0.0.1", 0), Answer)
        self.replies, self.asked = replies, Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
        number = int(re.search(r"why (\d)\?", asked[1]["content"])[1])
        self.server.asked[number] += 1
        said = self.server.replies[number]
        body = said if isinstance(said, bytes) else json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(503 if said == b"" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def judged(student, teacher, questions, out, server, *words):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    options = ["--questions", questions, "--judge", url, "--judge-model", "m", "--answer-tokens", 6]
    return answer("evaluate", student, "--out", out, "--against", teacher, *options, *words)


def test_a_hostile_judge_is_contained_counted_and_asked_again(student, teacher, tmp_path, monkeypatch):
    """Prose with numbers, HTML, control characters, two verdicts, no JSON, errors: each costs its own question."""
    monkeypatch.setattr("distillaw.evaluate.judges.time.sleep", lambda seconds: None)
    questions = tmp_path / "bench" / "question.jsonl"
    questions.parent.mkdir()
    rows = [{"question_id": i, "category": "c", "turns": [f"why {i}?"]} for i in range(8)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    replies = ["so [[A]]", "I give 7 out of 10 to B and 3/10 to A.", "<html><b>[[A]]</b><script>1</script></html>"]
    replies += ["\x1b[31m\x00[[B]]\x07\u202e", "[[A]] or rather [[B]]", b"<html>502</html>", "[[C]]", b""]
    with Judge(replies) as server:
        done = judged(student, teacher, questions, tmp_path / "out", server)
        assert done.returncode == 0, done.stderr
        assert server.asked == {0: 2, 1: 4, 2: 2, 3: 2, 4: 4, 5: 12, 6: 2, 7: 12}
        assert not any(ord(c) < 32 and c not in "\n\r\t" for c in done.stdout + done.stderr)
        (found,) = read_json(tmp_path / "out" / "evaluation.json")["chat"].values()
        assert (found["turns"], found["verdicts"], found["unparseable"]) == (4, 16, 8)
        assert found["win_rate_bounds"] == [0.25, 0.75]
        assert "8 of 16 verdicts could not be read" in done.stdout
        assert found["answers"]["model"]["unended"] == 8, "fresh weights never end"
        server.replies[5:8] = ["[[A]]", "not asked again", "[[A]]"]
        again = judged(student, teacher, questions, tmp_path / "out", server)
        assert again.returncode == 0, again.stderr
        assert (server.asked[5], server.asked[7], sum(server.asked.values())) == (14, 14, 44)
        (found,) = read_json(tmp_path / "out" / "evaluation.json")["chat"].values()
        assert (found["turns"], found["unparseable"]) == (6, 4)


def test_a_judge_that_is_gone_ends_the_command_which_goes_on_later(student, teacher, data, tmp_path, monkeypatch):
    monkeypatch.setattr("distillaw.evaluate.judges.time.sleep", lambda seconds: None)
    with Judge(["[[A]]", b"", b"", b""]) as server:
        done = judged(student, teacher, data / "questions.jsonl", tmp_path / "out", server)
        assert done.returncode == 1 and "verdicts so far are kept" in done.stderr
        server.replies[1:] = ["[[B]]"] * 3
        server.asked.clear()
        second = ["--second-judge", teacher]
        done = judged(student, teacher, data / "questions.jsonl", tmp_path / "out", server, *second)
        assert done.returncode == 0 and server.asked == {1: 4, 2: 4, 3: 4}, done.stderr
        assert "both agree on" in done.stdout and done.stdout.count("win rate") == 2


def test_a_late_judge_is_given_up(student, teacher, data, tmp_path, monkeypatch):
    monkeypatch.setattr("distillaw.evaluate.judges.time.sleep", lambda seconds: None)
    with Judge(["[[A]]"] * 4) as server:
        monkeypatch.setattr(Answer, "do_POST", lambda handler: threading.Event().wait(0.05))
        options = ["--judge-seconds", 0.01]
        done = judged(student, teacher, data / "questions.jsonl", tmp_path / "out", server, *options)
    assert done.returncode == 1 and "no whole answer within 0.01 s" in done.stderr


def test_a_model_of_nan_neither_answers_nor_judges(student, teacher, data, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(student)
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "nan")
    locate(student).tokenizer().save_pretrained(str(tmp_path / "nan"))
    options = ["--questions", data / "questions.jsonl", "--answer-tokens", 4, "--out", tmp_path / "out"]
    for who, judge in ((tmp_path / "nan", teacher), (student, tmp_path / "nan")):
        done = answer("evaluate", who, "--judge", judge, *options)
        assert done.returncode == 1 and "its probabilities are not finite" in done.stderr
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


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


def test_answers_written_side_by_side_are_those_of_each_alone(student):
    from distillaw.evaluate.judges import ChatModel

    chat = ChatModel.load(str(student), device="cpu")
    talks = [[{"role": "user", "content": words}] for words in ("which?", "a longer one, of many words", "no")]
    alone = [chat.write([talk], max_tokens=12)[0] for talk in talks]
    assert chat.write(talks, max_tokens=12) == alone
    assert len({text for text, _ in alone}) > 1


def test_an_answer_that_spells_a_special_token_does_not_end_its_turn(student):
    from distillaw.evaluate.judges import ChatModel

    chat = ChatModel.load(str(student), device="cpu")
    end = chat.tokenizer.eos_token
    plain, spelt = (chat.prompt([{"role": "user", "content": f"which{text}?"}])[0].tolist() for text in ("", end))
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
    record, _ = measure(study.run("a").path, out, text=TextWishes(text=text, context=32), tasks=["blimp"], data=data)
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
def test_wrong_input_is_told_clearly(student, data, tmp_path, arguments, code, message):
    arguments = [each.format(data=data) for each in arguments]
    assert message in answer("evaluate", student, "--quiet", *arguments, cwd=tmp_path, code=code).stderr


def test_a_dry_run_says_what_would_be_asked(student, data, tmp_path):
    words = f"evaluate {student} --out {tmp_path / 'o'} --tasks blimp --data {data} --limit 5 --dry-run --json"
    found = json.loads(answer(*words.split(), code=0).stdout)
    assert (found["schema_version"], found["tasks"][0]["questions"], found["tasks"][0]["available"]) == (1, 5, 12)
    assert not (tmp_path / "o").exists()
