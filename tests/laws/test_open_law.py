"""The open runs and the law that ships with them: the table is what its page says, and the law describes it."""

from importlib.resources import as_file, files

import numpy as np
import pyarrow.parquet as pq
import pytest

from distillaw.laws.published import published
from distillaw.planning.voices import find_voices

STUDIES = files("distillaw") / "studies"


@pytest.fixture(scope="module")
def rows():
    with as_file(STUDIES / "open_runs.parquet") as path:
        return pq.read_table(path).to_pylist()


def test_the_table_is_as_large_as_it_says(rows):
    students = [row for row in rows if row["role"] == "student" and row["purpose"] in ("grid", "holdout")]
    teachers = [row for row in rows if row["role"] == "teacher" and row["split"] == "teacher"]
    assert (len(rows), len({row["group"] for row in rows})) == (212, 88)
    assert len({row["label"] for row in students}) == 4 and len({row["budget"] for row in students}) == 5
    assert len(teachers) == 7 and len({row["params"] for row in teachers}) == 3
    assert {row["teacher_run"] for row in rows} <= {None} | {row["run_id"] for row in rows}


def test_the_losses_are_those_of_the_documents(rows):
    with as_file(STUDIES / "open_heldout.npz") as path, np.load(path) as stored:
        losses = stored["sums"].astype(float).sum(1) / stored["tokens"].sum()
    np.testing.assert_allclose(losses, [row["loss"] for row in rows], rtol=1e-6)


def test_the_law_describes_its_runs_within_its_own_error(rows):
    law = published("distillaw2026-small")
    relative = {error.part: error.relative for error in law.record.errors}
    taught = [row for row in rows if row["purpose"] in ("grid", "holdout") and row["teacher_run"] is not None]
    alone = [row for row in rows if row["purpose"] in ("grid", "holdout", "teacher") and row["teacher_run"] is None]
    column = {
        k: np.array([row[k] for row in taught], dtype=float) for k in ("params", "tokens", "teacher_loss", "loss")
    }
    predicted = law.distillation(
        student_params=column["params"], student_tokens=column["tokens"], teacher_loss=column["teacher_loss"]
    )
    assert np.mean(np.abs(np.log(column["loss"] / predicted)) < relative["distillation"]) > 0.85
    plain = law.supervised(
        params=np.array([row["params"] for row in alone], dtype=float),
        tokens=np.array([row["tokens"] for row in alone], dtype=float),
    )
    assert np.mean(np.abs(np.log([row["loss"] for row in alone] / plain)) < relative["supervised"]) > 0.85


def test_plans_consult_it_by_name_only():
    assert "distillaw2026-small" not in {voice.source for voice in find_voices(None, (), published_too=True)}
    assert [v.source for v in find_voices(None, ["distillaw2026-small"], published_too=False)] == [
        "distillaw2026-small"
    ]
