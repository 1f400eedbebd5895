"""The capacity-gap line: recovered with its doubt from bracketed students, refused otherwise."""

import numpy as np
import pytest

import distillaw as dl
from distillaw.errors import ConfigError, DataError, FitError
from distillaw.fitting.query import predict_student
from distillaw.fitting.result import FitResult, FitStatus
from distillaw.laws.published import published

STUDENTS = (1e7, 3e7, 1e8, 3e8, 1e9)


def pilot(students=STUDENTS, *, best=lambda S: 2.5 * S - 3e6, depth=0.05, noise=0.0, seed=0, teachers=8, skew=0.0):
    """U's in ln T around T*; the grids are symmetric in no student."""
    rng = np.random.default_rng(seed)
    rows = []
    for S in students:
        for T in np.geomspace(0.8 * S, 12 * S, teachers):
            x = np.log(T / best(S))
            rise = x**2 if skew == 0 else 2 * (np.exp(-skew * x) + skew * x - 1) / skew**2
            loss = 3.0 - 0.1 * np.log(S / 1e7) + depth * rise
            rows.append((S, 20 * S, T, 2.5, loss + noise * rng.standard_normal()))
    names = ("params", "tokens", "teacher_params", "teacher_loss", "loss")
    return dict(zip(names, np.array(rows).T, strict=True))


def fitted(table, **options):
    return dl.fit(table, family="capacity-gap", **{"bootstrap": 300} | options)


def optima(result):
    return result.details["budgets"][0]["optima"]


def test_line_is_recovered():
    result = fitted(pilot())
    assert result.status is FitStatus.CONVERGED
    assert result.params["slope"] == pytest.approx(2.5, rel=0.03)
    assert result.params["intercept"] == pytest.approx(-3.0, abs=1.0)
    assert result.predict(student_params=5e8).mean == pytest.approx(2.5 * 5e8 - 3e6, rel=0.03)
    assert set(result.conf_int()) == {"slope", "intercept", "ratio"}


def test_a_skewed_bottom_is_found_where_it_is():
    """A parabola would put it 1.3 times too high."""
    result = fitted(pilot(best=lambda S: 4 * S, skew=1.5, noise=0.001))
    assert result.params["ratio"] == pytest.approx(4, rel=0.06)
    low, high = result.conf_int()["ratio"]
    assert low < 4 < high


def test_a_fitted_line_answers_with_status_and_interval():
    result = fitted(pilot(noise=0.002))
    inside, outside = (predict_student("mine", result, student_params=params) for params in (2e8, 2e11))
    low, high = inside["best_teacher_interval"]
    assert inside["status"] == result.status.name and low < inside["best_teacher_params"] < high
    assert outside["status"] == "EXTRAPOLATED" and outside["inside_range"] is False


def test_noisier_runs_give_wider_intervals():
    widths = [np.ptp(fitted(pilot(noise=noise, seed=1)).conf_int()["slope"]) for noise in (0.001, 0.012)]
    assert widths[1] > 1.5 * widths[0]


def test_what_a_seed_does_to_all_teachers_of_a_student_cancels():
    rng = np.random.default_rng(3)
    tables = [pilot(noise=0.001, seed=s) for s in (0, 1)]
    for table, seed in zip(tables, (0, 1), strict=True):
        for S in STUDENTS:
            table["loss"][table["params"] == S] += 0.1 * rng.standard_normal()
        table["seed"] = np.full(len(table["loss"]), seed)
    both = {name: np.concatenate([each[name] for each in tables]) for name in tables[0]}
    result = fitted(both)
    assert result.details["budgets"][0]["noise"] < 0.003
    assert result.params["slope"] == pytest.approx(2.5, rel=0.05)


def test_fewer_than_four_bracketed_students_give_no_line():
    result = fitted(pilot([1e7, 1e8, 1e9]))
    assert result.status is FitStatus.TOO_FEW_RUNS and result.law is None
    with pytest.raises(FitError, match="3 student sizes, 4 are needed"):
        result.predict(student_params=1e8)


