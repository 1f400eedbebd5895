"""The loss with a dense teacher against its definition: value, gradients, limits, refusals."""

import doctest

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

import distillaw as dl
from distillaw.distill import losses
from distillaw.distill.heads import Head
from distillaw.distill.losses import loss_parts
from distillaw.errors import ConfigError, DataError, VocabularyError
from divergences import divergence_of

DIVERGENCES = ["forward-kl", "reverse-kl", "jsd", "skew-kl", "skew-reverse-kl"]


def plain_logits(hidden, head, vocab=None):
    logits = functional.linear(hidden, head.weight, head.bias) * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return logits[..., :vocab]


def plain_divergence(student, teacher, *, temperature=1.0, **which):
    """Per token, from logits."""
    return divergence_of(*((logits / temperature).softmax(-1) for logits in (student, teacher)), **which)


def plain_loss(student, labels, teacher=None, *, distill_weight=1.0, temperature=1.0, z_weight=0.0, **which):
    """Mean over the labels that are not -100, from whole logits, by autograd."""
    counts = labels != -100
    next_token = functional.cross_entropy(student[counts], labels[counts], reduction="none")
    z_loss = z_weight * torch.logsumexp(student[counts], dim=-1).square()
    if teacher is None:
        return (next_token + z_loss).mean()
    divergence = plain_divergence(student, teacher, temperature=temperature, **which)[counts]
    mixed = (1 - distill_weight) * next_token + distill_weight * temperature**2 * divergence
    return (mixed + z_loss).mean()


class Batch:
    """Random hidden states, heads and labels, two of them masked."""

    def __init__(self, dtype=torch.float64, *, seed=0, vocab=7, shape=(2, 3), width=4, student=None, teacher=None):
        generator = torch.Generator().manual_seed(seed)

        def normal(*size):
            return torch.randn(*size, generator=generator, dtype=dtype)

        self.hidden = normal(*shape, width).requires_grad_()
        self.weight = normal(vocab + 2, width).requires_grad_()  # two rows of padding
        self.bias = normal(vocab + 2).requires_grad_()
        self.head = Head(self.weight, self.bias, **(student or {}))
        self.teacher_hidden = normal(*shape, width + 1)
        self.teacher_head = Head(normal(vocab + 3, width + 1), **(teacher or {}))
        self.labels = torch.randint(0, vocab, shape, generator=generator)
        self.labels.view(-1)[1::4] = -100
        self.vocab, self.inputs = vocab, (self.hidden, self.weight, self.bias)

    def ours(self, *inputs, dense=False, **options):
        hidden, weight, bias = inputs or self.inputs
        head = Head(weight, bias, self.head.scale, self.head.softcap)
        teacher = {"teacher_hidden": self.teacher_hidden, "teacher_head": self.teacher_head}
        if dense:
            teacher = {"teacher_logits": plain_logits(self.teacher_hidden, self.teacher_head)}
        options = {"vocab_size": self.vocab, "chunk_tokens": 3} | options
        return dl.distillation_loss(hidden, head, self.labels, **teacher, **options)

    def plain(self, **options):
        student = plain_logits(self.hidden, self.head, self.vocab)
        return plain_loss(
            student, self.labels, plain_logits(self.teacher_hidden, self.teacher_head, self.vocab), **options
        )


def value_and_gradients(loss, inputs):
    return loss.detach(), *torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("distill_weight", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("z_weight", [0.0, 0.1])
def test_value_and_gradients_equal_the_definition(divergence, temperature, distill_weight, z_weight):
    batch = Batch()
    options = {
        "divergence": divergence,
        "temperature": temperature,
        "distill_weight": distill_weight,
        "z_weight": z_weight,
        "beta": 0.3,
        "skew": 0.2,
    }
    wanted = value_and_gradients(batch.plain(**options), batch.inputs)
    for dense in (False, True):
        got = value_and_gradients(batch.ours(dense=dense, **options), batch.inputs)
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    assert (got[2][batch.vocab :] == 0).all() and got[2][: batch.vocab].any()


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(("temperature", "distill_weight", "z_weight"), [(1.0, 1.0, 0.0), (1.7, 0.4, 0.2)])
def test_gradcheck_in_double_precision(divergence, temperature, distill_weight, z_weight):
    batch = Batch(shape=(1, 3), vocab=5, width=2)
    options = {"divergence": divergence, "temperature": temperature}
    options |= {"distill_weight": distill_weight, "z_weight": z_weight}
    assert torch.autograd.gradcheck(lambda *inputs: batch.ours(*inputs, **options), batch.inputs)


@pytest.mark.parametrize("constants", [{"softcap": 1.5}, {"scale": 0.3}, {"scale": 2.0, "softcap": 3.0}])
@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "distill_weight": 0.5, "z_weight": 0.1}])
def test_scaled_and_capped_heads_have_exact_gradients(constants, options):
    batch = Batch(student=constants, teacher=constants)
    wanted = value_and_gradients(batch.plain(**options), batch.inputs)
    got = value_and_gradients(batch.ours(**options), batch.inputs)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


