"""Targets by name: our own loss and engine, and peers, each with a contract by its documentation.

`distillaw audit own` needs no contract file. Where a peer's documentation leaves a choice open (which reduction,
whether T^2), the contract here says what its present release does, so that a change of it shows. What was found
stands in docs/audit.md.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from distillaw.audit.contract import Contract, DeclaredLoss, DeclaredTarget, Training, checked
from distillaw.audit.findings import Findings
from distillaw.audit.losses import audit_loss
from distillaw.audit.probes import make_samples
from distillaw.audit.targets import load
from distillaw.errors import ConfigError


def plain_objective(**fields: Any) -> DeclaredLoss:
    """Forward KL to the teacher alone, by token, but for these fields."""
    plain: dict[str, Any] = {
        "divergence": "forward-kl",
        "temperature": 1.0,
        "temperature_squared": False,
        "distill_weight": 1.0,
        "hard_weight": 0.0,
        "reduction": "token-mean",
        "mask": "labels",
        "shift": "outside",
        "nothing_counts": "zero",
        "reported": "objective",
    }
    return DeclaredLoss(**(plain | fields))


def loss_findings(
    function: Callable[..., Any], objective: DeclaredLoss, arguments: dict[str, str], **target: Any
) -> Findings:
    """The audit of a loss as declared here."""
    contract = Contract(target=DeclaredTarget(arguments=arguments, **target), objective=objective)
    name = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"
    return audit_loss(function, checked(contract), name)


def own_loss() -> list[Findings]:
    """`distillaw.distillation_loss` under every divergence, and towards a truncated teacher."""
    from distillaw.distill.losses import distillation_loss

    def loss(
        student_hidden: torch.Tensor,
        student_head: torch.Tensor,
        teacher_hidden: torch.Tensor,
        teacher_head: torch.Tensor,
        labels: torch.Tensor,
        **options: Any,
    ) -> torch.Tensor:
        return distillation_loss(
            student_hidden, student_head, labels, teacher_hidden=teacher_hidden, teacher_head=teacher_head, **options
        )

    arguments = {name: name for name in ("student_hidden", "student_head", "teacher_hidden", "teacher_head", "labels")}
    arguments |= {name: name for name in ("temperature", "beta", "skew", "top_k", "distill_weight", "ignore_index")}
    arguments |= {"chunk": "chunk_tokens", "num_tokens": "num_tokens", "vocab_size": "vocab_size"}
    found = []
    for fields in (
        {},
        {"divergence": "reverse-kl"},
        {"divergence": "jsd", "beta": 0.2},
        {"divergence": "skew-kl", "skew": 0.1},
        {"divergence": "skew-reverse-kl", "skew": 0.1},
        {"top_k": 4, "top_k_rule": "renormalised"},
    ):
        shared = {"temperature": 2.0, "temperature_squared": True, "distill_weight": 0.5, "hard_weight": 0.5}
        more = {"weights_add_up": True, "vocabulary": "cut-both", "reduction": "given", "beta": 0.5, "skew": 0.1}
        options = {"divergence": fields.get("divergence", "forward-kl")}
        found.append(
            loss_findings(
                loss, plain_objective(**(shared | more | fields)), arguments, options=options, dtype="bfloat16"
            )
        )
    return found


def own_engine() -> list[Findings]:
    """The step of `distillaw train` and of studies: student, teacher, micro-batches, optimiser, schedule."""
    from distillaw.audit.loops import LoopTarget, audit_runs

    training = Training(accumulation=3, per="update", lr=0.01, schedule="linear", decays_norms=False)
    objective = plain_objective(
        temperature=2.0, temperature_squared=True, distill_weight=0.5, hard_weight=0.5, shift="inside"
    )
    contract = checked(
        Contract(target=DeclaredTarget(kind="loop", returns="losses"), objective=objective, training=training)
    )
    target = LoopTarget(_engine, contract)
    samples, target.vocab = make_samples([(1, 7)] * 16)
    target.samples, target.held_out = samples[:12], samples[12:]
    return [audit_runs(target, "distillaw.train.loop.Trainer")]


def _engine(student: Any, teacher: Any, samples: list[dict[str, Any]], accumulation: int, lr: float, updates: int):
    """A run of the engine on windows of eight tokens."""
    from distillaw.distill.heads import Head
    from distillaw.runs.spec import Recipe, TrunkSpec
    from distillaw.train.checkpoint import TrainState
    from distillaw.train.loop import Trainer
    from distillaw.train.optim import build_optimizer
    from distillaw.train.student import Signal, Student

    context, rows = len(samples[0]["input_ids"]) - 1, 2
    recipe = Recipe(
        context=context,
        clip_norm=1e9,
        z_weight=0.0,
        distill_weight=0.5,
        temperature=2.0,
        weight_decay=0.0,
        micro_batch_tokens=rows * context,
    )
    vocab = student.lm_head.weight.shape[0]
    spec = TrunkSpec(
        role="student",
        purpose="grid",
        label="probe",
        layers=1,
        width=vocab,
        ffn=vocab,
        heads=1,
        params=1,
        total_params=1,
        vocab_size=vocab,
        seed=0,
        split="train",
        peak_lr=lr,
        batch_tokens=rows * accumulation * context,
        recipe=recipe,
        data_hash="",
    )
    model = _AsModel(student)
    optimizer = build_optimizer(model, width=None, weight_decay=0.0)  # type: ignore[arg-type]
    trainer = Trainer(spec=spec, student=Student(model, recipe), state=TrainState(model, optimizer))  # type: ignore[arg-type]
    teacher.eval()
    head = Head(teacher.lm_head.weight.detach(), teacher.lm_head.bias.detach())
    losses = []
    for step in range(updates):
        trainer.begin(accumulation)
        for micro in range(accumulation):
            first = (step * accumulation + micro) * rows
            tokens = torch.tensor([s["input_ids"] for s in samples[first : first + rows]])
            with torch.no_grad():
                hidden = teacher(tokens[:, :-1]).last_hidden_state
            signal = Signal(teacher_hidden=hidden, teacher_head=head)
            trainer.accumulate(tokens, signal, last=micro == accumulation - 1)
        losses.append(trainer.update(lr * (1 - step / updates)).loss)
    return losses


class _AsModel(torch.nn.Module):
    """A probe under the few names by which the engine knows a model."""

    def __init__(self, probe: torch.nn.Module) -> None:
        super().__init__()
        self.base_model, self.config = probe, _Config()

    def get_input_embeddings(self) -> Any:
        return self.base_model.model

    def get_output_embeddings(self) -> Any:
        return self.base_model.lm_head


class _Config:
    def __init__(self) -> None:
        self.model_type = "probe"

    def get_text_config(self) -> "_Config":
        return self


def imported(module: str, name: str, adapter: str) -> Any:
    """Something of a peer.

    Raises:
        ConfigError: the peer is not installed.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"audit {adapter}: {module}.{name} cannot be imported ({error}); install it first") from None


