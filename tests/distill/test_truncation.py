"""Truncated teachers against the plain definition in float64: value, gradient, kept set, refusals, stored top-k."""

import inspect

import pytest
import torch
from torch.nn import functional

import distillaw as dl
from distillaw.distill.heads import SparseTargets, truncate_
from distillaw.errors import ConfigError
from distillaw.targets.make import estimate
from distillaw.targets.manifest import Scheme
from divergences import divergence_of

VOCAB = 23
CUTS = [(4, 1.0), (0, 0.7), (5, 0.7), (2, 0.99), (1, 1.0), (0, 1e-6), (22, 1.0), (0, 1 - 1e-9)]


def _normal(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _logits(*shape, seed):
    return 2 * _normal(*shape, VOCAB, seed=seed)


def _plain_truncated(logits, top_k, top_p):
    """Probabilities by the definition, one position at a time: walk down from the likeliest until mass p is there."""
    out = torch.zeros_like(logits)
    for row, probs in zip(out.view(-1, VOCAB), logits.softmax(-1).view(-1, VOCAB), strict=True):
        mass = 0.0
        for rank, token in enumerate(sorted(range(VOCAB), key=lambda token: -probs[token])):
            if (top_k and rank >= top_k) or mass >= top_p:
                break
            row[token] = probs[token]
            mass += float(probs[token])
        row /= row.sum()
    return out


def _plain_loss(student, labels, teacher, *, divergence, temperature, weight, cut, beta=0.5, skew=0.1):
    q, p = (student / temperature).softmax(-1), _plain_truncated(teacher / temperature, *cut)
    value = divergence_of(q, p, divergence=divergence, beta=beta, skew=skew)
    next_token = functional.cross_entropy(student.flatten(0, 1), labels.flatten())
    return (1 - weight) * next_token + weight * temperature**2 * value.mean()


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    ("divergence", "temperature", "weight"),
    [
        ("forward-kl", 1.0, 1.0),
        ("forward-kl", 2.0, 0.4),
        ("jsd", 0.7, 0.5),
        ("skew-kl", 1.0, 1.0),
        ("skew-reverse-kl", 1.5, 0.8),
    ],
)
def test_value_and_gradient_equal_the_definition(cut, divergence, temperature, weight):
    student, teacher = _logits(3, 5, seed=1).requires_grad_(), _logits(3, 5, seed=2)
    labels = torch.randint(VOCAB, (3, 5), generator=torch.Generator().manual_seed(3))
    options = {"divergence": divergence, "temperature": temperature}
    before = teacher.clone()
    got = dl.distillation_loss(
        student,
        torch.eye(VOCAB, dtype=torch.float64),
        labels,
        teacher_logits=teacher,
        distill_weight=weight,
        top_k=cut[0],
        top_p=cut[1],
        chunk_tokens=4,
        **options,
    )
    wanted = _plain_loss(student, labels, teacher, weight=weight, cut=cut, **options)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (got, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    assert torch.equal(teacher, before), "another student reads the same signal"


def test_top_p_keeps_the_smallest_set_that_has_the_mass():
    probs = torch.tensor([[0.4, 0.1, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    for p, kept in ((0.39, [1, 2]), (0.41, [2, 2]), (0.7, [2, 3]), (0.71, [3, 3]), (0.76, [3, 4]), (0.95, [4, 4])):
        got = truncate_(probs.log(), 0, p).softmax(-1)
        assert (got > 0).sum(-1).tolist() == kept, p
        assert ((probs * (got > 0)).sum(-1) >= p - 1e-12).all()
        torch.testing.assert_close(got.sum(-1), torch.ones(2, dtype=torch.float64))


def test_hidden_states_and_head_of_a_teacher_are_truncated_alike():
    student, hidden, weight = (_logits(2, 6, seed=4), _normal(2, 6, 8, seed=9), _normal(VOCAB, 8, seed=10))
    eye = torch.eye(VOCAB, dtype=torch.float64)
    cut = {"top_k": 6, "top_p": 0.8}
    parts = dl.distillation_loss(student, eye, teacher_hidden=hidden, teacher_head=weight, **cut)
    whole = dl.distillation_loss(student, eye, teacher_logits=hidden @ weight.t(), **cut)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("scheme", "cut"),
    [
        (Scheme(estimator="top-k", k=5), (5, 1.0)),
        (Scheme(estimator="top-p", k=9, p=0.6), (9, 0.6)),
        (Scheme(estimator="top-k", k=5, temperature=2.0), (5, 1.0)),
    ],
)
def test_stored_truncations_renormalised_give_the_same_loss(scheme, cut):
    """The ids are those that a store keeps; its weights over their mass are these targets (float32)."""
    student, teacher = _logits(2, 6, seed=5).float(), _logits(2, 6, seed=6).float()
    rows = estimate(teacher.flatten(0, 1), torch.zeros(12, dtype=torch.int64), torch.zeros(12).double(), scheme)
    kept = rows["ids"] < VOCAB
    weights = ((-rows["nats"]).exp() * kept) / rows["mass"][:, None]
    stored = SparseTargets(
        ids=torch.where(kept, rows["ids"], 0).view(2, 6, -1),
        weights=weights.view(2, 6, -1),
        residual=None,
        entropy=-torch.xlogy(weights, weights).sum(-1).view(2, 6),
        temperature=scheme.temperature,
    )
    truncated = truncate_(teacher.flatten(0, 1) / scheme.temperature, *cut).softmax(-1)
    assert [row.nonzero().squeeze(1).tolist() for row in truncated] == [
        sorted(row[row < VOCAB].tolist()) for row in rows["ids"]
    ]
    eye, losses = torch.eye(VOCAB), []
    for signal in ({"targets": stored}, {"teacher_logits": teacher, "top_k": cut[0], "top_p": cut[1]}):
        hidden = student.clone().requires_grad_()
        loss = dl.distillation_loss(hidden, eye, temperature=scheme.temperature, **signal)
        losses.append((loss, torch.autograd.grad(loss, hidden)[0]))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


def test_keeping_all_is_the_untouched_loss_bit_for_bit():
    student, teacher = _logits(2, 6, seed=7).float(), _logits(2, 6, seed=8).float()
    eye = torch.eye(VOCAB)
    plain = dl.distillation_loss(student, eye, teacher_logits=teacher)
    assert torch.equal(dl.distillation_loss(student, eye, teacher_logits=teacher, top_k=0, top_p=1.0), plain)
    assert not torch.equal(dl.distillation_loss(student, eye, teacher_logits=teacher, top_k=22), plain)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": VOCAB}, r"top_k is 23; it must lie between 1 and 22"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, r"top_p is 0.0 and must lie in \(0, 1\]"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": 3, "divergence": "reverse-kl"}, "reverse-kl .* infinite"),
        ({"top_p": 0.9, "divergence": "jsd", "beta": 1.0}, "jsd .*beta 1.0.* infinite"),
        ({"top_p": 0.9, "divergence": "skew-reverse-kl", "skew": 0.0}, "skew 0.0.* infinite"),
    ],
)
def test_contradictions_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        dl.distillation_loss(
            _logits(1, 2, seed=0), torch.eye(VOCAB).double(), teacher_logits=_logits(1, 2, seed=1), **options
        )


def test_stored_targets_are_not_truncated_again():
    targets = SparseTargets(ids=torch.zeros(1, 2, 1, dtype=torch.int64), weights=torch.ones(1, 2, 1).double())
    with pytest.raises(ConfigError, match=r"top_k 3 and top_p 1\.0 with stored targets"):
        dl.distillation_loss(_logits(1, 2, seed=0), torch.eye(VOCAB).double(), targets=targets, top_k=3)


def test_a_student_without_a_teacher_has_nothing_to_truncate():
    labels = torch.zeros(1, 2, dtype=torch.int64)
    losses = [dl.distillation_loss(_logits(1, 2, seed=0), torch.eye(VOCAB).double(), labels, top_k=k) for k in (0, 3)]
    assert torch.equal(*losses)


def test_the_public_signature_has_both():
    parameters = inspect.signature(dl.distillation_loss).parameters
    assert (parameters["top_k"].default, parameters["top_p"].default) == (0, 1.0)
