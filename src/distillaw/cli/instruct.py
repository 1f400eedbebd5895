"""`distillaw instruct sft | dpo | onpolicy | generate`: chat models, and what they may learn from."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cyclopts import App

from distillaw.cli.machine import TuningOptions, execution_of, joined, torch_device
from distillaw.cli.options import Device, Model, OutFolder, Place, Whole, given, options_of
from distillaw.cli.output import Output, same_command
from distillaw.errors import ConfigError
from distillaw.instruct.spec import DpoSpec, OnPolicySpec, Sampling, SftSpec, TuneSpec
from distillaw.quantities import format_flop
from distillaw.runs.files import read_json

if TYPE_CHECKING:
    from distillaw.instruct.prepare import Account
    from distillaw.instruct.start import TuneStart

app = App(name="instruct", help="Make chat models: conversations, preferences, a teacher's answers to learn from.")

_NO_OPTIONS = ("model", "data", "teacher", "warmup", "weight_decay", "checkpoint_seconds")
_HOW = ("precision", "micro_batch", "checkpoint_activations")
SftOptions, DpoOptions, OnPolicyOptions = (
    options_of(spec, without=(*_NO_OPTIONS, *_HOW), typed={"max_tokens": Whole | None})
    for spec in (SftSpec, DpoSpec, OnPolicySpec)
)
SamplingOptions = options_of(Sampling, typed={"max_new_tokens": Whole})
Result: TypeAlias = Mapping[str, Any]
"""What result.json holds."""


@app.command
def sft(
    model: Model,
    *,
    data: Path,
    out: OutFolder,
    tuning: SftOptions | None = None,
    execution: TuningOptions | None = None,
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Fine-tune a model on conversations: only the assistant's tokens are learnt, its end token included.

    Args:
        data: conversations, .jsonl: `messages`, MiniChat's list of turns, ShareGPT, Alpaca or self-instruct.
        out: the run's folder; the chat model is OUT/model.
        tuning: how it learns.
        execution: where and how; --micro-batch counts examples (packed: rows).
        dry_run: read and mask the data, say what the run would cost, and stop.
    """
    spec = SftSpec(model=model, data=str(data), **given(tuning), **_how(execution))
    _require()
    from distillaw.instruct.stages import read_sides, run_sft
    from distillaw.instruct.start import open_model

    if dry_run:
        start = open_model(spec)
        sides = read_sides(spec, start)
        tokens = sum(len(each.ids) for each in sides.train)
        learnt = sum(each.answer_tokens for each in sides.train)
        _preview(spec, start, sides, tokens, learnt, output)
        return
    _run(run_sft, spec, out, execution, output, shown=_print_sft)


