"""Which trunks a study needs, and which of them can be trained now: a pure function of what is on disk.

Order: rates and batch on the supervised arm; then teachers and lone students; then the distilled rates with
one teacher; then every student from every teacher. Nothing is remembered between calls, so a killed study
continues from its folder alone.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from distillaw.accounting.params import count_params
from distillaw.errors import RunError
from distillaw.runs.spec import TrunkSpec
from distillaw.sweep.early_stop import release
from distillaw.sweep.spec import Block, StudySpec
from distillaw.sweep.tables import NONE, TeacherSpec
from distillaw.sweep.tuning import Search, search_distilled, search_supervised, transfer_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What jobs depend on besides the study file."""

    vocab_size: int
    data_hash: str
    fingerprints: Mapping[str, str]
    """External teacher, as runs name it -> hash of its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is on disk."""

    losses: Mapping[str, float]
    """Finished run id -> held-out loss."""
    failures: Mapping[str, str]
    """Failed run id -> its error, divergence aside."""
    diverged: frozenset[str] = frozenset()
    """Runs whose loss or gradient ceased to be finite: to a search they are the worst there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One trunk and the budgets wanted from it: the unit a worker takes."""

    trunk: TrunkSpec
    budgets: tuple[int, ...]

    @property
    def run_ids(self) -> list[str]:
        """Runs this job makes."""
        return [self.trunk.run_id(tokens) for tokens in self.budgets]

    @property
    def tokens(self) -> float:
        """Tokens it trains on: (1 - c) of the largest budget, and c of every budget."""
        cooldown = self.trunk.recipe.cooldown
        return (1 - cooldown) * max(self.budgets) + cooldown * sum(self.budgets)

    @property
    def urgency(self) -> tuple[bool, bool, float]:
        """Sorts jobs: tuning before teachers before students, and the longest first, so that no core ends alone."""
        trunk = self.trunk
        return trunk.purpose != "tuning", trunk.role != "teacher", -self.tokens * trunk.total_params


@dataclass(slots=True, kw_only=True)
class Board:
    """All jobs known at this moment, in the order they should start."""

    jobs: list[Job]
    """Every job whose inputs are decided (finished ones included)."""
    waiting: list[str]
    """What cannot be decided yet, in words."""
    stopped: list[str] = field(default_factory=list)
    """Students that get no longer budget (`early_stop`), and why."""
    supervised: Search | None = None
    distilled: Search | None = None
    reference: str | None = None
    """Run (or folder) of the teacher that the distilled arm is tuned with."""


