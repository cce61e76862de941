"""`apps/evaluate` of models of latents: in images where it says so, and in latents where it says that."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Generator, Tensor

from apd_generate import Recipe, decoded, draw_mask, generate, given_latents
from apd_metrics import average, extract, kernel_distance, psnr
from apd_models import Codec, Pretrained, from_pretrained, load_codec
from apd_schedules import ContinuousGaussian, Linear, elbo, shared_law
from apd_train import ImageSet, hold_out, load_folder
from app_runner import app_here, assert_refused
from evaluate_cases import KINDS, make_images, make_model, tiny_extractor, with_tiny_features
from latent_cases import make_codec, make_latent_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of images of 8×8."""
    place = tmp_path_factory.mktemp("latents")
    return make_latent_model(place / "model", make_codec(place / "codec"), side=4, names=KINDS, error_head=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 images, of which training would hold out 20."""
    return make_images(tmp_path_factory.mktemp("images"), KINDS, 200, "RGB")


@pytest.fixture(scope="module")
def held_out(data: Path) -> ImageSet:
    return hold_out(load_folder(data, 8), 20)[1]


@pytest.fixture(scope="module")
def loaded(model: Path) -> tuple[Pretrained, Codec]:
    return from_pretrained(model), load_codec(model / "codec")


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    with_tiny_features(monkeypatch)


def evaluated(out: Path, *options: object) -> dict[str, Any]:
    done = app_here("evaluate", *options, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    return {**json.loads(out.read_text()), "stdout": done.stdout}


def eight_bits(images: Tensor) -> Tensor:
    return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


@pytest.mark.usefixtures("_tiny")
def test_quality_is_that_of_images(
    model: Path, data: Path, held_out: ImageSet, loaded: tuple[Pretrained, Codec], tmp_path: Path
) -> None:
    told = ("--metric", "quality", "--model", model, "--data", data, "--images", 12, "--steps", 2, "--guidance", 1)
    record = evaluated(tmp_path / "f.json", *told)
    pretrained, codec = loaded
    labels = torch.tensor([0, 1]).repeat(6)
    latents = generate(pretrained.model, pretrained.patchify, Recipe(steps=2, guidance=1.0), range(12), labels).images
    images = decoded(codec, pretrained, latents)
    features = [extract(tiny_extractor(), [each]) for each in (images, held_out.squares())]
    (kid,) = (each for each in record["quality"]["scores"] if each["name"].startswith("KID"))
    assert kid["value"] == pytest.approx(kernel_distance(*features).value, rel=1e-4)
    assert record["codec_digest"] == codec.digest
    assert "autoencoder: digest" in (tmp_path / "f.md").read_text()


@pytest.mark.usefixtures("_tiny")
def test_completions_are_pasted_into_what_is_known(
    model: Path, data: Path, held_out: ImageSet, loaded: tuple[Pretrained, Codec], tmp_path: Path
) -> None:
    told = ["--metric", "inpainting", "--model", model, "--data", data, "--images", 5, "--steps", 2]
    record = evaluated(tmp_path / "f.json", *told, "--masks", "wide", "--latent-dilate", 1)["inpainting"]
    (found,) = record["families"]
    pretrained, codec = loaded
    truth, labels = held_out.squares([0, 4, 8, 12, 16]), held_out.labels[[0, 4, 8, 12, 16]]
    seeded = Generator().manual_seed(0)
    known = torch.stack([draw_mask("wide", 8, 8, seeded) for _ in range(5)])
    latents = given_latents(codec, pretrained, truth, (~known).float(), 1).repeated(2)
    how: Any = {"given": latents.given}
    made = generate(pretrained.model, pretrained.patchify, Recipe(steps=2), range(10), labels.repeat(2), **how).images
    pixels = torch.where(
        known.repeat(2, 1, 1)[:, None], truth.repeat(2, 1, 1, 1), decoded(codec, pretrained, made, latents.seen)
    )
    each = torch.stack([psnr(eight_bits(some), truth, ~known) for some in pixels.unflatten(0, (2, 5))])
    assert found["model"]["psnr"]["value"] == pytest.approx(average(each.mean(0)).value, rel=1e-4)
    assert (found["known_pixels_differing"], found["largest_difference_of_known"]) == (0, 0)
    assert record["latent_dilate"] == found["grown"]["cells"] == 1

    measured = evaluated(tmp_path / "g.json", *told, "--masks", "square", "--leak", 1e9)
    (found,) = measured["inpainting"]["families"]
    assert measured["inpainting"]["leak"] == 1e9
    assert found["grown"]["cells"] == 0
    assert found["grown"]["moved_by_distance"][0] > 0
    assert "square: hiding moves the latents next to it by" in measured["stdout"]


def test_the_bound_is_of_latents_and_says_so(
    model: Path, data: Path, held_out: ImageSet, loaded: tuple[Pretrained, Codec], tmp_path: Path
) -> None:
    """Of latents drawn from what the autoencoder says, image by image, at the scale that the model sees them at."""
    told = ("--model", model, "--data", data, "--points", 3, "--path", "synchronous", "--seed", 5)
    record = evaluated(tmp_path / "f.json", "--metric", "latent-bits-per-dim", *told)
    pretrained, codec = loaded
    seeded, tokens = Generator().manual_seed(5), []
    assert pretrained.latents is not None
    for image in held_out.squares().split(1):
        mean, log_var = codec.moments(image)
        assert log_var is not None
        z = mean + (0.5 * log_var).exp() * torch.randn(mean.shape, generator=seeded)
        tokens.append(pretrained.patchify.to_tokens(pretrained.latents.standardise(z)))
    bound = elbo(
        pretrained.model,
        torch.cat(tokens),
        Linear(11.0, -13.3),
        shared_law(4),
        generator=Generator().manual_seed(5),
        points=3,
        data_variance=pretrained.model.config.data_std**2,
        likelihood=ContinuousGaussian(),
        cond={"label": held_out.labels},
    )
    (path,) = record["latent-bits-per-dim"]["paths"]
    assert path["bits_per_dim"] == pytest.approx(bound.average()[0], rel=1e-5)
    assert "bits-per-dim" not in record
    assert record["latent-bits-per-dim"]["likelihood"] == "ContinuousGaussian()"
    assert "-log2 p(latents | class) of 20 latents of held-out images" in record["stdout"]
    assert "It is no bound for images." in record["stdout"]


def test_calibration_is_in_latents(model: Path, data: Path, tmp_path: Path) -> None:
    told = ("--model", model, "--data", data, "--points", 2, "--path", "synchronous")
    record = evaluated(tmp_path / "f.json", "--metric", "calibration", *told)
    assert record["calibration"]["images"] == 20
    assert "20 latents of held-out images" in record["stdout"]


def test_what_does_not_fit_is_refused(model: Path, data: Path, tmp_path: Path) -> None:
    run = lambda *more: app_here("evaluate", "--data", data, "--out", tmp_path / "f.json", *more)
    assert_refused(run("--model", model), "say --metric latent-bits-per-dim")
    pixels = make_model(tmp_path / "pixels", channels=3)
    assert_refused(run("--model", pixels, "--metric", "latent-bits-per-dim"), "is for models of latents")
    completing = ("--metric", "inpainting")
    assert_refused(run("--model", pixels, *completing, "--leak", 1), "are for models of latents")
    assert_refused(run("--model", model, *completing, "--leak", 0), "--leak must be a finite number above 0")
    assert_refused(run("--model", model, "--metric", "quality", "--leak", 1), "--leak is for --metric inpainting")
    bare = make_latent_model(tmp_path / "bare", model / "codec", inside=False)
    assert_refused(run("--model", bare, "--metric", "quality"), "say --codec PATH")
    assert_refused(
        run("--metric", "quality", "--samples", data, "--codec", model / "codec"), "--codec is the autoencoder of"
    )
    (tmp_path / "set").mkdir()
    save_file({"latents": torch.zeros(30, 4, 4, 4)}, tmp_path / "set" / "0.safetensors")
    encoded = run("--model", model, "--metric", "quality", "--data", tmp_path / "set")
    assert_refused(encoded, "holds latents: --data are images, here those that were encoded")
    assert not (tmp_path / "f.json").exists()
