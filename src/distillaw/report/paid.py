"""Caption, words and numbers of loss against the compute that was paid."""

from collections.abc import Sequence

from distillaw.accounting.scenarios import Scenario
from distillaw.figures.paid import SCENARIOS, Frontier, Paid, draw_paid, frontier
from distillaw.figures.style import Z90
from distillaw.pareto.frontier import Place
from distillaw.planning.measured import DesignPoint
from distillaw.quantities import flop_text, plural
from distillaw.report.content import Table, Value, number
from distillaw.report.losses import difference
from distillaw.report.picture import Picture

TITLE = "What the compute buys: loss against everything paid"


def paid_picture(paid: Sequence[Paid], cells: Sequence[DesignPoint]) -> Picture:
    """Loss against compute; `cells` are those that the bills are of.

    Raises:
        DataError: no student has been run both with and without a teacher.
    """
    return Picture(
        name="pareto", title=TITLE, figure=draw_paid(paid),
        alt="Student loss against compute paid. " + " ".join(paid_sentences(paid)),
        caption="Left, the student's training and its teacher's forward passes are paid; right, the teacher's training "
        "as well, as if for this one student. Every run pays for itself: no trunk is shared. Bars: 90 % interval, "
        f"without a teacher over seeds, distilled of the {difference(cells)} from no teacher. Filled: not beaten by "
        "its own colour at equal or less compute; steps join them.",
    )  # fmt: skip


def paid_sentences(paid: Sequence[Paid]) -> list[str]:
    """Where distilled students are ahead of what no teacher gives for as much, where behind, and where nobody knows."""
    found = [frontier(paid, scenario) for scenario in SCENARIOS]
    return [_sentence(one) for one in found if one.taught and one.alone]


def _sentence(found: Frontier) -> str:
    """Every count is of students that were run; where none without a teacher costs as much, nothing is claimed."""
    total, better, worse, unknown = len(found.taught), found.better, len(found.worse), len(found.unknown)
    parts = [
        (len(better), "better than every cheaper student without a teacher and the next dearer one"),
        (worse, "worse than one without a teacher that cost no more"),
        (total - len(better) - worse - unknown, "neither"),
        (unknown, "dearer than any without a teacher, so that nobody knows what that gives for as much"),
    ]
    said = ", ".join(f"{count} {'is' if count == 1 else 'are'} {words}" for count, words in parts if count)
    lead = SCENARIOS[found.scenario].capitalize()
    beyond = " (beyond the 90 % interval of the difference)" if better or worse else ""
    most = _most(found, *max(better, key=lambda pair: pair[1].ahead or 0.0)) if better else ""
    whom = plural(total, "distilled student")
    return f"{lead}: of {whom} that no other distilled one beats for less, {said}{beyond}.{most}"


def _most(found: Frontier, paid: Paid, where: Place) -> str:
    assert where.best is not None and where.ahead is not None
    ahead = f"{where.ahead:.3f} ± {Z90 * (where.ahead_se or 0.0):.3f}"
    return (
        f" Most is gained by {paid.name}: {paid.loss:.3f} nats/token for {flop_text(paid.compute(found.scenario))}, "
        f"{ahead} below {where.best.name} ({flop_text(where.best.compute)})."
    )


def paid_table(paid: Sequence[Paid]) -> Table:
    """Every cell with its loss and its bill, cheapest first."""
    marks = {scenario: frontier(paid, scenario) for scenario in SCENARIOS}
    rows = [_row(one, marks) for one in sorted(paid, key=lambda p: p.compute(Scenario.INFERENCE))]
    parts = ("student, FLOP", "teacher logits, FLOP", "teacher training, FLOP")
    paid_names = (f"paid, {words}" for words in SCENARIOS.values())
    return Table(
        columns=["student", "loss", "± 90 %", *parts, *paid_names, "unbeaten by its own kind"], rows=rows
    )


def _row(paid: Paid, marks: dict[Scenario, Frontier]) -> list[Value]:
    unbeaten = [SCENARIOS[s] for s, found in marks.items() if paid in (*found.alone, *found.taught)]
    parts = (paid.student, paid.logits, paid.teacher, *(paid.compute(scenario) for scenario in SCENARIOS))
    return [
        Value(text=paid.name, sort=paid.name, kind="text"), number(paid.loss, 4), number(paid.half, 4),
        *(_flop(part) for part in parts), Value(text="; ".join(unbeaten), sort="; ".join(unbeaten), kind="text"),
    ]  # fmt: skip


def _flop(value: float) -> Value:
    return Value(text=flop_text(value).removesuffix(" FLOP") if value == value else "unknown", sort=value)
