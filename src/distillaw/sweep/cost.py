"""What a study costs before it is run: FLOP, seconds, disk, and what stored targets of its teachers could spare.

Time is FLOP at a measured rate and a measured overhead per token, step and run, times what a probe says of this
machine; wall time is that of the jobs played through (`makespan`). Of stored targets only those of the
same bits count: full logits in float32 (docs/targets.md), 4 bytes per token of vocabulary. Students of one stream and
teacher share each forward pass already (sweep/scheduler.py); what a store could still save is the reading of the same
text for other seeds, batches and cooldowns. The bound takes it that they read the same windows, that reading a store
costs nothing and that every pass shared in the plan is shared in fact.

Cores wait where one run decides what comes next: the last of a search, each of its moves outwards (one run at a time),
a teacher. A step begins when the searches of those before have ended, in the order of sweep/jobs.py: alone 0 rates, 1
rates at the largest budget, 2 batch; 3 teachers' rates and lone students; 4 teachers; from a teacher 5 rates, 6 rates
at the largest budget, 7 the batch's check and all students; those that are cut, alone too, count as from a teacher.
"""

import contextlib
import heapq
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from distillaw.accounting.config import read_architecture
from distillaw.accounting.flops import forward_flops
from distillaw.data.prepare import DataSpec
from distillaw.errors import ConfigError
from distillaw.quantities import format_bytes
from distillaw.runs.spec import shared_stream
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import NOTHING, Facts, Progress, TrunkJob, left_of
from distillaw.sweep.scheduler import share_out
from distillaw.sweep.spec import StudySpec
from distillaw.worlds.oracle import Oracle, is_oracle, parse_oracle
from distillaw.worlds.world import open_world

FLOP_PER_SECOND = 27e9
SECONDS_PER_TOKEN = 3.4e-6
SECONDS_PER_STEP = 0.0157
SECONDS_PER_RUN = 0.5
SPEED = (
    f"{FLOP_PER_SECOND / 1e9:.0f} GFLOP/s, {SECONDS_PER_TOKEN * 1e6:.1f} us a token, "
    f"{SECONDS_PER_STEP * 1e3:.0f} ms a step and {SECONDS_PER_RUN} s a run"
)
"""Assumed speed of one core while all are busy: matrix work, a cost per token and per optimiser step, and scoring and
saving a run. Least squares of the relative errors of 33 tasks of a quickstart on two idle cores of an AMD EPYC (wall
time 1.01 of CPU time; dev/LOG.md, 2026-11-23): sd 9 %, 0.77 to 1.18 of what each took."""
PROBE_SECONDS = 0.97e-3
"""What `slowness` measures on that machine."""
START_SECONDS = 25.0
"""Wall time before the first run and after the last: imports, the text, the tokenizer, the report (quickstart)."""
BYTES_PER_PARAM_RUN = 4.2
BYTES_PER_PARAM_TRUNK, CHECKPOINT_BYTES = 16.0, 450_000
TOKENIZER_BYTES = 60_000
"""Disk of a run: fp32 weights (4), tokenizer, logs; of a checkpoint: weights, two moments and first weights (16), names
and places of tensors (370 and 530 kB with 4 and 6 layers)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCost:
    """What a study would spend, before it does."""

    jobs: list[TrunkJob]
    """One per trunk."""
    seconds: list[float]
    """Estimated core-seconds of each job."""
    flops: float
    tokens: float
    disk_bytes: float
    num_runs: int
    wanted: Sequence[TrunkJob] = ()
    """The same by purpose: a trunk's held-out budgets apart from its others, and its search's apart from the grid's."""

    def wall_seconds(self, workers: int) -> float:
        """Estimated wall time, start-up and data preparation included."""
        if not self.seconds:
            return 0.0
        return makespan(self.jobs, self.seconds, self.wanted, workers) + START_SECONDS


