"""Training state on disk: weights, optimiser moments and the step, replaced atomically.

With the data order a function of the step alone there is nothing else to save: a resumed run repeats the
uninterrupted one bit for bit.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

from distillaw.errors import CacheError, RunError
from distillaw.runs.files import disk_error, replacing


@dataclass(slots=True)
class TrainState:
    """A model in training and the number of optimiser steps it has taken."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    """Wall seconds spent in training steps so far, over all resumptions."""


def save_state(state: TrainState, path: Path, *, identity: str) -> None:
    """Write a checkpoint that belongs to `identity` (a trunk or run id)."""
    payload = {
        "identity": identity, "step": state.step, "seconds": state.seconds, "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }  # fmt: skip
    try:
        with replacing(path) as temporary:
            torch.save(payload, temporary)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as RuntimeError from its zip writer
        cause = error if isinstance(error, OSError) else OSError(28, f"checkpoint not written ({error})")
        raise disk_error(path, cause) from error


def load_state(state: TrainState, path: Path, *, identity: str) -> bool:
    """Restore a checkpoint into `state`; False if there is none.

    Raises:
        CacheError: the file is damaged.
        RunError: it belongs to another run.
    """
    if not path.exists():
        return False
    try:
        payload = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise CacheError(
            f"{path}: the checkpoint is damaged ({str(error).splitlines()[0]}). Delete it; the run starts over"
        ) from error
    if payload["identity"] != identity:
        raise RunError(
            f"{path} belongs to {payload['identity']!r}, not {identity!r}. Delete it or use another folder"
        )
    state.model.load_state_dict(payload["model"])
    state.optimizer.load_state_dict(payload["optimizer"])
    state.step, state.seconds = payload["step"], payload["seconds"]
    return True
