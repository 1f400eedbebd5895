"""Probes of a loss: hostile batches, options, invariances; each gradient is compared with the declared closed form.

A case is a batch with options. Its gradient by the student's logits, and never its value alone, says whether it is
right; what is wrong in any case is named by recognise.py, or by what the case was made for.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from distillaw.audit.batches import RAGGED, Batch, Span, make_batch
from distillaw.audit.contract import Contract, DeclaredLoss, match_roles
from distillaw.audit.findings import GENERATION, LOOP_PROPERTIES, PROPERTIES, Findings, tell
from distillaw.audit.objective import closed_form
from distillaw.audit.recognise import Mismatch, diagnose, settle
from distillaw.errors import ConfigError

KNOWN_NAMES: dict[str, tuple[str, ...]] = {
    "student_logits": (),
    "teacher_logits": (),
    "labels": ("targets", "target"),
    "temperature": ("T", "tau"),
    **dict.fromkeys(("beta", "skew", "top_k", "attention_mask", "input_ids", "ignore_index", "vocab_size"), ()),
    "mask": ("loss_mask",),
    "prompt_lengths": ("prompt_length", "prompt_len"),
    "num_tokens": ("num_items_in_batch", "num_items"),
    "chunk": ("chunk_size", "chunk_tokens"),
}
"""Role -> names of parameters, besides its own, that can mean nothing else; others are declared (target.arguments)."""
OPTION_PROPERTY = {
    "temperature": "temperature",
    "beta": "direction",
    "skew": "direction",
    "top_k": "top-k",
    "distill_weight": "weights",
    "hard_weight": "weights",
}
DRAWS = 3000
"""Calls of an estimator with draws of its own; its gradient is compared to `SAMPLED_TOLERANCE`."""
SAMPLED_TOLERANCE = 0.15
HIDDEN = ("student_hidden", "student_head", "teacher_hidden", "teacher_head")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCase:
    """A batch, the options it is called with, and what a surprise in it would mean."""

    name: str
    batch: Batch
    property: str
    objective: DeclaredLoss
    chunk: int | None = None
    num_tokens: float | None = None
    dtype: torch.dtype = torch.float64


@dataclass(frozen=True, slots=True)
class LossOutcome:
    """What the target gave."""

    value: float
    gradient: torch.Tensor
    """(P, V), float64."""


Results = list[tuple[LossCase, LossOutcome, list[Mismatch]]]


class LossTarget:
    """A callable with its roles, called on cases."""

    def __init__(self, function: Callable[..., Any], contract: Contract) -> None:
        """Find which parameter plays which role.

        Raises:
            ConfigError: a parameter without a default that plays none, or a role whose parameter is not there.
        """
        self.function, self.contract = function, contract
        self.uses_hidden = any(role in contract.target.arguments for role in HIDDEN)
        self.roles, self.undeclared = match_roles(
            function,
            contract.target,
            # an option that was not declared keeps its default
            {r: n for r, n in KNOWN_NAMES.items() if r not in OPTION_PROPERTY or getattr(contract.objective, r)},
            by_place=() if self.uses_hidden else ("student_logits", "teacher_logits", "labels"),
            unnamed=("distill_weight", "hard_weight", *HIDDEN),
        )

    def has(self, role: str) -> bool:
        """Whether the target can be given it."""
        return role in self.roles

    def __call__(self, case: LossCase) -> LossOutcome:
        """Value and gradient by logits, expected ones of estimators; errors are the target's own."""
        rule, batch = case.objective.sampled, case.batch
        if not rule:
            return self.once(case)
        if rule == "inside":
            torch.manual_seed(0)
            each = [self.once(case) for _ in range(DRAWS)]
            mean = torch.stack([one.gradient for one in each]).mean(0)
            return LossOutcome(sum(one.value for one in each) / DRAWS, mean)
        q = batch.student.softmax(-1).flatten(0, 1)
        expected, value = torch.zeros_like(q), 0.0
        for token in range(q.shape[-1]):
            targets = torch.where(batch.targets >= 0, token, -100)
            one = self.once(dataclasses.replace(case, batch=dataclasses.replace(batch, targets=targets)))
            expected += q[:, token, None] * one.gradient
            value += one.value / q.shape[-1]
        return LossOutcome(value, expected)

    def once(self, case: LossCase) -> LossOutcome:
        """One call."""
        batch, o, target = case.batch, case.objective, self.contract.target
        dtype = case.dtype
        student = batch.student.detach().to(dtype, copy=True).requires_grad_(True)
        teacher = batch.teacher.detach().to(dtype, copy=True).requires_grad_(True)
        labels = batch.labels(inside=o.shift == "inside", ignore_index=o.ignore_index)
        given: dict[str, Any] = {
            "student_logits": student,
            "teacher_logits": teacher,
            "labels": labels,
            "attention_mask": batch.real.long(),
            "mask": batch.targets >= 0,
            "input_ids": batch.ids,
            "prompt_lengths": batch.prompts,
            "num_tokens": case.num_tokens if case.num_tokens is not None else int((batch.targets >= 0).sum()),
            "chunk": case.chunk or 4,
            "ignore_index": o.ignore_index,
            "vocab_size": min(batch.student.shape[-1], batch.teacher.shape[-1]),
        } | {name: getattr(o, name) for name in OPTION_PROPERTY}
        head: torch.Tensor | None = None
        if self.uses_hidden:
            own, other = (_head(n, dtype) for n in (batch.student.shape[-1], batch.teacher.shape[-1]))
            student = (batch.student.to(dtype) @ own).requires_grad_(True)
            given |= {
                "student_hidden": student,
                "student_head": own,
                "teacher_hidden": batch.teacher.to(dtype) @ other,
                "teacher_head": other,
            }
            head = own
        if target.layout == "nv":
            for name in ("student_logits", "teacher_logits", "student_hidden", "teacher_hidden"):
                if name in given:
                    given[name] = given[name].flatten(0, 1)
            for name in ("labels", "mask", "attention_mask", "input_ids"):
                given[name] = given[name].flatten()
        keywords = {name: given[role] for role, name in self.roles.items() if role in given}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = self.function(**keywords, **target.options)
        loss = taken_from(result, target.returns)
        if not loss.requires_grad:
            return LossOutcome(float(loss), torch.zeros_like(batch.student.flatten(0, 1)))
        loss.sum().backward()
        gradient = torch.zeros_like(student) if student.grad is None else student.grad
        gradient = gradient.to(torch.float64)
        if head is not None:
            gradient = gradient @ head.to(torch.float64).T
        return LossOutcome(float(loss.detach()), gradient.flatten(0, 1))


