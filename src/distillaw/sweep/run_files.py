"""The files that `distillaw train` and `branch` read, and what a branch test runs; checked without torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distillaw.accounting.flops import forward_flops
from distillaw.data.prepare import DataSpec
from distillaw.errors import ConfigError
from distillaw.large_batch.rules import BETA_RULES, DECAY_RULES, RATE_RULES
from distillaw.quantities import did_you_mean
from distillaw.runs.config import from_table, read_toml, with_settings
from distillaw.runs.spec import Branch, Fork, Recipe, TrunkSpec
from distillaw.sweep.checks import check_study, refuse
from distillaw.sweep.cost import core_seconds, external_forward, study_cost, study_vocab
from distillaw.sweep.spec import StudentsSpec, StudySpec, TeacherSpec, TuningSpec

STARTS = ("", "weights", "fresh")


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleSpec:
    """The file that `distillaw train` reads."""

    name: str
    tokens: int
    peak_lr: float
    """Peak rate at width 64 (train/optim.py has the rule for other widths); with `start` the rate of all weights."""
    params: str = ""
    """Target non-embedding size of a fresh model, e.g. "0.3M"."""
    start: str = ""
    """Instead of `params`: a model to train further (a Hugging Face folder, e.g. of `distillaw prune`)."""
    init: str = ""
    """With `start`: `weights`, its own (the default), or `fresh`, only its architecture."""
    teacher: str = ""
    """Folder of the teacher; empty pretrains."""
    targets: str = ""
    """Folder of stored teacher targets (`distillaw cache build`), instead of the teacher beside the student."""
    batch_tokens: int = 1024
    seed: int = 0
    data: DataSpec = field(default_factory=DataSpec)
    training: Recipe = field(default_factory=Recipe)

    def as_study(self) -> StudySpec:
        """The study whose only wanted run is this one."""
        return StudySpec(
            name=self.name,
            students=StudentsSpec(params=(self.params or "1M",), tokens=(self.tokens,)),
            teachers=(TeacherSpec(path=self.teacher),) if self.teacher else (),
            data=self.data,
            training=self.training,
            tuning=TuningSpec(enabled=False),
            batch_tokens=self.batch_tokens,
            peak_lr=self.peak_lr,
            seed=self.seed,
        )


def load_single(path: Path, *, settings: Sequence[str] = ()) -> SingleSpec:
    """Read and check the file of one run; `settings` are KEY=VALUE each, over the file's (runs/config.py).

    Raises:
        ConfigError: anything in it that cannot be run.
    """
    single = from_table(SingleSpec, with_settings(read_toml(path), settings), f"{path}:")
    if single.teacher and single.targets:
        raise ConfigError(f"{path}: teacher and targets are both given; the targets name their teacher: drop one")
    if bool(single.params) == bool(single.start):
        raise ConfigError(f"{path}: give either params, the size of a fresh model, or start, a model to train further")
    if single.init not in STARTS:
        raise ConfigError(f"init = {single.init!r}: give 'weights' (those of `start`) or 'fresh' (its architecture)")
    if single.init and not single.start:
        raise ConfigError(f'init = {single.init!r} without a model: name one, start = "out/cut"')
    check_study(single.as_study())
    return single


ARMS = ("distilled", "supervised")
OWN = "own"
"""As a loss of branches: that of their trunk."""
WINDOW_STEPS = 20
"""The window, in steps of the largest batch, where none is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchSpec:
    """A branch test of one run."""

    single: SingleSpec
    at: tuple[int, ...] = ()
    """Tokens of the trunk at which it is branched, rounded to whole steps; empty: half of the run's."""
    at_checkpoint: bool = False
    """Instead: at the checkpoint that `distillaw train` left of this run in the same folder."""
    multiples: tuple[float, ...] = (1, 2, 4, 8, 16)
    """Of the file's batch, e.g. 1,2,4,8; also fractions."""
    orders: int = 3
    """Of the text, for each batch; their spread is the noise. The first is the trunk's own."""
    window: int = 0
    """Tokens of each branch; by default (0) `WINDOW_STEPS` = 20 steps of the largest batch."""
    anneal: float = 0.0
    """Share of the window over which the rate decays to 1 %; 0 keeps it constant."""
    rate_rule: str = ""
    """From the file's batch to a branch's; by default the file's own, which is sqrt unless it says."""
    beta_rule: str = ""
    """Likewise; keep unless the file says."""
    decay_rule: str = ""
    """Likewise; keep unless the file says."""
    trunks: tuple[str, ...] = ()
    """What the forked runs are trained on: distilled, supervised, or both; by default the file's own loss."""
    losses: tuple[str, ...] = ()
    """What the branches are trained on; `own` is the loss of their trunk; by default both where there is a teacher."""
    tolerance: float | None = None
    """Nats per token, e.g. 0.01; by default twice the measured noise of a run."""
    level: float = 0.9
    """Of the intervals."""
    noise_batches: int = 32
    """Batches at the fork that the gradient noise scale of each loss is measured on; 0 does not."""

    @property
    def is_taught(self) -> bool:
        """Whether there is a teacher, or its stored targets."""
        return bool(self.single.teacher or self.single.targets)

    @property
    def batches(self) -> tuple[int, ...]:
        """Tokens of each branch's batch, ascending."""
        return tuple(round(k * self.single.batch_tokens) for k in sorted(self.multiples))

    @property
    def window_tokens(self) -> int:
        """Tokens of a branch."""
        return self.window or WINDOW_STEPS * self.batches[-1]

    @property
    def fork_tokens(self) -> tuple[int, ...]:
        """Tokens before each fork, whole steps, ascending."""
        batch = self.single.batch_tokens
        wanted = self.at or (self.single.tokens // 2,)
        return tuple(sorted({round(tokens / batch) * batch for tokens in wanted}))

    @property
    def trunk_arms(self) -> tuple[str, ...]:
        """Losses of the trunks."""
        return self.trunks or ("distilled" if self.is_taught else "supervised",)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(loss of the trunk, loss of its branches) of everything that is run."""
        losses = self.losses or (ARMS if self.is_taught else ("supervised",))
        wanted = [(trunk, trunk if loss == OWN else loss) for trunk in self.trunk_arms for loss in losses]
        return tuple(dict.fromkeys(wanted))

    @property
    def rules(self) -> dict[str, Any]:
        """From the trunk's batch to a branch's: what the test says, else the file."""
        names = ("rate_rule", "beta_rule", "decay_rule")
        return {name: getattr(self, name) or getattr(self.single.training, name) for name in names}

    def check(self) -> None:
        """Refuse what cannot be branched.

        Raises:
            ConfigError: naming the setting, its value and the rule.
        """
        for wrong in (self._words(), self._batches(), self._forks(), self._numbers()):
            refuse(wrong)

    def _numbers(self) -> Iterator[str]:
        for name, value, low, high in (
            ("--orders", self.orders, 1, 1000),
            ("--anneal", self.anneal, 0, 1),
            ("--level", self.level, 0.01, 0.999),
            ("--noise-batches", self.noise_batches, 0, 1e6),
            ("--tolerance", self.tolerance or 0.0, 0, 100),
        ):
            if not low <= value <= high:
                yield f"{name} {value:g} must lie in [{low:g}, {high:g}]"
        if 0 < self.noise_batches < 8:
            yield f"--noise-batches {self.noise_batches}: an interval needs 8 at least; 0 does not measure"
        if self.orders == 1 and self.tolerance is None:
            yield (
                "--orders 1: one run of each batch says nothing of its noise. Take 3 orders, or give the tolerance, "
                "e.g. --tolerance 0.01"
            )

    def _words(self) -> Iterator[str]:
        for flag, arms, known in (("--trunks", self.trunks, ARMS), ("--losses", self.losses, (*ARMS, OWN))):
            for arm in arms:
                if arm not in known:
                    yield f"{flag} {arm!r}{did_you_mean(arm, known)} is none of {', '.join(known)}"
                if arm == "distilled" and not self.is_taught:
                    yield f"{flag} distilled: the file names no teacher. Give it teacher or targets"
        reference = self.single.training.reference_batch_tokens
        for name, known in {"rate_rule": RATE_RULES, "beta_rule": BETA_RULES, "decay_rule": DECAY_RULES}.items():
            flag, word, own = "--" + name.replace("_", "-"), getattr(self, name), getattr(self.single.training, name)
            if word and word not in known:
                yield f"{flag} {word!r}{did_you_mean(word, known)} is none of {', '.join(known)}"
            if word and reference and word != own:
                yield (
                    f"{flag} {word}: the file goes from a reference batch of {reference} to its own by {own!r}; one "
                    "rule must serve both"
                )

    def _batches(self) -> Iterator[str]:
        if self.single.training.batch_doublings:
            yield "training.batch_doublings: a branch test compares constant batches; take it out of the file"
        if self.single.training.distill_until:
            yield "training.distill_until: a branch test compares batches on one loss; take it out of the file"
        own, context = self.single.batch_tokens, self.single.training.context
        if not len(set(self.multiples)) == len(self.multiples) >= 2:
            yield f"--multiples {_list(self.multiples)}: two different ones at least, e.g. 1,2,4,8"
        for k in self.multiples:
            batch = k * own
            if not 0 < k <= 1e6:
                yield f"--multiples {k:g}: a multiple of the batch is positive, at most a million"
            if batch != round(batch) or round(batch) % context:
                yield (
                    f"--multiples {k:g}: {k:g} x {own} = {batch:g} tokens is not a multiple of the context {context}; "
                    "a batch is whole sequences"
                )
        window, largest = self.window_tokens, self.batches[-1]
        if window < largest:
            yield (
                f"--window {window}: shorter than one step of the largest batch, {largest} tokens. Give more tokens, "
                "or smaller multiples"
            )
        if uneven := [batch for batch in self.batches if window % batch]:
            yield (
                f"--window {window}: not a whole number of steps for batches of {_list(uneven)} tokens, so branches "
                f"would read unlike amounts. Nearest below: {window // largest * largest}"
            )

    def _forks(self) -> Iterator[str]:
        warmup = self.single.training.warmup_tokens
        if self.at and self.at_checkpoint:
            yield "--at: give tokens or checkpoint, not both"
        for tokens in () if self.at_checkpoint else self.fork_tokens:
            if tokens < max(self.single.batch_tokens, warmup):
                yield (
                    f"--at {tokens}: the trunk is still warming up (training.warmup_tokens = {warmup}); fork where its "
                    "rate is constant"
                )


def planned_trunks(spec: BranchSpec, own: TrunkSpec) -> dict[str, TrunkSpec]:
    """Arm -> the run's trunk on that loss."""
    alone = replace(own, teacher_run=None, teacher_fingerprint=None, targets=None, targets_identity=None)
    return {arm: own if arm == own.arm else alone for pair in spec.pairs for arm in pair}


def branches_of(spec: BranchSpec, fork: Fork, taught: TrunkSpec) -> list[Branch]:
    """The branches of one fork on one loss: by multiple, then order."""
    return [
        Branch(
            fork=fork, spec=_at_batch(taught, batch, spec), window=spec.window_tokens, anneal=spec.anneal, order=order
        )
        for batch in spec.batches
        for order in range(spec.orders)
    ]


def _at_batch(trunk: TrunkSpec, batch: int, spec: BranchSpec) -> TrunkSpec:
    """The trunk at another batch by the rules of its recipe; at its own batch it stays what it is."""
    if batch == trunk.batch_tokens:
        return trunk
    recipe = trunk.recipe
    return replace(
        trunk,
        batch_tokens=batch,
        recipe=replace(
            recipe, reference_batch_tokens=recipe.reference_batch_tokens or trunk.batch_tokens, **spec.rules
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchCost:
    """What a branch test would spend."""

    branches: int
    trunk_tokens: float
    branch_tokens: float
    noise_tokens: float
    flops: float
    """Students' and teacher's, scoring left out."""
    seconds: float
    """Estimated, on one core."""

    @property
    def tokens(self) -> float:
        """All tokens that are trained on or measured on."""
        return self.trunk_tokens + self.branch_tokens + self.noise_tokens


def branch_cost(spec: BranchSpec) -> BranchCost:
    """Tokens, FLOP and time of the whole test, before anything is spent."""
    single, forks = spec.single, len(spec.fork_tokens)
    student, teacher = _forward(single)
    count = len(spec.batches) * spec.orders * forks
    noise = spec.noise_batches * single.batch_tokens * forks
    way = 0 if spec.at_checkpoint else spec.fork_tokens[-1]
    read = [
        *((trunk, way) for trunk in spec.trunk_arms),
        *((loss, count * spec.window_tokens + noise) for _, loss in spec.pairs),
    ]
    flops = sum(n * (3 * student + (teacher if loss == "distilled" else 0.0)) for loss, n in read)
    tokens, branches = sum(n for _, n in read), count * len(spec.pairs)
    return BranchCost(
        branches=branches,
        trunk_tokens=way * len(spec.trunk_arms),
        branch_tokens=branches * spec.window_tokens,
        noise_tokens=noise * len(spec.pairs),
        flops=flops,
        seconds=core_seconds(flops, tokens, single.batch_tokens, branches),
    )


def _forward(single: SingleSpec) -> tuple[float, float]:
    """Forward FLOP per token of student and teacher; 0 for one whose targets are stored."""
    context = single.training.context
    teacher = external_forward(single.teacher, context) if single.teacher else 0.0
    if single.start:
        return external_forward(single.start, context), teacher
    study = single.as_study()
    job = study_cost(replace(study, teachers=()), study_vocab(study)).jobs[0]
    return forward_flops(job.trunk.shape).total, teacher


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
