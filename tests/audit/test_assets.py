"""Assets on disk: tokenizers id by id, the teacher's precision, stored rows against a fresh forward pass."""

import json

import pytest
import torch

from distillaw.audit.assets import audit_store, audit_tokenizers
from distillaw.audit.contract import Contract, DeclaredTarget
from distillaw.audit.probes import make_samples
from distillaw.audit.trainers import ProbeConfig, ProbeForCausalLM, register, tiny_tokenizer
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.data.tokenizer import load_tokenizer
from distillaw.models.fresh import build_model
from distillaw.shapes import shape_for_params
from in_process import answer

COUNT = 12


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    register()
    folder = tmp_path_factory.mktemp("teacher")
    model = ProbeForCausalLM(ProbeConfig(role="teacher", ids=40, vocab_size=40, seed=2, dropout=0.5))
    model.save_pretrained(folder)
    tiny_tokenizer(40).save_pretrained(folder)
    return folder, model.eval()


def contract(kind, **assets) -> Contract:
    return Contract(target=DeclaredTarget(kind=kind), assets=assets)


def test_equal_tokenizers(teacher):
    folder, _ = teacher
    found = audit_tokenizers(str(folder), contract("tokenizers", teacher=folder, markers=["<eos>"], dtype="float64"))
    assert found.verdict("tokenizers") == found.verdict("precision") == "right"
    assert "pad = eos" in found.notes[0]


def test_unlike_tokenizers(teacher, tmp_path):
    """Two ids swapped: of equal size, and refused."""
    folder, _ = teacher
    tiny_tokenizer(40).save_pretrained(tmp_path)
    core = json.loads((tmp_path / "tokenizer.json").read_text())
    vocab = core["model"]["vocab"]
    vocab["w3"], vocab["w4"] = vocab["w4"], vocab["w3"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(core))
    declared = contract("tokenizers", teacher=folder, markers=["<|im_end|> w1"], dtype="bfloat16")
    found = audit_tokenizers(str(tmp_path), declared)
    said = " ".join(e.says for e in found.evidence("tokenizers"))
    assert found.verdict("tokenizers") == "wrong"
    assert "2 tokens have other ids: 'w3' is 4 and 3" in said
    assert "the marker '<|im_end|> w1' is 2 tokens" in said
    assert found.verdict("precision") == "wrong"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("", ""),
        ("shift", "they are of +1 positions"),
        ("row", "they are of the next row"),
        ("temperature", "their temperature is 2, declared: 1"),
        ("renormalised", "renormalised"),
    ],
)
def test_stored_rows(teacher, tmp_path, damage, says):
    folder, model = teacher
    samples, _ = make_samples([(3, 5), (4, 4), (2, 6)])
    rows = []
    for sample in samples:
        with torch.no_grad():
            logits = model(sample.ids[None]).logits[0] / (2.0 if damage == "temperature" else 1.0)
        values, ids = logits.log_softmax(-1).topk(4, -1)
        values = values.log_softmax(-1) if damage == "renormalised" else values
        if damage == "shift":
            values, ids = values.roll(-1, 0), ids.roll(-1, 0)
        rows.append({"input_ids": sample.ids.tolist(), "token_ids": ids.tolist(), "logprobs": values.tolist()})
    if damage == "row":
        stored = [{k: r[k] for k in ("token_ids", "logprobs")} for r in rows]
        rows = [r | s for r, s in zip(rows, stored[1:] + stored[:1], strict=True)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = audit_store(str(path), contract("store", teacher=folder))
    assert found.verdict("store") == ("wrong" if damage else "right")
    assert says in found.evidence("store")[0].says


def test_a_store_of_ours(tmp_path):
    """Built by `distillaw cache build`, asked again; and with a teacher that has changed since."""
    text = prepare_data(DataSpec(vocab_size=300, validation_documents=20, max_document_chars=400), tmp_path / "data")
    folders = []
    for seed in (1, 2):
        model = build_model(shape_for_params(3e4, vocab=300, context=32), seed=seed)
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(2)
        folders.append(tmp_path / f"teacher{seed}")
        model.save_pretrained(folders[-1])
        load_tokenizer(str(text.tokenizer_folder)).save_pretrained(str(folders[-1]))
    store = tmp_path / "cache"
    asked = ("--context", 32, "--tokens", 640, "--out", store, "--device", "cpu")
    answer("cache", "build", "--teacher", folders[0], "--data", tmp_path / "data", *asked, code=0)
    declared = tmp_path / "store.toml"
    declared.write_text(f'[target]\nkind = "store"\n[assets]\nteacher = "{folders[0]}"\nrows = 4\n')
    answer("audit", store, "--contract", declared, "--json", code=0)
    weights = (folders[1] / "model.safetensors").read_bytes()
    (folders[0] / "model.safetensors").write_bytes(weights)
    wrong = answer("audit", store, "--contract", declared, "--json", code=1)
    by_name = {p["name"]: p for p in json.loads(wrong.stdout)["properties"]}
    assert "teacher" in by_name["store"]["evidence"][0]["says"]
