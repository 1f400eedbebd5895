"""What `distillaw regime` is asked and what it answers: plain records."""

import math
from dataclasses import dataclass, fields

from distillaw.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A run whose settings were tuned."""

    batch_tokens: float
    peak_lr: float
    tokens: float | None = None
    width: float | None = None
    weight_decay: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    warmup_tokens: float | None = None

    def __post_init__(self) -> None:
        _check_positive(self, "--reference-", zero=("weight_decay", "beta1"))
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            if beta is not None and beta >= 1:
                raise ConfigError(f"--reference-{name} {beta:g}: it must lie below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegimeQuestion:
    """The run to be advised on."""

    params: float
    """N, non-embedding."""
    tokens: float
    """D, tokens read in training."""
    context: int = 4096
    devices: int = 1
    micro_batch: int = 1
    """Sequences that one device takes at once."""
    optimizer: str = "adamw"
    """`adamw` or `sgd`."""
    norm: str = "rmsnorm"
    """`rmsnorm`, `layernorm`, `batchnorm` or `none`."""
    distils: bool = False
    batch_tokens: float | None = None
    """A batch to be judged; None asks for one."""
    steps: float | None = None
    """Updates that there is time for, instead of a batch."""
    width: float | None = None
    loss: float | None = None
    """Expected loss, nats per token, for laws in the loss."""
    cooldown: float = 0.2
    """Share of the run at a falling rate."""
    reference: Reference | None = None

    def __post_init__(self) -> None:
        _check_positive(self, "--", zero=("cooldown",))
        if self.batch_tokens is not None and self.steps is not None:
            raise ConfigError("give --batch or --steps, not both: at given tokens one is the other")
        if self.cooldown > 1:
            raise ConfigError(f"--cooldown {self.cooldown:g}: a share of the run, at most 1")
        if (batch := self.asked_batch) is not None and batch > self.tokens:
            raise ConfigError(
                f"a batch of {batch:g} tokens in a run of {self.tokens:g}: not one step. Take a smaller batch"
            )
        reference = self.reference
        if reference is not None and (self.width is None) != (reference.width is None):
            raise ConfigError(
                "--width and --reference-width belong together: the rate moves with their ratio"
            )
        if reference is None and self.width is not None:
            raise ConfigError(
                "--width needs a reference: --reference-batch, --reference-lr, --reference-width"
            )

    @property
    def asked_batch(self) -> float | None:
        """The batch that was given, as such or by the steps."""
        return self.tokens / self.steps if self.steps is not None else self.batch_tokens

    @property
    def quantum(self) -> int:
        """Tokens that all devices take at once: batches are multiples of it."""
        return self.context * self.devices * self.micro_batch

    @property
    def coords(self) -> dict[str, float]:
        """Inputs of the laws."""
        known = {
            "params": self.params,
            "tokens": self.tokens,
            "compute": 6 * self.params * self.tokens,
            "tokens_per_param": self.tokens / self.params,
        }
        return known if self.loss is None else known | {"loss": self.loss}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleValue:
    """What one rule or law says."""

    name: str
    value: float | None
    """None where the rule does not hold; the notes say why."""
    formula: str
    source: str
    certainty: str
    notes: tuple[str, ...] = ()
    """Its range at this point, and its doubts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenSetting:
    """One setting: what is advised, by which opinion, among all that were asked."""

    setting: str
    unit: str
    value: float | None
    chosen: str
    """Name of the opinion taken, or how the value came about."""
    opinions: tuple[RuleValue, ...]

    @property
    def low(self) -> float | None:
        """The least of the opinions."""
        return min((o.value for o in self.opinions if o.value is not None), default=None)

    @property
    def high(self) -> float | None:
        """The largest of the opinions."""
        return max((o.value for o in self.opinions if o.value is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """What a batch costs beyond the least, under one law of the critical batch."""

    law: str
    critical_tokens: float
    """B_crit of the hyperbola."""
    tokens_over_fewest: float
    steps_over_fewest: float
    extra_tokens: float
    """Of the run's tokens, those that a very small batch would not have needed."""
    extra_hours: float | None = None
    """The same in wall time; None where no hardware was named."""
    extra_price: float | None = None


def _check_positive(record: RegimeQuestion | Reference, prefix: str, *, zero: tuple[str, ...]) -> None:
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or value < 0 or (value == 0 and field.name not in zero):
            option = {"batch_tokens": "batch", "peak_lr": "lr"}.get(field.name, field.name.replace("_", "-"))
            raise ConfigError(f"{prefix}{option} {value:g}: it must be positive and finite")
