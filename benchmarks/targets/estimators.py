"""Stored targets: bytes and error of every estimator on real and synthetic teachers, and how far reading keeps ahead.

    python -m benchmarks.targets.estimators [--teacher FOLDER] [--corpus TEXT] [--out benchmarks/results/targets.json]

Estimators. `error` is the norm of (gradient from the target minus gradient from the whole distribution) over the norm
of the latter, root mean square over positions, one draw; `bias` is what of it remains on average over draws;
`mean error` is that of the gradient averaged over all positions, which is what a step sees: noise averages away there,
bias does not. The student is the teacher at temperature 1.5 mixed with 30 % of its mean distribution. Independent draws
(RS-KD, arXiv 2503.16870) and truncations without residual stand beside ours, in our encoding. Synthetic teachers are
Zipf-like with 3.6 nats, ids shuffled per position; the real one is any Hugging Face folder (SmolLM2-135M here).

Reading. Tokens per CPU-second of `TargetStore.read`, windows in random order, against those of a training step on the
same targets (forward, fused sparse loss, backward, AdamW), one thread, alternating rounds.
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from benchmarks.result_file import save
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.data.tokenizer import load_tokenizer
from distillaw.distill.heads import keep_top
from distillaw.distill.losses import distillation_loss
from distillaw.models.fresh import build_model
from distillaw.models.teacher import load_teacher
from distillaw.shapes import Shape
from distillaw.targets import codec
from distillaw.targets.make import sample_systematic
from distillaw.targets.manifest import Manifest, Scheme, ShardEntry, StorePlan, shard_name
from distillaw.targets.store import Sums, TargetStore, write_shard

DRAWS = 8
BLOCK = 256


def main() -> None:
    """Measure, print the tables, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, help="Hugging Face folder of a real teacher")
    parser.add_argument("--corpus", default="sotu", help="text the real teacher reads")
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teachers = {}
    if arguments.teacher:
        teachers[arguments.teacher.name] = real_distributions(arguments.teacher, arguments.corpus, arguments.positions)
    for vocab in (32_768, 128_256):
        teachers[f"zipf-{vocab}"] = zipf_distributions(vocab, arguments.positions // 2)
    estimators = []
    for name, probs_PV in teachers.items():
        for row in compare_estimators(probs_PV):
            estimators.append({"teacher": name, "vocab": probs_PV.shape[1], **row})
            print(" ".join(f"{key}={value}" for key, value in estimators[-1].items()), flush=True)
    reading = []
    for row in READERS:
        reading.append(measure_reading(**row))
        print(" ".join(f"{key}={value}" for key, value in reading[-1].items()), flush=True)
    if arguments.out:
        save(
            arguments.out,
            "python -m benchmarks.targets.estimators --teacher FOLDER --corpus TEXT",
            positions=arguments.positions,
            draws=DRAWS,
            estimators=estimators,
            reading=reading,
        )


def real_distributions(folder: Path, corpus: str, positions: int) -> torch.Tensor:
    """A teacher's distributions on windows spread over a text, float32, shape (positions, V)."""
    with tempfile.TemporaryDirectory() as base:
        spec = DataSpec(corpus=corpus, tokenizer=str(folder), max_document_chars=3000, validation_documents=20)
        text = prepare_data(spec, Path(base) / "data")
        split = text.split("student", context=BLOCK)
        teacher = load_teacher(folder, load_tokenizer(str(text.tokenizer_folder)), context=BLOCK)
        windows = np.linspace(0, split.num_windows - 1, positions // BLOCK).astype(int)
        parts = [
            torch.softmax(teacher.logits(torch.from_numpy(split.windows([w])[:, :-1]))[0], dim=-1) for w in windows
        ]
    return torch.cat(parts)


def zipf_distributions(vocab: int, positions: int) -> torch.Tensor:
    """Power-law distributions of 3.6 nats, ids shuffled per position, shape (positions, V)."""
    ranks = torch.arange(1, vocab + 1, dtype=torch.float64)
    low, high = 0.5, 4.0
    for _ in range(60):
        middle = (low + high) / 2
        p = torch.softmax(-middle * ranks.log(), dim=0)
        low, high = (middle, high) if -(p * p.log()).sum() > 3.6 else (low, middle)
    return torch.stack([p[torch.randperm(vocab)].float() for _ in range(positions)])


def compare_estimators(probs_PV: torch.Tensor) -> list[dict[str, object]]:
    """One row per estimator and size."""
    student_PV = torch.softmax(probs_PV.clamp(min=1e-30).log() / 1.5, dim=-1).mul_(0.7)
    student_PV += 0.3 * probs_PV.mean(dim=0)
    rows = []
    for samples in (22, 32, 50):
        rows.append(_row(f"systematic {samples}", probs_PV, student_PV, lambda p, n=samples: _systematic(p, n)))
    for samples in (22, 50, 127):
        rows.append(_row(f"draws {samples}", probs_PV, student_PV, lambda p, n=samples: _drawn(p, n)))
    for k in (16, 64):
        ids_PK, _ = keep_top(probs_PV, k, 1.0)
        for way in ("residual", "renormalised", "zero"):
            rows.append(_top_row(f"top-{k} {way}", probs_PV, student_PV, ids_PK, way))
    return rows


def _systematic(probs_PV: torch.Tensor, samples: int) -> torch.Tensor:
    return sample_systematic(probs_PV, torch.rand(len(probs_PV), dtype=torch.float64), samples)


def _drawn(probs_PV: torch.Tensor, samples: int) -> torch.Tensor:
    return torch.multinomial(probs_PV, samples, replacement=True).sort(dim=-1).values


def _row(name: str, probs_PV, student_PV, draw) -> dict[str, object]:
    """Errors of sampled targets, over several draws."""
    gradient_PV = student_PV - probs_PV
    size, square, mean_square = 0, 0.0, 0.0
    for _ in range(DRAWS):
        ids_PN = draw(probs_PV)
        share = torch.full(ids_PN.shape, 1 / ids_PN.shape[1])
        error_PV = probs_PV.neg().scatter_add_(1, ids_PN, share)
        square += error_PV.square().sum().item() / DRAWS
        mean_square += error_PV.mean(dim=0).square().sum().item() / DRAWS
        size += _sampled_bytes(ids_PN.numpy())
    return _errors(name, size / DRAWS / len(probs_PV), square, 0.0, mean_square, gradient_PV)


def _top_row(name: str, probs_PV, student_PV, ids_PK, way: str) -> dict[str, object]:
    """Errors of a truncated target: deterministic, so all of it is bias."""
    gradient_PV = student_PV - probs_PV
    kept_PK, q_PK = probs_PV.gather(1, ids_PK), student_PV.gather(1, ids_PK)
    mass_P1 = kept_PK.sum(dim=-1, keepdim=True)
    if way == "renormalised":  # q - p_S / M
        given_PV = student_PV.scatter_add(1, ids_PK, -kept_PK / mass_P1)
    elif way == "zero":  # M q - p_S
        given_PV = (student_PV * mass_P1).scatter_add_(1, ids_PK, -kept_PK)
    else:  # q - p on S, q (1 - r_teacher / r_student) elsewhere
        rest_P1 = (1 - mass_P1).clamp(min=0) / (1 - q_PK.sum(dim=-1, keepdim=True)).clamp(min=1e-9)
        given_PV = (student_PV * (1 - rest_P1)).scatter_(1, ids_PK, q_PK - kept_PK)
    error_PV = given_PV - gradient_PV
    square = error_PV.square().sum().item()
    mean_square = error_PV.mean(dim=0).square().sum().item()
    return _errors(name, _top_bytes(ids_PK, kept_PK), square, square, mean_square, gradient_PV)


def _errors(name: str, size: float, square: float, bias: float, mean_square: float, gradient_PV) -> dict:
    norm = gradient_PV.square().sum().item()
    mean_norm = gradient_PV.mean(dim=0).square().sum().item()
    return {
        "estimator": name,
        "bytes_per_position": round(size, 1),
        "error": round((square / norm) ** 0.5, 3),
        "bias": round((bias / norm) ** 0.5, 3),
        "mean_error": round((mean_square / mean_norm) ** 0.5, 3),
    }


def _sampled_bytes(ids_PN: np.ndarray) -> float:
    zeros = np.zeros(BLOCK)
    return sum(
        len(codec.encode_sampled(part, zeros[: len(part)], zeros[: len(part)]))
        for part in np.array_split(ids_PN, max(1, len(ids_PN) // BLOCK))
    )


def _top_bytes(ids_PK: torch.Tensor, kept_PK: torch.Tensor) -> float:
    ids, nats = ids_PK.sort(dim=-1).values.numpy(), -kept_PK.clamp(min=1e-14).log().numpy()
    counts, zeros = np.full(len(ids), ids.shape[1]), np.zeros(len(ids))
    block = codec.encode_top(ids.ravel(), nats.ravel(), counts, fixed=True, entropy_P=zeros, loss_P=zeros)
    return len(block) / len(ids)


READERS = (
    dict(name="student 4x192, vocabulary 32k", vocab=32_768, layers=4, width=192, context=256, batch=8),
    dict(name="study student 2x64, vocabulary 1k", vocab=1024, layers=2, width=64, context=128, batch=8),
    dict(name="study student 4x128, vocabulary 1k", vocab=1024, layers=4, width=128, context=128, batch=8),
)


def measure_reading(name: str, vocab: int, layers: int, width: int, context: int, batch: int) -> dict:
    """Median tokens per CPU-second of reading and of training, for sampled and top-k stores."""
    row: dict[str, object] = {"name": name}
    probs_PV = zipf_distributions(vocab, context)
    for scheme in (Scheme(), Scheme(estimator="top-k", k=64)):
        with tempfile.TemporaryDirectory() as folder:
            store = synthetic_store(Path(folder), probs_PV, scheme, windows=256)
            step, read = _trainer(store, vocab, layers, width, context, batch), _reader(store, batch)
            speeds = {"train": [], "read": []}
            for round_ in range(6):
                for kind, call, times in (("train", step, 2), ("read", read, 200)):
                    began = time.process_time()
                    for _ in range(times):
                        call()
                    if round_:
                        speeds[kind].append(times * batch * context / (time.process_time() - began))
            train, reading = (float(np.median(speeds[kind])) for kind in ("train", "read"))
            label = scheme.estimator
            row |= {
                f"{label}_train_tokens_per_s": round(train),
                f"{label}_read_tokens_per_s": round(reading),
                f"{label}_ahead": round(reading / train, 1),
                f"{label}_bytes_per_position": round(store.manifest.bytes_per_position, 1),
            }
    return row


def _reader(store: TargetStore, batch: int):
    rng = np.random.default_rng(0)
    return lambda: store.read(rng.permutation(store.manifest.plan.num_windows)[:batch])


def _trainer(store: TargetStore, vocab: int, layers: int, width: int, context: int, batch: int):
    shape = Shape(
        layers=layers,
        width=width,
        ffn=4 * width,
        heads=width // 16,
        kv_heads=width // 16,
        head_dim=16,
        vocab=vocab,
        context=context,
    )
    model = build_model(shape, seed=0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    targets = store.read(range(batch))
    tokens = torch.randint(vocab, (batch, context))

    def step() -> None:
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        distillation_loss(hidden, model.get_output_embeddings(), tokens, targets=targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def synthetic_store(folder: Path, probs_PV: torch.Tensor, scheme: Scheme, *, windows: int) -> TargetStore:
    """A store written with the real shard format from given distributions."""
    context, vocab = probs_PV.shape
    plan = StorePlan(
        teacher="zipf",
        data="-",
        teacher_fingerprint="-",
        teacher_dtype="float32",
        tokenizer_hash="-",
        data_hash="-",
        split="student",
        context=context,
        vocab_size=vocab,
        scheme=scheme,
        seed=0,
        split_windows=windows,
        num_windows=windows,
        order_seed=None,
        windows_per_shard=windows,
        windows_per_forward=1,
    )
    zeros = np.zeros(context)
    made = []
    for _ in range(windows):
        if scheme.estimator == "sampled":
            made.append(codec.encode_sampled(_systematic(probs_PV, scheme.samples).numpy(), zeros, zeros))
        else:
            ids = keep_top(probs_PV, scheme.k, 1.0)[0].sort(dim=-1).values
            nats = -probs_PV.gather(1, ids).log()
            counts = np.full(context, scheme.k)
            made.append(
                codec.encode_top(
                    ids.numpy().ravel(), nats.numpy().ravel(), counts, fixed=True, entropy_P=zeros, loss_P=zeros
                )
            )
    path = folder / shard_name(0)
    write_shard(path, plan.identity, np.arange(windows), made, Sums(loss=0, entropy=0, mass=0))
    entry = ShardEntry(
        file=path.name, windows=windows, first_window=0, last_window=windows - 1, bytes=path.stat().st_size, sha256="-"
    )
    Manifest(plan=replace(plan), shards=(entry,), teacher_loss=0, mean_entropy=0, mean_mass=0).write(folder)
    return TargetStore.open(folder)


if __name__ == "__main__":
    main()
