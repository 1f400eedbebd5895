"""`distillaw train SPEC.toml --out DIR`: one run, the same engine and folders as a study of one."""

import shlex
import sys
from pathlib import Path

from distillaw.cli.app import print_json
from distillaw.cli.display import make_display, say
from distillaw.errors import RunError


def train(spec: Path, *, out: Path, quiet: bool = False, json: bool = False) -> int:
    """Train one run from a TOML file: pretrain, or distil from a teacher; resumable.

    The file has `name`, `params`, `tokens`, `peak_lr`, and optionally `teacher` (a folder), `batch_tokens`,
    `seed`, [data] and [training] as a study file has them. The run lies in OUT/runs/<run id>, a Hugging Face
    folder with result.json.

    Args:
        spec: the run's TOML file.
        out: folder for tokens, checkpoints and the run.
        quiet: no progress, only the result.
        json: print result.json as one JSON object.
    """
    from distillaw.sweep.single import load_single, run_single
    from distillaw.sweep.study import require_trainable

    require_trainable()
    single = load_single(spec)
    with make_display(single.tokens, quiet=quiet) as display:
        result, outcome = run_single(
            single, out, display=display, command=shlex.join(["distillaw", *sys.argv[1:]])
        )
    if result is None:
        raise RunError("; ".join(outcome.failed.values()) or "the run did not finish")
    if json:
        print_json(result)
        return 0
    say("" if outcome.done else "already finished", quiet=quiet)
    arm = f"distilled from {result['teacher_run']}" if result["teacher_run"] else "no teacher"
    print(f"{result['run_id']}, {arm}")
    print(
        f"held-out loss {result['loss']:.4f} +- {result['loss_se']:.4f} nats/token (se, clustered by document)"
    )
    print(f"folder: {out / 'runs' / str(result['run_id'])}")
    return 0
