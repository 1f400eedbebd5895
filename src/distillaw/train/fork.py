"""A trunk to a fork, and the ways on from there: the branch test's engine (arXiv 2505.23971).

Every branch starts from the same weights, the same optimiser state and the same place in the text; its batch, its rate
and, where asked, its loss are its own. The branch with the trunk's batch, loss and order is the trunk itself, going on
bit for bit. A kill costs the steps since the last checkpoint. What is branched, and what follows, is decided in
sweep/branching.py and large_batch/branch_test.py. Beside the test stands a diagnostic, the gradient noise scale of a
loss at a fork: at fixed weights, so its batches are independent; tr(Sigma) and |G|^2 of two losses at the same weights,
on the same text, say whether the one's gradient is less noisy.
"""

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from distillaw.data.shards import BatchOrder, ForkedOrder
from distillaw.errors import DivergedError
from distillaw.large_batch.instruments import AccumulationMeter
from distillaw.large_batch.noise import NoiseLog
from distillaw.models.parallel import ALONE
from distillaw.models.scoring import score_heldout
from distillaw.models.teacher import model_flops
from distillaw.quantities import finite
from distillaw.runs.files import check_files, read_json, read_json_lines, vouched, write_json
from distillaw.runs.spec import Branch, Fork
from distillaw.runs.store import RunFolder, saved_step
from distillaw.train.checkpoint import load_state, remove_states, save_state
from distillaw.train.group import TrunkGroup
from distillaw.train.log import open_log
from distillaw.train.loop import BatchFeed, Report, Trainer, advance
from distillaw.train.optim import RateSchedule, own_settings

FORK, RESULT, STEPS = "fork.json", "result.json", "steps.jsonl"


def reach_fork(fork: Fork, group: TrunkGroup, *, report: Report) -> dict[str, object]:
    """Train the trunk to the fork, from the furthest checkpoint before it, and score it there; or find it done.

    Returns:
        What fork.json holds.

    Raises:
        DivergedError: the trunk diverged before the fork.
        StopTraining: asked to stop; the checkpoint is saved.
    """
    folder, trunk = fork.folder(group.study.path), fork.trunk
    if (known := fork_reached(fork, group.study.path)) is not None:
        return known
    source = _furthest(fork, group.study.path, group.study.trunk(trunk.trunk_id))
    trainer = group.trainer(trunk, resumed=source is not None)
    if source is not None:
        load_state(trainer.state, source, identity=trunk.trunk_id)
    home = group.study.path / "branches" / trunk.trunk_id
    schedule = RateSchedule(
        warmup_steps=max(1, round(trunk.recipe.warmup_tokens / trunk.batch_tokens)),
        branch_step=fork.step,
        total_steps=fork.step + 1,
    )
    run = group.student_run(trainer, schedule, until=fork.step, home=home, identity=trunk.trunk_id)
    advance([run], group.feed, report=report)
    if run.error is not None:
        raise run.error
    save_state(trainer.state, folder / "state", identity=trunk.trunk_id)
    remove_states(home / "state")
    scores = score_heldout(trainer.state.model, group.text.heldout)
    RunFolder(folder).write_heldout(scores)
    record: dict[str, object] = {
        "trunk": trunk.trunk_id,
        "arm": trunk.arm,
        "step": fork.step,
        "tokens": fork.tokens,
        "loss": scores.loss,
        "loss_se": scores.loss_se,
    }
    write_json(folder / FORK, record)
    return record


def fork_reached(fork: Fork, study: Path) -> dict[str, object] | None:
    """What fork.json holds; None where the fork has still to be reached."""
    folder = fork.folder(study)
    is_there = (folder / FORK).exists() and saved_step(folder / "state") == fork.step
    return read_json(folder / FORK) if is_there else None


def _furthest(fork: Fork, study: Path, trunk_home: Path) -> Path | None:
    """The trunk's latest checkpoint not past the fork: of an earlier fork, of the way here, of `distillaw train`."""
    name = fork.trunk.trunk_id
    places = [
        trunk_home / "state",
        study / "branches" / name / "state",
        *sorted((study / "branches").glob(f"{name}-at*/state")),
    ]
    usable = [place for place in places if 0 <= saved_step(place) <= fork.step]
    return max(usable, key=saved_step, default=None)


def run_branch(branch: Branch, group: TrunkGroup, *, report: Report) -> dict[str, object]:
    """Train one branch and score it, or find it finished; one that diverges is a result too.

    Raises:
        StopTraining: asked to stop; the checkpoint is saved.
    """
    folder = branch.folder(group.study.path)
    if (folder / RESULT).exists():
        return finished_branch(folder)
    write_json(folder / "branch.json", branch.record())
    trainer = at_fork(branch, group)
    resumed = load_state(trainer.state, folder / "state", identity=branch.name)
    if not resumed:
        trainer.state.seconds = 0.0
    until = branch.fork.step + branch.steps
    run = group.student_run(trainer, _schedule(branch), until=until, home=folder, identity=branch.name)
    with open_log(folder / STEPS, run.step, ALONE) as write:

        def counted(tokens: int, loss: float) -> None:
            if math.isfinite(loss):
                write({"step": run.step - 1, "loss": loss})
            report(tokens, loss)

        advance([run], _feed(branch, group), report=counted)
    scores = None if run.error else score_heldout(trainer.state.model, group.text.heldout)
    if scores is not None and math.isfinite(scores.loss):
        RunFolder(folder).write_heldout(scores)
        outcome = {"loss": scores.loss, "loss_se": scores.loss_se, "diverged": None}
    else:
        error = run.error or DivergedError("its held-out loss is not finite")
        outcome = {"loss": None, "loss_se": None, "diverged": str(error)}
    result = _facts(branch, trainer, group) | outcome | RunFolder(folder).seal()
    write_json(folder / RESULT, result)
    remove_states(folder / "state")
    return result


