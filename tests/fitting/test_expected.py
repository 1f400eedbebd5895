"""Predicted standard errors against what fits of real and simulated runs have."""

import numpy as np
import pytest

from distillaw.fitting.api import fit
from distillaw.fitting.expected import PlannedRuns, expect, prior_laws
from distillaw.fitting.uncertainty import DesignPoints
from distillaw.runs.table import read_table


def _grid(sizes=(1e5, 2e5, 4e5), budgets=(2e5, 6e5, 1.8e6), ratios=(0.7, 0.8, 0.9, 1.0)):
    """Runs of a grid: alone and from teachers of given losses over a middle student's own."""
    law = prior_laws(np.array(sizes))["pocket"]
    middle = float(law.supervised(params=sizes[1], tokens=budgets[1]))
    rows, trunk = [], []
    for i, n in enumerate(sizes):
        for j, ratio in enumerate((np.nan, *ratios)):
            rows += [(n, d, ratio * middle) for d in budgets]
            trunk += [10 * i + j] * len(budgets)
    n, d, t = np.array(rows).T
    return law, PlannedRuns(
        cells=DesignPoints.of({"params": n, "tokens": d, "teacher_loss": t}, what="x"), trunk=np.array(trunk)
    )


def test_the_guess_meets_the_pocket_study():
    table = read_table("src/distillaw/studies/pocket_runs.parquet")
    alone = [i for i, arm in enumerate(table["arm"]) if arm == "supervised" and table["purpose"][i] != "tuning"]
    n, d, loss = (np.array([table[name][i] for i in alone], dtype=float) for name in ("params", "tokens", "loss"))
    for law in prior_laws(n).values():
        error = np.log(law.supervised(params=n, tokens=d) / loss)
        assert np.sqrt(np.mean(error**2)) < 0.01


def test_at_the_papers_scale_the_surrogates_stand_as_they_are():
    from distillaw.laws.published import published

    laws = prior_laws(np.array([1e9, 3e9]))
    assert set(laws) == {"surrogate-s1", "surrogate-s2", "surrogate-s3"}
    assert laws["surrogate-s2"].supervised == published("surrogate-s2").supervised


def test_more_runs_and_less_noise_sharpen():
    law, runs = _grid()
    for form in ("supervised", "reduced", "kappa"):
        errors = expect(law, runs, form=form).errors
        sharper = expect(law, runs, form=form, noise=0.001).errors
        assert all(sharper[name] < errors[name] for name in errors)
    wide = _grid(ratios=(0.65, 0.7, 0.8, 0.9, 1.0, 1.05))[1]
    assert expect(law, wide, form="kappa").errors["c0"] < expect(law, runs, form="kappa").errors["c0"]


def test_errors_shared_by_a_trunk_cancel_along_its_tokens():
    law, runs = _grid()
    together, apart = (expect(law, runs, form="supervised", shared=share).errors for share in (0.9, 0.0))
    assert together["supervised q"] < apart["supervised q"]


def test_weak_teachers_alone_bracket_no_optimum_and_say_little_of_c0():
    law, runs = _grid()
    weak = _grid(ratios=(0.98, 1.0, 1.02, 1.04))[1]
    assert any(one.is_bracketed for one in expect(law, runs, form="kappa").best)
    shortest = expect(law, weak, form="kappa").best[0]
    assert not shortest.is_bracketed
    assert expect(law, weak, form="kappa").errors["c0"] > 1.5 * expect(law, runs, form="kappa").errors["c0"]


def test_the_five_parameter_form_is_the_nearest_one():
    """Its coefficients are those that a fit of noise-free losses finds."""
    law, runs = _grid()
    taught = runs.taught()
    loss = law.distillation(
        student_params=taught.params, student_tokens=taught.tokens, teacher_loss=taught.teacher_loss
    )
    table = {
        "params": taught.params,
        "tokens": taught.tokens,
        "teacher_loss": taught.teacher_loss,
        "loss": loss,
        "supervised_loss": law.supervised(params=taught.params, tokens=taught.tokens),
    }
    fitted = fit(table, family="distillation-reduced", bootstrap=0, delta=1e3, priors=None, group="none")
    values = expect(law, runs, form="reduced").values
    for name in ("c0", "f1", "p"):
        assert values[name] == pytest.approx(fitted.params[name], rel=0.02, abs=0.005), name


@pytest.mark.slow
def test_predicted_errors_are_those_of_the_pocket_studys_bootstrap():
    """Within a factor of 2.5 for both forms: the information matrix at the guess against 200 refits by trunk."""
    table = read_table("src/distillaw/studies/pocket_runs.parquet")
    keep = [i for i, purpose in enumerate(table["purpose"]) if purpose != "tuning"]
    rows = {name: [table[name][i] for i in keep] for name in ("params", "tokens", "teacher_loss", "group")}
    numbers: dict[str, int] = {}
    trunk = np.array([numbers.setdefault(group, len(numbers)) for group in rows["group"]])
    loss = np.array([np.nan if value is None else value for value in rows["teacher_loss"]], dtype=float)
    cells = DesignPoints.of(
        {"params": np.array(rows["params"], float), "tokens": np.array(rows["tokens"], float), "teacher_loss": loss},
        what="x",
    )
    runs = PlannedRuns(cells=cells, trunk=trunk)
    law = prior_laws(cells.params)["pocket"]
    for form in ("reduced", "kappa"):
        fitted = fit(table, family=f"distillation-{form}", bootstrap=200)
        theta = fitted.curve.replicates
        spread = {"c0": theta[:, 5], "f1": np.exp(theta[:, 7]), "p": theta[:, 2]}
        expected = expect(law, runs, form=form).errors
        for name, values in spread.items():
            measured = np.subtract(*np.quantile(values, (0.75, 0.25))) / 1.349
            assert 0.4 < expected[name] / measured < 2.5, (form, name, expected[name], measured)
