"""Tables of docs/worlds-study.md; its figures are in figures.py."""

import re
from collections.abc import Callable, Mapping

from benchmarks import ROOT

PAGE = ROOT / "docs" / "worlds-study.md"
NAMES = {
    "none": "none",
    "oracle": "exact",
    "oracle:loss=3.82,by=window": "window 1 and 2 blended",
    "0.1M@600k": "trained 0.1M@600k",
    "0.3M@300k": "trained 0.3M@300k",
}


def filled(page: str, found: dict, tables: Mapping[str, Callable[[dict], str]]) -> str:
    """The page with what stands between `<!-- table NAME -->` and `<!-- end -->` made anew, of the tables given."""

    def table(match: re.Match) -> str:
        if match[1] not in tables:
            return match[0]
        return f"<!-- table {match[1]} -->\n{tables[match[1]](found)}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def name(teacher: str) -> str:
    """A teacher in words."""
    if teacher in NAMES:
        return NAMES[teacher]
    if "window=" in teacher:
        return teacher.replace("oracle:window=", "window ")
    return teacher.split("by=")[1] if "by=" in teacher else teacher


def full_name(teacher: str) -> str:
    """A teacher in words, with the wanted loss where it has one."""
    wanted = re.search(r"loss=([\d.]+)", teacher)
    return f"{name(teacher)}, {wanted[1]}" if wanted else name(teacher)


def tokens(budget: float | None, *, missing: str = "-") -> str:
    """75k, 1.2M."""
    if budget is None:
        return missing
    return f"{budget / 1e6:.3g}M" if budget >= 999_500 else f"{budget / 1e3:.0f}k"


def signed(estimate: dict | None, digits: int = 4) -> str:
    """Mean and standard error."""
    return "-" if estimate is None else f"{estimate['mean']:+.{digits}f} ± {estimate['se']:.{digits}f}"


