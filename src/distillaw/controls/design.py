"""Whose text did whom read, are effects large against noise, do teachers span the optimum, are objectives right?"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from distillaw.controls.control import LEAST_POINTS, LEAST_SEEDS, LEVEL, STRONG, WEAK, Control, below, worst
from distillaw.controls.study_runs import StudyRuns
from distillaw.errors import CacheError
from distillaw.planning.measured import MeasuredPoint
from distillaw.quantities import format_count
from distillaw.runs.files import read_json
from distillaw.runs.record import Run, budget_text, evenly

MOST_NAMED = 8
"""Student sizes in a sentence; of more, some evenly between the smallest and the largest."""

# --- text: disjoint halves, and none of it twice ------------------------------------------------------------


DISJOINT = Control(
    name="disjoint-text",
    guards="a teacher is over-confident on text it has learnt: its students get targets unlike those of fresh text",
    remedy="train students on the student split from teachers of the teacher split; make a teacher that saw the "
    "student's text a control of its own",
)
EPOCH = Control(
    name="single-epoch",
    guards="repeated text is worth less than fresh text, so the longest budgets bend for another reason than the law's",
    remedy="more text, or smaller token budgets; leave repeated cells out of the grid",
    concerns=("laws",),
)


def check_disjoint(runs: StudyRuns) -> Control:
    """Teachers and students of the grid read different documents."""
    if not runs.taught_by:
        return DISJOINT.answer("not applicable", "no student has a teacher")
    every = runs.record.every_teacher
    students = {str(run.row.get("split") or "") for run in runs.record.students}
    teachers = {t: str((every[t].row.get("split") if t in every else None) or "") for t in runs.taught_by}
    manifest = _manifest(runs)
    splits = _manifest_splits(manifest)
    numbers = {"student_splits": sorted(students), "teacher_splits": teachers, "manifest": splits}
    if students - {"student", ""}:
        return DISJOINT.answer("failed", f"students read {', '.join(sorted(students))}", **numbers)
    if shared := [runs.arm_name(t) for t, split in teachers.items() if split == "student"]:
        return DISJOINT.answer("failed", f"students learn {', '.join(shared)}, which read their text", **numbers)
    if "" in students or "" in teachers.values():
        unknown = ", ".join(runs.arm_name(t) for t, split in teachers.items() if not split)
        what = f"what was read is not known of students {unknown}" if unknown else "the table has no splits"
        return DISJOINT.answer("undecided", what, **numbers)
    if not splits:
        what = "the table says so, and no manifest came along to confirm it"
        return DISJOINT.answer("undecided", what, **numbers)
    if splits["teacher"]["files"] == splits["student"]["files"]:
        return DISJOINT.answer("failed", "the manifest names the same shards for both", **numbers)
    copies = manifest.get("duplicates")  # none in text of before near copies were looked for, or of a world
    known = copies.get("words") if isinstance(copies, Mapping) else "exact copies dropped, near ones not looked for"
    words = ", ".join(f"{name} {_split_words(split)}" for name, split in splits.items())
    return DISJOINT.answer("passed", f"split by document, {known}: {words}", **numbers)


def _manifest(runs: StudyRuns) -> Mapping[str, object]:
    try:
        return read_json(runs.record.folder / "data" / "manifest.json")
    except (CacheError, OSError):
        return {}


def _manifest_splits(manifest: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Teacher and student split as the data's manifest has them; empty without one."""
    splits = manifest.get("splits")
    found = splits if isinstance(splits, Mapping) else {}
    own: dict[str, Any] = {name: found.get(name) for name in ("teacher", "student")}
    if not all(isinstance(split, Mapping) for split in own.values()):
        return {}
    return {
        name: {
            "documents": split.get("documents"),
            "tokens": split.get("tokens"),
            "files": [shard.get("sha256") for shard in split.get("shards", ())],
        }
        for name, split in own.items()
    }


def _split_words(split: Mapping[str, object]) -> str:
    documents, tokens = split["documents"], split["tokens"]
    count = format_count(float(tokens)) if isinstance(tokens, int) else "unknown"
    return (f"{documents:,} documents, " if isinstance(documents, int) else "") + f"{count} tokens"


