"""`report.html`: one self-contained file from a study folder, the verdict first; its verdict as JSON beside it.

    distillaw report out/quickstart

Works on studies that are unfinished or in part failed: what is missing is said, what is there is shown.

What it says first: the verdict on one student, and the handful of numbers that a reader takes away.
"""

import json
import math
from collections.abc import Mapping, Sequence
from operator import attrgetter, itemgetter
from pathlib import Path

from distillaw.controls.api import check_controls, doubted_verdict
from distillaw.controls.control import Control
from distillaw.errors import CacheError, ConfigError
from distillaw.figures.batches import Walk, draw_walks, walks
from distillaw.figures.compute import (
    QUANTITIES,
    Spent,
    compute_spent,
    draw_searches,
    draw_spent,
    standing,
    study_searches,
)
from distillaw.fitting.study import kept_laws
from distillaw.large_batch.noise import NoiseScale
from distillaw.planning.api import plan
from distillaw.planning.arms import teacher_name
from distillaw.planning.evidence import Interval
from distillaw.planning.measured import MeasuredPoint, design_points
from distillaw.planning.phrases import interval, nats, percent
from distillaw.planning.verdict import Verdict, cost_table, evidence_table, nearest_table, strategy_table
from distillaw.quantities import flop_text, format_count, format_seconds, power_flop
from distillaw.report import trust
from distillaw.report.branch import write_branch_page
from distillaw.report.large_batch import write_large_batch_report
from distillaw.report.page import FigureFiles, KeyNumber, Picture, Section, status_words, write_page
from distillaw.report.recipe import write_recipe_report
from distillaw.report.students import drawn, student_sections
from distillaw.runs.files import read_json, write_json
from distillaw.runs.paired import sd_interval
from distillaw.runs.places import GENERATOR, check_file
from distillaw.runs.record import NO_BASELINE, Run, Search, StudyRecord, budget_text, evenly, read_study
from distillaw.table import Table, number, text

MOST_SIZES, MOST_CELLS = 12, 120
"""Each size of student is a panel of its own, and so is a cell that shows a capacity gap; half as many of a part."""


def write_report(study_dir: Path, out: Path | None = None, *, figures: FigureFiles | None = None) -> Path:
    """Write the report of a study folder.

    Args:
        study_dir: the folder that `study run` wrote, finished or not.
        out: the HTML file; by default report.html in the folder. `verdict_file` is written beside it.
        figures: where to write every figure as files of its own; None: only in the page.

    Returns:
        The HTML file.

    Raises:
        CacheError: there is no such folder, or it is not a study.
    """
    record = read_study(Path(study_dir))
    out = Path(out) if out is not None else record.folder / "report.html"
    check_report(out)
    shown = record.thinned()
    every_cell = design_points(shown)
    cells = _drawable(every_cell, is_part=shown is not record)
    controls = check_controls(shown)
    verdict, note = decide_target(record)
    verdict = doubted_verdict(verdict, controls) if verdict is not None else None
    write_json(verdict_file(out), verdict_json(record, verdict, note))
    spent = compute_spent(record)
    left_out = _left_out(record, shown, every_cell, cells)
    write_page(
        out,
        "report.html.j2",
        figures=figures,
        title=f"distillaw: {record.name}",
        record=record,
        verdict=verdict,
        sentence=verdict.sentence if verdict else f"No verdict yet: {note}",
        call_class=verdict.verdict if verdict else "none",
        call_name=verdict.title if verdict else "NO VERDICT",
        numbers=key_numbers(verdict, spent, record),
        problems=[*left_out, *_problems(record, verdict, note)],
        strategies=strategy_table(verdict) if verdict else None,
        costs=cost_table(verdict) if verdict else None,
        evidence=evidence_table(verdict, status=status_words) if verdict else None,
        nearest=nearest_table(verdict) if verdict else None,
        gains_are=_gains_are(verdict) if verdict else "",
        level=f"{100 * verdict.level:.0f} %" if verdict else "",
        sections=_sections(shown, cells, spent, controls),
        fits=trust.fit_notes(record),
        runs=run_table(shown),
        unfinished=record.unfinished,
        provenance=provenance(record),
        verdict_file=verdict_file(out).name,
        specification=json.dumps(record.info.get("spec", {}), indent=2, sort_keys=True),
    )
    return out


def check_report(out: Path) -> None:
    """Refuse, before the work, to replace what is no report or verdict of ours.

    Raises:
        ConfigError: a file of another origin is there.
    """
    for file in (out, verdict_file(out)):
        check_file(file)


