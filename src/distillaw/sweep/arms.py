"""One student, several ways to come by it, at equal tokens.

From a cut, from fresh weights of the same architecture, from a smaller model that was trained before; each taught by
the teacher and alone on the text. All arms read the same batches at the same steps, and the teacher reads each batch
once for all that it teaches. Their held-out losses are compared in pairs, document by document. Where several rates
are given, each arm tries each for a part of the tokens and keeps its own best: arms of unlike starts want unlike rates.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from distillaw.data.prepare import DataSpec, check_home, require_tokens
from distillaw.data.shards import TokenStore
from distillaw.data.tokenizer import load_tokenizer
from distillaw.errors import ConfigError
from distillaw.models.parallel import ALONE, Ranks
from distillaw.models.source import check_config, fingerprint, locate
from distillaw.models.teacher import check_vocabulary
from distillaw.runs.files import write_json
from distillaw.runs.paired import DocumentScores, paired_difference
from distillaw.runs.spec import Recipe, TrunkSpec
from distillaw.runs.store import StudyFolder
from distillaw.sweep.checks import check_training
from distillaw.sweep.ready import TrunkJob
from distillaw.sweep.scheduler import Display
from distillaw.sweep.single import result_of, started, train_missing, trainable_text
from distillaw.train.checkpoint import remove_states

RECORD = "arms.json"
PILOT_SHARE = 8
"""A rate is tried for this part of the tokens."""
UNTAUGHT = "-alone"
TEACHER_SHARE = 0.05
"""Of the text, that no student reads: the teacher was trained elsewhere, and a cut is calibrated on a part of this."""
WARMUP_SHARE = 20
"""A run warms up for this part of its tokens: starts that were trained before lose much of what they know to a rate
that is high at once. One in twenty is a habit, which nothing here has measured."""


def text_of_arms(corpus: str, teacher: str, **reading: Any) -> DataSpec:
    """The text of arms, in the teacher's tokens; `reading` has other fields of `DataSpec`."""
    made_by = reading.pop("tokenizer", "") or teacher
    return DataSpec(corpus=corpus, tokenizer=made_by, teacher_share=TEACHER_SHARE, **reading)


