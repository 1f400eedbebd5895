"""Judges: a real server speaking the OpenAI protocol, the verdicts it gives, and what they come to."""

import contextlib
import dataclasses
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from distillaw.errors import ConfigError, DataError, RunError
from distillaw.evaluate.chat import (
    PAIR,
    ChatQuestion,
    JudgeLog,
    ask_judge,
    parse_verdict,
    prompt_name,
    read_prompts,
    read_questions,
)
from distillaw.evaluate.judges import UrlJudge, make_judge
from distillaw.evaluate.verdicts import (
    JudgeVerdict,
    compare_judges,
    control_length,
    count_answers,
    sum_up_grades,
    sum_up_pairs,
)

QUESTIONS = [
    ChatQuestion(
        question_id=str(i),
        category="math" if i % 2 else "writing",
        turns=(f"What is {{question}} {i}?", "And why?"),
        reference=("right 1", "right 2") if i % 2 else (),
    )
    for i in range(6)
]
SHORT = {q.question_id: ["no", "no"] for q in QUESTIONS}
LONG = {q.question_id: ["yes indeed, [[A]]", "certainly so {answer_b}"] for q in QUESTIONS}


class Server:
    """A judge behind HTTP: `decide(messages) -> words`; it fails first as told."""

    def __init__(self, decide, failures=()):
        self.seen, self.keys, failures = [], [], list(failures)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.keys.append(self.headers.get("Authorization"))
                failure = failures.pop(0) if failures else None
                if isinstance(failure, int):
                    return self._send(failure, b"no")
                if failure is not None:
                    return self._send(200, failure)
                outer.seen.append(body)
                reply = {"choices": [{"message": {"role": "assistant", "content": decide(body["messages"])}}]}
                return self._send(200, json.dumps(reply).encode())

            def _send(self, code, data):
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def judge(self, **settings):
        return UrlJudge(
            **{"url": f"http://127.0.0.1:{self.server.server_port}/v1", "model": "m", "pause": 0.01} | settings
        )


def sides(messages):
    """The two answers shown in our own prompts, of one turn or of two."""
    text = messages[1]["content"]
    found = re.findall(r"\[(?:Answer [AB]|Assistant [AB])\]\n(.*?)\n\[End\]", text, re.DOTALL)
    return found[0], found[1]


def longer_wins(messages):
    a, b = sides(messages)
    return "The longer one. " + ("[[C]]" if len(a) == len(b) else "[[A]]" if len(a) > len(b) else "[[B]]")


def pairs(judge, tmp_path, first=LONG, second=SHORT):
    return ask_judge(judge, QUESTIONS, first, second, read_prompts(None), JudgeLog(tmp_path / "v.jsonl"))


def test_the_longer_answer_wins_in_both_orders_and_nothing_is_asked_twice(tmp_path):
    with Server(longer_wins) as server:
        found = sum_up_pairs(pairs(server.judge(), tmp_path))
        assert (found["wins"], found["ties"], found["losses"]) == (12, 0, 0)
        assert (found["win_rate"], found["agreement"], found["unparseable"]) == (1.0, 1.0, 0)
        assert found["first_place"] == pytest.approx(0.5)
        asked = len(server.seen)
        assert asked == len(QUESTIONS) * 2 * 2
        assert server.seen[0]["temperature"] == 0
        assert sum_up_pairs(pairs(server.judge(), tmp_path, SHORT, LONG))["win_rate"] == 0.0
        assert len(server.seen) == asked, "the same pairs the other way round were asked before"


def test_a_judge_that_prefers_a_place_gives_ties_and_is_found_out(tmp_path):
    with Server(lambda messages: "[[A]]") as server:
        found = sum_up_pairs(pairs(server.judge(), tmp_path))
    assert (found["ties"], found["win_rate"], found["agreement"], found["first_place"]) == (12, 0.5, 0.0, 1.0)


