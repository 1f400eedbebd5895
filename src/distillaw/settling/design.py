"""The next stage: pilots that narrow the answer most for their share of the budget."""

from collections.abc import Sequence

from distillaw.settling.question import PilotRun, Question, Stage


def next_stage(question: Question, stages: Sequence[Stage], runs: Sequence[PilotRun]) -> Stage | None:
    """What to run next; None when it is settled or nothing affordable is left.

    The same answer for the same arguments, so that an interrupted settlement goes on where it stopped.

    Args:
        question: what is asked.
        stages: that have been run, in order.
        runs: their runs.

    Raises:
        ConfigError: the budget buys no pilot at all (before the first stage).
    """
    raise NotImplementedError
