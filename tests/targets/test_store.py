"""What students read is what the teacher says of exactly those windows, in any order."""

import numpy as np
import pytest
import torch

from distillaw.data.shards import BatchOrder
from distillaw.errors import CacheError, ConfigError, DataError
from distillaw.targets.build import make_plan
from distillaw.targets.make import window_offsets
from distillaw.targets.manifest import Scheme, TargetRequest
from distillaw.targets.store import TargetStore

SCHEMES = {
    "sampled": Scheme(samples=16),
    "top-k": Scheme(estimator="top-k", k=12),
    "top-p": Scheme(estimator="top-p", k=40, p=0.8),
    "full": Scheme(estimator="full"),
    "sampled at 2": Scheme(samples=16, temperature=2.0),
}
COUNT = 40


@pytest.fixture(params=SCHEMES)
def store(request, build, text):
    """A store of the first windows of data order 3, opened."""
    folder, maker, _ = build(scheme=SCHEMES[request.param], tokens=COUNT * 32, order_seed=3)
    return TargetStore.open(folder, data_hash=text.data_hash, context=32), maker


def _teacher_logits(maker, windows) -> torch.Tensor:
    tokens = torch.from_numpy(maker.split.windows(windows))
    return maker.teacher.logits(tokens[:, :-1]), tokens[:, 1:]


def test_targets_belong_to_their_windows(store):
    """Addressing and estimator together: against a direct forward pass, in a student's own order and shape."""
    store, maker = store
    scheme = store.manifest.plan.scheme
    windows = BatchOrder(split=maker.split, seed=3).window_ids(0, COUNT)[[17, 3, 39, 0, 3]]
    logits, labels = _teacher_logits(maker, windows)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    np.testing.assert_allclose(store.loss(windows).ravel(), loss, atol=3e-4)
    read = store.read(windows)
    if scheme.estimator == "full":
        torch.testing.assert_close(read, logits, rtol=1e-5, atol=1e-5)
        return
    p = torch.softmax(logits / scheme.temperature, dim=-1)
    assert read.temperature == scheme.temperature and read.ids.dtype == torch.int64
    entropy = torch.distributions.Categorical(probs=p).entropy()
    torch.testing.assert_close(read.entropy, entropy, rtol=0, atol=3e-4)
    dense = torch.zeros_like(p).scatter_add_(-1, read.ids, read.weights)
    if scheme.estimator == "sampled":
        assert read.residual is None
        torch.testing.assert_close(read.weights.sum(dim=-1), torch.ones(5, 32))
        assert ((dense - p).abs() * scheme.samples < 1 + 1e-4).all()  # each id has its share, rounded down or up
    else:
        used = read.weights > 0
        torch.testing.assert_close(read.weights[used], p.gather(-1, read.ids)[used], rtol=3e-4, atol=0)
        torch.testing.assert_close(dense.sum(dim=-1) + read.residual, torch.ones(5, 32))


def test_samples_are_unbiased_over_the_windows_of_a_store(build):
    """The whole chain, bytes included: the mean error of all weights is within its standard error of zero."""
    folder, maker, _ = build(scheme=Scheme(samples=8), tokens=60 * 32)
    store, windows = TargetStore.open(folder), BatchOrder(split=maker.split, seed=0).window_ids(0, 60)
    logits, _ = _teacher_logits(maker, windows)
    p, read = torch.softmax(logits, dim=-1).flatten(0, 1).double(), store.read(windows)
    shares = torch.zeros_like(p).scatter_add_(1, read.ids.flatten(0, 1), read.weights.flatten(0, 1).double())
    fraction = (8 * p) % 1
    spread = (fraction * (1 - fraction)).sum(dim=0).sqrt() / 8
    errors = ((shares - p).sum(dim=0) / spread)[spread > 0.1]
    assert len(errors) > 50 and errors.abs().max() < 4.5 and 0.6 < errors.square().mean() < 1.5


def test_reading_is_the_same_in_any_company(store):
    store, maker = store
    windows = BatchOrder(split=maker.split, seed=3).window_ids(0, 6)
    if store.manifest.plan.scheme.estimator == "full":
        together, alone = store.read_logits(windows), [store.read_logits([w]) for w in windows]
        np.testing.assert_array_equal(together, np.concatenate(alone))
        return
    together = store.read_arrays(windows)
    for row, window in enumerate(windows):
        alone = store.read_arrays([window])
        slots = alone.ids.shape[-1]
        np.testing.assert_array_equal(together.ids[row, :, :slots], alone.ids[0])
        np.testing.assert_array_equal(together.weights[row, :, :slots], alone.weights[0])
        assert not together.weights[row, :, slots:].any()


