"""The rules that people use today: each makes one of the choices of a question."""

import numpy as np


def rules(question):
    """{name: rule(study, choices) -> choice}; the first choice is pretraining."""
    student = question.params
    return {
        "never distil": lambda study, choices: choices[0],
        "best-loss teacher": lambda study, choices: _least(choices, lambda t: t.loss),
        "largest teacher": lambda study, choices: _least(choices, lambda t: -t.params),
        "2.5x teacher": lambda study, choices: _nearest(choices, 2.5 * student),
        "largest pilot": lambda study, choices: like_the_largest_pilot(study, choices, student),
    }


def like_the_largest_pilot(study, choices, student):
    """What was best at the largest pilot, with the teacher of the most similar relative size."""
    alone, taught = study.largest_cell()
    won = min(taught, key=taught.__getitem__)
    return choices[0] if alone <= taught[won] else _nearest(choices, won.params / study.edge[0] * student)


def _nearest(choices, size):
    return _least(choices, lambda t: abs(np.log(t.params / size)))


def _least(choices, key):
    return min(choices[1:], key=lambda choice: key(choice.teacher))
