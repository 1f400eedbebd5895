"""The scorecard in words: do intervals hold, frozen before the runs or of a fit against runs held out from it?"""

from collections.abc import Sequence

from distillaw.figures.intervals import HoldOut, draw_coverage, draw_hold_outs
from distillaw.report.content import Table, Value, number
from distillaw.report.picture import Picture
from distillaw.verifying import tally
from distillaw.verifying.scoring import Scored


def coverage_picture(rows: Sequence[Scored]) -> Picture:
    """Obtained against promised coverage.

    Raises:
        DataError: no interval has been scored.
    """
    words = [
        f"{one['by']}, {one['quantity']}, {100 * one['level']:.0f} % intervals: {100 * one['obtained']:.0f} % of "
        f"{one['num']} inside."
        for one in tally.calibration(rows)
    ]  # fmt: skip
    return Picture(
        name="coverage", title="Coverage of frozen intervals", figure=draw_coverage(rows),
        alt="Share of measured values inside their frozen intervals. " + " ".join(words),
        caption="On the dashed diagonal intervals keep their word; below it they are too narrow, above too wide. Bars: "
        "90 % interval of the share as if predictions were independent; those of one law err together, so they are too "
        "short.",
    )  # fmt: skip


def hold_out_picture(found: Sequence[HoldOut]) -> Picture:
    """Held-out errors beside the intervals given.

    Raises:
        DataError: no fit held runs out.
    """
    return Picture(
        name="hold-outs", title="Held-out runs", figure=draw_hold_outs(found),
        alt="Error of held-out predictions by distance. " + " ".join(hold_out_sentences(found)),
        caption="The smallest 40 to 80 % of this study's runs were fitted again and the others predicted. Bars: mean "
        "half width of the 90 % interval; dots: root mean square error; above, how many runs lay inside. The width was "
        "chosen on these hold-outs, so it is no forecast.",
    )  # fmt: skip


def hold_out_sentences(found: Sequence[HoldOut]) -> list[str]:
    """Coverage, error and reach of each law's hold-outs."""
    return [_hold_out_sentence(one) for one in found]


def _hold_out_sentence(one: HoldOut) -> str:
    low, high = (100 * end for end in one.interval)
    return (
        f"{one.label.capitalize()}: {one.hits} of {one.num} held-out predictions inside their {100 * one.nominal:.0f} "
        f"% intervals ({100 * one.share:.0f} %; {low:.0f} to {high:.0f} % as if they were independent), up to "
        f"{one.decades:.1f} decades of compute beyond what was fitted, root mean square error {one.error:.2f} % of the "
        f"loss. Without the term for a wrong form, {100 * one.without:.0f} % would have been."
    )


def hold_out_table(found: Sequence[HoldOut]) -> Table:
    """Every distance of every law."""
    rows = [
        [Value(text=one.label, sort=one.label, kind="text"),
         Value(text=f"{row.low:.2g} to {row.high:.2g}", sort=row.low), number(row.num, 0),
         number(100 * row.inside, 0), number(row.error, 2), number(row.half, 2)]
        for one in found for row in one.rows
    ]  # fmt: skip
    return Table(
        columns=["law", "decades beyond", "predictions", "inside, %", "error, %", "half width, %"], rows=rows
    )
