"""A study's own fitted law in a plan: never in another count of parameters than the plan's, nor surer than its runs."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_study import write_study

import distillaw
from distillaw.fitting.api import fit
from distillaw.fitting.result import FitStatus
from distillaw.laws.base import Box
from distillaw.planning.api import plan
from distillaw.planning.arms import RateDoubt, rate_doubt
from distillaw.planning.situation import Teacher
from distillaw.planning.voices import AT_BOUND_REACH, fitted_voice
from distillaw.runs.record import read_study


def test_a_law_of_total_parameters_has_no_say(tmp_path):
    write_study(tmp_path)
    law = fit(tmp_path, family="distillation-reduced", bootstrap=50, check=False)
    said = {}
    for convention in ("non-embedding", "total"):
        provenance = {**law.provenance, "params_convention": convention}
        replace(law, provenance=provenance).save(tmp_path / "laws" / "distillation-reduced.json")
        record = read_study(tmp_path)
        params, tokens = record.target
        verdict = plan(params, student_tokens=tokens, study=record)
        said[convention] = str(verdict.to_json())
    assert "counts total parameters" in said["total"] and "counts total" not in said["non-embedding"]


@pytest.fixture(scope="module")
def untuned(tmp_path_factory):
    """The pocket study, whose rates were searched at 200k tokens alone, with its law."""
    folder = tmp_path_factory.mktemp("pocket")
    shipped = Path(distillaw.__file__).parent / "studies" / "pocket_runs.parquet"
    shutil.copyfile(shipped, folder / "runs.parquet")
    (folder / "laws").mkdir()
    fit(folder, family="distillation-kappa", bootstrap=50, check=False).save(
        folder / "laws" / "distillation-kappa.json"
    )
    return read_study(folder)


def _unsaid(record):
    runs = [replace(run, row={**run.row, "peak_lr": None, "branch_lr": None}) for run in record.runs]
    return replace(record, runs=runs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "tokens", "sources"), [(388_080, "1.2M", 2), (800_000, "2M", 1)], ids=["agreed", "law alone"]
)
def test_a_law_of_runs_at_unchecked_rates_is_no_surer_than_they_are(untuned, params, tokens, sources):
    """Between budgets and at another size: what their rates cost is in the law too, and agreeing makes it no less."""
    doubt = rate_doubt(untuned, params, 1_200_000)
    said, unsaid = (
        plan(params, student_tokens=tokens, study=r, published=False, with_flips=False)
        for r in (untuned, _unsaid(untuned))
    )
    assert len(said.headline.deciding) == sources
    assert unsaid.verdict == "distil" and said.verdict == "too-close"
    assert "RATE_NOT_CHECKED" in said.headline.note and "RATE_NOT_CHECKED" not in unsaid.headline.note
    assert said.headline.posterior.se[said.headline.best_index] > 0.9 * doubt.sd > 0.2
    assert said.gain.mean == pytest.approx(unsaid.gain.mean, abs=0.03)


def test_what_runs_behind_a_law_may_have_lost_is_that_of_the_nearest_ones(untuned):
    at_search, between, largest, beyond = (rate_doubt(untuned, 388_080, t) for t in (2e5, 6e5, 1_800_192, 18e6))
    assert at_search.checked is None and at_search.sd < 0.02
    assert at_search.alone < between.alone < largest.alone and largest.alone > 5 * largest.taught
    assert beyond == largest and rate_doubt(untuned, 5e6, 18e6) == largest
    assert largest.checked == pytest.approx(2e5, rel=0.01)
    assert largest.sd == math.hypot(largest.alone, largest.taught)
    assert rate_doubt(_unsaid(untuned), 388_080, 1.8e6) == RateDoubt()


TEACHER = Teacher(name="mine", params=1e6, loss=3.0)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["distillation-kappa", "distillation-reduced"])
def test_a_law_with_a_parameter_at_a_bound_decides_near_its_runs_alone(untuned, family):
    """How it goes on is the bound's doing (docs/wager.md): within a factor 3 it decides, beyond it is shown."""
    law = fit(untuned.folder, family=family, bootstrap=20, check=False)
    law = replace(law, fitted_range=Box.of({**law.fitted_range.as_dict(), "compute": (1.0, 1e30)}))
    _, _, most = next(bound for bound in law.fitted_range.bounds if bound[0] == "student_tokens")
    said = {}
    for status in (FitStatus.CONVERGED, FitStatus.AT_BOUND):
        fitted = replace(law, status=status)
        for times in (2.9, 3.1):
            verdict = plan(
                400_000,
                student_tokens=times * most,
                teachers=[TEACHER],
                law=[fitted],
                published=False,
                with_flips=False,
            )
            evidence = verdict.evidence[0]
            assert evidence.pretrain is not None
            said[status.name, times] = (evidence.is_decisive, evidence.status)
    assert [found[0] for found in said.values()] == [True, True, True, False]
    assert said["AT_BOUND", 3.1][1] == "OUT_OF_RANGE"
    bound = replace(law, status=FitStatus.AT_BOUND, fitted_range=Box.of({"compute": (1e9, 1e11)}))
    at = {"student_params": [1e5], "student_tokens": [29e11 / 6e5]}
    assert fitted_voice(bound, "mine").outside(at)["compute"] > AT_BOUND_REACH  # no size and no tokens are far