def _head(size: int, dtype: torch.dtype) -> torch.Tensor:
    """A head whose hidden states give any logits: a rotation, or, where that would round them, none."""
    if dtype != torch.float64:
        return torch.eye(size, dtype=dtype)
    g = torch.Generator().manual_seed(3)
    return torch.linalg.qr(torch.randn(size, size, generator=g, dtype=torch.float64))[0]


def taken_from(result: Any, returns: str) -> torch.Tensor:
    """The loss among what was returned; ConfigError: no loss there, or one of several numbers."""
    if isinstance(result, int | float):  # what a sum over nothing begins with
        return torch.tensor(float(result))
    if isinstance(result, torch.Tensor):
        found = result
    elif isinstance(result, Mapping):
        found = result.get(returns or "loss")
    elif isinstance(result, tuple | list) and not returns:
        found = result[0]
    else:
        found = getattr(result, returns or "loss", None)
    if not isinstance(found, torch.Tensor):
        raise ConfigError(
            f"target: returns a {type(result).__name__} without a tensor {returns or 'loss'!r}; say under "
            "target.returns which key or attribute is the loss"
        )
    if found.numel() != 1:
        raise ConfigError(
            f"target: the loss that it returns has shape {tuple(found.shape)}; a loss is one number: reduce it, or "
            "audit a function that does"
        )
    return found


# --- the cases ----------------------------------------------------------------------------------------------


