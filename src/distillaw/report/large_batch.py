"""`report.html` of a large-batch study: our columns beside the paper's, what each stage is worth, the diffusion figure.

    distillaw report out/large-batch

Reads large_batch.json and the result of each cell; what has not finished is left out and said.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from distillaw.errors import DataError
from distillaw.figures.batches import draw_columns, draw_error_curves, draw_image_walks
from distillaw.large_batch.images.results import (
    LANDSCAPE,
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
from distillaw.large_batch.images.spec import PaperRow, hoffer2017
from distillaw.large_batch.images.words import (
    alpha_sentence,
    differences,
    gain_name,
    gain_sentence,
    headline,
    outcome,
    verdict_sentences,
    walk_sentences,
)
from distillaw.quantities import format_seconds
from distillaw.report.page import FigureFiles, KeyNumber, Picture, Section, write_page
from distillaw.runs.files import read_json
from distillaw.table import Column, Table, number, text

INTERVALS = (
    "Intervals are 95 % and hold for other seeds and other test images: both kinds of noise are added up, paired. "
    "“Significant” is after Holm's correction for all comparisons of this page. Accuracies are those of the last "
    "step, on the whole test set, with running statistics as trained; nothing was selected on it. "
    "Gap closed: the share of SB − LB; unbounded where that gap is not distinct from zero. Training: on the training "
    "images. Fresh statistics: the test set again, with running means and variances re-estimated on training images."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Findings:
    """A study on disk with what its cells say together."""

    record: ImageRecord
    row: PaperRow | None
    """Of the paper's table; None where none is shown."""
    scores: Sequence[ColumnScore]
    gains: Sequence[Gain]
    walks: Sequence[ImageWalk]

    @property
    def cpu_seconds(self) -> float:
        return sum(float(result["cpu_seconds"]) for result in self.record.results)


def _read(folder: Path) -> _Findings:
    record = read_record(Path(folder))
    if not record.results:
        raise DataError(f"{record.folder}: no cell has finished yet; the command in large_batch.json continues")
    row = hoffer2017().row(record.study.paper) if record.study.paper else None
    printed = row.accuracy if row else {}
    return _Findings(
        record=record,
        row=row,
        scores=score_columns(record, printed),
        gains=score_gains(record, printed),
        walks=read_walks(record),
    )


def write_large_batch_report(folder: Path, out: Path | None = None, *, figures: FigureFiles | None = None) -> Path:
    """Write the report of a large-batch study, finished or not; arguments as of `write_any`.

    Raises:
        CacheError: there is no such study, or a file in it is damaged.
        DataError: no cell has finished.
    """
    found = _read(folder)
    record = found.record
    out = out or record.folder / "report.html"
    write_page(
        out,
        "large_batch.html.j2",
        figures=figures,
        title=f"distillaw large-batch: {record.study.name}",
        name=record.study.name,
        headline=headline(found.scores, found.gains),
        numbers=_numbers(found),
        verdicts=verdict_sentences(found.gains),
        columns=_column_table(found.scores, found.row),
        problems=_problems(found),
        sections=_sections(found),
        intervals=INTERVALS,
        provenance=_provenance(found),
        command=record.info["command"],
        specification=json.dumps(record.info["spec"], indent=2),
    )
    return out


def summarise(folder: Path) -> dict[str, Any]:
    """The numbers of the report as plain values; errors as of `write_large_batch_report`."""
    found = _read(folder)
    info, walks = found.record.info, found.walks
    ratios = {"before": slope_ratio(walks, corrected=False), "after": slope_ratio(walks, corrected=True)}
    return {
        "name": found.record.study.name,
        "headline": headline(found.scores, found.gains),
        "columns": [asdict(score) for score in found.scores],
        "gains": [{**asdict(gain), "outcome": outcome(gain)} for gain in found.gains],
        "walks": [_walk_json(walk) for walk in walks],
        "slope_ratio": {when: ratio and asdict(ratio) for when, ratio in ratios.items()},
        "sentences": [gain_sentence(gain) for gain in found.gains],
        "verdicts": verdict_sentences(found.gains),
        "walk_sentences": walk_sentences(walks),
        "problems": _problems(found),
        "seconds": info["seconds"],
        "cpu_seconds": found.cpu_seconds,
        **{key: info[key] for key in ("device", "machine", "workers")},
    }


