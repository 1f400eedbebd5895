"""What one run is, completely, and what one branch of a checkpoint is: frozen records whose hashes name their folders.

A *trunk* is a training run at constant rate; a *run* is a trunk plus a token budget, reached by cooling down a
branch of it. Runs of one trunk share its `trunk_id` (the `group` of the run table) and are correlated.
Whatever changes a single number of the result is in the hash; where an external teacher lies is not.

A branch of `distillaw branch` goes on from a trunk's weights, optimiser state and place in the text, at a batch and a
rate of its own, for one window of tokens:

    branches/<trunk_id>-at<step>/            state/ fork.json heldout.parquet: the checkpoint and its own loss
    branches/<trunk_id>-at<step>/<name>/     branch.json metrics.jsonl steps.jsonl heldout.parquet result.json

Divergences are known here by name, with what each needs of a teacher, so that study files are checked without torch.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from distillaw.runs.files import content_hash
from distillaw.shapes import Shape

DIVERGENCES = ("forward-kl", "reverse-kl", "jsd", "skew-kl", "skew-reverse-kl")


def is_reverse_kl(divergence: str, *, beta: float, skew: float) -> bool:
    """Whether a divergence is the reverse KL, by its own name or as the end of another's range.

    It is infinite where the student has mass and a truncated teacher none; all others are defined there.
    """
    ends = {"reverse-kl": True, "jsd": beta == 1, "skew-reverse-kl": skew == 0}
    return ends.get(divergence, False)


CONTROL = "control:"
"""Begins the purpose of runs that differ from a study's grid in settings, text, start or rate."""


ARMS = ("fresh", "pruned", "fixed")
"""Where a student's first weights are from: drawn by its seed; cut out of the very teacher under test; cut out of one
reference, the same for all teachers."""


def arm_of(row: Mapping[str, object]) -> str:
    """The arm of a row of a run table; of older rows, whose `arm` says something else or nothing, what `init` says.

    Any other start (`pretrained`, or a word of other people's) is an arm of its own, under that word.
    """
    if (arm := row.get("arm")) in ARMS:
        return str(arm)
    init = row.get("init")
    return "fresh" if init in ("fresh", "random", "", None) or init != init else str(init)


def arm_order(arm: str) -> tuple[int, str]:
    """Key to sort arms by: those of `ARMS`, then others."""
    return (ARMS.index(arm) if arm in ARMS else len(ARMS)), arm


def leading_arm(arms: Iterable[str]) -> str:
    """The arm that comparisons and laws are of where none is named.

    Fresh, else fixed: there first weights are the same for all teachers, and a gain is the teacher's alone.
    """
    return min(arms, key=lambda arm: (arm not in ("fresh", "fixed"), arm_order(arm)))


