import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from distillaw.distill.losses import distillation_loss


def plain_loss(
    student_logits_BTV: torch.Tensor,
    labels_BT: torch.Tensor,
    teacher_logits_BTV: torch.Tensor | None = None,
    *,
    distill_weight: float = 1.0,
    temperature: float = 1.0,
    z_weight: float = 0.0,
) -> torch.Tensor:
    """The definition, with autograd: what the fused loss must equal."""
    logits = student_logits_BTV.flatten(0, -2)
    ntp = functional.cross_entropy(logits, labels_BT.flatten())
    z = torch.logsumexp(logits, dim=-1).square().mean()
    if teacher_logits_BTV is None:
        return ntp + z_weight * z
    teacher = functional.log_softmax(teacher_logits_BTV.flatten(0, -2) / temperature, dim=-1)
    student = functional.log_softmax(logits / temperature, dim=-1)
    kl = functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
    return (1 - distill_weight) * ntp + distill_weight * kl + z_weight * z


CASES = [
    {"distill_weight": 1.0, "z_weight": 1e-4},
    {"distill_weight": 0.0, "z_weight": 0.0},
    {"distill_weight": 0.3, "z_weight": 0.1, "temperature": 2.0},
    {"distill_weight": 1.0, "z_weight": 0.0, "temperature": 0.5},
]


def _inputs(dtype=torch.float64, seed=0, vocab=7):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(2, 3, vocab, generator=generator, dtype=dtype) * 2
    teacher = torch.randn(2, 3, vocab, generator=generator, dtype=dtype) * 2
    labels = torch.randint(0, vocab, (2, 3), generator=generator)
    return student.requires_grad_(), labels, teacher


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("with_teacher", [True, False])
def test_value_and_gradient_equal_the_definition(case, with_teacher):
    student, labels, teacher = _inputs()
    teacher = teacher if with_teacher else None
    fused = distillation_loss(student, labels, teacher, **case)
    (got,) = torch.autograd.grad(fused, student)
    plain = plain_loss(student, labels, teacher, **case)
    (wanted,) = torch.autograd.grad(plain, student)
    torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_gradcheck_in_double_precision(case):
    student, labels, teacher = _inputs()
    assert torch.autograd.gradcheck(lambda z: distillation_loss(z, labels, teacher, **case), student)


def test_float32_agrees_with_the_definition_to_1e_5():
    student, labels, teacher = _inputs(torch.float32, vocab=512)
    case = {"distill_weight": 0.7, "z_weight": 1e-4}
    fused, plain = (
        distillation_loss(student, labels, teacher, **case),
        plain_loss(student, labels, teacher, **case),
    )
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), temperature=st.floats(0.3, 5))
def test_kl_is_positive_and_zero_only_for_equal_distributions(seed, temperature):
    student, labels, teacher = _inputs(seed=seed)
    assert distillation_loss(student, labels, teacher, temperature=temperature).item() > 0
    same = distillation_loss(student, labels, student.detach() + 3.0, temperature=temperature)
    assert abs(same.item()) < 1e-12


def test_mismatched_vocabularies_and_weights_are_refused():
    student, labels, teacher = _inputs()
    with pytest.raises(ValueError, match="one vocabulary"):
        distillation_loss(student, labels, teacher[..., :5])
    with pytest.raises(ValueError, match="distill_weight"):
        distillation_loss(student, labels, teacher, distill_weight=1.5)
    with pytest.raises(ValueError, match="temperature"):
        distillation_loss(student, labels, teacher, temperature=0.0)
