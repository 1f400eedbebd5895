"""`distillaw cache build | inspect | verify`: teacher targets on disk."""

import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from distillaw.cli.machine import ReadingOptions, joined, torch_dtype
from distillaw.cli.options import Device, OutFolder, Place, Whole, given, options_of
from distillaw.cli.output import Output, same_command
from distillaw.cli.progress import metered
from distillaw.errors import ConfigError
from distillaw.quantities import format_bytes, format_count, format_seconds
from distillaw.runs.files import require_space
from distillaw.targets.manifest import Manifest, Scheme, StorePlan, TargetRequest, build_seconds, read_manifest
from distillaw.targets.store import check_files

if TYPE_CHECKING:
    from distillaw.data.shards import TokenStore
    from distillaw.targets.build import AnyMaker, StoreCost

app = App(
    name="cache", help="Build, inspect and verify teacher targets on disk: built once, read by any number of students."
)

SchemeOptions = options_of(Scheme, without=("temperature",))


@app.command
def build(
    *,
    teacher: Place,
    data: Path,
    out: OutFolder,
    split: str = "student",
    context: int | None = None,
    tokens: Whole | None = None,
    order_seed: int | None = None,
    scheme: SchemeOptions | None = None,
    temperature: float | None = None,
    document_mask: bool | None = None,
    seed: int = 0,
    shard_mb: float = 64.0,
    execution: ReadingOptions | None = None,
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Store a teacher's targets for every window of a split; prints first what it will cost.

    Safe to interrupt and to repeat: finished shards are kept, and the result is the same byte for byte.

    Args:
        teacher: a Hugging Face folder, FOLDER/FILE.gguf, a name on the hub, an oracle of the world that is the text
            (`oracle:window=3`, docs/worlds.md), or a dump of its top-k by vLLM, NeMo or DistillKit (docs/targets.md).
        data: the file of a run (`distillaw train`), whose text is then tokenised into OUT/data and whose context,
            tokens, seed, temperature and document mask are taken; or prepared tokens, the `data` folder of a study or
            run.
        out: folder of the store.
        split: which text.
        context: positions per window; the students' training.context (by default the run's, or 128).
        tokens: cover only the first tokens that a student reads, e.g. 5M; default: the run's, or all of the split.
        order_seed: the student's data seed, which says which tokens those are; default: the run's, or 0.
        scheme: what is kept of each distribution.
        temperature: of the stored distribution; default: the run's, or 1.
        document_mask: the teacher sees each document of a window alone; default: as the run's students do, or not.
        seed: of the samples.
        shard_mb: largest size of a file, MB.
        execution: where and how; several processes make the files side by side.
        dry_run: print the cost and stop.
    """
    from distillaw.sweep.study import require_trainable
    from distillaw.sweep.target_stores import find_teacher, open_maker, open_text

    asked = {"context": context, "tokens": tokens, "order_seed": order_seed, "temperature": temperature}
    asked["document_mask"] = document_mask
    require_trainable()
    with joined(execution, output, teacher) as (ranks, output):
        store, defaults = ranks.told(lambda: open_text(data, out, dry_run=dry_run, say=output.step))
        found = find_teacher(teacher)
        settings: dict[str, Any] = defaults | {k: v for k, v in asked.items() if v is not None}
        kept = Scheme(**given(scheme), temperature=settings.pop("temperature"))
        request = TargetRequest(scheme=kept, split=split, seed=seed, shard_bytes=int(shard_mb * 1e6), **settings)

        from distillaw.targets.build import (
            build_shards,
            make_plan,
            missing_positions,
            opened_for_building,
            predict_cost,
            settle_plan,
        )

        maker = open_maker(found, store, request, ranks, torch_dtype(execution))
        plan = ranks.told(lambda: settle_plan(out, make_plan(request, maker.teacher, store)))
        output.say(f"reading some windows of {format_count(plan.num_windows)} to predict size and time")
        cost = predict_cost(maker, plan, ranks)
        lacking = missing_positions(out, plan)
        less = ", cover fewer tokens with --tokens, or keep less per position (--samples, --k)"
        ranks.first(lambda: require_space(out, cost.bytes_per_position * lacking, besides=less))
        said = f"{_plan_line(plan)}\n{_cost_line(plan, cost)}"
        if dry_run:
            if ranks.is_first:
                if data.suffix == ".toml":
                    plan = replace(plan, data=str(out.resolve() / "data"))  # where a build will have it
                output.answer({"folder": str(out), **plan.record(), **cost.record()}, print, said)
                output.suggest(same_command(without="--dry-run"))
            return
        done = 1 - lacking / plan.num_positions
        output.say(said + (f"; {done:.0%} of it is there already" if done else ""))
        began = time.monotonic()
        with (
            opened_for_building(out, plan, ranks) as plan,
            metered("targets", plan.num_positions, "positions", quiet=output.quiet) as meter,
        ):
            told = {"progress": lambda done: meter.advance(ranks.world * done), "say": meter.note}
            manifest = build_shards(out, plan, maker, ranks=ranks, **told)
    if not ranks.is_first:
        return
    seconds, off = time.monotonic() - began, manifest.total_bytes / cost.bytes - 1
    found = {"folder": str(out), **manifest.facts(out), "seconds": seconds, "predicted": cost.record()}
    size = f"{format_bytes(manifest.total_bytes)} ({off:+.1%} against the prediction)"
    output.answer(found, print, f"{out}: {size} in {format_seconds(seconds)}\n{_found_line(manifest)}")
    output.suggest(f"distillaw cache verify {shlex.quote(str(out))}")


@app.command
def inspect(cache: Path, *, output: Output = Output()) -> None:
    """Show what a store holds: teacher, text, estimator, bytes, the teacher's loss and entropy.

    Args:
        cache: folder of the store.
    """
    manifest = read_manifest(cache)
    plan = manifest.plan
    said = (
        f"{_plan_line(plan)}\n{_found_line(manifest)}\n"
        f"{format_bytes(manifest.total_bytes)} in {len(manifest.shards)} shards, "
        f"{manifest.bytes_per_position:.1f} bytes per position, built in {format_seconds(build_seconds(cache))}\n"
        f"teacher   {plan.teacher}  {plan.teacher_fingerprint}  {plan.teacher_dtype}\n"
        f"tokenizer {plan.tokenizer_hash}  {plan.vocab_size} entries\ndata      {plan.data}  {plan.data_hash}\n"
        f"store     {plan.identity}  seed {plan.seed}"
    )
    output.answer({"folder": str(cache), **manifest.facts(cache)}, print, said)
    output.suggest(f"distillaw cache verify {shlex.quote(str(cache))}")


@app.command
def verify(
    cache: Path,
    *,
    teacher: Place | None = None,
    data: Path | None = None,
    windows: int = 16,
    checksums_only: bool = False,
    device: Device = "auto",
    output: Output = Output(),
) -> int:
    """Check every checksum, then ask the teacher again about some windows and compare.

    Args:
        cache: folder of the store.
        teacher: where the teacher lies now; default: where it was.
        data: where the tokens lie now; default: where they were.
        windows: how many windows the teacher is asked about.
        checksums_only: leave the teacher out.
    """
    if windows < 1:
        raise ConfigError(f"--windows {windows}: at least 1 is needed, or --checksums-only")
    manifest = read_manifest(cache)
    problems = [problem for problem in check_files(cache, manifest) if problem]
    compared = None
    if not problems and not checksums_only:
        from distillaw.sweep.target_stores import ask_teacher_again

        asked = {"teacher": teacher, "data": data, "windows": windows}
        compared = ask_teacher_again(cache, manifest, lambda *asked: _load(*asked, device), **asked)
        if not compared.agrees:
            problems.append(f"{cache}: {compared.disagreement}")
    shards, size = len(manifest.shards), manifest.total_bytes
    verdict = {"folder": str(cache), "ok": not problems, "problems": problems, "shards": shards, "bytes": size}

    def show() -> None:
        for problem in problems:
            sys.stderr.write(f"distillaw: {problem}\n")
        if not problems:
            print(f"{cache}: {shards} shards, {format_bytes(size)}, every checksum right")
        if compared is not None and not problems:
            print(
                f"teacher asked again about {compared.windows} windows: {compared.identical_windows} equal byte for "
                f"byte, losses differ by {compared.loss_difference:.2g} nats on average"
            )

    output.answer(verdict | {"teacher": None if compared is None else asdict(compared)}, show)
    if not problems:
        output.suggest(f"distillaw cache inspect {shlex.quote(str(cache))}")
    return 1 if problems else 0


def _load(teacher: str, store: "TokenStore", request: TargetRequest, device: str) -> "AnyMaker":
    """The teacher and the text; what is wrong with the request is said before anything heavy is imported."""
    from distillaw.sweep.study import require_trainable
    from distillaw.sweep.target_stores import find_teacher, open_maker

    request.open_split(store)
    found = find_teacher(teacher)
    require_trainable()
    from distillaw.models.parallel import Ranks, device_of

    return open_maker(found, store, request, Ranks(device=device_of(device)))


def _plan_line(plan: "StorePlan") -> str:
    covered = "all" if plan.order_seed is None else f"the first in data order {plan.order_seed}"
    return (
        f"{plan.scheme.describe()} of {plan.teacher}\n{format_count(plan.num_positions)} positions: {covered} of the "
        f"{plan.split} split in windows of {plan.context}, vocabulary {plan.vocab_size}"
    )


def _cost_line(plan: "StorePlan", cost: "StoreCost") -> str:
    pays = "an online teacher is as cheap"
    if (students := cost.break_even) is not None:
        online = format_seconds(cost.forward_seconds)
        pays = f"pays from {students:.3g} students on, against {online} of an online teacher for each"
    if plan.teacher_dtype == "dumped":
        pays = "no teacher is asked"
    return (
        f"about {format_bytes(cost.bytes)} +- {format_bytes(2 * cost.bytes_error)} "
        f"({cost.bytes_per_position:.1f} bytes per position) and {format_seconds(cost.seconds)}; {pays}; "
        f"reading it all takes a student {format_seconds(cost.read_seconds)}"
    )


def _found_line(manifest: "Manifest") -> str:
    note = f"\nnote: {manifest.caution}" if manifest.caution else ""
    return (
        f"teacher loss {manifest.teacher_loss:.4f} nats/token on this text, mean entropy {manifest.mean_entropy:.4f}, "
        f"ids kept hold {manifest.mean_mass:.1%} of the mass{note}"
    )
