"""Two processes on the CPU, started as an app that is a folder starts them."""

import subprocess
import sys
from pathlib import Path

import pytest

APP = r"""
import sys
import torch
from lightning_fabric import Fabric
from apd_train import launch

fabric = Fabric(accelerator="cpu", devices=2)
{call}
total = fabric.all_reduce(torch.tensor(float(fabric.global_rank + 1)), reduce_op="sum")
sys.stdout.write(f"rank {{fabric.global_rank}} of {{fabric.world_size}}: {{total.item():g}}\n")
"""


def run(folder: Path, call: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    (folder / "__main__.py").write_text(APP.format(call=call))
    return subprocess.run([sys.executable, str(folder)], capture_output=True, text=True, timeout=120)


def test_a_folder_app_starts_its_other_processes(tmp_path: Path) -> None:
    done = run(tmp_path / "app", "launch(fabric)")
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("rank")) == [
        "rank 0 of 2: 3",
        "rank 1 of 2: 3",
    ]


@pytest.mark.slow
def test_it_would_not_without_the_remedy(tmp_path: Path) -> None:
    """When this fails, Fabric has learned it, and ``launch`` can go."""
    try:
        assert run(tmp_path / "app", "fabric.launch()").returncode != 0
    except subprocess.TimeoutExpired:
        pass
