"""What a run has left in its folder, and whether it is as it should be."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from apd_models import from_pretrained
from apd_train import Checkpoint, Checkpoints, read_metrics

IGNORED = ("seconds", "images_per_second", "peak_memory")
Lines = list[dict[str, float]]


def options(data: Path, out: Path, steps: int, every: int, *more: object) -> tuple[object, ...]:
    return ("tiny", "--data", data, "--steps", steps, "--checkpoint-every", every, "--out", out, *more)


def newest(run: Path, said: list[str] | None = None) -> Checkpoint | None:
    return Checkpoints(run / "checkpoints").newest([].append if said is None else said.append)


def newest_step(run: Path) -> int:
    found = newest(run)
    return 0 if found is None else found.step


def learned(run: Path) -> dict[str, Tensor]:
    """All that the newest checkpoint holds, and the model."""
    found = newest(run)
    assert found is not None
    (file,) = found.path.glob("*.safetensors")
    model = from_pretrained(run / "model")
    return {
        **load_file(file),
        **{f"folder/{name}": value for name, value in model.model.state_dict().items()},
        **{f"weights/{model.weights}": torch.zeros(())},
    }


def metrics(run: Path) -> Lines:
    """Without what no two runs have in common."""
    return [{name: value for name, value in line.items() if name not in IGNORED} for line in read_metrics(run)]


def assert_same(run: Path, other: Path) -> None:
    """To the bit, and with the same lines."""
    one, two = learned(run), learned(other)
    assert one.keys() == two.keys()
    differing = [name for name, tensor in one.items() if not torch.equal(tensor, two[name])]
    assert differing == []
    assert metrics(run) == metrics(other)


def assert_sound(run: Path, whole: Lines, least: int) -> int:
    """After a process was killed: the newest complete checkpoint, whose step is returned, is not behind step ``least``;
    the model, if there is one, loads; the metrics are lines of the undisturbed run, from the first on, each once; and
    those of the checkpoint are there.

    Args:
        whole: the undisturbed run's.
    """
    found = newest(run)
    step = 0 if found is None else found.step
    assert step >= least
    if (run / "model").exists():
        from_pretrained(run / "model")
    file = run / "metrics.jsonl"
    content = file.read_bytes() if file.exists() else b""
    ended, _, _ = content.rpartition(b"\n")  # of the last line a part may be there
    lines = [json.loads(line) for line in ended.splitlines()]
    kept = [{name: value for name, value in line.items() if name not in IGNORED} for line in lines]
    assert kept == whole[: len(kept)]
    if found is not None:
        size = found.facts["position"]["metrics_size"]
        assert len(content) >= size
        assert content[size - 1 : size] == b"\n"
    return step