def recipe_of_arms(tokens: int, *, context: int, distill_weight: float) -> Recipe:
    """How arms are trained: without the z-loss, which would pull at starts that were trained without it."""
    warmup = tokens // WARMUP_SHARE
    return Recipe(context=context, distill_weight=distill_weight, warmup_tokens=warmup, z_weight=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmsSpec:
    """What is compared."""

    teacher: str
    start: str
    """The student: a folder, mostly of `distillaw prune`."""
    tokens: int
    smaller: str = ""
    """A smaller model that was trained before, of the same vocabulary; empty: no such arm."""
    rates: tuple[float, ...] = (1e-3,)
    """Peak rates of AdamW; of several each arm keeps its best."""
    alone: bool = True
    """Whether each start is also trained without the teacher."""
    fresh: bool = True
    """Whether the student's architecture is also trained from fresh weights."""
    batch_tokens: int = 1024
    seed: int = 0
    data: DataSpec = field(default_factory=DataSpec)
    training: Recipe = field(default_factory=Recipe)

    @property
    def num_arms(self) -> int:
        """The start itself, fresh weights and a smaller model where they are wanted, each with a twin alone."""
        return (1 + self.fresh + bool(self.smaller)) * (1 + self.alone)

    @property
    def pilot_tokens(self) -> int:
        """Tokens for which a rate is tried."""
        return self.tokens // PILOT_SHARE // self.batch_tokens * self.batch_tokens

    def check(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ConfigError: a share of the teacher, rates, a number of tokens or of documents out of range.
        """
        if not 0 < self.training.distill_weight <= 1:
            raise ConfigError(
                f"--lambda {self.training.distill_weight:g}: the teacher's share of the loss, above 0 and at most 1"
            )
        check_training(self.training, self.data, batch_tokens=self.batch_tokens)
        if not self.rates or not all(0 < rate < 1 for rate in self.rates):
            raise ConfigError(f"rates {list(self.rates)}: one or more peak rates between 0 and 1, e.g. 1e-3")
        steps = (self.pilot_tokens if len(self.rates) > 1 else self.tokens) / self.batch_tokens
        if steps < 4:
            raise ConfigError(
                f"tokens = {self.tokens:,} at {self.batch_tokens} per batch leave {steps:.0f} steps to "
                f"{'a pilot (an eighth)' if len(self.rates) > 1 else 'a run'}; give more tokens or a smaller batch"
            )


def train_arms(
    spec: ArmsSpec, folder: Path, *, display: Display, command: str = "", ranks: Ranks = ALONE
) -> dict[str, object]:
    """Train every arm (what is finished is left as it is), compare them and write arms.json and runs.parquet.

    Args:
        ranks: the processes that train every arm together; all call this.

    Returns:
        What arms.json holds.

    Raises:
        ConfigError, DataError, CacheError, VocabularyError: before anything is trained.
        RunError: an arm diverged, the disk is full, or asked to stop by SIGTERM (checkpoints saved).
        KeyboardInterrupt: asked to stop by Ctrl-C (checkpoints saved).
    """
    spec.check()
    ranks.first(lambda: check_home(spec.data, folder))
    study = StudyFolder(folder.resolve())
    with ranks.held(study.path, f"the folder {folder}"):
        store = trainable_text(spec.data, spec.training, spec.batch_tokens, study, ranks, display)
        require_tokens(store, {"student": spec.tokens}, context=spec.training.context)
        trunks = ranks.told(lambda: dict(_trunks(spec, store)))
        arms = {name: TrunkJob(trunk=trunk, budgets=(spec.tokens,)) for name, trunk in trunks.items()}
        arms = _tuned(spec, arms, study, ranks, display)
        train_missing(arms.values(), study, ranks, display)
        return ranks.told(lambda: _finish(spec, arms, study, command))


def _finish(spec: ArmsSpec, arms: Mapping[str, TrunkJob], study: StudyFolder, command: str) -> dict[str, object]:
    record = _compare(spec, arms, study, command)
    study.write_table({(job.run_ids[0], job.trunk.start_arm): name for name, job in arms.items()})
    write_json(study.path / RECORD, record)
    return record


def bare_trunk(
    store: TokenStore, recipe: Recipe, *, rate: float, batch_tokens: int, seed: int, split: str = "student"
) -> TrunkSpec:
    """A trunk that reads a split of a text with no teacher; `started` gives it its model."""
    return TrunkSpec(
        role="student",
        purpose="grid",
        label="",
        layers=0,
        width=0,
        ffn=0,
        heads=0,
        params=0,
        total_params=0,
        vocab_size=int(store.manifest["vocab_size"]),
        seed=seed,
        split=split,
        peak_lr=rate,
        batch_tokens=batch_tokens,
        recipe=recipe,
        data_hash=store.data_hash,
    )


def _trunks(spec: ArmsSpec, store: TokenStore) -> Iterator[tuple[str, TrunkSpec]]:
    """(arm, trunk) at the first rate."""
    tokenizer = load_tokenizer(str(store.tokenizer_folder))
    teacher = locate(spec.teacher)
    check_config(teacher, context=spec.training.context)
    check_vocabulary(teacher, tokenizer)
    name = str(Path(spec.teacher).resolve()) if Path(spec.teacher).exists() else spec.teacher
    bare = replace(
        bare_trunk(store, spec.training, rate=spec.rates[0], batch_tokens=spec.batch_tokens, seed=spec.seed),
        teacher_run=name,
        teacher_fingerprint=fingerprint(teacher),
    )
    starts = [started(bare, spec.start, tokenizer)]
    if spec.fresh:
        starts.append(started(bare, spec.start, tokenizer, draws_weights=True))
    if spec.smaller:
        starts.append(started(bare, spec.smaller, tokenizer))
    names = [trunk.init for trunk in starts[:-1]] + ["smaller"] if spec.smaller else [trunk.init for trunk in starts]
    for arm, trunk in zip(names, starts, strict=True):
        yield arm, trunk
        if spec.alone:
            yield arm + UNTAUGHT, replace(trunk, teacher_run=None, teacher_fingerprint=None)


def _tuned(
    spec: ArmsSpec, arms: Mapping[str, TrunkJob], study: StudyFolder, ranks: Ranks, display: Display
) -> dict[str, TrunkJob]:
    """Each arm at its own best rate; the best pilot goes on from where it stopped."""
    if len(spec.rates) == 1:
        return dict(arms)
    pilots = {
        arm: [TrunkJob(trunk=replace(job.trunk, peak_lr=rate), budgets=(spec.pilot_tokens,)) for rate in spec.rates]
        for arm, job in arms.items()
    }
    for k in range(len(spec.rates)):  # one rate of all arms at a time: they share the teacher's forward passes
        train_missing([tried[k] for tried in pilots.values()], study, ranks, display)
    tuned = {}
    for arm, tried in pilots.items():
        losses = [float(str(result_of(job, study, ranks)["loss"])) for job in tried]
        best = losses.index(min(losses))
        for job in (tried[:best] + tried[best + 1 :]) if ranks.is_first else ():
            remove_states(study.trunk(job.trunk.trunk_id) / "state")
        tuned[arm] = replace(tried[best], budgets=(spec.tokens,))
        edge = "" if 0 < best < len(losses) - 1 else " (at the edge of what was tried)"
        display.note(
            f"{arm}: rate {spec.rates[best]:g}{edge}, of "
            + ", ".join(f"{rate:g}: {loss:.3f}" for rate, loss in zip(spec.rates, losses, strict=True))
        )
    return tuned


def _compare(spec: ArmsSpec, arms: Mapping[str, TrunkJob], study: StudyFolder, command: str) -> dict[str, object]:
    """The arms by loss, each with its paired difference from the best."""
    results = {arm: result_of(job, study, ALONE) for arm, job in arms.items()}
    order = sorted(results, key=lambda arm: float(results[arm]["loss"]))
    scores = {arm: study.run(job.run_ids[0]).scores() for arm, job in arms.items()}
    rows = []
    for arm in order:
        keys = (
            "run_id init params total_params tokens start_loss loss loss_se peak_lr teacher_loss "
            "teacher_total_params lambda train_flops teacher_flops seconds"
        ).split()
        row: dict[str, object] = {"arm": arm, "taught": results[arm]["teacher_run"] is not None}
        row |= {key: results[arm][key] for key in keys}
        behind = paired_difference(scores[arm], scores[order[0]])
        row |= {"behind_best": behind.mean, "behind_best_interval": None if arm == order[0] else behind.interval()}
        rows.append(row)
    first = scores[order[0]]
    return {
        "command": command,
        "teacher": spec.teacher,
        "start": spec.start,
        "smaller": spec.smaller,
        "best": order[0],
        "tokens": spec.tokens,
        "seed": spec.seed,
        "heldout_documents": len(first.tokens),
        "heldout_tokens": int(first.tokens.sum()),
        "level": 0.9,
        "pairs": _pairs(scores),
        "arms": rows,
        "training": asdict(spec.training),
    }


def _pairs(scores: Mapping[str, DocumentScores]) -> list[dict[str, object]]:
    """What the two choices are worth: a start against fresh weights, the teacher against none."""
    taught = [arm for arm in scores if not arm.endswith(UNTAUGHT)]
    alone = [(arm.removesuffix(UNTAUGHT), arm) for arm in scores if arm not in taught]
    wanted = [(f"{first}: the teacher against the text alone", first, second) for first, second in alone]
    if "fresh" in scores:
        wanted += [(f"{arm} against fresh weights", arm, "fresh") for arm in taught if arm != "fresh"]
    pairs: list[dict[str, object]] = []
    for what, first, second in wanted:
        gain = paired_difference(scores[second], scores[first])
        pairs.append(
            {
                "what": what,
                "first": first,
                "second": second,
                "gain": gain.mean,
                "gain_se": gain.se,
                "interval": gain.interval(),
                "documents": gain.documents,
            }
        )
    return pairs
