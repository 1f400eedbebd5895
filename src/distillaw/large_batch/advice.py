"""Batch, rate, betas, decay, warm-up and steps of a run, what the batch wastes, and what must be said with it.

distillaw regime --student 300M --tokens 6B --reference-batch 262k --reference-lr 3e-3 --devices 8
"""

from dataclasses import dataclass

from distillaw.accounting.hardware import Hardware, estimate_cost
from distillaw.errors import ConfigError
from distillaw.large_batch.choices import (
    CAP,
    cap_tokens,
    choose_batch,
    choose_betas,
    choose_decay,
    choose_rate,
    choose_warmup,
    critical_batches,
    measured_levels,
)
from distillaw.large_batch.laws import steps_over_fewest, tokens_over_fewest
from distillaw.large_batch.question import ChosenSetting, RegimeQuestion, RuleValue, Waste

FEW_STEPS = 300
"""Steps at the high rate below which scaling the rate up can be far worse than not scaling it."""
TESTED_RATIO = 4.0
"""The root rule is advised from a quarter to four times the reference batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The answer of `distillaw regime`."""

    question: RegimeQuestion
    batch: ChosenSetting
    steps: int
    accumulation: int
    """Micro-batches that each device adds up in one step."""
    high_rate_steps: int
    """Steps after warm-up and before the rate falls."""
    settings: tuple[ChosenSetting, ...]
    """peak_lr, beta1, beta2, weight_decay, warmup."""
    critical: tuple[RuleValue, ...]
    """B_crit of the hyperbola, tokens."""
    measured: tuple[RuleValue, ...]
    cap_tokens: float
    waste: tuple[Waste, ...]
    hours: float | None
    """Wall time of the run, its student's 6 N D only."""
    price: float | None
    warnings: tuple[str, ...]
    statements: tuple[str, ...]

    def setting(self, name: str) -> ChosenSetting | None:
        """The answer for one setting, if it was asked."""
        return next((answer for answer in self.settings if answer.setting == name), None)


def advise(
    question: RegimeQuestion,
    *,
    device: Hardware | None = None,
    mfu: float | None = None,
    price_per_hour: float | None = None,
) -> Advice:
    """Advice on one run.

    Args:
        question: the run.
        device: what it is trained on, for hours and money; None leaves them out.
        mfu: utilisation instead of the preset's.
        price_per_hour: US dollars per device-hour instead of the preset's.

    Raises:
        ConfigError: inputs that cannot be a run; a reference batch that is absurdly far away.
    """
    if device is None and (mfu is not None or price_per_hour is not None):
        raise ConfigError("--mfu and --price belong to --device: name it too")
    batch, warnings = choose_batch(question)
    assert batch.value is not None
    rate = choose_rate(question, batch.value)
    betas = choose_betas(question, batch.value)
    beta2 = next((answer.value for answer in betas if answer.setting == "beta2"), None)
    warmup = choose_warmup(question, batch.value, beta2)
    decay = choose_decay(question, batch.value, rate.value)
    steps = max(1, round(question.tokens / batch.value))
    high = max(0, round(steps * (1 - question.cooldown) - (warmup.value or 0)))
    hours, price = _cost(question, device, mfu, price_per_hour)
    critical = critical_batches(question)
    return Advice(
        question=question,
        batch=batch,
        steps=steps,
        high_rate_steps=high,
        cap_tokens=cap_tokens(question),
        accumulation=max(1, round(batch.value / question.quantum)),
        settings=(rate, *betas, decay, warmup),
        critical=tuple(critical),
        measured=tuple(measured_levels(question)),
        hours=hours,
        price=price,
        waste=tuple(_waste(law, question, batch.value, hours, price) for law in critical),
        warnings=(*warnings, *_warnings(question, batch.value, high, steps, warmup.value)),
        statements=tuple(_statements(question, batch.value)),
    )


def _cost(
    question: RegimeQuestion, device: Hardware | None, mfu: float | None, price_per_hour: float | None
) -> tuple[float | None, float | None]:
    if device is None:
        return None, None
    cost = estimate_cost(question.coords["compute"], device, mfu=mfu, price_per_hour=price_per_hour)
    return cost.device_hours / question.devices, cost.price


def _waste(
    law: RuleValue, question: RegimeQuestion, batch: float, hours: float | None, price: float | None
) -> Waste:
    assert law.value is not None
    over = tokens_over_fewest(batch, law.value)
    share = 1 - 1 / over
    return Waste(
        law=law.name,
        critical_tokens=law.value,
        tokens_over_fewest=over,
        steps_over_fewest=steps_over_fewest(batch, law.value),
        extra_tokens=share * question.tokens,
        extra_hours=None if hours is None else share * hours,
        extra_price=None if price is None else share * price,
    )


def _warnings(
    question: RegimeQuestion, batch: float, high: int, steps: int, warmup: float | None
) -> list[str]:
    said, reference = [], question.reference
    if reference is not None:
        ratio = batch / reference.batch_tokens
        if not 1 / TESTED_RATIO <= ratio <= TESTED_RATIO:
            said.append(
                f"the batch is {ratio:.3g} times the reference: outside a quarter to four times no rule of the rate is "
                "trusted; search the rate again"
            )
        if question.optimizer == "sgd":
            said.append(
                "the linear rule of SGD keeps the noise per epoch and holds only far below the noise scale; the root "
                "rule keeps the covariance of one step and is the natural one at equal steps"
            )
    if high < FEW_STEPS:
        said.append(
            f"only {high} steps at the high rate (of {steps}): below {FEW_STEPS} a rate scaled up with the batch can "
            "be far worse than one left alone (90.4 against 94.8 % at 30 such steps on MNIST). Take a smaller batch"
        )
    if warmup is not None and warmup > 0.5 * steps:
        said.append(
            f"a warm-up of {warmup:.0f} of {steps} steps leaves little: shorten it or take a smaller batch"
        )
    return said


def _statements(question: RegimeQuestion, batch: float) -> list[str]:
    said = [
        "all laws here were fitted on next-token cross-entropy"
        + (
            "; none is known for a distillation loss, whose soft targets lower the noise: prefer the branch test"
            if question.distils
            else ""
        )
    ]
    if (reference := question.reference) is not None:
        ratio = batch / reference.batch_tokens
        said.append(
            f"regime adaptation: as many steps as at the reference's batch of {reference.batch_tokens:,.0f} tokens "
            f"cost {ratio:.3g} times the tokens, {ratio * (reference.tokens or question.tokens):.3g}"
        )
    said.append(
        "to measure: log the noise scale (docs/regime.md), a diagnostic only; to decide: `distillaw branch` forks it "
        "at k times the batch and sqrt(k) times the rate and keeps the largest k whose loss is within the seed noise "
        "of every smaller one (docs/branch.md; Merrill 2025, arXiv:2505.23971)"
    )
    if question.norm == "batchnorm":
        said.append(
            "ghost batch normalisation applies to this model: statistics over ghosts of the reference's batch "
            "(docs/large-batch.md)"
        )
    else:
        said.append(
            f"ghost batch normalisation does nothing here: a model with {question.norm} has no batch statistics"
        )
    said.append(
        f"waste counts what a very small batch would not need at the same loss, E/E_min = 1 + B/B_crit; the cap "
        f"is B at {100 * CAP:.0f} % more tokens"
    )
    return said