def _walk_json(walk: ImageWalk) -> dict[str, Any]:
    found = {key: value for key, value in asdict(walk).items() if key not in ("curves", "fits")}
    fits = {str(seed): asdict(fit) for seed, fit in walk.fits.items()}
    return {**found, "log_wins": walk.log_wins, "fits": fits}


_TILES = {
    ("SB", "LB"): "large against small batch",
    ("LB", "+LR"): "scaled rate adds",
    ("+LR", "+GBN"): "ghost batch norm adds",
    ("+GBN", "+RA"): "as many updates add",
    ("SB", "+RA"): "all three against the small batch",
}


def _numbers(found: _Findings) -> list[KeyNumber]:
    """The tiles on top."""
    tiles = []
    for gain in found.gains:
        if label := _TILES.get((gain.before, gain.after)):
            note = "one seed, no interval"
            if gain.interval is not None:
                paper = "" if gain.paper is None else f"; paper {gain.paper:+.2f}"
                note = f"{gain.interval[0]:+.2f} to {gain.interval[1]:+.2f}{paper}"
            tiles.append(KeyNumber(label, f"{gain.mean:+.2f} points", note))
    for corrected, when in ((False, "before"), (True, "after")):
        if (ratio := slope_ratio(found.walks, corrected=corrected)) is not None:
            label = f"slope of the walk, largest over smallest batch, {when}"
            note = _range(ratio.interval, 2) or "one seed"
            tiles.append(KeyNumber(label, f"{ratio.value:.2f}", note))
    return tiles


def _problems(found: _Findings) -> list[str]:
    """What must be minded before reading on."""
    said, record, study = [], found.record, found.record.study
    if found.row is not None and (other := differences(record, found.row)):
        said.append(f"Not the paper's experiment but one like it: {'; '.join(other)}. Sizes may differ for that alone.")
    said += [f"{note[0].upper()}{note[1:]}." for note in record.info["notes"]]
    said += [f"{r['column']} seed {r['seed']} diverged: {r['error']}." for r in record.diverged]
    if record.missing:
        shown = ", ".join(record.missing[:6]) + (", ..." if len(record.missing) > 6 else "")
        said.append(
            f"{len(record.missing)} cells have not finished: {shown}. Comparisons take the seeds that both have."
        )
    if study.diffusion.batches and (short := too_short(record)):
        said.append(f"Too few steps in the first phase for a fit of the walk: {', '.join(short)}.")
    if study.seeds < 5:
        said.append(f"{study.seeds} seeds: intervals of fewer than five are wide and lean on normal noise.")
    return said


def _sections(found: _Findings) -> list[Section]:
    paper, gains, walks = hoffer2017(), found.gains, found.walks
    return [
        Section(
            title="What each stage is worth",
            pictures=[_columns_picture(found.scores, found.row)] if found.scores else [],
            notes=[gain_sentence(gain) for gain in gains],
            table=_gain_table(gains) if gains else None,
            table_title="Every comparison with its parts",
        ),
        Section(title="Test error on the way", pictures=[_curves_picture(found.record)] if found.scores else []),
        Section(
            title="How far the weights wander: ‖w − w₀‖ against log t",
            pictures=[_walks_picture(walks)] if walks else [],
            notes=walk_sentences(walks) or ["No curve of the first phase is there yet."],
            table=_walk_table(walks) if walks else None,
            table_title="Both fits of every batch size",
        ),
        *_landscape(found.record.folder),
        Section(title="Every cell", table=_cell_table(found.record.results), table_title="Settings and results"),
        Section(
            title="The paper's numbers",
            notes=[
                f"{paper.title}: {paper.source}. Certainty: {paper.certainty}.",
                *paper.known_problems,
                *(found.row.known_problems if found.row else ()),
            ],
        ),
    ]


def _landscape(folder: Path) -> list[Section]:
    """The test of alpha, where `distillaw large-batch landscape` was run into the folder."""
    file = folder / LANDSCAPE
    if not file.exists():
        return []
    found = read_json(file)
    title, notes = "Is alpha 2? Losses at random distances from fresh weights", [alpha_sentence(found)]
    return [Section(title=title, notes=notes, table=landscape_table(found), table_title="Every bin")]


