"""Models of latents on the command line: with their autoencoder in the model folder, or named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from apd_models import DiT, DiTConfig, Patchify, load_codec, save_pretrained
from app_runner import app_here, assert_refused
from latent_cases import make_codec, make_latent_model


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_codec(tmp_path_factory.mktemp("codec") / "ours")


@pytest.fixture(scope="module")
def model(codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_latent_model(tmp_path_factory.mktemp("latents") / "model", codec)


@pytest.fixture(scope="module")
def of_pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pixels") / "model"
    save_pretrained(folder, DiT(DiTConfig((4, 4), 48, width=8, depth=1, heads=1)), Patchify(16, 16, 3, 4), (), "raw")
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    mask = np.zeros((16, 16), np.uint8)
    mask[5:9, 4:8] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "image.png"


def pixels_of(file: Path) -> np.ndarray:
    return np.array(Image.open(file)).astype(int)


def painted(model: Path, image: Path, out: Path, *more: object) -> dict[str, Any]:
    """Completes and gives the record."""
    run = ("--model", model, "--image", image, "--mask", image.with_name("mask.png"), "--out", out, "--steps", 3)
    done = app_here("inpaint", *run, "--candidates", 2, *more)
    assert done.returncode == 0, done.stderr
    return {**json.loads((out / "inpainting.json").read_text()), "stdout": done.stdout}


def test_images_of_latents_take_no_flag(model: Path, codec: Path, tmp_path: Path) -> None:
    draw = lambda out, *more: app_here("sample", "--model", model, "--out", tmp_path / out, "--steps", 3, *more)
    for out, more in (("a", ("--seeds", "0-2", "--film", "png")), ("b", ("--seeds", "1", "--codec", codec))):
        done = draw(out, *more)
        assert done.returncode == 0, done.stderr
    assert pixels_of(tmp_path / "a" / "seed-000001.png").shape == (16, 16, 3)
    one, other = (tmp_path / out / "seed-000001.png" for out in "ab")
    assert one.read_bytes() == other.read_bytes()  # whatever is drawn with it
    with Image.open(tmp_path / "a" / "film.png") as film:
        film.seek(getattr(film, "n_frames", 1) - 1)
        drawn, last = pixels_of(tmp_path / "a" / "seed-000000.png"), np.array(film.convert("RGB"))
    assert (last[4 : 4 + 16 * 7 : 7, 4 : 4 + 16 * 7 : 7] == drawn).all()  # enlarged by 7, in a frame of 4
    record = json.loads((tmp_path / "a" / "sampling.json").read_text())
    assert record["codec_digest"] == load_codec(codec).digest


def test_an_autoencoder_of_diffusers_is_named_where_the_folder_has_none(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    kinds: Any = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes: Any = {"block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}
    network: Any = AutoencoderKL(**kinds, **sizes)
    network.save_pretrained(tmp_path / "vae")
    model = make_latent_model(tmp_path / "model", None, inside=False)
    draw = lambda *more: app_here("sample", "--model", model, "--out", tmp_path / "a", "--steps", 2, *more)
    assert_refused(draw(), "makes latents of 4 channels: say --codec PATH")
    assert not (tmp_path / "a").exists()
    done = draw("--seeds", "0-1", "--codec", tmp_path / "vae")
    assert done.returncode == 0, done.stderr
    # The model does not say which it is of, so another one may be named; but not for the images that are there.
    other = make_codec(tmp_path / "other")
    assert_refused(draw("--codec", other), "another autoencoder: pass --overwrite")
    assert draw("--codec", other, "--overwrite").returncode == 0


def test_another_autoencoder_than_the_model_s_is_refused(
    model: Path, codec: Path, of_pixels: Path, image: Path, tmp_path: Path
) -> None:
    run: list[object] = ["--image", image, "--mask", tmp_path / "mask.png", "--out", tmp_path / "out"]
    other = make_codec(tmp_path / "other", seed=1)
    refused = app_here("inpaint", *run, "--model", model, "--codec", other)
    assert_refused(refused, "the model is of the latents of another autoencoder")
    assert load_codec(other).digest[:12] in refused.stderr
    drawing = ("--model", model, "--out", tmp_path / "out", "--codec", other)
    assert_refused(app_here("sample", *drawing), "the model is of the latents of another autoencoder")
    assert not (tmp_path / "out").exists()  # nor anything drawn before
    assert_refused(app_here("inpaint", *run, "--model", model, "--codec", image), "is no autoencoder")
    assert_refused(app_here("inpaint", *run, "--model", of_pixels, "--codec", codec), "is one of latents")
    (make_latent_model(tmp_path / "damaged", codec) / "codec" / "model.safetensors").unlink()
    assert_refused(app_here("inpaint", *run, "--model", tmp_path / "damaged"), "does not hold the weights")
    assert not (tmp_path / "out").exists()


def test_completions_by_latents_keep_the_known_pixels_unless_told(model: Path, image: Path, tmp_path: Path) -> None:
    known = pixels_of(tmp_path / "mask.png") == 0
    records = [
        painted(model, image, tmp_path / out, "--latent-dilate", 0, *more)
        for out, more in (("pasted", ()), ("raw", ("--no-paste",)))
    ]
    pasted, raw = (pixels_of(tmp_path / out / "completed-000000.png") for out in ("pasted", "raw"))
    assert (pasted[known] == pixels_of(image)[known]).all()
    assert (raw[known] != pixels_of(image)[known]).any()
    assert (raw[~known] == pasted[~known]).all()
    assert (pixels_of(tmp_path / "pasted" / "candidate-000000.png") == raw).all()
    assert (tmp_path / "pasted" / "variance.png").exists()
    assert [record["pasted"] for record in records] == [True, False]
    assert len(records[0]["weights_sha256"]) == 1
    assert records[0]["codec_digest"] == load_codec(model / "codec").digest


def test_what_is_hidden_grows_until_hiding_moves_little(model: Path, image: Path, tmp_path: Path) -> None:
    """The encoder looks three pixels and a cell far: three cells, of the four that there are beside the hole."""
    tight = painted(model, image, tmp_path / "tight", "--leak", 1e-9)
    (measured,) = tight["measured"]
    assert measured["bound"] == tight["leak"] == 1e-9
    assert measured["cells"] == tight["grown_cells"][0] == sum(moved > 0 for moved in measured["moved_by_distance"])
    assert measured["cells"] == 3
    assert f"beyond {measured['cells']} cells by 0: what is nearer is made anew" in tight["stdout"]
    assert f"within {measured['cells']} cells of what is hidden" in tight["stdout"]
    loose = painted(model, image, tmp_path / "loose", "--leak", 1e9)
    assert loose["grown_cells"] == [0]
    assert "hiding moves the latents next to it by" in loose["stdout"]
    assert loose["given_up_pixels"] < tight["given_up_pixels"]
    default = painted(model, image, tmp_path / "default")
    assert default["leak"] == 0.25
    told = painted(model, image, tmp_path / "told", "--latent-dilate", measured["cells"])
    assert (told["measured"], told["grown_cells"]) == ([], tight["grown_cells"])
    for out in ("tight", "told"):
        assert (
            pixels_of(tmp_path / out / "completed-000001.png") == pixels_of(tmp_path / "tight/completed-000001.png")
        ).all()
    refused = app_here(
        "inpaint", "--model", model, "--image", image, "--mask", image.with_name("mask.png"), "--out", tmp_path / "told"
    )
    assert_refused(refused, "made otherwise")


def test_hidden_pixels_change_nothing_that_is_made_nor_what_is_chosen(model: Path, image: Path, tmp_path: Path) -> None:
    first = painted(model, image, tmp_path / "first", "--leak", 0.02)
    before, pixels = pixels_of(tmp_path / "first" / "completed-000001.png"), pixels_of(image)
    pixels[5:9, 4:8] = 255 - pixels[5:9, 4:8]
    Image.fromarray(pixels.astype(np.uint8)).save(image)
    second = painted(model, image, tmp_path / "second", "--leak", 0.02)
    assert first["image_sha256"] != second["image_sha256"]
    assert first["measured"] == second["measured"]
    assert first["measured"][0]["cells"] > 0
    assert (pixels_of(tmp_path / "second" / "completed-000001.png") == before).all()


def test_in_all_tiles_what_is_hidden_grows_alike(model: Path, image: Path, tmp_path: Path) -> None:
    Image.open(image).resize((40, 24)).save(tmp_path / "wide.png")
    mask = Image.new("L", (40, 24))
    mask.paste(255, (3, 8, 30, 20))
    mask.save(tmp_path / "mask.png")
    record = painted(model, tmp_path / "wide.png", tmp_path / "tiled", "--tile")
    assert len(record["grown_cells"]) == len(record["windows"]) > 1
    assert len({*record["grown_cells"]}) == 1
    known = pixels_of(tmp_path / "mask.png") == 0
    made = pixels_of(tmp_path / "tiled" / "completed-000000.png")
    assert (made[known] == pixels_of(tmp_path / "wide.png")[known]).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--leak", 0), "--leak must be a finite number above 0, got 0"),
        (("--leak", "nan"), "--leak must be a finite number above 0, got nan"),
        (("--latent-dilate", -1), "--latent-dilate must be from 0 to 1000, got -1"),
        (("--latent-dilate", 1, "--leak", 1), "leave one of them out"),
    ],
)
def test_wrong_growth_is_refused(model: Path, image: Path, flags: tuple[object, ...], message: str) -> None:
    run: list[object] = ["--image", image, "--mask", image.with_name("mask.png"), "--out", image.with_name("out")]
    assert_refused(app_here("inpaint", *run, "--model", model, *flags), message)
    assert not image.with_name("out").exists()


def test_growth_of_latents_is_nothing_for_a_model_of_pixels(image: Path, of_pixels: Path) -> None:
    run: list[object] = ["--image", image, "--mask", image.with_name("mask.png"), "--out", image.with_name("out")]
    refused = app_here("inpaint", *run, "--model", of_pixels, "--latent-dilate", 1)
    assert_refused(refused, "--latent-dilate and --leak are for models of latents")