def finished_branch(folder: Path) -> dict[str, object]:
    """What result.json of a branch holds; CacheError: it, or a file that it vouches for, is missing or damaged."""
    result = read_json(folder / RESULT)
    remedy = f"Restore it from a copy, or delete {folder} to have the branch trained again"
    check_files(folder, result, vouched(result), remedy=remedy)
    return result


def at_fork(branch: Branch, group: TrunkGroup) -> Trainer:
    """The student of a branch as the trunk left it, its optimiser state included."""
    fork = branch.fork
    trainer = group.trainer(branch.spec, resumed=True, home=group.study.trunk(fork.trunk.trunk_id))
    load_state(trainer.state, fork.folder(group.study.path) / "state", identity=fork.trunk.trunk_id)
    if branch.spec.trunk_id != fork.trunk.trunk_id:  # another loss or batch has another level
        trainer.state.recent = []
    return trainer


def forked_order(branch: Branch, base: BatchOrder) -> ForkedOrder:
    """The text from the fork on, for a reader that counts in the branch's batches."""
    fork, context = branch.fork, branch.spec.recipe.context
    return ForkedOrder(
        base=base,
        origin=fork.tokens // context,
        order=branch.order,
        counted=fork.step * (branch.spec.batch_tokens // context),
    )


def step_losses(branch: Branch, study: Path) -> list[float]:
    """Training loss of every step of a branch; those that are not finite are left out."""
    return [float(str(row["loss"])) for row in read_json_lines(branch.folder(study) / STEPS)]


def _feed(branch: Branch, group: TrunkGroup) -> BatchFeed:
    base = BatchOrder(split=group.feed.order.split, seed=branch.fork.trunk.seed)
    return BatchFeed(
        order=forked_order(branch, base),
        plan=branch.spec.batches,
        micro_batch_tokens=branch.spec.recipe.micro_batch_tokens,
        ranks=group.ranks,
    )


def _schedule(branch: Branch) -> RateSchedule:
    """Constant from the fork on (which lies past the warm-up), and the decay at the end where one is wanted."""
    end = branch.fork.step + branch.steps
    decaying = max(1, round(branch.anneal * branch.steps)) if branch.anneal else 0
    return RateSchedule(
        warmup_steps=0, branch_step=end - decaying, total_steps=end + (decaying == 0), decay=branch.spec.recipe.decay
    )


def _facts(branch: Branch, trainer: Trainer, group: TrunkGroup) -> dict[str, object]:
    spec, flops = branch.spec, model_flops(trainer.state.model, branch.spec.recipe.context)
    return {
        "name": branch.name,
        "multiple": branch.multiple,
        "order": branch.order,
        "arm": spec.arm,
        "batch_tokens": spec.batch_tokens,
        "rate": own_settings(spec).peak_lr,
        "steps": branch.steps,
        "tokens": branch.window,
        "anneal": branch.anneal,
        "train_flops": 3 * flops * branch.window,
        "teacher_flops": finite(group.teaching(spec).flops * branch.window),
        "seconds": trainer.state.seconds,
    }


MICRO_BATCHES = 8
"""Small batches per large one: the estimator needs two unlike sizes (arXiv 1812.06162, appendix A.1)."""


def noise_file(branch: Branch, study: Path, batches: int) -> Path:
    """Where the noise scale of a branch's loss lies, measured on so many batches."""
    return branch.fork.folder(study) / f"noise-{branch.spec.arm}-{batches}.json"


def fork_noise(branch: Branch, group: TrunkGroup, *, batches: int, report: Report) -> dict[str, object]:
    """Measure, or find measured, the noise scale of a branch's loss at the fork's weights.

    Args:
        branch: of the trunk's own batch; only its loss and its text count.
        batches: how many are measured; each is the trunk's batch, or `MICRO_BATCHES` sequences if that is more.

    Returns:
        `NoiseScale` as a table with small and big batch in tokens.
    """
    file = noise_file(branch, group.study.path, batches)
    if file.exists():
        return read_json(file)
    spec, trainer = branch.spec, at_fork(branch, group)
    context = spec.recipe.context
    sequences = max(1, spec.batch_tokens // context // MICRO_BATCHES) * MICRO_BATCHES
    base = BatchOrder(split=group.feed.order.split, seed=branch.fork.trunk.seed)
    order, source = forked_order(branch, base), group.teaching(spec).source
    meter = AccumulationMeter(trainer.state.model.parameters(), micro_batches=MICRO_BATCHES)
    big = sequences * context
    log = NoiseLog(small=big / MICRO_BATCHES, big=big)
    for batch in range(batches):
        windows = order.window_ids(order.counted + batch * sequences, sequences)
        for chosen in np.split(windows, MICRO_BATCHES):
            tokens = torch.from_numpy(order.split.windows(chosen)).to(group.ranks.device)
            trainer.student(tokens, source.signal(tokens, chosen), big).total.backward()
            meter.after_backward()
        small_sq, big_sq = meter.norms()
        log.add(small_sq=small_sq, big_sq=big_sq)
        trainer.state.optimizer.zero_grad(set_to_none=True)
        report(big, float("nan"))
    record: dict[str, object] = {"arm": spec.arm, "small": log.small, "big": log.big, **asdict(log.estimate(level=0.9))}
    write_json(file, record)
    return record