def test_an_optimum_beyond_the_teachers_is_a_bound():
    table = pilot(noise=0.001, teachers=16)
    keep = table["teacher_params"] < 2.2 * table["params"]
    result = fitted({k: v[keep] for k, v in table.items()})
    assert result.status is FitStatus.TOO_FEW_RUNS and "try larger" in result.remedy
    for each in optima(result):
        low, high = each["interval"]
        assert each["status"] == "at least" and high is None and each["best_teacher_params"] is None
        assert low < 2.8 * each["student_params"]


def test_one_student_with_a_bound_still_counts_in_the_line():
    table = pilot(noise=0.002)
    cut = (table["params"] == STUDENTS[-1]) & (table["teacher_params"] > 2.5e9)
    result = fitted({k: v[~cut] for k, v in table.items()})
    assert [each["status"] for each in optima(result)] == [*4 * ["bracketed"], "at least"]
    assert result.params["slope"] == pytest.approx(2.5, rel=0.15)


def test_one_best_teacher_for_all_is_no_line():
    students = (1e7, 1.5e7, 2.2e7, 3.3e7, 5e7)
    table = pilot(students, best=lambda S: 6e7, noise=0.001)
    result = fitted(table)
    assert result.status is FitStatus.NO_LINE and result.law is None and not result.is_usable
    assert result.details["budgets"][0]["tests"]["no_dependence"] > 0.05


def test_noise_alone_brackets_nothing():
    result = fitted(pilot(depth=0.0, noise=0.01))
    assert result.status is FitStatus.TOO_FEW_RUNS
    assert any(each["status"] != "bracketed" for each in optima(result))


def test_three_teachers_and_one_run_each_do_not_tell_the_noise():
    table = pilot(teachers=3, noise=0.001)
    result = fitted(table)
    assert result.status is FitStatus.TOO_FEW_RUNS and "noise between runs is not known" in result.remedy
    given = fitted(table | {"loss_se": np.full(len(table["loss"]), 0.001)})
    assert given.details["budgets"][0]["noise"] == pytest.approx(0.001)


def test_how_flat_the_bottom_is():
    """depth x^2 of the loss: 0.5 % of 2.9 is reached at x = sqrt(0.0145 / 0.05)."""
    for each in optima(fitted(pilot(noise=0.0005))):
        low, high = each["within_half_per_cent"]
        wide = np.sqrt(0.005 * each["lowest_loss"] / 0.05)
        assert np.log(high / low) == pytest.approx(2 * wide, abs=0.15)
        assert each["depth_below"] > 0.02 and each["depth_above"] > 0.05


def test_budgets_are_answered_apart_and_the_largest_with_a_line_leads():
    tables = []
    for tokens, ratio in ((1e9, 2.0), (4e9, 4.0)):
        table = pilot(best=lambda S, ratio=ratio: ratio * S, noise=0.001)
        tables.append(table | {"tokens": np.full(len(table["loss"]), tokens)})
    result = fitted({name: np.concatenate([each[name] for each in tables]) for name in tables[0]})
    ratios = [each["params"]["ratio"] for each in result.details["budgets"]]
    assert ratios == pytest.approx([2, 4], rel=0.05) and result.params["ratio"] == ratios[1]
    assert result.details["budget"] == 4e9


def test_a_law_goes_through_its_file(tmp_path):
    result = fitted(pilot(noise=0.002))
    again = FitResult.load(result.save(tmp_path / "law.json"))
    assert again.conf_int() == result.conf_int() and again.to_json() == result.to_json()
    assert "T rises as S" in again.summary()


def test_a_pruned_student_larger_than_its_teacher_is_refused():
    table = pilot(noise=0.001)
    with pytest.raises(DataError, match="larger than its teacher"):
        fitted(table | {"arm": np.full(len(table["loss"]), "pruned")})


