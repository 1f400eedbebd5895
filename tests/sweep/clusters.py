"""A real Slurm and a real Ray cluster of this machine, for the tests of executors."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={ctld}
SlurmdPort={slurmd}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=300
InactiveLimit=0
KillWait=5
MinJobAge=60
SchedulerParameters=defer,batch_sched_delay=1
SchedulerTimeSlice=5
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
NodeName={host} CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=60 State=UP PriorityTier=1 PreemptMode=CANCEL GraceTime=20
PartitionName=high Nodes={host} MaxTime=60 State=UP PriorityTier=9 PreemptMode=OFF
"""

COMMANDS = ("slurmctld", "slurmd", "sbatch", "munged")


def missing_slurm() -> str:
    """Why Slurm cannot be tested here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root to start slurmd"
    missing = [name for name in COMMANDS if shutil.which(name) is None and not Path(f"/usr/sbin/{name}").exists()]
    return f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)" if missing else ""


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[Path]:
    """A cluster of one node with as many processors as this machine, at least 2; SLURM_CONF names it while it lives."""
    host = socket.gethostname().split(".")[0]
    ctld, slurmd = _free_port(), _free_port()
    conf = folder / "slurm.conf"
    for name in ("state", "spool"):
        (folder / name).mkdir()
    conf.write_text(SLURM_CONF.format(host=host, ctld=ctld, slurmd=slurmd, folder=folder, cpus=os.cpu_count()))
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(conf)
    processes = []
    try:
        processes.append(_munge(folder))
        processes.append(
            subprocess.Popen(
                ["/usr/sbin/slurmctld", "-D", "-c", "-f", str(conf)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        processes.append(
            subprocess.Popen(
                ["/usr/sbin/slurmd", "-D", "-f", str(conf), "-N", host],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        _wait_until_idle(folder)
        yield conf
    finally:
        subprocess.run(["scancel", "--user=root"], capture_output=True, check=False)
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


def _munge(folder: Path) -> subprocess.Popen:
    """A munge daemon of our own, with a key and a socket of its own."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    return subprocess.Popen(
        [
            "/usr/sbin/munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={folder}/munge.sock",
            f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munge.seed",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait_until_idle(folder: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        found = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False)
        if "idle" in found.stdout:
            return
        assert time.monotonic() < deadline, (found, [log.read_text()[-2000:] for log in folder.glob("*.log")])
        time.sleep(0.3)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
