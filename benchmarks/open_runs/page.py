"""Tables of docs/open-runs.md; its figures are in figures.py."""

from benchmarks import ROOT
from benchmarks.worlds_study.page import by, markdown, tokens

PAGE = ROOT / "docs" / "open-runs.md"


def pm(estimate: dict | None, digits: int = 3) -> str:
    """Mean and half width of its 90 % interval."""
    return "" if estimate is None else f"{estimate['mean']:+.{digits}f} ± {estimate['half']:.{digits}f}"


def teachers(found: dict) -> str:
    """Every teacher of the grid."""
    rows = [
        [t, f"{row['params']:,}", tokens(row["tokens"]), f"{row['loss']:.3f} ± {row['loss_se']:.3f}"]
        for t, row in found["teachers"].items()
    ]
    return markdown(["teacher", "parameters", "tokens", "loss"], rows)


def cells(found: dict) -> str:
    """Loss of every student, the best of each row in bold; held-out rows marked."""
    names = list(found["teachers"])[::-1]
    rows = []
    for row in found["cells"]:
        losses = {"none": row["alone"], **row["taught"]}
        least = min(losses.values())
        line = [f"{row['size']}, {tokens(row['budget'])}{' *' if row['held_out'] else ''}"]
        for t in ["none", *names]:
            text = f"{losses[t]:.3f}" if t in losses else ""
            line.append(f"**{text}**" if losses.get(t) == least else text)
        rows.append(line)
    head = [f"{t} ({found['teachers'][t]['loss']:.2f})" for t in names]
    return markdown(["student, tokens", "no teacher", *head], rows)


def best(found: dict) -> str:
    """The best teacher by size and budget, and whether the strongest and the weakest are worse."""
    rows = [
        [
            f"{r['size']}, {tokens(r['budget'])}",
            r["best"],
            f"{r['size_ratio']:.1f}",
            f"{r['loss_ratio']:.3f}",
            f"{r['strongest_ratio']:.2f} to {r['weakest_ratio']:.2f}",
            pm(r["behind_strongest"]),
            pm(r["behind_weakest"]),
        ]
        for r in found["best"]
    ]
    head = [
        "student, tokens",
        "best teacher",
        "N_T / N_S",
        "L_T / L_S",
        "range of L_T / L_S tried",
        "strongest is worse by",
        "weakest is worse by",
    ]
    return markdown(head, rows, left=2)


def pruned(found: dict) -> str:
    """Pruned and fresh students of the same teachers."""
    rows = [
        [
            f"{r['size']}, {tokens(r['budget'])}",
            r["teacher"],
            f"{r['size_ratio']:.1f}",
            f"{r['fresh']:.3f}",
            f"{r['pruned']:.3f}",
            pm(r["gain"]),
        ]
        for r in found["pruned"]
    ]
    return markdown(["student, tokens", "teacher", "N_T / N_S", "fresh", "pruned", "pruned better by"], rows, left=2)


def equal_loss(found: dict) -> str:
    """Pairs of teachers of nearly equal loss and different size."""
    pairs = by(found["equal_loss"], "first", "second", "size", "budget")
    names = list(dict.fromkeys((a, b) for a, b, _, _ in pairs))
    columns = list(dict.fromkeys((s, b) for _, _, s, b in pairs))
    rows = []
    for a, b in names:
        line = [f"{a} ({found['teachers'][a]['loss']:.3f})", f"{b} ({found['teachers'][b]['loss']:.3f})"]
        for column in columns:
            row = pairs.get((a, b, *column))
            line.append("" if row is None else f"{row['adjusted']:+.3f} ± {row['half']:.3f}")
        rows.append(line)
    return markdown(["teacher", "against", *(f"{s} {tokens(b)}" for s, b in columns)], rows, left=2)


def controls(found: dict) -> str:
    """Every control against the grid's own run."""
    rows = []
    for r in found["controls"]:
        estimate = r.get("better_by") or r["taught_better_by"]
        what = r["control"] + (f", rate x {r['rate']:g}" if r.get("rate", 1) != 1 else "")
        rows.append([what, f"{r['size']}, {tokens(r['budget'])}", r["teacher"], pm(estimate)])
    return markdown(["control", "student, tokens", "teacher", "better by"], rows, left=3)


def approach(found: dict) -> str:
    """The exponent of L_S - L_T in tokens by size and teacher, and what a pure power misses."""
    rows, cells = [], by(found["approach"], "size", "teacher")
    for size in dict.fromkeys(row["size"] for row in found["approach"]):
        line = [size]
        for t in found["teachers"]:
            row = cells.get((size, t))
            line.append("" if row is None else f"{-row['slope']:.2f} ({1e3 * row['rms']:.1f})")
        rows.append(line)
    return markdown(["student", *found["teachers"]], rows)


def noise(found: dict) -> str:
    """Spread between seeds."""
    rows = [
        [f"{r['size']}, {tokens(r['budget'])}", r["teacher"], str(r["seeds"]), f"{r['sd']:.4f}"]
        for r in found["noise"]
        if "size" in r
    ]
    return markdown(["student, tokens", "teacher", "seeds", "sd of the loss"], rows, left=2)


def forms(found: dict) -> str:
    """Every law in both conventions."""
    rows = []
    for name, fit in found["fits"].items():
        everything, before = fit["all"], fit["before"]
        inside, outside = everything.get("in_sample"), before.get("held_out")
        rows.append(
            [
                name,
                everything.get("status", "refused"),
                str(everything.get("rows", "")),
                _error(inside),
                before.get("status", "refused"),
                _error(outside),
                _cover(outside),
            ]
        )
    head = [
        "law, parameters",
        "status",
        "rows",
        "rms in sample",
        "status without the held-out runs",
        "rms on held-out runs",
        "inside 90 %",
    ]
    return markdown(head, rows, left=2)


def _error(found: object) -> str:
    return f"{100 * found['rms']:.2f} %" if isinstance(found, dict) else "-"


def _cover(found: object) -> str:
    return f"{found['inside_90']:.0%} of {found['rows']}" if isinstance(found, dict) else "-"


def law(found: dict) -> str:
    """Coefficients of the laws that ship, with their intervals."""
    rows = []
    for family in ("supervised", "distillation-kappa"):
        fit = found["fits"][f"{family}, non-embedding"]["all"]
        for symbol, value in fit.get("params", {}).items():
            low, high = fit["conf_int"][symbol]
            rows.append([family, symbol, f"{value:.4g}", f"{low:.3g} to {high:.3g}"])
    return markdown(["law", "coefficient", "value", "90 % interval"], rows, left=2)


TABLES = {
    "teachers": teachers,
    "cells": cells,
    "best": best,
    "pruned": pruned,
    "equal_loss": equal_loss,
    "controls": controls,
    "approach": approach,
    "noise": noise,
    "forms": forms,
    "law": law,
}
