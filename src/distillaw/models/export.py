"""A trained model as a Hugging Face folder: safetensors, tokenizer, generation config, model card.

`AutoModelForCausalLM.from_pretrained(folder)` gives the same logits bit for bit. All files are written apart and moved
into place, config.json last: a folder without it does not load, so a kill leaves nothing that looks finished. The card
is written from the run's own record, nothing typed by hand; its front matter follows the hub's model-card metadata.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import torch

from distillaw.data.corpus import parse_mixture
from distillaw.errors import ConfigError
from distillaw.quantities import format_count, format_flop, format_seconds
from distillaw.runs.files import read_json, saving, write_json
from distillaw.runs.places import check_folder, claim_folder, move, remove_file, scratch, sweep
from distillaw.table import Table, text
from distillaw.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def export_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    readme: str,
    *,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    end_token: int | None = None,
) -> None:
    """Write a model that transformers loads; other files of the folder, which is ours, are left alone.

    Args:
        model: the module itself, not a DDP or FSDP wrapper of it.
        tokenizer: the one whose ids it was trained on; its special tokens say how `generate` begins, stops and pads.
        folder: made if missing; an earlier export in it is replaced.
        readme: the model card.
        state_dict: full tensors by name, where the module's own are sharded over ranks.
        end_token: what `generate` stops at besides: the end of an answer.

    Raises:
        RunError: the disk is full or not writable.
    """
    from transformers import GenerationConfig

    bos, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    ends = end if end_token is None else list(dict.fromkeys([end_token, *([] if end is None else [end])]))
    with staged(folder) as stage:
        model.save_pretrained(stage, state_dict=state_dict)
        tokenizer.save_pretrained(str(stage))
        pad = end if pad is None else pad
        GenerationConfig(bos_token_id=bos, eos_token_id=ends, pad_token_id=pad).save_pretrained(stage)
        config = read_json(stage / "config.json") | {"use_cache": True}
        write_json(stage / "config.json", config, is_ours=False)
        (stage / "README.md").write_text(readme, encoding="utf-8")


def save_made(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    out: Path,
    records: Mapping[str, Mapping[str, object]],
) -> None:
    """Write a model that was made of another, with records by file name, such as prune.json (`made_before`)."""
    with staged(out) as stage:
        model.cpu().save_pretrained(stage)
        tokenizer.save_pretrained(str(stage))
        for name, record in records.items():
            write_json(stage / name, record)


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder to write a model to, whose files are moved to `folder` at the end, config.json last.

    Raises:
        ConfigError: `folder` holds something that is not ours.
        RunError: the disk is full or not writable.
    """
    claim_folder(folder)
    sweep(folder)
    with saving(folder), scratch(folder) as stage:
        yield stage
        remove_file(folder / "config.json")
        for stale in folder.glob("*.safetensors*"):
            remove_file(stale)
        for file in sorted(stage.iterdir(), key=lambda file: file.name == "config.json"):
            move(file, folder / file.name)


def made_before(out: Path, name: str, identity: str) -> dict[str, object] | None:
    """The record, a file of that name, of a model made in a folder by the same wishes; None where there is no model."""
    check_folder(out)
    if not (out / "config.json").exists():
        return None
    if not (out / name).exists():
        raise ConfigError(f"{out} holds a model that was not made by this command; choose another --out")
    record = read_json(out / name)
    if record["identity"] == identity:
        return record
    raise ConfigError(
        f"{out} holds a model made by another call ({record['command']}); choose another --out, or delete it"
    )


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
        parts = "\n\n".join(section(self) for section in sections)
        return f"---\n{_front_matter(self)}\n---\n\n{parts}\n"


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
    mixed = len(parts) > 1
    return " + ".join(f"{share:g}*{_public(each)}" if mixed else _public(each) for share, each in parts)


def _number(value: object) -> float:
    return float(value)


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
    loss = f"{_number(result['loss']):.4f} ± {_number(result['loss_se']):.4f} nats/token"
    rows = [("held-out loss, measured", loss)]
    if result["teacher_run"]:
        params, tokens = _count(result["teacher_params"]), _count(result["teacher_tokens"])
        loss = _known(result["teacher_loss"], "{:.4f} nats/token".format)
        rows += [
            ("teacher", f"`{_teacher(card)}`, {params} non-embedding parameters, {tokens} tokens"),
            ("teacher's loss on the same documents", loss),
            ("forward passes of the teacher", _known(result["teacher_flops"], format_flop)),
        ]
    rows += [
        ("training of this model", format_flop(_number(result["train_flops"]))),
        ("time", f"{format_seconds(_number(result['seconds']))} on {result['device']}"),
    ]
    error = "The error is one standard error, clustered by document."
    return f"## Figures\n\n{_table(rows)}\n\n{error}"


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
    tokens, unique = _count(result["tokens"]), _count(result["unique_tokens"])
    further = {name: value for name, value in recipe.items() if name not in ("temperature", "distill_weight")}
    rows = [
        ("start", str(result["init"])),
        ("tokens", f"{tokens} ({unique} of them different), split `{result['split']}`"),
        ("batch", f"{_count(result['batch_tokens'])} tokens, {_count(result['steps'])} steps"),
        ("peak learning rate", f"{_number(result['peak_lr']):g}"),
        ("lambda (weight of the teacher)", f"{_number(result['lambda']):g}"),
        ("temperature", f"{_number(result['temperature']):g}"),
        ("seed", str(result["seed"])),
        *((name, str(value)) for name, value in further.items()),
    ]
    return f"## Training\n\n{_table(rows)}"


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
