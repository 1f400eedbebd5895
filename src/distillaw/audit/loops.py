"""Probes of a training loop, by its traces: what was read, in which mode, with which gradient, at which rate.

The loop trains the models of probes.py. At every step of the optimizer the gradient of each position of each sample is
read off the embedding and compared with the closed form over the samples of that update; runs with an evaluation, with
a stop and a resume, and on two ranks are held against the plain one.
"""

import copy
import itertools
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillaw.audit.contract import Contract, Training, match_roles
from distillaw.audit.findings import GENERATION, Findings, tell
from distillaw.audit.objective import Rows, closed_form
from distillaw.audit.probes import (
    SPANS,
    ForwardPass,
    ProbeLM,
    Recorder,
    Sample,
    Update,
    collate,
    make_samples,
    on_two_ranks,
)
from distillaw.audit.recognise import Mismatch, diagnose, settle
from distillaw.errors import ConfigError

KNOWN_NAMES: dict[str, tuple[str, ...]] = {
    "student": ("model", "student_model"),
    "teacher": ("teacher_model",),
    "batches": ("micro_batches", "loader", "dataloader", "train_loader"),
    "samples": ("dataset", "train_dataset"),
    "optimizer": ("opt",),
    "lr": ("learning_rate",),
    "accumulation": ("accumulation_steps", "gradient_accumulation_steps", "grad_accum", "accum", "window"),
    "updates": ("max_steps", "total_steps", "num_steps", "steps"),
    "epochs": ("num_epochs",),
    "evaluation": ("eval_batches", "eval_loader", "val_batches", "eval_dataset"),
    "eval_every": ("eval_steps",),
    "checkpoint": ("checkpoint_dir", "save_dir"),
    "resume": ("resume_from", "resume_from_checkpoint"),
    "temperature": ("T", "tau"),
    "warmup": ("warmup_steps",),
    "pad_id": ("pad_token_id",),
    "eos_id": ("eos_token_id",),
    **dict.fromkeys(("batch_size", "stop_after", "state", "rank", "world_size"), ()),
    **dict.fromkeys(("beta", "skew", "top_k", "ignore_index"), ()),
}
"""Role -> names of parameters, besides its own, that can mean nothing else."""
_OPTIONS = ("temperature", "beta", "skew", "top_k", "distill_weight", "hard_weight", "ignore_index")
_BY_GRADIENT = ("shift", "mask", "normalisation", "loss", "weights", "accumulation")
ROWS = 2
"""Samples of a micro-batch."""


@dataclass(slots=True)
class LoopTrace:
    """One run of the loop and what was recorded."""

    updates: list[Update]
    left: list[ForwardPass]
    """Calls of the student after the last step."""
    student: ProbeLM
    teacher: ProbeLM
    teacher_moved: bool
    result: Any = None


def recorded(recorder: Recorder, train: Callable[[], Any], first: ProbeLM | None = None) -> LoopTrace:
    """What a run shows; `first`: the teacher as it was, where the run opens its own."""
    before = _flat(first or recorder.teacher)
    torch.manual_seed(0)
    with recorder.listening():
        result = train()
    student, teacher = recorder.student, recorder.teacher
    moved = not torch.equal(before, _flat(teacher))
    return LoopTrace(recorder.updates, student.calls[:], student, teacher, moved, result)


