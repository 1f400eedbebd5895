"""What a report says: every text and number of the page, made from the same objects as its pictures.

No HTML here; templates/report.html.j2 only places these. A part that a study cannot fill says why in one sentence.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distillaw.errors import CacheError, ConfigError
from distillaw.figures.spending import Spent
from distillaw.fitting.study import kept_laws
from distillaw.planning.api import plan
from distillaw.planning.arms import teacher_name
from distillaw.planning.decision import call
from distillaw.planning.evidence import Interval
from distillaw.planning.measured import DesignPoint, MeasuredGap
from distillaw.planning.phrases import interval, nats, percent
from distillaw.planning.verdict import Verdict
from distillaw.quantities import flop_text, format_count, format_seconds, power_text
from distillaw.runs.paired import sd_interval
from distillaw.runs.record import Run, StudyRecord, budget_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One key number with its interval and what it is."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One table entry: what is shown and what it is sorted by."""

    text: str
    sort: float | str = ""
    kind: str = "number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns and rows of entries."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    facets: Sequence[str] = ()
    """Columns by whose values rows can be filtered on the page."""


def decide_target(record: StudyRecord) -> tuple[Verdict | None, str]:
    """The verdict on the study's target, or on its largest student where it names none; else why there is none."""
    target, note = record.target, ""
    if target is None:
        student = record.largest_compared
        if student is None:
            return None, "no student has been run both with and without a teacher yet"
        target = (float(student.params), float(student.tokens))
        note = f"The study names no target; this is about its largest pair of runs ({student.label} student)."
    try:
        verdict = plan(target[0], student_tokens=target[1], study=record)
    except (ConfigError, CacheError) as error:
        return None, str(error)
    if not verdict.headline.is_informative:
        return None, "the target has not been run both with and without a teacher, and no law reaches it"
    return verdict, note


def key_numbers(verdict: Verdict | None, spent: Sequence[Spent], record: StudyRecord) -> list[Figure]:
    """The handful of numbers that a reader takes away."""
    found = _verdict_numbers(verdict) if verdict is not None else []
    flop, seconds = sum(s.flop for s in spent), sum(s.seconds for s in spent)
    note = f"{len(record.runs)} finished runs"
    if seconds > 0:
        note += f", {format_seconds(seconds)} of training"
    return [*found, Figure(label="Compute spent", value=flop_text(flop), note=note)]


_SEED_WORDS = {
    "cell": "measured at the target",
    "study": "measured elsewhere in the study",
    "arm": "from repeats of one arm",
    "assumed": "ASSUMED: no cell was repeated",
}


def _verdict_numbers(verdict: Verdict) -> list[Figure]:
    if not verdict.headline.is_decisive:  # shown below, not believed: no number to take away
        return [
            Figure(label="Gain of distilling", value="not known", note="no evidence reaches this student")
        ]
    best, own = verdict.headline.best, verdict.headline.pretrain
    assert own is not None
    level = f"{100 * verdict.level:.0f} % interval"
    judged = sum(not row.is_speculative for row in verdict.headline.distil)
    found = [
        Figure(label="Gain of distilling", value=f"{_signed(verdict.gain.mean)} nats/token",
               note=f"{_range(verdict.gain)}, {level}"),
        Figure(label="Probability", value=percent(verdict.probability),
               note=_probability_note(verdict)),
        Figure(label="Best teacher", value=best.teacher.name if best.teacher else "",
               note=f"best of {judged} with probability {percent(best.share_best or 0.0)}"
               if judged > 1 else "the only one considered"),
        Figure(label="Student loss", value=f"{nats(best.loss.mean)} nats/token",
               note=f"{_bounds(best.loss)}, {level}; without a teacher {interval(own.loss)}"),
    ]  # fmt: skip
    equal = verdict.equal_compute
    if equal is not None:
        value = f"{_signed(equal.gain.mean)} nats/token" if equal.gain is not None else "not known"
        given = f"pretraining on {format_count(equal.pretrain_tokens)} tokens, same FLOP"
        note = f"{_range(equal.gain)} against {given}" if equal.gain is not None else given
        found.append(Figure(label="Gain at equal compute", value=value, note=note))
    found.append(_crossover_number(verdict))
    seed_sd = verdict.headline.details.get("seed_sd_seen")
    if isinstance(seed_sd, float):
        found.append(Figure(label="Seed noise of one run", value=f"{seed_sd:.4f} nats/token",
                            note=_seed_note(verdict, seed_sd)))  # fmt: skip
    return found


