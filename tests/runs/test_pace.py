"""Lines of progress: nothing before there is a rate, then amount, rate and time left, now and then."""

from types import SimpleNamespace

from distillaw.runs import pace


def test_a_line_every_twenty_seconds(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now[0]))
    telling = pace.Telling("scoring", 1000, "tokens", said.append)
    for _ in range(90):  # ten tokens a second, after ten seconds of loading
        now[0] += 1.0 if telling.done else 10.0
        telling.advance(10)
    assert said[0] == "scoring, 20 s: 110 of about 1k tokens, 10 tokens/s, about 89 s left"
    assert len(said) == 4 and telling.done == 900


def test_work_that_grows_starts_its_clock_with_the_first_of_it(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now[0]))
    telling = pace.Telling("training", 0.0, "tokens", said.append)
    now[0] = 100.0
    telling.expect(300)
    telling.advance(100)
    now[0] = 125.0
    telling.advance(100)
    assert said == ["training, 25 s: 200 of about 300 tokens, 4 tokens/s, about 25 s left"]


def test_work_beyond_what_was_thought_of_has_no_time_left(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now[0]))
    telling = pace.Telling("training", 150, "tokens", said.append)
    telling.advance(100)
    now[0] = 25.0
    telling.advance(100)
    assert said == ["training, 25 s: 200 tokens, more than the estimated 150, 4 tokens/s"]


def test_who_knows_the_time_left_better_than_the_rate_is_asked(monkeypatch):
    """`study run` says what `study status` says."""
    now, said = [0.0], []
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now[0]))
    answers = iter([75.0, None])
    telling = pace.Telling("training", 1000, "tokens", said.append, lambda: next(answers))
    for _ in range(3):
        now[0] += 25.0
        telling.advance(100)
    assert [line.rpartition("/s")[2] for line in said] == [", about 75 s left", ""]