def _flat(model: ProbeLM) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class LoopTarget:
    """A loop with its roles."""

    def __init__(self, function: Callable[..., Any], contract: Contract) -> None:
        """Find which parameter plays which role.

        Raises:
            ConfigError: a parameter without a default that plays none, or no models and data among the roles.
        """
        self.prepare(function, contract)
        self.roles, _ = match_roles(function, contract.target, KNOWN_NAMES, unnamed=("distill_weight", "hard_weight"))
        if "student" not in self.roles or not {"batches", "samples"} & set(self.roles):
            raise ConfigError(
                "target: a loop takes student, teacher, and batches or samples; name them under [target.arguments]"
            )

    def prepare(self, function: Any, contract: Contract) -> None:
        """Keep what is audited, and make the samples."""
        self.function, self.contract = function, contract
        self.roles: dict[str, str] = {}
        self.accumulation, self.per = contract.training.accumulation or 1, contract.training.per or "update"
        micro = max(6, 2 * self.accumulation + 2)
        spans = [SPANS[i % len(SPANS)] for i in range(ROWS * micro + 4)]
        samples, self.vocab = make_samples(spans)
        self.samples, self.held_out = samples[: ROWS * micro], samples[ROWS * micro :]

    def has(self, *roles: str) -> bool:
        """Whether it takes all of these."""
        return all(role in self.roles for role in roles)

    shares_out = False
    """Whether the target, given all samples, gives each rank its part itself."""

    @property
    def epochs(self) -> int:
        """Of the plain run."""
        return max(self.contract.training.epochs, 2 if self.has("epochs") else 1)

    @property
    def probes(self) -> dict[str, dict[str, Any]]:
        """Of which student and teacher every run begins with: arguments of `ProbeLM`."""
        # where dropout of the teacher is meant, its rows could not be told from noise
        dropout = 0.5 if self.contract.training.teacher_mode == "eval" else 0.0
        columns = self.vocab + 3 * (self.contract.objective.vocabulary != "same")
        teacher = {"ids": self.vocab, "vocab_size": columns, "seed": 2, "dropout": dropout, "scale": 2.0}
        return {"student": {"ids": self.vocab, "vocab_size": self.vocab, "seed": 1}, "teacher": teacher}

    def batch(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """A micro-batch, its labels as declared."""
        return collate(samples, inside=self.contract.objective.shift == "inside")

    def run(self, *, samples: Sequence[Sample] | None = None, **roles: Any) -> LoopTrace:
        """Run the loop once on new models; roles given here win."""
        contract, training = self.contract, self.contract.training
        student, teacher = (ProbeLM(**probe) for probe in self.probes.values())
        samples = self.samples if samples is None else samples
        batches = [self.batch(samples[i : i + ROWS]) for i in range(0, len(samples), ROWS)]
        keys = contract.target.batch
        given: dict[str, Any] = {
            "student": student,
            "teacher": teacher,
            "batches": [tuple(b[key] for key in keys) for b in batches] if keys else batches,
            "samples": [
                {"input_ids": s.ids.tolist(), "labels": s.labels.tolist(), "prompt_length": s.prompt, "index": s.index}
                for s in samples
            ],
            "lr": training.lr,
            "accumulation": training.accumulation,
            "updates": self.horizon(len(batches)),
            "epochs": self.epochs,
            "batch_size": ROWS,
            "rank": 0,
            "world_size": 1,
            "warmup": training.warmup,
            "pad_id": 0,
            "eos_id": 0,
        } | {name: getattr(contract.objective, name) for name in _OPTIONS}
        if "optimizer" in self.roles:
            how = {"lr": training.lr, "weight_decay": training.weight_decay}
            given["optimizer"] = torch.optim.SGD(student.parameters(), **how)
        given |= roles
        keywords = {name: given[role] for role, name in self.roles.items() if role in given}
        return recorded(Recorder(student, teacher), lambda: self.function(**keywords, **contract.target.options))

    @property
    def places(self) -> dict[int, tuple[Sample, int]]:
        """Token id -> its sample, and where in it."""
        return {int(i): (sample, t) for sample in self.samples for t, i in enumerate(sample.ids.tolist()) if i}

    def trained_on(self, update: Update) -> list[ForwardPass]:
        """Forward passes of the student that may be trained on."""
        known = self.places
        return [c for c in update.student if c.grad and any(i in known for i in c.ids.flatten().tolist())]

    def horizon(self, micro_batches: int) -> int:
        """Updates of a whole run."""
        per_epoch = micro_batches / self.accumulation
        drops = self.contract.training.last_window == "drop"
        return self.epochs * (math.floor(per_epoch) if drops else math.ceil(per_epoch))


def audit_runs(target: LoopTarget, name: str) -> Findings:
    """Every probe of a training loop; ConfigError: it cannot be called as the contract says."""
    findings = Findings(name, target.contract.target.kind)
    more: dict[str, Any] = {}
    if target.has("evaluation"):
        more = {"evaluation": [target.batch(target.held_out)], "eval_every": 1}
    tell("a run" + (" with evaluations" if more else ""))
    try:
        run = target.run(**more)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"target {name}: the run fails: {type(error).__name__}: {error}; see [target.arguments] and "
            "[target.options]"
        ) from error
    if not run.updates:
        raise ConfigError(f"target {name}: no optimizer step moved the student; is it trained at all?")
    tell("what the run shows")
    for looks in (_states, _data, _packing, _schedule, _steps, _gradients):
        looks(findings, run, target)
    _resumes(findings, target, run)
    _ranks(findings, target)
    why = 'probed on the loss itself: audit it as a callable (target.kind = "loss")'
    findings.close({}, dict.fromkeys(("options", "chunking", "precision"), why) | {"generation": GENERATION})
    return findings