def cases_of(target: LossTarget) -> Iterator[LossCase]:
    """What a loss is called on; the plainest first."""
    o = target.contract.objective
    # with left pads it is a matter of taste where the first real token is predicted
    base = make_batch([(0, p, a, left + right) for left, p, a, right in RAGGED] if o.mask == "attention" else RAGGED)

    def case(name: str, batch: Batch, property: str, objective: DeclaredLoss = o, **more: Any) -> LossCase:
        return LossCase(name=name, batch=batch, property=property, objective=objective, **more)

    yield case("four ragged rows", base, "loss")
    yield case("two rows of seven", make_batch([(0, 2, 4, 1), (0, 4, 3, 0)], seed=1), "loss")
    yield case("one-token answers", make_batch([(0, 3, 1, 2), (0, 5, 1, 0), (1, 4, 1, 0)], seed=2), "mask")
    yield case("the batch twice", base.pick([0, 1, 2, 3, 0, 1, 2, 3]), "normalisation")
    yield case("five more pads", base.padded(5), "mask")
    yield case("rows in another order", base.pick([2, 0, 3, 1]), "normalisation")
    for row in range(4):
        yield case(f"row {row} alone", base.pick([row]), "shift")
    if o.sampled == "inside":
        return
    empty: list[Span] = [(0, 12, 0, 0), (0, 3, 5, 4)]
    yield case("a row in which nothing counts", make_batch(empty, seed=3), "mask")
    nothing = make_batch([(0, 12, 0, 0)] * 2, seed=4)  # of a window in which something does
    count = 18.0 if "given" in (o.reduction, o.hard_reduction) else None
    yield case("a batch in which nothing counts", nothing, "mask", num_tokens=count)
    yield case("strong disagreement", make_batch(seed=5, scale=6.0), "loss")
    small = make_batch(seed=6, scale=0.05)
    yield case("small logits", small, "temperature")
    yield case("logits moved by a constant per position", _moved(base), "vocabulary")
    yield case("student equal to teacher", base.with_logits(base.student, base.student.clone()), "loss")
    yield case("disjoint distributions", _disjoint(), "precision")
    if o.vocabulary != "same":
        for own, other in ((17, 20), (20, 17)):
            wide = _moved(make_batch(vocab=own, teacher_vocab=other, seed=8, scale=0.5))
            yield case(f"heads of {own} and {other} columns", wide, "vocabulary")
    yield from _option_cases(target, base)
    if target.has("chunk"):
        for chunk in (1, 2, 3, 5, 7, 64):
            yield case(f"chunks of {chunk}", base, "chunking", chunk=chunk)
    if target.has("num_tokens") and "given" in (o.reduction, o.hard_reduction):
        yield case("three times as many tokens in the window", base, "accumulation", num_tokens=54.0)
    if target.has("ignore_index"):
        other = o.but(ignore_index=-1)
        yield case("ignore_index -1", base, "mask", other)


def _moved(batch: Batch) -> Batch:
    """Constants that no softmax sees; sides by different ones."""
    rows, width = batch.ids.shape
    own = torch.linspace(-9, 4, rows * width, dtype=torch.float64).view(rows, width, 1)
    return batch.with_logits(batch.student + own, batch.teacher - own.flip(0) - 6)


def _disjoint() -> Batch:
    batch = make_batch(seed=9, scale=1.0)
    student, teacher = batch.student.clone(), batch.teacher.clone()
    student[..., :8] += 40
    teacher[..., 8:] += 40
    return batch.with_logits(student, teacher)


