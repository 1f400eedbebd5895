"""axolotl's distillation plugin: its fused loss on top-k rows, and its trainer on each of its three ways to such rows.

Offline rows pass through the plugin's own data set strategy and collator, one row for each token of an answer, as vLLM
returns them with what it generates. Online rows pass through its collator, which asks a server: here one that answers
as vLLM's and SGLang's do, from the probe teacher. What was found stands in docs/audit.md.
"""

import dataclasses
from collections.abc import Sequence
from json import dumps
from types import SimpleNamespace
from typing import Any

import torch

from distillaw.audit.adapters import imported, loss_findings, own_names, plain_objective
from distillaw.audit.contract import Contract, DeclaredTarget, Training, checked
from distillaw.audit.findings import Findings
from distillaw.audit.loops import LoopTrace, audit_runs
from distillaw.audit.losses import HIDDEN
from distillaw.audit.probes import Sample
from distillaw.audit.trainers import TrainerTarget, open_probes, tiny_tokenizer

_PLUGIN = "axolotl.integrations.kd"
_K = 8


def kd_loss() -> list[Findings]:
    """The fused loss: forward KL on a renormalised teacher; and both renormalised, at three betas."""
    kernel = imported(f"{_PLUGIN}.kernels.liger", "LigerFusedLinearKLTopKLogprobLoss", "axolotl-kd")

    def loss(
        student_hidden,
        student_head,
        teacher_hidden,
        teacher_head,
        labels,
        mask,
        num_tokens,
        temperature,
        beta,
        distill_weight,
        hard_weight,
        top_k,
        chunk,
        normalize_topk,
    ):
        how = {"compiled": False, "chunk_size": chunk, "compute_ce_loss": bool(hard_weight)}
        fused = kernel(hard_weight, distill_weight, temperature, beta, **how, normalize_topk=normalize_topk)
        rows = ((teacher_hidden @ teacher_head.T) / temperature).log_softmax(-1).topk(top_k)
        kept = mask[..., None].expand_as(rows.indices)
        total = fused(student_head, student_hidden, rows.indices, rows.values.log_softmax(-1), kept, labels)
        return total / num_tokens

    options = ("temperature", "beta", "distill_weight", "hard_weight", "top_k", "chunk")
    arguments = own_names(*HIDDEN, "labels", "mask", "num_tokens", *options)
    shared = {"temperature": 2.0, "temperature_squared": True, "distill_weight": 0.9, "hard_weight": 0.1}
    shared |= {"reduction": "given", "mask": "given", "shift": "inside"}
    found = []
    for rule, beta in (("renormalised", 0.0), ("subset", 0.0), ("subset", 0.2), ("subset", 1.0)):
        objective = plain_objective(divergence="jsd", beta=beta, **shared, top_k=4, top_k_rule=rule)
        found.append(loss_findings(loss, objective, arguments, options={"normalize_topk": rule == "subset"}))
    return found


def kd_trainer(way: str) -> list[Findings]:
    """The trainer at temperature 1, where nothing is left to choose but whose row a position meets."""
    trainer = imported(f"{_PLUGIN}.trainer", "AxolotlKDTrainer", f"axolotl-kd-{way}")
    arguments = imported("axolotl.core.training_args", "AxolotlTrainingArguments", f"axolotl-kd-{way}")
    mixin = imported(f"{_PLUGIN}.args", "KDTrainingArgsMixin", f"axolotl-kd-{way}")
    settings = {"kd_ce_alpha": 0.1, "kd_alpha": 0.9, "kd_temperature": 1.0, "kd_beta": 0.0, "kd_normalize_topk": True}
    options: dict[str, Any] = {f"args.{name}": value for name, value in settings.items()}
    kind = dataclasses.make_dataclass("KDArguments", [], bases=(mixin, arguments))
    kind.__module__ = __name__
    globals()["KDArguments"] = kind  # a checkpoint pickles it
    options["args"] = kind
    contract = checked(
        Contract(
            target=DeclaredTarget(kind="trainer", arguments={"teacher": ""}, options=options),
            objective=plain_objective(
                distill_weight=0.9, hard_weight=0.1, shift="inside", top_k=_K, top_k_rule="subset"
            ),
            training=Training(accumulation=4, per="update", schedule="linear", ranks="data"),
        )
    )
    return [audit_runs(_StoredRows(trainer, contract, way), f"{_PLUGIN}.trainer.AxolotlKDTrainer, {way} rows")]


