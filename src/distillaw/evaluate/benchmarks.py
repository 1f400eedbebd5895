"""Which benchmarks there are, which of their questions are asked, and what it takes to read a score.

A task file is one of the YAML files in tasks/, or a user's own: our few keys, and under `harness` what
lm-evaluation-harness calls a task. It is data: no key of it names code or another file, and its templates are rendered
in a sandbox (lm_eval_parts.py). With a limit, the questions asked are those with the lowest hashes of their content:
the same for every model and on every machine, and a larger limit only adds to them. Standard errors are those of a mean
over a sample of questions, clustered where several share a passage (Miller 2024, arXiv:2411.00640, section 2). A score
whose interval holds what guessing scores tells nothing about the model. Torch-free.
"""

import csv
import difflib
import gzip
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import ConfigError, DataError
from distillaw.runs.files import content_hash, parse_json, read_bytes, read_text
from distillaw.runs.paired import clustered_se, wilson_interval
from distillaw.runs.places import check_name

FOLDER = Path(__file__).with_name("tasks")
SUITE = ("mmlu", "ceval", "drop", "bbh", "humaneval", "gsm8k")
"""The six benchmarks whose plain mean the reference recipe plots (arXiv 2311.07052)."""
CHANCES = ("choices", "majority", "mass")
READERS = ("rows", "drop", "truthfulqa", "agieval", "mmlu", "options")
HARNESS_KEYS = (
    "output_type",
    "description",
    "doc_to_text",
    "doc_to_choice",
    "doc_to_target",
    "target_delimiter",
    "fewshot_delimiter",
    "gen_prefix",
    "generation_kwargs",
    "filter_list",
    "metric_list",
    "process_results",
)
"""Of a task of lm-evaluation-harness; its others load data sets, prompts and code from places of their own."""
PROGRAM = ("prompt", "test", "entry_point")
"""Fields of a problem whose answer is run."""
JUDGES = ("mass", "drop")
"""What process_results may say: functions of harness.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One benchmark."""

    task: str
    sets: list[str]
    """Names under which it is asked for together with others: suite, zero-shot."""
    files: dict[str, str]
    """`test` and, where there are any, `shots`: patterns below the data folder."""
    layout: str
    """The files that are expected, in words, for the message when they are missing."""
    shots: int
    """Examples before each question unless the user says otherwise."""
    metric: str
    chance: float | str
    """What guessing scores: a number; `choices`, one over the options of each question; `majority`, the most frequent
    answer of each subtask (`chance_target` names the field); `mass`, the share of true answers among all."""
    harness: dict[str, Any]
    """A task of lm-evaluation-harness without its data set."""
    filter: str | None = None
    """Which filter's answers count; None: the only one."""
    shots_from_test: int = 0
    """So many first rows of each test file are the shots and are not tested."""
    columns: list[str] | None = None
    """Names for a .csv that has none."""
    reader: str = "rows"
    """How a file becomes questions: one of READERS."""
    chance_target: str | None = None
    cluster: str | None = None
    """Field that questions share which are not independent, a passage for one."""
    executed: bool = False
    """Answers are programs, run in the sandbox."""
    merged: bool = False
    """Several files are one set of questions, not subtasks."""


def known_tasks(folder: Path | None = None) -> dict[str, TaskSpec]:
    """Our tasks by name, and those of a user's folder, which come first.

    Raises:
        ConfigError: PyYAML is missing, or a file is no task.
    """
    own = [] if folder is None else sorted(folder.glob("*.yaml"))
    if folder is not None and not own:
        raise ConfigError(f"--task-folder {folder}: no *.yaml in it; docs/evaluate.md shows one")
    return {spec.task: spec for spec in map(_read_spec, [*sorted(FOLDER.glob("*.yaml")), *own])}