def test_failures_are_tried_again(tmp_path):
    garbage = [b"not json", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}']
    with Server(longer_wins, [500, 429, *garbage]) as server:
        pairs(server.judge(), tmp_path)
        assert len(server.seen) == 24
    assert not any(failure in (tmp_path / "v.jsonl").read_bytes() for failure in garbage)


class Raw:
    """A server that answers every connection with the same bytes, one part at a time, until it is closed."""

    def __init__(self, parts, pause=0.0):
        self.socket, self.closed, self.sent = socket.create_server(("127.0.0.1", 0)), threading.Event(), 0
        self.parts, self.pause, self.heads = parts, pause, []
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=(self.socket.accept()[0],), daemon=True).start()

    def _answer(self, connection):
        with contextlib.suppress(OSError), connection:
            self.heads.append(connection.recv(65536))
            for part in self.parts():
                if self.closed.wait(self.pause) if self.pause else self.closed.is_set():
                    return
                connection.sendall(part)
                self.sent += len(part)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # to close on what was not read resets the connection, reply and all
                pass

    def __enter__(self):
        return UrlJudge(url=f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1", model="m", attempts=1, timeout=1.0)

    def __exit__(self, *_):
        self.closed.set()
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()


def body(content, *, head=""):
    return f"HTTP/1.1 200 OK\r\n{head}Content-Length: {len(content)}\r\n\r\n{content}".encode()


def test_a_redirect_gets_neither_key_nor_answers(monkeypatch):
    monkeypatch.setenv("DISTILLAW_JUDGE_KEY", "s3cret")
    thief = Raw(lambda: [body('{"choices": [{"message": {"content": "[[A]]"}}]}')])
    there = thief.__enter__().url
    for code in (301, 302, 303, 307, 308):
        answer = f"HTTP/1.1 {code} Moved\r\nLocation: {there}\r\nContent-Length: 0\r\n\r\n".encode()
        with (
            Raw(lambda answer=answer: [answer]) as judge,
            pytest.raises(RunError, match=f"HTTP {code} Moved: it redirects to '{there}'"),
        ):
            judge.ask([{"role": "user", "content": "which?"}], ["[[A]]"])
    thief.__exit__()
    assert thief.heads == []


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 404 No\r\n\r\n"])
def test_an_answer_that_drips_is_given_up_as_a_whole(start):
    def drip():
        yield start
        while True:
            yield b" " if start.endswith(b"\r\n\r\n") else b"X: y\r\n"

    with Raw(drip, pause=0.05) as judge, pytest.raises(RunError, match="no whole answer within 1 s"):
        judge.ask([], [])


def test_an_answer_without_end_is_cut_off():
    def flood():
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 40000000000\r\n\r\n"
        while True:
            yield b" " * (1 << 20)

    server = Raw(flood)
    with server as judge, pytest.raises(RunError, match=r"no answer in 1 attempts.* more than 4 MiB"):
        dataclasses.replace(judge, timeout=60.0).ask([], [])
    assert server.sent < 40 << 20


@pytest.mark.parametrize("garbage", ["[" * 100_000, '{"choices": ' + "9" * 5000 + "}", '{"choices": "x"}', "\0"])
def test_answers_that_are_garbage_are_said_in_a_line(garbage):
    with Raw(lambda: [body(garbage)]) as judge, pytest.raises(RunError, match="is no chat completion") as caught:
        judge.ask([], [])
    assert len(str(caught.value)) < 600


def test_half_a_character_in_an_answer_can_be_written_down(tmp_path):
    reply = '{"choices": [{"message": {"content": "\\ud800 because [[A]]"}}]}'
    with Raw(lambda: [body(reply)]) as judge:
        assert sum_up_pairs(pairs(judge, tmp_path))["ties"] == 12
        assert "because [[A]]" in (tmp_path / "v.jsonl").read_text(encoding="utf-8")


def test_the_key_is_never_shown(monkeypatch):
    monkeypatch.setenv("DISTILLAW_JUDGE_KEY", "s3cret\nX-Other: 1")
    with pytest.raises(ConfigError, match="holds a line break") as caught:
        UrlJudge(url="http://127.0.0.1:9/v1", model="m", attempts=1).ask([], [])
    assert "s3cret" not in str(caught.value)
    monkeypatch.setenv("DISTILLAW_JUDGE_KEY", "s3cret\n")
    refusal = b"HTTP/1.1 401 No\r\n\r\nwrong key: s3cret"
    with Raw(lambda: [refusal]) as judge, pytest.raises(RunError, match=r"wrong key: .*which is set") as caught:
        judge.ask([], [])
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError, match="password in the URL") as caught:
        make_judge("https://me:s3cret@example.org/v1", model="m", device="cpu")
    assert "s3cret" not in str(caught.value)