def _seed_note(verdict: Verdict, seed_sd: float) -> str:
    """Where the seed noise is from; measured, with the interval that so few repeats leave it."""
    details = verdict.headline.details
    source = _SEED_WORDS[str(details["seed_source"])]
    if details["seed_source"] == "assumed":
        return source
    low, high = sd_interval(seed_sd, float(details["seed_dof"]), verdict.level)  # type: ignore[arg-type]
    return f"standard deviation [{low:.4f}, {high:.4f}], {100 * verdict.level:.0f} % interval; {source}"


def _probability_note(verdict: Verdict) -> str:
    side = "distilling" if verdict.call.distil >= verdict.call.pretrain else "pretraining"
    return f"that {side} is better by more than {nats(verdict.margin)} nats/token"


def _crossover_number(verdict: Verdict) -> Figure:
    band = verdict.crossover
    label = "Pretraining catches up at"
    if band is None:
        return Figure(
            label=label, value="not known", note="needs two token budgets with and without a teacher"
        )
    if band.median is None and band.share_before > band.share_none:
        near = format_count(band.searched[0])
        return Figure(
            label=label,
            value=f"before {near} tokens",
            note=f"ahead all along in {percent(band.share_before)} of draws",
        )
    if band.median is None:
        far = format_count(band.searched[1])
        return Figure(
            label=label,
            value="no crossover",
            note=f"up to {far} tokens in {percent(band.share_none)} of draws",
        )
    low = format_count(band.lower) if band.lower is not None else f"below {format_count(band.searched[0])}"
    high = format_count(band.upper) if band.upper is not None else f"beyond {format_count(band.searched[1])}"
    return Figure(label=label, value=f"{format_count(band.median)} tokens", note=f"{low} to {high}")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _bounds(value: Interval) -> str:
    return interval(value).split(" ", 1)[1]


def _range(value: Interval) -> str:
    return f"[{_signed(value.lower)}, {_signed(value.upper)}]"


def strategy_table(verdict: Verdict) -> Table:
    """Strategies of the verdict, best first."""
    rows = [
        [
            Value(text=row.name, kind="text"), number(row.teacher_loss, 3),
            Value(text=budget_text(row.student_tokens), sort=row.student_tokens),
            Value(text=interval(row.loss), sort=row.loss.mean),
            Value(text=interval(row.gain) if row.gain else "", sort=row.gain.mean if row.gain else 0.0),
            Value(text=percent(row.share_best) if row.share_best is not None else "", sort=row.share_best or 0.0),
            Value(text=row.basis, kind="text"),
        ]
        for row in verdict.strategies
    ]  # fmt: skip
    columns = ["strategy", "teacher loss", "tokens", "student loss", "gain", "best teacher?", "basis"]
    return Table(columns=columns, rows=rows)


def cost_table(verdict: Verdict) -> Table:
    """FLOP of each strategy by part, and what the scenario has this student pay."""
    rows = []
    for row in verdict.strategies:
        parts = [
            row.compute.get(k) for k in ("student_training", "teacher_logits", "teacher_training", "total")
        ]
        entries = [Value(text="unknown" if p is None else flop_text(p), sort=p or 0.0) for p in parts]
        rows.append([Value(text=row.name, kind="text"), *entries])
    return Table(
        columns=["strategy", "student training", "teacher logits", "teacher training", "paid here"], rows=rows
    )


def evidence_table(verdict: Verdict) -> Table:
    """Every source side by side, with what it says and whether it decides."""
    rows = []
    for source in verdict.evidence:
        gain = interval(source.gain(verdict.level)) if source.is_informative else ""
        answer = call(source) if source.is_decisive else None
        rows.append([
            Value(text=source.source, kind="text"),
            Value(text="decides" if source.source in verdict.headline.deciding else "", kind="text"),
            Value(text=gain), Value(text=percent(answer.distil) if answer else ""),
            Value(text=percent(answer.pretrain) if answer else ""),
            Value(text=f"{status_words(source.status)}: {source.note}", kind="text"),
        ])  # fmt: skip
    return Table(columns=["evidence", "", "gain", "P(distil)", "P(pretrain)", "what it is"], rows=rows)