def choose_tasks(names: Sequence[str], known: Mapping[str, TaskSpec]) -> list[TaskSpec]:
    """Tasks by name or by set, each once, in the order asked for; ConfigError: an unknown name."""
    sets = sorted({name for spec in known.values() for name in spec.sets})
    chosen: dict[str, TaskSpec] = {}
    for name in names:
        if name in sets:
            chosen |= {task: spec for task, spec in known.items() if name in spec.sets}
        elif name in known:
            chosen[name] = known[name]
        else:
            near = difflib.get_close_matches(name, [*known, *sets], 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"task {name!r} is unknown; {hint}known are {', '.join(sorted(known))}; sets: {', '.join(sets)}"
            )
    return list(chosen.values())


def _read_spec(file: Path) -> TaskSpec:
    try:
        import yaml
    except ImportError:
        raise ConfigError('benchmarks need lm-evaluation-harness; pip install "distillaw[evaluate]"') from None
    try:
        text = read_text(file)
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ConfigError(f"{file}: an alias (*name), which a few lines can blow up; write it out")
        entries = yaml.safe_load(text)
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(f"{file}: {error.problem}; a task file is data, so nothing that it includes is run") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(entries, dict):
        raise ConfigError(f"{file}: not a task; it holds a {type(entries).__name__}, docs/evaluate.md shows one")
    names = {field.name for field in fields(TaskSpec)}
    needed = {"task", "sets", "files", "layout", "shots", "metric", "chance", "harness"}
    if (unknown := sorted(entries.keys() - names)) or (missing := sorted(needed - entries.keys())):
        what = f"unknown keys {unknown}" if unknown else f"keys missing: {missing}"
        raise ConfigError(f"{file}: {what}; a task has {', '.join(sorted(names))} (docs/evaluate.md)")
    spec = TaskSpec(**entries)
    _check(spec, file)
    return spec


def _check(spec: TaskSpec, file: Path) -> None:
    check_name(str(spec.task), f"{file}: task")
    if spec.reader not in READERS:
        raise ConfigError(f"{file}: reader {spec.reader!r}; known: {', '.join(READERS)}")
    if isinstance(spec.chance, str) and spec.chance not in CHANCES:
        raise ConfigError(f"{file}: chance {spec.chance!r}; a number, or one of {', '.join(CHANCES)}")
    if spec.chance == "majority" and spec.chance_target is None:
        raise ConfigError(f"{file}: chance majority needs chance_target, the field that holds the answer")
    if "test" not in spec.files:
        raise ConfigError(f"{file}: files needs `test`, a pattern below the data folder, e.g. mine/*.jsonl")
    if spec.shots and not ("shots" in spec.files or spec.shots_from_test):
        raise ConfigError(f"{file}: {spec.shots} shots, and nowhere to take them from: files.shots or shots_from_test")
    if outside := [name for name in spec.files.values() if {"..", "/"} & set(Path(name).parts)]:
        raise ConfigError(f"{file}: files {outside}; patterns lie below the data folder")
    _check_harness(spec.harness, file)


def _check_harness(harness: object, file: Path) -> None:
    if not isinstance(harness, dict) or (unknown := sorted(map(str, harness.keys() - set(HARNESS_KEYS)))):
        what = "not a table" if not isinstance(harness, dict) else f"unknown keys {unknown}"
        raise ConfigError(f"{file}: harness: {what}; it may have {', '.join(HARNESS_KEYS)}")
    if harness.get("process_results", JUDGES[0]) not in JUDGES:
        raise ConfigError(
            f"{file}: process_results {harness['process_results']!r}; it names one of {', '.join(JUDGES)}"
        )
    metrics = harness.get("metric_list", [])
    if not isinstance(metrics, list) or not all(isinstance(each, dict) and "metric" in each for each in metrics):
        raise ConfigError(f"{file}: metric_list: a list of tables with a metric each")
    if any("hf_evaluate" in each for each in metrics):
        raise ConfigError(f"{file}: hf_evaluate loads a program; take a metric of lm-evaluation-harness")


Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRows:
    """The questions of one benchmark that are asked, by subtask."""

    test: dict[str, list[Row]]
    shots: dict[str, list[Row]]
    """Examples of each subtask, as many as are shown, in order."""
    num_shots: int
    available: int
    """Questions in the files, asked or not."""
    majority: float | None
    """What always giving each subtask's most frequent answer scores, where that is the chance."""

    @property
    def asked(self) -> int:
        """Questions asked."""
        return sum(len(rows) for rows in self.test.values())

    @property
    def data_hash(self) -> str:
        """Of questions and examples, 16 hex digits."""
        return content_hash([self.test, self.shots], digits=16)


