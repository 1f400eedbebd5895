"""What `distillaw branch` prints: the plan, then losses, decisions, comparisons and noise scales of every fork."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillaw.cli.app import print_json
from distillaw.cli.console import print_table
from distillaw.quantities import format_count, format_flop, format_seconds
from distillaw.table import Table

if TYPE_CHECKING:
    from distillaw.sweep.branch_spec import BranchCost, BranchSpec


def print_plan(spec: "BranchSpec", cost: "BranchCost", *, as_json: bool) -> None:
    """What the test would run and spend."""
    forks = (
        "the checkpoint" if spec.at_checkpoint else f"{', '.join(f'{t:,}' for t in spec.fork_tokens)} tokens"
    )
    table: dict[str, Any] = {
        "forks": "checkpoint" if spec.at_checkpoint else list(spec.fork_tokens),
        "pairs": [list(pair) for pair in spec.pairs],
        "batches": list(spec.batches),
        "orders": spec.orders,
        "window": spec.window_tokens,
        "steps": [spec.window_tokens // batch for batch in spec.batches],
        "anneal": spec.anneal,
        "branches": cost.branches,
        "trunk_tokens": cost.trunk_tokens,
        "branch_tokens": cost.branch_tokens,
        "noise_tokens": cost.noise_tokens,
        "flops": cost.flops,
        "seconds": cost.seconds,
    }
    if as_json:
        print_json(table)
        return
    pairs = ", ".join(f"{loss} from the {trunk} run" for trunk, loss in spec.pairs)
    print(f"forks at {forks}; branches {pairs}")
    print(f"{cost.branches} branches of {spec.window_tokens:,} tokens, {spec.orders} orders of the text each")
    print(
        "batches "
        + ", ".join(
            f"{batch:,} ({steps:,} steps)"
            for batch, steps in zip(table["batches"], table["steps"], strict=True)
        )
    )
    print(
        f"rate: {'constant' if not spec.anneal else f'decaying over the last {spec.anneal:.0%} of the window'}"
    )
    print(
        f"{format_count(cost.tokens)} tokens ({format_count(cost.trunk_tokens)} to the forks), "
        f"{format_flop(cost.flops)}, about {format_seconds(cost.seconds)} on one core from nothing"
    )


def print_test(record: Mapping[str, Any], page: Path) -> None:
    """Everything that was found, the decisions first."""
    from distillaw.report.branch import comparison_words, excess_words

    test, run = record["test"], record["run"]
    rate = f"decaying over the last {test['anneal']:.0%}" if test["anneal"] else "constant"
    size, batch = format_count(run["params"]), f"{run['batch_tokens']:,}"
    print(
        f"{run['name']}: {size} parameters, batch {batch} tokens; windows of {test['window']:,} tokens, ",
        end="",
    )
    print(f"{test['orders']} orders, rate {rate}, rule {test['rate_rule']}")
    for fork in record["forks"]:
        for arm in fork["arms"]:
            trunk = f"the {arm['trunk']} run (held-out loss {arm['before']:.4f})"
            print(f"\nfork at {fork['tokens']:,} tokens of {trunk}, branches {arm['loss']}")
            _print_arm(arm, test["level"])
        if fork["comparisons"]:
            print(f"\ndoes distillation change the critical batch? at {fork['tokens']:,} tokens")
        for comparison in fork["comparisons"]:
            for line in comparison_words(comparison):
                print(f"  {line}")
            print(f"  {excess_words(comparison, test['level'])}")
    print(f"\npicture: {page}")


def _print_arm(arm: Mapping[str, Any], level: float) -> None:
    from distillaw.report.branch import batch_columns, decision_words, noise_words

    for decision in arm["decisions"]:
        print(f"  {decision_words(decision)}")
    if arm["noise_scale"]:
        print(f"  {noise_words(arm['noise_scale'])}")
    print_table(Table.of(batch_columns(level), arm["rows"]), indent=2)
