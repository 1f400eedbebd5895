"""How far the points behind a plan's intervals are from a million random draws, beside 20,000 random ones.

    python -m benchmarks.verdict.draws --out benchmarks/results/draws.json

Errors are means and maxima over every law of five questions: of the probability that the best distillation gains more
than the margin and of the share in which it is the best one (both absolute), and of the mean and the ends of the 90 %
interval of its gain (in standard deviations of the gain).
"""

import argparse
import json
from pathlib import Path

import numpy as np

import distillaw as dl
from benchmarks.result_file import save, typed
from distillaw.planning import draws, law_evidence
from distillaw.planning.decision import MARGIN
from distillaw.planning.gains import LAW_DOF, LAW_SCALE
from distillaw.planning.situation import Teacher

QUESTIONS = [
    {"student_params": "1B", "student_tokens": "20B", "teachers": [Teacher(name="8B", params=8e9, tokens=2e12)]},
    {"student_params": "1B", "compute": "1e21"},
    {"student_params": "300M", "student_tokens": "60B", "teachers": ["pythia-1.4b", "pythia-6.9b", "pythia-12b"]},
    {"student_params": "500M", "student_tokens": "10B"},
    {
        "student_params": "1B",
        "student_tokens": "20B",
        "teachers": [Teacher(name="8B", params=8e9, tokens=2e12, loss=2.2)],
    },
]
TRUTH, RANDOM, SEEDS = 1_000_000, 20_000, 8
WHAT = ("probability", "share best", "mean", "lower end", "upper end")


def random_gains(predicted, options, common, share, rng, count):
    """Gains by independent draws, shape (count, options but the first)."""
    losses = np.stack([p.loss for p in predicted], axis=1)
    centres = losses[:, :1] - losses[:, 1:]
    is_taught = np.array([option.teacher is not None for option in options[1:]])
    alone = np.array([p.sd for p in predicted[1:]])
    pick = rng.integers(len(losses), size=count)
    tails = LAW_SCALE * np.sqrt(LAW_DOF / rng.chisquare(LAW_DOF, size=(count, 1)))
    shared, own = rng.normal(size=(count, 1)), rng.normal(size=(count, len(alone)))
    mixed = np.where(is_taught, np.sqrt(share) * shared + np.sqrt(1 - share) * own, own)
    return centres[pick] + tails * (common * mixed + alone * rng.normal(size=own.shape))


def summary(gains, margin):
    """The five numbers of WHAT."""
    best = int(gains.mean(0).argmax())
    gain = gains[:, best]
    ends = np.percentile(gain, [5, 95])
    return np.array([(gain > margin).mean(), (gains.argmax(1) == best).mean(), gain.mean(), *ends])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    seen, draw = [], law_evidence._draw

    def noted(predicted, options, **doubt):
        seen.append((predicted, options, doubt))
        return draw(predicted, options, **doubt)

    law_evidence._draw = noted
    for question in QUESTIONS:
        dl.plan(**question, with_flips=False)
    errors = {"lattice": [], "random": []}
    for predicted, options, doubt in seen:
        margin, asked_of = (
            MARGIN * float(predicted[0].loss.mean()),
            (predicted, options, doubt["common"], doubt["together"]),
        )
        many = random_gains(*asked_of, np.random.default_rng(99), TRUTH)
        truth, sd = summary(many, margin), many.std(0).mean()
        unit = np.array([1, 1, sd, sd, sd])
        _, points, _ = draw(predicted, options, **doubt)
        errors["lattice"].append(np.abs(summary(points, margin) - truth) / unit)
        for seed in range(SEEDS):
            few = random_gains(*asked_of, np.random.default_rng(seed), RANDOM)
            errors["random"].append(np.abs(summary(few, margin) - truth) / unit)
    found = {
        "laws": len(seen),
        "points": {"lattice": draws.POINTS, "random": RANDOM},
        "mean error": {
            name: dict(zip(WHAT, np.mean(e, 0).round(5).tolist(), strict=True)) for name, e in errors.items()
        },
        "largest error": {
            name: dict(zip(WHAT, np.max(e, 0).round(5).tolist(), strict=True)) for name, e in errors.items()
        },
    }
    print(json.dumps(found, indent=2))
    if asked.out:
        save(asked.out, typed(), **found)


if __name__ == "__main__":
    main()
