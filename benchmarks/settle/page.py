"""What the benchmark found, as text, as a page and as a figure.

    python -m benchmarks.settle.page RESULTS.json... --page PAGE.md --figure FIGURE.png

The page and the figure are made of all results named: files that run.py --out has written.
"""

import argparse
import json
from pathlib import Path

from distillaw.runs.files import write_text

TIERS = {
    "simulated": "Simulated surfaces",
    "untouched": "Simulated, untouched seeds",
    "worlds": "Real training in worlds",
    "shipped": "Tables of trained runs in this tree",
}
COLOURS = dict(zip(TIERS, ("#1f5fa8", "#8b4aa8", "#2e8b57", "#b8651b"), strict=True))
COVERAGES = {
    "last": "a gain at the end",
    "every": "a gain at any look",
    "sequence": "a gain at all looks of a decision",
    "decision": "all gains at all looks of a decision",
    "regret": "the bound on regret at all looks",
    "losses": "a loss at the target at the end",
    "foretold": "a pilot's gain, before it was run",
}
"""What an interval is of, or several that must all hold."""
LEGEND = (
    "`decided`: a teacher or none was named, or the stake bounded by the margin; `settled`: within the margin. "
    "`false`: of the decided stops, those that lose more than was stated (or the margin), or advise a teacher that "
    "does no good; `all stops` counts those without a decision too. `cost`: FLOP of the pilots as a share of the "
    "target's training, where decided. `regret`: nats/token x 1000, all stops. `width`: median half-width of a "
    "gain's interval at the end, % of the loss."
)
SEEN = {
    "simulated": ("Seeds that constants were tuned on.",),
    "untouched": (
        "Seeds that nothing was chosen by: 11000 to 11159 run when every constant of the simulation was fixed, and "
        "after changes to rates since; 20000 to 20159 run once.",
    ),
    "shipped": (
        "Tables that the misfit's chances were learnt from, and by which was chosen how runs share what rates cost.",
    ),
}
"""What is known of a tier's seeds beforehand."""
HEAD = (
    "",
    "n",
    "decided",
    "settled",
    "refused",
    "false",
    "90 % Wilson",
    "all stops",
    "cost %",
    "median",
    "regret",
    "width %",
)


def text(found, rows=()):
    """For the terminal."""
    lines = [row_line(row) for row in rows]
    for tier, part in found["tiers"].items():
        lines += [f"\n{TIERS[tier]}", *columns([HEAD, *table(part)])]
        lines += ["", "interval of ...: share that held", *columns(covered(part))]
        lines += ["", "regret, nats/token x 1000", *columns(ruled(part))]
        lines += ["", *others(part), "", "P(best) said / came (n): " + bins(part)]
    return "\n".join([*lines, f"\n{found['cpu_seconds']} s of CPU time"])


def row_line(row):
    """One decision."""
    mark = "FALSE" if row["false"] else "ok" if row["decided"] else "open"
    told = {k: row.get(k, 0.0) for k in ("regret", "bound")}
    return (
        f"{mark:5s} {row['family']:14s} {row['kind']:9s} {row['scale']:6s} {row['verdict']:9s} "
        f"{row.get('chosen') or '-':4s} best {row.get('best') or '-':4s} gain {1000 * row['gain']:7.1f} "
        f"regret {1000 * told['regret']:6.1f} bound {1000 * told['bound']:6.1f} margin {1000 * row['margin']:4.1f} "
        f"{row['stages']:2d} stages {100 * row['spent']:5.2f} % {row['seconds']:5.1f} s  "
        f"{row.get('why') or row['refused']}"
    )


def table(part):
    """A line per part of the decisions."""
    lines = []
    for name, s in part["parts"].items():
        false, spent = s["false"], s["spent"]
        lines.append(
            (
                name,
                s["num"],
                s["decided"],
                s["settled"],
                s["refused"],
                percent(false["share"]),
                ends(false),
                percent(s["false_all_stops"]["share"]),
                percent(spent["mean"], 2),
                percent(spent["median"], 2),
                milli(s["regret"]),
                percent(s["half_width"], 2),
            )
        )
    return lines