def study_cost(
    spec: StudySpec, vocab_size: int, *, facts: Facts | None = None, progress: Progress | None = None
) -> StudyCost:
    """FLOP, time and disk of what is left of a study: runs as if searches stayed, time with their moves."""
    facts = facts or Facts(vocab_size=vocab_size, data_hash="dry-run", fingerprints={})
    progress = progress or NOTHING
    every = Planner(spec, facts, progress, guess=True).ready_jobs().jobs
    ended = progress.losses.keys() | progress.diverged
    return replace(jobs_cost(left_of(every, ended), teacher_forward(spec, every)), wanted=tuple(every))


def teacher_forward(spec: StudySpec, jobs: Sequence[TrunkJob]) -> dict[str, float]:
    """Teacher, as runs name it -> FLOP of one forward pass, per token: those that the jobs train, and external ones."""
    return {
        job.trunk.run_id(tokens): forward_flops(job.trunk.shape).total
        for job in jobs
        if job.trunk.role == "teacher"
        for tokens in job.budgets
    } | {
        name: _oracle_forward(spec.data, name) if is_oracle(name) else external_forward(name, spec.training.context)
        for name in spec.external_teachers()
    }


def jobs_cost(jobs: list[TrunkJob], forward: Mapping[str, float]) -> StudyCost:
    """FLOP, time and disk of some jobs.

    Args:
        forward: teacher, as runs name it -> FLOP of one forward pass, per token.
    """
    reading = _teacher_flops(jobs, forward)
    runs = {run_id: job.trunk for job in jobs for run_id in job.run_ids}
    trunks = {job.trunk.trunk_id: job.trunk for job in jobs}
    disk = sum(BYTES_PER_PARAM_RUN * t.total_params + TOKENIZER_BYTES for t in runs.values())
    disk += sum(
        t.recipe.keep_checkpoints * (BYTES_PER_PARAM_TRUNK * t.total_params + CHECKPOINT_BYTES) for t in trunks.values()
    )
    shares = list(zip(jobs, reading, strict=True))
    return StudyCost(
        jobs=jobs,
        seconds=[core_seconds(job_flops(j, f), j.tokens, j.trunk.batch_tokens, len(j.budgets)) for j, f in shares],
        flops=sum(job_flops(job, flops) for job, flops in shares),
        tokens=sum(job.tokens for job in jobs),
        disk_bytes=disk,
        num_runs=len(runs),
    )


def study_vocab(spec: StudySpec) -> int:
    """Entries of the study's vocabulary, from its tokenizer if it names one (loading that takes seconds).

    Raises:
        VocabularyError: an external teacher speaks of other tokens; said before a text is tokenised.
    """
    if spec.data.world is not None:
        return spec.data.world.vocab
    known = [name for name in (spec.data.tokenizer, *spec.external_teachers()) if name]
    if not spec.data.tokenizer and len(known) < 2:
        return spec.data.vocab_size
    from distillaw.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(known[0])
    if others := known[1:]:
        from distillaw.models.teacher import check_vocabulary

        for teacher in others:
            check_vocabulary(teacher, tokenizer)
    return len(tokenizer) if spec.data.tokenizer else spec.data.vocab_size


def _teacher_flops(jobs: Sequence[TrunkJob], forward: Mapping[str, float]) -> list[float]:
    """FLOP of each job's share of its teacher's forward passes, which all students of one stream share."""
    longest: dict[tuple[object, ...], float] = {}
    sharing: Counter[tuple[object, ...]] = Counter()
    for job in jobs:
        key = shared_stream(job.trunk)
        longest[key] = max(longest.get(key, 0.0), _taught_tokens(job))
        sharing[key] += 1
    return [
        forward[job.trunk.teacher_run] * longest[key] / sharing[key] if job.trunk.teacher_run else 0.0
        for job in jobs
        for key in [shared_stream(job.trunk)]
    ]


