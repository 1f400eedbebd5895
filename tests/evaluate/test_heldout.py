import math

import numpy as np
import pytest
import torch

from distillaw.accounting.shapes import shape_for_params
from distillaw.evaluate.heldout import HeldoutLoss, make_heldout, score_heldout
from distillaw.models.fresh import build_model


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


def test_the_standard_error_is_clustered_and_agrees_with_the_bootstrap():
    generator = np.random.default_rng(1)
    tokens = generator.integers(50, 500, 200)
    level = generator.normal(3.0, 0.3, 200)  # documents differ: naive errors would be far too small
    scores = HeldoutLoss(tokens=tokens, loss_sum=level * tokens)
    picks = generator.integers(0, 200, (4000, 200))
    replicates = scores.loss_sum[picks].sum(1) / tokens[picks].sum(1)
    assert scores.loss_se == pytest.approx(replicates.std(), rel=0.06)
    naive = 0.3 / math.sqrt(tokens.sum())
    assert scores.loss_se > 5 * naive
