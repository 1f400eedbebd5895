"""What a target is declared to compute, how it is found and called; torch-free, to be checked before anything runs.

Intent is asked, not guessed: a field that changes the gradient has no default, and what is missing is named in one
error. A field whose absence means absence (no top-k, no clipping, no z-loss) may stay away.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean
from distillaw.runs.config import check_choice, from_table, read_toml

_REDUCTIONS = ("token-mean", "sequence-mean", "sum", "row-mean", "position-mean", "constant", "given")
_DIVERGENCES = (
    *("forward-kl", "reverse-kl", "jsd", "skew-kl", "skew-reverse-kl", "symmetric-kl"),
    *("tvd", "mse-logits", "mse-probs", "none"),
)
_CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "target": {
        "kind": ("loss", "loop", "trainer", "script", "store", "tokenizers"),
        "layout": ("btv", "nv"),
        "dtype": ("float64", "float32", "bfloat16"),
    },
    "training": {
        "schedule": ("constant", "linear", "cosine"),
        "counts": ("updates", "micro-steps"),
        "last_window": ("step", "drop"),
        "ranks": ("", "data", "tensor"),
        "per": ("update", "micro-batch"),
    },
    "objective": {
        "reduction": _REDUCTIONS,
        "hard_reduction": ("", *_REDUCTIONS),
        "divergence": _DIVERGENCES,
        "shift": ("inside", "outside"),
        "mask": ("labels", "attention", "all", "given"),
        "top_k_rule": ("", "renormalised", "zero", "subset", "tail"),
        "top_k_of": ("teacher", "student"),
        "clip_rule": ("", "entry", "token"),
        "vocabulary": ("same", "cut", "cut-both"),
        "reported": ("objective", "cross-entropy", "other"),
        "empty_rows": ("skip", "count"),
        "nothing_counts": ("zero",),
        "sampled": ("", "labels", "inside"),
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredLoss:
    """The loss: distill_weight T^2 D(p, q) + hard_weight CE + z_weight (log sum exp)^2, reduced over what counts."""

    divergence: str | None = None
    """A name (see `_DIVERGENCES`), or `file.py:function` of (log p, log q), both (N, V), that gives (N,)."""
    beta: float | None = None
    """jsd: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q, its ends the KLs; symmetric-kl: beta of
    the forward KL, the rest of the reverse."""
    skew: float | None = None
    """skew-kl: KL(p || skew p + (1 - skew) q); skew-reverse-kl: KL(q || (1 - skew) p + skew q)."""
    temperature: float | None = None
    """Both logits are divided by it in the divergence."""
    temperature_squared: bool | None = None
    """Whether the divergence is multiplied by T^2."""
    teacher_temperature: float | None = None
    """Where the teacher's is another."""
    hard_temperature: float = 1.0
    """Of the cross-entropy to the labels."""
    distill_weight: float | None = None
    """Of the divergence."""
    hard_weight: float | None = None
    """Of the cross-entropy to the labels. No rule ties the two weights: both are numbers."""
    weights_add_up: bool = False
    """Where one weight is an option: whether the other is what it lacks to their present sum."""
    reduction: str | None = None
    """token-mean: over counted tokens; sequence-mean: mean over rows of each row's mean; sum; row-mean: sum over
    tokens / rows; position-mean: over all positions, counted or not (that have a next, where labels are moved inside);
    constant: by `denominator`; given: by the argument num_tokens."""
    hard_reduction: str = ""
    """Of the cross-entropy where it is another."""
    denominator: float = 0.0
    """Of the reduction "constant"."""
    mask: str | None = None
    """Positions of the divergence: labels (label is not ignore_index), attention (all real tokens that have a next),
    all (that have a next, where labels are moved inside), or given (the argument mask)."""
    shift: str | None = None
    """inside: labels are the input ids and the target moves them by one; outside: they come moved."""
    ignore_index: int = -100
    top_k: int = 0
    """0: no truncation."""
    top_k_rule: str = ""
    """renormalised (teacher over its k), zero (not renormalised), subset (both over the k), tail (a bucket for the
    rest)."""
    top_k_of: str = "teacher"
    clip: float = 0.0
    """0: none."""
    clip_rule: str = ""
    """entry: each vocabulary entry's contribution, from above; token: each token's divergence."""
    label_smoothing: float = 0.0
    z_weight: float = 0.0
    vocabulary: str = "same"
    """Heads of unequal size: same: not meant to work; cut: to the common columns in the divergence; cut-both: in the
    cross-entropy too."""
    reported: str | None = None
    """What the returned value is: objective; cross-entropy (the divergence plus the teacher's entropy); other (a
    surrogate with the right gradient, not compared). Not declared: either of the first two; none is wrong."""
    empty_rows: str | None = None
    """sequence-mean, row-mean: rows without a counted token count as rows (count) or not (skip); None: either."""
    nothing_counts: str | None = None
    """zero: a batch without a counted token gives loss and gradient 0, not NaN. Not declared: noted, not judged."""
    sampled: str = ""
    """Estimators whose expected gradient is the declared one: labels (over labels drawn from the student, exactly) or
    inside (draws of its own: the mean of many calls)."""

    def but(self, **fields: Any) -> "DeclaredLoss":
        """The same with some fields changed."""
        return dataclasses.replace(self, **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a loop turns losses into updates."""

    accumulation: int | None = None
    """Micro-batches of an update."""
    per: str | None = None
    """What the reduction goes over: update (all micro-batches and ranks of one), or micro-batch (mean of means)."""
    last_window: str = "step"
    """An incomplete window at the end of an epoch makes a step, or is dropped."""
    lr: float = 0.5
    schedule: str = "constant"
    """constant, linear or cosine decay after warm-up."""
    warmup: int = 0
    """Updates (or micro-steps) to the full rate. The first has the rate 0 or lr / warmup, as `warmup_from_zero` says;
    not declared, either."""
    warmup_from_zero: bool | None = None
    final_lr: float = 0.0
    """At the horizon."""
    counts: str = "updates"
    """What the schedule counts: updates or micro-steps."""
    horizon: int = 0
    """Steps of the schedule; 0: all that the run has."""
    clip_norm: float = 0.0
    """Gradient norm clipped to it; 0: none."""
    weight_decay: float = 0.0
    decays_norms: bool = True
    """Whether vectors (norms, biases) decay too."""
    shuffles: bool = False
    epochs: int = 1
    ranks: str = ""
    """Two ranks have a share of the samples each (data), or the same samples and shards of the vocabulary (tensor). Not
    declared: data, for loops that take rank or world_size."""
    teacher_mode: str = "eval"
    """eval, or train where dropout of the teacher is meant."""
    student_mode: str = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredTarget:
    """How the target is called."""

    kind: str = "loss"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Role -> the target's own name of it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Passed as they are."""
    returns: str = ""
    """Key or attribute of the loss where a mapping or an object is returned."""
    layout: str = "btv"
    """btv: (batch, time, vocabulary); nv: positions flattened, labels moved outside."""
    batch: tuple[str, ...] = ()
    """Keys of a micro-batch (input_ids, attention_mask, labels, index) in this order, where the loop takes tuples."""
    dtype: str = "float64"
    """The lowest type in which it is meant to be exact: float64, float32 or bfloat16; logits of each are tried."""
    tolerance: float = 2e-5
    """Of gradients, relative to the largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """All that was declared."""

    target: DeclaredTarget = field(default_factory=DeclaredTarget)
    objective: DeclaredLoss = field(default_factory=DeclaredLoss)
    training: Training = field(default_factory=Training)
    assets: Mapping[str, Any] = field(default_factory=dict)
    """Paths of what lies on disk."""

    def undeclared(self) -> list[str]:
        """Fields that the objective needs and nobody declared."""
        o = self.objective
        needed = ["distill_weight", "hard_weight", "reduction", "mask", "shift"]
        if o.distill_weight != 0:
            needed += ["divergence", "temperature"]
            if o.temperature != 1 or "temperature" in self.target.arguments:
                needed.append("temperature_squared")
        if o.divergence in ("jsd", "symmetric-kl"):
            needed.append("beta")
        if str(o.divergence).startswith("skew"):
            needed.append("skew")
        missing = [f"objective.{name}" for name in needed if getattr(o, name) is None]
        missing += ["objective.top_k_rule"] if o.top_k and not o.top_k_rule else []
        missing += ["objective.clip_rule"] if o.clip and not o.clip_rule else []
        divides = "constant" in (o.reduction, o.hard_reduction)
        missing += ["objective.denominator"] if divides and not o.denominator else []
        if self.target.kind in ("loop", "trainer", "script"):
            missing += [f"training.{name}" for name in ("accumulation", "per") if getattr(self.training, name) is None]
        return missing


def read_contract(path: Path) -> Contract:
    """Read and check a contract.

    Raises:
        ConfigError: unknown keys, values out of range, or fields that were not declared, all of them named.
    """
    table = read_toml(path, written_by="`distillaw audit --new-contract` writes a contract to fill in")
    contract = from_table(Contract, table, f"{path}:")
    return checked(contract, str(path))


def checked(contract: Contract, where: str = "contract") -> Contract:
    """The contract, its gaps filled where a value follows from the others; ConfigError: as of `read_contract`."""
    o = contract.objective
    for table, fields in _CHOICES.items():
        for name, known in fields.items():
            value = getattr(getattr(contract, table), name)
            if value is not None and not (name == "divergence" and ":" in value):
                check_choice(f"{where}: {table}.{name}", value, known)
    for name in ("temperature", "teacher_temperature", "hard_temperature"):
        if (value := getattr(o, name)) is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{where}: objective.{name} = {value} must be above 0")
    for name in ("beta", "skew"):
        if (value := getattr(o, name)) is not None and not 0 <= value <= 1:
            raise ConfigError(f"{where}: objective.{name} = {value} must lie in [0, 1]")
    if contract.target.kind in ("store", "tokenizers"):
        return contract
    if missing := contract.undeclared():
        raise ConfigError(
            f"{where}: not declared: {', '.join(missing)}. What a target shall compute is not guessed from it: "
            "declare them (`distillaw audit --new-contract` writes every field with its choices)"
        )
    filled = dataclasses.replace(
        o,
        divergence=o.divergence or "none",
        temperature=1.0 if o.temperature is None else o.temperature,
        hard_reduction=o.hard_reduction or o.reduction or "",
    )
    return dataclasses.replace(contract, objective=filled)


TEMPLATE = Path(__file__).with_name("contract.toml").read_text(encoding="utf-8")
"""To fill in."""


# --- the target itself ------------------------------------------------------------------------------------------


def load(target: str) -> Any:
    """The object that `file.py:name` or `module:name` names.

    Raises:
        ConfigError: no such file, module or name; what importing it raised is part of the message.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise ConfigError(f"target {target!r}: give file.py:name or package.module:name")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"target {target!r}: importing {place} fails: {type(error).__name__}: {error}") from error
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            names = [n for n in vars(value) if not n.startswith("_")]
            raise ConfigError(f"target {target!r}: {place} has no {part!r}{did_you_mean(part, names)}")
        value = getattr(value, part)
    if not callable(value):
        raise ConfigError(f"target {target!r}: {name} is of type {type(value).__name__}; give a function or a class")
    return value


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"target: {path}: no such file")
    path = path.resolve()
    name = f"_audited_{path.stem}_{abs(hash(str(path)))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look themselves up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def match_roles(
    function: Callable[..., Any],
    target: DeclaredTarget,
    known: Mapping[str, Sequence[str]],
    *,
    by_place: Sequence[str] = (),
    unnamed: Sequence[str] = (),
) -> tuple[dict[str, str], list[str]]:
    """Role -> parameter, and the parameters that keep their defaults because nobody says what they mean.

    Args:
        function: what is called.
        target: its declared arguments, which win, and its options.
        known: role -> names of parameters, besides its own, that can mean nothing else.
        by_place: roles of the first free parameters where neither of the first two is found by name.
        unnamed: further roles, which have no usual names.

    Raises:
        ConfigError: a declared parameter that is not there, or one without a default that plays no role.
    """
    parameters = inspect.signature(function).parameters
    named = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    roles = dict(target.arguments)
    for role, name in roles.items():
        if name not in named and not any_name:
            raise ConfigError(
                f"target.arguments: {role} = {name!r}, but the target takes {', '.join(named) or 'no names'}"
            )
    taken = {*roles.values(), *target.options}
    for role, names in known.items():
        found = next((n for n in (role, *names) if n in named and n not in taken), None)
        if role not in roles and found is not None:
            roles[role] = found
            taken.add(found)
    if not any(role in roles for role in by_place[:2]):
        again = {roles.get(role) for role in by_place}
        free = [n for n in named if n not in taken or n in again]
        roles |= zip(by_place, free, strict=False)
        taken |= set(roles.values())
    undeclared = [n for n in named if n not in taken]
    if missing := sorted(n for n in undeclared if parameters[n].default is inspect.Parameter.empty):
        raise ConfigError(
            f"target: parameters {', '.join(missing)} have no default and no declared role: name them under "
            f"[target.arguments] (roles: {', '.join([*known, *unnamed])}) or give values under [target.options]"
        )
    return roles, undeclared