def serves_laws(purpose: str) -> bool:
    """Whether a law is fitted on runs of this purpose: not on those of a search, nor on controls."""
    return purpose != "tuning" and not purpose.startswith(CONTROL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Training settings shared by all runs of a study."""

    context: int = 128
    head_dim: int = 16
    aspect: float = 16.0
    warmup_tokens: int = 10_000
    cooldown: float = 0.2
    """Share of each token budget spent decaying the rate to 1 % of its peak."""
    decay: str = "linear"
    """Shape of the cooldown: `linear`, `sqrt` (1 - sqrt) or `cosine`; with `cooldown = 1` the cosine schedule."""
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    z_weight: float = 1e-4
    distill_weight: float = 1.0
    """lambda: 1 trains on the teacher alone, 0 on the data alone."""
    distill_until: tuple[int, ...] = ()
    """Tokens up to which lambda is whole and at which it has fallen, linearly, to nothing, so that the run ends on the
    data alone (distil, then supervise). One number: it falls at once; none: never."""
    temperature: float = 1.0
    top_k: int = 0
    """Keep only the teacher's k likeliest tokens, renormalised; 0 keeps all."""
    top_p: float = 1.0
    """Keep only the fewest of the teacher's likeliest tokens whose mass is at least this, renormalised."""
    divergence: str = "forward-kl"
    """Teacher to student: `forward-kl`, `reverse-kl`, `jsd` (`beta`), `skew-kl`, `skew-reverse-kl` (`skew`)."""
    beta: float = 0.5
    skew: float = 0.1
    micro_batch_tokens: int = 0
    """Accumulate gradients over micro-batches of this many tokens per process; 0 takes the batch at once."""
    precision: str = "fp32"
    """`fp32`, or `bf16` for products in bfloat16 with weights, moments and losses in float32."""
    checkpoint_activations: bool = False
    """Compute activations a second time in the backward pass instead of keeping them."""
    spike_factor: float = 0.0
    """Skip a step whose gradient norm exceeds this many times its running mean; 0 skips only what is not finite."""
    patience: int = 0
    """Skipped steps in a row that a run survives; 0 gives up at the first."""
    skip_spikes: float = 0.0
    """Skip a step whose loss or gradient norm lies so many standard deviations above the mean of the last 128 steps, as
    often as it takes (OLMo-core has 6); 0 takes all."""
    reference_batch_tokens: int = 0
    """The batch that `peak_lr`, `weight_decay` and AdamW's betas were tuned at; 0: the run's own."""
    rate_rule: str = "sqrt"
    """From there to the run's batch: `sqrt`, `linear` or `constant` (large_batch/rules.py)."""
    beta_rule: str = "keep"
    """`keep`, `half-life` (of the second moment, in tokens) or `sde` (both betas and epsilon)."""
    decay_rule: str = "keep"
    """`keep`, or `timescale`: AdamW averages over the same share of the run."""
    clip_steps: int = 0
    """Clip gradients in so many first steps only; 0 in all."""
    batch_doublings: tuple[int, ...] = ()
    """Tokens, ascending, at which the batch doubles (batch-size warm-up, arXiv 2505.23971); named twice: quadruples.
    The rules above go from batch to batch: `peak_lr` is of `reference_batch_tokens`, or of the first batch."""
    document_mask: bool = False
    """Tokens see nothing of the documents before theirs in a window (Llama 3, arXiv 2407.21783, section 3.2), and
    positions begin anew with each; for student and teacher."""
    async_checkpoints: bool = False
    """Checkpoints are written by a thread, from a copy in memory, while training goes on."""
    keep_checkpoints: int = 1
    """So many of a run's latest checkpoints stay."""

    def share_of_teacher(self, tokens: float) -> float:
        """Share of `distill_weight` that is left after so many tokens."""
        if not self.distill_until or tokens < self.distill_until[0]:
            return 1.0
        whole, none = self.distill_until[0], self.distill_until[-1]
        return max(0.0, (none - tokens) / (none - whole)) if whole < none else 0.0

    def mean_share(self, tokens: int) -> float:
        """The mean of `share_of_teacher` over a run of so many tokens."""
        if not self.distill_until:
            return 1.0
        whole, none = (min(place, tokens) for place in (self.distill_until[0], self.distill_until[-1]))
        return (whole + (none - whole) * (1 + self.share_of_teacher(none)) / 2) / tokens

    def taught_tokens(self, tokens: int) -> int:
        """Of a run's tokens those that its teacher reads as well."""
        return min((tokens, *self.distill_until[-1:]))

    @property
    def truncates(self) -> bool:
        """Whether students see less than the teacher's whole distribution."""
        return self.top_k > 0 or self.top_p < 1


LATER_CHOICES: dict[str, object] = {
    "top_k": 0,
    "top_p": 1.0,
    "reference_batch_tokens": 0,
    "rate_rule": "sqrt",
    "beta_rule": "keep",
    "decay_rule": "keep",
    "clip_steps": 0,
    "batch_doublings": (),
    "document_mask": False,
    "skip_spikes": 0.0,
    "distill_until": (),
}
"""Settings that came after the first runs, with what those had."""
NO_PART = ("async_checkpoints", "keep_checkpoints")
"""Settings that change no number of a run."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Which batch each step of a run takes: always the first, or that one doubled again and again.

    Places in the text are counted in first batches, so that with one batch they are the steps themselves.
    """

    tokens: int
    """The first batch."""
    doublings: tuple[int, ...] = ()
    """Tokens at which it doubles, each rounded to a whole step of the batch before."""

    def _phases(self) -> list[tuple[int, int, int]]:
        """(first step, first batches read before it, the batch in first batches) of each batch."""
        phases = [(0, 0, 1)]
        for place in self.doublings:
            step, read, multiple = phases[-1]
            steps = max(0, round((place / self.tokens - read) / multiple))
            phases.append((step + steps, read + steps * multiple, 2 * multiple))
        return phases

    def _phase(self, place: float, of: int) -> tuple[int, int, int]:
        return max(phase for phase in self._phases() if phase[of] <= max(0, place))

    def at(self, step: int) -> int:
        """Tokens of a step's batch."""
        return self._phase(step, 0)[2] * self.tokens

    def read(self, step: int) -> int:
        """First batches read before a step."""
        first, read, multiple = self._phase(step, 0)
        return read + (step - first) * multiple

    def step(self, read: float) -> int:
        """The step nearest to a place in the text, given in first batches."""
        first, before, multiple = self._phase(read, 1)
        return first + round((read - before) / multiple)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStart:
    """A model on disk that a trunk starts from, or whose architecture it takes (`init = "fresh"`)."""

    folder: str
    fingerprint: str
    """Hash of its weights and configuration: what names it, wherever it lies."""


@dataclass(frozen=True, kw_only=True)
class TrunkSpec:
    """One trunk: a model, the stream it reads, its teacher, its rate."""

    role: str
    """`teacher` or `student`."""
    purpose: str
    """`teacher`, `grid`, `tuning`, `holdout` or `control:NAME`; not part of the identity: a tuning run may serve the
    grid."""
    label: str
    """The size as the study names it, e.g. `0.3M`."""
    layers: int
    width: int
    ffn: int
    heads: int
    params: int
    total_params: int
    vocab_size: int
    seed: int
    split: str
    peak_lr: float
    batch_tokens: int
    recipe: Recipe
    data_hash: str
    teacher_run: str | None = None
    """Run id of the teacher (or the folder of an external one); None trains on the data."""
    teacher_fingerprint: str | None = None
    """Hash of the teacher's weights, so that another teacher of the same name is another run."""
    targets: str | None = None
    """Folder of stored targets that stand for the teacher; None has it read along."""
    targets_identity: str | None = None
    """Hash of what determines the stored targets."""
    init: str = "fresh"
    """`fresh`: drawn by the seed; `pruned`: cut out of its teacher, now or before; `pretrained`: trained before."""
    cut_from: str | None = None
    """Run id (or folder) of the model that a pruned student is cut out of, where that is not its teacher."""
    cut_fingerprint: str | None = None
    """Hash of that model's weights, where it is from outside."""
    cut_by: str = "uniform"
    """What says which units stay (models/prune.py): `uniform`, `activation` or `gradient`."""
    is_fixed: bool = False
    """Whether all teachers' students are cut out of that model: no part of the identity, but of what the run is for."""
    rate_power: float = 0.0
    """From `rate_tokens` on the trunk's rate falls as tokens**-rate_power; 0: constant."""
    rate_tokens: int = 0
    start: ModelStart | None = None
    """A model on disk instead of one of the family; the rate is then plain AdamW's, the same for all weights."""

    @property
    def arm(self) -> str:
        """`distilled` or `supervised`."""
        return "distilled" if self.teacher_run else "supervised"

    @property
    def start_arm(self) -> str:
        """Of `ARMS`, or what else it began from (`arm_of`)."""
        return "fixed" if self.is_fixed else arm_of({"init": self.init})

    def branch_lr(self, tokens: int) -> float:
        """The rate at which a budget's cooldown begins, at width 64."""
        branch = (1 - self.recipe.cooldown) * tokens
        fallen = max(1.0, branch / self.rate_tokens) ** -self.rate_power if self.rate_power else 1.0
        return self.peak_lr * fallen

    @property
    def batches(self) -> BatchPlan:
        """The batch of each step."""
        return BatchPlan(self.batch_tokens, self.recipe.batch_doublings)

    @property
    def shape(self) -> Shape:
        """The shape of the model (multi-head attention, untied head); a model of `start` is what its folder says."""
        return Shape(
            layers=self.layers,
            width=self.width,
            ffn=self.ffn,
            heads=self.heads,
            kv_heads=self.heads,
            head_dim=self.recipe.head_dim,
            vocab=self.vocab_size,
            context=self.recipe.context,
        )

    @cached_property
    def trunk_id(self) -> str:
        """Readable name plus the hash of everything that determines the weights."""
        identity = asdict(self)
        for name in ("purpose", "label", "targets", "start", "is_fixed"):
            del identity[name]
        for name in NO_PART:
            del identity["recipe"][name]
        if self.start is not None:
            identity["start"] = self.start.fingerprint
        own = {"init": "fresh", "rate_power": 0.0, "rate_tokens": 0}
        own |= {"cut_from": None, "cut_fingerprint": None, "cut_by": "uniform"}
        for settings, later in ((identity, own), (identity["recipe"], LATER_CHOICES)):
            for name, default in later.items():
                if settings[name] == default:  # runs made before there was a choice keep their names
                    del settings[name]
        if self.teacher_fingerprint:  # the weights name an external teacher, wherever its folder lies
            del identity["teacher_run"]
        if self.cut_fingerprint:
            del identity["cut_from"]
        arm = "alone" if self.teacher_run is None else f"from-{_short(self.teacher_run)}"
        return f"{self.role}-{self.label}-{arm}-s{self.seed}-{content_hash(identity, digits=8)}"

    def run_id(self, tokens: int) -> str:
        """The run of this trunk that is cooled down at `tokens`."""
        return f"{self.trunk_id}-{tokens}t"


def _short(teacher_run: str) -> str:
    parts = teacher_run.rstrip("/").split("/")[-1].split(":")[0].split("-")  # `oracle` of oracle:window=3
    name = parts[1] if parts[0] == "teacher" and len(parts) > 1 else parts[0]
    return re.sub(r"[^\w.+=@]", "_", name)[:24]  # of a folder that may be called anything


def spec_record(spec: TrunkSpec, tokens: int) -> dict[str, object]:
    """What spec.json of a run holds: every field, the budget, and the ids derived from them."""
    return {"run_id": spec.run_id(tokens), "group": spec.trunk_id, "tokens": tokens, **asdict(spec)}


def shared_batches(spec: TrunkSpec) -> tuple[object, ...]:
    """What trunks must have in common to read the same batches at the same steps."""
    recipe = spec.recipe
    return spec.split, spec.seed, spec.batches, spec.data_hash, recipe.context, recipe.micro_batch_tokens


def shared_teacher(spec: TrunkSpec) -> tuple[object, ...]:
    """What trunks must have in common to learn from one teacher's signal."""
    return spec.teacher_run, spec.teacher_fingerprint, spec.targets, spec.recipe.document_mask


def shared_stream(spec: TrunkSpec) -> tuple[object, ...]:
    """What trunks must have in common to share their batches and their teacher's forward passes."""
    return *shared_batches(spec), *shared_teacher(spec)


def executed_tokens(budgets: Collection[int], cooldown: float, *, reached: int = 0) -> float:
    """Tokens that one trunk with cooled branches really trains on.

        (1 - c) (D_max - D_0) + c sum_i D_i

    Args:
        budgets: D_i, tokens of its runs.
        cooldown: c, the share of each that is cooled in a branch.
        reached: D_0, the budget up to which it is trained already.
    """
    return (1 - cooldown) * (max(budgets) - reached) + cooldown * sum(budgets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """A step of a trunk that is branched at."""

    trunk: TrunkSpec
    step: int

    @property
    def tokens(self) -> int:
        """Tokens read before it."""
        return self.step * self.trunk.batch_tokens

    def folder(self, study: Path) -> Path:
        """Where its checkpoint and its branches lie."""
        return study / "branches" / f"{self.trunk.trunk_id}-at{self.step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One way on from a fork."""

    fork: Fork
    spec: TrunkSpec
    """The trunk with the branch's batch, rules and loss."""
    window: int
    """Tokens, whole batches."""
    anneal: float = 0.0
    """Share of the window over which the rate decays; 0 keeps it."""
    order: int = 0
    """Order of the text after the fork; 0 is the trunk's own."""

    @property
    def multiple(self) -> float:
        """k: its batch over the trunk's."""
        return self.spec.batch_tokens / self.fork.trunk.batch_tokens

    @property
    def steps(self) -> int:
        """Optimiser steps of the window."""
        return self.window // self.spec.batch_tokens

    @property
    def name(self) -> str:
        """Readable name plus the hash of everything that determines its weights."""
        identity = [self.fork.trunk.trunk_id, self.fork.step, self.spec.trunk_id, self.window, self.anneal, self.order]
        return f"{self.spec.arm}-x{self.multiple:g}-order{self.order}-{content_hash(identity, digits=8)}"

    def folder(self, study: Path) -> Path:
        """Where it lies."""
        return self.fork.folder(study) / self.name

    def record(self) -> dict[str, object]:
        """What branch.json holds."""
        return {
            "name": self.name,
            "trunk": self.fork.trunk.trunk_id,
            "step": self.fork.step,
            "window": self.window,
            "anneal": self.anneal,
            "order": self.order,
            "spec": asdict(self.spec),
        }
