"""Where a model lies, its configuration and tokenizer, and the fingerprint of its weights.

A model is a folder, a GGUF file, or a name on the Hugging Face hub. Nothing is loaded here, so that a dry run can check
a teacher in a second. Code that lies in a folder is never run, nor is the user asked whether it may. Names on the hub
are downloaded where there is a network and taken from the local cache otherwise; `HF_HUB_OFFLINE=1` keeps to the cache.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillaw.data.tokenizer import from_gguf
from distillaw.errors import CacheError, ConfigError
from distillaw.runs.files import content_hash, file_sha256, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""What is fetched from the hub: weights as safetensors, configs and tokenizers; no pickles, no code."""
GLANCE_BYTES = 1 << 20
"""Of each end of a file: its header and some of its weights, read in a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model on this machine, not loaded yet."""

    name: str
    """As the user gave it."""
    folder: Path
    gguf_file: str | None = None
    """The file in `folder` that holds everything; None: a Hugging Face folder."""

    @property
    def where(self) -> dict[str, str]:
        """Arguments that every `from_pretrained` of transformers takes to find it."""
        place = {"pretrained_model_name_or_path": str(self.folder)}
        return place if self.gguf_file is None else place | {"gguf_file": self.gguf_file}

    def config(self) -> "PreTrainedConfig":
        """Its configuration.

        Raises:
            CacheError: there is none, or it is damaged.
            ConfigError: an architecture that transformers does not know, an adapter, or gguf is not installed.
        """
        from transformers import AutoConfig

        import distillaw.models.pyramid  # noqa: F401 - makes its model type known

        if (self.folder / "adapter_config.json").exists():
            raise ConfigError(
                f"{self.name}: an adapter, not a model; merge it into its base (peft: merge_and_unload) and save that"
            )
        if self.gguf_file is None and not (self.folder / "config.json").exists():
            raise CacheError(
                f"{self.name}: no config.json in {self.folder}, so no model; give a Hugging Face folder, "
                "FOLDER/FILE.gguf or a name on the hub (owner/name)"
            )
        with loading(self.name):
            return self._read(AutoConfig)

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer beside its weights; CacheError: there is none, or it is damaged."""
        from transformers import AutoTokenizer

        try:
            return self._read(AutoTokenizer)
        except ImportError as error:
            raise _missing_package(self.name, error) from error
        except Exception as error:  # transformers raises many types for missing and damaged tokenizers
            raise CacheError(
                f"{self.name}: no tokenizer can be loaded from {self.folder} ({_first_line(error)}). Logits are "
                "matched token by token, so it is needed: copy the tokenizer files that the model was "
                "trained with beside its weights"
            ) from error

    def _read(self, auto: Any) -> Any:
        if self.gguf_file is not None:
            return from_gguf(auto, self.folder / self.gguf_file)
        return auto.from_pretrained(**self.where, trust_remote_code=False)


def locate(name: "str | Path | ModelSource") -> ModelSource:
    """Find a model on this machine, or fetch it from the hub.

    Args:
        name: a folder; a GGUF file; or `owner/name` on the hub, with `@revision` and `/file.gguf` where wanted.

    Raises:
        CacheError: nothing of that name here, in the cache or (with a network) on the hub.
    """
    if isinstance(name, ModelSource):
        return name
    path, text = Path(name).expanduser(), str(name)
    if path.is_dir():
        return ModelSource(name=text, folder=path)
    if path.is_file() and path.suffix == ".gguf":
        return ModelSource(name=text, folder=path.parent, gguf_file=path.name)
    hub = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+?))?(?:/([\w.-]+\.gguf))?", text)
    if hub is None or path.is_absolute() or text.startswith("."):
        raise CacheError(
            f"{text}: no such model here; give a Hugging Face folder, FOLDER/FILE.gguf or a name on the hub "
            "(owner/name)"
        )
    repo, revision, gguf_file = hub.groups()
    return ModelSource(name=text, folder=_fetch(text, repo, revision, gguf_file), gguf_file=gguf_file)


def tensors_in(folder: Path) -> set[str]:
    """Names of the tensors in a folder's safetensors files; their headers alone are read."""
    from safetensors import safe_open

    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with loading(str(file)), safe_open(file, framework="pt") as opened:
            names |= set(opened.keys())
    return names


