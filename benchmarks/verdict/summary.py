"""The scores of all rows by truth, distance, scale and source; the printed table; the reliability diagram."""

import numpy as np

from benchmarks.verdict.scores import brier, coverage, difference, reliability

CUTS = {"truth": "truth", "factor": "beyond", "scale": "scale", "source": "source"}
"""Column of a row to what it is called."""
OURS = "planner"
SURE = 0.95


def summarise(rows):
    """Scores by set of sources (`condition`), all rows and each cut."""
    found = {}
    for condition in dict.fromkeys(r["condition"] for r in rows):
        asked = [r for r in rows if r["condition"] == condition]
        here = [r for r in asked if "refused" not in r]
        parts = {"all": here}
        for key, name in CUTS.items():
            parts |= {f"{name} {v}": [r for r in here if r[key] == v] for v in sorted({r[key] for r in here})}
        found[condition] = {
            "asked": len(asked),
            "refused": len(asked) - len(here),
            "studies": len({r["study"] for r in asked}),
            "reasons": sorted({r["refused"] for r in asked if "refused" in r})[:5],
            "parts": {name: scores(part) for name, part in parts.items() if part},
        }
    return {"conditions": found}


def scores(rows):
    """Calibration, coverage and regret of some rows."""
    rng = np.random.default_rng(0)
    regret = {name: np.array([r["regret"][name] for r in rows]) for name in rows[0]["regret"]}
    study = [r["study"] for r in rows]
    z = np.array([(r["gain"] - r["mean"]) / ((r["upper"] - r["lower"]) / 3.29) for r in rows])
    return {
        "num": len(rows),
        "decisive": float(np.mean([r["decisive"] for r in rows])),
        "verdicts": {v: sum(r["verdict"] == v for r in rows) for v in ("distil", "pretrain", "too-close")},
        "distil": brier(*said_and_came(rows, "distil")) | {"bins": reliability(*said_and_came(rows, "distil"))},
        "pretrain": brier(*said_and_came(rows, "pretrain")) | {"bins": reliability(*said_and_came(rows, "pretrain"))},
        "sure": sure(rows),
        "coverage": coverage([r["lower"] <= r["gain"] <= r["upper"] for r in rows]),
        "z": {
            "median": float(np.median(z)),
            "p68": float(np.percentile(np.abs(z), 68)),
            "p90": float(np.percentile(np.abs(z), 90)),
        },
        "half_width": float(np.median([(r["upper"] - r["lower"]) / 2 / r["loss"] for r in rows])),
        "regret": {name: float(values.mean()) for name, values in regret.items()},
        "saved": {name: difference(regret[OURS], lost, study, rng) for name, lost in regret.items() if name != OURS},
    }


def sure(rows):
    """Probabilities above 0.95: how many, how often it was not so, and how often the other side was better."""
    said = [(side, r) for r in rows for side in ("distil", "pretrain") if r[side] > SURE]
    return {
        "num": len(said),
        "wrong": sum(not r[f"came_{side}"] for side, r in said),
        "opposite": sum((r["gain"] < 0) == (side == "distil") for side, r in said),
    }


def said_and_came(rows, side):
    """Stated probabilities that distilling (or pretraining) is better by the margin, and whether it was."""
    return [r[side] for r in rows], [r[f"came_{side}"] for r in rows]


def table(found):
    """Plain text."""
    lines = []
    for condition, part in found["conditions"].items():
        lines += [
            f"\nEvidence: {condition} ({part['asked']} questions on {part['studies']} studies, {part['refused']} "
            "refused)",
            calibration_head(),
        ]
        lines += [calibration_line(name, s) for name, s in part["parts"].items()]
        whole = part["parts"]["all"]
        lines.append("above 0.95: {num}, not so {wrong}, the other side better {opposite}".format(**whole["sure"]))
        lines.append("P(distil better by the margin): said / came true [90 %] (questions)")
        lines.append(
            "  "
            + "   ".join(
                f"{b['said']:.2f}/{b['came']:.2f} [{b['low']:.2f}, {b['high']:.2f}] ({b['num']})"
                for b in whole["distil"]["bins"]
            )
        )
        lines.append("mean regret, nats/token x 1000, and what following the planner saves [90 %, studies resampled]")
        for name, value in whole["regret"].items():
            saved = whole["saved"].get(name)
            gap = (
                f"{1000 * saved['mean']:+8.1f} [{1000 * saved['low']:+.1f}, {1000 * saved['high']:+.1f}]"
                if saved
                else ""
            )
            lines.append(f"  {name:34s} {1000 * value:7.1f} {gap}")
    if found.get("real"):
        lines += ["", real_text(found["real"])]
    return "\n".join(lines)


