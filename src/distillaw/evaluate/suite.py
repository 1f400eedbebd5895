"""Everything that is measured of a finished model, part by part, in one folder.

    evaluate_model("out/student", out=Path("out/eval"), tasks=["suite"], data=Path("evals"))

    OUT/evaluation.json             the summary that other stages read
    OUT/parts/NAME-IDENTITY.json    one per part; its identity hashes model, settings and data
    OUT/samples/NAME-IDENTITY.jsonl.gz   exact prompts and raw answers of a benchmark
    OUT/answers/...                 answers so far of a part in work

A part that is there is not measured again; a kill loses at most the requests in work.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distillaw.errors import ConfigError
from distillaw.evaluate.benchmarks import TaskRows, TaskSpec, choose_tasks, known_tasks, mean_of_suite, read_tasks
from distillaw.evaluate.calibration import CONTEXT, score_text
from distillaw.evaluate.chat import answer_files, check_chat, identity_of, judge_chat
from distillaw.evaluate.harness import run_benchmark
from distillaw.evaluate.wishes import ChatWishes, TextWishes, Way
from distillaw.models.parallel import ALONE, Ranks
from distillaw.models.source import ModelSource, check_config, fingerprint, locate, settle_context
from distillaw.models.teacher import ModelTeacher, load_teacher
from distillaw.runs.files import content_hash, read_json, write_json, write_text
from distillaw.runs.places import GENERATOR, remove_file
from distillaw.runs.process import installed
from distillaw.runs.store import RECORD, put_into_study

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1
"""Of the stored parts; in their identity."""
CHAT = "chat"
"""Folder of answers and verdicts."""

Say = Callable[[str], None]


def evaluate_model(
    model: str | Path | ModelSource,
    *,
    out: Path,
    text: TextWishes | None = None,
    teacher: str | Path | None = None,
    tasks: Sequence[str] = (),
    data: Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
    way: Way | None = None,
    chat: ChatWishes | None = None,
    task_folder: Path | None = None,
    skip_missing: bool = False,
    ranks: Ranks = ALONE,
    dtype: torch.dtype | None = None,
    command: str = "",
    say: Say = lambda message: None,
) -> dict[str, object]:
    """Measure a model; what was measured before is read.

    Args:
        model: a Hugging Face folder, FOLDER/FILE.gguf, a name on the hub, or the folder of a study's run, which then
            gets evaluation.json and columns in its study's run table.
        out: folder of the results of this one model.
        teacher: model of the same vocabulary against which calibration is measured too.
        tasks: benchmarks and sets of them: mmlu, suite, zero-shot (benchmarks.py).
        data: folder of the evaluation data.
        limit: questions of each benchmark at most, the same for every model.
        shots: examples before each question, instead of each benchmark's own number.
        task_folder: further benchmarks, docs/evaluate.md.
        skip_missing: leave out benchmarks of a set whose files are not there, and say so, instead of refusing.
        ranks: processes that share windows and questions; all call this. Sharded models are scored on text alone.
        dtype: of weights; None: float32 on CPUs, bfloat16 elsewhere.

    Raises:
        CacheError: no model there, or a stored part is damaged.
        ConfigError: nothing to measure, an unknown task, a folder that holds another model's results.
        DataError: text or evaluation data missing or not of the expected format.
        RunError: the disk is full, another process works in `out`, or the judge cannot be reached.
        VocabularyError: the teacher has another vocabulary.
    """
    source = locate(model)
    if text is None and chat is None and not tasks:
        raise ConfigError("nothing to measure: give a text (--text), benchmarks (--tasks) or chat questions")
    if teacher is not None and text is None:
        raise ConfigError("calibration against a teacher is measured on text: give --text")
    check_config(source, context=None)
    chosen = choose_tasks(tasks, known_tasks(task_folder)) if tasks else []
    if chat is not None:
        check_chat(chat)
    rows, absent = read_tasks(chosen, data, limit=limit, shots=shots, skip_missing=skip_missing)
    if ranks.shards and (chosen or chat is not None):
        raise ConfigError("--sharding fsdp: questions are answered by whole models; only --text goes with it")
    session = _Session(source=source, out=out, ranks=ranks, dtype=dtype, say=say)
    with ranks.held(out, str(out), say):
        record = ranks.told(lambda: _begin(session, command))
        for task in absent:
            say(f"{task}: left out, its files are not there")
        if text is not None:
            record |= _text(session, text, None if teacher is None else locate(teacher))
            _save(session, record)
        for spec in chosen:
            if spec.task in rows:
                record["scores"][spec.task] = _benchmark(session, spec, rows[spec.task], way or Way(), limit)
                _save(session, record)
        if chat is not None:
            judged = ranks.told(lambda: _chat(session, chat))
            record["chat"] = record.get("chat", {}) | {chat.name: judged}
        _save(session, record)
        ranks.first(lambda: put_into_study(source.folder, out / RECORD))
    return record


@dataclass(frozen=True, kw_only=True)
class _Session:
    source: ModelSource
    out: Path
    ranks: Ranks
    dtype: torch.dtype | None
    say: Say

    @property
    def device(self) -> str:
        return str(self.ranks.device)

    @cached_property
    def model(self) -> "tuple[ModelTeacher, PreTrainedTokenizerBase]":
        tokenizer = self.source.tokenizer()
        return load_teacher(self.source, tokenizer, dtype=self.dtype, ranks=self.ranks), tokenizer

    @cached_property
    def fingerprint(self) -> str:
        return self.ranks.told(lambda: fingerprint(self.source))

    def measured(self, file: Path, label: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a part says, measured by all ranks if no earlier call did."""
        if (found := self.ranks.told(lambda: read_json(file) if file.exists() else None)) is not None:
            self.say(f"{label}: measured before")
            return found
        found = measure()
        self.ranks.first(lambda: write_json(file, found))
        return found

    def part(self, name: str, identity: Mapping[str, object]) -> tuple[Path, str]:
        """(file of a part, its name with the identity)."""
        where = {"model": self.fingerprint, "device": self.device.partition(":")[0], "format": FORMAT}
        if self.dtype is not None:
            where["dtype"] = str(self.dtype)
        label = f"{name}-{content_hash(where | dict(identity))}"
        return self.out / "parts" / f"{label}.json", label


