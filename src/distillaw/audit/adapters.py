"""Targets by name: our own loss and engine, and peers, each with a contract by its documentation.

`distillaw audit own` needs no contract file. Where a peer's documentation leaves a choice open (which reduction,
whether T^2), the contract here says what its present release does, so that a change of it shows. What was found
stands in docs/audit.md.
"""

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from distillaw.audit.contract import Contract, DeclaredLoss, DeclaredTarget, Training, checked, load
from distillaw.audit.findings import Findings
from distillaw.audit.losses import HIDDEN, audit_loss
from distillaw.audit.probes import make_samples
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


def own_names(*roles: str) -> dict[str, str]:
    """Arguments that are called what they are."""
    return dict(zip(roles, roles, strict=True))


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

    def loss(student_hidden, student_head, teacher_hidden, teacher_head, labels, **options):
        teacher = {"teacher_hidden": teacher_hidden, "teacher_head": teacher_head}
        return distillation_loss(student_hidden, student_head, labels, **teacher, **options)

    arguments = own_names(*HIDDEN, "labels", "temperature", "beta", "skew", "top_k", "distill_weight", "ignore_index")
    arguments |= {"chunk": "chunk_tokens", "num_tokens": "num_tokens", "vocab_size": "vocab_size"}
    shared = {"temperature": 2.0, "temperature_squared": True, "distill_weight": 0.5, "hard_weight": 0.5}
    shared |= {"weights_add_up": True, "vocabulary": "cut-both", "reduction": "given", "beta": 0.5, "skew": 0.1}
    found = []
    for fields in (
        {},
        {"divergence": "reverse-kl"},
        {"divergence": "jsd", "beta": 0.2},
        {"divergence": "skew-kl", "skew": 0.1},
        {"divergence": "skew-reverse-kl", "skew": 0.1},
        {"top_k": 4, "top_k_rule": "renormalised"},
    ):
        options = {"divergence": fields.get("divergence", "forward-kl")}
        objective = plain_objective(**(shared | fields))
        found.append(loss_findings(loss, objective, arguments, options=options, dtype="bfloat16"))
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

    def __init__(self, probe: Any) -> None:
        super().__init__()
        self.base_model, self.config = probe, SimpleNamespace(model_type="probe")
        self.config.get_text_config = lambda: self.config
        self.get_input_embeddings, self.get_output_embeddings = (lambda: probe.model), (lambda: probe.lm_head)


def imported(module: str, name: str, adapter: str) -> Any:
    """Something of a peer; ConfigError: the peer is not installed."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"audit {adapter}: {module}.{name} cannot be imported ({error}); install it first") from None


def _at_three_betas(
    loss: Callable[..., Any], arguments: dict[str, str], fields: dict[str, Any], **target: Any
) -> list[Findings]:
    """A generalised JSD between its ends and at both."""
    objectives = [plain_objective(divergence="jsd", beta=beta, **fields) for beta in (0.2, 0.0, 1.0)]
    return [loss_findings(loss, objective, arguments, dtype="bfloat16", **target) for objective in objectives]


def trl_jsd(kind: str) -> list[Findings]:
    """TRL's GKD loss, and the one that its GOLD trainer has of its own for teachers of the same tokenizer."""
    trainer = imported(f"trl.experimental.{kind}.{kind}_trainer", f"{kind.upper()}Trainer", f"trl-{kind}")
    return _at_three_betas(trainer.generalized_jsd_loss, {"beta": "beta"}, {"reduction": "given"})


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
        rows = (student_hidden, teacher_hidden, student_head, teacher_head, mask, beta)
        return fused(*rows, num_items_in_batch=num_tokens, temperature=temperature)[0]

    arguments = own_names(*HIDDEN, "mask", "num_tokens", "beta", "temperature")
    return _at_three_betas(loss, arguments, {"reduction": "given", "temperature": 2.0})


def liger_jsd() -> list[Findings]:
    """Liger's chunked JSD, uncompiled."""
    kernel = imported("liger_kernel.chunked_loss", "LigerFusedLinearJSDLoss", "liger-jsd")

    def fused(
        student_hidden,
        student_head,
        teacher_hidden,
        teacher_head,
        labels,
        hard_weight,
        distill_weight,
        chunk,
        **options,
    ):
        weights = {"weight_hard_loss": hard_weight, "weight_soft_loss": distill_weight}
        module = kernel(**weights, chunk_size=chunk, compiled=False, **options)
        return module(student_hidden, student_head, teacher_hidden, teacher_head, labels)

    options = ("beta", "temperature", "ignore_index", "hard_weight", "distill_weight")
    fields = {"temperature": 2.0, "distill_weight": 0.5, "hard_weight": 0.5}
    return _at_three_betas(fused, own_names(*HIDDEN, "labels", "chunk", *options), fields, layout="nv")


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


def _axolotl(name: str, *way: str) -> list[Findings]:
    """An audit of axolotl.py, which imports transformers."""
    return getattr(importlib.import_module("distillaw.audit.axolotl"), name)(*way)


ADAPTERS: dict[str, Callable[[], list[Findings]]] = {
    "own": own_loss,
    "own-engine": own_engine,
    "trl-gkd": partial(trl_jsd, "gkd"),
    "trl-gkd-trainer": trl_gkd_trainer,
    "trl-gold": partial(trl_jsd, "gold"),
    "trl-distillation": trl_distillation,
    "liger-jsd": liger_jsd,
    "torchtune-kl": torchtune_kl,
    "axolotl-kd": partial(_axolotl, "kd_loss"),
    "axolotl-kd-offline": partial(_axolotl, "kd_trainer", "offline"),
    "axolotl-kd-vllm": partial(_axolotl, "kd_trainer", "vllm"),
    "axolotl-kd-sglang": partial(_axolotl, "kd_trainer", "sglang"),
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
