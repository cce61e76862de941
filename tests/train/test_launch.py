"""Two processes on the CPU, started as an app that is a folder starts them, and as launchers do."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

APP = r"""
import sys
import torch
from apd_train import launch, make_fabric

fabric = make_fabric({devices})
{call}
total = fabric.all_reduce(torch.tensor(float(fabric.global_rank + 1)), reduce_op="sum")
sys.stdout.write(f"rank {{fabric.global_rank}} of {{fabric.world_size}}: {{total.item():g}}\n")
"""


BOTH = ["rank 0 of 2: 3", "rank 1 of 2: 3"]


def app(folder: Path, call: str = "launch(fabric)", devices: int | None = None) -> str:
    folder.mkdir()
    (folder / "__main__.py").write_text(APP.format(call=call, devices=devices))
    return str(folder)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120)


def said(*outputs: str) -> list[str]:
    return sorted(line for output in outputs for line in output.splitlines() if line.startswith("rank"))


@pytest.mark.slow  # apps/train does it in the tests of the app
def test_a_folder_app_starts_its_other_processes(tmp_path: Path) -> None:
    done = run(app(tmp_path / "app", devices=2))
    assert done.returncode == 0, done.stderr
    assert said(done.stdout) == BOTH


@pytest.mark.slow
def test_it_would_not_without_the_remedy(tmp_path: Path) -> None:
    """When this fails, Fabric has learned it, and ``launch`` can go."""
    try:
        assert run(app(tmp_path / "app", "fabric.launch()", devices=2)).returncode != 0
    except subprocess.TimeoutExpired:
        pass


@pytest.mark.slow
def test_torchrun_starts_them(tmp_path: Path) -> None:
    done = run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", app(tmp_path / "app"))
    assert done.returncode == 0, done.stderr
    assert said(done.stdout) == BOTH


@pytest.mark.slow
def test_slurm_starts_them(tmp_path: Path) -> None:
    """Two nodes with one task each, by what srun tells its tasks."""
    folder = app(tmp_path / "app")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    job = {"JOB_NAME": "train", "NTASKS": "2", "NTASKS_PER_NODE": "1", "NNODES": "2", "LOCALID": "0"}
    common = {**os.environ, "MASTER_PORT": port, **{f"SLURM_{name}": value for name, value in job.items()}}
    tasks = []
    for node in ("0", "1"):
        environment = {**common, "SLURM_PROCID": node, "SLURM_NODEID": node}
        tasks.append(
            subprocess.Popen(
                [sys.executable, folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
        )
    results = [task.communicate(timeout=120) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], results
    assert said(*(output for output, _ in results)) == BOTH


@pytest.mark.slow
@pytest.mark.parametrize("what", ["reading", "measuring"])
def test_a_failure_of_one_process_ends_all_with_its_reason(tmp_path: Path, what: str) -> None:
    script = Path(__file__).with_name("fail_on_two.py")
    command = [sys.executable, str(script), str(tmp_path / "run"), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("rank")) == [
        "rank 0: ElsewhereError: the disk of this node is gone",
        "rank 1: DataLostError: the disk of this node is gone",
    ]
    step = {"reading": 2, "measuring": 4}[what]
    assert (tmp_path / "run" / "checkpoints" / f"step-{step:08}").is_dir()
