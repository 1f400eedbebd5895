import pytest

from distillaw.errors import ConfigError
from distillaw.sweep.checks import load_study
from distillaw.sweep.cost import study_cost


def _load(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return load_study(path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("peak_lr =", "peak_lrr =", ["unknown key 'peak_lrr'", "did you mean 'peak_lr'"]),
        ("vocab_size", "vocab_sizes", ["data", "did you mean 'vocab_size'"]),
        ("batch_tokens = 192", "batch_tokens = 100", ["100", "multiple", "context = 32"]),
        ('tokens = ["4k", "8k"]', "tokens = [100]", ["100", "20 batches"]),
        ('tokens = ["4k", "8k"]', 'tokens = ["many"]', ["cannot read 'many'", "300M"]),
        ("peak_lr = 0.01", "peak_lr = 5", ["peak_lr = 5", "0.999"]),
        ("peak_lr = 0.01", 'peak_lr = "fast"', ["fast"]),
        ("peak_lr = 0.01", "peak_lr = true", ["expected float", "True"]),
        ("[tuning]", "cooldown = 1.5\n[tuning]", ["cooldown = 1.5", "[0.01, 1]"]),
        ("[tuning]", 'decay = "cosinus"\n[tuning]', ["decay = 'cosinus'", "did you mean 'cosine'", "sqrt"]),
        ("[tuning]", 'divergence = "forward_kl"\n[tuning]', ["'forward_kl'", "did you mean 'forward-kl'", "jsd"]),
        ("[tuning]", 'precision = "fp16"\n[tuning]', ["precision = 'fp16'", "fp32, bf16"]),
        ("[tuning]", "beta = 1.5\n[tuning]", ["beta = 1.5", "[0, 1]"]),
        ("[tuning]", "skew = 1.0\n[tuning]", ["skew = 1 ", "0.999"]),
        ("[tuning]", "spike_factor = -1\n[tuning]", ["spike_factor = -1"]),
        ("[tuning]", "patience = -1\n[tuning]", ["patience = -1"]),
        ("[tuning]", "temperature = 0.0\n[tuning]", ["temperature = 0 ", "0.001"]),
        ("[tuning]", '[tuning]\nteacher = "9B"', ["'9B'", "0.05M@8k"]),
        ('params = "0.03M"\nseeds', 'params = "0.7M"\nseeds', ["'0.7M'", "0.03M"]),
        ('params = "0.05M"\ntokens = "8k"', 'path = "/nowhere"', ["/nowhere", "config.json"]),
        ('params = "0.05M"\ntokens = "8k"', 'params = "0.05M"', ["tokens"]),
        ("[tuning]", "[[cells]]\ntokens = [100]\n[tuning]", ["[[cells]]", "20 batches"]),
        ("[tuning]", '[[cells]]\ntokens = ["8k"]\nteachers = ["0.05M@16"]\n[tuning]', ["did you mean '0.05M@8k'"]),
        ("[tuning]", '[[cells]]\ntokens = ["8k"]\nsplit = "both"\n[tuning]', ["split = 'both'", "union"]),
        ("[tuning]", '[[cells]]\ntokens = ["8k"]\nsplit = "union"\n[tuning]', ["give them a name"]),
        ("[tuning]", '[[cells]]\ntokens = ["8k"]\ninit = "pruned"\nname = "p"\n[tuning]', ["cuts students out"]),
        (
            "[tuning]",
            '[[cells]]\ntokens = ["8k"]\nname = "h"\nrates = [2.0]\nholdout = true\n[tuning]',
            ["grid's settings", "drop holdout"],
        ),
        (
            "[tuning]",
            '[[cells]]\ntokens = ["8k"]\nname = "l"\ntraining = { distil_weight = 0.5 }\n[tuning]',
            ["did you mean 'distill_weight'"],
        ),
        (
            "[tuning]",
            '[[cells]]\ntokens = ["8k"]\nname = "l"\ntraining = { context = 64 }\n[tuning]',
            ["changes context"],
        ),
        (
            "[tuning]",
            '[[cells]]\ntokens = ["8k"]\nname = "l"\ntraining = { distill_weight = 2 }\n[tuning]',
            ["distill_weight = 2", "[0, 1]"],
        ),
        ("[students]", "[student]", ["unknown key 'student'", "did you mean 'students'"]),
        ('name = "tiny"', "name = tiny", ["not TOML", "line"]),
        ("context = 32", "context = 0", ["training.context = 0"]),
        ("context = 32", "context = 32\nhead_dim = 15", ["head_dim = 15", "even"]),
        ("context = 32", "context = 32\nweight_decay = nan", ["not a finite number"]),
        ("context = 32", "context = 32\nz_weight = -1", ["z_weight = -1"]),
        ("context = 32", "context = 32\nmicro_batch_tokens = -32", ["micro_batch_tokens = -32"]),
        ("[tuning]", "[tuning]\nrounds = -1", ["tuning.rounds = -1"]),
        ("[data]", "[data]\nsection_chars = -3", ["section_chars = -3"]),
        ("seeds = 2", "seeds = 0", ["seeds = 0", "at least 2"]),
        ('"0.03M", "0.05M"]', '"0.03M", "30k"]', ["repeats a size"]),
        ('["4k", "8k"]', '["4k", "8k", "4020"]', ["repeats a budget", "4020", "192"]),
        ('tokens = ["4k"]', 'tokens = ["4k", "4020"]', ["[[replicates]] tokens repeats a budget", "4020"]),
        (
            "[target]",
            '[[cells]]\nparams = ["0.03M"]\ntokens = ["8k", "8k"]\n[target]',
            ["[[cells]]", "repeats a budget"],
        ),
        ('name = "tiny"\n', "", ["missing name"]),
    ],
)
def test_what_cannot_be_run_is_refused_with_value_and_rule(tiny, old, new, words):
    with pytest.raises(ConfigError) as caught:
        _load(tiny, old, new)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_every_named_choice_is_one_the_engine_knows():
    from distillaw.distill.divergences import divergence_named
    from distillaw.sweep.checks import CHOICES
    from distillaw.train.optim import DECAYS

    assert set(CHOICES["decay"]) == set(DECAYS)
    for name in CHOICES["divergence"]:
        divergence_named(name, beta=0.5, skew=0.1)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_study(tmp_path / "none.toml")


