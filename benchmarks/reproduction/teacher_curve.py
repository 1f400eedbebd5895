"""docs/teacher-curve.png: the loss of a 1B student against the size and the loss of its teacher.

python -m benchmarks.reproduction.teacher_curve           # about 3 s
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks import ROOT
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.published import published
from distillaw.planning.teacher_curve import teacher_curve, teacher_loss_curve

STUDENT = 1e9
TOKENS_PER_PARAM = (20, 80, 320)
COLOURS = ("#d1495b", "#edae49", "#00798c")
SURROGATES = ("surrogate-s1", "surrogate-s2", "surrogate-s3")


def ensemble(*names: str) -> LawEnsemble:
    return LawEnsemble.of([(published(n).supervised, published(n).distillation) for n in names])


def draw(axis, x, curve, printed, alone, best, colour, label) -> None:
    """Mean of the surrogates with their span and flat range, the printed set dashed, no teacher dotted."""
    axis.fill_between(x, curve.min(0), curve.max(0), color=colour, alpha=0.15, lw=0)
    axis.plot(x, curve.mean(0), color=colour, lw=1.4, label=label)
    axis.plot(x, printed, color=colour, lw=1.0, ls="--")
    axis.axhline(alone, color=colour, lw=0.9, ls=":")
    flat = (x >= best.flat.lower) & (x <= best.flat.upper)
    axis.plot(x[flat], curve.mean(0)[flat], color=colour, lw=6, alpha=0.35, solid_capstyle="butt")
    axis.plot(best.at, best.student_loss, "o", color=colour, ms=5, mec="white", mew=0.8)


def main() -> None:
    together, verbatim = ensemble(*SURROGATES), ensemble("busbridge2025")
    figure, (by_size, by_loss) = plt.subplots(1, 2, figsize=(10.4, 4.3), sharey=True, constrained_layout=True)
    for ratio, colour in zip(TOKENS_PER_PARAM, COLOURS, strict=True):
        at = {"student_params": STUDENT, "student_tokens": ratio * STUDENT}
        sizes = np.geomspace(0.6e9, 1e12, 400)
        sized = [teacher_curve(e, **at, teacher_tokens_per_param=20, sizes=sizes) for e in (together, verbatim)]
        alone, label = float(sized[0].supervised_loss.mean()), f"{ratio} tokens per parameter"
        draw(by_size, sizes, sized[0].student_loss, sized[1].mean, alone, sized[0].best, colour, label)
        losses = np.linspace(1.45, 2.75, 400)
        lossy = [teacher_loss_curve(e, **at, losses=losses) for e in (together, verbatim)]
        draw(by_loss, losses, lossy[0].student_loss, lossy[1].mean, alone, lossy[0].best, colour, label)
    decorate(by_size, by_loss)
    path = ROOT / "docs" / "teacher-curve.png"
    figure.savefig(path, dpi=130)
    print(path)


def decorate(by_size, by_loss) -> None:
    by_size.set(
        xscale="log",
        xlabel="teacher size, 20 tokens per parameter",
        ylabel="student loss, nats/token",
        xlim=(0.6e9, 1e12),
        ylim=(2.12, 2.66),
    )
    by_size.set_xticks([1e9, 2.5e9, 1e10, 1e11, 1e12], ["1B", "2.5B", "10B", "100B", "1T"])
    by_size.axvline(2.5e9, color="0.6", lw=0.8)
    by_size.text(2.6e9, 2.635, "2.5 x student", fontsize=8, color="0.35")
    by_loss.set(xlabel="teacher loss, nats/token (better to the right)", xlim=(2.75, 1.45))
    copy = np.array([2.12, 2.66])
    by_loss.plot(copy, copy, color="0.6", lw=0.8)
    by_loss.text(2.22, 2.15, "student = teacher", fontsize=8, color="0.35", ha="right")
    handles, labels = by_size.get_legend_handles_labels()
    style = [
        plt.Line2D([], [], color="0.3", lw=w, ls=s, alpha=a)
        for w, s, a in ((1.4, "-", 1), (6, "-", 0.35), (1, "--", 1), (0.9, ":", 1))
    ]
    words = ["S1-S3: mean and span (not published)", "within 0.5 % of the best", "Table 6 as printed", "no teacher"]
    by_loss.legend(handles + style, labels + words, fontsize=7.5, frameon=False, loc="upper right")
    for axis in (by_size, by_loss):
        axis.spines[["top", "right"]].set_visible(False)
    by_size.set_title("1B student: the bottom is flat in size ...", fontsize=10, loc="left")
    by_loss.set_title("... and it is a matter of loss", fontsize=10, loc="left")


if __name__ == "__main__":
    main()