# --- one run ------------------------------------------------------------------------------------------------


def rows_of(
    update: Update, calls: Sequence[ForwardPass], target: LoopTarget, teacher: torch.Tensor
) -> tuple[Rows, torch.Tensor]:
    """The positions of an update's forward passes, and the gradient observed at each, (P, V)."""
    known, names = target.places, ("id", "target", "row", "position", "real", "part", "ends")
    table: list[tuple[int, ...]] = []
    row = -1
    for part, call in enumerate(calls):
        for ids in call.ids.tolist():
            current, place, sample = None, 0, target.samples[0]
            for at, i in enumerate(ids):
                if i in known:
                    sample, place = known[i]
                    if sample is not current:
                        current, row = sample, row + 1
                else:
                    place += 1
                if current is None:
                    current, row = sample, row + 1  # a row that begins with pads
                real = i in known and place < len(sample.ids) - 1
                following = int(sample.ids[place + 1]) if real and sample.prompt - 1 <= place else -100
                table.append((i, following, row, place, int(real), part, int(at == len(ids) - 1)))
    columns = dict(zip(names, torch.tensor(table).T, strict=True))
    ids, times = columns["id"], Counter(each[0] for each in table)
    share = torch.tensor([1 / times[each[0]] if each[0] else 0.0 for each in table], dtype=torch.float64)
    rows = Rows(
        student=update.table[ids].double(),
        teacher=teacher[ids].double(),
        targets=columns["target"],
        row=columns["row"],
        position=columns["position"],
        real=columns["real"].bool(),
        part=columns["part"],
        ends=columns["ends"].bool(),
        num_rows=row + 1,
    )
    return rows, update.gradient[ids].double() * share[:, None]


def _gradients(findings: Findings, run: LoopTrace, target: LoopTarget) -> None:
    """The gradient of every update against the closed form over what it read."""
    table = run.teacher.table()
    bank = torch.cat([table, torch.zeros_like(table[:1])])
    known = target.places
    if not any(bool(update.gradient.isfinite().all()) for update in run.updates):
        findings.wrong("loss", f"the gradient is not finite in any of {len(run.updates)} updates")
        why = "no update has a finite gradient"
        findings.close({}, dict.fromkeys((*_BY_GRADIENT, "temperature", "direction", "vocabulary", "value"), why))
        return
    cases: list[tuple[str, list[Mismatch]]] = []
    names: list[str] = []
    seen: set[int] = set()
    cached = 0
    for number, update in enumerate(run.updates, start=1):
        calls = target.trained_on(update)
        if not calls:
            findings.wrong("data", f"update {number} is made without a forward pass of the student on a sample")
            continue
        rows, gradient = rows_of(update, calls, target, table)
        if _strays(findings, update, calls, seen, number, target):
            continue
        gradient = _unclipped(findings, gradient, rows, update, target, number)
        read_along = [c for c in update.teacher if set(c.ids.flatten().tolist()) & set(known)]
        has_teacher = bool(read_along)
        cached += not has_teacher
        moved = "shift" if has_teacher else "cache"
        if has_teacher and not _same_text(calls, read_along):
            findings.wrong("vocabulary", "the teacher is fed other ids than the student", f"update {number}")
            continue
        found = diagnose(
            gradient,
            rows,
            target.contract.objective,
            per=target.per,
            tolerance=target.contract.target.tolerance,
            moved=moved,
            bank=bank,
            searches=sum(bool(m) for _, m in cases) < 2,
        )
        own = [_of_loop(m, update, target.contract, has_teacher, cases) for m in found]
        is_last = len(calls) != target.accumulation
        cases.append(("accumulation" if is_last else "cache" if not has_teacher else "optimizer", own))
        names.append(f"update {number}")
    failing = [(name, case) for name, case in zip(names, cases, strict=True) if case[1]]
    if failing:
        plain_is_right = not cases[0][1]
        states = {p for p in ("teacher-state", "student-state") if findings.verdict(p) == "wrong"}
        told = settle([case for _, case in failing], plain_is_right=plain_is_right)
        for each in told:
            if states and (
                each.is_unnamed or each.says.startswith("off by") or plain_is_right or each.property == "cache"
            ):
                continue  # noise of dropout, or of a teacher that is not asked, named where it comes from
            findings.wrong(each.property, each.says, failing[0][0])
    _said(findings, run, target, cached)


