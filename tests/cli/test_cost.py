"""`distillaw cost`: the keys of the interface, numbers that agree with the library, errors with a remedy."""

import json
import subprocess

import pytest

from distillaw.accounting.family import FixedAspect
from distillaw.accounting.flops import forward_flops
from distillaw.shapes import Shape
from in_process import answer

FLOPS = {
    "student_forward_per_token",
    "student_training",
    "teacher_forward_per_token",
    "teacher_logits",
    "teacher_training",
    "total",
}
KEYS = {"schema_version", "flops", "params", "memory_bytes", "cache_bytes", "device_hours", "price"}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}


@pytest.fixture
def cost_json():
    """What `distillaw cost` says as JSON."""
    return lambda *args: json.loads(answer("cost", *args, "--json", code=0).stdout)


@pytest.fixture
def llama_config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))
    return path


def test_keys_of_the_interface(cost_json):
    answer = cost_json("--params", "1.82B", "--tokens", "512B")
    assert set(answer) >= KEYS
    assert answer["schema_version"] == 1
    assert set(answer["flops"]) == FLOPS
    assert set(answer["params"]) >= {"non_embedding", "embedding", "total"}


def test_a_size_means_the_fixed_aspect_family(cost_json):
    answer = cost_json("--params", "1e9", "--tokens", "20B")
    forward = answer["flops"]["student_forward_per_token"]
    assert forward == pytest.approx(2.45439e9, rel=1e-5)
    assert answer["flops"]["student_training"] == pytest.approx(3 * forward * 20e9)
    assert answer["flops"]["total"] == answer["flops"]["student_training"]
    assert answer["params"]["non_embedding"] == 1_000_000_000


def test_vocabulary_context_and_family_enter(cost_json):
    answer = cost_json(
        *"--params 1e9 --tokens 20B --vocab 128k --context 8192 --aspect 64 --ffn-ratio 4 --group-size 4".split()
    )
    family = FixedAspect(aspect=64, ffn_ratio=4, group_size=4)
    assert answer["flops"]["student_forward_per_token"] == pytest.approx(
        family.forward_flops(1e9, context=8192, vocab=128_000)
    )


def test_a_shape(cost_json):
    answer = cost_json(
        *"--layers 14 --width 1792 --ffn 4864 --heads 14 --vocab 32768 --context 4096".split(), *"--tokens 11B".split()
    )
    shape = Shape(layers=14, width=1792, ffn=4864, heads=14, kv_heads=14, head_dim=128, vocab=32768, context=4096)
    assert answer["flops"]["student_forward_per_token"] == forward_flops(shape).total
    assert answer["params"]["non_embedding"] == pytest.approx(0.546e9, rel=1e-3)
    count = answer["params"]
    assert count["non_embedding"] + count["embedding"] + count["head"] == count["total"]
    parts = dict(answer["flop_parts"]["student"])
    outside, full, total = parts.pop("outside_total"), parts.pop("full_count"), parts.pop("total")
    dense = parts.pop("not_causal_total")
    assert dense == forward_flops(shape, causal=False).total == total + parts["attention_scores"]
    assert sum(parts.values()) == total == answer["flops"]["student_forward_per_token"]
    assert full == total + sum(outside.values())


def test_a_config_file_and_its_folder(cost_json, llama_config):
    by_file = cost_json("--config", llama_config, "--tokens", "1B", "--context", "4096")
    by_folder = cost_json("--config", llama_config.parent, "--tokens", "1B", "--context", "4096")
    assert by_file["flops"] == by_folder["flops"]
    assert by_file["params"]["total"] == 1_235_814_400  # Llama-3.2-1B as published
    longest = cost_json("--config", llama_config, "--tokens", "1B")
    assert any("longest the config allows" in sentence for sentence in longest["assumptions"])


def test_a_teacher_is_charged_as_asked(cost_json):
    options = ("--params", "198M", "--tokens", "4B", "--teacher-params", "546M", "--teacher-tokens", "11B")
    full = cost_json(*options)["flops"]
    F_S, F_T = (FixedAspect().forward_flops(n) for n in (198e6, 546e6))
    assert full["teacher_forward_per_token"] == pytest.approx(F_T)
    assert full["total"] == pytest.approx(3 * F_S * 4e9 + F_T * (4e9 + 3 * 11e9))
    assert full["total"] == full["student_training"] + full["teacher_logits"] + full["teacher_training"]
    inference = cost_json(*options, "--scenario", "inference")
    assert inference["flops"]["teacher_training"] == 0
    assert (inference["delta_lgt"], inference["delta_pre"]) == (1, 0)
    half = cost_json(*options, "--delta-lgt", "0.5", "--delta-pre", "0")["flops"]
    assert half["teacher_logits"] == pytest.approx(full["teacher_logits"] / 2)
    assert sum(inference["shares"].values()) == pytest.approx(1)


