"""What two ranks do together is what one process does: a cut, arms that are distilled, a store, an evaluation."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import ranked
import torch
from safetensors.torch import load_file

from distillaw.data.corpus import read_documents
from distillaw.data.prepare import prepare_data
from distillaw.data.tokenizer import train_tokenizer
from distillaw.errors import ConfigError, DataError, DivergedError, RunError
from distillaw.models.fresh import build_model
from distillaw.models.source import locate
from distillaw.models.teacher import load_weights
from distillaw.runs.files import read_json
from distillaw.shapes import Shape
from distillaw.sweep.arms import ArmsSpec, recipe_of_arms, text_of_arms

SHAPE = Shape(layers=3, width=48, ffn=96, heads=3, kv_heads=3, head_dim=16, vocab=300, context=128)
WISHES = {"keep": 0.6, "tokens": 1500, "heldout_tokens": 700, "context": 64}  # 23 windows: the ranks' parts differ


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
    from distillaw.models.export import Making
    from distillaw.models.prune import Wishes, _importance, _read
    from distillaw.models.source import locate
    from distillaw.models.teacher import load_weights

    source, wishes = locate(teacher), Wishes(**WISHES)
    calibration, _ = _read(text, WHOLE, source.tokenizer(), wishes)
    alone = _importance(load_weights(source, torch.device("cpu"), None), calibration, wishes, Making())
    shared, _ = ranked.run(2, ranked.importance, teacher, calibration.tolist(), WISHES)
    for axis in ("layers", "width", "heads", "ffn"):
        assert getattr(shared, axis) == pytest.approx(getattr(alone, axis), rel=1e-5, abs=1e-12)


def test_a_rank_that_fails_stops_all(teacher, text, tmp_path):
    with pytest.raises(ConfigError, match="windows cannot be shared by 2 processes"):
        ranked.run(2, ranked.prune, teacher, tmp_path / "no", WISHES | {"tokens": 64}, text)
    with pytest.raises(DataError):
        ranked.run(2, ranked.fail_on_the_second)
    assert not (tmp_path / "no").exists()


@pytest.fixture(scope="module")
def arms(teacher, text, tmp_path_factory):
    """Arms of a cut: taught and alone."""
    cut = tmp_path_factory.mktemp("cut") / "cut"
    ranked.run(1, ranked.prune, teacher, cut, WISHES | {"keep": 0.5, "by": "uniform"}, text)
    return ArmsSpec(
        teacher=str(teacher),
        start=str(cut),
        fresh=False,
        tokens=1024,
        batch_tokens=128,
        data=text_of_arms(text, str(teacher), validation_documents=8, validation_tokens_per_document=64),
        training=recipe_of_arms(1024, context=32, distill_weight=0.5),
    )


@pytest.fixture(scope="module")
def alone(arms, tmp_path_factory):
    """The arms as one process trains them."""
    return ranked.run(1, ranked.distil, arms, tmp_path_factory.mktemp("arms") / "one")[0]


def _losses(record, key="loss"):
    return {row["arm"]: row[key] for row in record["arms"]}


@pytest.mark.parametrize("sharding", ["fsdp", pytest.param("ddp", marks=pytest.mark.slow)])
def test_two_ranks_distil_as_one_process_does(arms, alone, tmp_path, sharding):
    """FSDP: student and teacher lie in slices on both ranks, and are scored there."""
    first, second = ranked.run(2, ranked.distil, arms, tmp_path / "two", sharding=sharding)
    assert first == second and len(first["arms"]) == 2
    for key in ("loss", "start_loss", "train_flops"):
        assert _losses(first, key) == pytest.approx(_losses(alone, key), rel=1e-5)
    taught = "pruned"
    assert _losses(first, "teacher_loss")[taught] == pytest.approx(_losses(alone, "teacher_loss")[taught], rel=1e-6)
    assert first["teacher"] == alone["teacher"] and first["best"] == alone["best"]


@pytest.mark.slow
def test_a_killed_rank_of_a_distillation_is_named_and_nothing_is_lost(arms, tmp_path):
    (tmp_path / "killed").mkdir()
    whole, _ = ranked.run(2, ranked.distil, arms, tmp_path / "whole")
    often = {"DISTILLAW_CHECKPOINT_SECONDS": "0"}
    processes, pipes = ranked.start(2, ranked.distil, arms, tmp_path / "killed" / "out", environment=often)
    ranked.wait_for(lambda: any((tmp_path / "killed" / "out").glob("trunks/*/state/step-*")))
    processes[1].kill()
    error = pipes[0].recv()
    assert isinstance(error, RunError) and "another rank has ended" in str(error)
    ranked.end(processes)
    again, _ = ranked.run(2, ranked.distil, arms, tmp_path / "killed" / "out")
    assert _losses(again) == _losses(whole)
    for name in _losses(whole, "run_id").values():
        one, two = (
            load_file(folder / "runs" / name / "model.safetensors")
            for folder in (tmp_path / "whole", tmp_path / "killed" / "out")
        )
        assert all((one[key] == two[key]).all() for key in one | two)


def test_an_error_of_the_first_rank_is_that_of_all(arms, tmp_path):
    wrong = replace(arms, batch_tokens=96)  # three sequences
    processes, pipes = ranked.start(2, ranked.distil, wrong, tmp_path / "odd")
    errors = [pipe.recv() for pipe in pipes]
    assert all("cannot be shared evenly by 2 ranks" in str(error) for error in errors)
    ranked.end(processes)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("not ours")
    processes, pipes = ranked.start(2, ranked.distil, arms, tmp_path / "other")
    first, second = (pipe.recv() for pipe in pipes)
    assert isinstance(first, ConfigError) and str(first) == str(second)
    assert not first.is_told and second.is_told  # so that it is said once
    ranked.end(processes)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["fsdp", pytest.param("ddp", marks=pytest.mark.slow)])
def test_two_ranks_build_the_same_store(arms, teacher, text, tmp_path, sharding):
    prepare_data(arms.data, tmp_path / "data")
    one, _ = ranked.run(1, ranked.store, teacher, tmp_path / "data", tmp_path / "one"), None
    two = ranked.run(2, ranked.store, teacher, tmp_path / "data", tmp_path / "two", sharding=sharding)
    assert two[0] == two[1] == one[0]
    names = sorted(file.name for file in (tmp_path / "one").glob("targets-*"))
    assert len(names) > 3
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["fsdp", pytest.param("ddp", marks=pytest.mark.slow)])
def test_two_ranks_evaluate_as_one_process_does(teacher, text, tmp_path, sharding):
    (one,) = ranked.run(1, ranked.evaluate, teacher, tmp_path / "one", text)
    first, second = ranked.run(2, ranked.evaluate, teacher, tmp_path / "two", text, sharding=sharding)
    assert first == second
    for part in ("heldout", "calibration"):
        for key, value in one[part].items():
            assert first[part][key] == (pytest.approx(value, rel=1e-5, abs=1e-9) if isinstance(value, float) else value)


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """Conversations and preferences, of a number that ranks cannot share evenly."""
    folder = tmp_path_factory.mktemp("chats")
    said = [{"role": "user", "content": "Speak"}, {"role": "assistant", "content": "I speak of "}]
    with open(folder / "chats.jsonl", "w") as chats, open(folder / "pairs.jsonl", "w") as pairs:
        for i in range(15):
            rows = [said[0], said[1] | {"content": f"{said[1]['content']}{'number ' * (i % 4)}{i}"}]
            chats.write(json.dumps({"messages": [said[0] | {"content": f"Speak of {i}"}, rows[1]]}) + "\n")
            pair = {"prompt": f"Speak of {i}", "chosen": rows[1]["content"], "rejected": f"no {i}"}
            pairs.write(json.dumps(pair) + "\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_two_ranks_tune_a_chat_model_as_one_process_does(teacher, chats, tmp_path, stage):
    """The last step of an epoch has rows for one rank and empty ones for the other."""
    (one,) = ranked.run(1, ranked.tune, stage, teacher, chats, tmp_path / "one")
    first, second = ranked.run(2, ranked.tune, stage, teacher, chats, tmp_path / "two")
    assert first == second and first["steps"] == one["steps"] > 4
    assert first["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert first["after"] == pytest.approx(one["after"], rel=1e-5)


@pytest.mark.slow
def test_two_ranks_distil_on_policy_as_one_process_does_and_go_on(teacher, chats, tmp_path):
    """The same answers whoever writes them; the last step of an epoch has nothing for one rank."""
    shutil.copytree(chats, tmp_path / "data")
    source = locate(teacher)
    source.tokenizer().save_pretrained(str(tmp_path / "data" / "teacher"))
    other = load_weights(source, torch.device("cpu"), torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in other.parameters():
            weights.add_(0.3 * weights.std() * torch.randn_like(weights))
    other.save_pretrained(tmp_path / "data" / "teacher")
    stage = "onpolicy", teacher, tmp_path / "data"
    (one,) = ranked.run(1, ranked.tune, *stage, tmp_path / "one")
    first, second = ranked.run(2, ranked.tune, *stage, tmp_path / "two")
    assert first == second and first["steps"] == one["steps"] > 4 and first["rollouts"] == one["rollouts"]
    assert sum(row["answers"] for row in one["rollouts"]) > 8
    for name in ("losses", "after", "own"):
        assert first[name] == pytest.approx(one[name], rel=1e-5), name
    assert one["own"][1] < one["own"][0]
    with pytest.raises(DivergedError, match="stopped"):
        ranked.run(2, ranked.tune, *stage, tmp_path / "stopped", 5)
    again, _ = ranked.run(2, ranked.tune, *stage, tmp_path / "stopped")
    assert again == first


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
