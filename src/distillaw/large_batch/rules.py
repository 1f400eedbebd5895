"""How rate, betas, decay, schedule and gradient noise follow the batch: pure functions, for any optimiser loop.

    sqrt      eta_L = eta_S sqrt(B_L/B_S)     keeps the covariance of one step (Hoffer 2017, arXiv 1705.08741)
    linear    eta_L = eta_S B_L/B_S           keeps drift and noise per epoch (Krizhevsky 2014, arXiv 1404.5997)

The two answer different questions, and neither holds in general (Shallue et al. 2018, arXiv 1811.03600). B is in
samples or tokens; only ratios enter, unless a population is given. The package never applies a rule by itself.

Beside the rules stand published laws of batch and rate, and the trade-off between steps and tokens to one loss:

    (S/S_min - 1)(E/E_min - 1) = 1        S = S_min (1 + B_crit/B),  E = E_min (1 + B/B_crit)

(McCandlish et al. 2018, arXiv 1812.06162). At B_crit twice the tokens are used, at 0.2 B_crit 1.2 times. Every constant
is a record in data/*.toml with its source, range and doubt. All were fitted on next-token cross-entropy: no such law is
known for a distillation loss. The laws disagree by factors; none is *the* law.
"""

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files

from distillaw.errors import ConfigError
from distillaw.laws.base import Box
from distillaw.quantities import did_you_mean

LARGEST_RATIO = 1e6
"""No batch is compared with one a million times smaller or larger: such a ratio is a slip of units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an optimiser is given, tuned at one batch."""

    batch: float
    """Samples or tokens of one step."""
    peak_lr: float
    weight_decay: float = 0.0
    """PyTorch's: w <- w (1 - eta lambda)."""
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


def batch_ratio(batch: float, reference: float) -> float:
    """R = B_L / B_S, checked.

    Raises:
        ConfigError: a batch that is not positive and finite, or a ratio beyond `LARGEST_RATIO` either way.
    """
    for name, value in (("batch", batch), ("reference batch", reference)):
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} = {value:g}: it must be positive and finite, in the unit of the other")
    ratio = batch / reference
    if not 1 / LARGEST_RATIO <= ratio <= LARGEST_RATIO:
        raise ConfigError(
            f"batch {batch:g} is {ratio:.3g} times the reference {reference:g}: beyond {LARGEST_RATIO:g} either way "
            "no rule means anything. Are both in the same unit, samples or tokens?"
        )
    return ratio


def finite_population(batch: float, population: float | None) -> float:
    """The factor that sampling without replacement puts on the covariance of a batch's mean gradient.

        cov(g^) = (C/M) f,    f = (1 - M/N) N/(N - 1),    C the centred covariance of the N per-sample gradients

    It matters from a few per cent of the data on: 0.918 at M = 4096 of N = 50,000; 1 where no population is given.

    Raises:
        ConfigError: the batch is not smaller than the population: such a gradient has no noise at all.
    """
    if population is None:
        return 1.0
    if not 0 < batch < population or not population < math.inf:
        raise ConfigError(
            f"a batch of {batch:g} out of {population:g} samples: it must be smaller than the finite data set, else "
            "its gradient has no sampling noise to keep"
        )
    return (population - batch) / (population - 1)


def sqrt_rate(peak_lr: float, *, batch: float, reference: float, population: float | None = None) -> float:
    """The rate that keeps the covariance of one step of SGD.

        eta_L = eta_S sqrt( (B_L/B_S) f(B_S)/f(B_L) ),    f = 1 with replacement

    Args:
        peak_lr: eta_S, tuned at the reference batch.
        batch: B_L.
        reference: B_S, in the same unit.
        population: N samples drawn without replacement; None (the paper's M << N) leaves f out.

    Source:
        Hoffer, Hubara, Soudry 2017, arXiv 1705.08741; the finite-population factor is ours (docs/regime.md).
    """
    ratio = batch_ratio(batch, reference)
    corrected = ratio * finite_population(reference, population) / finite_population(batch, population)
    return _rate(peak_lr) * math.sqrt(corrected)


def linear_rate(peak_lr: float, *, batch: float, reference: float) -> float:
    """eta_L = eta_S B_L/B_S: drift and noise per epoch are kept, while B is far below the noise scale.

    Source:
        Krizhevsky 2014, arXiv 1404.5997; Goyal et al. 2017, arXiv 1706.02677.
    """
    return _rate(peak_lr) * batch_ratio(batch, reference)


def constant_rate(peak_lr: float, *, batch: float, reference: float) -> float:
    """The rate as it is, whatever the batch: what the others are compared with."""
    batch_ratio(batch, reference)
    return _rate(peak_lr)