def _taught_tokens(job: TrunkJob) -> float:
    """Of the tokens that a job trains on, its cooled branches' too, those that its teacher reads as well."""
    most = max(job.budgets)
    return job.tokens * job.trunk.recipe.taught_tokens(most) / most


def _oracle_forward(data: DataSpec, name: str) -> float:
    """Operations per token of an oracle; one of a wanted loss is counted as one that sees everything."""
    assert data.world is not None
    oracle = parse_oracle(name)
    return Oracle(open_world(data.world), replace(oracle, loss=None, by="window")).flops_per_token


def external_forward(name: str, context: int) -> float:
    """Forward FLOP per token of a teacher from outside; an estimate where accounting does not know its architecture."""
    if (Path(name) / "config.json").exists():
        with contextlib.suppress(ConfigError):  # a known architecture needs no torch
            return forward_flops(read_architecture(name), context=context).total
    from distillaw.models.fresh import weight_flops
    from distillaw.models.source import locate
    from distillaw.models.teacher import architecture_of

    config = locate(name).config()
    architecture = architecture_of(config)
    return forward_flops(architecture, context=context).total if architecture else weight_flops(config)


def job_flops(job: TrunkJob, teacher_flops: float) -> float:
    """FLOP a job executes: training one trunk with a cooldown per budget, and its share of the teacher's."""
    return 3 * forward_flops(job.trunk.shape).total * job.tokens + teacher_flops


def core_seconds(flops: float, tokens: float, batch_tokens: int, runs: int) -> float:
    """What so many FLOP, tokens in batches and finished runs take one core of this machine."""
    steps = tokens / batch_tokens
    training = flops / FLOP_PER_SECOND + SECONDS_PER_TOKEN * tokens + SECONDS_PER_STEP * steps
    return slowness() * (training + SECONDS_PER_RUN * runs)


@cache
def slowness() -> float:
    """Times that a core of this machine takes for what small models are made of, of those of `SPEED`'s machine.

    The fastest of a hundred repeats of a millisecond: other processes make no difference of a hundredth to it. Its
    matrices are as small as OpenBLAS multiplies on one thread whatever it may use (64^3; twice that took minutes
    where two threads waited for one another beside other processes).
    """
    draw = np.random.default_rng(0)
    inputs, weight, logits = (draw.normal(size=shape).astype(np.float32) for shape in ((64, 64), (64, 64), (256, 512)))
    taken = []
    for _ in range(100):
        began = time.thread_time()
        for _ in range(80):
            inputs @ weight
        for _ in range(2):
            np.exp(logits)
        taken.append(time.thread_time() - began)
    return min(taken) / PROBE_SECONDS


