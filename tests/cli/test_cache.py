"""`distillaw cache` as a stranger uses it: dry run, build, inspect, verify, and what can go wrong."""

import json
from functools import partial

import pytest

from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.data.tokenizer import load_tokenizer
from distillaw.models.fresh import build_model
from distillaw.shapes import shape_for_params
from in_process import answer as in_process

_call = partial(in_process, "cache")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(arguments of a build, folder of the store, what the build printed as JSON)."""
    base = tmp_path_factory.mktemp("cache")
    store = prepare_data(DataSpec(vocab_size=300, validation_documents=20, max_document_chars=400), base / "data")
    build_model(shape_for_params(3e4, vocab=300, context=32), seed=1).save_pretrained(base / "teacher")
    load_tokenizer(str(store.tokenizer_folder)).save_pretrained(str(base / "teacher"))
    arguments = (
        *f"build --teacher {base / 'teacher'} --data {base / 'data'} --out {base / 'cache'} --context 32".split(),
        *"--tokens 3k --device cpu".split(),
    )
    dry = _call(*arguments, "--dry-run", "--json", code=0)
    assert not (base / "cache").exists()
    return arguments, base / "cache", json.loads(dry.stdout), json.loads(_call(*arguments, "--json", code=0).stdout)


def test_the_dry_run_predicts_what_is_built(made):
    _, _, dry, done = made
    assert dry["schema_version"] == done["schema_version"] == 1
    assert dry["positions"] == done["positions"] == 94 * 32
    assert dry["bytes"] == pytest.approx(done["bytes"], rel=0.05)
    assert {"seconds", "cpu_seconds", "bytes_per_position", "break_even_students"} <= dry.keys()
    assert done["scheme"] == {"estimator": "sampled", "samples": 32, "temperature": 1.0}


def test_the_cost_is_printed_before_the_work_and_a_repeat_finds_it_done(made):
    arguments, folder, _, _ = made
    before = (folder / "targets-00000.bin").stat().st_mtime_ns
    done = _call(*arguments, code=0)
    assert "bytes per position" in done.stderr
    assert "students on" in done.stderr or "an online teacher is as cheap" in done.stderr
    assert "100% of it is there already" in done.stderr
    assert f"next: distillaw cache verify {folder}" in done.stdout
    assert (folder / "targets-00000.bin").stat().st_mtime_ns == before


def test_inspect(made):
    _, folder, _, _ = made
    answer = json.loads(_call("inspect", folder, "--json").stdout)
    assert answer["positions"] == 94 * 32 and answer["vocab_size"] == 300 and answer["split"] == "student"
    assert answer["teacher_loss"] > 0 and 0 < answer["mean_mass"] < 1
    text = _call("inspect", folder)
    assert "32 systematic samples (unbiased)" in text.stdout and "nats/token" in text.stdout
    assert answer["teacher_fingerprint"] in text.stdout and "next: distillaw cache verify" in text.stdout


def test_verify_finds_a_sound_store_sound(made):
    _, folder, _, _ = made
    done = _call("verify", folder, "--device", "cpu", code=0)
    assert "every checksum right" in done.stdout and "byte for byte" in done.stdout
    answer = json.loads(_call("verify", folder, "--checksums-only", "--json").stdout)
    assert answer["ok"] and answer["problems"] == [] and answer["teacher"] is None


def test_verify_names_a_damaged_shard_and_build_mends_it(made):
    arguments, folder, _, _ = made
    path = folder / "targets-00000.bin"
    sound = path.read_bytes()
    path.write_bytes(sound[:5000] + bytes([sound[5000] ^ 1]) + sound[5001:])
    done = _call("verify", folder)
    assert done.returncode == 1 and "targets-00000.bin" in done.stderr and "checksum differs" in done.stderr
    answer = json.loads(_call("verify", folder, "--json").stdout)
    assert not answer["ok"] and len(answer["problems"]) == 1
    mended = _call(*arguments)
    assert mended.returncode == 0 and "made anew" in mended.stderr
    assert path.read_bytes() == sound


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--seed", 1), 1, "seed is 0 there, 1 here"),
        (("--estimator", "topk"), 2, "choose from"),
        (("--split", "train"), 2, "has student, teacher, validation"),
        (("--tokens", "1B"), 1, "are asked for"),
        (("--context", 0), 2, "must be positive"),
        (("--data", "nowhere"), 1, "nowhere/manifest.json"),
        (("--teacher", "./nowhere"), 1, "no such model"),
    ],
)
def test_what_cannot_be_built_is_one_clear_line(made, more, code, message):
    arguments, _, _, _ = made
    done = _call(*_replaced(arguments, more))
    assert done.returncode == code, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


def _replaced(arguments, more):
    """The arguments with one option given another value, or added."""
    option, value = more
    if option not in arguments:
        return (*arguments, option, value)
    at = arguments.index(option)
    return (*arguments[:at], option, value, *arguments[at + 2 :])


def test_no_store_and_unknown_wishes(tmp_path):
    done = _call("inspect", tmp_path)
    assert done.returncode == 1 and "no target store there" in done.stderr
    assert _call("build").returncode == 2


def test_a_dry_run_for_a_run_prepares_its_text_elsewhere(made, tmp_path):
    """The text of a run's file is needed to know what a store will cost; nothing of it stays."""
    arguments, *_ = made
    (tmp_path / "run.toml").write_text(
        'name = "one"\nparams = "0.03M"\ntokens = "4k"\nbatch_tokens = 128\npeak_lr = 0.01\n[data]\n'
        'corpus = "sotu"\nvocab_size = 300\nvalidation_documents = 20\nmax_document_chars = 400\n'
        "[training]\ncontext = 32\n"
    )
    out = tmp_path / "store"
    done = in_process(
        *f"cache build --teacher {arguments[2]} --data {tmp_path / 'run.toml'} --out {out}".split(),
        *"--device cpu --dry-run --json".split(),
        code=0,
    )
    assert json.loads(done.stdout)["data"] == str(out / "data")
    assert not out.exists()
