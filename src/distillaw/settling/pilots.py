"""Pilots of a settlement as ordinary runs of a study folder: the search for a rate, then one stage after another.

Runs of one seed read one stream, so that every difference is paired; budgets that want one rate share a trunk, and one
of an earlier stage goes on from its checkpoint. Nothing is remembered between calls: what was trained is on disk, and
asking again gives the rest.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from distillaw.data.shards import TokenStore
from distillaw.errors import RunError
from distillaw.runs.files import read_json
from distillaw.runs.paired import paired_difference
from distillaw.runs.spec import TrunkSpec
from distillaw.runs.store import StudyFolder
from distillaw.settling.noise import KINDS, RateCheck, Rates
from distillaw.settling.question import NONE, PilotRun, Stage
from distillaw.sweep.cost import StudyCost, external_forward, jobs_cost
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import NOTHING, Facts, Progress, ReadyJobs, TrunkJob, left_of, one_per_trunk
from distillaw.sweep.spec import StudySpec
from distillaw.sweep.study import read_progress, tuning_record
from distillaw.sweep.tuning import RateSearch, SearchPlace
from distillaw.worlds.oracle import find_oracle, is_oracle, parse_oracle
from distillaw.worlds.world import open_world

Train = Callable[[Callable[[], ReadyJobs]], object]
"""Trains the jobs that are ready: `Scheduler.run`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The recipe of every pilot, as the search left it."""

    rates: Rates
    batch_tokens: int
    flops: float
    """What the search has cost; 0 where there was none."""
    tuning: Mapping[str, object]
    """tuning.json: what was tried."""
    run_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pilots:
    """Stages as runs of one study folder."""

    spec: StudySpec
    """Text, recipe, teachers (all of them exist) and the search; its one student size is where rates are searched."""
    facts: Facts
    study: StudyFolder
    forward: Mapping[str, float]
    """Teacher, as runs name it -> FLOP of one forward pass, per token."""

    def search(self, train: Train) -> Tuned:
        """Search the rate of both arms at the spec's one size; without a search, what the spec starts from.

        Raises:
            RunError: every rate diverged, or a run failed.
        """
        if self.spec.tuning.enabled:
            train(self._ready_search)
            self._refuse_failures(self._ready_search().jobs)
        return self.foreseen()

    def usual_search(self) -> StudyCost:
        """What the search costs in all if it need not move far from its start; nothing is trained."""
        return self.cost(self._search_jobs(NOTHING))

    def search_left(self) -> StudyCost:
        """What of it is still to be trained."""
        progress = read_progress(self.study)
        ended, jobs = progress.losses.keys() | progress.diverged, self._search_jobs(progress)
        return replace(self.cost(left_of(jobs, ended)), wanted=jobs)

    def _search_jobs(self, progress: Progress) -> list[TrunkJob]:
        """The search as far as it can be foreseen, a job per trunk."""
        jobs = Planner(self.spec, self.facts, progress, guess=True).ready_jobs().jobs
        return one_per_trunk([job for job in jobs if job.trunk.purpose == "tuning"])

    def missing(self, jobs: list[TrunkJob]) -> list[TrunkJob]:
        """Those that still have something to train."""
        states = {run_id: self.study.run(run_id).state() for job in jobs for run_id in job.run_ids}
        return [job for job in jobs if any(states[run_id] in ("planned", "running") for run_id in job.run_ids)]

    def _ready_search(self) -> ReadyJobs:
        """What the search still needs, until the rates of both arms are known."""
        ready = Planner(self.spec, self.facts, read_progress(self.study)).ready_jobs()
        is_known = ready.distilled is not None and ready.distilled.rates_known
        ready.jobs = [] if is_known else [job for job in ready.jobs if job.trunk.purpose == "tuning"]
        return ready

    def foreseen(self) -> Tuned:
        """What the search has found; what is not trained yet is taken to leave it where it stands."""
        planner = Planner(self.spec, self.facts, read_progress(self.study), guess=True)
        ready = planner.ready_jobs() if self.spec.tuning.enabled else ReadyJobs(jobs=[], waiting=[])
        tuning = tuning_record(self.spec, planner, ready)
        if ready.supervised is None or ready.distilled is None:
            rate, at = self.spec.peak_lr, (planner.params(self.spec.students.params[0]), self.spec.tuning_tokens)
            rates = Rates(**{arm: RateCheck.unsearched(arm, rate, *at) for arm in KINDS})
            return Tuned(rates=rates, batch_tokens=self.spec.batch_tokens, flops=0.0, tuning=tuning)
        searches = {"supervised": (ready.supervised, None), "distilled": (ready.distilled, ready.reference)}
        jobs = one_per_trunk(
            [planner.point(point, source) for search, source in searches.values() for point in search.points]
        )
        return Tuned(
            rates=Rates(**{arm: self._check(planner, search, arm) for arm, (search, _) in searches.items()}),
            batch_tokens=planner.batch_tokens(ready.supervised.batch),
            flops=self.cost(jobs).flops,
            tuning=tuning,
            run_ids=tuple(run_id for job in jobs for run_id in job.run_ids),
        )

    def _check(self, planner: Planner, search: RateSearch, arm: str) -> RateCheck:
        """What a search says of the rate of an arm: up to where, and how steep the loss is around the best one."""
        rates = planner.tuned_rates(search, arm)
        assert rates.law is not None, "a search has found something"
        near, far = (SearchPlace(arm, self.spec.students.params[0], is_far) for is_far in (False, True))
        is_far = search.interior.get(far, False)
        best = search.best(far if is_far else near)
        points = [best._replace(rate=best.rate + octave) for octave in (-1, 0, 1)]
        lower, here, higher = (search.points.get(point, math.inf) for point in points)
        bend = (lower + higher) / 2 - here
        return RateCheck(
            arm=arm,
            rates=rates,
            law=rates.law,
            checked=float(max(self.spec.students.tokens)) if is_far else None,
            steepness=bend if math.isfinite(bend) else None,
        )

    # --- stages ---------------------------------------------------------------------------------------------

    def jobs(self, stage: Stage, tuned: Tuned) -> list[TrunkJob]:
        """The trunks of a stage: no teacher and every candidate, each with every seed, as many as there are rates."""
        jobs = [TrunkJob(trunk=self._trunk(*run, tuned), budgets=(run[-1],)) for run in stage.runs]
        return sorted(one_per_trunk(jobs), key=lambda job: job.urgency)

    def _trunk(self, label: str, name: str, seed: int, tokens: int, tuned: Tuned) -> TrunkSpec:
        planner = Planner(self.spec, self.facts, NOTHING)
        source = None if name == NONE else next(t.source for t in self.spec.teachers if t.label == name)
        rate = tuned.rates.of(0 if source is None else 1).rates.at(planner.params(label), tokens)
        return planner.trunk("student", label, rate, tuned.batch_tokens, self.spec.seed + seed, source)

    def run(self, stage: Stage, tuned: Tuned, train: Train) -> None:
        """Train whatever a stage still lacks; a trunk that diverges is a finding.

        Raises:
            RunError: a run failed for another reason, or training without a teacher diverged.
        """
        jobs = self.jobs(stage, tuned)
        train(lambda: ReadyJobs(jobs=jobs, waiting=[]))
        self._refuse_failures(jobs)

    def _refuse_failures(self, jobs: list[TrunkJob]) -> None:
        failures = read_progress(self.study).failures
        failed = next((run_id for job in jobs for run_id in job.run_ids if run_id in failures), None)
        if failed is not None:
            raise RunError(
                f"the pilot {failed} failed: {failures[failed]}. Everything finished is kept; the same command tries "
                "it again"
            )

    def results(self, stage: Stage, tuned: Tuned) -> list[PilotRun]:
        """The runs of a finished stage, each beside the one without a teacher.

        Raises:
            RunError: training without a teacher diverged.
        """
        return [self._result(*run, tuned) for run in stage.runs]

    def _result(self, label: str, name: str, seed: int, tokens: int, tuned: Tuned) -> PilotRun:
        trunk = self._trunk(label, name, seed, tokens, tuned)
        run_id = trunk.run_id(tokens)
        result = self.study.run(run_id).result()
        if result is None and name == NONE:
            raise RunError(
                f"training without a teacher diverged ({run_id}), so nothing can be compared with it: lower peak_lr "
                f"(now {trunk.peak_lr:g}) and use another folder"
            )
        row = PilotRun(candidate=name, params=trunk.params, tokens=tokens, seed=seed, loss=math.inf, run_id=run_id)
        if result is None:
            return row
        row = replace(row, tokens=float(result["tokens"]), loss=float(result["loss"]))
        if name == NONE:
            return row
        alone = self._trunk(label, NONE, seed, tokens, tuned).run_id(tokens)
        pair = (self.study.run(one).scores() for one in (alone, run_id))
        return replace(row, gain_se=paired_difference(*pair).se)

    def cost(self, jobs: list[TrunkJob]) -> StudyCost:
        """FLOP, time and disk of some jobs, teachers' forward passes included."""
        return jobs_cost(jobs, self.forward)


