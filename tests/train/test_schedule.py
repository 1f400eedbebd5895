import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillaw.models.fresh import build_model
from distillaw.runs.spec import BatchPlan
from distillaw.shapes import shape_for_params
from distillaw.train.optim import BASE_WIDTH, build_optimizer, schedule_for, set_learning_rate


@given(
    tokens=st.integers(2000, 10**6),
    batch=st.sampled_from([128, 512, 1024]),
    cooldown=st.floats(0.05, 0.5),
    power=st.sampled_from([0.0, 0.3]),
)
def test_every_branch_follows_one_trunk_and_ends_near_zero(tokens, batch, cooldown, power):
    settings = {"batches": BatchPlan(batch), "warmup_tokens": 1000, "cooldown": cooldown, "power": power}
    run = schedule_for(tokens=tokens, power_tokens=3000, **settings)
    longer = schedule_for(tokens=2 * tokens, power_tokens=3000, **settings)
    assert all(run.factor(s) == longer.factor(s) for s in range(min(run.branch_step, longer.branch_step)))
    assert run.factor(run.total_steps - 1) <= 0.0101
    decay = [run.factor(s) for s in range(max(run.branch_step, run.warmup_steps), run.total_steps)]
    assert decay == sorted(decay, reverse=True)


def test_warm_up_is_linear_and_complete():
    run = schedule_for(tokens=100_000, batches=BatchPlan(1000), warmup_tokens=10_000, cooldown=0.2)
    assert [run.factor(s) for s in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert run.branch_step == 80


def test_a_rate_that_falls_is_whole_up_to_its_first_budget_and_a_power_of_the_tokens_beyond():
    run = schedule_for(
        tokens=100_000, batches=BatchPlan(1000), warmup_tokens=5000, cooldown=0.2, power=0.5, power_tokens=10_000
    )
    assert run.factor(9) == 1.0
    assert run.factor(39) == pytest.approx(0.5), "four times the tokens, half the rate"
    whole = schedule_for(tokens=100_000, batches=BatchPlan(1000), warmup_tokens=5000, cooldown=0.2)
    assert run.factor(89) / whole.factor(89) == pytest.approx(9**-0.5), "the cooldown starts from where it is"


def test_matrices_get_the_rate_times_64_over_width_and_the_rest_get_it_whole():
    shape = shape_for_params(1e5, vocab=300, context=32)
    model = build_model(shape, seed=0)
    optimizer = build_optimizer(model, width=shape.width, weight_decay=0.1)
    set_learning_rate(optimizer, 0.01)
    rate = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        is_matrix = parameter.dim() == 2 and "embed" not in name
        wanted = (0.01 * BASE_WIDTH / shape.width, 0.1) if is_matrix else (0.01, 0.0)
        assert rate[id(parameter)] == pytest.approx(wanted), name
    assert len(rate) == len(list(model.parameters()))
    assert isinstance(optimizer, torch.optim.AdamW)
