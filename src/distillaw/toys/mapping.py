"""The mapping problem: small MLPs in which a better teacher makes a worse student.

Busbridge et al. 2025 (arXiv:2502.08606v2), appendix C. The input is a context x in {0, 1, 2}^n and a one-hot
pointer i; the label is i where x[i] = 0, else the one other place j with x[j] = x[i].

The valid inputs are few (24,664 for eight classes) and stand in one table. A sampler is a probability for each row, a
teacher a row of class probabilities for each, and a reported loss the exact mean under the sampler. Labels are the
teacher whose probabilities are one-hot, so teachers and students train by one loop: forward KL at temperature 1.

Shapes: S networks side by side, B distinct questions of a batch, Q valid inputs (questions), I = 2 n inputs, W width,
C = n classes.

    distillaw toys mapping
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Literal

import torch

from distillaw.errors import ConfigError

Sampler = Literal["balanced", "uniform"]
# The recipe of Busbridge et al. 2025, appendix C, as far as it is printed (docs/toys.md).
BATCH = 512
PEAK_LR = 3e-4
WARM_UP = 0.05
"""Share of the steps in which the rate rises linearly."""
MIN_STEPS = 500
SAMPLES_PER_PARAM = 20
MAX_CLASSES = 10
"""Ten classes have 242,910 valid inputs; beyond that the table no longer fits."""
_ROWS = 4096
"""Questions answered at once when a whole table is filled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Every valid question, with its label and its probability."""

    num_classes: int
    inputs: torch.Tensor
    """Context and one-hot pointer, float32, (Q, I)."""
    labels: torch.Tensor
    """int64, (Q,)."""
    weights: torch.Tensor
    """Probability under the sampler, float64, sum 1, (Q,)."""

    @property
    def truth(self) -> torch.Tensor:
        """The labels as class probabilities, (Q, C)."""
        return torch.nn.functional.one_hot(self.labels, self.num_classes).float()


def check_classes(num_classes: int) -> None:
    """Refuse a number of classes outside 2 to 10 by a ConfigError."""
    if not 2 <= num_classes <= MAX_CLASSES:
        raise ConfigError(
            f"num_classes: got {num_classes}; a pair needs two places and the table of all questions fits up to "
            f"{MAX_CLASSES}: give 2 to {MAX_CLASSES}"
        )


def make_task(num_classes: int, *, sampler: Sampler = "balanced") -> Task:
    """List every valid question.

    Args:
        num_classes: n, 2 to 10: length of the context and number of classes.
        sampler: "balanced" draws the pointer, then with probability 1/2 a zero there, else a value and the place of
            its twin, and fills the other places uniformly with what keeps the question valid. "uniform" gives every
            valid question the same probability (71 % of them point at a zero for eight classes).

    Raises:
        ConfigError: n outside 2 to 10.
    Source:
        arXiv:2502.08606v2, appendix C; the samplers are ours (docs/toys.md), the paper gives none.
    """
    check_classes(num_classes)
    x_QC = torch.tensor(list(product(range(3), repeat=num_classes))).repeat(num_classes, 1)
    pointers_Q = torch.arange(num_classes).repeat_interleave(3**num_classes)
    is_valid_Q, labels_Q = answer(x_QC, pointers_Q)
    x_QC, pointers_Q, labels_Q = x_QC[is_valid_Q], pointers_Q[is_valid_Q], labels_Q[is_valid_Q]
    one_hot_QC = torch.nn.functional.one_hot(pointers_Q, num_classes)
    return Task(
        num_classes=num_classes,
        inputs=torch.cat([x_QC, one_hot_QC], 1).float(),
        labels=labels_Q,
        weights=_weights(points_at_zero_Q=labels_Q == pointers_Q, sampler=sampler),
    )


def answer(x_QC: torch.Tensor, pointers_Q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each question is valid, and its label (meaningless where it is not).

    Args:
        x_QC: contexts of values 0, 1, 2; pointers_Q: indices 0 to C - 1.
    """
    pointed_Q1 = x_QC.gather(1, pointers_Q[:, None])
    is_twin_QC = (x_QC == pointed_Q1) & (torch.arange(x_QC.shape[1]) != pointers_Q[:, None])
    is_zero_Q = pointed_Q1[:, 0] == 0
    labels_Q = torch.where(is_zero_Q, pointers_Q, is_twin_QC.int().argmax(1))
    return is_zero_Q | (is_twin_QC.sum(1) == 1), labels_Q


def _weights(*, points_at_zero_Q: torch.Tensor, sampler: Sampler) -> torch.Tensor:
    """Each kind of question is uniform within itself under both samplers; they differ in the share of the kinds."""
    zeros = points_at_zero_Q.double()
    if sampler == "uniform":
        return torch.full_like(zeros, 1 / len(zeros))
    return 0.5 * zeros / zeros.sum() + 0.5 * (1 - zeros) / (1 - zeros).sum()