def test_resumed_judgement_asks_only_for_what_is_missing(tmp_path):
    with Server(longer_wins) as server:
        judge = server.judge()
        pairs(judge, tmp_path)
        file = tmp_path / "v.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[:10]) + lines[10][:30])
        before = len(server.seen)
        pairs(judge, tmp_path)
        assert len(server.seen) - before == 24 - 10
        assert sorted(file.read_text().splitlines()) == sorted(line.strip() for line in lines)


def test_an_unreachable_judge_ends_clearly():
    judge = UrlJudge(url="http://127.0.0.1:9/v1", model="m", attempts=2, pause=0.01)
    with pytest.raises(RunError, match=r"no answer in 2 attempts.*verdicts so far are kept"):
        judge.ask([{"role": "user", "content": "hello"}], PAIR)


def test_a_refusal_is_not_repeated_and_names_the_key(monkeypatch):
    with Server(longer_wins, [401, 404]) as server:
        judge = server.judge()
        with pytest.raises(RunError, match=r"HTTP 401.*DISTILLAW_JUDGE_KEY, which is not set"):
            judge.ask([], PAIR)
        monkeypatch.setenv("DISTILLAW_JUDGE_KEY", "secret")
        with pytest.raises(RunError, match="HTTP 404"):
            judge.ask([], PAIR)
        assert server.keys == [None, "Bearer secret"]


def test_nonsense_is_asked_once_more_then_counted_never_guessed(tmp_path):
    def stubborn(messages):
        if len(messages) > 2:  # the second time
            return "[[B]]" if "q2" in messages[1]["content"] else "no idea"
        return "[[A]] or [[B]], who knows" if "q1" in messages[1]["content"] else longer_wins(messages)

    questions = [ChatQuestion(question_id=str(i), category="", turns=(f"q{i}",)) for i in range(5)]
    first, second = ({q.question_id: [text] for q in questions} for text in ("longer", "short"))
    with Server(stubborn) as server:
        verdicts = ask_judge(server.judge(), questions, first, second, read_prompts(None), JudgeLog(tmp_path / "v"))
        found = sum_up_pairs(verdicts)
        assert (found["unparseable"], found["verdicts"], found["turns"]) == (2, 10, 4)
        again = [each for each in server.seen if len(each["messages"]) == 4]
        assert len(again) == 2
        assert "exactly one of [[A]], [[B]], [[C]]" in again[0]["messages"][-1]["content"]
    with Server(lambda messages: "no idea") as server, pytest.raises(DataError, match="10 of 10 verdicts"):
        sum_up_pairs(ask_judge(server.judge(), questions, first, second, read_prompts(None), JudgeLog(tmp_path / "w")))


