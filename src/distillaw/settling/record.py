"""settle.json: the question, the search, and every stage as it was decided, written before the stage runs."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from distillaw.errors import CacheError, ConfigError
from distillaw.quantities import format_flop
from distillaw.runs.config import from_table
from distillaw.runs.files import read_json, write_json
from distillaw.settling.question import Stage
from distillaw.settling.setting import SearchPlan, Setting
from distillaw.settling.spec import SettleSpec

FILE = "settle.json"
RATES = "constant, for each budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A stage, and what was believed when it was decided."""

    stage: Stage
    believed: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleRecord:
    """What a settlement has decided so far."""

    question: Mapping[str, object]
    """What may not change."""
    budget: float
    search: SearchPlan
    stages: tuple[Planned, ...] = ()
    rates: str = RATES
    """What determines the pilots' rates, so that no other pilots are taken for those that were run."""

    def with_stage(self, stage: Stage, believed: Mapping[str, object]) -> "SettleRecord":
        """One stage more."""
        return replace(self, stages=(*self.stages, Planned(stage=stage, believed=believed)))

    def save(self, folder: Path) -> None:
        """Write settle.json, atomically."""
        write_json(folder / FILE, asdict(self))


def identity(setting: Setting) -> dict[str, object]:
    """What makes it the same question: whatever pilots or their meaning depend on."""
    spec, engine = setting.spec, setting.pilots.spec
    teachers = {t.label: setting.pilots.facts.fingerprints[t.source] for t in engine.teachers}
    return {"text": setting.store_hash, "teachers": teachers, **_settings(spec)}


def _settings(spec: SettleSpec) -> dict[str, object]:
    assert spec.target is not None
    return {
        "target": asdict(spec.target),
        "level": spec.settle.level,
        "least_params": spec.settle.least_params,
        "training": asdict(spec.training),
        "batch_tokens": spec.batch_tokens,
        "peak_lr": spec.peak_lr,
        "seed": spec.seed,
    }


def check_folder(folder: Path, spec: SettleSpec) -> None:
    """Refuse a folder that holds something else, before text is prepared or a teacher scored.

    Raises:
        ConfigError: a study that is no settlement, or one of another question.
        CacheError: settle.json is damaged.
    """
    record = read_record(folder)
    if record is None:
        if (folder / "runs").exists():
            raise ConfigError(f"{folder} holds runs of something else; choose another folder with --out")
        return
    _compare(folder, record.question, _settings(spec))


def continue_record(folder: Path, setting: Setting, choose: Callable[[Setting], SearchPlan]) -> SettleRecord:
    """The record of the folder with the present budget, or a new one, whose search is chosen.

    Raises:
        ConfigError: the question changed, or the budget shrank.
    """
    asked, question = identity(setting), setting.question
    record = read_record(folder)
    if record is None:
        return SettleRecord(question=asked, budget=question.budget, search=choose(setting))
    _compare(folder, record.question, asked)
    if question.budget < record.budget * (1 - 1e-9):
        raise ConfigError(
            f"{folder} was begun with a budget of {format_flop(record.budget)}, now {format_flop(question.budget)}: "
            "its stages were chosen for that one. Give as much or more, or another folder with --out"
        )
    return replace(record, budget=question.budget)


def _compare(folder: Path, old: Mapping[str, object], new: Mapping[str, object]) -> None:
    changed = [name for name, value in new.items() if old.get(name) != value]
    if not changed:
        return
    was = "; ".join(_difference(name, old.get(name), new[name]) for name in changed)
    raise ConfigError(
        f"{folder} settles another question: {was}. Only the margin may change, and the budget upwards; choose another "
        "folder with --out"
    )


def _difference(name: str, old: object, new: object) -> str:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return f"{name} was {old}, now {new}"
    if name == "teachers" and old.keys() != new.keys():
        return f"teachers were {', '.join(old)}, now {', '.join(new)}"
    keys = [key for key in new if old.get(key) != new[key]]
    return ", ".join(f"{name} {key} was {old.get(key)}, now {new[key]}" for key in keys)


def read_record(folder: Path) -> SettleRecord | None:
    """The record of a folder, None where there is none.

    Raises:
        CacheError: damaged.
        ConfigError: of an earlier version.
    """
    file = folder / FILE
    if not file.exists():
        return None
    table = read_json(file)
    if table.get("rates") != RATES:
        raise ConfigError(
            f"{file} is an earlier version's, whose pilots had other learning rates: all would be trained again. "
            "Its answer stands in verdict.json; for a new one choose another folder with --out"
        )
    try:
        planned = [_planned(row) for row in list(table["stages"])]
        question = dict(table["question"])
        return SettleRecord(
            question=question,
            budget=float(table["budget"]),
            stages=tuple(planned),
            search=from_table(SearchPlan, table["search"], "search"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(f"{file}: damaged ({error}); choose another folder with --out") from error


def _planned(row: Mapping[str, object]) -> Planned:
    believed = row["believed"]
    assert isinstance(believed, dict)
    return Planned(stage=from_table(Stage, row["stage"], "stage"), believed=believed)


def stages_of(record: SettleRecord) -> list[Stage]:
    """The stages alone."""
    return [planned.stage for planned in record.stages]
