"""A store made of somebody's dump is the store that the teacher itself would have given, and says that it is biased."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from distillaw.errors import CacheError, ConfigError
from distillaw.targets.build import build_shards, make_plan, opened_for_building
from distillaw.targets.foreign import BIASES, CaptureMaker, open_capture
from distillaw.targets.manifest import Scheme, TargetRequest
from distillaw.targets.store import TargetStore
from in_process import answer

CONTEXT = 32
K = 12
TOP = Scheme(estimator="top-k", k=K)
WINDOWS = 24
DISTILLKIT = {
    "d": 300,
    "k": K,
    "exact_k": K,
    "exact_dtype": "float32",
    "polynomial_terms": None,
    "term_dtype": "float32",
    "residual_bins": [],
    "delta_encoding": True,
    "error_diffusion": False,
    "normalize_t": False,
}


@pytest.fixture(scope="session")
def said(text, teacher):
    """Tokens of some windows (W, CONTEXT + 1), and the teacher's log-probabilities after each but the last."""
    tokens = torch.from_numpy(text.split("student", context=CONTEXT).windows(range(WINDOWS)))
    with torch.no_grad():
        return tokens.numpy(), teacher.logits(tokens[:, :-1]).double().log_softmax(dim=-1).numpy()


def vllm(folder: Path, said, *, wrap: bool = False) -> Path:
    """Answers to `prompt_logprobs: K, return_token_ids: true`: the K likeliest and the prompt's own token."""
    with (folder / "answers.jsonl").open("w") as stream:
        for tokens, log_probs in zip(*said, strict=True):
            answers: list = [None]
            for label, row in zip(tokens[1:], log_probs, strict=True):
                ranks = np.empty(len(row), dtype=int)
                ranks[np.argsort(-row, kind="stable")] = np.arange(1, len(row) + 1)
                told = [label, *np.argsort(-row, kind="stable")[:K]]  # vLLM tells the prompt's token first
                answers.append(
                    {str(i): {"logprob": row[i], "rank": int(ranks[i]), "decoded_token": "x"} for i in map(int, told)}
                )
            row = {"prompt_token_ids": tokens.tolist(), "prompt_logprobs": answers}
            stream.write(json.dumps({"choices": [row]} if wrap else row) + "\n")
    return folder / "answers.jsonl"


def nemo(folder: Path, said) -> Path:
    """As compute_topk_logits.py writes it: logits, and the logarithm of the sum of their exponentials."""
    with (folder / "train_with_logits_0.jsonl").open("w") as stream:
        for index, (tokens, log_probs) in enumerate(zip(*said, strict=True)):
            ids = np.argsort(-log_probs, axis=1)[:, :K]
            row = {
                "tokens": tokens.tolist(),
                "labels": tokens[1:].tolist(),
                "topk_logits": (np.take_along_axis(log_probs, ids, 1) + 7).tolist(),
                "topk_token_ids": ids.tolist(),
                "log_sum_exp_logits": [7.0] * len(ids),
                "index": index,
            }
            stream.write(json.dumps(row) + "\n")
    return folder / "train_with_logits_0.jsonl"


def distillkit(folder: Path, said) -> Path:
    """As sample_logits_vllm writes it with all K exact: deltas as floats, nine bits an id, the highest first."""
    rows = []
    for tokens, log_probs in zip(*said, strict=True):
        ids = np.argsort(-log_probs, axis=1)[:, :K]
        values = np.take_along_axis(log_probs, ids, 1)
        deltas = np.diff(values, prepend=0, axis=1).astype("<f4")
        bits = (ids[:, :, None] >> np.arange(8, -1, -1)) & 1
        packed = np.packbits(bits.reshape(len(ids), -1).astype(np.uint8), axis=1)
        rows.append((tokens.tolist(), deltas.view(np.uint8).reshape(len(ids), -1).tolist(), packed.tolist()))
    _write_distillkit(folder, rows, DISTILLKIT)
    return folder


def _write_distillkit(folder: Path, rows: list, config: dict) -> None:
    nested = pa.list_(pa.list_(pa.uint8()))
    names = ("input_ids", "compressed_logprobs", "bytepacked_indices")
    columns = zip(*rows, strict=True)
    kinds = (pa.list_(pa.uint64()), nested, nested)
    arrays = [pa.array(list(column), kind) for column, kind in zip(columns, kinds, strict=True)]
    pq.write_table(pa.table(arrays, names=names), folder / "data_0.parquet")
    (folder / "compression_config.yaml").write_text(yaml.safe_dump(config))


