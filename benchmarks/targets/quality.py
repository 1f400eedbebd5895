"""What stored targets cost in loss: students trained from them against students whose teacher reads along.

    python -m benchmarks.targets.quality [--books BOOKS.parquet] [--work FOLDER] [--workers 2] [--out FILE]

Text is the shipped State of the Union corpus (vocabulary 8,192) and, if given, the books of the pocket study
(vocabulary 512, its teacher); teacher, targets and students are made by the product. All arms of a seed have one
initialisation and one stream, and are scored on the same documents, so that differences are paired. `share` is
(arm - online) / (alone - online). Its 90 % interval and the two one-sided tests against 5 % of the gain are over
seeds and documents (runs/paired.py), the gain's own error included.

Beside the store's schemes: `draws` are independent samples (RS-KD, arXiv 2503.16870), `renormalised` is a truncation
scaled to sum to 1, which no store offers. Each run leaves a file in the work folder; a killed benchmark goes on.
Shape suffixes: P position, N sample, V vocabulary.
"""

import argparse
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from benchmarks.targets.quality_table import contrast, row, table
from benchmarks.trunks import trunk_of
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.distill.heads import SparseTargets
from distillaw.models.scoring import IGNORE, HeldoutSet, score_heldout
from distillaw.models.teacher import ModelTeacher, apply_head, head_of, hidden_states
from distillaw.runs.files import content_hash, read_json, write_json
from distillaw.runs.spec import Recipe, TrunkSpec
from distillaw.runs.store import StudyFolder
from distillaw.shapes import shape_for_params
from distillaw.targets import codec
from distillaw.targets.build import build_shards, make_plan, opened_for_building
from distillaw.targets.make import TargetMaker
from distillaw.targets.manifest import Scheme, TargetRequest
from distillaw.targets.store import TargetStore
from distillaw.train.group import TrunkGroup
from distillaw.train.optim import schedule_for
from distillaw.train.student import Signal, SignalSource, TargetsOnDisk
from distillaw.train.trunk import train_trunks

MARGIN = 0.05
"""Share of the gain that stored targets may cost (issue 4)."""
BINS = 15
"""Equal-width bins of confidence for the expected calibration error."""
RECIPE = Recipe()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One text and vocabulary, its teacher, its students."""

    data: DataSpec
    teacher: float
    """Non-embedding parameters."""
    teacher_tokens: int
    teacher_batch: int
    teacher_lr: float
    tokens: int
    """Of each student."""
    student: float = 1e5
    batch_tokens: int = 512
    peak_lr: float = 0.011

    @property
    def name(self) -> str:
        """Names its folder of tokens and teachers."""
        return f"v{self.data.vocab_size}"

    @property
    def identity(self) -> str:
        """Another setting is another set of runs."""
        return content_hash(asdict(self), digits=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to teach."""

    name: str
    scheme: Scheme | None = None
    """Of the store it reads; None: no store."""
    renormalise: bool = False
    draws: int = 0
    first_seed_only: bool = False


def _sampled(samples: int) -> Arm:
    return Arm(name=f"sampled {samples}", scheme=Scheme(samples=samples))


def _top(k: int, *, renormalise: bool = False) -> Arm:
    way = "renormalised" if renormalise else "+ residual"
    return Arm(name=f"top-{k} {way}", scheme=Scheme(estimator="top-k", k=k), renormalise=renormalise)


MAIN = (
    Arm(name="online"),
    Arm(name="alone"),
    _sampled(32),
    _top(8, renormalise=True),
    _top(32, renormalise=True),
    _top(32),
)
MORE = (
    Arm(name="full", scheme=Scheme(estimator="full"), first_seed_only=True),
    _sampled(128),
    _sampled(8),
    _top(8),
    Arm(name="draws 32", draws=32),
    Arm(name="top-p 0.95 + residual", scheme=Scheme(estimator="top-p")),
)
SOTU = Case(
    data=DataSpec(vocab_size=8192, validation_tokens_per_document=1024),
    tokens=65_536,
    teacher=6e5,
    teacher_tokens=480_000,
    teacher_batch=1024,
    teacher_lr=0.011,
)
POCKET = DataSpec(vocab_size=512, max_document_chars=30_000, validation_documents=100, teacher_share=0.6)


