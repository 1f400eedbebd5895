"""TRL's trainers with our data, without their noise, run under watch to the best epoch's weights.

TRL does the steps: loss over the assistant's tokens of a whole batch, NEFTune, accumulation, DPO's loss, checkpoints
with optimiser, schedule and random states. Around them: the log, held-out scores after epochs, the best weights,
checkpoints that survive a kill, progress. Nothing is printed, sent, or written beside the checkpoints.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from distillaw.errors import ConfigError, DivergedError
from distillaw.instruct.spec import (
    BETAS,
    CLIP,
    LORA_ALPHA_PER_RANK,
    LORA_DROPOUT,
    DpoSpec,
    OnPolicySpec,
    SftSpec,
    TuneSpec,
)
from distillaw.instruct.start import Tuning, keep_lines, step_of
from distillaw.quantities import format_seconds
from distillaw.runs.files import append_json_lines, write_with
from distillaw.runs.pace import LOG_SECONDS

if TYPE_CHECKING:
    import torch
    from transformers import Trainer


LOG_ROWS = 200
"""Lines of metrics.jsonl, about."""
_MEANS_OF_PAIRS = ("rewards/accuracies", "rewards/margins")
"""What TRL notes of each micro-batch and we log."""


class RowsFirst(torch.utils.data.Sampler):
    """The order that one process reads the rows in, then the empty ones behind them, of which ranks learn nothing.

    It asks for the epoch, each of which has an order of its own: what a loader that skips rows already read tells its
    sampler does not get through (accelerate 1.15).
    """

    def __init__(self, rows: int, padded: int, seed: int, epoch: Callable[[], int]) -> None:
        self._rows, self._padded, self._seed, self._epoch = rows, padded, seed, epoch

    def __len__(self) -> int:
        """Rows, the empty ones included."""
        return self._padded

    def __iter__(self) -> Iterator[int]:
        """Their numbers."""
        generator = torch.Generator().manual_seed(self._seed + self._epoch())
        yield from torch.randperm(self._rows, generator=generator).tolist()
        yield from range(self._rows, self._padded)


class _Quiet:
    args: Any
    state: TrainerState
    train_dataset: Any
    real_rows = 0
    """Of its data, where ranks were given empty ones besides."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Transformers' own, in whose order several ranks read too."""
        if self.args.world_size == 1:
            return super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        # the epoch is counted in shares of it; rounding must not keep one that has begun in the one before
        epoch = lambda: int((self.state.epoch or 0.0) + 1e-6)  # noqa: E731
        return RowsFirst(self.real_rows, len(self.train_dataset), self.args.data_seed, epoch)

    def _send_telemetry(self) -> None:
        """No ping."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card per checkpoint: the run has its own."""


class QuietSFT(_Quiet, SFTTrainer):
    """SFTTrainer that reports to nobody."""


class QuietDPO(_Quiet, DPOTrainer):
    """DPOTrainer on token ids and reference log-probabilities that are already there."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        """Rows have prompt_ids, chosen_ids and rejected_ids."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        """Rows have ref_chosen_logps and ref_rejected_logps, by the code that scores held-out pairs."""
        return dataset

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> int:
        """Pairs of an optimiser step, over all its micro-batches."""
        pairs = torch.tensor(float(sum(map(_pairs, batch_samples))), device=device)
        return int(self.accelerator.reduce(pairs))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's mean over a micro-batch, weighted by its pairs: the last one of an epoch may have fewer.

        The trainer divides what comes back by the number of micro-batches, so that a step's loss, gradient and margins
        are means over its pairs.
        """
        found = super().compute_loss(model, inputs, return_outputs)
        if num_items_in_batch is None:
            return found
        steps = self.current_gradient_accumulation_steps * self.args.world_size  # gradients are averaged over both
        weight = _pairs(inputs) * steps / num_items_in_batch
        for key in _MEANS_OF_PAIRS:
            self._metrics["train"][key][-1] *= weight
        return (weight * found[0], found[1]) if return_outputs else weight * found


def _pairs(batch: dict[str, Any]) -> int:
    return int((batch["ref_chosen_logps"] < EMPTY).sum())


