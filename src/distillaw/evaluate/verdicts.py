"""What verdicts come to: rates and grades with intervals, at equal lengths too, and how far two judges agree.

The turns of a question are not independent, so the question is the unit: clustered standard errors, and percentile
intervals of a bootstrap that draws questions. Answers that are empty, refuse, repeat themselves or never end are judged
as they are, and counted here.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.errors import DataError
from distillaw.evaluate.benchmarks import by_cluster, interval_of, mean_and_se

Answers = Mapping[str, Sequence[str]]
"""question_id -> an answer per turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeVerdict:
    """What a judge said of one turn, in one order."""

    question_id: str
    category: str
    turn: int
    swapped: bool
    """Whether the second model's answer stood first."""
    value: float | None
    """A grade; or, pairwise, 1 for the first model, -1 for the second, 0 for a tie; None: no verdict."""


DRAWS = 10_000
"""Of the bootstrap; Efron and Tibshirani (1993, section 13.3) want a thousand, and more cost nothing here."""
FEW_DRAWS = 1_000
"""Where each is a fit."""
PRIORS = (10.0, 2.5)
"""Standard deviations of a logistic regression's level and slope before it saw anything (Gelman et al. 2008,
arXiv:0901.4011): few questions may be parted by length alone, and then there is no other estimate."""


def sum_up_pairs(
    verdicts: Sequence[JudgeVerdict], lengths: Mapping[tuple[str, int], tuple[int, int]] | None = None, *, seed: int = 0
) -> dict[str, object]:
    """Pairwise verdicts in both orders.

    A turn counts as won if both orders say so, and as a tie if they differ (a flip) or both say tie. Turns of which an
    order has no verdict are left out, counted, and bound the rate: as if all were lost, as if all were won.

        win rate = (wins + ties / 2) / turns

    Args:
        lengths: (question_id, turn) -> characters of both answers; with them the rate is also said at equal lengths.

    Returns:
        wins, ties, losses, win_rate with se, interval and bounds, length_controlled with interval, agreement of the
        orders with interval, first_place (share of decisive verdicts for the answer that stood first) with se,
        unparseable share, turns, questions.
    """
    orders: dict[tuple[str, int], dict[bool, float | None]] = {}
    for each in verdicts:
        orders.setdefault((each.question_id, each.turn), {})[each.swapped] = each.value
    turns = {key: (pair[False], pair[True]) for key, pair in orders.items() if len(pair) == 2}
    whole = {key: pair for key, pair in turns.items() if None not in pair}
    _check_enough(verdicts, {question for question, _ in whole})
    results = {key: a if a == b else 0.0 for key, (a, b) in whole.items()}
    clusters = [question for question, _ in whole]
    points = [0.5 + float(value or 0.0) / 2 for value in results.values()]
    agree = [float(a == b) for a, b in whole.values()]
    decisive = [each for each in verdicts if each.value]
    rate, se = mean_and_se(points, clusters)
    agreement, agreement_se = mean_and_se(agree, clusters)
    if se == 0:  # all questions alike: a bootstrap would claim certainty
        spread = interval_of(rate, se, points, len(set(clusters)))
    else:
        spread = bootstrap_interval(points, clusters, seed=seed)
    found: dict[str, object] = {
        "wins": sum(value == 1 for value in results.values()),
        "ties": sum(value == 0 for value in results.values()),
        "losses": sum(value == -1 for value in results.values()),
        "win_rate": rate,
        "win_rate_se": se,
        "win_rate_interval": spread,
        "win_rate_bounds": [(sum(points) + lost) / len(turns) for lost in (0, len(turns) - len(whole))],
        "agreement": agreement,
        "agreement_se": agreement_se,
        "agreement_interval": interval_of(agreement, agreement_se, agree, len(set(clusters))),
        "turns": len(whole),
        "questions": len(set(clusters)),
        **_unparseable(verdicts),
    }
    if len({each.question_id for each in decisive}) > 1:
        first = [float((each.value == 1) != each.swapped) for each in decisive]
        share, share_se = mean_and_se(first, [each.question_id for each in decisive])
        found |= {"first_place": share, "first_place_se": share_se}
    if lengths is not None and se > 0:
        longer = [lengths[key][0] - lengths[key][1] for key in whole]
        rate, low, high = control_length(points, longer, clusters, seed=seed)
        found |= {"length_controlled": rate, "length_controlled_interval": (low, high)}
    return found


