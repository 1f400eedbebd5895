"""HumanEval: what a model writes is completed to a program, run in the sandbox, and counted as pass@k.

    pass@k = 1 - C(n - c, k) / C(n, k)         n samples of a problem, c of them correct; its mean over problems

the unbiased estimator of Chen et al. 2021, arXiv:2107.03374, Eq. 1, evaluated as a product as they do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.errors import ConfigError
from distillaw.evaluate.sandbox import Limits, Outcome, run_program

LIMITS = Limits()
"""Of one program: the original harness gives 3 s; ours starts an interpreter of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of the samples of one problem."""

    task_id: str
    outcomes: tuple[Outcome, ...]

    @property
    def correct(self) -> int:
        """Samples that passed."""
        return sum(each.passed for each in self.outcomes)


def check_samples(
    problem: Mapping[str, str], completions: Sequence[str], *, limits: Limits = LIMITS
) -> Verdict:
    """Run the completions of one problem against its tests, each in a process of its own.

    Args:
        problem: task_id, prompt, test, entry_point, as in HumanEval.jsonl.
        completions: what follows the prompt.
        limits: of each program.
    """
    outcomes = [run_program(program_of(problem, each), limits=limits) for each in completions]
    return Verdict(task_id=problem["task_id"], outcomes=tuple(outcomes))


def program_of(problem: Mapping[str, str], completion: str) -> str:
    """Prompt, completion, tests, and the call of the tests."""
    return f"{problem['prompt']}{completion}\n{problem['test']}\ncheck({problem['entry_point']})\n"


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that one of k samples of a problem passes, from n samples of which c passed.

    Args:
        samples: n.
        correct: c, at most n.
        k: at most n.

    Raises:
        ConfigError: more asked of than there are.
    """
    if not 1 <= k <= samples:
        raise ConfigError(f"pass@{k} of {samples} samples: k lies between 1 and the samples of a problem")
    if samples - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(samples - correct + 1, samples + 1)))


def check_all(
    problems: Sequence[Mapping[str, str]],
    completions: Sequence[Sequence[str]],
    *,
    limits: Limits = LIMITS,
    seen: Callable[[int], None] = lambda done: None,
) -> list[Verdict]:
    """`check_samples` of many problems, one after the other; `seen` is told how many are done."""
    verdicts = []
    for problem, written in zip(problems, completions, strict=True):
        verdicts.append(check_samples(problem, written, limits=limits))
        seen(len(verdicts))
    return verdicts