WRITERS = {"vLLM": vllm, "NeMo": nemo, "DistillKit": distillkit}


def _maker(dump: Path, text, scheme: Scheme = TOP) -> CaptureMaker:
    capture = open_capture(str(dump), CONTEXT, 300)
    split = text.split("student", context=CONTEXT)
    return CaptureMaker(teacher=capture, split=split, scheme=scheme, seed=0)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_dump_gives_the_targets_of_the_teacher_itself(tmp_path, text, build, said, kind):
    _, own, _ = build(scheme=TOP, tokens=CONTEXT)
    maker = _maker(WRITERS[kind](tmp_path, said), text)
    request = TargetRequest(scheme=TOP, context=CONTEXT)
    plan = make_plan(request, maker.teacher, text)
    assert plan.teacher_dtype == "dumped"
    for window in (0, 7, WINDOWS - 1):
        (block,), sums = maker.make([window])
        (wanted,), right = own.make([window])
        one, other = (_decoded(each) for each in (block, wanted))
        assert np.array_equal(one[0], other[0])
        np.testing.assert_allclose(one[1], other[1], rtol=1e-3)
        assert sums.mass == pytest.approx(right.mass, rel=1e-5)
        assert sums.entropy >= right.entropy - 0.01  # of a flat tail: none is larger
        assert sums.loss == pytest.approx(right.loss, rel=1e-5 if kind == "vLLM" else 0.2)


def _decoded(block: bytes):
    from distillaw.targets import codec

    found = codec.decode_targets(np.frombuffer(block, dtype=np.uint8), CONTEXT, TOP)
    return found.ids, found.weights


def test_a_store_of_a_dump_says_its_bias_and_is_read_like_any(tmp_path, text, said):
    maker = _maker(distillkit(tmp_path, said), text)
    order = TargetRequest(scheme=TOP, context=CONTEXT, tokens=CONTEXT)
    plan = make_plan(order, maker.teacher, text)
    covered = np.arange(WINDOWS)
    folder = tmp_path / "cache"
    plan = replace(plan, num_windows=1, order_seed=0)
    first = int(plan.windows(maker.split)[0])
    if first not in covered:
        with pytest.raises(CacheError, match=rf"none of its 24 rows begins with the tokens of window {first}"):
            maker.make([first])
    plan = replace(plan, num_windows=WINDOWS, order_seed=None)
    with opened_for_building(folder, plan) as begun:
        manifest = build_shards(folder, begun, maker)
    assert manifest.bias == BIASES["DistillKit"].format(exact_k=K)
    assert "biased" in TargetStore.open(folder).manifest.caution
    targets = TargetStore.open(folder, data_hash=text.data_hash, context=CONTEXT).read(np.arange(3))
    assert torch.allclose(targets.weights.sum(-1) + targets.residual, torch.ones(3, CONTEXT), atol=1e-3)


def test_the_command_builds_shows_and_verifies_it(tmp_path, text, teacher):
    tokens = torch.from_numpy(
        text.split("student", context=CONTEXT).windows(range(text.split("student", context=CONTEXT).num_windows))
    )
    with torch.no_grad():
        whole = teacher.logits(tokens[:, :-1]).double().log_softmax(dim=-1).numpy()
    dump, out = vllm(tmp_path, (tokens.numpy(), whole), wrap=True), tmp_path / "cache"
    words = ("build", "--teacher", dump, "--data", text.folder, "--out", out, "--context", CONTEXT)
    refused = answer("cache", *words)
    assert refused.returncode == 2
    assert "give --estimator top-k --k K" in refused.stderr
    done = answer("cache", *words, "--estimator", "top-k", "--k", K)
    assert done.returncode == 0, done.stderr
    assert "no teacher is asked" in done.stdout + done.stderr
    shown = answer("cache", "inspect", out)
    assert "biased: top-k log-probabilities of a dump" in shown.stdout
    assert json.loads(answer("cache", "inspect", out, "--json").stdout)["bias"].startswith("top-k")
    checked = answer("cache", "verify", out)
    assert checked.returncode == 0, checked.stderr
    assert "equal byte for byte" in checked.stdout
    spec = f'name = "r"\nparams = "0.03M"\ntokens = 4096\npeak_lr = 0.01\nbatch_tokens = 64\ntargets = "{out}"\n'
    data = "[data]\nvocab_size = 300\nvalidation_documents = 20\nmax_document_chars = 400\n"
    (tmp_path / "run.toml").write_text(spec + data + f"[training]\ncontext = {CONTEXT}\nwarmup_tokens = 512\n")
    trained = answer("train", tmp_path / "run.toml", "--out", tmp_path / "run")
    assert trained.returncode == 0, trained.stderr