def control_length(
    points: Sequence[float], longer: Sequence[float], clusters: Sequence[str], *, seed: int = 0
) -> tuple[float, float, float]:
    """(win rate at equal lengths, its 95 % bootstrap interval over clusters).

        P(win) = sigmoid(theta + phi tanh(d / sd(d))),   said at d = 0

    Dubois et al. 2024 (arXiv:2404.04475) without their term for each question's difficulty, which many models give.

    Args:
        points: 1 won, 0 lost, 1/2 tied.
        longer: how much longer the first model's answer is, characters.
    """
    apart = np.asarray(longer, float)
    x = np.stack([np.ones(len(apart)), np.tanh(apart / (apart.std() or 1.0))])
    of = np.unique(np.asarray(clusters), return_inverse=True)[1]
    n = int(of.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=FEW_DRAWS)
    weights = np.concatenate([np.ones((1, len(of))), drawn[:, of]])
    y, prior, theta = np.asarray(points), np.diag(np.power(PRIORS, -2.0)), np.zeros((len(weights), 2))
    for _ in range(50):  # Newton's; the priors keep the curvature above zero
        p = 1 / (1 + np.exp(-theta @ x))
        slope = (weights * (y - p)) @ x.T - theta @ prior
        products = np.stack([x[0], x[1], x[1] ** 2], 1)
        bend = (weights * p * (1 - p)) @ products
        bend = bend[:, [[0, 1], [1, 2]]] + prior
        step = np.clip(np.linalg.solve(bend, slope[..., None])[..., 0], -1, 1)
        theta += step
        if np.abs(step).max() < 1e-9:
            break
    rates = 1 / (1 + np.exp(-theta[:, 0]))
    low, high = np.quantile(rates[1:], [0.025, 0.975])
    return float(rates[0]), float(low), float(high)


def compare_judges(first: Sequence[JudgeVerdict], second: Sequence[JudgeVerdict]) -> dict[str, object]:
    """How far two judges of the same answers agree, over the turns on which both have verdicts.

    Returns:
        turns; pairwise: the share of results (won, tied, lost) that are the same, with se and interval, and
        `by_chance`, what judges of these habits would agree on blindly; graded: correlation and mean difference, second
        less first.
    """
    told = [_by_turn(each) for each in (first, second)]
    shared = [key for key in told[0] if key in told[1]]
    one, two = (np.array([values[key] for key in shared]) for values in told)
    if len({question for question, _ in shared}) < 2:
        return {"turns": len(shared)}
    if not any(each.swapped for each in first):
        spread = one.std() * two.std()
        correlation = float(((one - one.mean()) * (two - two.mean())).mean() / spread) if spread else None
        return {"turns": len(shared), "correlation": correlation, "difference": float((two - one).mean())}
    same, clusters = ([float(a == b) for a, b in zip(one, two, strict=True)], [question for question, _ in shared])
    share, se = mean_and_se(same, clusters)
    blind = sum(float((one == value).mean() * (two == value).mean()) for value in (-1, 0, 1))
    interval = interval_of(share, se, same, len(set(clusters)))
    found = {"agreement": share, "agreement_se": se, "agreement_interval": interval, "by_chance": blind}
    return {"turns": len(shared), **found}


