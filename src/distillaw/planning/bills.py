"""What each option costs, FLOP by part, and what a budget buys; budgets and limits as people have them.

    C = 3 F(N_S) D_S + F(N_T) (delta_Lgt D_S + delta_Pre 3 D_T) + F(N_S) D_serving

Costs follow arXiv 2502.08606v2. Training a teacher is shared by the students it serves, and so are logits that are
stored. An existing teacher's training is paid already unless the scenario says otherwise.

Device-hours and money become FLOP (`Device`), memory and latency a student size (`largest_served`):

    C = hours * peak * mfu * 3600              hours = money / price
    N_max: weights and key-value cache fit the memory, and reading the weights once per token keeps the latency
"""

import math
from dataclasses import dataclass

import numpy as np

from distillaw.accounting.architecture import ParamConvention, Params
from distillaw.accounting.family import FixedAspect
from distillaw.accounting.flops import TRAINING_FACTOR
from distillaw.accounting.hardware import SECONDS_PER_HOUR, Hardware, RunCost, estimate_cost
from distillaw.accounting.memory import serving_memory
from distillaw.accounting.scenarios import CostShares
from distillaw.errors import ConfigError
from distillaw.laws.base import Array
from distillaw.laws.published import published
from distillaw.laws.search import last_true
from distillaw.planning.phrases import say
from distillaw.planning.situation import (
    SMALLEST_RATIO,
    Situation,
    Teacher,
    cut_source,
    forward_curve,
    forward_flop,
    log_head_start,
)


def shares_of(situation: Situation, teacher: Teacher | None) -> CostShares:
    """(delta_Lgt, delta_Pre) of one student: what it pays of the teacher's logits and training."""
    if teacher is None:
        return CostShares(0.0, 0.0)
    shares = situation.cost_shares
    n = situation.students_served
    logits = shares.delta_lgt / (n if situation.logits == "stored" else 1)
    training = shares.delta_pre if teacher.exists else 1.0
    return CostShares(logits, training / n)


def _hides_cost(situation: Situation, teacher: Teacher | None) -> bool:
    """True where this student pays for a teacher whose price nobody knows: its size, or the tokens of its training."""
    if teacher is None:
        return False
    shares = shares_of(situation, teacher)
    if teacher.params is None:
        return max(shares.delta_lgt, shares.delta_pre) > 0
    return teacher.tokens is None and shares.delta_pre > 0


def tokens_for(situation: Situation, params: float, teacher: Teacher | None) -> float | None:
    """Tokens that a student of this size can have from a teacher: given, or bought; None where it buys none.

    Where tokens are given nobody pays for training a teacher: none that this student would have to pay for.
    """
    if situation.student_tokens is not None:
        return situation.student_tokens if shares_of(situation, teacher).delta_pre == 0 else None
    if _hides_cost(situation, teacher):
        return None
    assert situation.compute is not None
    tokens = float(tokens_on(situation, situation.compute, forward_flop(situation, params), teacher))
    return tokens if tokens > SMALLEST_RATIO * params else None


def tokens_bought(situation: Situation, sizes: Array, teacher: Teacher | None) -> Array:
    """The same for many sizes; nothing where the teacher's size is unknown, negative where it costs too much."""
    if _hides_cost(situation, teacher):
        return np.zeros(len(sizes))
    assert situation.compute is not None
    return tokens_on(situation, situation.compute, forward_curve(situation, sizes), teacher)


def tokens_on(situation: Situation, compute: Array | float, student: Array | float, teacher: Teacher | None) -> Array:
    """D = (C - serving - teacher training) / (3 F(N_S) + delta_Lgt F(N_T)); of the shape that both broadcast to.

    Args:
        situation: who pays for what.
        compute: C, FLOP.
        student: F(N_S), FLOP per token.
        teacher: of known size, or free, or None.
    """
    left, each = compute - student * situation.inference_tokens, TRAINING_FACTOR * student
    if teacher is not None and teacher.params is not None:
        forward, shares = _forward(situation, teacher), shares_of(situation, teacher)
        left = left - shares.delta_pre * TRAINING_FACTOR * forward * (teacher.tokens or 0.0)
        each = each + shares.delta_lgt * forward
    return np.asarray(left / each)


def _forward(situation: Situation, teacher: Teacher) -> float:
    """FLOP per token of a teacher of known size: of all its models."""
    assert teacher.params is not None
    return teacher.models * forward_flop(situation, teacher.params)