class Planner:
    """Turns a study, its facts and its progress into jobs."""

    def __init__(self, spec: StudySpec, facts: Facts, progress: Progress, *, holdout: bool = True) -> None:
        """A planner of one moment.

        Args:
            spec: the study.
            facts: what else jobs depend on.
            progress: what is on disk.
            holdout: whether held-out students may be trained (their predictions are frozen).
        """
        self._spec, self._facts, self._progress, self._holdout = spec, facts, progress, holdout
        self._sizes = spec.end_sizes()

    def board(self) -> Board:
        """The jobs whose inputs are decided, the most urgent first.

        Raises:
            RunError: every rate of a search diverged.
        """
        board = Board(jobs=[], waiting=[])
        if self._spec.tuning.enabled:
            self._add_tuned(board)
        else:
            self._add_grid(board, self._fixed_rates(), self._spec.batch_tokens)
        self._stop_hopeless(board)
        board.jobs.sort(key=lambda job: job.urgency)
        return board

    def _stop_hopeless(self, board: Board) -> None:
        """Release the grid's budgets one by one, to those that may still win (`early_stop`)."""
        margin = self._spec.early_stop.margin
        if margin == 0:
            return
        grid = [job for job in board.jobs if (job.trunk.role, job.trunk.purpose) == ("student", "grid")]
        others = [job for job in board.jobs if job not in grid]
        released, board.stopped = release(
            grid, self._progress.losses, self._progress.diverged | self._progress.failures.keys(), margin=margin,
            is_complete=not board.waiting,
        )  # fmt: skip
        board.jobs = [*others, *released]

    def _add_tuned(self, board: Board) -> None:
        spec = self._spec
        lowest = math.ceil(math.log2(spec.training.context / spec.batch_tokens) - 1e-9)
        rounds = spec.tuning.rounds
        search = search_supervised(self._lookup(None), self._sizes, rounds=rounds, lowest_batch=lowest,
                                   batches=spec.tuning.batch)  # fmt: skip
        board.supervised = search
        self._add_points(board, search, None)
        if not search.is_done:
            board.waiting.append("teachers and students wait for the supervised rate and batch")
            return
        batch = self.batch_tokens(search.batch)
        supervised = self.tuned_rates(search, "supervised")
        teachers = self._add_teachers(board, supervised, batch)
        self._add_students(board, supervised, batch, None, NONE)
        self._add_distilled(board, teachers, search.batch, rounds, lowest)

    def _add_distilled(
        self, board: Board, teachers: dict[str, str], batch_index: int, rounds: int, lowest: int
    ) -> None:
        """Tune the distilled arm with one teacher, then add the students of all."""
        board.reference = self._reference(teachers)
        if board.reference is None:
            return
        if not self._is_available(board.reference):
            board.waiting.append(f"the distilled arm's rates wait for {board.reference}")
            return
        search = search_distilled(
            self._lookup(board.reference), self._sizes, batch=batch_index, rounds=rounds, lowest_batch=lowest,
            batches=self._spec.tuning.batch,
        )  # fmt: skip
        board.distilled = search
        self._add_points(board, search, board.reference)
        if search.rates_known:
            rates = self.tuned_rates(search, "distilled")
            self._add_distilled_students(board, teachers, rates, self.batch_tokens(batch_index))
        else:
            board.waiting.append("distilled students wait for their rate")

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
        self, board: Board, teachers: dict[str, str], rates: dict[float, float], batch: int
    ) -> None:
        for label, teacher_run in teachers.items():
            if self._is_available(teacher_run):
                self._add_students(board, rates, batch, teacher_run, label)
            else:
                board.waiting.append(f"students of {label} wait for their teacher")

    def _add_grid(self, board: Board, rates: dict[float, float], batch: int) -> None:
        teachers = self._add_teachers(board, rates, batch)
        self._add_students(board, rates, batch, None, NONE)
        self._add_distilled_students(board, teachers, rates, batch)

    def _add_teachers(self, board: Board, rates: dict[float, float], batch: int) -> dict[str, str]:
        """Adds a job per teacher size; returns label -> run id or external folder."""
        budgets: dict[tuple[str, str], set[int]] = {}
        names: dict[str, str] = {}
        for teacher in self._spec.teachers:
            if teacher.path:
                names[teacher.label] = teacher.source
                continue
            budgets.setdefault((teacher.params, teacher.split), set()).add(teacher.tokens)
            names[teacher.label] = self._teacher_trunk(teacher, rates, batch).run_id(teacher.tokens)
        for (params, split), tokens in budgets.items():
            trunk = self._teacher_trunk(TeacherSpec(params=params, split=split), rates, batch)
            board.jobs.append(Job(trunk=trunk, budgets=tuple(sorted(tokens))))
        return names

    def _teacher_trunk(self, teacher: TeacherSpec, rates: dict[float, float], batch: int) -> TrunkSpec:
        trunk = self.trunk("teacher", teacher.params, rates, batch, self._spec.seed, None)
        return replace(trunk, split=teacher.split)

    def _add_students(
        self, board: Board, rates: dict[float, float], batch: int, teacher_run: str | None, label: str
    ) -> None:
        """Adds a job per trunk of this teacher's students, with every budget that the blocks of the study want."""
        wanted: dict[tuple[str, bool], tuple[TrunkSpec, set[int]]] = {}
        for block in self._spec.blocks():
            if label not in block.teachers or (block.cells.holdout and not self._holdout):
                continue
            for trunk in self._block_trunks(block, rates, batch, teacher_run):
                key = trunk.trunk_id, block.cells.holdout
                wanted.setdefault(key, (trunk, set()))[1].update(block.cells.tokens)
        for trunk, tokens in wanted.values():
            board.jobs.append(Job(trunk=trunk, budgets=tuple(sorted(tokens))))

    def _block_trunks(
        self, block: Block, rates: dict[float, float], batch: int, teacher_run: str | None
    ) -> Iterator[TrunkSpec]:
        cells = block.cells
        for params, seed, rate in itertools.product(block.params, block.seeds, cells.rates):
            trunk = self.trunk("student", params, rates, batch, seed, teacher_run, purpose=block.purpose)
            yield replace(
                trunk, recipe=block.recipe, split=cells.split, init=cells.init,
                peak_lr=trunk.peak_lr if rate == 1 else float(f"{trunk.peak_lr * rate:.4g}"),
            )  # fmt: skip

    def trunk(
        self, role: str, params: str, rates: dict[float, float], batch: int, seed: int, teacher_run: str | None,
        *, peak_lr: float | None = None, purpose: str = "",
    ) -> TrunkSpec:  # fmt: skip
        """A trunk of the study; without a rate of its own, with the one that `rates` (by exact size) come to."""
        shape = self._spec.shape(params, self._facts.vocab_size)
        counts = count_params(shape)
        return TrunkSpec(
            role=role, purpose=purpose or ("teacher" if role == "teacher" else "grid"), label=params,
            layers=shape.layers, width=shape.width, ffn=shape.ffn, heads=shape.heads, params=counts.non_embedding,
            total_params=counts.total, vocab_size=self._facts.vocab_size, seed=seed, split=role,
            peak_lr=peak_lr or transfer_rate(rates, counts.non_embedding), batch_tokens=batch,
            recipe=self._spec.training, data_hash=self._facts.data_hash, teacher_run=teacher_run,
            teacher_fingerprint=self._facts.fingerprints.get(teacher_run or ""),
        )  # fmt: skip

    # --- tuning ---------------------------------------------------------------------------------------------

    def batch_tokens(self, j: int) -> int:
        """Batch of lattice index j, a whole number of sequences."""
        context = self._spec.training.context
        return max(context, round(self._spec.batch_tokens * 2.0**j / context) * context)

    def point(self, arm: str, size: str, i: int, j: int, teacher_run: str | None) -> TrunkSpec:
        """The trunk of a lattice point."""
        rate = float(f"{self._spec.peak_lr * 2.0**i * math.sqrt(2.0**j):.4g}")
        return self.trunk("student", size, {}, self.batch_tokens(j), self._spec.seed,
                           teacher_run if arm == "distilled" else None, peak_lr=rate, purpose="tuning")  # fmt: skip

    def _lookup(self, teacher_run: str | None):
        def lookup(arm: str, size: str, i: int, j: int) -> float | None:
            run_id = self.point(arm, size, i, j, teacher_run).run_id(self._spec.tuning_tokens)
            return math.inf if run_id in self._progress.diverged else self._progress.losses.get(run_id)

        return lookup

    def _add_points(self, board: Board, search: Search, teacher_run: str | None) -> None:
        """Adds the search's points, measured and needed alike."""
        for arm, size, i, j in dict.fromkeys((*search.points, *search.needed)):
            trunk = self.point(arm, size, i, j, teacher_run)
            board.jobs.append(Job(trunk=trunk, budgets=(self._spec.tuning_tokens,)))

    def tuned_rates(self, search: Search, arm: str) -> dict[float, float]:
        """Tuned rate at each end size, keyed by its exact parameter count.

        Raises:
            RunError: every rate of the search diverged.
        """
        rates = {}
        for size in self._sizes:
            best = search.rate[arm, size]
            trunk = self.point(arm, size, best, search.batch, None)
            if math.isinf(search.points[arm, size, best, search.batch]):
                raise RunError(
                    f"every learning rate tried for {size} ({arm}) diverged, down to {trunk.peak_lr:g}; "
                    "lower peak_lr in the study file"
                )
            rates[float(trunk.params)] = trunk.peak_lr
        return rates

    def _fixed_rates(self) -> dict[float, float]:
        return {1.0: self._spec.peak_lr}

    def _is_available(self, teacher_run: str) -> bool:
        return teacher_run in self._facts.fingerprints or teacher_run in self._progress.losses