EMPTY = 1.0
"""A log-probability that no answer has: it marks the pairs that ranks get to take as many steps each."""


def steps_per_epoch(spec: TuneSpec, rows: int) -> int:
    """Optimiser steps of one pass over the data."""
    return -(-rows // spec.batch)


def sft_config(spec: SftSpec | OnPolicySpec, at: Tuning, *, rows: int) -> SFTConfig:
    """TRL's settings of a supervised run."""
    return SFTConfig(
        **_common(spec, at, rows=rows),
        neftune_noise_alpha=getattr(spec, "neftune", 0.0) or None,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


def dpo_config(spec: DpoSpec, at: Tuning, *, rows: int) -> DPOConfig:
    """TRL's settings of a preference run."""
    common = _common(spec, at, rows=rows)
    common["bf16"] = False  # margins are small differences against a reference that was scored in float32
    return DPOConfig(**common, beta=spec.beta, max_length=None, precompute_ref_log_probs=True)


def lora_config(rank: int) -> Any:
    """PEFT's settings of adapters on every linear layer but the head; None for rank 0."""
    from peft import LoraConfig

    if not rank:
        return None
    return LoraConfig(
        r=rank,
        lora_alpha=LORA_ALPHA_PER_RANK * rank,
        lora_dropout=LORA_DROPOUT,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def rows_at_once(spec: TuneSpec, at: Tuning, rows: int) -> int:
    """Of a forward pass; preferences one by one where ranks could not share them evenly."""
    world = at.ranks.world
    at_once = spec.rows_at_once(world)
    return 1 if isinstance(spec, DpoSpec) and world > 1 and rows % (at_once * world) else at_once


def _common(spec: TuneSpec, at: Tuning, *, rows: int) -> dict[str, Any]:
    at_once = rows_at_once(spec, at, rows)
    steps, world = steps_per_epoch(spec, rows) * spec.epochs, at.ranks.world
    on_cpu = at.ranks.device.type == "cpu"
    if world == 1 and not on_cpu and (count := torch.cuda.device_count()) > 1:
        raise ConfigError(
            f"{count} GPUs are visible and one process would use all of them: --processes {count} shares the batch "
            "among them, CUDA_VISIBLE_DEVICES=0 leaves one"
        )
    return {
        "output_dir": str(at.folder.checkpoints),
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": spec.batch // at_once // world,
        "num_train_epochs": spec.epochs,
        "learning_rate": spec.lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(spec.warmup * steps),
        "weight_decay": spec.weight_decay,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "max_grad_norm": CLIP,
        "optim": "adamw_torch_fused",
        "seed": spec.seed,
        "data_seed": spec.seed,
        "use_cpu": on_cpu,
        "bf16": spec.precision == "bf16" if spec.precision else not on_cpu,
        "ddp_backend": None if world == 1 else "gloo" if on_cpu else "nccl",
        "ddp_find_unused_parameters": False,
        "fp16": False,
        "activation_checkpointing": spec.checkpoint_activations,
        # routers stay as they are: balance is a matter of much text, and transformers cannot count a pyramid's
        "router_aux_loss_coef": 0.0,
        "dataloader_pin_memory": not on_cpu,
        "remove_unused_columns": False,
        "logging_steps": max(1, steps // LOG_ROWS),
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
    }


_LOGGED = ("loss", "learning_rate", "grad_norm", "rewards/accuracies", "rewards/margins")


class TuningWatch(TrainerCallback):
    """One run's ears and hands."""

    def __init__(
        self, at: Tuning, score: Callable[[], dict[str, float]], *, patience: int, every: float, spent: float, unit: str
    ) -> None:
        self._folder, self._ranks, self._say, self._score = at.folder, at.ranks, at.say, score
        self._patience, self._every, self._spent, self._unit = patience, every, spent, unit
        self._began = self._saved = self._said = time.monotonic()
        self._first_step: int | None = None

    @property
    def seconds(self) -> float:
        """Trained so far, earlier starts included."""
        return self._spent + time.monotonic() - self._began

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The first step of this start sets the clock of the rate."""
        if self._first_step is None:
            self._first_step, self._began, self._saved = state.global_step, time.monotonic(), time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A checkpoint and a line of progress now and then."""
        now = time.monotonic()
        is_due = self._ranks.is_first and now - self._saved >= self._every
        control.should_save = control.should_save or bool(self._ranks.sum(float(is_due))[0])
        if now - self._said >= LOG_SECONDS:
            self._said = now
            done = state.global_step - (self._first_step or 0)
            left = (now - self._began) / done * (state.max_steps - state.global_step)
            rate = f"{60 * done / (now - self._began):.3g} steps/min, about {format_seconds(left)} left"
            self._say(f"step {state.global_step:,} of {state.max_steps:,}, {rate}")

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        """A line of metrics.jsonl."""
        if logs is None or "loss" not in logs:
            return
        row = {key: float(logs[key]) for key in _LOGGED if key in logs}
        if not all(math.isfinite(value) for value in row.values()):
            raise DivergedError(
                f"step {state.global_step}: loss {row['loss']:g}, gradient {row.get('grad_norm', 0.0):g}; the run "
                "diverged. Lower --lr, or look for damaged weights"
            )
        self._log({"step": state.global_step, "epoch": state.epoch, **row, "seconds": self.seconds})

    def _log(self, row: dict[str, object]) -> None:
        if self._ranks.is_first:
            append_json_lines(self._folder.metrics, [row])

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Score; keep the weights if they are the best so far; stop when patience is at its end."""
        epoch = round(state.epoch or 0)
        figures = self._score()
        if not math.isfinite(figures["loss"]):
            raise DivergedError(f"epoch {epoch}: the held-out loss is {figures['loss']:g}; lower --lr")
        before = self._ranks.told(self._folder.epochs)
        if all(figures["loss"] < row["loss"] for row in before):
            self._ranks.first(lambda: _save_weights(model, self._folder.best(epoch)))
        self._log({"step": state.global_step, "epoch": epoch, "heldout": figures, "seconds": self.seconds})
        loss = f"{figures['loss']:.4f} ± {figures['loss_se']:.4f}"
        self._say(f"epoch {epoch}: held-out loss {loss} {self._unit}")
        is_over = self._ranks.told(lambda: self._folder.is_over(self._patience))
        control.should_training_stop = control.should_training_stop or is_over
        control.should_save = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The checkpoint is there: say so in its folder, and drop the older one."""
        self._ranks.wait()  # until each has written its random state
        self._ranks.first(
            lambda: self._folder.checkpointed(state.global_step, self.seconds, best_epoch=self._folder.best_epoch())
        )
        self._saved = time.monotonic()


def _save_weights(model: "torch.nn.Module", file: Path) -> None:
    trained = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    write_with(file, lambda path: save_file(trained, path))


def train_to_best(
    trainer: "Trainer",
    at: Tuning,
    spec: TuneSpec,
    *,
    rows: int,
    score: Callable[[], dict[str, float]],
    patience: int,
    unit: str,
) -> float:
    """Train, or go on training, and leave the best epoch's weights in the model; seconds spent, over all starts.

    `score` gives held-out figures of the model as it is, its loss in `unit`; `patience` epochs without a lower loss
    end the training.
    """
    from transformers.trainer_callback import PrinterCallback

    model, folder, ranks = trainer.model, at.folder, at.ranks
    assert model is not None
    last = ranks.told(folder.last_checkpoint)
    checkpoint, spent = last or (None, 0.0)
    step = step_of(checkpoint) if checkpoint else 0
    ranks.first(lambda: keep_lines(folder.metrics, lambda row: int(row["step"]) <= step) and None)
    watch = TuningWatch(at, score, patience=patience, every=spec.checkpoint_seconds, spent=spent, unit=unit)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    total = steps_per_epoch(spec, rows) * spec.epochs
    if step:
        at.say(f"going on from step {step:,} of {total:,}")
    if step < total and not ranks.told(lambda: folder.is_over(patience)):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        spent = watch.seconds
    best = ranks.told(folder.best_epoch)
    assert best is not None, "every epoch ends with a score"
    model.load_state_dict(load_file(folder.best(best)), strict=False)
    return spent
