"""The task of benchmarks/engine/peers.py on disk, and the engine's side of it.

Llama-family teacher 8 x 384 and student 4 x 192, vocabulary 32,000, random tokens in batches of 8 x 256,
Hugging Face's own initialisation: 38.7M and 14.1M parameters.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from distillaw.data.shards import BatchOrder, Split
from distillaw.models.fresh import count_parameters, llama_config
from distillaw.models.teacher import ModelTeacher, head_of
from distillaw.runs.spec import BatchPlan, Recipe, TrunkSpec
from distillaw.shapes import Shape
from distillaw.targets.build import build_shards, opened_for_building
from distillaw.targets.make import TargetMaker
from distillaw.targets.manifest import Scheme, StorePlan
from distillaw.targets.store import TargetStore
from distillaw.train.checkpoint import TrainState
from distillaw.train.loop import BatchFeed, Trainer
from distillaw.train.student import Student

VOCAB, CONTEXT, SEQUENCES = 32_000, 256, 8
BATCH_TOKENS = SEQUENCES * CONTEXT
TEACHER = Shape(layers=8, width=384, ffn=1024, heads=6, kv_heads=6, head_dim=64, vocab=VOCAB, context=512)
STUDENT = replace(TEACHER, layers=4, width=192, ffn=512, heads=3, kv_heads=3)
SCHEMES = {"sampled": Scheme(), "top-k": Scheme(estimator="top-k", k=64)}


def make_task(folder: Path, steps: int) -> None:
    """Write models, stream, batches and stores."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    for name, shape in (("teacher", TEACHER), ("student", STUDENT)):
        model = LlamaForCausalLM(llama_config(shape))
        model.save_pretrained(folder / name)
    tokens = np.random.default_rng(0).integers(VOCAB, size=steps * BATCH_TOKENS + 1, dtype=np.uint16)
    np.save(folder / "tokens.npy", tokens)
    order = BatchOrder(split=_split(folder), seed=0)
    np.save(folder / "batches.npy", np.stack([order.batch(i * SEQUENCES, SEQUENCES) for i in range(steps)]))
    teacher = LlamaForCausalLM.from_pretrained(folder / "teacher", dtype=torch.float32)
    for scheme in SCHEMES.values():
        _build_store(folder, as_teacher(teacher.eval()), scheme)


def _split(folder: Path) -> Split:
    return Split(name="student", shards=(np.load(folder / "tokens.npy", mmap_mode="r"),), context=CONTEXT)


def as_teacher(model) -> ModelTeacher:
    """A model as the engine's teacher."""
    return ModelTeacher(
        name="teacher", model=model, head=head_of(model), vocab_size=VOCAB, trimmed_rows=0, fingerprint="-"
    )


def _build_store(folder: Path, teacher: ModelTeacher, scheme: Scheme) -> None:
    split = _split(folder)
    plan = StorePlan(
        teacher=teacher.name,
        data="-",
        teacher_fingerprint="-",
        teacher_dtype="float32",
        tokenizer_hash="-",
        data_hash="-",
        split=split.name,
        context=CONTEXT,
        vocab_size=VOCAB,
        scheme=scheme,
        seed=0,
        split_windows=split.num_windows,
        num_windows=split.num_windows,
        order_seed=None,
        windows_per_shard=split.num_windows,
        windows_per_forward=SEQUENCES,
    )
    maker = TargetMaker(teacher=teacher, split=split, scheme=scheme, seed=0)
    with opened_for_building(folder / scheme.estimator, plan):
        build_shards(folder / scheme.estimator, plan, maker)


def open_store(folder: Path, estimator: str) -> TargetStore:
    """A store of this task."""
    return TargetStore.open(folder / estimator, context=CONTEXT)


def engine(folder: Path, model, *, rate: float) -> tuple[BatchFeed, Trainer]:
    """Feed and trainer with the benchmark's recipe: no z-loss, one rate for all matrices."""
    recipe = Recipe(context=CONTEXT, head_dim=STUDENT.head_dim, z_weight=0.0, weight_decay=0.0)
    params, total = count_parameters(model)
    spec = TrunkSpec(
        role="student",
        purpose="grid",
        label="1.8M",
        layers=STUDENT.layers,
        width=STUDENT.width,
        ffn=STUDENT.ffn,
        heads=STUDENT.heads,
        params=params,
        total_params=total,
        vocab_size=VOCAB,
        seed=0,
        split="student",
        peak_lr=rate,
        batch_tokens=BATCH_TOKENS,
        recipe=recipe,
        data_hash="-",
    )
    groups = [{"params": list(model.parameters()), "lr_scale": 1.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0, fused=True)
    trainer = Trainer(spec=spec, student=Student(model, recipe), state=TrainState(model, optimizer))
    feed = BatchFeed(order=BatchOrder(split=_split(folder), seed=0), plan=BatchPlan(BATCH_TOKENS))
    return feed, trainer
