"""`distillaw recipe minima`: law, prune, distil, instruct, evaluate, report, each stage found again if it was done.

    OUT/recipe.json    what was asked, what each stage came to and how long it took
    OUT/adapt          where the teacher is adapted first: with other pieces (model), trained further (training)
    OUT/text           calibration and held-out documents
    OUT/cut            the student cut out of its teacher (cut-1, ... of a cascade)
    OUT/distil         its arms, a study folder
    OUT/upcycle        where the best of them becomes a mixture of experts: that (model) and its run (training)
    OUT/instruct       the teacher's answers, the chat model's runs, samples.json: what both say to three questions
    OUT/evaluate/NAME  teacher, cut, base and chat model on the same text and questions, and judged chat
    OUT/report.html

Every stage is an ordinary call of the library that can be resumed on its own, so the recipe remembers nothing but what
they wrote: a killed recipe goes on where it was. The samples are raw generations, kept beside the scores for reading:
a score can be wrong where its answers were never read (MiniChat-3B's AlpacaEval was published as 76.94 and later
corrected to 48.82).
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distillaw.data.corpus import check_apart
from distillaw.data.prepare import DataSpec, copy_data, documents_of, prepare_data, require_tokens
from distillaw.data.shards import SHARD_TOKENS
from distillaw.data.tokenizer import load_tokenizer
from distillaw.errors import ConfigError, DataError
from distillaw.evaluate.suite import evaluate_model, hand_on
from distillaw.evaluate.wishes import TextWishes
from distillaw.instruct.generate import generate_answers
from distillaw.instruct.onpolicy import run_onpolicy
from distillaw.instruct.spec import DpoSpec, OnPolicySpec, SftSpec
from distillaw.instruct.stages import run_dpo, run_sft
from distillaw.models.export import Making
from distillaw.models.parallel import ALONE, Ranks
from distillaw.models.prune import Wishes, prune_to
from distillaw.models.source import locate
from distillaw.models.upcycle import Layout, upcycle_to
from distillaw.models.vocabulary import MAX_BYTES, Texts, extend_vocabulary, trim_vocabulary
from distillaw.recipe.foresight import consult_laws, foresee
from distillaw.recipe.spec import LATE, STAGES, MinimaSpec
from distillaw.runs.files import as_read, content_hash, read_json, read_json_lines, write_json, write_text
from distillaw.runs.places import check_folder, claim_folder
from distillaw.runs.spec import NO_PART
from distillaw.runs.store import StudyFolder
from distillaw.sweep.arms import WARMUP_SHARE, ArmsSpec, bare_trunk, train_arms
from distillaw.sweep.ready import TrunkJob
from distillaw.sweep.scheduler import Display
from distillaw.sweep.single import result_of, started, train_missing

CALIBRATION_DOCUMENTS = 100
"""At most; of each the beginning, as much of all."""
SPARE = 3
"""So many times the tokens asked for: some are scored, and windows do not cross documents."""
CALIBRATION, HELDOUT = "calibration.jsonl", "heldout.jsonl"


def _write_text(path: Path, documents: Iterable[str]) -> None:
    rows = (json.dumps({"text": text}, ensure_ascii=False) for text in documents if text.strip())
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
            answers[name] = {int(row["prompt"]): row for row in read_json_lines(file)}
        for i, question in enumerate(QUESTIONS):
            said = {
                name: {"text": rows[i]["messages"][-1]["content"]}
                | {key: rows[i][key] for key in ("tokens", "truncated")}
                for name, rows in answers.items()
            }
            found["samples"].append({"prompt": question, "answers": said})
    except DataError as error:  # a short context or a long template: nothing else depends on these answers
        found["note"] = str(error)
        say(f"no sample answers: {error}")
    write_json(folder / SAMPLES, found)
    return found


RECORD = "recipe.json"
ORIGINAL, TEACHER, CUT, BASE, MIXTURE, CHAT = "original", "teacher", "cut", "base", "mixture", "chat"
TUNED = "tuned"
"""The chat model before it learnt from its own answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kitchen:
    """What all stages share."""

    spec: MinimaSpec
    out: Path
    display: Display
    say: Say
    command: str
    ranks: Ranks = ALONE

    @property
    def cut(self) -> Path:
        """The last cut."""
        return self.out / "cut"

    @property
    def distil(self) -> Path:
        """The arms' study folder."""
        return self.out / "distil"

    def teacher(self, record: Mapping[str, Any]) -> str:
        """Whom students are cut out of and taught by: the adapted one, where the recipe adapts it."""
        return record["stages"]["adapt"]["folder"] if self.spec.adapt is not None else self.spec.teacher

    @property
    def data(self) -> DataSpec:
        """The text in the tokens of that teacher, with as much for teachers as its adaptation reads."""
        spec, adapt = self.spec, self.spec.adapt
        if adapt is None:
            return spec.data
        share = max(spec.data.teacher_share, adapt.tokens / (adapt.tokens + spec.tokens))
        tokenizer = str(self.adapt / "model") if adapt.changes_vocabulary else spec.data.tokenizer
        return replace(spec.data, teacher_share=share, tokenizer=tokenizer)

    @property
    def adapt(self) -> Path:
        """The adapted teacher's folder."""
        return self.out / "adapt"

    @property
    def running(self) -> dict[str, Any]:
        """What stages that compute on all ranks are told of how."""
        return {"ranks": self.ranks, "command": self.command, "say": self.say}

    @property
    def on_one(self) -> dict[str, Any]:
        """What stages are told that the first rank does alone."""
        return {"device": str(self.ranks.device), "say": self.say}


