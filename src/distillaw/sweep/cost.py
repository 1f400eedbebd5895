"""What a study would spend: runs, FLOP, core time and disk, before anything is spent."""

from dataclasses import dataclass, replace

from distillaw.accounting.flops import forward_flops
from distillaw.accounting.shapes import Shape
from distillaw.sweep.jobs import Facts, Job, Planner, Progress
from distillaw.sweep.spec import StudySpec

FLOP_PER_SECOND = 45e9
SECONDS_PER_TOKEN = 2e-5
"""Assumed speed of one core for the dry run: matrix work plus a fixed cost per token (dev/LOG.md)."""

BYTES_PER_PARAM_RUN = 4.2
BYTES_PER_PARAM_TRUNK = 12.5
TOKENIZER_BYTES = 60_000
"""Disk of a run: fp32 weights, tokenizer, logs; of a trunk: weights and two moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCost:
    """What a study would spend, before it does."""

    jobs: list[Job]
    seconds: list[float]
    """Estimated core-seconds of each job."""
    flops: float
    tokens: float
    disk_bytes: float
    num_runs: int

    def wall_seconds(self, workers: int) -> float:
        """Estimated wall time, start-up and data preparation included, if no core ever waits."""
        return max(sum(self.seconds) / workers, max(self.seconds)) + 25


def study_cost(spec: StudySpec, vocab_size: int) -> StudyCost:
    """FLOP, time and disk of the whole study, with tuning staying at its start."""
    facts = Facts(vocab_size=vocab_size, data_hash="dry-run", fingerprints={})
    jobs = nominal(spec, facts)
    teachers = {
        j.trunk.run_id(t): j.trunk.shape for j in jobs if j.trunk.role == "teacher" for t in j.budgets
    }

    def teacher_of(job: Job) -> Shape | None:
        return teachers.get(job.trunk.teacher_run or "")

    runs = {run_id: job.trunk for job in jobs for run_id in job.run_ids}
    trunks = {job.trunk.trunk_id: job.trunk for job in jobs}
    disk = sum(BYTES_PER_PARAM_RUN * t.total_params + TOKENIZER_BYTES for t in runs.values())
    disk += sum(BYTES_PER_PARAM_TRUNK * t.total_params for t in trunks.values())
    return StudyCost(
        jobs=jobs, seconds=[job_seconds(job, teacher_of(job)) for job in jobs],
        flops=sum(job_flops(job, teacher_of(job)) for job in jobs), tokens=sum(job.tokens for job in jobs),
        disk_bytes=disk, num_runs=len(runs),
    )  # fmt: skip


def job_flops(job: Job, teacher_shape: Shape | None) -> float:
    """Training and teacher-logit FLOP a job executes: one trunk, a cooldown per budget."""
    forward = forward_flops(job.trunk.shape).total
    teacher = forward_flops(teacher_shape).total if teacher_shape else 0.0
    return (3 * forward + teacher) * job.tokens


def job_seconds(job: Job, teacher_shape: Shape | None) -> float:
    """Estimated seconds on one core."""
    return job_flops(job, teacher_shape) / FLOP_PER_SECOND + SECONDS_PER_TOKEN * job.tokens


def nominal(spec: StudySpec, facts: Facts) -> list[Job]:
    """Every job of the study as if tuning stayed at its start: for the dry run."""
    fixed = replace(spec, tuning=replace(spec.tuning, enabled=False))
    done = Progress(losses=_Everything(), failures={})
    jobs = Planner(fixed, facts, done).board().jobs
    if not spec.tuning.enabled:
        return jobs
    planner = Planner(spec, facts, done)
    middle = spec.middle_teacher()
    arms = ["supervised"] + (["distilled"] if middle else [])
    teacher_run = next((j.trunk.run_id(max(j.budgets)) for j in jobs if middle and j.trunk.role == "teacher"
                        and j.trunk.label == middle.params), None)  # fmt: skip
    for arm in arms:
        for size in spec.end_sizes():
            for i, j in ((-1, 0), (0, 0), (1, 0), (0, -1), (0, 1)):
                jobs.append(
                    Job(trunk=planner.point(arm, size, i, j, teacher_run), budgets=(spec.tuning_tokens,))
                )
    return jobs


class _Everything(dict):
    """A progress in which every run is finished."""

    def __contains__(self, key: object) -> bool:
        return True
