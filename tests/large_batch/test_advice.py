"""The advice against its own formulas put in by hand, and the command as a stranger calls it."""

import json
import math
from functools import partial

import pytest

from distillaw.accounting.hardware import hardware
from distillaw.errors import ConfigError
from distillaw.large_batch.advice import Reference, RegimeQuestion, advise
from in_process import answer as in_process

RUN = {"params": 3e8, "tokens": 6e9, "context": 2048, "devices": 8, "micro_batch": 8}
TUNED = Reference(
    batch_tokens=2**17, peak_lr=3e-3, tokens=6e9, weight_decay=0.1, beta1=0.9, beta2=0.95, warmup_tokens=2e7
)


distillaw = partial(in_process, "regime")


def test_the_batch_is_the_laws_middle_on_the_devices_grid_below_the_cap():
    advice = advise(RegimeQuestion(**RUN))
    laws = [0.0306 * 6e9**0.383 * 2048, 0.58 * 6e9**0.571, 0.667 * 6e9**0.566, 0.2920 * (6 * 3e8 * 6e9) ** 0.3271]
    assert sorted(o.value for o in advice.batch.opinions) == pytest.approx(sorted(laws))
    middle = math.prod(laws) ** 0.25
    grid = 2048 * 8 * 8
    assert advice.batch.value % grid == 0 and abs(advice.batch.value - middle) <= grid / 2
    cap = min(22.91 * 6000**0.47 * 512, 0.2 * 0.0471 * 6e9**0.462 * 2048)
    assert advice.cap_tokens == pytest.approx(cap) and advice.batch.value <= 1.05 * cap
    assert advice.steps == round(6e9 / advice.batch.value)
    assert advice.accumulation == advice.batch.value / grid


def test_settings_follow_the_reference_by_each_rule():
    advice = advise(RegimeQuestion(**RUN, batch_tokens=2**19, reference=TUNED))
    rate, beta1, beta2 = (advice.setting(name) for name in ("peak_lr", "beta1", "beta2"))
    assert rate.value == pytest.approx(6e-3) and rate.chosen == "sqrt"
    values = {o.name: o.value for o in rate.opinions}
    assert values["constant"] == 3e-3 and values["marek"] == pytest.approx(3e-3 * 3**0.2)  # 4 = 1024^(1/5)
    assert values["steplaw2025-rate"] == pytest.approx(1.79 * 3e8**-0.713 * 6e9**0.307)
    assert "linear" not in values  # SGD's
    assert beta2.value == pytest.approx(0.95**4)
    assert {o.name: o.value for o in beta1.opinions} == pytest.approx({"keep": 0.9, "sde": 0.6})
    tau = 1.084 * 20**-0.527
    decay = advice.setting("weight_decay")
    assert decay.value == pytest.approx(2**19 / (6e-3 * 6e9 * tau))
    assert decay.high == pytest.approx(max(decay.value, 0.1 * 2)) and "timescale" in {o.name for o in decay.opinions}
    warmup = advice.setting("warmup")
    assert warmup.value == math.ceil(max(2e7 / 2**19, 2 / (1 - 0.95**4)))


def test_a_rule_that_does_not_hold_says_why_instead_of_a_number():
    advice = advise(RegimeQuestion(**RUN, batch_tokens=2**21, reference=TUNED))
    sde = next(o for o in advice.setting("beta1").opinions if o.name == "sde")
    assert sde.value is None and "holds for k below 10" in sde.notes[0]
    assert any("outside a quarter to four times" in line for line in advice.warnings)


def test_the_waste_is_the_hyperbola_in_tokens_time_and_money():
    advice = advise(RegimeQuestion(**RUN, batch_tokens=2**21, loss=3.0), device=hardware("h100-sxm"))
    names = {waste.law for waste in advice.waste}
    assert names == {"bergsma2025-critical", "zhang2024-tokens", "zhang2024-chinchilla", "kaplan2020-critical"}
    for waste in advice.waste:
        x = 2**21 / waste.critical_tokens
        assert waste.tokens_over_fewest == pytest.approx(1 + x)
        assert waste.steps_over_fewest == pytest.approx(1 + 1 / x)
        assert waste.extra_tokens == pytest.approx(6e9 * x / (1 + x))
        share = waste.extra_tokens / 6e9
        assert waste.extra_hours == pytest.approx(share * advice.hours)
        assert waste.extra_price == pytest.approx(share * advice.price)
    preset = hardware("h100-sxm")
    assert advice.hours == pytest.approx(6 * 3e8 * 6e9 / preset.peak_flop_per_second / preset.mfu / 3600 / 8)
    assert any("20 % more tokens" in line for line in advice.warnings)


