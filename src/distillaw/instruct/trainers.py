"""TRL's trainers with our data, without their noise: nothing printed, sent, or written beside the checkpoints.

TRL does the steps: loss over the assistant's tokens of a whole batch, NEFTune, accumulation, DPO's loss, checkpoints
with optimiser, schedule and random states. We give it masked token ids, and score and stop by ourselves.
"""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from distillaw.errors import ConfigError
from distillaw.instruct.spec import BETAS, CLIP, LORA_ALPHA_PER_RANK, LORA_DROPOUT, DpoSpec, SftSpec, TuneSpec

LOG_ROWS = 200
"""Lines of metrics.jsonl, about."""
_MEANS_OF_PAIRS = ("rewards/accuracies", "rewards/margins")
"""What TRL notes of each micro-batch and we log."""


class QuietSFT(SFTTrainer):
    """SFTTrainer that reports to nobody."""

    def _send_telemetry(self) -> None:
        """No ping."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card per checkpoint: the run has its own."""


class QuietDPO(DPOTrainer):
    """DPOTrainer on token ids and reference log-probabilities that are already there."""

    def _send_telemetry(self) -> None:
        """No ping."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card per checkpoint: the run has its own."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        """Rows have prompt_ids, chosen_ids and rejected_ids."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        """Rows have ref_chosen_logps and ref_rejected_logps, by the code that scores held-out pairs."""
        return dataset

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> int:
        """Pairs of an optimiser step, over all its micro-batches."""
        return sum(map(_pairs, batch_samples))

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
        weight = _pairs(inputs) * self.current_gradient_accumulation_steps / num_items_in_batch
        for key in _MEANS_OF_PAIRS:
            self._metrics["train"][key][-1] *= weight
        return (weight * found[0], found[1]) if return_outputs else weight * found


def _pairs(batch: dict[str, Any]) -> int:
    return len(batch["input_ids"]) // 2  # chosen answers, then rejected ones


def steps_per_epoch(spec: TuneSpec, rows: int) -> int:
    """Optimiser steps of one pass over the data."""
    return -(-rows // spec.batch)


def sft_config(spec: SftSpec, folder: Path, *, rows: int, device: str) -> SFTConfig:
    """TRL's settings of a supervised run."""
    return SFTConfig(
        **_common(spec, folder, rows=rows, device=device), neftune_noise_alpha=spec.neftune or None, max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip


def dpo_config(spec: DpoSpec, folder: Path, *, rows: int, device: str) -> DPOConfig:
    """TRL's settings of a preference run."""
    common = _common(spec, folder, rows=rows, device=device)
    common["bf16"] = False  # margins are small differences against a reference that was scored in float32
    return DPOConfig(**common, beta=spec.beta, max_length=None, precompute_ref_log_probs=True)


def lora_config(rank: int) -> Any:
    """PEFT's settings of adapters on every linear layer but the head; None for rank 0."""
    from peft import LoraConfig

    if not rank:
        return None
    return LoraConfig(r=rank, lora_alpha=LORA_ALPHA_PER_RANK * rank, lora_dropout=LORA_DROPOUT,
                      target_modules="all-linear", task_type="CAUSAL_LM")  # fmt: skip


def _common(spec: TuneSpec, folder: Path, *, rows: int, device: str) -> dict[str, Any]:
    steps = steps_per_epoch(spec, rows) * spec.epochs
    on_cpu = device == "cpu"
    if not on_cpu and (count := torch.cuda.device_count()) > 1:
        raise ConfigError(
            f"{count} GPUs are visible and one is used; choose it: CUDA_VISIBLE_DEVICES=0 distillaw ..."
        )
    return {
        "output_dir": str(folder), "per_device_train_batch_size": spec.rows_at_once,
        "gradient_accumulation_steps": spec.batch // spec.rows_at_once, "num_train_epochs": spec.epochs,
        "learning_rate": spec.lr, "lr_scheduler_type": "cosine", "warmup_steps": round(spec.warmup * steps),
        "weight_decay": spec.weight_decay, "adam_beta1": BETAS[0], "adam_beta2": BETAS[1], "max_grad_norm": CLIP,
        "optim": "adamw_torch_fused", "seed": spec.seed, "data_seed": spec.seed, "use_cpu": on_cpu,
        "bf16": not on_cpu, "fp16": False, "activation_checkpointing": False, "dataloader_pin_memory": not on_cpu,
        "remove_unused_columns": False, "logging_steps": max(1, steps // LOG_ROWS), "logging_nan_inf_filter": False,
        "save_strategy": "no", "eval_strategy": "no", "report_to": "none", "disable_tqdm": True, "log_level": "error",
    }  # fmt: skip
