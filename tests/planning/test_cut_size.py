"""The size of a cut by a law of capacity gap, published or fitted, with its interval."""

import json
from dataclasses import replace

import numpy as np
import pytest

import distillaw as dl
from distillaw.errors import ConfigError, UnitError
from distillaw.planning.gap import GapQuestion, capacity_gap, size_of_cut
from in_process import answer


def rows(arm, ratio=3.0, noise=0.003, best=None, low=1.1):
    """Five students with U's in ln T around `ratio` times their size, or `best` of it; teachers from `low` times it."""
    rng = np.random.default_rng(5)
    found = {name: [] for name in ("params", "tokens", "teacher_params", "teacher_loss", "loss", "arm")}
    for S in (1e7, 2e7, 4e7, 8e7, 1.6e8):
        for T in low * S * 2.0 ** np.arange(0, 5 + np.log2(1.1 / low)):
            bottom = ratio * S if best is None else best(S)
            loss = 3 + 0.03 * np.log(T / bottom) ** 2 + noise * rng.standard_normal()
            for name, value in zip(found, (S, 1e9, T, 2.5, loss, arm), strict=True):
                found[name].append(value)
    return {name: np.array(values) for name, values in found.items()}


def law(arm="pruned", bootstrap=300, **options):
    return dl.fit(rows(arm, **options), family="capacity-gap", bootstrap=bootstrap)


@pytest.fixture(scope="module")
def pruned():
    return law()


def test_a_fitted_law_turns_round_with_its_interval(pruned):
    cut = size_of_cut(1.5e8, pruned)
    low, high = cut.interval
    assert low < cut.params < high < 1.5e8 and low < 5e7 < high
    assert cut.inside_range and "90 %" in cut.note
    again = pruned.predict(student_params=cut.params)
    assert again.mean == pytest.approx(1.5e8, rel=1e-6)


def test_outside_its_students_a_law_says_so(pruned):
    cut = size_of_cut(1e11, pruned)
    assert not cut.inside_range and "outside the students" in cut.note


def test_far_outside_the_interval_holds_line_and_power(pruned):
    """The same replicates as powers of the size: a teacher 100 times larger may be best for another student."""
    near, far = size_of_cut(1.5e8, pruned), size_of_cut(3e10, pruned)
    ratio = [np.log(cut.interval[1] / cut.interval[0]) for cut in (near, far)]
    assert ratio[1] > 2 * ratio[0]


def test_another_budget_is_said(pruned):
    same, other = (size_of_cut(1.5e8, pruned, student_tokens=tokens) for tokens in (1e9, 2e10))
    assert same.inside_range and "on 1B tokens" in same.note
    assert not other.inside_range and "tokens 2e+10 is above" in other.note


def test_without_replicates_there_is_no_interval():
    cut = size_of_cut(1.5e8, dl.fit(rows("pruned"), family="capacity-gap", bootstrap=0))
    assert cut.interval is None and "--bootstrap" in cut.note


def test_the_published_constant_has_no_interval():
    cut = size_of_cut(2.5e9)
    assert cut.params == pytest.approx(1e9) and cut.interval is None and "no interval is published" in cut.note


@pytest.mark.parametrize("arm", ["fresh", "fixed"])
def test_a_law_of_other_starts_sizes_no_cut(arm):
    with pytest.raises(ConfigError, match=f"{arm} starts"):
        size_of_cut(1e9, law(arm))


def test_laws_that_size_no_cut_are_refused(pruned):
    with pytest.raises(ConfigError, match="zhang2023-constant-ratio"):
        size_of_cut(1e9, "hoffmann2022")
    total = replace(pruned, provenance={**pruned.provenance, "params_convention": "total"})
    with pytest.raises(UnitError):
        size_of_cut(1e9, total)
    with pytest.raises(ConfigError, match="cannot be cut"):
        size_of_cut(5e6, "zhang2023-capacity-gap")


QUESTION = {"student_params": 4e7, "student_tokens": 1e9, "teacher_tokens_per_param": 20.0}


