"""Our own loss and engine come out right; TRL's trainer as this release is; scripts and trainers are run whole."""

import json

import pytest

from distillaw.audit.adapters import ADAPTERS, merged
from distillaw.audit.contract import Contract, DeclaredLoss, DeclaredTarget, Training, checked
from distillaw.audit.findings import PROPERTIES
from distillaw.audit.loops import audit_runs
from in_process import answer

OBJECTIVE = DeclaredLoss(
    divergence="forward-kl",
    temperature=1.0,
    distill_weight=0.5,
    hard_weight=0.5,
    reduction="token-mean",
    mask="labels",
    shift="inside",
)


@pytest.mark.parametrize("name", ["own", "own-engine"])
def test_our_own_is_right(name):
    found = merged(name, ADAPTERS[name]())
    assert not [p for p in PROPERTIES if found.verdict(p) in ("wrong", "differs")]


def test_an_adapter_by_name():
    found = json.loads(answer("audit", "own", "--json", code=0).stdout)
    assert found["counts"]["wrong"] == 0
    assert {"name", "verdict", "evidence"} <= set(found["properties"][0])


TRAINER = """
from transformers import Trainer


class Distiller(Trainer):
    def __init__(self, *args, teacher_model=None, counts=True, ranks=True, **more):
        super().__init__(*args, **more)
        self.teacher, self.counts, self.ranks = teacher_model.eval(), counts, ranks

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        ids = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        out = model(**ids)
        s, t, y = out.logits[:, :-1], self.teacher(**ids).logits[:, :-1].detach(), inputs["labels"][:, 1:]
        n = num_items_in_batch if self.counts and num_items_in_batch is not None else (y != -100).sum().clamp(min=1)
        n = n / (self.accelerator.num_processes if self.ranks else 1)
        p, q = t.log_softmax(-1), s.log_softmax(-1)
        kd = ((p.exp() * (p - q)).sum(-1) * (y != -100)).sum()
        ce = -(q.gather(-1, y.clamp(min=0)[..., None]).squeeze(-1) * (y != -100)).sum()
        loss = (0.5 * kd + 0.5 * ce) / n
        return (loss, out) if return_outputs else loss
"""


@pytest.mark.parametrize(
    ("options", "wrong"), [({}, set()), ({"counts": False}, {"accumulation"}), ({"ranks": False}, {"distributed"})]
)
def test_a_trainer_of_transformers(tmp_path, options, wrong):
    from distillaw.audit.contract import load
    from distillaw.audit.trainers import TrainerTarget

    (tmp_path / "mine.py").write_text(TRAINER)
    contract = checked(
        Contract(
            target=DeclaredTarget(kind="trainer", options=options),
            objective=OBJECTIVE,
            training=Training(accumulation=4, per="update", schedule="linear", ranks="data"),
        )
    )
    found = audit_runs(TrainerTarget(load(f"{tmp_path / 'mine.py'}:Distiller"), contract), "mine")
    assert {p for p in PROPERTIES if found.verdict(p) == "wrong"} == wrong
    if not wrong:
        assert found.verdict("resume") == found.verdict("distributed") == "right"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("axolotl-kd", {"temperature", "value", "chunking"}),
        ("axolotl-kd-vllm", {"distributed"}),
        ("axolotl-kd-sglang", {"shift", "mask"}),
        ("axolotl-kd-offline", {"shift", "mask"}),
    ],
)
def test_axolotl_as_its_release_is(name, wrong):
    """Runs where axolotl 0.19 is installed, beside the transformers that it pins."""
    pytest.importorskip("axolotl", reason="axolotl is not installed: it pins other releases of transformers")
    found = merged(name, ADAPTERS[name]())
    assert {p for p in PROPERTIES if found.verdict(p) == "wrong"} == wrong


SCRIPT = """
import argparse, json, torch
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
for name in ("student", "teacher", "data", "out"):
    parser.add_argument(f"--{name}")
options = parser.parse_args()
student = AutoModelForCausalLM.from_pretrained(options.student).train()
teacher = AutoModelForCausalLM.from_pretrained(options.teacher).eval()
rows = [json.loads(line) for line in open(options.data)]
optimizer = torch.optim.AdamW(student.parameters(), lr=0.01, weight_decay=0.0)
for first in range(0, len(rows), 2):
    some = rows[first : first + 2]
    width = max(len(r["input_ids"]) for r in some)
    ids = torch.tensor([r["input_ids"] + [0] * (width - len(r["input_ids"])) for r in some])
    labels = torch.tensor([r["labels"] + [-100] * (width - len(r["labels"])) for r in some])
    with torch.no_grad():
        t = teacher(input_ids=ids).logits[:, SHIFT]
    s, y = student(input_ids=ids).logits[:, :-1], labels[:, 1:]
    p, q = t.log_softmax(-1), s.log_softmax(-1)
    n = (y != -100).sum().clamp(min=1)
    kd = ((p.exp() * (p - q)).sum(-1) * (y != -100)).sum() / n
    ce = -(q.gather(-1, y.clamp(min=0)[..., None]).squeeze(-1) * (y != -100)).sum() / n
    (0.5 * kd + 0.5 * ce).backward()
    optimizer.step()
    optimizer.zero_grad()
"""
CONTRACT = """
[target]
kind = "script"
[target.options]
argv = ["--student", "{student}", "--teacher", "{teacher}", "--data", "{data}", "--out", "{out}"]
[objective]
divergence = "forward-kl"
temperature = 1.0
distill_weight = 0.5
hard_weight = 0.5
reduction = "token-mean"
mask = "labels"
shift = "inside"
[training]
accumulation = 1
per = "update"
lr = 0.01
"""


@pytest.mark.parametrize(("shift", "wrong"), [(":-1", []), ("1:", ["shift"])])
def test_a_script(tmp_path, shift, wrong):
    (tmp_path / "train.py").write_text(SCRIPT.replace("SHIFT", shift))
    (tmp_path / "contract.toml").write_text(CONTRACT)
    done = answer("audit", tmp_path / "train.py", "--contract", tmp_path / "contract.toml", "--json")
    assert done.returncode == bool(wrong), done.stderr
    found = json.loads(done.stdout)
    assert [p["name"] for p in found["properties"] if p["verdict"] == "wrong"] == wrong