def verdict_file(report: Path) -> Path:
    """The verdict of a report: verdict.json beside report.html, NAME.verdict.json beside NAME.html.

    A settlement's own verdict.json stays: its report's is report.verdict.json.
    """
    is_plain = report.name == "report.html" and not report.with_name("settle.json").exists()
    return report.with_name("verdict.json" if is_plain else f"{report.stem}.verdict.json")


def verdict_json(record: StudyRecord, verdict: Verdict | None, note: str) -> dict[str, object]:
    """The keys of `distillaw plan --json`; without a verdict, the sentence that says why."""
    head: dict[str, object] = {"schema_version": 1, "generator": GENERATOR, "study": record.name}
    if verdict is None:
        return {**head, "verdict": None, "sentence": f"No verdict yet: {note}"}
    return {**head, **verdict.to_json(), "note": note}


def _sections(
    record: StudyRecord, cells: Sequence[MeasuredPoint], spent: Sequence[Spent], controls: Sequence[Control]
) -> list[Section]:
    """Every section between the verdict and the laws, in the order of the page."""
    searches_title = "Search for learning rate and batch"
    return [
        *student_sections(record, cells),
        trust.control_section(controls),
        trust.fit_section(record),
        trust.frozen_section(record.folder),
        trust.hold_out_section(record),
        _walk_section(walks(record)),
        trust.calibration_section(record),
        drawn("Where the compute went", lambda: spent_picture(spent)),
        drawn(searches_title, lambda: searches_picture(study_searches(record))),
    ]


def _walk_section(found: Sequence[Walk]) -> Section:
    """How far weights went from where they began."""
    return drawn(
        WALK_TITLE,
        lambda: walks_picture(found),
        notes=walk_notes(found) if found else (),
        table=lambda: walk_table(found),
        table_title="Both fits of every run, and its noise scale",
    )


# --- what a part of the runs leaves out ---------------------------------------------------------------------