def bill(
    situation: Situation, params: float, tokens: float, teacher: Teacher | None, *, distilled_share: float = 1.0
) -> dict[str, float | None]:
    """FLOP by part of training a student of this size on these tokens.

    Args:
        situation: who pays for what.
        params: N_S.
        tokens: D_S in all.
        teacher: or None.
        distilled_share: share of the tokens that come with the teacher's targets.

    Returns:
        Parts at full cost; `total` counts the shares that this student pays. None where an unknown teacher size
        hides a part.
    """
    student = forward_flop(situation, params)
    parts: dict[str, float | None] = {
        "student_training": TRAINING_FACTOR * student * tokens,
        "teacher_logits": 0.0,
        "teacher_training": 0.0,
    }
    if situation.inference_tokens:
        parts["serving"] = student * situation.inference_tokens
    own = TRAINING_FACTOR * student * tokens + student * situation.inference_tokens
    if teacher is None:
        return {**parts, "total": own}
    if teacher.params is None:
        total = None if _hides_cost(situation, teacher) else own
        return {**parts, "teacher_logits": None, "teacher_training": None, "total": total}
    forward, shares = _forward(situation, teacher), shares_of(situation, teacher)
    logits, training = forward * tokens * distilled_share, TRAINING_FACTOR * forward * (teacher.tokens or 0.0)
    total = None if _hides_cost(situation, teacher) else own + shares.delta_lgt * logits + shares.delta_pre * training
    known = training if teacher.tokens is not None else None
    return {**parts, "teacher_logits": logits, "teacher_training": known, "total": total}


def effective_tokens(situation: Situation, tokens: Array | float) -> Array:
    """Fresh tokens that these are worth where the data must be repeated (Muennighoff et al. 2023)."""
    D = np.asarray(tokens, dtype=np.float64)
    if situation.unique_tokens is None or np.all(D <= situation.unique_tokens):
        return D
    correction = published("muennighoff2023").repetition
    assert correction is not None
    return correction.effective_tokens(tokens=D, unique_tokens=situation.unique_tokens)


def student_tokens_worth(situation: Situation, tokens: Array | float, *, taught: bool) -> Array:
    """Fresh tokens after which a random start stands where this student does: repeats count less, cuts begin ahead."""
    worth = effective_tokens(situation, tokens)
    source = cut_source(situation) if situation.start == "pruned" else None
    if source is None:
        return worth
    ahead, sd = log_head_start(situation, source, taught=taught)
    return worth + math.exp(ahead + situation.start_shift * sd)


SERVED = FixedAspect()
"""The family whose members are served."""
SMALLEST, LARGEST = 1e3, 1e14
"""Parameters between which the largest student is sought: a slip of the pen, and ten times the largest ever named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What budgets of hours and money buy FLOP on, and what strategies are priced on."""

    preset: Hardware
    mfu: float | None = None
    """Utilisation assumed, in (0, 1]; None: the preset's."""
    price_per_hour: float | None = None
    """US dollars; None: the preset's, which may have none."""

    def __post_init__(self) -> None:
        """Refuse a utilisation or a price that is none."""
        if self.mfu is not None and not 0 < self.mfu <= 1:
            raise ConfigError(say("mfu", mfu=self.mfu))
        if self.price_per_hour is not None and not 0 < self.price_per_hour < math.inf:
            raise ConfigError(say("price", price=self.price_per_hour))

    @property
    def used(self) -> float:
        """Utilisation that is counted with."""
        return self.preset.mfu if self.mfu is None else self.mfu

    @property
    def rate(self) -> float | None:
        """US dollars per hour; None where nobody said."""
        return self.preset.price_per_hour if self.price_per_hour is None else self.price_per_hour

    @property
    def span(self) -> tuple[float, float] | None:
        """Utilisations that are seen; None where one was given."""
        return None if self.mfu is not None else (self.preset.mfu_low, self.preset.mfu_high)

    def cost(self, flop: float) -> RunCost:
        """Hours and dollars of so many FLOP."""
        return estimate_cost(flop, self.preset, mfu=self.mfu, price_per_hour=self.price_per_hour)

    def buys(self, *, device_hours: float | None = None, money: float | None = None) -> tuple[float, str]:
        """FLOP that device-hours or money buy, and the sentence that says how.

        Args:
            device_hours: hours of the device.
            money: US dollars.

        Raises:
            ConfigError: not exactly one of the two, not positive, or no price known.
        """
        if (device_hours is None) == (money is None):
            raise ConfigError("give either device-hours or money, not both")
        hours, how = (device_hours, say("hours", hours=device_hours)) if device_hours is not None else (0.0, "")
        if money is not None:
            if self.rate is None:
                raise ConfigError(say("no price", device=self.preset.name))
            hours, how = money / self.rate, say("dollars", money=money, price=self.rate)
        if not 0 < hours < math.inf:
            raise ConfigError(say("budget positive", how=how))
        flop = hours * SECONDS_PER_HOUR * self.preset.peak_flop_per_second * self.used
        span = "" if self.span is None else say("utilisation seen", low=self.span[0], high=self.span[1])
        bought = {"device": self.preset.name, "share": 100 * self.used, "flop": flop}
        return flop, say("budget buys", how=how, span=span, **bought)

    @property
    def note(self) -> str:
        """At which utilisation and price."""
        seen = "" if self.span is None else f" ({self.span[0]:.0%} to {self.span[1]:.0%} are seen)"
        money = "its price is not known: --price" if self.rate is None else f"${self.rate:.2f} an hour"
        return f"hours of one {self.preset.name} at {self.used:.0%} of its peak{seen}; {money}"

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        span = None if self.span is None else list(self.span)
        return {"name": self.preset.name, "mfu": self.used, "mfu_range": span, "price_per_hour": self.rate}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingLimit:
    """The largest student that can be served."""

    params: float
    """Non-embedding."""
    text: str
    """Why, for people."""


