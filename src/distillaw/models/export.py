"""A trained model as a Hugging Face folder: safetensors, tokenizer, generation config, model card.

`AutoModelForCausalLM.from_pretrained(folder)` gives the same logits bit for bit. All files are written apart and moved
into place, config.json last: a folder without it does not load, so a kill leaves nothing that looks finished.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from distillaw.errors import ConfigError
from distillaw.models.card import ModelCard
from distillaw.runs.files import read_json, saving, write_json
from distillaw.runs.places import check_folder, claim_folder, move, remove_file, scratch, sweep

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def export_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    card: ModelCard,
    *,
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a model that transformers loads; other files of the folder, which is ours, are left alone.

    Args:
        model: the module itself, not a DDP or FSDP wrapper of it.
        tokenizer: the one whose ids it was trained on.
        folder: made if missing; an earlier export in it is replaced.
        card: the run's record.
        state_dict: full tensors by name, where the module's own are sharded over ranks.

    Raises:
        RunError: the disk is full or not writable.
    """
    with staged(folder) as stage:
        model.save_pretrained(stage, state_dict=state_dict)
        tokenizer.save_pretrained(str(stage))
        generation_config(tokenizer).save_pretrained(stage)
        write_json(
            stage / "config.json", read_json(stage / "config.json") | {"use_cache": True}, is_ours=False
        )
        (stage / "README.md").write_text(card.text(), encoding="utf-8")


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder to write a model to, whose files are moved to `folder` at the end, config.json last.

    Raises:
        ConfigError: `folder` holds something that is not ours.
        RunError: the disk is full or not writable.
    """
    claim_folder(folder)
    sweep(folder)
    with saving(folder), scratch(folder) as stage:
        yield stage
        _move(stage, folder)


def made_before(out: Path, name: str, identity: str) -> dict[str, object] | None:
    """The record of a model that was made in a folder by the same wishes; None where there is no model.

    Args:
        out: the folder.
        name: the record's file, e.g. prune.json; it holds `identity` and `command`.
        identity: of the wishes.

    Raises:
        ConfigError: the folder holds another model, one of other wishes or something else, or none can be made there.
    """
    check_folder(out)
    if not (out / "config.json").exists():
        return None
    if not (out / name).exists():
        raise ConfigError(f"{out} holds a model that was not made by this command; choose another --out")
    record = read_json(out / name)
    if record["identity"] == identity:
        return record
    raise ConfigError(
        f"{out} holds a model made by another call ({record['command']}); choose another --out, or delete it"
    )


def generation_config(tokenizer: "PreTrainedTokenizerBase") -> "GenerationConfig":
    """How `generate` begins, stops and pads: by the tokenizer's special tokens."""
    from transformers import GenerationConfig

    end = tokenizer.eos_token_id
    pad = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=pad)


def _move(stage: Path, folder: Path) -> None:
    """Put the staged files in place; without config.json the folder does not load meanwhile."""
    remove_file(folder / "config.json")
    for stale in folder.glob("*.safetensors*"):
        remove_file(stale)
    for file in sorted(stage.iterdir(), key=lambda file: file.name == "config.json"):
        move(file, folder / file.name)
