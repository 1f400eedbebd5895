"""`distillaw recipe minima` from a teacher to a chat model, with everything real and small."""

import html
import json
import shutil

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillaw.data.prepare import documents_of, read_spec
from distillaw.instruct.masks import choose_template
from distillaw.recipe.spec import STAGES
from distillaw.runs.files import read_json
from in_process import answer, following
from small_teacher import write_speeches, write_teacher

ASKED = (
    "Hello",
    "Peace?",
    "And war?",
    "Gold?",
    "A river",
    "A tariff",
    "Friends",
    "Who?",
    "Where?",
    "Why?",
    "Now?",
    "Laws?",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A small trained teacher, conversations, and the recipe's folder when it has run.

    The teacher is too small to answer: that it does where it can is shown in tests/instruct.
    """
    home = tmp_path_factory.mktemp("recipe")
    write_teacher(home / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(home / "teacher")
    choose_template(tokenizer, "zephyr", model="teacher")
    tokenizer.save_pretrained(home / "teacher")
    write_speeches(home / "speeches.jsonl", count=240)
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}] for text in ASKED]
    (home / "chats.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    done = cook(home, "--json")
    assert done.returncode == 0, done.stderr
    (home / "answer.json").write_text(done.stdout)
    return home


def command(home, *words, out="out"):
    options = {
        "--teacher": home / "teacher",
        "--corpus": home / "speeches.jsonl",
        "--tokens": 4096,
        "--batch": 256,
        "--context": 128,
        "--keep": 0.5,
        "--calibration-tokens": 4096,
        "--chats": home / "chats.jsonl",
        "--template": "zephyr",
        "--rates": "3e-3",
        "--validation-documents": 16,
        "--validation-tokens": 64,
        "--out": home / out,
    }
    usual = [str(word) for option, value in options.items() if option not in words for word in (option, value)]
    return ["recipe", "minima", *usual, *words]


def cook(home, *words, out="out"):
    return answer(*command(home, *words, out=out))


def test_every_stage_is_there_and_the_chat_model_speaks(home):
    record = json.loads((home / "answer.json").read_text())
    stages = record["stages"]
    assert list(stages) == ["text", "law", "prune", "distil", "instruct", "evaluate", "report"]
    assert stages["law"]["params"] == stages["prune"]["cuts"][0]["params"] == stages["distil"]["arms"][0]["params"]
    assert {row["arm"] for row in stages["distil"]["arms"]} == {"pruned", "pruned-alone", "fresh", "fresh-alone"}
    folder = stages["instruct"]["folder"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], return_tensors="pt", add_generation_prompt=True, return_dict=True
    )
    assert AutoModelForCausalLM.from_pretrained(folder).generate(**ids, max_new_tokens=3).shape[1] > 3
    kept = read_json(home / "out" / "instruct" / "samples.json")
    assert kept == stages["instruct"]["samples"] and len(kept["samples"]) == 3
    assert all(set(sample["answers"]) == {"teacher", "chat"} for sample in kept["samples"])
    models = stages["evaluate"]["models"]
    assert set(models) == {"teacher", "cut", "base", "chat"}
    assert models["teacher"]["heldout"]["loss"] < models["cut"]["heldout"]["loss"]
    page = (home / "out" / "report.html").read_text()
    assert "What they say" in page and html.escape(kept["samples"][0]["answers"]["chat"]["text"]) in page
    assert "Pruned, fresh, with and without the teacher" in page and "<script src" not in page


def test_nobody_trains_on_what_is_scored(home):
    def texts(file):
        return [json.loads(line)["text"] for line in file.read_text().splitlines()]

    speeches = texts(home / "speeches.jsonl")
    calibration = texts(home / "out" / "text" / "calibration.jsonl")
    heldout = texts(home / "out" / "text" / "heldout.jsonl")
    owners = [[s for s in speeches if s.startswith(text)] for text in heldout]
    known = [found[0] for found in owners if len(found) == 1]  # others begin alike
    assert len(heldout) == 16 and len(known) > 8
    assert all(any(s.startswith(text[:200]) for s in speeches) for text in calibration)
    assert not any(speech.startswith(text[:200]) for speech in known for text in calibration)


def test_a_second_call_computes_nothing_and_a_lost_stage_alone_is_made_again(home):
    results = {file: file.stat().st_mtime_ns for file in (home / "out").rglob("result.json")}
    first = json.loads((home / "answer.json").read_text())
    shutil.rmtree(home / "out" / "evaluate" / "chat")
    done = cook(home, "--json", "--keep-checkpoints", "2")  # which changes no number
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in results.items())
    heldout = [record["stages"]["evaluate"]["models"]["chat"]["heldout"]["loss"] for record in (first, again)]
    assert heldout[0] == heldout[1]


@pytest.mark.slow
def test_the_next_commands_run_as_printed(home, monkeypatch):
    """Of the recipe, and of its stage as a command of its own, which gets the record of what was trained."""
    then = answer(*following(cook(home)))
    assert then.returncode == 0 and str(home / "out") in then.stdout, then.stderr
    record = json.loads((home / "answer.json").read_text())["stages"]["distil"]
    monkeypatch.setattr("distillaw.sweep.arms.train_arms", lambda *given, **how: record)
    text, options = home / "speeches.jsonl", f"--tokens 4096 --out {home / 'out' / 'distil'}".split()
    done = answer("distil", home / "student", "--teacher", home / "teacher", "--corpus", text, *options)
    then = answer(*following(done, YOUR_TEXT=text))
    assert then.returncode == 0 and "held-out text" in then.stdout, then.stderr


@pytest.fixture(scope="module")
def adapted(home):
    """A recipe whose teacher gets new pieces and reads on, and whose best arm becomes a mixture."""
    words = "--pieces 60 --adapt-tokens 2048 --experts 2,4 --upcycle-tokens 1024 --no-alone".split()
    planned = cook(home, *words, "--dry-run", "--json", out="adapted")
    assert planned.returncode == 0 and not (home / "adapted").exists(), planned.stderr
    done = cook(home, *words, "--json", out="adapted")
    assert done.returncode == 0, done.stderr
    return words, json.loads(planned.stdout)["cost"], json.loads(done.stdout)["stages"]


@pytest.mark.slow
def test_the_adapted_teacher_is_cut_and_teaches_and_the_best_arm_becomes_a_mixture(home, adapted):
    _, _, stages = adapted
    assert list(stages) == list(STAGES)
    vocabulary = stages["adapt"]["vocabulary"]
    assert vocabulary["vocab_before"] == 300 and vocabulary["vocab"] == 384
    teacher = stages["adapt"]["folder"]
    assert stages["prune"]["cuts"][0]["teacher"] == teacher and stages["law"]["teacher_shape"]["vocab"] == 384
    assert all(len(AutoTokenizer.from_pretrained(stages[s]["folder"])) == 384 for s in ("distil", "instruct"))
    run, mixed = stages["adapt"]["run"], stages["upcycle"]
    assert run["split"] == "teacher" and run["loss"] < run["start_loss"]
    # a mixture begins as what it was made of
    assert mixed["run"]["start_loss"] == pytest.approx(stages["distil"]["arms"][0]["loss"], abs=1e-4)
    assert set(mixed["mixture"]["experts"]) == {2, 4} and mixed["mixture"]["logit_difference"] < 1e-4
    models = stages["evaluate"]["models"]
    assert list(models) == ["original", "teacher", "cut", "base", "mixture", "chat"]
    assert models["original"]["heldout"]["bytes"] == models["teacher"]["heldout"]["bytes"]
    page = (home / "adapted" / "report.html").read_text()
    assert "The teacher, adapted first" in page and "mixture of experts" in page and "original" in page


@pytest.mark.slow
def test_what_the_plan_says_of_its_stages_is_what_they_cost(adapted):
    _, planned, stages = adapted
    rows = {row["stage"]: row for row in planned["stages"]}
    assert list(rows) == ["adapt", "distil", "upcycle"] and planned == stages["law"]["cost"]
    for stage, run in (("adapt", stages["adapt"]["run"]), ("upcycle", stages["upcycle"]["run"])):
        assert rows[stage]["tokens"] == run["tokens"]
        assert rows[stage]["student_flop"] == pytest.approx(run["train_flops"], rel=0.05)
        assert rows[stage]["teacher_flop"] == pytest.approx(run["teacher_flops"], rel=0.05)
    spent = sum(row["train_flops"] for row in stages["distil"]["arms"])
    assert rows["distil"]["student_flop"] == pytest.approx(spent, rel=0.05)


@pytest.mark.slow
def test_pieces_are_learnt_where_neither_students_read_nor_anybody_is_scored(home, adapted):
    read = {json.loads(line)["text"] for line in (home / "adapted" / "adapt" / "text.jsonl").read_text().splitlines()}
    spec = read_spec(home / "adapted" / "distil" / "data")
    others = {text for split in ("student", "validation") for text in documents_of(spec, split)}
    assert read == set(documents_of(spec, "teacher")) and not read & others


@pytest.mark.slow
def test_a_killed_recipe_goes_on_in_its_optional_stages(home, adapted):
    """Of a record that knows nothing and a mixture that is gone only that is made again, to the same weights."""
    words, _, stages = adapted
    out = home / "adapted"
    (out / "recipe.json").unlink()
    shutil.rmtree(out / "upcycle")
    stamps = {file: file.stat().st_mtime_ns for file in out.rglob("result.json")}
    done = cook(home, *words, "--until", "upcycle", "--json", out="adapted")
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)["stages"]
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items())
    assert again["upcycle"]["run"]["loss"] == stages["upcycle"]["run"]["loss"]
    assert again["adapt"]["folder"] == stages["adapt"]["folder"]


QUESTIONS = "".join(json.dumps({"question_id": i, "category": "c", "turns": [f"Peace {i}?"]}) + "\n" for i in range(3))


@pytest.fixture
def reopened(home):
    """The finished recipe's folder, where nothing after its arms was run yet; in the end as it was before."""
    out, kept = home / "out", home / "kept"
    shutil.copytree(out, kept)
    for stage in ("instruct", "evaluate"):
        shutil.rmtree(out / stage)
    record = json.loads((out / "recipe.json").read_text())
    del record["checksum"]
    record["stages"] = {stage: record["stages"][stage] for stage in ("text", "law", "prune", "distil")}
    (out / "recipe.json").write_text(json.dumps(record))
    yield out
    shutil.rmtree(out)
    kept.rename(out)


def test_late_stages_may_still_be_asked_for_and_the_chat_model_is_judged(home, reopened):
    """Own answers and judged chat, asked for when the arms were done; the teacher is the judge."""
    questions = home / "bench" / "question.jsonl"
    questions.parent.mkdir()
    questions.write_text(QUESTIONS)
    stamps = {file: file.stat().st_mtime_ns for file in reopened.rglob("result.json")}
    late = ["--on-policy", "1", "--questions", questions, "--judge", home / "teacher", "--answer-tokens", "4"]
    done = cook(home, *map(str, late), "--json")
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items())
    assert stages["instruct"]["folder"].endswith("onpolicy/model")
    models = stages["evaluate"]["models"]
    assert list(models) == ["teacher", "cut", "base", "tuned", "chat"]
    (chat,) = models["chat"]["chat"].values()
    assert done.stderr.count("teacher: answering") == 1, "what it answers is kept for the next chat model"
    assert chat["kind"] == "pair" and chat["turns"] == 3 and 0 <= chat["agreement"] <= 1
    page = (reopened / "report.html").read_text()
    assert "Judged chat, against the teacher" in page and "answers of its own" in page
    short = page[page.index("In short") : page.index("Pruned, fresh, with")]
    assert "Held-out text: " in short and "Chat, bench, judged by teacher: " in short and "Cost: " in short
    assert "teacher is that teacher: it judges its own answers" in page
    assert all(stage["cpu_seconds"] > 0 for stage in stages.values())
    assert cook(home, "--on-policy", "0.5").returncode == 2


