"""Takes an observed gradient apart: what each position computes, and how much it counts.

A position's gradient by its logits is a_t D_t + b_t C_t: two unknowns, as many equations as tokens of the vocabulary.
If the declared D and C leave no residual, the shape is right, and a and b alone say what mask, shift, mean and weights
are. If they do, known variants, other positions' teacher rows and other labels are tried, and what fits is named.
Shape suffixes: P position, V vocabulary.
"""

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
    if float((gradient - closed.gradient).abs().max()) <= allowed:
        return []
    if o.empty_rows is None and {o.reduction, o.hard_reduction} & {"sequence-mean", "row-mean"}:
        for rule in ("skip", "count"):
            want = closed_form(rows, o.but(empty_rows=rule), per=per).gradient
            if float((gradient - want).abs().max()) <= allowed:
                return []
    if per == "micro-batch":  # of those in which nothing counts it is a matter of taste whether they count
        parts = int(rows.part.max()) + 1
        filled = len(torch.unique(rows.part[rows.counted]))
        want = closed.gradient * parts / max(filled, 1)
        if float((gradient - want).abs().max()) <= allowed:
            return []
    observed = gradient - closed.z
    fit, found = _shape(observed, rows, o, closed, allowed, moved, bank, searches)
    if fit is None:
        cosine, ratio = _compare(gradient, closed.gradient)
        worst = float((gradient - closed.gradient).abs().max()) / scale
        how = f"cosine {cosine:.4f} and norm ratio {ratio:.4g} to the declared gradient; no known variant explains it"
        unknown = Mismatch("loss", how)
        if cosine > 0.995 and worst < 0.05:
            says = f"off by {worst:.2g} of the largest entry and without a pattern, as in a lower precision"
            unknown = Mismatch("precision", says)
        return _coupled(observed, rows, o, closed, allowed) or [unknown]
    soft = _term(fit.a, closed.a, fit.soft, rows, o, "divergence", per, ranks, allowed)
    hard = _term(fit.b, closed.b, closed.hard, rows, o, "cross-entropy", per, ranks, allowed)
    whole = found + soft + hard
    if any(m.property == "mask" for m in whole):  # which moves the means with it
        whole = [m for m in whole if not m.is_ratio]
    return whole


def _compare(gradient: torch.Tensor, declared: torch.Tensor) -> tuple[float, float]:
    size, own = float(gradient.norm()), float(declared.norm())
    if not size or not own:
        return float("nan"), (0.0 if own else float("nan"))
    return float((gradient * declared).sum()) / size / own, size / own


def _project(observed: torch.Tensor, soft: torch.Tensor, hard: torch.Tensor) -> _Fit:
    """Least squares of each position on its two gradients; leading dimensions are free."""
    columns = torch.stack([soft, hard], -1)
    sizes = columns.norm(dim=-2, keepdim=True).clamp_min(1e-300)
    scaled = columns / sizes
    found = (torch.linalg.pinv(scaled, rtol=1e-9) @ observed[..., None]).squeeze(-1)
    left = (observed - (scaled @ found[..., None]).squeeze(-1)).abs().amax(-1)
    found = found / sizes.squeeze(-2)
    return _Fit(found[..., 0], found[..., 1], left, soft)


