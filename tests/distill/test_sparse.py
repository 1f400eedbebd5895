"""Stored targets: value and gradient against the definition, fixed points, and no bias from sampling."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import distillaw as dl
from distillaw.distill.heads import SparseTargets
from distillaw.errors import ConfigError, DataError, VocabularyError

VOCAB = 9


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64) * 1.5


def top_k(teacher, k, *, temperature=1.0, spare=0):
    """The k likeliest tokens with residual mass, and `spare` unused slots that point to token 0."""
    p = (teacher / temperature).softmax(-1)
    weights, ids = p.topk(k, dim=-1)
    residual = (1 - weights.sum(-1)).clamp(min=0)
    ids, weights = (torch.nn.functional.pad(x, (0, spare)) for x in (ids, weights))
    return SparseTargets(ids=ids, weights=weights, residual=residual, temperature=temperature)


def sampled(teacher, draws, *, seed=0, proposal=1.0):
    """Unbiased weights (1/n) sum p/d over draws from d ~ p^proposal; their sum is 1 on average only."""
    p = teacher.softmax(-1)
    d = (teacher * proposal).softmax(-1)
    picked = torch.multinomial(d.flatten(0, -2), draws, replacement=True, generator=generator(seed))
    counts = torch.zeros_like(d).flatten(0, -2).scatter_add_(1, picked, torch.ones(picked.shape, dtype=p.dtype))
    estimate = (counts.view_as(p) / draws) * p / d
    weights, ids = estimate.topk(min(draws, p.shape[-1]), dim=-1)
    return SparseTargets(ids=ids, weights=weights, entropy=-torch.xlogy(p, p).sum(-1))


def plain_sparse(student, targets):
    """Mean over tokens: cross-entropy (or KL) towards the targets, the tail being one more outcome if there is one."""
    log_q = (student / targets.temperature).log_softmax(-1)
    value = -(targets.weights * log_q.gather(-1, targets.ids)).sum(-1)
    if targets.residual is None:
        entropy = torch.zeros_like(value) if targets.entropy is None else targets.entropy
        return (value - entropy).mean() * targets.temperature**2
    used = torch.zeros_like(log_q).scatter_add(-1, targets.ids, (targets.weights > 0).to(log_q.dtype))
    tail = (log_q.exp() * (used == 0)).sum(-1)
    own = torch.xlogy(targets.weights, targets.weights).sum(-1) + torch.xlogy(targets.residual, targets.residual)
    return (value + own - targets.residual * tail.log()).mean() * targets.temperature**2


def fused(student, targets, **options):
    """Loss of logits: the hidden states are the logits and the head is the identity."""
    eye = torch.eye(student.shape[-1], dtype=student.dtype)
    return dl.distillation_loss(student, eye, targets=targets, temperature=targets.temperature, **options)


def cases():
    teacher = logits(2, 3, VOCAB, seed=1)
    return {
        "top-k with residual": top_k(teacher, 4),
        "at its own temperature": top_k(teacher, 3, temperature=2.0),
        "with unused slots": top_k(teacher, 4, spare=3),
        "residual that does not complete": replace(top_k(teacher, 4), residual=torch.full((2, 3), 0.3).double()),
        "sampled": sampled(teacher, 5),
        "sampled from a flatter proposal": sampled(teacher, 5, proposal=0.6),
        "sampled without entropy": replace(sampled(teacher, 5), entropy=None),
    }


@pytest.mark.parametrize("name", cases())
def test_value_and_gradient_equal_the_definition(name):
    targets, student = cases()[name], logits(2, 3, VOCAB, seed=2).requires_grad_()
    wanted, got = plain_sparse(student, targets), fused(student, targets, chunk_tokens=4)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(got, student), torch.autograd.grad(wanted, student), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("terms", [{}, {"distill_weight": 0.4, "z_weight": 0.1}])
def test_gradcheck_with_masks_and_all_terms(name, terms):
    targets, labels = cases()[name], torch.tensor([[1, -100, 3], [0, 8, -100]])
    hidden = logits(2, 3, 4, seed=3).requires_grad_()
    head = logits(VOCAB, 4, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda h, w: dl.distillation_loss(
            h, w, labels, targets=targets, temperature=targets.temperature, chunk_tokens=3, **terms
        ),
        (hidden, head),
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_all_tokens_kept_is_the_full_kl(temperature):
    student, teacher = logits(2, 3, VOCAB, seed=2).requires_grad_(), logits(2, 3, VOCAB, seed=1)
    eye = torch.eye(VOCAB, dtype=torch.float64)
    full = dl.distillation_loss(student, eye, teacher_logits=teacher, temperature=temperature)
    targets = top_k(teacher, VOCAB, temperature=temperature)
    for kept in (
        targets,
        replace(targets, residual=None, entropy=-torch.xlogy(p := (teacher / temperature).softmax(-1), p).sum(-1)),
    ):
        stored = fused(student, kept)
        torch.testing.assert_close(stored, full, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            torch.autograd.grad(stored, student), torch.autograd.grad(full, student, retain_graph=True)
        )


@given(seed=st.integers(0, 10**6), k=st.integers(1, VOCAB), spare=st.integers(0, 3))
def test_the_tail_makes_a_divergence_below_the_full_one(seed, k, spare):
    """Merging outcomes can only lose divergence; the student at the teacher is the fixed point."""
    student, teacher = logits(1, 2, VOCAB, seed=seed), logits(1, 2, VOCAB, seed=seed + 1)
    eye = torch.eye(VOCAB, dtype=torch.float64)
    full = dl.distillation_loss(student, eye, teacher_logits=teacher).item()
    assert -1e-12 <= fused(student, top_k(teacher, k, spare=spare)).item() <= full + 1e-12
    same = teacher.clone().requires_grad_()
    loss = fused(same, top_k(teacher, k, spare=spare))
    assert abs(loss.item()) < 1e-12
    assert torch.autograd.grad(loss, same)[0].abs().max() < 1e-12


@pytest.mark.parametrize("proposal", [1.0, 0.7])
def test_sampled_targets_are_unbiased(proposal):
    """Mean loss and gradient over many draws against the full KL: every deviation within 4.5 standard errors."""
    student, teacher = logits(1, 1, VOCAB, seed=5).requires_grad_(), logits(1, 1, VOCAB, seed=6)
    eye = torch.eye(VOCAB, dtype=torch.float64)
    full = dl.distillation_loss(student, eye, teacher_logits=teacher)
    wanted = torch.cat([full.view(1), torch.autograd.grad(full, student)[0].flatten()])
    many = 4000
    batch = student.detach().expand(1, many, VOCAB).clone().requires_grad_()
    targets = sampled(teacher.expand(1, many, VOCAB), 4, seed=7, proposal=proposal)
    loss = fused(batch, targets, num_tokens=1)
    (gradients,) = torch.autograd.grad(loss, batch)
    log_q = student.detach().log_softmax(-1).expand(1, many, VOCAB)
    values = -(targets.weights * log_q.gather(-1, targets.ids)).sum(-1) - targets.entropy
    torch.testing.assert_close(loss.detach(), values.sum())
    samples = torch.cat([values[0].unsqueeze(1), gradients[0]], dim=1)
    error = samples.std(0) / math.sqrt(many)
    deviation = (samples.mean(0) - wanted.detach()) / error.clamp(min=1e-12)
    assert deviation.abs().max() < 4.5, deviation
    self_normalised = replace(targets, weights=targets.weights / targets.weights.sum(-1, keepdim=True))
    if proposal != 1:  # the test can see a bias: weights forced to sum to 1 have one
        (biased,) = torch.autograd.grad(fused(batch, self_normalised, num_tokens=1), batch)
        assert ((biased[0].mean(0) - wanted[1:].detach()) / error[1:]).abs().max() > 4.5


def test_float32_targets_agree_with_double_precision():
    student, teacher = logits(4, 16, 500, seed=2), logits(4, 16, 500, seed=1)
    targets = top_k(teacher, 32)
    low = SparseTargets(ids=targets.ids, weights=targets.weights.float(), residual=targets.residual.float())
    torch.testing.assert_close(fused(student.float(), low).double(), fused(student, targets), rtol=1e-5, atol=1e-6)


def test_a_student_with_nothing_left_outside_stays_finite():
    student = torch.full((1, 1, VOCAB), -500.0)
    student[..., :2] = 500.0
    student.requires_grad_()
    loss = fused(
        student,
        SparseTargets(
            ids=torch.tensor([[[0, 1]]]), weights=torch.tensor([[[0.4, 0.4]]]), residual=torch.tensor([[0.2]])
        ),
    )
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


def test_what_stored_targets_cannot_give_is_refused():
    student, targets = logits(1, 3, VOCAB), top_k(logits(1, 3, VOCAB, seed=1), 4)
    eye = torch.eye(VOCAB, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"reverse-kl: .* Use forward-kl, or teacher_logits"):
        dl.distillation_loss(student, eye, targets=targets, divergence="reverse-kl")
    with pytest.raises(ConfigError, match=r"at temperature 1.0 cannot give temperature 2.0"):
        dl.distillation_loss(student, eye, targets=targets, temperature=2.0)
    with pytest.raises(VocabularyError, match="targets: ids from"):
        dl.distillation_loss(student, eye, targets=replace(targets, ids=targets.ids + VOCAB))
    with pytest.raises(DataError, match=r"targets: positions \(1, 3\)"):
        dl.distillation_loss(student[:, :2], eye, targets=targets)
    with pytest.raises(DataError, match="one shape"):
        replace(targets, weights=targets.weights[..., :2])
    with pytest.raises(DataError, match="residual"):
        replace(targets, residual=targets.residual[:, :2])
    with pytest.raises(DataError, match="temperature 0"):
        replace(targets, temperature=0.0)
