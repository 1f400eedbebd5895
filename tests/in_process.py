"""The command line without a process of its own: starting one, with torch, takes longer than most of what is tested."""

import contextlib
import io
import json
import os
import shlex
import sys
import threading
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from distillaw.cli.app import app, run, warn_in_one_line
from distillaw.errors import DistillawWarning
from distillaw.runs.files import content_hash
from distillaw.runs.lock import make_claim
from distillaw.sweep.executor import Executor, LocalExecutor, TrainingTask
from once import copy_of
from undrawn import undrawn


def answer(
    *words,
    code: int | None = None,
    joined: bool = False,
    cwd: Path | None = None,
    own_workers: bool = False,
    drawn: bool = False,
) -> SimpleNamespace:
    """`distillaw WORDS` as `subprocess.run` gives it: returncode, stdout, stderr.

    `code`: what its return code must be.
    `joined`: both streams are one, in the order in which they were written, as a terminal shows them.
    `cwd`: the folder it is called in.
    `own_workers`: studies are trained by processes of their own, as users have it.
    `drawn`: the pictures of reports are drawn, for tests that look at them.
    """
    command = [str(word) for word in words]
    out = io.StringIO()
    error = out if joined else io.StringIO()
    with (
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
        _warnings_as_in_a_process(quiet="--quiet" in command),
        contextlib.nullcontext() if own_workers else workers_here(),
        speeches_prepared_once(),
        contextlib.nullcontext() if drawn else undrawn(),
        mock.patch.object(sys, "argv", ["distillaw", *command]),  # `next:` lines repeat it
    ):
        ended = run(lambda: app(command, exit_on_error=False, result_action="return_value"))
    assert code in (None, ended), f"code {ended}: {error.getvalue() or out.getvalue()}"
    return SimpleNamespace(returncode=ended, stdout=out.getvalue(), stderr="" if joined else error.getvalue())


def following(done: SimpleNamespace, **own: object) -> list[str]:
    """The words of the command that an answer gives as the next one, with what only the user has filled in."""
    label, _, command = done.stdout.rstrip("\n").splitlines()[-1].partition(": distillaw ")
    assert label.startswith("next"), done.stderr or done.stdout
    return [str(own.get(word, word)) for word in shlex.split(command)]


@contextlib.contextmanager
def _warnings_as_in_a_process(*, quiet: bool):
    """Ours are lines of their own instead of errors of the test; other people's stay errors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("default", category=DistillawWarning)
        warn_in_one_line(quiet=quiet)
        yield


@contextlib.contextmanager
def speeches_prepared_once():
    """Tokens of the shipped speeches are copied where the same [data] table was prepared in this run of the tests."""
    from distillaw.data import prepare

    build = prepare._build_corpus
    if build.__module__ == __name__:  # a call within a call
        yield
        return

    def copied(spec, folder, say):
        def make(place):
            place.mkdir()
            build(spec, place, say)

        if spec.corpus == "sotu" and not spec.tokenizer:
            copy_of(f"text-{content_hash(asdict(spec), digits=16)}", make, folder)
        else:
            build(spec, folder, say)

    with mock.patch.object(prepare, "_build_corpus", copied):
        yield


_ONE_AT_A_TIME = threading.Lock()
"""Trainings in one process would share its generator of random numbers."""


@contextlib.contextmanager
def workers_here():
    """Studies of this machine are trained in this process: a worker of its own imports for longer than they take."""

    def train(executor: LocalExecutor, task: TrainingTask) -> dict:
        from distillaw.sweep import worker

        name = executor._new_name(task.number)
        order = json.loads(executor._order(task, name)) | {"processes": 1}
        task.where, task.log = f"pid {os.getpid()}", str(executor.study.workers)
        claim = make_claim(executor.study.workers / f"{name}.json", f"the worker {name}")
        try:
            with _ONE_AT_A_TIME:
                here = worker._Worker(counted=time.process_time(), claim=claim)
                return json.loads(json.dumps(worker._train(order, here)))  # as over a connection
        finally:
            claim.release()

    as_everywhere = {name: getattr(Executor, name) for name in ("warm_up", "stop", "close")}
    with mock.patch.multiple(LocalExecutor, _train=train, kill=lambda executor, task: None, **as_everywhere):
        yield