def landscape_table(found: Mapping[str, Any]) -> Table:
    """The bins of distance of a landscape.json."""
    columns = [
        number("distance", ".2f", of=itemgetter(0)),
        number("standard deviation of the loss", ".4f", of=itemgetter(1)),
        number("mean difference", "+.4f", of=itemgetter(2)),
        number("steps", ",", of=itemgetter(3)),
    ]
    return Table.of(columns, found["bins"])


def _provenance(found: _Findings) -> list[tuple[str, str]]:
    info: Mapping[str, Any] = found.record.info
    data = info["data"]
    images = f"{data['train_images']:,} training and {data['test_images']:,} test images"
    clock, cpu = format_seconds(float(info["seconds"])), format_seconds(found.cpu_seconds)
    return [
        ("data", f"{data['path']} ({data['format']}), {images}, fingerprint {data['fingerprint']}"),
        ("machine", f"{info['machine']}; {info['workers']} cells at once on {info['device']}, one thread each"),
        ("time", f"{clock} by the clock, {cpu} of processor time"),
        ("date", f"{info['date']}, distillaw {info['version']}"),
    ]


# --- pictures and tables ------------------------------------------------------------------------------------


def _columns_picture(scores: Sequence[ColumnScore], row: PaperRow | None) -> Picture:
    """Accuracy of each column: ours with seeds and interval, the paper's single numbers beside it."""
    words = ", ".join(f"{score.column} {score.mean:.2f} %" for score in scores)
    caption = "Small dots: seeds; rings: their mean, with its 95 % interval for other seeds and test images."
    if row is not None:
        words += "; paper: " + ", ".join(f"{column} {value:.2f} %" for column, value in row.accuracy.items())
        caption += " Right: what the paper prints, single numbers without intervals. The scales differ."
    return Picture(
        name="columns",
        title="Columns",
        alt=f"Test accuracy by column. {words}",
        caption=caption,
        figure=draw_columns(scores, row),
    )


def _curves_picture(record: ImageRecord) -> Picture:
    """Error against epochs and against updates, as the paper's first and third figures."""
    return Picture(
        name="curves",
        title="Error curves",
        alt="Test error in per cent of each column against epochs and against updates; numbers: result.json of each",
        caption="Means over seeds, of the whole test set with running statistics as they are; nothing was chosen by "
        "them. Over epochs a large batch makes fewer updates than a small one; over updates it reads more images.",
        figure=draw_error_curves(record),
    )


def _walks_picture(walks: Sequence[ImageWalk]) -> Picture:
    """||w_t - w_0|| against log t, a panel before and one after LR + GBN."""
    words = "; ".join(
        f"batch {walk.batch} {_when(walk)}: slope {walk.slope.value:.3f}, end {walk.end.value:.2f}" for walk in walks
    )
    return Picture(
        name="walks",
        title="Diffusion",
        alt=f"Distance from the initial weights against the logarithm of the update. {words}",
        figure=draw_image_walks(walks),
        caption="A solid curve per seed, in the phase of the first, constant rate. Fits "
        "are averages over seeds: dashed a + b ln t, a straight line here; dotted c t^p. Corrected, the rate follows "
        "the batch and large batches are normalised in ghosts; the reference batch has nothing to correct.",
    )


def _column_table(scores: Sequence[ColumnScore], row: PaperRow | None) -> Table:
    """Ours beside the paper's, one row per column."""

    def own(score: ColumnScore) -> str:
        return f"{score.mean:.2f}{_bracket(_range(score.interval, 2))}"

    def closed(score: ColumnScore) -> str:
        if score.closed is None:
            return ""
        ends = score.closed_interval
        between = "unbounded" if ends is None else f"{100 * ends[0]:.0f} to {100 * ends[1]:.0f} %"
        return _share(score.closed) + _bracket(between)

    columns = [
        text("column", of=attrgetter("column")),
        number("ours", own, unit="%", sort=attrgetter("mean")),
        number("gap closed", closed, sort=attrgetter("closed")),
        number("training", ".2f", unit="%", of=attrgetter("train")),
        number("fresh statistics", ".2f", unit="%", of=attrgetter("fresh")),
        number("s.d. of seeds", ".2f", of=attrgetter("seed_spread")),
    ]
    if row is not None:
        shares = {name: row.gap_closed(name) for name in row.accuracy if name not in ("SB", "LB")}
        printed = number(f"paper, {row.network}", ".2f", unit="%", of=lambda score: row.accuracy.get(score.column))
        columns.insert(2, printed)
        columns.insert(4, number("paper", _share, of=lambda score: shares.get(score.column)))
    return Table.of(columns, scores)