def calibration_head():
    """Column names of the calibration table."""
    columns = [
        ("", 28),
        ("n", 5),
        ("distil", 6),
        ("pretr", 5),
        ("close", 5),
        ("Brier", 6),
        ("clim", 5),
        ("reliab", 6),
        ("Brier-", 6),
        ("clim-", 5),
        ("cover", 5),
        ("|z|68", 5),
        ("half %", 6),
        ("regret", 6),
        ("next best rule", 24),
    ]
    return " ".join(f"{name:{'<' if not name else '>'}{width}s}" for name, width in columns)


def calibration_line(name, s):
    """One part as a line; `-` marks the pretraining side."""
    d, p, v = s["distil"], s["pretrain"], s["verdicts"]
    rule = min((k for k in s["regret"] if not k.startswith(OURS)), key=s["regret"].__getitem__)
    return (
        f"{name:28s} {s['num']:5d} {v['distil']:6d} {v['pretrain']:5d} {v['too-close']:5d} {d['brier']:6.3f} "
        f"{d['climatology']:5.3f} {d['reliability']:6.4f} {p['brier']:6.3f} {p['climatology']:5.3f} "
        f"{s['coverage']['share']:5.2f} {s['z']['p68']:5.2f} {100 * s['half_width']:6.2f} "
        f"{1000 * s['regret'][OURS]:6.1f} {1000 * s['regret'][rule]:6.1f} {rule:>17s}"
    )


def real_text(real):
    """The real cells in words."""
    sides = ", ".join(f"{side} {s['brier']:.3f} / {s['climatology']:.3f}" for side, s in real["singles"].items())
    inside = 100 * real["coverage"]["share"]
    lines = [
        f"Real runs, one student size left out: {real['cells']} cells, {real['gains']} questions of one teacher each",
        f"  one teacher each: Brier / climatology {sides}; {inside:.0f} % of gains inside 90 %",
    ]
    for row in real["sizes"]:
        lines.append(f"  {row['left_out']}: {row['text']}")
    return "\n".join(lines)


PANELS = {
    "laws": "The user's fitted laws alone",
    "all": "With paired runs and published laws",
    "free size": "Fitted laws alone, student size free",
    "free size, served": "The same, serving in the bill",
}


def draw(found, path):
    """Reliability diagram of both sides, one panel per set of sources; a marker's area is the number of questions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    conditions = found["conditions"]
    names = [name for name in PANELS if name in conditions]
    fig, axes = pyplot.subplots(1, len(names), figsize=(4.3 * len(names), 4.4), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        ax.plot([0, 1], [0, 1], color="0.6", lw=1, zorder=0)
        whole = conditions[name]["parts"]["all"]
        for side, colour, shift in (("distil", "#1f5fa8", -0.006), ("pretrain", "#c05a1a", 0.006)):
            bins = whole[side]["bins"]
            x, y = np.array([b["said"] for b in bins]) + shift, np.array([b["came"] for b in bins])
            ends = np.array([y - [b["low"] for b in bins], [b["high"] for b in bins] - y])
            ax.errorbar(x, y, np.maximum(ends, 0), fmt="-", color=colour, lw=1, alpha=0.6)
            ax.scatter(
                x,
                y,
                [4 + 0.6 * b["num"] for b in bins],
                color=colour,
                label=f"{side} better by the margin",
                zorder=3,
                linewidths=0,
            )
        ax.set(
            title=f"{PANELS[name]}\n{whole['num']} questions",
            xlabel="probability stated",
            xlim=(-0.05, 1.05),
            ylim=(-0.05, 1.05),
        )
        ax.set_title(ax.get_title(), fontsize=10)
        for handle in ax.legend(loc="upper left", fontsize=8, frameon=False).legend_handles:
            handle.set_sizes([25])
    axes[0][0].set_ylabel("share that came true (90 % Wilson interval)")
    fig.tight_layout()
    fig.savefig(path, dpi=120)
    pyplot.close(fig)
