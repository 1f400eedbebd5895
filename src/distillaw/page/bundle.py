"""What the planner page asks and computes with, as one JSON object: fields, laws, doubts, devices, teachers, constants.

The page has equations of its own (web/src), and no number of the evidence: coefficients and constants of the planning
come from here, so that page and command cannot drift apart. Where searches look (grids, spans, steps) stands in both,
held together by tests/page/test_bundle.py. Infinite logarithms (a term that is not there) become null.

The page's own planner asks laws. Paired runs are read by `distillaw.plan` alone, so the verdicts of a study's cells are
worked out here, when the page is made; the page shows them where a question meets such a cell. It loads nothing.

Its inputs are the fields of `PlanQuestion` that it asks about: what they are called and what they take.
"""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, fields
from importlib.resources import files
from pathlib import Path
from statistics import NormalDist
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from scipy.special import stdtrit

from distillaw.accounting.families import named_models
from distillaw.accounting.family import PAPER_CONTEXT, PAPER_VOCAB
from distillaw.accounting.flops import TRAINING_FACTOR
from distillaw.accounting.hardware import hardware_presets
from distillaw.accounting.memory import CACHE_BYTES
from distillaw.errors import ConfigError, DistillawError, RunError
from distillaw.fitting.result import FitResult
from distillaw.fitting.study import kept_laws
from distillaw.laws.base import COORDINATES, EDGE, Array
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.published import Coefficient, published
from distillaw.laws.starts import CUTS
from distillaw.outcomes.table import read_outcomes
from distillaw.planning import (
    bills,
    caveats,
    crossover,
    decision,
    draws,
    gains,
    judging,
    law_evidence,
    learnt,
    nearest,
    options,
    situation,
    teacher_curve,
    text_scale,
    voices,
)
from distillaw.planning.api import plan
from distillaw.planning.paired import study_teachers
from distillaw.planning.phrases import PHRASES
from distillaw.planning.question import OptionHelp, PlanQuestion
from distillaw.planning.voices import FAMILIES, LawLike, Voice, find_voices, fitted_voice
from distillaw.quantities import format_count
from distillaw.runs.files import write_text
from distillaw.runs.places import GENERATOR
from distillaw.runs.record import Run, StudyRecord
from distillaw.version import __version__

PAGE_SCHEMA = 1
"""Of the embedded object; the built page reads this version only."""


