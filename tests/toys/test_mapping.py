"""The mapping problem: labels, samplers, training, and the sign of the change on each side of the minimum."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from distillaw.errors import ConfigError
from distillaw.toys import mapping
from distillaw.toys.grid import LABELS, REDUCED, Grid, ToyOutcome, run_trial, summarise
from distillaw.toys.mapping import Networks, answer, count_params, draw_batches, learning_rate, make_task, train


def label_by_hand(context, pointer):
    """The definition, word by word; None where the question is invalid."""
    if context[pointer] == 0:
        return pointer
    twins = [j for j, value in enumerate(context) if value == context[pointer] and j != pointer]
    return twins[0] if len(twins) == 1 else None


def test_the_paper_s_example():
    x_QC = torch.tensor([[0, 1, 0, 1, 0, 0, 2, 0]] * 3)
    is_valid, labels = answer(x_QC, torch.tensor([3, 2, 6]))
    assert is_valid.tolist() == [True, True, False] and labels[:2].tolist() == [1, 2]


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_the_table_holds_every_valid_question_once(num_classes):
    task = make_task(num_classes)
    rows = {tuple(row) for row in task.inputs.int().tolist()}
    assert len(rows) == len(task.labels) == mapping.count_questions(num_classes)
    every = np.stack(np.meshgrid(*[range(3)] * num_classes), -1).reshape(-1, num_classes)
    assert len(rows) == sum(label_by_hand(x, i) is not None for x in every for i in range(num_classes))
    for row, label in zip(task.inputs.int().tolist(), task.labels.tolist(), strict=True):
        assert label == label_by_hand(row[:num_classes], row[num_classes:].index(1))


@pytest.mark.parametrize("sampler", ["balanced", "uniform"])
def test_batches_are_valid_and_follow_the_sampler(sampler):
    task = make_task(4, sampler=sampler)
    counts = torch.zeros(len(task.labels), dtype=torch.float64)
    for rows in draw_batches(task, 200, torch.Generator().manual_seed(0)):
        assert rows.shape == (512,) and 0 <= rows.min() and rows.max() < len(task.labels)
        for row, label in zip(task.inputs[rows[:20]].int().tolist(), task.labels[rows[:20]].tolist(), strict=True):
            assert label == label_by_hand(row[:4], row[4:].index(1))
        counts += rows.bincount(minlength=len(counts))
    expected = task.weights * counts.sum()
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    freedom = len(counts) - 1
    assert abs(chi2 - freedom) < 5 * (2 * freedom) ** 0.5


def test_the_balanced_sampler_is_the_one_described():
    """Drawn step by step as the paper words it, against the table's probabilities."""
    rng, task = np.random.default_rng(0), make_task(3)
    place = {tuple(row): k for k, row in enumerate(task.inputs.int().tolist())}
    counts = np.zeros(len(place))
    for _ in range(20_000):
        i, context = rng.integers(3), rng.integers(0, 3, 3)
        context[i] = 0
        if rng.random() < 0.5:
            value, twin = rng.integers(1, 3), rng.choice([j for j in range(3) if j != i])
            context = np.where(rng.random(3) < 0.5, 0, 3 - value)
            context[[i, twin]] = value
        counts[place[(*context.tolist(), *np.eye(3, dtype=int)[i].tolist())]] += 1
    expected = task.weights.numpy() * counts.sum()
    chi2, freedom = ((counts - expected) ** 2 / expected).sum(), len(counts) - 1
    assert abs(chi2 - freedom) < 5 * (2 * freedom) ** 0.5