def test_full_targets_train_the_same_bits_as_an_online_teacher(build):
    """Stored as they are: the loss and its gradient equal those of the logits the teacher gave."""
    from distillaw.distill.losses import distillation_loss

    folder, maker, plan = build(scheme=Scheme(estimator="full"), tokens=16 * 32)
    windows = plan.windows(maker.split)  # the groups of the build, so that the forward pass has one shape
    logits, labels = _teacher_logits(maker, windows)
    stored = TargetStore.open(folder).read(windows)
    assert torch.equal(stored, logits)
    gradients = []
    for target in (logits, stored):
        hidden = torch.randn(16, 32, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
        head = torch.randn(300, 24, generator=torch.Generator().manual_seed(1))
        distillation_loss(hidden, head, labels, teacher_logits=target).backward()
        gradients.append(hidden.grad)
    assert torch.equal(*gradients)


def test_the_manifest_says_what_the_teacher_scores(build):
    folder, maker, plan = build(scheme=Scheme(samples=4), tokens=20 * 32)
    logits, labels = _teacher_logits(maker, plan.windows(maker.split))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    manifest = TargetStore.open(folder).manifest
    assert manifest.teacher_loss == pytest.approx(loss.item(), rel=1e-5)
    assert manifest.mean_entropy == pytest.approx(entropy.item(), rel=1e-5)
    assert 0 < manifest.mean_mass < 1


def test_the_whole_split_serves_every_seed(build, text):
    folder, maker, plan = build(scheme=Scheme(samples=1))
    store = TargetStore.open(folder)
    assert store.manifest.plan.num_windows == maker.split.num_windows and plan.num_shards > 1
    for seed in (0, 5):
        order = BatchOrder(split=maker.split, seed=seed)
        assert store.read_arrays(order.window_ids(11, 4)).ids.shape[:2] == (4, 32)


def test_a_window_that_is_not_covered_is_named(build):
    folder, maker, plan = build(tokens=10 * 32)
    absent = next(w for w in range(maker.split.num_windows) if w not in plan.windows(maker.split))
    with pytest.raises(CacheError, match=rf"window {absent} has no targets.*covers 10 of.*data seed 0"):
        TargetStore.open(folder).read_arrays([absent])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"data_hash": "another"}, r"data_hash is '\w+' there, 'another' here"),
        ({"context": 64}, "context is 32 there, 64 here"),
        ({"tokenizer_hash": "t"}, "tokenizer_hash is"),
        ({"teacher_fingerprint": "f"}, "teacher_fingerprint is"),
        ({"split": "teacher"}, "split is 'student' there, 'teacher' here"),
        ({"temperature": 2.0}, "at temperature 1, 2 is asked for"),
    ],
)
def test_a_store_of_something_else_is_refused_with_both_values(build, wanted, message):
    folder, _, _ = build(scheme=Scheme(samples=1), tokens=64)
    with pytest.raises(CacheError, match=message):
        TargetStore.open(folder, **wanted)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scheme": Scheme(estimator="topk")}, ConfigError, "choose from"),
        ({"scheme": Scheme(estimator="top-k", k=301)}, ConfigError, "1 to 300"),
        ({"scheme": Scheme(samples=0)}, ConfigError, "1 to 4096"),
        ({"scheme": Scheme(estimator="top-p", p=1.5)}, ConfigError, "at most 1"),
        ({"scheme": Scheme(temperature=0.0)}, ConfigError, "positive"),
        ({"scheme": Scheme(estimator="full", temperature=2.0)}, ConfigError, "any temperature"),
        ({"split": "test"}, ConfigError, "has student, teacher, validation"),
        ({"tokens": 10**12}, DataError, "are asked for"),
        ({"context": 10**9}, DataError, "0 windows"),
        ({"seed": -1}, ConfigError, "not negative"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_the_teacher_reads(teacher, text, options, error, message):
    with pytest.raises(error, match=message):
        make_plan(TargetRequest(**{"scheme": Scheme(), **options}), teacher, text)


def test_offsets_depend_on_seed_and_window_alone():
    one = window_offsets(1, 7, 32)
    np.testing.assert_array_equal(one, window_offsets(1, 7, 32))
    assert (0 <= one).all() and (one < 1).all()
    assert not np.array_equal(one, window_offsets(1, 8, 32)) and not np.array_equal(one, window_offsets(2, 7, 32))
