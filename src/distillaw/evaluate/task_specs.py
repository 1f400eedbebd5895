"""Which benchmarks there are, and what each asks of local files: the YAML files in tasks/, and a user's own.

A file has our few keys (files and their layout, shots, metric, chance) and under `harness` what lm-evaluation-harness
calls a task: prompt, choices, filters, metrics. A task file is data: no key of it names code or another file, and its
templates are rendered in a sandbox (lm_eval_parts.py). Torch-free.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from distillaw.errors import ConfigError
from distillaw.runs.files import read_text
from distillaw.runs.places import check_name

FOLDER = Path(__file__).with_name("tasks")
SUITE = ("mmlu", "ceval", "drop", "bbh", "humaneval", "gsm8k")
"""The six benchmarks whose plain mean the reference recipe plots (arXiv 2311.07052)."""
CHANCES = ("choices", "majority", "mass")
READERS = ("rows", "drop", "truthfulqa", "agieval")
HARNESS_KEYS = (
    "output_type", "description", "doc_to_text", "doc_to_choice", "doc_to_target", "target_delimiter",
    "fewshot_delimiter", "gen_prefix", "generation_kwargs", "filter_list", "metric_list", "process_results",
)  # fmt: skip
"""Of a task of lm-evaluation-harness; its others load data sets, prompts and code from places of their own."""
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
    files = [*sorted(FOLDER.glob("*.yaml"))]
    if folder is not None:
        own = sorted(folder.glob("*.yaml"))
        if not own:
            raise ConfigError(f"--task-folder {folder}: no *.yaml in it; docs/evaluate.md shows one")
        files += own
    specs = [_read_spec(file) for file in files]
    return {spec.task: spec for spec in specs}


def choose_tasks(names: Sequence[str], known: Mapping[str, TaskSpec]) -> list[TaskSpec]:
    """Tasks by name or by set, each once, in the order asked for.

    Raises:
        ConfigError: an unknown name.
    """
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
        raise ConfigError(
            'benchmarks need lm-evaluation-harness; pip install "distillaw[evaluate]"'
        ) from None
    try:
        text = read_text(file)
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ConfigError(f"{file}: an alias (*name), which a few lines can blow up; write it out")
        entries = yaml.safe_load(text)
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(
            f"{file}: {error.problem}; a task file is data, so nothing that it includes is run"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(entries, dict):
        raise ConfigError(
            f"{file}: not a task; it holds a {type(entries).__name__}, docs/evaluate.md shows one"
        )
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
        raise ConfigError(
            f"{file}: {spec.shots} shots, and nowhere to take them from: files.shots or shots_from_test"
        )
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
    if not isinstance(metrics, list) or not all(
        isinstance(each, dict) and "metric" in each for each in metrics
    ):
        raise ConfigError(f"{file}: metric_list: a list of tables with a metric each")
    if any("hf_evaluate" in each for each in metrics):
        raise ConfigError(f"{file}: hf_evaluate loads a program; take a metric of lm-evaluation-harness")
