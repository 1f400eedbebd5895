"""Documents of a packed window kept apart: as each alone, for student and teacher, wherever they compute."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import ranked
import torch
from stops import stop_after, train_trunk
from transformers import AutoModelForCausalLM

from distillaw.data.tokenizer import load_tokenizer
from distillaw.errors import CacheError, ConfigError
from distillaw.models.fresh import build_model
from distillaw.models.scoring import make_heldout, score_heldout
from distillaw.models.source import fingerprint, locate
from distillaw.models.teacher import hidden_states, load_teacher
from distillaw.runs.files import content_hash
from distillaw.shapes import shape_for_params
from distillaw.targets.build import build_shards, make_plan, opened_for_building
from distillaw.targets.make import TargetMaker
from distillaw.targets.manifest import FORMAT, Scheme, TargetRequest
from distillaw.targets.store import TargetStore
from distillaw.train.group import TrunkGroup
from distillaw.train.loop import StopTraining
from distillaw.train.stacked import can_stack
from distillaw.train.student import Signal

TOKENS, CONTEXT, END = 2048, 96, 0
MANY = [(2, 0, "fsdp"), (2, 1, "ddp"), pytest.param(2, 0, "ddp", marks=pytest.mark.slow)]


def _masked(spec, on=True, **changes):
    changes = {"context": CONTEXT, "document_mask": on, **changes}
    return replace(spec, batch_tokens=2 * CONTEXT, recipe=replace(spec.recipe, **changes))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, text):
    """Folder of a random model whose distributions are neither flat nor certain."""
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    model = build_model(shape_for_params(5e4, vocab=300, context=CONTEXT), seed=1)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2)
    model.save_pretrained(folder)
    load_tokenizer(str(text.tokenizer_folder)).save_pretrained(str(folder))
    return folder


@pytest.fixture
def taught(trunk, teacher):
    """A student of that teacher, whose windows keep documents apart."""
    known = {"teacher_run": str(teacher), "teacher_fingerprint": fingerprint(locate(str(teacher)))}
    return _masked(replace(trunk, **known))


def _packed(study, spec):
    """The first windows of a stream that hold ends of text, and where their documents lie."""
    split = TrunkGroup([spec], study).feed.order.split
    windows = split.windows(range(200))
    chosen = windows[((windows[:, 1:-1] == END).sum(1) >= 1)][:4]
    assert len(chosen) == 4, "the text has no windows of two documents"
    for row in chosen:
        bounds = [0, *np.flatnonzero(row[:-1] == END), CONTEXT]
        yield torch.from_numpy(row[None]), [(a, b) for a, b in itertools.pairwise(bounds) if b > a]


def _losses(study, spec):
    losses = []
    train_trunk(spec, [TOKENS], study, report=lambda _, loss: losses.append(loss))
    return losses


def test_logits_and_gradients_of_a_packed_window_are_those_of_its_documents_alone(study, taught):
    group = TrunkGroup([taught], study)
    student, source = group.trainer(taught).student, group.teaching(taught).source
    for tokens, documents in _packed(study, taught):
        signal = source.signal(tokens, np.zeros(1))
        together = hidden_states(student.model, tokens[:, :-1], end_of_text=END)
        for a, b in documents:
            alone = hidden_states(student.model, tokens[:, a:b])
            torch.testing.assert_close(together[:, a:b], alone, rtol=1e-5, atol=1e-5)
            read = source.signal(tokens[:, a : b + 1], np.zeros(1)).teacher_hidden
            torch.testing.assert_close(signal.teacher_hidden[:, a:b], read, rtol=1e-5, atol=1e-5)
        whole = student(tokens, signal, CONTEXT)
        whole.total.backward()
        gradients = [p.grad.clone() for p in student.model.parameters()]
        student.model.zero_grad()
        parts = [
            student(tokens[:, a : b + 1], signal._replace(teacher_hidden=signal.teacher_hidden[:, a:b]), CONTEXT).total
            for a, b in documents
        ]
        sum(parts).backward()
        assert float(whole.total.detach()) == pytest.approx(float(sum(parts).detach()), rel=1e-5)
        for p, wanted in zip(student.model.parameters(), gradients, strict=True):
            torch.testing.assert_close(p.grad, wanted, rtol=1e-4, atol=1e-6)
        student.model.zero_grad()


def test_off_a_window_is_seen_whole_and_the_run_keeps_its_name(study, trunk):
    plain = _masked(trunk, on=False)
    assert plain.trunk_id != _masked(trunk).trunk_id
    student = TrunkGroup([plain], study).trainer(plain).student
    tokens, documents = next(_packed(study, plain))
    a, b = documents[-1]
    together, alone = hidden_states(student.model, tokens[:, :-1]), hidden_states(student.model, tokens[:, a:b])
    assert (together[:, a:b] - alone).abs().max() > 1e-2
    masked = TrunkGroup([_masked(trunk)], study).trainer(_masked(trunk)).student
    assert can_stack(student) and not can_stack(masked)
    losses = [float(s(tokens, Signal(), CONTEXT).total.detach()) for s in (student, masked)]
    assert losses[0] != losses[1]


def test_it_sees_what_held_out_text_is_scored_with(taught, text):
    """Windows that open with an end of text: scores are the same to rounding, with the mask and without."""
    tokenizer = load_tokenizer(str(text.tokenizer_folder))
    heldout = make_heldout(text.heldout_documents(), context=CONTEXT)
    teachers = [load_teacher(taught.teacher_run, tokenizer, document_mask=mask) for mask in (False, True)]
    assert [t.end_of_text for t in teachers] == [None, END]
    plain, masked = (score_heldout(each, heldout).loss for each in teachers)
    assert masked == pytest.approx(plain, rel=1e-6)


def test_a_masked_run_resumes_to_the_bit_and_micro_batches_change_nothing(fresh_study, taught):
    whole, parts, micro = fresh_study("whole"), fresh_study("parts"), fresh_study("micro")
    losses, one = _losses(whole, taught), whole.run(taught.run_id(TOKENS))
    with pytest.raises(StopTraining):
        train_trunk(taught, [TOKENS], parts, report=stop_after(5))
    (again,) = train_trunk(taught, [TOKENS], parts)
    first, second = (AutoModelForCausalLM.from_pretrained(run.path).state_dict() for run in (one, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert _losses(micro, _masked(taught, micro_batch_tokens=CONTEXT)) == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize(("world", "teachers", "sharding"), MANY)
def test_ranks_and_a_teacher_elsewhere_mask_alike(fresh_study, taught, world, teachers, sharding):
    arguments = (taught, [TOKENS])
    (one,) = ranked.run(1, ranked.train, fresh_study("one").path, *arguments)
    several = ranked.run(
        world, ranked.train, fresh_study("more").path, *arguments, sharding=sharding, teachers=teachers
    )[0]
    assert several == pytest.approx(one, rel=1e-5)


def _store(folder, text, taught, mask):
    model = load_teacher(taught.teacher_run, load_tokenizer(str(text.tokenizer_folder)), document_mask=mask)
    scheme = Scheme(estimator="full")
    request = TargetRequest(scheme=scheme, context=CONTEXT, tokens=TOKENS, document_mask=mask)
    maker = TargetMaker(teacher=model, split=text.split("student", context=CONTEXT), scheme=scheme, seed=0)
    with opened_for_building(folder, make_plan(request, model, text)) as plan:
        build_shards(folder, plan, maker)
    return plan


def test_stored_targets_were_masked_as_their_students_are(fresh_study, tmp_path, text, taught):
    losses = {}
    for mask in (True, False):
        plan = _store(tmp_path / f"{mask}", text, taught, mask)
        stored = replace(taught, targets=str(tmp_path / f"{mask}"), targets_identity=plan.identity)
        losses[mask] = _losses(fresh_study(f"s{mask}"), stored)
    assert losses[True] == _losses(fresh_study("online"), taught) != losses[False]
    with pytest.raises(CacheError, match="document_mask is False there, True here"):
        TargetStore.open(tmp_path / "False", document_mask=True)


def test_stores_made_before_there_was_a_choice_keep_their_names(tmp_path, text, taught):
    plan = _store(tmp_path / "store", text, taught, mask=False)
    facts = {"format": FORMAT, **plan.record(), "teacher": "", "data": ""}
    del facts["document_mask"]
    assert plan.identity == content_hash(facts, digits=16) != replace(plan, document_mask=True).identity


def test_a_tokenizer_without_an_end_of_text_is_refused(taught, text):
    tokenizer = load_tokenizer(str(text.tokenizer_folder))
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="tokenizer has no end of text"):
        load_teacher(taught.teacher_run, tokenizer, document_mask=True)


def test_a_text_without_ends_of_text_is_refused(study, trunk, monkeypatch):
    spec = _masked(trunk)
    split = TrunkGroup([spec], study).feed.order.split
    inside = next(a for a in range(10_000) if END not in split.shards[0][[a, a + 2000]])
    shard = split.shards[0][inside : inside + 2001]
    monkeypatch.setattr("distillaw.data.shards.TokenStore.split", lambda *_, **__: replace(split, shards=(shard,)))
    with pytest.raises(ConfigError, match=r"no shard of the student split begins or ends with an end of text \(id 0\)"):
        TrunkGroup([spec], study)
