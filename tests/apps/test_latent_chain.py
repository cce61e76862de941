"""The commands of docs/latents.md, in their order, on miniatures of the same layout."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from apd_models import from_pretrained
from app_runner import ROOT, app_here
from image_files import encoded, pixels, write_lsun

PAGE = (ROOT / "docs" / "latents.md").read_text(encoding="utf-8")
SECTIONS = {
    title: re.findall(r"^    uv run apps/(.*)$", text, re.MULTILINE)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}
SMALLER = {
    "encode": ["--batch", "4", "--threads", "1"],
    "train": ["--batch-size", "4", "--steps", "2", "--threads", "1"],
    "sample": ["--steps", "2", "--threads", "1"],
    "evaluate": ["--side", "32", "--threads", "1"],
}
"""What every command of an app gets."""
TRANSFORMER = ["--width", "16", "--depth", "1", "--heads", "2"]
"""What training of a model gets too."""


def run(section: str, cells: int) -> None:
    """All commands of a section, in the working directory, on images of 64×64.

    Args:
        cells: a side of their latents.
    """
    commands = [shlex.split(line) for line in SECTIONS[section]]
    assert len(commands) >= 2
    for app, *arguments in commands:
        arguments = ["64" if argument == "256" else argument for argument in arguments]
        arguments = ["0-11" if argument == "0-49999" else argument for argument in arguments]
        of_latents = app == "train" and not arguments[0].startswith("autoencoder")
        more = [*TRANSFORMER, "--size", str(cells)] if of_latents else []
        done = app_here(app, *arguments, *more, *SMALLER[app])
        assert done.returncode == 0, (app, arguments, done.stdout, done.stderr)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def write_vae(folder: Path) -> None:
    """Of the architecture of Stable Diffusion's, with few channels: 8 times smaller latents, 4 channels."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    network: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
    )
    network.save_pretrained(folder)


@pytest.mark.slow
def test_imagenet(here: Path) -> None:
    write_vae(here / "sd-vae")
    for k in range(24):
        file = here / "imagenet" / "train" / f"n0{1440764 + k % 3}" / f"n0{1440764 + k % 3}_{k}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(pixels(k, 64 + k, 96, 3), "JPEG"))
    images = np.stack([pixels(k, 64, 64, 3) for k in range(16)])
    np.savez(here / "VIRTUAL_imagenet256_labeled.npz", arr_0=images)
    run("ImageNet", 8)
    found = from_pretrained(here / "runs" / "imagenet256" / "model")
    assert found.class_names == ("n01440764", "n01440765", "n01440766")
    assert found.latents is not None
    assert found.codec is not None
    with np.load(here / "drawn" / "samples.npz") as samples:
        assert samples["arr_0"].shape == (12, 64, 64, 3)
        assert samples["arr_0"].dtype == np.uint8


@pytest.mark.slow
def test_lsun(here: Path) -> None:
    write_vae(here / "sd-vae")
    write_lsun(here / "bedroom_train_lmdb", 24)
    run("LSUN bedrooms", 8)
    found = from_pretrained(here / "runs" / "bedroom256" / "model")
    assert found.class_names == ()
    assert found.latents is not None
    assert found.latents.channels == 4


@pytest.mark.slow
def test_an_autoencoder_of_ones_own(here: Path) -> None:
    for k in range(24):
        file = here / "photos" / "ab"[k % 2] / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(k, 64, 64, 3)).save(file)
    run("An autoencoder of one's own", 16)
    assert len([*(here / "drawn").glob("seed-*.png")]) > 0
