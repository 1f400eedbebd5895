"""Hugging Face trainers and whole scripts as training loops: the probe models in their format, the same traces.

A script gets folders that `AutoModelForCausalLM` opens in this process, a JSONL of samples (ids, labels and text), and
is run through its entry point with the arguments that the contract lists.
"""

import contextlib
import io
import json
import os
import runpy
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.modeling_outputs import CausalLMOutput

from distillaw.audit.contract import Contract, load
from distillaw.audit.loops import ROWS, LoopTarget, LoopTrace, recorded
from distillaw.audit.probes import ProbeLM, Recorder, Sample
from distillaw.errors import ConfigError


class ProbeConfig(PretrainedConfig):
    """How a probe model is made."""

    model_type = "distillaw_probe"

    def __init__(
        self,
        role: str = "student",
        ids: int = 8,
        vocab_size: int = 8,
        seed: int = 0,
        dropout: float = 0.0,
        scale: float = 1.2,
        **more: Any,
    ) -> None:
        self.role, self.ids, self.vocab_size = role, ids, vocab_size
        self.seed, self.dropout, self.scale = seed, dropout, scale
        self.hidden_size, self.num_hidden_layers = vocab_size, 1
        tokens: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 0, "bos_token_id": None}
        super().__init__(**(tokens | more))


class ProbeForCausalLM(PreTrainedModel, GenerationMixin):
    """A `ProbeLM` as transformers has models."""

    config_class = ProbeConfig
    base_model_prefix = "probe"

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__(config)
        names = ("ids", "vocab_size", "seed", "dropout", "scale")
        self.probe = ProbeLM(**{name: getattr(config, name) for name in names})
        self.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=0)
        LIVE[config.role] = self
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """They are made with the module."""

    def resize_token_embeddings(self, *_: Any, **__: Any) -> torch.nn.Module:  # pyrefly: ignore[bad-override]
        """Nothing: some trainers give a teacher its student's number of rows, which is the same here."""
        return self.get_input_embeddings()

    def get_input_embeddings(self) -> torch.nn.Module:
        """Rows by id."""
        return self.probe.model

    def get_output_embeddings(self) -> torch.nn.Module:
        """The head."""
        return self.probe.lm_head

    @property
    def lm_head(self) -> torch.nn.Module:  # pyrefly: ignore[bad-override]
        """The same, as code that fuses head and loss finds it."""
        return self.probe.lm_head

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: Any = None,
        **more: Any,
    ) -> CausalLMOutput:
        """Logits, and the plain next-token loss where labels are given."""
        logits = self.probe(input_ids, attention_mask, position_ids, **more)
        loss = None
        if labels is not None:
            moved = labels[:, 1:].flatten()
            total = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), moved, reduction="sum")
            loss = total / (num_items_in_batch or (moved != -100).sum().clamp(min=1))
        return CausalLMOutput(loss=loss, logits=logits, hidden_states=(logits.last_hidden_state,))


LIVE: dict[str, ProbeForCausalLM] = {}
"""By role the last one that was made."""


def register() -> None:
    """Let the Auto classes open probe models."""
    with contextlib.suppress(ValueError):
        AutoConfig.register(ProbeConfig.model_type, ProbeConfig)
        AutoModelForCausalLM.register(ProbeConfig, ProbeForCausalLM)


class TrainerTarget(LoopTarget):
    """A subclass of transformers' Trainer."""

    def __init__(self, function: type[Trainer], contract: Contract) -> None:
        self.prepare(function, contract)
        self.roles = {"student": "model", "samples": "train_dataset", "epochs": "", "evaluation": "eval_dataset"}
        self.roles |= dict.fromkeys(("checkpoint", "stop_after", "resume"), "")
        if name := contract.target.arguments.get("teacher", "teacher_model"):  # none where its rows are stored
            self.roles["teacher"] = name

    shares_out = True

    def run(self, *, samples: Sequence[Sample] | None = None, **roles: Any) -> LoopTrace:
        """Train once; `stop_after` saves and stops, `resume` goes on from there."""
        samples = self.samples if samples is None else samples
        student, teacher = open_probes(self)
        options = dict(self.contract.target.options)
        kind = options.pop("args", TrainingArguments)
        kind = load(kind) if isinstance(kind, str) else kind
        arguments = {k.removeprefix("args."): options.pop(k) for k in list(options) if k.startswith("args.")}
        stop, resume = roles.get("stop_after"), roles.get("resume")
        if "rank" in roles:
            _as_rank(roles["rank"], roles["world_size"])
        with contextlib.ExitStack() as stack:
            folder = roles.get("checkpoint") or stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(_quiet())
            args = kind(**(self._settings(folder, stop, "evaluation" in roles) | arguments))
            given: dict[str, Any] = {"model": student, "args": args, "train_dataset": _dataset(samples)}
            given |= self.collators()
            if "evaluation" in roles:
                given["eval_dataset"] = _dataset(self.held_out)
            if self.has("teacher"):
                given[self.roles["teacher"]] = teacher
            if self.function.__module__.startswith("trl."):
                given["processing_class"] = tiny_tokenizer(self.vocab)
            if stop is not None:
                given["callbacks"] = [_StopAt(stop)]

            def train() -> None:
                last = None if resume is None else str(next(Path(resume).glob("checkpoint-*")))
                self.function(**given, **options).train(resume_from_checkpoint=last)

            return recorded(Recorder(student.probe, teacher.probe), train)

    def _settings(self, folder: str, stop: int | None, evaluates: bool) -> dict[str, Any]:
        training = self.contract.training
        return {
            "output_dir": folder,
            "per_device_train_batch_size": ROWS,
            "per_device_eval_batch_size": ROWS,
            "gradient_accumulation_steps": training.accumulation,
            "learning_rate": training.lr,
            "lr_scheduler_type": training.schedule,
            "warmup_steps": training.warmup,
            "num_train_epochs": self.epochs,
            "optim": "sgd",
            "weight_decay": training.weight_decay,
            "max_grad_norm": training.clip_norm,
            "save_strategy": "no" if stop is None else "steps",
            "save_steps": stop or 1,
            "eval_strategy": "steps" if evaluates else "no",
            "eval_steps": 1,
            "report_to": "none",
            "logging_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "remove_unused_columns": False,
        }

    def collators(self) -> dict[str, Any]:
        """By the names under which the trainer takes what makes a batch of rows."""
        return {"data_collator": self._collated}

    def _collated(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        by_index = {s.index: s for s in [*self.samples, *self.held_out]}
        batch = self.batch([by_index[r["index"]] for r in rows])
        if "index" not in self.contract.target.arguments:
            batch.pop("index")
        return batch


def _as_rank(rank: int, world: int) -> None:
    """Let this process, a fork, be one of several to accelerate, which kept what its parent was."""
    from accelerate.state import AcceleratorState, GradientState

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "ACCELERATE_USE_CPU": "true"}
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def _dataset(samples: Sequence[Sample]) -> Any:
    """Samples as the dataset that trainers take."""
    from datasets import Dataset

    rows = [{"input_ids": s.ids.tolist(), "labels": s.labels.tolist(), "index": s.index} for s in samples]
    return Dataset.from_list(rows)