def largest_served(
    *,
    memory_bytes: float | None = None,
    latency: float | None = None,
    bandwidth: float | None = None,
    weight_bytes: float = 2.0,
    context: int,
    vocab: int,
    sequences: int = 1,
) -> ServingLimit:
    """The largest student that can be served, with the reason.

    Args:
        memory_bytes: what weights and key-value cache may take.
        latency: seconds per generated token; needs `bandwidth`.
        bandwidth: bytes per second at which the device reads its memory: a token reads all weights once.
        weight_bytes: bytes per weight.
        context: tokens held per sequence.
        vocab: n_vocab.
        sequences: sequences served at once.

    Raises:
        ConfigError: no limit given, a limit that is not positive, or one that nothing meets.
    """
    given = {
        "serve-memory": memory_bytes,
        "serve-latency": latency,
        "serve-bandwidth": bandwidth,
        "weight-bytes": weight_bytes,
    }
    for name, value in given.items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(say("limit positive", option=name, value=value))
    if latency is not None and bandwidth is None:
        raise ConfigError(say("needs bandwidth"))
    limits = []
    if memory_bytes is not None:
        limits.append((memory_bytes, say("memory", memory=memory_bytes), sequences))
    if latency is not None and bandwidth is not None:
        limits.append((latency * bandwidth, say("latency", ms=1000 * latency), 0))
    if not limits:
        raise ConfigError("give --serve-memory, or --serve-latency with --serve-bandwidth")

    def largest(room: float, held: int) -> float:
        """The largest N of the fixed-aspect family that fits; SMALLEST where none does."""

        def fits(log_params: np.ndarray) -> np.ndarray:
            taken = _bytes(math.exp(float(log_params)), weight_bytes, context, vocab, held)
            return np.asarray(taken <= room)

        return float(np.exp(last_true(fits, low=np.log(SMALLEST), high=np.log(LARGEST))))

    size, why = min((largest(room, held), why) for room, why, held in limits)
    if size <= SMALLEST * (1 + 1e-9):
        raise ConfigError(say("holds none", why=why, vocab=vocab, bytes=weight_bytes))
    return ServingLimit(params=size, text=say("limit", why=why, bytes=weight_bytes))


def _bytes(params: float, weight_bytes: float, context: int, vocab: int, sequences: int) -> float:
    """Weights, and the key-value cache of so many sequences."""
    count = Params(params, ParamConvention.NON_EMBEDDING)
    weights = SERVED.convert(count, ParamConvention.ALL_WEIGHTS, vocab=vocab, matrices=1).value * weight_bytes
    if not sequences:
        return weights
    shape = SERVED.nearest_shape(params, context=context, vocab=vocab)
    return weights + serving_memory(shape, sequences=sequences).kv_cache
