"""`distillaw evaluate`: held-out loss, calibration, benchmarks and judged chat of a finished model."""

import shlex
import sys
from pathlib import Path

from distillaw.cli.app import print_json
from distillaw.cli.counts import Count, whole_count
from distillaw.cli.names import Place
from distillaw.cli.output import Output, as_typed, check_place, same_command
from distillaw.errors import ConfigError
from distillaw.quantities import parse_count


def evaluate(
    model: Place,
    *,
    out: Path | None = None,
    text: Place | None = None,
    teacher: Place | None = None,
    tasks: str | None = None,
    data: Path | None = None,
    limit: Count | None = None,
    shots: int | None = None,
    chat: bool = False,
    samples: int = 1,
    temperature: float = 0.8,
    questions: Path | None = None,
    judge: str | None = None,
    judge_model: str | None = None,
    judge_prompts: Path | None = None,
    against: Place | None = None,
    answer_tokens: int = 512,
    task_folder: Path | None = None,
    skip_missing: bool = False,
    max_bytes: str = "2M",
    context: int | None = None,
    bins: int = 21,
    text_column: str = "text",
    max_document_chars: int = 0,
    batch: int = 8,
    device: str = "auto",
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Measure a finished model; what was measured before is read, and a kill loses nothing finished.

    Args:
        model: Hugging Face folder, FOLDER/FILE.gguf, name on the hub, or STUDY/runs/RUN_ID.
        out: folder of the results of this model; default: `evaluation` in a run's folder.
        text: held-out text: .txt, .jsonl or .parquet, a folder, `hub:owner/name`, `sotu`.
        teacher: model of the same vocabulary against which calibration is measured too.
        tasks: benchmarks and sets, e.g. mmlu,gsm8k or suite or zero-shot.
        data: folder of the evaluation data, one folder per benchmark (docs/evaluate.md).
        limit: questions of each benchmark, and of the chat questions, at most; the same ones for every model.
        shots: examples before each question, instead of each benchmark's own number.
        chat: put questions through the tokenizer's chat template.
        samples: programs written per HumanEval problem; above 1 they are drawn, for pass@k.
        temperature: at which they are drawn.
        questions: chat questions in FastChat's format: Vicuna bench, MT-Bench.
        judge: who judges the answers: an OpenAI-compatible URL (key in DISTILLAW_JUDGE_KEY) or a model's folder.
        judge_model: what the URL's server calls the model.
        judge_prompts: FastChat's judge_prompts.jsonl instead of our own words.
        against: another chat model, to be compared with pairwise in both orders; without it answers are graded.
        answer_tokens: of a chat answer at most.
        task_folder: folder of further benchmarks as YAML.
        skip_missing: leave out benchmarks whose files are not there instead of refusing.
        max_bytes: text read at most.
        context: tokens a window of text sees; default 1024 or what the models allow.
        bins: of the calibration error, of equal width.
        text_column: the field that holds the text.
        max_document_chars: read only the first characters of each document.
        batch: sequences of a forward pass.
        device: cpu, cuda or auto.
        dry_run: say what would be asked, and stop.
    """
    out = _out(model, out)
    check_place("--out", out, is_folder=True)
    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    most = None if limit is None else whole_count(limit, name="--limit")
    if samples < 1 or temperature <= 0 or batch < 1:
        raise ConfigError(
            f"--samples {samples}, --temperature {temperature}, --batch {batch}: all are above 0"
        )
    if (questions is None) != (judge is None) or (against is not None and questions is None):
        raise ConfigError(
            "judged chat needs both: --questions FILE and --judge URL or FOLDER; --against MODEL makes it pairwise"
        )
    if dry_run:
        from distillaw.cli.evaluate_view import preview

        preview(model, names, data, most, shots, task_folder, skip_missing=skip_missing, as_json=output.json)
        output.suggest(same_command(without="--dry-run"))
        return
    if text is not None:
        from distillaw.data.corpus import check_text

        check_text(text)
    from transformers.utils.logging import disable_progress_bar

    from distillaw.cli.evaluate_view import print_evaluation
    from distillaw.cli.torch_device import torch_device
    from distillaw.data.corpus import Reading
    from distillaw.evaluate.calibration import TextWishes
    from distillaw.evaluate.chat import ChatWishes
    from distillaw.evaluate.harness import Way
    from distillaw.evaluate.suite import evaluate_model

    disable_progress_bar()
    wishes = None if text is None else TextWishes(
        text=text, reading=Reading(text_column=text_column, max_document_chars=max_document_chars),
        max_bytes=parse_count(max_bytes, name="--max-bytes"), context=context, bins=bins,
    )  # fmt: skip
    judged = None if questions is None or judge is None else ChatWishes(
        questions=questions, judge=judge, judge_model=judge_model, judge_prompts=judge_prompts, against=against,
        max_tokens=answer_tokens, limit=most,
    )  # fmt: skip
    with output.working("evaluating") as step:
        record = evaluate_model(
            model, out=out, text=wishes, teacher=teacher, tasks=names, data=data, limit=most, shots=shots,
            chat=judged, way=Way(chat=chat, batch=batch, samples=samples, temperature=temperature),
            task_folder=task_folder,
            skip_missing=skip_missing, device=torch_device(device, model),
            command=shlex.join(["distillaw", *sys.argv[1:]]),
            say=step,
        )  # fmt: skip
    print_json(record) if output.json else print_evaluation(record, out)
    output.suggest(*_next(record, out, as_typed({
        "--text": text, "--tasks": tasks, "--data": data, "--limit": limit, "--shots": shots, "--chat": chat,
        "--questions": questions, "--judge": judge, "--judge-model": judge_model, "--judge-prompts": judge_prompts,
        "--task-folder": task_folder, "--skip-missing": skip_missing, "--context": context,
    })))  # fmt: skip


def _next(record: dict, out: Path, measured: str) -> tuple[str, str]:
    """The model among others, where its compute is known; else the other model to compare it with."""
    if not ((out / "result.json").exists() or (out.parent / "result.json").exists()):
        return (
            f"distillaw evaluate MODEL{measured} --out DIR",
            "another model, to compare the scores with their errors:",
        )
    score = "" if record.get("mean_of_six") else " --score " + next(iter(record["scores"]), "bits_per_byte")
    return f"distillaw pareto {shlex.quote(str(out))}{score}", ""


def _out(model: str, out: Path | None) -> Path:
    """The given folder, or `evaluation` in a run's own."""
    run = Path(model)
    if out is None and (run / "result.json").exists():
        return run / "evaluation"
    if out is None:
        raise ConfigError("--out DIR: where the results of this model go, e.g. --out out/evaluation")
    return out
