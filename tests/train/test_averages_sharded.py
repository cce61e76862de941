"""Averages of parameters that two processes share, against those of one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from apd_train._averages import Ema
from apd_train._snapshots import Snapshots, synthesize

SCRIPT = """
import os
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard

from apd_train._averages import Ema
from apd_train._snapshots import SnapshotError, Snapshots

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1))  # five rows, and one, in two shards
mesh = distributed.init_device_mesh("cpu", (2,))
for layer in (model[0], model[1], model):
    fully_shard(layer, mesh=mesh)
ema = Ema(model)
x = torch.ones(3)
for step in range(1, 5):
    for parameter in model.parameters():
        parameter.data.mul_(0.5)
    ema.update(model)
    Snapshots(folder / "averages").save(ema, step)
with torch.no_grad():
    raw = model(x)
    with ema.lent(model, 0.1):
        lent = model(x)
    assert torch.equal(model(x), raw)
full = ema.full(0.1)
assert full["0.weight"].shape == (5, 3), full
if rank == 0:
    torch.save([raw, lent, full], folder / "result.pt")
(folder / "file").touch()
try:
    Snapshots(folder / "file").save(ema, 5)
except SnapshotError as error:
    (folder / f"refused-{rank}").write_text(str(error))
os._exit(0)  # past the teardown of gloo's threads, which now and then aborts
"""


@pytest.mark.slow
def test_two_processes_with_shards_equal_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    complaints = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], complaints

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1))
    ema = Ema(model)
    for step in range(1, 5):
        for parameter in model.parameters():
            parameter.data.mul_(0.5)
        ema.update(model)
        Snapshots(tmp_path / "alone").save(ema, step)
    raw, lent, full = torch.load(tmp_path / "result.pt")
    assert torch.equal(raw, model(torch.ones(3)))
    with ema.lent(model, 0.1):
        assert torch.equal(lent, model(torch.ones(3)))
    for name, tensor in ema.full(0.1).items():
        assert torch.equal(full[name], tensor)
    files = Snapshots(tmp_path / "averages").files()
    assert [file.name for file in files] == [f"step-0000000{step}.safetensors" for step in range(1, 5)]
    assert {*(tmp_path / "averages").iterdir()} == {*files}
    one, two = (synthesize(tmp_path / name, 0.08) for name in ("alone", "averages"))
    assert all(torch.equal(two.weights[name], tensor) for name, tensor in one.weights.items())
    for rank in range(2):
        assert "file/step-00000005.safetensors cannot be written" in (tmp_path / f"refused-{rank}").read_text()
