"""Questions and pilots for the tests of the maths: truths drawn from the forms themselves, or from a published law."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from distillaw.settling.design import next_stage
from distillaw.settling.question import NONE, Candidate, PilotQuestion, PilotRun, Size, Stage
from distillaw.settling.standing import Standing, standing

Truth = Callable[[str, float, float], float]
"""Expected loss by candidate, size and tokens."""


def make_question(*, ratios: Sequence[float] = (0.8, 0.95), share: float = 0.05, margin: float = 0.01) -> PilotQuestion:
    """A 1B target on 20B tokens, about 2.375 nats alone; teachers at ratios of that, their targets stored."""
    sizes = tuple(Size(label=f"s{k}", params=1e9 / 2**k, flops=6e9 / 2**k) for k in range(7, -1, -1))
    candidates = tuple(Candidate(name=f"t{i}", loss=2.375 * r, flops=0.0) for i, r in enumerate(ratios))
    return PilotQuestion(
        target=sizes[-1],
        tokens=2e10,
        candidates=candidates,
        budget=share * 6e9 * 2e10,
        margin=margin,
        sizes=sizes,
        least_tokens=2_000_000,
        batch_tokens=65_536,
    )


def run_stage(
    question: PilotQuestion, stage: Stage, truth: Truth, *, sd: float = 0.002, seed: int = 0
) -> list[PilotRun]:
    """The runs of a stage: half of the seed noise's variance is common to all arms of a seed and size."""
    found = []
    for label in stage.labels:
        params = question.size(label).params
        for number in stage.seeds:
            common = np.random.default_rng([seed, int(params), number]).standard_normal()
            for j, name in enumerate((NONE, *stage.candidates)):
                for tokens in stage.tokens:
                    own = np.random.default_rng([seed, int(params), number, j, tokens]).standard_normal()
                    noise = sd * (common + own) / np.sqrt(2)
                    loss = truth(name, params, tokens) * np.exp(noise)
                    found.append(
                        PilotRun(
                            candidate=name,
                            params=params,
                            tokens=tokens,
                            seed=number,
                            loss=loss,
                            gain_se=2e-4 * loss if name else np.nan,
                        )
                    )
    return found


def settle(question: PilotQuestion, truth: Truth, **noise: float) -> tuple[list[Stage], list[PilotRun], list[Standing]]:
    """Stages, runs and looks until it stops."""
    stages: list[Stage] = []
    runs: list[PilotRun] = []
    looks: list[Standing] = []
    while (stage := next_stage(question, stages, runs)) is not None:
        stages.append(stage)
        runs += run_stage(question, stage, truth, **noise)
        looks.append(standing(question, stages, runs))
    return stages, runs, looks


def with_budget(question: PilotQuestion, share: float) -> PilotQuestion:
    """The same question at another share of the target's training."""
    return replace(question, budget=share * question.target_flops)
