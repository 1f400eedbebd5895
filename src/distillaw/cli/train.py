"""`distillaw train` and `branch`: one run from a TOML file, and a checkpoint forked at several batch sizes."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from distillaw.cli.console import print_table
from distillaw.cli.display import make_display
from distillaw.cli.machine import ExecutionOptions, execution_of, joined
from distillaw.cli.options import Numbers, OutFolder, Text, Whole, Words, given, options_of, values_of, whole
from distillaw.cli.output import Output, Settings, same_command
from distillaw.quantities import format_count, format_flop, format_seconds
from distillaw.sweep.run_files import BranchCost, BranchSpec, branch_cost, load_single
from distillaw.sweep.study import require_trainable
from distillaw.table import Table


def train(
    spec: Path,
    *,
    out: OutFolder,
    track: Literal["wandb", "trackio", "tensorboard"] | None = None,
    settings: Settings = (),
    execution: ExecutionOptions | None = None,
    output: Output = Output(),
) -> int:
    """Train one run from a TOML file: pretrain, or distil from a teacher or its stored targets; resumable.

    The file has `name`, `params`, `tokens`, `peak_lr`, and optionally `teacher` (a folder) or `targets` (a target
    store), `batch_tokens`, `seed`, [data] and [training] as a study file has them. The run lies in OUT/runs/RUN_ID,
    a Hugging Face folder with result.json. Several processes: --processes 8, or torchrun -m distillaw train ...

    Args:
        spec: the run's TOML file.
        out: folder for tokens, checkpoints and the run.
        settings: KEY=VALUE over the file's, e.g. training.weight_decay=0.1; may be repeated.
        track: mirror the scalars to a tracker, which must be installed; metrics.jsonl is written anyway.
        execution: where and how; what [training] of the file says otherwise.
    """
    single = load_single(spec, settings=settings)  # a slip in it is said before torch is imported
    single = replace(single, training=execution_of(execution).applied(single.training))
    require_trainable()
    from distillaw.sweep.single import run_single

    with joined(execution, output) as (ranks, output):
        for setting in settings:
            output.say(f"set: {setting}")
        with make_display(single.tokens, quiet=output.quiet) as display:
            result, trained = run_single(
                single, out, display=display, command=same_command(), ranks=ranks, tracker=track
            )
    if not ranks.is_first:
        return 0
    folder = out / "runs" / str(result["run_id"])
    if not output.json:
        output.say("" if trained else "already finished")
    arm = f"distilled from {result['teacher_run']}" if result["teacher_run"] else "no teacher"
    loss = f"held-out loss {result['loss']:.4f} +- {result['loss_se']:.4f} nats/token (se, clustered by document)"
    output.answer({**result, "folder": str(folder)}, print, f"{result['run_id']}, {arm}\n{loss}\nfolder: {folder}")
    output.suggest(f"distillaw evaluate {shlex.quote(str(folder))} --text YOUR_TEXT")
    return 0


_TYPED = {
    "multiples": Numbers,
    "window": Whole,
    "rate_rule": Literal["sqrt", "linear", "constant"],
    "beta_rule": Literal["keep", "half-life", "sde"],
    "decay_rule": Literal["keep", "timescale"],
    "trunks": Words,
    "losses": Words,
}
BranchOptions = options_of(BranchSpec, without=("single", "at", "at_checkpoint"), typed=_TYPED)


def branch(
    spec: Path,
    *,
    out: OutFolder,
    at: Text | None = None,
    test: BranchOptions | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    output: Output = Output(),
) -> None:
    """Fork a checkpoint at several batch sizes and see which still learn as much per token.

    Every branch goes on from the same weights, optimiser state and place in the text, for the same tokens; the critical
    batch is the largest that ends no worse than every smaller one, but for a tolerance (arXiv 2505.23971). With a
    teacher in the file the same is done without it, and the two critical batches are compared. Resumable; more
    multiples, orders or forks later cost only themselves.

    Args:
        spec: the run's TOML file, as distillaw train takes it.
        out: folder for tokens, checkpoints and branches; that of distillaw train of the same file serves as well.
        at: tokens at which the trunk is forked, e.g. 200k,400k, or `checkpoint`, the one that distillaw train left;
            half of the run's tokens by default.
        test: what is run from there.
        dry_run: show branches, tokens, FLOP and time, and stop.
    """
    single = load_single(spec)
    require_trainable()
    is_checkpoint = at == "checkpoint"
    forks = () if at is None or is_checkpoint else tuple(whole(each, "--at") for each in at.split(","))
    wanted = BranchSpec(single=single, at=forks, at_checkpoint=is_checkpoint, **given(test))
    wanted.check()
    cost = branch_cost(wanted)
    if dry_run:
        plan = _plan(wanted, cost)
        output.answer(plan, _print_plan, wanted, cost, plan)
        output.suggest(same_command(without="--dry-run"))
        return
    from distillaw.report.branch import write_branch_page
    from distillaw.sweep.branching import branch_test

    with make_display(cost.tokens, quiet=output.quiet) as display:
        record = branch_test(wanted, out, display=display, command=same_command())
    page = write_branch_page(record, out / "branch.html")
    output.answer(record, _print_test, record, page)
    output.suggest(f"distillaw report {shlex.quote(str(out))}")


def _plan(spec: BranchSpec, cost: BranchCost) -> dict[str, Any]:
    """What the test would run and spend."""
    return {
        "forks": "checkpoint" if spec.at_checkpoint else list(spec.fork_tokens),
        "pairs": [list(pair) for pair in spec.pairs],
        "batches": list(spec.batches),
        "orders": spec.orders,
        "window": spec.window_tokens,
        "steps": [spec.window_tokens // batch for batch in spec.batches],
        "anneal": spec.anneal,
        **values_of(cost, "branches trunk_tokens branch_tokens noise_tokens flops seconds"),
    }


def _print_plan(spec: BranchSpec, cost: BranchCost, plan: Mapping[str, Any]) -> None:
    forks = ", ".join(f"{tokens:,}" for tokens in spec.fork_tokens) + " tokens"
    pairs = ", ".join(f"{loss} from the {trunk} run" for trunk, loss in spec.pairs)
    print(f"forks at {'the checkpoint' if spec.at_checkpoint else forks}; branches {pairs}")
    print(f"{cost.branches} branches of {spec.window_tokens:,} tokens, {spec.orders} orders of the text each")
    batches = zip(plan["batches"], plan["steps"], strict=True)
    print("batches " + ", ".join(f"{batch:,} ({steps:,} steps)" for batch, steps in batches))
    print(f"rate: {f'decaying over the last {spec.anneal:.0%} of the window' if spec.anneal else 'constant'}")
    print(
        f"{format_count(cost.tokens)} tokens ({format_count(cost.trunk_tokens)} to the forks), "
        f"{format_flop(cost.flops)}, about {format_seconds(cost.seconds)} on one core from nothing"
    )


def _print_test(record: Mapping[str, Any], page: Path) -> None:
    """Everything that was found, the decisions first."""
    from distillaw.report.branch import batch_columns, comparison_words, decision_words, excess_words, noise_words

    test, run = record["test"], record["run"]
    rate = f"decaying over the last {test['anneal']:.0%}" if test["anneal"] else "constant"
    size, batch = format_count(run["params"]), f"{run['batch_tokens']:,}"
    print(
        f"{run['name']}: {size} parameters, batch {batch} tokens; windows of {test['window']:,} tokens, "
        f"{test['orders']} orders, rate {rate}, rule {test['rate_rule']}"
    )
    for fork in record["forks"]:
        for arm in fork["arms"]:
            trunk = f"the {arm['trunk']} run (held-out loss {arm['before']:.4f})"
            print(f"\nfork at {fork['tokens']:,} tokens of {trunk}, branches {arm['loss']}")
            for decision in arm["decisions"]:
                print(f"  {decision_words(decision)}")
            if arm["noise_scale"]:
                print(f"  {noise_words(arm['noise_scale'])}")
            print_table(Table.of(batch_columns(test["level"]), arm["rows"]), indent=2)
        if fork["comparisons"]:
            print(f"\ndoes distillation change the critical batch? at {fork['tokens']:,} tokens")
        for comparison in fork["comparisons"]:
            for line in comparison_words(comparison):
                print(f"  {line}")
            print(f"  {excess_words(comparison, test['level'])}")
    print(f"\npicture: {page}")