def test_four_students_share_one_teacher(cost_json):
    options = ("--params", "198M", "--tokens", "4B", "--teacher-params", "546M", "--students", "4")
    shared, own = cost_json(*options), cost_json(*options, "--logits", "own")
    assert shared["family"]["total"] == pytest.approx(4 * shared["flops"]["total"])
    assert shared["delta_lgt"] == 0.25 and own["delta_lgt"] == 1
    assert own["family"]["marginal"] > shared["family"]["marginal"] == shared["flops"]["student_training"]


SHAPE = ("--layers", 14, "--width", 1792, "--ffn", 4864, "--heads", 14)
TEACHER_SHAPE = (
    *"--teacher-layers 32 --teacher-width 4096 --teacher-ffn 14336".split(),
    *"--teacher-heads 32 --teacher-kv-heads 8".split(),
)
LLAMA_3_8B = Shape(layers=32, width=4096, ffn=14336, heads=32, kv_heads=8, head_dim=128, vocab=128256, context=4096)


class TestUnlikeTeachers:
    """Each way to describe a student with each way to describe a teacher, both counted as by themselves."""

    @pytest.mark.parametrize("way", ["size", "shape", "config"])
    @pytest.mark.parametrize("teacher_way", ["size", "shape", "config"])
    def test_both_are_counted_as_alone(self, cost_json, llama_config, way, teacher_way):
        student = {"size": ("--params", "546M"), "shape": SHAPE, "config": ("--config", llama_config)}[way]
        like = ("--context", 2048, "--vocab", 50000, "--tokens", "1B")
        teacher, alone = {
            "size": (("--teacher-params", "7.75B"), ("--params", "7.75B")),
            "shape": (TEACHER_SHAPE, [str(a).replace("--teacher-", "--") for a in TEACHER_SHAPE]),
            "config": (("--teacher-config", llama_config), ("--config", llama_config)),
        }[teacher_way]
        both = cost_json(*student, *like, *teacher)
        own = like if teacher_way != "config" else (*like[:2], *like[4:])  # a config keeps its vocabulary
        other = cost_json(*alone, *own)
        assert both["params"] == cost_json(*student, *like)["params"]
        assert both["teacher_params"] == other["params"]
        forward = both["flops"]["teacher_forward_per_token"]
        assert forward == other["flops"]["student_forward_per_token"]
        assert both["flops"]["teacher_logits"] == pytest.approx(forward * 1e9)

    def test_a_shape_with_its_own_vocabulary_and_head(self, cost_json):
        answer = cost_json("--params", "1B", "--tokens", "20B", *TEACHER_SHAPE, "--teacher-vocab", 128256)
        assert answer["teacher_params"]["total"] == 8_030_261_248  # Llama-3-8B as published
        assert answer["flops"]["teacher_forward_per_token"] == forward_flops(LLAMA_3_8B).total
        assert any("vocabularies differ (32768 and 128256 rows)" in text for text in answer["warnings"])
        tied = cost_json("--params", "1B", "--tokens", "1B", *TEACHER_SHAPE, "--teacher-tied")
        assert tied["teacher_params"]["head"] == 0

    def test_a_size_of_another_family(self, cost_json):
        options = ("--params", "1B", "--tokens", "20B", "--aspect", "64", "--teacher-params", "7B")
        same, other = (cost_json(*options), cost_json(*options, "--teacher-aspect", "128", "--teacher-group-size", "4"))
        assert same["flops"]["teacher_forward_per_token"] == pytest.approx(FixedAspect(aspect=64).forward_flops(7e9))
        family = FixedAspect(aspect=128, group_size=4)
        assert other["flops"]["teacher_forward_per_token"] == pytest.approx(family.forward_flops(7e9))
        assert other["flops"]["student_training"] == same["flops"]["student_training"]

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["--teacher-layers", "3"], "missing: --teacher-width, --teacher-ffn, --teacher-heads"),
            (["--teacher-params", "2B", "--teacher-layers", "3"], "got --teacher-params and --teacher-layers"),
            (["--teacher-params", "2B", "--teacher-kv-heads", "3"], "--teacher-kv-heads belongs to a shape"),
            ([*TEACHER_SHAPE, "--teacher-aspect", "64"], "--teacher-aspect belongs to --params and --teacher-params"),
            (["--teacher-vocab", "32k"], "add --teacher NAME, --teacher-params N, --teacher-config"),
            (["--teacher-params", "-2B"], "--teacher-params: got '-2B'; it must be positive"),
            (["--teacher-params", "1.82Q"], "--teacher-params: cannot read '1.82Q'"),
        ],
    )
    def test_bad_descriptions(self, args, message):
        assert message in answer("cost", "--params", "1B", "--tokens", "1B", *args, code=2).stderr


