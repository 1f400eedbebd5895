"""Are lambda and temperature where they should be? Swept on two cells, the study's own values against others."""

from dataclasses import dataclass

from distillaw.controls.control import About, Control, Status, below, worst
from distillaw.controls.study_runs import Difference, StudyRuns

TOLERANCE = 0.005
"""Share of the loss by which another value may be better; the search for the batch moves by as much."""
LEAST_CELLS = 2
LAMBDA = About(
    name="lambda",
    guards="part of the loss on the data can rescue students of weak teachers: at one lambda alone a U may be lambda's",
    remedy='add [[cells]] name = "lambda", training = { distill_weight = 0.5 } on two sizes or budgets, from a weak '
    "and a strong teacher",
)
TEMPERATURE = About(
    name="temperature",
    guards="a strong teacher is sharper: at one temperature alone a capacity gap may be the temperature's",
    remedy="add [[cells]] with training = { temperature = 2.0 } and 0.5 on two sizes or budgets, from a strong teacher",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Swept:
    """The best other value of a setting at one place."""

    where: str
    value: float
    difference: Difference
    """The grid's run minus the other: positive where the other value is better."""
    loss: float

    @property
    def status(self) -> Status:
        """Whether the grid's value is within the tolerance of the best."""
        low, high = self.difference.interval()
        return below(low, high, TOLERANCE * self.loss)

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "where": self.where,
            "value": self.value,
            "grid_minus_best": self.difference.to_json(),
            "loss": self.loss,
            "status": self.status,
        }


def check_lambda(runs: StudyRuns) -> Control:
    """The study's lambda is within 0.5 % of the best one tried, on two cells."""
    return _check(runs, LAMBDA, "lambda")


def check_temperature(runs: StudyRuns) -> Control:
    """The study's temperature is within 0.5 % of the best one tried, on two cells."""
    return _check(runs, TEMPERATURE, "temperature")


def _check(runs: StudyRuns, about: About, setting: str) -> Control:
    if not runs.taught_by:
        return about.control("not applicable", "no student has a teacher")
    swept = _sweep(runs, setting)
    cells = {where.rsplit(" from ", 1)[0] + where.rsplit(" on ", 1)[1] for where in (s.where for s in swept)}
    if not swept:
        return about.control("not done", f"every student has one {setting}")
    extreme = max(swept, key=lambda s: s.difference.mean / s.loss)
    low, high = extreme.difference.interval()
    own = next(run.number(setting) for run in runs.record.students if run.teacher_run)
    words = (
        f"{setting} {own:g} against others in {len(swept)} places of {len(cells)} cells; most to gain: "
        f"{extreme.where}, {setting} {extreme.value:g} by {extreme.difference.mean:+.3f} "
        f"[{low:+.3f}, {high:+.3f}] nats (allowed {TOLERANCE * extreme.loss:.3f})"
    )
    status = worst(s.status for s in swept)
    if len(cells) < LEAST_CELLS and status != "failed":
        status, words = "not done", f"on {len(cells)} cell of {LEAST_CELLS}: {words}"
    return about.control(status, words, swept=[s.to_json() for s in swept])


def _sweep(runs: StudyRuns, setting: str) -> list[_Swept]:
    found = []
    for place, by_value in runs.variants(setting).items():
        known = {
            v: d
            for v, seeds in by_value.items()
            if (d := runs.difference(runs.grid[place], seeds)) is not None
        }
        if place[2] and known:
            best = max(known, key=lambda value: known[value].mean)
            loss = min(run.loss for run in runs.grid[place].values())
            found.append(_Swept(where=runs.place_name(place), value=best, difference=known[best], loss=loss))
    return found
