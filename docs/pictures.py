"""The pictures of docs/concepts.md, drawn from published laws, the shipped runs and committed results.

    python docs/pictures.py            # writes docs/pictures/*.svg: the same bytes for the same numbers
    python docs/pictures.py --check    # exit code 1 if a committed picture would change

One function a picture, in the order of the page. Nothing is drawn by hand: a curve is a law of `distillaw laws`, a
point is a run. docs/pictures/distances.csv holds the distances of two trunks of the quickstart study.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy import stats

import distillaw as dl
from distillaw.accounting.family import FixedAspect
from distillaw.accounting.scenarios import Scenario
from distillaw.figures.files import figure_bytes
from distillaw.figures.style import INK, MUTED, SERIES, count_axis, in_style, new_figure, set_title
from distillaw.large_batch.rules import steps_over_fewest, tokens_over_fewest
from distillaw.runs.files import write_text
from distillaw.train.optim import schedule_for

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "src" / "distillaw" / "studies"
HERE = Path(__file__).parent / "pictures"
BLUE, ORANGE, GREEN, PINK = SERIES[:4]  # black (INK) is no teacher, as in every report
LAW = "distillaw2026-small"


@cache
def runs() -> tuple[dict, ...]:
    """The open runs of the grid and held out, in their order: one row is one of `open_heldout.npz`, too."""
    table = pq.read_table(STUDIES / "open_runs.parquet").to_pylist()
    return tuple(row | {"row": at} for at, row in enumerate(table) if row["purpose"] in ("grid", "holdout"))


def cells(label: str, *, teacher: str | None) -> list[dict]:
    """Runs of one student size (seed 0) from one teacher, `1M@5M`, by tokens."""
    found = [
        run
        for run in runs()
        if run["role"] == "student"
        and run["label"].split(" ")[0] == label
        and run["seed"] == 0
        and _teacher(run) == teacher
    ]
    return sorted(found, key=lambda run: run["tokens"])


def _teacher(run: dict) -> str | None:
    """Its teacher as the tables call it."""
    names = {2.842: "1M@5M", 3.235: "0.3M@1.2M", 3.156: "0.15M@2.4M"}
    return run["teacher_loss"] and names.get(round(run["teacher_loss"], 3), "another")


def one(width: float = 6.2, height: float = 3.0) -> tuple[Figure, Axes]:
    """A figure of a single panel."""
    figure, axes = new_figure(1, 1, width=width, height=height)
    return figure, axes[0][0]


def name(ax: Axes, x: float, y: float, text: str, color: str, *, at: tuple[int, int] = (4, 0)) -> None:
    """The name of a curve beside it, instead of a legend."""
    ha = "left" if at[0] >= 0 else "right"
    ax.annotate(text, (x, y), xytext=at, textcoords="offset points", va="center", ha=ha, color=color)


def _dots(ax: Axes, found: list[dict], color: str, x: str = "tokens") -> None:
    ax.plot([run[x] for run in found], [run["loss"] for run in found], "o", ms=4, color=color)


def loss_law() -> Figure:
    """Loss against tokens, one curve a size, with the runs behind it."""
    law, (figure, ax) = dl.published(LAW), one(height=3.6)
    tokens = np.geomspace(2e5, 4e6, 60)
    for label, color in zip(("0.08M", "0.15M", "0.3M", "0.6M"), SERIES, strict=False):
        found = cells(label, teacher=None)
        curve = law.supervised(params=found[0]["params"], tokens=tokens)
        ax.plot(tokens, curve, color=color)
        _dots(ax, found, color)
        name(ax, tokens[-1], curve[-1], label, color)
    count_axis(ax, [2e5, 4e5, 8e5, 1.6e6, 3.2e6])
    ax.set_xlabel("training tokens")
    ax.set_ylabel("held-out loss, nats/token")
    return figure


def isoflop() -> Figure:
    """Loss against size at three budgets: every budget has a best size."""
    law, (figure, ax) = dl.published("besiroglu2024"), one()
    family = FixedAspect()
    for compute, color, text in ((1e20, ORANGE, "10²⁰ FLOP"), (1e21, GREEN, "10²¹ FLOP"), (1e22, BLUE, "10²² FLOP")):
        params = np.geomspace(1e8, 2e10, 200)
        loss = law.supervised(params=params, tokens=compute / (3 * family.forward_flops(params)))
        best = int(np.argmin(loss))
        shown = loss < loss[best] + 0.45
        ax.plot(params[shown], loss[shown], color=color)
        ax.plot(params[best], loss[best], "o", ms=6, color=color)
        ax.annotate(
            text, (params[best], loss[best]), xytext=(0, -11), textcoords="offset points", ha="center", color=color
        )
    ax.set_ylim(bottom=2.02)
    count_axis(ax, [1e8, 3e8, 1e9, 3e9, 1e10])
    ax.set_xlabel("parameters (tokens are what the budget leaves)")
    ax.set_ylabel("loss, nats/token")
    return figure


def capacity_gap() -> Figure:
    """The 0.08M student against its teacher's loss, one curve a budget: a U that opens with tokens."""
    figure, ax = one(height=3.4)
    taught = [
        run for run in runs() if run["role"] == "student" and run["label"].startswith("0.08M") and run["seed"] == 0
    ]
    for budget, color in zip((205_000, 410_000, 820_000, 1_640_000), (ORANGE, GREEN, PINK, BLUE), strict=True):
        found = sorted(
            (run["teacher_loss"], run["loss"])
            for run in taught
            if run["teacher_loss"] and abs(run["tokens"] / budget - 1) < 0.02
        )
        x, y = np.array(found).T
        ax.plot(x, y, "o-", ms=4, color=color)
        best = int(np.argmin(y))
        ax.plot(x[best], y[best], "o", ms=9, mfc="none", mec=color)
        name(ax, x[0], y[0], f"{budget / 1e6:.3g}M tokens" if budget >= 1e6 else f"{budget // 1000}k tokens", color)
    ax.set_xlim(3.75, 2.62)
    ax.set_xlabel("teacher's loss, nats/token (stronger to the right)")
    ax.set_ylabel("student's loss, nats/token")
    return figure


