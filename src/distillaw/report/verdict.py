"""The verdict of a study's report: on which student, and the handful of numbers that a reader takes away."""

from collections.abc import Sequence

from distillaw.errors import CacheError, ConfigError
from distillaw.figures.compute import Spent
from distillaw.planning.api import plan
from distillaw.planning.evidence import Interval
from distillaw.planning.phrases import interval, nats, percent
from distillaw.planning.verdict import Verdict
from distillaw.quantities import flop_text, format_count, format_seconds
from distillaw.report.page import KeyNumber
from distillaw.runs.paired import sd_interval
from distillaw.runs.record import NO_BASELINE, StudyRecord

_SEED_WORDS = {
    "cell": "measured at the target",
    "study": "measured elsewhere in the study",
    "arm": "from repeats of one arm",
    "assumed": "ASSUMED: no cell was repeated",
}


def decide_target(record: StudyRecord) -> tuple[Verdict | None, str]:
    """The verdict on the study's target, or on its largest student where it names none; else why there is none."""
    target, note = record.target, ""
    if target is None:
        student = record.largest_compared
        if student is None:
            why = (
                NO_BASELINE
                if record.lacks_baseline
                else "no student has been run both with and without a teacher yet"
            )
            return None, why
        target = (float(student.params), float(student.tokens))
        note = f"The study names no target; this is about its largest pair of runs ({student.label} student)."
    try:
        verdict = plan(target[0], student_tokens=target[1], study=record)
    except (ConfigError, CacheError) as error:
        return None, str(error)
    if not verdict.headline.is_informative:
        return None, "the target has not been run both with and without a teacher, and no law reaches it"
    return verdict, note


def key_numbers(verdict: Verdict | None, spent: Sequence[Spent], record: StudyRecord) -> list[KeyNumber]:
    """The numbers at the head of the page."""
    found = _verdict_numbers(verdict) if verdict is not None else []
    flop, seconds = sum(s.flop for s in spent), sum(s.seconds for s in spent)
    note = f"{len(record.trained)} finished runs"
    if seconds > 0:
        note += f", {format_seconds(seconds)} of training"
    return [*found, KeyNumber("Compute spent", flop_text(flop), note)]


def _verdict_numbers(verdict: Verdict) -> list[KeyNumber]:
    headline = verdict.headline
    if not headline.is_decisive:  # shown below, not believed: no number to take away
        return [KeyNumber("Gain of distilling", "not known", "no evidence reaches this student")]
    best, own = headline.best, headline.pretrain
    assert own is not None
    level = f"{100 * verdict.level:.0f} % interval"
    judged = sum(not row.is_speculative for row in headline.distil)
    share = f"best of {judged} with probability {percent(best.share_best or 0.0)}"
    side = "distilling" if verdict.call.distil >= verdict.call.pretrain else "pretraining"
    bounds = interval(best.loss).split(" ", 1)[1]
    margin = f"that {side} is better by more than {nats(verdict.margin)} nats/token"
    loss = f"{bounds}, {level}; without a teacher {interval(own.loss)}"
    share = share if judged > 1 else "the only one considered"
    found = [
        KeyNumber("Gain of distilling", _gain(verdict.gain), f"{_range(verdict.gain)}, {level}"),
        KeyNumber("Probability", percent(verdict.probability), margin),
        KeyNumber("Best teacher", best.teacher.name if best.teacher else "", share),
        KeyNumber("Student loss", f"{nats(best.loss.mean)} nats/token", loss),
    ]
    if (equal := verdict.equal_compute) is not None:
        note, value = f"pretraining on {format_count(equal.pretrain_tokens)} tokens, same FLOP", "not known"
        if equal.gain is not None:
            note, value = f"{_range(equal.gain)} against {note}", _gain(equal.gain)
        found.append(KeyNumber("Gain at equal compute", value, note))
    found.append(_crossover_number(verdict))
    if isinstance(seed_sd := headline.details.get("seed_sd_seen"), float):
        noise = f"{seed_sd:.4f} nats/token"
        found.append(KeyNumber("Seed noise of one run", noise, _seed_note(verdict, seed_sd)))
    return found


def _gain(value: Interval) -> str:
    return f"{_signed(value.mean)} nats/token"


def _seed_note(verdict: Verdict, seed_sd: float) -> str:
    """Where the seed noise is from; measured, with the interval that so few repeats leave it."""
    details = verdict.headline.details
    source = _SEED_WORDS[str(details["seed_source"])]
    if details["seed_source"] == "assumed":
        return source
    low, high = sd_interval(seed_sd, float(details["seed_dof"]), verdict.level)  # type: ignore[arg-type]
    return f"standard deviation [{low:.4f}, {high:.4f}], {100 * verdict.level:.0f} % interval; {source}"


def _crossover_number(verdict: Verdict) -> KeyNumber:
    band = verdict.crossover
    if band is None:
        value, note = "not known", "needs two token budgets with and without a teacher"
    elif band.median is not None:
        near, far = (format_count(end) for end in band.searched)
        low = format_count(band.lower) if band.lower is not None else f"below {near}"
        high = format_count(band.upper) if band.upper is not None else f"beyond {far}"
        value, note = f"{format_count(band.median)} tokens", f"{low} to {high}"
    elif band.share_before > band.share_none:
        value = f"before {format_count(band.searched[0])} tokens"
        note = f"ahead all along in {percent(band.share_before)} of draws"
    else:
        value = "no crossover"
        note = f"up to {format_count(band.searched[1])} tokens in {percent(band.share_none)} of draws"
    return KeyNumber("Pretraining catches up at", value, note)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _range(value: Interval) -> str:
    return f"[{_signed(value.lower)}, {_signed(value.upper)}]"
