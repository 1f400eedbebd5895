"""One way to train the student of benchmarks/engine/peers.py, in a process of its own: prints its figures as JSON.

    python -m benchmarks.engine.peers_variants VARIANT FOLDER

FOLDER (made by peers.py) holds `student/`, `teacher/`, `batches.npy` (steps, 8, 257) and, for us, the stream
and the stores that the batches were taken from. Every variant trains with AdamW at a constant 1e-4, no decay, gradients
clipped to norm 1, float32, one thread, on 256 positions per sequence. Peers are imported, nothing of them stands here;
distillaw is imported by our own variants only. The first step warms up.
Shape suffixes: B sequence, T position, N token, V vocabulary, H width.
"""

import gc
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from torch.nn import functional

RATE, CHUNK = 1e-4, 256
Model = transformers.PreTrainedModel


class Meter:
    """CPU seconds and loss of every step, and the peak of resident memory above the start."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def start(self) -> None:
        """Models are loaded and libraries imported: count from here."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        self._before = resident("VmRSS")
        self._began = time.process_time()

    def lap(self, loss: float) -> None:
        """A step is done."""
        self.seconds.append(time.process_time() - self._began)
        self.losses.append(loss)
        self._began = time.process_time()

    def figures(self) -> dict[str, object]:
        """What was measured."""
        peak = resident("VmHWM")
        return {
            "seconds": self.seconds,
            "losses": self.losses,
            "megabytes_added": (peak - self._before) / 1024,
            "megabytes_peak": peak / 1024,
        }


def resident(field: str) -> int:
    """KiB of resident memory: now (VmRSS) or at its peak (VmHWM)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def load(folder: Path) -> Model:
    """A model whose weights lie in memory of its own and whose libraries are warm."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    model(input_ids=torch.zeros(1, 8, dtype=torch.long), use_cache=False)
    return model


def teacher_of(folder: Path) -> Model:
    return load(folder / "teacher").eval().requires_grad_(False)