class TestBudgets:
    """Students of one budget differ by whole batches; another budget is another law."""

    def test_one_budget_in_whole_batches_is_one(self):
        table = pilot(noise=0.001)
        short = np.isin(table["params"], STUDENTS[:3])
        result = fitted(table | {"tokens": np.where(short, 999_424.0, 1e6)})
        assert len(result.details["budgets"]) == 1 and len(optima(result)) == 5

    @pytest.mark.parametrize("per_param", [20, 100, 160])
    def test_tokens_per_parameter_in_whole_batches_are_one_budget(self, per_param):
        table = pilot([1.03e5, 1.73e5, 3.11e5, 5.39e5, 9.71e5], best=lambda S: 3 * S, noise=0.001)
        batches = np.floor(per_param * table["params"] / 16_384)
        result = fitted(table | {"tokens": 16_384 * batches})
        assert len(result.details["budgets"]) == 1 and result.details["budget_unit"] == "tokens_per_param"

    def test_budgets_a_tenth_apart_are_two(self):
        table = pilot(noise=0.001)
        tokens = np.where(np.isin(table["params"], STUDENTS[:3]), 1e9, 1.1e9)
        assert len(fitted(table | {"tokens": tokens}).details["budgets"]) == 2

    def test_the_summary_says_every_budget_s_coefficients(self):
        tables = []
        for tokens, ratio in ((1e9, 2.0), (4e9, 4.0)):
            table = pilot(best=lambda S, ratio=ratio: ratio * S, noise=0.001)
            tables.append(table | {"tokens": np.full(len(table["loss"]), tokens)})
        text = fitted({k: np.concatenate([each[k] for each in tables]) for k in tables[0]}).summary()
        first = text[text.index("students of 1B tokens") : text.index("students of 4B tokens")]
        assert all(f"  {name} " in first for name in ("slope", "intercept", "ratio"))

    def test_another_budget_is_outside_the_range(self):
        table = pilot(noise=0.001)
        result = fitted(table | {"tokens": np.full(len(table["loss"]), 1e9)})
        same, other = (
            predict_student("mine", result, student_params=1e8, student_tokens=tokens)
            for tokens in (999_424_000.0, 1e12)
        )
        assert same["inside_range"] and same["warnings"] == [] and not other["inside_range"]
        assert other["status"] == "EXTRAPOLATED" and "tokens" in other["warnings"][0]
        untold = predict_student("mine", result, student_params=1e8)
        assert "1B tokens" in untold["warnings"][0]


def test_the_rise_at_far_teachers_is_what_was_measured():
    """Of curves of a distillation law; the local U, taken to teachers far off its bottom, says several times that."""
    law, noise, rng = published("surrogate-s2"), 0.001, np.random.default_rng(0)
    rows, true = [], {}
    for S in (1e8, 2e8, 4e8, 8e8, 1.6e9):
        T = S * 2.0 ** np.arange(-2, 8)
        teachers = law.supervised(params=T, tokens=20 * T)
        loss = law.distillation(student_params=S, student_tokens=20 * S, teacher_loss=teachers)
        true[S] = loss[[0, -1]] - loss.min()
        rows += [(S, 20 * S, t, 2.5, y + noise * rng.standard_normal()) for t, y in zip(T, loss, strict=True)]
    names = ("params", "tokens", "teacher_params", "teacher_loss", "loss")
    table = dict(zip(names, np.array(rows).T, strict=True))
    found = [each for each in optima(fitted(table)) if each["status"] == "bracketed"]
    assert len(found) >= 4
    for each in found:
        depths = each["depth_below"], each["depth_above"]
        assert depths == pytest.approx(true[each["student_params"]], abs=0.006)


@pytest.fixture(scope="module")
def by_power():
    """T = c S^0.7: the ratio falls from 6 to 2.6 over the students, and no line holds beyond them."""
    students = (1e7, 2e7, 4e7, 8e7, 1.6e8)
    return fitted(pilot(students, best=lambda S: 6e7 * (S / 1e7) ** 0.7, noise=0.001, teachers=10))


class TestRatio:
    def test_one_that_the_fit_s_own_test_rejects_is_said(self, by_power):
        assert by_power.details["budgets"][0]["tests"]["constant_ratio"] < 0.05
        assert any("ratio is not constant" in note for note in by_power.notes)
        constant = fitted(pilot(best=lambda S: 4 * S, noise=0.002))
        assert not any("ratio is not constant" in note for note in constant.notes)

    def test_beyond_its_students_an_interval_holds_line_and_power(self, by_power):
        assert not by_power.details["budgets"][0]["tests"]["elasticity_high"] > 0.95
        for S in (1.6e9, 1e6):
            far = by_power.predict(student_params=S)
            assert far.lower < 6e7 * (S / 1e7) ** 0.7 < far.upper
        ends = by_power.predict(student_params=[1.6e8 * (1 - 1e-6), 1.6e8 * (1 + 1e-6)])
        assert np.ptp(np.log(ends.lower)) < 1e-3 and np.ptp(np.log(ends.upper)) < 1e-3

    def test_students_turned_round_are_those_of_the_teachers(self, by_power):
        curve, students = by_power.curve, by_power.fitted_range.as_dict()["student_params"]
        for S in (5e6, 5e7, 1e9):
            line, power = curve.line_and_power(np.array([np.log(S)]), students)[:, :, 0]
            back = np.array([curve.students_of(t, students) for t in (line[0], power[0])])
            assert back[0, 0, 0] == pytest.approx(np.log(S), abs=1e-6)
            assert back[1, 1, 0] == pytest.approx(np.log(S), abs=1e-6)


