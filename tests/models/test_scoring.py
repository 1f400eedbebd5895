import math

import numpy as np
import pytest
import torch

from distillaw.models.fresh import build_model
from distillaw.models.scoring import make_heldout, score_heldout
from distillaw.models.teacher import ModelTeacher, head_of
from distillaw.runs.paired import DocumentScores
from distillaw.shapes import shape_for_params


def test_scores_equal_a_plain_loop_over_documents():
    model = build_model(shape_for_params(3e4, vocab=50, context=16), seed=0).eval()
    generator = np.random.default_rng(0)
    documents = [generator.integers(0, 50, size) for size in (5, 17, 18, 40)]
    scores = score_heldout(model, make_heldout(documents, context=16), batch_windows=3)
    for index, ids in enumerate(documents):
        total = 0.0
        for start in range(0, len(ids) - 1, 16):
            piece = torch.from_numpy(ids[start : start + 17]).unsqueeze(0)
            with torch.no_grad():
                logp = torch.log_softmax(model(piece[:, :-1]).logits, -1)
            total -= logp.gather(2, piece[:, 1:, None]).sum().item()
        assert scores.loss_sum[index] == pytest.approx(total, rel=1e-5)
        assert scores.tokens[index] == len(ids) - 1


def test_chunks_of_any_size_give_the_same_scores(monkeypatch):
    model = build_model(shape_for_params(3e4, vocab=50, context=16), seed=0)
    documents = [np.random.default_rng(size).integers(0, 50, size) for size in (5, 90, 400)]
    windows = make_heldout(documents, context=16)
    whole = score_heldout(model, windows)
    monkeypatch.setattr("distillaw.models.scoring.LOGITS_AT_ONCE", 1)
    chunked = score_heldout(model, windows)
    np.testing.assert_allclose(chunked.loss_sum, whole.loss_sum, rtol=1e-6)
    assert np.array_equal(chunked.tokens, whole.tokens)
    assert model.training  # as it was


@pytest.mark.parametrize("head_is_known", [True, False])
def test_a_teacher_is_scored_over_the_studys_tokens_alone(head_is_known):
    model = build_model(shape_for_params(3e4, vocab=64, context=16), seed=0).eval().requires_grad_(False)
    head = head_of(model).trimmed(50, torch.float32) if head_is_known else None
    teacher = ModelTeacher(name="padded", model=model, head=head, vocab_size=50, trimmed_rows=14, fingerprint="0" * 16)
    ids = np.random.default_rng(0).integers(0, 50, 14)
    scores = score_heldout(teacher, make_heldout([ids], context=16))
    logp = torch.log_softmax(model(torch.from_numpy(ids[None, :-1])).logits[..., :50], -1)
    wanted = -logp.gather(2, torch.from_numpy(ids[None, 1:, None])).sum().item()
    assert scores.loss_sum[0] == pytest.approx(wanted, rel=1e-5)


def test_the_standard_error_is_clustered_and_agrees_with_the_bootstrap():
    generator = np.random.default_rng(1)
    tokens = generator.integers(50, 500, 200)
    level = generator.normal(3.0, 0.3, 200)  # documents differ: naive errors would be far too small
    scores = DocumentScores.numbered(tokens=tokens, loss_sum=level * tokens)
    picks = generator.integers(0, 200, (4000, 200))
    replicates = scores.loss_sum[picks].sum(1) / tokens[picks].sum(1)
    assert scores.loss_se == pytest.approx(replicates.std(), rel=0.06)
    naive = 0.3 / math.sqrt(tokens.sum())
    assert scores.loss_se > 5 * naive
