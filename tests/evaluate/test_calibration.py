"""Calibration: against a plain loop over the model's own probabilities, and what its errors mean."""

import numpy as np
import pytest
import torch

from distillaw.data.tokenizer import encode_documents, start_token
from distillaw.evaluate.calibration import BinSums, calibration_error, score_calibrated
from distillaw.models.scoring import score_documents, window_batches
from distillaw.models.source import locate
from distillaw.models.teacher import load_teacher

CONTEXT = 16


@pytest.fixture(scope="module")
def scored(candidate, documents):
    """A student, its teacher over the same tokenizer, the documents' ids, and their scores."""
    student = candidate("calibrated", 280)
    tokenizer = locate(student).tokenizer()
    teacher = candidate("calibrator", 280, params=5e4, tokenizer=tokenizer)
    models = [load_teacher(each, tokenizer) for each in (student, teacher)]
    start = start_token("student", tokenizer)
    ids = [np.array([start, *each]) for each in encode_documents(tokenizer, documents[:12])]
    windows = window_batches(ids, context=CONTEXT, stride=CONTEXT)
    return *models, ids, score_calibrated(models[0], windows, len(ids), teacher=models[1])


def plain_loop(student, teacher, ids):
    """Document, confidence, came, teacher's p of the choice, agreement, teacher's confidence, KL of each token."""
    rows = []
    for document, tokens in enumerate(ids):
        for done in range(0, len(tokens) - 1, CONTEXT):
            end = min(done + CONTEXT, len(tokens) - 1)  # the last window sees a whole context, too
            window, new = torch.tensor(tokens[max(0, end - CONTEXT) : end + 1]), end - done
            p, q = (_probs(m, window)[-new:] for m in (student, teacher))
            for t, label in enumerate(window[-new:]):
                choice = int(p[t].argmax())
                kl = float((q[t] * (q[t] / p[t]).log()).sum())
                rows.append(
                    (
                        document,
                        float(p[t, choice]),
                        choice == label,
                        float(q[t, choice]),
                        int(q[t].argmax()) == choice,
                        float(q[t].max()),
                        kl,
                    )
                )
    return np.array(rows, dtype=float)


def _probs(model, window):
    """Over the tokens that the tokenizer has; further rows of the head are no tokens."""
    return model.model(input_ids=window[None, :-1]).logits[0, :, : model.vocab_size].double().softmax(-1)


def plain_ece(confidence, outcome, by=None):
    bins = np.minimum(((confidence if by is None else by) * 21).astype(int), 20)
    return sum(abs((outcome - confidence)[bins == m].sum()) for m in range(21)) / len(confidence)


def test_every_kind_of_calibration_error_is_that_of_a_plain_loop(scored):
    student, teacher, ids, scores = scored
    _, said, came, theirs, agree, confident, kl = plain_loop(student, teacher, ids).T
    expected = {
        "teacher": plain_ece(said, theirs),
        "teacher_top1": plain_ece(said, agree),
        "teacher_confidence": plain_ece(said, confident),
        "teacher_confidence_teacher_bins": plain_ece(said, confident, by=confident),
    }
    assert calibration_error(scores.data)["ece"] == pytest.approx(plain_ece(said, came), rel=1e-5)
    for name, value in expected.items():
        assert calibration_error(scores.against[name])["ece"] == pytest.approx(value, rel=1e-5), name
    assert scores.kl_sum.sum() == pytest.approx(kl.sum(), rel=1e-5)


def test_losses_are_those_of_the_heldout_score(scored):
    student, teacher, ids, scores = scored
    for model, found in ((student, scores.heldout), (teacher, scores.teacher)):
        wanted = score_documents(model, ids, context=CONTEXT, stride=CONTEXT)
        np.testing.assert_allclose(found.loss_sum, wanted.loss_sum, rtol=1e-6)
        np.testing.assert_array_equal(found.tokens, wanted.tokens)


def counted(generator, documents, tokens, *, bias=0.0, shared=0.0):
    """Tokens whose outcomes come true with their confidence plus a bias, alike within documents where `shared`."""
    sums = BinSums.zeros(documents)
    said = generator.random((documents, tokens))
    chance = np.clip(said + bias + shared * generator.standard_normal((documents, 1)), 0, 1)
    came = generator.random((documents, tokens)) < chance
    for d in range(documents):
        sums.add(np.full(tokens, d), said[d], said[d], came[d].astype(float))
    return sums


def test_perfect_calibration_shows_the_floor_and_no_more():
    generator = np.random.default_rng(0)
    found = [calibration_error(counted(generator, 30, 40)) for _ in range(60)]
    assert np.mean([each["ece"] for each in found]) == pytest.approx(
        np.mean([each["floor"] for each in found]), rel=0.05
    )


def test_the_standard_error_is_the_spread_of_repeated_measurements_also_where_documents_are_alike():
    generator = np.random.default_rng(1)
    found = [calibration_error(counted(generator, 60, 50, bias=-0.3, shared=0.1)) for _ in range(150)]
    assert np.mean([each["se"] for each in found]) == pytest.approx(
        np.std([each["ece"] for each in found], ddof=1), rel=0.15
    )


def test_overconfidence_has_a_negative_gap_of_the_size_of_the_error():
    error = calibration_error(counted(np.random.default_rng(2), 50, 400, bias=-1.0))
    assert error["gap"] == pytest.approx(-error["ece"])
    assert error["ece"] == pytest.approx(0.5, abs=0.02)