def cook(
    spec: MinimaSpec,
    out: Path,
    *,
    display: Display,
    say: Say = lambda line: None,
    command: str = "",
    until: str = "report",
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Run the recipe up to a stage.

    Args:
        say: takes a line when a stage begins and ends.
        until: the last stage that is run.
        ranks: processes that cut, train, fine-tune and score together; all call this.

    Raises:
        ConfigError: `out` holds another recipe, or what any stage raises.
        DistillawError: as any stage.
    """
    spec.check()
    if until not in spec.stages:
        raise ConfigError(f"--until {until}: the stages of this recipe are {', '.join(spec.stages)}")
    kitchen = Kitchen(spec=spec, out=out, display=display, say=say, command=command, ranks=ranks)
    _arms_spec(kitchen, spec.teacher).check()
    if ranks.shards and "instruct" in spec.stages[: spec.stages.index(until) + 1]:
        raise ConfigError(
            "--sharding fsdp: chat models are tuned whole on every process. Distil sharded with --until distil, then "
            "the same command without --sharding goes on"
        )
    check_folder(out)
    check_apart(spec.data.corpus, out)
    with ranks.held(out, f"the folder {out}"):
        record = ranks.told(lambda: _open_record(kitchen))
        if "instruct" not in record["stages"]:
            foresee(spec, until)
        for stage in spec.stages[: spec.stages.index(until) + 1]:
            began, cpu = time.monotonic(), _cpu_seconds()
            say(f"{stage}: begins")
            result = _RUN[stage](kitchen, record)
            seconds = time.monotonic() - began
            spent = {"seconds": seconds, "cpu_seconds": _cpu_seconds() - cpu}
            before = record["stages"].get(stage, {})
            if before.get("seconds", 0.0) > seconds:  # found again, not made
                spent = {key: before[key] for key in spent if key in before}
            record["stages"][stage] = result | spent
            ranks.first(partial(write_json, out / RECORD, record))
            say(f"{stage}: done in {seconds:.0f} s")
    return record


def _cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def _open_record(kitchen: Kitchen) -> dict[str, Any]:
    """The record so far, refused if it is of another recipe."""
    wanted = as_read(asdict(kitchen.spec))
    file = kitchen.out / RECORD
    if not file.exists():
        identity = {"recipe": "minima", "identity": content_hash(wanted, digits=16)}
        return {**identity, "command": kitchen.command, "spec": wanted, "stages": {}}
    record = read_json(file)
    late = {name for stage, names in LATE.items() if stage not in record["stages"] for name in names}
    settled = {key: value for key, value in wanted.items() if key not in late}
    if changed := list(_changed(record["spec"], settled)):
        raise ConfigError(
            f"{kitchen.out} holds a recipe with other settings ({', '.join(changed)}; it was {record['command']!r}). "
            "Choose another --out"
        )
    if late and wanted != record["spec"]:
        record |= {"spec": wanted, "command": kitchen.command}
    return record


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Names of the settings that differ, those inside a table by their own."""
    for key, value in now.items():
        if key in NO_PART or (key not in before and not value):  # changes no number, or recipes had not got it yet
            continue
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            yield from _changed(old, value)
        elif value != old:
            yield key


def _adapt(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    """The teacher with other pieces, then trained further; what students read and what is scored stays unread."""
    spec, home, wanted = kitchen.spec, kitchen.adapt, kitchen.spec.adapt
    assert wanted is not None
    folder, result = spec.teacher, {}
    if wanted.changes_vocabulary:
        folder = str(home / "model")
        result["vocabulary"] = kitchen.ranks.told(lambda: _other_pieces(kitchen, Path(folder)))
    if wanted.tokens:
        run = _adapted(kitchen, folder)
        folder = str(home / "training" / "runs" / run["run_id"])
        result["run"] = run
        kitchen.say(f"  adapted teacher: {run['start_loss']:.3f} -> {run['loss']:.3f} nats/token")
    return result | {"folder": folder}


def _other_pieces(kitchen: Kitchen, folder: Path) -> dict[str, Any]:
    """The teacher with an extended or trimmed vocabulary."""
    spec, wanted, read = kitchen.spec, kitchen.spec.adapt, kitchen.adapt / "text.jsonl"
    assert wanted is not None
    if not read.exists():
        _write_text(read, _within(documents_of(kitchen.data, "teacher"), MAX_BYTES))
    texts, making = Texts(text=str(read)), Making(**kitchen.on_one, command=kitchen.command)
    source = locate(spec.teacher)
    if wanted.pieces is not None:
        return extend_vocabulary(source, folder, texts, pieces=wanted.pieces, making=making)
    return trim_vocabulary(source, folder, texts, keep=wanted.keep, making=making)


def _within(documents: Iterable[str], most: float) -> Iterator[str]:
    """The first documents, of so many bytes at most."""
    for document in documents:
        if (most := most - len(document.encode())) < 0:
            return
        yield document


def _adapted(kitchen: Kitchen, model: str) -> dict[str, Any]:
    """The run that trains a model further on the teachers' split, a study folder of its own."""
    spec, wanted, study = kitchen.spec, kitchen.spec.adapt, StudyFolder(kitchen.adapt / "training")
    assert wanted is not None
    kitchen.ranks.first(lambda: claim_folder(study.path))
    store = kitchen.ranks.told(lambda: prepare_data(kitchen.data, study.data, say=kitchen.say))
    require_tokens(store, {"teacher": wanted.tokens, "student": spec.tokens}, context=spec.training.context)
    recipe = replace(spec.training, warmup_tokens=wanted.tokens // WARMUP_SHARE)
    at = {"rate": wanted.lr, "batch_tokens": spec.batch_tokens, "seed": spec.seed}
    bare = bare_trunk(store, recipe, split="teacher", **at)
    trunk = started(bare, model, load_tokenizer(str(store.tokenizer_folder)))
    job = TrunkJob(trunk=trunk, budgets=(wanted.tokens,))
    train_missing([job], study, kitchen.ranks, kitchen.display)
    return result_of(job, study, kitchen.ranks)


def _text(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    """The corpus as tokens, and its calibration and held-out documents as text.

    Calibration documents are those of the teachers' split, which students do not read; held-out ones nobody reads.
    """
    spec, folder = kitchen.spec, kitchen.out / "text"

    def divide() -> dict[str, Any]:
        claim_folder(kitchen.distil)
        if "run" in record["stages"].get("adapt", {}):
            copy_data(kitchen.adapt / "training" / "data", kitchen.distil / "data", say=kitchen.say)
        store = prepare_data(kitchen.data, kitchen.distil / "data", say=kitchen.say)
        tokenizer = load_tokenizer(str(store.tokenizer_folder))
        end = tokenizer.eos_token_id
        if not (folder / HELDOUT).exists():
            read = store.split("teacher", context=1).shards[0][:SHARD_TOKENS]
            documents = np.split(read, np.flatnonzero(read == end) + 1)[:CALIBRATION_DOCUMENTS]
            each = math.ceil(SPARE * spec.calibration_tokens / len(documents))
            beginnings = [document[:each] for document in documents]
            for name, chosen in ((CALIBRATION, beginnings), (HELDOUT, store.heldout_documents())):
                _write_text(folder / name, (str(tokenizer.decode([int(i) for i in ids if i != end])) for ids in chosen))
        require_tokens(store, {"student": spec.tokens}, context=spec.training.context)
        splits = store.manifest["splits"]
        return {"source": spec.data.source, "tokens": {name: split["tokens"] for name, split in splits.items()}}

    return kitchen.ranks.told(divide)


def _law(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    adapted = kitchen.teacher(record) if kitchen.spec.adapt is not None else None
    result = consult_laws(kitchen.spec, adapted)
    kitchen.say(f"  student {result['params']:,} parameters, {result['keep']:.1%} of the teacher's; {result['advice']}")
    return result


def _prune(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    """One cut, or a cascade with distillation between the cuts."""
    spec, keep = kitchen.spec, record["stages"]["law"]["keep"]
    source, cuts = kitchen.teacher(record), []
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
        cut = prune_to(locate(source), folder, wishes, text=text, making=Making(**kitchen.running))
        cuts.append({key: value for key, value in cut.items() if key != "cut"} | {"folder": str(folder)})
        if not last:
            between = _arms(kitchen, _one_arm(kitchen, record, folder), kitchen.out / f"distil-{step}")
            source = str(kitchen.out / f"distil-{step}" / "runs" / between["arms"][0]["run_id"])
    return {"folder": str(kitchen.cut), "cuts": cuts}


def _arms(kitchen: Kitchen, arms: ArmsSpec, folder: Path) -> dict[str, Any]:
    """Train arms on the text as the recipe has tokenised it once."""

    def begin() -> None:
        claim_folder(folder)
        copy_data(kitchen.distil / "data", folder / "data")

    kitchen.ranks.first(begin)
    return train_arms(arms, folder, display=kitchen.display, command=kitchen.command, ranks=kitchen.ranks)


def _arms_spec(kitchen: Kitchen, teacher: str) -> ArmsSpec:
    """The arms of the recipe."""
    spec = kitchen.spec
    return ArmsSpec(
        teacher=teacher,
        start=str(kitchen.cut),
        smaller=spec.smaller,
        tokens=spec.tokens,
        rates=spec.rates,
        alone=spec.alone,
        batch_tokens=spec.batch_tokens,
        seed=spec.seed,
        data=kitchen.data,
        training=spec.training,
    )


def _one_arm(kitchen: Kitchen, record: Mapping[str, Any], start: Path) -> ArmsSpec:
    """Another start, taught, with nothing beside it."""
    usual = _arms_spec(kitchen, kitchen.teacher(record))
    return replace(usual, start=str(start), smaller="", alone=False, fresh=False)


def _distil(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    found = _arms(kitchen, _arms_spec(kitchen, kitchen.teacher(record)), kitchen.distil)
    best = next(row for row in found["arms"] if row["arm"] == found["best"])
    kitchen.say(f"  best arm: {found['best']}, {best['loss']:.3f} nats/token")
    return found | {"folder": str(kitchen.distil / "runs" / best["run_id"])}


def _upcycle(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    """The best arm as a mixture of experts, trained on with its teacher at the rate that was best for it.

    Another seed orders the windows: a mixture that read the first ones again would be trained on what it knows.
    """
    spec, home, wanted = kitchen.spec, kitchen.out / "upcycle", kitchen.spec.upcycle
    assert wanted is not None
    base = record["stages"]["distil"]
    layout = Layout(experts=wanted.experts, bottom=wanted.bottom, seed=spec.seed)
    how = {"text": str(kitchen.out / "text" / CALIBRATION)}
    how |= {"making": Making(command=kitchen.command, **kitchen.on_one)}
    made = kitchen.ranks.told(lambda: upcycle_to(locate(base["folder"]), home / "model", layout, **how))
    arms = replace(
        _one_arm(kitchen, record, home / "model"),
        tokens=wanted.tokens,
        rates=(base["arms"][0]["peak_lr"],),
        seed=spec.seed + 1,
        training=replace(spec.training, warmup_tokens=wanted.tokens // WARMUP_SHARE),
    )
    found = _arms(kitchen, arms, home / "training")
    run = found["arms"][0]
    kitchen.say(f"  mixture: {run['start_loss']:.3f} -> {run['loss']:.3f} nats/token")
    return {"mixture": made, "run": run, "folder": str(home / "training" / "runs" / run["run_id"])}


def _student(record: Mapping[str, Any]) -> str:
    """What the recipe has made of its base model last."""
    stages = record["stages"]
    return stages.get("upcycle", stages["distil"])["folder"]


def _instruct(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    spec, folder = kitchen.spec, kitchen.out / "instruct"
    chats = spec.chats
    if chats is None:
        drawn = {"max_new_tokens": spec.answer_tokens, "batch": 16, "seed": spec.seed}
        answers = folder / "answers.jsonl"
        how = {"template": spec.template, **drawn, **kitchen.on_one}
        chats = kitchen.ranks.told(lambda: generate_answers(spec.teacher, spec.prompts, answers, **how))
    sft = SftSpec(
        model=_student(record),
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
    if spec.on_policy:
        own = OnPolicySpec(
            model=result["folder"],
            data=str(chats),
            teacher=kitchen.teacher(record),
            on_policy=spec.on_policy,
            lr=spec.sft_lr,
            batch=8,
            seed=spec.seed,
            max_tokens=spec.training.context,
            max_new_tokens=spec.answer_tokens,
            validation=sft.validation,
        )
        result["tuned"] = result["folder"]
        result["onpolicy"] = run_onpolicy(own, folder / "onpolicy", **kitchen.running)
        result["folder"] = str(folder / "onpolicy" / "model")
    chat = Path(result["folder"])
    asked = {
        TEACHER: (spec.teacher, folder / "samples.teacher.jsonl"),
        CHAT: (str(chat), chat.with_name("samples.jsonl")),
    }
    how = {"template": spec.template, **kitchen.on_one}
    result["samples"] = kitchen.ranks.told(lambda: write_samples(asked, folder, **how))
    return result


def _evaluate(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    spec, stages = kitchen.spec, record["stages"]
    teacher = kitchen.teacher(record)
    models = {ORIGINAL: spec.teacher} if spec.adapt is not None else {}
    models |= {TEACHER: teacher, CUT: str(kitchen.cut), BASE: stages["distil"]["folder"]}
    models |= {MIXTURE: stages["upcycle"]["folder"]} if spec.upcycle is not None else {}
    chats = {TUNED: stages["instruct"]["tuned"]} if spec.on_policy else {}
    chats |= {CHAT: stages["instruct"]["folder"]}
    models |= chats
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
            teacher=None if name in (ORIGINAL, TEACHER) else teacher,
            limit=spec.limit,
            skip_missing=True,
            **kitchen.running,
        )
        for wishes in spec.judged if name in chats else ():
            asked = replace(wishes, against=spec.teacher)
            where = kitchen.out / "evaluate" / name
            if name != (first := next(iter(chats))):  # what the teacher says to the questions it has said before
                kitchen.ranks.first(partial(hand_on, spec.teacher, kitchen.out / "evaluate" / first, where))
            found[name] = evaluate_model(folder, out=where, chat=asked, **kitchen.running)
    return {"models": found}


def _report(kitchen: Kitchen, record: dict[str, Any]) -> dict[str, Any]:
    from distillaw.report.recipe import write_recipe_report

    def write() -> str:
        write_json(kitchen.out / RECORD, record)
        return str(write_recipe_report(kitchen.out))

    return {"report": kitchen.ranks.told(write)}


_STAGES = (_adapt, _text, _law, _prune, _distil, _upcycle, _instruct, _evaluate, _report)
_RUN: dict[str, Callable[[Kitchen, dict[str, Any]], dict[str, Any]]] = dict(zip(STAGES, _STAGES, strict=True))