RATE_RULES: Mapping[str, Callable[..., float]] = {"sqrt": sqrt_rate, "linear": linear_rate, "constant": constant_rate}


def sde_betas(settings: Settings, *, batch: float) -> Settings:
    """Adam's betas and epsilon by its stochastic differential equation, k = B_L/B_S; the rate as `sqrt_rate`.

        beta' = 1 - k (1 - beta)  for both,    eps' = eps / sqrt(k)

    Raises:
        ConfigError: k (1 - beta) >= 1, where the rule leaves (0, 1); the largest k it allows is named.

    Source:
        Malladi et al. 2022, arXiv 2205.10287.
    """
    ratio = batch_ratio(batch, settings.batch)
    scaled = {}
    for name, beta in (("beta1", settings.beta1), ("beta2", settings.beta2)):
        _between(name, beta, low_open=False)
        scaled[name] = 1 - ratio * (1 - beta)
        if scaled[name] <= 1e-12 and beta > 0:  # 1 - 10 (1 - 0.9) is rounding, not a beta
            raise ConfigError(
                f"{name} = {beta:g} at {ratio:.4g} times the batch would become {scaled[name]:.4g}; the rule "
                f"1 - k (1 - beta) holds for k below {1 / (1 - beta):.4g}. Take a smaller batch, or the half-life rule "
                "(beta2 only)"
            )
    return replace(
        settings,
        batch=batch,
        peak_lr=sqrt_rate(settings.peak_lr, batch=batch, reference=settings.batch),
        eps=settings.eps / math.sqrt(ratio),
        beta1=scaled["beta1"] if settings.beta1 else 0.0,
        beta2=scaled["beta2"] if settings.beta2 else 0.0,
    )


def half_life_beta2(beta2: float, *, batch: float, reference: float) -> float:
    """beta2' = beta2^(B_L/B_S): the second moment's half-life in tokens is kept, inside (0, 1) for every ratio.

    Raises:
        ConfigError: the result rounds to 0 or 1 in double precision.

    Source:
        Marek et al. 2025, arXiv 2507.07101; beta1 stays. It agrees with `sde_betas` to first order in 1 - beta2.
    """
    _between("beta2", beta2)
    scaled = beta2 ** batch_ratio(batch, reference)
    _between(f"beta2 = {beta2:g} at {batch / reference:.4g} times the batch, beta2'", scaled)
    return scaled


def decay_for_window(window: float, *, batch: float, peak_lr: float, tokens: float) -> float:
    """The weight decay that gives a window: lambda = B / (eta tau D).

    tau, the time over which AdamW averages its weights as a share of the run, is B / (eta lambda D): the same formula
    gives the window of a decay.

    Args:
        window: tau.
        batch: B, tokens.
        peak_lr: eta.
        tokens: D of the run.

    Source:
        Wang & Aitchison 2024, arXiv 2405.13698; Bergsma et al. 2025, arXiv 2505.13738.
    """
    _positive(window=window, batch=batch, peak_lr=peak_lr, tokens=tokens)
    return batch / (peak_lr * tokens * window)


def timescale_decay(
    weight_decay: float, *, batch: float, reference: float, rate_ratio: float, tokens_ratio: float = 1.0
) -> float:
    """The decay that keeps the window as a share of the run: lambda' = lambda (B'/B) (eta/eta') (D/D').

    With the root rate that is lambda sqrt(B'/B) D/D', which nanochat uses; with the linear rate at equal tokens lambda
    stays.

    Args:
        weight_decay: lambda at the reference, >= 0.
        batch: B'.
        reference: B.
        rate_ratio: eta'/eta.
        tokens_ratio: D'/D.
    """
    _positive(rate_ratio=rate_ratio, tokens_ratio=tokens_ratio)
    if not 0 <= weight_decay < math.inf:
        raise ConfigError(f"weight_decay = {weight_decay:g}: it must be finite and not negative")
    return weight_decay * batch_ratio(batch, reference) / (rate_ratio * tokens_ratio)


def mup_simple_rate(peak_lr: float, *, width: float, base_width: float) -> float:
    """The rate of hidden matrices and head at another width: eta base/width; embeddings and gains keep eta.

    Source:
        Wortsman et al. 2023, arXiv 2309.14322, section 3.2.4.
    """
    _positive(width=width, base_width=base_width)
    return _rate(peak_lr) * base_width / width


BETA_RULES = ("keep", "half-life", "sde")
DECAY_RULES = ("keep", "timescale")