def read_task(spec: TaskSpec, data: Path | None, *, limit: int | None = None, shots: int | None = None) -> TaskRows:
    """Read what is asked of one benchmark."""
    if data is None:
        raise ConfigError(f"{spec.task}: give --data DIR, the folder of the evaluation data. Expected: {spec.layout}")
    num_shots = spec.shots if shots is None else shots
    if num_shots < 0 or (limit is not None and limit < 2):
        raise ConfigError(
            f"{spec.task}: limit {limit}, shots {num_shots}; at least 2 questions (an error bar needs them) and 0 shots"
        )
    everything = _read_files(spec, data, spec.files["test"])
    if spec.shots_from_test:
        reserved = max(num_shots, spec.shots_from_test)
        examples = {name: rows[:num_shots] for name, rows in everything.items()}
    else:
        reserved, examples = 0, _examples(spec, data, num_shots, everything)
    rest = {name: rows[reserved:] for name, rows in everything.items()}
    available = sum(len(rows) for rows in rest.values())
    if available < 2:
        raise DataError(f"{spec.task}: {available} questions in {data}/{spec.files['test']}; it takes at least two")
    asked = _lowest_hashes(rest, limit)
    return TaskRows(
        test=asked,
        shots={name: examples.get(name, []) for name in asked},
        num_shots=num_shots,
        available=available,
        majority=_majority(everything, asked, spec.chance_target) if spec.chance == "majority" else None,
    )


def read_tasks(
    chosen: Sequence[TaskSpec],
    data: Path | None,
    *,
    limit: int | None = None,
    shots: int | None = None,
    skip_missing: bool = False,
) -> tuple[dict[str, TaskRows], list[str]]:
    """What is asked of several benchmarks, and the names of those left out.

    Args:
        skip_missing: leave out benchmarks whose files are missing or damaged, as long as one is there.

    Raises:
        ConfigError: as there.
        DataError: files missing; all of them are named.
    """
    rows: dict[str, TaskRows] = {}
    problems: dict[str, str] = {}
    for spec in chosen:
        try:
            rows[spec.task] = read_task(spec, data, limit=limit, shots=shots)
        except DataError as error:
            problems[spec.task] = str(error)
    if problems and not (skip_missing and rows):
        hint = ". The others can be had with --skip-missing" if rows else ""
        raise DataError("evaluation data missing:\n  " + "\n  ".join(problems.values()) + hint)
    return rows, list(problems)


