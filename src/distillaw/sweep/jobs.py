"""Which trunks a study needs, and which of them can be trained now: a pure function of what is on disk.

Order: rates and batch on the supervised arm; then teachers' rates, and lone students; then teachers; then the
distilled rates with one teacher; then every student from every teacher. Nothing is remembered between calls, so a
killed study continues from its folder alone.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

from distillaw.accounting.params import ParamCount, count_params
from distillaw.accounting.shapes import Shape
from distillaw.errors import RunError
from distillaw.laws.rates import Optimum, fit_rate_law
from distillaw.runs.spec import TrunkSpec
from distillaw.sweep.ready import Facts, Progress, ReadyJobs, TrunkJob, release
from distillaw.sweep.spec import NONE, DesignBlock, StudySpec, TeacherSpec
from distillaw.sweep.tuning import (
    STEP,
    ArmRates,
    LatticePoint,
    Lookup,
    Place,
    RateSearch,
    TuningPlan,
    search_distilled,
    search_supervised,
    search_teacher,
)


class Planner:
    """Turns a study, its facts and its progress into jobs."""

    def __init__(
        self, spec: StudySpec, facts: Facts, progress: Progress, *, holdout: bool = True, guess: bool = False
    ) -> None:
        """A planner of one moment.

        Args:
            spec: the study.
            facts: what else jobs depend on.
            progress: what is on disk.
            holdout: whether held-out students may be trained (their predictions are frozen).
            guess: take searches without an answer to stay where they are, and what is not trained to be there: the
                whole study as far as it can be foreseen.
        """
        self._spec, self._facts, self._progress, self._holdout = spec, facts, progress, holdout
        self._guess = guess
        self._sizes = spec.tuned_sizes()
        self._shapes: dict[str, tuple[Shape, ParamCount]] = {}

    def ready_jobs(self) -> ReadyJobs:
        """The jobs whose inputs are decided, the most urgent first.

        Raises:
            RunError: every rate of a search diverged.
        """
        ready = ReadyJobs(jobs=[], waiting=[])
        if self._spec.tuning.enabled:
            self._add_tuned(ready)
        else:
            self._add_grid(ready, ArmRates(start=self._spec.peak_lr), self._spec.batch_tokens)
        self._stop_hopeless(ready)
        ready.jobs.sort(key=lambda job: job.urgency)
        return ready

    def _stop_hopeless(self, ready: ReadyJobs) -> None:
        """Release the grid's budgets one by one, to those that may still win (`ready.release`)."""
        margin = self._spec.early_stop.margin
        if margin == 0 or self._guess:
            return
        grid = [job for job in ready.jobs if (job.trunk.role, job.trunk.purpose) == ("student", "grid")]
        others = [job for job in ready.jobs if job not in grid]
        released, ready.stopped = release(
            grid,
            self._progress.losses,
            self._progress.diverged | self._progress.failures.keys(),
            margin=margin,
            is_complete=not ready.waiting,
        )
        ready.jobs = [*others, *released]

    def _add_tuned(self, ready: ReadyJobs) -> None:
        ready.supervised = search = self._supervised
        self._add_points(ready, search, None)
        if not search.is_done:
            ready.waiting.append("teachers and students wait for the supervised rate and batch")
            return
        batch = self.batch_tokens(search.batch)
        rates = self.tuned_rates(search, "supervised")
        self._add_students(ready, rates, batch, None, NONE)
        of_teachers = self._teacher_rates(ready, rates)
        if of_teachers is None:
            ready.waiting.append("teachers wait for their rate")
            return
        teachers = self._add_teachers(ready, of_teachers, batch)
        self._add_distilled(ready, teachers, search.batch)

    def _teacher_rates(self, ready: ReadyJobs, rates: ArmRates) -> ArmRates | None:
        """The supervised rates, with those searched at the teachers' own budgets; None until they are known."""
        if not self.plan.far_sizes:
            return rates
        assert ready.supervised is not None
        search = RateSearch(batch=ready.supervised.batch, guess=self._guess)
        found = self._optima(ready.supervised)
        for checked in self._spec.checked_teachers():
            ready.teacher = search
            foreseen = rates.at(self.params(checked.params), checked.tokens)
            start = STEP * round(math.log2(foreseen / rates.start) / STEP)
            search_teacher(search, self._lookup(None), self.plan, checked.params, start=start)
            self._add_points(ready, search, None)
            if not search.is_done:
                return None
            rates = self._arm_rates([*found, *self._optima(search)], "text", search)
        return rates

    def _add_distilled(self, ready: ReadyJobs, teachers: dict[str, str], batch_index: int) -> None:
        """Tune the distilled arm with one teacher, then add the students of all."""
        ready.reference = self._reference(teachers)
        if ready.reference is None:
            return
        if not self._is_available(ready.reference):
            ready.waiting.append(f"the distilled arm's rates wait for {ready.reference}")
            return
        search = search_distilled(self._lookup(ready.reference), self.plan, batch=batch_index)
        ready.distilled = search
        self._add_points(ready, search, ready.reference)
        if search.rates_known:
            rates = self.tuned_rates(search, "distilled")
            self._add_distilled_students(ready, teachers, rates, self.batch_tokens(batch_index))
        else:
            ready.waiting.append("distilled students wait for their rate")

    def _reference(self, teachers: dict[str, str]) -> str | None:
        """The teacher to tune with: the chosen or middle one; if it failed, the next that did not."""
        middle = self._spec.middle_teacher()
        if middle is None:
            return None
        chosen = middle.label
        order = [chosen, *(label for label in teachers if label != chosen)]
        dead = self._progress.failures.keys() | self._progress.diverged
        return next((teachers[label] for label in order if teachers[label] not in dead), teachers[chosen])

    def _add_distilled_students(
        self, ready: ReadyJobs, teachers: dict[str, str], rates: ArmRates, batch: int
    ) -> None:
        for label, teacher_run in teachers.items():
            if self._is_available(teacher_run):
                self._add_students(ready, rates, batch, teacher_run, label)
            else:
                ready.waiting.append(f"students of {label} wait for their teacher")

    def _add_grid(self, ready: ReadyJobs, rates: ArmRates, batch: int) -> None:
        teachers = self._add_teachers(ready, rates, batch)
        self._add_students(ready, rates, batch, None, NONE)
        self._add_distilled_students(ready, teachers, rates, batch)

    def _add_teachers(self, ready: ReadyJobs, rates: ArmRates, batch: int) -> dict[str, str]:
        """Adds the teachers trained here; returns label -> run id or external folder."""
        wanted: dict[str, tuple[TrunkSpec, set[int]]] = {}
        names: dict[str, str] = {}
        for teacher in self._spec.teachers:
            if teacher.path:
                names[teacher.label] = teacher.source
                continue
            trunk = self._teacher_trunk(teacher, rates.at(self.params(teacher.params), teacher.tokens), batch)
            wanted.setdefault(trunk.trunk_id, (trunk, set()))[1].add(teacher.tokens)
            names[teacher.label] = trunk.run_id(teacher.tokens)
        ready.jobs += [
            TrunkJob(trunk=trunk, budgets=tuple(sorted(tokens))) for trunk, tokens in wanted.values()
        ]
        return names

    def _teacher_trunk(self, teacher: TeacherSpec, rate: float, batch: int) -> TrunkSpec:
        trunk = self.trunk("teacher", teacher.params, rate, batch, self._spec.seed)
        return replace(trunk, split=teacher.split)

    def _add_students(
        self, ready: ReadyJobs, rates: ArmRates, batch: int, teacher_run: str | None, label: str
    ) -> None:
        """Adds a job per trunk of this teacher's students, with every budget that the blocks of the study want."""
        wanted: dict[tuple[str, bool], tuple[TrunkSpec, set[int]]] = {}
        for block in self._spec.blocks():
            if label not in block.teachers or (block.design.holdout and not self._holdout):
                continue
            for trunk, tokens in self._block_trunks(block, rates, batch, teacher_run):
                key = trunk.trunk_id, block.design.holdout
                wanted.setdefault(key, (trunk, set()))[1].add(tokens)
        for trunk, tokens in wanted.values():
            ready.jobs.append(TrunkJob(trunk=trunk, budgets=tuple(sorted(tokens))))

    def _block_trunks(
        self, block: DesignBlock, rates: ArmRates, batch: int, teacher_run: str | None
    ) -> Iterator[tuple[TrunkSpec, int]]:
        """Every trunk of a block, with each budget that it serves."""
        design = block.design
        for params, seed, multiple, tokens in itertools.product(
            block.params, block.seeds, design.rates, design.tokens
        ):
            rate = float(f"{rates.at(self.params(params), tokens) * multiple:.4g}")
            trunk = self.trunk("student", params, rate, batch, seed, teacher_run)
            own = {"recipe": block.recipe, "split": design.split, "init": design.init}
            yield replace(trunk, purpose=block.purpose, **own), tokens

    def trunk(
        self, role: str, params: str, rate: float, batch: int, seed: int, teacher_run: str | None = None
    ) -> TrunkSpec:
        """A trunk of the study."""
        shape, counts = self._shape(params)
        return TrunkSpec(
            role=role,
            purpose="teacher" if role == "teacher" else "grid",
            label=params,
            layers=shape.layers,
            width=shape.width,
            ffn=shape.ffn,
            heads=shape.heads,
            params=counts.non_embedding,
            total_params=counts.total,
            vocab_size=self._facts.vocab_size,
            seed=seed,
            split=role,
            peak_lr=rate,
            batch_tokens=batch,
            recipe=self._spec.training,
            data_hash=self._facts.data_hash,
            teacher_run=teacher_run,
            teacher_fingerprint=self._facts.fingerprints.get(teacher_run or ""),
        )

    def params(self, params: str) -> float:
        """Non-embedding parameters of a size."""
        return float(self._shape(params)[1].non_embedding)

    def _shape(self, params: str) -> tuple[Shape, ParamCount]:
        if params not in self._shapes:
            shape = self._spec.shape(params, self._facts.vocab_size)
            self._shapes[params] = shape, count_params(shape)
        return self._shapes[params]

    # --- tuning ---------------------------------------------------------------------------------------------

    def batch_tokens(self, j: int) -> int:
        """Batch of lattice index j, a whole number of sequences."""
        context = self._spec.training.context
        return max(context, round(self._spec.batch_tokens * 2.0**j / context) * context)

    @cached_property
    def plan(self) -> TuningPlan:
        """What the study searches."""
        spec, ratio = self._spec, max(self._spec.students.tokens) / self._spec.tuning_tokens
        return TuningPlan(
            sizes=self._sizes,
            far_sizes=spec.far_sizes() if ratio > 1 else (),
            rounds=spec.tuning.rounds,
            lowest_batch=math.ceil(math.log2(spec.training.context / spec.batch_tokens) - 1e-9),
            batches=spec.tuning.batch,
            far_budget=ratio,
            guess=self._guess,
        )

    @cached_property
    def _supervised(self) -> RateSearch:
        return search_supervised(self._lookup(None), self.plan)

    def point(self, point: LatticePoint, teacher_run: str | None) -> TrunkJob:
        """The run of a lattice point."""
        spec, (arm, size, is_far), batch = self._spec, point.place, self.batch_tokens(point.batch)
        rate = float(f"{self._start(point.batch) * 2.0**point.rate:.4g}")
        if arm == "teacher":
            checked = next(t for t in spec.checked_teachers() if t.params == size)
            trunk, tokens = self._teacher_trunk(checked, rate, batch), checked.tokens
        else:
            trunk = self.trunk(
                "student", size, rate, batch, spec.seed, teacher_run if arm == "distilled" else None
            )
            tokens = max(spec.students.tokens) if is_far else spec.tuning_tokens
        return TrunkJob(trunk=replace(trunk, purpose="tuning"), budgets=(tokens,))

    def _start(self, batch: int) -> float:
        """The lattice's rate at batch index j."""
        return self._spec.peak_lr * math.sqrt(2.0**batch)

    def _lookup(self, teacher_run: str | None) -> Lookup:
        def lookup(point: LatticePoint) -> float | None:
            job = self.point(point, teacher_run)
            run_id = job.run_ids[-1]
            if run_id in self._progress.diverged:
                return math.inf
            return self._progress.losses.get(run_id)

        return lookup

    def _add_points(self, ready: ReadyJobs, search: RateSearch, teacher_run: str | None) -> None:
        """Adds the search's points, measured and needed alike."""
        points = dict.fromkeys((*search.points, *search.needed))
        ready.jobs.extend(self.point(point, teacher_run) for point in points)

    def tuned_rates(self, search: RateSearch, arm: str) -> ArmRates:
        """Tuned rates of an arm.

        Raises:
            RunError: every rate of the search diverged.
        """
        for size in self._sizes:
            best = search.best(Place(arm, size))
            if math.isinf(search.points[best]):
                trunk = self.point(best, None).trunk
                raise RunError(
                    f"every learning rate tried for {size} ({arm}) diverged, down to {trunk.peak_lr:g}; "
                    "lower peak_lr in the study file"
                )
        return self._arm_rates(self._optima(search), "taught" if arm == "distilled" else "text", search)

    def _optima(self, search: RateSearch) -> list[Optimum]:
        """What a search found of best rates."""
        found = []
        for place, (offset, sd, *_) in search.lowest.items():
            job = self.point(search.best(place), None)
            octaves = math.log2(job.trunk.peak_lr) + offset
            size, tokens = float(job.trunk.params), float(job.budgets[0])
            found.append(Optimum(params=size, tokens=tokens, octaves=octaves, sd=sd))
        return sorted(found, key=lambda one: (one.tokens, one.params))

    def _arm_rates(self, found: Sequence[Optimum], kind: str, search: RateSearch) -> ArmRates:
        exact = {}
        for place in search.lowest:
            job = self.point(search.best(place), None)
            if search.serves(place):
                exact[float(job.trunk.params), job.budgets[0]] = job.trunk.peak_lr
        return ArmRates(
            start=self._start(search.batch),
            law=fit_rate_law(found, arm=kind, params=found[0].params, tokens=found[0].tokens),
            near=self._spec.tuning_tokens,
            far=max(self._spec.students.tokens) if self.plan.far_sizes else self._spec.tuning_tokens,
            exact=exact,
        )

    def _is_available(self, teacher_run: str) -> bool:
        return self._guess or teacher_run in self._facts.fingerprints or teacher_run in self._progress.losses
