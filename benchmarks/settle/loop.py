"""Ask, run, look, until it stops: `settle` without a command around it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from distillaw.errors import ConfigError
from distillaw.settling.design import next_stage
from distillaw.settling.question import PilotQuestion, PilotRun, Stage, stage_flops
from distillaw.settling.standing import Conclusion, Standing, conclude, standing

MOST_STAGES = 60
"""More than any budget here buys: a loop that does not stop by itself is a fault."""

Runner = Callable[[Stage], tuple[Stage, list[PilotRun]]]
"""Runs a stage and says what was run: nothing where there is nothing left to run."""


@dataclass
class Settlement:
    """What was run and said until it stopped."""

    question: PilotQuestion
    stages: list[Stage] = field(default_factory=list)
    runs: list[PilotRun] = field(default_factory=list)
    looks: list[Standing] = field(default_factory=list)
    """After every stage."""
    moved: int = 0
    """Stages that could not be run as asked."""
    refused: str = ""
    """Why nothing was run at all."""
    seconds: float = 0.0
    """CPU time of `next_stage` and `standing`."""

    @property
    def end(self) -> Conclusion:
        """What it ended with."""
        return conclude(self.question, self.looks[-1])

    @property
    def spent(self) -> float:
        """FLOP of all pilots, counted here and not by what is under test."""
        return self.question.spent + sum(stage_flops(self.question, stage) for stage in self.stages)


def settle(question: PilotQuestion, run: Runner) -> Settlement:
    """Pilots until it is settled, or none is left."""
    found, started = Settlement(question), time.process_time()
    while (asked := _next(found)) is not None:
        stage, runs = run(asked)
        if not runs:
            break
        found.moved += stage != asked
        found.stages.append(stage)
        found.runs += runs
        found.looks.append(standing(question, found.stages, found.runs))
        if len(found.stages) > MOST_STAGES:
            raise RuntimeError(f"no end after {MOST_STAGES} stages: {found.end.sentence}")
    found.seconds = time.process_time() - started
    return found


def _next(found):
    try:
        return next_stage(found.question, found.stages, found.runs)
    except ConfigError as error:
        if found.stages:
            raise
        found.refused = str(error)
        return None
