"""The user's own baselines: models trained without a teacher on the user's text, and what their losses came to.

A law knows how much a teacher changes the loss at a ratio L_T / L_S. One baseline gives L_S on the user's text, so that
a measured teacher's loss counts whole; several of them, a curve, say how the user's losses fall beside the law's.

    r_i = ln(L_i / law(N_i, D_i)) = s + b ln(D_i / D) + n ln(N_i / N) + f(N_i, D_i) + noise
    s flat,  b ~ N(0, TOKENS_DRIFT^2),  n ~ N(0, SIZE_DRIFT^2),  cov(f, f') = ROUGHNESS^2 exp(-distance in e-folds)

s + f at the size N and tokens D that are asked about is the scale of the text there: at a baseline it is what was
measured, and away from all of them its standard deviation grows; the more, the farther all that is from the law's
range. It grows likewise where the baselines agree less with each other than that allows: with K the covariance of r,

    variance = k^2 times that of the process,    k^2 = max(1, (DOF + r' K^-1 r) / (DOF + n - 1))
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from distillaw.errors import ConfigError
from distillaw.laws.ensemble import LawEnsemble
from distillaw.planning.gains import ASSUMED_SEED_SD
from distillaw.planning.phrases import say
from distillaw.quantities import parse_count
from distillaw.runs.table import read_table

TOKENS_DRIFT = 0.025
"""Standard deviation of b, per e-fold of tokens: 0.006 to 0.019 of six public collections against the surrogates, 0.053
of a seventh whose runs shared one schedule (benchmarks/verdict/baselines.py, `line`)."""
SIZE_DRIFT = 0.015
"""The same of n, per e-fold of parameters: 0.000 to 0.012."""
FAR_TOKENS_DRIFT, FAR_SIZE_DRIFT = 0.08, 0.03
"""Of both where models are `FAR` e-folds outside the law's range: root mean squares over four texts in the studies of
this tree, which are farther still: 0.027, 0.027, 0.114, 0.116 and 0.019, 0.012, 0.042, 0.043. On the way there the
square of the e-folds counts: some way outside three of the collections have 0.012 to 0.016. (Those four rise, since a
law drawn on so far falls too fast; the collections fall. A mean of 0.07 made 7 to 9 % of error there 14 %.)"""
FAR = 5.4
"""Ln of the smallest size that the surrogates' law was fitted on over the largest in those studies."""
ROUGHNESS = 0.015
"""Standard deviation of f, which is what straight lines leave (shapes of models, recipes, seeds): 0.003 to 0.028 of
them, 0.061 of the seventh."""
_FLAT = 10.0
"""Standard deviation of s: no prior to speak of, since texts and tokenizers differ by up to factors."""
DOF = 3.0
"""Of the prior of k^2, chi-squared about 1, as that of text_scale.py; one baseline says nothing of k, and it never
shrinks."""
RISES = 0.015
"""Share by which a run may come out above one of its size with no more tokens: three standard deviations of the
difference of two seeds, 0.36 % of the loss each (cells repeated in the shipped studies, docs/verdict.md)."""
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A model that was trained without a teacher on the user's text, to the end of its schedule."""

    params: float
    """Non-embedding."""
    tokens: float
    loss: float
    """On held-out text, nats/token."""
    loss_se: float = 0.0
    """Standard error of `loss`, nats/token."""
    of_question: tuple[str, ...] = ()
    """What was not given and is the question's: `student_params`, `tokens`. Another question has another baseline."""

    def __post_init__(self) -> None:
        """Refuse what no run can be."""
        for what in ("params", "tokens", "loss"):
            value = getattr(self, what)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"baseline {what} = {value}: it must be positive and finite")
        if not 0 <= self.loss_se < self.loss:
            raise ConfigError(
                f"baseline loss_se = {self.loss_se}: a standard error between 0 and the loss, {self.loss:g}"
            )


Given: TypeAlias = str | float | Path | Baseline
"""A baseline as people give it: `1.95@2B` (loss at tokens), `1.95@300M@2B` (loss, parameters, tokens), a loss alone at
the question's own size and tokens, or the path of a table with columns tokens, loss and perhaps params and loss_se."""


def read_baselines(given: Sequence[Given], *, params: float | None, tokens: float | None) -> tuple[Baseline, ...]:
    """Baselines in numbers.

    Args:
        given: as they were given.
        params: size asked about, of those that do not say theirs.
        tokens: the same of tokens; None where the budget is not in tokens.

    Raises:
        ConfigError: what cannot be read, or losses that rise with the tokens.
        DataError: a table that cannot be read.
    """
    found: list[Baseline] = []
    for each in given:
        if isinstance(each, Baseline):
            found.append(each)
        elif isinstance(each, str | Path) and Path(each).suffix.lower() in _TABLES:
            found += _of_table(each, params)
        else:
            found.append(_of_text(str(each), params, tokens))
    _refuse_rising(found)
    return tuple(found)