class _StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = control.should_training_stop or state.global_step >= self.step


def open_probes(target: LoopTarget) -> list[ProbeForCausalLM]:
    """Student and teacher as transformers has models."""
    return [ProbeForCausalLM(ProbeConfig(role=role, **probe)) for role, probe in target.probes.items()]


def tiny_tokenizer(vocab: int) -> Any:
    """A tokenizer of words w1, w2, ... whose pad and eos are one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<eos>": 0} | {f"w{i}": i for i in range(1, vocab)}
    core = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyrefly: ignore[missing-attribute]
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<eos>", unk_token="<eos>")


class ScriptTarget(LoopTarget):
    """A script, run through its entry point."""

    def __init__(self, path: Path, contract: Contract) -> None:
        if not path.is_file():
            raise ConfigError(f"target: {path}: no such script")
        argv = contract.target.options.get("argv")
        if not isinstance(argv, list | tuple) or not {"{student}", "{data}"} <= set(argv):
            raise ConfigError(
                "target.options: a script needs argv, its arguments as a list with the places {student}, {teacher}, "
                "{data} (JSONL of input_ids, labels, prompt, completion, index), {out}, and {stop_after}, {resume} if "
                "it has them"
            )
        self.prepare(path, contract)
        self.argv = [str(word) for word in argv]
        self.roles = {"student": "", "samples": ""} | ({"teacher": ""} if "{teacher}" in self.argv else {})
        if "{resume}" in self.argv and "{stop_after}" in self.argv:
            self.roles |= dict.fromkeys(("checkpoint", "stop_after", "resume"), "")

    def run(self, *, samples: Sequence[Sample] | None = None, **roles: Any) -> LoopTrace:
        """Run the script in this process on models in a folder of its own."""
        register()
        samples = self.samples if samples is None else samples
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            places = {"out": str(roles.get("checkpoint") or folder / "out"), "data": str(folder / "data.jsonl")}
            models = open_probes(self)
            teacher = models[1].probe
            for model in models:
                place = places[model.config.role] = str(folder / model.config.role)
                model.save_pretrained(place)
                tiny_tokenizer(self.vocab).save_pretrained(place)
            training = self.contract.training
            places |= {
                "stop_after": str(roles.get("stop_after") or 0),
                "resume": str(roles.get("resume") or ""),
                "epochs": str(self.epochs),
                "lr": str(training.lr),
                "accumulation": str(training.accumulation),
            }
            lines = [json.dumps(_as_text(sample)) for sample in samples]
            (folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            LIVE.clear()
            argv = [word.format_map(places) for word in self.argv]
            stack.enter_context(_quiet())
            path = str(self.function)
            trace = recorded(_Later(), lambda: _run_script(path, argv), teacher)
            if "student" not in LIVE:
                raise ConfigError(f"target {path}: the script opens no student by AutoModelForCausalLM")
            if "teacher" not in LIVE:
                trace.teacher, trace.teacher_moved = teacher, False
        return trace


class _Later(Recorder):
    """A recorder of models that the script opens while it runs."""

    def __init__(self) -> None:
        super().__init__(ProbeLM(1, 1, seed=0), ProbeLM(1, 1, seed=0))

    def _mine(self, optimizer: torch.optim.Optimizer) -> bool:
        for role, model in LIVE.items():
            setattr(self, role, model.probe)
        return super()._mine(optimizer)


def _as_text(sample: Sample) -> dict[str, Any]:
    words = [f"w{i}" if i else "<eos>" for i in sample.ids.tolist()]
    return {
        "input_ids": sample.ids.tolist(),
        "labels": sample.labels.tolist(),
        "prompt": " ".join(words[: sample.prompt]),
        "completion": " ".join(words[sample.prompt :]),
        "prompt_length": sample.prompt,
        "index": sample.index,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing that libraries print, and none of transformers' bars, while a target runs."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _run_script(path: str, arguments: list[str]) -> None:
    before, sys.argv = sys.argv, [path, *arguments]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as ended:
        if ended.code not in (None, 0):
            raise ConfigError(f"target {path}: the script ends with {ended.code}") from None
    finally:
        sys.argv = before
