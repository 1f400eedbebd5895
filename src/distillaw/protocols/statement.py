"""What a study costs, what it would identify and which controls it has: said before anything is spent.

What it would identify: its runs as cells of guessed laws, and the standard errors that would remain. Goals: c0 within
0.3 and the best L_T / Ltilde_S within 0.03 under every guess; where one is missed, some additions are tried and the one
that helps most is named. The checklist is read from the study file alone: what is planned, not what came out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np

from distillaw.controls.control import C0_GOAL, EMBEDDING_SHARE, LEAST_SEEDS, LEAST_STEPS, RATIO_GOAL, STRONG, WEAK
from distillaw.fitting.expected import NOISE, BestRatio, FormErrors, PlannedRuns, expect, prior_laws
from distillaw.fitting.uncertainty import DesignPoints
from distillaw.laws.base import Array
from distillaw.laws.published import PublishedLaw
from distillaw.protocols.scale import embedding_share, text_size, tokens_alone
from distillaw.quantities import format_count, parse_count
from distillaw.runs.spec import serves_laws
from distillaw.sweep.cost import StudyCost
from distillaw.sweep.ready import TrunkJob
from distillaw.sweep.spec import NONE, StudySpec

MANY_RUNS = 60
"""From so many distilled runs on the eight-parameter form is fitted; below, the one with five (docs/fitting.md)."""
FEWEST_TRUNKS = {"reduced": 8, "kappa": 11, "supervised": 9}
"""Parameters and three more: with fewer independent runs a fit is TOO_FEW_RUNS."""
FORM_NAMES = {"reduced": "five-parameter form", "kappa": "eight-parameter form", "supervised": "supervised law"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedErrors:
    """What one form would know of a study, under every guess."""

    form: str
    num_runs: int
    num_trunks: int
    by_guess: Mapping[str, FormErrors]

    @property
    def has_enough(self) -> bool:
        """Whether there are as many independent runs as a fit asks for."""
        return self.num_trunks >= FEWEST_TRUNKS[self.form]

    def error(self, name: str) -> float:
        """The largest standard error of a coefficient among the guesses; nan where the form lacks it."""
        return max((e.errors.get(name, np.nan) for e in self.by_guess.values()), default=np.nan)

    def value(self, name: str) -> tuple[float, float]:
        """Lowest and highest value among the guesses."""
        values = [e.values[name] for e in self.by_guess.values()]
        return min(values), max(values)

    def best(self) -> list[tuple[BestRatio, ...]]:
        """Each student cell's best ratio under every guess."""
        return list(zip(*(e.best for e in self.by_guess.values()), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """All that is expected of a study's laws."""

    outlooks: tuple[ExpectedErrors, ...]
    """Of the supervised law, and of both forms of the distillation law where there are teachers of known loss."""
    ratios: tuple[float, float] | None
    """Lowest and highest L_T / Ltilde_S among the runs, by the guess; None without teachers."""
    add: str
    """What would sharpen c0 most where it misses its goal; empty where nothing is missing."""

    def outlook(self, form: str) -> ExpectedErrors | None:
        """The one of a form."""
        return next((one for one in self.outlooks if one.form == form), None)

    @property
    def fitted(self) -> ExpectedErrors | None:
        """The form of the distillation law that so many runs support."""
        few, many = self.outlook("reduced"), self.outlook("kappa")
        return many if many is not None and many.num_runs >= MANY_RUNS else few


class _Row(NamedTuple):
    params: float
    tokens: int
    teacher: tuple[float, float] | None
    """Its size and tokens."""
    trunk: str


def prospect(jobs: Sequence[TrunkJob]) -> Prospect | None:
    """What the jobs of a study would identify; None where none of them serves a law.

    Runs from teachers that are not trained here are left out: their losses are not known before they are measured.
    """
    rows = _rows(jobs)
    if not rows:
        return None
    students = np.array([row.params for row in rows])
    laws = prior_laws(students)
    taught = any(row.teacher for row in rows)
    plans = {name: _planned(rows, law) for name, law in laws.items()}
    forms = ("supervised", "reduced", "kappa") if taught else ("supervised",)
    if all(row.teacher for row in rows):
        forms = forms[1:]
    outlooks = tuple(_outlook(form, laws, plans) for form in forms)
    cells = next(iter(plans.values())).cells
    ratios = _ratios(cells, next(iter(laws.values()))) if taught else None
    sure = [one for one in outlooks if one.form != "supervised" and one.has_enough]
    missing = [one for one in sure if one.error("c0") > C0_GOAL]
    add = _what_to_add(missing[-1], laws, plans) if missing else ""
    return Prospect(outlooks=outlooks, ratios=ratios, add=add)


def _rows(jobs: Sequence[TrunkJob]) -> list[_Row]:
    """Runs that laws are fitted on: the grid, and teachers as models trained alone; what is held out comes too late."""
    trained: dict[str, tuple[float, float]] = {}
    for job in jobs:
        if job.trunk.role == "teacher":
            for run_id, tokens in zip(job.run_ids, job.budgets, strict=True):
                trained[run_id] = float(job.trunk.params), float(tokens)
    rows: dict[_Row, None] = {}
    for job in jobs:
        trunk = job.trunk
        serves = serves_laws(trunk.purpose) and trunk.purpose != "holdout" and trunk.start_arm == "fresh"
        if serves and (trunk.teacher_run is None or trunk.teacher_run in trained):
            teacher = trained.get(trunk.teacher_run or "")
            rows |= dict.fromkeys(_Row(float(trunk.params), t, teacher, trunk.trunk_id) for t in job.budgets)
    return list(rows)


def _planned(rows: Sequence[_Row], law: PublishedLaw) -> PlannedRuns:
    """The rows as cells, the teachers' losses by the guess."""
    assert law.supervised is not None
    numbers: dict[str, int] = {}
    trunk = np.array([numbers.setdefault(row.trunk, len(numbers)) for row in rows], dtype=np.int64)
    size, read = np.array([row.teacher or (np.nan, np.nan) for row in rows]).T
    loss = np.full(len(rows), np.nan)
    known = np.isfinite(size)
    if known.any():
        loss[known] = law.supervised(params=size[known], tokens=read[known])
    table = {
        "params": np.array([row.params for row in rows]),
        "tokens": np.array([row.tokens for row in rows]),
        "teacher_loss": loss,
    }
    return PlannedRuns(cells=DesignPoints.of(table, what="study"), trunk=trunk)


def _outlook(form: str, laws: Mapping[str, PublishedLaw], plans: Mapping[str, PlannedRuns]) -> ExpectedErrors:
    some = next(iter(plans.values()))
    counted = ~some.cells.taught if form == "supervised" else some.cells.taught
    return ExpectedErrors(
        form=form,
        num_runs=int(counted.sum()),
        num_trunks=len(np.unique(some.trunk[counted])),
        by_guess={name: expect(law, plans[name], form=form) for name, law in laws.items()},
    )


def _ratios(cells: DesignPoints, law: PublishedLaw) -> tuple[float, float]:
    assert law.supervised is not None
    taught = cells.taught
    alone = law.supervised(params=cells.params[taught], tokens=cells.tokens[taught])
    ratio = cells.teacher_loss[taught] / alone
    return float(ratio.min()), float(ratio.max())


# --- what to add ------------------------------------------------------------------------------------------------------


def _what_to_add(fitted: ExpectedErrors, laws: Mapping[str, PublishedLaw], plans: Mapping[str, PlannedRuns]) -> str:
    """The addition after which the worst guess knows c0 best, in words with the error it leaves."""
    found: dict[str, float] = {}
    for name, law in laws.items():
        for words, cells in _additions(plans[name]).items():
            after = expect(law, plans[name].followed_by(cells), form=fitted.form, best=False)
            found[words] = max(found.get(words, 0.0), after.errors["c0"])
    words = min(found, key=lambda key: found[key])
    return f"{words} (then {found[words]:.2g} in the {FORM_NAMES[fitted.form]})"


def _additions(runs: PlannedRuns) -> dict[str, DesignPoints]:
    """Further runs, in words: each for every student cell, budget or teacher that is there."""
    taught = runs.taught()
    students = np.unique(np.stack([taught.params, taught.tokens], axis=1), axis=0)
    losses = np.unique(taught.teacher_loss)
    sizes, budgets = np.unique(taught.params), np.unique(taught.tokens)

    def crossed(params: Array, tokens: Array, teacher: Array) -> DesignPoints:
        n, d, t = (a.ravel() for a in np.meshgrid(params, tokens, teacher, indexing="ij"))
        return DesignPoints.of({"params": n, "tokens": d, "teacher_loss": t}, what="additions")

    def from_teacher(loss: float) -> DesignPoints:
        table = {"params": students[:, 0], "tokens": students[:, 1], "teacher_loss": loss}
        return DesignPoints.of(table, what="additions")

    return {
        "add a teacher 10 % below the strongest one's loss": from_teacher(0.9 * losses[0]),
        "add a teacher 5 % above the weakest one's loss": from_teacher(1.05 * losses[-1]),
        "add a teacher between the middle ones": from_teacher(float(np.median(losses)) * 1.001),
        "add budgets four times as long": crossed(sizes, 4 * budgets[-1:], losses),
        "add a student size four times the largest": crossed(4 * sizes[-1:], budgets, losses),
    }


# --- which controls a study file has ------------------------------------------------------------------------


_NEAR = 0.03
"""Losses within 3 % by the guess are meant to be equal; shares of tokens likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedControl:
    """One control: whether the file has it, and in what form."""

    name: str
    is_there: bool
    words: str


def checklist(spec: StudySpec, cost: StudyCost, expected: Prospect | None, text: float | None) -> list[PlannedControl]:
    """The controls of a study that its question needs; `text`: tokens of each half of it, where known."""
    what = "rate and batch" if spec.tuning.batch else "rate (the batch stays)"
    where = " and ".join(spec.far_sizes())
    far = f"the rate of every arm searched at the largest budget too, at {where or 'no size'}"
    steps = min(spec.students.tokens) // spec.batch_tokens
    smallest = min(map(parse_count, spec.students.params))
    share = embedding_share(smallest, cost.jobs[0].trunk.vocab_size, spec.training)
    matrix = f"one embedding matrix is {share:.0%} of the smallest student ({EMBEDDING_SHARE:.0%} at most)"
    found: list[tuple[str, bool, str]] = [
        ("tuning", spec.tuning.enabled, f"{what} searched, both arms"),
        ("horizon", spec.tuning.enabled and bool(where), far),
        ("steps", steps >= LEAST_STEPS, f"{steps:,} steps at the smallest budget ({LEAST_STEPS} wanted)"),
        ("single-epoch", *_single_epoch(spec, text)),
        ("seeds", *_seeds(spec)),
        ("embedding", share <= EMBEDDING_SHARE + 0.005, matrix),
    ]
    if any(not teacher.is_control for teacher in spec.teachers):
        alone = [one for one in spec.cells if NONE in one.teachers or not one.teachers]
        union = any(cells.split == "union" for cells in alone)
        controls = {t.label for t in spec.teachers if t.is_control}
        seen = any(controls & set(cells.teachers) for cells in spec.cells)
        bill, pairs = _has_equal_flop(cost), _count_pairs(cost)
        found += [
            ("union", union, "the student alone on its own and its teacher's text"),
            ("seen-text", seen, "a teacher that has read the student's own text"),
            ("equal-flop", bill, "the student alone for the FLOP of both trainings"),
            ("strong-teachers", *_strength(expected)),
            ("pairs", pairs > 0, f"teachers with equal loss and different size: {pairs}"),
            ("lambda", _has_knobs(spec), "lambda and temperature beside 1 on two cells"),
        ]
    held = any(cells.holdout for cells in spec.cells)
    found.append(("hold-out", held, "trained after predictions are frozen"))
    return [PlannedControl(name=name, is_there=is_there, words=words) for name, is_there, words in found]


def _single_epoch(spec: StudySpec, text: float | None) -> tuple[bool, str]:
    needed = spec.longest()
    longest = ", ".join(f"{format_count(tokens)} {name}" for name, tokens in sorted(needed.items()))
    if text is None:
        return True, f"checked when it starts; needs {longest} tokens of text"
    holds = all(tokens <= (2 * text if name == "union" else text) for name, tokens in needed.items())
    return holds, f"needs {longest} tokens; each half of the text has about {format_count(text)}"


def _seeds(spec: StudySpec) -> tuple[bool, str]:
    places: dict[tuple[str, int], int] = {}
    for one in spec.replicates:
        places |= {(one.params, tokens): one.seeds for tokens in one.tokens or spec.students.tokens}
    enough = sum(seeds >= LEAST_SEEDS for seeds in places.values())
    most = max(places.values(), default=1)
    return enough >= 2, f"{most} seeds on {len(places)} cells ({LEAST_SEEDS} on 2 wanted)"


def _has_equal_flop(cost: StudyCost) -> bool:
    """Whether the student alone was given, somewhere, the FLOP of distilling it and training one of its teachers."""
    trained = {
        run: (j.trunk, t)
        for j in cost.jobs
        if j.trunk.role == "teacher"
        for run, t in zip(j.run_ids, j.budgets, strict=True)
    }
    alone = {
        (j.trunk.params, t)
        for j in cost.jobs
        for t in j.budgets
        if j.trunk.role == "student" and j.trunk.arm == "supervised"
    }
    for job in cost.jobs:
        trunk = job.trunk
        if trunk.teacher_run not in trained or trunk.purpose != "grid":
            continue
        teacher, read = trained[trunk.teacher_run]
        for tokens in job.budgets:
            bill = tokens_alone(tokens, trunk.shape, teacher.shape, read)
            if any(n == trunk.params and abs(t / bill - 1) < 2 * _NEAR for n, t in alone):
                return True
    return False


def _strength(expected: Prospect | None) -> tuple[bool, str]:
    if expected is None or expected.ratios is None:
        return False, "no teacher whose loss can be guessed"
    low, high = expected.ratios
    reaches = low <= STRONG + _NEAR and high >= WEAK - _NEAR
    return reaches, f"L_T / loss alone from {low:.2f} to {high:.2f} by the guess ({STRONG} to {WEAK} wanted)"


def _count_pairs(cost: StudyCost) -> int:
    """Teachers of different size whose guessed losses are equal."""
    students = np.array([float(j.trunk.params) for j in cost.jobs if j.trunk.role == "student"])
    law = prior_laws(students)["surrogate-s2"].supervised
    assert law is not None
    teachers = [j for j in cost.jobs if j.trunk.role == "teacher" and j.trunk.split == "teacher"]
    trained = [(float(j.trunk.params), t) for j in teachers for t in j.budgets]
    losses = [(n, float(law(params=n, tokens=t))) for n, t in trained]
    return sum(
        n < m and abs(one / other - 1) < _NEAR and not 1 / 1.3 < n / m < 1.3 for n, one in losses for m, other in losses
    )


def _has_knobs(spec: StudySpec) -> bool:
    found: dict[str, set[tuple[str, int]]] = {"distill_weight": set(), "temperature": set()}
    for cells in spec.cells:
        places = {(size, tokens) for size in cells.params or spec.students.params for tokens in cells.tokens}
        for setting in found.keys() & cells.training.keys():
            found[setting] |= places
    return all(len(places) >= 2 for places in found.values())


# --- everything that is said --------------------------------------------------------------------------------


PAIR = 0.003
"""Spread of the difference of two paired runs in ln L: 0.3 % of the loss, a guess near what small studies showed."""
_SHOWN = {
    "supervised": ("supervised E", "supervised p", "supervised q"),
    "reduced": ("c0", "break", "f1", "p"),
    "kappa": ("c0", "break", "f1", "p", "q"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """All that is known of a study before it runs."""

    prospect: Prospect | None
    """None for a text of which no law is guessed, or without runs that serve one."""
    controls: tuple[PlannedControl, ...]
    contrasts: Mapping[str, int]
    """Setting compared with the grid -> seeds."""
    is_world: bool

    def lines(self, left_out: Mapping[str, str] | None = None) -> Iterator[str]:
        """The statement in words; `left_out`: control -> why a template does without it."""
        yield "what it would identify"
        if self.prospect is None:
            why = "its text is a synthetic world" if self.is_world else "none of its runs serves a law"
            yield f"  no law is guessed: {why}"
        else:
            yield from _prospect_lines(self.prospect)
        if self.contrasts:
            seeds = min(self.contrasts.values())
            yield (
                f"  settings against the grid ({', '.join(self.contrasts)}): differences above "
                f"{200 * PAIR / seeds**0.5:.1f} % of the loss show ({seeds} paired seed{'s' * (seeds > 1)})"
            )
        yield "controls (+ planned, - not)"
        for one in self.controls:
            why = "" if one.is_there else (left_out or {}).get(one.name, "")
            said = f"{one.words}; left out: {why}" if why else one.words
            yield f"  {'+' if one.is_there else '-'} {one.name:<16}{said}"

    def to_json(self) -> dict[str, object]:
        """Plain JSON values; errors are the worst of the guesses, null where there is none."""
        identifies: dict[str, object] = {}
        if self.prospect is not None:
            identifies = {one.form: _outlook_json(one) for one in self.prospect.outlooks}
            identifies |= {"teacher_ratios": self.prospect.ratios, "add": self.prospect.add}
        return {
            "identifies": identifies,
            "controls": [asdict(one) for one in self.controls],
            "contrasts": dict(self.contrasts),
        }


def state(spec: StudySpec, cost: StudyCost) -> Statement:
    """The statement of a study, from its cost with its jobs."""
    is_world = spec.data.world is not None
    expected = None if is_world else prospect(cost.wanted or cost.jobs)
    text = None
    if not is_world:
        size = text_size(spec.data.corpus, max_document_chars=spec.data.max_document_chars)
        held_out = spec.data.validation_documents
        if size is not None and spec.data.section_chars:
            size = replace(size, documents=round(size.chars / spec.data.section_chars))
        text = None if size is None else size.half(spec.data.vocab_size, held_out=held_out)
    usual = {cells.name: cells.seeds for cells in spec.cells if cells.training}
    controls = tuple(checklist(spec, cost, expected, text))
    return Statement(prospect=expected, controls=controls, contrasts=usual, is_world=is_world)


def _prospect_lines(expected: Prospect) -> Iterator[str]:
    guesses = expected.outlooks[0].by_guess
    yield (
        f"  standard errors if a guess were true, the largest of {len(guesses)} ({', '.join(guesses)}; "
        f"surrogates are not published values), {100 * NOISE:g} % noise a run:"
    )
    for one in expected.outlooks:
        yield f"  {FORM_NAMES[one.form]}, {one.num_runs} runs in {one.num_trunks} trunks: {_coefficients(one)}"
    fitted = expected.fitted
    if fitted is not None:
        yield f"  c0: {_c0_words(expected)}"
        if fitted.has_enough:
            yield f"  best L_T / L_S: {_ratio_words(fitted)}"


def _coefficients(one: ExpectedErrors) -> str:
    if not one.has_enough:
        return "too few runs for a fit"
    parts = []
    for name in _SHOWN[one.form]:
        low, high = one.value(name)
        value = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
        parts.append(f"{name.removeprefix('supervised ')} {value} +- {one.error(name):.2g}")
    return ", ".join(parts)


def _c0_words(expected: Prospect) -> str:
    """How well each form knows its c0; the five-parameter form's is a coefficient of its own, far below the other's."""
    parts = []
    for one in expected.outlooks:
        if one.form == "supervised":
            continue
        name, error = FORM_NAMES[one.form], one.error("c0")
        if not one.has_enough:
            parts.append(f"too few independent runs for the {name}: add sizes, teachers or seeds")
            continue
        known = "identified" if error <= C0_GOAL else "not identified"
        parts.append(f"{known} in the {name} (within {error:.3g}, goal {C0_GOAL})")
    return "; ".join(parts) + (f". What helps most: {expected.add}" if expected.add else "")


def _ratio_words(fitted: ExpectedErrors) -> str:
    """For how many student cells the best teacher lies among those of the study, and how well its ratio is known."""
    cells = fitted.best()
    sure = [cell for cell in cells if all(one.is_bracketed and one.error <= RATIO_GOAL for one in cell)]
    some = [cell for cell in cells if cell not in sure and any(one.is_bracketed for one in cell)]
    never = [cell for cell in cells if not any(one.is_bracketed for one in cell)]
    parts = []
    if sure:
        worst = max(one.error for cell in sure for one in cell)
        parts.append(f"identified for {_named(sure)}: within {worst:.2g} (goal {RATIO_GOAL})")
    if some:
        by_guess = [pair for cell in some for pair in zip(fitted.by_guess, cell, strict=True)]
        where = sorted({guess for guess, one in by_guess if one.is_bracketed})
        parts.append(f"under {', '.join(where)} only for {_named(some)}: stronger teachers would settle it")
    if never:  # below 1 the search ended at the strongest
        add = "stronger teachers" if never[0][0].ratio < 1 else "weaker teachers"
        parts.append(f"not identified for {_named(never)}: the best teacher is beyond those here; add {add}")
    return "; ".join(parts)


def _named(cells: list[tuple[BestRatio, ...]]) -> str:
    first = cells[0][0]
    name = f"{format_count(first.params)} on {format_count(first.tokens)} tokens"
    return name if len(cells) == 1 else f"{len(cells)} student cells ({name}, ...)"


def _outlook_json(one: ExpectedErrors) -> dict[str, object]:
    return {
        "runs": one.num_runs,
        "trunks": one.num_trunks,
        "has_enough": one.has_enough,
        "standard_errors": {
            name: {"worst": one.error(name)} | {guess: e.errors[name] for guess, e in one.by_guess.items()}
            for name in _SHOWN[one.form]
        },
        "best_ratio": [
            {
                "params": cell[0].params,
                "tokens": cell[0].tokens,
                "by_guess": {
                    guess: {"ratio": b.ratio, "standard_error": b.error if b.is_bracketed else None}
                    for guess, b in zip(one.by_guess, cell, strict=True)
                },
            }
            for cell in one.best()
        ]
        if one.form != "supervised"
        else [],
    }
