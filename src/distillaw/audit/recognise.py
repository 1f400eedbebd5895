"""Takes an observed gradient apart: what each position computes, and how much it counts.

A position's gradient by its logits is a_t D_t + b_t C_t: two unknowns, as many equations as tokens of the vocabulary.
If the declared D and C leave no residual, the shape is right, and a and b alone say what mask, shift, mean and weights
are. If they do, known variants, other positions' teacher rows and other labels are tried, and what fits is named.
Shape suffixes: P position, V vocabulary.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from distillaw.audit.contract import DeclaredLoss
from distillaw.audit.objective import Closed, Rows, closed_form, hard_token, per_token, slope, weights
from distillaw.audit.variants import hard_shapes, shapes, weightings


class Mismatch(NamedTuple):
    """One thing that is not as declared."""

    property: str
    says: str
    candidates: tuple[tuple[str, str], ...] = ()
    """(property, sentence) that explain a ratio here; those that explain it everywhere are true."""
    term: str = ""
    is_ratio: bool = False

    @property
    def is_unnamed(self) -> bool:
        """Whether no known variant explains it."""
        return self.says.startswith("cosine")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Observed:
    """A gradient with all that is known of it."""

    gradient: torch.Tensor
    """(P, V), less the z-loss."""
    rows: Rows
    o: DeclaredLoss
    closed: Closed
    allowed: float
    """Difference of an entry that is none."""
    per: str
    ranks: int
    moved: str
    others: torch.Tensor
    """Teacher rows that may have been taken, (M, V): those of `rows` first."""

    def fit(self, soft: torch.Tensor, hard: torch.Tensor) -> "_Fit":
        """On these two gradients of every position."""
        return _project(self.gradient, soft, hard)

    def explains(self, fit: "_Fit") -> bool:
        """Whether nothing is left."""
        return bool((fit.left <= self.allowed).all())


class _Fit(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor
    left: torch.Tensor
    """Largest entry that is not explained, (P,)."""
    soft: torch.Tensor
    """The divergence's gradient that a multiplies, (P, V)."""


def diagnose(
    gradient: torch.Tensor,
    rows: Rows,
    o: DeclaredLoss,
    *,
    per: str = "update",
    tolerance: float = 2e-5,
    ranks: int = 1,
    moved: str = "shift",
    bank: torch.Tensor | None = None,
    searches: bool = True,
) -> list[Mismatch]:
    """Compare a gradient by logits with the declared one, and name what differs.

    Args:
        gradient: (P, V), observed.
        rows: what it is of.
        o: what was declared.
        per: what the reduction goes over.
        tolerance: relative to the largest entry, observed or declared.
        ranks: processes that share the update.
        moved: the property of teacher rows that are another position's.
        bank: teacher rows (M, V) beside those of `rows` that may have been taken.
        searches: whether to look for what fits, which takes seconds, or only whether the declared shape does.
    """
    if not bool(gradient.isfinite().all()):
        where = (~gradient.isfinite().all(-1)).nonzero().flatten()
        says = f"the gradient is not finite at {len(where)} of {len(gradient)} positions"
        return [Mismatch("finite", says)]
    closed = closed_form(rows, o, per=per)
    scale = float(torch.maximum(gradient.abs().max(), closed.gradient.abs().max()))
    # where everything cancels (identity, saturation) rounding is held against what the terms could be
    natural = 0.05 * float(closed.a.abs().max() / (o.temperature or 1.0) + closed.b.abs().max())
    allowed = max(tolerance * max(scale, natural), 1e-13)
    wants = [closed.gradient]
    if o.empty_rows is None and {o.reduction, o.hard_reduction} & {"sequence-mean", "row-mean"}:
        wants += [closed_form(rows, o.but(empty_rows=rule), per=per).gradient for rule in ("skip", "count")]
    if per == "micro-batch":  # of those in which nothing counts it is a matter of taste whether they count
        filled = len(torch.unique(rows.part[rows.counted]))
        wants.append(closed.gradient * (int(rows.part.max()) + 1) / max(filled, 1))
    if any(float((gradient - want).abs().max()) <= allowed for want in wants):
        return []
    seen = _Observed(
        gradient=gradient - closed.z,
        rows=rows,
        o=o,
        closed=closed,
        allowed=allowed,
        per=per,
        ranks=ranks,
        moved=moved,
        others=rows.teacher if bank is None else torch.cat([rows.teacher, bank]),
    )
    fit, found = _shape(seen, searches)
    if fit is None:
        size, own = float(gradient.norm()), float(closed.gradient.norm())
        cosine = float((gradient * closed.gradient).sum()) / size / own if size and own else float("nan")
        ratio = size / own if own else float("nan")
        worst = float((gradient - closed.gradient).abs().max()) / scale
        how = f"cosine {cosine:.4f} and norm ratio {ratio:.4g} to the declared gradient; no known variant explains it"
        unknown = Mismatch("loss", how)
        if cosine > 0.995 and worst < 0.05:
            says = f"off by {worst:.2g} of the largest entry and without a pattern, as in a lower precision"
            unknown = Mismatch("precision", says)
        return _coupled(seen) or [unknown]
    soft = _term(seen, "divergence", fit.a, closed.a, fit.soft)
    hard = _term(seen, "cross-entropy", fit.b, closed.b, closed.hard)
    whole = found + soft + hard
    if any(m.property == "mask" for m in whole):  # which moves the means with it
        whole = [m for m in whole if not m.is_ratio]
    return whole


