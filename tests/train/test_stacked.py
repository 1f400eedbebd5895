"""Students of one stream with teachers of their own, side by side and as one batched model, against each alone."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from stops import stop_after, train_trunk
from transformers import LlamaConfig, LlamaForCausalLM

from distillaw.accounting.architecture import count_params
from distillaw.errors import ConfigError, DistillawWarning
from distillaw.models.teacher import hidden_states
from distillaw.runs.places import claim_folder
from distillaw.runs.spec import shared_stream
from distillaw.runs.store import StudyFolder
from distillaw.train import loop, stacked
from distillaw.train.group import TrunkGroup
from distillaw.train.loop import StopTraining
from distillaw.train.stacked import can_stack, stacked_hidden, stacked_losses
from distillaw.train.trunk import train_trunks

TOKENS = 2048


@pytest.fixture(scope="module")
def alone(tmp_path_factory, text):
    """A folder where students are trained one by one; what one test has trained the next finds there."""
    folder = StudyFolder(tmp_path_factory.mktemp("alone"))
    claim_folder(folder.path)
    folder.data.symlink_to(text.folder)
    return folder


@pytest.fixture
def students(alone, study, trunk):
    """Six students of one stream: two teachers and none, other rates, lambdas, divergences, another width."""
    as_teacher = replace(trunk, role="teacher", split="teacher")
    teachers = [train_trunk(replace(as_teacher, seed=s), [t], alone)[0].path for s, t in ((0, 8192), (1, 2048))]
    (study.path / "runs").mkdir()
    for teacher in teachers:
        (study.path / "runs" / teacher.name).symlink_to(teacher)
    distilled = replace(trunk, teacher_run=teachers[0].name)
    mixed = replace(distilled.recipe, distill_weight=0.5, divergence="jsd", temperature=2.0, clip_norm=0.05)
    return [
        trunk,
        distilled,
        replace(distilled, peak_lr=trunk.peak_lr * 2),
        replace(distilled, recipe=mixed),
        replace(distilled, teacher_run=teachers[1].name),
        _wider(trunk),
    ]


def _wider(trunk):
    wide = replace(trunk, width=48, heads=3)
    counts = count_params(wide.shape)
    return replace(wide, params=counts.non_embedding, total_params=counts.total)


@pytest.fixture
def stacking(monkeypatch):
    """Stack students on the CPU too; counts how many go into each stack."""
    sizes = []
    original = loop.stacked_losses

    def counted(members, *arguments):
        sizes.append(len(members))
        return original(members, *arguments)

    monkeypatch.setattr(loop, "STACKING_PAYS", {"cpu"})
    monkeypatch.setattr(loop, "stacked_losses", counted)
    return sizes


def _trajectory(folder, spec):
    text = (folder.run(spec.run_id(TOKENS)).path / "metrics.jsonl").read_text()
    return np.array(
        [
            [row[key] for key in ("step", "loss", "next_token", "grad_norm")]
            for row in map(json.loads, text.splitlines())
        ]
    )


def _weights(folder, spec):
    return LlamaForCausalLM.from_pretrained(folder.run(spec.run_id(TOKENS)).path).state_dict()


def _assert_same_runs(specs, together, alone):
    """Bit for bit the runs that the students make one by one."""
    for spec in specs:
        train_trunk(spec, [TOKENS], alone)
        np.testing.assert_array_equal(_trajectory(together, spec), _trajectory(alone, spec), spec.trunk_id)
        first, second = _weights(together, spec), _weights(alone, spec)
        assert all(torch.equal(first[name], second[name]) for name in second), spec.trunk_id
        results = [folder.run(spec.run_id(TOKENS)).result() for folder in (together, alone)]
        for key in ("loss", "teacher_loss", "teacher_flops", "tokens", "lambda"):
            assert results[0][key] == results[1][key], (spec.trunk_id, key)


def _assert_equal_runs(specs, together, alone):
    """The runs that the students make one by one, up to the rounding of products in batches, without drift."""
    residuals = []
    for spec in specs:
        train_trunk(spec, [TOKENS], alone)
        got, wanted = _trajectory(together, spec), _trajectory(alone, spec)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, err_msg=spec.trunk_id)
        residuals.append(got[:, 1] - wanted[:, 1])
        losses = [folder.run(spec.run_id(TOKENS)).result()["loss"] for folder in (together, alone)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5), spec.trunk_id
    _assert_no_drift(np.concatenate(residuals))


def _assert_no_drift(residual):
    assert abs(residual.mean()) <= 3 * residual.std() / np.sqrt(residual.size) + 1e-9


def test_students_of_different_teachers_share_a_stream_and_are_the_runs_alone(students, study, alone):
    assert train_trunks({spec: [TOKENS] for spec in students}, study) == {}
    _assert_same_runs(students, study, alone)
    shared = [study.run(spec.run_id(TOKENS)).result() for spec in students[1:5]]
    # three students of the one teacher, one of the other: its forward passes are divided among its own students only
    assert [r["teacher_flops"] / r["teacher_flops_spent"] for r in shared] == pytest.approx([3, 3, 3, 1])


def test_stacked_students_equal_the_runs_alone(students, study, alone, stacking):
    assert train_trunks({spec: [TOKENS] for spec in students}, study) == {}
    assert set(stacking) == {5}, "the five of one shape are one stack, the sixth trains beside it"
    _assert_equal_runs(students, study, alone)


def test_stacked_students_accumulate_gradients_as_alone(students, study, alone, stacking):
    specs = [replace(s, recipe=replace(s.recipe, micro_batch_tokens=64)) for s in students[:3]]
    train_trunks({spec: [TOKENS] for spec in specs}, study)
    assert set(stacking) == {3}
    _assert_equal_runs(specs, study, alone)


@pytest.mark.parametrize("stop_at", [3, 14])
def test_a_stopped_stack_resumes_in_any_company(students, study, alone, stacking, stop_at):
    """Stopped as a stack of four, on the trunk or in the cooldown; then one run alone and a stack of three."""
    specs, left = students[1:5], [stop_at]

    def stop(tokens, loss):
        left[0] -= 1
        if left[0] == 0:
            raise StopTraining

    with pytest.raises(StopTraining):
        train_trunks({spec: [TOKENS] for spec in specs}, study, report=stop)
    train_trunk(specs[0], [TOKENS], study)
    train_trunks({spec: [TOKENS] for spec in specs}, study)
    assert set(stacking) == {4, 3}
    _assert_equal_runs(specs, study, alone)


def test_a_student_that_diverges_leaves_the_stack_and_the_others_untouched(students, study, alone, stacking):
    wild = replace(students[1], peak_lr=1e18)
    diverged = train_trunks({spec: [TOKENS] for spec in (*students[:3], wild)}, study)
    assert list(diverged) == [wild]
    assert set(stacking) == {4, 3}
    _assert_equal_runs(students[:3], study, alone)


def test_bfloat16_students_stack(students, study):
    """Rounding to bfloat16 happens at the same places: the same trajectory within 1e-5 and no drift."""
    specs = [replace(s, recipe=replace(s.recipe, precision="bf16")) for s in students[:3]]

    def losses(stacked):
        group = TrunkGroup(specs, study)
        trainers = [group.trainer(spec) for spec in specs]
        sources = [group.teaching(spec).source for spec in specs]
        rows = []
        for step in range(8):
            for tokens, windows, last in group.feed.batches(step):
                signals = [source.signal(tokens, windows) for source in sources]
                if stacked:
                    parts = loop.stacked_losses([t.student for t in trainers], tokens, signals, 128)
                    torch.autograd.backward([p.total for p in parts])
                    for trainer, p in zip(trainers, parts, strict=True):
                        trainer.note(p)
                else:
                    for trainer, signal in zip(trainers, signals, strict=True):
                        trainer.accumulate(tokens, signal, last=last)
            rows.append([trainer.update(1e-3).loss for trainer in trainers])
        return np.array(rows)

    apart, together = losses(False), losses(True)
    np.testing.assert_allclose(together, apart, rtol=1e-5)
    _assert_no_drift(together - apart)


@pytest.mark.parametrize("kv_heads", [4, 1])
def test_stacked_hidden_states_and_gradients_are_those_of_each_model(kv_heads):
    """Grouped heads as well; attention goes through its kernel once for all, so torch has no slow path to warn of."""
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=16,
        use_cache=False,
    )
    torch.manual_seed(0)
    models = [LlamaForCausalLM(config).train() for _ in range(3)]
    ids = torch.randint(50, (2, 16))
    up = torch.randn(3, 2, 16, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hidden = stacked_hidden(models, ids)
    hidden.backward(up)
    for model, got, back in zip(models, hidden, up, strict=True):
        inside = dict(model.base_model.named_parameters())
        stacked = {name: p.grad.clone() for name, p in inside.items()}
        model.zero_grad()
        wanted = hidden_states(model, ids)
        wanted.backward(back)
        torch.testing.assert_close(got, wanted)
        for name, p in inside.items():
            torch.testing.assert_close(stacked[name], p.grad)
        assert model.lm_head.weight.grad is None


def test_what_cannot_stack_trains_beside(study, trunk, stacking):
    recomputing = replace(trunk, recipe=replace(trunk.recipe, checkpoint_activations=True))
    group = TrunkGroup([recomputing], study)
    assert not can_stack(group.trainer(recomputing).student)
    assert not can_stack(torch.nn.Linear(1, 1))
    train_trunks({recomputing: [TOKENS], replace(trunk, peak_lr=trunk.peak_lr / 2): [TOKENS]}, study)
    assert not stacking


def test_nothing_is_stacked_on_a_cpu_unasked(study, trunk, monkeypatch):
    monkeypatch.setattr(loop, "stacked_losses", None)  # would raise
    assert train_trunks({trunk: [TOKENS], replace(trunk, peak_lr=trunk.peak_lr / 2): [TOKENS]}, study) == {}


@pytest.fixture
def graphs(monkeypatch):
    """What a GPU does, on the CPU and without a graph: the same buffers, the same order; counts the recordings."""
    made = []
    original = stacked._Recording

    def counted(*arguments):
        made.append(original(*arguments))
        return made[-1]

    monkeypatch.setenv("DISTILLAW_STACK", "always")
    monkeypatch.setattr(loop, "HAVE_GRAPHS", {"cpu"})
    monkeypatch.setattr(stacked, "_Recording", counted)
    return made


def test_replayed_stacks_equal_the_runs_alone_and_resume(students, study, alone, graphs):
    """The lone sixth is replayed as well; stopped on the way, then resumed in another company without graphs."""
    with pytest.raises(StopTraining):
        train_trunks({spec: [TOKENS] for spec in students}, study, report=stop_after(5))
    assert len(graphs) == 2, "one for the five of one shape, one for the sixth"
    assert train_trunks({spec: [TOKENS] for spec in students[2:]}, study) == {}
    loop.HAVE_GRAPHS.clear()
    assert train_trunks({spec: [TOKENS] for spec in students[:2]}, study) == {}
    _assert_equal_runs(students, study, alone)


def test_a_student_that_leaves_a_replayed_stack_does_not_change_the_others(students, study, alone, graphs):
    wild = replace(students[1], peak_lr=1e18)
    assert list(train_trunks({spec: [TOKENS] for spec in (*students[:2], wild)}, study)) == [wild]
    _assert_equal_runs(students[:2], study, alone)


@pytest.mark.parametrize("fault", ["wrong", "raises"])
def test_a_graph_that_is_not_the_plain_computation_is_not_used(students, study, alone, graphs, monkeypatch, fault):
    def broken(members, *arguments, **options):
        if fault == "raises":
            raise RuntimeError("operation not permitted when stream is capturing")
        every = stacked_losses(members, *arguments, **options)
        return [every[0]._replace(total=every[0].total * 1.01), *every[1:]]

    monkeypatch.setattr(stacked, "stacked_losses", broken)
    words = "differ by" if fault == "wrong" else "not permitted when"
    with pytest.warns(DistillawWarning, match=f"stack of [12]: no captured graph.*{words}"):
        train_trunks({spec: [TOKENS] for spec in students[:2]}, study)
        _assert_same_runs(students[:2], study, alone)


@pytest.mark.slow
def test_micro_batches_are_not_replayed(students, study, alone, graphs):
    specs = [replace(s, recipe=replace(s.recipe, micro_batch_tokens=64)) for s in students[:2]]
    train_trunks({spec: [TOKENS] for spec in specs}, study)
    assert not graphs
    _assert_equal_runs(specs, study, alone)


def test_a_wrong_wish_for_stacking_is_refused(study, trunk, monkeypatch):
    monkeypatch.setenv("DISTILLAW_STACK", "yes")
    with pytest.raises(ConfigError, match="DISTILLAW_STACK = 'yes': give auto, always or never"):
        train_trunk(trunk, [TOKENS], study)


def test_trunks_of_two_streams_are_no_group(study, trunk):
    with pytest.raises(AssertionError, match="one stream"):
        TrunkGroup([trunk, replace(trunk, seed=1)], study)
    assert shared_stream(trunk) != shared_stream(replace(trunk, teacher_run="other"))