def check_epoch(runs: StudyRuns) -> Control:
    """No main run reads a token twice."""
    known = [run for run in runs.main if run.number("unique_tokens") > 0]
    if not known:
        return EPOCH.answer("not done", "the table does not say how many tokens are unique (unique_tokens)")
    repeated = [run.run_id for run in known if run.number("unique_tokens") < run.tokens]
    most = max(run.tokens / run.number("unique_tokens") for run in known)
    if repeated:
        words = f"{len(repeated)} of {len(known)} runs read text again, up to {most:.3g} times"
        return EPOCH.answer("failed", words, most_epochs=most, runs=repeated)
    longest = budget_text(max(run.tokens for run in known))
    return EPOCH.answer("passed", f"{len(known)} runs up to {longest} tokens, each once", most_epochs=most)


# --- seeds: is the noise measured, and are effects large against it? ----------------------------------------


SEEDS = Control(
    name="seeds",
    guards="one run per cell shows no training noise, and luck is read as an effect",
    remedy="add [[replicates]] with seeds = 5 for two student sizes, alone and from one teacher",
)
ERRORS = Control(
    name="paired-errors",
    guards="an effect of two standard errors is often half its size, or none, in the next study",
    remedy="more seeds where seeds dominate the error, more held-out documents where those do",
)
CLAIMED, SHARE = 2.0, 3.0
"""An effect of this many standard errors is claimed; it should have at least `SHARE` of them."""


def check_seeds(runs: StudyRuns) -> Control:
    """Five seeds of two student sizes, each alone and from a teacher at one token count.

    Branches of one trunk share their luck, so two token counts of one size are not two cells.
    """
    most: dict[int, tuple[int, int]] = {}  # size -> (seeds, tokens)
    for params, tokens in sorted({(n, d) for n, d, _ in runs.grid}):
        alone = runs.grid.get((params, tokens, ""), {})
        taught = [seeds for (n, d, t), seeds in runs.grid.items() if (n, d) == (params, tokens) and t]
        pairs = max((len(alone.keys() & seeds.keys()) for seeds in taught), default=len(alone))
        most[params] = max(most.get(params, (0, 0)), (pairs, tokens))
    names = {run.params: run.label for run in reversed(runs.record.students)}
    numbers = {"seeds": {names[size]: seeds for size, (seeds, _) in most.items()}}
    if all(seeds < 2 for seeds, _ in most.values()):
        return SEEDS.answer("not done", "no cell was repeated with another seed", **numbers)
    shown = ", ".join(
        f"{seeds} of {names[size]} at {budget_text(tokens)} tokens"
        for size, (seeds, tokens) in most.items()
        if seeds > 1
    )
    words = f"seeds: {shown}; wanted {LEAST_SEEDS} of {LEAST_POINTS} sizes, alone and from a teacher"
    enough = sum(seeds >= LEAST_SEEDS for seeds, _ in most.values())
    return SEEDS.answer("passed" if enough >= LEAST_POINTS else "failed", words, **numbers)


def check_errors(runs: StudyRuns) -> Control:
    """Every effect of two standard errors, which a reader will take for one, has three.

    Effects: the gain of the best teacher in each cell, and how much worse the strongest teacher is than the best.
    """
    effects = {what: found for cell in runs.cells for what, found in _effects(cell).items()}
    if not effects:
        return ERRORS.answer("not applicable", "no student has a teacher")
    numbers = {"effects": {what: {"effect": size, "se": se} for what, (size, se) in effects.items()}}
    ratios = {what: abs(size) / se for what, (size, se) in effects.items()}
    claimed = {what: ratio for what, ratio in ratios.items() if ratio > CLAIMED}
    if not any(run.scores is not None for run in runs.record.students):
        what = "losses by document did not come along, so nothing can be paired"
        return ERRORS.answer("not done", what, **numbers)
    if not claimed:
        what = f"none of {len(effects)} effects exceeds {CLAIMED:g} standard errors"
        return ERRORS.answer("undecided", what, **numbers)
    least = min(claimed, key=claimed.__getitem__)
    size, se = effects[least]
    words = f"least certain of {len(claimed)} claims: {least}, {size:.3f} +- {se:.3f} nats"
    if weak := sum(ratio < SHARE for ratio in claimed.values()):
        lead = f"{weak} of {len(claimed)} claims have errors above a third"
        return ERRORS.answer("failed", f"{lead}; {words}", **numbers)
    return ERRORS.answer("passed", f"{words} ({claimed[least]:.1f} standard errors)", **numbers)


def _effects(cell: MeasuredPoint) -> dict[str, tuple[float, float]]:
    """What a cell shows -> (effect, standard error)."""
    where, found = f"{cell.label} on {budget_text(cell.tokens)} tokens", {}
    if cell.best is not None:
        found[f"gain of {where} from the {cell.best.teacher}"] = cell.best.gain, cell.best.se
    if cell.gap is not None:
        found[f"depth of the U of {where}"] = cell.gap.depth, cell.gap.sd
    return found