def _of_loop(
    mismatch: Mismatch, update: Update, contract: Contract, has_teacher: bool, before: list[tuple[str, list[Mismatch]]]
) -> Mismatch:
    """The same, where a loop knows better whose fault it is."""
    if mismatch.property == "finite":
        return mismatch._replace(property="mask")
    earlier_right = any(not found for _, found in before)
    if not has_teacher and mismatch.term == "divergence" and "no influence" in mismatch.says and earlier_right:
        return mismatch._replace(property="cache", says="the divergence is gone: no teacher rows are read any more")
    if not has_teacher and mismatch.is_unnamed:
        return mismatch._replace(property="cache")
    rounded = round(update.norm, 3)
    if mismatch.is_ratio and rounded and abs(update.norm - rounded) < 1e-6 and not contract.training.clip_norm:
        says = f"the gradient's norm is clipped to {rounded:g}, which was not declared"
        return Mismatch("optimizer", says)
    return mismatch


def _strays(
    findings: Findings, update: Update, calls: Sequence[ForwardPass], seen: set[int], number: int, target: LoopTarget
) -> bool:
    """Gradients where nothing of this update lies: pads, earlier windows, other samples."""
    if not bool(update.gradient.isfinite().all()):
        findings.wrong("mask", "the gradient is not finite", f"update {number}")
        return True
    size = update.gradient.abs().amax(-1)
    allowed = 1e-7 * float(size.max())
    now = set(torch.cat([c.ids.flatten() for c in calls]).tolist())
    if float(size[0]) > allowed and target.contract.objective.mask != "all":
        findings.wrong("mask", "pads or the last position of a sample have a gradient", f"update {number}")
    others = {i for i in (size > allowed).nonzero().flatten().tolist() if i and i not in now}
    if others & seen:
        findings.wrong("optimizer", "gradients of an earlier update are still there", f"update {number}")
    elif others:
        findings.wrong("data", "samples have a gradient that were not read for this update", f"update {number}")
    seen |= now
    return bool(others)


def _same_text(calls: Sequence[ForwardPass], others: Sequence[ForwardPass]) -> bool:
    """Whether what the student reads is part of what the teacher reads."""
    text = " | ".join(" ".join(str(i) for i in row if i) for c in others for row in c.ids.tolist())
    rows = [" ".join(str(i) for i in row if i) for c in calls for row in c.ids.tolist()]
    return all(f" {row}" in f" {text}" or f" {text}" in f" {row}" for row in rows)


def _unclipped(
    findings: Findings, gradient: torch.Tensor, rows: Rows, update: Update, target: LoopTarget, number: int
) -> torch.Tensor:
    """The gradient before the declared clipping."""
    limit = target.contract.training.clip_norm
    if limit and update.norm > limit * (1 + 1e-4):
        says = f"the gradient's norm is {update.norm:.4g}, above the declared {limit:g}"
        findings.wrong("optimizer", says, f"update {number}")
    if not limit or update.norm < limit * (1 - 1e-3):
        return gradient
    want = closed_form(rows, target.contract.objective, per=target.per).gradient
    share = float((gradient * want).sum() / want.square().sum())
    return gradient / share if 0 < share < 1 else gradient


