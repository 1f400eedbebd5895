"""`distillaw recipe minima`: law, prune, distil, instruct, evaluate, report, each stage found again if it was done.

    OUT/recipe.json    what was asked, what each stage came to and how long it took
    OUT/text           calibration and held-out documents
    OUT/cut            the student cut out of its teacher (cut-1, ... of a cascade)
    OUT/distil         its arms, a study folder
    OUT/instruct       the teacher's answers, the chat model's run, samples.json: what both say to three questions
    OUT/evaluate/NAME  teacher, cut, base and chat model on the same text and questions
    OUT/report.html

Every stage is an ordinary call of the library that can be resumed on its own, so the recipe remembers nothing but what
they wrote: a killed recipe goes on where it was. The samples are raw generations, kept beside the scores for reading:
a score can be wrong where its answers were never read (MiniChat-3B's AlpacaEval was published as 76.94 and later
corrected to 48.82).
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillaw.data.corpus import check_apart
from distillaw.data.prepare import DataSpec, prepare_data, require_tokens
from distillaw.data.shards import TokenStore
from distillaw.data.tokenizer import load_tokenizer
from distillaw.errors import ConfigError, DataError
from distillaw.evaluate.calibration import TextWishes
from distillaw.evaluate.suite import evaluate_model
from distillaw.instruct.generate import generate_answers
from distillaw.instruct.spec import DpoSpec, SftSpec
from distillaw.instruct.stages import run_dpo, run_sft
from distillaw.models.prune import Wishes, prune_to
from distillaw.models.source import locate
from distillaw.recipe.spec import STAGES, MinimaSpec, consult_laws, foresee
from distillaw.runs.files import content_hash, read_json, read_json_lines, write_json, write_text
from distillaw.runs.lock import held
from distillaw.runs.places import check_folder, claim_folder
from distillaw.sweep.arms import ArmsSpec, train_arms
from distillaw.sweep.scheduler import Display

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


CALIBRATION_DOCUMENTS = 100
"""At most; of each the beginning, as much of all."""
SPARE = 3
"""So many times the tokens asked for: some are scored, and windows do not cross documents."""
CALIBRATION, HELDOUT = "calibration.jsonl", "heldout.jsonl"


def divide_text(spec: DataSpec, data: Path, folder: Path, *, calibration_tokens: int, say) -> TokenStore:
    """Tokenise the corpus and write its calibration and held-out documents as text.

    Calibration documents are those of the teachers' split, which students do not read; held-out ones nobody reads.
    """
    store = prepare_data(spec, data, say=say)
    tokenizer = load_tokenizer(str(store.tokenizer_folder))
    if not (folder / HELDOUT).exists():
        read = np.concatenate(store.split("teacher", context=1).shards)
        documents = np.split(read, np.flatnonzero(read == tokenizer.eos_token_id) + 1)[:CALIBRATION_DOCUMENTS]
        each = math.ceil(SPARE * calibration_tokens / len(documents))
        _write_documents(folder / CALIBRATION, [document[:each] for document in documents], tokenizer)
        _write_documents(folder / HELDOUT, store.heldout_documents(), tokenizer)
    return store


def _write_documents(
    path: Path, documents: Iterable[np.ndarray], tokenizer: "PreTrainedTokenizerBase"
) -> None:
    end = tokenizer.eos_token_id
    texts = (tokenizer.decode([int(i) for i in ids if i != end]) for ids in documents)
    rows = (json.dumps({"text": text}, ensure_ascii=False) for text in texts if text.strip())
    write_text(path, "".join(f"{row}\n" for row in rows))


QUESTIONS = (
    "What is the capital of France?",
    "Give three tips for staying healthy.",
    "Write two sentences about a river in winter.",
)
"""None of them is among the prompts inside the package, so no chat model learnt an answer to it there."""
MOST_TOKENS = 48
"""Of an answer: enough to read whether it answers."""
SAMPLES, PROMPTS = "samples.json", "samples.prompts.txt"
Say = Callable[[str], None]


def write_samples(
    models: Mapping[str, tuple[str, Path]], folder: Path, *, template: str | None, device: str, say: Say
) -> dict[str, Any]:
    """Have each model answer the questions, greedily, and write samples.json; answers that are there are read.

    Args:
        models: name -> (model, the .jsonl file of its answers).

    Returns:
        What samples.json holds; no samples, and why, where a model has no room for a question and its answer.
    """
    write_text(folder / PROMPTS, "".join(f"{question}\n" for question in QUESTIONS))
    found: dict[str, Any] = {"max_new_tokens": MOST_TOKENS, "temperature": 0.0, "samples": []}
    answers: dict[str, dict[int, Mapping[str, Any]]] = {}
    try:
        for name, (model, file) in models.items():
            how = {"max_new_tokens": MOST_TOKENS, "template": template, "device": device, "say": say}
            generate_answers(model, folder / PROMPTS, file, **how)
            answers[name] = {int(str(row["prompt"])): row for row in read_json_lines(file)}
        found["samples"] = [
            {"prompt": question, "answers": {name: _answer(rows[i]) for name, rows in answers.items()}}
            for i, question in enumerate(QUESTIONS)
        ]
    except DataError as error:  # a short context or a long template: nothing else depends on these answers
        found["note"] = str(error)
        say(f"no sample answers: {error}")
    write_json(folder / SAMPLES, found)
    return found


def _answer(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": row["messages"][-1]["content"], "tokens": row["tokens"], "truncated": row["truncated"]}


RECORD = "recipe.json"
TEACHER, CUT, BASE, CHAT = "teacher", "cut", "base", "chat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kitchen:
    """What all stages share."""

    spec: MinimaSpec
    out: Path
    display: Display
    say: Say
    command: str

    @property
    def cut(self) -> Path:
        """The last cut."""
        return self.out / "cut"

    @property
    def distil(self) -> Path:
        """The arms' study folder."""
        return self.out / "distil"

    @property
    def running(self) -> dict[str, Any]:
        """What stages that compute are told of how."""
        return {"device": self.spec.device, "command": self.command, "say": self.say}