@given(
    seed=st.integers(0, 10**6),
    vocab=st.integers(1, 40),
    rows=st.integers(1, 4),
    length=st.integers(1, 9),
    width=st.integers(1, 8),
    chunk_tokens=st.integers(1, 12),
    divergence=st.sampled_from(DIVERGENCES),
)
def test_every_shape_and_chunk_gives_the_same(seed, vocab, rows, length, width, chunk_tokens, divergence):
    batch = Batch(seed=seed, vocab=vocab, shape=(rows, length), width=width)
    if (batch.labels == -100).all():
        return
    options = {"divergence": divergence, "distill_weight": 0.6, "z_weight": 0.01}
    wanted = value_and_gradients(batch.plain(**options), batch.inputs)
    got = value_and_gradients(batch.ours(chunk_tokens=chunk_tokens, **options), batch.inputs)
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_float32_agrees_with_the_definition_to_1e_5(divergence):
    batch = Batch(torch.float32, vocab=512, shape=(4, 16), width=32)
    options = {"divergence": divergence, "distill_weight": 0.7, "z_weight": 1e-4}
    wanted = value_and_gradients(batch.plain(**options), batch.inputs)
    got = value_and_gradients(batch.ours(**options), batch.inputs)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_without_a_teacher_it_is_the_cross_entropy_of_the_labels():
    batch = Batch()
    got = dl.distillation_loss(batch.hidden, batch.head, batch.labels, z_weight=0.1)
    wanted = plain_loss(plain_logits(batch.hidden, batch.head), batch.labels, z_weight=0.1)
    torch.testing.assert_close(
        value_and_gradients(got, batch.inputs), value_and_gradients(wanted, batch.inputs), rtol=1e-10, atol=1e-12
    )


def test_the_parts_add_up_to_the_total():
    batch = Batch()
    options = {"distill_weight": 0.3, "temperature": 2.0, "z_weight": 0.1, "vocab_size": batch.vocab}
    parts = loss_parts(
        batch.hidden,
        batch.head,
        batch.labels,
        teacher_hidden=batch.teacher_hidden,
        teacher_head=batch.teacher_head,
        **options,
    )
    total = 0.3 * parts.distillation + 0.7 * parts.next_token + 0.1 * parts.z
    torch.testing.assert_close(parts.total.detach(), total)
    assert parts.total.requires_grad and not parts.distillation.requires_grad
    alone = loss_parts(batch.hidden, batch.head, teacher_logits=torch.zeros(2, 3, 9, dtype=torch.float64))
    assert alone.next_token is None