def _option_cases(target: LossTarget, base: Batch) -> Iterator[LossCase]:
    o = target.contract.objective
    values: dict[str, tuple[float, ...]] = {
        "temperature": (1.0, 2.0, 4.0, 0.7),
        "beta": (0.1, 0.5, 0.9),
        "skew": (0.1, 0.3),
        "top_k": (2, 5) if o.top_k else (),
    }
    for name, tried in values.items():
        if not target.has(name) or (name != "temperature" and not getattr(o, name)):
            continue
        for value in tried:
            if value != getattr(o, name) and (name != "temperature" or o.temperature_squared is not None):
                other = o.but(**{name: value})
                yield LossCase(name=f"{name} {value:g}", batch=base, property=OPTION_PROPERTY[name], objective=other)
    soft, hard = target.has("distill_weight"), target.has("hard_weight")
    assert o.distill_weight is not None and o.hard_weight is not None
    whole = o.distill_weight + o.hard_weight
    for value in (0.0, 0.2, 1.0):
        if soft and hard:
            both = {"distill_weight": value, "hard_weight": 0.7}
        elif (soft or hard) and o.weights_add_up:
            share = value * whole
            both = {"distill_weight": share, "hard_weight": whole - share}
            if hard:
                both = {"hard_weight": share, "distill_weight": whole - share}
        else:
            return
        if both != {"distill_weight": o.distill_weight, "hard_weight": o.hard_weight}:
            name = f"weights {both['distill_weight']:g} and {both['hard_weight']:g}"
            yield LossCase(name=name, batch=base, property="weights", objective=o.but(**both))


# --- the audit ----------------------------------------------------------------------------------------------


def audit_loss(function: Callable[..., Any], contract: Contract, name: str) -> Findings:
    """Every probe of a loss.

    Args:
        function: the loss.
        contract: what it is declared to compute; checked.
        name: of the target, as reports show it.

    Raises:
        ConfigError: the target cannot be called as the contract says.
    """
    target = LossTarget(function, contract)
    findings = Findings(name, "loss")
    results: Results = []
    searches = 3  # a shape is named in a few cases, or in none
    for number, case in enumerate(cases_of(target)):
        tell(case.name)
        try:
            outcome = target(case)
        except ConfigError:
            raise
        except Exception as error:
            if number == 0:
                raise ConfigError(
                    f"target {name}: the call on {case.name} fails: {type(error).__name__}: {error}; see "
                    "[target.arguments] and [target.options]"
                ) from error
            says = f"it raises {type(error).__name__}: {str(error)[:160]}"
            findings.wrong(case.property, says, case.name)
            continue
        found = diagnose(
            outcome.gradient,
            case.batch.rows(case.num_tokens),
            case.objective,
            tolerance=SAMPLED_TOLERANCE if case.objective.sampled == "inside" else contract.target.tolerance,
            searches=searches > 0,
        )
        searches -= any(m.term == "" for m in found)
        results.append((case, outcome, found))
    if all(found and found[0].property == "finite" for *_, found in results):
        says = f"the gradient is not finite in any of {len(results)} cases"
        findings.wrong("loss", says, results[0][0].name, smallest_example(target, results[0][0]))
        findings.close({}, dict.fromkeys(PROPERTIES, "no case gives a finite gradient"))
        return findings
    _judge(findings, target, results)
    _options_matter(findings, target, results)
    _values(findings, contract, results)
    if not contract.objective.sampled:
        _precision(findings, target)
    _rights(findings, target, results)
    return findings


def _judge(findings: Findings, target: LossTarget, results: Results) -> None:
    """Wrong properties: named by what fits; what no variant explains, by the case it appears in first."""
    failing = [(case, found) for case, _, found in results if found]
    if not failing:
        return
    named: list[tuple[str, list[Mismatch]]] = []
    plain_fails = failing[0][0] is results[0][0]
    if not (failing := _judged(findings, target, failing)):
        return
    for case, found in failing:
        own = []
        for each in found:
            if each.property == "finite":
                property = case.property if case.property in ("mask", "precision") else "precision"
                own.append(each._replace(property=property))
            elif each.is_unnamed and not plain_fails:
                own.append(each._replace(property=case.property))
            else:
                own.append(each)
        named.append((case.property, own))
    told = settle(named, plain_is_right=not plain_fails)
    if all(each.is_unnamed for each in told):
        for says in _couplings(target, results[0][0]):
            findings.wrong("loss", says, results[0][0].name)
    for each in told:
        cases = [(case, m) for (case, _), (_, own) in zip(failing, named, strict=True) for m in own]
        alike = [case for case, m in cases if each.says in (m.says, *(says for _, says in m.candidates))]
        alike += [case for case, m in cases if (m.property, m.term) == (each.property, each.term)]
        at = alike[0] if alike else failing[0][0]
        findings.wrong(each.property, each.says, at.name, smallest_example(target, at))


