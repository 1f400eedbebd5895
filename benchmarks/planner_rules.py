"""The rules that people use today, each choosing one of the options of a question."""

import numpy as np


def options(question):
    """[(teacher or None, tokens)]: pretraining first, then every candidate that the bill allows."""
    found = [(None, question.tokens)]
    return found + [(t, d) for t in question.teachers if (d := question.tokens_for(t)) is not None]


def never(study, choices):
    """Do not distil."""
    return 0


def best_loss(study, choices):
    """Distil from the teacher with the lowest loss."""
    return _least(choices, lambda t: t.loss)


def largest(study, choices):
    """Distil from the largest teacher."""
    return _least(choices, lambda t: -t.params)


def two_and_a_half(student):
    """Distil from the teacher nearest to 2.5 times the student's size."""
    return lambda study, choices: _least(choices, lambda t: abs(np.log(t.params / (2.5 * student))))


def largest_pilot(student):
    """Do what was best at the largest pilot, with the teacher of the most similar relative size."""

    def choose(study, choices):
        alone, taught = study.largest_cell()
        won = min(taught, key=taught.__getitem__)
        if alone <= taught[won]:
            return 0
        ratio = won.params / study.edge[0]
        return _least(choices, lambda t: abs(np.log(t.params / (ratio * student))))

    return choose


def rules(question):
    """{name: rule(study, choices) -> index of the choice}."""
    student = question.params
    return {"never distil": never, "best-loss teacher": best_loss, "largest teacher": largest,
            "2.5x teacher": two_and_a_half(student), "largest pilot": largest_pilot(student)}  # fmt: skip


def _least(choices, key):
    return min(range(1, len(choices)), key=lambda i: key(choices[i][0]))