def _said(findings: Findings, run: LoopTrace, target: LoopTarget, cached: int) -> None:
    o, count = target.contract.objective, len(run.updates)
    how = f"gradients of {count} updates by logits of every position"
    said = dict.fromkeys(_BY_GRADIENT, how)
    if o.distill_weight:
        more = ", heads of unequal size" if o.vocabulary != "same" else ""
        said |= dict.fromkeys(("temperature", "direction"), f"{how}, as declared")
        said["vocabulary"] = f"teacher rows by id{more}"
        if cached:
            said["cache"] = f"{cached} of {count} updates without a call of the teacher have its rows"
    if o.top_k:
        said["top-k"] = f"k = {o.top_k}, {o.top_k_rule}"
    reasons = dict.fromkeys(("temperature", "direction", "vocabulary"), "no divergence is declared") | {
        "top-k": "no truncation is declared",
        "cache": "the teacher reads along in every update",
    }
    findings.close(said, reasons)
    result, table = run.result, run.teacher.table()
    if target.contract.target.returns != "losses" or not isinstance(result, Sequence) or len(result) != count:
        findings.untestable("value", 'declare target.returns = "losses" if the loop returns its loss of every update')
        return
    for number, (update, logged) in enumerate(zip(run.updates, result, strict=True), start=1):
        rows, _ = rows_of(update, target.trained_on(update), target, table)
        closed = closed_form(rows, o, per=target.per)
        want = closed.value + (closed.entropy if o.reported == "cross-entropy" else 0.0)
        if abs(float(logged) - want) > 1e-4 * max(1.0, abs(want)) and o.reported != "other":
            findings.wrong("value", f"it logs {float(logged):.6g} for {want:.6g}", f"update {number}")
    findings.right("value", "the loss of every update")


# --- traces -------------------------------------------------------------------------------------------------


def _states(findings: Findings, run: LoopTrace, target: LoopTarget) -> None:
    """Modes and parameters of both, from the first call on."""
    training = target.contract.training
    calls = [(n, c) for n, u in enumerate(run.updates, start=1) for c in u.teacher]
    own = [(n, c) for n, u in enumerate(run.updates, start=1) for c in target.trained_on(u)]
    for whose, does, mode, seen, first in (
        ("teacher", "the teacher is", training.teacher_mode, calls, "call"),
        ("student", "the student trains", training.student_mode, own, "update"),
    ):
        if off := [n for n, c in seen if c.training != (mode == "train")]:
            since = f"from the first {first} on" if off[0] == 1 else f"from update {off[0]} on, not before"
            other = "evaluation" if mode == "train" else "training"
            findings.wrong(f"{whose}-state", f"{does} in {other} mode {since}")
    if run.teacher_moved:
        findings.wrong("teacher-state", "the teacher's parameters change")
    if any(u.holds_teacher for u in run.updates):
        findings.wrong("teacher-state", "the teacher's parameters are in the optimizer")
    elif any(u.teacher_gradient for u in run.updates):
        findings.add("teacher-state", "differs", "the teacher's parameters get gradients that nothing uses")
    if calls:
        how = f"{len(calls)} calls in {training.teacher_mode} mode, the same parameters at the end"
        findings.right("teacher-state", how)
    elif target.contract.objective.distill_weight and target.has("teacher"):
        findings.wrong("teacher-state", "the teacher is never called")
    held = {int(i) for s in target.held_out for i in s.ids.tolist() if i}
    evals = [c for u in run.updates for c in u.student if set(c.ids.flatten().tolist()) & held]
    if any(c.training for c in evals):
        findings.wrong("student-state", "the student is evaluated in training mode, with dropout")
    more = f", {len(evals)} evaluations" if evals else ""
    findings.right("student-state", f"{len(own)} forward passes{more}")


def _read(calls: Sequence[ForwardPass], known: dict[int, tuple[Sample, int]]) -> tuple[Counter[int], set[int]]:
    """How often each sample is read, and which ones not whole and in order (the last token may be left out)."""
    read: Counter[int] = Counter()
    broken: set[int] = set()
    for ids in (row for call in calls for row in call.ids.tolist()):
        here: dict[int, list[int]] = {}
        samples: dict[int, Sample] = {}
        for i in ids:
            if i in known:
                sample, place = known[i]
                samples[sample.index] = sample
                here.setdefault(sample.index, []).append(place)
        for index, places in here.items():
            read[index] += 1
            if places != list(range(len(places))) or len(places) < len(samples[index].ids) - 1:
                broken.add(index)
    return read, broken


