import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillaw.errors import CacheError, DataError
from distillaw.runs.paired import (
    DocumentScores,
    clustered_cov,
    effective_dof,
    fieller_interval,
    paired_difference,
    paired_over_seeds,
    ratio_difference,
    read_scores,
    t_quantile,
    wilson_interval,
)


def scores(per_token, tokens):
    tokens = np.asarray(tokens, dtype=np.int64)
    return DocumentScores(document=np.arange(len(tokens)), tokens=tokens, loss_sum=np.asarray(per_token) * tokens)


def test_difference_and_error_of_a_case_worked_by_hand():
    # differences 0.1 and 0.4 nats on documents of 100 and 200 tokens: delta = (10 + 80) / 300 = 0.3,
    # residuals 10 - 30 = -20 and 80 - 60 = 20, so se = sqrt(2 / 1 * 800) / 300
    found = paired_difference(scores([2.1, 2.4], [100, 200]), scores([2.0, 2.0], [100, 200]))
    assert found.mean == pytest.approx(0.3)
    assert found.se == pytest.approx(math.sqrt(1600) / 300)
    assert (found.documents, found.seeds, found.dof, found.se_seeds) == (2, 1, 1.0, None)


def test_standard_error_agrees_with_a_bootstrap_over_documents():
    rng = np.random.default_rng(3)
    tokens = np.maximum(20, rng.lognormal(6, 0.8, 120)).astype(np.int64)
    first, second = scores(4 + rng.normal(0, 0.3, 120), tokens), scores(4 + rng.normal(0, 0.3, 120), tokens)
    gap = first.loss_sum - second.loss_sum
    pick = rng.integers(120, size=(6000, 120))
    boot = gap[pick].sum(1) / tokens[pick].sum(1)
    # 6000 replicates know a standard error to 1 %; linearisation is good to a few per cent at 120 documents
    assert paired_difference(first, second).se == pytest.approx(boot.std(), rel=0.06)


def test_answers_of_their_own_are_compared_by_document_too():
    """Each model wrote other tokens to the same prompts; where they are the same it is the paired difference."""
    rng = np.random.default_rng(5)
    lengths, shared = rng.integers(3, 30, (2, 400)), rng.normal(2.0, 0.5, 400)
    first, second = (
        DocumentScores.numbered(tokens=each, loss_sum=each * (shared + rng.normal(gap, 0.3, 400)))
        for each, gap in zip(lengths, (0.2, 0.0), strict=True)
    )
    found = ratio_difference(first, second)
    drawn = rng.integers(0, 400, (4000, 400))
    again = [
        first.loss_sum[i].sum() / first.tokens[i].sum() - second.loss_sum[i].sum() / second.tokens[i].sum()
        for i in drawn
    ]
    assert found.mean == first.loss - second.loss and found.se == pytest.approx(np.std(again), rel=0.05)
    equal = replace(second, tokens=first.tokens)
    paired, same = paired_difference(first, equal), ratio_difference(first, equal)
    assert (same.mean, same.se, same.dof) == pytest.approx((paired.mean, paired.se, paired.dof), rel=1e-12)
    with pytest.raises(DataError, match="different documents"):
        ratio_difference(first, DocumentScores.numbered(tokens=np.ones(3, np.int64), loss_sum=np.ones(3)))


def test_pairing_removes_what_documents_share():
    rng = np.random.default_rng(4)
    tokens = np.full(80, 500)
    hard = rng.normal(4, 0.5, 80)
    first, second = scores(hard, tokens), scores(hard - 0.1, tokens)
    found = paired_difference(first, second)
    assert found.mean == pytest.approx(0.1)
    assert found.se < 1e-12
    assert math.sqrt(clustered_cov(first.loss_sum[:, None], tokens)[0, 0]) > 0.03


