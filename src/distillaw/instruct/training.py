"""A TRL trainer run to its end under watch: from the last checkpoint, to the best epoch's weights."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from distillaw.instruct.folder import TuneFolder
from distillaw.instruct.spec import TuneSpec
from distillaw.instruct.start import Say
from distillaw.instruct.trainers import steps_per_epoch
from distillaw.instruct.watch import Watch, best_epoch, history, is_over
from distillaw.runs.files import write_with

if TYPE_CHECKING:
    import torch
    from transformers import Trainer


def train_to_best(
    trainer: "Trainer",
    folder: TuneFolder,
    spec: TuneSpec,
    *,
    rows: int,
    score: Callable[[], dict[str, float]],
    patience: int,
    say: Say,
    unit: str,
) -> float:
    """Train, or go on training, and leave the best epoch's weights in the model.

    Args:
        trainer: with data and model, not started.
        folder: of the run.
        spec: its settings.
        rows: of the training data.
        score: held-out figures of the model as it is.
        patience: epochs without a lower held-out loss before stopping.
        say: takes a line of progress.
        unit: of the held-out loss, for people.

    Returns:
        Seconds of training, over all starts.

    Raises:
        DivergedError: a loss is not finite.
    """
    from transformers.trainer_callback import PrinterCallback

    model = trainer.model
    assert model is not None
    last = folder.last_checkpoint()
    checkpoint, spent = last or (None, 0.0)
    step = int(checkpoint.name.removeprefix("checkpoint-")) if checkpoint else 0
    folder.metrics.keep(lambda row: int(str(row["step"])) <= step)
    watch = Watch(
        folder=folder, score=score, keep_weights=lambda epoch: _save_weights(model, folder.best(epoch)),
        patience=patience, checkpoint_seconds=spec.checkpoint_seconds, spent=spent, say=say,
        unit=unit,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    total = steps_per_epoch(spec, rows) * spec.epochs
    if step:
        say(f"going on from step {step:,} of {total:,}")
    if step < total and not is_over(folder, patience):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        spent = watch.seconds
    best = best_epoch(folder)
    assert best is not None, "every epoch ends with a score"
    model.load_state_dict(load_file(folder.best(best)), strict=False)
    return spent


def epochs_run(folder: TuneFolder) -> int:
    """Whole passes over the data."""
    return len(history(folder))


def _save_weights(model: "torch.nn.Module", file: Path) -> None:
    trained = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    write_with(file, lambda path: save_file(trained, path))
