import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from stops import stop_after, train_trunk
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillaw.errors import CacheError, RunError, VocabularyError
from distillaw.models.scoring import make_heldout, score_heldout
from distillaw.runs.places import claim_folder
from distillaw.runs.store import RESULT_KEYS
from distillaw.train.checkpoint import save_state
from distillaw.train.group import TrunkGroup
from distillaw.train.loop import StopTraining


def _weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder.path).state_dict()


def _same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def test_a_finished_run_is_a_hugging_face_folder_with_the_contract_keys(study, trunk, text):
    (folder,) = train_trunk(trunk, [2048], study)
    result = folder.result()
    assert set(RESULT_KEYS) <= set(result)
    assert (result["tokens"], result["steps"], result["params"]) == (2048, 16, trunk.params)
    model = AutoModelForCausalLM.from_pretrained(folder.path)
    assert sum(p.numel() for p in model.parameters()) == result["total_params"]
    assert (
        AutoTokenizer.from_pretrained(folder.path).get_vocab()
        == AutoTokenizer.from_pretrained(text.tokenizer_folder).get_vocab()
    )
    scores = score_heldout(model, make_heldout(text.heldout_documents(), context=32))
    assert scores.loss == pytest.approx(result["loss"], rel=1e-6)
    assert folder.state() == "done"


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_branches_of_one_trunk_equal_the_runs_trained_alone(study, trunk, tmp_path, text, power):
    trunk = replace(trunk, rate_power=power, rate_tokens=1024 if power else 0)
    both = train_trunk(trunk, [2048, 4096], study)
    alone = type(study)(tmp_path / "alone")
    claim_folder(alone.path)
    alone.data.symlink_to(text.folder)
    (small,) = train_trunk(trunk, [2048], alone)
    (large,) = train_trunk(trunk, [4096], alone)  # continues the trunk of the small one
    assert _same_weights(_weights(both[0]), _weights(small))
    assert _same_weights(_weights(both[1]), _weights(large))
    assert both[0].result()["loss"] > both[1].result()["loss"]
    assert both[1].result()["branch_lr"] == pytest.approx(trunk.peak_lr * (0.8 * 4096 / 1024) ** -power)


@pytest.mark.parametrize("stop_at", [1, 10, 13, 15])
def test_a_run_stopped_at_any_step_resumes_bit_for_bit(study, trunk, tmp_path, text, stop_at):
    """Steps 1 and 10 lie on the trunk, 13 and 15 in the cooldown (16 steps, cooldown from 13)."""
    (whole,) = train_trunk(trunk, [2048], study)
    other = type(study)(tmp_path / "stopped")
    claim_folder(other.path)
    other.data.symlink_to(text.folder)
    with pytest.raises(StopTraining):
        train_trunk(trunk, [2048], other, report=stop_after(stop_at))
    assert other.run(trunk.run_id(2048)).result() is None
    (resumed,) = train_trunk(trunk, [2048], other)
    assert _same_weights(_weights(whole), _weights(resumed))
    assert whole.result()["loss"] == resumed.result()["loss"]

    def trajectory(folder):
        rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
        return [(row["step"], row["loss"], row["grad_norm"], row["lr"]) for row in rows]

    assert trajectory(whole) == trajectory(resumed)


def test_nothing_finished_is_repeated(study, trunk):
    (folder,) = train_trunk(trunk, [2048], study)
    before = {p.name: p.stat().st_mtime_ns for p in folder.path.iterdir()}

    def never(tokens, loss):
        raise AssertionError("trained again")

    train_trunk(trunk, [2048], study, report=never)
    assert {p.name: p.stat().st_mtime_ns for p in folder.path.iterdir()} == before


def test_the_checkpoint_of_a_step_is_written_once_and_gives_way_to_any_other_step(study, trunk, tmp_path):
    state, folder = TrunkGroup([trunk], study).trainer(trunk).state, tmp_path / "state"

    def saved(step):
        state.step = step
        save_state(state, folder, identity="one")
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    first = saved(5)
    assert saved(5) == first
    assert all("step-00000009" in str(path) for path in saved(9))
    # as a kill leaves it that came while the older ones were removed
    shutil.copytree(folder / "step-00000009", folder / "step-00000005")
    assert all("step-00000005" in str(path) for path in saved(5))


def _losses(trunk, study, micro, dtype):
    """Training losses of 12 steps with gradients accumulated over micro-batches, computed in `dtype`."""
    spec = replace(trunk, recipe=replace(trunk.recipe, micro_batch_tokens=micro))
    group = TrunkGroup([spec], study)
    trainer = group.trainer(spec)
    trainer.state.model.to(dtype)
    for moments in trainer.state.optimizer.state.values():
        moments.update({name: value.to(dtype) for name, value in moments.items() if name != "step"})
    return np.array([_step(group, trainer, step).loss for step in range(12)])


def _step(group, trainer, step):
    source = group.teaching(trainer.spec).source
    for tokens, windows, last in group.feed.batches(step):
        trainer.accumulate(tokens, source.signal(tokens, windows), last=last)
    return trainer.update(trainer.spec.peak_lr * min(1, (step + 1) / 4))


