"""`report.html` of a large-batch study: our columns beside the paper's, what each stage is worth, the diffusion figure.

    distillaw report out/large-batch

Reads large_batch.json and the result of each cell; what has not finished is left out and said.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distillaw.errors import DataError
from distillaw.large_batch.images.results import (
    ColumnScore,
    Gain,
    ImageRecord,
    ImageWalk,
    read_record,
    read_walks,
    score_columns,
    score_gains,
    slope_ratio,
    too_short,
)
from distillaw.large_batch.images.spec import Paper, PaperRow, hoffer2017
from distillaw.large_batch.images.words import (
    differences,
    gain_sentence,
    headline,
    outcome,
    verdict_sentences,
    walk_sentences,
)
from distillaw.quantities import format_seconds
from distillaw.report.large_batch_pictures import columns_picture, walks_picture
from distillaw.report.large_batch_tables import cell_table, column_table, gain_table, walk_table
from distillaw.report.page import FigureFiles, KeyNumber, Section, write_page

INTERVALS = (
    "Intervals are 95 % and hold for other seeds and other test images: both kinds of noise are added up, paired. "
    "“Significant” is after Holm's correction for all comparisons of this page. Accuracies are those of the last "
    "step, on the whole test set, with running statistics as trained; nothing was selected on it. "
    "Gap closed: the share of SB − LB; unbounded where that gap is not distinct from zero. Training: on the training "
    "images. Fresh statistics: the test set again, with running means and variances re-estimated on training images."
)


def write_large_batch_report(
    folder: Path, out: Path | None = None, *, figures: FigureFiles | None = None
) -> Path:
    """Write the report of a large-batch study.

    Args:
        folder: what `distillaw large-batch run` wrote, finished or not.
        out: the HTML file; by default report.html in the folder.
        figures: where to write every figure as files of its own; None: only in the page.

    Raises:
        CacheError: there is no such study, or a file in it is damaged.
        DataError: no cell has finished.
    """
    record = read_record(Path(folder))
    row, scores, gains, walks = _findings(record)
    out = out or record.folder / "report.html"
    write_page(
        out,
        "large_batch.html.j2",
        figures=figures,
        title=f"distillaw large-batch: {record.study.name}",
        name=record.study.name,
        headline=headline(scores, gains),
        numbers=_numbers(gains, walks),
        verdicts=verdict_sentences(gains),
        columns=column_table(scores, row),
        problems=_problems(record, row),
        sections=_sections(record, row, scores, gains, walks),
        intervals=INTERVALS,
        provenance=_provenance(record),
        command=record.info["command"],
        specification=json.dumps(record.info["spec"], indent=2),
    )
    return out


def summarise(folder: Path) -> dict[str, Any]:
    """The numbers of the report as plain values.

    Raises:
        CacheError: there is no such study, or a file in it is damaged.
        DataError: no cell has finished.
    """
    record = read_record(Path(folder))
    row, scores, gains, walks = _findings(record)
    ratios = {
        when: slope_ratio(walks, corrected=corrected)
        for when, corrected in (("before", False), ("after", True))
    }
    return {
        "name": record.study.name,
        "headline": headline(scores, gains),
        "columns": [asdict(score) for score in scores],
        "gains": [{**asdict(gain), "outcome": outcome(gain)} for gain in gains],
        "walks": [_walk_json(walk) for walk in walks],
        "slope_ratio": {when: None if ratio is None else asdict(ratio) for when, ratio in ratios.items()},
        "sentences": [gain_sentence(gain) for gain in gains],
        "verdicts": verdict_sentences(gains),
        "walk_sentences": walk_sentences(walks),
        "problems": _problems(record, row),
        "seconds": record.info["seconds"],
        "cpu_seconds": sum(float(r["cpu_seconds"]) for r in record.results),
        "device": record.info["device"],
        "machine": record.info["machine"],
        "workers": record.info["workers"],
    }


def _findings(record: ImageRecord) -> tuple[PaperRow | None, list[ColumnScore], list[Gain], list[ImageWalk]]:
    if not record.results:
        raise DataError(
            f"{record.folder}: no cell has finished yet; the command in large_batch.json continues"
        )
    row = hoffer2017().row(record.study.paper) if record.study.paper else None
    printed = row.accuracy if row else {}
    return row, score_columns(record, printed), score_gains(record, printed), read_walks(record)


def _walk_json(walk: ImageWalk) -> dict[str, Any]:
    return {
        "batch": walk.batch,
        "is_corrected": walk.is_corrected,
        "column": walk.column,
        "last_step": walk.last_step,
        "slope": asdict(walk.slope),
        "power": asdict(walk.power),
        "end": asdict(walk.end),
        "first_tensor_slope": asdict(walk.first_tensor_slope),
        "log_wins": walk.log_wins,
        "fits": {str(seed): asdict(fit) for seed, fit in walk.fits.items()},
    }


def _numbers(gains: Sequence[Gain], walks: Sequence[ImageWalk]) -> list[KeyNumber]:
    """The tiles on top."""
    labels = {
        ("SB", "LB"): "large against small batch",
        ("LB", "+LR"): "scaled rate adds",
        ("+LR", "+GBN"): "ghost batch norm adds",
        ("+GBN", "+RA"): "as many updates add",
        ("SB", "+RA"): "all three against the small batch",
    }
    found = [
        KeyNumber(label=labels[gain.before, gain.after], value=f"{gain.mean:+.2f} points", note=_range(gain))
        for gain in gains
        if (gain.before, gain.after) in labels
    ]
    for corrected, when in ((False, "before"), (True, "after")):
        ratio = slope_ratio(walks, corrected=corrected)
        if ratio is not None:
            note = (
                "one seed"
                if ratio.interval is None
                else f"{ratio.interval[0]:.2f} to {ratio.interval[1]:.2f}"
            )
            found.append(
                KeyNumber(
                    label=f"slope of the walk, largest over smallest batch, {when}",
                    value=f"{ratio.value:.2f}",
                    note=note,
                )
            )
    return found


def _range(gain: Gain) -> str:
    if gain.interval is None:
        return "one seed, no interval"
    paper = "" if gain.paper is None else f"; paper {gain.paper:+.2f}"
    return f"{gain.interval[0]:+.2f} to {gain.interval[1]:+.2f}{paper}"


def _problems(record: ImageRecord, row: PaperRow | None) -> list[str]:
    """What must be minded before reading on."""
    said = []
    if row is not None and (other := differences(record, row)):
        said.append(
            f"Not the paper's experiment but one like it: {'; '.join(other)}. Compare signs, not sizes."
        )
    said += [f"{note[0].upper()}{note[1:]}." for note in record.info["notes"]]
    said += [f"{r['column']} seed {r['seed']} diverged: {r['error']}." for r in record.diverged]
    if record.missing:
        shown = ", ".join(record.missing[:6]) + (", ..." if len(record.missing) > 6 else "")
        said.append(
            f"{len(record.missing)} cells have not finished: {shown}. Comparisons take the seeds that both have."
        )
    if record.study.diffusion.batches and (short := too_short(record)):
        said.append(f"Too few steps in the first phase for a fit of the walk: {', '.join(short)}.")
    if record.study.seeds < 5:
        said.append(
            f"{record.study.seeds} seeds: intervals of fewer than five are wide and lean on normal noise."
        )
    return said


def _sections(
    record: ImageRecord,
    row: PaperRow | None,
    scores: Sequence[ColumnScore],
    gains: Sequence[Gain],
    walks: Sequence[ImageWalk],
) -> list[Section]:
    paper = hoffer2017()
    return [
        Section(
            title="What each stage is worth",
            pictures=[columns_picture(scores, row)] if scores else [],
            notes=[gain_sentence(gain) for gain in gains],
            table=gain_table(gains) if gains else None,
            table_title="Every comparison with its parts",
        ),
        Section(
            title="How far the weights wander: ‖w − w₀‖ against log t",
            pictures=[walks_picture(walks)] if walks else [],
            notes=walk_sentences(walks) or ["No curve of the first phase is there yet."],
            table=walk_table(walks, paper) if walks else None,
            table_title="Both fits of every batch size",
        ),
        Section(title="Every cell", table=cell_table(record.results), table_title="Settings and results"),
        Section(title="The paper's numbers", notes=_paper_notes(paper, row)),
    ]


def _paper_notes(paper: Paper, row: PaperRow | None) -> list[str]:
    own = list(row.known_problems) if row else []
    return [f"{paper.title}: {paper.source}. Certainty: {paper.certainty}.", *paper.known_problems, *own]


def _provenance(record: ImageRecord) -> list[tuple[str, str]]:
    info: Mapping[str, Any] = record.info
    data = info["data"]
    cpu = sum(float(result["cpu_seconds"]) for result in record.results)
    return [
        (
            "data",
            f"{data['path']} ({data['format']}), {data['train_images']:,} training and {data['test_images']:,} "
            f"test images, fingerprint {data['fingerprint']}",
        ),
        (
            "machine",
            f"{info['machine']}; {info['workers']} cells at once on {info['device']}, one thread each",
        ),
        (
            "time",
            f"{format_seconds(float(info['seconds']))} by the clock, {format_seconds(cpu)} of processor time",
        ),
        ("date", f"{info['date']}, distillaw {info['version']}"),
    ]