@app.command
def dpo(
    model: Place,
    *,
    pairs: Path,
    out: OutFolder,
    tuning: DpoOptions | None = None,
    execution: TuningOptions | None = None,
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Tune a chat model on preferences (DPO); the reference is the model itself at the start.

    Args:
        model: Hugging Face folder, FOLDER/FILE.gguf, or name on the hub; a chat model.
        pairs: .jsonl with `prompt` (or `messages`), `chosen` and `rejected`; longer ones than --max-tokens are left
            out.
        out: the run's folder; the tuned model is OUT/model.
        tuning: how it learns.
        execution: where and how; --micro-batch counts examples (packed: rows).
        dry_run: read and mask the pairs, say what the run would cost, and stop.
    """
    spec = DpoSpec(model=model, data=str(pairs), **given(tuning), **_how(execution))
    _require()
    from distillaw.instruct.stages import read_pair_sides, run_dpo
    from distillaw.instruct.start import open_model

    if dry_run:
        start = open_model(spec)
        sides = read_pair_sides(spec, start)
        learnt = sum(len(each.chosen) + len(each.rejected) for each in sides.train)
        tokens = learnt + sum(2 * len(each.prompt) for each in sides.train)
        _preview(spec, start, sides, tokens, learnt, output)
        return
    _run(run_dpo, spec, out, execution, output, shown=_print_dpo)


@app.command
def onpolicy(
    model: Place,
    *,
    teacher: Place,
    data: Path,
    out: OutFolder,
    tuning: OnPolicyOptions | None = None,
    execution: TuningOptions | None = None,
    output: Output = Output(),
) -> None:
    """Distil a teacher on the student's own answers (GKD): it answers, the teacher scores every token.

    Args:
        model: the student: Hugging Face folder, FOLDER/FILE.gguf, or name on the hub; a chat model.
        teacher: likewise, with the student's tokenizer.
        data: conversations whose prompts are answered, and whose answers are learnt where --on-policy is below 1.
        out: the run's folder; the tuned model is OUT/model.
        tuning: how it learns.
        execution: where and how; --micro-batch counts examples (packed: rows).
    """
    spec = OnPolicySpec(model=model, teacher=teacher, data=str(data), **given(tuning), **_how(execution))
    _require()
    from distillaw.instruct.onpolicy import run_onpolicy

    _run(run_onpolicy, spec, out, execution, output, shown=_print_onpolicy)


@app.command
def generate(
    teacher: Place,
    *,
    prompts: str,
    out: Path,
    drawn: SamplingOptions | None = None,
    template: str | None = None,
    student: str | None = None,
    student_template: str | None = None,
    device: Device = "auto",
    output: Output = Output(),
) -> None:
    """Have a chat model answer prompts: what a student learns from at the level of sequences.

    With --student, the two models' answers become pairs for `distillaw instruct dpo`: the teacher's as the chosen one,
    the student's as the rejected one. Nobody judges them.

    Args:
        teacher: Hugging Face folder, FOLDER/FILE.gguf, or name on the hub; a chat model.
        prompts: .txt (one a line), .jsonl, or `general`: 135 short ones inside the package.
        out: a .jsonl file; a second call goes on where the first stopped.
        drawn: how answers are drawn.
        template: chat template of a teacher without one.
        student: answer by this model, too, and write pairs.
        student_template: chat template of a student without one.
    """
    _require()
    from distillaw.instruct.generate import about_file, generate_answers

    settings = {**given(drawn), "device": torch_device(device, teacher), "say": output.step}
    if out.suffix != ".jsonl":
        raise ConfigError(f"--out {out}: answers are written to a .jsonl file")
    if student is None:
        generate_answers(teacher, prompts, out, template=template, **settings)
    else:
        from distillaw.instruct.generate import contrast_answers

        files = [out.with_name(f"{out.stem}.{who}.jsonl") for who in ("teacher", "student")]
        for model, style, file in ((teacher, template, files[0]), (student, student_template, files[1])):
            generate_answers(model, prompts, file, template=style, **settings)
        contrast_answers(files[0], files[1], out)
    about = read_json(about_file(out))
    output.answer(about, _print_generated, about, out)
    output.suggest(*_learn(about, shlex.quote(str(out)), are_pairs=student is not None))


def _learn(about: dict, file: str, *, are_pairs: bool) -> tuple[str, str]:
    """What learns from the answers, and what to know first where all were cut off."""
    longer = "a larger --max-new-tokens, into another file"
    if not are_pairs and about["truncated"] < about["answers"]:
        return f"distillaw instruct sft MODEL --data {file} --out DIR", ""
    if not are_pairs:
        said = f"every answer was cut off: ask again with {longer}, or learn them as they are:"
        return f"distillaw instruct sft MODEL --data {file} --keep-truncated --out DIR", said
    if about["pairs"]:
        return f"distillaw instruct dpo MODEL --pairs {file} --out DIR", ""
    return "distillaw instruct generate --help", f"no pair is left to learn from: ask again with {longer}:"


def _run(
    run: Callable[..., Result],
    spec: TuneSpec,
    out: Path,
    execution: Any,
    output: Output,
    *,
    shown: Callable[[Result, Path], None],
) -> None:
    """Run a stage on its processes and show what came of it."""
    with joined(execution, output, spec.model) as (ranks, output), output.working("tuning") as step:
        result = run(spec, out, ranks=ranks, say=step, command=same_command())
    if not ranks.is_first:
        return
    output.answer(result, shown, result, out)
    model, scores = (shlex.quote(str(out / name)) for name in ("model", "evaluation"))
    output.suggest(f"distillaw evaluate {model} --text YOUR_TEXT --out {scores}")


def _how(execution: Any) -> dict[str, Any]:
    """The settings of execution that a run keeps."""
    return {name: getattr(execution_of(execution), name) for name in _HOW}


def _require() -> None:
    """Say what is not installed before torch is imported."""
    from distillaw.instruct.start import require_instruct

    require_instruct()


def _preview(spec: TuneSpec, start: "TuneStart", sides: Any, tokens: int, learnt: int, output: Output) -> None:
    """What a run would learn from and cost: `tokens` read in an epoch, of these so many `learnt` ones of answers."""
    from distillaw.instruct.start import step_flops, training_forwards

    account: Account = sides.account
    train, heldout = len(sides.train), len(sides.heldout)
    pairs = isinstance(spec, DpoSpec)  # two sequences each, and one reading by the reference
    forwards = training_forwards(spec.lora) * spec.epochs + pairs
    length = tokens / (train * (1 + pairs))
    flops = step_flops(start.source.config(), tokens=tokens, mean_length=length, forwards=forwards)
    end = start.tokenizer.convert_ids_to_tokens(start.end_token)
    said = (
        f"{start.source.name}, template {start.template}, answers end with {end}\n{account}\n"
        f"{train:,} to train on, {heldout:,} held out; {learnt:,} tokens of answers among {tokens:,} an epoch\n"
        f"at most {spec.epochs} epochs: {format_flop(flops)}"
    )
    known = {"template": start.template, "end_token": end, "data": account.as_record()}
    counted = {"train": train, "heldout": heldout, "tokens_per_epoch": learnt}
    cost = {"all_tokens_per_epoch": tokens, "train_flops": flops, "max_tokens": start.max_tokens}
    output.answer({**known, **counted, **cost}, print, said)
    output.suggest(same_command(without="--dry-run"))


def _print_sft(result: Result, out: Path) -> None:
    """Losses before and after, the paired change, what was learnt."""
    before, after, change = result["before"], result["after"], result["change"]
    low, high = change["interval"]
    print(f"{result['base']}, template {result['template']}, answers end with {result['end_token']}\n")
    print(f"  held-out loss  {_loss(before)} -> {_loss(after)} nats/token, clustered by conversation")
    print(f"  perplexity     {before['perplexity']:.4g} -> {after['perplexity']:.4g}")
    between = f"{low:+.4f} to {high:+.4f} at {change['level']:.0%}"
    print(f"  change         {change['mean']:+.4f}, {between}, paired over {change['documents']} conversations")
    epochs = f"{result['epochs_run']} epochs, epoch {result['best_epoch']} kept"
    print(f"  learnt         {result['tokens']:,} tokens of answers among {result['all_tokens']:,}, {epochs}")
    print(f"\n{out / 'model'}")


def _print_onpolicy(result: Result, out: Path) -> None:
    """The divergence on its own answers before and after, what was sampled, the loss on the data."""
    found, change = result["onpolicy"], result["onpolicy"]["change"]
    low, high = change["interval"]
    between = f"{low:+.4f} to {high:+.4f} at {change['level']:.0%}"
    print(f"{result['base']} from {result['teacher_run']}, template {result['template']}\n")
    print(f"  {found['divergence']:14} {_loss(found['before'])} -> {_loss(found['after'])} nats/token, own answers")
    print(f"  change         {change['mean']:+.4f}, {between}, paired over {change['documents']} prompts")
    print(f"  loss on data   {_loss(result['before'])} -> {_loss(result['after'])} nats/token")
    cut = f"{found['truncated']:,} cut off at {result['recipe']['max_new_tokens']} tokens"
    print(f"  sampled        {found['answers']:,} answers of {found['sampled_tokens']:,} tokens, {cut}")
    parts = {"training": "train_flops", "sampling": "generation_flops", "teacher": "teacher_flops"}
    print("  " + ", ".join(f"{words} {format_flop(result[key])}" for words, key in parts.items()))
    print(f"\n{out / 'model'}")


def _print_dpo(result: Result, out: Path) -> None:
    """Margins and accuracies on held-out pairs."""
    before, after = result["preference"]["before"], result["preference"]["after"]
    print(f"{result['base']}, template {result['template']}, beta {result['beta']:g}\n")
    shown = {"loss": "loss", "margin": "margin", "margin above 0": "accuracy", "chosen likelier": "likelier"}
    for name, key in shown.items():
        style = ".4f" if key in ("loss", "margin") else ".1%"
        was = f"{before[key]['mean']:{style}} -> " if key == "likelier" else ""
        low, high = after[key]["interval"]
        level = f"{after[key]['level']:.0%}"
        print(f"  {name:16} {was}{after[key]['mean']:{style}}, {low:{style}} to {high:{style}} at {level}")
    print(f"  {'chosen answers':16} {_loss(result['before'])} -> {_loss(result['after'])} nats/token")
    print(f"  {after['pairs']} held-out pairs; at the start the loss is ln 2 = 0.6931 and every margin 0")
    print(f"\n{out / 'model'}")


def _print_generated(about: Result, out: Path) -> None:
    """How many answers or pairs, and what was left out."""
    if "pairs" in about:
        print(f"{about['pairs']} pairs: chosen by {about['teacher']}, rejected by {about['student']}; not judged")
        print(f"  left out: {about['cut_off']} cut off, {about['alike']} alike")
    else:
        cut = f"{about['truncated']} cut off at {about['sampling']['max_new_tokens']} tokens (marked, not learnt)"
        print(f"{about['answers']} answers by {about['teacher']}, {about['tokens']:,} tokens; {cut}")
    print(f"\n{out}")


def _loss(figures: Result) -> str:
    return f"{figures['loss']:.4f} ± {figures['loss_se']:.4f}"
