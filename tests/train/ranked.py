"""Ranks for tests: processes forked from a server that has imported torch already, a tenth of a second each.

They find each other as under torchrun, by its environment variables; the machine, the process group and the files are
real. torchrun itself is in tests/cli/test_train.py and test_kills.py.
"""

import contextlib
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = (
    "distillaw.sweep.single",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.auto.modeling_auto",
    "pyarrow.parquet",
    "pandas",  # pyarrow looks for it when the first table is made
    "torch.distributed.checkpoint.state_dict",
    "scipy.optimize",
)
CONTEXT.set_forkserver_preload(list(PRELOAD))
FINISH_SECONDS = 300


class RankError(Exception):
    """What a rank raised."""


def run(world: int, act: Callable, *arguments, sharding: str = "ddp", teachers: int = 0) -> list:
    """`act(ranks, *arguments)` on every rank; what each returned (a teacher's: None), or the first exception."""
    processes, pipes = start(world, act, *arguments, sharding=sharding, teachers=teachers)
    answers = []
    for process, pipe in zip(processes, pipes, strict=True):
        try:
            answers.append(pipe.recv() if pipe.poll(FINISH_SECONDS) else RankError("no answer"))
        except EOFError:
            answers.append(RankError(f"exit code {process.exitcode}"))
        process.join(FINISH_SECONDS)
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    if errors:  # one that only lost another says less
        raise next((error for error in errors if "another rank has ended" not in str(error)), errors[0])
    return answers


def start(
    world: int,
    act: Callable,
    *arguments,
    sharding: str | None = "ddp",
    environment: dict | None = None,
    teachers: int = 0,
):
    """The processes and the pipes that will hold their answers. Without a sharding, `act` joins the ranks itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes, pipes = [], []
    for rank in range(world):
        here, there = CONTEXT.Pipe(duplex=False)
        variables = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})}
        if world > 1:
            variables |= {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            }
        process = CONTEXT.Process(target=_work, args=(there, variables, (sharding, teachers), act, arguments))
        process.start()
        there.close()
        processes.append(process)
        pipes.append(here)
    return processes, pipes


def end(processes: list) -> None:
    """End the ranks that are left, as torchrun does: asked first, then killed."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(30)
        if process.exitcode is None:
            process.kill()
            process.join()


def _work(pipe, variables, how, act, arguments) -> None:
    os.environ.update(variables)
    import torch

    from distillaw.models.parallel import join_ranks
    from distillaw.models.teacher import serve_teachers
    from distillaw.runs.execution import Execution

    torch.set_num_threads(1)
    sharding, teachers = how
    execution = Execution(sharding=sharding or "ddp", teacher_processes=teachers)
    try:
        with join_ranks(execution) if sharding else contextlib.nullcontext() as ranks:
            if ranks is not None and ranks.link and ranks.link.is_teacher:
                answer = serve_teachers(ranks)
            else:
                answer = act(ranks, *arguments)
    except BaseException as error:
        answer = error
    try:
        pipe.send(answer)
    except Exception:
        pipe.send(RankError(repr(answer)))


# --- what ranks do ------------------------------------------------------------------------------------------


def train(ranks, folder: Path, spec, budgets: list[int], stop_at: int | None = None, dtype: str = "float32"):
    """Train one trunk to its budgets; returns the loss of every step. Stops after `stop_at` steps."""
    import torch
    from stops import train_trunk

    from distillaw.runs.store import StudyFolder
    from distillaw.train.loop import StopTraining

    losses = []

    def report(tokens, loss):
        losses.append(loss)
        if len(losses) == stop_at and ranks.rank == ranks.world - 1:  # one of them is asked
            raise StopTraining

    torch.set_default_dtype(getattr(torch, dtype))
    try:
        train_trunk(spec, budgets, StudyFolder(folder), ranks=ranks, report=report)
    except StopTraining:
        if stop_at is None:
            raise
    finally:
        torch.set_default_dtype(torch.float32)
    return losses


def train_on_a_full_disk(ranks, folder: Path, spec, budgets: list[int]) -> None:
    """Train where the last rank cannot write more than a few kilobytes to a file, and checkpoints come at once."""
    import resource
    import signal

    os.environ["DISTILLAW_CHECKPOINT_SECONDS"] = "0"
    if ranks.rank == ranks.world - 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
    train(ranks, folder, spec, budgets)


def skipped_steps(ranks, folder: Path, spec, budgets: list[int]) -> int:
    """Train with a bad gradient in step 5 of the last rank; how many steps this rank skipped."""
    from distillaw.train.loop import Trainer

    accumulate, skipped = Trainer.accumulate, []

    def spoilt(trainer, *arguments, **options):
        parameter = trainer.state.model.get_output_embeddings().weight
        if trainer.state.step == 5 and ranks.rank == ranks.world - 1:
            handle = parameter.register_hook(lambda gradient: gradient * float("nan"))
            accumulate(trainer, *arguments, **options)
            handle.remove()
        else:
            accumulate(trainer, *arguments, **options)
        skipped[:] = [trainer.state.notes.get("skipped", 0)]

    Trainer.accumulate = spoilt
    train(ranks, folder, spec, budgets)
    return int(skipped[0])


def run_file(ranks, file: Path, folder: Path, sharding: str) -> None:
    """`distillaw train FILE --out FOLDER` without the command line."""
    from distillaw.models.parallel import join_ranks
    from distillaw.runs.execution import Execution
    from distillaw.sweep.run_files import load_single
    from distillaw.sweep.scheduler import Display
    from distillaw.sweep.single import run_single

    with join_ranks(Execution(sharding=sharding)) as ranks:
        run_single(load_single(file), folder, display=Display(), command="test", ranks=ranks)