def _data(findings: Findings, run: LoopTrace, target: LoopTarget) -> None:
    """Samples as often and as whole as declared, and so many micro-batches an update."""
    training, epochs, accumulation = target.contract.training, target.epochs, target.accumulation
    known = target.places
    calls = [c for u in run.updates for c in target.trained_on(u)] + [c for c in run.left if c.grad]
    read, broken = _read(calls, known)
    if broken:
        findings.wrong("data", f"samples {sorted(broken)[:4]} are not read whole and in order")
    rest = len(target.samples) // ROWS % accumulation
    # a sample in which nothing counts may stay away
    countable = [s for s in target.samples if len(s.ids) > s.prompt]
    lost = [s.index for s in countable if read[s.index] < epochs]
    often = [s.index for s in countable if read[s.index] > epochs]
    if training.last_window == "drop" and len(lost) <= rest * ROWS * epochs:
        lost = []
    for which, how in ((lost, "less"), (often, "more")):
        if which:
            says = f"{len(which)} of {len(countable)} samples are read {how} often than {epochs} times"
            findings.wrong("data", says)
    findings.right("data", f"{len(countable)} samples, {epochs} times each, whole and in order")
    read_by = [_read(target.trained_on(u), known)[0] for u in run.updates]
    sizes = {math.ceil(sum(times.values()) / ROWS) for times in read_by}
    allowed = {accumulation, rest} if rest and training.last_window == "step" else {accumulation}
    allowed |= {size - 1 for size in allowed}  # the micro-batch in which nothing counts may stay away
    if sizes - allowed and not _is_packed(calls, known):
        findings.wrong("accumulation", f"updates of {sorted(sizes)} micro-batches, declared: {accumulation}")
    firsts = [known[i][0].index for c in calls for row in c.ids.tolist() for i in row[:1] if i in known]
    want = [s.index for s in target.samples] * epochs
    may_differ = training.shuffles or broken or target.contract.target.kind == "trainer"
    if not may_differ and sorted(firsts) == sorted(want) and firsts != want:
        findings.wrong("data", "samples are read in another order than given, and shuffling was not declared")


def _is_packed(calls: Sequence[ForwardPass], known: dict[int, tuple[Sample, int]]) -> bool:
    return any(len({known[i][0].index for i in row if i in known}) > 1 for c in calls for row in c.ids.tolist())


def _packing(findings: Findings, run: LoopTrace, target: LoopTarget) -> None:
    known = target.places
    for whose in ("student", "teacher"):
        packed = [c for u in run.updates for c in getattr(u, whose) if _is_packed([c], known)]
        if not packed:
            continue
        if any(not c.separated for c in packed):
            says = f"samples of one row see those before them in the {whose}: no mask keeps them apart"
            findings.wrong("packing", says)
        for call in packed:
            if call.positions is None:
                findings.wrong("packing", f"positions of the {whose} run on from sample to sample: none are given")
                break
            places = call.positions.expand_as(call.ids).flatten().tolist()
            ids = call.ids.flatten().tolist()
            if any(p != known[i][1] for i, p in zip(ids, places, strict=True) if i in known):
                findings.wrong("packing", f"positions of the {whose} do not begin at 0 with each sample, or are moved")
                break
        findings.right("packing", f"{len(packed)} packed forward passes of the {whose}")
    if "packing" not in findings.found:
        findings.untestable("packing", "every row holds one sample")


def rate(training: Training, step: int, horizon: int, *, from_zero: bool = False) -> float:
    """The declared rate of a step, counted from 0."""
    warm = training.warmup
    if step < warm:
        return training.lr * (step if from_zero else step + 1) / warm
    done = min(1.0, (step - warm) / max(1, horizon - warm))
    low, high = training.final_lr, training.lr
    if training.schedule == "linear":
        return high + (low - high) * done
    if training.schedule == "cosine":
        return low + (high - low) * (1 + math.cos(math.pi * done)) / 2
    return high