class _StoredRows(TrainerTarget):
    """A trainer whose teacher is rows of its k likeliest tokens, in the plugin's formats."""

    def __init__(self, function: Any, contract: Contract, way: str) -> None:
        super().__init__(function, contract)
        self.way = way
        # a prompt without an answer has no rows to store
        self.samples = [s for s in self.samples if len(s.ids) > s.prompt]
        self.samples = self.samples[: len(self.samples) // 2 * 2]
        self.table = open_probes(self)[1].probe.table()
        self.collator: Any = None

    def run(self, *, samples: Sequence[Sample] | None = None, **roles: Any) -> LoopTrace:
        """As of any trainer; what it would compile runs as it is written."""
        name = "collator.DataCollatorForKD"
        more: dict[str, Any] = {}
        if self.way != "offline":
            name = "collator_online_teacher.OnlineTeacherCollator"
            more = {"kd_online_server_base_url": "http://teacher", "kd_online_topk": _K, "kd_online_server": self.way}
        module, _, kind = name.partition(".")
        self.collator = imported(f"{_PLUGIN}.{module}", kind, f"axolotl-kd-{self.way}")(
            tokenizer=tiny_tokenizer(self.vocab), **more
        )
        self.collator.http_session = SimpleNamespace(post=self._answer)
        with torch.compiler.set_stance("force_eager"):
            return super().run(samples=samples, **roles)

    def collators(self) -> dict[str, Any]:
        """Its evaluation has one of its own."""
        return dict.fromkeys(("data_collator", "eval_data_collator"), self._collated)

    def _collated(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        features = [
            {"input_ids": r["input_ids"], "attention_mask": [1] * len(r["input_ids"]), "labels": r["labels"]}
            for r in rows
        ]
        if self.way != "offline":
            return dict(self.collator([[each] for each in features]))
        strategy = imported(f"{_PLUGIN}.chat_template", "ChatTemplateStrategyWithKDv2", "axolotl-kd-offline")
        settings = SimpleNamespace(logprobs_field="logprobs", gen_temperature=1.0, kd_temperature=1.0)
        for each in features:
            answer = [i for i, label in enumerate(each["labels"]) if label != -100]
            values, ids = self._rows(each["input_ids"])
            each["logprobs"] = [values[i - 1] for i in answer]
            each["target_token_ids"] = [ids[i - 1] for i in answer]
            strategy.transform_logprobs(settings, each)
        return dict(self.collator(features))

    def _rows(self, ids: Sequence[int]) -> tuple[list[list[float]], list[list[int]]]:
        """Of what follows each position, (T, K)."""
        values, tokens = self.table[torch.tensor(ids)].log_softmax(-1).topk(_K)
        return values.tolist(), tokens.tolist()

    def _answer(self, url: str, json: dict[str, Any], **_: Any) -> Any:
        """What a server says of prompts: for each token the k likeliest in its place, of the first nothing."""
        texts = json["prompt" if self.way == "vllm" else "input_ids"]
        answers: list[dict[str, Any]] = []
        for ids in texts:
            places = list(zip(*self._rows(ids), strict=True))[:-1]
            if self.way == "vllm":
                said = [{str(t): {"logprob": v} for v, t in zip(*place, strict=True)} for place in places]
                answers.append({"prompt_logprobs": [None, *said]})
            else:
                listed = [[[v, t, None] for v, t in zip(*place, strict=True)] for place in places]
                answers.append({"meta_info": {"input_top_logprobs": [None, *listed]}})
        whole: Any = {"choices": answers} if self.way == "vllm" else answers
        content = dumps(whole).encode()
        return SimpleNamespace(raise_for_status=lambda: None, json=lambda: whole, content=content)
