"""What a study costs, what it would identify and which controls it has: said before anything is spent."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from distillaw.fitting.expected import NOISE, BestRatio
from distillaw.protocols.checklist import Planned, checklist
from distillaw.protocols.expectations import C0_GOAL, FORM_NAMES, RATIO_GOAL, Outlook, Prospect, prospect
from distillaw.protocols.text import text_size
from distillaw.quantities import format_count
from distillaw.sweep.cost import StudyCost
from distillaw.sweep.spec import StudySpec

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
    controls: tuple[Planned, ...]
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


def _coefficients(one: Outlook) -> str:
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


def _ratio_words(fitted: Outlook) -> str:
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


def _outlook_json(one: Outlook) -> dict[str, object]:
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
