"""What a study reproduces of the paper and what it does not, in sentences made from its numbers.

A stage is reproduced when ours is significant, has the paper's sign and its interval holds the paper's size; with the
sign alone, that is what is said. It is contradicted when it is significant with the other sign, and else not resolved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from distillaw.large_batch.images.results import ColumnScore, Gain, ImageRecord, ImageWalk, Mean, slope_ratio
from distillaw.large_batch.images.spec import PaperRow

Outcome = Literal["reproduces", "same sign, other size", "contradicts", "not resolved", "not in the paper"]


def outcome(gain: Gain) -> Outcome:
    """How a comparison stands to the paper's."""
    if gain.paper is None:
        return "not in the paper"
    if not gain.is_significant:
        return "not resolved"
    if (gain.mean > 0) != (gain.paper > 0):
        return "contradicts"
    assert gain.interval is not None, "what is significant has an interval"
    return "reproduces" if gain.interval[0] <= gain.paper <= gain.interval[1] else "same sign, other size"


def points(value: float, interval: tuple[float, float] | None) -> str:
    """A difference in points with its interval."""
    if interval is None:
        return f"{value:+.2f} points (one seed, no interval)"
    return f"{value:+.2f} points ({interval[0]:+.2f} to {interval[1]:+.2f})"


def gain_sentence(gain: Gain) -> str:
    """One comparison in words."""
    real = "significant" if gain.is_significant else "not significant"
    if not gain.is_significant and gain.interval is not None and not gain.interval[0] <= 0 <= gain.interval[1]:
        real += " once all comparisons are counted"
    said = f"{gain_name(gain)}: {points(gain.mean, gain.interval)}, {real}"
    if gain.paper is None:
        return f"{said}; the paper does not have it."
    ends = {
        "reproduces": "this reproduces, sign and size.",
        "same sign, other size": "the sign reproduces, the size does not.",
        "contradicts": "this does not reproduce: the sign is the other.",
        "not resolved": "neither confirmed nor contradicted.",
    }
    return f"{said}; the paper {gain.paper:+.2f}: {ends[outcome(gain)]}"


def gain_name(gain: Gain) -> str:
    """As a reader calls it."""
    return _NAMES.get((gain.before, gain.after), f"{gain.after} over {gain.before}")


_NAMES = {
    ("SB", "LB"): "Large batch against small (LB − SB)",
    ("LB", "+LR"): "Scaled rate (+LR − LB)",
    ("+LR", "+GBN"): "Ghost batch norm (+GBN − +LR)",
    ("+GBN", "+RA"): "Regime adaptation (+RA − +GBN)",
    ("SB", "+RA"): "Everything against the small batch (+RA − SB)",
    ("LB", "RA alone"): "As many updates by themselves (RA alone − LB)",
    ("SB", "RA alone"): "As many updates by themselves against the small batch (RA alone − SB)",
    ("RA alone", "+RA"): "What rate and ghosts add to the updates (+RA − RA alone)",
    ("LB", "noise"): "Multiplicative noise (noise − LB)",
    ("+LR", "noise"): "Multiplicative noise against the scaled rate (noise − +LR)",
}


def headline(scores: Sequence[ColumnScore], gains: Sequence[Gain]) -> str:
    """The study in one sentence."""
    by_pair = {(gain.before, gain.after): gain for gain in gains}
    gap, end = by_pair.get(("SB", "LB")), by_pair.get(("SB", "+RA"))
    if gap is None:
        done = ", ".join(score.column for score in scores) or "nothing"
        return f"No gap to speak of yet: {done} finished."
    if not gap.is_significant:
        return f"The large batch is not clearly worse here: {points(gap.mean, gap.interval)}."
    if gap.mean > 0:
        return f"Here the large batch is better: {points(gap.mean, gap.interval)}."
    said = f"The large batch loses {-gap.mean:.2f} points"
    if end is None:
        return f"{said}; +RA has not finished."
    if not end.is_significant:
        return f"{said}; with all three corrections it cannot be told from the small batch."
    return f"{said}; with all three corrections it ends {abs(end.mean):.2f} points " + (
        "above the small batch." if end.mean > 0 else "below the small batch, still."
    )