def trl_gkd() -> list[Findings]:
    """TRL's GKD loss, at its two ends and between."""
    return _jsd_ends(imported("trl.experimental.gkd.gkd_trainer", "GKDTrainer", "trl-gkd"))


def trl_gold() -> list[Findings]:
    """TRL's GOLD trainer has a loss of its own for teachers of the same tokenizer; likewise."""
    return _jsd_ends(imported("trl.experimental.gold.gold_trainer", "GOLDTrainer", "trl-gold"))


def _jsd_ends(trainer: Any) -> list[Findings]:
    return [
        loss_findings(
            trainer.generalized_jsd_loss,
            plain_objective(divergence="jsd", beta=beta, reduction="given"),
            {"beta": "beta"},
            dtype="bfloat16",
        )
        for beta in (0.2, 0.0, 1.0)
    ]


def trl_gkd_trainer() -> list[Findings]:
    """TRL's GKD trainer on answers of the data set (lmbda 0)."""
    from distillaw.audit.loops import audit_runs
    from distillaw.audit.trainers import TrainerTarget

    trainer = imported("trl.experimental.gkd.gkd_trainer", "GKDTrainer", "trl-gkd-trainer")
    options = {"args": "trl.experimental.gkd:GKDConfig", "args.lmbda": 0.0, "args.beta": 0.2}
    contract = checked(
        Contract(
            target=DeclaredTarget(kind="trainer", options=options),
            objective=plain_objective(divergence="jsd", beta=0.2, shift="inside"),
            training=Training(accumulation=4, per="update", schedule="linear", ranks="data"),
        )
    )
    return [audit_runs(TrainerTarget(trainer, contract), "trl.experimental.gkd.GKDTrainer")]