def scale_settings(
    settings: Settings, *, batch: float, rate: str = "sqrt", betas: str = "keep", decay: str = "keep"
) -> Settings:
    """The settings of another batch, at equal tokens, by named rules.

    Args:
        settings: tuned at `settings.batch`.
        batch: the new one, in the same unit.
        rate: a key of `RATE_RULES`.
        betas: `keep`; `half-life` (beta2 only); `sde` (both betas and epsilon).
        decay: `keep`, or `timescale`.

    Raises:
        ConfigError: an unknown rule, an absurd ratio, or betas that leave (0, 1).

    Example:
        >>> tuned = Settings(batch=64, peak_lr=0.01, weight_decay=0.1, beta2=0.95)
        >>> new = scale_settings(tuned, batch=256, betas="half-life", decay="timescale")
        >>> (new.peak_lr, round(new.beta2, 4), new.weight_decay)
        (0.02, 0.8145, 0.2)
    """
    for what, rule, known in (
        ("rate", rate, tuple(RATE_RULES)),
        ("beta", betas, BETA_RULES),
        ("decay", decay, DECAY_RULES),
    ):
        if rule not in known:
            raise ConfigError(f"{what} rule {rule!r}{did_you_mean(rule, known)}: one of {', '.join(known)}")
    reference = settings.batch
    peak_lr = RATE_RULES[rate](settings.peak_lr, batch=batch, reference=reference)
    lam = settings.weight_decay
    if decay == "timescale":
        lam = timescale_decay(lam, batch=batch, reference=reference, rate_ratio=peak_lr / settings.peak_lr)
    if betas == "sde":
        settings = sde_betas(settings, batch=batch)
    elif betas == "half-life":
        settings = replace(settings, beta2=half_life_beta2(settings.beta2, batch=batch, reference=reference))
    return replace(settings, batch=batch, peak_lr=peak_lr, weight_decay=lam)


def _rate(peak_lr: float) -> float:
    _positive(peak_lr=peak_lr)
    return peak_lr


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} = {value:g}: it must be positive and finite")


def _between(name: str, value: float, *, low_open: bool = True) -> None:
    if not (0 < value < 1 if low_open else 0 <= value < 1):
        raise ConfigError(f"{name} = {value:g}: it must lie {'in (0, 1)' if low_open else 'in [0, 1)'}")


def adapt_phases(
    phases: Sequence[float], *, batch: float, reference: float, whole_epochs: bool = False
) -> tuple[float, ...]:
    """Positions or lengths of phases, times R: a large batch then makes as many updates as the small one had.

    Args:
        phases: drop positions, or the end, in epochs or tokens (in steps they stay as they are); not negative.
        batch: the large batch.
        reference: the batch that the phases were made for, in the same unit.
        whole_epochs: times ceil(R), as the released code does.

    Raises:
        ConfigError: an absurd ratio, a phase that is negative or not finite.
    """
    ratio = batch_ratio(batch, reference)
    for phase in phases:
        if not 0 <= phase < math.inf:
            raise ConfigError(f"a phase of {phase:g}: it must be finite and not negative")
    if whole_epochs:
        ratio = math.ceil(ratio - 1e-9)
    return tuple(phase * ratio for phase in phases)


def steps_of(epochs: float, *, samples: int, batch: int, drop_last: bool = False) -> int:
    """Updates in so many epochs, the partial last batch counted unless it is dropped."""
    if samples < 1 or batch < 1 or not 0 <= epochs < math.inf:
        raise ConfigError(f"{epochs:g} epochs of {samples} samples in batches of {batch}: counts must be positive")
    per_epoch = samples // batch if drop_last else math.ceil(samples / batch)
    return round(epochs * per_epoch)


def at_equal_samples(factor: Callable[[int], float], *, batch: float, reference: float) -> Callable[[int], float]:
    """The schedule of a large batch that sees no more samples: step t uses the factor of step t R (no adaptation).

    A schedule maps a 0-based step to a multiple of the peak rate, as torch's `LambdaLR` takes it.
    """
    ratio = batch_ratio(batch, reference)
    return lambda step: factor(math.floor(step * ratio + 1e-9))


def clip_at(step: int, *, clip_norm: float, clip_steps: int | None = None) -> float:
    """The gradient norm at which step `step` is clipped; infinity is not at all.

    The paper clips the first iterations only, its released code every step of every run (at 5.0): both are here.

    Args:
        step: 0-based.
        clip_norm: the bound, > 0.
        clip_steps: clip only so many first steps; None: always.
    """
    if not clip_norm > 0:
        raise ConfigError(f"clip_norm = {clip_norm:g}: it must be above 0")
    if clip_steps is not None and clip_steps < 0:
        raise ConfigError(f"clip_steps = {clip_steps}: a number of first steps, or None for always; not negative")
    return clip_norm if clip_steps is None or step < clip_steps else math.inf


