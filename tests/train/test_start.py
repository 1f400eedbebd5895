"""Trunks that start as a part of their teacher: recorded, resumed without it, branched and shared as any other."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from stops import stop_after, train_trunk
from transformers import AutoModelForCausalLM

from distillaw.accounting.architecture import count_params
from distillaw.errors import ConfigError
from distillaw.models.prune import prune
from distillaw.models.scoring import make_heldout, score_heldout
from distillaw.models.source import fingerprint, locate
from distillaw.runs.places import claim_folder
from distillaw.train.group import TrunkGroup
from distillaw.train.loop import StopTraining
from distillaw.train.optim import BASE_WIDTH
from distillaw.train.trunk import train_trunks

TOKENS = 2048


def _sized(trunk, **axes):
    sized = replace(trunk, **axes)
    counts = count_params(sized.shape)
    return replace(sized, params=counts.non_embedding, total_params=counts.total)


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory, text):
    """A study folder in which one teacher is trained for all tests here."""
    from distillaw.runs.store import StudyFolder

    folder = StudyFolder(tmp_path_factory.mktemp("taught"))
    claim_folder(folder.path)
    folder.data.symlink_to(text.folder)
    return folder


@pytest.fixture
def teacher(teacher_folder, trunk):
    """The run of a teacher one layer deeper and a head wider than the student."""
    spec = _sized(trunk, layers=trunk.layers + 1, width=trunk.width + 16, heads=trunk.heads + 1, ffn=trunk.ffn + 40)
    return train_trunk(replace(spec, role="teacher", split="teacher"), [16384], teacher_folder)[0]


@pytest.fixture
def taught(fresh_study, teacher):
    """taught(name) -> a study folder that holds the finished teacher."""

    def make(name):
        study = fresh_study(name)
        (study.path / "runs").mkdir()
        (study.path / "runs" / teacher.path.name).symlink_to(teacher.path)
        return study

    return make


@pytest.fixture
def pruned(trunk, teacher):
    """The student cut out of it."""
    return replace(trunk, teacher_run=teacher.path.name, init="pruned")


def _weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder.path).state_dict()


def _same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def test_a_pruned_trunk_starts_as_the_cut_and_says_what_it_lost(taught, pruned, teacher, text):
    study = taught("one")
    (run,) = train_trunk(pruned, [TOKENS], study)
    result, record = run.result(), json.loads((study.trunk(pruned.trunk_id) / "start.json").read_text())
    student = prune(AutoModelForCausalLM.from_pretrained(teacher.path), pruned.shape)
    assert _same(TrunkGroup([pruned], study).trainer(pruned).state.model.state_dict(), student.state_dict())
    scores = score_heldout(student, make_heldout(text.heldout_documents(), context=32))
    assert result["start_loss"] == record["loss"] == scores.loss
    assert result["init"] == "pruned" and result["loss"] < result["start_loss"]
    kept = record["cut"]
    assert kept["layers"] == list(range(pruned.layers)) and len(kept["heads"][0]) == pruned.heads
    assert record["teacher"].endswith(teacher.path.name)


def test_a_cut_at_full_size_starts_at_the_teachers_loss(taught, pruned, teacher):
    study = taught("whole")
    spec = json.loads((teacher.path / "spec.json").read_text())
    whole = _sized(pruned, **{axis: spec[axis] for axis in ("layers", "width", "heads", "ffn")})
    (run,) = train_trunk(whole, [TOKENS], study)
    assert run.result()["start_loss"] == teacher.result()["loss"]


def test_fresh_and_pruned_students_are_other_trunks_and_share_the_teacher(taught, pruned):
    fresh = replace(pruned, init="fresh")
    assert fresh.trunk_id != pruned.trunk_id
    together, alone = taught("together"), taught("alone")
    assert train_trunks({pruned: [TOKENS], fresh: [TOKENS]}, together) == {}
    for spec in (pruned, fresh):
        (run,) = train_trunk(spec, [TOKENS], alone)
        both = together.run(spec.run_id(TOKENS))
        assert _same(_weights(both), _weights(run))
        assert both.result()["teacher_flops"] == 2 * both.result()["teacher_flops_spent"]
    assert alone.run(fresh.run_id(TOKENS)).result()["start_loss"] is None


@pytest.mark.parametrize("stop_at", [1, 10, 15])
def test_a_stopped_pruned_trunk_resumes_bit_for_bit_without_its_teachers_weights(taught, pruned, monkeypatch, stop_at):
    whole, stopped = taught("whole"), taught("stopped")
    (wanted,) = train_trunk(pruned, [TOKENS], whole)
    with pytest.raises(StopTraining):
        train_trunk(pruned, [TOKENS], stopped, report=stop_after(stop_at))
    monkeypatch.setattr("distillaw.train.group.open_for_pruning", None)  # would raise
    (got,) = train_trunk(pruned, [TOKENS], stopped)
    assert _same(_weights(got), _weights(wanted))
    assert (got.path / "config.json").read_bytes() == (wanted.path / "config.json").read_bytes()
    for key in ("loss", "start_loss", "steps"):
        assert got.result()[key] == wanted.result()[key]


def test_a_student_cut_by_importance_out_of_another_model_resumes_and_says_what_it_was(taught, trunk, teacher):
    """Alone: what it is cut out of is not what it learns from."""
    cut = replace(trunk, init="pruned", cut_from=teacher.path.name, cut_by="activation", is_fixed=True)
    whole, stopped = taught("whole"), taught("stopped")
    (wanted,) = train_trunk(cut, [TOKENS], whole)
    with pytest.raises(StopTraining):
        train_trunk(cut, [TOKENS], stopped, report=stop_after(10))
    (got,) = train_trunk(cut, [TOKENS], stopped)
    assert _same(_weights(got), _weights(wanted))
    result = wanted.result()
    assert (result["arm"], result["teacher_run"], result["start_run"]) == ("fixed", None, teacher.path.name)
    assert result["start_params"] == teacher.result()["params"] > result["params"]
    uniform = replace(cut, cut_by="uniform")
    assert uniform.trunk_id != cut.trunk_id == replace(cut, is_fixed=False).trunk_id
    assert TrunkGroup([cut], whole).trainer(cut).state.model.state_dict().keys() == _weights(wanted).keys()


def test_a_pruned_trunk_branches_as_runs_trained_alone(taught, pruned):
    both = train_trunk(pruned, [TOKENS, 2 * TOKENS], taught("both"))
    alone = [train_trunk(pruned, [t], taught(f"alone-{t}"))[0] for t in (TOKENS, 2 * TOKENS)]
    for a, b in zip(both, alone, strict=True):
        assert _same(_weights(a), _weights(b))


def test_a_smaller_budget_asked_for_later_starts_from_the_same_cut(taught, pruned):
    study, other = taught("later"), taught("at-once")
    train_trunk(pruned, [2 * TOKENS], study)
    (later,) = train_trunk(pruned, [TOKENS], study)
    (at_once,) = train_trunk(pruned, [TOKENS], other)
    assert _same(_weights(later), _weights(at_once))


def test_the_rotary_base_and_norms_of_the_teacher_reach_the_finished_run(taught, pruned, teacher, tmp_path):
    """An external teacher with a configuration of its own, which a resumed trunk and the exported folder keep."""
    folder = tmp_path / "model"
    shutil.copytree(teacher.path, folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"], config["rms_norm_eps"] = 777.0, 1e-3
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").unlink(missing_ok=True)  # what vouched for the configuration as it was
    spec = replace(pruned, teacher_run=str(folder), teacher_fingerprint=fingerprint(locate(str(folder))))
    study = taught("external")
    with pytest.raises(StopTraining):
        train_trunk(spec, [TOKENS], study, report=stop_after(4))
    (run,) = train_trunk(spec, [TOKENS], study)
    got = AutoModelForCausalLM.from_pretrained(run.path).config
    assert got.rope_parameters["rope_theta"] == 777.0 and got.rms_norm_eps == 1e-3


def test_the_rates_of_a_pruned_start_are_those_of_its_own_width(taught, pruned):
    optimizer = TrunkGroup([pruned], taught("rates")).trainer(pruned).state.optimizer
    assert [group["lr_scale"] for group in optimizer.param_groups] == [BASE_WIDTH / pruned.width, 1.0]
    assert all(not state["exp_avg"].any() for state in optimizer.state.values())


def test_what_cannot_be_cut_is_refused_before_a_step(taught, pruned):
    study = taught("refused")
    larger = _sized(pruned, layers=pruned.layers + 3)
    with pytest.raises(ConfigError, match=r"it has \d layers, its teacher \d"):
        train_trunk(larger, [TOKENS], study)
    with pytest.raises(ConfigError, match="it has no teacher to cut from"):
        train_trunk(replace(pruned, teacher_run=None), [TOKENS], study)
    assert not list(study.path.glob("trunks/*/state"))