def trl_distillation() -> list[Findings]:
    """The fused loss of TRL's DistillationTrainer."""
    fused = imported("trl.trainer.distillation_trainer", "_chunked_divergence_loss", "trl-distillation")

    def loss(student_hidden, student_head, teacher_hidden, teacher_head, mask, num_tokens, beta, temperature):
        return fused(
            student_hidden,
            teacher_hidden,
            student_head,
            teacher_head,
            mask,
            beta,
            num_items_in_batch=num_tokens,
            temperature=temperature,
        )[0]

    names = ("student_hidden", "student_head", "teacher_hidden", "teacher_head", "mask", "num_tokens", "beta")
    arguments = {name: name for name in (*names, "temperature")}
    return [
        loss_findings(
            loss,
            plain_objective(divergence="jsd", beta=beta, reduction="given", temperature=2.0),
            arguments,
            dtype="bfloat16",
        )
        for beta in (0.2, 0.0, 1.0)
    ]


def liger_jsd() -> list[Findings]:
    """Liger's chunked JSD, uncompiled."""
    loss = imported("liger_kernel.chunked_loss", "LigerFusedLinearJSDLoss", "liger-jsd")

    def fused(
        student_hidden,
        student_head,
        teacher_hidden,
        teacher_head,
        labels,
        beta,
        temperature,
        chunk,
        ignore_index,
        hard_weight,
        distill_weight,
    ):
        module = loss(
            weight_hard_loss=hard_weight,
            weight_soft_loss=distill_weight,
            beta=beta,
            temperature=temperature,
            chunk_size=chunk,
            ignore_index=ignore_index,
            compiled=False,
        )
        return module(student_hidden, student_head, teacher_hidden, teacher_head, labels)

    names = (
        "student_hidden",
        "student_head",
        "teacher_hidden",
        "teacher_head",
        "labels",
        "beta",
        "temperature",
        "chunk",
    )
    arguments = {name: name for name in (*names, "ignore_index", "hard_weight", "distill_weight")}
    objective = {"divergence": "jsd", "temperature": 2.0, "distill_weight": 0.5, "hard_weight": 0.5}
    return [
        loss_findings(fused, plain_objective(**objective, beta=beta), arguments, layout="nv", dtype="bfloat16")
        for beta in (0.2, 0.0, 1.0)
    ]


def torchtune_kl() -> list[Findings]:
    """torchtune's forward, reverse and symmetric KL."""
    spec = importlib.util.find_spec("torchtune")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("audit torchtune-kl: torchtune is not installed")
    # the file alone: the package asks for torchao, which the losses do not
    path = f"{spec.submodule_search_locations[0]}/modules/loss/kd_losses.py"
    found = []
    for name, fields in (
        ("ForwardKLLoss", {"reported": "cross-entropy"}),
        ("ReverseKLLoss", {"divergence": "reverse-kl"}),
        ("SymmetricKLLoss", {"divergence": "symmetric-kl", "beta": 0.5, "reported": "other"}),
    ):
        loss = load(f"{path}:{name}")()

        def call(student_logits, teacher_logits, labels, loss=loss):
            return loss(student_logits, teacher_logits, labels)

        call.__qualname__ = name
        found.append(
            loss_findings(call, plain_objective(**fields), {}, layout="nv", options={"loss": loss}, dtype="bfloat16")
        )
    return found


def axolotl_kd() -> list[Findings]:
    """axolotl's fused loss on top-k rows."""
    from distillaw.audit.axolotl import kd_loss

    return kd_loss()


def axolotl_kd_trainer(way: str) -> list[Findings]:
    """axolotl's trainer on rows that come one way."""
    from distillaw.audit.axolotl import kd_trainer

    return kd_trainer(way)


ADAPTERS: dict[str, Callable[[], list[Findings]]] = {
    "own": own_loss,
    "own-engine": own_engine,
    "trl-gkd": trl_gkd,
    "trl-gkd-trainer": trl_gkd_trainer,
    "trl-gold": trl_gold,
    "trl-distillation": trl_distillation,
    "liger-jsd": liger_jsd,
    "torchtune-kl": torchtune_kl,
    "axolotl-kd": axolotl_kd,
    "axolotl-kd-offline": functools.partial(axolotl_kd_trainer, "offline"),
    "axolotl-kd-vllm": functools.partial(axolotl_kd_trainer, "vllm"),
    "axolotl-kd-sglang": functools.partial(axolotl_kd_trainer, "sglang"),
}
"""Name -> audits, one for each setting."""


def merged(name: str, audits: list[Findings]) -> Findings:
    """Several audits of one target as one: the gravest verdict of each property, every sentence once."""
    whole = Findings(name, audits[0].kind)
    for found in audits:
        for property, by_verdict in found.found.items():
            for verdict, kept in by_verdict.items():
                for evidence in kept:
                    whole.add(property, verdict, evidence.says, evidence.case, evidence.example)
    whole.notes.append(f"{len(audits)} settings of {audits[0].target}")
    return whole
