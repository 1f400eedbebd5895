"""Were learning rate and batch tuned, with the best value inside the range tried, per size and arm?"""

from collections.abc import Mapping, Sequence

from distillaw.controls.control import About, Control
from distillaw.controls.study_runs import StudyRuns

RATE = About(
    name="interior-rate",
    guards="an untuned rate fakes a capacity gap: students that train badly prefer easy teachers",
    remedy="let the search run: [tuning] enabled = true, more rounds, or peak_lr nearer the best value",
)
BATCH = About(
    name="interior-batch",
    guards="a batch that suits one arm or size better than another is read as an effect of the teacher",
    remedy="search it ([tuning] batch = true), or start from another batch_tokens",
)


_AT = {"learning_rate": "", "horizon": " at the largest budget"}


def check_rate(runs: StudyRuns) -> Control:
    """The best rate lies between worse ones, at the end sizes and in both arms."""
    arms = _arms(runs)
    if (missing := _unsearched(runs, arms)) is not None:
        return RATE.control("not done", missing)
    searched = [arm for arm in arms if "learning_rate" in arm]
    ends = [(arm, what) for arm in arms for what in ("learning_rate", "horizon") if what in arm]
    at_end = [_name(arm) + _AT[what] for arm, what in ends if not _search(arm, what).get("interior")]
    numbers = {_name(arm): _numbers(arm, "learning_rate", "peak_lr") for arm in searched}
    if at_end:
        return RATE.control(
            "failed", f"the best rate lies at an end of what was tried: {', '.join(at_end)}", arms=numbers
        )
    rates = ", ".join(f"{name} {found['best']:.3g}" for name, found in numbers.items())
    return RATE.control(
        "passed",
        f"best rates between worse ones: {rates}; others by the law of the arm's searches",
        arms=numbers,
    )


def check_batch(runs: StudyRuns) -> Control:
    """The best batch lies between worse ones, or is the smallest there is."""
    arms = _arms(runs)
    if (missing := _unsearched(runs, arms)) is not None:
        return BATCH.control("not done", missing)
    arms = [arm for arm in arms if "batch" in arm]
    numbers = {_name(arm): _numbers(arm, "batch", "batch_tokens") for arm in arms}
    if not arms or any(len(_tried(arm, "batch")) < 2 for arm in arms):
        best = runs.record.tuning.get("batch_tokens")
        return BATCH.control(
            "not done", f"the batch was not searched: every run has {best} tokens a step", arms=numbers
        )
    off = [arm for arm in arms if not _is_inside(runs, arm)]
    if not off:
        return BATCH.control(
            "passed",
            f"best of its halves and doubles: {_search(arms[0], 'batch')['best']} tokens",
            arms=numbers,
        )
    words = ", ".join(f"{_name(arm)} would take {_lowest(arm)}" for arm in off)
    return BATCH.control(
        "failed", f"the study has {_search(off[0], 'batch').get('best')} tokens a step; {words}", arms=numbers
    )


def _arms(runs: StudyRuns) -> list[Mapping]:
    found = runs.record.tuning.get("arms")
    return [arm for arm in found if isinstance(arm, Mapping)] if isinstance(found, Sequence) else []


def _unsearched(runs: StudyRuns, arms: Sequence[Mapping]) -> str | None:
    """Why there is no answer, or None."""
    if not arms:
        return "no search was made" if runs.record.tuning else "no tuning.json in the folder"
    wanted = ["supervised"] + ["distilled"] * bool(runs.taught_by)
    missing = [arm for arm in wanted if all(a.get("arm") != arm for a in arms)]
    return f"no search in the {' and '.join(missing)} arm" if missing else None


def _name(arm: Mapping) -> str:
    return f"{arm.get('size', arm.get('params'))} {arm.get('arm')}"


def _search(arm: Mapping, what: str) -> Mapping:
    found = arm.get(what)
    return found if isinstance(found, Mapping) else {}


def _tried(arm: Mapping, what: str) -> list[Mapping]:
    """Points whose run did not diverge."""
    return [point for point in _search(arm, what).get("grid", ()) if point.get("loss") is not None]


def _numbers(arm: Mapping, what: str, key: str) -> dict[str, object]:
    tried = {point[key]: point["loss"] for point in _tried(arm, what)}
    best = _search(arm, what).get("best")
    return {"best": best, "interior": bool(_search(arm, what).get("interior")), "tried": tried}


def _is_inside(runs: StudyRuns, arm: Mapping) -> bool:
    """Whether the study's batch is the best for this arm, by the rule that chose it."""
    one_sequence = {run.number("context") for run in runs.record.students} == {
        _search(arm, "batch").get("best")
    }
    lowest = _lowest(arm)
    return bool(_search(arm, "batch").get("interior")) or (
        one_sequence and lowest == _search(arm, "batch")["best"]
    )


def _lowest(arm: Mapping) -> object:
    return min(_tried(arm, "batch"), key=lambda point: point["loss"])["batch_tokens"]
