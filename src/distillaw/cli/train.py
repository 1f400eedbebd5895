"""`distillaw train SPEC.toml --out DIR`: one run, the same engine and folders as a study of one."""

import os
import shlex
from pathlib import Path
from typing import Literal

from distillaw.cli.app import print_json
from distillaw.cli.display import make_display
from distillaw.cli.names import OutFolder
from distillaw.cli.output import Output, Settings, same_command


def train(
    spec: Path,
    *,
    out: OutFolder,
    sharding: Literal["ddp", "fsdp"] = "ddp",
    track: Literal["wandb", "trackio", "tensorboard"] | None = None,
    settings: Settings = (),
    output: Output = Output(),
) -> int:
    """Train one run from a TOML file: pretrain, or distil from a teacher or its stored targets; resumable.

    The file has `name`, `params`, `tokens`, `peak_lr`, and optionally `teacher` (a folder) or `targets` (a target
    store), `batch_tokens`, `seed`, [data] and [training] as a study file has them. The run lies in OUT/runs/RUN_ID,
    a Hugging Face folder with result.json. Several processes: torchrun --nproc-per-node 8 -m distillaw train ...

    Args:
        spec: the run's TOML file.
        out: folder for tokens, checkpoints and the run.
        sharding: with several processes, the whole model on each (ddp) or a slice of it (fsdp).
        settings: KEY=VALUE over the file's, e.g. training.weight_decay=0.1; may be repeated.
        track: mirror the scalars to a tracker, which must be installed; metrics.jsonl is written anyway.
    """
    from distillaw.sweep.single_spec import load_single

    single = load_single(spec, settings=settings)  # a slip in it is said before torch is imported
    from distillaw.sweep.study import require_trainable

    require_trainable()
    from distillaw.sweep.single import run_single

    for setting in settings:
        output.say(f"set: {setting}")
    first = os.environ.get("RANK", "0") == "0"
    with make_display(single.tokens, quiet=output.quiet or not first) as display:
        result, trained = run_single(
            single,
            out,
            display=display,
            command=same_command(),
            sharding=sharding,
            tracker=track,
        )
    if not first:
        return 0
    assert result is not None
    if output.json:
        print_json(result)
        return 0
    output.say("" if trained else "already finished")
    arm = f"distilled from {result['teacher_run']}" if result["teacher_run"] else "no teacher"
    print(f"{result['run_id']}, {arm}")
    print(
        f"held-out loss {result['loss']:.4f} +- {result['loss_se']:.4f} nats/token (se, clustered by document)"
    )
    folder = out / "runs" / str(result["run_id"])
    print(f"folder: {folder}")
    output.suggest(f"distillaw evaluate {shlex.quote(str(folder))} --text YOUR_TEXT")
    return 0