def cook(
    spec: MinimaSpec,
    out: Path,
    *,
    display: Display,
    say: Say = lambda line: None,
    command: str = "",
    until: str = "report",
) -> dict[str, Any]:
    """Run the recipe up to a stage.

    Args:
        say: takes a line when a stage begins and ends.
        until: the last stage that is run.

    Raises:
        ConfigError: `out` holds another recipe, or what any stage raises.
        DistillawError: as any stage.
    """
    spec.check()
    _arms_spec(spec, Path("cut"), fresh=True, alone=spec.alone).check()
    if until not in STAGES:
        raise ConfigError(f"--until {until}: one of {', '.join(STAGES)}")
    kitchen = Kitchen(spec=spec, out=out, display=display, say=say, command=command)
    check_folder(out)
    check_apart(spec.data.corpus, out)
    with held(out, f"the folder {out}"):
        record = _open_record(kitchen)
        if "instruct" not in record["stages"]:
            foresee(spec, until)
        for stage in STAGES[: STAGES.index(until) + 1]:
            began = time.monotonic()
            say(f"{stage}: begins")
            result = _RUN[stage](kitchen, record)
            seconds = time.monotonic() - began
            before = record["stages"].get(stage, {}).get("seconds", 0.0)
            record["stages"][stage] = result | {"seconds": max(seconds, before)}
            write_json(out / RECORD, record)
            say(f"{stage}: done in {seconds:.0f} s")
    return record


