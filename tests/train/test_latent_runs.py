"""Runs on latents: the model folder says of which autoencoder they are, and at which scale they were seen."""

import json
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Generator

from apd_models import LatentScale, from_pretrained, load_codec, to_latents, to_pixels
from apd_train import Latents, RunFolder, TrainConfig, fit, fit_error_head
from image_files import write_shard
from latent_sets import made, tiny_codec, write_images
from tiny_runs import TINY

SCALE = LatentScale((0.5, -1.0), (2.0, 0.1))


def latents(folder: Path, scale: LatentScale = SCALE) -> Latents:
    z = torch.randn(40, 2, 4, 4, generator=Generator().manual_seed(0))
    z = scale.restore(z)
    folder.mkdir()
    write_shard(folder / "0.safetensors", {"latents": z}, mean=[*scale.mean], std=[*scale.std])
    return Latents(folder)


def config(data: Latents) -> TrainConfig:
    options = {"data": data, "image_size": 4, "patch": 2, "flip": False, "steps": 2, "batch_size": 4}
    return TrainConfig(**{**TINY, **options})  # pyrefly: ignore


def test_the_scale_goes_from_the_data_to_the_model_folder(tmp_path: Path) -> None:
    """And to that of an error head, which is trained on latents at the scale of its model, whatever their set says."""
    data, fabric = latents(tmp_path / "data"), Fabric(accelerator="cpu", devices=1)
    fit(config(data), data.load(4), RunFolder(tmp_path / "run"), fabric)
    pretrained = from_pretrained(tmp_path / "run" / "model")
    assert (pretrained.latents, pretrained.codec) == (SCALE, None)
    fit_error_head(pretrained, config(data), data.load(4), RunFolder(tmp_path / "head"), fabric)
    assert from_pretrained(tmp_path / "head" / "model").latents == SCALE
    other = latents(tmp_path / "other", LatentScale((0.5, -1.0), (2.0, 0.2)))
    seen = fit_error_head(pretrained, config(other), other.load(4), RunFolder(tmp_path / "rescaled"), fabric).training
    assert from_pretrained(tmp_path / "rescaled" / "model").latents == SCALE
    stored = other.load(4)
    assert stored.latents != SCALE == seen.latents
    of_set = SCALE.restore(seen.squares())  # what the files hold, whatever it was standardised by
    files = stored.latents.restore(stored.squares())  # pyrefly: ignore
    assert all(bool(((files - each).abs().flatten(1).amax(1) < 1e-5).any()) for each in of_set)


def test_the_autoencoder_goes_from_the_images_to_the_model_folder(tmp_path: Path) -> None:
    """From a set that `apps/encode` makes: what the run saw decodes to the images, with no other folder at hand."""
    raw = write_images(tmp_path / "raw", 24, broken=False)
    data = Latents(made(raw, tmp_path / "set"))
    images = data.load(4)
    fit(config(data), images, RunFolder(tmp_path / "run"), Fabric(accelerator="cpu", devices=1))
    (tmp_path / "set").rename(tmp_path / "gone")
    pretrained = from_pretrained(tmp_path / "run" / "model")
    assert pretrained.codec is not None
    codec = load_codec(pretrained.codec)
    assert pretrained.latents == images.latents
    assert codec.digest == images.latents.codec == tiny_codec().digest  # pyrefly: ignore [missing-attribute]
    pixels = raw.squares([0, 1])
    seen = to_latents(codec, pretrained, pixels)
    torch.testing.assert_close(seen, torch.stack([images.square(k) for k in (0, 1)]), rtol=0, atol=1e-5)
    expected = codec.decode(codec.encode(pixels))
    torch.testing.assert_close(to_pixels(codec, pretrained, seen), expected, rtol=0, atol=1e-4)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["latents"]["codec"] == codec.digest