def noise_variance(
    *, batch: float, reference: float, population: float | None = None, mean_share: float = 0.0
) -> float:
    """sigma^2 that makes the trace of the large batch's gradient covariance that of the small one.

        sigma^2 = (M_L f(M_S)/M_S - f(M_L)) / (1 + rho)        M_L/M_S - 1 with replacement and rho = 0

    Args:
        batch: M_L, samples.
        reference: M_S, samples, at most M_L.
        population: N samples drawn without replacement; None: with replacement.
        mean_share: rho = |mu|^2 / tr C; 0 where the mean gradient is small against the spread (early training).

    Raises:
        ConfigError: a reference above the batch (noise cannot be taken away), or a negative share.
    """
    ratio = batch_ratio(batch, reference)
    if ratio < 1:
        raise ConfigError(
            f"batch {batch:g} is smaller than the reference {reference:g}: it is noisier already, and weights can only "
            "add noise"
        )
    if not 0 <= mean_share < math.inf:
        raise ConfigError(f"mean_share = {mean_share:g}: |mean|^2 over the spread, finite and not negative")
    small, large = finite_population(reference, population), finite_population(batch, population)
    return (ratio * small - large) / (1 + mean_share)


# --- published laws ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLaw:
    """One published power law: coefficient times the product of coordinates to their exponents."""

    name: str
    gives: str
    """`best` or `critical` batch, `measured` level (tokens); `rate` (peak rate); `window` (share of the run)."""
    formula: str
    coefficient: float
    exponents: Mapping[str, float]
    """By coordinate: params, tokens, compute, loss."""
    units: Mapping[str, float] = field(default_factory=dict)
    """What a coordinate is counted in, where that is not 1."""
    tokens_per_unit: float
    """Tokens in the law's own unit, e.g. 2048 for sequences of 2048."""
    overhead: float | None = None
    """Of a critical batch: extra tokens at it as a share of the fewest; 1 is the hyperbola's B_crit, 0.2 a fifth."""
    range: Box
    """Where it was fitted, as far as known; an empty box says that it is not known."""
    only_if: str = ""
    """A condition that its own range states; outside that range the law is not asked at all."""
    golden: Mapping[str, object]
    title: str
    source: str
    certainty: str
    fitted_on: str
    known_problems: tuple[str, ...]

    def __call__(self, **coords: float) -> float:
        """The value: tokens for a batch, else the quantity itself.

        Raises:
            ConfigError: a coordinate that the law needs is missing, or not positive and finite.
        """
        value = self.coefficient * self.tokens_per_unit
        for name, exponent in self.exponents.items():
            if name not in coords or not 0 < coords[name] < math.inf:
                raise ConfigError(f"{self.name} needs {name}, positive and finite; got {coords.get(name)}")
            value *= (coords[name] / self.units.get(name, 1.0)) ** exponent
        return value

    def applies(self, **coords: float) -> bool:
        """Whether its inputs are known and its own condition, if it has one, holds."""
        known = self.exponents.keys() <= coords.keys()
        return known and (not self.only_if or bool(self.range.inside(dict(coords))))

    def complaints(self, **coords: float) -> list[str]:
        """What to say of the range at these coordinates; empty inside it."""
        if not self.range.bounds:
            return ["fitted range not known"]
        return self.range.complaints(dict(coords))

    def hyperbola(self, **coords: float) -> float:
        """B_crit of the hyperbola, tokens: the law's batch over its overhead."""
        assert self.overhead is not None, f"{self.name} gives no critical batch"
        return self(**coords) / self.overhead


def batch_laws(gives: str | None = None) -> list[BatchLaw]:
    """The published laws, all or those of one kind, by name."""
    return [law for law in _all_laws() if gives in (None, law.gives)]


def tokens_over_fewest(batch: float, critical: float) -> float:
    """E/E_min = 1 + B/B_crit."""
    return 1 + batch / critical


def steps_over_fewest(batch: float, critical: float) -> float:
    """S/S_min = 1 + B_crit/B."""
    return 1 + critical / batch


@cache
def _all_laws() -> tuple[BatchLaw, ...]:
    folder = files("distillaw.large_batch") / "data"
    laws = []
    for entry in folder.iterdir():
        record = tomllib.loads(entry.read_text(encoding="utf-8")) if entry.name.endswith(".toml") else {}
        for law in record.get("law", ()):
            own = {key: record[key] for key in ("title", "source", "certainty", "fitted_on")} | law
            own["range"] = Box.of({name: tuple(ends) for name, ends in law.get("range", {}).items()})
            own["known_problems"] = (*record["known_problems"], *law.get("known_problems", ()))
            laws.append(BatchLaw(**own))
    return tuple(sorted(laws, key=lambda law: law.name))