def _drawable(cells: list[MeasuredPoint], *, is_part: bool) -> list[MeasuredPoint]:
    """The cells of at most so many sizes, evenly spaced."""
    sizes, most = (MOST_SIZES // 2, MOST_CELLS // 2) if is_part else (MOST_SIZES, MOST_CELLS)
    kept = set(evenly(sorted({cell.params for cell in cells}), sizes))
    return evenly([cell for cell in cells if cell.params in kept], most)


def _left_out(
    record: StudyRecord, shown: StudyRecord, cells: list[MeasuredPoint], drawn_cells: list[MeasuredPoint]
) -> list[str]:
    """What the page leaves out of a very large table, and its pictures by cell of all that the record has."""
    said = []
    if shown is not record:
        said.append(
            f"{len(record.trained):,} runs are too many to draw: pictures, controls and tables show "
            f"{len(shown.trained):,} of them, whole cells evenly over compute, those with a teacher first. The "
            "verdict, the compute and every count are of all of them; runs.parquet holds each"
        )
    if len(drawn_cells) < len(cells):
        every = [cell for budgets in record.student_cells.values() for cell in budgets.values()]
        total = sum(any(not teacher for teacher, _ in cell) for cell in every)
        shares = f"{len(drawn_cells)} of {total:,} cells, evenly over the sizes of students"
        said.append(f"Pictures by size and budget show {shares}")
    return said


# --- words around the verdict -------------------------------------------------------------------------------


def _gains_are(verdict: Verdict) -> str:
    if verdict.headline.kind != "measured":
        return "differences of what the law predicts for the two ways"
    if verdict.headline.is_paired:
        return "paired differences on the same documents and seeds, which is why they are known so much better"
    return "differences of runs compared as if independent: their losses by document did not come along"


def _problems(record: StudyRecord, verdict: Verdict | None, note: str) -> list[str]:
    found = [note] if verdict is not None and note else []
    failed = [run for run in record.unfinished if run.state == "failed"]
    if failed:
        found.append(f"{len(failed)} runs failed (listed under Runs); what they would have shown is missing here.")
    if others := len(record.unfinished) - len(failed):
        found.append(f"{others} runs are not finished; this report is of what was there.")
    found += [*record.problems, *kept_laws(record).problems, *(verdict.warnings if verdict else ())]
    return list(dict.fromkeys(found))


# --- compute and searches -----------------------------------------------------------------------------------


def spent_picture(spent: Sequence[Spent]) -> Picture:
    """FLOP by part; DataError: nothing has been spent."""
    total = flop_text(sum(s.flop for s in spent))
    parts = ", ".join(f"{s.part} {flop_text(s.flop)}" for s in spent)
    return Picture(
        name="flop",
        title="Where the compute went",
        alt=f"FLOP executed, {total} in all: {parts}",
        figure=draw_spent(spent),
        caption=f"Model FLOP, {total} in all. Token budgets of one trunk share its training, which is "
        "counted once. Forward passes of the teachers (their logits) are counted where students were distilled.",
    )


def searches_picture(found: Sequence[Search]) -> Picture:
    """The searches for learning rate and batch; DataError: there are none."""
    figure, words, doubts = draw_searches(found), [], []
    for search in found:
        best = "none" if search.best is None else f"{search.best:.3g}"
        where, is_fine = standing(search)
        words.append(f"{search.arm} {search.size}: {QUANTITIES[search.what]} {best}, {where}")
        doubts += [] if is_fine else words[-1:]
    fine = "Every chosen value is the lowest tried and lies inside its search range."
    verdict = f"Not at an interior lowest value: {'; '.join(doubts)}." if doubts else fine
    return Picture(
        name="tuning",
        title="Search for learning rate and batch",
        figure=figure,
        alt="Search for learning rate and batch. " + " ".join(f"{one}." for one in words),
        caption=f"{verdict} An untuned rate fakes a capacity gap or a gain, so every arm is tuned alike: a rate "
        "at the smallest budget, one at the largest, from which those of other budgets and sizes follow, and one batch "
        "for the whole study. The chosen value is filled; missing points diverged.",
    )


# --- how far the weights went -------------------------------------------------------------------------------


WALK_TITLE = "How far the weights went"


def walks_picture(found: Sequence[Walk]) -> Picture:
    """Distance against step; DataError: no run kept its distances."""
    ends = ((walk.run.run_id, walk.distances[-1], walk.steps[-1]) for walk in found)
    words = " ".join(f"{run}: {distance:.3g} after {steps} steps." for run, distance, steps in ends)
    return Picture(
        name="diffusion",
        title=WALK_TITLE,
        figure=draw_walks(found),
        alt=f"Distance from the first weights against step. {words}",
        caption="Euclidean distance of all weights from those of step 0; blue: with a teacher. Solid "
        "at the peak rate, dotted in warm-up and decay; dashed, a + b ln t fitted to the solid part (a straight line "
        "here). Hoffer et al. 2017 (arXiv 1705.08741) saw straight lines for image networks under SGD.",
    )


def walk_table(found: Sequence[Walk]) -> Table:
    """Both fits of every run, with their window, and the noise scale where it was free."""

    def with_error(found: tuple[float, float]) -> str:
        return f"{found[0]:.3g} ± {found[1]:.2g}"

    def noise_words(noise: NoiseScale) -> str:
        middle = budget_text(noise.value) if noise.value else "not told from infinite"
        high = "∞" if noise.high is None else budget_text(noise.high)
        return f"{middle} [{budget_text(noise.low)}, {high}]"

    def noise_order(noise: NoiseScale) -> float:
        return noise.value or math.inf

    columns = [
        text("run"),
        text("teacher"),
        number("at the end", ".2f"),
        number("peak rate, steps", lambda window: f"{window[0]:,} to {window[1]:,}", sort=itemgetter(0)),
        number("points"),
        number("b of a + b ln t", with_error, sort=itemgetter(0)),
        number("R²", ".3f"),
        number("p of c tᵖ", with_error, sort=itemgetter(0)),
        number("R²", ".3f"),
        text("closer"),
        number("noise scale, tokens", noise_words, sort=noise_order, missing="one batch size seen"),
    ]
    rows = []
    for walk in found:
        fit, teacher = walk.fit, walk.teacher.replace(" teacher", "")
        fits = [None] * 6
        if fit is not None:
            slope, power = (fit.b, fit.b_se), (fit.p, fit.p_se)
            fits = [fit.points, slope, fit.log_r2, power, fit.power_r2, "log t" if fit.better == "log" else "power"]
        rows.append([walk.run.run_id, teacher, walk.distances[-1], walk.constant, *fits, walk.noise])
    return Table(columns, rows)


def walk_notes(found: Sequence[Walk]) -> list[str]:
    """Which law is closer, in how many runs; and what the noise scale column says and does not."""
    fitted = [walk.fit for walk in found if walk.fit is not None]
    if not fitted:
        return ["No run has enough recorded steps at its peak rate for a fit."]
    logs = sum(fit.better == "log" for fit in fitted)
    powers = sorted(fit.p for fit in fitted)
    notes = [
        f"At the peak rate a + b ln t is closer to the distance than a power of t in {logs} of {len(fitted)} runs; the "
        f"powers lie between {powers[0]:.2f} and {powers[-1]:.2f} (ordinary diffusion would be 0.5). Points of one "
        "curve are correlated, so the standard errors below are too small."
    ]
    if any(walk.noise is not None for walk in found):
        notes.append(
            "The noise scale is tr(Σ)/|G|² with its 95 % interval, from the gradient norms of a part and of the whole "
            "batch. It is a diagnostic and no critical batch: Merrill et al. 2025 (arXiv 2505.23971) find it too small "
            "by orders of magnitude. `distillaw branch` measures."
        )
    return notes


# --- every run, and how the study was made ------------------------------------------------------------------


def run_table(record: StudyRecord) -> Table:
    """Every finished run."""

    def row_text(key: str):
        return lambda run: str(run.row.get(key) or "")

    def row_number(key: str):
        return lambda run: run.number(key)

    def teacher(run: Run) -> str:
        name = teacher_name(record, run.teacher_run) if run.teacher_run else ""
        return name.replace(" teacher", "")

    def flop(run: Run) -> float | None:
        total = run.number("train_flops") + (run.number("teacher_flops") if run.teacher_run else 0.0)
        return total if math.isfinite(total) else None

    return Table.of(
        [
            text("run", of=attrgetter("run_id")),
            text("role", of=row_text("role"), is_facet=True),
            text("for", of=attrgetter("purpose"), is_facet=True),
            number("params", ",", of=attrgetter("params"), is_facet=True),
            number("tokens", ",", of=attrgetter("tokens"), is_facet=True),
            number("loss", ".4f", of=attrgetter("loss")),
            number("± s.e.", ".4f", of=attrgetter("loss_se")),
            text("teacher", of=teacher, is_facet=True),
            text("init", of=row_text("init"), is_facet=True),
            number("seed", of=attrgetter("seed"), is_facet=True),
            number("peak rate", ".3g", of=row_number("peak_lr")),
            number("batch", ",.0f", of=row_number("batch_tokens")),
            number("FLOP", power_flop, of=flop),
            number("seconds", ",.0f", of=row_number("seconds")),
        ],
        record.runs,
    )


def provenance(record: StudyRecord) -> list[tuple[str, str]]:
    """How the study was made, as (what, value) lines."""
    info = record.info
    data = info.get("data") if isinstance(info.get("data"), Mapping) else {}
    assert isinstance(data, Mapping)
    tokens, copies = data.get("tokens"), data.get("duplicates")
    split = {k: _count(v) for k, v in tokens.items()} if isinstance(tokens, Mapping) else None
    documents, tokens_scored = (_count(data.get(f"heldout_{what}")) for what in ("documents", "tokens"))
    return [
        ("study", record.name),
        ("specification", f"hash {info.get('spec_hash', 'unknown')}"),
        ("created", str(info.get("created", "unknown"))),
        ("corpus", f"{data.get('corpus', 'unknown')}, {_count(data.get('documents'))} documents"),
        ("copies", str(copies.get("words")) if isinstance(copies, Mapping) else "near ones not looked for"),
        ("tokens", _pairs(split)),
        ("tokenizer", f"{data.get('tokenizer', 'unknown')}, {data.get('vocab_size', '?')} pieces"),
        ("held out", f"{documents} documents, {tokens_scored} tokens scored"),
        ("versions", _pairs(info.get("versions"))),
        ("machine", _pairs(info.get("machine"))),
    ]


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else "unknown")


def _pairs(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return str(value or "unknown")


# --- the report of whatever a folder holds -----------------------------------------------------------------


def write_any(
    folder: Path, out: Path | None = None, *, figures: FigureFiles | None = None
) -> tuple[Path, dict[str, object] | None]:
    """Write it; a folder that is nothing else is taken for a study's.

    Args:
        folder: what `study run`, `recipe`, `branch` or `large-batch run` wrote, finished or not.
        out: the HTML file; by default in the folder.
        figures: where to write every figure as files of its own; None: only in the page.

    Returns:
        The HTML file, and the verdict of a study.

    Raises:
        CacheError: there is no such folder, or a file in it is damaged.
    """
    if (folder / "recipe.json").exists():
        return write_recipe_report(folder, out, figures=figures), None
    if (folder / "large_batch.json").exists():
        return write_large_batch_report(folder, out, figures=figures), None
    if (folder / "branch.json").exists() and not (folder / "runs").exists():
        record = read_json(folder / "branch.json")
        return write_branch_page(record, out or folder / "branch.html", figures=figures), None
    page = write_report(folder, out, figures=figures)
    return page, read_json(verdict_file(page))


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
                NO_BASELINE if record.lacks_baseline else "no student has been run both with and without a teacher yet"
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
