"""What a study costs, what it would identify and which controls it has: said before anything is spent.

The checklist is read from the study file alone: what is planned, not what came out.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from distillaw.accounting.flops import forward_flops
from distillaw.controls.control import (
    C0_GOAL,
    EMBEDDING_SHARE,
    LEAST_SEEDS,
    LEAST_STEPS,
    RATIO_GOAL,
    STRONG,
    WEAK,
)
from distillaw.fitting.expected import NOISE, BestRatio
from distillaw.fitting.prior_laws import prior_laws
from distillaw.protocols.expectations import (
    FORM_NAMES,
    ExpectedErrors,
    Prospect,
    prospect,
)
from distillaw.protocols.scale import embedding_share, text_size
from distillaw.quantities import format_count, parse_count
from distillaw.sweep.cost import StudyCost
from distillaw.sweep.spec import NONE, DesignSpec, StudySpec

# --- which controls a study file has ------------------------------------------------------------------------


_NEAR = 0.03
"""Losses within 3 % by the guess are meant to be equal; shares of tokens likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedControl:
    """One control: whether the file has it, and in what form."""

    name: str
    is_there: bool
    words: str


def checklist(
    spec: StudySpec, cost: StudyCost, expected: Prospect | None, text: float | None
) -> list[PlannedControl]:
    """The controls of a study, those that its question does not need left out.

    Args:
        spec: the study.
        cost: its jobs.
        expected: what it would identify.
        text: tokens of each half of its text, where known.
    """
    out = [
        _tuning(spec),
        _horizon(spec),
        _steps(spec),
        _single_epoch(spec, text),
        _seeds(spec),
        _embedding(spec, cost),
    ]
    if any(not teacher.is_control for teacher in spec.teachers):
        out += [
            _union(spec),
            _seen(spec),
            _equal_flop(spec, cost),
            _strength(expected),
            _pairs(cost),
            _knobs(spec),
        ]
    held = [cells for cells in spec.cells if cells.holdout]
    return [
        *out,
        PlannedControl(name="hold-out", is_there=bool(held), words="trained after predictions are frozen"),
    ]


def _tuning(spec: StudySpec) -> PlannedControl:
    what = "rate and batch" if spec.tuning.batch else "rate (the batch stays)"
    return PlannedControl(name="tuning", is_there=spec.tuning.enabled, words=f"{what} searched, both arms")


def _horizon(spec: StudySpec) -> PlannedControl:
    where = " and ".join(spec.far_sizes())
    is_there = spec.tuning.enabled and bool(where)
    words = f"the rate of every arm searched at the largest budget too, at {where or 'no size'}"
    return PlannedControl(name="horizon", is_there=is_there, words=words)


def _steps(spec: StudySpec) -> PlannedControl:
    steps = min(spec.students.tokens) // spec.batch_tokens
    return PlannedControl(
        name="steps",
        is_there=steps >= LEAST_STEPS,
        words=f"{steps:,} steps at the smallest budget ({LEAST_STEPS} wanted)",
    )


def _single_epoch(spec: StudySpec, text: float | None) -> PlannedControl:
    needed = spec.longest()
    longest = ", ".join(f"{format_count(tokens)} {name}" for name, tokens in sorted(needed.items()))
    if text is None:
        return PlannedControl(
            name="single-epoch",
            is_there=True,
            words=f"checked when it starts; needs {longest} tokens of text",
        )
    holds = all(tokens <= (2 * text if name == "union" else text) for name, tokens in needed.items())
    return PlannedControl(
        name="single-epoch",
        is_there=holds,
        words=f"needs {longest} tokens; each half of the text has about {format_count(text)}",
    )


def _seeds(spec: StudySpec) -> PlannedControl:
    places = {
        (one.params, tokens): one.seeds
        for one in spec.replicates
        for tokens in one.tokens or spec.students.tokens
    }
    enough = [place for place, seeds in places.items() if seeds >= LEAST_SEEDS]
    most = max(places.values(), default=1)
    return PlannedControl(
        name="seeds",
        is_there=len(enough) >= 2,
        words=f"{most} seeds on {len(places)} cells ({LEAST_SEEDS} on 2 wanted)",
    )


def _embedding(spec: StudySpec, cost: StudyCost) -> PlannedControl:
    smallest = min(map(parse_count, spec.students.params))
    share = embedding_share(smallest, cost.jobs[0].trunk.vocab_size, spec.training)
    words = f"one embedding matrix is {share:.0%} of the smallest student ({EMBEDDING_SHARE:.0%} at most)"
    return PlannedControl(name="embedding", is_there=share <= EMBEDDING_SHARE + 0.005, words=words)


def _alone(cells: Iterable[DesignSpec]) -> list[DesignSpec]:
    return [one for one in cells if NONE in one.teachers or not one.teachers]