def test_the_batch_grows_where_the_strictest_law_reaches_the_next():
    """Both laws of the tokens put in by hand at each doubling; another doubling would come into the cooldown."""
    advice = advise(RegimeQuestion(**RUN, batch_tokens=2**16, reference=TUNED), device=hardware("h100-sxm"))
    first, *later = advice.schedule.phases
    assert (first.from_tokens, first.batch_tokens) == (0, 2**16) and len(later) == 3

    def cap(tokens):
        return min(22.91 * (tokens / 1e6) ** 0.47 * 512, 0.2 * 0.0471 * tokens**0.462 * 2048)

    for k, phase in enumerate(later, 1):
        assert phase.batch_tokens == 2**16 * 2**k == pytest.approx(cap(phase.from_tokens))
        assert phase.peak_lr == pytest.approx(first.peak_lr * 2 ** (k / 2))
    assert cap(0.8 * 6e9) < 2**20
    ends = [*(phase.from_tokens for phase in later), 6e9]
    steps = [(end - p.from_tokens) / p.batch_tokens for p, end in zip(advice.schedule.phases, ends, strict=True)]
    assert [phase.steps for phase in advice.schedule.phases] == [round(n) for n in steps]
    assert advice.schedule.steps_saved == pytest.approx(1 - sum(steps) / (6e9 / 2**16), abs=1e-4)
    assert advice.schedule.hours == pytest.approx((1 - advice.schedule.steps_saved) * advice.hours)
    assert advice.schedule.batch_doublings == tuple(round(phase.from_tokens) for phase in later)
    large = advise(RegimeQuestion(**RUN, batch_tokens=2**20)).schedule
    assert (len(large.phases), large.steps_saved, large.batch_doublings) == (1, 0, ())


def test_what_must_be_said():
    said = advise(RegimeQuestion(**RUN, distils=True, reference=TUNED, batch_tokens=2**19)).statements
    assert any("ghost batch normalisation does nothing here" in line for line in said)
    assert any("none is known for a distillation loss" in line and "branch test" in line for line in said)
    assert any("cost 4 times the tokens, 2.4e+10" in line for line in said)
    vision = advise(RegimeQuestion(**RUN, norm="batchnorm")).statements
    assert any("ghost batch normalisation applies" in line for line in vision)
    few = advise(RegimeQuestion(params=1e7, tokens=1e8, batch_tokens=2**20)).warnings
    assert any("steps at the high rate" in line for line in few)
    assert not any("high rate" in line for line in advise(RegimeQuestion(**RUN)).warnings)


def test_sgd_has_its_own_rules_and_no_laws():
    advice = advise(RegimeQuestion(**RUN, optimizer="sgd", reference=TUNED, batch_tokens=2**19))
    assert {o.name: o.value for o in advice.setting("peak_lr").opinions} == pytest.approx(
        {"linear": 12e-3, "sqrt": 6e-3, "constant": 3e-3}
    )
    assert advice.setting("peak_lr").value == pytest.approx(12e-3) and advice.setting("beta2") is None
    assert advise(RegimeQuestion(**RUN, optimizer="sgd")).setting("peak_lr").value is None


def test_widths_move_the_rate():
    tuned = Reference(batch_tokens=2**17, peak_lr=3e-3, width=256)
    advice = advise(RegimeQuestion(**RUN, batch_tokens=2**17, width=1024, reference=tuned))
    assert advice.setting("peak_lr").value == pytest.approx(3e-3 / 4)


def test_more_devices_than_the_batch_has_sequences_are_named():
    advice = advise(RegimeQuestion(params=1e8, tokens=2e9, context=4096, devices=256, micro_batch=4))
    assert advice.batch.value == 4096 * 256 * 4
    assert any("The devices force it" in line for line in advice.warnings)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"batch_tokens": 7e9}, "not one step"),
        ({"batch_tokens": 1e6, "steps": 100.0}, "not both"),
        ({"width": 512}, "needs a reference"),
        ({"cooldown": 1.5}, "at most 1"),
        ({"cooldown": math.nan}, "positive and finite"),
        ({"loss": -1.0}, "--loss -1"),
        ({"tokens": 1e4}, "not one step"),
        ({"width": 512, "reference": TUNED}, "belong together"),
        ({"batch_tokens": 2**21, "reference": Reference(batch_tokens=1.0, peak_lr=1.0)}, "same unit"),
    ],
)
def test_wrong_questions(wrong, says):
    with pytest.raises(ConfigError, match=says):
        advise(RegimeQuestion(**{**RUN, **wrong}))


def test_the_command_answers_and_complains():
    reference = "--reference-batch 131072 --reference-lr 3e-3"
    words = f"--params 300M --tokens 6B --devices 8 --micro-batch 8 --context 2048 {reference} --hardware h100 --json"
    answer = json.loads(distillaw(*words.split(), code=0).stdout)
    assert answer["schema_version"] == 1
    assert answer["batch_tokens"] == answer["batch_sequences"] * 2048
    assert answer["settings"]["peak_lr"]["value"] == pytest.approx(3e-3 * (answer["batch_tokens"] / 131072) ** 0.5)
    assert all(o["source"] for setting in answer["settings"].values() for o in setting["opinions"])
    plain = distillaw("--params", "300M", "--tokens", "6B", code=0)
    assert "ghost batch normalisation does nothing here" in plain.stdout
    for wrong, says in (
        (("--params", "-3M", "--tokens", "6B"), "positive"),
        (("--params", "3M", "--tokens", "6B", "--reference-batch", "1k"), "needs both"),
        (("--params", "3M", "--tokens", "6B", "--mfu", "0.4"), "belong to --device"),
        (("--params", "3M", "--tokens", "6B", "--devices", "0"), "positive"),
        (
            (*"--params 3M --tokens 6B --reference-batch 1k --reference-lr 0.1 --reference-beta2 1.5".split(),),
            "below 1",
        ),
    ):
        done = distillaw(*wrong)
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr
