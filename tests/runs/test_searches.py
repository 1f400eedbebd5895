"""tuning.json as reports, controls and settlements read it."""

from distillaw.runs.record import Search, read_searches


def test_searches_are_read_arm_by_arm_and_what_cannot_be_read_is_left_out():
    grid = [{"peak_lr": 0.02, "loss": 4.1}, {"peak_lr": 0.01, "loss": 4.2}, {"peak_lr": 0.04, "loss": None}, "junk"]
    rate = {"grid": grid, "best": 0.02, "interior": True}
    batch = {"grid": [{"batch_tokens": 1024, "loss": 4.1}], "best": 1024, "interior": False}
    arms = [
        {"arm": "supervised", "params": 20_000, "learning_rate": rate, "horizon": "junk"},
        {"arm": "pruned alone", "size": "0.1M", "batch": batch},
        "junk",
    ]
    assert read_searches({"arms": arms}) == [
        Search(
            arm="supervised",
            size="20k",
            what="learning_rate",
            tried=[(0.01, 4.2), (0.02, 4.1)],
            best=0.02,
            interior=True,
        ),
        Search(arm="pruned alone", size="0.1M", what="batch", tried=[(1024, 4.1)], best=1024, interior=False),
    ]
    assert read_searches({}) == read_searches({"arms": "junk"}) == []
