"""Would a study be cheaper if its teachers left their targets on disk? A bound, before anything is spent.

Only targets of the same bits count: full logits in float32 (docs/targets.md), 4 bytes per token of vocabulary.
Students of one stream and teacher share each forward pass already (sweep/scheduler.py); what a store could still save
is the reading of the same text for other seeds, batches and cooldowns. The bound takes it that they read the same
windows, that reading a store costs nothing and that every pass shared in the plan is shared in fact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distillaw.quantities import format_bytes
from distillaw.runs.spec import shared_stream
from distillaw.sweep.cost import job_flops
from distillaw.sweep.jobs import Job

WORTH_A_STORE = 0.1
"""Share of a study's FLOP from which a store is worth its disk; our studies lie at 3 to 6 % (docs/studies.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTargets:
    """What full targets of the teachers that are asked more than once would save and take, at most and at least."""

    flops: float
    """FLOP of the whole study."""
    teacher_flops: float
    """Of them the teachers' forward passes."""
    saved_flops: float
    """Of these what stores could save, at most."""
    bytes: float
    """Of the stores, at least."""
    passes: float
    """Forward passes over each token of text, averaged over the teachers that would be stored."""

    @property
    def share(self) -> float:
        """Saved, as a share of the study."""
        return self.saved_flops / self.flops

    @property
    def words(self) -> str:
        """One line for people."""
        spent = f"teachers' forward passes: {self.teacher_flops / self.flops:.0%} of the FLOP"
        if not self.saved_flops:
            return f"{spent}, no text read twice by one"
        verdict = "worth a look" if self.share >= WORTH_A_STORE else f"not done below {WORTH_A_STORE:.0%}"
        return (
            f"{spent}; stored full targets could save at most {self.share:.1%} for {format_bytes(self.bytes)} "
            f"({self.passes:.1f} passes over the same text, break-even above 1): {verdict}"
        )


def stored_targets(jobs: Sequence[Job], forward: Mapping[str, float], vocab_size: int) -> StoredTargets:
    """The bound for some jobs.

    Args:
        jobs: trunks and their budgets.
        forward: teacher, as runs name it -> FLOP of one forward pass, per token.
        vocab_size: entries of the vocabulary.
    """
    streams: dict[str, dict[object, float]] = {}
    distinct: dict[str, float] = {}
    for job in jobs:
        if job.trunk.teacher_run is None:
            continue
        teacher, key = job.trunk.teacher_run, shared_stream(job.trunk)
        read = streams.setdefault(teacher, {})
        read[key] = max(read.get(key, 0.0), job.tokens)
        distinct[teacher] = max(distinct.get(teacher, 0.0), max(job.budgets))
    asked = {teacher: sum(read.values()) for teacher, read in streams.items()}
    repeated = [teacher for teacher in asked if asked[teacher] > distinct[teacher]]
    teacher_flops = sum(forward[teacher] * asked[teacher] for teacher in asked)
    covered = sum(distinct[teacher] for teacher in repeated)
    return StoredTargets(
        flops=sum(job_flops(job, 0.0) for job in jobs) + teacher_flops, teacher_flops=teacher_flops,
        saved_flops=sum(forward[teacher] * (asked[teacher] - distinct[teacher]) for teacher in repeated),
        bytes=covered * 4 * (vocab_size + 1),
        passes=sum(asked[teacher] for teacher in repeated) / covered if repeated else 1.0,
    )  # fmt: skip
