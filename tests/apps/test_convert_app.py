"""`apps/convert` as a user runs it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from apd_models import (
    Autoencoder,
    AutoencoderConfig,
    Codec,
    LatentScale,
    as_codec,
    from_pretrained,
    load_codec,
)
from app_runner import app_here, assert_refused

SHAPES = {
    "x_embedder.proj": (16, 4, 2, 2),
    "t_embedder.mlp.0": (16, 256),
    "t_embedder.mlp.2": (16, 16),
    "y_embedder.embedding_table": (4, 16),
    "blocks.0.adaLN_modulation.1": (96, 16),
    "blocks.0.attn.qkv": (48, 16),
    "blocks.0.attn.proj": (16, 16),
    "blocks.0.mlp.fc1": (64, 16),
    "blocks.0.mlp.fc2": (16, 64),
    "final_layer.adaLN_modulation.1": (32, 16),
    "final_layer.linear": (32, 16),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights: dict[str, Tensor] = {"pos_embed": torch.randn(1, 9, 16)}
    for name, shape in SHAPES.items():
        weights |= {f"{name}.weight": torch.randn(shape), f"{name}.bias": torch.randn(shape[:1])}
    del weights["y_embedder.embedding_table.bias"]
    file = tmp_path_factory.mktemp("checkpoint") / "0400000.pt"
    torch.save({"ema": weights, "model": weights}, file)
    return file


def test_says_what_it_found_and_writes_a_model(checkpoint: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("a fox\n\nan owl \nété\n", encoding="utf-8")
    arguments = ("--from", checkpoint, "--as", "sit", "--out", tmp_path / "model", "--heads", 2, "--names", names)
    done = app_here("convert", *arguments)
    assert done.returncode == 0, done.stderr
    parameters = 9 * 16 + sum(torch.zeros(shape).numel() + shape[0] for shape in SHAPES.values()) - 4 - 16 * 17
    for line in (
        "ema of 0400000.pt, converted as sit; its learned variance left out",
        f"1 blocks, width 16, 2 heads, {parameters:,} parameters",
        "4×6×6: 3×3 patches of 2×2",
        "3, and none",
        "images of 4 channels are latents",
    ):
        assert line in done.stdout
    found = from_pretrained(tmp_path / "model")
    assert found.class_names == ("a fox", "an owl", "été")
    assert found.model.config.convention == "sit"
    assert sum(parameter.numel() for parameter in found.model.parameters()) == parameters


def with_scale(folder: Path, channels: int = 4, scaled: bool = True) -> Codec:
    """An autoencoder of ours, whose latents have this scale."""
    scale = LatentScale((0.1,) * channels, (5.0,) * channels) if scaled else None
    made = as_codec(Autoencoder(AutoencoderConfig(channels=channels, widths=(4, 4), blocks=(0, 0))), scale)
    made.save(folder)
    return made


def test_the_autoencoder_comes_along_and_says_the_scale(checkpoint: Path, tmp_path: Path) -> None:
    out, codec = tmp_path / "model", with_scale(tmp_path / "codec")
    convert = ("--from", checkpoint, "--as", "dit", "--heads", 2, "--out", out, "--codec", tmp_path / "codec")
    done = app_here("convert", *convert)
    assert done.returncode == 0, done.stderr
    assert "latents  4×6×6: 3×3 patches of 2×2" in done.stdout
    assert f"images   3×12×12, by autoencoder {codec.digest[:12]}…" in done.stdout
    found = from_pretrained(out)
    assert found.latents == LatentScale((0.1,) * 4, (5.0,) * 4, codec.digest)
    assert found.codec is not None
    assert load_codec(found.codec).digest == codec.digest
    assert [*tmp_path.glob(".*")] == []
    assert app_here("convert", *convert, "--overwrite").returncode == 0
    drawn = app_here("sample", "--model", out, "--out", tmp_path / "drawn", "--seeds", "0", "--steps", 1)
    assert drawn.returncode == 0, drawn.stderr


def test_an_autoencoder_that_does_not_fit_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    run = ("--from", checkpoint, "--as", "dit", "--heads", 2, "--out", out, "--codec")
    with_scale(tmp_path / "three", channels=3)
    assert_refused(app_here("convert", *run, tmp_path / "three"), "makes latents of 3 channels, and the model is of 4")
    with_scale(tmp_path / "unscaled", scaled=False)
    assert_refused(app_here("convert", *run, tmp_path / "unscaled"), "does not say the scale of its latents")
    assert_refused(app_here("convert", *run, tmp_path / "nowhere"), "nowhere")
    assert not out.exists()


def test_a_model_is_replaced_only_if_asked_and_other_files_never(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    convert = lambda *more: app_here("convert", "--from", checkpoint, "--as", "dit", "--out", out, "--heads", 2, *more)
    assert convert().returncode == 0
    before = (out / "config.json").stat().st_ino
    assert_refused(convert(), "already holds a model: pass --overwrite")
    assert (out / "config.json").stat().st_ino == before
    assert convert("--overwrite").returncode == 0
    assert (out / "config.json").stat().st_ino != before
    (out / "notes.txt").touch()
    assert_refused(convert("--overwrite"), "holds other files than a model")
    assert (out / "notes.txt").exists()


def test_what_is_converted_is_not_replaced(checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "dit" / "config.json"
    source.parent.mkdir()
    source.write_bytes(checkpoint.read_bytes())
    done = app_here("convert", "--from", source, "--as", "dit", "--out", source.parent, "--overwrite")
    assert_refused(done, "holds other files than a model")
    assert source.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--from": "nowhere"}, "nowhere does not exist"),
        ({"--as": "flux"}, "flux"),
        ({"--as": "diffusers"}, "converted as dit or sit, not as diffusers"),
        ({"--heads": 0}, "--heads must be at least 1, got 0"),
        ({"--heads": 3}, "3 heads do not divide a width of 16"),
        ({"--names": "nowhere"}, "cannot be read as a text file of class names"),
        ({"--out": "/proc/no/model"}, "cannot be"),
        ({"--out": __file__}, "cannot be a model folder"),
    ],
)
def test_bad_input(checkpoint: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    options = {"--from": checkpoint, "--as": "dit", "--out": tmp_path / "out", "--heads": 2} | change
    done = app_here("convert", *(word for pair in options.items() for word in pair))
    assert_refused(done, message)
    assert not (tmp_path / "out").exists()


def test_a_pickle_of_more_than_weights_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pt")
    done = app_here("convert", "--from", tmp_path / "whole.pt", "--as", "dit", "--out", tmp_path / "out")
    assert_refused(done, "cannot be loaded as weights only (it asks for torch.nn.modules.linear.Linear)")


def test_help_teaches() -> None:
    done = app_here("convert", "--help")
    assert done.returncode == 0
    words = " ".join(done.stdout.replace("│", " ").split())
    for line in ("predict the velocity on the linear path", "{dit,sit,diffusers}", "no code in it is run"):
        assert line in words