def test_serving_many_sequences_in_few_bits(cost_json):
    one = cost_json("--params", "1B", "--tokens", "1B")["memory"]["serving"]
    many = cost_json("--params", "1B", "--tokens", "1B", "--serving-sequences", 8, "--serving-bits", 4)["memory"][
        "serving"
    ]
    assert many["weights"] == one["weights"] / 4 and many["kv_cache"] == 8 * one["kv_cache"]
    assert many["total"] == many["weights"] + many["kv_cache"]


def test_a_teacher_of_another_vocabulary_is_warned_about(cost_json, llama_config):
    answer = cost_json("--params", "198M", "--tokens", "4B", "--teacher-config", llama_config)
    assert any("vocabularies differ (32768 and 128256 rows)" in text for text in answer["warnings"])


def test_other_conventions_are_converted(cost_json):
    options = ("--tokens", "1B", "--convention", "one-matrix")
    answer = cost_json("--params", "1.909B", *options)
    assert answer["params"]["non_embedding"] == pytest.approx(1.821e9, rel=5e-4)  # the 1.82B row
    assert any("one-matrix parameters are N" in sentence for sentence in answer["assumptions"])


def test_time_money_and_storage(cost_json):
    options = ("--params", "1e9", "--tokens", "20B", "--hardware", "a100-80gb")
    answer = cost_json(*options, "--mfu", "0.5", "--price", "2", "--cache-scheme", "top-64")
    assert answer["device_hours"] == pytest.approx(answer["flops"]["total"] / (312e12 * 0.5) / 3600)
    assert answer["price"] == pytest.approx(2 * answer["device_hours"])
    assert answer["cache_bytes"] == 20e9 * (64 * (15 + 16) / 8)
    assert answer["memory_bytes"] == answer["memory"]["training"]["total"]
    assert cost_json("--params", "1e9", "--tokens", "1B", "--hardware", "l4")["price"] is None
    assert cost_json("--params", "1e6", "--tokens", "1M", "--hardware", "cpu-core")["memory"]["precision"] == "fp32"


def test_approximations_are_labelled_with_their_error(cost_json):
    answer = cost_json("--params", "103M", "--tokens", "1B")["approximations"]
    assert answer["two_n"]["relative_error"] == pytest.approx(-0.40, abs=0.01)
    assert answer["six_nd"]["flop"] == pytest.approx(6 * 103e6 * 1e9)


