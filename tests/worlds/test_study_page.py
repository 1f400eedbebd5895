"""docs/worlds-study.md shows the committed results, these follow from the committed runs, and the errors are right."""

import json
import re

import numpy as np
import pytest

from benchmarks.worlds_study import answers
from benchmarks.worlds_study import run as worlds_study
from benchmarks.worlds_study.page import PAGE, TABLES, by, filled, signed, tokens
from benchmarks.worlds_study.pairs import Cell, Study, minus, read_study

SIZE = "0.1M"


@pytest.fixture(scope="module")
def stored():
    return json.loads(worlds_study.FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def study():
    return read_study(worlds_study.TABLE, worlds_study.SCORES)


def test_the_tables_show_the_stored_results(stored):
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- table ") == page.count("<!-- end -->") >= 8
    assert filled(page, stored, TABLES) == page


def claims(found):
    """Numbers as the text has them, from the results."""
    student = by(found["students"], "size", "budget", "teacher")
    top = by(found["best"], "size", "budget")
    calm = by(found["rescaled"], "teacher")
    cross = by(found["catchup"], "size", "second")
    one = {d["budget"]: d for d in found["one_token"][1]["differences"]}
    forms = found["fit"]["forms"].values()
    weight = by(found["weight"], "teacher", "budget", "lambda", "temperature")
    cool, blend = "oracle:loss=3.568,by=temperature", "oracle:loss=3.82,by=window"

    def gain(teacher, budget):
        return student["0.1M", budget, teacher]["over_none"]["mean"]

    yield f"{gain('oracle:window=4', 300_000):.3f} nats better than no teacher at 300k tokens"
    yield f"the tempered one {gain(cool, 300_000):.3f}"
    yield f"({signed(calm[cool,]['over_exact'])} against the exact oracle's student)"
    yield f"{top['0.1M', 75_000]['best_loss']:.2f} at 75k"
    last = top["0.1M", 600_000]
    yield f"{last['best_loss']:.2f} [{last['low']:.3f}, {last['high']:.3f}]"
    yield f"leaves {min(f['in_sample']['rms'] for f in forms):.3f} nats rms"
    yield f"missed by {min(f['held_out']['rms'] for f in forms):.3f}"
    yield f"last two budgets ({found['fit']['plain']['line']['rms']:.3f})"
    yield f"{signed(weight['oracle', 300_000, 0.5, 1]['over_plain'], 3)} from the exact oracle"
    yield f"{signed(weight['oracle:window=1', 300_000, 0.5, 1]['over_plain'], 3)} from window 1"
    for size, teacher in (("0.1M", "oracle:window=1"), ("0.03M", "oracle:window=1"), ("0.1M", blend)):
        row = cross[size, teacher]
        yield f"[{tokens(row['low'])}, {tokens(row['high'])}]"
    yield f"{-one[150_000]['mean']:.3f} ± {one[150_000]['se']:.3f} *behind*"
    yield f"gains {gain('oracle', 40_000):.3f} at 40k and {gain('oracle', 600_000):.3f} at 600k"
    yield f"by {signed(student['0.1M', 600_000, 'oracle:window=3']['over_exact'], 3)[1:]} (window 4"
    worse = by(found["equal_loss"], "teacher", "budget")
    for budget, words in ((300_000, "at 300k tokens"), (75_000, "at 75k")):
        first, second = (-worse[t, budget]["worse"]["mean"] for t in ("0.1M@600k", "0.3M@300k"))
        yield f"{first:.3f} and {second:.3f} {words}"
    large = by(found["large_batch"], "teacher")
    yield f"ahead of its student by {signed(large['oracle:window=1',]['over_exact'], 3)[1:]}"
    yield f"({signed(large['oracle:window=3',]['over_exact'], 3)})"
    halved = weight["oracle", 300_000, 0.5, 1]["over_none"]["mean"]
    plain = student["0.03M", 300_000, "oracle"]["over_none"]["mean"]
    yield f"{plain:.3f} to {halved:.3f}"
    yield f"{-weight['oracle', 300_000, 1, 2]['over_plain']['mean']:.3f} ± 0.003 at 300k with the exact oracle"


def test_the_numbers_in_the_text_are_the_stored_ones(stored):
    page = re.sub(r"<!-- table .*?<!-- end -->", "", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = " ".join(page.split())
    assert [claim for claim in claims(stored) if claim not in text] == []


@pytest.mark.parametrize(
    "key", ["students", "equal_loss", "rescaled", "best", "rate", "one_token", "weight", "catchup"]
)
def test_the_stored_results_follow_from_the_runs(key, stored, study):
    fresh = json.loads(
        json.dumps(
            {
                "one_token": lambda s: [
                    answers.crossing(s, size, "oracle", "oracle:window=1") for size in answers.SIZES
                ]
            }.get(key, getattr(answers, key, None))(study)
        )
    )
    assert_same(fresh, stored[key], key)


def assert_same(now, then, where):
    """Equal, but for rounding in the last digits."""
    if isinstance(then, dict):
        assert now.keys() == then.keys(), where
        for key in then:
            assert_same(now[key], then[key], f"{where}.{key}")
    elif isinstance(then, list):
        assert len(now) == len(then), where
        for i, (a, b) in enumerate(zip(now, then, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif isinstance(then, float):
        assert now == pytest.approx(then, rel=1e-4, abs=1e-7), where
    else:
        assert now == then, where


def test_losses_are_those_of_the_documents(study):
    measured = study.sums.sum(1) / study.tokens.sum()
    np.testing.assert_allclose(measured, [row["loss"] for row in study.rows], atol=1e-6)


# --- the errors, on runs whose noise is known ---------------------------------------------------------------


def simulated(rng, *, teachers=6, seeds=2, documents=200, seed_sd=0.004, document_sd=0.0, gains=None, size=SIZE):
    """A study at one budget: losses 3.8 less a gain, noise between seeds, and what documents do to differences."""
    gains = np.zeros(teachers) if gains is None else gains
    tokens = np.full(documents, 512)
    rows, sums = [], []
    common = 0.02 * rng.standard_normal(seeds)
    for k in range(teachers):
        by_document = document_sd * rng.standard_normal(documents)
        for seed in range(seeds):
            loss = 3.8 - gains[k] + common[seed] + seed_sd * rng.standard_normal()
            sums.append(tokens * (loss + by_document))
            rows.append(
                {
                    "world": "one",
                    "role": "student",
                    "size": size,
                    "budget": 300_000,
                    "teacher": f"oracle:window={k + 1}",
                    "teacher_loss": 3.9 - 0.1 * k,
                    "lambda": 1.0,
                    "temperature": 1.0,
                    "seed": seed,
                    "peak_lr": 0.0055,
                    "batch_tokens": 512,
                    "set": "windows",
                    "loss": float(sums[-1].sum() / tokens.sum()),
                }
            )
    return Study(rows=rows, sums=np.array(sums), tokens=tokens)


def cell(k):
    return Cell(SIZE, 300_000, f"oracle:window={k + 1}")


def test_intervals_of_differences_cover_at_their_level():
    rng = np.random.default_rng(0)
    hits, spread, said = [], [], []
    for _ in range(400):
        one = simulated(rng, document_sd=0.03, gains=np.array([0.01, 0, 0, 0, 0, 0]))
        found = one.estimate(minus(cell(1), cell(0)))
        low, high = found.interval(0.9)
        hits.append(low <= 0.01 <= high)
        spread.append(found.mean)
        said.append(found.se)
    assert 0.86 < np.mean(hits) < 0.94
    assert np.mean(spread) == pytest.approx(0.01, abs=0.001)
    assert np.sqrt(np.mean(np.square(said))) == pytest.approx(np.std(spread), rel=0.1)


def test_what_a_seed_does_to_all_teachers_alike_is_no_noise_of_a_difference():
    one = simulated(np.random.default_rng(1), seed_sd=0.0)
    assert one.noise(cell(0)).variance < 1e-20
    assert one.noise(cell(0)).dof == 5
    assert one.estimate(minus(cell(0), cell(1))).se < 1e-9


def test_joint_and_single_estimates_agree():
    one = simulated(np.random.default_rng(2), document_sd=0.02)
    mean, cov = one.joint([minus(cell(0), cell(1)), minus(cell(2), cell(1))])
    for i, k in enumerate((0, 2)):
        single = one.estimate(minus(cell(k), cell(1)))
        assert mean[i] == pytest.approx(single.mean)
        assert cov[i, i] == pytest.approx(single.se**2)
    assert cov[0, 1] > 0  # both hold cell 1


def test_a_teacher_between_two_windows_gets_their_mixture():
    curve = {"oracle": 3.4, "oracle:window=3": 3.6, "oracle:window=1": 3.9}
    assert answers.at_loss(3.65, curve) == pytest.approx({"oracle:window=3": 5 / 6, "oracle:window=1": 1 / 6})


def test_lowest_finds_the_vertex_of_a_parabola_and_an_end():
    x = np.array([3.4, 3.55, 3.65, 3.9])
    assert answers.lowest(x, (x - 3.6) ** 2) == pytest.approx(3.6)
    assert answers.lowest(x, x) == 3.4


def test_zero_is_linear_in_ln_tokens_and_says_what_is_out_of_sight():
    x = np.log([1e5, 2e5, 4e5])
    assert answers.zero(x, np.array([0.2, 0.1, -0.1])) == pytest.approx(2e5 * 2**0.5)
    assert answers.zero(x, np.array([0.3, 0.2, 0.1])) == pytest.approx(8e5)
    assert answers.zero(x, np.array([0.1, 0.2, 0.3])) == np.inf
    assert answers.zero(x, np.array([-0.1, -0.2, -0.3])) == 0.0
