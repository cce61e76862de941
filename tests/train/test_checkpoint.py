"""Checkpoints that are written, kept, found and read."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from apd_train._checkpoint import CheckpointError, Checkpoints


def some_tensors(number: int = 0) -> dict[str, Tensor]:
    """One of each kind that occurs, different in every step."""
    draw = torch.Generator().manual_seed(number)
    return {
        "model/a.weight": torch.randn(5, 3, generator=draw),
        "model/b": torch.randn(4, generator=draw).to(torch.bfloat16),
        "optimizer/a.weight/step": torch.tensor(float(number)),
        "ema/0.05/a.weight": torch.randn(5, 3, generator=draw, dtype=torch.float64),
        "empty": torch.zeros(0, 2),
    }


def blank() -> dict[str, Tensor]:
    return {name: torch.full_like(tensor, 7) for name, tensor in some_tensors().items()}


def loaded(checkpoints: Checkpoints) -> dict[str, Tensor]:
    found = checkpoints.newest(pytest.fail)
    assert found
    tensors = blank()
    checkpoints.load(found, tensors)
    return tensors


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def steps_in(checkpoints: Checkpoints) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in checkpoints.folder.glob("step-*"))


def test_comes_back_to_the_bit(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.newest(pytest.fail) is None
    facts = {"ema_steps": 3, "loss": 0.1 + 0.2, "worst": float("inf"), "names": ["ä"], "none": None}
    saved = checkpoints.save(3, some_tensors(3), {**facts, "names": ("ä",)})
    assert saved == checkpoints.newest(pytest.fail)
    assert (saved.step, saved.facts, saved.path.name) == (3, facts, "step-00000003")
    assert_equal(loaded(checkpoints), some_tensors(3))
    assert (checkpoints.folder / "LATEST").read_text() == "step-00000003\n"


def test_loads_in_place(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.save(1, some_tensors(1), {})
    tensors = blank()
    places = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    views = [tensor.view(-1) for tensor in tensors.values()]
    checkpoints.load(found, tensors)
    assert {name: tensor.data_ptr() for name, tensor in tensors.items()} == places
    assert_equal(dict(enumerate(views)), dict(enumerate(t.view(-1) for t in some_tensors(1).values())))  # pyrefly: ignore


def test_holds_safetensors_and_json_and_nothing_else(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(1, some_tensors(), {}).path
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["sizes"] == {file.name: file.stat().st_size for file in path.glob("*.safetensors")}


@pytest.mark.parametrize(
    ("last", "every", "kept"),
    [(1, None, [7]), (2, None, [6, 7]), (9, None, [*range(1, 8)]), (2, 3, [3, 6, 7]), (1, 2, [2, 4, 6, 7])],
)
def test_rotation(tmp_path: Path, last: int, every: int | None, kept: list[int]) -> None:
    checkpoints = Checkpoints(tmp_path, last, every)
    for step in range(1, 8):
        checkpoints.save(step, {"a": torch.ones(())}, {})
    assert steps_in(checkpoints) == kept
    assert {path.name for path in tmp_path.iterdir()} == {"LATEST", *(f"step-{step:08d}" for step in kept)}


def test_numbers_order_checkpoints_not_names(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (99_999_999, 100_000_000):
        found = checkpoints.save(step, some_tensors(), {})
    assert found == checkpoints.newest(pytest.fail)


def test_the_same_step_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in (1, 2, 3):
        checkpoints.save(5, some_tensors(number), {"number": number})
    assert_equal(loaded(checkpoints), some_tensors(3))
    assert {path.name for path in tmp_path.iterdir()} == {"LATEST", "step-00000005"}


def test_a_damaged_step_ahead_is_passed_and_written_anew(tmp_path: Path) -> None:
    """The run goes on from step 1, rotates at step 2 without losing it to the damaged 3, and replaces that."""
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    checkpoints.save(3, some_tensors(), {}).path.joinpath("manifest.json").unlink()
    for step in (1, 2, 3):
        saved = checkpoints.save(step, some_tensors(step), {})
        assert saved == checkpoints.newest()
    assert steps_in(checkpoints) == [3]
    assert_equal(loaded(checkpoints), some_tensors(3))


def test_what_was_left_half_done_goes_at_the_next_save(tmp_path: Path) -> None:
    for name in ("step-00000001.tmp", "step-00000002.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shard").write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest(pytest.fail) is None
    checkpoints.save(2, some_tensors(2), {})
    assert {path.name for path in tmp_path.iterdir()} == {"LATEST", "step-00000002"}
    assert_equal(loaded(checkpoints), some_tensors(2))


def test_other_things_in_the_folder_are_let_be(tmp_path: Path) -> None:
    for name in ("step-one", "old-step-00000009", "step-00000009.bak", "notes.tmp"):
        (tmp_path / name).mkdir()
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    for step in (1, 2):
        checkpoints.save(step, some_tensors(), {})
    assert checkpoints.newest(pytest.fail)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"LATEST", "step-00000002", "step-one", "old-step-00000009", "step-00000009.bak", "notes.tmp"}


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model/a.weight", torch.zeros(6, 3), r"model/a\.weight is 5 × 3 there and 6 × 3 here"),
        ("model/a.weight", torch.zeros(15), r"model/a\.weight is 5 × 3 there and 15 here"),
        ("optimizer/a.weight/step", torch.zeros(1), "optimizer/a.weight/step is a number there and 1 here"),
        ("model/b", torch.zeros(4), r"model/b is torch\.bfloat16 there and torch\.float32 here"),
        ("model/new", torch.zeros(4), "it holds no model/new"),
        ("model/b", None, "it holds model/b, which is not here"),
    ],
)
def test_another_model_is_refused_in_a_line(tmp_path: Path, name: str, tensor: Tensor | None, message: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.save(1, some_tensors(), {})
    tensors = blank()
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    line = f"^{found.path} is of another model: {message}: resume with the configuration of its run$"
    with pytest.raises(CheckpointError, match=line):
        checkpoints.load(found, tensors)
    assert torch.equal(tensors["ema/0.05/a.weight"], blank()["ema/0.05/a.weight"])  # nothing was changed


@pytest.mark.parametrize(
    ("last", "every", "name"), [(0, None, "keep_last"), (1, 0, "keep_every"), (1, -2, "keep_every")]
)
def test_keeping_nothing_is_refused(tmp_path: Path, last: int, every: int | None, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        Checkpoints(tmp_path, last, every)


def test_facts_that_json_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"step 1 cannot be written to .*: Object of type Tensor is not JSON"):
        Checkpoints(tmp_path).save(1, some_tensors(), {"loss": torch.ones(())})
    assert [*tmp_path.iterdir()] == []