def _union(spec: StudySpec) -> PlannedControl:
    is_there = any(cells.split == "union" for cells in _alone(spec.cells))
    return PlannedControl(
        name="union", is_there=is_there, words="the student alone on its own and its teacher's text"
    )


def _seen(spec: StudySpec) -> PlannedControl:
    controls = {t.label for t in spec.teachers if t.is_control}
    is_there = any(controls & set(cells.teachers) for cells in spec.cells)
    return PlannedControl(
        name="seen-text", is_there=is_there, words="a teacher that has read the student's own text"
    )


def _equal_flop(spec: StudySpec, cost: StudyCost) -> PlannedControl:
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
        own, other = forward_flops(trunk.shape).total, forward_flops(teacher.shape).total
        for tokens in job.budgets:
            bill = tokens * (1 + other / (3 * own)) + read * other / own
            if any(n == trunk.params and abs(t / bill - 1) < 2 * _NEAR for n, t in alone):
                return PlannedControl(
                    name="equal-flop", is_there=True, words="the student alone for the FLOP of both trainings"
                )
    return PlannedControl(
        name="equal-flop", is_there=False, words="the student alone for the FLOP of both trainings"
    )


def _strength(expected: Prospect | None) -> PlannedControl:
    if expected is None or expected.ratios is None:
        return PlannedControl(
            name="strong-teachers", is_there=False, words="no teacher whose loss can be guessed"
        )
    low, high = expected.ratios
    reaches = low <= STRONG + _NEAR and high >= WEAK - _NEAR
    words = f"L_T / loss alone from {low:.2f} to {high:.2f} by the guess ({STRONG} to {WEAK} wanted)"
    return PlannedControl(name="strong-teachers", is_there=reaches, words=words)


def _pairs(cost: StudyCost) -> PlannedControl:
    """Teachers of different size whose guessed losses are equal."""
    students = np.array([float(j.trunk.params) for j in cost.jobs if j.trunk.role == "student"])
    law = prior_laws(students)["surrogate-s2"].supervised
    assert law is not None
    trained = [
        (float(j.trunk.params), t)
        for j in cost.jobs
        if j.trunk.role == "teacher" and j.trunk.split == "teacher"
        for t in j.budgets
    ]
    losses = [float(law(params=n, tokens=t)) for n, t in trained]
    count = sum(
        abs(one / other - 1) < _NEAR and not 1 / 1.3 < n / m < 1.3
        for (n, _), one in zip(trained, losses, strict=True)
        for (m, _), other in zip(trained, losses, strict=True)
        if n < m
    )
    return PlannedControl(
        name="pairs",
        is_there=count > 0,
        words=f"teachers with equal loss and different size: {count}",
    )


def _knobs(spec: StudySpec) -> PlannedControl:
    found = {}
    for setting in ("distill_weight", "temperature"):
        found[setting] = {
            (size, tokens)
            for cells in spec.cells
            if setting in cells.training
            for size in cells.params or spec.students.params
            for tokens in cells.tokens
        }
    is_there = all(len(places) >= 2 for places in found.values())
    return PlannedControl(
        name="lambda", is_there=is_there, words="lambda and temperature beside 1 on two cells"
    )


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
    target: tuple[str, int] | None
    is_world: bool

    def lines(self, left_out: Mapping[str, str] | None = None) -> Iterator[str]:
        """The statement in words.

        Args:
            left_out: control -> why a template does without it.
        """
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
            yield f"  {'+' if one.is_there else '-'} {one.name:<16}{one.words}" + (
                f"; left out: {why}" if why else ""
            )

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
    """The statement of a study.

    Args:
        spec: the study.
        cost: its cost, with its jobs.
    """
    is_world = spec.data.world is not None
    expected = None if is_world else prospect(cost.wanted or cost.jobs)
    text = None
    if not is_world:
        size = text_size(spec.data.corpus, max_document_chars=spec.data.max_document_chars)
        held_out = spec.data.validation_documents
        text = None if size is None else size.half(spec.data.vocab_size, held_out=held_out)
    usual = {cells.name: cells.seeds for cells in spec.cells if cells.training}
    target = None if spec.target is None else (spec.target.params, spec.target.tokens)
    return Statement(
        prospect=expected,
        controls=tuple(checklist(spec, cost, expected, text)),
        contrasts=usual,
        target=target,
        is_world=is_world,
    )


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
        where = sorted(
            {g for cell in some for g, one in zip(fitted.by_guess, cell, strict=True) if one.is_bracketed}
        )
        parts.append(f"under {', '.join(where)} only for {_named(some)}: stronger teachers would settle it")
    if never:
        parts.append(
            f"not identified for {_named(never)}: the best teacher is beyond those here; add {_beyond(never)}"
        )
    return "; ".join(parts)


def _beyond(cells: list[tuple[BestRatio, ...]]) -> str:
    """Which side is open, by the ratio at which the search ended: below 1 it ended at the strongest."""
    return "stronger teachers" if cells[0][0].ratio < 1 else "weaker teachers"


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
