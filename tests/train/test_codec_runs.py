"""Runs on latents know the autoencoder they are of: its folder goes into the model's, and another one is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from lightning_fabric import Fabric

from apd_models import LatentScale, as_codec, from_pretrained, load_codec
from apd_train import (
    ConfigError,
    DataError,
    Execution,
    ImageSet,
    RunFolder,
    TrainConfig,
    dry_run,
    fit,
    fit_error_head,
)
from autoencoder_cases import some_autoencoder, some_images
from tiny_runs import TINY

CONFIG = TrainConfig(**{**TINY, "image_size": 8, "patch": 4, "batch_size": 4, "steps": 2, "flip": False})  # pyrefly: ignore
FABRIC = Fabric(accelerator="cpu", devices=1)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """As data that say of which autoencoder they are."""
    folder = tmp_path_factory.mktemp("codec") / "codec"
    codec = as_codec(some_autoencoder().float())
    codec.save(folder)
    return replace(some_images(), latents=LatentScale((0.5,), (2.0,), codec.digest), codec=folder)


def other(images: ImageSet, digest: str | None = "f" * 64) -> ImageSet:
    assert images.latents is not None
    return replace(images, latents=replace(images.latents, codec=digest))


@pytest.fixture(scope="module")
def trained(encoded: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    fit(CONFIG, encoded, RunFolder(path), FABRIC)
    return path


def test_the_model_folder_has_the_autoencoder(encoded: ImageSet, trained: Path) -> None:
    pretrained = from_pretrained(trained / "model")
    assert pretrained.latents == encoded.latents
    assert pretrained.codec is not None
    assert load_codec(pretrained.codec).digest == pretrained.latents.codec  # pyrefly: ignore
    record = json.loads((trained / "config.json").read_text())
    assert record["latents"]["codec"] == pretrained.latents.codec  # pyrefly: ignore


def test_latents_of_another_autoencoder_are_not_gone_on_with(encoded: ImageSet, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    again = lambda images: fit(replace(CONFIG, steps=3), images, RunFolder(tmp_path / "run", resume=True), FABRIC)
    with pytest.raises(ConfigError, match=r"latents of the autoencoder [0-9a-f]{12}…, now they are of ffffffffffff…"):
        again(other(encoded))
    rescaled = replace(encoded, latents=LatentScale((0.0,), (2.0,), encoded.latents.codec))  # pyrefly: ignore
    with pytest.raises(ConfigError, match="was begun with latents"):
        again(rescaled)
    with pytest.raises(ConfigError, match="was begun with latents"):
        again(replace(encoded, latents=None))
    again(other(encoded, None))  # that do not say of which


def test_nor_is_an_error_head_trained_on_them(encoded: ImageSet, trained: Path, tmp_path: Path) -> None:
    pretrained = from_pretrained(trained / "model")
    head = lambda images: fit_error_head(
        pretrained, CONFIG, images, RunFolder(tmp_path / "head"), FABRIC, execution=Execution()
    )
    with pytest.raises(DataError, match=r"latents of the autoencoder ffffffffffff…, the model of [0-9a-f]{12}…"):
        head(other(encoded))
    with pytest.raises(DataError, match="not standardised as the model's"):
        head(replace(encoded, latents=None))
    head(replace(encoded, codec=None))  # that of the model goes on with it
    made = from_pretrained(tmp_path / "head" / "model")
    assert made.codec is not None
    assert load_codec(made.codec).digest == encoded.latents.codec  # pyrefly: ignore


def test_a_dry_run_says_which_latents(encoded: ImageSet) -> None:
    told = dict(dry_run(CONFIG, encoded, FABRIC, Execution()))
    assert encoded.latents is not None
    assert told["latents"] == f"of the autoencoder {encoded.latents.codec:.12}…, by channel of mean 0.5 and std 2"
    assert "not said" in dict(dry_run(CONFIG, other(encoded, None), FABRIC, Execution()))["latents"]
    assert "latents" not in dict(dry_run(CONFIG, some_images(), FABRIC, Execution()))