def regimes() -> Figure:
    """What a 0.3M student on 820k tokens makes of teachers of any loss, under the law, and the two limits."""
    law, (figure, ax) = dl.published(LAW), one(height=3.4)
    student = next(run for run in cells("0.3M", teacher=None) if abs(run["tokens"] / 820_000 - 1) < 0.02)
    alone = float(law.supervised(params=student["params"], tokens=student["tokens"]))
    teachers = np.linspace(2.3, 3.9, 200)
    loss = law.distillation(student_params=student["params"], student_tokens=student["tokens"], teacher_loss=teachers)
    best = int(np.argmin(loss))
    ax.plot(teachers, loss, color=BLUE)
    ax.plot(teachers, teachers, color=MUTED, ls="--", lw=1)
    ax.axhline(alone, color=INK, ls=":", lw=1.2)
    ax.plot(teachers[best], loss[best], "o", ms=6, color=BLUE)
    ax.set_ylim(2.75, 3.95)
    ax.set_xlim(3.95, 2.25)
    ax.text(2.9, alone + 0.02, "without a teacher", color=INK, ha="center")
    ax.text(3.08, 2.9, "the teacher's own loss", color=MUTED, ha="right")
    ax.text(3.9, 3.42, "copies the teacher:\nno better than it", ha="left", color=BLUE)
    ax.text(teachers[best], loss[best] - 0.1, f"best: {teachers[best]:.2f}", ha="center", color=BLUE)
    ax.text(2.42, 3.02, "cannot follow it", ha="center", color=BLUE)
    ax.set_xlabel("teacher's loss, nats/token (stronger to the right)")
    ax.set_ylabel("student's loss, nats/token")
    return figure


