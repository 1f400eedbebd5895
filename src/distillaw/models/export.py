"""A trained model as a Hugging Face folder: safetensors, tokenizer, generation config, model card.

`AutoModelForCausalLM.from_pretrained(folder)` gives the same logits bit for bit. All files are written apart and moved
into place, config.json last: a folder without it does not load, so a kill leaves nothing that looks finished. The card
is written from the run's own record, nothing typed by hand; its front matter follows the hub's model-card metadata.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from distillaw.data.corpus import parse_mixture
from distillaw.errors import ConfigError
from distillaw.models.parallel import ALONE, Ranks
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
    end_token: int | None = None,
) -> None:
    """Write a model that transformers loads; other files of the folder, which is ours, are left alone.

    Args:
        model: the module itself, not a DDP or FSDP wrapper of it.
        tokenizer: the one whose ids it was trained on; its special tokens say how `generate` begins, stops and pads.
        folder: made if missing; an earlier export in it is replaced.
        readme: the model card.
        end_token: what `generate` stops at besides: the end of an answer.

    Raises:
        RunError: the disk is full or not writable.
    """
    from transformers import GenerationConfig

    bos, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    ends = end if end_token is None else list(dict.fromkeys([end_token, *([] if end is None else [end])]))
    with staged(folder) as stage:
        model.save_pretrained(stage)
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
    """Write a model that was made of another, with records by file name, such as prune.json (`Making.found`)."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How a model is made of another."""

    device: str = "cpu"
    dry_run: bool = False
    """No weights are read and nothing is written."""
    command: str = ""
    """What the user typed, for the record."""
    say: Callable[[str], None] = lambda message: None
    ranks: Ranks = ALONE
    """That share the work; the first one writes."""

    def found(self, out: Path, name: str, identity: str) -> dict[str, object] | None:
        """The record, a file of that name, of a model that the same wishes made in a folder; None where none is there.

        Raises:
            ConfigError: a model that something else made.
        """
        if self.dry_run or (record := self.ranks.told(lambda: _made_before(out, name, identity))) is None:
            return None
        self.say(f"{out}: made before, nothing to do")
        return record


def _made_before(out: Path, name: str, identity: str) -> dict[str, object] | None:
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


def model_card(result: Mapping[str, Any], spec: Mapping[str, Any], manifest: Mapping[str, Any], command: str) -> str:
    """The README.md of a trained model: card.txt, filled in from result.json, spec.json and the data's manifest.json.

    `command`: what repeats the run, e.g. `distillaw study run studies/quickstart.toml`.
    """
    count = partial(_known, write=format_count)
    teacher = result["teacher_run"] and _public(str(result["teacher_run"]))
    counts = {name: count(result[name]) for name in ("params", "total_params", "tokens", "unique_tokens")}
    counts |= {name: count(result[name]) for name in ("batch_tokens", "steps")}
    figures = [("held-out loss, measured", f"{result['loss']:.4f} ± {result['loss_se']:.4f} nats/token")]
    if teacher:
        size = f"{count(result['teacher_params'])} non-embedding parameters, {count(result['teacher_tokens'])} tokens"
        figures += [
            ("teacher", f"`{teacher}`, {size}"),
            ("teacher's loss on the same documents", _known(result["teacher_loss"], "{:.4f} nats/token".format)),
            ("forward passes of the teacher", _known(result["teacher_flops"], format_flop)),
        ]
    figures += [
        ("training of this model", format_flop(result["train_flops"])),
        ("time", f"{format_seconds(result['seconds'])} on {result['device']}"),
    ]
    further = {name: value for name, value in spec["recipe"].items() if name not in ("temperature", "distill_weight")}
    training = [
        ("start", str(result["init"])),
        ("tokens", f"{counts['tokens']} ({counts['unique_tokens']} of them different), split `{result['split']}`"),
        ("batch", f"{counts['batch_tokens']} tokens, {counts['steps']} steps"),
        ("peak learning rate", f"{result['peak_lr']:g}"),
        ("lambda (weight of the teacher)", f"{result['lambda']:g}"),
        ("temperature", f"{result['temperature']:g}"),
        ("seed", str(result["seed"])),
        *((name, str(value)) for name, value in further.items()),
    ]
    corpus = _corpus(manifest)
    words = {**result, **manifest, **counts, "corpus": corpus, "command": command, "version": __version__} | {
        "front": _front_matter(result, corpus),
        "how": f"distilled from `{teacher}`" if teacher else "trained on text alone",
        "versions": ", ".join(f"{name} {version_of(name)}" for name in ("torch", "transformers")),
        "figures": Table([text(""), text("")], figures).markdown(),
        "training": Table([text(""), text("")], training).markdown(),
        "speaks": " or speaks through the teacher" if teacher else "",
    }
    return Path(__file__).with_name("card.txt").read_text(encoding="utf-8").format_map(words)


def _front_matter(result: Mapping[str, Any], corpus: str) -> str:
    """YAML between the dashes, by the hub's own writer."""
    from huggingface_hub import EvalResult, ModelCardData

    dataset = corpus.removeprefix("hub:") if corpus.startswith("hub:") else None
    score = EvalResult(
        task_type="text-generation",
        dataset_type=dataset or "text",
        dataset_name=f"held-out documents of {corpus}",
        metric_type="loss",
        metric_name="loss (nats/token)",
        metric_value=result["loss"],
    )
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["distillaw", *(["knowledge-distillation"] if result["teacher_run"] else [])],
        datasets=[dataset] if dataset else None,
        model_name=str(result["run_id"]),
        eval_results=[score],
    )
    return data.to_yaml()


def _public(name: str) -> str:
    """A name fit for publication: of a folder or file the last part, since the rest is nobody's business."""
    return PurePath(name).name if name.startswith(("/", "~", ".")) else name


def _corpus(manifest: Mapping[str, Any]) -> str:
    if manifest["spec"].get("world"):
        return str(manifest["source"])
    parts = parse_mixture(str(manifest["spec"]["corpus"]))
    mixed = len(parts) > 1
    return " + ".join(f"{share:g}*{_public(each)}" if mixed else _public(each) for share, each in parts)


def _known(value: float | None, write: Callable[[float], str]) -> str:
    """A number as text; a teacher that left only its targets may have taken it along."""
    return "unknown" if value is None else write(float(value))
