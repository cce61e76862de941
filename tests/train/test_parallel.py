"""Ways of training by several processes: what is refused, and that two learn what one learns."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning_utilities.core.rank_zero as rank_zero
import pytest
import torch
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from apd_models import DiT, DiTConfig
from apd_train import ConfigError, local_batch, make_fabric
from apd_train._launch import exit_status
from apd_train._parallel import wrap
from apd_train._step import LossModule

LAUNCHERS = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS")


@pytest.fixture(autouse=True)
def nothing_has_launched_this(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    for name in ("MASTER_ADDR", "MASTER_PORT"):  # set by what is tested
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)
    monkeypatch.setattr(rank_zero.rank_zero_only, "rank", 0)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_what_a_command_line_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    assert type(make_fabric().strategy) is SingleDeviceStrategy
    assert type(make_fabric(1, "ddp").strategy) is SingleDeviceStrategy
    assert type(make_fabric(2).strategy) is type(make_fabric(2, "ddp").strategy) is DDPStrategy
    fabric = make_fabric(3, "fsdp")
    assert type(fabric.strategy) is ModelParallelStrategy
    assert (fabric.world_size, fabric.device.type, fabric.strategy.precision.precision) == (3, "cpu", "32-true")
    assert make_fabric(precision="bf16-mixed").strategy.precision.precision == "bf16-mixed"


def test_what_cannot_be_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^devices must be at least 1, got 0$"):
        make_fabric(0)
    with pytest.raises(ConfigError, match=r"^fsdp divides the model among processes and there is one: take more"):
        make_fabric(1, "fsdp")
    gpus(monkeypatch, 2)
    with pytest.raises(ConfigError, match=r"^devices is 3, and 2 GPUs are there to be used: take so many at most$"):
        make_fabric(3)


def test_torchrun_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    said = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8", "RANK": "6", "LOCAL_RANK": "2"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GROUP_RANK", "1")
    for devices in (None, 4):
        fabric = make_fabric(devices, "fsdp")
        assert (fabric.world_size, fabric.global_rank, fabric.local_rank, fabric.node_rank) == (8, 6, 2, 1)
        assert getattr(fabric.strategy, "num_nodes", None) == 2
    with pytest.raises(ConfigError, match=r"^devices is 2, and torchrun has started 4 processes on each node: leave"):
        make_fabric(2)


def test_slurm_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    for name, value in {"NTASKS": 6, "NNODES": 2, "PROCID": 5, "LOCALID": 2, "NODEID": 1}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    with pytest.raises(ConfigError, match=r"^SLURM has started 6 tasks on 2 nodes: tell it --ntasks-per-node$"):
        make_fabric()
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "3")
    fabric = make_fabric()
    assert type(fabric.strategy) is DDPStrategy
    assert (fabric.world_size, fabric.global_rank, fabric.local_rank, fabric.node_rank) == (6, 5, 2, 1)
    assert getattr(fabric.strategy, "num_nodes", None) == 2
    with pytest.raises(ConfigError, match=r"^devices is 1, and SLURM has started 3 processes on each node: leave"):
        make_fabric(1)
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # a shell in an allocation: nothing has been started
    assert make_fabric().world_size == 1


def test_one_of_the_processes_that_this_one_starts_ends_with_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    assert exit_status(make_fabric(), 75) == exit_status(make_fabric(2), 75) == 75
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert exit_status(make_fabric(2), 75) == 0
    said = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2", "RANK": "1"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert exit_status(make_fabric(), 75) == 75  # torchrun looks at each


def test_a_batch_is_divided_evenly() -> None:
    assert (local_batch(64, 4), local_batch(3, 1)) == (16, 3)
    with pytest.raises(ConfigError, match=r"batch_size 64 cannot be divided among 3 devices: .* such as 63 or 66$"):
        local_batch(64, 3)
    with pytest.raises(ConfigError, match=r"batch_size 2 cannot be divided among 5 devices: .* such as 5 or 10$"):
        local_batch(2, 5)


def test_wrapping_keeps_names_and_parameters() -> None:
    model = DiT(DiTConfig((2, 2), 3, 8, 1, 2))
    before = {name: p for name, p in model.named_parameters()}
    network = wrap(make_fabric(1), LossModule(model), compile=True, checkpoint_activations=True)
    assert model.checkpoint_activations
    assert all(block._compiled_call_impl is not None for block in model.blocks)
    assert [*network.state_dict()] == [f"model.{name}" for name in before]
    assert all(p is before[name] for name, p in model.named_parameters())


def two_processes(**options: bool) -> dict[str, dict[str, Any]]:
    script = Path(__file__).with_name("two_processes.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, json.dumps(options)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


EXACT = ("losses", "gradient", "evaluated")


def check_equal(found: dict[str, Any]) -> None:
    """To one process, in float64: Muon's iteration is in bfloat16, and yet the same on whole matrices."""
    assert found["agree"]
    assert found["same_names"]
    assert found["dtypes"] == ["torch.float64"]
    assert max(found[name] for name in EXACT) < 1e-13
    assert found["sums"] < 1e-5  # what is watched is gathered in float32
    assert found["weights"] < 1e-10
    assert all(math.isfinite(norm) for norms in found["norms"] for norm in norms)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns() -> None:
    """Copied and divided, in pieces with activations computed again, evaluated between steps."""
    found = two_processes()
    for name in ("ddp", "fsdp"):
        check_equal(found[name])
        # One process's images are not finite: both see it in the norms, leave the step out, and go on as one does.
        bad = found[f"{name} bad step"]
        assert bad["agree"]
        assert bad["weights"] < 1e-10
        assert [all(map(math.isfinite, norms)) for norms in bad["norms"]] == [True, False, True]
    check_equal(found["fsdp of the head"])
    assert (found["ddp"]["divided"], found["fsdp"]["divided"]) == (False, True)
    assert found["ddp"]["parts"] == 1
    assert found["fsdp"]["parts"] < 0.51
    half = found["fsdp bf16"]
    assert half["agree"]
    assert half["dtypes"] == ["torch.float32"]
    assert 1e-3 < half["from_one"] < 0.05  # products in bfloat16 …
    assert half["losses"] < 2e-3
    assert half["gradient"] < 2e-2


@pytest.mark.slow
def test_compiled_too() -> None:
    found = two_processes(compile=True)
    for name in ("ddp", "fsdp"):
        check_equal(found[name])
