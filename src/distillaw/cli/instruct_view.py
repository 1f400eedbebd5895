"""What `distillaw instruct` prints for people: the plan of a run, and what came of one."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillaw.cli.app import print_json
from distillaw.quantities import format_flop

if TYPE_CHECKING:
    from distillaw.instruct.prepare import Account
    from distillaw.instruct.spec import TuneSpec
    from distillaw.instruct.start import Start

Result = Mapping[str, Any]
"""What result.json holds."""


def preview(
    spec: "TuneSpec",
    start: "Start",
    account: "Account",
    *,
    train: int,
    heldout: int,
    tokens: int,
    learnt: int,
    as_json: bool,
) -> None:
    """What a run would learn from and cost, before anything is spent.

    Args:
        spec: its settings.
        start: model and template.
        account: what became of the data.
        train: conversations or pairs to train on.
        heldout: those held out.
        tokens: read in an epoch.
        learnt: of these, the answers'.
        as_json: one JSON object instead of text.
    """
    from distillaw.instruct.finish import step_flops, training_forwards
    from distillaw.instruct.spec import DpoSpec

    pairs = isinstance(spec, DpoSpec)  # two sequences each, and one reading by the reference
    forwards = training_forwards(spec.lora) * spec.epochs + pairs
    length = tokens / (train * (1 + pairs))
    flops = step_flops(start.source.config(), tokens=tokens, mean_length=length, forwards=forwards)
    end = start.tokenizer.convert_ids_to_tokens(start.end_token)
    if as_json:
        print_json({
            "template": start.template, "end_token": end, "data": account.as_record(), "train": train,
            "heldout": heldout, "tokens_per_epoch": learnt, "all_tokens_per_epoch": tokens, "train_flops": flops,
            "max_tokens": start.max_tokens,
        })  # fmt: skip
        return
    print(f"{start.source.name}, template {start.template}, answers end with {end}\n{account}")
    print(
        f"{train:,} to train on, {heldout:,} held out; {learnt:,} tokens of answers among {tokens:,} an epoch"
    )
    print(f"at most {spec.epochs} epochs: {format_flop(flops)}")


def print_sft(result: Result, out: Path) -> None:
    """Losses before and after, the paired change, what was learnt."""
    before, after, change = result["before"], result["after"], result["change"]
    low, high = change["interval"]
    print(f"{result['base']}, template {result['template']}, answers end with {result['end_token']}\n")
    print(f"  held-out loss  {_loss(before)} -> {_loss(after)} nats/token, clustered by conversation")
    print(f"  perplexity     {before['perplexity']:.4g} -> {after['perplexity']:.4g}")
    print(f"  change         {change['mean']:+.4f}, {low:+.4f} to {high:+.4f} at {change['level']:.0%}, paired over "
          f"{change['documents']} conversations")  # fmt: skip
    print(f"  learnt         {result['tokens']:,} tokens of answers among {result['all_tokens']:,}, "
          f"{result['epochs_run']} epochs, epoch {result['best_epoch']} kept")  # fmt: skip
    print(f"\n{out / 'model'}")


def print_dpo(result: Result, out: Path) -> None:
    """Margins and accuracies on held-out pairs."""
    before, after = result["preference"]["before"], result["preference"]["after"]
    print(f"{result['base']}, template {result['template']}, beta {result['beta']:g}\n")
    for name, key, style in (
        ("loss", "loss", ".4f"),
        ("margin", "margin", ".4f"),
        ("margin above 0", "accuracy", ".1%"),
        ("chosen likelier", "likelier", ".1%"),
    ):
        was = f"{before[key]['mean']:{style}} -> " if key == "likelier" else ""
        low, high = after[key]["interval"]
        level = f"{after[key]['level']:.0%}"
        print(f"  {name:16} {was}{after[key]['mean']:{style}}, {low:{style}} to {high:{style}} at {level}")
    print(f"  {'chosen answers':16} {_loss(result['before'])} -> {_loss(result['after'])} nats/token")
    print(f"  {after['pairs']} held-out pairs; at the start the loss is ln 2 = 0.6931 and every margin 0")
    print(f"\n{out / 'model'}")


def print_generated(about: Result, out: Path) -> None:
    """How many answers or pairs, and what was left out."""
    if "pairs" in about:
        print(
            f"{about['pairs']} pairs: chosen by {about['teacher']}, rejected by {about['student']}; not judged"
        )
        print(f"  left out: {about['cut_off']} cut off, {about['alike']} alike")
    else:
        limit = about["sampling"]["max_new_tokens"]
        print(f"{about['answers']} answers by {about['teacher']}, {about['tokens']:,} tokens; {about['truncated']} cut "
              f"off at {limit} tokens (marked, not learnt)")  # fmt: skip
    print(f"\n{out}")


def _loss(figures: Result) -> str:
    return f"{figures['loss']:.4f} ± {figures['loss_se']:.4f}"