def planner_bundle(
    asked: Sequence[tuple[str, str, LawLike]] = (), study: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Everything that the page embeds.

    Args:
        asked: laws that people may consult first: the name for `distillaw plan --law`, a label, the law.
        study: runs and measured cells of a study (`study_on_page`).

    Raises:
        ConfigError: a law that says nothing of teachers.
    """
    return {
        "schema_version": PAGE_SCHEMA,
        "version": __version__,
        "published": [_voice(v) for v in find_voices(None, [], published_too=True)],
        "asked": [{"name": name, "label": label, "voice": _voice(_asked(name, law))} for name, label, law in asked],
        "phrases": PHRASES,
        "words": {answer: asdict(words) for answer, words in decision.WORDS.items()},
        "coordinates": COORDINATES,
        "hardware": [asdict(preset) for preset in hardware_presets().values()],
        "teachers": _teachers(),
        "fields": question_fields([name for name, _, _ in asked]),
        "budgets": BUDGETS,
        "outcomes": _outcomes(),
        "constants": _constants(),
        "draws": {
            "points": draws.POINTS,
            "multiplier": draws.MULTIPLIER,
            "normal": draws.normal_levels().tolist(),
            "tail": draws.tail_levels().tolist(),
        },
        "study": study,
    }


def _asked(name: str, law: LawLike) -> Voice:
    """The voice of a law, called as the command calls it."""
    [voice] = find_voices(None, [law], published_too=False)
    if voice.rival is not None:
        raise ConfigError(f"law {name!r}: laws with a rival are asked through their study only")
    return voice


def _voice(voice: Voice) -> dict[str, object]:
    line = voice.line
    return {
        "source": voice.source,
        "kind": voice.kind,
        "status": voice.status,
        "note": voice.note,
        "ensemble": None if voice.ensemble is None else ensemble_on_page(voice.ensemble),
        "range": [list(bound) for bound in voice.range.bounds],
        "doubt": asdict(voice.discrepancy),
        "learnt": None if voice.learnt is None else asdict(voice.learnt),
        "may_decide": voice.may_decide,
        "is_refused": voice.is_refused,
        "warnings": list(voice.warnings),
        "coefficients": _coefficients(voice),
        "line": None
        if line is None
        else {"slope": line.slope, "intercept": line.intercept, "smallest_student": line.students[0]},
    }


def ensemble_on_page(ensemble: LawEnsemble) -> dict[str, object]:
    """Coefficients by name, one entry for each law."""
    student = {name: _column(values) for name, values in ensemble.student.items()} or None
    return {"plain": {name: _column(values) for name, values in ensemble.plain.items()}, "student": student}


def _column(values: Array) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in np.atleast_1d(values)]


_GREEK = {"alpha": "\u03b1", "beta": "\u03b2", "gamma": "\u03b3", "kappa": "\u03ba"}
_SHARED = ("A", "B", "alpha", "beta", "gamma")
"""Symbols of both halves of a law; those of the distillation half have a prime."""


def _symbol(name: str, *, is_student: bool) -> str:
    prime = "\u2032" if is_student and name in _SHARED else ""
    return _GREEK.get(name, name) + prime


def _coefficients(voice: Voice) -> dict[str, object] | None:
    """The coefficients behind a voice as a table: as published with their sources, or as fitted."""
    if voice.ensemble is None:
        return None
    if not voice.members:
        return {"title": voice.source, "members": ["median (90 %)"], **_fitted(voice, voice.ensemble)}
    laws = [published(name) for name in voice.members]
    rows = []
    for part in ("supervised", "distillation"):
        by_law = [{c.symbol: c for c in dict(law.record.coefficients).get(part, ())} for law in laws]
        for name in by_law[0]:
            values = [_published(found.get(name)) for found in by_law]
            rows.append({"symbol": _symbol(name, is_student=part == "distillation"), "values": values})
    source = " ".join(f"{law.name}: {law.record.source}; {law.record.obtained}." for law in laws)
    return {"title": voice.source, "source": source, "members": list(voice.members), "rows": rows}


def _published(found: Coefficient | None) -> str:
    if found is None:
        return ""
    interval = "" if found.low is None else f" ({found.low:g} to {found.high:g})"
    return f"{found.value:g}{interval}"


def _fitted(voice: Voice, ensemble: LawEnsemble) -> dict[str, object]:
    """The median over the replicates of a fit, and the interval of 90 %."""
    rows = []
    for half in (ensemble.plain, ensemble.student):
        for name, values in half.items():
            values = np.exp(values) if name.startswith("log_") else np.asarray(values)
            if not values.any():
                continue
            low, middle, high = np.percentile(values, [5, 50, 95])
            shown = f"{middle:.4g}" + (f" ({low:.4g} to {high:.4g})" if values.size > 1 else "")
            symbol = _symbol(name.removeprefix("log_"), is_student=half is ensemble.student)
            rows.append({"symbol": symbol, "values": [shown]})
    said = f"{voice.source}: fitted ({voice.status}; {voice.note})"
    source = f"{said}; median over {ensemble.size} bootstrap replicates, 90 % of them in brackets."
    return {"source": source, "rows": rows}


def _teachers() -> list[dict[str, object]]:
    """Real models that a law can judge: those whose training tokens are published."""
    return [
        {
            "name": m.name,
            "params": float(m.params),
            "tokens": m.tokens,
            "tokenizer": m.tokenizer,
            "tokenizer_size": m.tokenizer_size,
            "vocab": m.vocab,
            "estimate_error": situation.FOREIGN_TEXT_ERROR * (2 if m.distilled else 1),
            "is_base": not (m.distilled or m.post_trained),
            "source": m.tokens_source.text,
        }
        for m in named_models()
        if m.tokens is not None
    ]


def _outcomes() -> dict[str, object]:
    """Published outcomes of distilling against training alone, and what makes one near to a question."""
    cases = [nearest.Case(row=row, distance=0.0, agrees=None) for row in read_outcomes() if row.says_of_distilling]
    rows = [
        {
            "id": case.row.id,
            "source": case.row.source,
            "group": f"{case.row.source} {case.row.comparison}",
            "question": case.question,
            "outcome": case.outcome,
            "winner": case.row.winner,
            "features": asdict(nearest.features(case.row)),
        }
        for case in cases
    ]
    return {
        "rows": rows,
        "shown": nearest.SHOWN,
        "fewest": nearest.FEWEST,
        "farthest": nearest.FARTHEST,
        "scales": nearest.SCALES,
        "other": nearest.OTHER,
    }


def _constants() -> dict[str, object]:
    """What the planning modules decide with, under the names that web/src/data/bundle.ts reads."""
    correction = published("muennighoff2023")
    assert correction.repetition is not None
    quantiles = crossover.QUANTILES
    untempered = (decision.SURE - decision.SURPRISE / 2) / (1 - decision.SURPRISE)
    return {
        "vocab": PAPER_VOCAB,
        "margin": decision.MARGIN,
        "sure": decision.SURE,
        "sure_deviations": float(gains.LAW_SCALE * stdtrit(gains.LAW_DOF, decision.SURE)),
        "published_sure_deviations": float(gains.LAW_SCALE * stdtrit(gains.LAW_DOF, untempered)),
        "surprise": decision.SURPRISE,
        "published": decision.PUBLISHED,
        "common": law_evidence.COMMON,
        "seeds": learnt.SEEDS,
        "far": learnt.FAR,
        "repeats": learnt.REPEATS,
        "readings": learnt.READINGS,
        "fewest_per_param": learnt.FEWEST_PER_PARAM,
        "law_dof": gains.LAW_DOF,
        "law_scale": gains.LAW_SCALE,
        "text_spread": text_scale.TEXT_SPREAD,
        "text_dof": text_scale.DOF,
        "least": text_scale.LEAST,
        "law_errors": {"other_text": situation.FOREIGN_TEXT_ERROR, "own_text": situation.OWN_TEXT_ERROR},
        "other_text_doubt": voices.TWO_TEXTS_SD,
        "other_text_weight": decision.PUBLISHED_WEIGHT,
        "efold_weight": voices.EFOLD_WEIGHT,
        "edge": EDGE,
        "largest_gain": text_scale.LARGEST_GAIN,
        "start_law": {**CUTS.coefficients, "spread": CUTS.spread, "kept": CUTS.range.as_dict()["kept"]},
        "size_prior": options.SIZE_PRIOR,
        "usual_ratio": options.USUAL_RATIO,
        "smallest_ratio": situation.SMALLEST_RATIO,
        "smallest_student": situation.SMALLEST_STUDENT,
        "larger": options.LARGER,
        "largest": situation.LARGEST,
        "ladder": judging.LADDER,
        "ladder_ratio": judging.LADDER_RATIO,
        "lead_members": judging.LEAD_MEMBERS,
        "density": {"points": gains.POINTS, "tail": gains.TAIL, "near": gains.NEAR},
        "flat": teacher_curve.FLAT,
        "tokens_per_param": teacher_curve.TOKENS_PER_PARAM,
        "doubt_quantiles": [NormalDist().inv_cdf((k + 0.5) / quantiles) for k in range(quantiles)],
        "training_factor": TRAINING_FACTOR,
        "repeat_scale": correction.repetition.repeat_scale,
        "few_tokens": caveats.FEW_TOKENS,
        "scenarios": {name: [s.delta_lgt, s.delta_pre] for name, s in situation.SCENARIOS.items()},
        "paid": caveats.PAID,
        "between": situation.BETWEEN,
        "families": [{"sigma1": f.sigma1, "sigma2": f.sigma2} for f in situation.FAMILIES],
        "served": {
            "aspect": bills.SERVED.aspect,
            "omega": bills.SERVED.omega,
            "head_dim": bills.SERVED.head_dim,
            "cache_bytes": CACHE_BYTES,
            "smallest": bills.SMALLEST,
            "largest": bills.LARGEST,
        },
    }


BUILT = "built/planner.html"
"""Made by `npm run build` in web/, and committed, so that nobody needs Node to have a page."""
_PLACE = '<script type="application/json" id="distillaw-data">null</script>'


def planner_page(asked: Sequence[tuple[str, str, LawLike]] = (), study: Mapping[str, object] | None = None) -> str:
    """The page as text; arguments as of `planner_bundle`.

    Raises:
        RunError: the built page is missing from the installation, or is not one of ours.
    """
    built = files("distillaw.page") / BUILT
    if not built.is_file():
        raise RunError(
            f"the built page ({BUILT}) is not part of this installation; reinstall distillaw, or build it: "
            "cd web && npm ci && npm run build"
        )
    page = built.read_text(encoding="utf-8")
    if page.count(_PLACE) != 1:
        raise RunError(f"{BUILT} has no place for the data; build it again: cd web && npm ci && npm run build")
    text = json.dumps(planner_bundle(asked, study), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    page = page.replace("<head>", f'<head><meta name="generator" content="{GENERATOR}">', 1)
    # inside a script element only `</` and `<!--` could end or comment it
    return page.replace(_PLACE, _PLACE.replace("null", text.replace("<", "\\u003c")))


def write_planner_page(
    path: Path, asked: Sequence[tuple[str, str, LawLike]] = (), study: Mapping[str, object] | None = None
) -> Path:
    """Write the page atomically; other arguments as of `planner_bundle`, errors as of `planner_page`."""
    write_text(path, planner_page(asked, study))
    return path


def study_laws(record: StudyRecord) -> list[tuple[str, str, FitResult | str]]:
    """The study's usable distillation fits: the file for `distillaw plan --law`, a label, the file again."""
    found: list[tuple[str, str, FitResult | str]] = []
    for family in FAMILIES:
        fit = kept_laws(record).fits.get(family)
        if fit is not None and fitted_voice(fit, family).ensemble is not None:
            path = str(record.folder / "laws" / f"{family}.json")
            found.append((path, f"{record.name}: {family} ({fit.status.name.lower()})", path))
    return found


def study_on_page(record: StudyRecord) -> Mapping[str, object]:
    """Runs and measured cells as plain JSON values."""
    problems = [*record.problems, *kept_laws(record).problems]
    cells = _cells(record, problems)
    kept = [*record.every_teacher.values(), *record.students]  # runs of searches are no seeds of a curve
    return {
        "name": record.name,
        "folder": str(record.folder),
        "runs": [_run(run) for run in kept],
        "cells": cells,
        "question": _question(record, cells),
        "problems": problems,
    }


def _question(record: StudyRecord, cells: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """What the page asks when it is opened: the study's target, else its largest cell, from its own teachers."""
    target = record.target or ((cells[-1]["params"], cells[-1]["tokens"]) if cells else None)
    if target is None:
        return {}
    row = record.runs[0]
    sizes = {key: f"{n:.0f}" for key in ("vocab_size", "context") if (n := row.number(key)) == n}
    laws = study_laws(record)
    teachers = study_teachers(record, float(target[0]))  # type: ignore[arg-type]
    return {
        "student": _exact(target[0]),
        "budget": _exact(target[1]),
        "law": laws[0][0] if laws else "",
        "vocab": sizes.get("vocab_size", "32768"),
        "context": sizes.get("context", "4096"),
        "own": [{"params": _exact(t.params), "tokens": _exact(t.tokens), "loss": _exact(t.loss)} for t in teachers],
    }


def _exact(value: object) -> str:
    """A number with all its digits, whole ones without a point; nothing for None."""
    return "" if value is None else repr(float(value)).removesuffix(".0")  # type: ignore[arg-type]


def _run(run: Run) -> dict[str, object]:
    def number(key: str) -> float | None:
        value = run.number(key)
        return None if math.isnan(value) else value

    return {
        "run_id": run.run_id,
        "role": str(run.row.get("role", "")),
        "params": run.params,
        "label": run.label,
        "tokens": run.tokens,
        "seed": run.seed,
        "loss": run.loss,
        "loss_se": number("loss_se"),
        "teacher": run.teacher_run,
        "teacher_loss": number("teacher_loss"),
    }


def _cells(record: StudyRecord, problems: list[str]) -> list[dict[str, object]]:
    """The paired verdict of every student and budget that was run with and without a teacher."""
    arms: dict[tuple[int, int], set[str | None]] = {}
    labels = {}
    for run in record.students:
        arms.setdefault((run.params, run.tokens), set()).add(run.teacher_run)
        labels[run.params] = run.label
    found = []
    for (params, tokens), teachers in sorted(arms.items()):
        if None not in teachers or len(teachers) < 2:
            continue
        try:
            verdict = plan(params, student_tokens=tokens, study=record, with_flips=False)
        except DistillawError as error:
            problems.append(f"{labels[params]} on {format_count(tokens)} tokens: no verdict: {error}")
            continue
        asked = f"--study {shlex.quote(str(record.folder))} --student {params} --tokens {tokens}"
        found.append(
            {
                "label": labels[params],
                "params": params,
                "tokens": tokens,
                "verdict": verdict.verdict,
                "probability": verdict.probability,
                "sentence": verdict.sentence,
                "gain": verdict.gain.to_json(),
                "command": f"distillaw plan {asked}",
            }
        )
    return found


BUDGETS = {
    "tokens": {"usual": "20B", "low": 1e5, "high": 1e14, "unit": "tokens", "name": "tokens"},
    "compute": {"usual": "1e21", "low": 1e11, "high": 1e26, "unit": "FLOP", "name": "compute (FLOP)"},
    "device-hours": {"usual": "500", "low": 1, "high": 1e8, "unit": "hours", "name": "device-hours"},
    "money": {"usual": "2000", "low": 10, "high": 1e9, "unit": "US dollars", "name": "money (US dollars)"},
}
"""The four budgets: an amount to begin with, and the ends of the slider, from a pocket study to the largest runs."""
_ASKED_OTHERWISE = (*BUDGETS, "teacher", "teacher-params", "teacher-tokens", "teacher-loss", "train-teacher")
"""Options for which the page has inputs of another shape: one budget of a kind, and a table of teachers."""
_OF_COMMAND = (
    "study",
    "no-published",
    "delta-lgt",
    "delta-pre",
    "student-loss",
    "distill-weight",
    "schedule",
    "policy",
    "ensemble",
    "temperature",
    "top-k",
    "top-p",
    "divergence",
    "metric",
    "score-at",
)
"""Options that the page does not have."""
_USUAL = {
    "student": "1B",
    "device": "h100-sxm",
    "scenario": "inference",
    "weight-bytes": "2",
    "context": str(PAPER_CONTEXT),
}
"""What is taken where nothing is given; a student, for the page begins with one."""
_BETWEEN = {"mfu": (1e-9, 1), "level": (0.5, 0.999999)}
"""Ends of fractions, as far as an address may say them."""


def question_fields(laws: Sequence[str]) -> list[dict[str, object]]:
    """By field: its option, what it takes (count, positive, fraction, whole, choice, flag), its usual value, choices.

    Args:
        laws: names of those that can be asked first.
    """
    hints = get_type_hints(PlanQuestion, include_extras=True)
    found = [_field(each, hints[each.name]) for each in fields(PlanQuestion)]
    left_out = {*_ASKED_OTHERWISE, *_OF_COMMAND}
    asked = [field for field in found if field is not None and field["option"] not in left_out]
    of_laws = {"kind": "choice", "choices": ["", *laws]}
    return [field | of_laws if field["option"] == "law" else field for field in asked]


def _field(field: Field[Any], hint: Any) -> dict[str, object] | None:
    if get_origin(hint) is not Annotated:
        return None
    taken, asked = get_args(hint)[:2]
    assert isinstance(asked, OptionHelp)
    option = asked.negates or asked.name or field.name.replace("_", "-")
    choices = _choices(option, taken)
    usual = _USUAL.get(option, field.default)
    if isinstance(usual, bool):
        usual = False
    return {
        "option": option,
        "kind": _kind(option, taken, has_choices=choices is not None),
        "usual": usual if isinstance(usual, bool) else "" if usual is None else str(usual),
        "choices": choices,
        "between": _BETWEEN.get(option),
        "help": asked.help,
    }


def _kind(option: str, taken: Any, *, has_choices: bool) -> str:
    types = get_args(taken) if get_origin(taken) in (Union, UnionType) else (taken,)
    if has_choices:
        return "choice"
    if option in _BETWEEN:
        return "fraction"
    kinds = {bool: "flag", int: "whole", str: "count", float: "positive"}
    return next((kind for each, kind in kinds.items() if each in types), "name")


def _choices(option: str, taken: Any) -> list[str] | None:
    if option == "device":
        return list(hardware_presets())
    types = get_args(taken) if get_origin(taken) in (Union, UnionType) else (taken,)
    return next((list(get_args(each)) for each in types if get_origin(each) is Literal), None)
