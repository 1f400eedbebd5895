"""On-policy distillation: the closed form, what is sampled, a whole run, one that is interrupted, what is contained."""

import numpy as np
import pytest
import torch
from families import chatml_tokenizer, tiny_model
from test_splits import gradient

from distillaw.errors import ConfigError, DivergedError
from distillaw.instruct import onpolicy
from distillaw.instruct.onpolicy import QuietOnPolicy, Rollouts, divergence, last_answer, run_onpolicy
from distillaw.instruct.prepare import Example
from distillaw.instruct.spec import OnPolicySpec
from distillaw.instruct.stages import Collator, sft_trainer, training_rows
from distillaw.models.scoring import IGNORE
from distillaw.models.teacher import load_teacher
from distillaw.runs.store import RunFolder

TINY = {"template": "chatml", "lr": 5e-3, "batch": 8, "validation": 0.2, "max_tokens": 128, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A folder with another model of the same tokenizer, surer of itself."""
    tokenizer, folder = chatml_tokenizer(), tmp_path_factory.mktemp("teacher")
    model = tiny_model(tokenizer, seed=1)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    return folder


def spec(**more):
    return OnPolicySpec(**{"model": "m", "data": "d", "teacher": "t", **TINY, **more})


def a_batch(rows=4, seed=0):
    draw = np.random.default_rng(seed)
    size = len(chatml_tokenizer())
    ids = [draw.integers(3, size, 6 + i % 3).tolist() for i in range(rows)]
    return Collator(pad=0, packed=False)([{"input_ids": each, "labels": [IGNORE] * 3 + each[3:]} for each in ids])


def plain(kind, beta, student, teacher):
    """Sum over the vocabulary of the definitions, per token; arXiv 2306.13649, equation 1."""
    p, q = teacher.softmax(-1), student.softmax(-1)
    kl = lambda a, b: (a * (a.log() - b.log())).sum(-1)  # noqa: E731
    if kind == "jsd":
        m = beta * p + (1 - beta) * q
        return beta * kl(p, m) + (1 - beta) * kl(q, m)
    return kl(q, p) if kind == "reverse-kl" else kl(p, q)


@pytest.mark.parametrize(("kind", "beta"), [("reverse-kl", 0.5), ("forward-kl", 0.5), ("jsd", 0.3), ("jsd", 0.9)])
def test_the_loss_and_its_gradient_are_the_definition(kind, beta, teacher):
    known = load_teacher(teacher, chatml_tokenizer())
    model, batch = tiny_model(chatml_tokenizer()), a_batch()
    found = divergence(spec(divergence=kind, beta=beta), model, known, batch, 5.0)
    found.backward()
    got = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    ids, learnt = batch["input_ids"], batch["labels"][:, 1:] != IGNORE
    logits = model(ids).logits[:, :-1]
    with torch.no_grad():
        theirs = known.model(ids).logits[:, :-1]
    wanted = plain(kind, beta, logits.double(), theirs.double())[learnt].sum() / 5
    wanted.backward()
    want = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert float((got - want).norm() / want.norm()) < 1e-3


def test_every_token_counts_alike_however_a_step_is_split(teacher, tmp_path):
    tokenizer = chatml_tokenizer()
    known, draw = load_teacher(teacher, tokenizer), np.random.default_rng(3)
    examples = [
        Example(
            ids=tuple(draw.integers(3, len(tokenizer), n).tolist()), mask=(False, *[True] * (n - 1)), opening=str(n)
        )
        for n in (3, 9, 4, 12, 5, 8, 3, 6)
    ]
    from test_splits import at_work

    def of(micro):
        asked = spec(on_policy=0.0, micro_batch=micro)
        rows = training_rows(examples, packing=False, max_tokens=24)
        log, rollouts = tmp_path / f"{micro}.jsonl", Rollouts(spec=asked, ends=(0,), pad=0)
        make = lambda **more: QuietOnPolicy(spec=asked, teacher=known, rollouts=rollouts, log=log, **more)  # noqa: E731
        return gradient(sft_trainer(asked, at_work(tmp_path / str(micro)), tiny_model(tokenizer), rows, make=make))

    whole, split = of(8), of(2)
    assert float((split - whole).norm() / whole.norm()) < 1e-4


def test_the_student_answers_from_its_own_distribution():
    tokenizer = chatml_tokenizer()
    model = tiny_model(tokenizer)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8)
    row = {"input_ids": [5, 6, 7, 9], "labels": [IGNORE, IGNORE, IGNORE, 9]}
    rollouts = Rollouts(spec=spec(max_new_tokens=1, temperature=0.7), ends=(0,), pad=0)
    batch = Collator(pad=0, packed=False)([row] * 2000)
    count = rollouts.fill(model, batch, step=1)
    assert count == {"answers": 2000, "tokens": 2000, "truncated": count["truncated"], "prompt_tokens": 6000}
    with torch.no_grad():
        wanted = (model(torch.tensor([[5, 6, 7]])).logits[0, -1] / 0.7).softmax(-1)
    got = torch.bincount(batch["input_ids"][:, 3], minlength=len(wanted)) / 2000
    assert float((got - wanted).abs().max()) < 5 * float((wanted * (1 - wanted) / 2000).sqrt().max())
    again = Collator(pad=0, packed=False)([row] * 2000)
    rollouts.fill(model, again, step=1)
    assert torch.equal(again["input_ids"], batch["input_ids"])
    part = Collator(pad=0, packed=False)([row] * 50)
    rollouts.fill(model, part, step=1, first=700)
    assert torch.equal(part["input_ids"], batch["input_ids"][700:750])  # by its place in the step, not in the batch
    rollouts.fill(model, again, step=2)
    assert not torch.equal(again["input_ids"], batch["input_ids"])


def test_only_the_last_answer_is_written_anew_and_half_a_mixture_is_half():
    model, rollouts = tiny_model(chatml_tokenizer()), Rollouts(spec=spec(on_policy=0.5), ends=(0,), pad=0)
    row = {"input_ids": [*range(3, 13)], "labels": [IGNORE, 4, 5, IGNORE, IGNORE, IGNORE, 9, 10, 11, 12]}
    assert last_answer(row["labels"]) == 6
    batch = Collator(pad=0, packed=False)([row] * 60)
    count = rollouts.fill(model, batch, step=0)
    assert 18 < count["answers"] < 42
    kept = (batch["labels"][:, 1] == 4).sum()
    assert int(kept) == 60 - count["answers"]
    assert (batch["input_ids"][:, :6] == torch.arange(3, 9)).all()


def test_a_student_of_nan_cannot_answer_and_endless_answers_are_counted():
    model, rollouts = tiny_model(chatml_tokenizer()), Rollouts(spec=spec(max_new_tokens=5), ends=(0,), pad=0)
    with torch.no_grad():
        model.get_output_embeddings().weight[0] = 0
        model.get_output_embeddings().weight[1:] += 3.0 * torch.sign(model.get_output_embeddings().weight[1:])
    count = rollouts.fill(model, a_batch(8), step=0)
    assert count["answers"] == 8
    assert count["tokens"] <= 8 * 5 + 8 - count["truncated"]
    assert count["truncated"] >= 1
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="cannot answer"):
        rollouts.fill(model, a_batch(), step=0)


def test_settings_that_cannot_be_are_refused():
    for more, said in (
        ({"teacher": ""}, "needs a teacher"),
        ({"on_policy": 1.5}, "a share"),
        ({"temperature": 0.0}, "above 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            spec(**more).check()


def test_a_run_comes_nearer_its_teacher_and_an_interrupted_one_ends_alike(model, teacher, chats, tmp_path, monkeypatch):
    asked = spec(model=str(model), teacher=str(teacher), data=str(chats), epochs=2, checkpoint_seconds=1e-6)
    result = run_onpolicy(asked, tmp_path / "whole")
    found = result["onpolicy"]
    assert found["change"]["interval"][1] < 0
    assert found["answers"] == 2 * result["conversations"]
    assert result["stage"] == "onpolicy"
    assert result["tokens"] == found["sampled_tokens"]
    assert min(result[key] for key in ("train_flops", "generation_flops", "teacher_flops")) > 0
    assert run_onpolicy(asked, tmp_path / "whole") == result

    fill = Rollouts.fill

    def stops(self, model, batch, *, step, first=0):
        if step == 3:
            raise KeyboardInterrupt
        return fill(self, model, batch, step=step, first=first)

    def breaks(self, model, batch, *, step, first=0):
        if step == 5:
            model.get_output_embeddings().weight.data.fill_(float("nan"))
        return fill(self, model, batch, step=step, first=first)

    monkeypatch.setattr(onpolicy.Rollouts, "fill", stops)
    with pytest.raises(KeyboardInterrupt):
        run_onpolicy(asked, tmp_path / "stopped")
    monkeypatch.setattr(onpolicy.Rollouts, "fill", breaks)  # a student of NaN is contained, too
    with pytest.raises(DivergedError, match="cannot answer"):
        run_onpolicy(asked, tmp_path / "stopped")
    assert RunFolder(tmp_path / "stopped").state() == "failed"
    monkeypatch.setattr(onpolicy.Rollouts, "fill", fill)
    again = run_onpolicy(asked, tmp_path / "stopped")
    assert again["onpolicy"] == found
    assert again["loss"] == result["loss"]
    rows = [(tmp_path / name / "rollouts.jsonl").read_text() for name in ("whole", "stopped")]
    assert rows[0] == rows[1]
    assert rows[0].count("\n") == 2 * -(-result["conversations"] // 8)