def _open_record(kitchen: Kitchen) -> dict[str, Any]:
    """The record so far, refused if it is of another recipe."""
    wanted = json.loads(json.dumps(asdict(kitchen.spec), default=str))  # as JSON gives it back
    file = kitchen.out / RECORD
    if not file.exists():
        identity = {"recipe": "minima", "identity": content_hash(wanted, digits=16)}
        return {**identity, "command": kitchen.command, "spec": wanted, "stages": {}}
    record: dict[str, Any] = read_json(file)
    if changed := [name for name in _changed(record["spec"], wanted) if name != "device"]:
        raise ConfigError(
            f"{kitchen.out} holds a recipe with other settings ({', '.join(changed)}; it was {record['command']!r}). "
            "Choose another --out"
        )
    return record


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Names of the settings that differ, those inside a table by their own."""
    for key, value in now.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            yield from _changed(old, value)
        elif value != old:
            yield key


def _text(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    spec = kitchen.spec
    claim_folder(kitchen.distil)
    asked = {"calibration_tokens": spec.calibration_tokens, "say": kitchen.say}
    store = divide_text(spec.data, kitchen.distil / "data", kitchen.out / "text", **asked)
    require_tokens(store, {"student": spec.tokens}, context=spec.training.context)
    splits = store.manifest["splits"]
    return {"source": spec.data.source, "tokens": {name: split["tokens"] for name, split in splits.items()}}


def _law(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    result = consult_laws(kitchen.spec)
    kitchen.say(
        f"  student {result['params']:,} parameters, {result['keep']:.1%} of the teacher's; {result['advice']}"
    )
    return result


def _prune(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    """One cut, or a cascade with distillation between the cuts."""
    spec, keep = kitchen.spec, record["stages"]["law"]["keep"]
    source, cuts = spec.teacher, []
    for step in range(1, spec.steps + 1):
        last = step == spec.steps
        folder = kitchen.cut if last else kitchen.out / f"cut-{step}"
        wishes = Wishes(
            params=record["stages"]["law"]["params"] if last else None,
            keep=None if last else keep ** (1 / spec.steps),
            by=spec.importance,
            tokens=spec.calibration_tokens,
            context=min(512, spec.training.context),
        )
        text = str(kitchen.out / "text" / CALIBRATION)
        cut = prune_to(locate(source), folder, wishes, text=text, **kitchen.running)
        cuts.append({key: value for key, value in cut.items() if key != "cut"} | {"folder": str(folder)})
        if not last:
            between = _arms(kitchen, folder, kitchen.out / f"distil-{step}", alone=False, fresh=False)
            source = str(kitchen.out / f"distil-{step}" / "runs" / between["arms"][0]["run_id"])
    return {"folder": str(kitchen.cut), "cuts": cuts}


def _arms(kitchen: Kitchen, start: Path, folder: Path, *, alone: bool, fresh: bool) -> dict[str, Any]:
    arms = _arms_spec(kitchen.spec, start, alone=alone, fresh=fresh)
    return train_arms(arms, folder, display=kitchen.display, command=kitchen.command)


def _arms_spec(spec: MinimaSpec, start: Path, *, alone: bool, fresh: bool) -> ArmsSpec:
    return ArmsSpec(
        teacher=spec.teacher,
        start=str(start),
        smaller=spec.smaller if fresh else "",
        tokens=spec.tokens,
        rates=spec.rates,
        alone=alone,
        fresh=fresh,
        batch_tokens=spec.batch_tokens,
        seed=spec.seed,
        data=spec.data,
        training=spec.training,
    )


def _distil(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    found = _arms(kitchen, kitchen.cut, kitchen.distil, alone=kitchen.spec.alone, fresh=True)
    best = next(row for row in found["arms"] if row["arm"] == found["best"])
    kitchen.say(f"  best arm: {found['best']}, {best['loss']:.3f} nats/token")
    return found | {"folder": str(kitchen.distil / "runs" / best["run_id"])}


def _instruct(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    spec, folder = kitchen.spec, kitchen.out / "instruct"
    chats = spec.chats
    if chats is None:
        drawn = {"max_new_tokens": spec.answer_tokens, "batch": 16, "seed": spec.seed}
        where = {"template": spec.template, "device": spec.device, "say": kitchen.say}
        chats = generate_answers(spec.teacher, spec.prompts, folder / "answers.jsonl", **drawn, **where)
    base = record["stages"]["distil"]["folder"]
    sft = SftSpec(
        model=base,
        data=str(chats),
        lr=spec.sft_lr,
        epochs=spec.sft_epochs,
        batch=8,
        seed=spec.seed,
        template=spec.template,
        max_tokens=spec.training.context,
        validation=0.1,
    )
    result: dict[str, Any] = {"chats": str(chats), "generated": spec.chats is None}
    result["sft"] = run_sft(sft, folder / "sft", **kitchen.running)
    result["folder"] = str(folder / "sft" / "model")
    if spec.pairs is not None:
        dpo = DpoSpec(model=result["folder"], data=str(spec.pairs), seed=spec.seed, batch=8)
        result["dpo"] = run_dpo(dpo, folder / "dpo", **kitchen.running)
        result["folder"] = str(folder / "dpo" / "model")
    chat = Path(result["folder"])
    asked = {
        TEACHER: (spec.teacher, folder / "samples.teacher.jsonl"),
        CHAT: (str(chat), chat.with_name("samples.jsonl")),
    }
    where = {"template": spec.template, "device": spec.device, "say": kitchen.say}
    result["samples"] = write_samples(asked, folder, **where)
    return result


def _evaluate(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    spec, stages = kitchen.spec, record["stages"]
    models = {
        TEACHER: spec.teacher,
        CUT: str(kitchen.cut),
        BASE: stages["distil"]["folder"],
        CHAT: stages["instruct"]["folder"],
    }
    text = TextWishes(text=str(kitchen.out / "text" / HELDOUT), context=min(512, spec.training.context))
    found = {}
    for name, folder in models.items():
        kitchen.say(f"  {name}: {folder}")
        found[name] = evaluate_model(
            folder,
            out=kitchen.out / "evaluate" / name,
            text=text,
            tasks=spec.tasks,
            data=spec.evaluation_data,
            teacher=None if name == TEACHER else spec.teacher,
            limit=spec.limit,
            skip_missing=True,
            **kitchen.running,
        )
    return {"models": found}


def _report(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    from distillaw.report.recipe import write_recipe_report

    write_json(kitchen.out / RECORD, record)
    return {"report": str(write_recipe_report(kitchen.out))}


_STAGES = (_text, _law, _prune, _distil, _instruct, _evaluate, _report)
_RUN: dict[str, Callable[[Kitchen, dict[str, Any]], dict[str, Any]]] = dict(zip(STAGES, _STAGES, strict=True))
