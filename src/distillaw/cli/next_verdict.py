"""`distillaw study next` for a decision: the runs that are expected to make it better, and what it is now."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from distillaw.cli.app import print_json
from distillaw.cli.next_setup import Setup, with_budget
from distillaw.cli.next_toml import extended, snippet, study_toml
from distillaw.cli.output import Output, same_command
from distillaw.quantities import format_count, format_flop
from distillaw.runs.files import write_text
from distillaw.runs.outgoing import csv_text
from distillaw.settling.conclusion import conclude
from distillaw.settling.expectation import Expected, expect, gains_by_tokens, leader_in_words
from distillaw.settling.propose import Proposal, propose, stages_of
from distillaw.settling.question import NONE, Stage


def next_for_verdict(source: str, setup: Setup, *, budget: float, out: Path | None, output: Output) -> None:
    """Propose, print, write.

    Args:
        source: what the user named.
        setup: the question and its runs.
        budget: FLOP that may be spent from now on.
        out: file for the proposal: a study file, or rows for a plain table.
        output: how to answer.
    """
    setup = with_budget(setup, budget)
    history = stages_of(setup.question, setup.runs)
    with output.working("designing"):
        said = propose(setup.question, history, setup.runs, spent=setup.spent, budget=budget)
    if out is not None and said.stage is not None:
        write_text(out, _file(setup, said.stage))
    elif out is not None:
        output.say(f"{out} is not written: there is nothing to run ({said.why})")
    if output.json:
        print_json(_json(source, setup, said))
        return
    print("\n".join([*_now(setup, said), *_proposal(setup, said, budget), *_file_lines(setup, said)]))
    output.suggest(*_command(source, setup, said, out))


def rows_of(setup: Setup, stage: Stage) -> list[dict[str, object]]:
    """One row per run that a stage lacks."""
    question = setup.question
    done = {(run.params, round(run.tokens), run.candidate, run.seed) for run in setup.runs}
    return [
        {"student": label, "student_params": question.size(label).params, "student_tokens": tokens,
         "teacher": name or "none", "teacher_loss": question.candidate(name).loss if name else None, "seed": seed}
        for label in stage.labels for tokens in stage.tokens for name in (NONE, *stage.candidates)
        for seed in stage.seeds if (question.size(label).params, tokens, name, seed) not in done
    ]  # fmt: skip


def expectations(said: Proposal) -> tuple[Expected, Expected] | None:
    """The verdict now and as it should be after the stage; None where nothing is proposed."""
    if said.outlook is None or said.after is None:
        return None
    return expect(said.outlook, said.now), expect(said.after, said.now)


def _now(setup: Setup, said: Proposal) -> list[str]:
    question, now = setup.question, said.now
    lines = [f"{question.target.label} on {format_count(question.tokens)} tokens: pretrain, or distil from one of "
             f"{len(question.candidates)}? Equal tokens, margin {question.margin:.3g} nats/token"]  # fmt: skip
    if setup.untrained:
        lines.append(
            f"not trained yet, losses guessed: {', '.join(setup.untrained)}; `study run` trains them first"
        )
    lines += setup.notes
    if setup.runs:
        lines += [
            "",
            f"now, from {len(setup.runs)} runs ({format_flop(setup.spent)}): {conclude(question, now).sentence}",
        ]
    else:
        lines += ["", "now, from no run: what laws allow alone"]
    for name, gain in sorted(now.gains.items(), key=lambda item: -item[1].mean):
        state = f"   out: {now.dropped[name]}" if name in now.dropped else ""
        lines.append(f"  {name:<24} gain {gain.mean:+.3f} [{gain.lower:+.3f}, {gain.upper:+.3f}]   "
                     f"best with {now.probability[name]:.2f}{state}")  # fmt: skip
    lines.append(f"  {'none':<24} {'':<30} best with {now.probability[NONE]:.2f}")
    return [*lines, "  " + _by_tokens(said)] if setup.runs else lines


def _by_tokens(said: Proposal) -> str:
    """Where along the tokens the best teacher is expected to help."""
    name = said.now.best_teacher
    rows = gains_by_tokens(said.now, name)
    shown = ", ".join(f"{format_count(row['tokens'])} {row['gain']:+.3f}" for row in rows[::2])
    return f"gain of {name} by tokens: {shown}"


def _proposal(setup: Setup, said: Proposal, budget: float) -> list[str]:
    both = expectations(said)
    if said.stage is None or both is None:
        return ["", f"nothing to run: {said.why}"]
    stage, (before, after) = said.stage, both
    rows = rows_of(setup, stage)
    tokens = ", ".join(map(format_count, stage.tokens))
    lines = [
        "",
        f"next batch: {len(rows)} runs, {format_flop(said.flops)} of {format_flop(budget)}",
        f"  students {', '.join(stage.labels)} on {tokens} tokens, seed {', '.join(map(str, stage.seeds))}",
        f"  from {', '.join(stage.candidates)}, and none",
        f"then: expected regret {before.regret:.4f} -> {after.regret:.4f} nats/token, right choice "
        f"{before.probability:.2f} -> {after.probability:.2f}, settled with probability {after.settled:.2f}",
    ]
    if said.why:
        return [*lines, f"not worth it: {said.why}. The regret that is left is worth less than finding out"]
    return [*lines, f"worth it: what it should save, {said.worth:.4f} nats/token, would cost the target "
                    f"{format_flop(said.worth_flops)} of longer training"]  # fmt: skip


def _file_lines(setup: Setup, said: Proposal) -> list[str]:
    return [snippet(said.stage)] if setup.spec is not None and said.stage is not None else []


def _file(setup: Setup, stage: Stage) -> str:
    """The study with the batch, or the rows of the batch as CSV."""
    if setup.spec is not None:
        return study_toml(extended(setup.spec, stage, is_first=not setup.runs))
    return csv_text(rows_of(setup, stage))


def _command(source: str, setup: Setup, said: Proposal, out: Path | None) -> tuple[str, str]:
    """The likely next command, and what comes first."""
    place = shlex.quote(source)
    is_folder = Path(source).is_dir()
    if said.stage is None or said.why:
        first = f"{leader_in_words(said.now.leader)}; or ask with a larger --budget"
        return f"distillaw plan --study {place}" if is_folder else same_command(), first
    again = "then ask again with what is left of the budget"
    if setup.spec is None:
        return same_command(), f"make these runs, add them to the table, {again}:"
    file = out or Path("next.toml")
    first = f"{'' if out else f'add --out {file} (or paste the table), '}run it, {again}:"
    return f"distillaw study run {shlex.quote(str(file))}{f' --out {place}' if is_folder else ''}", first


def _json(source: str, setup: Setup, said: Proposal) -> Mapping[str, object]:
    question, now = setup.question, said.now
    end, both = conclude(question, now), expectations(said)
    return {
        "source": source, "target": {"student_params": question.target.params, "student_tokens": question.tokens},
        "margin": question.margin, "level": question.level, "num_runs": len(setup.runs), "flops_spent": setup.spent,
        "guessed_teachers": list(setup.untrained),
        "verdict": end.verdict, "choice": end.choice or "none", "sentence": end.sentence, "regret_bound": end.bound,
        "gains": {name: gain.to_json() for name, gain in now.gains.items()},
        "probability_best": {name or "none": p for name, p in now.probability.items()}, "dropped": dict(now.dropped),
        "gains_by_tokens": gains_by_tokens(now, now.best_teacher) if setup.runs else [],
        "now": both[0].to_json() if both else None, "after": both[1].to_json() if both else None,
        "runs": rows_of(setup, said.stage) if said.stage else [], "flops": said.flops,
        "worth": {"regret": said.worth, "flops": said.worth_flops},
        "is_worth_it": said.stage is not None and not said.why, "why_not": said.why,
        "toml": snippet(said.stage).strip() if setup.spec is not None and said.stage is not None else None,
    }  # fmt: skip
