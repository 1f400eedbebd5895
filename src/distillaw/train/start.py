"""The student at step 0: fresh from its seed, cut out of its teacher, or a model on disk.

What it came to is kept beside the trunk's checkpoints in start.json: where the weights are from, the configuration,
the held-out loss before the first step. A resumed trunk needs no more.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distillaw.errors import CacheError, ConfigError, DataError
from distillaw.evaluate.heldout import HeldoutSet, score_heldout
from distillaw.models.cut import shape_of, uniform_cut
from distillaw.models.fingerprint import fingerprint
from distillaw.models.fresh import build_model
from distillaw.models.prune import open_for_pruning, prune
from distillaw.models.source import locate
from distillaw.models.teacher import load_weights
from distillaw.runs.files import read_json, write_json
from distillaw.runs.spec import ModelStart, TrunkSpec
from distillaw.worlds.oracle import is_oracle

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECORD = "start.json"


def start_model(spec: TrunkSpec, teacher: str | Path | None, *, end_of_text: int) -> "PreTrainedModel":
    """The model of a trunk at step 0, on the CPU in float32.

    Args:
        spec: the trunk.
        teacher: where its teacher lies, if it has one.
        end_of_text: the tokenizer's id of it.

    Raises:
        ConfigError: the student cannot be cut out of its teacher, or the model on disk has other rows than the text's
            vocabulary.
        CacheError: the teacher or the model on disk cannot be loaded, or is no longer what it was.
    """
    if spec.start is not None:
        return _read_model(spec, spec.start)
    if spec.init == "fresh":
        return build_model(spec.shape, seed=spec.seed, end_of_text=end_of_text)
    if teacher is None or is_oracle(str(teacher)):
        why = "it has no teacher" if teacher is None else "an oracle has no weights"
        raise ConfigError(f"{spec.trunk_id}: init = {spec.init!r}, but {why} to cut from. Use init = 'fresh'")
    return prune(open_for_pruning(teacher), spec.shape)


def _read_model(spec: TrunkSpec, start: ModelStart) -> "PreTrainedModel":
    """The model on disk, or one of its architecture with weights that the seed draws as transformers does."""
    from transformers import AutoModelForCausalLM

    source = locate(start.folder)
    if fingerprint(source) != start.fingerprint:
        raise CacheError(
            f"{start.folder}: not the model that {spec.trunk_id} was planned with (fingerprint {start.fingerprint}, "
            f"now {fingerprint(source)}). Put it back, or start another run in another folder"
        )
    if spec.init == "fresh":
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            model = AutoModelForCausalLM.from_config(source.config(), dtype=torch.float32)
    else:
        model = load_weights(source, torch.device("cpu"), torch.float32).requires_grad_(True)
    rows = source.config().get_text_config().vocab_size
    if rows != spec.vocab_size:
        raise ConfigError(
            f"{start.folder}: {rows} rows of embedding for the text's {spec.vocab_size} tokens; students have one row "
            "per token. `distillaw vocabulary trim` drops rows that no token owns"
        )
    model.config.use_cache = False
    return model


def record_start(
    model: "PreTrainedModel", spec: TrunkSpec, teacher: str | Path | None, home: Path, heldout: HeldoutSet
) -> None:
    """Write start.json of a student that is not fresh of the family, unless it is there; weights are scored first.

    Raises:
        DataError: the loss is not finite.
    """
    if (home / RECORD).exists() or (spec.init == "fresh" and spec.start is None):
        return
    record: dict[str, object] = {"config": model.config.to_dict()}
    if spec.start is not None:
        record["start"] = asdict(spec.start)
    else:
        cut = uniform_cut(shape_of(locate(str(teacher)).config(), str(teacher)), spec.shape)
        record |= {"teacher": str(teacher), "cut": asdict(cut)}
    if spec.init != "fresh":
        scores = score_heldout(model, heldout)
        if not math.isfinite(scores.loss):
            raise DataError(
                f"{spec.trunk_id}: before its first step it has a loss of {scores.loss} on the held-out text, so the "
                f"weights of {teacher if spec.start is None else spec.start.folder} are not finite. Check them, or "
                "take another model"
            )
        record |= {"loss": scores.loss, "loss_se": scores.loss_se}
    write_json(home / RECORD, record)


def blank_model(spec: TrunkSpec, home: Path, *, end_of_text: int) -> "PreTrainedModel":
    """A model of the trunk's kind whose weights a checkpoint will replace."""
    if spec.init == "fresh" and spec.start is None:
        return start_model(spec, None, end_of_text=end_of_text)
    from transformers import AutoConfig, AutoModelForCausalLM

    import distillaw.models.pyramid  # noqa: F401 - makes its model type known

    record: dict[str, Any] = read_json(home / RECORD)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**record["config"]), dtype=torch.float32)


def start_loss(spec: TrunkSpec, home: Path) -> float | None:
    """Held-out loss of a student before its first step, nats per token; None of a fresh one."""
    return None if spec.init == "fresh" else float(str(read_json(home / RECORD)["loss"]))