def test_grades_and_their_parts(tmp_path):
    def grade(messages):
        return "[[8.5]]" if "certainly" in messages[1]["content"] else "[[4]]"

    with Server(grade) as server:
        log = JudgeLog(tmp_path / "v")
        verdicts = ask_judge(server.judge(), QUESTIONS, LONG, None, read_prompts(None), log)
    found = sum_up_grades(verdicts)
    assert found["grade"] == pytest.approx(6.25)
    assert found["by_turn"] == {"turn 1": {"grade": 4.0, "n": 6.0}, "turn 2": {"grade": 8.5, "n": 6.0}}
    assert found["grade_se"] == pytest.approx(0.0, abs=1e-12), "questions do not differ, their turns do"


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("I say [[A]].", "[[A]]"), ("[[A]] no, [[B]]", None), ("[[A]] yes [[A]]", "[[A]]"), ("A", None), ("[[D]]", None)],
)
def test_pair_verdicts(reply, verdict):
    assert parse_verdict(reply, PAIR) == verdict


@pytest.mark.parametrize(
    ("reply", "verdict"), [("[[7]]", "[[7]]"), ("[[7.5]]", "[[7.5]]"), ("[[11]]", None), ("[[0]]", None), ("7", None)]
)
def test_grade_verdicts(reply, verdict):
    assert parse_verdict(reply, ["[[1]]"]) == verdict


def test_win_rate_and_its_errors_follow_from_questions_not_turns():
    generator = np.random.default_rng(0)
    rates, errors = [], []
    for _ in range(200):
        verdicts = []
        for i in range(30):
            value = float(generator.choice([-1, 1], p=[0.3, 0.7]))
            verdicts += [
                JudgeVerdict(question_id=str(i), category="", turn=turn, swapped=swapped, value=value)
                for turn in (0, 1)
                for swapped in (False, True)
            ]
        found = sum_up_pairs(verdicts)
        rates.append(found["win_rate"])
        errors.append(found["win_rate_se"])
        low, high = found["win_rate_interval"]
        assert low <= found["win_rate"] <= high
    assert np.mean(errors) == pytest.approx(np.std(rates, ddof=1), rel=0.15)


def test_a_judge_of_lengths_is_worth_nothing_at_equal_lengths():
    """Truth: P(win) = sigmoid(theta + 1.5 tanh(d / sd)), the first model's answers longer by a standard deviation."""
    generator = np.random.default_rng(1)
    for theta in (0.0, 1.0):
        raw, controlled, held = [], [], 0
        for seed in range(12):
            longer = generator.normal(300, 300, 150)
            p = 1 / (1 + np.exp(-theta - 1.5 * np.tanh(longer / longer.std())))
            points = (generator.random(150) < p).astype(float)
            rate, low, high = control_length(points, longer, [str(i) for i in range(150)], seed=seed)
            truth = 1 / (1 + np.exp(-theta))
            raw.append(points.mean())
            controlled.append(rate)
            held += low <= truth <= high
        assert np.mean(raw) > truth + 0.1
        assert np.mean(controlled) == pytest.approx(truth, abs=0.06)
        assert held >= 9, "of 12 intervals at 95 %"


def test_equal_lengths_leave_the_rate_alone_and_swapping_sides_turns_it_round():
    points, clusters = [1, 1, 0, 0.5, 1, 0.5, 0, 1] * 4, [str(i) for i in range(32)]
    rate, low, high = control_length(points, [0] * 32, clusters)
    assert rate == pytest.approx(np.mean(points), abs=2e-3) and low < rate < high
    longer = np.arange(32) - 10.0
    one, two = (
        control_length(points, longer, clusters)[0],
        control_length([1 - p for p in points], -longer, clusters)[0],
    )
    assert one == pytest.approx(1 - two, abs=1e-6)


def of(values, *, pairs=True):
    """Verdicts on one turn of each question, both orders alike."""
    orders = (False, True) if pairs else (False,)
    return [
        JudgeVerdict(question_id=str(i), category="", turn=0, swapped=swapped, value=value)
        for i, value in enumerate(values)
        for swapped in orders
    ]