def test_seeds_add_their_variance_and_carry_their_few_degrees_of_freedom():
    tokens = np.full(50, 100)
    rng = np.random.default_rng(5)
    base = rng.normal(4, 0.1, 50)
    gains = [0.08, 0.10, 0.15]
    pairs = [(scores(base + g, tokens), scores(base, tokens)) for g in gains]
    found = paired_over_seeds(pairs)
    assert found.mean == pytest.approx(np.mean(gains))
    assert found.se_documents < 1e-12
    assert found.se_seeds == pytest.approx(np.std(gains, ddof=1) / math.sqrt(3))
    assert found.dof == pytest.approx(2.0)
    low, high = found.interval(0.9)
    assert high - low == pytest.approx(2 * 2.91998558 * found.se)  # t table: 0.95 quantile, 2 dof


def test_interval_over_seeds_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(6)
    tokens = np.maximum(20, rng.lognormal(6, 0.6, 60)).astype(np.int64)
    hits = 0
    for _ in range(400):
        documents = rng.normal(0, 0.02, 60)
        pairs = []
        for _seed in range(3):
            gap = 0.05 + rng.normal(0, 0.006) + documents + rng.normal(0, 0.01, 60)
            pairs.append((scores(4 + gap, tokens), scores(np.full(60, 4.0), tokens)))
        low, high = paired_over_seeds(pairs).interval(0.9)
        hits += low < 0.05 < high
    assert 0.88 <= hits / 400 <= 0.99


def test_runs_on_other_documents_or_tokens_are_refused():
    with pytest.raises(DataError, match="different documents"):
        paired_difference(scores([2, 2], [10, 10]), scores([2, 2, 2], [10, 10, 10]))
    with pytest.raises(DataError, match="bits per byte"):
        paired_difference(scores([2, 2], [10, 10]), scores([2, 2], [10, 11]))
    with pytest.raises(DataError, match="at least two"):
        paired_difference(scores([2], [10]), scores([1], [10]))
    with pytest.raises(DataError, match="no pair"):
        paired_over_seeds([])


def test_scores_are_read_back_and_damage_is_named(tmp_path):
    table = {"document": [0, 1], "tokens": [5, 7], "loss_sum": [10.0, 21.0]}
    pq.write_table(pa.table(table), tmp_path / "heldout.parquet")
    assert read_scores(tmp_path / "heldout.parquet").loss == pytest.approx(31 / 12)
    with pytest.raises(CacheError, match="missing"):
        read_scores(tmp_path / "missing.parquet")
    (tmp_path / "bad.parquet").write_text("not parquet")
    with pytest.raises(CacheError, match="cannot be read"):
        read_scores(tmp_path / "bad.parquet")
    pq.write_table(pa.table(table | {"loss_sum": [1.0, float("nan")]}), tmp_path / "nan.parquet")
    with pytest.raises(DataError, match="not finite"):
        read_scores(tmp_path / "nan.parquet")


def test_effective_dof_lies_between_the_parts():
    assert effective_dof((1.0, 4), (0.0, 2)) == 4
    assert effective_dof((1.0, 4), (1.0, 4)) == 8
    assert 2 < effective_dof((0.1, 100), (1.0, 2)) < 3
    assert t_quantile(0.95, 2) == pytest.approx(2.91998558)


def test_wilson_against_printed_values():
    # Newcombe 1998 (Stat. Med. 17:857), table I, method 3, 95 %
    for hits, count, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(hits / count, count, level=0.95) == pytest.approx((low, high), abs=6e-5)
    assert wilson_interval(0.0, 0) == (0.0, 1.0)
    assert (wilson_interval(0.0, 7)[0], wilson_interval(1.0, 7)[1]) == (0.0, 1.0)


def test_the_interval_of_a_ratio_covers_it():
    generator, t, held = np.random.default_rng(1), t_quantile(0.975, 4), 0
    cov = np.array([[0.04, 0.01], [0.01, 0.05]])
    for _ in range(1000):
        sample = generator.multivariate_normal([0.6, 1.5], 5 * cov, size=5)
        found = fieller_interval(*sample.mean(0), np.cov(sample.T) / 5, t=t)
        held += found is None or found[0] <= 0.4 <= found[1]
    assert 930 <= held <= 970
