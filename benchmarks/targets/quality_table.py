"""Differences between the arms of quality.py: paired, as shares of the gain of distilling, tested."""

from dataclasses import replace

import numpy as np

from distillaw.runs.paired import DocumentScores, PairedDifference, paired_over_seeds, t_quantile

Runs = dict[str, dict[int, dict]]
"""Record of every arm and seed."""


def row(name: str, runs: Runs, margin: float) -> dict[str, object]:
    """One arm: mean loss, paired difference, share of the gain, tests against a margin of it, calibration."""
    own = list(runs[name].values())
    means = {
        key: float(np.mean([record[key] for record in own]))
        for key in ("loss", "entropy", "calibration_loss", "overconfidence", "ece")
    }
    facts = {"arm": name, "seeds": len(own), "bytes_per_position": own[0]["bytes_per_position"], **means}
    if name == "online":
        return facts
    gain = contrast(runs, {name: 0, "alone": 1, "online": -1}).mean
    difference = contrast(runs, {name: 1, "online": -1})
    share = difference.mean / gain
    about = against_share(runs, name, share)
    half = t_quantile(0.95, about.dof) * about.se / gain
    return facts | {
        "difference": difference.mean,
        "difference_se": difference.se,
        "share": share,
        "share_se": about.se / gain,
        "share_90": [share - half, share + half],
        "p_not_worse": _tail(against_share(runs, name, margin), -1),
        "p_not_better": _tail(against_share(runs, name, -margin), 1),
        "p_worse_than_margin": _tail(against_share(runs, name, margin), 1),
    }


def contrast(runs: Runs, weights: dict[str, float]) -> PairedDifference:
    """A weighted sum of arms' losses, nats per token, with its error over seeds and documents."""
    pairs = []
    for seed in sorted(set.intersection(*(set(runs[name]) for name in weights))):
        records = {name: runs[name][seed] for name in weights}
        sums = np.sum([weight * np.array(records[name]["loss_sum"]) for name, weight in weights.items()], axis=0)
        tokens = np.array(next(iter(records.values()))["tokens"])
        combined = DocumentScores(document=np.arange(len(tokens)), tokens=tokens, loss_sum=sums)
        pairs.append((combined, replace(combined, loss_sum=np.zeros(len(tokens)))))
    return paired_over_seeds(pairs)


def against_share(runs: Runs, name: str, share: float) -> PairedDifference:
    """(arm - online) - share (alone - online): its sign says on which side of that share the arm is."""
    weights = {"online": share - 1, "alone": -share}
    return contrast(runs, weights | {name: weights.get(name, 0) + 1})


def _tail(difference: PairedDifference, sign: int) -> float:
    """One-sided p-value for "the mean has this sign": small where the data say so."""
    from scipy.special import stdtr

    if difference.se == 0:
        return float(sign * difference.mean <= 0)
    return float(stdtr(difference.dof, -sign * difference.mean / difference.se))


def table(result: dict) -> str:
    """Markdown."""
    lines = [
        f"Vocabulary {result['data']['vocab_size']}, {result['seeds']} seeds, {result['documents']} documents: gain "
        f"{result['gain']:.4f} +- {result['gain_se']:.4f} nats, teacher {result['teacher_loss']:.4f}, "
        f"full targets equal online bit for bit: {result['full_equals_online']}",
        "",
        "| arm | bytes | loss | loss - online, nats | share of the gain lost, % | 90 % interval | p (within 5 %) "
        "| entropy - loss | confidence - accuracy | ECE |",
        "|" + " --- |" * 10,
    ]
    for arm in result["arms"]:
        size = f"{arm['bytes_per_position']:.1f}" if arm["bytes_per_position"] else ""
        cells = [arm["arm"], size, f"{arm['loss']:.4f}", "", "", "", ""]
        if "share" in arm:
            low, high = arm["share_90"]
            p = max(arm["p_not_worse"], arm["p_not_better"])
            cells[3:] = [
                f"{arm['difference']:+.4f} +- {arm['difference_se']:.4f}",
                f"{100 * arm['share']:+.1f} +- {100 * arm['share_se']:.1f}",
                f"{100 * low:+.1f} to {100 * high:+.1f}",
                f"{p:.2g}",
            ]
        cells += [
            f"{arm['entropy'] - arm['calibration_loss']:+.3f}",
            f"{arm['overconfidence']:+.4f}",
            f"{arm['ece']:.4f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