def _by_turn(verdicts: Sequence[JudgeVerdict]) -> dict[tuple[str, int], float]:
    """The result of each turn, or its grade; a flip between orders is a tie."""
    said: dict[tuple[str, int], list[float | None]] = {}
    for each in verdicts:
        said.setdefault((each.question_id, each.turn), []).append(each.value)
    return {
        key: float(values[0] or 0.0) if len(set(values)) == 1 else 0.0
        for key, values in said.items()
        if None not in values
    }


LOOPS = 2.4
"""Bytes over their zlib-compressed ones from which on a text repeats itself: Whisper's mark of a failed decoding
(Radford et al. 2022, arXiv:2212.04356)."""
TAIL = 400
"""Last bytes of an answer that are looked at; English prose of that length compresses to 1.3 to 2.1."""
_REFUSES = re.compile(
    r"i('?m| am) (very |really |so )?(sorry|unable)|(i'?m )?sorry,|(i|my) apolog|as an ai|as a language model"
    r"|i can('?t|not) (help|assist|answer|provide|fulfil)|unfortunately, i",
    re.IGNORECASE,
)
"""How refusals begin; after the list of Zou et al. 2023 (arXiv:2307.15043)."""


def count_answers(answers: Answers, cut: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    """What answers are besides what a judge says of them: their number, mean characters, and how many are no answers.

    Args:
        cut: question_id -> whether the limit of tokens ended each of its answers.
    """
    texts = [text for each in answers.values() for text in each]
    tails = [text.encode()[-TAIL:] for text in texts]
    return {
        "answers": len(texts),
        "characters": sum(map(len, texts)) / max(1, len(texts)),
        "empty": sum(not text.strip() for text in texts),
        "refusing": sum(_REFUSES.match(text.strip().replace("’", "'")) is not None for text in texts),
        "repeating": sum(len(tail) > LOOPS * len(zlib.compress(tail)) for tail in tails),
        "unended": sum(sum(each) for each in cut.values()),
    }


def sum_up_grades(verdicts: Sequence[JudgeVerdict], *, seed: int = 0) -> dict[str, object]:
    """Grades of 1 to 10.

    Returns:
        grade with se and interval, by turn and by category (mean and n), unparseable share, turns, questions.
    """
    graded = [each for each in verdicts if each.value is not None]
    _check_enough(verdicts, {each.question_id for each in graded})
    values, clusters = [float(each.value or 0.0) for each in graded], [each.question_id for each in graded]
    grade, se = mean_and_se(values, clusters)
    return {
        "grade": grade,
        "grade_se": se,
        "grade_interval": bootstrap_interval(values, clusters, seed=seed),
        "by_turn": _means([f"turn {each.turn + 1}" for each in graded], values),
        "by_category": _means([each.category or "none" for each in graded], values),
        "turns": len(graded),
        "questions": len(set(clusters)),
        **_unparseable(verdicts),
    }


def bootstrap_interval(values: Sequence[float], clusters: Sequence[str], *, seed: int) -> tuple[float, float]:
    """95 % percentile interval of a mean, drawing whole clusters with replacement (Efron 1979)."""
    sums, sizes = by_cluster(values, clusters)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(DRAWS, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _means(names: Sequence[str], values: Sequence[float]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[float]] = {}
    for name, value in zip(names, values, strict=True):
        groups.setdefault(name, []).append(value)
    return {key: {"grade": float(np.mean(each)), "n": float(len(each))} for key, each in groups.items()}


def _unparseable(verdicts: Sequence[JudgeVerdict]) -> dict[str, object]:
    missing = sum(each.value is None for each in verdicts)
    return {"verdicts": len(verdicts), "unparseable": missing, "unparseable_share": missing / len(verdicts)}


def _check_enough(verdicts: Sequence[JudgeVerdict], questions: set[str]) -> None:
    if len(questions) < 2:
        missing = sum(each.value is None for each in verdicts)
        raise DataError(
            f"{missing} of {len(verdicts)} verdicts of the judge cannot be read, and {len(questions)} questions are "
            "left; see the replies in the verdicts' .jsonl: is it a chat model that follows instructions?"
        )