def covered(part):
    """Coverage, a line per kind of interval."""
    shares = part["parts"]["all"]["coverage"]
    return [
        (what, percent(shares[key]["share"]), f"of {shares[key]['num']}", ends(shares[key]))
        for key, what in COVERAGES.items()
    ]


def ruled(part):
    """Regret, a line per rule."""
    head = ("", "mean", "above the margin", "n", "settle saves", "90 %")
    lines = []
    for rule, found in part["regret"].items():
        saved = found.get("saved")
        gap = (
            (f"{1000 * saved['mean']:+.1f}", f"{1000 * saved['low']:+.1f} to {1000 * saved['high']:+.1f}")
            if saved
            else ("", "")
        )
        lines.append((rule, milli(found["mean"]), percent(found["above_margin"]["share"]), found["num"], *gap))
    return [head, *lines]


def others(part):
    """The planner and the fits in words."""
    plan, lines = part["plan"], []
    if plan["asked"] > plan["refused"]:
        brier = plan["distil"]
        lines.append(
            f"plan on the same pilots: {plan['asked']} asked, {plan['refused']} refused; a choice in "
            f"{plan['firm']}, "
            f"{percent(plan['false']['share'])} % of them false (settle on the same questions "
            f"{percent(plan['settle_false']['share'])} %); 90 % intervals of the gain held "
            f"{percent(plan['coverage']['share'])} %, half-width {percent(plan['half_width'], 2)} % of the loss; "
            f"regret {milli(plan['regret'])} (settle {milli(plan['settle_regret'])}); Brier {brier['brier']:.3f}, "
            f"climatology {brier['climatology']:.3f}"
        )
    for family, fit in part["fit"].items():
        how = ", ".join(f"{status} {count}" for status, count in fit["statuses"].items())
        lines.append(
            f"fit {family}: {how}; 90 % intervals of the loss at the target held {percent(fit['in']['share'])} % of "
            f"{fit['in']['num']}, median error {percent(fit['error'], 2)} %, half-width "
            f"{percent(fit['half_width'], 2)} %"
        )
    return lines


def bins(part):
    """Reliability of the stated probabilities at the end."""
    last = part["calibration"].get("last")
    return "  ".join(f"{b['said']:.2f}/{b['came']:.2f} ({b['num']})" for b in last["bins"]) if last else "none stated"


def columns(rows):
    """Aligned lines; the first column to the left."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[j]) for row in cells) for j in range(len(cells[0]))]
    return [
        "  ".join(c.ljust(w) if j == 0 else c.rjust(w) for j, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]


def ends(share):
    """Wilson interval in per cent."""
    return f"{100 * max(share['low'], 0.0):.0f}-{100 * share['high']:.0f}"


def percent(value, digits=1):
    """A share in per cent, without the sign."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def milli(value):
    """Nats in thousandths."""
    return "-" if value is None else f"{1000 * value:.1f}"


def page(results, figure=None):
    """The page, all of it generated, from the results of one run of the benchmark or of several."""
    commands = [found["command"] for found in results]
    lines = [
        "# Settle, plan and fit against known truths",
        "",
        "What is drawn and how it is scored is said in `benchmarks/settle/run.py`. `make bench-settle` makes all of "
        "this page; `--plan-every 8` asks `plan` and `fit` about the same pilots, and `--only worlds` answers pilots "
        "from studies of your own. By hand:",
        "",
        "<!-- not run: minutes of simulated settlements -->",
        "```sh",
        *commands,
        "```",
        "",
    ]
    if figure:
        lines += [f"![Reliability of stated probabilities, coverage at every look]({figure.name})", ""]
    lines += [LEGEND, ""]
    for found in results:
        for tier, part in found["tiers"].items():
            lines += section(tier, part)
        lines += [f"{found['cpu_seconds']} s of CPU time.", ""]
    return "\n".join(lines)


def section(tier, part):
    """One tier."""
    lines = [f"## {TIERS[tier]}", "", *notes(tier, part), "", *markdown([HEAD, *table(part)]), ""]
    head = ("90 % interval of", "held %", "intervals", "90 % Wilson")
    lines += [*markdown([head, *covered(part)]), "", *markdown(ruled(part)), ""]
    lines += [*(f"- {line}" for line in others(part)), ""]
    return [*lines, f"Probability that a choice is the best, said / came (n): {bins(part)}", ""]


