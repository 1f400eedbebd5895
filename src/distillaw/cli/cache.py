"""`distillaw cache build | inspect | verify`: teacher targets on disk."""

import atexit
import math
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from distillaw.cli.app import print_json
from distillaw.cli.counts import Count
from distillaw.cli.names import Place
from distillaw.cli.output import Output, check_place
from distillaw.cli.progress import metered
from distillaw.errors import CacheError, ConfigError
from distillaw.quantities import format_bytes, format_count, format_seconds, parse_count

if TYPE_CHECKING:
    from distillaw.data.shards import TokenStore
    from distillaw.targets.make import TargetMaker
    from distillaw.targets.manifest import Manifest, StorePlan
    from distillaw.targets.predict import Prediction
    from distillaw.targets.request import Request

app = App(
    name="cache",
    help="Build, inspect and verify teacher targets on disk: built once, read by any number of students.",
)

Estimator = Annotated[
    str, Parameter(help="sampled (unbiased), top-k, top-p (both with residual mass) or full.")
]


@app.command
def build(
    *,
    teacher: Place,
    data: Path,
    out: Path,
    split: str = "student",
    context: int | None = None,
    tokens: Count | None = None,
    order_seed: int | None = None,
    estimator: Estimator = "sampled",
    samples: int = 32,
    k: int = 64,
    p: float = 0.95,
    temperature: float | None = None,
    seed: int = 0,
    shard_mb: float = 64.0,
    device: str = "auto",
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Store a teacher's targets for every window of a split; prints first what it will cost.

    Safe to interrupt and to repeat: finished shards are kept, and the result is the same byte for byte.

    Args:
        teacher: a Hugging Face folder, FOLDER/FILE.gguf, a name on the hub, or an oracle of the world that is the text
            (`oracle:window=3`, docs/worlds.md).
        data: the file of a run (`distillaw train`), whose text is then tokenised into OUT/data and whose context,
            tokens, seed and temperature are taken; or prepared tokens, the `data` folder of a study or run.
        out: folder of the store.
        split: which text.
        context: positions per window; the students' training.context (by default the run's, or 128).
        tokens: cover only the first tokens that a student reads, e.g. 5M; default: the run's, or all of the split.
        order_seed: the student's data seed, which says which tokens those are; default: the run's, or 0.
        estimator: what is kept of each distribution.
        samples: points per position of `sampled`.
        k: ids of `top-k`, and the most of `top-p`.
        p: probability that `top-p` keeps.
        temperature: of the stored distribution; default: the run's, or 1.
        seed: of the samples.
        shard_mb: largest size of a file, MB.
        device: cpu, cuda or auto (cuda where there is one).
        dry_run: print the cost and stop.
    """
    check_place("--out", out, is_folder=True)
    from distillaw.targets.request import Request
    from distillaw.targets.scheme import Scheme

    wanted = None if tokens is None else int(parse_count(tokens, name="--tokens"))
    given = {"context": context, "tokens": wanted, "order_seed": order_seed, "temperature": temperature}
    store, defaults = _open_text(data, out, output, dry_run=dry_run)
    settings: dict[str, Any] = defaults | {key: value for key, value in given.items() if value is not None}
    scheme = Scheme(estimator=estimator, samples=samples, k=k, p=p, temperature=settings.pop("temperature"))
    request = Request(scheme=scheme, split=split, seed=seed, shard_bytes=int(shard_mb * 1e6), **settings)
    maker = _load(teacher, store, request, device)

    from distillaw.targets.build import build_shards, make_plan, opened_for_building, settle_plan

    plan = settle_plan(out, make_plan(request, maker.teacher, store))
    prediction = _predict(out, plan, maker, output)
    if dry_run:
        if data.suffix == ".toml":
            plan = replace(plan, data=str(out.resolve() / "data"))  # where a build will have it
        command = shlex.join(
            ["distillaw", *(word for word in sys.argv[1:] if word not in ("--dry-run", "--json"))]
        )
        if output.json:
            print_json({"folder": str(out), **plan.record(), **prediction.record()})
        else:
            print(f"{_describe(plan)}\n{_cost(prediction)}")
            output.suggest(command)
        return
    output.say(f"{_describe(plan)}\n{_cost(prediction)}{_there(out, plan)}")
    began = time.monotonic()
    with opened_for_building(out, plan) as plan:
        with metered("targets", plan.num_positions, "positions", quiet=output.quiet) as meter:
            manifest = build_shards(out, plan, maker, progress=meter.advance, say=meter.note)
    seconds = time.monotonic() - began
    if output.json:
        answer = {
            "folder": str(out),
            **_facts(out, manifest),
            "seconds": seconds,
            "predicted": prediction.record(),
        }
        print_json(answer)
        return
    off = manifest.total_bytes / prediction.bytes - 1
    print(
        f"{out}: {format_bytes(manifest.total_bytes)} ({off:+.1%} against the prediction) in {format_seconds(seconds)}"
    )
    print(_found(manifest))
    output.suggest(f"distillaw cache verify {shlex.quote(str(out))}")


def _open_text(
    data: Path, out: Path, output: Output, *, dry_run: bool
) -> "tuple[TokenStore, dict[str, object]]":
    """The tokens, and what a store should cover by default: a run's needs, or the whole split.

    A dry run prepares a run's text in a folder of its own, which goes when the process ends.
    """
    from distillaw.data.shards import TokenStore

    if data.suffix != ".toml":
        return TokenStore.open(data.resolve(), verify=True), {
            "context": 128,
            "tokens": None,
            "order_seed": 0,
            "temperature": 1.0,
        }
    from distillaw.data.prepare import check_home, prepare_data
    from distillaw.runs.places import claim_folder
    from distillaw.sweep.single_spec import load_single

    run = load_single(data)
    steps = max(1, round(run.tokens / run.batch_tokens))
    check_home(run.data, out)
    if dry_run:
        aside = tempfile.TemporaryDirectory(prefix="distillaw-dry-run-")
        atexit.register(aside.cleanup)
        place = Path(aside.name)
    else:
        claim_folder(out)
        place = out.resolve()
    store = prepare_data(run.data, place / "data", say=output.step)
    return store, {
        "context": run.training.context, "tokens": steps * run.batch_tokens, "order_seed": run.seed,
        "temperature": run.training.temperature,
    }  # fmt: skip


@app.command
def inspect(cache: Path, *, output: Output = Output()) -> None:
    """Show what a store holds: teacher, text, estimator, bytes, the teacher's loss and entropy.

    Args:
        cache: folder of the store.
    """
    from distillaw.targets.manifest import read_manifest

    manifest = read_manifest(cache)
    if output.json:
        print_json({"folder": str(cache), **_facts(cache, manifest)})
        return
    plan = manifest.plan
    print(f"{_describe(plan)}\n{_found(manifest)}")
    print(
        f"{format_bytes(manifest.total_bytes)} in {len(manifest.shards)} shards, "
        f"{manifest.bytes_per_position:.1f} bytes per position, built in {format_seconds(_build_seconds(cache))}"
    )
    print(
        f"teacher   {plan.teacher}  {plan.teacher_fingerprint}  {plan.teacher_dtype}\n"
        f"tokenizer {plan.tokenizer_hash}  {plan.vocab_size} entries\ndata      {plan.data}  {plan.data_hash}\n"
        f"store     {plan.identity}  seed {plan.seed}"
    )
    output.suggest(f"distillaw cache verify {shlex.quote(str(cache))}")


@app.command
def verify(
    cache: Path,
    *,
    teacher: Place | None = None,
    data: Path | None = None,
    windows: int = 16,
    checksums_only: bool = False,
    device: str = "auto",
    output: Output = Output(),
) -> int:
    """Check every checksum, then ask the teacher again about some windows and compare.

    Args:
        cache: folder of the store.
        teacher: where the teacher lies now; default: where it was.
        data: where the tokens lie now; default: where they were.
        windows: how many windows the teacher is asked about.
        checksums_only: leave the teacher out.
        device: cpu, cuda or auto.
    """
    from distillaw.targets.manifest import read_manifest
    from distillaw.targets.verify import check_files

    if windows < 1:
        raise ConfigError(f"--windows {windows}: at least 1 is needed, or --checksums-only")
    manifest = read_manifest(cache)
    problems = [problem for problem in check_files(cache, manifest) if problem]
    compared = None
    if not problems and not checksums_only:
        compared = _ask_again(cache, manifest, teacher, data, windows, device)
        if not compared.agrees:
            problems.append(
                f"{cache}: the teacher asked again differs by {compared.loss_difference:.3f} nats in loss and "
                f"{compared.entropy_difference:.3f} in entropy on average: its weights or the way it runs have "
                "changed. Build the store again"
            )
    if output.json:
        from dataclasses import asdict

        print_json({
            "folder": str(cache), "ok": not problems, "problems": problems, "shards": len(manifest.shards),
            "bytes": manifest.total_bytes, "teacher": None if compared is None else asdict(compared),
        })  # fmt: skip
        return 1 if problems else 0
    for problem in problems:
        sys.stderr.write(f"distillaw: {problem}\n")
    if not problems:
        print(
            f"{cache}: {len(manifest.shards)} shards, {format_bytes(manifest.total_bytes)}, every checksum right"
        )
        if compared is not None:
            print(
                f"teacher asked again about {compared.windows} windows: {compared.identical_windows} equal byte for "
                f"byte, losses differ by {compared.loss_difference:.2g} nats on average"
            )
        output.suggest(f"distillaw cache inspect {shlex.quote(str(cache))}")
    return 1 if problems else 0


def _load(teacher: str, store: "TokenStore", request: "Request", device: str) -> "TargetMaker":
    """The teacher and the text; what is wrong with the request is said before anything heavy is imported."""
    from distillaw.models.source import locate
    from distillaw.sweep.study import require_trainable
    from distillaw.worlds.oracle import is_oracle

    split = request.open_split(store)
    local = Path(teacher).expanduser()
    name = str(local.resolve()) if local.exists() else teacher  # the store is read from other folders
    source = name if is_oracle(teacher) else locate(name)
    require_trainable()
    from transformers.utils.logging import disable_progress_bar

    from distillaw.cli.torch_device import torch_device
    from distillaw.data.tokenizer import load_tokenizer
    from distillaw.models.oracle import load_any_teacher
    from distillaw.targets.make import TargetMaker
    from distillaw.train.memory import keep_freed_memory

    disable_progress_bar()
    keep_freed_memory()
    device = torch_device(device)
    tokenizer = load_tokenizer(str(store.tokenizer_folder))
    loaded = load_any_teacher(source, store, tokenizer, context=request.context, device=device)
    return TargetMaker(teacher=loaded, split=split, scheme=request.scheme, seed=request.seed)


def _predict(out: Path, plan: "StorePlan", maker: "TargetMaker", output: Output) -> "Prediction":
    from distillaw.targets.build import missing_positions, require_space
    from distillaw.targets.predict import predict

    output.say(f"reading some windows of {format_count(plan.num_windows)} to predict size and time")
    prediction = predict(maker, plan)
    require_space(out, prediction.bytes_per_position * missing_positions(out, plan))
    return prediction


def _ask_again(
    cache: Path, manifest: "Manifest", teacher: str | None, data: Path | None, windows: int, device: str
):
    from distillaw.data.shards import TokenStore
    from distillaw.targets.manifest import require_same
    from distillaw.targets.request import Request
    from distillaw.targets.store import TargetStore

    plan = manifest.plan
    request = Request(scheme=plan.scheme, split=plan.split, context=plan.context, seed=plan.seed)
    try:
        store = TokenStore.open(data or Path(plan.data), verify=True)
        maker = _load(teacher or plan.teacher, store, request, device)
    except CacheError as error:
        raise CacheError(
            f"{error}. Every checksum of {cache} is right; say with --teacher and --data where teacher and tokens lie "
            "now, or leave the teacher out with --checksums-only"
        ) from error
    require_same(
        cache, plan, {"data_hash": store.data_hash, "teacher_fingerprint": maker.teacher.fingerprint}
    )
    from distillaw.targets.verify import ask_again

    return ask_again(TargetStore.open(cache), maker, windows)


def _describe(plan: "StorePlan") -> str:
    covered = "all" if plan.order_seed is None else f"the first in data order {plan.order_seed}"
    return (
        f"{plan.scheme.describe()} of {plan.teacher}\n{format_count(plan.num_positions)} positions: {covered} of the "
        f"{plan.split} split in windows of {plan.context}, vocabulary {plan.vocab_size}"
    )


def _cost(prediction: "Prediction") -> str:
    students = prediction.break_even
    pays = (
        "an online teacher is as cheap"
        if students is None
        else f"pays from {students:.3g} students on, against {format_seconds(prediction.forward_seconds)} of an "
        "online teacher for each"
    )
    return (
        f"about {format_bytes(prediction.bytes)} +- {format_bytes(2 * prediction.bytes_error)} "
        f"({prediction.bytes_per_position:.1f} bytes per position) and {format_seconds(prediction.seconds)}; {pays}; "
        f"reading it all takes a student {format_seconds(prediction.read_seconds)}"
    )


def _there(out: Path, plan: "StorePlan") -> str:
    """How much of a store that was begun is there already."""
    from distillaw.targets.build import missing_positions

    done = 1 - missing_positions(out, plan) / plan.num_positions
    return f"; {done:.0%} of it is there already" if done else ""


def _found(manifest: "Manifest") -> str:
    return (
        f"teacher loss {manifest.teacher_loss:.4f} nats/token on this text, mean entropy {manifest.mean_entropy:.4f}, "
        f"ids kept hold {manifest.mean_mass:.1%} of the mass{_doubt(manifest)}"
    )


def _doubt(manifest: "Manifest") -> str:
    """A warning where our study found that a student loses more than a twentieth of what distilling gains."""
    scheme, spread = manifest.plan.scheme, math.exp(manifest.mean_entropy)
    if scheme.estimator == "full":
        return ""
    if scheme.estimator != "sampled":
        return (
            "\nnote: what these targets leave out is a bias; fresh students in short runs lost a third of the gain of "
            "distilling and more with it (docs/targets.md). --estimator sampled has none"
        )
    if spread <= 2 * scheme.samples:
        return ""
    return (
        f"\nnote: the teacher spreads over about {spread:.0f} tokens; {scheme.samples} samples are noisy for it, and "
        "short runs lose part of the gain of distilling (docs/targets.md). "
        f"--samples {round(spread, -1):.0f} loses less"
    )


def _facts(folder: Path, manifest: "Manifest") -> dict[str, object]:
    plan = manifest.plan
    return {
        **plan.record(), "identity": plan.identity, "positions": plan.num_positions, "bytes": manifest.total_bytes,
        "bytes_per_position": manifest.bytes_per_position, "shards": len(manifest.shards),
        "teacher_loss": manifest.teacher_loss, "mean_entropy": manifest.mean_entropy,
        "mean_mass": manifest.mean_mass, "build_seconds": _build_seconds(folder),
    }  # fmt: skip


def _build_seconds(folder: Path) -> float:
    """Time spent on the shards, over all attempts."""
    from distillaw.runs.files import read_json_lines
    from distillaw.targets.manifest import LOG

    return sum(float(str(line["seconds"])) for line in read_json_lines(folder / LOG))