def test_the_text_names_conventions_parts_and_sources():
    out = answer("cost", "--params", "1.82B", "--tokens", "512B", "--teacher-params", "7.75B", code=0).stdout
    parts = ("N, non-embedding", "all weights", "attention scores, causal", "outside F: softmax", "approximation 2 N")
    said = ("teacher logits", "not comparable", "estimate", "assumptions", "arXiv 2502.08606v2", "MFU", "peak")
    for word in (*parts, *said):
        assert word in out, word


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--tokens", "1B"], "got none: --student N, or --config"),
        (["--tokens", "1B", "--params", "1B", "--layers", "3"], "got --params and --layers"),
        (["--tokens", "1B", "--params", "big"], "cannot read 'big'"),
        (["--tokens", "-1", "--params", "1B"], "--tokens: got '-1'"),
        (["--tokens", "1B", "--params", "-1.82B"], "--params: got '-1.82B'"),
        (["--tokens", "nan", "--params", "1B"], "--tokens: cannot read 'nan'"),
        (["--tokens", "0.5", "--params", "1B"], "--tokens: got '0.5'; it counts whole things"),
        (["--tokens", "inf", "--params", "1B"], "--tokens: cannot read 'inf'"),
        (["--tokens", "1B", "--params", "1,82B"], "--params: cannot read '1,82B'"),
        (["--tokens", "1B", "--params", "1B", "--aspect", "nan"], "aspect = nan"),
        (["--tokens", "1B", "--params", "1B", "--mfu", "nan"], "fraction of peak"),
        (["--tokens", "1B", "--params", "1B", "--price", "inf"], "price"),
        (["--tokens", "1B", "--params", "1B", "--serving-sequences", "0"], "--serving-sequences 0"),
        (["--tokens", "1B", "--params", "1B", "--serving-bits", "3"], "serving-bits"),
        (["--tokens", "1B", "--params", "1B", "--aspect", "0"], "aspect = 0"),
        (["--tokens", "1B", "--params", "1e200", "--teacher-params", "1e300"], "beyond 1e+36"),
        (["--tokens", "1B", "--layers", "2"], "missing: --width, --ffn, --heads"),
        (["--tokens", "1B", "--layers", "2", "--width", "31", "--ffn", "9", "--heads", "4"], "not a multiple"),
        (["--tokens", "1B", "--layers", "2", "--width", "9.5", "--ffn", "9", "--heads", "3"], "whole number"),
        (["--tokens", "1B", "--params", "1B", "--kv-heads", "2"], "--kv-heads belongs to a shape"),
        (["--tokens", "1B", "--params", "1B", "--context", "0"], "--context: got '0'"),
        (["--tokens", "1B", "--config", "/nowhere", "--aspect", "64"], "--aspect belongs to --student"),
        (["--tokens", "1B", "--config", "/nowhere"], "give a config.json or its folder"),
        (["--tokens", "1B", "--params", "1B", "--teacher-tokens", "9B"], "add --teacher NAME"),
        (["--tokens", "1B", "--params", "1B", "--scenario", "inference"], "add --teacher NAME"),
        (["--tokens", "1B", "--params", "1B", "--teacher-params", "2B", "--delta-lgt", "2"], r"1/n"),
        (["--tokens", "1B", "--params", "1B", "--teacher-params", "2B", "--students", "0"], "at least one"),
        ([*"--tokens 1B --params 1B --teacher-params 2B --students 2 --delta-pre 1".split()], "say once who pays"),
        (["--tokens", "1B", "--params", "1B", "--hardware", "h100-sxn"], "did you mean 'h100-sxm'"),
        (["--tokens", "1B", "--params", "1B", "--mfu", "40"], "fraction of peak"),
        (["--tokens", "1B", "--params", "1B", "--price", "nan"], "cannot be negative"),
        (["--tokens", "1B", "--params", "1B", "--sequences", "0"], "at least one sequence"),
        (["--tokens", "1B", "--params", "1B", "--cache-scheme", "top64"], "top-K"),
        (["--tokens", "1B", "--params", "1B", "--precision", "int8"], "precision"),
        (["--params", "1B"], "tokens"),
    ],
)
def test_bad_requests_exit_with_2_and_a_remedy(args, message):
    assert message in answer("cost", *args, code=2).stderr


def test_through_the_console_script():
    command = ["distillaw", "cost", "--params", "300M", "--tokens", "6B", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout)["flops"]["total"] > 0


def test_layouts_on_many_devices_fit_and_say_memory_speed_and_money():
    asked = "--student 1B --tokens 20B --teacher llama-3.1-8b --batch 2M --context 4096 --devices 64xh100"
    layouts = json.loads(answer("cost", *asked.split(), "--json").stdout)["layouts"]
    assert {one["sharding"] for one in layouts} == {"ddp", "fsdp"}
    for one in layouts:
        parts = one["memory"]
        assert sum(parts.values()) <= 0.9 * 80e9
        assert 64 * one["sequences"] * one["accumulation"] * 4096 == pytest.approx(2e6, rel=0.07)
        low, high = one["tokens_per_second"]
        assert 0 < low < high and one["hours"] == pytest.approx([20e9 / high / 3600, 20e9 / low / 3600])
        assert one["price"] == pytest.approx([64 * 3.0 * hours for hours in one["hours"]])
        assert 0 < one["mfu"][0] < one["mfu"][1] <= 0.5
    by = {(one["sharding"], one["sequences"], one["recompute"]): one["memory"] for one in layouts}
    for sharding in ("ddp", "fsdp"):
        assert by[sharding, 1, True]["activations"] < by[sharding, 1, False]["activations"]
    assert by["fsdp", 1, False]["states"] < by["ddp", 1, False]["states"] / 60
    shown = answer("cost", *asked.split()).stdout
    assert "--sharding" in shown and "GB/device" in shown


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--teacher-params 70B --devices 1xl4", "More devices"),
        ("--devices 64h100", "e.g. 64xh100"),
        ("--devices 64xh900", "not known"),
        ("--devices 512xh100 --batch 1M", "cannot be shared by 512 devices"),
    ],
)
def test_devices_that_cannot_be_are_one_line(more, said):
    done = answer("cost", "--student", "1B", "--tokens", "20B", *more.split())
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