def test_judges_are_compared_where_both_spoke():
    found = compare_judges(of([1, 1, -1, 0, None, 1]), of([1, -1, -1, 0, 1, None]))
    assert (found["turns"], found["agreement"]) == (4, 0.75)
    assert found["by_chance"] == pytest.approx((2 * 1 + 1 * 2 + 1 * 1) / 16)
    graded = compare_judges(of([2, 4, 6], pairs=False), of([3, 5, 7], pairs=False))
    assert (graded["turns"], graded["difference"]) == (3, 1.0) and graded["correlation"] == pytest.approx(1)
    assert compare_judges(of([1]), of([1])) == {"turns": 1}


def test_what_is_no_answer_is_counted_and_judged_all_the_same():
    answers = {
        "1": ["", "I’m sorry, but I can't help with that."],
        "2": ["As an AI language model, I have no views.", "and so on " * 80],
        "3": ["Paris is the capital of France; I cannot say more.", "Sorry is a word of Old English."],
    }
    found = count_answers(answers, {"1": [False, False], "2": [False, True]})
    counted = {key: found[key] for key in ("answers", "empty", "refusing", "repeating", "unended")}
    assert counted == {"answers": 6, "empty": 1, "refusing": 2, "repeating": 1, "unended": 1}


def test_turns_without_verdict_bound_the_rate():
    found = sum_up_pairs(of([1, 1, -1, None, None]))
    assert found["win_rate"] == pytest.approx(2 / 3)
    assert found["win_rate_bounds"] == [pytest.approx(2 / 5), pytest.approx(4 / 5)]


def test_the_published_formats_are_read(shared_data):
    evals = shared_data / "evals"
    prompts = read_prompts(evals / "mt_bench_vicuna_bench" / "judge_prompts.jsonl")
    mt_bench = read_questions(evals / "mt_bench_vicuna_bench" / "question.jsonl")
    vicuna = read_questions(evals / "vicuna_bench" / "question.jsonl")
    assert (len(mt_bench), len(vicuna)) == (80, 80)
    for question in (*mt_bench, *vicuna):
        for turn in range(len(question.turns)):
            for kind in ("pair", "single"):
                values = {"question": "Q"}
                for n in (1, 2):
                    values |= {
                        f"{k}_{n}": f"{k}{n}" for k in ("question", "answer", "answer_a", "answer_b", "ref_answer")
                    }
                values |= {"answer": "X", "answer_a": "XA", "answer_b": "XB"}
                for found in (prompts, read_prompts(None)):
                    asked = found[prompt_name(kind, question, turn)].messages(values)[1]["content"]
                    assert "{" not in asked


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1: not JSON"),
        (['{"question_id": 1}'], "no chat question"),
        (['{"turns": ["a"]}'], "no chat question"),
        (['{"question_id": 1, "turns": "why"}'], "a list of texts belongs"),
        (['{"question_id": 1, "turns": ["a", 3]}'], "a list of texts belongs"),
        (['{"question_id": 1, "turns": []}'], "0 turns"),
        (['{"question_id": 1, "turns": [" "]}'], "one of them empty"),
        (['{"question_id": 1, "turns": ["a", "b"], "reference": ["c"]}'], "1 reference answers to 2 turns"),
        (['{"question_id": 1, "turns": ["a", "b", "c"]}'], "3 turns"),
        (['{"question_id": 1, "turns": ["a"]}'] * 2, "appears twice"),
        (['{"question_id": 1, "turns": ["a"]}'], "at least two"),
    ],
)
def test_bad_questions_are_refused(tmp_path, lines, message):
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        read_questions(file)


def test_a_judge_must_be_nameable():
    with pytest.raises(ConfigError, match="--judge-model NAME"):
        make_judge("http://localhost:1/v1", model=None, device="cpu")
    with pytest.raises(ConfigError, match="begins with http"):
        make_judge("ftp://x", model=None, device="cpu")
