"""Five formats come out alike; what is wrong in a file is named with its line."""

import hashlib
import json

import pytest

from distillaw.errors import ConfigError, DataError
from distillaw.instruct.conversations import read_conversations, read_prompts
from distillaw.instruct.prepare import held_out, read_pairs

SAID = ({"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."})


def lines(tmp_path, *rows):
    file = tmp_path / "chats.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


@pytest.mark.parametrize(
    "row",
    [
        {"messages": list(SAID)},
        {"messages": [*SAID, {"role": "user", "content": "left without an answer"}]},
        [{"User": "Hello!", "Assistant": "Hi."}],
        {"conversations": [{"from": "human", "value": "Hello!"}, {"from": "gpt", "value": "Hi."}]},
        {"instruction": "Hello!", "input": "", "output": "Hi."},
        {"instruction": "Hello!", "instances": [{"input": "", "output": "Hi."}]},
    ],
)
def test_all_formats_are_read_alike(tmp_path, row):
    (found,) = read_conversations(lines(tmp_path, "", row))
    assert found.messages == SAID and found.where.endswith("line 2") and found.opening == SAID[:1]


def test_inputs_of_instructions_follow_them_and_every_instance_is_one(tmp_path):
    row = {"instruction": "Add.", "instances": [{"input": "1, 2", "output": "3"}, {"input": "2, 2", "output": "4"}]}
    found = list(read_conversations(lines(tmp_path, row)))
    assert [each.messages[0]["content"] for each in found] == ["Add.\n\n1, 2", "Add.\n\n2, 2"]


def test_real_seed_tasks(shared_data):
    found = list(read_conversations(shared_data / "evals" / "self_instruct" / "seed_tasks.jsonl"))
    assert len(found) >= 175 and all(each.messages[-1]["role"] == "assistant" for each in found)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "line 2: not JSON"),
        ("7", "line 2: of no known format"),
        ({"text": "x"}, "of no known format, found ['text']"),
        ({"messages": []}, "a conversation is a list of messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "a message has a role (system, user, assistant)"),
        ({"messages": [{"role": "user", "content": None}]}, "the user message has no text"),
        ({"messages": [SAID[1]]}, "assistant after nothing"),
        ({"messages": [SAID[0], SAID[0], SAID[1]]}, "user after user"),
        ({"messages": [*SAID, {"role": "system", "content": "late"}]}, "a system message comes first"),
        ({"messages": [SAID[0]]}, "nobody answers"),
        ([{"User": "Hello!"}], 'a turn is {"User": .., "Assistant": ..}'),
        ({"conversations": [{"from": "narrator", "value": "x"}]}, "a turn is"),
        ({"instruction": "Add.", "input": "1"}, "an instruction needs an `output`"),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, said):
    with pytest.raises(DataError) as told:
        list(read_conversations(lines(tmp_path, {"messages": list(SAID)}, row)))
    assert "line 2" in str(told.value) and said in str(told.value)


def test_bytes_that_are_not_text_and_files_that_are_not_there(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"messages": "\xe9"}\n')
    with pytest.raises(DataError, match="line 1: not UTF-8"):
        list(read_conversations(tmp_path / "latin.jsonl"))
    with pytest.raises(ConfigError, match="no such file"):
        list(read_conversations(tmp_path / "none.jsonl"))


def test_preferences_in_three_forms(tmp_path):
    rows = (
        {"prompt": "Hello!", "chosen": "Hi.", "rejected": "No."},
        {"messages": [SAID[0]], "chosen": [SAID[1]], "rejected": "No."},
        {"chosen": list(SAID), "rejected": [SAID[0], {"role": "assistant", "content": "No."}]},
    )
    found = [(pair.prompt, pair.chosen, pair.rejected) for pair in read_pairs(lines(tmp_path, *rows))]
    assert found == [((SAID[0],), "Hi.", "No.")] * 3
    other = {"chosen": list(SAID), "rejected": [{"role": "user", "content": "Bye"}, SAID[1]]}
    with pytest.raises(DataError, match="line 1: the two answers follow different prompts"):
        list(read_pairs(lines(tmp_path, other)))
    with pytest.raises(DataError, match="a pair has `chosen` and `rejected`"):
        list(read_pairs(lines(tmp_path, {"prompt": "x"})))


def test_prompts_from_files_and_from_the_package(tmp_path):
    (tmp_path / "p.txt").write_text("One?\n\n Two? \nOne?\n")
    assert [p[0]["content"] for p in read_prompts(tmp_path / "p.txt")] == ["One?", "Two?"]
    rows = ({"prompt": "A"}, {"instruction": "B", "input": "c"}, {"messages": list(SAID)}, {"messages": [SAID[0]]})
    assert [p[-1]["content"] for p in read_prompts(lines(tmp_path, *rows))] == ["A", "B\n\nc", "Hello!"]
    general = read_prompts("general")
    assert len(general) >= 120 and len({p[0]["content"] for p in general}) == len(general)
    with pytest.raises(ConfigError, match="did you mean 'general'"):
        read_prompts("genral")


def test_the_split_goes_by_hash_keeps_openings_together_and_is_not_moved_by_more_data():
    hashes = [hashlib.sha256(str(i % 3000).encode()).hexdigest() for i in range(6000)]
    sides = held_out(hashes, 0.1)
    assert sides[:3000] == sides[3000:] and 0.085 < sum(sides) / 6000 < 0.115
    assert held_out(hashes[:500], 0.1) == sides[:500]
    few = held_out(hashes[:4], 0.0)
    assert sum(few) == 2  # a standard error needs two
    assert sum(held_out(hashes[:4], 0.99)) == 3
    with pytest.raises(DataError, match="open differently"):
        held_out(hashes[:2], 0.1)
