"""What the fused pass promises beside its value: memory, precision, accumulation, tied heads, autocast."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import distillaw as dl
from distillaw.distill.heads import SparseTargets

TOKENS, WIDTH, VOCAB = 512, 64, 8192


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class LargestTensor(TorchDispatchMode):
    """Largest floating-point storage (entries) that any operation returned."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                storage = value.untyped_storage().nbytes() // value.element_size()
                self.entries = max(self.entries, storage)
        return result


def teachers():
    ids = torch.randint(0, VOCAB, (1, TOKENS, 8), generator=torch.Generator().manual_seed(2))
    return {
        "none": {},
        "online": {"teacher_hidden": normal(1, TOKENS, 2 * WIDTH), "teacher_head": normal(VOCAB, 2 * WIDTH)},
        "stored": {"targets": SparseTargets(ids=ids, weights=torch.full(ids.shape, 1 / 8))},
    }


@pytest.mark.parametrize("teacher", ["none", "online", "stored"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_of_tokens_by_vocabulary_exists(teacher, temperature, dtype):
    hidden = normal(1, TOKENS, WIDTH, dtype=dtype).requires_grad_()
    weight = normal(VOCAB, WIDTH, seed=1, dtype=dtype).requires_grad_()
    options = teachers()[teacher]
    if teacher == "stored":
        options = {
            "targets": SparseTargets(
                ids=options["targets"].ids, weights=options["targets"].weights, temperature=temperature
            )
        }
    labels = torch.zeros(1, TOKENS, dtype=torch.int64)
    saved = []
    with (
        LargestTensor() as largest,
        torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x),
    ):
        loss = dl.distillation_loss(
            hidden, weight, labels, chunk_tokens=32, temperature=temperature, distill_weight=0.5, **options
        )
        loss.backward()
    assert largest.entries <= VOCAB * max(32, 2 * WIDTH) == VOCAB * TOKENS / 4  # a chunk, or the teacher's head
    assert max(saved) <= VOCAB * WIDTH


def test_the_default_chunk_keeps_a_large_vocabulary_small():
    hidden, weight = normal(1, 2048, 4).requires_grad_(), normal(32_000, 4, seed=1).requires_grad_()
    with LargestTensor() as largest:
        dl.distillation_loss(hidden, weight, teacher_hidden=hidden.detach(), teacher_head=weight.detach()).backward()
    assert largest.entries == 256 * 32_000


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_micro_batches_add_up_to_the_batch(dtype):
    """What trainers get wrong most: uneven masks, any split, one mean over all tokens."""
    hidden, weight = normal(4, 6, 8, dtype=dtype), normal(50, 8, seed=1, dtype=dtype)
    teacher = normal(4, 6, 50, seed=2, dtype=dtype)
    labels = torch.randint(0, 50, (4, 6), generator=torch.Generator().manual_seed(3))
    labels[0, 1:], labels[2] = -100, -100
    options = {"distill_weight": 0.6, "z_weight": 0.01}

    def gradients(parts):
        total, leaves = 0.0, (hidden.clone().requires_grad_(), weight.clone().requires_grad_())
        for part in parts:
            loss = dl.distillation_loss(
                leaves[0][part],
                leaves[1],
                labels[part],
                teacher_logits=teacher[part],
                num_tokens=(labels != -100).sum(),
                **options,
            )
            loss.backward()
            total += loss.item()
        return total, leaves[0].grad, leaves[1].grad

    whole = gradients([slice(None)])
    for parts in ([slice(0, 1), slice(1, 4)], [slice(i, i + 1) for i in range(4)]):
        tolerance = {"rtol": 1e-6, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 1e-13, "atol": 1e-15}
        torch.testing.assert_close(gradients(parts), whole, **tolerance)


def test_nothing_to_count_is_zero_with_zero_gradients():
    hidden, weight = normal(1, 3, 4).requires_grad_(), normal(5, 4).requires_grad_()
    labels = torch.full((1, 3), -100)
    for num_tokens in (None, 0, 10):
        loss = dl.distillation_loss(hidden, weight, labels, teacher_logits=normal(1, 3, 5), num_tokens=num_tokens)
        gradients = torch.autograd.grad(loss, (hidden, weight))
        assert loss == 0 and not gradients[0].any() and not gradients[1].any()


def test_masked_positions_may_hold_anything():
    hidden, weight, teacher = normal(1, 3, 4), normal(5, 4), normal(1, 3, 5, seed=1)
    labels = torch.tensor([[1, -100, 2]])
    wanted = dl.distillation_loss(hidden, weight, labels, teacher_logits=teacher, z_weight=0.1)
    hidden[0, 1], teacher[0, 1] = float("nan"), float("nan")
    assert dl.distillation_loss(hidden, weight, labels, teacher_logits=teacher, z_weight=0.1) == wanted


def test_tied_heads_collect_both_gradients():
    embedding = torch.nn.Embedding(30, 8, dtype=torch.float64)
    tokens = torch.tensor([[1, 2, 3, 4]])

    def gradient(loss):
        return torch.autograd.grad(loss(torch.tanh(embedding(tokens))), embedding.weight)[0]

    ours = gradient(lambda hidden: dl.distillation_loss(hidden, embedding.weight, tokens))
    plain = gradient(lambda hidden: torch.nn.functional.cross_entropy((hidden @ embedding.weight.T)[0], tokens[0]))
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)