def test_a_size_that_no_shape_has_is_refused(tiny):
    spec = _load(tiny, '"0.03M", "0.05M"]', '"100", "0.03M", "0.05M"]')
    with pytest.raises(ConfigError, match=r"params = 100: .*at least"):
        study_cost(spec, 300)


def test_the_shipped_studies_dry_run():
    from pathlib import Path

    studies = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))
    assert len(studies) >= 2
    for path in studies:
        spec = load_study(path, corpus="sotu")
        cost = study_cost(spec, spec.data.vocab_size)
        assert cost.num_runs > (20 if spec.tuning.enabled else 2)
        assert 0 < cost.flops < (2e17 if path.stem == "open-large" else 1e16)  # that one is for a GPU
        smallest = spec.shape(spec.end_sizes()[0], spec.data.vocab_size)
        from distillaw.accounting.architecture import count_params

        counts = count_params(smallest)
        if path.stem != "wager":  # whose smallest pilots are as they were frozen
            assert counts.embedding / counts.non_embedding <= 0.30


def test_cost_counts_every_run_once_and_branches_share_their_trunk(tiny):
    cost = study_cost(load_study(tiny), 300)
    # 1 teacher; 2 sizes x 2 budgets x (alone, distilled); one further seed at 4k tokens in both arms
    assert cost.num_runs == 1 + 2 * 2 * 2 + 2
    assert len(cost.jobs) == 1 + 2 * 2 + 2
    trunk = next(job for job in cost.jobs if job.budgets == (4000, 8000))
    assert trunk.tokens == pytest.approx(0.8 * 8000 + 0.2 * 12000)


def test_a_teacher_of_an_architecture_that_accounting_does_not_know_is_not_free(tiny, tmp_path):
    """The dry run of a folder that has only its config: known and unknown architecture of one size cost alike."""
    from transformers import AutoConfig

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    costs = {}
    for kind in ("llama", "cohere"):
        AutoConfig.for_model(kind, vocab_size=300, **sizes).save_pretrained(tmp_path / kind)
        text = tiny.read_text().replace('params = "0.05M"\ntokens = "8k"', f'path = "{tmp_path / kind}"')
        (tmp_path / f"{kind}.toml").write_text(text)
        costs[kind] = study_cost(load_study(tmp_path / f"{kind}.toml"), 300).flops
    alone = tiny.read_text().split("[[teachers]]")[0] + "[[replicates]]" + tiny.read_text().split("[[replicates]]")[1]
    (tmp_path / "alone.toml").write_text(alone)
    assert costs["cohere"] == pytest.approx(costs["llama"], rel=0.05)
    assert costs["cohere"] > 1.5 * study_cost(load_study(tmp_path / "alone.toml"), 300).flops


CONTROL = '[[cells]]\nname = "arm"\ntokens = ["8k"]\nteachers = ["{teacher}"]\nparams = ["{size}"]\n'


@pytest.mark.parametrize(
    ("size", "extra", "words"),
    [
        ("0.3M", 'init = "pruned"', r"arm: the student 0.3M cannot be cut out of .*: it has 80 width, its teacher 32"),
        ("0.03M", "[cells.training]\ntop_k = 5\ndivergence = 'reverse-kl'", "'reverse-kl' with top_k = 5.*infinite"),
    ],
)
def test_controls_that_cannot_be_are_refused(tiny, size, extra, words):
    spec = load_study(tiny)
    teacher = spec.teacher_labels()[0]
    tiny.write_text(f"{tiny.read_text()}\n{CONTROL.format(teacher=teacher, size=size)}{extra}\n")
    with pytest.raises(ConfigError, match=words):
        load_study(tiny)
