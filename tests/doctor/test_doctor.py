"""`distillaw doctor`: what it finds here is true, and each problem comes with what to do."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distillaw.accounting.hardware import hardware_presets
from distillaw.doctor import speed
from distillaw.doctor.examination import (
    cuda_device,
    examine_disk,
    find_problems,
    read_machine,
    read_offline,
    read_software,
)
from in_process import answer

NOWHERE = Path("/proc/nowhere")
"""A folder that nobody can make."""


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """Parts of this machine, as they are, and quiet."""
    disk = examine_disk(tmp_path_factory.mktemp("disk"), measure=False)
    machine = replace(read_machine(), load=0.0, memory_bytes=16e9, devices=())
    return {
        "software": read_software(),
        "machine": machine,
        "disk": replace(disk, free_bytes=10**11),
        "offline": read_offline(train_tokenizer=False),
        "speed": None,
    }


def test_a_healthy_machine_has_no_problem(healthy):
    assert find_problems(**healthy) == ()


@pytest.mark.parametrize(
    ("part", "changes", "words", "is_fatal"),
    [
        ("software", {"packages": {"torch": None}}, "distillaw[train]", True),
        ("software", {"extras": ()}, "pip install -e", False),
        ("machine", {"memory_bytes": 5e8}, "--workers 1", False),
        ("machine", {"load": 99.0}, "quiet machine", False),
        ("machine", {"devices": (cuda_device("NVIDIA H200, 143771, 9.0"),)}, "CUDA build", False),
        ("disk", {"error": "Read-only file system"}, "--out DIR", True),
        ("disk", {"renames_atomically": False}, "local folder", True),
        ("disk", {"free_bytes": 10**6}, "study show", False),
        ("disk", {"write_bytes_per_second": 1e6, "sync_seconds": 0.001}, "local disk", False),
        ("offline", {"corpus_bytes": None}, "--corpus FILE", False),
        ("offline", {"tokenizer": "failed: no module"}, "--upgrade", True),
    ],
)
def test_each_problem_says_what_to_do(healthy, part, changes, words, is_fatal):
    if "packages" in changes:
        changes = {"packages": healthy["software"].packages | changes["packages"]}
    if "devices" in changes:  # that torch does not see
        software = healthy["software"]
        healthy = healthy | {"software": replace(software, packages=software.packages | {"torch": "2.13.0+cpu"})}
    (problem,) = find_problems(**(healthy | {part: replace(healthy[part], **changes)}))
    assert words in problem.remedy and problem.is_fatal is is_fatal


@pytest.mark.parametrize(
    ("line", "preset", "has_bf16"),
    [
        ("NVIDIA H200, 143771, 9.0", "h200", True),
        ("NVIDIA H100 80GB HBM3, 81559, 9.0", "h100-sxm", True),
        ("NVIDIA H100 PCIe, 81559, 9.0", "h100-pcie", True),
        ("NVIDIA A100-SXM4-80GB, 81920, 8.0", "a100-80gb", True),
        ("Tesla T4, 15360, 7.5", "t4", False),
        ("NVIDIA L4, 23034, 8.9", "l4", True),
        ("NVIDIA L40S, 46068, 8.9", "l40s", True),
        ("NVIDIA GeForce RTX 4090, 24564, 8.9", "rtx-4090", True),
        ("NVIDIA GeForce GTX 1080, [N/A], 6.1", None, False),
    ],
)
def test_devices_are_known_by_what_the_driver_calls_them(line, preset, has_bf16):
    device = cuda_device(line)
    assert (device.preset, device.has_bf16) == (preset, has_bf16)
    assert preset is None or (preset in hardware_presets() and device.memory_bytes > 1e10)


def test_a_disk_is_left_as_it_was(tmp_path):
    disk = examine_disk(tmp_path / "not" / "there")
    assert list(tmp_path.iterdir()) == []
    assert disk.renames_atomically and disk.write_bytes_per_second > 0 and disk.sync_seconds > 0
    assert disk.error == "" and disk.free_bytes > 0


def test_without_measuring_it_answers(tmp_path):
    found = json.loads(answer("doctor", "--no-measure", "--json", "--out", tmp_path).stdout)
    assert found["schema_version"] == 1 and found["usable"] and found["speed"] is None


def test_nothing_can_be_written_is_a_failure():
    done = answer("doctor", "--no-measure", "--out", NOWHERE, code=1)
    assert "CANNOT" in done.stdout and "do: another folder" in done.stdout


def test_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    monkeypatch.setattr(speed, "ON_CPU", replace(speed.ON_CPU, params=3e4, context=64, sequences=1, square=64))
    done = answer("doctor", "--json", "--quiet", "--out", tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    matmul, tokens, flop = (found["speed"][key] for key in ("matmul", "tokens_per_second", "train_flop_per_second"))
    for rate in (*matmul.values(), tokens, flop):
        assert 0 < rate["low"] <= rate["median"] <= rate["high"]
    assert flop["median"] / tokens["median"] > 6 * found["speed"]["params"]  # 6 N and attention, head besides
    assert found["offline"]["tokenizer"] == "trained"
