"""Which trunks a study needs, and which of them can be trained now: a pure function of what is on disk.

Order: rates and batch on the supervised arm; then how teachers' rates fall, and lone students; then teachers; then the
distilled rates with one teacher; then every student from every teacher. Nothing is remembered between calls, so a
killed study continues from its folder alone.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
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
    ArmRates,
    FallingRate,
    LatticePoint,
    Lookup,
    OneRate,
    RateSearch,
    TrunkRate,
    TuningPlan,
    fall_power,
    first_fall,
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
            self._add_grid(ready, ArmRates(others=OneRate(self._spec.peak_lr)), self._spec.batch_tokens)
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
        """The supervised rates, with the fall that suits a teacher's own budget; None until it is known."""
        checked = self._spec.checked_teacher()
        if checked is None or not self.plan.far_sizes:
            return rates
        assert ready.supervised is not None
        ratio = checked.tokens / self._spec.tuning_tokens
        search = search_teacher(
            self._lookup(None),
            self.plan,
            checked.params,
            batch=ready.supervised.batch,
            start=first_fall(ratio),
        )
        ready.teacher = search
        self._add_points(ready, search, None)
        if not search.is_done:
            return None
        best = self.point(search.best("teacher", checked.params), None).trunk
        found = [*self._optima(ready.supervised, "supervised"), *self._optima(search, "teacher")]
        serves = search.serves("teacher", checked.params)
        exact = {float(best.params): TrunkRate(best.peak_lr, best.rate_power)} if serves else {}
        return self._arm_rates(found, "teacher", exact)

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
        """Adds a job per teacher size; returns label -> run id or external folder."""
        budgets: dict[tuple[str, str], set[int]] = {}
        names: dict[str, str] = {}
        for teacher in self._spec.teachers:
            if teacher.path:
                names[teacher.label] = teacher.source
                continue
            budgets.setdefault((teacher.params, teacher.split), set()).add(teacher.tokens)
            rate = rates.at(self.params(teacher.params))
            names[teacher.label] = self._teacher_trunk(teacher, rate, batch).run_id(teacher.tokens)
        for (params, split), tokens in budgets.items():
            rate = rates.at(self.params(params))
            trunk = self._teacher_trunk(TeacherSpec(params=params, split=split), rate, batch)
            ready.jobs.append(TrunkJob(trunk=trunk, budgets=tuple(sorted(tokens))))
        return names

    def _teacher_trunk(self, teacher: TeacherSpec, rate: TrunkRate, batch: int) -> TrunkSpec:
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
            for trunk in self._block_trunks(block, rates, batch, teacher_run):
                key = trunk.trunk_id, block.design.holdout
                wanted.setdefault(key, (trunk, set()))[1].update(block.design.tokens)
        for trunk, tokens in wanted.values():
            ready.jobs.append(TrunkJob(trunk=trunk, budgets=tuple(sorted(tokens))))

    def _block_trunks(
        self, block: DesignBlock, rates: ArmRates, batch: int, teacher_run: str | None
    ) -> Iterator[TrunkSpec]:
        design = block.design
        for params, seed, multiple in itertools.product(block.params, block.seeds, design.rates):
            rate = rates.at(self.params(params))
            if multiple != 1:
                rate = rate._replace(peak=rate.peak * multiple).rounded()
            trunk = self.trunk("student", params, rate, batch, seed, teacher_run)
            own = {"recipe": block.recipe, "split": design.split, "init": design.init}
            yield replace(trunk, purpose=block.purpose, **own)

    def trunk(
        self, role: str, params: str, rate: TrunkRate, batch: int, seed: int, teacher_run: str | None = None
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
            peak_lr=rate.peak,
            batch_tokens=batch,
            rate_power=rate.power,
            rate_tokens=self._spec.tuning_tokens if rate.power else 0,
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
        """The trunk of a lattice point, to the search's budget or, far points, to all budgets of the grid."""
        spec, batch = self._spec, self.batch_tokens(point.batch)
        if point.arm == "teacher":
            return self._teacher_point(point, batch)
        peak = spec.peak_lr * 2.0**point.rate * math.sqrt(2.0**point.batch)
        rate = TrunkRate(peak, fall_power(point.fall, self.plan.far_budget)).rounded()
        source = teacher_run if point.arm == "distilled" else None
        trunk = self.trunk("student", point.size, rate, batch, spec.seed, source)
        near, budgets = spec.tuning_tokens, spec.students.tokens
        wanted = sorted({near, *budgets}) if point.is_far else (near,)
        return TrunkJob(trunk=replace(trunk, purpose="tuning"), budgets=tuple(wanted))

    def _teacher_point(self, point: LatticePoint, batch: int) -> TrunkJob:
        checked = self._spec.checked_teacher()
        assert checked is not None
        own = self.tuned_rates(self._supervised, "supervised").others(self.params(checked.params))
        power = fall_power(point.fall, checked.tokens / self._spec.tuning_tokens)
        rate = own.rounded()._replace(power=power).rounded()
        same = [t for t in self._spec.teachers if (t.params, t.split) == (checked.params, checked.split)]
        trunk = replace(self._teacher_trunk(checked, rate, batch), purpose="tuning")
        return TrunkJob(trunk=trunk, budgets=tuple(sorted({teacher.tokens for teacher in same})))

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
        """Tuned rate and fall of an arm.

        Raises:
            RunError: every rate of the search diverged.
        """
        exact: dict[float, TrunkRate] = {}
        for size in self._sizes:
            key = arm, size
            near = LatticePoint(arm, size, search.rate[key], search.batch, self.plan.start_fall(arm))
            trunk = self.point(near, None).trunk
            if math.isinf(search.points[near]):
                raise RunError(
                    f"every learning rate tried for {size} ({arm}) diverged, down to {trunk.peak_lr:g}; "
                    "lower peak_lr in the study file"
                )
            if key in search.fall:
                trunk = self.point(search.best(arm, size), None).trunk
            if (key in search.fall or not self.plan.far_sizes) and search.serves(*key):
                exact[float(trunk.params)] = TrunkRate(trunk.peak_lr, trunk.rate_power)
        return self._arm_rates(self._optima(search, arm), arm, exact)

    def _optima(self, search: RateSearch, arm: str) -> list[Optimum]:
        """What a search found of an arm's best rates."""
        found = []
        for key, (offset, sd, *_) in search.lowest.items():
            name, size, what = key
            if name != arm:
                continue
            fall = self.plan.start_fall(arm)
            best = (
                search.best(*key[:2])
                if what == "fall"
                else LatticePoint(arm, size, search.rate[arm, size], search.batch, fall)
            )
            job = self.point(best, None)
            trunk, tokens = job.trunk, job.budgets[-1]
            found.append(
                Optimum(
                    params=float(trunk.params),
                    tokens=self._branching(tokens),
                    octaves=math.log2(trunk.branch_lr(tokens)) + offset,
                    sd=sd,
                )
            )
        return sorted(found, key=lambda one: (one.tokens, one.params))

    def _branching(self, tokens: int) -> float:
        """Where a budget branches off, or where rates begin to fall if that is later."""
        return max((1 - self._spec.training.cooldown) * tokens, float(self._spec.tuning_tokens))

    def _arm_rates(self, found: Sequence[Optimum], arm: str, exact: Mapping[float, TrunkRate]) -> ArmRates:
        first, spec = found[0], self._spec
        kind = "taught" if arm == "distilled" else "text"
        law = fit_rate_law(found, arm=kind, params=first.params, tokens=first.tokens)
        start = self._branching(spec.tuning_tokens)
        trained = [t.tokens for t in spec.teachers if not t.path]
        largest = max(trained) if arm == "teacher" else max(spec.students.tokens)
        end = self._branching(largest) if self.plan.far_sizes else start
        return ArmRates(others=FallingRate(law, start, end), exact=exact, smallest_params=law.params)

    def _is_available(self, teacher_run: str) -> bool:
        return self._guess or teacher_run in self._facts.fingerprints or teacher_run in self._progress.losses