# --- teachers: do they span the optimum, and count through their loss alone? --------------------------------


RANGE = Control(
    name="teacher-range",
    guards="from 0.80 to 1.05 of the student's own loss and with 1 % noise the optimum is not identified",
    remedy="add stronger teachers (larger, on more tokens), or weaker ones, where the range ends short",
    concerns=("laws",),
)
PAIRS = Control(
    name="equal-loss-pairs",
    guards="the laws see a teacher only through its loss; if size or tokens count as well, they are wrong in form",
    remedy="train pairs of teachers to one loss with sizes at least 1.5 apart, all students from both; more seeds "
    "where undecided",
    concerns=("laws",),
)
SAME_LOSS = 0.005
"""Two runs differ by about 0.3 % (PAIR in protocols/statement.py): nearer losses are hardly told apart."""
OTHER_SIZE = 1.5
"""So that an effect of size would show beside that of so small a difference in loss."""
MARGIN = 0.25
"""Of the best teacher's gain in a cell: students this near are equal."""


def check_range(runs: StudyRuns) -> Control:
    """Every student size has teachers from 0.65 to 1.05 of its own loss, over its token counts."""
    ratios: dict[str, list[float]] = {}
    for cell in runs.cells:
        ratios.setdefault(cell.label, []).extend(t.teacher_loss / cell.alone for t in cell.taught)
    spans = {label: [min(found), max(found)] for label, found in ratios.items() if found}
    if not spans:
        return RANGE.answer("not applicable", "no student has a teacher")
    is_short = any(round(low, 2) > STRONG or round(high, 2) < WEAK for low, high in spans.values())
    named = evenly([*spans.items()], MOST_NAMED)
    words = ", ".join(f"{label} {low:.2f} to {high:.2f}" for label, (low, high) in named)
    words += f" and {len(spans) - len(named)} sizes between" if len(named) < len(spans) else ""
    words = f"L_T over the student's own loss: {words}; wanted {STRONG} to {WEAK}"
    return RANGE.answer("failed" if is_short else "passed", words, ranges=spans)


def check_pairs(runs: StudyRuns) -> Control:
    """Students of two teachers of one loss are equal, tested two-sided within a quarter of the cell's best gain.

    Teachers within 0.5 % of one loss count as equal. Cells whose best gain does not exceed two standard errors have no
    margin and are left out.
    """
    if len(runs.taught_by) < 2:
        return PAIRS.answer("not applicable", "fewer than two teachers")
    own = [runs.record.teachers[t] for t in runs.taught_by if t in runs.record.teachers]
    other_sizes = [
        (abs(a.loss / b.loss - 1), a.run_id, b.run_id)
        for a, b in combinations(own, 2)
        if max(a.params, b.params) >= OTHER_SIZE * min(a.params, b.params)
    ]
    matched = {frozenset(names) for apart, *names in other_sizes if apart <= SAME_LOSS}
    if not matched:
        return PAIRS.answer("not done", _nearest(runs, other_sizes))
    pairs = [pair for cell in runs.cells for pair in _pairs(runs, cell, matched)]
    if not pairs:
        return PAIRS.answer("not done", "no student learnt from both teachers of a pair with a gain beyond noise")
    extreme = max(pairs, key=lambda p: abs(p["difference"]["mean"]) / p["margin"])
    low, high = extreme["difference"]["interval"]
    statuses = [pair["status"] for pair in pairs]
    words = (
        f"{len(matched)} pairs of teachers; students equal in {statuses.count('passed')} cells of {len(pairs)}, "
        f"different in {statuses.count('failed')}, undecided in {statuses.count('undecided')}; farthest apart "
        f"{extreme['where']}, {' and '.join(extreme['teachers'])}: "
        f"{extreme['difference']['mean']:+.3f} [{low:+.3f}, {high:+.3f}] with margin {extreme['margin']:.3f} nats"
    )
    return PAIRS.answer(worst(statuses), words, level=LEVEL, pairs=pairs)


