"""Workers on a real Ray cluster of this machine, two processes at once: killed, and followed by another executor.

About a minute each; skipped where Ray is not installed.
"""

import importlib.util
import json
import os
import signal
from pathlib import Path

import cluster_study as long
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]

RAY = ("--executor", "ray", "--workers", "2")


@pytest.fixture(autouse=True)
def _nothing_left():
    yield
    long.end_all()


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two processors; its address."""
    import ray

    os.environ["RAY_worker_niceness"] = "0"  # 15 unless told otherwise
    context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return long.write(tmp_path_factory.mktemp("study"))


def _workers(folder: Path) -> list[int]:
    """Process ids of the workers that live, from their records."""
    return [json.loads(file.read_text())["pid"] for file in (folder / "workers").glob("ray-*.json")]


def test_a_study_on_ray_loses_workers_and_its_scheduler_and_ends_as_everywhere(cluster, study, tmp_path):
    folder, local = tmp_path / "ray", tmp_path / "local"
    process = long.start(study, folder, *RAY, "--ray-address", cluster)
    long.busy_worker(folder, process)
    assert len(set(_workers(folder))) == 2
    os.kill(_workers(folder)[0], signal.SIGKILL)
    long.eventually(lambda: long.events(folder, "lost"), process)
    long.busy_worker(folder, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    outcome = long.finish(long.start(study, folder, *RAY, "--ray-address", cluster))
    assert outcome["failed_runs"] == {}
    long.finish(long.start(study, local))
    assert long.table(folder) == long.table(local)


def test_a_cluster_that_is_not_there_is_one_clear_error(study, tmp_path):
    error = long.finish(long.start(study, tmp_path / "study", *RAY, "--ray-address", "127.0.0.1:1"), code=2)
    assert "no Ray cluster at 127.0.0.1:1" in error["error"]