def _gain_table(gains: Sequence[Gain]) -> Table:
    columns = [
        text("comparison", of=gain_name),
        number("points", ".2f", of=attrgetter("mean")),
        text("95 % interval", of=lambda gain: _range(gain.interval, 2)),
        number("s.e. of seeds", ".3f", of=attrgetter("se_seeds")),
        number("s.e. of images", ".3f", of=attrgetter("se_images")),
        number("p", lambda p: "< 0.0001" if p < 1e-4 else f"{p:.4f}", of=attrgetter("p")),
        text("significant", of=lambda gain: "yes" if gain.is_significant else "no"),
        number("paper", ".2f", of=attrgetter("paper")),
        text("", of=outcome),
    ]
    return Table.of(columns, gains)


def _walk_table(walks: Sequence[ImageWalk]) -> Table:
    """Both fits, means over seeds."""
    printed = {entry.batch: entry for entry in hoffer2017().distances}

    def printed_end(walk: ImageWalk) -> float | None:
        entry = printed.get(walk.batch)
        return None if entry is None else entry.after if walk.is_corrected else entry.before

    def mean_of_fits(name: str) -> Callable[[ImageWalk], float]:
        return lambda walk: sum(getattr(fit, name) for fit in walk.fits.values()) / len(walk.fits)

    def interval(name: str) -> Column:
        return text("95 % interval", of=lambda walk: _range(getattr(walk, name).interval, 3))

    columns = [
        text("batch", of=lambda walk: str(walk.batch)),
        text("correction", of=_when),
        text("cells", of=attrgetter("column")),
        number("last step", ",", of=attrgetter("last_step")),
        number("a", ".3f", of=mean_of_fits("a")),
        number("b", ".3f", of=attrgetter("slope.value")),
        interval("slope"),
        number("R² of a + b ln t", ".4f", of=mean_of_fits("log_r2")),
        number("p", ".3f", of=attrgetter("power.value")),
        interval("power"),
        number("R² of c t^p", ".4f", of=mean_of_fits("power_r2")),
        number("log better", lambda walk: f"{walk.log_wins} of {len(walk.fits)}", sort=attrgetter("log_wins")),
        number("distance at the end", ".2f", of=attrgetter("end.value")),
        number("b, first tensor", ".3f", of=attrgetter("first_tensor_slope.value")),
        number("paper's Figure 2: end (Resnet44)", ".1f", of=printed_end),
    ]
    return Table.of(columns, walks)


def _cell_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Every cell that ended."""

    def key(name: str) -> Callable[[Mapping[str, Any]], Any]:
        return lambda result: result.get(name)

    columns = [
        text("column", of=key("column")),
        number("seed", of=key("seed")),
        number("batch", of=key("batch")),
        number("ghost", lambda ghost: str(ghost or ""), of=key("ghost")),
        number("peak rate", ".4g", of=key("peak_lr")),
        number("steps", ",", of=key("steps")),
        number("test accuracy", ".2f", unit="%", of=key("accuracy")),
        number("test loss", ".4f", of=key("loss")),
        number("training accuracy", ".2f", unit="%", of=key("train_accuracy")),
        number("statistics re-estimated", ".2f", unit="%", of=key("fresh_accuracy")),
        number("CPU seconds", ".0f", of=key("cpu_seconds")),
        text("state", of=key("state")),
    ]
    return Table.of(columns, results)


def _when(walk: ImageWalk) -> str:
    return "after" if walk.is_corrected else "before"


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"


def _range(interval: tuple[float, float] | None, digits: int) -> str:
    return "" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def _bracket(text: str) -> str:
    return f" ({text})" if text else ""
