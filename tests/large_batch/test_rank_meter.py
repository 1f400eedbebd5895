"""Two real ranks over gloo: what the meter sees is what each rank's own gradient is."""

import json
import os
import socket
import subprocess
import sys

import pytest

_RANK = """
import json, os, torch, torch.distributed as dist
from distillaw.large_batch.instruments import DataParallelMeter
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
make = lambda: torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1)).double()
x, y = torch.randn(2, 8, 5, dtype=torch.float64), torch.randn(2, 8, 1, dtype=torch.float64)
plain = make()
wrapped = torch.nn.parallel.DistributedDataParallel(make())
wrapped.module.load_state_dict(plain.state_dict())
def gradient(rows):
    plain.zero_grad()
    ((plain(x[rows].reshape(-1, 5)) - y[rows].reshape(-1, 1)) ** 2).mean().backward()
    return sum(p.grad.square().sum().item() for p in plain.parameters())
expected = [(gradient([0]) + gradient([1])) / 2, gradient([0, 1])]
meter, found = DataParallelMeter(wrapped), []
for _ in range(2):
    wrapped.zero_grad()
    ((wrapped(x[rank]) - y[rank]) ** 2).mean().backward()
    found.append(meter.norms())
try:
    meter.norms()
    said = ""
except Exception as error:
    said = str(error)
print(json.dumps({"expected": expected, "found": found, "said": said}))
dist.destroy_process_group()
"""


def test_norms_of_ranks_and_of_their_mean():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK],
            env=base | {"RANK": str(rank)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in ranks:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        answer = json.loads(out)
        for norms in answer["found"]:
            assert norms == pytest.approx(answer["expected"], rel=1e-12)
        assert answer["found"][0][0] > answer["found"][0][1] and "once after each step" in answer["said"]