class TestGapOfOneStart:
    def test_a_law_of_that_start_leads(self, pruned):
        found = capacity_gap(GapQuestion(**QUESTION, arm="pruned"), laws=[pruned])
        assert found.lead is found.opinions[0] and found.lead.start == "pruned-same"
        low, high = found.lead.best_teacher_interval
        assert low < 1.2e8 < high and found.to_json()["arm"] == "pruned"

    def test_laws_of_another_start_do_not(self, pruned):
        fresh = capacity_gap(GapQuestion(**QUESTION, arm="fresh"), laws=[pruned])
        fixed = capacity_gap(GapQuestion(**QUESTION, arm="fixed"), laws=[pruned])
        assert fixed.lead is None and (fresh.lead is None or fresh.lead.start == "random")

    def test_at_another_budget_a_law_is_as_far_as_its_tokens(self, pruned):
        found = {
            tokens: capacity_gap(
                GapQuestion(**QUESTION | {"student_tokens": tokens}, arm="pruned"), laws=[pruned]
            ).opinions[0]
            for tokens in (0.999e9, 2e9, 1e12)
        }
        assert [each.status for each in found.values()] == ["IN_RANGE", "NEAR_RANGE", "OUT_OF_RANGE"]
        assert found[1e12].outside == pytest.approx(np.log(1000), abs=0.05)
        assert any(note.startswith("tokens") for note in found[2e9].notes)

    def test_without_replicates_no_interval_is_given(self):
        found = capacity_gap(GapQuestion(**QUESTION, arm="pruned"), laws=[law(bootstrap=0)]).lead
        assert found.best_teacher_interval is None and any("--bootstrap" in note for note in found.notes)

    def test_a_teacher_smaller_than_a_fresh_student_is_an_answer(self, tmp_path):
        """T = 60M + S / 2 crosses T = S at 120M, within the students."""
        flat = law("fresh", best=lambda S: 6e7 + 0.5 * S, low=0.1)
        found = capacity_gap(GapQuestion(**QUESTION | {"student_params": 1.5e8}, arm="fresh"), laws=[flat])
        assert found.opinions[0].best_teacher_params == pytest.approx(1.35e8, rel=0.1)
        file = flat.save(tmp_path / "law.json")
        for ask in (("predict", "--student", "150M"), ("plan", "--student", "150M", "--tokens", "1B")):
            done = answer(*ask, "--law", file)
            assert done.returncode == 0 and "134M" in done.stdout, done.stderr

    def test_of_cuts_it_is_none_and_the_other_laws_answer(self, pruned):
        flat = replace(pruned, curve=replace(pruned.curve, theta=np.array([0.5, 60.0, 1.0])))
        found = capacity_gap(GapQuestion(**QUESTION | {"student_params": 1.5e8}, arm="pruned"), laws=[flat])
        first = found.opinions[0]
        assert first.status == "NOT_APPLICABLE" and "above 120M" in first.notes[0]
        assert found.lead is not None and found.lead.law.startswith("zhang2023")

    def test_the_published_line_says_whose_sizes_it_counts(self):
        lead = capacity_gap(GapQuestion(**QUESTION, arm="pruned")).lead
        assert lead.law.startswith("zhang2023") and any("embeddings" in note for note in lead.notes)

    def test_no_plan_is_proposed_for_starts_that_it_cannot_take(self):
        done = answer("gap", "--student", "1B", "--arm", "pruned", "--explain", code=0)
        assert "next: distillaw study new --kind capacity-gap --starts pruned" in done.stdout

    def test_the_command_says_the_size_and_whose_it_is(self, pruned, tmp_path):
        file = pruned.save(tmp_path / "law.json")
        ask = ("gap", "--student", "40M", "--tokens", "1B", "--arm", "pruned", "--law", file)
        done = answer(*ask, "--explain", code=0)
        assert "90 %) for a pruned student" in done.stdout and "NO RECOMMENDATION" not in done.stdout


class TestFitOfEveryArm:
    def table(self, tmp_path):
        both = [rows("pruned"), rows("fresh", ratio=6.0)]
        columns = {name: np.concatenate([each[name] for each in both]).tolist() for name in both[0]}
        lines = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        file = tmp_path / "runs.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return file

    def test_arms_are_fitted_one_after_the_other(self, tmp_path):
        done = answer("fit", self.table(tmp_path), "--law", "capacity-gap", "--bootstrap", "50", "--json")
        document = json.loads(done.stdout)
        arms = document["arms"]
        assert list(arms) == ["fresh", "pruned"] and document["arm"] == "fresh"
        contract = "params conf_int level objective delta nobs status condition_number seconds derived".split()
        assert {key: document[key] for key in contract} == {key: arms["fresh"][key] for key in contract}
        assert arms["fresh"]["params"]["ratio"] == pytest.approx(6, rel=0.1)
        assert arms["pruned"]["params"]["ratio"] == pytest.approx(3, rel=0.1)

    def test_the_rows_and_columns_that_are_asked_for_have_the_arms(self, tmp_path):
        """`dataset` is b for the pruned half; without a teacher's loss in their column rows are of no arm."""
        file = self.table(tmp_path)
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            line["dataset"] = "b" if line["arm"] == "pruned" else "a"
            line["LT"] = line.pop("teacher_loss") if line["arm"] == "pruned" else None
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        ask = ("fit", file, "--law", "capacity-gap", "--bootstrap", "50", "--json")
        for chosen in (("--where", "dataset=b"), ("--where", "arm=pruned"), ("--columns", "teacher_loss=LT")):
            document = json.loads(answer(*ask, *chosen, code=0).stdout)
            assert document["provenance"]["arm"] == "pruned" and "arms" not in document
            assert document["provenance"]["source"] == str(file)

    def test_a_table_is_read_once(self, tmp_path, monkeypatch):
        from distillaw.fitting import api

        read = []
        monkeypatch.setattr(api, "read_table", lambda path, read_it=api.read_table: read.append(path) or read_it(path))
        assert answer("fit", self.table(tmp_path), "--law", "capacity-gap", "--bootstrap", "0").returncode == 0
        assert len(read) == 1

    def test_one_arm_is_asked_for_and_kept(self, tmp_path):
        ask = ("fit", self.table(tmp_path), *f"--law capacity-gap --bootstrap 50 --out {tmp_path / 'law.json'}".split())
        refused = answer(*ask)
        assert refused.returncode == 2 and "--arm" in refused.stderr
        kept = answer(*ask, "--arm", "pruned", "--json")
        assert json.loads(kept.stdout)["provenance"]["arm"] == "pruned" and (tmp_path / "law.json").is_file()