def batches(folder: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and next tokens, (8, 256) each."""
    for tokens_BT in torch.from_numpy(np.load(folder / "batches.npy")):
        yield tokens_BT[:, :-1], tokens_BT[:, 1:]


def hidden(model: Model, inputs_BT: torch.Tensor) -> torch.Tensor:
    """Last hidden states, (N, H)."""
    return model.base_model(input_ids=inputs_BT, use_cache=False).last_hidden_state.flatten(0, 1)


Step = Callable[[torch.Tensor, torch.Tensor], float]
"""(inputs, next tokens) -> loss, gradients accumulated."""


def plain_loop(folder: Path, meter: Meter, student: torch.nn.Module, step: Step) -> None:
    """Backward, clip, AdamW; as everybody writes it."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    meter.start()
    for inputs_BT, labels_BT in batches(folder):
        loss = step(inputs_BT, labels_BT)
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        meter.lap(loss)


def backward(loss: torch.Tensor) -> float:
    loss.backward()
    return loss.item()


def naive(folder: Path, meter: Meter) -> None:
    """F.kl_div on whole logits."""
    student, teacher = load(folder / "student"), teacher_of(folder)

    def step(inputs_BT: torch.Tensor, labels_BT: torch.Tensor) -> float:
        logits_NV = student(input_ids=inputs_BT, use_cache=False).logits.flatten(0, 1)
        with torch.no_grad():
            target_NV = teacher(input_ids=inputs_BT, use_cache=False).logits.flatten(0, 1)
        return backward(
            functional.kl_div(
                functional.log_softmax(logits_NV, -1),
                functional.log_softmax(target_NV, -1),
                log_target=True,
                reduction="batchmean",
            )
        )

    plain_loop(folder, meter, student, step)


def fused(folder: Path, meter: Meter) -> None:
    """Chunks of 256 tokens whose gradient q - p is written down at once: the best plain loop."""
    student, teacher = load(folder / "student"), teacher_of(folder)
    weight_VH, teacher_weight_VH = student.lm_head.weight, teacher.lm_head.weight

    def step(inputs_BT: torch.Tensor, labels_BT: torch.Tensor) -> float:
        hidden_NH = hidden(student, inputs_BT)
        with torch.no_grad():
            total, parts = 0.0, []
            weight_VH.grad = torch.zeros_like(weight_VH)
            chunks = zip(hidden_NH.detach().split(CHUNK), hidden(teacher, inputs_BT).split(CHUNK), strict=True)
            for h_NH, t_NH in chunks:
                log_q_NV = functional.log_softmax(h_NH @ weight_VH.T, -1)
                log_p_NV = functional.log_softmax(t_NH @ teacher_weight_VH.T, -1)
                total += functional.kl_div(log_q_NV, log_p_NV, log_target=True, reduction="sum").item()
                gradient_NV = (log_q_NV.exp_() - log_p_NV.exp_()) / len(hidden_NH)
                parts.append(gradient_NV @ weight_VH)
                weight_VH.grad += gradient_NV.T @ h_NH
        hidden_NH.backward(torch.cat(parts))
        return total / len(hidden_NH)

    plain_loop(folder, meter, student, step)


def chunked(folder: Path, meter: Meter, loss_of: Callable[..., torch.Tensor]) -> None:
    """A peer's loss from hidden states and heads in the plain loop."""
    student, teacher = load(folder / "student"), teacher_of(folder)

    def step(inputs_BT: torch.Tensor, labels_BT: torch.Tensor) -> float:
        with torch.no_grad():
            target_NH = hidden(teacher, inputs_BT)
        return backward(
            loss_of(
                hidden(student, inputs_BT),
                student.lm_head.weight,
                target_NH,
                teacher.lm_head.weight,
                labels_BT.flatten(),
            )
        )

    plain_loop(folder, meter, student, step)


def liger(folder: Path, meter: Meter) -> None:
    """Liger's chunked JSD at beta 0, which is the forward KL."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False, chunk_size=CHUNK
    )
    chunked(folder, meter, loss)


def trl_chunked(folder: Path, meter: Meter) -> None:
    """The tiled divergence of TRL's DistillationTrainer, on the CPU."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    def loss_of(hidden_NH, weight_VH, target_NH, teacher_weight_VH, labels_N):
        mask_1N = torch.ones(1, len(labels_N))
        return _chunked_divergence_loss(
            hidden_NH[None], target_NH[None], weight_VH, teacher_weight_VH, mask_1N, beta=0.0
        )[0]

    chunked(folder, meter, loss_of)


def torchtune(folder: Path, meter: Meter) -> None:
    """The decoder of torchtune and its forward KL over 8 chunks, put together as in its recipe."""
    from torchtune.modules.loss import ForwardKLWithChunkedOutputLoss

    loss = ForwardKLWithChunkedOutputLoss(num_output_chunks=8)
    student, teacher = _torchtune_model(folder / "student"), _torchtune_model(folder / "teacher")
    teacher.eval().requires_grad_(False)

    def step(inputs_BT: torch.Tensor, labels_BT: torch.Tensor) -> float:
        chunks = student(inputs_BT)
        with torch.no_grad():
            targets = teacher(inputs_BT)
        return backward(loss(chunks, targets, labels_BT))

    plain_loop(folder, meter, student, step)
    entropy = _teacher_entropy(folder)  # its loss is the cross-entropy; the others' the divergence
    meter.losses = [value - own for value, own in zip(meter.losses, entropy, strict=True)]


def _torchtune_model(folder: Path) -> torch.nn.Module:
    from torchtune.models.convert_weights import hf_to_tune
    from torchtune.models.llama2 import llama2

    source = load(folder)
    config = source.config
    model = llama2(
        vocab_size=config.vocab_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        embed_dim=config.hidden_size,
        norm_eps=config.rms_norm_eps,
        max_seq_len=config.max_position_embeddings,
        intermediate_dim=config.intermediate_size,
    )
    weights = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    model.load_state_dict(
        hf_to_tune(weights, config.num_attention_heads, config.num_key_value_heads, config.hidden_size)
    )
    model.set_num_output_chunks(8)
    return model


@torch.no_grad()
def _teacher_entropy(folder: Path) -> list[float]:
    teacher, means = teacher_of(folder), []
    for inputs_BT, _ in batches(folder):
        rows = hidden(teacher, inputs_BT).split(CHUNK)
        logs = (functional.log_softmax(row_NH @ teacher.lm_head.weight.T, -1) for row_NH in rows)
        means.append(-sum((log_NV.exp() * log_NV).sum().item() for log_NV in logs) / inputs_BT.numel())
    return means


def trl_gkd(folder: Path, meter: Meter) -> None:
    """TRL's GKDTrainer without its own samples (lmbda 0), forward KL (beta 0)."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    class Measured(GKDTrainer):
        def compute_loss(self, *arguments, **options):
            loss = super().compute_loss(*arguments, **options)
            self.last = loss.detach()
            return loss

    class Laps(transformers.TrainerCallback):
        def on_train_begin(self, *arguments, **options):
            meter.start()

        def on_step_end(self, *arguments, **options):
            meter.lap(trainer.last.item())

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        tokens_BT = torch.tensor([row["input_ids"] for row in rows])
        labels_BT = tokens_BT.clone()
        labels_BT[:, 0] = -100  # predicted by nothing; counted if left in
        return {"input_ids": tokens_BT, "attention_mask": torch.ones_like(tokens_BT), "labels": labels_BT}

    tokens_SBT = np.load(folder / "batches.npy")
    steps, size, length = tokens_SBT.shape
    config = GKDConfig(
        output_dir=str(folder / "trl"),
        lmbda=0.0,
        beta=0.0,
        bf16=False,
        gradient_checkpointing=False,
        max_steps=steps,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=1,
        learning_rate=RATE,
        weight_decay=0.0,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        train_sampling_strategy="sequential",
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<pad>",
    )
    trainer = Measured(
        model=load(folder / "student"),
        teacher_model=teacher_of(folder),
        args=config,
        data_collator=collate,
        train_dataset=Dataset.from_dict({"input_ids": tokens_SBT.reshape(-1, length).tolist()}),
        processing_class=tokenizer,
        callbacks=[Laps()],
    )
    trainer.train()


def next_token(folder: Path, meter: Meter) -> None:
    """Plain pretraining: F.cross_entropy on whole logits."""
    student = load(folder / "student")

    def step(inputs_BT: torch.Tensor, labels_BT: torch.Tensor) -> float:
        logits_NV = student(input_ids=inputs_BT, use_cache=False).logits.flatten(0, 1)
        return backward(functional.cross_entropy(logits_NV, labels_BT.flatten()))

    plain_loop(folder, meter, student, step)


def ours(folder: Path, meter: Meter, teaching: str) -> None:
    """The engine itself: `Feed` reads stream and teacher, `Trainer` steps. teaching: online, none, or a store."""
    import peers_task as task

    from distillaw.models.parallel import keep_freed_memory
    from distillaw.train.student import NoTeacher, OnlineTeacher, TargetsOnDisk

    keep_freed_memory()  # as `distillaw train` and the workers of a study do
    if teaching == "online":
        source = OnlineTeacher(task.as_teacher(teacher_of(folder)))
    elif teaching == "none":
        source = NoTeacher()
    else:
        source = TargetsOnDisk(task.open_store(folder, teaching), torch.device("cpu"))
    feed, trainer = task.engine(folder, load(folder / "student"), rate=RATE)
    meter.start()
    for step in range(len(np.load(folder / "batches.npy"))):
        for tokens, windows, last in feed.batches(step):
            trainer.accumulate(tokens, source.signal(tokens, windows), last=last)
        meter.lap(trainer.update(RATE).loss)


VARIANTS: dict[str, Callable[[Path, Meter], None]] = {
    "TRL GKDTrainer": trl_gkd,
    "TRL chunked divergence": trl_chunked,
    "torchtune chunked": torchtune,
    "Liger chunked JSD": liger,
    "plain, whole logits": naive,
    "plain, fused chunks": fused,
    "ours, online teacher": lambda folder, meter: ours(folder, meter, "online"),
    "plain, next token": next_token,
    "ours, next token": lambda folder, meter: ours(folder, meter, "none"),
    "ours, stored samples": lambda folder, meter: ours(folder, meter, "sampled"),
    "ours, stored top-64": lambda folder, meter: ours(folder, meter, "top-k"),
}
PACKAGES = {"TRL": ("trl", "accelerate"), "torchtune": ("torchtune", "torchao"), "Liger": ("liger-kernel",)}


def main() -> None:
    """Run one variant."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    meter = Meter()
    VARIANTS[name](folder, meter)
    packages = ("torch", "transformers", *PACKAGES.get(name.split()[0], ()))
    print(json.dumps({**meter.figures(), "versions": {package: version(package) for package in packages}}))


if __name__ == "__main__":
    main()