def _judged(
    findings: Findings, target: LossTarget, failing: list[tuple[LossCase, list[Mismatch]]]
) -> list[tuple[LossCase, list[Mismatch]]]:
    """The failing cases less those that only say what nobody declared: NaN where nothing counts."""
    if target.contract.objective.nothing_counts is not None:
        return failing
    finite = []
    for case, found in failing:
        if "nothing counts" in case.name and any(m.property == "finite" for m in found):
            says = f'{case.name} gives NaN; objective.nothing_counts = "zero" declares that it must not'
            findings.notes.append(says)
        else:
            finite.append((case, found))
    return finite


def _couplings(target: LossTarget, case: LossCase) -> list[str]:
    """Whether one position's logits move another position's gradient."""
    batch = case.batch
    place = (0, int(batch.prompts[0]))
    before = target(case).gradient.view(*batch.ids.shape, -1)
    said = []
    for side in ("student", "teacher"):
        logits = {"student": batch.student.clone(), "teacher": batch.teacher.clone()}
        logits[side][place][1] += 2.0
        after = target(dataclasses.replace(case, batch=batch.with_logits(**logits))).gradient.view_as(before)
        moved = (after - before).abs().amax(-1) > 1e-9
        moved[place] = False
        if others := int(moved.sum()):
            said.append(f"one logit of the {side} at row 0, position {place[1]} moves the gradient of {others} others")
    return said


def smallest_example(target: LossTarget, case: LossCase) -> dict[str, Any]:
    """The smallest batch in which this fails: what goes in, what comes out, what should."""
    tries: list[tuple[list[Span], int]] = [
        ([(0, 1, 1, 0)], 3),
        ([(0, 1, 2, 0)], 3),
        ([(0, 1, 2, 1)], 4),
        ([(0, 1, 1, 2), (0, 1, 3, 0)], 4),
        ([(0, 2, 2, 0), (0, 1, 2, 1)], 6),
    ]
    found, batch, outcome = case, case.batch, None
    for spans, vocab in tries:
        small = make_batch(spans, vocab=max(vocab, case.objective.top_k + 2), seed=11)
        one = dataclasses.replace(case, batch=small)
        try:
            gave = target(one)
        except Exception:
            continue
        want = closed_form(small.rows(case.num_tokens), case.objective).gradient
        size = max(float(want.abs().max()), float(gave.gradient.abs().max()), 1e-12)
        if not float((gave.gradient - want).abs().max()) <= 1e-4 * size:
            found, batch, outcome = one, small, gave
            break
    outcome = outcome or target(found)
    want = closed_form(batch.rows(case.num_tokens), case.objective).gradient
    worst = int((outcome.gradient - want).abs().amax(-1).nan_to_num(nan=float("inf")).argmax())
    width = batch.ids.shape[1]
    example: dict[str, Any] = {
        "rows": batch.ids.shape[0],
        "positions": width,
        "vocabulary": batch.student.shape[-1],
        "row": worst // width,
        "position": worst % width,
        "gradient": _listed(outcome.gradient[worst]),
        "declared": _listed(want[worst]),
    }
    if batch.ids.numel() * batch.student.shape[-1] <= 60:
        labels = batch.labels(inside=case.objective.shift == "inside", ignore_index=case.objective.ignore_index)
        example |= {
            "labels": labels.tolist(),
            "student_logits": _listed(batch.student),
            "teacher_logits": _listed(batch.teacher),
        }
    return example


def _listed(x: torch.Tensor) -> Any:
    return (x * 1e6).round().div(1e6).tolist()


