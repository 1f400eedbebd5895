"""`distillaw retrodict`: every row asked by its own question, scored, and bad rows named."""

import json

import pytest

from distillaw.errors import DataError
from distillaw.outcomes.table import KEPT_OUT, read_outcomes, read_table_of_outcomes
from distillaw.verifying.retrodiction import Answer, Retrodiction, ask, score_table, scores
from in_process import answer as in_process

BY_ID = {row.id: row for row in read_outcomes()}
HEAD = "id,comparison,metric_kind,value_a,value_b,student_params,teacher_params,teacher_tokens,tokens_a,source\n"
ROW = "mine,distil-vs-pretrain-equal-tokens,nats_per_token,2.9,3.0,300000000,1200000000,2.4e12,2e10,x\n"


def table(tmp_path, *rows, head=HEAD):
    path = tmp_path / "mine.csv"
    path.write_text(head + "".join(rows), encoding="utf-8")
    return path


def test_the_command_asks_a_table_of_ones_own_and_scores_it(tmp_path):
    path = table(tmp_path, ROW, ROW.replace("mine", "kept").replace(",x", f",arXiv:{KEPT_OUT[0]}"))
    found = json.loads(in_process("retrodict", str(path), "--json").stdout)
    first, kept = found["rows"]
    assert (first["id"], first["outcome"], first["winner"], kept["source"]) == (
        "mine",
        "distil",
        "A",
        f"arXiv:{KEPT_OUT[0]}",
    )
    assert first["question"].startswith("distillaw plan --student 300M") and "2.9" not in first["question"]
    said = json.loads(in_process(*first["question"].split()[1:], "--json").stdout)
    assert (first["verdict"], first["probability_distil"]) == (said["verdict"], said["probability_distil"])
    assert first["gain"] == said["gain"]
    assert first["score"] == pytest.approx((1 - first["probability_distil"]) ** 2)
    assert found["brier"] == pytest.approx(first["score"]) and found["base_rate"] == 1 and found["base_rate_brier"] == 0
    assert found["calls"] == 2 * (first["verdict"] != "too-close")
    assert found["groups"]["comparison"][0]["rows"] == 2 and found["asked"] == 2


def test_every_bad_row_has_one_line_and_nothing_is_asked(tmp_path):
    bad = [
        ROW.replace("2.9", "low"),
        ROW.replace("mine", "two").replace("distil-vs-pretrain-equal-tokens", "a-vs-b"),
        ROW.replace("mine", "three").replace(",x", ",x,y"),
        ROW.replace("mine", "four").replace("2.9,3.0", "2.9,"),
        ROW,
        ROW,
    ]
    with pytest.raises(DataError) as error:
        read_table_of_outcomes(table(tmp_path, *bad))
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "mine.csv, line 2, mine",
        "mine.csv, line 3, two",
        "mine.csv, line 4",
        "mine.csv, line 5, four",
        "mine.csv, line 7, mine",
    ]
    refused = in_process("retrodict", str(tmp_path / "mine.csv"))
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 5


@pytest.mark.parametrize(
    ("head", "rows", "words"),
    [
        ("id,loss\n", "a,1\n", "no column comparison, metric_kind"),
        (HEAD.replace("source", "colour"), ROW, "no columns of a table of outcomes: colour"),
        (HEAD, "", "no rows"),
    ],
)
def test_what_is_no_table_of_outcomes(tmp_path, head, rows, words):
    with pytest.raises(DataError, match=words):
        read_table_of_outcomes(table(tmp_path, rows, head=head))
    with pytest.raises(DataError, match=r"missing\.csv: no such file"):
        read_table_of_outcomes(tmp_path / "missing.csv")


def test_scores_by_hand():
    a, b = BY_ID["miniplm-1.2B-eqtok"], BY_ID["miniplm-500M-eqflop"]
    called = {"status": "answered", "call": "A", "gain": 0.1, "gain_lower": 0.0, "gain_upper": 0.2}
    said = [
        (a, Answer(id=a.id, **called, probability_a=0.9, loss=3.236)),
        (b, Answer(id=b.id, **called, probability_a=0.8, loss=3.3)),
        (b, Answer(id=b.id, status="unknown", call="too-close", probability_a=0.9)),
        (b, Answer(id=b.id)),
    ]
    [score] = scores(said, "all")
    assert (score.right, score.wrong, score.too_close, score.unknown, score.refused) == (1, 1, 0, 1, 1)
    assert score.brier == pytest.approx((0.1**2 + 0.8**2 + 0.5**2) / 3)
    assert score.base == pytest.approx(2 / 9) and (score.covered, score.intervals) == (1, 2)
    assert len(score_table(Retrodiction(rows=tuple(said)).by("source")).texts) == 1


def test_rows_without_a_question_say_why():
    for name in (
        "kim-self-300M",
        "slimqwen-random-kd-v-pruned-lm",
        "taid-pretrain-kl-v-sft",
        "rskd-3B-sampled-v-full-if",
    ):
        assert ask(BY_ID[name]).status == "refused" and ask(BY_ID[name]).why
