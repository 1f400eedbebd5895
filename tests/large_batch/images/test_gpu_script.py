"""The script for a lent GPU, on the CPU and, where there is one, on the GPU."""

import importlib
import json

import pytest
import torch
from tiny_images import tiny_data, write_npz


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("benchmarks.large_batch.gpu")


def run(script, folder, capsys, *, device, workers):
    data = write_npz(folder / "made.npz", tiny_data(train=1000, test=200))
    script.main(["--data", str(data), "--out", str(folder / "out"), "--device", device, "--workers", workers, "--tiny"])
    last = capsys.readouterr().out.splitlines()
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert [score["column"] for score in summary["columns"]] == ["SB", "LB", "+LR", "+GBN", "+RA", "RA alone", "noise"]
    assert max(score["mean"] for score in summary["columns"]) > 60 and len(summary["walks"]) == 6
    assert last[0].startswith("column") and last[1].startswith("SB") and (folder / "out" / "report.html").exists()


@pytest.mark.slow
def test_the_script_in_seconds_on_a_cpu(script, tmp_path, capsys):
    run(script, tmp_path, capsys, device="cpu", workers="1")


@pytest.mark.gpu
def test_the_script_on_a_gpu(script, tmp_path, capsys):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    run(script, tmp_path, capsys, device="cuda", workers="2")
