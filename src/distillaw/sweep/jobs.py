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

from distillaw.accounting.architecture import ParamCount, count_params
from distillaw.errors import RunError
from distillaw.laws.rates import Optimum, fit_rate_law
from distillaw.runs.spec import TrunkSpec
from distillaw.shapes import Shape
from distillaw.sweep.ready import Facts, Progress, ReadyJobs, TrunkJob, release
from distillaw.sweep.spec import NONE, DesignBlock, Lesson, StudySpec, TeacherSpec
from distillaw.sweep.tuning import (
    STEP,
    TAUGHT,
    ArmRates,
    CutRates,
    LatticePoint,
    Lookup,
    Rates,
    RateSearch,
    SearchPlace,
    TuningPlan,
    search_students,
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
            holdout: whether held-out students may be trained (their predictions are frozen).
            guess: take searches without an answer to stay where they are, and what is not trained to be there: the
                whole study as far as it can be foreseen.
        """
        self._spec, self._facts, self._progress, self._holdout = spec, facts, progress, holdout
        self._guess = guess
        self._sizes = spec.tuned_sizes()
        self._shapes: dict[str, tuple[Shape, ParamCount]] = {}
        self._models: dict[str, str] = {}
        """Label of a teacher, or of the reference -> run id or external source."""
        self._tuned: dict[str, Lesson] = {}
        """Arm -> where its rates are searched."""

    def ready_jobs(self) -> ReadyJobs:
        """The jobs whose inputs are decided, the most urgent first.

        Raises:
            RunError: every rate of a search diverged.
        """
        ready = ReadyJobs(jobs=[], waiting=[])
        if self._spec.tuning.enabled:
            self._add_tuned(ready)
        else:
            rates, batch = ArmRates(start=self._spec.peak_lr), self._spec.batch_tokens
            self._add_teachers(ready, rates, batch)
            for arm in dict.fromkeys(("fresh", *self._spec.students.starts)):  # controls are fresh
                self._add_lessons(ready, rates, batch, self._spec.lessons(arm))
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
        self._add_lessons(ready, rates, batch, [Lesson("fresh")])
        of_teachers = self._teacher_rates(ready, rates)
        if of_teachers is None:
            ready.waiting.append("teachers wait for their rate")
            return
        self._add_teachers(ready, of_teachers, batch)
        self._add_distilled(ready, search.batch)
        self._add_cuts(ready, search.batch)

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

    def _add_distilled(self, ready: ReadyJobs, batch_index: int) -> None:
        """Tune the distilled arm with one teacher, then add the students of all."""
        middle = self._spec.middle_teacher(self._failed)
        if middle is None or not any("fresh" in block.starts for block in self._spec.blocks()):
            return
        ready.reference = self._models[middle.label]
        ready.distilled = search = self._search(ready, Lesson("fresh", middle.label), batch_index)
        if search is not None and search.rates_known:
            rates = self.tuned_rates(search, "distilled")
            self._add_lessons(ready, rates, self.batch_tokens(search.batch), self._spec.lessons("fresh")[1:])
        elif search is not None:
            ready.waiting.append("distilled students wait for their rate")

    @property
    def _failed(self) -> list[str]:
        """Labels of the teachers whose training failed."""
        dead = self._progress.failures.keys() | self._progress.diverged
        return [label for label, name in self._models.items() if name in dead]

    def _add_cuts(self, ready: ReadyJobs, batch_index: int) -> None:
        """Tune the arms that are cut, alone and from one teacher, then add the students of all."""
        for arm in self._spec.students.starts:
            if arm == "fresh":
                continue
            searches: dict[Lesson, RateSearch | None] = {}
            for tuned in self._spec.tuned_lessons(arm, self._failed):
                searches[tuned] = self._search(ready, tuned, batch_index)
            ready.cuts |= {tuned.name: search for tuned, search in searches.items() if search is not None}
            for is_alone in (True, False):
                alike = {one: search for one, search in searches.items() if (one.label == NONE) == is_alone}
                lessons = [one for one in self._spec.lessons(arm) if (one.label == NONE) == is_alone]
                self._add_cut(ready, alike, lessons)

    def _add_cut(self, ready: ReadyJobs, searches: dict[Lesson, RateSearch | None], lessons: Sequence[Lesson]) -> None:
        """Adds students of a cut arm, each at the rates that were searched for its cut, or between them."""
        known = {one: search for one, search in searches.items() if search is not None and search.rates_known}
        if known != searches or not known:
            ready.waiting += [f"{one.name} students wait for their rate" for one in searches if one not in known]
            return
        mild, *deepest = known
        own = self.tuned_rates(known[mild], mild.name)
        batch, sizes = self.batch_tokens(known[mild].batch), self._spec.teacher_sizes()
        for lesson in lessons:
            rates: Rates = own
            if deepest and lesson.source in sizes:
                most = deepest[0]
                octaves = math.log2(sizes[lesson.source] / sizes[mild.source])
                depth = octaves / math.log2(sizes[most.source] / sizes[mild.source])
                rates = CutRates(
                    mild=own, deepest=self.tuned_rates(known[most], most.name), depth=min(max(depth, 0.0), 1.0)
                )
            self._add_lessons(ready, rates, batch, [lesson])

    def _search(self, ready: ReadyJobs, lesson: Lesson, batch_index: int) -> RateSearch | None:
        """The search for the rates of an arm, as far as it is; None while what it takes is not there."""
        if missing := self._missing(lesson):
            ready.waiting.append(f"the {lesson.name} arm's rates wait for {missing}")
            return None
        self._tuned[lesson.name] = lesson
        search = search_students(lesson.name, self._lookup(self._teacher_run(lesson)), self.plan, batch=batch_index)
        self._add_points(ready, search, self._teacher_run(lesson))
        return search

    def _missing(self, lesson: Lesson) -> str:
        """The model that students wait for; empty where none."""
        wanted = [self._models[label] for label in (lesson.label, lesson.source) if label not in ("", NONE)]
        there = (self._facts.fingerprints, self._progress.losses)
        return next((name for name in wanted if not self._guess and all(name not in known for known in there)), "")

    def _teacher_run(self, lesson: Lesson) -> str | None:
        return None if lesson.label == NONE else self._models[lesson.label]

    def _add_teachers(self, ready: ReadyJobs, rates: Rates, batch: int) -> None:
        """Adds the teachers trained here, and notes where each is."""
        wanted: dict[str, tuple[TrunkSpec, set[int]]] = {}
        names = self._models
        if (reference := self._spec.reference) is not None and reference.path:
            names[reference.label] = reference.source
        for teacher in self._spec.teachers:
            if teacher.path:
                names[teacher.label] = teacher.source
                continue
            trunk = self._teacher_trunk(teacher, rates.at(self.params(teacher.params), teacher.tokens), batch)
            wanted.setdefault(trunk.trunk_id, (trunk, set()))[1].add(teacher.tokens)
            names[teacher.label] = trunk.run_id(teacher.tokens)
        ready.jobs += [TrunkJob(trunk=trunk, budgets=tuple(sorted(tokens))) for trunk, tokens in wanted.values()]

    def _teacher_trunk(self, teacher: TeacherSpec, rate: float, batch: int) -> TrunkSpec:
        trunk = self.trunk("teacher", teacher.params, rate, batch, self._spec.seed)
        return replace(trunk, split=teacher.split)

    def _add_lessons(self, ready: ReadyJobs, rates: Rates, batch: int, lessons: Sequence[Lesson]) -> None:
        """Adds the students of each lesson whose models are there; of those that are not it is said."""
        for lesson in lessons:
            if not self._missing(lesson):
                self._add_students(ready, rates, batch, lesson)
            elif lesson.arm == "fresh":
                ready.waiting.append(f"students of {lesson.label} wait for their teacher")
            else:
                ready.waiting.append(f"{lesson.name} students wait for {self._missing(lesson)}")

    def _add_students(self, ready: ReadyJobs, rates: Rates, batch: int, lesson: Lesson) -> None:
        """Adds a job per trunk and purpose of a lesson, with every budget that the blocks of the study want.

        A control at a rate that the grid has at another budget shares its trunk, and stays a control. What two blocks
        want is the first one's.
        """
        wanted: dict[tuple[str, str], tuple[TrunkSpec, set[int]]] = {}
        purposes: dict[str, str] = {}
        for block in self._spec.blocks():
            if not block.wants(lesson) or (block.design.holdout and not self._holdout):
                continue
            for trunk, tokens in self._block_trunks(block, rates, batch, lesson):
                if purposes.setdefault(trunk.run_id(tokens), trunk.purpose) == trunk.purpose:
                    wanted.setdefault((trunk.trunk_id, trunk.purpose), (trunk, set()))[1].add(tokens)
        for trunk, tokens in wanted.values():
            ready.jobs.append(TrunkJob(trunk=trunk, budgets=tuple(sorted(tokens))))

    def _block_trunks(
        self, block: DesignBlock, rates: Rates, batch: int, lesson: Lesson
    ) -> Iterator[tuple[TrunkSpec, int]]:
        """Every trunk of a block, with each budget that it serves."""
        design = block.design
        cut_out = next((t for t in self._spec.teachers if t.label == lesson.source), None)
        for params, seed, multiple, tokens in itertools.product(block.params, block.seeds, design.rates, design.tokens):
            if cut_out is not None and not self._spec.can_cut(cut_out, params):
                continue
            tuned = design.peak_lr or rates.at(self.params(params), tokens)
            rate = float(f"{tuned * multiple:.4g}")
            trunk = self.trunk("student", params, rate, batch, seed, self._teacher_run(lesson))
            trunk = replace(trunk, init=design.init) if lesson.arm == "fresh" else self._cut(trunk, lesson)
            yield replace(trunk, purpose=block.purpose, recipe=block.recipe, split=design.split), tokens

    def _cut(self, trunk: TrunkSpec, lesson: Lesson) -> TrunkSpec:
        """The trunk with its first weights cut as the lesson says."""
        source, by = self._models[lesson.source], self._spec.students.criterion
        trunk = replace(trunk, init="pruned", cut_by=by, is_fixed=lesson.arm == "fixed")
        if source == trunk.teacher_run:
            return trunk
        return replace(trunk, cut_from=source, cut_fingerprint=self._facts.fingerprints.get(source))

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
            tuned = self._tuned.get(arm)
            taught = teacher_run if arm == "distilled" else self._teacher_run(tuned) if tuned else None
            trunk = self.trunk("student", size, rate, batch, spec.seed, taught)
            if tuned is not None and tuned.source:
                trunk = self._cut(trunk, tuned)
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
            best = search.best(SearchPlace(arm, size))
            if math.isinf(search.points[best]):
                trunk = self.point(best, None).trunk
                raise RunError(
                    f"every learning rate tried for {size} ({arm}) diverged, down to {trunk.peak_lr:g}; "
                    "lower peak_lr in the study file"
                )
        return self._arm_rates(self._optima(search), "taught" if arm in TAUGHT else "text", search)

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