def _shape(
    observed: torch.Tensor,
    rows: Rows,
    o: DeclaredLoss,
    closed: Closed,
    allowed: float,
    moved: str,
    bank: torch.Tensor | None,
    searches: bool,
) -> tuple[_Fit | None, list[Mismatch]]:
    """The fit that explains every position, and what it takes."""
    fit = _project(observed, closed.soft, closed.hard)
    if bool((fit.left <= allowed).all()) or not searches:
        return (fit if searches or bool((fit.left <= allowed).all()) else None), []
    softs = [("", "", closed.soft)]
    vocab = rows.student.shape[-1]
    for shape in shapes(o, vocab):
        gradient = slope(lambda s, v=shape.value: v(s, rows.teacher, o), rows.student)
        if not bool(gradient.isfinite().all()):
            continue
        softs.append((shape.property, shape.says, gradient))
        fit = _project(observed, gradient, closed.hard)
        if bool((fit.left <= allowed).all()):
            return fit, [Mismatch(shape.property, shape.says)]
    for hard in hard_shapes(o):
        gradient = slope(lambda s, h=hard: hard_token(s, rows.targets, h.value), rows.student)
        for property, says, soft in softs:
            fit = _project(observed, soft, gradient)
            if bool((fit.left <= allowed).all()):
                more = [Mismatch(property, says)] if property else []
                return fit, [*more, Mismatch(hard.property, hard.says)]
    return _elsewhere(observed, rows, o, closed, allowed, moved, bank)


