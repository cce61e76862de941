"""Model folders: what goes in comes out, and nothing else is taken for one."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from apd_models import (
    Autoencoder,
    AutoencoderConfig,
    CodecError,
    DiT,
    DiTConfig,
    LatentScale,
    ModelFolderError,
    Patchify,
    as_codec,
    from_pretrained,
    identity,
    interpolated,
    load_codec,
    save_pretrained,
    with_error_head,
)
from apd_schedules import NoiseMap
from long_runs import unchecked

CONFIG = DiTConfig((2, 3), token_dim=8, width=16, depth=1, heads=2, classes=2, data_std=0.7)
PATCHIFY = Patchify(4, 6, 2, 2)
LATENTS = LatentScale((0.1, -3.0), (1 / 3, 2e-9))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = DiT(CONFIG)
    torch.nn.init.normal_(model.head.weight)
    save_pretrained(tmp_path / "model", model, PATCHIFY, ("cat", "größer"), "ema(sigma_rel=0.05) at step 7")
    return tmp_path / "model"


def test_comes_back_bit_equal(folder: Path) -> None:
    loaded = from_pretrained(folder)
    torch.manual_seed(0)
    model = DiT(CONFIG)
    torch.nn.init.normal_(model.head.weight)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
    assert loaded.model.config == CONFIG
    assert loaded.patchify == PATCHIFY
    assert loaded.class_names == ("cat", "größer")
    assert loaded.weights == "ema(sigma_rel=0.05) at step 7"
    assert not loaded.model.training
    loaded.model(torch.zeros(1, 6, 8), NoiseMap(torch.zeros(6, 1)), label=torch.tensor([1]))


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    """Ten times, for the library orders what a file says of itself by chance."""
    torch.manual_seed(0)
    model, said = DiT(CONFIG), 'größer, "quoted", \\ \t and \x01'
    contents = set()
    for _ in range(10):
        save_pretrained(tmp_path / "model", model, PATCHIFY, ("cat", "größer"), said)
        contents.add((tmp_path / "model" / "model.safetensors").read_bytes())
    assert len(contents) == 1
    loaded = from_pretrained(tmp_path / "model")
    assert loaded.weights == said
    assert all(torch.equal(tensor, loaded.model.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_model_of_latents_says_their_scale(folder: Path) -> None:
    """To the last digit. A folder that does not say it is what it was before there were any."""
    before = json.loads((folder / "config.json").read_text())
    assert list(before) == ["format", "version", "model", "patchify", "class_names", "weights"]
    assert from_pretrained(folder).latents is None
    save_pretrained(folder, DiT(CONFIG), PATCHIFY, ("a", "b"), "raw", LATENTS)
    assert from_pretrained(folder).latents == LATENTS
    after = json.loads((folder / "config.json").read_text())
    assert after["version"] == before["version"] == 1
    assert after["latents"] == {"mean": [0.1, -3.0], "std": [1 / 3, 2e-9], "codec": None}
    save_pretrained(folder, DiT(CONFIG), PATCHIFY, ("a", "b"), "raw", replace(LATENTS, codec="abc"))
    assert from_pretrained(folder).latents == replace(LATENTS, codec="abc")


def test_a_folder_from_before_autoencoders_had_digests(folder: Path) -> None:
    _edit(lambda config: config.update(latents={"mean": [0.1, -3.0], "std": [1 / 3, 2e-9]}))(folder)
    assert from_pretrained(folder).latents == LATENTS


def test_the_autoencoder_is_a_part_of_the_folder(folder: Path, tmp_path: Path) -> None:
    """Its weights are linked where they can be, and outlive the folder that they are from."""
    assert from_pretrained(folder).codec is None
    identity(2).save(tmp_path / "codec")
    (tmp_path / "codec" / "part").mkdir()
    (tmp_path / "codec" / "part" / "more").write_bytes(b"more")
    (tmp_path / "codec" / "part" / "weights.safetensors").write_bytes(b"weights")
    scale = replace(LATENTS, codec=identity(2).digest)
    save_pretrained(folder, DiT(CONFIG), PATCHIFY, ("a", "b"), "raw", scale, tmp_path / "codec")
    same = lambda name: (folder / "codec" / name).samefile(tmp_path / "codec" / name)
    assert same("part/weights.safetensors")
    assert not same("config.json")
    assert not same("part/more")
    shutil.rmtree(tmp_path / "codec")
    found = from_pretrained(folder)
    assert found.codec == folder / "codec"
    assert (folder / "codec" / "part" / "more").read_bytes() == b"more"
    assert load_codec(folder / "codec").digest == scale.codec
    save_pretrained(folder, DiT(CONFIG), PATCHIFY, ("a", "b"), "raw", scale, found.codec)
    assert load_codec(folder / "codec").digest == scale.codec
    save_pretrained(folder, DiT(CONFIG), PATCHIFY, ("a", "b"), "raw")
    assert from_pretrained(folder).codec is None


def test_an_autoencoder_is_copied_where_it_cannot_be_linked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another file system")

    identity(2).save(tmp_path / "codec")
    monkeypatch.setattr(os, "link", refuse)
    save_pretrained(folder, DiT(CONFIG), PATCHIFY, ("a", "b"), "raw", LATENTS, tmp_path / "codec")
    assert load_codec(folder / "codec").digest == identity(2).digest
    assert not (folder / "codec" / "config.json").samefile(tmp_path / "codec" / "config.json")


def test_without_the_autoencoder_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileNotFoundError):
        save_pretrained(folder, DiT(CONFIG), PATCHIFY, ("a", "b"), "raw", LATENTS, tmp_path / "nowhere")
    assert sorted(tmp_path.rglob("*")) == before
    assert from_pretrained(folder).weights == "ema(sigma_rel=0.05) at step 7"


def test_the_scale_is_of_the_models_channels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="standardised in 1 channels, for a model of 2"):
        save_pretrained(tmp_path / "model", DiT(CONFIG), PATCHIFY, ("a", "b"), "raw", LatentScale((0.0,), (1.0,)))
    assert not list(tmp_path.iterdir())


def test_both_files_say_which_weights_they_hold(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata()["weights"] == "ema(sigma_rel=0.05) at step 7"
    assert json.loads((folder / "config.json").read_text())["weights"] == "ema(sigma_rel=0.05) at step 7"


def test_saving_again_replaces_the_whole_folder(folder: Path) -> None:
    (folder / "stray").write_text("old")
    save_pretrained(folder, DiT(CONFIG), PATCHIFY, ("a", "b"), "raw")
    assert from_pretrained(folder).weights == "raw"
    assert [entry.name for entry in folder.parent.iterdir()] == ["model"]
    assert not (folder / "stray").exists()


def test_an_autoencoder_is_not_replaced_by_a_model(tmp_path: Path) -> None:
    """Though their files have the same names."""
    codec = as_codec(Autoencoder(AutoencoderConfig(1, 2, (4, 4), (0, 0))))
    codec.save(tmp_path / "codec")
    with pytest.raises(FileExistsError, match="codec holds other things than a model"):
        save_pretrained(tmp_path / "codec", DiT(CONFIG), PATCHIFY, ("a", "b"), "raw")
    assert load_codec(tmp_path / "codec").digest == codec.digest


def test_what_could_not_be_loaded_is_not_saved(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"float32 throughout, and these in torch.bfloat16: model.float\(\)"):
        save_pretrained(folder, DiT(CONFIG).bfloat16(), PATCHIFY, ("a", "b"), "raw")
    assert from_pretrained(folder).class_names == ("cat", "größer")


@pytest.mark.parametrize("held", ["thesis.tex", "checkpoints/step-1", ".git/HEAD"])
def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path, held: str) -> None:
    (kept := tmp_path / "results" / held).parent.mkdir(parents=True)
    kept.write_text("years of work")
    if not held.startswith("."):
        (tmp_path / "results" / "config.json").write_text('{"format": "apd-train/run"}')
    with pytest.raises(FileExistsError, match="results holds other things than a model, which would be lost: choose"):
        save_pretrained(tmp_path / "results", DiT(CONFIG), PATCHIFY, ("a", "b"), "raw")
    assert kept.read_text() == "years of work"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results"]


def test_an_empty_folder_and_a_damaged_model_are_replaced(tmp_path: Path) -> None:
    for content in (None, "{"):
        (tmp_path / "model").mkdir(exist_ok=True)
        if content:
            (tmp_path / "model" / "config.json").write_text(content)
        save_pretrained(tmp_path / "model", DiT(CONFIG), PATCHIFY, ("a", "b"), "raw")
        assert from_pretrained(tmp_path / "model").weights == "raw"


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_not_the_models_fault(folder: Path, device: str) -> None:
    with pytest.raises(ModelFolderError, match=f"device '{device}' cannot be used: ") as refusal:
        from_pretrained(folder, device)
    assert "\n" not in str(refusal.value)
    as_codec(Autoencoder(AutoencoderConfig(1, 2, (4, 4), (0, 0)))).save(folder / "codec")
    with pytest.raises(CodecError, match=f"device '{device}' cannot be used: "):
        load_codec(folder / "codec", device)


def test_an_autoencoder_that_is_saved_again_leaves_the_models_alone(tmp_path: Path) -> None:
    """Whatever is linked: files are put in the places of the old ones, not written over."""
    wide = lambda width: as_codec(Autoencoder(AutoencoderConfig(1, 2, (4, width), (0, 0))))
    (first := wide(4)).save(tmp_path / "codec")
    scale = replace(LATENTS, codec=first.digest)
    save_pretrained(tmp_path / "model", DiT(CONFIG), PATCHIFY, ("a", "b"), "raw", scale, tmp_path / "codec")
    wide(8).save(tmp_path / "codec")
    assert load_codec(tmp_path / "model" / "codec").digest == first.digest
    assert sorted(file.name for file in (tmp_path / "codec").iterdir()) == ["config.json", "model.safetensors"]


def test_a_failed_save_leaves_the_old_model_and_no_litter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("apd_models._hub.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_pretrained(folder, DiT(CONFIG), PATCHIFY, ("a", "b"), "raw")
    assert from_pretrained(folder).class_names == ("cat", "größer")
    assert [entry.name for entry in folder.parent.iterdir()] == ["model"]


def test_class_names_must_be_as_many_as_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 class names for a model of 2 classes"):
        save_pretrained(tmp_path / "model", DiT(CONFIG), PATCHIFY, ("cat",), "raw")
    assert not list(tmp_path.iterdir())


def _edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def _drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("head.bias")
    save_file(tensors, folder / "model.safetensors")


def _precision(of: Callable[[str], torch.dtype]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        save_file({name: tensor.to(of(name)) for name, tensor in tensors.items()}, folder / "model.safetensors")

    return spoil


SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tensors": (lambda folder: save_file({}, folder / "model.safetensors"), "does not hold the weights"),
    "half precision": (_precision(lambda name: torch.bfloat16), "float32 throughout, and these in torch.bfloat16"),
    "two precisions": (
        _precision(lambda name: torch.float64 if name == "head.bias" else torch.float32),
        "these in torch.float32, torch.float64",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "holds no model"),
    "too deep": (lambda folder: (folder / "config.json").write_text("[" * 99_999), "cannot be read as JSON"),
    "too wide": (_edit(lambda config: config["model"].update(width=4 * 10**12)), "does not describe a DiT"),
    "no number": (_edit(lambda config: config["model"].update(mlp_ratio=1e308)), "does not describe a DiT"),
    "no truth": (
        _edit(lambda config: config["model"].update(qk_norm="false")),
        "qk_norm",
    ),
    "weights unsaid": (_edit(lambda config: config.pop("weights")), "does not describe a DiT: it lacks 'weights'"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
    "no object": (lambda folder: (folder / "config.json").write_text("[]"), "not of a model of this kind"),
    "another kind": (_edit(lambda config: config.update(format="unet")), "'unet', not 'apd-models/dit'"),
    "another version": (_edit(lambda config: config.update(version=99)), "version 99"),
    "field missing": (_edit(lambda config: config["model"].pop("width") and config.pop("patchify")), "patchify"),
    "no fields": (_edit(lambda config: config.update(model=None)), "does not describe a DiT"),
    "unknown field": (_edit(lambda config: config["model"].update(experts=8)), "experts"),
    "impossible": (_edit(lambda config: config["model"].update(width=-4)), "at least 1"),
    "other patches": (_edit(lambda config: config["patchify"].update(patch=1)), "patchify makes"),
    "names": (_edit(lambda config: config["class_names"].pop()), "1 class names for a model of 2 classes"),
    "scale of no latents": (_edit(lambda config: config.update(latents=0.18215)), "does not describe a DiT"),
    "half a scale": (_edit(lambda config: config.update(latents={"mean": [0, 0]})), "'std'"),
    "impossible scale": (_edit(lambda config: config.update(latents={"mean": [0, 0], "std": [1, 0]})), "more than 0"),
    "scale of others": (_edit(lambda config: config.update(latents={"mean": [0], "std": [1]})), "in 1 channels, for"),
    "other shape": (_edit(lambda config: config["model"].update(width=32)), "size mismatch"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "does not hold the weights"),
    "cut short": (lambda folder: (folder / "model.safetensors").write_bytes(b"\x00" * 40), "does not hold the weights"),
    "tensor missing": (_drop_a_tensor, "head.bias"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILS.values(), ids=SPOILS.keys())
def test_what_is_no_model_is_refused_in_one_line(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)
    with pytest.raises(ModelFolderError, match=message) as refusal:
        from_pretrained(folder)
    assert "\n" not in str(refusal.value)


def test_a_run_folder_is_pointed_to_its_model(folder: Path) -> None:
    with pytest.raises(ModelFolderError, match=f"try {folder}"):
        from_pretrained(folder.parent)


def test_a_compiled_model_is_kept_as_what_it_is(tmp_path: Path) -> None:
    model, names = DiT(CONFIG), ("cat", "dog")
    compiled: Any = torch.compile(model, backend="eager")
    with unchecked():
        save_pretrained(tmp_path / "model", compiled, PATCHIFY, names, "raw")
        resized, told = interpolated(compiled, (3, 3)), with_error_head(compiled, torch.Generator())
    again = from_pretrained(tmp_path / "model").model
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert [*resized.state_dict()] == [*interpolated(model, (3, 3)).state_dict()]
    assert told.error is not None


def test_folders_beside_it_that_are_not_its_own_stay(tmp_path: Path) -> None:
    (tmp_path / ".model-original").mkdir()
    (tmp_path / ".model.draft-0123abcd").mkdir()  # of a process that was killed
    save_pretrained(tmp_path / "model", DiT(CONFIG), PATCHIFY, ("cat", "dog"), "raw")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".model-original", "model"]