def _examples(spec: TaskSpec, data: Path, num_shots: int, everything: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """The first rows of the files of examples: those of the subtask where there are several files."""
    if num_shots == 0:
        return {}
    if "shots" not in spec.files:
        raise ConfigError(f"{spec.task}: {num_shots} shots, but it has no examples; leave --shots out, or 0")
    found = _read_files(spec, data, spec.files["shots"])
    if len(found) == 1:
        found = dict.fromkeys(everything, next(iter(found.values())))
    for name in everything:
        if len(found.get(name, [])) < num_shots:
            raise DataError(
                f"{spec.task}: {num_shots} shots of {name}, and {len(found.get(name, []))} examples of it in "
                f"{data}/{spec.files['shots']}; lower --shots, or complete the files: {spec.layout}"
            )
    return {name: found[name][:num_shots] for name in everything}


def _read_files(spec: TaskSpec, data: Path, pattern: str) -> dict[str, list[Row]]:
    """Rows of each subtask: of each file, named by what its pattern's star stands for."""
    if not data.is_dir():
        raise ConfigError(f"--data {data}: no such folder; it holds one folder per benchmark")
    files = sorted(data.glob(pattern))
    if not files:
        raise DataError(f"{spec.task}: nothing at {data}/{pattern}. Expected: {spec.layout}")
    found: dict[str, list[Row]] = {}
    for file in files:
        before, star, after = Path(pattern).name.partition("*")
        named = star and not spec.merged
        name = file.name.removeprefix(before).removesuffix(after) if named else spec.task
        try:
            rows = _alike(spec, [row | {"subtask": name} for row in _READERS[spec.reader](spec, file)])
        except (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError) as error:
            what = f"{type(error).__name__} {error}"
            raise DataError(
                f"{file}: not the expected format of {spec.task} ({what}). Expected: {spec.layout}"
            ) from None
        if rows:
            so_far = found.setdefault(name, [])
            so_far += [row | {"id": f"{name}/{i}"} for i, row in enumerate(rows, len(so_far))]
    return found


def _lowest_hashes(rows: Mapping[str, list[Row]], limit: int | None) -> dict[str, list[Row]]:
    if limit is None:
        return {name: list(each) for name, each in rows.items() if each}
    hashed = sorted(
        (hashlib.sha256(json.dumps(row, sort_keys=True).encode()).digest(), name, i)
        for name, each in rows.items()
        for i, row in enumerate(each)
    )
    chosen = {(name, i) for _, name, i in hashed[:limit]}
    kept = {name: [row for i, row in enumerate(each) if (name, i) in chosen] for name, each in rows.items()}
    return {name: each for name, each in kept.items() if each}


def _majority(everything: Mapping[str, list[Row]], asked: Mapping[str, list[Row]], field: str | None) -> float:
    """Mean over what is asked of the share that the most frequent answer has in its subtask's file."""
    assert field is not None
    share = {}
    for name in asked:
        answers = Counter(str(row[field]) for row in everything[name])
        share[name] = answers.most_common(1)[0][1] / answers.total()
    return sum(share[name] * len(rows) for name, rows in asked.items()) / sum(map(len, asked.values()))


def _rows(spec: TaskSpec, file: Path) -> Iterator[Row]:
    """Rows of .jsonl, .json (a list, or an object with `examples`) and .csv, packed by gzip or not."""
    raw = gzip.decompress(read_bytes(file)) if file.suffix == ".gz" else read_bytes(file)
    text = raw.decode("utf-8-sig")
    kind = Path(file.name.removesuffix(".gz")).suffix
    if kind == ".csv":
        yield from csv.DictReader(io.StringIO(text, newline=""), fieldnames=spec.columns, strict=True)
    elif kind == ".json":
        whole = parse_json(text)
        yield from whole["examples"] if isinstance(whole, dict) else whole
    else:
        yield from (parse_json(line) for line in text.split("\n") if line.strip())


def _alike(spec: TaskSpec, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows, if each has what the templates read of the first one, in its kind.

    A template writes None for what is missing, which would be asked and scored like anything else.
    """
    templates = " ".join(str(each) for key, each in spec.harness.items() if key.startswith("doc_to_"))
    named = [name for name in (rows[0] if rows else ()) if re.search(rf"\b{re.escape(name)}\b", templates)]
    if spec.executed:  # a program without its tests would fail like any other
        if rows and (lacking := [name for name in PROGRAM if not rows[0].get(name)]):
            raise ValueError(f"question 1: no {lacking[0]}")
        named = [*dict.fromkeys([*named, *PROGRAM])]
    kinds = {name: (int, float) if isinstance(rows[0][name], (int, float)) else type(rows[0][name]) for name in named}
    for number, row in enumerate(rows, 1):
        for name, kind in kinds.items():
            found = row.get(name)
            if rows[0][name] is not None and not (isinstance(found, kind) and (found or not spec.executed)):
                raise ValueError(
                    f"question {number}: {name} is {str(row.get(name, 'missing'))[:60]!r}; the first has "
                    f"{str(rows[0][name])[:60]!r}"
                )
    return rows


def _drop_rows(spec: TaskSpec, file: Path) -> Iterator[Row]:
    """Questions of DROP with every accepted answer as a list of spans, the first one first."""
    for passage in parse_json(read_text(file)).values():
        for pair in passage["qa_pairs"]:
            given = [pair["answer"], *pair.get("validated_answers", [])]
            spans = [each for answer in given if (each := _drop_answer(answer))]
            answers = [list(each) for each in dict.fromkeys(tuple(each) for each in spans)]
            if answers:
                yield {"passage": passage["passage"], "question": pair["question"], "answers": answers}


def _drop_answer(answer: Mapping[str, Any]) -> list[str]:
    if str(answer["number"]).strip():
        return [str(answer["number"]).strip()]
    if answer["spans"]:
        return [str(span) for span in answer["spans"]]
    date = " ".join(str(answer["date"].get(part, "")) for part in ("day", "month", "year")).strip()
    return [date] if date else []


def _truthfulqa_rows(spec: TaskSpec, file: Path) -> Iterator[Row]:
    """The best answer, all true ones and all false ones, which are divided by semicolons in the file."""
    for row in _rows(spec, file):
        lists = (row[name].split(";") for name in ("Correct Answers", "Incorrect Answers"))
        right, wrong = ([each.strip() for each in answers if each.strip()] for answers in lists)
        question, best = row["Question"].strip(), row["Best Answer"].strip()
        rights = list(dict.fromkeys([best, *right]))
        yield {"Question": question, "best": best, "wrong": wrong, "right": rights}


_NOT_AGIEVAL = ("math", "gaokao-mathcloze", "jec-qa-ca", "jec-qa-kd", "sat-en-without-passage")
"""Answered in words, with several right options, or the questions of sat-en once more."""


def _agieval_rows(spec: TaskSpec, file: Path) -> Iterator[Row]:
    """Questions with one right option."""
    if file.stem in _NOT_AGIEVAL:
        return
    chinese = (file.stem.startswith("gaokao") and file.stem != "gaokao-english") or file.stem == "logiqa-zh"
    for number, row in enumerate(_rows(spec, file), 1):
        options, label = row["options"], row["label"]
        if isinstance(label, str | list) and len(label) > 1:
            continue  # several are right
        if not isinstance(options, list) or not all(isinstance(each, str) and each.strip() for each in options):
            raise ValueError(f"question {number}: options {str(options)[:60]}; it takes a list of texts")
        if not isinstance(label, str) or len(label) != 1 or not 0 <= ord(label) - 65 < len(options):
            raise ValueError(f"question {number}: label {label!r}; it is a letter of {len(options)} options")
        yield {
            "passage": row["passage"] or "",
            "question": row["question"],
            "options": options,
            "gold": ord(label) - 65,
            "last": chr(64 + len(options)),
            "chinese": chinese,
        }


def _mmlu_rows(spec: TaskSpec, file: Path) -> Iterator[Row]:
    """Question, four options and the letter of the right one, which some files say as a number."""
    names = ("question", *"ABCD", "answer")
    found = csv.reader(io.StringIO(read_bytes(file).decode("utf-8-sig"), newline=""), strict=True)
    for number, cells in enumerate(found, 1):
        if number == 1 and cells and cells[-1] == names[-1]:
            continue
        if len(cells) != len(names) or cells[-1] not in (*"ABCD", *"0123"):
            raise ValueError(
                f"line {number}: {len(cells)} cells, the last {cells[-1:]}; it takes {', '.join(names)}, and an answer "
                "of A to D or 0 to 3"
            )
        row: Row = dict(zip(names, cells, strict=True))
        yield row | {"answer": cells[-1].translate(_LETTERS)}


_LETTERS = str.maketrans("0123", "ABCD")


def _options_rows(spec: TaskSpec, file: Path) -> Iterator[Row]:
    """One JSON object a line: a question, its options, and which one is right."""
    for number, line in enumerate(read_bytes(file).decode("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        row = parse_json(line)
        options, right = row.get("options"), row.get("correct_options_idx")
        if not _says(row.get("centerpiece")) or not isinstance(options, list) or len(options) < 2:
            raise ValueError(f"line {number}: it takes a centerpiece and at least two options")
        if blank := [option for option in options if not _says(option)]:
            raise ValueError(f"line {number}: an option is {blank[0]!r}; options are texts")
        if not (isinstance(right, list) and len(right) == 1 and right[0] in range(len(options))):
            raise ValueError(
                f"line {number}: correct_options_idx {right}; it is a list of one number, 0 to {len(options) - 1}"
            )
        asked = {"question": row["centerpiece"], "context": row.get("context", "")}
        yield asked | {"options": options, "gold": right[0]}


def _says(found: object) -> bool:
    return isinstance(found, str) and bool(found.strip())


_READERS = {
    "rows": _rows,
    "drop": _drop_rows,
    "truthfulqa": _truthfulqa_rows,
    "agieval": _agieval_rows,
    "mmlu": _mmlu_rows,
    "options": _options_rows,
}


Z = 1.959963984540054
"""Of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkScore:
    """One benchmark's result; `evaluation.json` holds these keys."""

    score: float
    """Mean over questions, in shares of 1."""
    se: float
    interval: tuple[float, float]
    """95 %: Wilson's for right or wrong answers, else normal."""
    n: int
    """Questions asked."""
    available: int
    """Questions there are."""
    shots: int
    metric: str
    chance: float
    """What guessing scores."""
    near_chance: bool
    """Whether the interval reaches down to chance: the score cannot be told from guessing."""
    clusters: int
    """Independent groups of questions."""
    truncated: int
    """Prompts that the model's context could not hold; their beginning, the examples, was cut off."""
    other: dict[str, float] = field(default_factory=dict)
    """Means of the task's further metrics."""
    subtasks: dict[str, dict[str, float]] = field(default_factory=dict)
    """Score and n of each subtask, where there are several."""
    notes: tuple[str, ...] = ()


def mean_and_se(values: Sequence[float], clusters: Sequence[object]) -> tuple[float, float]:
    """Mean over questions and its standard error, clustered; with clusters that all differ, sd / sqrt(n)."""
    sums, sizes = by_cluster(values, clusters)
    return float(sums.sum() / sizes.sum()), clustered_se(sums, sizes)


def by_cluster(values: Sequence[float], clusters: Sequence[object]) -> tuple[NDArray, NDArray]:
    """Sums of values and their number, by cluster in order of appearance."""
    places = {each: i for i, each in enumerate(dict.fromkeys(clusters))}
    sums, sizes = np.zeros(len(places)), np.zeros(len(places), np.int64)
    where = [places[each] for each in clusters]
    np.add.at(sums, where, values)
    np.add.at(sizes, where, 1)
    return sums, sizes


def interval_of(score: float, se: float, values: Sequence[float], clusters: int) -> tuple[float, float]:
    """95 % interval of a mean.

    Wilson's (1927) where every value is 0 or 1 and questions are independent, or where all are alike: it does not
    shrink to nothing at 0 and 1.
    """
    if se > 0 and (clusters < len(values) or any(value not in (0.0, 1.0) for value in values)):
        return score - Z * se, score + Z * se
    return wilson_interval(score, clusters, level=0.95)


def mean_of_suite(scores: Mapping[str, Mapping[str, object]]) -> dict[str, object] | None:
    """The plain mean of the six benchmarks of the suite, or None if one is missing.

    y = sum_i s_i / 6,  se = sqrt(sum_i se_i^2) / 6          (six independent sets of questions)
    """
    if any(task not in scores for task in SUITE):
        return None
    six = [scores[task] for task in SUITE]
    values, errors = ([float(each[key]) for each in six] for key in ("score", "se"))  # type: ignore[arg-type]
    return {
        "score": float(np.mean(values)),
        "se": float(np.sqrt(np.sum(np.square(errors))) / len(six)),
        "tasks": list(SUITE),
        "near_chance": [task for task in SUITE if scores[task]["near_chance"]],
    }