def _begin(session: _Session, command: str) -> dict:
    """The record of this model so far."""
    mine = fingerprint(session.source)
    file = session.out / RECORD
    before = read_json(file) if file.exists() else {"model_fingerprint": mine}
    if before["model_fingerprint"] != mine:
        raise ConfigError(
            f"{session.out} holds the evaluation of another model ({before['model']}); choose another --out, "
            "or delete it"
        )
    return {
        "scores": {},
        **before,
        "generator": GENERATOR,
        "model": session.source.name,
        "model_fingerprint": mine,
        "command": command,
        "device": session.device,
        "versions": installed("distillaw", "torch", "transformers", "lm_eval"),
    }


def _save(session: _Session, record: dict) -> None:
    record["mean_of_six"] = mean_of_suite(record["scores"])
    session.ranks.first(lambda: write_json(session.out / RECORD, record))


def _text(session: _Session, wishes: TextWishes, teacher: ModelSource | None) -> dict[str, object]:
    """Held-out loss and calibration."""
    models = [session.source, *([] if teacher is None else [teacher])]
    for source in models:
        check_config(source, context=None)
    context, excerpt = settle_context(models, wishes.context, CONTEXT), wishes.excerpt()
    identity = {
        "text": excerpt.text_hash,
        "context": context,
        "bins": wishes.bins,
        "teacher": None if teacher is None else fingerprint(teacher),
    }
    file, label = session.part("heldout", identity)
    how = {"context": context, "bins": wishes.bins, "ranks": session.ranks, "dtype": session.dtype, "say": session.say}
    scored = partial(score_text, teacher=teacher, excerpt=excerpt, **how)
    found = session.measured(file, label, lambda: {"identity": identity} | scored(*session.model))
    about = {"text": str(wishes.text), "text_hash": excerpt.text_hash, "part": label}
    heldout, calibration = found["heldout"], found["calibration"]
    calibration = {key: value for key, value in calibration.items() if key != "diagrams"}
    return {"heldout": heldout | about, "calibration": calibration | {"teacher": teacher.name if teacher else None}}


def _benchmark(session: _Session, spec: TaskSpec, rows: TaskRows, way: Way, limit: int | None) -> dict[str, object]:
    # how many programs are drawn changes nothing where none are
    drawn = {"samples": way.samples, "temperature": way.temperature} if spec.executed and way.samples > 1 else {}
    put = {"chat": way.chat, **drawn}
    identity = {"task": asdict(spec), "data": rows.data_hash, "shots": rows.num_shots, "way": put}
    file, label = session.part(spec.task, identity)
    memory = session.out / "answers" / f"{label}.jsonl"
    samples = session.out / "samples" / f"{label}.jsonl.gz"

    def measure() -> dict[str, Any]:
        model, tokenizer = session.model
        files = {"memory": memory, "samples": samples}
        score = run_benchmark(model.model, tokenizer, spec, rows, way, **files, say=session.say, ranks=session.ranks)
        scored: dict[str, Any] = asdict(score)
        return scored | {"samples": str(samples.relative_to(session.out)), "data": rows.data_hash}

    found = session.measured(file, label, measure)
    if memory.exists():
        session.ranks.first(lambda: remove_file(memory))
    return found | {"limit": limit, "chat": way.chat, "part": label}


def hand_on(model: str | Path | ModelSource, before: Path, out: Path) -> None:
    """Let an evaluation in `out` know what a model answered to chat questions in an earlier one, of another model."""
    for file in answer_files(before / CHAT, locate(model)):
        target = out / CHAT / file.name
        write_text(target, file.read_text(encoding="utf-8"))


def _chat(session: _Session, wishes: ChatWishes) -> dict[str, object]:
    """Judged chat; a judge behind a URL may change unseen, so verdicts are kept but never presumed."""
    found = judge_chat(session.source, wishes, out=session.out / CHAT, device=session.device, say=session.say)
    identity = identity_of(wishes) | {"judge": found["judge"], "against": wishes.against}
    if wishes.second_judge is not None:
        identity["second"] = [wishes.second_judge, wishes.second_judge_model]
    file, label = session.part("chat", identity)
    write_json(file, found)
    return found | {"limit": wishes.limit, "part": label}
