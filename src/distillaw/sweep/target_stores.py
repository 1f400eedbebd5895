"""Stored targets for the text of a run: what `distillaw cache` builds, and asks the teacher about again.

The text is prepared tokens, or that of a run's file, whose context, tokens, order and temperature a store then takes.
"""

import atexit
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.data.prepare import check_home, prepare_data
from distillaw.data.shards import TokenStore
from distillaw.errors import CacheError, ConfigError
from distillaw.models.source import ModelSource, locate
from distillaw.runs.places import claim_folder
from distillaw.runs.spec import BatchPlan
from distillaw.sweep.run_files import load_single
from distillaw.targets.manifest import Manifest, TargetRequest, require_same
from distillaw.worlds.oracle import is_oracle

if TYPE_CHECKING:
    import torch

    from distillaw.models.parallel import Ranks
    from distillaw.targets.build import AnyMaker, TargetComparison

WHOLE_SPLIT: dict[str, object] = {"context": 128, "tokens": None, "order_seed": 0, "temperature": 1.0}
"""What a store covers of prepared tokens unless said otherwise."""


def open_text(
    data: Path, out: Path, *, dry_run: bool, say: Callable[[str], None]
) -> tuple[TokenStore, dict[str, object]]:
    """The tokens, and what a store should cover by default: a run's needs, or the whole split.

    Args:
        data: a run's file, or a data folder.
        out: folder of the store; a run's text goes into its `data`.
        dry_run: prepare a run's text in a folder of its own, which goes when the process ends.
    """
    if data.suffix != ".toml":
        return TokenStore.open(Path(os.path.realpath(data)), verify=True), WHOLE_SPLIT
    run = load_single(data)
    check_home(run.data, out)
    if dry_run:
        aside = tempfile.TemporaryDirectory(prefix="distillaw-dry-run-")
        atexit.register(aside.cleanup)
        place = Path(aside.name)
    else:
        claim_folder(out)
        place = out.resolve()
    batches = BatchPlan(run.batch_tokens, run.training.batch_doublings)
    tokens = batches.read(max(1, batches.step(run.tokens / run.batch_tokens))) * run.batch_tokens
    covered: dict[str, object] = {"context": run.training.context, "tokens": tokens, "order_seed": run.seed}
    store = prepare_data(run.data, place / "data", say=say)
    covered["document_mask"] = run.training.document_mask
    return store, covered | {"temperature": run.training.temperature}


def find_teacher(teacher: str) -> str | ModelSource:
    """An oracle's or a dump's name, or the model, by its absolute path: a store is read from other folders."""
    local = Path(teacher).expanduser()
    name = str(local.resolve()) if local.exists() else teacher
    return name if is_oracle(teacher) or is_dump(name) else locate(name)


def is_dump(teacher: str) -> bool:
    """Whether a teacher is somebody's dump of its top-k (targets/foreign.py)."""
    path = Path(teacher).expanduser()
    return (path.suffix == ".jsonl" and path.is_file()) or (path / "compression_config.yaml").exists()


def open_maker(
    teacher: str | ModelSource,
    store: TokenStore,
    request: TargetRequest,
    ranks: "Ranks",
    dtype: "torch.dtype | None" = None,
) -> "AnyMaker":
    """The teacher, loaded on the ranks, and the text it reads."""
    from transformers.utils.logging import disable_progress_bar

    from distillaw.data.tokenizer import load_tokenizer
    from distillaw.models.parallel import keep_freed_memory
    from distillaw.models.teacher import load_any_teacher
    from distillaw.targets.foreign import CaptureMaker, open_capture
    from distillaw.targets.make import TargetMaker

    disable_progress_bar()
    keep_freed_memory()
    split = request.open_split(store)
    if isinstance(teacher, str) and is_dump(teacher):
        if request.document_mask:
            raise ConfigError(
                f"{teacher}: a dump says not that its teacher saw each document alone; drop document_mask"
            )
        dump = open_capture(teacher, request.context, int(store.manifest["vocab_size"]))
        return CaptureMaker(teacher=dump, split=split, scheme=request.scheme, seed=request.seed)
    tokenizer = load_tokenizer(str(store.tokenizer_folder))
    how = {"context": request.context, "dtype": dtype, "document_mask": request.document_mask, "ranks": ranks}
    loaded = load_any_teacher(teacher, store, tokenizer, **how)
    return TargetMaker(teacher=loaded, split=split, scheme=request.scheme, seed=request.seed)


def ask_teacher_again(
    folder: Path,
    manifest: Manifest,
    maker: Callable[[str, TokenStore, TargetRequest], "AnyMaker"],
    *,
    teacher: str | None,
    data: Path | None,
    windows: int,
) -> "TargetComparison":
    """Compare stored targets with what the teacher says now.

    Args:
        teacher: where it lies now; None: where it was.
        data: where the tokens lie now; None: where they were.

    Raises:
        CacheError: teacher or tokens are not there, or are others.
    """
    plan = manifest.plan
    own = {name: getattr(plan, name) for name in ("scheme", "split", "context", "seed", "document_mask")}
    request = TargetRequest(**own)
    try:
        store = TokenStore.open(data or Path(plan.data), verify=True)
        made = maker(teacher or plan.teacher, store, request)
    except CacheError as error:
        raise CacheError(
            f"{error}. Every checksum of {folder} is right; say with --teacher and --data where teacher and tokens lie "
            "now, or leave the teacher out with --checksums-only"
        ) from error
    require_same(folder, plan, {"data_hash": store.data_hash, "teacher_fingerprint": made.teacher.fingerprint})
    from distillaw.targets.build import ask_again
    from distillaw.targets.store import TargetStore

    return ask_again(TargetStore.open(folder), made, windows)