def test_parameter_count_and_schedule():
    networks = Networks(1, width=7, num_classes=5, generator=torch.Generator().manual_seed(0))
    assert count_params(7, 5) == sum(p.numel() for p in networks.params) == 2 * 5 * 7 + 7 + 49 + 7 + 7 * 5 + 5
    assert mapping.count_steps(16, 4) == 500
    assert mapping.count_steps(256, 8) == -(-20 * count_params(256, 8) // 512)
    rates = [learning_rate(step, 200) for step in range(200)]
    assert max(rates) == rates[9] == 3e-4 and rates[0] == pytest.approx(3e-5)
    assert (np.diff(rates[9:]) < 0).all() and 0 < rates[-1] < 1e-6


def test_gradients_are_those_of_the_divergence():
    task, generator = make_task(4), torch.Generator().manual_seed(1)
    networks = Networks(3, width=6, num_classes=4, generator=generator)
    networks.params = [(p + 0.1 * torch.randn(p.shape, generator=generator)).double() for p in networks.params]
    rows, counts = next(draw_batches(task, 1, generator)).unique(return_counts=True)
    x_BI = task.inputs[rows].double()
    targets_SBC = torch.rand(3, len(rows), 4, generator=generator, dtype=torch.float64).softmax(-1)
    networks.set_gradients(x_BI, targets_SBC, counts / 512)
    ours = [p.grad.clone() for p in networks.params]
    for params in zip(*networks.params, strict=True):  # one network after another, by autograd, draw for draw
        leaves = [p.detach().clone().requires_grad_() for p in params]
        h = functional.relu(x_BI @ leaves[0] + leaves[1])
        logits = functional.relu(h @ leaves[2] + leaves[3]) @ leaves[4] + leaves[5]
        index = next(k for k, p in enumerate(networks.params[0]) if torch.equal(p, params[0]))
        each = functional.kl_div(logits.log_softmax(-1), targets_SBC[index], reduction="none").sum(-1)
        each.repeat_interleave(counts).mean().backward()
        for leaf, gradient in zip(leaves, ours, strict=True):
            torch.testing.assert_close(gradient[index], leaf.grad, rtol=1e-10, atol=1e-12)


def test_networks_side_by_side_are_networks_apart():
    task = make_task(3)
    soft = torch.rand(2, *task.truth.shape, generator=torch.Generator().manual_seed(2)).softmax(-1)
    targets_SQC = torch.cat([task.truth[None], soft])
    together = train(task, targets_SQC, width=16, steps=60, seed=5)
    apart = torch.cat([train(task, one[None], width=16, steps=60, seed=5) for one in targets_SQC])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    assert torch.equal(together, train(task, targets_SQC, width=16, steps=60, seed=5))
    assert not torch.equal(together, train(task, targets_SQC, width=16, steps=60, seed=6))


def test_a_large_network_learns_the_task():
    task = make_task(3)
    logp_SQC = train(task, task.truth[None], width=128, steps=700, seed=0)
    assert mapping.true_loss(task, logp_SQC).item() < 0.1
    assert (logp_SQC[0].argmax(-1) == task.labels).all()


@pytest.mark.slow
def test_better_teachers_help_and_then_hurt():
    """The student of width 32 under three teachers of width 128: better on the way, worse at the end."""
    grid = Grid(
        num_classes=4, students=(32,), teacher_widths=(16,), long_width=128, teacher_steps=(256, 1024, 2048), trials=1
    )
    weak, good, best = [o for o in run_trial(grid, 0) if o.axis == "steps"]
    assert weak.teacher_loss > good.teacher_loss > best.teacher_loss
    assert weak.student_loss > good.student_loss + 0.02
    assert best.student_loss > good.student_loss + 0.002


def outcomes(losses):
    """Made-up losses (trials, teachers) of one student on the axis of widths."""
    return [
        ToyOutcome(
            trial=t,
            student_width=8,
            axis=axis,
            teacher_width=10 * (k + 1),
            teacher_steps=500,
            teacher_loss=1.0 / (k + 1),
            student_loss=loss,
        )
        for axis in ("width", "steps")
        for t, row in enumerate(losses)
        for k, loss in enumerate(row)
    ]


@pytest.mark.parametrize(
    ("base", "shape"),
    [((1.0, 0.5, 0.8), "U"), ((1.0, 0.5, 0.2), "follows"), ((0.2, 0.5, 0.8), "rises"), ((0.5, 0.5, 0.5), "unclear")],
)
def test_shapes(base, shape):
    rng = np.random.default_rng(4)
    losses = np.array(base) + 0.02 * rng.standard_normal((4, 3)) + rng.standard_normal((4, 1))
    curve = summarise(outcomes(losses))[0]
    assert curve.shape == shape
    assert curve.student_loss == pytest.approx(losses.mean(0)) and curve.is_interior == (curve.best == 1)
    assert summarise(outcomes(losses[:1]))[0].shape == "unknown"


def test_noise_alone_is_seldom_a_u():
    """A minimum chosen on the same numbers would make most flat curves a U; chosen on other trials, few."""
    rng = np.random.default_rng(0)
    shapes = [summarise(outcomes(rng.standard_normal((4, 5))))[0].shape for _ in range(200)]
    assert shapes.count("U") < 10


@pytest.mark.parametrize(
    "change",
    [
        {"num_classes": 1},
        {"num_classes": 11},
        {"students": ()},
        {"students": (0,)},
        {"teacher_widths": (64, 32)},
        {"teacher_steps": (5, 5)},
        {"trials": 0},
        {"seed": -1},
        {"long_width": 0},
    ],
)
def test_bad_grids(change):
    settings = {"num_classes": 4, "students": (8,), "teacher_widths": (8,), "long_width": 8, "teacher_steps": (5,)}
    with pytest.raises(ConfigError, match=next(iter(change))):
        Grid(**settings | change)
    assert Grid(**settings).core_seconds < REDUCED.core_seconds and LABELS.width == 0


def test_bad_tasks():
    with pytest.raises(ConfigError, match="2 to 10"):
        make_task(1)