def _fetch(name: str, repo: str, revision: str | None, gguf_file: str | None) -> Path:
    """The snapshot of a hub repository, from the cache or the network."""
    from huggingface_hub import snapshot_download

    wanted = [gguf_file] if gguf_file else list(HUB_FILES)
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except Exception as error:  # errors of HTTP, of the hub and of the cache have no parent of their own
        raise CacheError(
            f"{name}: neither a folder here, nor in the Hugging Face cache, nor to be had from the hub "
            f"({_first_line(error)}). Where there is a network, `hf download {repo}`, then copy the cache, or give the "
            "folder of a copy"
        ) from error


def check_config(source: ModelSource, *, context: int | None) -> None:
    """Refuse what cannot teach a causal language model, from its configuration alone.

    Raises:
        ConfigError: an encoder-decoder, or its context is shorter than the study's.
    """
    config = source.config()
    if config.is_encoder_decoder:
        raise ConfigError(
            f"{source.name}: an encoder-decoder ({config.model_type}); its next-token probabilities depend on an "
            "encoder's input that a language model does not have. Choose a decoder-only teacher"
        )
    theirs = context_of(config)
    if context is not None and theirs is not None and theirs < context:
        raise ConfigError(
            f"{source.name}: the teacher's context is {theirs} tokens, the study's {context}; lower training.context "
            "(of a command without a file: --context)"
        )


def context_of(config: "PreTrainedConfig") -> int | None:
    """Longest sequence the model was made for, tokens; None where its kind has no such limit (Mamba)."""
    values = config.get_text_config().to_dict()
    for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if isinstance(value := values.get(key), int):
            return value
    return None


def settle_context(sources: Sequence[ModelSource], wanted: int | None, usual: int, *, least: int = 1) -> int:
    """Tokens of a window that each model sees: those wanted, or the usual number as far as all see so many.

    Raises:
        ConfigError: too few, or more than one of them sees.
    """
    limits = {source.name: limit for source in sources if (limit := context_of(source.config())) is not None}
    if wanted is None:
        return min([usual, *limits.values()])
    shortest = min(limits, key=limits.__getitem__, default="")
    if wanted < least or (limits and wanted > limits[shortest]):
        most = f"; {shortest} sees {limits[shortest]} tokens at most" if limits else ""
        raise ConfigError(f"--context {wanted}: a window has at least {least} token{'s' * (least > 1)}{most}")
    return wanted


@contextlib.contextmanager
def loading(name: str) -> Iterator[None]:
    """Turn what transformers and safetensors raise on loading into one clear error."""
    try:
        yield
    except Exception as error:  # safetensors and the loaders below raise types of their own for damaged files
        if isinstance(error, ImportError) or "pip install" in str(error):
            raise _missing_package(name, error) from error
        raise CacheError(f"{name}: no model can be loaded ({_first_line(error)})") from error


def _missing_package(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{name}: loading needs a package that is not installed ({_first_line(error)}). GGUF files: pip install "
        '"distillaw[gguf]"; quantised folders: "distillaw[quantised]", or the package that the folder was made with'
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


VOLATILE_KEYS = "_name_or_path transformers_version architectures dtype torch_dtype use_cache".split()
"""Entries of a config.json that do not change a single logit of the float32 model."""


def glance(source: ModelSource) -> str:
    """A fingerprint that is quick to take of any size: of weights and configuration names, sizes and both ends."""
    digest = hashlib.sha256()
    settings = [] if source.gguf_file else source.folder.glob("config.json")
    for file in [*_weight_files(source), *settings]:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            digest.update(f"{file.name} {size} ".encode())
            for place in (0, max(0, size - GLANCE_BYTES)):
                stream.seek(place)
                digest.update(stream.read(GLANCE_BYTES))
    return digest.hexdigest()[:16]


def _weight_files(source: ModelSource) -> list[Path]:
    """In the order that a fingerprint takes them; CacheError: there are none."""
    if source.gguf_file is not None:
        return [source.folder / source.gguf_file]
    files = sorted(source.folder.glob("*.safetensors")) or sorted(source.folder.glob("pytorch_model*.bin"))
    if not files:
        raise CacheError(f"{source.name}: no *.safetensors in {source.folder}, so no teacher")
    return files


def fingerprint(name: str | Path | ModelSource) -> str:
    """SHA-256 over the checksums of a model's weights and its configuration, 16 hex digits.

    Raises:
        CacheError: no weights there.
    """
    source = locate(name)
    files = _weight_files(source)
    if source.gguf_file is not None:
        return file_sha256(files[0])[:16]
    config = read_json(source.folder / "config.json")
    kept = {key: value for key, value in config.items() if key not in VOLATILE_KEYS}
    parts = [*(file_sha256(file) for file in files), content_hash(kept, digits=64)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]