def cases(books: str | None) -> list[Case]:
    """What is measured."""
    if books is None:
        return [SOTU]
    pocket = Case(
        data=replace(POCKET, corpus=books),
        tokens=65_536,
        teacher=4e5,
        teacher_tokens=1_000_000,
        teacher_batch=512,
        teacher_lr=0.0055,
    )
    return [pocket, SOTU]


def main() -> None:
    """Train what is missing, print the tables, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--books", help="classic_books/books.parquet")
    parser.add_argument("--work", type=Path, default=Path("/tmp/target_quality"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    wanted, work = cases(arguments.books), arguments.work
    with ProcessPoolExecutor(arguments.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(prepare, wanted, [work] * len(wanted)))
        tasks = [
            pool.submit(train_seed, case, seed, arms, work)
            for arms in (MAIN, MORE)
            for seed in range(arguments.seeds)
            for case in wanted
        ]
        for task in tasks:
            task.result()
    results = [summarise(case, work, range(arguments.seeds)) for case in wanted]
    for result in results:
        print(table(result))
    if arguments.out:
        write_json(
            arguments.out,
            {
                "command": "python -m benchmarks.targets.quality --books BOOKS.parquet",
                "date": time.strftime("%Y-%m-%d"),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread per process",
                "torch": torch.__version__,
                "margin": MARGIN,
                "cases": results,
            },
        )


# ---- teacher, stores, students


def prepare(case: Case, work: Path) -> None:
    """Tokens and teacher."""
    study = StudyFolder(work / case.name)
    prepare_data(case.data, study.data, say=lambda text: print(f"{case.name}: {text}", flush=True))
    train_trunks({teacher_spec(case, study): [case.teacher_tokens]}, study)


def teacher_spec(case: Case, study: StudyFolder) -> TrunkSpec:
    """The case's teacher."""
    return _spec(
        case, study, role="teacher", params=case.teacher, batch_tokens=case.teacher_batch, peak_lr=case.teacher_lr
    )


def _spec(
    case: Case,
    study: StudyFolder,
    *,
    role: str,
    params: float,
    batch_tokens: int,
    peak_lr: float,
    seed: int = 0,
    teacher_run: str | None = None,
) -> TrunkSpec:
    shape = shape_for_params(params, vocab=case.data.vocab_size, context=RECIPE.context)
    what = {"role": role, "split": role, "label": f"{params / 1e6:g}M", "seed": seed, "teacher_run": teacher_run}
    data_hash = str(read_json(study.data / "manifest.json")["data_hash"])
    return trunk_of(shape, RECIPE, rate=peak_lr, batch_tokens=batch_tokens, data_hash=data_hash, **what)


def train_seed(case: Case, seed: int, arms: tuple[Arm, ...], work: Path) -> None:
    """Every arm of one seed that has no file yet."""
    study = StudyFolder(work / case.name)
    for arm in arms:
        file = arm_file(case, study, seed, arm)
        # full targets of a large vocabulary are hundreds of gigabytes per million positions
        only_elsewhere = arm.first_seed_only and (seed > 0 or case.data.vocab_size > 1024)
        if not file.exists() and not only_elsewhere:
            began = time.process_time()
            record = train_arm(case, study, seed, arm)
            write_json(file, record)
            print(
                f"{case.name} seed {seed} {arm.name}: {record['loss']:.4f} in {time.process_time() - began:.0f} "
                "CPU seconds",
                flush=True,
            )


def arm_file(case: Case, study: StudyFolder, seed: int, arm: Arm) -> Path:
    """Where the record of a run lies."""
    return study.path / f"students-{case.identity}" / f"seed-{seed}" / f"{arm.name}.json"


