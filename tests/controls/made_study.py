"""A study in memory in which every control passes, to be broken one control at a time. Its truth is a known law."""

import json
import math
import zlib

import numpy as np

from distillaw.runs.paired import DocumentScores
from distillaw.runs.record import Run, StudyRecord

WIDTHS = {100_000: 48, 200_000: 64, 400_000: 80}
SIZES = tuple(WIDTHS)
BUDGETS = (205_056, 410_112, 820_224)
TEACHERS = {
    "weak": (100_000, 400_128, 3.40),
    "even": (200_000, 400_128, 2.95),
    "pair-a": (400_000, 600_064, 2.70),
    "pair-b": (200_000, 1_200_128, 2.705),
    "good": (400_000, 400_128, 2.40),
    "strong": (1_000_000, 4_000_000, 2.05),
}
REPEATED = ((100_000, 205_056), (400_000, 205_056))
DOCUMENTS, DOCUMENT_TOKENS = 60, 500
SEED_SD, INTERACTION_SD = 0.002, 0.02


def alone_loss(params, tokens):
    return 2.0 + 0.6 * (params / 1e5) ** -0.3 + 0.8 * (tokens / 2e5) ** -0.3


def taught_loss(params, tokens, teacher_loss):
    """A gain that depends on the ratio of the losses alone: best at 0.8, nothing at 0.5 and 1.1."""
    own = alone_loss(params, tokens)
    return own - 0.3 * (1 - ((teacher_loss / own - 0.8) / 0.3) ** 2)


