"""The gradient of a step does not depend on how its examples are split into forward passes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import chatml_tokenizer, tiny_model
from transformers import TrainerCallback

from distillaw.instruct import stages
from distillaw.instruct.prepare import Example, MaskedPair
from distillaw.instruct.spec import DpoSpec, SftSpec
from distillaw.instruct.stages import training_rows
from distillaw.instruct.start import TuneFolder, Tuning
from distillaw.models.parallel import Ranks
from distillaw.runs.paired import DocumentScores

BATCH, EXAMPLES = 40, 26
"""An epoch of one step whose last micro-batch is short: 26 = 3 x 8 + 2 = 5 x 5 + 1."""


ROUNDING = 1e-6
"""Of the whole gradient's norm: models are in float64, but TRL's loss takes their logits as float32."""


class Start:
    """What the trainers ask of a start."""

    tokenizer = chatml_tokenizer()
    end_token = tokenizer.eos_token_id


class SteppedError(Exception):
    """The gradient is there."""


def gradient(trainer):
    """The gradient of the first step, unclipped, as one vector."""
    found = []

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
            raise SteppedError

    trainer.args.max_grad_norm = 0.0
    trainer.add_callback(Look())
    with pytest.raises(SteppedError):
        trainer.train()
    return found[0].double()


def check_equal(split, whole):
    assert float((split - whole).norm() / whole.norm()) < ROUNDING


def at_work(folder, pairs=()):
    """A stage on one process."""
    sides, ranks = SimpleNamespace(train=pairs), Ranks(device=torch.device("cpu"))
    return Tuning(start=Start(), sides=sides, folder=TuneFolder(folder), record={}, ranks=ranks, say=print)


def some(draw, count):
    return tuple(draw.integers(3, len(Start.tokenizer), size=count).tolist())


def dpo_gradient(pairs, reference, micro_batch, folder):
    spec = DpoSpec(model="m", data="d", lr=1e-3, epochs=1, batch=BATCH, micro_batch=micro_batch)
    model = tiny_model(Start.tokenizer).double()
    return gradient(stages._dpo_trainer(spec, at_work(folder, pairs), model, reference))


def sft_gradient(examples, packing, micro_batch, folder):
    spec = SftSpec(model="m", data="d", lr=1e-3, epochs=1, batch=BATCH, micro_batch=micro_batch, packing=packing)
    rows = training_rows(examples, packing=packing, max_tokens=24)
    model = tiny_model(Start.tokenizer).double()
    return gradient(stages.sft_trainer(spec, at_work(folder), model, rows))


def test_every_pair_counts_alike_however_dpo_is_split(tmp_path):
    draw = np.random.default_rng(0)
    pairs = tuple(
        MaskedPair(prompt=some(draw, 4), chosen=some(draw, i % 7 + 2), rejected=some(draw, i % 5 + 2), opening="")
        for i in range(EXAMPLES)
    )
    reference = DocumentScores.numbered(
        tokens=np.ones(2 * EXAMPLES, np.int64), loss_sum=draw.uniform(1, 60, 2 * EXAMPLES)
    )
    whole = dpo_gradient(pairs, reference, BATCH, tmp_path)
    for micro_batch in (8, 5, 1):
        check_equal(dpo_gradient(pairs, reference, micro_batch, tmp_path), whole)


@pytest.mark.parametrize("packing", [False, True])
def test_every_token_counts_alike_however_sft_is_split(tmp_path, packing):
    draw = np.random.default_rng(0)
    examples = [
        Example(ids=some(draw, i % 7 + 6), mask=(False,) * 4 + (True,) * (i % 7 + 2), opening="")
        for i in range(EXAMPLES)
    ]
    whole = sft_gradient(examples, packing, BATCH, tmp_path)
    for micro_batch in (8, 5, 1):
        check_equal(sft_gradient(examples, packing, micro_batch, tmp_path), whole)
