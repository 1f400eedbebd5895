"""The mapping problem's experiment: students of a few widths under teachers that grow, or that train longer.

Figures 11 and 12 of Busbridge et al. 2025 (arXiv:2502.08606v2). `PUBLISHED` is the paper's grid, `REDUCED` one of the
same shape that takes a minute on two cores. Each trial is one job of one process with one thread, so that results do
not depend on the number of processes. Within a trial all students of a width start from the same weights and read the
same samples: differences between teachers are paired.

    distillaw toys mapping [--full]
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from typing import Literal

import numpy as np
import torch

from distillaw.errors import ConfigError, RunError
from distillaw.runs.paired import t_quantile
from distillaw.toys import mapping
from distillaw.toys.mapping import Sampler

Axis = Literal["width", "steps", "labels"]
AXES: tuple[Axis, ...] = ("width", "steps")
Shape = Literal["U", "follows", "rises", "unclear", "unknown"]
CONFIDENCE = 0.95
"""One-sided, for a change to count."""
_FLOP_PER_SECOND, _SECONDS_PER_STEP = 45e9, 1.5e-4
"""One core of an EPYC with AVX2: its speed in these products, and what a step of one network costs besides."""
_TEACHER, _STUDENT = 0, 1  # whose weights a seed is for


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyTeacher:
    """How one teacher is trained. The labels are a teacher of width and steps 0."""

    axis: Axis
    width: int
    steps: int


LABELS = ToyTeacher(axis="labels", width=0, steps=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Which students learn from which teachers."""

    num_classes: int
    """n, length of the context."""
    students: tuple[int, ...]
    """Widths."""
    teacher_widths: tuple[int, ...]
    """Size axis: each trained by the rule of `mapping.count_steps`."""
    long_width: int
    """Training axis: the one width, trained for each of `teacher_steps`."""
    teacher_steps: tuple[int, ...]
    trials: int = 4
    sampler: Sampler = "balanced"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            ConfigError: a size below 1, an axis that is empty or does not rise, a seed below 0.
        """
        mapping.check_classes(self.num_classes)
        for name in ("students", "teacher_widths", "teacher_steps"):
            values = getattr(self, name)
            if not values or min(values) < 1 or list(values) != sorted(set(values)):
                raise ConfigError(f"{name}: got {list(values)}; give rising whole numbers from 1, each once")
        for name, least in (("trials", 1), ("long_width", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: got {getattr(self, name)}; it must be at least {least}")

    @property
    def teachers(self) -> tuple[ToyTeacher, ...]:
        """Both axes."""
        sizes = [(width, mapping.count_steps(width, self.num_classes)) for width in self.teacher_widths]
        times = [(self.long_width, steps) for steps in self.teacher_steps]
        return (
            *(ToyTeacher(axis="width", width=width, steps=steps) for width, steps in sizes),
            *(ToyTeacher(axis="steps", width=width, steps=steps) for width, steps in times),
        )

    @property
    def core_seconds(self) -> float:
        """About how long it takes on one core, by the rate measured on the machine named in docs/toys.md."""
        C, taught = self.num_classes, len(self.teachers) + 1
        rows = mapping.count_questions(C)
        distinct = rows * -math.expm1(mapping.BATCH * math.log1p(-1 / rows))  # of a batch, expected
        runs = [(teacher.width, teacher.steps, 1) for teacher in self.teachers]
        runs += [(width, mapping.count_steps(width, C), taught) for width in self.students]
        flop = [6 * mapping.count_params(width, C) * distinct for width, _, _ in runs]
        each = [steps * count for _, steps, count in runs]
        one = sum(k * (f / _FLOP_PER_SECOND + _SECONDS_PER_STEP) for k, f in zip(each, flop, strict=True))
        return self.trials * one


PUBLISHED = Grid(
    num_classes=8,
    students=(128, 256, 362),
    teacher_widths=(128, 181, 256, 362, 512),
    long_width=512,
    teacher_steps=tuple(2**k for k in range(6, 15)),
)
"""The paper's widths and steps; its widths between 128 and 512 and its number of classes are not printed."""
REDUCED = Grid(
    num_classes=4,
    students=(16, 32, 128),
    teacher_widths=(32, 64, 128, 192),
    long_width=128,
    teacher_steps=(128, 256, 512, 1024, 2048),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyOutcome:
    """One student of one trial. Losses are nats against the true labels, exact under the sampler."""

    trial: int
    student_width: int
    axis: Axis
    teacher_width: int
    teacher_steps: int
    teacher_loss: float
    student_loss: float


def run_grid(grid: Grid, *, workers: int, done: Callable[[int], None] = lambda trial: None) -> list[ToyOutcome]:
    """Train every teacher and student.

    Args:
        workers: processes; more than there are trials idle.

    Returns:
        Outcomes by trial, student, teacher; the same for every number of workers.

    Raises:
        RunError: a process died, for instance for want of memory.
    """
    found: dict[int, list[ToyOutcome]] = {}
    try:
        with ProcessPoolExecutor(min(workers, grid.trials), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            jobs = {pool.submit(run_trial, grid, trial): trial for trial in range(grid.trials)}
            try:
                for job in as_completed(jobs):
                    found[jobs[job]] = job.result()
                    done(jobs[job])
            except KeyboardInterrupt:  # half a trial is worth nothing: not waited for
                for process in active_children():
                    process.terminate()
                raise
    except BrokenProcessPool as error:
        raise RunError(
            f"toys: a process of {workers} died, most likely for want of memory; give fewer --workers"
        ) from error
    return [outcome for trial in range(grid.trials) for outcome in found[trial]]


def run_trial(grid: Grid, trial: int) -> list[ToyOutcome]:
    """One trial: its teachers, then for each width the students of all of them and one of the labels."""
    task = mapping.make_task(grid.num_classes, sampler=grid.sampler)
    answers = [
        mapping.train(
            task,
            task.truth[None],
            width=teacher.width,
            steps=teacher.steps,
            seed=_seed(grid, trial, _TEACHER, teacher.width, teacher.steps),
        )
        for teacher in grid.teachers
    ]
    teacher_losses = [*mapping.true_loss(task, torch.cat(answers)).tolist(), 0.0]
    sources = [*grid.teachers, LABELS]
    targets_SQC = torch.cat([*answers, task.truth[None].log()]).exp()
    found = []
    for width in grid.students:
        steps = mapping.count_steps(width, grid.num_classes)
        seed = _seed(grid, trial, _STUDENT, width, steps)
        losses = mapping.true_loss(task, mapping.train(task, targets_SQC, width=width, steps=steps, seed=seed))
        found += [
            ToyOutcome(
                trial=trial,
                student_width=width,
                axis=teacher.axis,
                teacher_width=teacher.width,
                teacher_steps=teacher.steps,
                teacher_loss=teacher_loss,
                student_loss=loss,
            )
            for teacher, teacher_loss, loss in zip(sources, teacher_losses, losses.tolist(), strict=True)
        ]
    return found


def _seed(grid: Grid, *key: int) -> int:
    return int(np.random.SeedSequence((grid.seed, *key)).generate_state(1)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How much a student's loss differs between two teachers, paired over trials."""

    mean: float
    """Nats; positive where the second teacher gives the worse student."""
    error: float | None
    """Standard error over trials; None for one trial."""
    is_clear: bool
    """Above zero at 95 %, by Student's t."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyCurve:
    """One student over one axis of teachers."""

    student_width: int
    axis: Axis
    teachers: tuple[ToyTeacher, ...]
    teacher_loss: tuple[float, ...]
    """Mean over trials, for each teacher."""
    student_loss: tuple[float, ...]
    low: tuple[float, ...]
    """25 % of the trials' losses."""
    high: tuple[float, ...]
    """75 %."""
    best: int
    """Index of the teacher with the smallest mean loss."""
    fall: Change
    """From the best teacher back to the weakest: what a better teacher gains at first."""
    rise: Change
    """From the best teacher to the strongest: what a better teacher costs in the end."""
    shape: Shape

    @property
    def is_interior(self) -> bool:
        """The best teacher on average is neither the first nor the last."""
        return 0 < self.best < len(self.teachers) - 1


def summarise(outcomes: Sequence[ToyOutcome]) -> list[ToyCurve]:
    """A curve for each student and axis.

    The best teacher for a trial's rise and fall is the one that was best on average in the *other* trials. A minimum
    chosen on the same numbers would lie low by luck and make every curve look like a U.
    """
    students = sorted({o.student_width for o in outcomes})
    return [_curve(_of(outcomes, width, axis)) for axis in AXES for width in students]


def labels_loss(outcomes: Sequence[ToyOutcome], student_width: int) -> float:
    """Mean loss of the students that learned from the true labels."""
    return float(np.mean([o.student_loss for o in _of(outcomes, student_width, "labels")]))


def _of(outcomes: Sequence[ToyOutcome], student_width: int, axis: Axis) -> list[ToyOutcome]:
    return [o for o in outcomes if (o.student_width, o.axis) == (student_width, axis)]


def _curve(outcomes: Sequence[ToyOutcome]) -> ToyCurve:
    trials = len({o.trial for o in outcomes})
    student = np.array([o.student_loss for o in outcomes]).reshape(trials, -1)  # (trials, teachers)
    teacher = np.array([o.teacher_loss for o in outcomes]).reshape(trials, -1)
    first = outcomes[: student.shape[1]]
    low, high = np.quantile(student, [0.25, 0.75], axis=0)
    # for each trial, the teacher that is best on average in the others (in itself if it is alone)
    elsewhere = student.sum(0) - student if trials > 1 else student
    at_best = student[np.arange(trials), elsewhere.argmin(1)]
    mean = student.mean(0)
    fall, rise = _change(student[:, 0] - at_best), _change(student[:, -1] - at_best)
    return ToyCurve(
        student_width=first[0].student_width,
        axis=first[0].axis,
        teachers=tuple(ToyTeacher(axis=o.axis, width=o.teacher_width, steps=o.teacher_steps) for o in first),
        teacher_loss=tuple(teacher.mean(0).tolist()),
        student_loss=tuple(mean.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        best=int(mean.argmin()),
        fall=fall,
        rise=rise,
        shape=_shape(fall, rise, is_best_last=int(mean.argmin()) == len(mean) - 1),
    )


def _change(differences: np.ndarray) -> Change:
    trials, mean = len(differences), float(differences.mean())
    if trials == 1:
        return Change(mean=mean, error=None, is_clear=False)
    error = float(differences.std(ddof=1)) / math.sqrt(trials)
    return Change(mean=mean, error=error, is_clear=mean > t_quantile(CONFIDENCE, trials - 1) * error)


def _shape(fall: Change, rise: Change, *, is_best_last: bool) -> Shape:
    """What the two changes say: "follows" is a student that is best under the strongest teacher."""
    if rise.error is None:
        return "unknown"
    if rise.is_clear:
        return "U" if fall.is_clear else "rises"
    return "follows" if fall.is_clear and is_best_last else "unclear"