def _project(observed: torch.Tensor, soft: torch.Tensor, hard: torch.Tensor) -> _Fit:
    """Least squares of each position on its two gradients; leading dimensions are free."""
    columns = torch.stack([soft, hard], -1)
    sizes = columns.norm(dim=-2, keepdim=True).clamp_min(1e-300)
    scaled = columns / sizes
    found = (torch.linalg.pinv(scaled, rtol=1e-9) @ observed[..., None]).squeeze(-1)
    left = (observed - (scaled @ found[..., None]).squeeze(-1)).abs().amax(-1)
    found = found / sizes.squeeze(-2)
    return _Fit(found[..., 0], found[..., 1], left, soft)


def _shape(seen: _Observed, searches: bool) -> tuple[_Fit | None, list[Mismatch]]:
    """The fit that explains every position, and what it takes."""
    rows, o, closed = seen.rows, seen.o, seen.closed
    fit = seen.fit(closed.soft, closed.hard)
    if seen.explains(fit):
        return fit, []
    if not searches:
        return None, []
    softs = [("", "", closed.soft)]
    for shape in shapes(o, rows.student.shape[-1]):
        gradient = slope(lambda s, v=shape.value: v(s, rows.teacher, o), rows.student)
        if not bool(gradient.isfinite().all()):
            continue
        softs.append((shape.property, shape.says, gradient))
        fit = seen.fit(gradient, closed.hard)
        if seen.explains(fit):
            return fit, [Mismatch(shape.property, shape.says)]
    for hard in hard_shapes(o):
        gradient = slope(lambda s, h=hard: hard_token(s, rows.targets, h.value), rows.student)
        for property, says, soft in softs:
            fit = seen.fit(soft, gradient)
            if seen.explains(fit):
                more = [Mismatch(property, says)] if property else []
                return fit, [*more, Mismatch(hard.property, hard.says)]
    return _elsewhere(seen)


class _Source(NamedTuple):
    """Whose teacher row and label a position met, and how much they count."""

    row: int
    label: int
    """-1: its own."""
    a: float
    b: float