def wait_for(fact: Callable[[], object], seconds: float = 120) -> None:
    """Return as soon as something is true."""
    until = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.01)


def prune(ranks, teacher: Path, out: Path, wishes: dict, text: str) -> dict:
    """`distillaw prune` without the command line; the record as this rank has it."""
    from distillaw.models.export import Making
    from distillaw.models.prune import Wishes, prune_to
    from distillaw.models.source import locate

    return prune_to(locate(teacher), out, Wishes(**wishes), text=text, making=Making(ranks=ranks))


def importance(ranks, teacher: Path, windows: list, wishes: dict):
    """The scores of a teacher's units on calibration windows that the ranks share."""
    import torch

    from distillaw.models.export import Making
    from distillaw.models.prune import Wishes, _importance
    from distillaw.models.source import locate
    from distillaw.models.teacher import load_weights

    model = load_weights(locate(teacher), torch.device("cpu"), None)
    return _importance(model, torch.tensor(windows), Wishes(**wishes), Making(ranks=ranks))


def fail_on_the_second(ranks) -> None:
    """What one rank cannot do, all say."""
    from distillaw.errors import DataError

    def act() -> int:
        if ranks.rank == 1:
            raise DataError("not finite")
        return 1

    ranks.together(act)


def distil(ranks, spec, folder: Path) -> dict:
    """`distillaw distil` without the command line."""
    from distillaw.sweep.arms import train_arms
    from distillaw.sweep.scheduler import Display

    return train_arms(spec, folder, display=Display(), ranks=ranks)


def store(ranks, teacher: Path, data: Path, out: Path) -> dict:
    """`distillaw cache build` without the command line; what the manifest says of the teacher."""
    from distillaw.data.shards import TokenStore
    from distillaw.sweep.target_stores import find_teacher, open_maker
    from distillaw.targets.build import build_shards, make_plan, opened_for_building
    from distillaw.targets.manifest import Scheme, TargetRequest

    tokens = TokenStore.open(data)
    request = TargetRequest(scheme=Scheme(), split="student", context=32, tokens=10_000, shard_bytes=60_000)
    maker = open_maker(find_teacher(str(teacher)), tokens, request, ranks)
    assert (maker.teacher.model.base_model.__class__.__name__[:4] == "FSDP") == ranks.shards
    with opened_for_building(out, make_plan(request, maker.teacher, tokens), ranks) as plan:
        manifest = build_shards(out, plan, maker, ranks=ranks)
    return {"loss": manifest.teacher_loss, "shards": [entry.sha256 for entry in manifest.shards]}


def evaluate(ranks, model: Path, out: Path, text: str) -> dict:
    """`distillaw evaluate --text --teacher` without the command line."""
    from distillaw.evaluate.suite import evaluate_model
    from distillaw.evaluate.wishes import TextWishes

    record = evaluate_model(str(model), out=out, text=TextWishes(text=text, context=48), teacher=model, ranks=ranks)
    return {part: {k: v for k, v in record[part].items() if k != "part"} for part in ("heldout", "calibration")}


def tune(ranks, stage: str, model: Path, data: Path, out: Path, stops: int | None = None) -> dict:
    """`distillaw instruct sft`, `dpo` or `onpolicy` without the command line; the last may stop at a step."""
    from distillaw.instruct import onpolicy
    from distillaw.instruct.spec import DpoSpec, OnPolicySpec, SftSpec
    from distillaw.instruct.stages import run_dpo, run_sft
    from distillaw.runs.files import read_json_lines

    same = {"model": str(model), "template": "zephyr", "max_tokens": 96, "batch": 4, "lr": 1e-3, "epochs": 2}
    more = {}
    if stage == "sft":
        result = run_sft(SftSpec(data=str(data / "chats.jsonl"), **same), out, ranks=ranks)
    elif stage == "dpo":
        result = run_dpo(DpoSpec(data=str(data / "pairs.jsonl"), **same), out, ranks=ranks)
    else:
        fill = onpolicy.Rollouts.fill

        def stopping(self, model, batch, *, step, first=0):
            if step == stops and ranks.rank == ranks.world - 1:
                raise onpolicy.DivergedError("stopped")
            return fill(self, model, batch, step=step, first=first)

        onpolicy.Rollouts.fill = stopping
        own = {"teacher": str(data / "teacher"), "max_new_tokens": 10, "on_policy": 0.7, "checkpoint_seconds": 1e-6}
        result = onpolicy.run_onpolicy(OnPolicySpec(data=str(data / "chats.jsonl"), **own, **same), out, ranks=ranks)
        own = result["onpolicy"]
        more = {"own": [own[when]["loss"] for when in ("before", "after")]}
        more["rollouts"] = ranks.told(lambda: read_json_lines(out / "rollouts.jsonl"))
    rows = ranks.told(lambda: [row for row in read_json_lines(out / "metrics.jsonl") if "loss" in row])
    return more | {
        "steps": len(rows),
        "losses": [row[key] for row in rows for key in ("loss", "grad_norm")],
        "after": [result["after"]["loss"], result["loss_se"]],
    }


def train_there(ranks, places: list[Path], folder: Path, spec, budgets: list[int]) -> None:
    """Train with each rank in a folder of its own, as on machines that share the run's folder and no other."""
    os.chdir(places[ranks.rank])
    train(ranks, folder, spec, budgets)