def _elsewhere(
    observed: torch.Tensor,
    rows: Rows,
    o: DeclaredLoss,
    closed: Closed,
    allowed: float,
    moved: str,
    bank: torch.Tensor | None,
) -> tuple[_Fit | None, list[Mismatch]]:
    """Teacher rows of other positions, other labels, or both."""
    vocab = rows.student.shape[1]
    others = rows.teacher if bank is None else torch.cat([rows.teacher, bank])
    count = len(others)
    plain = _project(observed, closed.soft, closed.hard)
    open_ = (plain.left > allowed).nonzero().flatten()
    if len(open_) * count * vocab > 2_000_000:
        open_ = open_[: max(1, 2_000_000 // (count * vocab))]
    q = rows.student.softmax(-1)
    labels = torch.arange(vocab)
    chosen: dict[int, tuple[int, int, float, float]] = {}
    for place in open_.tolist():
        student = rows.student[place].expand(count, -1).contiguous()
        soft = slope(lambda s: per_token(s, others, o), student)
        target = observed[place].expand(count, -1)
        hit = _project(target, soft, closed.hard[place].expand(count, -1))
        best = _nearest(hit.left <= allowed, rows, place)
        if best is not None:
            chosen[place] = (best, -1, float(hit.a[best]), float(hit.b[best]))
            continue
        hard = q[place] - torch.eye(vocab, dtype=q.dtype)
        hit = _project(observed[place].expand(vocab, -1), closed.soft[place].expand(vocab, -1), hard)
        best = int(hit.left.argmin())
        if float(hit.left[best]) <= allowed:
            chosen[place] = (place, int(labels[best]), float(hit.a[best]), float(hit.b[best]))
            continue
        both = _project(
            observed[place].expand(count, vocab, -1),
            soft[:, None].expand(-1, vocab, -1),
            hard.expand(count, -1, -1),
        )
        source = _nearest((both.left <= allowed).any(-1), rows, place)
        if source is None:
            return _permuted(observed, rows, o, closed, plain, allowed)
        found = source, int(both.left[source].argmin())
        chosen[place] = (*found, float(both.a[found]), float(both.b[found]))
    a, b = plain.a.clone(), plain.b.clone()
    for place, (_, label, soft_weight, hard_weight) in chosen.items():
        a[place] = soft_weight
        b[place] = 0.0 if label >= 0 else hard_weight
    # a label that is not its own counts as another's: b says what counts of the declared label
    named = [*_moved_teacher(chosen, rows, moved), *_moved_labels(chosen, rows)]
    for place, (_, label, _, hard_weight) in chosen.items():
        if label >= 0:
            b[place] = hard_weight
    return _Fit(a, b, torch.zeros_like(a), closed.soft), named


def _permuted(
    observed: torch.Tensor, rows: Rows, o: DeclaredLoss, closed: Closed, plain: _Fit, allowed: float
) -> tuple[_Fit | None, list[Mismatch]]:
    """Whether every position's own target holds the probabilities of a teacher row, but in another order.

    Of the forward KL the target follows from the gradient: p = q - (G - b C) T / a.
    """
    if o.divergence != "forward-kl" or o.top_k or not bool((closed.a != 0).any()):
        return None, []
    t, here = o.temperature or 1.0, closed.a != 0
    q = (rows.student / t).softmax(-1)
    p = (rows.teacher[:, : q.shape[1]] / (o.teacher_temperature or t)).softmax(-1)
    left = (observed - closed.b[:, None] * closed.hard)[here] * t / closed.a[here, None]
    found, known = (q[here] - left).sort(-1).values, p.sort(-1).values
    slack = allowed * t / float(closed.a[here].abs().min()) * 4 + 1e-9
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


def _moved_teacher(
    chosen: dict[int, tuple[int, int, float, float]], rows: Rows, moved: str
) -> list[Mismatch]:
    other = {place: source for place, (source, *_rest) in chosen.items() if source != place}
    if not other:
        return []
    inside = {p: s for p, s in other.items() if s < len(rows.row) and rows.row[p] == rows.row[s]}
    steps = {int(rows.position[s] - rows.position[p]) for p, s in inside.items()}
    if len(inside) < len(other):
        return [Mismatch(moved, "positions are matched with the teacher's rows of other samples")]
    if len(steps) == 1:
        return [Mismatch("shift", f"the teacher's row is that of {_step(steps.pop())}")]
    return [
        Mismatch("shift", "the teacher's rows are displaced, by other numbers of positions in other rows")
    ]


def _moved_labels(chosen: dict[int, tuple[int, int, float, float]], rows: Rows) -> list[Mismatch]:
    other = {
        p: label for p, (_, label, *_rest) in chosen.items() if label >= 0 and label != int(rows.targets[p])
    }
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


def _coupled(
    observed: torch.Tensor, rows: Rows, o: DeclaredLoss, closed: Closed, allowed: float
) -> list[Mismatch]:
    """Losses in which positions compete: softmax over another axis."""
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
        if float((columns @ found - observed.flatten()).abs().max()) <= allowed:
            return [Mismatch("loss", says)]
    return []


def _term(
    found: torch.Tensor,
    declared: torch.Tensor,
    direction: torch.Tensor,
    rows: Rows,
    o: DeclaredLoss,
    name: str,
    per: str,
    ranks: int,
    allowed: float,
) -> list[Mismatch]:
    """What the weights of one term say."""
    size = direction.abs().amax(-1)
    seen = size > allowed  # elsewhere no weight can be read
    if not bool(seen.any()):
        return []
    close = torch.maximum(allowed / size.clamp_min(1e-300) * 4, declared.abs().max() * 1e-7)
    if bool(((found - declared).abs() <= close)[seen].all()):
        return []
    counts, should = (found.abs() > close) & seen, (declared != 0) & seen
    weight = o.hard_weight if name == "cross-entropy" else o.distill_weight
    if not bool(counts.any()):
        return [Mismatch("weights", f"the {name} has no influence", (), name)]
    if not bool(should.any()) and not weight:
        return [Mismatch("weights", f"the {name} has an influence, and was declared to have none", (), name)]
    other: list[Mismatch] = []
    if bool((counts != should).any()):
        other = [_support(counts, should, rows, name)]
        if other[0].property == "mask" and name == "divergence":
            other += _of_other_mask(found, close, seen, rows, o, per)
        if not bool((counts & should).any()):
            return other
    both = counts & should
    ratio = found[both] / declared[both]
    uneven = float((ratio.max() - ratio.min()) / ratio.abs().max())
    slack = max(1e-6, float((close[both] / declared[both].abs()).max()) * 2)
    if other and uneven < slack:
        return other  # a mask moves the mean with it
    if not other and abs(float(ratio.max()) - 1) < slack and uneven < slack:
        return []
    fitting = tuple(
        (weight.property, weight.says)
        for weight in weightings(rows, o, is_hard=name == "cross-entropy", per=per, ranks=ranks)
        if bool(((found - weight.value).abs() <= close + slack * weight.value.abs())[both].all())
        and bool((weight.value[both] != declared[both]).any())
    )
    if fitting:
        says = fitting[0][1]
    elif uneven < slack:
        says = f"the {name} counts {float(ratio.mean()):.6g} times what was declared"
    else:
        low, high = float(ratio.min()), float(ratio.max())
        says = f"positions count {low:.4g} to {high:.4g} times what was declared in the {name}"
    property = fitting[0][0] if fitting else ("weights" if uneven < slack else "normalisation")
    return [*other, Mismatch(property, says, fitting, name, True)]


def _of_other_mask(
    found: torch.Tensor, close: torch.Tensor, seen: torch.Tensor, rows: Rows, o: DeclaredLoss, per: str
) -> list[Mismatch]:
    """Which reduction over the mask that is there fits, where it is not the declared one: as of `batchmean`."""
    names = dict.fromkeys((o.reduction, "token-mean", "position-mean", "row-mean", "sequence-mean", "sum"))
    for mask in ("all", "attention", "labels"):
        for reduction in (name for name in names if name):
            value = weights(rows, o.but(mask=mask, reduction=reduction), per=per)[0]
            for share, more in (
                (1.0, ""),
                (1 / rows.student.shape[-1], ", and averaged over the vocabulary"),
            ):
                if bool(((found - share * value).abs() <= close + 1e-6 * value.abs())[seen].all()):
                    if not more and reduction in (o.reduction, "position-mean" if mask == "all" else ""):
                        return []  # a mean over the mask that is there
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
        return Mismatch(
            "shift", f"the window of the {name} is displaced: {_kinds(counts, should, rows)}", (), name
        )
    return Mismatch("mask", f"the {name} has {_kinds(counts, should, rows)}", (), name)


def _is_window(missing: torch.Tensor, extra: torch.Tensor, rows: Rows) -> bool:
    """Whether in rows that miss something the first answer token is missing while later positions are extra."""
    for row in range(rows.num_rows):
        here = rows.row == row
        lost, more = rows.position[here & missing], rows.position[here & extra]
        counted = rows.position[here & rows.counted]
        if len(lost) and (
            int(lost.min()) != int(counted.min()) or (len(more) and int(more.min()) < int(lost.max()))
        ):
            return False
    return True


def kinds(rows: Rows) -> list[str]:
    """What each position is: prompt, first answer token, answer token, last answer token, pad."""
    found = []
    for place in range(len(rows.row)):
        if bool(rows.counted[place]):
            own = rows.position[(rows.row == rows.row[place]) & rows.counted]
            here = int(rows.position[place])
            if len(own) == 1:
                found.append("only answer token")
            elif here == int(own.min()):
                found.append("first answer token")
            else:
                found.append("last answer token (EOS)" if here == int(own.max()) else "answer token")
        else:
            found.append("prompt position" if bool(rows.real[place]) else "pad or end position")
    return found


def _kinds(counts: torch.Tensor, should: torch.Tensor, rows: Rows) -> str:
    names = kinds(rows)
    said = []
    for word, which in (("missing", should & ~counts), ("extra", counts & ~should)):
        places = which.nonzero().flatten().tolist()
        tally: dict[str, int] = {}
        for place in places:
            tally[names[place]] = tally.get(names[place], 0) + 1
        if tally:
            said.append(f"{word} " + ", ".join(f"{n} x {kind}" for kind, n in tally.items()))
    return "; ".join(said) or "the same positions"


def settle(cases: list[tuple[str, list[Mismatch]]], *, plain_is_right: bool) -> list[Mismatch]:
    """Of the mismatches of several cases those to report: a ratio is what explains it in every case.

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
    unknown = any(m.says.startswith("cosine") for _, found in cases for m in found)
    is_explained = any(not m.says.startswith("cosine") for m in cases[0][1])
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
    return list(out.values())