def test_linear_layer_weight_and_head_are_one_and_the_same():
    batch = Batch()
    layer = torch.nn.Linear(4, 9, dtype=torch.float64)
    bare = torch.nn.Linear(4, 9, bias=False, dtype=torch.float64)
    for one, other in ((layer, Head(layer.weight, layer.bias)), (bare, bare.weight)):
        assert dl.distillation_loss(batch.hidden, one, batch.labels) == dl.distillation_loss(
            batch.hidden, other, batch.labels
        )


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_distributions_give_zero_and_never_less(divergence, dtype):
    """Peers return negative or NaN Jensen-Shannon divergences in bfloat16."""
    hidden = (torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) * 8).to(dtype)
    weight = torch.randn(200, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    draws = torch.randn(64, 200, generator=torch.Generator().manual_seed(2))
    for noise in (0.0, 1e-3):  # a divergence of about half the noise squared
        teacher = (hidden.float() @ weight.float().T + 3.0 + noise * draws).to(dtype)
        loss = dl.distillation_loss(hidden, weight, teacher_logits=teacher, divergence=divergence)
        assert 0 <= loss.item() < (3e-6 if dtype == torch.float32 else 1e-2)


def test_jsd_tends_to_both_kls_and_is_symmetric_at_one_half():
    student, teacher = torch.randn(2, 6, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eye = torch.eye(11, dtype=torch.float64)

    def loss(a, b, **options):
        return dl.distillation_loss(a, eye, teacher_logits=b, **options).item()

    forward, reverse = (loss(student, teacher, divergence=name) for name in ("forward-kl", "reverse-kl"))
    assert loss(student, teacher, divergence="jsd", beta=1e-6) / 1e-6 == pytest.approx(forward, rel=1e-4)
    assert loss(student, teacher, divergence="jsd", beta=1 - 1e-6) / 1e-6 == pytest.approx(reverse, rel=1e-4)
    assert loss(student, teacher, divergence="jsd", beta=0.0) == forward
    assert loss(student, teacher, divergence="jsd", beta=1.0) == reverse
    assert loss(student, teacher, divergence="skew-kl", skew=0.0) == forward
    assert loss(student, teacher, divergence="skew-reverse-kl", skew=0.0) == reverse
    assert loss(student, teacher, divergence="jsd") == pytest.approx(loss(teacher, student, divergence="jsd"))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_extreme_and_impossible_tokens_stay_finite(divergence):
    """Tokens masked with -inf, and distributions that share no token that float32 can see."""
    teacher = torch.zeros(3, 8)
    teacher[:, 5:] = float("-inf")
    teacher[1, 0], teacher[2] = 300.0, torch.linspace(-300, 300, 8)
    hidden = torch.tensor([[0.0], [1.0], [1.0]], requires_grad=True)
    weight = torch.linspace(200, -200, 8).unsqueeze(1).requires_grad_()
    loss = dl.distillation_loss(hidden, weight, teacher_logits=teacher, divergence=divergence)
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    assert torch.isfinite(hidden.grad).all() and torch.isfinite(weight.grad).all()


def test_masked_tokens_of_a_student_head_count_as_absent():
    batch = Batch()
    bias = torch.zeros(9, dtype=torch.float64)
    bias[7:] = float("-inf")
    masked = dl.distillation_loss(batch.hidden, Head(batch.weight, bias), batch.labels)
    trimmed = dl.distillation_loss(batch.hidden, batch.weight, batch.labels, vocab_size=7)
    torch.testing.assert_close(masked, trimmed)


def refused(error, match, **changes):
    batch = Batch()
    arguments = {
        "student_hidden_BTH": batch.hidden,
        "student_head": batch.head,
        "labels_BT": batch.labels,
        "teacher_hidden": batch.teacher_hidden,
        "teacher_head": batch.teacher_head,
        "vocab_size": 7,
    } | changes
    with pytest.raises(error, match=match):
        dl.distillation_loss(**arguments)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"distill_weight": 1.5}, "distill_weight is 1.5"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"z_weight": -1.0}, "z_weight is -1.0"),
        ({"beta": 2.0}, "beta is 2.0"),
        ({"skew": 1.0}, "skew is 1.0"),
        ({"chunk_tokens": 0}, "chunk_tokens is 0"),
        ({"divergence": "kl"}, "'kl' is unknown; choose forward-kl"),
        ({"num_tokens": 0}, "num_tokens is 0.0, but 4 positions count"),
        ({"teacher_head": None}, "teacher_head is missing"),
        ({"teacher_logits": torch.zeros(2, 3, 9)}, "one kind of teacher"),
        ({"labels_BT": None, "distill_weight": 0.5}, "pass labels"),
        ({"labels_BT": None, "teacher_hidden": None, "teacher_head": None}, "there is no teacher"),
        ({"student_head": "lm_head"}, "got a str; pass a torch.nn.Linear"),
    ],
)
def test_contradictory_options_are_refused(changes, match):
    refused(ConfigError, match, **changes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"labels_BT": torch.zeros(2, 4, dtype=torch.int64)}, r"labels: positions \(2, 4\)"),
        ({"labels_BT": torch.zeros(2, 3)}, "next tokens are integers"),
        ({"teacher_hidden": torch.zeros(2, 4, 5)}, r"teacher_hidden: positions \(2, 4\)"),
        ({"student_hidden_BTH": torch.zeros(2, 3, 5)}, "student: hidden states .* do not fit"),
        ({"student_hidden_BTH": torch.zeros(2, 3, 4, dtype=torch.int64)}, "floats are needed"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes, match):
    refused(DataError, match, **changes)


def test_vocabularies_that_do_not_line_up_are_refused():
    refused(VocabularyError, "student 9 and teacher 10 tokens: .* pass vocab_size", vocab_size=None)
    refused(VocabularyError, "between 1 and the smaller", vocab_size=10)
    refused(VocabularyError, "ids from .* to 8, but the vocabulary has 7", labels_BT=torch.full((2, 3), 8))


@pytest.mark.parametrize("wrong", [{"bias": torch.zeros(3)}, {"scale": 0.0}, {"softcap": 0.0}])
def test_a_head_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match="head: "):
        Head(torch.zeros(4, 2), **wrong)


def test_the_example_of_the_documentation_holds():
    result = doctest.testmod(losses)
    assert result.attempted and not result.failed
