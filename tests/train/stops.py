"""How tests of this folder train one trunk, and stop it."""

from distillaw.train.loop import StopTraining
from distillaw.train.trunk import train_trunks


def train_trunk(spec, budgets, study, **how):
    """The finished folder of each budget, ascending."""
    if errors := train_trunks({spec: budgets}, study, **how):
        raise errors[spec]
    return [study.run(spec.run_id(tokens)) for tokens in sorted(budgets)]


def stop_after(steps: int):
    """A report that stops training after so many steps, as SIGTERM does."""
    left = iter(range(steps - 1, -1, -1))

    def report(tokens, loss):
        if next(left) == 0:
            raise StopTraining

    return report
