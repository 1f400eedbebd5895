"""What a later stage of a recipe would refuse is said before the first."""

import json

import pytest

from distillaw.data.prepare import DataSpec
from distillaw.errors import ConfigError, DataError, DistillawError
from distillaw.recipe.foresight import consult_laws, foresee
from distillaw.recipe.minima import cook
from distillaw.recipe.spec import MinimaSpec
from distillaw.runs.spec import Recipe
from small_teacher import write_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_teacher(tmp_path_factory.mktemp("foresee") / "teacher")


@pytest.fixture
def wish(teacher, tmp_path):
    chats = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes."}]
    chats.write_text(2 * (json.dumps({"messages": turns}) + "\n"))

    def make(**changes):
        usual = {
            "teacher": str(teacher),
            "data": DataSpec(corpus="sotu", tokenizer=str(teacher)),
            "tokens": 4096,
            "keep": 0.5,
            "batch_tokens": 256,
            "chats": chats,
            "template": "zephyr",
            "training": Recipe(context=64),
        }
        return MinimaSpec(**usual | changes)

    return make


def test_a_recipe_that_can_be_cooked_passes(wish):
    foresee(wish())


def test_a_missing_chat_template_is_said_before_anything_is_trained(wish):
    with pytest.raises(ConfigError, match="no chat template"):
        foresee(wish(template=None))
    foresee(wish(template=None), "distil")  # a base model needs none


def test_files_of_later_stages_are_read_first(wish, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{not json\n")
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps([{"User": "Hello", "Assistant": "Yes."}]) + "\n")
    for changes, error, message in (
        ({"chats": bad}, DataError, "line 1"),
        ({"chats": one}, ConfigError, "1 conversations"),
        ({"pairs": bad}, DataError, "line 1"),
        ({"chats": None, "prompts": "nowhere.txt"}, ConfigError, "no such file"),
        ({"tasks": ("nosuch",), "evaluation_data": tmp_path}, ConfigError, "nosuch"),
        ({"tasks": ("gsm8k",), "evaluation_data": tmp_path}, DataError, "evaluation data missing"),
        ({"smaller": "nowhere"}, DistillawError, "no such model"),
    ):
        with pytest.raises(error, match=message):
            foresee(wish(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": Recipe(context=64, distill_weight=2.0)}, "--lambda 2"),
        ({"rates": (5.0,)}, "rates"),
        ({"tokens": 300}, "leave 1 steps"),
        ({"training": Recipe(context=60)}, "not a multiple of training.context = 60"),
        ({"data": DataSpec(corpus="sotu", validation_documents=0)}, "validation_documents = 0"),
        ({"limit": 0}, "--limit 0"),
        ({"answer_tokens": 0}, "--answer-tokens 0"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_impossible_numbers_leave_no_folder(wish, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        cook(wish(**changes), tmp_path / "out", display=None)
    assert not (tmp_path / "out").exists()


def test_a_law_and_a_size_are_not_both_given(wish):
    with pytest.raises(ConfigError, match="--law gives"):
        wish(law="zhang2023-constant-ratio").check()


@pytest.mark.slow
def test_the_law_named_gives_the_size(wish):
    consulted = consult_laws(wish(keep=None, law="zhang2023-constant-ratio"))
    assert consulted["keep"] == pytest.approx(0.4, abs=0.05) == consult_laws(wish(keep=None))["keep"]
    with pytest.raises(ConfigError, match="not a law of capacity gap"):
        consult_laws(wish(keep=None, law="hoffmann2022"))