def _elsewhere(seen: _Observed) -> tuple[_Fit | None, list[Mismatch]]:
    """Teacher rows of other positions, other labels, or both."""
    rows, closed = seen.rows, seen.closed
    plain = seen.fit(closed.soft, closed.hard)
    open_ = (plain.left > seen.allowed).nonzero().flatten()
    most = max(1, 2_000_000 // (len(seen.others) * rows.student.shape[1]))
    chosen = {}
    for place in open_[:most].tolist():
        if (found := _source(seen, place)) is None:
            return _permuted(seen, plain)
        chosen[place] = found
    a, b = plain.a.clone(), plain.b.clone()
    for place, source in chosen.items():
        a[place], b[place] = source.a, source.b
    named = [*_moved_teacher(chosen, rows, seen.moved), *_moved_labels(chosen, rows)]
    return _Fit(a, b, torch.zeros_like(a), closed.soft), named


def _source(seen: _Observed, place: int) -> _Source | None:
    """Of one position: another's teacher row, else another label, else both."""
    closed, rows, gradient = seen.closed, seen.rows, seen.gradient[place]
    vocab, count = rows.student.shape[1], len(seen.others)
    student = rows.student[place].expand(count, -1).contiguous()
    soft = slope(lambda s: per_token(s, seen.others, seen.o), student)
    hit = _project(gradient.expand(count, -1), soft, closed.hard[place].expand(count, -1))
    row = _nearest(hit.left <= seen.allowed, rows, place)
    if row is not None:
        return _Source(row, -1, float(hit.a[row]), float(hit.b[row]))
    hard = rows.student[place].softmax(-1) - torch.eye(vocab, dtype=gradient.dtype)
    hit = _project(gradient.expand(vocab, -1), closed.soft[place].expand(vocab, -1), hard)
    label = int(hit.left.argmin())
    if float(hit.left[label]) <= seen.allowed:
        return _Source(place, label, float(hit.a[label]), float(hit.b[label]))
    both = _project(gradient.expand(count, vocab, -1), soft[:, None].expand(-1, vocab, -1), hard.expand(count, -1, -1))
    row = _nearest((both.left <= seen.allowed).any(-1), rows, place)
    if row is None:
        return None
    found = row, int(both.left[row].argmin())
    return _Source(*found, float(both.a[found]), float(both.b[found]))


def _permuted(seen: _Observed, plain: _Fit) -> tuple[_Fit | None, list[Mismatch]]:
    """Whether every position's own target holds the probabilities of a teacher row, but in another order.

    Of the forward KL the target follows from the gradient: p = q - (G - b C) T / a.
    """
    rows, o, closed = seen.rows, seen.o, seen.closed
    if o.divergence != "forward-kl" or o.top_k or not bool((closed.a != 0).any()):
        return None, []
    t, here = o.temperature or 1.0, closed.a != 0
    q = (rows.student / t).softmax(-1)
    p = (rows.teacher[:, : q.shape[1]] / (o.teacher_temperature or t)).softmax(-1)
    left = (seen.gradient - closed.b[:, None] * closed.hard)[here] * t / closed.a[here, None]
    found, known = (q[here] - left).sort(-1).values, p.sort(-1).values
    slack = seen.allowed * t / float(closed.a[here].abs().min()) * 4 + 1e-9
    if not bool((torch.cdist(found, known, p=float("inf")).amin(-1) <= slack).all()):
        return None, []
    says = "tokens of the teacher are taken for others: its probabilities are right, under other ids"
    return plain._replace(a=closed.a, b=closed.b), [Mismatch("vocabulary", says)]


def _nearest(fits: torch.Tensor, rows: Rows, place: int) -> int | None:
    """Of the positions that fit the one of the same row that is nearest, else any."""
    if not bool(fits.any()):
        return None
    far = torch.full_like(fits, 10**8, dtype=torch.int64)  # rows of the bank come last
    near = (rows.position - rows.position[place]).abs() + 10_000 * (rows.row != rows.row[place])
    far[: len(near)] = near
    return int(far.masked_fill(~fits, 10**9).argmin())


def _moved_teacher(chosen: dict[int, _Source], rows: Rows, moved: str) -> list[Mismatch]:
    other = {place: source.row for place, source in chosen.items() if source.row != place}
    if not other:
        return []
    inside = {p: s for p, s in other.items() if s < len(rows.row) and rows.row[p] == rows.row[s]}
    steps = {int(rows.position[s] - rows.position[p]) for p, s in inside.items()}
    if len(inside) < len(other):
        return [Mismatch(moved, "positions are matched with the teacher's rows of other samples")]
    if len(steps) == 1:
        return [Mismatch("shift", f"the teacher's row is that of {_step(steps.pop())}")]
    return [Mismatch("shift", "the teacher's rows are displaced, by other numbers of positions in other rows")]


def _moved_labels(chosen: dict[int, _Source], rows: Rows) -> list[Mismatch]:
    other = {p: s.label for p, s in chosen.items() if s.label >= 0 and s.label != int(rows.targets[p])}
    if not other:
        return []
    steps = set()
    for place, label in other.items():
        same = (rows.row == rows.row[place]) & (rows.targets == label)
        near = (rows.position[same] - rows.position[place]).tolist()
        steps.add(min(near, key=abs) if near else None)
    if len(steps) == 1 and None not in steps:
        return [Mismatch("shift", f"the label is that of {_step(steps.pop())}")]
    if not any(bool(rows.counted[p]) for p in other):
        return [Mismatch("mask", "positions without a label are trained on one")]
    return [Mismatch("shift", "labels are those of other positions")]


def _step(step: int | None) -> str:
    step = step or 0
    many = "position" if abs(step) == 1 else "positions"
    return f"{abs(step)} {many} {'later' if step > 0 else 'earlier'}"


def _coupled(seen: _Observed) -> list[Mismatch]:
    """Losses in which positions compete: softmax over another axis."""
    rows, o, closed, observed = seen.rows, seen.o, seen.closed, seen.gradient
    by_place = torch.stack([rows.row, rows.position])
    assert o.temperature is not None
    last = rows.position == rows.position.max()
    for axis, ends, says in (
        (axis, ends, f"the student's softmax goes over the {word}, not over the vocabulary")
        for axis, word in enumerate(("positions of a row", "rows of the batch"))
        for ends in (False, True)
    ):

        def value(s: torch.Tensor, key: torch.Tensor = by_place[axis], ends: bool = ends) -> torch.Tensor:
            u = (s / o.temperature).masked_fill((last & ends)[:, None], -1e30)
            total = torch.zeros(int(key.max()) + 1, u.shape[-1], dtype=u.dtype).index_add(0, key, u.exp())
            log_q = u - total.log()[key]
            p = (rows.teacher[:, : s.shape[-1]] / o.temperature).softmax(-1)
            return -closed.a * (p * log_q).sum(-1).masked_fill(last & ends, 0)

        gradient = slope(value, rows.student)
        columns = torch.stack([gradient.flatten(), (closed.b[:, None] * closed.hard).flatten()], -1)
        found = torch.linalg.pinv(columns) @ observed.flatten()
        if float((columns @ found - observed.flatten()).abs().max()) <= seen.allowed:
            return [Mismatch("loss", says)]
    return []


def _term(
    case: _Observed, name: str, found: torch.Tensor, declared: torch.Tensor, direction: torch.Tensor
) -> list[Mismatch]:
    """What the weights of one term say."""
    rows, o, size = case.rows, case.o, direction.abs().amax(-1)
    seen = size > case.allowed  # elsewhere no weight can be read
    close = torch.maximum(case.allowed / size.clamp_min(1e-300) * 4, declared.abs().max() * 1e-7)

    def fits(want: torch.Tensor, slack: float = 1e-6, where: torch.Tensor = seen) -> bool:
        return bool(((found - want).abs() <= close + slack * want.abs())[where].all())

    if fits(declared, 0.0):
        return []
    counts, should = (found.abs() > close) & seen, (declared != 0) & seen
    weight = o.hard_weight if name == "cross-entropy" else o.distill_weight
    if not bool(counts.any()):
        return [Mismatch("weights", f"the {name} has no influence", (), name)]
    if not bool(should.any()) and not weight:
        return [Mismatch("weights", f"the {name} has an influence, and was declared to have none", (), name)]
    if split := _by_part(found, declared * seen, rows, name, fits):
        return [split]
    other: list[Mismatch] = []
    if bool((counts != should).any()):
        other = [_support(counts, should, rows, name)]
        if other[0].property == "mask" and name == "divergence":
            other += _of_other_mask(case, fits)
        if not bool((counts & should).any()):
            return other
    # what the positions that count and should count as much as they do
    both = counts & should
    ratio = found[both] / declared[both]
    uneven = float((ratio.max() - ratio.min()) / ratio.abs().max())
    slack = max(1e-6, float((close[both] / declared[both].abs()).max()) * 2)
    if uneven < slack and (other or abs(float(ratio.max()) - 1) < slack):
        return other  # a mask moves the mean with it
    fitting = tuple(
        (weight.property, weight.says)
        for weight in weightings(rows, o, is_hard=name == "cross-entropy", per=case.per, ranks=case.ranks)
        if fits(weight.value, slack, both) and bool((weight.value[both] != declared[both]).any())
    )
    if fitting:
        property, says = fitting[0]
    elif uneven < slack:
        property, says = "weights", f"the {name} counts {float(ratio.mean()):.6g} times what was declared"
    else:
        low, high = float(ratio.min()), float(ratio.max())
        says = f"positions count {low:.4g} to {high:.4g} times what was declared in the {name}"
        property = "normalisation"
    return [*other, Mismatch(property, says, fitting, name, True)]


def _by_part(
    found: torch.Tensor, declared: torch.Tensor, rows: Rows, name: str, fits: Callable[..., bool]
) -> Mismatch | None:
    """Micro-batches that count as a whole more or less, down to nothing, each of its positions alike."""
    parts = [rows.of(int(part)) for part in torch.unique(rows.part[declared != 0])]
    shares = [float((found * declared)[part].sum() / declared[part].square().sum()) for part in parts]
    if len(parts) < 2 or min(map(abs, shares)) > 1e-3 * max(map(abs, shares)):
        return None  # smaller differences are those of means, which have names
    if not fits(sum(declared * part * share for part, share in zip(parts, shares, strict=True))):
        return None
    says = f"of an update's micro-batches one counts {min(shares):.2g} and another {max(shares):.4g} times"
    return Mismatch("accumulation", f"{says} what was declared", (), name)


def _of_other_mask(case: _Observed, fits: Callable[..., bool]) -> list[Mismatch]:
    """Which reduction over the mask that is there fits, where it is not the declared one: as of `batchmean`."""
    rows, o = case.rows, case.o
    names = dict.fromkeys((o.reduction, "token-mean", "position-mean", "row-mean", "sequence-mean", "sum"))
    for mask in ("all", "attention", "labels"):
        for reduction in (name for name in names if name):
            value = weights(rows, o.but(mask=mask, reduction=reduction), per=case.per)[0]
            if fits(value) and reduction in (o.reduction, "position-mean" if mask == "all" else ""):
                return []  # a mean over the mask that is there
            for share, more in ((1.0, ""), (1 / rows.student.shape[-1], ", and averaged over the vocabulary")):
                if fits(share * value):
                    says = f"the divergence is reduced by {reduction}{more}, not by {o.reduction}"
                    return [Mismatch("normalisation", says, (), "divergence")]
    return []


def _support(counts: torch.Tensor, should: torch.Tensor, rows: Rows, name: str) -> Mismatch:
    """Which positions count that should not, or the reverse."""
    width = int(rows.position.max()) + 1
    grid = torch.zeros(2, rows.num_rows, width + 4, dtype=torch.bool)
    grid[0, rows.row, rows.position + 2] = counts
    grid[1, rows.row, rows.position + 2] = should
    there = torch.zeros(rows.num_rows, width + 4, dtype=torch.bool)
    there[rows.row, rows.position + 2] = True
    for step in (-1, 1, -2, 2):
        if bool((grid[0] == grid[1].roll(step, -1) & there).all()):
            says = f"the {name} counts {_step(step)} than declared ({_kinds(counts, should, rows)})"
            return Mismatch("shift", says, (), name)
    missing, extra = should & ~counts, counts & ~should
    if bool(missing.any()) and bool(extra.any()) and _is_window(missing, extra, rows):
        return Mismatch("shift", f"the window of the {name} is displaced: {_kinds(counts, should, rows)}", (), name)
    return Mismatch("mask", f"the {name} has {_kinds(counts, should, rows)}", (), name)


def _is_window(missing: torch.Tensor, extra: torch.Tensor, rows: Rows) -> bool:
    """Whether in rows that miss something the first answer token is missing while later positions are extra."""
    for row in range(rows.num_rows):
        here = rows.row == row
        lost, more = rows.position[here & missing], rows.position[here & extra]
        counted = rows.position[here & rows.counted]
        if len(lost) and (int(lost.min()) != int(counted.min()) or (len(more) and int(more.min()) < int(lost.max()))):
            return False
    return True


def _kinds(counts: torch.Tensor, should: torch.Tensor, rows: Rows) -> str:
    """Which positions are missing and which are extra, by what they are."""
    said = []
    for word, which in (("missing", should & ~counts), ("extra", counts & ~should)):
        tally = Counter(_kind(rows, place) for place in which.nonzero().flatten().tolist())
        if tally:
            said.append(f"{word} " + ", ".join(f"{n} x {kind}" for kind, n in tally.items()))
    return "; ".join(said) or "the same positions"


def _kind(rows: Rows, place: int) -> str:
    if not bool(rows.counted[place]):
        return "prompt position" if bool(rows.real[place]) else "pad or end position"
    own, here = rows.position[(rows.row == rows.row[place]) & rows.counted], rows.position[place]
    if len(own) == 1:
        return "only answer token"
    if here == own.min():
        return "first answer token"
    return "last answer token (EOS)" if here == own.max() else "answer token"


def settle(cases: list[tuple[str, list[Mismatch]]], *, plain_is_right: bool) -> list[Mismatch]:
    """Of the mismatches of several cases those to report: a ratio is what explains it in every case.

    What no variant explains is left out where others are: the same fault in a case in which it cannot be told.

    Args:
        cases: what each was made to show, and its mismatches.
        plain_is_right: whether the plain case is; then a fault belongs to what its case shows. Else what other cases
            add to it is a consequence, unless they were made to show just that.
    """
    out: dict[tuple[str, str], Mismatch] = {}
    for term in ("divergence", "cross-entropy"):
        ratios = [(shows, m) for shows, found in cases for m in found if m.term == term and m.is_ratio]
        if ratios:
            first = ratios[0][1]
            shared = [c for c in first.candidates if all(c in m.candidates for _, m in ratios)]
            if plain_is_right:
                shared.sort(key=lambda c: c[0] != ratios[0][0])
            best = shared[0] if shared else (ratios[0][0] if plain_is_right else first.property, first.says)
            if not shared and len({m.says for _, m in ratios}) > 1 and not plain_is_right:
                says = f"how much the {term} counts depends on the batch: {first.says} in one"
                best = ("normalisation", says)
            out[best] = Mismatch(*best, (), term)
    unknown = any(m.is_unnamed for _, found in cases for m in found)
    is_explained = any(not m.is_unnamed for m in cases[0][1])
    for number, (shows, found) in enumerate(cases):
        shifted = any(m.property == "shift" for m in found)
        for m in found:
            if (m.term and m.is_ratio) or (shifted and m.property in ("mask", "weights")):
                continue
            if unknown and m.says.startswith("off by"):
                continue  # a small case of what is no rounding elsewhere
            if plain_is_right and m.property == "normalisation" and not m.candidates:
                m = m._replace(property=shows)
            if number and not plain_is_right and is_explained and m.property != shows:
                continue
            if any((m.property, m.term) == (o.property, o.term) and m.term for o in out.values()):
                continue
            out.setdefault((m.property, m.says), m)
    return [m for m in out.values() if not m.is_unnamed] or list(out.values())