def typeset(text: str) -> str:
    """Powers of ten as people write them (2.96e11 becomes 2.96 x 10^11), true minus signs, no break in a number.

    Names of statuses become words, +- becomes one sign.
    """
    text = _STATUS.sub(lambda found: status_words(found[0]), text).replace("+-", "±")
    text = _POWER.sub(lambda found: power_text(float(found[0])), text)
    for unit in ("%", "FLOP"):
        text = text.replace(f" {unit}", f"\u00a0{unit}")
    return _MINUS.sub("−", text).replace(" × ", "\u00a0×\u00a0")


def status_words(status: str) -> str:
    """A status within a sentence: `TOO_FEW_RUNS` is read as `too few runs`."""
    return status.replace("_", " ").lower()


_STATUS = re.compile(r"\b(?!DISTILLAW_)[A-Z]{2,}(?:_[A-Z]{2,})+\b(?!=)")
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")
_POWER = re.compile(r"\b\d(?:\.\d+)?e\+?\d{1,2}\b")


def number(value: float | None, digits: int) -> Value:
    """A number for a table; empty where it is missing."""
    if value is None or not math.isfinite(value):
        return Value(text="", sort=math.inf)
    return Value(text=f"{value:.{digits}f}", sort=value)


def run_table(record: StudyRecord) -> Table:
    """Every finished run."""
    columns = ["run", "role", "for", "params", "tokens", "loss", "± s.e.", "teacher", "init", "seed", "peak rate",
               "batch", "FLOP", "seconds"]  # fmt: skip
    return Table(columns=columns, rows=[_run_row(record, run) for run in record.runs], facets=RUN_FACETS)


RUN_FACETS = ("role", "for", "params", "tokens", "teacher", "init", "seed")


def _word(text: str) -> Value:
    return Value(text=text, sort=text, kind="text")


def _run_row(record: StudyRecord, run: Run) -> list[Value]:
    flop = run.number("train_flops") + (run.number("teacher_flops") if run.teacher_run else 0.0)
    seconds = run.number("seconds")
    taught_by = teacher_name(record, run.teacher_run) if run.teacher_run else ""
    return [
        _word(run.run_id), _word(str(run.row.get("role") or "")), _word(run.purpose),
        Value(text=f"{run.params:,}", sort=run.params), Value(text=f"{run.tokens:,}", sort=run.tokens),
        number(run.loss, 4), number(run.loss_se, 4),
        Value(text=taught_by.replace(" teacher", ""), sort=taught_by, kind="text"),
        _word(str(run.row.get("init") or "")), Value(text=str(run.seed), sort=run.seed),
        Value(text=f"{run.number('peak_lr'):.3g}", sort=run.number("peak_lr")),
        Value(text=f"{run.number('batch_tokens'):,.0f}", sort=run.number("batch_tokens")),
        Value(text=flop_text(flop).removesuffix(" FLOP") if math.isfinite(flop) else "", sort=flop),
        Value(text=f"{seconds:,.0f}" if math.isfinite(seconds) else "", sort=seconds),
    ]  # fmt: skip


def cell_table(cells: Sequence[DesignPoint]) -> Table:
    """Gains of every cell: the numbers of the first two pictures."""
    gain = "paired gain" if all(cell.is_paired for cell in cells) else "gain"
    columns = ["student", "tokens", "teacher", "teacher loss", "seeds", "loss", "no teacher", gain, "± 90 %",
               "best?"]  # fmt: skip
    rows = [
        [
            Value(text=cell.label, sort=cell.params), Value(text=budget_text(cell.tokens), sort=cell.tokens),
            Value(text=t.teacher.replace(" teacher", ""), sort=t.teacher, kind="text"), number(t.teacher_loss, 4),
            Value(text=str(len(t.seeds)), sort=len(t.seeds)), number(t.loss, 4), number(cell.alone, 4),
            number(t.gain, 4), number(t.half, 4), Value(text=percent(t.share_best), sort=t.share_best),
        ]
        for cell in cells for t in cell.taught
    ]  # fmt: skip
    return Table(columns=columns, rows=rows)


