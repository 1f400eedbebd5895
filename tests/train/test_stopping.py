"""When training is asked to stop, or its launcher is gone."""

import os
import signal

import pytest

from distillaw.sweep.single import stoppable
from distillaw.train.loop import StopRequest, StopTraining, silent


def test_a_rank_whose_torchrun_is_gone_stops(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with StopRequest(silent) as request:
        request(64, 3.0)
        monkeypatch.setattr(os, "getppid", lambda: 1)  # what orphans see
        with pytest.raises(StopTraining):
            request(64, 3.0)


def test_a_run_of_ones_own_outlives_its_shell(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with StopRequest(silent) as request:
        monkeypatch.setattr(os, "getppid", lambda: 1)
        request(64, 3.0)


def test_sigterm_stops_after_the_step_and_the_second_ctrl_c_at_once():
    with StopRequest(silent) as request:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopTraining):
            request(64, 3.0)
    with StopRequest(silent) as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_training_whose_watcher_is_gone_saves_and_ends():
    """`distillaw train ... 2>&1 | head`: the step is not lost, and other ranks are told."""

    def closed(tokens, loss):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError), stoppable(closed) as request:
        with pytest.raises(StopTraining):  # on which the loop saves every run
            request(64, 3.0)
        request(64, 3.0)