def crossover() -> Figure:
    """A 0.3M student with and without one given teacher: where training alone catches up."""
    law, (figure, ax) = dl.published(LAW), one()
    alone, taught = cells("0.3M", teacher=None), cells("0.3M", teacher="0.3M@1.2M")
    tokens, params = np.geomspace(2e5, 3.3e6, 100), alone[0]["params"]
    teacher = taught[0]["teacher_loss"]
    without = law.supervised(params=params, tokens=tokens)
    with_it = law.distillation(student_params=params, student_tokens=tokens, teacher_loss=teacher)
    for curve, found, color, text in ((without, alone, INK, "no teacher"), (with_it, taught, BLUE, "from the teacher")):
        ax.plot(tokens, curve, color=color)
        _dots(ax, found, color)
        name(ax, tokens[-1], curve[-1], text, color)
    ax.axhline(teacher, color=MUTED, lw=1, ls="--")
    ax.text(tokens[0], teacher - 0.02, f"the teacher's own loss, {teacher:.2f}", color=MUTED, va="top")
    cross = tokens[int(np.argmax(without < with_it))]
    ax.axvline(cross, color=MUTED, lw=1, ls=":")
    ax.text(cross * 1.02, 3.85, f"crossover, about {cross / 1e6:.1f}M tokens", color=MUTED)
    count_axis(ax, [2e5, 4e5, 8e5, 1.6e6, 3.2e6])
    ax.set_xlabel("student's tokens")
    ax.set_ylabel("held-out loss, nats/token")
    return figure


def scenarios() -> Figure:
    """What one distillation costs, by part, under the four scenarios."""
    figure, ax = one(height=2.5)
    family = FixedAspect()
    small, large = (float(family.forward_flops(n)) for n in (198e6, 1.82e9))
    parts = {"student": 3 * small * 4e9, "teacher's logits": large * 4e9, "teacher's training": 3 * large * 36e9}
    words = {
        Scenario.BEST_CASE: "best-case",
        Scenario.INFERENCE: "inference",
        Scenario.PRETRAINING: "pretraining",
        Scenario.PRETRAINING_INFERENCE: "both",
    }
    for row, (scenario, word) in enumerate(words.items()):
        paid = (1.0, scenario.value.delta_lgt, scenario.value.delta_pre)
        flops = [flop * share for flop, share in zip(parts.values(), paid, strict=True)]
        left = 0.0
        for flop, color in zip(flops, (BLUE, ORANGE, GREEN), strict=True):
            ax.barh(row, flop / sum(flops), left=left, color=color, height=0.6)
            left += flop / sum(flops)
        ax.text(1.02, row, f"{sum(flops):.1e} FLOP".replace("e+", "e"), va="center", color=INK)
        ax.text(-0.02, row, word, va="center", ha="right", color=INK)
    for at, (text, color) in enumerate(zip(parts, (BLUE, ORANGE, GREEN), strict=True)):
        ax.text(0.36 * at, -0.75, text, color=color)
    ax.set_xlim(0, 1.3)
    ax.set_ylim(3.5, -1.2)
    ax.set_yticks([])
    ax.set_xticks([0, 0.5, 1])
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.grid(False)
    ax.set_xlabel("share of what is paid: 198M student, 4B tokens; teacher 1.82B, 36B tokens", loc="left")
    return figure


def uncertainty() -> Figure:
    """A gain, its interval, the margin and the probability, of one real verdict."""
    verdict = dl.plan("1B", compute=1e21, teachers=["llama-3.1-8b"]).to_json()
    gain, margin = verdict["gain"], verdict["margin"]
    (figure, ax), z = one(height=2.7), stats.norm.ppf(0.95)
    scale = {side: abs(gain[side] - gain["mean"]) / z for side in ("lower", "upper")}
    x = np.linspace(-0.17, 0.09, 400)
    density = np.exp(-0.5 * ((x - gain["mean"]) / np.where(x < gain["mean"], scale["lower"], scale["upper"])) ** 2)
    ax.plot(x, density, color=BLUE)
    ax.fill_between(x, density, where=x < -margin, color=BLUE, alpha=0.2)
    ax.fill_between(x, density, where=x > margin, color=ORANGE, alpha=0.4)
    ax.axvspan(-margin, margin, color=MUTED, alpha=0.2, lw=0)
    ax.plot([gain["lower"], gain["upper"]], [-0.06, -0.06], color=INK, lw=2.5)
    ax.text(gain["mean"], -0.16, f"90 % interval {gain['lower']:+.3f} to {gain['upper']:+.3f}", ha="center")
    ax.text(
        -0.115,
        0.72,
        f"pretraining better by more\nthan the margin: {verdict['probability']:.0%}",
        ha="center",
        color=BLUE,
    )
    ax.text(0.02, 0.72, "distilling better\nby more than it", color=ORANGE)
    ax.text(0, 1.06, f"margin ± {margin:.3f}", ha="center", color=MUTED)
    ax.set_ylim(-0.24, 1.14)
    ax.set_yticks([])
    ax.grid(False)
    ax.set_xlabel("gain of distilling, nats/token")
    return figure


