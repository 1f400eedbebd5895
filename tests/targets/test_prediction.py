"""What a store will cost is known before it is built."""

import pytest

from distillaw.targets.build import predict_cost
from distillaw.targets.manifest import Scheme
from distillaw.targets.store import TargetStore


@pytest.mark.parametrize(
    "scheme",
    [Scheme(), Scheme(estimator="top-k", k=16), Scheme(estimator="top-p", k=60, p=0.8), Scheme(estimator="full")],
    ids=lambda scheme: scheme.estimator,
)
def test_the_size_is_predicted_within_two_per_cent(build, scheme):
    folder, maker, plan = build(scheme=scheme, shard_bytes=10**6)
    prediction = predict_cost(maker, plan)
    built = TargetStore.open(folder).manifest.total_bytes
    assert prediction.probe_windows < plan.num_windows / 5
    assert prediction.bytes == pytest.approx(built, rel=0.02)
    assert abs(prediction.bytes - built) < 4 * prediction.bytes_error + 0.001 * built
    assert prediction.positions == plan.num_positions
    assert 0 < prediction.forward_seconds < prediction.seconds  # of one clock: the forward pass is part of the whole
    assert prediction.break_even is None or prediction.break_even > 1


def test_a_store_smaller_than_the_probe(build):
    folder, maker, plan = build(tokens=5 * 32)
    assert predict_cost(maker, plan).bytes == pytest.approx(TargetStore.open(folder).manifest.total_bytes, rel=0.1)