def teacher_costs(spec: StudySpec) -> dict[str, float]:
    """FLOP of one forward pass of every external teacher, per token; an oracle of a wanted loss is found for it."""
    context, found = spec.training.context, {}
    for name in spec.external_teachers():
        if is_oracle(name):
            assert spec.data.world is not None, "check_study refuses an oracle for a text that is no world's"
            found[name] = find_oracle(open_world(spec.data.world), parse_oracle(name), context).flops_per_token
        else:
            found[name] = external_forward(name, context)
    return found


def teacher_losses(spec: StudySpec, store: TokenStore, facts: Facts, study: StudyFolder) -> dict[str, float]:
    """Held-out loss of every external teacher by its name, nats/token; measured once per set of weights."""
    from distillaw.train.trunk import score_teacher, teacher_file

    found, context = {}, spec.training.context
    for one in spec.teachers:
        file: Path = teacher_file(study, facts.fingerprints[one.source])
        if not file.exists():
            from transformers.utils.logging import disable_progress_bar

            from distillaw.data.tokenizer import load_tokenizer
            from distillaw.models.scoring import make_heldout
            from distillaw.models.teacher import load_any_teacher

            disable_progress_bar()
            tokenizer = load_tokenizer(str(store.tokenizer_folder))
            teacher = load_any_teacher(one.source, store, tokenizer, context=context)
            score_teacher(teacher, make_heldout(store.heldout_documents(), context=context), file)
        found[one.label] = float(read_json(file)["loss"])
    return found
