"""The model card of a trained run: a README.md written from the run's own record, nothing typed by hand.

The YAML front matter follows the model-card metadata of the Hugging Face hub (library_name, tags, model-index ...);
the text says what the model is, what it read, from whom it learnt, what it cost, what it scores, and where it ends.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import PurePath

from distillaw.data.corpus import parse_mixture
from distillaw.quantities import format_count, format_flop, format_seconds
from distillaw.table import Table, text
from distillaw.version import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The record of a run, as it lies on disk, and what only a person can add."""

    result: Mapping[str, object]
    """result.json."""
    spec: Mapping[str, object]
    """spec.json, with its `recipe`."""
    manifest: Mapping[str, object]
    """manifest.json of the data folder."""
    command: str
    """What repeats the run, e.g. `distillaw study run studies/quickstart.toml`."""
    license: str | None = None
    """An identifier of the hub, e.g. `apache-2.0`; None leaves it out: it depends on data and teacher."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes."""

    def text(self) -> str:
        """The README.md."""
        sections = (_summary, _figures, _usage, _training, _reproduction, _limits)
        return (
            f"---\n{_front_matter(self)}\n---\n\n" + "\n\n".join(section(self) for section in sections) + "\n"
        )


def _front_matter(card: ModelCard) -> str:
    """YAML between the dashes, by the hub's own writer."""
    from huggingface_hub import EvalResult, ModelCardData

    result, corpus = card.result, _corpus(card)
    dataset = corpus.removeprefix("hub:") if corpus.startswith("hub:") else None
    score = EvalResult(
        task_type="text-generation",
        dataset_type=dataset or "text",
        dataset_name=f"held-out documents of {corpus}",
        metric_type="loss",
        metric_name="loss (nats/token)",
        metric_value=result["loss"],
    )
    tags = ["distillaw", *(["knowledge-distillation"] if result["teacher_run"] else [])]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=tags,
        license=card.license,
        language=list(card.languages) or None,
        datasets=[dataset] if dataset else None,
        model_name=str(result["run_id"]),
        eval_results=[score],
    )
    return data.to_yaml()


def _teacher(card: ModelCard) -> str:
    """The teacher's name: a run, a name on the hub, or the last part of a folder."""
    return _public(str(card.result["teacher_run"]))


def _public(name: str) -> str:
    """A name fit for publication: of a folder or file the last part, since the rest is nobody's business."""
    return PurePath(name).name if name.startswith(("/", "~", ".")) else name


def _corpus(card: ModelCard) -> str:
    spec = card.manifest["spec"]
    assert isinstance(spec, Mapping)
    if spec.get("world"):
        return str(card.manifest["source"])
    parts = parse_mixture(str(spec["corpus"]))
    return " + ".join(
        f"{share:g}*{_public(each)}" if len(parts) > 1 else _public(each) for share, each in parts
    )


def _number(value: object) -> float:
    return float(str(value))


def _known(value: object, write: Callable[[float], str]) -> str:
    """A number as text; a teacher that left only its targets may have taken it along."""
    return "unknown" if value is None else write(_number(value))


def _count(value: object) -> str:
    return _known(value, format_count)


def _summary(card: ModelCard) -> str:
    result = card.result
    how = f"distilled from `{_teacher(card)}`" if result["teacher_run"] else "trained on text alone"
    return (
        f"# {result['run_id']}\n\n"
        f"A causal language model of {_count(result['params'])} non-embedding parameters "
        f"({_count(result['total_params'])} in all), {how}, on {_count(result['tokens'])} tokens of "
        f"`{_corpus(card)}`. Written by distillaw {__version__} when the run finished."
    )


def _figures(card: ModelCard) -> str:
    result = card.result
    rows = [
        (
            "held-out loss, measured",
            f"{_number(result['loss']):.4f} ± {_number(result['loss_se']):.4f} nats/token",
        )
    ]
    if result["teacher_run"]:
        rows += [
            (
                "teacher",
                f"`{_teacher(card)}`, {_count(result['teacher_params'])} non-embedding parameters, "
                f"{_count(result['teacher_tokens'])} tokens",
            ),
            (
                "teacher's loss on the same documents",
                _known(result["teacher_loss"], "{:.4f} nats/token".format),
            ),
            ("forward passes of the teacher", _known(result["teacher_flops"], format_flop)),
        ]
    rows += [
        ("training of this model", format_flop(_number(result["train_flops"]))),
        ("time", f"{format_seconds(_number(result['seconds']))} on {result['device']}"),
    ]
    error = "The error is one standard error, clustered by document."
    return f"## Figures\n\n{Table([text(''), text('')], rows).markdown()}\n\n{error}"


def _table(rows: list[tuple[str, str]]) -> str:
    return Table([text(""), text("")], rows).markdown()


def _usage(card: ModelCard) -> str:
    return (
        "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'folder = "."  # where this file lies\ntokenizer = AutoTokenizer.from_pretrained(folder)\n'
        "model = AutoModelForCausalLM.from_pretrained(folder)\n"
        'inputs = tokenizer("The", return_tensors="pt")\n'
        "output = model.generate(**inputs, max_new_tokens=40, do_sample=True)\n"
        "print(tokenizer.decode(output[0]))\n```"
    )


def _training(card: ModelCard) -> str:
    result, recipe = card.result, card.spec["recipe"]
    assert isinstance(recipe, Mapping)
    rows = [
        ("start", str(result["init"])),
        (
            "tokens",
            f"{_count(result['tokens'])} ({_count(result['unique_tokens'])} of them different), "
            f"split `{result['split']}`",
        ),
        ("batch", f"{_count(result['batch_tokens'])} tokens, {_count(result['steps'])} steps"),
        ("peak learning rate", f"{_number(result['peak_lr']):g}"),
        ("lambda (weight of the teacher)", f"{_number(result['lambda']):g}"),
        ("temperature", f"{_number(result['temperature']):g}"),
        ("seed", str(result["seed"])),
        *(
            (name, str(value))
            for name, value in recipe.items()
            if name not in ("temperature", "distill_weight")
        ),
    ]
    return f"## Training\n\n{Table([text(''), text('')], rows).markdown()}"


def _reproduction(card: ModelCard) -> str:
    manifest = card.manifest
    versions = ", ".join(f"{name} {version_of(name)}" for name in ("torch", "transformers"))
    return (
        f"## Reproduce\n\n```\n{card.command}\n```\n\n"
        f"distillaw {__version__}, {versions}. Tokens `{manifest['data_hash']}`, tokenizer "
        f"`{manifest['tokenizer_hash']}`, run `{card.result['run_id']}`; the same specification, seed and "
        "versions on the same kind of machine give the same weights. `spec.json`, `result.json`, `metrics.jsonl` and "
        "`heldout.parquet` beside this file hold settings, figures, the course of training and the loss "
        "of every held-out document."
    )


def _limits(card: ModelCard) -> str:
    result = card.result
    lines = [
        f"It continues text; it was not trained to follow instructions. It sees {result['context']} tokens.",
        f"Its loss was measured on held-out documents of `{_corpus(card)}`; on other text it is another number.",
        "Nothing was done about bias, toxicity or private data: what stands in the text"
        + (" or speaks through the teacher" if result["teacher_run"] else "")
        + " may come out.",
    ]
    if card.license is None:
        lines.append("No licence is stated: it depends on those of the text and of the teacher.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)
