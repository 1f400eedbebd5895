"""`distillaw worlds list | show | make`: synthetic languages whose exact next-token distribution is known."""

import shlex
from collections.abc import Mapping
from typing import Any

from cyclopts import App

from distillaw.cli.options import OutFolder, Whole, WorldName
from distillaw.cli.output import Output
from distillaw.cli.progress import metered
from distillaw.quantities import format_count
from distillaw.worlds.oracle import check_counts, describe_world, export_world, teachers_of_loss
from distillaw.worlds.spec import PRESETS, WorldSpec, check_world, load_world
from distillaw.worlds.world import World

app = App(
    name="worlds", help="Make synthetic languages with an exact next-token oracle: text, entropy, teachers of any loss."
)


@app.command(name="list")
def list_(*, output: Output = Output()) -> None:
    """List the worlds that have a name."""
    lines = []
    for name, spec in PRESETS.items():
        read = f"{spec.vocab} tokens, documents of {spec.document_tokens}"
        lines.append(f"{name:<10}{spec.kind:<9}{read}: {_settings(spec)}")
    named = {name: spec.table | {"hash": spec.spec_hash} for name, spec in PRESETS.items()}
    output.answer({"worlds": named}, print, "\n".join(lines))
    output.suggest("distillaw worlds show hmm")


def _settings(spec: WorldSpec) -> str:
    settings = spec.table[spec.kind]
    assert isinstance(settings, dict)
    return ", ".join(f"{name} {value}" for name, value in settings.items())


@app.command
def show(
    world: WorldName, *, context: int = 128, documents: int = 32, loss: float | None = None, output: Output = Output()
) -> None:
    """Show the entropy of a world, and the loss of its oracle by window and temperature: which teachers there can be.

    Args:
        world: a name that `distillaw worlds list` gives, or a TOML file with the world (a run's or study's too).
        context: tokens of a window, as held-out text is scored.
        documents: how many are read for it; errors shrink with their root.
        loss: nats/token; also the teachers of this loss, one for each way to make the oracle worse that can reach it.
    """
    spec = load_world(world)
    opened = World(spec)
    check_counts(spec, context=context, documents=documents)
    # before the tables, which take far longer than to see that no teacher can have that loss
    teachers = [] if loss is None else teachers_of_loss(opened, loss, context)
    described = describe_world(opened, context=context, documents=documents)
    answer = described if loss is None else {**described, "teachers": teachers}
    output.answer(answer, _print, spec, answer, context, loss)
    output.suggest(f"distillaw worlds make {shlex.quote(world)} --out {spec.kind}-world")


def _print(spec: WorldSpec, answer: Mapping[str, Any], context: int, loss: float | None) -> None:
    print(f"{spec.label}: {spec.vocab} tokens, end of text included; documents of {spec.document_tokens} words")
    print(f"{spec.kind}: {_settings(spec)}; seed {spec.seed}")
    value = f"{answer['entropy']['value']:.4f} +- {answer['entropy']['error']:.4f} nats/token"
    print(f"\nentropy {value} in windows of {context}: no model's loss is lower")
    for title in ("window", "temperature"):
        print(f"\nloss of the oracle by {title}")
        for row in answer[f"loss_by_{title}"]:
            print(f"  {row[title]:>6}  {row['value']:.4f} +- {row['error']:.4f}")
    if answer.get("teachers"):
        print(f"\nteachers of {loss:g} nats")
    for teacher in answer.get("teachers", ()):
        settings = f"= {teacher['settings']}" if teacher["settings"] else "cannot be"
        print(f"  {teacher['name']:<34}{settings}")
        if teacher["refusal"]:
            print(f"    {teacher['refusal']}")


@app.command
def make(
    world: WorldName, *, out: OutFolder, tokens: Whole = 1_000_000, seed: int | None = None, output: Output = Output()
) -> None:
    """Write a world's text, its description, and TOML files that train from its oracle.

    OUT gets world.toml and world.json (the language), tokens.npy and text.jsonl (the first documents of the students'
    split, as ids and as words), train.toml (`distillaw train`) and study.toml (`distillaw study run`).

    Args:
        world: a name that `distillaw worlds list` gives, or a TOML file with the world.
        out: the folder.
        tokens: how much text to write, e.g. 10M; runs and studies draw their own.
        seed: of the language, instead of the world's own.
    """
    from dataclasses import replace

    spec = load_world(world)
    if seed is not None:
        spec = replace(spec, seed=seed)
        check_world(spec)
    with metered("text", tokens, "tokens", quiet=output.quiet) as meter:
        facts = export_world(World(spec), out, tokens, seen=meter.advance)
    written, value, error = (float(facts[name]) for name in ("tokens", "entropy", "entropy_error"))
    said = f"{out}: {format_count(written)} tokens of {spec.label}, entropy {value:.4f} +- {error:.4f} nats/token"
    output.answer({"folder": str(out), **facts}, print, said)
    run = shlex.quote(str(out / "run"))
    output.suggest(f"distillaw train {shlex.quote(str(out / 'train.toml'))} --out {run}")
