"""`distillaw prune` as a user meets it: real text, a trained teacher, folders that load, and what is refused."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillaw.runs.files import read_json
from in_process import answer as distillaw
from left_over import of_a_dead_process
from small_teacher import write_speeches, write_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A small trained teacher."""
    folder = write_teacher(tmp_path_factory.mktemp("teacher"))
    write_speeches(folder / "speeches.jsonl", count=40)
    return folder


def command(teacher, out, *words, context=64):
    text = ("--text", teacher / "speeches.jsonl", "--context", context, *"--tokens 4k --heldout-tokens 4k".split())
    return ("prune", teacher, "--out", out, *text, *words)


def pruned(teacher, out, *words, context=64):
    return distillaw(*command(teacher, out, *words, context=context))


def test_ranked_cuts_lose_less_than_the_uniform_one_and_load(teacher, tmp_path):
    lost = {}
    for by in ("uniform", "activation", "gradient"):
        done = pruned(teacher, tmp_path / by, "--keep", 0.6, "--importance", by, "--json")
        assert done.returncode == 0, done.stderr
        record = json.loads(done.stdout)
        assert record["keep"] == pytest.approx(0.6, abs=0.06) and record["heldout_tokens"] >= 4000
        assert record["teacher_loss"] < record["loss"] and record["lost"] == pytest.approx(
            record["loss"] - record["teacher_loss"]
        )
        lost[by] = record["lost"]
        model = AutoModelForCausalLM.from_pretrained(tmp_path / by)
        assert len(AutoTokenizer.from_pretrained(tmp_path / by)) == 300
        assert model.config.num_hidden_layers == record["shape"]["layers"]
    assert lost["gradient"] < lost["uniform"] and lost["activation"] < lost["uniform"]


@pytest.mark.slow
def test_a_ranking_serves_cuts_of_other_sizes_of_its_teacher_alone(teacher, tmp_path):
    """The same units as a ranking of its own would keep, without text; another teacher's ranking is refused."""
    own, taken, first = (tmp_path / name for name in ("own", "taken", "first"))
    pruned(teacher, first, "--keep", 0.8, "--importance", "activation")
    wanted = json.loads(pruned(teacher, own, "--keep", 0.4, "--importance", "activation", "--json").stdout)
    asked = ("prune", teacher, "--keep", 0.4, "--ranked-as", first, "--out", taken, "--json")
    got = json.loads(distillaw(*asked).stdout)
    ranked = ("importance", "calibration_windows", "shape")
    assert [got[key] for key in ranked] == [wanted[key] for key in ranked] and "loss" not in got
    assert read_json(taken / "prune.json")["cut"] == read_json(own / "prune.json")["cut"]
    assert json.loads(distillaw(*asked).stdout) == got
    refused = {
        "cut out of another teacher": ("prune", first, "--ranked-as", first),
        "holds no importance.json": ("prune", teacher, "--ranked-as", teacher),
        "drop one": ("prune", teacher, "--ranked-as", first, "--importance", "gradient"),
    }
    for said, words in refused.items():
        done = distillaw(*words, "--keep", 0.5, "--out", tmp_path / "no")
        assert done.returncode == 2 and said in done.stderr.replace("\n", " "), done.stderr


def test_the_whole_teacher_loses_nothing(teacher, tmp_path):
    record = json.loads(pruned(teacher, tmp_path / "all", "--keep", 1, "--json").stdout)
    assert record["lost"] == 0 and record["shape"] == record["teacher_shape"]


