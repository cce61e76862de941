"""Models of latents on the command line, with an autoencoder of diffusers at random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from apd_models import DiT, DiTConfig, LatentScale, Patchify, save_pretrained
from app_runner import app_here, assert_refused


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("codec")
    torch.manual_seed(0)
    kind = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    sizes: dict[str, Any] = {
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "latent_channels": 4,
    }
    network: Any = AutoencoderKL(down_block_types=kind[0], up_block_types=kind[1], **sizes)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of latents of 4×8×8: images of 16×16."""
    folder = tmp_path_factory.mktemp("latents") / "model"
    torch.manual_seed(0)
    dit = DiT(DiTConfig((4, 4), 16, width=32, depth=1, heads=2))
    torch.nn.init.normal_(dit.head.weight, std=0.1)
    save_pretrained(folder, dit, Patchify(8, 8, 4, 2), (), "at random", LatentScale((0.0,) * 4, (0.5,) * 4))
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    mask = np.zeros((16, 16), np.uint8)
    mask[5:12, 4:15] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "image.png"


def pixels_of(file: Path) -> np.ndarray:
    return np.array(Image.open(file)).astype(int)


def test_images_of_latents(model: Path, codec: Path, tmp_path: Path) -> None:
    done = app_here(
        "sample", "--model", model, "--codec", codec, "--out", tmp_path / "a", "--seeds", "0-2", "--steps", 3
    )
    assert done.returncode == 0, done.stderr
    assert pixels_of(tmp_path / "a" / "seed-000001.png").shape == (16, 16, 3)
    record = json.loads((tmp_path / "a" / "sampling.json").read_text())
    assert len(record["codec_sha256"]) == 64
    without = app_here("sample", "--model", model, "--out", tmp_path / "b")
    assert_refused(without, "makes latents of 4 channels: say --codec DIR")
    assert not (tmp_path / "b").exists()


def test_completions_by_latents_keep_the_known_pixels_unless_told(
    model: Path, codec: Path, image: Path, tmp_path: Path
) -> None:
    known = pixels_of(tmp_path / "mask.png") == 0
    run: list[object] = ["--model", model, "--codec", codec, "--image", image, "--mask", tmp_path / "mask.png"]
    for out, more in (("pasted", ()), ("raw", ("--no-paste",))):
        done = app_here("inpaint", *run, "--out", tmp_path / out, "--candidates", 2, "--steps", 3, *more)
        assert done.returncode == 0, done.stderr
    pasted, raw = (pixels_of(tmp_path / out / "completed-000000.png") for out in ("pasted", "raw"))
    assert (pasted[known] == pixels_of(image)[known]).all()
    assert (raw[known] != pixels_of(image)[known]).any()
    assert (raw[~known] == pasted[~known]).all()
    assert (pixels_of(tmp_path / "pasted" / "candidate-000000.png") == raw).all()
    assert (tmp_path / "pasted" / "variance.png").exists()
    record = json.loads((tmp_path / "raw" / "inpainting.json").read_text())
    assert record["pasted"] is False
    assert len(record["weights_sha256"]) == 2


def test_an_autoencoder_that_does_not_fit_is_refused(
    model: Path, codec: Path, image: Path, short_run: Path, tmp_path: Path
) -> None:
    run: list[object] = ["--image", image, "--mask", tmp_path / "mask.png", "--out", tmp_path / "out"]
    assert_refused(app_here("inpaint", *run, "--model", model, "--codec", image), "is no autoencoder")
    assert_refused(app_here("inpaint", *run, "--model", short_run / "model", "--codec", codec), "is one of latents")
    assert_refused(app_here("inpaint", *run, "--model", model), "say --codec DIR")
    assert not (tmp_path / "out").exists()