def _schedule(findings: Findings, run: LoopTrace, target: LoopTarget) -> None:
    training = target.contract.training
    accumulation, micro = target.accumulation, len(target.samples) // ROWS
    got = [u.lr for u in run.updates]
    firsts = lasts = list(range(len(got)))
    total = target.horizon(micro)
    if training.counts == "micro-steps":
        starts = [first for first in range(0, micro, accumulation)]
        if training.last_window == "drop":
            starts = [first for first in starts if first + accumulation <= micro]
        windows = [
            (e * micro + a, e * micro + min(a + accumulation, micro) - 1) for e in range(target.epochs) for a in starts
        ]
        short = [(n * accumulation, (n + 1) * accumulation - 1) for n in range(len(windows), len(got))]
        firsts, lasts = (list(each)[: len(got)] for each in zip(*windows, *short, strict=True))
        total = micro * target.epochs
    horizon = training.horizon or total
    # within a window the rate may be that of its first or last micro-step; conventions that nobody declared are free
    horizons = [horizon] if training.horizon else [horizon, max(1, horizon - 1)]
    zeros = (False, True) if training.warmup_from_zero is None else (training.warmup_from_zero,)
    wants = [
        [rate(training, step, end, from_zero=zero) for step in steps]
        for end, steps, zero in itertools.product(horizons, (firsts, lasts), zeros)
    ]
    want = wants[0]

    off = [np.abs(np.subtract(got, each)) > 1e-9 + 1e-6 * training.lr for each in wants]
    if all(each.any() for each in off):
        first = int(off[0].argmax())
        findings.wrong(
            "schedule",
            f"the rate of update {first + 1} is {got[first]:.6g}, declared: {want[first]:.6g}; at the end "
            f"{got[-1]:.6g} for {want[-1]:.6g}",
        )
    findings.right("schedule", f"rates of {len(got)} updates")
    for group in run.updates[0].groups:
        if group["vectors"] and group["weight_decay"] and not training.decays_norms:
            findings.wrong("optimizer", f"norms and biases decay by {group['weight_decay']:g}")
        if not group["vectors"] and abs(group["weight_decay"] - training.weight_decay) > 1e-12:
            says = f"weights decay by {group['weight_decay']:g}, declared: {training.weight_decay:g}"
            findings.wrong("optimizer", says)