def notes(tier, part):
    """What is peculiar to a tier."""
    lines = list(SEEN.get(tier, ()))
    if tier in ("worlds", "shipped"):
        whole = part["parts"]["all"]
        beyond, gains = whole["false_beyond_noise"], part["by_target"]
        lines.append(
            "The truth is one measured run per choice: false by more than the seed noise of that (90 %) are "
            f"{percent(beyond['share'])} % ({beyond['hits']} of {beyond['num']}). Decisions of one world share their "
            f"runs, so the Wilson intervals are too narrow: by targets, of which there are {gains['targets']}, "
            f"{percent(gains['mean'])} % of gains held at the end, 90 % interval {ends(gains)}. Stages answered by "
            f"another cell than asked: {whole['moved']:.1f} of {whole['stages']:.1f} per decision."
        )
    return lines


def markdown(rows):
    """A table."""
    head, *body = [[str(cell) for cell in row] for row in rows]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in body]


def draw(results, path):
    """Reliability of P(best) by tier, and coverage of gains after every stage, of several runs of the benchmark."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tiers = {tier: part for found in results for tier, part in found["tiers"].items() if part["calibration"]}
    fig, axes = pyplot.subplots(1, len(tiers) + 1, figsize=(4.3 * (len(tiers) + 1), 4.2), squeeze=False)
    for ax, (tier, part) in zip(axes[0], tiers.items(), strict=False):
        draw_reliability(ax, part["calibration"])
        ax.set_title(f"{TIERS[tier]}: is it the best choice?", fontsize=10)
    draw_coverage(axes[0][-1], tiers)
    fig.tight_layout()
    fig.savefig(path, dpi=120)
    pyplot.close(fig)


def draw_reliability(ax, calibration):
    """Said against came, with Wilson intervals; a marker's area is the number of statements."""
    ax.plot([0, 1], [0, 1], color="0.6", lw=1, zorder=0)
    for name, colour, label in (("every", "#c05a1a", "at every look"), ("last", "#1f5fa8", "at the end")):
        rows = calibration[name]["bins"]
        x, y = [b["said"] for b in rows], [b["came"] for b in rows]
        ends = [[max(b["came"] - b["low"], 0) for b in rows], [max(b["high"] - b["came"], 0) for b in rows]]
        ax.errorbar(x, y, ends, fmt="-", color=colour, lw=1, alpha=0.6)
        ax.scatter(x, y, [6 + 0.3 * b["num"] for b in rows], color=colour, label=label, zorder=3, linewidths=0)
    ax.set(
        xlabel="probability stated", ylabel="share that came true (90 % Wilson)", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05)
    )
    for handle in ax.legend(loc="upper left", fontsize=8, frameon=False).legend_handles:
        handle.set_sizes([25])


def draw_coverage(ax, tiers):
    """Share of gain intervals that hold after the k-th stage."""
    ax.axhline(0.9, color="0.6", lw=1, zorder=0)
    for tier, part in tiers.items():
        rows = [r for r in part["by_look"] if r["in"]["num"] >= 10]
        x, y = [r["stage"] for r in rows], [r["in"]["share"] for r in rows]
        ax.plot(x, y, color=COLOURS[tier], marker="o", ms=4, label=TIERS[tier])
        ax.fill_between(
            x, [r["in"]["low"] for r in rows], [r["in"]["high"] for r in rows], color=COLOURS[tier], alpha=0.15, lw=0
        )
    ax.set(xlabel="after stage", ylabel="gain intervals that held", ylim=(0.5, 1.02))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_title("Coverage of a gain, by look (nominal 90 %)", fontsize=10)
    if tiers:
        ax.legend(loc="lower right", fontsize=8, frameon=False)


def main():
    """The page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="files that run.py --out has written")
    parser.add_argument("--page", type=Path, required=True, help="tables as Markdown")
    parser.add_argument("--figure", type=Path, required=True, help="reliability curves")
    args = parser.parse_args()
    results = [json.loads(path.read_text()) for path in args.results]
    write_text(args.page, page(results, args.figure), known=True)
    draw(results, args.figure)


if __name__ == "__main__":
    main()