WORTH_A_STORE = 0.1
"""Share of a study's FLOP from which a store is worth its disk; our studies lie at 3 to 6 % (docs/studies.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTargetsBound:
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


def stored_targets(jobs: Sequence[TrunkJob], forward: Mapping[str, float], vocab_size: int) -> StoredTargetsBound:
    """The bound for some jobs.

    Args:
        forward: teacher, as runs name it -> FLOP of one forward pass, per token.
    """
    streams: dict[str, dict[object, float]] = {}
    distinct: dict[str, float] = {}
    for job in jobs:
        if job.trunk.teacher_run is None:
            continue
        teacher, key = job.trunk.teacher_run, shared_stream(job.trunk)
        read = streams.setdefault(teacher, {})
        read[key] = max(read.get(key, 0.0), _taught_tokens(job))
        distinct[teacher] = max(distinct.get(teacher, 0.0), job.trunk.recipe.taught_tokens(max(job.budgets)))
    asked = {teacher: sum(read.values()) for teacher, read in streams.items()}
    repeated = [teacher for teacher in asked if asked[teacher] > distinct[teacher]]
    teacher_flops = sum(forward[teacher] * asked[teacher] for teacher in asked)
    covered = sum(distinct[teacher] for teacher in repeated)
    return StoredTargetsBound(
        flops=sum(job_flops(job, 0.0) for job in jobs) + teacher_flops,
        teacher_flops=teacher_flops,
        saved_flops=sum(forward[teacher] * (asked[teacher] - distinct[teacher]) for teacher in repeated),
        bytes=covered * 4 * (vocab_size + 1),
        passes=sum(asked[teacher] for teacher in repeated) / covered if repeated else 1.0,
    )


MOVES = 0.2
"""What searches that move, and budgets that then share fewer trunks, add to the time of searches that stay: 0.12, 0.32
and 0.20 of it in two quickstarts and a study of technical documents (dev/LOG.md, 2026-11-23)."""

_Task = tuple[float, tuple[str, ...]]
"""Seconds that a core spends, or when it is done; and what on."""


def makespan(jobs: Sequence[TrunkJob], seconds: Sequence[float], wanted: Sequence[TrunkJob], workers: int) -> float:
    """Seconds until the last job has ended.

    Args:
        jobs: what is to be trained, one job per trunk, the most urgent first.
        wanted: all jobs by purpose, of a study or of its searches: they tell which trunks a search asks for; none if
            there is no search.
    """
    of = {job.trunk.trunk_id: one for job, one in zip(jobs, seconds, strict=True)}
    steps, searches = _steps(wanted), {j.trunk.trunk_id for j in wanted if j.trunk.purpose == "tuning"}
    makers: dict[str | None, str] = {run_id: job.trunk.trunk_id for job in jobs for run_id in job.run_ids}
    moves: dict[str, float] = {}  # of each step's searches, as one more job when they have ended
    for name in searches & of.keys():
        move = f"moves of step {steps[name]}"
        steps[move], moves[move] = steps[name], moves.get(move, 0.0) + MOVES * of[name]
    now, running = 0.0, list[_Task]()
    waiting = {job.trunk.trunk_id: job for job in jobs}
    while waiting or moves or running:
        undone = {*waiting, *moves, *(name for _, names in running for name in names)}
        step = min((steps[name] for name in undone if name in searches or name not in of), default=math.inf)
        searched = all(steps[name] > step for name in undone & searches)
        tasks: list[_Task] = [(moves[name], (name,)) for name in moves if searched and steps[name] == step]
        ready = [
            job
            for name, job in waiting.items()
            if steps.get(name, 0) <= step
            and undone.isdisjoint({makers.get(job.trunk.teacher_run), makers.get(job.trunk.cut_from)})
        ]
        free = workers - len(running)
        for task in share_out(ready, free - len(tasks), {}) if free > len(tasks) else ():
            names = tuple(job.trunk.trunk_id for job in task)
            tasks.append((sum(of[name] for name in names), names))
        for length, names in tasks[:free]:
            heapq.heappush(running, (now + length, names))
            for name in names:
                waiting.pop(name, None)
                moves.pop(name, None)
        now, _ = heapq.heappop(running)
    return now


def _steps(wanted: Sequence[TrunkJob]) -> dict[str, int]:
    """Trunk -> its step of the study."""
    near = min((min(job.budgets) for job in wanted if job.trunk.purpose == "tuning"), default=0)
    batches = {job.trunk.batch_tokens for job in wanted if job.trunk.purpose != "tuning"}
    steps: dict[str, int] = {}
    for job in wanted:
        trunk = job.trunk
        kind = "distilled" if trunk.cut_from else trunk.role if trunk.role == "teacher" else trunk.arm
        if trunk.purpose != "tuning":
            step = {"supervised": 3, "teacher": 4, "distilled": 7}[kind]
        elif batches and trunk.batch_tokens not in batches:
            step = {"supervised": 2, "distilled": 7}[kind]
        else:
            step = {"supervised": 0, "teacher": 3, "distilled": 5}[kind]
            step += kind != "teacher" and max(job.budgets) > near
        steps[trunk.trunk_id] = min(step, steps.get(trunk.trunk_id, step))
    return steps
