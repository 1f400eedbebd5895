"""Any address opens a page that can be used: what it cannot mean is named in one line."""

import random
from urllib.parse import quote

import pytest

pytestmark = pytest.mark.slow


def text(page, name):
    return page.inner_text(f"[data-testid={name}]")


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("scenario=zzz", ["'scenario' = 'zzz'", "best-case, inference"]),
        ("logits=foo&budgetKind=euro", ["'logits' = 'foo'", "'budgetKind' = 'euro'"]),
        ("device=abacus&level=2&mfu=-1", ["'abacus'", "'level' = '2'", "'mfu'"]),
        ("teacher=nobody", ["'teacher' = 'nobody'"]),
        ("own=8Q~2T~&student=x", ["'own' = '8Q~2T~'", "'student' = 'x'"]),
        ("nonsense=1&__proto__=2&constructor=3", ["'nonsense'", "'__proto__'", "'constructor'"]),
        ("student=30B&budget=1k", ["cannot be answered", "tokens per parameter"]),
        ("teacher=pythia-1.4b&teacher=llama-3.1-8b", ["cannot be answered", "tokenizers"]),
        ("%E0%A4%A=%FF&&&==~", ["there is no such input"]),
    ],
)
def test_what_an_address_cannot_mean_is_named_and_the_usual_is_taken(address, named, open_page, planner):
    page = open_page(planner, address)
    note = text(page, "address-note")
    assert "\n" not in note and all(words in note for words in named), note
    assert text(page, "sentence") and not page.query_selector("[data-testid=problem]")
    page.fill("#budget", "200B")
    page.wait_for_selector("[data-testid=address-note]", state="detached")
    assert "200B tokens" in text(page, "sentence")


def test_a_named_teacher_of_an_address_stands_alone(open_page, planner):
    """Not beside the example that the page opens with."""
    page = open_page(planner, "teacher=llama-3.1-8b")
    assert not page.query_selector("[data-testid=address-note]")
    assert "--teacher Llama-3.1-8B" in text(page, "command") and "--teacher-params" not in text(page, "command")
    both = open_page(planner, "teacher=llama-3.1-8b&own=8B~2T~")
    assert "--teacher-params 8B" in text(both, "command")
    chosen = open_page(planner)
    chosen.select_option("#named", "Llama-3.1-8B")
    assert "--teacher-params" not in text(chosen, "command")
    again = open_page(planner, chosen.url.split("#")[1])
    assert text(again, "command") == text(chosen, "command")


def test_a_budget_of_another_kind_without_an_amount_takes_the_usual_amount(open_page, planner):
    page = open_page(planner, "budgetKind=money")
    assert "--money 2000" in text(page, "command") and not page.query_selector("[data-testid=address-note]")


KEYS = (
    "student maxStudent serveMemory serveLatency serveBandwidth weightBytes budgetKind budget device mfu price "
    "uniqueTokens inferenceTokens teacher own trainOwn onlyExisting scenario logits studentsServed vocab context level "
    "law named zzz __proto__"
).split()
_PLAIN = (
    "0 -1 1 2 0.4 0.9 1e308 1e-308 NaN Infinity 1B 20B 300M 1e21 1e19 500 true false null tokens compute device-hours "
    "money euro h100-sxm h200 best-case pretraining pretraining-inference online stored surrogate-s1 llama-3.1-8b "
    "Qwen3-8B-Base 8B~2T~ 8B~2T~1.9_1B~20B~2.2 ~~ ~~1.2 8B 1e3"
)
VALUES = [*_PLAIN.split(), "", "x" * 300, "<b>\n\u202e", "\x00", "\U0001f4a5"]


def _addresses(number):
    chance = random.Random(19)
    for _ in range(number):
        pairs = [(chance.choice(KEYS), chance.choice(VALUES)) for _ in range(chance.randint(1, 6))]
        yield "&".join(f"{key}={quote(value)}" for key, value in pairs)
    for _ in range(number // 10):
        yield "".join(chance.choices("%&=~_#aE0\\+ ;", k=chance.randint(1, 40)))


def test_three_hundred_addresses_one_after_another_all_leave_an_answer(open_page, planner):
    """The page stands, says no problem of its own, and has a verdict, inputs and a command."""
    page = open_page(planner)
    without = page.evaluate(
        """async addresses => {
            const found = [];
            for (const address of addresses) {
                location.hash = address;
                for (let k = 0; k < 2; k++) await new Promise(done => setTimeout(done, 5));
                await new Promise(requestAnimationFrame);
                const says = name => document.querySelector(`[data-testid=${name}]`)?.innerText ?? "";
                const stands = says("sentence") && says("command").startsWith("distillaw plan")
                    && !says("problem") && document.querySelector("#budget");
                if (!stands) found.push([address, says("problem")]);
            }
            return found;
        }""",
        list(_addresses(300)),
    )
    assert without == []