def _options_matter(findings: Findings, target: LossTarget, results: Results) -> None:
    """An option that moves nothing where its effect is declared."""
    base = results[0]
    if any("no influence" in m.says for m in base[2]):
        return  # then its options have none either
    for case, outcome, _ in results[1:]:
        option = case.name.split()[0]
        if case.batch is not base[0].batch or case.objective == base[0].objective:
            continue
        if option not in OPTION_PROPERTY and option != "weights":
            continue
        want = closed_form(case.batch.rows(), case.objective).gradient
        had = closed_form(base[0].batch.rows(), base[0].objective).gradient
        if torch.equal(outcome.gradient, base[1].gradient) and not torch.allclose(want, had):
            says = f"the option {target.roles.get(option, option)} has no influence"
            findings.wrong(OPTION_PROPERTY.get(option, "weights"), says, case.name)
            findings.wrong("options", says, case.name)
    if target.undeclared:
        findings.untestable("options", f"not declared what they mean: {', '.join(target.undeclared)}")


def _values(findings: Findings, contract: Contract, results: Results) -> None:
    """The reported number, where the gradient is right; and its slope everywhere."""
    reported = contract.objective.reported
    if reported == "other":
        findings.untestable("value", "declared to be a surrogate whose value means nothing")
        return
    for case, outcome, found in results:
        if found or case.property == "precision" or contract.objective.sampled:
            continue
        rules = ("skip", "count") if case.objective.empty_rows is None else (case.objective.empty_rows,)
        rows = case.batch.rows(case.num_tokens)
        forms = [closed_form(rows, case.objective.but(empty_rows=rule)) for rule in rules]
        closed = min(forms, key=lambda each: float((each.gradient - outcome.gradient).abs().max()))
        whole = {"objective": closed.value, "cross-entropy": closed.value + closed.entropy}
        wants = [whole[reported]] if reported else list(whole.values())
        slack = 1e-6 * max(1.0, abs(wants[0])) + 10 * contract.target.tolerance * abs(wants[0])
        if any(abs(outcome.value - want) <= slack for want in wants):
            continue
        is_finite = math.isfinite(outcome.value)
        if not is_finite and "nothing counts" in case.name and contract.objective.nothing_counts is None:
            what = f"{case.name} gives {outcome.value}; objective.nothing_counts declares what it should"
            findings.notes.append(what)
            continue
        says = f"it reports {outcome.value:.6g} for {wants[0]:.6g}"
        if reported and abs(outcome.value - whole[{"objective": "cross-entropy"}.get(reported, "objective")]) <= slack:
            other = "the cross-entropy to the teacher" if reported == "objective" else "the divergence"
            findings.add("value", "differs", f"{says}, which is {other}; the gradient is the declared one", case.name)
        elif not is_finite:
            findings.wrong(case.property if case.property == "mask" else "value", says, case.name)
        else:
            findings.add("value", "wrong" if reported else "differs", says, case.name)


def _slope_error(target: LossTarget, case: LossCase) -> float:
    """Relative error of the value's finite difference along the gradient."""
    gradient = target(case).gradient
    way = (gradient / gradient.abs().max().clamp_min(1e-12)).view_as(case.batch.student)
    step = 1e-3  # losses that work in float32 inside have no digits for less
    moved = [case.batch.with_logits(case.batch.student + sign * step * way, case.batch.teacher) for sign in (1, -1)]
    ends = [target(dataclasses.replace(case, batch=batch)).value for batch in moved]
    along = float((gradient * way.flatten(0, 1)).sum())
    return abs((ends[0] - ends[1]) / (2 * step) - along) / max(abs(along), 1e-9)