def test_only_what_needs_a_gradient_gets_one():
    hidden, weight, labels = normal(1, 3, 4), normal(5, 4), torch.tensor([[1, 2, 3]])
    both = dl.distillation_loss(hidden.requires_grad_(), weight.requires_grad_(), labels)
    wanted = torch.autograd.grad(both, (hidden, weight))
    for of_hidden in (True, False):
        loss = dl.distillation_loss(
            hidden.detach().requires_grad_(of_hidden), weight.detach().requires_grad_(not of_hidden), labels
        )
        loss.backward()
    one = hidden.detach().requires_grad_()
    dl.distillation_loss(one, weight.detach(), labels).backward()
    torch.testing.assert_close(one.grad, wanted[0])
    with torch.no_grad():
        silent = dl.distillation_loss(hidden, weight, labels)
    assert not silent.requires_grad and silent == both


def test_a_scaled_loss_and_a_second_backward_are_right():
    hidden, weight, labels = (
        normal(1, 3, 4).requires_grad_(),
        normal(5, 4).requires_grad_(),
        torch.tensor([[1, 2, 3]]),
    )
    loss = dl.distillation_loss(hidden, weight, labels)
    (once,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (tripled,) = torch.autograd.grad(3 * loss, weight, retain_graph=True)
    (again,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(tripled, 3 * once)
    torch.testing.assert_close(again, once)
    weight.grad = None
    for _ in range(2):
        dl.distillation_loss(hidden, weight, labels).backward()
    torch.testing.assert_close(weight.grad, 2 * once)


def test_bfloat16_sums_the_gradient_of_the_head_in_float32():
    """Many chunks: a bfloat16 sum would lose small contributions, as a peer's does."""
    hidden, weight = normal(1, 2048, 8), normal(40, 8, seed=1)
    labels = torch.randint(0, 40, (1, 2048), generator=torch.Generator().manual_seed(2))
    low = [x.to(torch.bfloat16).requires_grad_() for x in (hidden, weight)]
    high = [x.detach().float().requires_grad_() for x in low]
    options = {"labels_BT": labels, "teacher_logits": normal(1, 2048, 40, seed=3), "distill_weight": 0.5}
    exact = dl.distillation_loss(*high, **options)
    exact.backward()
    loss = dl.distillation_loss(*low, chunk_tokens=4, **options)
    loss.backward()
    assert loss.dtype == torch.float32 and low[1].grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss, exact, rtol=5e-3, atol=0)
    error = (low[1].grad.float() - high[1].grad).norm() / high[1].grad.norm()
    assert error < 5e-3, error  # the rounding of a bfloat16 number is 2e-3


def test_autocast_runs_the_products_in_its_type():
    hidden, weight = normal(2, 8, 16).requires_grad_(), normal(40, 16, seed=1).requires_grad_()
    labels, teacher = torch.zeros(2, 8, dtype=torch.int64), normal(2, 8, 40, seed=2)
    options = {"teacher_logits": teacher, "distill_weight": 0.5}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = dl.distillation_loss(hidden, weight, labels, **options)
    mixed.backward()
    rounded = dl.distillation_loss(
        hidden.detach().to(torch.bfloat16), weight.detach().to(torch.bfloat16), labels, **options
    )
    assert mixed == rounded and mixed.dtype == torch.float32
    assert mixed != dl.distillation_loss(hidden, weight, labels, **options)
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32


def test_a_frozen_teacher_gets_no_gradient_and_may_be_a_view():
    student, logits = normal(2, 4, 3).requires_grad_(), normal(2, 5, 9, seed=1).requires_grad_()
    weight = normal(9, 3, seed=2)
    view = dl.distillation_loss(student, weight, teacher_logits=logits[:, :-1])
    view.backward()
    assert logits.grad is None
    assert view == dl.distillation_loss(student, weight, teacher_logits=logits[:, :-1].contiguous())
