"""What verdicts come to: win rate or mean grade, with intervals over questions, and how far the judge can be trusted.

The turns of a question are not independent, so the question is the unit: clustered standard errors, and percentile
intervals of a bootstrap that draws questions.
"""

from collections.abc import Sequence

import numpy as np

from distillaw.errors import DataError
from distillaw.evaluate.judging import Verdict
from distillaw.evaluate.scores import interval_of, mean_and_se

DRAWS = 10_000


def sum_up_pairs(verdicts: Sequence[Verdict], *, seed: int = 0) -> dict[str, object]:
    """Pairwise verdicts in both orders.

    A turn counts as won if both orders say so, and as a tie if they differ (a flip) or both say tie. Turns of which an
    order has no verdict are left out and counted.

        win rate = (wins + ties / 2) / turns

    Returns:
        wins, ties, losses, win_rate with se and interval, agreement of the orders with interval, first_place (share of
        decisive verdicts for the answer that stood first) with se, unparseable share, turns, questions.

    Raises:
        DataError: fewer than two questions have verdicts.
    """
    orders: dict[tuple[str, int], dict[bool, float | None]] = {}
    for each in verdicts:
        orders.setdefault((each.question_id, each.turn), {})[each.swapped] = each.value
    turns = {key: (pair[False], pair[True]) for key, pair in orders.items() if len(pair) == 2}
    whole = {key: pair for key, pair in turns.items() if None not in pair}
    _check(verdicts, {question for question, _ in whole})
    results = {key: a if a == b else 0.0 for key, (a, b) in whole.items()}
    clusters = [question for question, _ in whole]
    points = [0.5 + float(value or 0.0) / 2 for value in results.values()]
    agree = [float(a == b) for a, b in whole.values()]
    decisive = [each for each in verdicts if each.value]
    rate, se = mean_and_se(points, clusters)
    agreement, agreement_se = mean_and_se(agree, clusters)
    few = se == 0  # all questions alike: a bootstrap would claim certainty
    alike = interval_of(rate, se, points, len(set(clusters)))
    spread = alike if few else bootstrap_interval(points, clusters, seed=seed)
    found: dict[str, object] = {
        "wins": sum(value == 1 for value in results.values()), "ties": sum(value == 0 for value in results.values()),
        "losses": sum(value == -1 for value in results.values()), "win_rate": rate, "win_rate_se": se,
        "win_rate_interval": spread, "agreement": agreement,
        "agreement_se": agreement_se,
        "agreement_interval": interval_of(agreement, agreement_se, agree, len(set(clusters))),
        "turns": len(whole), "questions": len(set(clusters)), **_unparseable(verdicts),
    }  # fmt: skip
    if len({each.question_id for each in decisive}) > 1:
        first = [float((each.value == 1) != each.swapped) for each in decisive]
        share, share_se = mean_and_se(first, [each.question_id for each in decisive])
        found |= {"first_place": share, "first_place_se": share_se}
    return found


def sum_up_grades(verdicts: Sequence[Verdict], *, seed: int = 0) -> dict[str, object]:
    """Grades of 1 to 10.

    Returns:
        grade with se and interval, by turn and by category (mean and n), unparseable share, turns, questions.

    Raises:
        DataError: fewer than two questions have grades.
    """
    graded = [each for each in verdicts if each.value is not None]
    _check(verdicts, {each.question_id for each in graded})
    values, clusters = [float(each.value or 0.0) for each in graded], [each.question_id for each in graded]
    grade, se = mean_and_se(values, clusters)
    return {
        "grade": grade, "grade_se": se, "grade_interval": bootstrap_interval(values, clusters, seed=seed),
        "by_turn": _means({f"turn {each.turn + 1}": [] for each in graded}, graded, lambda v: f"turn {v.turn + 1}"),
        "by_category": _means({}, graded, lambda v: v.category or "none"),
        "turns": len(graded), "questions": len(set(clusters)), **_unparseable(verdicts),
    }  # fmt: skip


def bootstrap_interval(values: Sequence[float], clusters: Sequence[str], *, seed: int) -> tuple[float, float]:
    """95 % percentile interval of a mean, drawing whole clusters with replacement (Efron 1979).

    Args:
        values: one per turn.
        clusters: the question of each.
        seed: of the draws.
    """
    places = {each: i for i, each in enumerate(dict.fromkeys(clusters))}
    sums, sizes = np.zeros(len(places)), np.zeros(len(places))
    where = [places[each] for each in clusters]
    np.add.at(sums, where, values)
    np.add.at(sizes, where, 1.0)
    drawn = np.random.default_rng(seed).integers(len(places), size=(DRAWS, len(places)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _means(groups: dict[str, list[float]], graded: Sequence[Verdict], name) -> dict[str, dict[str, float]]:
    for each in graded:
        groups.setdefault(name(each), []).append(float(each.value or 0.0))
    return {key: {"grade": float(np.mean(values)), "n": float(len(values))} for key, values in groups.items()}


def _unparseable(verdicts: Sequence[Verdict]) -> dict[str, object]:
    missing = sum(each.value is None for each in verdicts)
    return {"verdicts": len(verdicts), "unparseable": missing, "unparseable_share": missing / len(verdicts)}


def _check(verdicts: Sequence[Verdict], questions: set[str]) -> None:
    if len(questions) < 2:
        missing = sum(each.value is None for each in verdicts)
        raise DataError(
            f"{missing} of {len(verdicts)} verdicts of the judge cannot be read, and {len(questions)} questions are "
            "left; see the replies in the verdicts' .jsonl: is it a chat model that follows instructions?"
        )