def test_a_second_call_computes_nothing_and_a_half_written_folder_is_made_again(teacher, tmp_path):
    out = tmp_path / "cut"
    first = pruned(teacher, out, "--heads", 2, "--json")
    assert first.returncode == 0, first.stderr
    again = pruned(teacher, out, "--heads", 2, "--json")
    assert again.stdout == first.stdout and "made before, nothing to do" in again.stderr
    weights = (out / "model.safetensors").read_bytes()
    (out / "config.json").unlink()  # as after a kill
    left = of_a_dead_process(out)
    left.mkdir()
    assert pruned(teacher, out, "--heads", 2).returncode == 0
    assert (out / "model.safetensors").read_bytes() == weights and not left.exists()
    other = pruned(teacher, out, "--heads", 1)
    assert other.returncode == 2 and "another call" in other.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give one of --student 50M, --keep 0.4"),
        (("--keep", 0.5, "--heads", 2), "give one of"),
        (("--keep", 1.5), "a share of the teacher's parameters"),
        (("--student-params", "1B"), "not between 0 and the teacher's"),
        (("--student-params", 100), "no shape of 100 non-embedding parameters"),
        (("--heads", 5), "it has 5 heads, its teacher 4"),
        (("--width", 62), "width 62 is no multiple of its 4 heads"),
        (("--heads", 0), "heads = 0: at least 1 stays"),
        (("--width", -8), "width = -8: at least 1 stays"),
        (("--keep", 0.5, "--multiple", 0), "--multiple 0: at least 1"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(teacher, tmp_path, words, said):
    done = pruned(teacher, tmp_path / "no", *words)
    assert done.returncode in (1, 2) and said in done.stderr.replace("\n", " "), done.stderr
    assert not (tmp_path / "no" / "config.json").exists()


def test_too_little_text_for_the_windows_is_said(teacher, tmp_path):
    short = tmp_path / "short.jsonl"
    short.write_text("".join(json.dumps({"text": f"speech {i}"}) + "\n" for i in range(9)), encoding="utf-8")
    done = distillaw("prune", teacher, "--out", tmp_path / "no", "--keep", 0.5, "--text", short, "--context", 64)
    assert done.returncode == 1 and "has 64 tokens; give more or longer text" in done.stderr
    for context in (1, 100_000):
        done = pruned(teacher, tmp_path / "no", "--keep", 0.5, context=context)
        assert done.returncode == 2 and "a window has at least 2 tokens" in done.stderr


def test_damaged_weights_and_a_folder_that_cannot_be_are_said_before_the_work(teacher, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = distillaw("prune", teacher, "--out", tmp_path / "file" / "cut", "--keep", 0.5)
    assert done.returncode == 2 and "is a file, not a folder" in done.stderr
    shutil.copytree(teacher, tmp_path / "bad")
    model = AutoModelForCausalLM.from_pretrained(teacher)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "bad")
    done = distillaw("prune", tmp_path / "bad", "--out", tmp_path / "no", "--keep", 0.5)
    assert done.returncode == 1 and "model.layers.1.mlp.up_proj.weight holds values that are not" in done.stderr


def test_a_model_that_lies_there_is_not_written_over(teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "mine")
    done = pruned(teacher, tmp_path / "mine", "--keep", 0.5)
    assert done.returncode == 2 and "what distillaw has not made" in done.stderr


def test_a_dry_run_says_the_shape_and_writes_nothing(teacher, tmp_path):
    done = pruned(teacher, tmp_path / "dry", "--keep", 0.4, "--dry-run")
    assert done.returncode == 0 and "layers" in done.stdout and "a cascade would cut to" in done.stdout
    assert not (tmp_path / "dry").exists()
    by_law = json.loads(pruned(teacher, tmp_path / "dry", "--by-law", "--dry-run", "--json").stdout)
    assert by_law["keep"] == pytest.approx(0.4, abs=0.05)
    assert by_law["size_by_law"]["law"] == "zhang2023-constant-ratio" and by_law["size_by_law"]["interval"] is None
    named = json.loads(
        pruned(teacher, tmp_path / "dry", "--law", "zhang2023-constant-ratio", "--dry-run", "--json").stdout
    )
    assert named == by_law


def test_the_size_may_come_from_a_plan(teacher, tmp_path):
    plan = tmp_path / "plan.json"
    strategies = [{"teacher": None, "student_params": 9e9}, {"teacher": {"name": "T"}, "student_params": 8e4}]
    plan.write_text(json.dumps({"strategies": strategies}))
    done = distillaw("prune", teacher, "--plan", plan, "--dry-run", "--out", tmp_path / "x", "--json")
    assert json.loads(done.stdout)["params"] == pytest.approx(8e4, rel=0.1)
    plan.write_text("{}")
    done = distillaw("prune", teacher, "--plan", plan, "--dry-run", "--out", tmp_path / "x")
    assert done.returncode == 2 and "no strategy with a teacher" in done.stderr
