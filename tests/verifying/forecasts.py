"""Tables of runs and hand-made forecasts whose scores can be computed on paper."""

import csv

from distillaw.verifying.frozen import KIND, FrozenChoice, FrozenPrediction, PredictedPoint, write_frozen

COLUMNS = tuple("run_id role purpose params tokens teacher_run teacher_loss seed lambda loss".split())
SMALL = PredictedPoint(params=1e5, tokens=1e6)
TAUGHT = PredictedPoint(params=1e5, tokens=1e6, teacher="t1", teacher_loss=2.5)
BETTER = PredictedPoint(params=1e5, tokens=1e6, teacher="t2", teacher_loss=2.4)


def row(run_id, point, loss, *, seed=0, role="student", purpose="grid", weight=1.0):
    taught = (point.params, point.tokens, point.teacher, point.teacher_loss or "")
    return dict(zip(COLUMNS, (run_id, role, purpose, *taught, seed, weight, loss), strict=True))


def write_table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


OLD = [
    row("old-1", PredictedPoint(params=1e5, tokens=1e5), 4.0),
    row("old-2", PredictedPoint(params=1e5, tokens=3e5), 3.5),
]


def predict(point, mean, half, *, by="law", quantity="loss", outside=None, probability=None, after=False):
    """A forecast with a 90 % interval of this half width and a 50 % one of half of it."""
    intervals = {0.9: (mean - half, mean + half), 0.5: (mean - half / 2, mean + half / 2)} if half else {}
    return FrozenPrediction(
        by=by,
        quantity=quantity,
        point=point,
        mean=mean,
        intervals=intervals,
        inside_range=not outside,
        efolds_outside=outside or {},
        probability_positive=probability,
        after_the_fact=after,
    )


def freeze_by_hand(folder, predictions, *, choices=(), known=OLD):
    """Freeze given forecasts of a table, as `freeze_study` would those of laws."""
    return write_frozen(
        folder,
        {
            "schema_version": 1,
            "kind": KIND,
            "study": "by hand",
            "table": "runs.csv",
            "level": 0.9,
            "columns": {},
            "known_runs": {r["run_id"]: r["loss"] for r in known},
            "predictions": [p.to_json() for p in predictions],
            "choices": [FrozenChoice(by="law", points=points, probabilities=p).to_json() for points, p in choices],
        },
    )
