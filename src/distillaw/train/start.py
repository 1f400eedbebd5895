"""The student at step 0: fresh from its seed, or cut out of its teacher.

A cut needs the teacher's weights once. What it came to is kept beside the trunk's checkpoints in start.json: the
teacher and the units that stayed, the configuration, the held-out loss before the first step. A resumed trunk needs no
more.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillaw.errors import ConfigError, DataError
from distillaw.evaluate.heldout import HeldoutSet, score_heldout
from distillaw.models.cut import shape_of, uniform_cut
from distillaw.models.fresh import build_model
from distillaw.models.prune import open_for_pruning, prune
from distillaw.models.source import locate
from distillaw.runs.files import read_json, write_json
from distillaw.runs.spec import TrunkSpec
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
        ConfigError: the student cannot be cut out of its teacher.
        CacheError: the teacher cannot be loaded.
    """
    if spec.init == "fresh":
        return build_model(spec.shape, seed=spec.seed, end_of_text=end_of_text)
    if teacher is None or is_oracle(str(teacher)):
        why = "it has no teacher" if teacher is None else "an oracle has no weights"
        raise ConfigError(f"{spec.trunk_id}: init = {spec.init!r}, but {why} to cut from. Use init = 'fresh'")
    return prune(open_for_pruning(teacher), spec.shape)


def record_start(
    model: "PreTrainedModel", spec: TrunkSpec, teacher: str | Path, home: Path, heldout: HeldoutSet
) -> None:
    """Score a pruned student before its first step and write start.json, unless it is there.

    Raises:
        DataError: the loss is not finite.
    """
    if (home / RECORD).exists():
        return
    scores = score_heldout(model, heldout)
    if not math.isfinite(scores.loss):
        raise DataError(
            f"{spec.trunk_id}: cut out of {teacher} it has a loss of {scores.loss} on the held-out text, so the "
            "teacher's weights are not finite. Check them, or take another teacher"
        )
    cut = uniform_cut(shape_of(locate(teacher).config(), str(teacher)), spec.shape)
    write_json(home / RECORD, {
        "teacher": str(teacher), "loss": scores.loss, "loss_se": scores.loss_se, "cut": asdict(cut),
        "config": model.config.to_dict(),
    })  # fmt: skip


def blank_model(spec: TrunkSpec, home: Path, *, end_of_text: int) -> "PreTrainedModel":
    """A model of the trunk's kind whose weights a checkpoint will replace."""
    if spec.init == "fresh":
        return start_model(spec, None, end_of_text=end_of_text)
    from transformers import AutoConfig, AutoModelForCausalLM

    import distillaw.models.pyramid  # noqa: F401 - makes its model type known

    record: dict[str, Any] = read_json(home / RECORD)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**record["config"]))


def start_loss(spec: TrunkSpec, home: Path) -> float | None:
    """Held-out loss of a pruned student before its first step, nats per token; None of a fresh one."""
    return None if spec.init == "fresh" else float(str(read_json(home / RECORD)["loss"]))
