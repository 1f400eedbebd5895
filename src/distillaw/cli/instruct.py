"""`distillaw instruct sft | dpo | generate`: a chat model from a language model, and what it may learn from."""

import shlex
import sys
from pathlib import Path

from cyclopts import App

from distillaw.cli.app import print_json
from distillaw.cli.counts import Count, whole_count
from distillaw.cli.instruct_view import preview, print_dpo, print_generated, print_sft
from distillaw.cli.names import Place
from distillaw.cli.output import Output, check_place, same_command
from distillaw.errors import ConfigError

app = App(
    name="instruct",
    help="Make chat models: conversations, preferences, a teacher's answers to learn from.",
)


@app.command
def sft(
    model: Place,
    *,
    data: Path,
    out: Path,
    template: str | None = None,
    lr: float = 2e-5,
    epochs: int = 3,
    patience: int = 2,
    batch: int = 16,
    micro_batch: int | None = None,
    max_tokens: Count | None = None,
    neftune: float = 0.0,
    packing: bool = False,
    lora: int = 0,
    validation: float = 0.05,
    keep_truncated: bool = False,
    seed: int = 0,
    device: str = "auto",
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Fine-tune a model on conversations: only the assistant's tokens are learnt, its end token included.

    Args:
        model: Hugging Face folder, FOLDER/FILE.gguf, or name on the hub.
        data: conversations, .jsonl: `messages`, MiniChat's list of turns, ShareGPT, Alpaca or self-instruct.
        out: the run's folder; the chat model is OUT/model.
        template: chatml, llama3, minichat, zephyr or a .jinja file; default: the model's own.
        lr: peak learning rate.
        epochs: passes over the data, at most.
        patience: stop after so many epochs without a lower held-out loss; the best epoch is kept.
        batch: conversations (packed: rows) of a step.
        micro_batch: of one forward pass; default: up to 8.
        max_tokens: longest conversation; longer ones lose trailing turns. Default 1024.
        neftune: alpha of the noise on embeddings, usually 5; 0 is none.
        packing: several conversations in a row, blind to each other.
        lora: rank of adapters, merged at the end; 0 trains all weights.
        validation: share of openings that is held out.
        keep_truncated: learn generated answers that were cut off.
        seed: of the order, the adapters and the noise.
        device: cpu, cuda or auto.
        dry_run: read and mask the data, say what the run would cost, and stop.
    """
    check_place("--out", out, is_folder=True)
    from distillaw.instruct.spec import SftSpec

    spec = SftSpec(
        model=model, data=str(data), template=template, lr=lr, epochs=epochs, patience=patience, batch=batch,
        micro_batch=micro_batch, max_tokens=_tokens(max_tokens), neftune=neftune, packing=packing, lora=lora,
        validation=validation, keep_truncated=keep_truncated, seed=seed,
    )  # fmt: skip
    _require()
    from distillaw.cli.torch_device import torch_device
    from distillaw.instruct.sft import read_sides, run_sft
    from distillaw.instruct.start import open_model

    where = torch_device(device, model)
    if dry_run:
        start = open_model(spec)
        sides = read_sides(spec, start)
        tokens = sum(len(each.ids) for each in sides.train)
        learnt = sum(each.answer_tokens for each in sides.train)
        preview(spec, start, sides.account, train=len(sides.train), heldout=len(sides.heldout), tokens=tokens,
                learnt=learnt, as_json=output.json)  # fmt: skip
        output.suggest(same_command(without="--dry-run"))
        return
    with output.working("fine-tuning") as step:
        result = run_sft(spec, out, device=where, say=step, command=_command())
    print_json(result) if output.json else print_sft(result, out)
    _suggest_scores(output, out)


@app.command
def dpo(
    model: Place,
    *,
    pairs: Path,
    out: Path,
    template: str | None = None,
    lr: float = 5e-7,
    beta: float = 0.1,
    epochs: int = 1,
    batch: int = 16,
    micro_batch: int | None = None,
    max_tokens: Count | None = None,
    lora: int = 0,
    validation: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Tune a chat model on preferences (DPO); the reference is the model itself at the start.

    Args:
        model: Hugging Face folder, FOLDER/FILE.gguf, or name on the hub; a chat model.
        pairs: .jsonl with `prompt` (or `messages`), `chosen` and `rejected`.
        out: the run's folder; the tuned model is OUT/model.
        template: as for sft.
        lr: peak learning rate.
        beta: how far the model may leave its reference: small is far.
        epochs: passes over the pairs.
        batch: pairs of a step.
        micro_batch: of one forward pass; default: up to 8.
        max_tokens: longest prompt with answer; longer pairs are left out. Default 1024.
        lora: rank of adapters, merged at the end; 0 trains all weights.
        validation: share of prompts that is held out.
        seed: of the order and the adapters.
        device: cpu, cuda or auto.
        dry_run: read and mask the pairs, say what the run would cost, and stop.
    """
    check_place("--out", out, is_folder=True)
    from distillaw.instruct.spec import DpoSpec

    spec = DpoSpec(
        model=model, data=str(pairs), template=template, lr=lr, beta=beta, epochs=epochs, batch=batch,
        micro_batch=micro_batch, max_tokens=_tokens(max_tokens), lora=lora, validation=validation, seed=seed,
    )  # fmt: skip
    _require()
    from distillaw.cli.torch_device import torch_device
    from distillaw.instruct.preference import read_pair_sides, run_dpo
    from distillaw.instruct.start import open_model

    where = torch_device(device, model)
    if dry_run:
        start = open_model(spec)
        sides = read_pair_sides(spec, start)
        learnt = sum(len(each.chosen) + len(each.rejected) for each in sides.train)
        tokens = learnt + sum(2 * len(each.prompt) for each in sides.train)
        preview(spec, start, sides.account, train=len(sides.train), heldout=len(sides.heldout), tokens=tokens,
                learnt=learnt, as_json=output.json)  # fmt: skip
        output.suggest(same_command(without="--dry-run"))
        return
    with output.working("tuning") as step:
        result = run_dpo(spec, out, device=where, say=step, command=_command())
    print_json(result) if output.json else print_dpo(result, out)
    _suggest_scores(output, out)


@app.command
def generate(
    teacher: Place,
    *,
    prompts: str,
    out: Path,
    max_new_tokens: Count = "256",
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch: int = 8,
    template: str | None = None,
    student: str | None = None,
    student_template: str | None = None,
    device: str = "auto",
    output: Output = Output(),
) -> None:
    """Have a chat model answer prompts: what a student learns from at the level of sequences.

    With --student, the two models' answers become pairs for `distillaw instruct dpo`: the teacher's as the chosen one,
    the student's as the rejected one. Nobody judges them.

    Args:
        teacher: Hugging Face folder, FOLDER/FILE.gguf, or name on the hub; a chat model.
        prompts: .txt (one a line), .jsonl, or `general`: 135 short ones inside the package.
        out: a .jsonl file; a second call goes on where the first stopped.
        max_new_tokens: longest answer; those that meet it are marked and not learnt.
        temperature: 0 takes the likeliest token each time.
        top_p: share of probability that is sampled from.
        seed: of sampling.
        batch: prompts answered at once.
        template: chat template of a teacher without one.
        student: answer by this model, too, and write pairs.
        student_template: chat template of a student without one.
        device: cpu, cuda or auto.
    """
    _require()
    from distillaw.cli.torch_device import torch_device
    from distillaw.instruct.generate import about_file, generate_answers
    from distillaw.runs.files import read_json

    settings = {
        "max_new_tokens": whole_count(max_new_tokens, name="--max-new-tokens"), "batch": batch, "temperature":
        temperature, "top_p": top_p, "seed": seed, "device": torch_device(device, teacher), "say": output.step,
    }  # fmt: skip
    if out.suffix != ".jsonl":
        raise ConfigError(f"--out {out}: answers are written to a .jsonl file")
    if student is None:
        generate_answers(teacher, prompts, out, template=template, **settings)  # type: ignore[arg-type]
    else:
        from distillaw.instruct.contrast import contrast_answers

        files = [out.with_name(f"{out.stem}.{who}.jsonl") for who in ("teacher", "student")]
        for model, style, file in ((teacher, template, files[0]), (student, student_template, files[1])):
            generate_answers(model, prompts, file, template=style, **settings)  # type: ignore[arg-type]
        contrast_answers(files[0], files[1], out)
    about = read_json(about_file(out))
    print_json(about) if output.json else print_generated(about, out)
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


def _suggest_scores(output: Output, out: Path) -> None:
    model, scores = (shlex.quote(str(out / name)) for name in ("model", "evaluation"))
    output.suggest(f"distillaw evaluate {model} --text YOUR_TEXT --out {scores}")


def _require() -> None:
    from distillaw.instruct.packages import require_instruct

    require_instruct()


def _tokens(text: str | None) -> int | None:
    return None if text is None else whole_count(text, name="--max-tokens")


def _command() -> str:
    return shlex.join(["distillaw", *sys.argv[1:]])
