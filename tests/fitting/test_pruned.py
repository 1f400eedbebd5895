"""`fit --law pruned`: a known head start comes back, its law predicts, and bad tables are refused."""

import numpy as np
import pytest

import distillaw as dl
from distillaw.errors import ConfigError, DataError
from distillaw.fitting.result import FitResult
from distillaw.laws.starts import CUTS, StartLaw
from distillaw.planning.situation import Teacher

LAW = dl.published("surrogate-s1")
TRUE = StartLaw(share=0.9, taught=0.4, power=1.2)
NOISE = 0.002


def table(seed=0, *, sizes=(3e8, 6e8, 1.2e9), sources=((2.4e9, 5e10), (4.8e9, 1e11)), noise=NOISE):
    """Random starts and cuts, alone and taught by what they were cut out of, each run a group of its own."""
    rng, rows = np.random.default_rng(seed), []
    for N in sizes:
        for D in (1e10, 3e10, 1e11):
            for T, D_T in sources:
                L_T = float(LAW.supervised(params=T, tokens=D_T))
                of_cut = {"student_params": N, "source_params": T, "source_tokens": D_T}
                for taught in (False, True):
                    ahead = float(TRUE.head_start(**of_cut, taught=taught)[0])
                    teacher = {"teacher_loss": L_T, "teacher_params": T, "teacher_tokens": D_T}
                    cell = {"params": N, "tokens": D} | (teacher if taught else dict.fromkeys(teacher, np.nan))
                    for arm, tokens in (("pruned", D + ahead), ("fresh", D)):
                        if arm == "fresh" and not taught and (T, D_T) != sources[0]:
                            continue
                        loss = (
                            LAW.distillation(student_params=N, student_tokens=tokens, teacher_loss=L_T)
                            if taught
                            else LAW.supervised(params=N, tokens=tokens)
                        )
                        of = {"start_params": T, "start_tokens": D_T} if arm == "pruned" else {}
                        row = cell | {"start_params": np.nan, "start_tokens": np.nan} | of
                        rows.append(row | {"arm": arm, "loss": float(loss) * np.exp(noise * rng.normal())})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def fit(data, **options):
    return dl.fit(data, family="pruned", supervised=LAW, **{"bootstrap": 60} | options)


def test_a_known_head_start_comes_back_within_its_interval():
    found = fit(table())
    assert found.status.name == "CONVERGED" and isinstance(found.law, StartLaw)
    for name, true in TRUE.coefficients.items():
        low, high = found.conf_int()[name]
        assert low < true < high and (high - low) / true < 0.8
    assert found.noise == pytest.approx(NOISE, rel=0.5)
    assert found.fitted_range.as_dict()["kept"] == pytest.approx((0.0625, 0.5))


def test_intervals_cover():
    inside = [low < TRUE.share < high for seed in range(12) for low, high in [fit(table(seed)).conf_int()["share"]]]
    assert sum(inside) >= 9, "9 or more of 12 at a coverage of 90 %: probability 0.996"


def test_what_is_predicted_is_the_random_start_so_many_tokens_later(tmp_path):
    found = fit(table())
    at = {"student_params": 6e8, "student_tokens": 3e10, "teacher_loss": 2.1}
    ahead = found.law.head_start(student_params=6e8, source_params=4.8e9, source_tokens=1e11, taught=True)
    later = LAW.distillation(**at | {"student_tokens": 3e10 + float(ahead[0])})
    predicted = found.predict(**at, start_params=4.8e9, start_tokens=1e11)
    assert predicted.mean == pytest.approx(float(later), rel=1e-9)
    assert predicted.lower < predicted.mean < predicted.upper
    kept = FitResult.load(found.save(tmp_path / "law.json"))
    assert kept.predict(**at, start_params=4.8e9, start_tokens=1e11) == predicted
    asked = {"student_params": "600M", "student_tokens": "30B", "start": "pruned", "with_flips": False}
    teacher = Teacher(name="4.8B", params=4.8e9, tokens=1e11)
    own, shipped = (
        dl.plan(**asked, teachers=[teacher], law=law).assumptions[-1] for law in (tmp_path / "law.json", None)
    )
    assert own != shipped and "ahead of random weights" in own, "a plan asks the law of starts that it is given"


def test_a_law_of_random_starts_is_fitted_to_the_same_table_where_none_is_given():
    found = dl.fit(table(sources=((2.4e9, 5e10), (4.8e9, 1e11), (9.6e9, 2e11))), family="pruned", bootstrap=20)
    assert found.is_usable and found.curve.behind.behind is not None
    assert found.params["power"] == pytest.approx(TRUE.power, abs=0.25)


def test_bad_tables_are_refused():
    good = table()
    cut = good["arm"] == "pruned"
    with pytest.raises(DataError, match="larger than what it was cut out of"):
        fit(good | {"start_params": np.where(cut, 1e8, np.nan)})
    with pytest.raises(DataError, match="size and tokens are not known"):
        fit(good | {"start_tokens": np.full(len(cut), np.nan), "teacher_tokens": np.full(len(cut), np.nan)})
    with pytest.raises(ConfigError, match="begin as cuts"):
        fit(good, arm="fresh")
    with pytest.raises(DataError, match="no rows of such starts"):
        fit({name: values[~cut] for name, values in good.items()})
    with pytest.raises(ConfigError, match="both halves"):
        dl.fit(good, family="pruned", supervised=dl.published("hoffmann2022"))


def test_too_few_cuts_give_no_law_and_say_how_many_are_needed():
    good = table(sizes=(6e8,))
    few = np.flatnonzero(good["arm"] == "fresh").tolist() + np.flatnonzero(good["arm"] == "pruned")[:4].tolist()
    found = fit({name: values[few] for name, values in good.items()})
    assert found.status.name == "TOO_FEW_RUNS" and not found.is_usable
    assert "4 independent runs begin as cuts, and 6 are needed" in found.remedy


def test_random_starts_that_carry_no_law_are_said_in_words():
    """The range of a lone half is no pair of numbers, which ended in a traceback."""
    few = table(sizes=(6e8,))
    found = dl.fit(few, family="pruned", bootstrap=10)
    assert found.status.name == "TOO_FEW_RUNS" and "carry no law of their own" in found.summary()
    assert all(np.isfinite(ends).all() for ends in found.fitted_range.as_dict().values())


def test_a_share_without_runs_stays_that_of_the_law_shipped():
    good = table()
    taught = ~((good["arm"] == "pruned") & np.isnan(good["teacher_loss"]))
    found = fit({name: values[taught] for name, values in good.items()})
    assert found.params["share"] == pytest.approx(CUTS.share)
    assert found.params["taught"] == pytest.approx(TRUE.taught, rel=0.3)
    assert any("behind share" in note for note in found.notes)
