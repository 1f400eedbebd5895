"""A status that sees that the law is not of these runs."""

from dataclasses import replace

import numpy as np

import distillaw as dl
from distillaw.fitting.diagnostics import find_misfit
from distillaw.fitting.result import FitStatus
from distillaw.fitting.uncertainty import extent_of
from distillaw.planning.voices import fitted_voice
from in_process import answer

LAW = dl.published("busbridge2025").supervised


def grid(noise=0.003, seed=0):
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 7), np.geomspace(1e9, 1e11, 7)))
    rng = np.random.default_rng(seed)
    return {"params": N, "tokens": D, "loss": LAW(params=N, tokens=D) * np.exp(noise * rng.standard_normal(49))}


def fit(table):
    return dl.fit(table, family="supervised", bootstrap=0, check=False)


def test_a_true_law_is_never_a_misfit():
    """300 tables of Student's noise, 16 to 200 runs: residuals have no status that they do not deserve."""
    rng = np.random.default_rng(20261124)
    for _ in range(300):
        n = int(rng.integers(16, 200))
        N, D = 10 ** rng.uniform(7, 9, n), 10 ** rng.uniform(9, 11, n)
        resid = 0.003 * rng.standard_t(4, n)
        found = find_misfit(resid, extent=extent_of(N, D), weight=np.ones(n), group=np.arange(n))
        assert found is None
    for seed in range(5):
        assert fit(grid(seed=seed)).status is FitStatus.CONVERGED


def test_half_a_table_in_bits_is_named():
    table = grid()
    table["loss"] = np.where(np.arange(49) % 2, table["loss"], table["loss"] / np.log(2))
    result = fit(table)
    assert result.status is FitStatus.MISFIT and "two modes" in result.remedy and result.is_usable


def test_half_a_table_with_embeddings_is_named():
    """A vocabulary of 50,000 at widths from 128, which go with the root of the size: 64 % more for the smallest."""
    table = grid(noise=0.001)
    total = table["params"] + 50_000 * 128 * np.sqrt(table["params"] / 1e7)
    table["params"] = np.where(np.arange(49) % 2, table["params"], total)
    assert fit(table).status is FitStatus.MISFIT


def test_a_break_in_the_last_levels_is_named():
    """Another schedule for the largest runs: 3 % better than the law of the others."""
    table = grid(noise=0.002)
    last = np.argsort(table["params"] * table["tokens"])[-8:]
    table["loss"][last] *= 0.97
    resid = np.log(LAW(params=table["params"], tokens=table["tokens"]) / table["loss"])
    extent = extent_of(table["params"], table["tokens"])
    found = find_misfit(resid, extent=extent, weight=np.ones(49), group=np.arange(49))
    assert found is not None and not found.of_table and "a break" in found.text and "below" in found.text


def test_another_law_shows_as_a_trend():
    table = grid(noise=0.001)
    resid = 0.004 * np.sin(1.2 * np.log(table["params"] / 1e8)) + 0.001 * np.random.default_rng(1).standard_normal(49)
    extent = extent_of(table["params"], table["tokens"])
    found = find_misfit(resid, extent=extent, weight=np.ones(49), group=np.arange(49))
    assert found is not None and "follow params" in found.text


def test_rows_of_one_run_are_one():
    """Twenty checkpoints of each of eight runs are eight runs: too few to tell."""
    resid = np.repeat(np.where(np.arange(8) % 2, 0.01, -0.01), 20)
    N = np.repeat(np.geomspace(1e7, 1e9, 8), 20)
    extent = extent_of(N, np.tile(np.geomspace(1e9, 1e10, 20), 8))
    assert find_misfit(resid, extent=extent, weight=np.ones(160), group=np.repeat(np.arange(8), 20)) is None


def test_a_teacher_that_matters_beyond_its_loss_is_named():
    """Residuals that go with the teacher's size; runs without a teacher have no place along it."""
    rng = np.random.default_rng(0)
    size = np.where(np.arange(120) % 4, 10 ** rng.uniform(8, 10, 120), np.nan)
    resid = 0.001 * rng.standard_normal(120)
    resid += np.nan_to_num(0.005 * np.log10(size / 1e9))
    extent = extent_of(10 ** rng.uniform(7, 9, 120), 10 ** rng.uniform(9, 11, 120), np.where(size > 0, 2.0, np.nan))
    named = np.column_stack([extent[:, :4], size])
    found = find_misfit(resid, extent=named, weight=np.ones(120), group=np.arange(120))
    assert found is not None and "the teacher's size" in found.text


def test_two_tables_in_one_decide_no_verdict_and_a_bent_law_does():
    """A break is in the hold-outs too, and widens what the law says of gains; of two units in one table nothing is."""
    law = dl.published("surrogate-s2")
    axes = np.geomspace(1.4e8, 7.75e9, 5), np.geomspace(3e9, 5e11, 4), np.linspace(1.9, 2.7, 6)
    N, D, T = (v.ravel() for v in np.meshgrid(*axes))
    loss = law.distillation(student_params=N, student_tokens=D, teacher_loss=T)
    table = {"params": N, "tokens": D, "loss": loss, "teacher_loss": T}
    good = dl.fit(table, family="distillation-reduced", supervised=law, bootstrap=20, check=False)
    for of_table in (True, False):
        details = {"misfit": {"text": "", "of_table": of_table}}
        voice = fitted_voice(replace(good, status=FitStatus.MISFIT, details=details), "mine")
        assert voice.may_decide is not of_table
    assert not fitted_voice(replace(good, status=FitStatus.MISFIT, details={}), "of an older file").may_decide


def test_units_that_follow_an_axis_are_noted(tmp_path):
    """Every other count of tokens in bits bends the law rather than splitting its residuals."""
    rng = np.random.default_rng(0)
    lines = {True: ["params,tokens,loss"], False: ["params,tokens,loss"]}
    for n in (1e7, 3e7, 1e8, 3e8, 1e9):
        for i, d in enumerate((2e8, 1e9, 4e9, 1.6e10)):
            loss = (1.69 + 406.4 / n**0.34 + 410.7 / d**0.28) * np.exp(rng.normal(0, 0.005))
            lines[True].append(f"{n},{d},{loss / np.log(2) if i % 2 else loss}")
            lines[False].append(f"{n},{d},{loss}")
    for is_mixed, rows in lines.items():
        (tmp_path / "runs.csv").write_text("\n".join(rows))
        said = answer("fit", tmp_path / "runs.csv", "--law", "supervised", "--bootstrap", "8").stdout
        assert ("nats and bits" in said) == is_mixed, said