def _of_text(text: str, params: float | None, tokens: float | None) -> Baseline:
    loss, *rest = text.split("@")
    if len(rest) > 2:
        raise ConfigError(f"--student-loss {text}: write LOSS@TOKENS or LOSS@PARAMS@TOKENS, e.g. 1.95@2B")
    try:
        value = float(loss)
    except ValueError:
        raise ConfigError(
            f"--student-loss {text}: {loss!r} is no loss; write 1.95@2B (nats/token at tokens), or name a table of "
            f"tokens and loss ({', '.join(_TABLES)})"
        ) from None
    size = parse_count(rest[0], name="--student-loss") if len(rest) == 2 else params
    read = parse_count(rest[-1], name="--student-loss") if rest else tokens
    if size is None:
        raise ConfigError(f"--student-loss {text}: of which size? Name --student, or write 1.95@300M@2B")
    if read is None:
        raise ConfigError(
            f"--student-loss {text}: after how many tokens? Write 1.95@2B, for the budget is not in tokens"
        )
    left = ("student_params",) * (len(rest) < 2) + ("tokens",) * (not rest)
    return Baseline(params=size, tokens=read, loss=value, of_question=left)


def _of_table(path: str | Path, params: float | None) -> list[Baseline]:
    table = read_table(path)
    if missing := {"tokens", "loss"} - set(table):
        raise ConfigError(
            f"{path}: no column {' and '.join(sorted(missing))}; a baseline needs tokens and loss (nats/token), and "
            "params where that is not --student"
        )
    if "params" not in table and params is None:
        raise ConfigError(f"{path}: no column params, and no --student says the size")
    columns = {name: table[name] for name in ("params", "tokens", "loss", "loss_se") if name in table}
    for name, values in columns.items():
        if values.dtype == object:
            raise ConfigError(f"{path}: column {name}: numbers are needed, e.g. 2000000000 and not 2B")
    usual: dict[str, Any] = {}
    if "params" not in table:
        usual = {"params": params, "of_question": ("student_params",)}
    found = []
    for k, row in enumerate(zip(*columns.values(), strict=True), start=1):
        try:
            given: dict[str, Any] = dict(zip(columns, map(float, row), strict=True))
            found.append(Baseline(**(usual | given)))
        except ConfigError as error:
            raise ConfigError(f"{path}: row {k}: {error}") from None
    return found


def _refuse_rising(found: Sequence[Baseline]) -> None:
    """Losses of one size fall with tokens, or they are not of finished runs on one text."""
    lowest: dict[float, Baseline] = {}
    for after in sorted(found, key=lambda run: (run.tokens, run.loss)):
        before = lowest.setdefault(after.params, after)
        slack = RISES * before.loss + 3 * math.hypot(before.loss_se, after.loss_se)
        if after.loss > before.loss + slack:
            two = {"first": before.loss, "few": before.tokens, "second": after.loss, "many": after.tokens}
            raise ConfigError(say("baseline rises", params=after.params, **two))
        if after.loss < before.loss:
            lowest[after.params] = after


def scale_at(
    ensemble: LawEnsemble, baselines: Sequence[Baseline], *, params: float, tokens: float, outside: float = 0.0
) -> tuple[float, float]:
    """Ln of the user's losses over the law's (the mean of its members') at N and D, and its standard deviation.

    `outside` is how many e-folds the farthest of baselines and question lies outside the law's range.
    """
    n = np.log([run.params for run in baselines] + [params])
    d = np.log([run.tokens for run in baselines] + [tokens])
    law = np.exp(ensemble.log_supervised(n[None, :-1], d[None, :-1])).mean(0)
    r = np.log([run.loss for run in baselines]) - np.log(law)
    x, y = d - d[-1], n - n[-1]
    distance = np.hypot(x[:, None] - x, y[:, None] - y)
    far = min(outside / FAR, 1.0) ** 2
    by_tokens = TOKENS_DRIFT + far * (FAR_TOKENS_DRIFT - TOKENS_DRIFT)
    by_size = SIZE_DRIFT + far * (FAR_SIZE_DRIFT - SIZE_DRIFT)
    prior = _FLAT**2 + by_tokens**2 * np.outer(x, x) + by_size**2 * np.outer(y, y)
    prior += ROUGHNESS**2 * np.exp(-distance)
    noise = np.array([ASSUMED_SEED_SD**2 + (run.loss_se / run.loss) ** 2 for run in baselines])
    known, here = prior[:-1, :-1] + np.diag(noise), prior[:-1, -1]
    weights = np.linalg.solve(known, here)
    k2 = max(1.0, float(DOF + r @ np.linalg.solve(known, r)) / (DOF + len(r) - 1))
    return float(weights @ r), math.sqrt(k2 * max(float(prior[-1, -1] - weights @ here), 0.0))