def train_arm(case: Case, study: StudyFolder, seed: int, arm: Arm) -> dict[str, object]:
    """Train one student and score it."""
    teacher_run = teacher_spec(case, study).run_id(case.teacher_tokens)
    spec = _spec(
        case,
        study,
        role="student",
        params=case.student,
        batch_tokens=case.batch_tokens,
        peak_lr=case.peak_lr,
        seed=seed,
        teacher_run=None if arm.name == "alone" else teacher_run,
    )
    size = None
    if arm.scheme:
        store = build_store(case, study, seed, arm.scheme, spec)
        spec, size = replace(spec, targets=str(store.folder)), store.manifest.bytes_per_position
    group = TrunkGroup([spec], study)
    source, teacher = group.teaching(spec).source, group.teaching(spec).teacher
    if arm.renormalise:
        source = Renormalised(source)
    elif arm.draws:
        assert teacher is not None
        source = Draws(teacher, arm.draws, seed)
    model = _trained(case, spec, group, source)
    if isinstance(source, Draws):
        size = source.bytes_per_position
    scores = score_heldout(model, group.text.heldout)
    return {
        "loss": scores.loss,
        "bytes_per_position": size,
        "weights": _hash(model),
        **calibration(model, group.text.heldout),
        "tokens": scores.tokens.tolist(),
        "loss_sum": scores.loss_sum.tolist(),
    }


def _trained(case: Case, spec: TrunkSpec, group: TrunkGroup, source: SignalSource):
    trainer = group.trainer(spec)
    schedule = schedule_for(
        tokens=case.tokens, batches=spec.batches, warmup_tokens=RECIPE.warmup_tokens, cooldown=RECIPE.cooldown
    )
    for step in range(schedule.total_steps):
        for tokens, windows, last in group.feed.batches(step):
            trainer.accumulate(tokens, source.signal(tokens, windows), last=last)
        trainer.update(spec.peak_lr * schedule.factor(step))
    return trainer.state.model


def build_store(case: Case, study: StudyFolder, seed: int, scheme: Scheme, spec: TrunkSpec) -> TargetStore:
    """The targets of what a student of this seed reads, with random offsets of their own."""
    group = TrunkGroup([spec], study)
    teacher = group.teaching(spec).teacher
    assert teacher is not None
    request = TargetRequest(scheme=scheme, context=RECIPE.context, tokens=case.tokens, order_seed=seed, seed=seed)
    folder = study.path / f"targets-{case.identity}" / f"seed-{seed}-{content_hash(scheme.record(), digits=8)}"
    with opened_for_building(folder, make_plan(request, teacher, group.text.store)) as plan:
        split = request.open_split(group.text.store)
        build_shards(folder, plan, TargetMaker(teacher=teacher, split=split, scheme=scheme, seed=plan.seed))
    return TargetStore.open(folder)


def _hash(model: torch.nn.Module) -> str:
    return content_hash([p.detach().numpy().tobytes().hex() for p in model.parameters()], digits=16)


# ---- targets that the product does not offer


class Renormalised:
    """Truncated targets scaled to sum to 1, the residual forgotten."""

    def __init__(self, stored: SignalSource) -> None:
        assert isinstance(stored, TargetsOnDisk)
        self._stored = stored

    def signal(self, tokens_BT: torch.Tensor, windows: np.ndarray) -> Signal:
        """p_S / M."""
        targets = self._stored.signal(tokens_BT, windows).targets
        assert targets is not None
        weights = targets.weights / targets.weights.sum(dim=-1, keepdim=True)
        return Signal(targets=SparseTargets(ids=targets.ids, weights=weights))