def _pairs(runs: StudyRuns, cell: MeasuredPoint, matched: set[frozenset[str]]) -> list[dict]:
    """Students of two teachers of equal loss and different size, the first's less the second's.

    They are equal within the margin, apart by more than margin and teachers' losses explain, or neither.
    """
    if cell.best is None or cell.best.gain < 2 * cell.best.se:
        return []
    found, margin = [], MARGIN * cell.best.gain
    for pair in combinations(cell.taught, 2):
        if frozenset(t.teacher_run for t in pair) not in matched:
            continue
        difference = runs.difference(*(runs.grid[cell.params, cell.tokens, t.teacher_run] for t in pair))
        assert difference is not None  # both have the study's first seed
        low, high = difference.interval()
        losses = [t.teacher_loss for t in pair]
        explained = margin + abs(losses[0] - losses[1])  # which a student follows at most one to one
        status = "failed" if low > explained or high < -explained else "undecided"
        found.append(
            {
                "where": f"{cell.label} on {budget_text(cell.tokens)} tokens",
                "teachers": [t.teacher for t in pair],
                "teacher_losses": losses,
                "difference": difference.to_json(),
                "margin": margin,
                "status": "passed" if -margin <= low and high <= margin else status,
            }
        )
    return found


def _nearest(runs: StudyRuns, other_sizes: list[tuple[float, str, str]]) -> str:
    """How far the nearest two teachers of different size are apart."""
    if not other_sizes:
        return f"no two teachers of sizes {OTHER_SIZE} apart"
    gap, *nearest = min(other_sizes)
    names = " and ".join(runs.arm_name(t).removeprefix("from the ") for t in nearest)
    return (
        f"no two teachers of different size within {100 * SAME_LOSS:g} % of one loss; nearest {names}, "
        f"{100 * gap:.1f} %"
    )


# --- the objective: swept on two design points, the study's own values against others -----------------------


TOLERANCE = 0.005
"""Share of the loss by which another value may be better; the search for the batch moves by as much."""
LAMBDA = Control(
    name="lambda",
    guards="part of the loss on the data can rescue students of weak teachers: at one lambda alone a U may be lambda's",
    remedy='add [[cells]] name = "lambda", training = { distill_weight = 0.5 } on two sizes or budgets, from a weak '
    "and a strong teacher",
)
TEMPERATURE = Control(
    name="temperature",
    guards="a strong teacher is sharper: at one temperature alone a capacity gap may be the temperature's",
    remedy="add [[cells]] with training = { temperature = 2.0 } and 0.5 on two sizes or budgets, from a strong teacher",
)


def check_lambda(runs: StudyRuns) -> Control:
    """The study's lambda is within 0.5 % of the best one tried, on two cells."""
    return _check_objective(runs, LAMBDA, "lambda")


def check_temperature(runs: StudyRuns) -> Control:
    """The study's temperature is within 0.5 % of the best one tried, on two cells."""
    return _check_objective(runs, TEMPERATURE, "temperature")


def _check_objective(runs: StudyRuns, about: Control, setting: str) -> Control:
    if not runs.taught_by:
        return about.answer("not applicable", "no student has a teacher")
    swept = _swept(runs, setting)
    if not swept:
        return about.answer("not done", f"every student has one {setting}")
    wheres = [str(row["where"]) for row in swept]
    cells = {where.rsplit(" from ", 1)[0] + where.rsplit(" on ", 1)[1] for where in wheres}
    extreme = max(swept, key=lambda row: row["grid_minus_best"]["mean"] / row["loss"])
    most = extreme["grid_minus_best"]
    low, high = most["interval"]
    own = next(run.number(setting) for run in runs.record.students if run.teacher_run)
    words = (
        f"{setting} {own:g} against others in {len(swept)} places of {len(cells)} cells; most to gain: "
        f"{extreme['where']}, {setting} {extreme['value']:g} by {most['mean']:+.3f} "
        f"[{low:+.3f}, {high:+.3f}] nats (allowed {TOLERANCE * extreme['loss']:.3f})"
    )
    status = worst(row["status"] for row in swept)
    if len(cells) < LEAST_POINTS and status != "failed":
        status, words = "not done", f"on {len(cells)} cell of {LEAST_POINTS}: {words}"
    return about.answer(status, words, swept=swept)


def _swept(runs: StudyRuns, setting: str) -> list[dict]:
    """The best other value of a setting at each place; positive differences where it is better than the grid's."""
    found = []
    for place, by_value in runs.variants(setting).items():
        own: Mapping[int, Run] = runs.grid[place]
        compared = {value: runs.difference(own, seeds) for value, seeds in by_value.items()}
        known = {value: difference for value, difference in compared.items() if difference is not None}
        if place[2] and known:
            best = max(known, key=lambda value: known[value].mean)
            loss = min(run.loss for run in own.values())
            found.append(
                {
                    "where": runs.place_name(place),
                    "value": best,
                    "grid_minus_best": known[best].to_json(),
                    "loss": loss,
                    "status": below(*known[best].interval(), TOLERANCE * loss),
                }
            )
    return found