class MadeStudy:
    """Rows by run id, with `mean` the loss before noise; edit them, then make the record."""

    def __init__(self, folder):
        self.folder, self.rows, self.info, self.tuning = folder, {}, {}, _tuning()
        self.info = {"name": "made", "target": {"student_params": 400_000, "student_tokens": 820_224}}
        for name, (params, tokens, loss) in TEACHERS.items():
            self.teacher(name, params, tokens, loss)
        for params in SIZES:
            for tokens in BUDGETS:
                for seed in range(5 if (params, tokens) in REPEATED else 1):
                    self.student(params, tokens, None, seed=seed)
                    for name in TEACHERS:
                        self.student(params, tokens, name, seed=seed)
        self._controls()
        self.manifest("teacher", "student")

    def _controls(self):
        for params, teacher in ((100_000, None), (100_000, "good")):
            for tokens in (BUDGETS[0], BUDGETS[-1]):
                for rate in (0.5, 2.0):
                    self.student(params, tokens, teacher, purpose="control:horizon", peak_lr=0.01 * rate, above=0.03)
        for rate in (0.5, 2.0):
            params, tokens, loss = TEACHERS["weak"]
            self.teacher(f"weak-{rate}", params, tokens, loss + 0.03, purpose="tuning", peak_lr=0.01 * rate)
        union = BUDGETS[-1] + TEACHERS["good"][1]
        self.student(400_000, union, None, purpose="control:union", split="union")
        self.teacher("seen", 400_000, 400_128, 2.40, split="student")
        self.student(400_000, BUDGETS[-1], "seen", purpose="control:seen", above=0.02)
        for params in (100_000, 400_000):
            for setting, value in (("lambda", 0.5), ("temperature", 2.0)):
                self.student(params, BUDGETS[0], "good", purpose=f"control:{setting}", above=0.01, **{setting: value})

    def teacher(self, name, params, tokens, loss, *, split="teacher", purpose="teacher", **settings):
        row = {"role": "teacher", "purpose": purpose, "split": split, "seed": 0, **settings}
        self._add(f"teacher-{name}", params, tokens, loss, **row)

    def student(self, params, tokens, teacher, *, seed=0, purpose="grid", above=0.0, **settings):
        run_id = f"student-{params}-{teacher or 'alone'}-s{seed}-{tokens}" + "".join(
            f"-{k}={v}" for k, v in settings.items()
        )
        row = {"role": "student", "purpose": purpose, "seed": seed, "split": "student", **settings}
        if teacher is None:
            mean = alone_loss(params, tokens)
        else:
            taught_by = self.rows[f"teacher-{teacher}"]
            mean = taught_loss(params, tokens, taught_by["mean"])
            row |= {
                "teacher_run": f"teacher-{teacher}",
                "teacher_loss": taught_by["mean"],
                "teacher_flops": 0.1 * taught_by["params"] * tokens,
            }
        self._add(run_id, params, tokens, mean + above, **row)

    def _add(self, run_id, params, tokens, mean, **row):
        width = WIDTHS.get(params, 128)
        self.rows[run_id] = {
            "run_id": run_id,
            "group": run_id.rsplit("-", 1)[0],
            "params": params,
            "total_params": params + 2 * 512 * width,
            "width": width,
            "vocab_size": 512,
            "context": 128,
            "tokens": tokens,
            "unique_tokens": tokens,
            "steps": tokens // 256,
            "batch_tokens": 256,
            "peak_lr": 0.01,
            "lambda": 1.0,
            "temperature": 1.0,
            "init": "fresh",
            "train_flops": 6.0 * params * tokens,
            "teacher_flops": 0.0,
            "teacher_run": None,
            "teacher_loss": None,
            "mean": mean,
            **row,
        }

    def manifest(self, *files):
        """Write the manifest of the data; `files` are the hashes of the teacher's and the student's shards."""
        splits = {
            name: {"documents": 300, "tokens": 5_000_000, "shards": [{"sha256": file}]}
            for name, file in zip(("teacher", "student"), files, strict=True)
        }
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "data" / "manifest.json").write_text(json.dumps({"splits": splits}))

    def edit(self, choose, **changes):
        """Change the rows that `choose` picks; at least one."""
        picked = [row for row in self.rows.values() if choose(row)]
        assert picked
        for row in picked:
            row |= {key: value(row) if callable(value) else value for key, value in changes.items()}
        return self

    def drop(self, choose):
        """Leave out the rows that `choose` picks; at least one."""
        kept = {run_id: row for run_id, row in self.rows.items() if not choose(row)}
        assert len(kept) < len(self.rows)
        self.rows = kept
        return self

    def record(self, *, scored=True):
        """The record; without scores losses are those of a table alone."""
        runs = [self._run(row, scored=scored) for row in self.rows.values()]
        return StudyRecord(
            folder=self.folder, info=self.info, runs=runs, unfinished=(), tuning=self.tuning, problems=()
        )

    def _run(self, row, *, scored):
        rng = np.random.default_rng(zlib.crc32(row["run_id"].encode()))
        documents = np.random.default_rng(1).normal(0, 0.3, DOCUMENTS)  # hard for one is hard for all
        documents = documents - documents.mean() + rng.normal(0, INTERACTION_SD, DOCUMENTS)
        loss = row["mean"] + documents + rng.normal(0, SEED_SD)
        tokens = np.full(DOCUMENTS, DOCUMENT_TOKENS)
        known = {key: value for key, value in row.items() if key != "mean"}
        run = Run(row=known | {"loss": float(loss.mean()), "loss_se": float(loss.std() / DOCUMENTS**0.5)}, folder=None)
        if scored:  # what reading heldout.parquet leaves behind
            run.__dict__["scores"] = DocumentScores(
                document=np.arange(DOCUMENTS), tokens=tokens, loss_sum=loss * tokens
            )
        return run


def _tuning():
    def search(key, centre):
        grid = [{key: centre * m, "multiplier": m, "loss": 4.0 + 0.05 * math.log2(m) ** 2} for m in (0.5, 1.0, 2.0)]
        return {"grid": grid, "best": centre, "interior": True}

    return {
        "enabled": True,
        "batch_tokens": 256,
        "arms": [
            {
                "arm": arm,
                "size": size,
                "params": params,
                "learning_rate": search("peak_lr", 0.01),
                "batch": search("batch_tokens", 256),
            }
            for arm in ("supervised", "distilled")
            for size, params in (("0.1M", SIZES[0]), ("0.4M", SIZES[-1]))
        ],
    }
