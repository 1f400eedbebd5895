"""`distillaw large-batch run`: the experiments of the large-batch paper on images, from a TOML file."""

import shlex
from dataclasses import replace
from pathlib import Path

from cyclopts import App

from distillaw.cli.app import print_json
from distillaw.cli.output import Output, check_place, same_command
from distillaw.cli.progress import metered

app = App(
    name="large-batch",
    help="Compare large with small batches on images, column by column: Hoffer et al. 2017.",
)

CUDA_WORKERS = 4
"""Processes on one GPU: small networks leave it idle between kernels."""


@app.command
def run(
    spec: Path,
    *,
    data: Path,
    out: Path,
    device: str = "auto",
    workers: int = 0,
    seeds: int | None = None,
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Run a study of columns SB, LB, +LR, +GBN, +RA with seeds, and write its report.

    The same command goes on where it was stopped; a finished cell is never run again.

    Args:
        spec: the study's TOML file, e.g. studies/large-batch/mnist_f1_demo.toml.
        data: images: an .npz file, MNIST's idx files, CIFAR's batches, or train/CLASS/*.png beside test/.
        out: folder of the study.
        device: cpu, cuda, cuda:N or auto.
        workers: cells at once; 0: one per core, or four per GPU.
        seeds: another number of seeds than the file's.
        dry_run: say the cells, their settings and, from a few timed steps, how long they take, and stop.
    """
    check_place("--out", out, is_folder=True)
    from distillaw.large_batch.images.spec import read_study

    study = read_study(spec)
    _require_torch()
    from distillaw.cli import large_batch_view as view
    from distillaw.cli.torch_device import torch_device
    from distillaw.large_batch.images.study import make_plan, run_study
    from distillaw.report.large_batch import summarise, write_large_batch_report

    study = study if seeds is None else replace(study, seeds=seeds)
    place = torch_device(device)
    plan = make_plan(study, data, out)
    if dry_run:
        from distillaw.large_batch.images.study import foresee

        forecasts, count = foresee(plan, device=place), _count(workers, place)
        if output.json:
            print_json(view.dry_json(plan, forecasts, workers=count, device=place))
        else:
            view.print_dry(plan, forecasts, workers=count, device=place)
        output.suggest(same_command(without="--dry-run"))
        return
    command = same_command()
    with metered(study.name, 0.0, "images", quiet=output.quiet) as meter:
        watch = view.CellWatch(plan, meter)
        run_study(plan, device=place, workers=_count(workers, place), command=command, watch=watch)
    path = write_large_batch_report(out)
    summary = summarise(out)
    if output.json:
        print_json({**summary, "report": str(path)})
    else:
        view.print_summary(summary, path)
    output.suggest(f"distillaw report {shlex.quote(str(out))}")


def _count(asked: int, device: str) -> int:
    """Processes to start."""
    from distillaw.cli.workers import count_workers

    if asked or not device.startswith("cuda"):
        return count_workers(asked)
    import torch

    return CUDA_WORKERS * (torch.cuda.device_count() if device == "cuda" else 1)


def _require_torch() -> None:
    from importlib.util import find_spec

    from distillaw.errors import ConfigError

    missing = [name for name in ("torch", "matplotlib", "jinja2") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f'a large-batch study needs {", ".join(missing)}: pip install "distillaw[train,report]" (torch first)'
        )