def test_gradient_accumulation_gives_the_same_trajectory(study, trunk):
    """Bit for bit as float32 when computed in float64; in float32 the sums round differently, without drift."""
    whole, parts = (_losses(trunk, study, micro, torch.float64) for micro in (0, 32))
    assert (whole.astype(np.float32) == parts.astype(np.float32)).all()
    whole, parts = (_losses(trunk, study, micro, torch.float32) for micro in (0, 32))
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    residual = parts - whole
    assert abs(residual.mean()) <= 3 * residual.std() / np.sqrt(len(residual)) + 1e-9


def test_a_student_learns_more_from_a_good_teacher_than_alone(study, trunk):
    (teacher,) = train_trunk(replace(trunk, role="teacher", split="teacher", batch_tokens=512), [65536], study)
    (alone,) = train_trunk(trunk, [8192], study)
    (distilled,) = train_trunk(replace(trunk, teacher_run=teacher.path.name), [8192], study)
    result = distilled.result()
    assert result["teacher_loss"] == teacher.result()["loss"]
    assert result["lambda"] == 1.0 and result["arm"] == "fresh"
    assert result["loss"] < alone.result()["loss"] - 0.1


def test_every_run_says_how_calibrated_it_is_and_a_taught_one_against_its_teacher_too(study, trunk, text):
    (teacher,) = train_trunk(trunk, [4096], study)
    alone = teacher.result()
    taught = replace(trunk, teacher_run=teacher.path.name)
    (student,) = train_trunk(taught, [2048], study)
    found = student.result()
    assert alone["ece_teacher"] is None and alone["kl_from_teacher"] is None
    documents = make_heldout(text.heldout_documents(), context=32)
    model, master = (AutoModelForCausalLM.from_pretrained(each.path) for each in (student, teacher))
    said, came, theirs, kl = _plain_loop(model, master, documents)
    bins = np.minimum((said * 21).astype(int), 20)
    for key, outcome in (("ece", came), ("ece_teacher", theirs)):
        plain = sum(abs((outcome - said)[bins == m].sum()) for m in range(21)) / len(said)
        assert found[key] == pytest.approx(plain, rel=1e-4), key
    assert found["kl_from_teacher"] == pytest.approx(kl.mean(), rel=1e-4)
    record = json.loads((student.path / "calibration.json").read_text())
    assert sum(row["tokens"] for row in record["diagrams"]["data"]) == len(said)
    assert record["ece_teacher"] == found["ece_teacher"]


@torch.no_grad()
def _plain_loop(model, teacher, documents):
    """Confidence of the first choice, whether it came, the teacher's p of it, KL from the teacher, of each token."""
    scored = documents.labels >= 0
    p, q = (each(input_ids=documents.inputs).logits[scored].double().softmax(-1) for each in (model, teacher))
    said, choice = p.max(-1)
    came = choice == documents.labels[scored]
    theirs = q.gather(-1, choice[:, None])[:, 0]
    kl = (q * (q / p).log()).sum(-1)
    return said.numpy(), came.double().numpy(), theirs.numpy(), kl.numpy()


def test_divergence_is_named_with_the_rate_and_keeps_what_was_finished(study, trunk):
    (done,) = train_trunk(trunk, [2048], study)
    with pytest.raises(RunError, match=r"diverged at step \d+.*peak_lr 1e\+18.*Lower"):
        train_trunk(replace(trunk, peak_lr=1e18), [2048], study)
    assert done.state() == "done"


def _checkpoint(study, trunk):
    (folder,) = (study.trunk(trunk.trunk_id) / "state").glob("step-*")
    return folder


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_checkpoint_is_named(study, trunk, damage):
    with pytest.raises(StopTraining):
        train_trunk(trunk, [2048], study, report=stop_after(5))
    (file,) = _checkpoint(study, trunk).glob("*.distcp")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    match damage:
        case "truncated":
            file.write_bytes(raw[:1000])
        case "flipped":
            file.write_bytes(raw)
        case "missing":
            file.unlink()
    with pytest.raises(CacheError, match=r"distcp: .*The checkpoint is damaged. Delete"):
        train_trunk(trunk, [2048], study)


def test_a_foreign_checkpoint_is_refused(study, trunk):
    with pytest.raises(StopTraining):
        train_trunk(trunk, [2048], study, report=stop_after(5))
    other = replace(trunk, seed=7)
    shutil.copytree(study.trunk(trunk.trunk_id), study.trunk(other.trunk_id))
    with pytest.raises(RunError, match="belongs to"):
        train_trunk(other, [2048], study)


def test_a_teacher_of_another_vocabulary_is_refused_with_the_tokens_shown(study, trunk, tmp_path):
    from distillaw.data.tokenizer import train_tokenizer
    from distillaw.models.fresh import build_model

    folder = tmp_path / "foreign"
    build_model(trunk.shape, seed=0).save_pretrained(folder)
    train_tokenizer(["completely different words here " * 50], vocab_size=300 - 30).save_pretrained(str(folder))
    with pytest.raises(VocabularyError, match=r"another vocabulary.*270 entries against 300.*data.tokenizer"):
        train_trunk(replace(trunk, teacher_run=str(folder)), [2048], study)


def test_a_full_disk_during_training_is_a_clear_error_and_loses_nothing(study, trunk):
    import resource
    import signal

    (done,) = train_trunk(trunk, [2048], study)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        with pytest.raises(RunError, match=r"cannot write .*same command continues"):
            train_trunk(trunk, [4096], study)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert done.state() == "done"
    (folder,) = train_trunk(trunk, [4096], study)
    assert folder.state() == "done"