def markdown(head: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A table, its first columns to the left and the rest to the right."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *rows])


def by(rows: list[dict], *keys: str) -> dict:
    """Rows by their keys."""
    return {tuple(row[key] for key in keys): row for row in rows}


def losses(found: dict) -> str:
    """Every student of the main settings: loss by teacher and budget, the best in bold."""
    cells = by(found["students"], "size", "budget", "teacher")
    columns = sorted({(size, budget) for size, budget, _ in cells})
    rows = []
    for teacher, loss in [("none", None), *found["teachers"].items()]:
        line = [full_name(teacher), "" if loss is None else f"{loss:.3f}"]
        for size, budget in columns:
            row = cells.get((size, budget, teacher))
            least = min(r["loss"] for (s, b, _), r in cells.items() if (s, b) == (size, budget))
            text = "" if row is None else f"{row['loss']:.3f}"
            line.append(f"**{text}**" if row is not None and row["loss"] == least else text)
        rows.append(line)
    return markdown(["teacher", "its loss", *(f"{s} {tokens(b)}" for s, b in columns)], rows)


def equal(found: dict) -> str:
    """What a worsened teacher costs beside a window of its own loss."""
    cells = by(found["equal_loss"], "teacher", "budget")
    budgets = sorted({budget for _, budget in cells})
    rows = [
        [full_name(teacher), f"{found['teachers'][teacher]:.3f}"]
        + [signed(cells[teacher, b]["worse"]) if (teacher, b) in cells else "" for b in budgets]
        for teacher in found["teachers"]
        if any(t == teacher for t, _ in cells)
    ]
    return markdown(["teacher", "its loss", *map(tokens, budgets)], rows)


def rescaled(found: dict) -> str:
    """Teachers and their students, before and after logits are divided by one temperature."""
    rows = []
    for row in found["rescaled"]:
        own = row["teacher_loss"]
        taught = ["", ""] if own is None else [f"{found['teachers'][row['teacher']]:.3f}", f"{own:.3f}"]
        rows.append(
            [
                full_name(row["teacher"]),
                *taught,
                f"{row['before']:.4f}",
                f"{row['temperature']:.2f}",
                f"{row['loss']:.4f}",
                signed(row.get("over_exact")),
            ]
        )
    head = ["teacher", "its loss", "rescaled", "student", "best temperature", "student rescaled", "then over exact"]
    return markdown(head, rows)


def best(found: dict) -> str:
    """The best teacher's loss by student and budget."""
    rows = [
        [
            row["size"],
            tokens(row["budget"]),
            f"{row['alone']:.3f}",
            name(row["teacher"]),
            f"{row['best_loss']:.3f}",
            f"{row['low']:.3f} to {row['high']:.3f}",
            signed(row.get("over_exact")),
        ]
        for row in found["best"]
    ]
    head = ["student", "tokens", "alone", "best window", "best teacher's loss", "90 %", "gain over exact"]
    return markdown(head, rows)


def one_token(found: dict) -> str:
    """The exact oracle against the teacher that sees one token: positive where the latter is better."""
    rows = [[one["size"], *(signed(d) for d in one["differences"]), span(one)] for one in found["one_token"]]
    budgets = [tokens(d["budget"]) for d in found["one_token"][-1]["differences"]]
    width = len(budgets)
    rows = [[row[0], *(row[1:-1] + [""] * width)[:width], row[-1]] for row in rows]
    return markdown(["student", *budgets, "exact ahead from"], rows)


def span(one: dict) -> str:
    """A crossing with its interval."""
    if one["tokens"] is None:
        return "not in sight"
    if one["tokens"] == 0:
        return "before the first"
    ends = f"[{tokens(one['low'])}, {tokens(one['high'], missing='∞')}]"
    return f"{tokens(one['tokens'])} {ends}" + (" (extrapolated)" if one["extrapolated"] else "")


def rate(found: dict) -> str:
    """Losses of seed 0 by peak rate."""
    rates = sorted({lr for row in found["rate"] for lr in row["losses"]}, key=float)
    rows = []
    for row in found["rate"]:
        texts = {lr: f"{loss:.4f}" for lr, loss in row["losses"].items()}
        texts[row["best"]] = f"**{texts[row['best']]}**"
        rows.append(
            [full_name(row["teacher"]), row["size"], tokens(row["budget"]), *(texts.get(lr, "") for lr in rates)]
        )
    return markdown(["teacher", "student", "tokens", *rates], rows, left=2)


def weight(found: dict) -> str:
    """Lambda and temperature."""
    rows = [
        [
            name(row["teacher"]),
            tokens(row["budget"]),
            f"{row['lambda']:g}",
            f"{row['temperature']:g}",
            f"{row['loss']:.4f}",
            signed(row["over_plain"]),
            signed(row["over_none"]),
        ]
        for row in sorted(found["weight"], key=lambda r: (r["teacher"], r["budget"], -r["lambda"], r["temperature"]))
    ]
    head = ["teacher", "tokens", "lambda", "temperature", "loss", "over lambda 1, temperature 1", "over none"]
    return markdown(head, rows)


def catchup(found: dict) -> str:
    """When no teacher is as good as a weak one."""
    rows = [
        [
            row["size"],
            full_name(row["second"]),
            f"{row['teacher_loss']:.3f}",
            span(row),
            *(signed(row["differences"][i]) for i in (0, -1)),
            tokens(row["differences"][-1]["budget"]),
        ]
        for row in sorted(found["catchup"], key=lambda r: (r["size"], -r["teacher_loss"]))
    ]
    head = ["student", "teacher", "its loss", "supervised catches up", "gain at 40k or first", "at the last", "last"]
    return markdown(head, rows, left=2)


def fit(found: dict) -> str:
    """The forms of the distillation law."""
    rows = []
    for family, row in found["fit"]["forms"].items():
        held = row.get("held_out", {})
        rows.append([f"`{family}`", row["status"], *three(row.get("in_sample")), held.get("status", "-"), *three(held)])
    for key, words in (("unchanged", "no law: the loss at the budget before"), ("line", "no law: a line in ln D")):
        rows.append([words, "", "", "", "", "", *three(found["fit"]["plain"][key])])
    head = ["form", "status", "rms", "mean", "worst", "without the largest", "rms", "mean", "worst"]
    return markdown(head, rows, left=2)


def three(error: dict | None) -> list[str]:
    """Rms, mean and worst."""
    if not error or "rms" not in error:
        return ["-"] * 3
    return [f"{error['rms']:.4f}", f"{error['mean']:+.4f}", f"{error['worst']:.4f}"]


def large_batch(found: dict) -> str:
    """Students of few large steps."""
    rows = [[name(row["teacher"]), f"{row['loss']:.4f}", signed(row.get("over_exact"))] for row in found["large_batch"]]
    return markdown(["teacher", "student's loss", "over exact"], rows)


def other_world(found: dict) -> str:
    """Gains over the exact oracle's students in another world."""
    cells = by(found["other_world"], "size", "budget", "teacher")
    columns = sorted({(size, budget) for size, budget, _ in cells})
    losses = {row["teacher"]: row["teacher_loss"] for row in found["other_world"]}
    rows = [
        [full_name(teacher), "" if loss is None else f"{loss:.3f}"]
        + [signed(cells.get((*c, teacher), {}).get("over_exact")) for c in columns]
        for teacher, loss in sorted(losses.items(), key=lambda item: item[1] or 0)
        if teacher not in ("none", "oracle")
    ]
    return markdown(["teacher", "its loss", *(f"{s} {tokens(b)}" for s, b in columns)], rows)


TABLES = {
    f.__name__: f
    for f in (other_world, large_batch, losses, equal, rescaled, best, one_token, rate, weight, catchup, fit)
}
