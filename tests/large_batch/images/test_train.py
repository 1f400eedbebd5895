"""A cell against a loop written out here, stopped and continued, killed, diverged."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from tiny_images import tiny_data, tiny_study

from distillaw.errors import CacheError
from distillaw.large_batch.images import train
from distillaw.large_batch.images.spec import Batches, DataSettings, Drop, NetworkSpec, Optimizer, Schedule, plan_cells
from distillaw.large_batch.images.train import CellRun, make_feeds, score, seed_of, train_cell, with_fresh_statistics
from distillaw.runs.places import MARK
from in_fork import Forked

DATA = tiny_data()


def cell_of(study, column, seed=0, data=DATA):
    cells = plan_cells(study, images=len(data.train))
    return next(c for c in cells if (c.column, c.seed) == (column, seed))


def weights(run):
    return torch.cat([p.detach().reshape(-1) for p in run.model.state_dict().values()])


def run_to(run, step):
    while run.step < step:
        run.note(run.advance())
    return run


def by_hand(study, cell, feeds, steps):
    """The same training in the plainest words."""
    model = CellRun(study, cell, feeds).model
    velocity = {p: torch.zeros_like(p) for p in model.parameters()}
    for step in range(steps):
        epoch, place = divmod(step, cell.steps_per_epoch)
        images, labels = feeds.train.batch(
            feeds.train.draws(seed=cell.seed, epoch=epoch), place * cell.batch, cell.batch
        )
        model.zero_grad()
        log_probs = model(images).log_softmax(1)
        (-log_probs[torch.arange(len(labels)), labels]).mean().backward()
        norm = torch.cat([p.grad.reshape(-1) for p in model.parameters()]).norm()
        scale = min(1.0, study.optimizer.clip_norm / (float(norm) + 1e-6))
        with torch.no_grad():
            for p in model.parameters():
                velocity[p] = 0.9 * velocity[p] + scale * p.grad + 1e-4 * p
                p -= cell.rate(step) * velocity[p]
    return model


@pytest.mark.parametrize("column", ["SB", "LB", "+RA"])
def test_a_cell_is_the_plain_loop(column):
    study = tiny_study(optimizer=Optimizer(clip_norm=0.5))
    cell, feeds = cell_of(study, column), make_feeds(DATA, study, "cpu")
    run = run_to(CellRun(study, cell, feeds), 30)
    model = by_hand(study, cell, feeds, 30)
    for ours, plain in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


def test_noise_is_a_weight_on_every_images_loss():
    """By hand, z ~ N(1, M_L/M_S - 1); that this has the small batch's covariance is in test_gradient_noise.py."""
    study = tiny_study(columns=("noise",), optimizer=Optimizer(momentum=0.0, weight_decay=0.0, clip_norm=0.0))
    cell, feeds = cell_of(study, "noise"), make_feeds(DATA, study, "cpu")
    assert cell.noise_variance == cell.batch / study.batches.small - 1
    run = CellRun(study, cell, feeds)
    model, z = CellRun(study, cell, feeds).model, torch.Generator().manual_seed(seed_of(cell.seed, 2))
    for step in range(3):
        run.advance()
        images, labels = feeds.train.batch(
            feeds.train.draws(seed=cell.seed, epoch=step // cell.steps_per_epoch),
            step % cell.steps_per_epoch * cell.batch,
            cell.batch,
        )
        losses = torch.nn.functional.cross_entropy(model(images), labels, reduction="none")
        weight = 1 + cell.noise_variance**0.5 * torch.randn(len(labels), generator=z)
        grads = torch.autograd.grad((weight * losses).sum() / len(labels), list(model.parameters()))
        with torch.no_grad():
            for p, grad in zip(model.parameters(), grads, strict=True):
                p -= cell.rate(step) * grad
    for ours, plain in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


def test_columns_of_a_seed_begin_alike_and_ghosts_are_where_they_belong():
    study = tiny_study()
    feeds = make_feeds(DATA, study, "cpu")
    runs = {name: CellRun(study, cell_of(study, name), feeds) for name in study.columns}
    assert all(torch.equal(weights(run), weights(runs["SB"])) for run in runs.values())
    ghosts = {name for name, run in runs.items() if "Ghost" in repr(run.model)}
    assert ghosts == {"+GBN", "+RA"}
    assert not torch.equal(weights(runs["SB"]), weights(CellRun(study, cell_of(study, "SB", 1), feeds)))


@pytest.mark.parametrize(
    ("network", "column"),
    [
        (NetworkSpec(kind="f1", width=8, depth=2), "noise"),
        (NetworkSpec(kind="shallow"), "+RA"),
        (NetworkSpec(kind="resnet", depth=8), "+RA"),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_a_resumed_cell_is_the_same_to_the_last_bit(network, column, tmp_path):
    data = tiny_data(train=40, test=10, size=7)
    study = tiny_study(
        network=network,
        batches=Batches(small=8, large=16),
        data=DataSettings(pad=1, flip=True),
        columns=(column,),
        schedule=Schedule(epochs=5),
    )
    cell, feeds = cell_of(study, column, data=data), make_feeds(data, study, "cpu")
    whole = run_to(CellRun(study, cell, feeds), 9)
    first = run_to(CellRun(study, cell, feeds), 4)  # in the middle of an epoch
    torch.save(first.state(), tmp_path / "c.pt")
    again = CellRun(study, cell, feeds)
    again.load(train.read_checkpoint(tmp_path / "c.pt"))
    run_to(again, 9)
    assert torch.equal(weights(whole), weights(again))
    assert whole.curves == again.curves and {3, 4, 5, 9} <= set(whole.curves.steps)


def train_until_killed(folder):
    """It saves after every step, and tells its process to end after the seventh."""
    train.SAVE_SECONDS = 0.0
    study = tiny_study()

    def beat(step):
        if step >= 7:
            os.kill(os.getpid(), signal.SIGKILL)

    train_cell(study, cell_of(study, "+RA"), make_feeds(DATA, study, "cpu"), folder, beat=beat)


def test_kill_9_costs_nothing_finished(tmp_path):
    victim = Forked(train_until_killed, tmp_path / "killed")
    victim.wait()
    assert victim.returncode == -signal.SIGKILL, victim.communicate()
    assert (tmp_path / "killed" / "checkpoint.pt").exists()
    assert not (tmp_path / "killed" / "result.json").exists()
    study = tiny_study()
    cell, feeds = cell_of(study, "+RA"), make_feeds(DATA, study, "cpu")
    resumed = train_cell(study, cell, feeds, tmp_path / "killed")
    whole = train_cell(study, cell, feeds, tmp_path / "whole")
    timing = ("seconds", "cpu_seconds")
    assert {k: v for k, v in resumed.items() if k not in timing} == {k: v for k, v in whole.items() if k not in timing}
    assert sorted(os.listdir(tmp_path / "killed")) == [MARK, "result.json"]
    assert json.loads((tmp_path / "killed" / "result.json").read_text())["state"] == "done"


def test_a_damaged_checkpoint_says_what_to_do(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"PK nothing")
    study = tiny_study()
    with pytest.raises(CacheError, match="delete it"):
        train_cell(study, cell_of(study, "SB"), make_feeds(DATA, study, "cpu"), tmp_path)


def test_momentum_can_be_wiped_at_every_epoch():
    results = []
    for wiped in (False, True):
        study = tiny_study(optimizer=Optimizer(wipe_momentum=wiped))
        feeds = make_feeds(DATA, study, "cpu")
        run = CellRun(study, cell_of(study, "LB"), feeds)  # three steps an epoch
        results.append([weights(run_to(run, step)) for step in (3, 4)])
    (kept, kept_later), (wiped, wiped_later) = results
    assert torch.equal(kept, wiped) and not torch.equal(kept_later, wiped_later)


def test_clipping_of_the_first_steps_only():
    study = tiny_study(optimizer=Optimizer(clip_norm=1e-3, clip_steps=2))
    run = CellRun(study, cell_of(study, "SB"), make_feeds(DATA, study, "cpu"))
    moved = []
    for _ in range(4):
        before = torch.nn.utils.parameters_to_vector(run.model.parameters()).detach().clone()
        run.advance()
        after = torch.nn.utils.parameters_to_vector(run.model.parameters()).detach()
        moved.append(float((after - before).norm()))
    assert max(moved[:2]) < 0.2 * moved[2]


def test_norms_and_biases_can_be_spared_from_decay():
    study = tiny_study()
    model = CellRun(study, cell_of(study, "SB"), make_feeds(DATA, study, "cpu")).model
    decayed = train.make_sgd(model, Optimizer(), peak_lr=0.1).param_groups
    spared = train.make_sgd(model, Optimizer(decay_norm_bias=False), peak_lr=0.1).param_groups
    assert len(decayed) == 1 and [group["weight_decay"] for group in spared] == [1e-4, 0.0]
    assert all(p.dim() > 1 for p in spared[0]["params"]) and all(p.dim() == 1 for p in spared[1]["params"])
    assert sum(len(group["params"]) for group in spared) == len(decayed[0]["params"])


def test_a_drop_may_change_the_decay():
    study = tiny_study(schedule=Schedule(epochs=4, drops=(Drop(epoch=2, factor=0.1, weight_decay=0.0),)))
    cell = cell_of(study, "LB")
    run = run_to(CellRun(study, cell, make_feeds(DATA, study, "cpu")), cell.first_phase)
    (group,) = run._optimizer.param_groups
    assert group["weight_decay"] == 1e-4
    run_to(run, cell.first_phase + 1)
    assert group["weight_decay"] == 0
    assert cell.folder(study, "x") != replace(cell, decays=()).folder(study, "x")


def test_a_diverged_cell_is_a_result(tmp_path):
    study = tiny_study(optimizer=Optimizer(peak_lr=1e30, clip_norm=0.0))
    result = train_cell(study, cell_of(study, "SB"), make_feeds(DATA, study, "cpu"), tmp_path)
    assert result["state"] == "diverged" and "loss is nan" in result["error"] and "accuracy" not in result
    assert json.loads((tmp_path / "result.json").read_text())["step"] == result["step"]


def test_scores_and_fresh_statistics_against_arithmetic():
    study = tiny_study(data=DataSettings())
    feeds = make_feeds(DATA, study, "cpu")
    run = run_to(CellRun(study, cell_of(study, "SB"), feeds), 12)
    found = score(run.model, feeds.test)
    images, labels = feeds.test.plain(0, 60)
    logits = run.model.eval()(images).detach()
    wrong = (logits.argmax(1) != labels).nonzero().view(-1).tolist()
    assert list(found.wrong) == wrong and found.accuracy == pytest.approx(100 * (60 - len(wrong)) / 60)
    assert found.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    fresh = with_fresh_statistics(run.model, feeds.train, seed=0)
    everything, _ = feeds.train.plain(0, 120)
    first = run.model.hidden[0](everything.flatten(1)).detach()
    torch.testing.assert_close(fresh.norms[0].running_mean, first.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fresh.norms[0].running_var, first.var(0), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(run.model.norms[0].running_mean, first.mean(0), atol=1e-4), "the original is untouched"


def test_distances_are_those_of_the_weights():
    study = tiny_study()
    run = CellRun(study, cell_of(study, "SB"), make_feeds(DATA, study, "cpu"))
    start = torch.cat([p.detach().reshape(-1).clone() for p in run.model.parameters()])
    run_to(run, 5)
    now = torch.cat([p.detach().reshape(-1) for p in run.model.parameters()])
    assert run.curves.distances["total"][-1] == pytest.approx(float((now - start).norm()), rel=1e-5)
    assert run.curves.steps == [1, 2, 3, 4, 5]


def test_a_walk_ends_with_the_first_phase(tmp_path):
    from distillaw.large_batch.images.spec import DiffusionSpec

    study = tiny_study(diffusion=DiffusionSpec(batches=(20,)))
    cell = cell_of(study, "walk 20 +LR+GBN")
    result = train_cell(study, replace(cell, seed=1), make_feeds(DATA, study, "cpu"), tmp_path)
    assert result["steps"] == 12 == result["curves"]["steps"][-1] and "accuracy" not in result
    assert not result["curves"]["evaluated"]