def verdict_sentences(gains: Sequence[Gain]) -> list[str]:
    """What reproduces, what does not, what stays open; one sentence each, empty kinds left out."""
    kinds: dict[Outcome, list[str]] = {}
    for gain in gains:
        kinds.setdefault(outcome(gain), []).append(gain_name(gain))
    words: dict[Outcome, str] = {
        "reproduces": "Reproduces, sign and size (the paper's number lies in our interval):",
        "same sign, other size": "Reproduces in sign, significant, but not in size:",
        "contradicts": "Does not reproduce, significant with the other sign:",
        "not resolved": "Not resolved, too little for a claim once all comparisons are counted:",
    }
    return [f"{lead} {'; '.join(kinds[kind])}." for kind, lead in words.items() if kind in kinds]


def alpha_sentence(found: Mapping[str, Any]) -> str:
    """What the test of alpha says."""
    low, high = found["interval"]
    end = "2, the paper's, is inside." if low <= 2 <= high else "2, the paper's, is outside."
    of = f"{found['steps']:,} steps, {found['data']['images']:,} images"
    return (
        f"Loss differences at random distances up to {found['farthest']:g} from fresh weights ({of}) scatter as "
        f"distance^(alpha/2) with alpha {found['alpha']:.2f} "
        f"({low:.2f} to {high:.2f}): {end}"
    )


def walk_sentences(walks: Sequence[ImageWalk]) -> list[str]:
    """What the diffusion figure shows."""
    if not walks:
        return []
    own = {walk.column: walk for walk in walks}.values()  # the reference batch stands on both sides
    fits, wins = sum(len(walk.fits) for walk in own), sum(walk.log_wins for walk in own)
    said = [
        f"a + b ln t has the smaller sum of squares in {wins} of {fits} curves, c t^p in {fits - wins}. A straight "
        "line on this axis is no proof of a random landscape: separable logistic regression walks as log t, too."
    ]
    before, after = (slope_ratio(walks, corrected=corrected) for corrected in (False, True))
    sizes = sorted({walk.batch for walk in walks})
    for ratio, when in ((before, "before"), (after, "after LR + GBN")):
        if ratio is not None:
            ends = ratio.interval
            between = "one seed" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"
            lead = f"Slope b at batch {sizes[-1]} over that at {sizes[0]}, {when}"
            said.append(f"{lead}: {ratio.value:.2f} ({between}).")
    if before is not None and after is not None:
        said.append(_nearer(before, after))
    return said


def _nearer(before: Mean, after: Mean) -> str:
    """Whether the correction brings the slopes together, as the paper's figure shows."""
    if before.interval is None or after.interval is None:
        return "With one seed nothing can be said of whether the correction brings the slopes together."
    if before.interval[1] >= 1:
        return "The paper's fall of the slope with the batch does not show here before the correction."
    if after.interval[0] <= before.interval[1]:
        return "The slope falls with the batch, as in the paper; that the correction undoes it cannot be told here."
    end = f"they do not coincide: {'above' if after.value > 1 else 'below'} 1 still."
    if after.interval[0] <= 1 <= after.interval[1]:
        end = "after it the slopes cannot be told apart."
    return f"The slope falls with the batch and the correction raises it again, as in the paper; {end}"


def differences(record: ImageRecord, row: PaperRow) -> list[str]:
    """Which settings are not those of the paper's code; empty where they all are or are not known."""
    study, theirs = record.study, row.settings
    if not theirs:
        return [f"The settings of the paper's {row.network} are not known."]
    ours: dict[str, Any] = {
        **asdict(study.optimizer),
        "kind": study.network.kind,
        "width": study.network.width or theirs["width"],
        "images": record.info["data"]["train_images"],
        "small": study.batches.small,
        "large": study.batches.large,
        "ghost": study.ghost,
        "epochs": study.schedule.epochs,
        "pad": study.data.pad,
        "flip": study.data.flip,
    }
    return [
        f"{_WORDS[key]} {_say(ours[key])} (paper {_say(value)})" for key, value in theirs.items() if ours[key] != value
    ]


_WORDS: Mapping[str, str] = {
    "kind": "network",
    "width": "width",
    "images": "training images",
    "small": "small batch",
    "large": "large batch",
    "ghost": "ghost",
    "peak_lr": "rate",
    "momentum": "momentum",
    "weight_decay": "weight decay",
    "epochs": "epochs",
    "pad": "padding for random crops",
    "flip": "mirrored images",
    "wipe_momentum": "momentum forgotten at every epoch",
}


def _say(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