class Draws:
    """Independent draws from a teacher that reads along: count / N, as RS-KD has it."""

    def __init__(self, teacher: ModelTeacher, samples: int, seed: int) -> None:
        self._teacher, self._samples = teacher, samples
        self._generator = torch.Generator().manual_seed(seed)
        self.bytes_per_position = 0.0
        """Of the latest batch in the store's encoding."""

    def signal(self, tokens_BT: torch.Tensor, windows: np.ndarray) -> Signal:
        """New draws of every position."""
        probs_PV = self._teacher.logits(tokens_BT[:, :-1]).flatten(0, 1).softmax(dim=-1)
        ids_PN = torch.multinomial(probs_PV, self._samples, replacement=True, generator=self._generator)
        ids_PN = ids_PN.sort(dim=-1).values
        zeros_P = np.zeros(len(ids_PN))
        self.bytes_per_position = len(codec.encode_sampled(ids_PN.numpy(), zeros_P, zeros_P)) / len(ids_PN)
        count_PN = (ids_PN[:, :, None] == ids_PN[:, None, :]).sum(dim=-1)
        first_PN = torch.ones_like(ids_PN, dtype=torch.bool)
        first_PN[:, 1:] = ids_PN[:, 1:] != ids_PN[:, :-1]
        shape = (*tokens_BT[:, :-1].shape, self._samples)
        weights_PN = torch.where(first_PN, count_PN / self._samples, 0.0)
        return Signal(targets=SparseTargets(ids=ids_PN.view(shape), weights=weights_PN.view(shape)))


# ---- calibration


@torch.no_grad()
def calibration(model, heldout: HeldoutSet) -> dict[str, float]:
    """Entropy of the predictions, confidence less accuracy, expected calibration error, over held-out tokens.

    A calibrated model's mean entropy is its loss; an over-confident one's is below. Confidence is the probability of
    the most likely token; the error is the mean over bins of |accuracy - confidence|, weighted by their tokens. Every
    fourth group of four windows is looked at; `calibration_loss` is the loss on these.
    """
    model.eval()
    entropy, confidence, right, losses = [], [], [], []
    for first in range(0, len(heldout.inputs), 16):
        labels = heldout.labels[first : first + 4]
        rows = labels != IGNORE
        logits_PV = apply_head(head_of(model), hidden_states(model, heldout.inputs[first : first + 4])[rows])
        log_PV = logits_PV.log_softmax(dim=-1)
        entropy.append(-(log_PV.exp() * log_PV).sum(dim=-1))
        losses.append(-log_PV.gather(1, labels[rows][:, None])[:, 0])
        best = log_PV.max(dim=-1)
        confidence.append(best.values.exp())
        right.append((best.indices == labels[rows]).float())
    p, hit = torch.cat(confidence).double(), torch.cat(right).double()
    bin_of = (p * BINS).long().clamp(max=BINS - 1)
    gap = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bin_of, hit - p)
    return {
        "entropy": torch.cat(entropy).double().mean().item(),
        "calibration_loss": torch.cat(losses).double().mean().item(),
        "overconfidence": (p - hit).mean().item(),
        "ece": (gap.abs().sum() / len(p)).item(),
    }


# ---- differences


def summarise(case: Case, work: Path, seeds: range) -> dict[str, object]:
    """Every arm against the online one."""
    study = StudyFolder(work / case.name)
    runs = {arm.name: _records(case, study, seeds, arm) for arm in (*MAIN, *MORE)}
    runs = {name: records for name, records in runs.items() if records}
    teacher = study.run(teacher_spec(case, study).run_id(case.teacher_tokens)).result()
    assert teacher is not None
    full = runs.pop("full", None)
    gain = contrast(runs, {"alone": 1, "online": -1})
    return {
        **asdict(case),
        "seeds": gain.seeds,
        "documents": gain.documents,
        "teacher_loss": teacher["loss"],
        "gain": gain.mean,
        "gain_se": gain.se,
        "full_equals_online": full[0]["weights"] == runs["online"][0]["weights"] if full else None,
        "arms": [row(name, runs, MARGIN) for name in runs],
    }


def _records(case: Case, study: StudyFolder, seeds: range, arm: Arm) -> dict[int, dict]:
    files = {seed: arm_file(case, study, seed, arm) for seed in seeds}
    return {seed: read_json(file) for seed, file in files.items() if file.exists()}


if __name__ == "__main__":
    main()