def test_other_settings_do_not_mix_in_one_folder(home):
    done = cook(home, "--tokens", "8192")
    assert done.returncode == 2 and "holds a recipe with other settings (tokens" in done.stderr


@pytest.mark.slow
def test_a_cascade_cuts_twice_and_stops_where_it_is_told(home):
    done = cook(home, "--steps", "2", "--until", "prune", "--json", out="cascade")
    assert done.returncode == 0, done.stderr
    cuts = json.loads(done.stdout)["stages"]["prune"]["cuts"]
    assert [cut["keep"] for cut in cuts] == pytest.approx([0.71, 0.71], abs=0.12)
    assert cuts[1]["teacher"].startswith(str(home / "cascade" / "distil-1" / "runs"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--student-params", "50k"), "say the same thing twice"),
        (("--tasks", "gsm8k"), "needs --evaluation-data"),
        (("--chats", "nowhere.jsonl"), "no such file"),
        (("--on-policy", "2"), "a share of the answers"),
        (("--questions", "q.jsonl"), "needs both"),
        (("--questions", "q.jsonl", "--judge", "http://x"), "no such file"),
        (("--judge-model", "m"), "it is about judged chat"),
        (("--keep", "1.5"), "not between 0 and the teacher's"),
        (("--teacher", "nowhere/at/all"), "no such"),
        (("--pieces", "60", "--trim", "200"), "a vocabulary grows or shrinks"),
        (("--pieces", "60", "--smaller", "small"), "speaks the teacher's vocabulary"),
        (("--adapt-tokens", "100"), "at least one batch of 256"),
        (("--experts", "1"), "one number of at least 2"),
        (("--experts", "many"), "--experts: cannot read 'many'"),
        (("--upcycle-tokens", "1k"), "give --experts"),
        (("--until", "adapt"), "the stages of this recipe are text, law"),
    ],
)
def test_what_cannot_be_cooked_is_refused(home, words, message):
    done = cook(home, *words, out=f"refused{words[0]}")
    assert done.returncode in (1, 2) and message in done.stderr, done.stderr