def _steps(findings: Findings, run: LoopTrace, target: LoopTarget) -> None:
    """Nothing moves the student between two updates."""
    for number, (one, following) in enumerate(zip(run.updates, run.updates[1:], strict=False), start=2):
        if one.after is not None and not torch.allclose(one.after, following.before, 0, 0, equal_nan=True):
            findings.wrong("optimizer", "the student's parameters change between updates", f"update {number}")
    last = run.updates[-1]
    end = run.student.model.weight.detach()
    if last.after is not None and not torch.allclose(last.after, end, 0, 0, equal_nan=True):
        findings.wrong("optimizer", "the student's parameters change after the last update")
    expected = target.horizon(len(target.samples) // ROWS)
    count = len(run.updates)
    if count != expected and not _is_packed([c for u in run.updates for c in u.student], target.places):
        findings.wrong("accumulation", f"{count} updates for {expected}")
    how = f"{count} steps of {last.optimizer}: no gradient of another window, nothing between steps"
    findings.right("optimizer", how)


# --- other runs ---------------------------------------------------------------------------------------------


def _resumes(findings: Findings, target: LoopTarget, plain: LoopTrace) -> None:
    """Stopped after k updates and resumed, against never stopped."""
    by_state = target.has("state", "stop_after")
    if not by_state and not target.has("checkpoint", "stop_after", "resume"):
        findings.untestable("resume", "the loop does not take stop_after with checkpoint and resume, or with state")
        return
    if findings.is_wrong:
        findings.untestable("resume", "the run is wrong without a stop already")
        return
    count = len(plain.updates)
    whole, again = target.run(), target.run()
    if not all(torch.equal(a.gradient, b.gradient) for a, b in zip(whole.updates, again.updates, strict=True)):
        findings.untestable("resume", "two runs without a stop differ")
        return
    middle = sorted({1, max(1, count // 2), max(1, count - 1)})
    for stop in middle:
        case = f"stopped after update {stop} of {count}"
        tell(f"stopped after update {stop}, and resumed")
        with tempfile.TemporaryDirectory() as folder:
            try:
                at, on = str(Path(folder) / "at"), str(Path(folder) / "on")
                first = target.run(checkpoint=at, stop_after=stop, resume=None, state=None)
                state = copy.deepcopy(first.result) if by_state else None
                second = target.run(checkpoint=on, stop_after=None, resume=at, state=state)
            except Exception as error:
                findings.wrong("resume", f"it raises {type(error).__name__}: {str(error)[:120]}", case)
                continue
        _compare_stopped(findings, target, first, second, whole, case)
    how = f"stopped after {', '.join(map(str, middle))} of {count} updates: samples, rates, gradients"
    findings.right("resume", how)


def _compare_stopped(
    findings: Findings, target: LoopTarget, first: LoopTrace, second: LoopTrace, whole: LoopTrace, case: str
) -> None:
    """Both parts of a stopped run against the run without a stop; the first difference is said."""
    joined = first.updates + second.updates
    if len(joined) != len(whole.updates):
        says = f"{len(joined)} updates in all, {len(whole.updates)} without a stop"
        findings.wrong("resume", says, case)
    for number, (one, other) in enumerate(zip(joined, whole.updates, strict=False), start=1):
        reads = [[c.ids.tolist() for c in target.trained_on(u)] for u in (one, other)]
        if reads[0] != reads[1]:
            says = "reads other samples than without a stop"
        elif abs(one.lr - other.lr) > 1e-12:
            says = f"has the rate {one.lr:.6g} for {other.lr:.6g}"
        elif not torch.allclose(one.before, other.before, rtol=1e-9, atol=1e-12):
            says = "begins from other parameters"
        elif not torch.allclose(one.gradient, other.gradient, rtol=1e-7, atol=1e-10):
            says = "has another gradient"
        else:
            continue
        findings.wrong("resume", f"update {number} {says}", case)
        return
    ends = (second.student.model.weight, whole.student.model.weight)
    if not torch.allclose(*ends, rtol=1e-9, atol=1e-12):
        findings.wrong("resume", "the parameters at the end are others", case)


def _ranks(findings: Findings, target: LoopTarget) -> None:
    """Two gloo ranks, each with half of the samples (or, sharded by tensor, the same), against the closed form."""
    contract = target.contract
    how = contract.training.ranks
    if not how and not target.has("rank") and not target.has("world_size"):
        why = "the loop takes neither rank nor world_size, and training.ranks is not declared"
        findings.untestable("distributed", why)
        return
    if findings.is_wrong:
        findings.untestable("distributed", "the run of one process is wrong already")
        return
    pool = [s for s in target.samples if len(s.ids) > s.prompt]
    size = min(target.accumulation * ROWS, len(pool) // 2)
    shares = [pool[:size], pool[size : 2 * size]]
    if how == "tensor" or target.shares_out:
        shares = [pool[:size] if how == "tensor" else pool[: 2 * size]] * 2
    tell("two ranks")
    try:
        first, second = on_two_ranks(target.run, shares)
    except Exception as error:
        findings.wrong("distributed", f"two ranks fail: {type(error).__name__}: {str(error)[:160]}")
        return
    for number, (one, other) in enumerate(zip(first.updates, second.updates, strict=False), start=1):
        same = torch.equal(one.before, other.before)
        if not same or not torch.allclose(one.gradient, other.gradient, rtol=1e-9, atol=1e-12):
            findings.wrong("distributed", "the two ranks make different updates", f"update {number}")
        calls = target.trained_on(one)
        calls = calls if how == "tensor" else calls + target.trained_on(other)
        if number > 1 or not calls:
            continue
        rows, gradient = rows_of(one, calls, target, first.teacher.table())
        gradient = _unclipped(findings, gradient, rows, one, target, number)
        tolerance = contract.target.tolerance
        for each in diagnose(gradient, rows, contract.objective, per=target.per, tolerance=tolerance, ranks=2):
            best = next((says for p, says in each.candidates if p == "distributed"), each.says)
            findings.wrong("distributed", best, f"update {number} on two ranks")
    findings.right(
        "distributed", f"{len(first.updates)} updates on two gloo ranks; more ranks and sharded models are not run here"
    )
