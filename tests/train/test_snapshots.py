"""Snapshots of averages, and what is made of them, against averages that were tracked."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from apd_train._averages import Ema
from apd_train._snapshots import SnapshotError, Snapshots, synthesize


def trained(folder: Path, steps: int = 200, every: int = 50, widths: tuple[float, ...] = (0.05, 0.1)) -> Ema:
    """Snapshots of weights that decay from a far start, swing, and jump about; the last averages, of more widths."""
    model = nn.Linear(3, 2)
    ema, more = Ema(model, widths), Ema(model, (0.03, 0.05, 0.08, 0.1, 0.15, 0.2))
    random = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        at = step / steps
        with torch.no_grad():
            model.weight.normal_(generator=random).mul_(0.1).add_(5 * 2 ** (-8 * at)).add_(torch.tensor(9 * at).sin())
            model.bias.fill_(3.25)
        ema.update(model)
        more.update(model)
        if step % every == 0:
            Snapshots(folder).save(ema, step)
    return more


def distance(ema: Ema, folder: Path, sigma_rel: float) -> float:
    made, tracked = synthesize(folder, sigma_rel), ema.full(sigma_rel)
    assert {*made.weights} == {*tracked}
    return float((made.weights["weight"] - tracked["weight"]).square().mean().sqrt())


def test_files_hold_all_widths_and_say_what_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "averages"
    trained(folder)
    names = ["step-00000050", "step-00000100", "step-00000150", "step-00000200"]
    (folder / "step-00000025.safetensors.tmp").touch()
    (folder / "notes.safetensors").touch()
    assert [file.stem for file in Snapshots(folder).files()] == names
    with safe_open(folder / "step-00000150.safetensors", framework="pt") as file:
        assert {*file.keys()} == {"0.05/weight", "0.05/bias", "0.1/weight", "0.1/bias"}
        assert file.get_tensor("0.1/weight").dtype == torch.float32
        metadata = file.metadata()
    assert len(metadata.pop("digest")) == 32
    assert metadata == {
        "format": "apd-train/averages",
        "step": "150",
        "steps_averaged": "150",
        "sigma_rels": "[0.05, 0.1]",
        "weights": "ema(sigma_rel=0.05) at step 150; ema(sigma_rel=0.1) at step 150",
    }


def test_there_are_none_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert Snapshots(tmp_path / "no").files() == []


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1])
def test_a_width_that_was_kept_is_given_back_to_the_bit(tmp_path: Path, sigma_rel: float) -> None:
    ema = trained(tmp_path)
    made = synthesize(tmp_path, sigma_rel)
    for name, tensor in ema.full(sigma_rel).items():
        assert torch.equal(made.weights[name], tensor)
    assert (made.error, made.description) == (0, f"ema(sigma_rel={sigma_rel:g}) at step 200")
    with safe_open(tmp_path / "step-00000150.safetensors", framework="pt") as file:
        assert torch.equal(synthesize(tmp_path, 0.1, 150).weights["weight"], file.get_tensor("0.1/weight"))


@pytest.mark.parametrize("sigma_rel", [0.03, 0.08, 0.15, 0.2])
def test_other_widths_come_near_those_that_were_tracked_and_nearer_with_more(tmp_path: Path, sigma_rel: float) -> None:
    away = []
    for every in (100, 25, 5):
        folder = tmp_path / str(every)
        away.append(distance(trained(folder, every=every), folder, sigma_rel))
    assert away[0] > 2 * away[1] > 8 * away[2]
    made = synthesize(folder, sigma_rel)
    assert away[2] < 2 * made.error  # weights are about one in size
    assert made.description == f"ema(sigma_rel={sigma_rel:g}) at step 200, made of 40 snapshots, " + (
        f"profile error {100 * made.error:.3g} %"
    )
    assert torch.equal(made.weights["bias"], torch.full((2,), 3.25))  # what did not change


def test_an_earlier_step_between_snapshots(tmp_path: Path) -> None:
    trained(tmp_path / "all", steps=200, every=10)
    model, random = nn.Linear(3, 2), torch.Generator().manual_seed(0)
    ema = Ema(model, 0.08)
    for step in range(1, 116):
        at = step / 200
        with torch.no_grad():
            model.weight.normal_(generator=random).mul_(0.1).add_(5 * 2 ** (-8 * at)).add_(torch.tensor(9 * at).sin())
        ema.update(model)
    made = synthesize(tmp_path / "all", 0.08, 115)
    assert made.error < 0.35  # the edge of a profile in the middle of two snapshots is not met
    assert (made.weights["weight"] - ema.full()["weight"]).abs().max() < 0.1
    assert made.description.startswith("ema(sigma_rel=0.08) at step 115, made of 20 snapshots")


def test_steps_that_were_skipped_do_not_count(tmp_path: Path) -> None:
    """Time is that of the averages: of 200 steps of training, 100 were taken in, all of the first half."""
    model = nn.Linear(1, 1, bias=False)
    ema, tracked = Ema(model), Ema(model, 0.08)
    for step in range(1, 201):
        if step > 100:
            with torch.no_grad():
                model.weight.fill_(step / 200)
            ema.update(model)
            tracked.update(model)
        if step % 20 == 0 and step > 100:
            Snapshots(tmp_path).save(ema, step)
    made = synthesize(tmp_path, 0.08)
    assert made.weights["weight"].item() == pytest.approx(tracked.full()["weight"].item(), abs=2e-3)
    assert torch.equal(synthesize(tmp_path, 0.1, 200).weights["weight"], ema.full(0.1)["weight"])


def test_widths_may_change_during_a_run(tmp_path: Path) -> None:
    trained(tmp_path, every=10, widths=(0.05,))
    alone = synthesize(tmp_path, 0.08).error
    trained(tmp_path, every=20, widths=(0.05, 0.1))  # replaces every other one
    assert synthesize(tmp_path, 0.08).error < alone / 2


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def flip(place: int) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[place] ^= 1
        file.write_bytes(content)

    return damage


def rename_width(file: Path) -> None:
    """One digit in the header, as long as before."""
    content = file.read_bytes()
    file.write_bytes(content.replace(b"[0.05, 0.1]", b"[0.06, 0.1]"))


def misstep(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"step":"100"', b'"step":"101"'))


@pytest.mark.parametrize("damage", [truncate, flip(-1), flip(-20), flip(0), flip(9), rename_width, misstep])
def test_a_damaged_snapshot_is_named_and_the_others_make_up_for_it(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    trained(tmp_path)
    file = tmp_path / "step-00000100.safetensors"
    damage(file)
    with pytest.raises(SnapshotError, match=r"step-00000100\.safetensors is damaged \(.*\): remove it") as refused:
        synthesize(tmp_path, 0.08)
    assert "\n" not in str(refused.value)
    file.unlink()
    assert synthesize(tmp_path, 0.08).error < 0.2


def test_empty_and_unreadable_files_are_named(tmp_path: Path) -> None:
    trained(tmp_path)
    file = tmp_path / "step-00000100.safetensors"
    file.write_bytes(b"")
    with pytest.raises(SnapshotError, match=r"00000100.*damaged"):
        synthesize(tmp_path, 0.08)
    file.unlink()
    file.symlink_to("nowhere")
    with pytest.raises(SnapshotError, match=r"00000100.*damaged"):
        synthesize(tmp_path, 0.08)
    file.unlink()
    save_file({"weight": torch.zeros(2)}, file)
    with pytest.raises(SnapshotError, match=r"00000100.*is no snapshot of averages"):
        synthesize(tmp_path, 0.08)


@pytest.mark.parametrize("other", [nn.Linear(2, 2), nn.Sequential(nn.Linear(3, 2)), nn.Linear(3, 2, bias=False)])
def test_snapshots_of_two_models_are_not_mixed(tmp_path: Path, other: nn.Module) -> None:
    trained(tmp_path)
    ema = Ema(other)
    ema.update(other)
    Snapshots(tmp_path).save(ema, 300)
    with pytest.raises(SnapshotError, match=r"00000300.*is of another model"):
        synthesize(tmp_path, 0.08)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="holds no snapshots of averages: train with --snapshot-every"):
        synthesize(tmp_path, 0.08)
    with pytest.raises(ValueError, match="nothing to keep before the first step"):
        Snapshots(tmp_path).save(Ema(nn.Linear(1, 1)), 0)
    trained(tmp_path)
    for step in (0, 201):
        with pytest.raises(ValueError, match=f"step must be from 1 to 200, that of the last snapshot, got {step}"):
            synthesize(tmp_path, 0.08, step)
    with pytest.raises(ValueError, match="sigma_rel must be in"):
        synthesize(tmp_path, 0.3)


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_failed_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    trained(tmp_path)
    file = tmp_path / "step-00000200.safetensors"
    before = file.read_bytes()
    ema = Ema(nn.Linear(3, 2))
    ema.update(nn.Linear(3, 2))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if at == "fsync" else (Path, "replace")), fail)
        with pytest.raises(
            SnapshotError, match=r"step-00000200\.safetensors cannot be written: No space left on device"
        ):
            Snapshots(tmp_path).save(ema, 200)
    assert file.read_bytes() == before
    assert len([*tmp_path.iterdir()]) == 4


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "averages").touch()
    ema = Ema(nn.Linear(3, 2))
    ema.update(nn.Linear(3, 2))
    with pytest.raises(SnapshotError, match="cannot be written: File exists"):
        Snapshots(tmp_path / "averages").save(ema, 1)