def _precision(findings: Findings, target: LossTarget) -> None:
    """Low precision and near-equal pairs, against the same target in float64 on the very same numbers."""
    o = target.contract.objective
    g = torch.Generator().manual_seed(17)
    vocab = max(64, o.top_k + 1)
    wide = make_batch([(0, 2, 5, 1), (0, 3, 5, 0)], vocab=vocab, seed=12)
    near = wide.with_logits(wide.student / 2, wide.student / 2 + torch.randn(wide.student.shape, generator=g) * 0.1)
    large = wide.with_logits(wide.student * 6, wide.teacher * 5)
    apart = wide.with_logits(wide.student.clone(), wide.teacher.clone())
    apart.student[..., : vocab // 2] += 120 * (o.temperature or 1.0)
    apart.teacher[..., vocab // 2 :] += 120 * (o.temperature or 1.0)
    tried, lowest = 0, target.contract.target.dtype
    types = [(torch.float32, 2e-4)] + [(torch.bfloat16, 0.02)] * (lowest == "bfloat16")
    pairs = [("near-equal", near), ("far apart", large)] + [("disjoint", apart)] * (lowest != "float64")
    for dtype, slack in types:
        for name, batch in pairs:
            exact = batch.with_logits(batch.student.to(dtype).double(), batch.teacher.to(dtype).double())
            says = f"{name} logits in {str(dtype).removeprefix('torch.')}"
            case = LossCase(name=says, batch=exact, property="precision", objective=o, dtype=dtype)
            wanted = closed_form(exact.rows(), o)
            try:
                outcome = target(case)
                plain = target(dataclasses.replace(case, dtype=torch.float64))
            except Exception as error:
                findings.untestable("precision", f"{case.name}: {type(error).__name__}: {str(error)[:80]}")
                continue
            tried += 1
            natural = 0.05 * float(wanted.a.max() / (o.temperature or 1.0) + wanted.b.max())
            size = max(float(plain.gradient.abs().max()), 0.0 if name == "near-equal" else natural)
            # what is wrong in float64 already is named elsewhere
            gap = float((outcome.gradient - plain.gradient).abs().max())
            if not bool(outcome.gradient.isfinite().all()):
                findings.wrong("precision", "the gradient is not finite", case.name)
            elif name != "disjoint" and gap > slack * max(size, 1e-12):
                says = f"the gradient is off by {gap / max(size, 1e-12):.2g} of its largest entry"
                findings.wrong("precision", says, case.name)
            is_below = outcome.value < -1e-3 * (1 + abs(wanted.value)) and plain.value >= 0
            if is_below and o.reported in (None, "objective"):
                findings.wrong("precision", f"a divergence reads {outcome.value:.4g}", case.name)
    if tried:
        how = "in float32" if lowest != "bfloat16" else "in float32 and bfloat16"
        more = "; declare target.dtype for lower types" if lowest == "float64" else ""
        findings.right("precision", f"{tried} pairs {how}, and disjoint distributions{more}")


def _rights(findings: Findings, target: LossTarget, results: Results) -> None:
    """What was looked at, for every property that could have failed."""
    o = target.contract.objective
    count = len(results)
    base = results[0]
    said = {
        "shift": "position by position, each row alone",
        "mask": "influence of every position; pads, one-token answers, rows and batches in which nothing counts",
        "normalisation": "the batch twice, more pads, rows alone, other orders",
        "loss": f"{count} gradients by logits against the closed form, strong disagreement and identity among them",
    }
    if o.distill_weight:
        said["temperature"] = "T in turn" if target.has("temperature") else f"at the declared T = {o.temperature:g}"
        said["direction"] = "beta in turn" if target.has("beta") else f"{o.divergence} as declared"
        said["vocabulary"] = "constants per position" + (", heads of unequal size" if o.vocabulary != "same" else "")
    said["weights"] = "weights in turn" if target.has("distill_weight") or target.has("hard_weight") else "as declared"
    if o.top_k:
        said["top-k"] = f"k = {o.top_k}, {o.top_k_rule}"
    if target.has("chunk"):
        said["chunking"] = "chunks of 1 to 64 tokens"
    if o.reported != "other" and not o.sampled:
        error = max(_slope_error(target, case) for case, *_ in results[:2])
        if error > 1e-2:
            findings.wrong("value", f"the slope of the value is off the gradient by {error:.2g}", base[0].name)
        said["value"] = "value and finite differences"
    if any(map(target.has, OPTION_PROPERTY)):
        said["options"] = "each declared option changes the gradient as declared"
    reasons = dict.fromkeys(("temperature", "direction", "vocabulary"), "no divergence is declared") | {
        "top-k": "no truncation is declared",
        "chunking": "the target takes no chunk size (role chunk)",
        "options": "no option is declared (temperature, beta, weights under [target.arguments])",
    }
    loop = "a loss knows nothing of it; audit the loop, the trainer or the script (target.kind)"
    findings.close(said, dict.fromkeys(LOOP_PROPERTIES, loop) | reasons | {"generation": GENERATION})