def draw_batches(task: Task, steps: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Rows of the table, drawn independently: one tensor of BATCH indices for each step."""
    cumulative_Q = task.weights.cumsum(0)
    for _ in range(steps):
        uniform = torch.rand(BATCH, generator=generator, dtype=torch.float64)
        yield torch.searchsorted(cumulative_Q, uniform, right=True).clamp_(max=len(cumulative_Q) - 1)


def count_questions(num_classes: int) -> int:
    """Rows of the task's table: pointers at a zero, and pointers at a pair."""
    zeros = num_classes * 3 ** (num_classes - 1)
    return zeros + num_classes * 2 * (num_classes - 1) * 2 ** (num_classes - 2)


def count_params(width: int, num_classes: int) -> int:
    """N of one network, weights and biases."""
    return (2 * num_classes + 1) * width + (width + 1) * width + (width + 1) * num_classes


def count_steps(width: int, num_classes: int) -> int:
    """Steps of the paper's rule: max(500 batches, 20 samples for each parameter)."""
    return max(MIN_STEPS, math.ceil(SAMPLES_PER_PARAM * count_params(width, num_classes) / BATCH))


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up over 5 % of the steps, then one cosine from the peak towards zero; step counts from 0."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return PEAK_LR * (step + 1) / warm
    return 0.5 * PEAK_LR * (1 + math.cos(math.pi * (step + 1 - warm) / (steps + 1 - warm)))


class Networks:
    """S networks of one width side by side: two hidden ReLU layers, one batched product a layer.

    Weights are W1_SIW, W2_SWW, W3_SWC, biases b1_S1W, b2_S1W, b3_S1C. The backward pass is written out: it takes a
    third less time than autograd on networks this small, and the tests compare the two.
    """

    def __init__(self, count: int, *, width: int, num_classes: int, generator: torch.Generator) -> None:
        """All start from the same weights, uniform within 1 / sqrt(inputs): PyTorch's default for linear layers."""
        sizes = [2 * num_classes, width, width, num_classes]
        self.params: list[torch.Tensor] = []
        for inputs, outputs in pairwise(sizes):
            for rows in (inputs, 1):
                uniform = torch.rand(1, rows, outputs, generator=generator)
                self.params.append(((2 * uniform - 1) / math.sqrt(inputs)).repeat(count, 1, 1))

    def hidden(self, x_SBI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both hidden layers."""
        W1, b1, W2, b2, _, _ = self.params
        h1_SBW = torch.baddbmm(b1, x_SBI, W1).relu_()
        return h1_SBW, torch.baddbmm(b2, h1_SBW, W2).relu_()

    def logits(self, h2_SBW: torch.Tensor) -> torch.Tensor:
        """The output layer."""
        return torch.baddbmm(self.params[5], h2_SBW, self.params[4])

    def set_gradients(self, x_BI: torch.Tensor, targets_SBC: torch.Tensor, weights_B: torch.Tensor) -> None:
        """Gradients of sum_B weight KL(target || network) into each parameter's `grad`."""
        W1, b1, W2, b2, W3, b3 = self.params
        x_SBI = x_BI.expand(len(W1), -1, -1)
        h1_SBW, h2_SBW = self.hidden(x_SBI)
        g_SBC = (self.logits(h2_SBW).softmax(-1) - targets_SBC) * weights_B[:, None]
        W3.grad, b3.grad = h2_SBW.mT @ g_SBC, g_SBC.sum(1, keepdim=True)
        g_SBW = torch.ops.aten.threshold_backward(g_SBC @ W3.mT, h2_SBW, 0)
        W2.grad, b2.grad = h1_SBW.mT @ g_SBW, g_SBW.sum(1, keepdim=True)
        g_SBW = torch.ops.aten.threshold_backward(g_SBW @ W2.mT, h1_SBW, 0)
        W1.grad, b1.grad = x_SBI.mT @ g_SBW, g_SBW.sum(1, keepdim=True)

    def answers(self, task: Task) -> torch.Tensor:
        """Log probabilities for every question, logp_SQC."""
        parts = [x.expand(len(self.params[0]), -1, -1) for x in task.inputs.split(_ROWS)]
        return torch.cat([self.logits(self.hidden(x_SBI)[1]).log_softmax(-1) for x_SBI in parts], 1)


@torch.no_grad()
def train(task: Task, teachers_SQC: torch.Tensor, *, width: int, steps: int, seed: int) -> torch.Tensor:
    """Train one network for each teacher, all from the same start and on the same fresh samples.

    Args:
        teachers_SQC: class probabilities for every question; `task.truth[None]` trains on the labels.
        width: of both hidden layers; steps: batches of 512; seed: of the first weights and the samples.

    Returns:
        Log probabilities for every question, logp_SQC.
    """
    generator = torch.Generator().manual_seed(seed)
    networks = Networks(len(teachers_SQC), width=width, num_classes=task.num_classes, generator=generator)
    optimiser = torch.optim.Adam(networks.params, lr=PEAK_LR, fused=True)
    for step, draws in enumerate(draw_batches(task, steps, generator)):
        # of few questions many are drawn twice: the same mean, sooner
        rows_B, counts_B = draws.unique(return_counts=True)
        networks.set_gradients(task.inputs[rows_B], teachers_SQC[:, rows_B], counts_B / BATCH)
        optimiser.param_groups[0]["lr"] = learning_rate(step, steps)
        optimiser.step()
    return networks.answers(task)


def true_loss(task: Task, logp_SQC: torch.Tensor) -> torch.Tensor:
    """Cross-entropy against the true labels, the exact mean under the sampler; nats, float64, shape (S,)."""
    return -(logp_SQC.double() * task.truth).sum(-1) @ task.weights