def paired() -> Figure:
    """Losses of two runs by held-out document: apart they scatter widely, their differences do not."""
    figure, ax = one(width=4.4, height=3.6)
    store = np.load(STUDIES / "open_heldout.npz")
    without, with_it = cells("0.3M", teacher=None)[2], cells("0.3M", teacher="1M@5M")[2]
    a, b = (store["sums"][run["row"]] / store["tokens"] for run in (without, with_it))
    ax.plot([2.2, 4.4], [2.2, 4.4], color=MUTED, lw=1, ls="--")
    ax.plot(a, b, "o", ms=3, color=BLUE, alpha=0.7)
    root = np.sqrt(len(a))
    apart = np.hypot(a.std(ddof=1), b.std(ddof=1)) / root
    ax.set_xlim(a.min() - 0.1, a.max() + 0.1)
    ax.set_ylim(b.min() - 0.1, a.max() + 0.1)
    ax.text(0.04, 0.95, f"gain {np.mean(a - b):.3f} nats/token", transform=ax.transAxes, va="top")
    ax.text(
        0.04,
        0.87,
        f"standard error in pairs {(a - b).std(ddof=1) / root:.3f}\nas if unrelated {apart:.3f}",
        transform=ax.transAxes,
        va="top",
        color=MUTED,
    )
    ax.text(a.max() + 0.05, a.max() - 0.06, "equal", color=MUTED, ha="right", va="top")
    ax.set_xlabel("loss of a document without a teacher")
    ax.set_ylabel("with the teacher")
    return figure


def trunk() -> Figure:
    """The rate of one trunk and of its cooled branches."""
    figure, ax = one(height=2.6)
    whole = schedule_for(tokens=1_640_000, batch_tokens=4_000, warmup_tokens=80_000, cooldown=0.2)
    steps = np.arange(whole.branch_step)
    ax.plot(steps * 4_000, [whole.factor(step) for step in steps], color=INK)
    for budget, color in zip((410_000, 820_000, 1_640_000), (ORANGE, GREEN, BLUE), strict=True):
        branch = schedule_for(tokens=budget, batch_tokens=4_000, warmup_tokens=80_000, cooldown=0.2)
        at = np.arange(branch.branch_step, branch.total_steps)
        ax.plot(at * 4_000, [branch.factor(step) for step in at], color=color)
        name(ax, at[-1] * 4_000, 0.03, f"run of {budget / 1e6:.2g}M", color, at=(4, 6))
    ax.text(120_000, 1.05, "one trunk at a constant rate", color=INK)
    ax.set_xlim(0, 2.05e6)
    ax.set_xticks([0, 410_000, 820_000, 1_640_000], ["0", "410k", "820k", "1.64M"])
    ax.set_ylim(0, 1.16)
    ax.set_xlabel("tokens")
    ax.set_ylabel("learning rate over its peak")
    return figure