def _spoilt(path: Path, change) -> Path:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("change", "said_of_it"),
    [
        (lambda rows: rows[0].pop("prompt_token_ids"), "return_token_ids"),
        (lambda rows: rows[0]["prompt_token_ids"].__setitem__(3, 300), "token 300 is beyond the text's vocabulary"),
        (lambda rows: [row.clear() or row.update(text="a") for row in rows], "neither vLLM's prompt_logprobs nor"),
        (lambda rows: [row["prompt_token_ids"].__delitem__(slice(20, None)) for row in rows], "no row of 32 tokens"),
    ],
)
def test_what_is_wrong_with_a_dump_is_said(tmp_path, text, said, change, said_of_it):
    with pytest.raises(CacheError, match=said_of_it):
        _maker(_spoilt(vllm(tmp_path, said), change), text)


def test_what_a_dump_cannot_give_is_refused(tmp_path, text, said):
    dump = vllm(tmp_path, said)
    for scheme in (Scheme(), Scheme(estimator="full"), Scheme(estimator="top-k", k=4, temperature=2.0)):
        with pytest.raises(ConfigError, match="neither samples nor other temperatures"):
            _maker(dump, text, scheme)
    with pytest.raises(CacheError, match=rf"of {K} ids or fewer, 32 of 40 are needed"):
        _maker(dump, text, Scheme(estimator="top-k", k=40)).make([0])
    dump.write_text(dump.read_text()[:5000])
    with pytest.raises(CacheError, match="not JSON"):
        _maker(dump, text)
    with pytest.raises(CacheError, match="vocabulary has 301"):
        open_capture(str(distillkit(tmp_path, said)), CONTEXT, 301)


@pytest.mark.filterwarnings("ignore")  # of DistillKit about pydantic
@pytest.mark.parametrize(
    "config",
    [
        {"exact_k": 4, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, 2, "sqrt"], "term_dtype": "float32"},
        {
            "exact_k": 2,
            "exact_dtype": "float16",
            "polynomial_terms": [0, 1],
            "term_dtype": "float16",
            "delta_encoding": False,
            "normalize_t": True,
            "residual_bins": [
                {"scale_dtype": "float16", "element_bits": 5, "num_elements": 4},
                {"scale_dtype": "bfloat16", "element_bits": 1, "num_elements": 3},
            ],
        },
    ],
)
def test_distillkits_own_writer_is_read_as_it_reads_itself(tmp_path, text, said, config):
    """Where DistillKit is at hand (it is not on PyPI): curves, residual bins and all, to the bit."""
    compression = pytest.importorskip("distillkit.compression")
    settings = compression.DistributionQuantizationConfig.model_validate(DISTILLKIT | config)
    compressor = compression.LogprobCompressor(config=settings)
    tokens, log_probs = said
    ids = np.argsort(-log_probs, axis=-1)[..., :K]
    values = torch.from_numpy(np.take_along_axis(log_probs, ids, -1)).float()
    packed = compressor.compress_from_sparse(torch.from_numpy(ids), values)
    names = ("compressed_logprobs", "bytepacked_indices")
    rows = [(row.tolist(), *(packed[name][i].tolist() for name in names)) for i, row in enumerate(tokens)]
    _write_distillkit(tmp_path, rows, settings.model_dump(mode="json"))
    capture = open_capture(str(tmp_path), CONTEXT, 300)
    kept, wanted = compressor.decompress_to_sparse(packed)
    for i in (0, WINDOWS - 1):
        row = capture.row(tokens[i, :-1])
        assert np.array_equal(row.ids, kept[i].numpy())
        assert np.array_equal(row.log_probs, wanted[i].double().numpy())
