"""Progress: the pace is that of training, not of what comes before it."""

from types import SimpleNamespace

from distillaw.cli import display, progress
from distillaw.runs import pace as paces


def test_pace_counts_from_the_first_trained_tokens(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(paces, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pace = paces.Pace()
    now[0] = 1000.0  # starting, loading
    pace.add(50)
    assert pace.rate is None
    now[0] = 1010.0
    pace.add(200)
    assert pace.rate == 20.0


def test_no_line_before_there_is_a_pace(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(paces, "time", SimpleNamespace(monotonic=lambda: now[0]))
    log = display.StudyDisplay(paces.Telling("training", 0.0, "tokens", progress.say_indented))
    log.expect(1000.0)
    now[0] = 100.0
    log.progressed(None, 100, None)
    assert capsys.readouterr().err == ""
    now[0] = 125.0
    log.progressed(None, 100, None)
    assert "200 of about 1k tokens, 4 tokens/s, about 3 min 20 s left" in capsys.readouterr().err


def test_signs_of_life_only_while_the_work_is_silent(monkeypatch, capsys):
    import time

    monkeypatch.setattr(progress, "LOG_SECONDS", 0.2)
    with progress.waiting("fitting") as say:
        say("step one")
        assert capsys.readouterr().err == "  step one\n"
        deadline = time.monotonic() + 30
        while not (found := capsys.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert found.startswith("  fitting: ") and found.endswith(" so far\n")
    with progress.waiting("fitting", quiet=True) as say:
        say("step one")
    assert capsys.readouterr().err == ""