def critical_batch() -> Figure:
    """Tokens and steps against the batch, and what branches of one checkpoint lose."""
    figure, axes = new_figure(1, 2, width=7.6, height=2.9)
    left, right = axes[0]
    batch = np.geomspace(0.05, 20, 100)
    left.plot(batch, tokens_over_fewest(batch, 1.0), color=BLUE)
    left.plot(batch, steps_over_fewest(batch, 1.0), color=ORANGE)
    left.set_xscale("log")
    left.set_ylim(0, 8)
    left.set_xticks([0.1, 1, 10], ["a tenth", "B_crit", "ten times"])
    left.text(3.2, 5.6, "tokens", color=BLUE)
    left.text(0.2, 6.6, "steps", color=ORANGE)
    left.set_xlabel("batch")
    left.set_ylabel("times the fewest there can be")
    set_title(left, "The trade")
    test = json.loads((ROOT / "benchmarks" / "results" / "branch.json").read_text())["tests"][3]
    for arm, color, text in zip(("distilled", "supervised"), (BLUE, INK), ("distilled", "no teacher"), strict=True):
        rows = next(a for a in test["forks"][0]["arms"] if a["trunk"] == arm and a["loss"] == arm)["rows"]
        sizes, lost = ([row[key] for row in rows] for key in ("batch_tokens", "excess"))
        error = np.abs(np.array([row["excess_interval"] for row in rows]).T - np.array(lost))
        right.errorbar(sizes, lost, error, color=color, marker="o", ms=4, capsize=2)
        name(right, sizes[-1], lost[-1], text, color, at=(-6, 6))
    right.axhline(0.01, color=MUTED, lw=1, ls="--")
    right.text(250, 0.055, "dashed: 0.01 nats,\nwhere B* is read", color=MUTED)
    count_axis(right, [256, 512, 1024, 2048, 4096])
    right.set_xticks([256, 512, 1024, 2048, 4096], ["256", "512", "1,024", "2,048", "4,096"])
    right.set_xlabel("batch, tokens")
    right.set_ylabel("lost, nats/token (90 % bars)")
    set_title(right, "Measured by branching")
    return figure


def ghosts() -> Figure:
    """Means of one channel: of the whole batch, and of its ghosts."""
    figure, ax = one(height=2.5)
    values = np.random.default_rng(5).normal(0.0, 1.0, 128)
    ax.plot(values, ".", ms=3.5, color=MUTED)
    for first in range(0, 128, 16):
        part, span = values[first : first + 16], [first, first + 16]
        ax.plot(span, [part.mean()] * 2, color=BLUE, lw=2.5)
        ax.fill_between(span, part.mean() - part.std(), part.mean() + part.std(), color=BLUE, alpha=0.15, lw=0)
        ax.axvline(span[1], color=MUTED, lw=0.6)
    ax.plot([0, 128], [values.mean()] * 2, color=ORANGE, lw=1.5)
    ax.text(130, values.mean(), "mean of the batch", color=ORANGE, va="center")
    ax.text(130, 1.3, "mean ± deviation\nof each ghost", color=BLUE, va="center")
    ax.set_xlim(0, 168)
    ax.set_xticks(range(0, 129, 16))
    ax.set_xlabel("sample of a batch of 128, cut into ghosts of 16")
    ax.set_ylabel("activation of a channel")
    return figure


def distance() -> Figure:
    """How far two runs of the quickstart study wander from their first weights."""
    figure, ax = one(height=2.8)
    steps, alone, taught = np.loadtxt(HERE / "distances.csv", delimiter=",", skiprows=1).T
    for curve, color, text, up in ((alone, INK, "no teacher", 5), (taught, BLUE, "from the 0.6M teacher", -5)):
        ax.plot(steps, curve, "o-", ms=3, color=color)
        name(ax, steps[-1], curve[-1], text, color, at=(6, up))
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(0.9, 6000)
    ax.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
    ax.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    ax.set_xlabel("step")
    ax.set_ylabel("distance from the first weights")
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "loss-law": loss_law,
    "isoflop": isoflop,
    "capacity-gap": capacity_gap,
    "regimes": regimes,
    "crossover": crossover,
    "scenarios": scenarios,
    "uncertainty": uncertainty,
    "paired": paired,
    "trunk": trunk,
    "critical-batch": critical_batch,
    "ghosts": ghosts,
    "distance": distance,
}


def svg_of(title: str) -> str:
    """One picture as a file of its own, on white paper."""
    return figure_bytes(in_style(PICTURES[title])(), "svg", name=title).decode("utf-8")


def main() -> int:
    """Write the pictures, or compare them with what is committed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check, changed = parser.parse_args().check, []
    for title in PICTURES:
        path, text = HERE / f"{title}.svg", svg_of(title)
        if check and (not path.exists() or path.read_text() != text):
            changed.append(path.name)
        if not check:
            write_text(path, text, known=True)
    if changed:
        print(f"not as committed: {', '.join(changed)}; run python docs/pictures.py")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