def gap_sentences(cells: Sequence[DesignPoint]) -> list[str]:
    """Whether a capacity gap was seen: a stronger teacher that is worse by more than two standard deviations."""
    asked = [cell for cell in cells if len(cell.taught) >= 3]
    if not asked:
        return [
            "A capacity gap cannot be judged here: it takes three teachers of one student and token budget."
        ]
    found = [cell for cell in asked if cell.gap is not None and cell.gap.is_established]
    if not found:
        return [
            f"No capacity gap shows: in none of {len(asked)} cells is the strongest teacher worse than another by more "
            "than two standard deviations."
        ]
    lead = (
        f"A capacity gap shows in {len(found)} of {len(asked)} cells: there the strongest teacher is worse than "
        "another by more than two standard deviations."
    )
    return [lead, " ".join(_gap_sentence(cell, cell.gap) for cell in found if cell.gap is not None)]


def _gap_sentence(cell: DesignPoint, gap: MeasuredGap) -> str:
    return (
        f"{cell.label} student on {budget_text(cell.tokens)} tokens: the {gap.strongest} costs {gap.depth:.3f} ± "
        f"{gap.sd:.3f} nats/token against the {gap.best}."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FitNote:
    """One law of the study: its status first, then values where there are any."""

    family: str
    status: str
    remedy: str
    summary: str
    rows: Sequence[Sequence[str]]
    """(coefficient, value, interval); empty where the fit is not to be used."""


def fit_notes(record: StudyRecord) -> list[FitNote]:
    """The stored fits and the families that could not be fitted."""
    from distillaw.fitting.summary import rounded

    found, kept = [], kept_laws(record)
    for name, fit in kept.fits.items():
        intervals = fit.conf_int()
        rows = []
        for key, value in fit.params.items() if fit.is_usable else ():
            low, high = intervals.get(key, (None, None))
            span = (
                ""
                if low is None or high is None
                else f"{rounded(low, low, high)} to {rounded(high, low, high)}"
            )
            rows.append((key, rounded(value, low, high), span))
        found.append(
            FitNote(family=name, status=fit.status.name, remedy=fit.remedy or fit.status.value, rows=rows,
                    summary=f"{fit.nobs} rows in {fit.ngroups} independent runs")
        )  # fmt: skip
    found += [FitNote(family=name, status="NOT FITTED", remedy=error, summary="", rows=())
              for name, error in kept.errors.items()]  # fmt: skip
    return sorted(found, key=lambda note: _FAMILY_ORDER.get(note.family, 9))


_FAMILY_ORDER = {"supervised": 0, "distillation-kappa": 1, "distillation-reduced": 2, "capacity-gap": 3}


def provenance(record: StudyRecord) -> list[tuple[str, str]]:
    """How the study was made, as (what, value) lines."""
    info = record.info
    data = info.get("data") if isinstance(info.get("data"), Mapping) else {}
    assert isinstance(data, Mapping)
    tokens = data.get("tokens")
    lines = [
        ("study", record.name),
        ("specification", f"hash {info.get('spec_hash', 'unknown')}"),
        ("created", str(info.get("created", "unknown"))),
        ("corpus", f"{data.get('corpus', 'unknown')}, {_count(data.get('documents'))} documents"),
        ("copies", _copies(data.get("duplicates"))),
        ("tokens", _pairs({k: _count(v) for k, v in tokens.items()} if isinstance(tokens, Mapping) else None)),
        ("tokenizer", f"{data.get('tokenizer', 'unknown')}, {data.get('vocab_size', '?')} pieces"),
        ("held out", f"{_count(data.get('heldout_documents'))} documents, "
                     f"{_count(data.get('heldout_tokens'))} tokens scored"),
        ("versions", _pairs(info.get("versions"))),
        ("machine", _pairs(info.get("machine"))),
    ]  # fmt: skip
    return lines


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else "unknown")


def _copies(found: object) -> str:
    return str(found.get("words")) if isinstance(found, Mapping) else "near ones not looked for"


def _pairs(value: object) -> str:
    return (
        ", ".join(f"{k} {v}" for k, v in value.items())
        if isinstance(value, Mapping)
        else str(value or "unknown")
    )