def test_without_replicates_there_is_no_interval():
    answer = predict_student("mine", fitted(pilot(noise=0.002), bootstrap=0), student_params=2e8)
    assert answer["best_teacher_interval"] is None and "--bootstrap" in answer["interval_meaning"]


@pytest.mark.parametrize(
    "unused", [{"delta": 1e-3}, {"priors": "weak"}, {"weights": np.ones(40)}], ids=lambda each: next(iter(each))
)
def test_options_that_do_nothing_are_refused(unused):
    with pytest.raises(ConfigError, match=f"{next(iter(unused))}: capacity-gap"):
        fitted(pilot(noise=0.002), **unused)


def test_no_note_advises_groups_and_named_ones_get_one():
    table = pilot(noise=0.002)
    assert not any("--group" in note for note in fitted(table).notes)
    named = fitted(table | {"run": table["params"]}, group="run")
    assert any("group run" in note for note in named.notes)


def test_the_remedy_for_unknown_noise_helps():
    once = pilot(teachers=3, noise=0.001) | {"seed": np.zeros(15)}
    more = pilot(teachers=3, noise=0.001, seed=1) | {"seed": np.ones(15)}
    one_each = np.arange(15) % 3 == 0
    remedy = fitted({k: np.concatenate([v, more[k][one_each]]) for k, v in once.items()}).remedy
    assert "a second seed of every run" in remedy
    followed = fitted({k: np.concatenate([v, more[k]]) for k, v in once.items()})
    assert followed.details["budgets"][0]["noise"] is not None


def test_optima_say_their_level():
    low = fitted(pilot(noise=0.002), level=0.5)
    budget = low.details["budgets"][0]
    assert (budget["optima_level"], budget["level"]) == (0.9, 0.5) and "best teacher (90 %)" in low.summary()


def test_a_law_file_of_before_is_to_be_fitted_again(tmp_path):
    document = fitted(pilot(noise=0.002)).to_json()
    document["curve"] |= {"theta": [2.5, 0.0], "replicates": []}
    with pytest.raises(DataError, match="earlier version") as refused:
        FitResult.from_json(document)
    assert "damaged" not in str(refused.value)


class TestStarts:
    """Fresh, pruned and fixed are arms; every other start is one of its own, and none is pooled with another."""

    def rows(self, **inits):
        tables = []
        for i, (init, ratio) in enumerate(inits.items()):
            table = pilot(teachers=9, best=lambda S, ratio=ratio: ratio * S, noise=0.002, seed=i)
            cuts = table["teacher_params"] > table["params"]
            table = {name: values[cuts] for name, values in table.items()}
            tables.append(table | {"init": np.full(cuts.sum(), init, dtype=object)})
        return {name: np.concatenate([each[name] for each in tables]) for name in tables[0]}

    def test_random_weights_are_fresh(self):
        result = fitted(self.rows(random=4.0))
        assert result.provenance["arm"] == "fresh" and not any("pruned" in note for note in result.notes)

    def test_a_pretrained_student_is_no_cut(self):
        result = fitted(self.rows(pruned=3.0, pretrained=6.0))
        assert result.provenance["arm"] == "pruned" and result.params["ratio"] == pytest.approx(3, rel=0.1)
        assert any("40 pretrained" in note for note in result.notes)
        warm = fitted(self.rows(pretrained=6.0))
        assert warm.provenance["arm"] == "pretrained" and any("all students are pretrained" in n for n in warm.notes)

    def test_starts_mixed_within_an_arm_are_said(self):
        table = self.rows(fresh=4.0, random=4.0)
        assert any("rows mix init = fresh, random" in note for note in fitted(table).notes)
