"""Autoencoders: diffusers' to the bit; a model of latents meets the scale that it was trained at, both ways."""

import json
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor
from torch.nn import functional as F

from apd_models import (
    Codec,
    CodecError,
    DiT,
    DiTConfig,
    LatentScale,
    Moments,
    Patchify,
    Pretrained,
    autoencoder_kl,
    check_codec,
    from_pretrained,
    image_patchify,
    save_pretrained,
    to_latents,
    to_pixels,
    without_hidden,
)
from apd_models._codecs._diffusers import _stats
from codec_cases import kl_network, noise

WEIGHTS = "diffusion_pytorch_model.safetensors"
IMAGES = noise(3, 3, 8, 12)


@pytest.fixture(scope="module")
def network() -> Any:
    return kl_network()


@pytest.fixture
def folder(network: Any, tmp_path: Path) -> Path:
    network.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def assert_same(codec: Codec, network: Any) -> None:
    latents = network.encode(IMAGES).latent_dist.mean
    assert torch.equal(codec.encode(IMAGES), latents)
    assert torch.equal(codec.decode(latents), network.decode(latents).sample)


# ------------------------------------------------------------------------------------------- diffusers' autoencoder


def test_it_is_diffusers_own_to_the_bit_and_unscaled(folder: Path, network: Any) -> None:
    before = torch.get_rng_state()
    codec = autoencoder_kl(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(codec, Codec)
    assert (codec.factor, codec.channels, codec.image_channels) == (4, 4, 3)
    assert codec.encode(IMAGES).shape == (3, 4, 2, 3)
    assert_same(codec, network)
    assert_same(codec, AutoencoderKL.from_pretrained(folder, local_files_only=True, use_safetensors=True))
    assert torch.equal(codec.encode(IMAGES), codec.encode(IMAGES))
    assert not codec.decode(codec.encode(IMAGES)).requires_grad
    assert repr(codec) == "AutoencoderKL(factor=4, channels=4, image_channels=3)"


def test_a_file_of_half_precision_beside_its_configuration(folder: Path) -> None:
    """Its numbers, in float32."""
    halves = {name: tensor.half() for name, tensor in load_file(folder / WEIGHTS).items()}
    (folder / WEIGHTS).unlink()
    file = folder / "diffusion_pytorch_model.fp16.safetensors"
    save_file(halves, file)
    rounded = kl_network()
    rounded.load_state_dict({name: tensor.float() for name, tensor in halves.items()})
    assert_same(autoencoder_kl(file), rounded)


def test_old_names_of_attention(folder: Path, network: Any) -> None:
    tensors, old = load_file(folder / WEIGHTS), {}
    for name, tensor in tensors.items():
        for now, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(now, before)
        old[name] = tensor
    assert len(set(old) - set(tensors)) == 16
    save_file(old, folder / WEIGHTS)
    assert_same(autoencoder_kl(folder), network)


def test_without_attention_and_outer_convolutions(tmp_path: Path) -> None:
    network = kl_network(mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False)
    network.save_pretrained(tmp_path)
    assert_same(autoencoder_kl(tmp_path), network)


def test_without_diffusers_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(CodecError, match=r"pip install \"apd-models\[latents\]\"$") as refusal:
        autoencoder_kl(folder)
    assert "\n" not in str(refusal.value)


@dataclass
class Trap:
    """A pickle that makes a folder when it is opened."""

    path: str

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("named", ["the folder", "the file"])
def test_pickles_are_not_opened(folder: Path, network: Any, named: str) -> None:
    trap, sprung = folder / "diffusion_pytorch_model.bin", folder / "sprung"
    trap.write_bytes(pickle.dumps(Trap(str(sprung))))
    assert_same(autoencoder_kl(folder), network)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CodecError, match=r"is no autoencoder: expected .*; pickles are not opened$"):
        autoencoder_kl(folder if named == "the folder" else trap)
    assert not sprung.exists()
    pickle.loads(trap.read_bytes())
    assert sprung.exists()


def _edit(**changes: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return spoil


def _tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return spoil


def _cut_short(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "is no autoencoder: expected"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "is no autoencoder: expected"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
    "no object": (lambda folder: (folder / "config.json").write_text("[]"), "_class_name is None"),
    "another kind": (_edit(_class_name="VQModel"), "_class_name is 'VQModel'"),
    "impossible": (_edit(block_out_channels="wide"), "does not describe an AutoencoderKL"),
    "unknown block": (_edit(down_block_types=["DownEncoder"] * 3), "does not describe an AutoencoderKL"),
    "other channels": (_edit(out_channels=4), "it encodes 3 channels and decodes to 4"),
    "other shape": (_edit(latent_channels=8), "does not hold the weights .* size mismatch"),
    "cut short": (_cut_short, "does not hold the weights"),
    "no safetensors": (lambda folder: (folder / WEIGHTS).write_bytes(b"\x00" * 40), "does not hold the weights"),
    "tensor missing": (_tensors(lambda tensors: tensors.pop("encoder.conv_in.bias")), "encoder.conv_in.bias"),
    "tensor unknown": (_tensors(lambda tensors: tensors.update(ema=torch.zeros(1))), "ema"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILS.values(), ids=SPOILS.keys())
def test_what_is_no_autoencoder_is_refused_in_one_line(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(CodecError, match=message) as refusal:
        autoencoder_kl(folder)
    assert "\n" not in str(refusal.value)


def test_a_pipeline_is_pointed_to_its_autoencoder(folder: Path) -> None:
    with pytest.raises(CodecError, match=f"; try {folder}$"):
        autoencoder_kl(folder.parent)
    with pytest.raises(CodecError, match="nowhere is no autoencoder: expected a folder with"):
        autoencoder_kl(folder / "nowhere")
    with pytest.raises(CodecError, match="cannot be read: File name too long"):
        autoencoder_kl("a" * 300)


def test_what_it_cannot_take_is_refused(folder: Path) -> None:
    codec = autoencoder_kl(folder)
    for shape in ((1, 8, 12), (3, 6, 12), (3, 8, 10)):
        with pytest.raises(
            CodecError, match=r"images of 3 channels, .* multiples of 4: got " + "×".join(map(str, shape))
        ):
            codec.encode(torch.zeros(1, *shape))
    with pytest.raises(CodecError, match=r"takes latents of 4 channels, .*: got \(1, 3, 2, 3\)"):
        codec.decode(torch.zeros(1, 3, 2, 3))


# -------------------------------------------------------------------------------------------------------- the scale


def test_standardised_is_mean_nothing_and_deviation_one() -> None:
    latents = torch.randn(50, 3, 4, 5, generator=Generator().manual_seed(0), dtype=torch.float64)
    latents = latents * torch.tensor([0.5, 3.0, 40.0])[:, None, None] + torch.tensor([-7.0, 0.0, 2.0])[:, None, None]
    std, mean = torch.std_mean(latents, (0, 2, 3))
    scale = LatentScale(tuple(mean.tolist()), tuple(std.tolist()))
    assert scale.channels == 3
    z = scale.standardise(latents)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-13)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(3).double(), rtol=0, atol=1e-13)
    torch.testing.assert_close(scale.restore(z), latents, rtol=0, atol=1e-12)
    assert torch.equal(scale.standardise(latents[0]), z[0])
    assert scale.restore(z.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((), (), "for each channel, got 0 and 0"),
        ((0.0, 1.0), (1.0,), "for each channel, got 2 and 1"),
        ((0.0,), (0.0,), "more than 0"),
        ((0.0, 0.0), (1.0, -1.0), "more than 0"),
        ((float("nan"),), (1.0,), "must be finite"),
        ((0.0,), (float("inf"),), "must be finite"),
        ((0.0,), (float("nan"),), "must be finite"),
    ],
)
def test_impossible_scales(mean: tuple[float, ...], std: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentScale(mean, std)


def test_a_scale_is_of_as_many_channels() -> None:
    scale = LatentScale((0.0, 1.0), (1.0, 1.0))
    for of in (scale.standardise, scale.restore):
        with pytest.raises(ValueError, match="expected latents of 2 channels, got 1"):
            of(torch.zeros(1, 3, 3))


# ---------------------------------------------------------------------------------------------- a model of latents


@dataclass(frozen=True)
class Blocks:
    """Latents are the pixels of a block, times four: a codec that loses nothing, in any precision."""

    factor: int = 2
    channels: int = 12
    image_channels: int = 3
    digest: str = "blocks"
    stats: LatentScale | None = None

    @property
    def config(self) -> dict[str, Any]:
        return {"kind": "blocks"}

    def moments(self, images: Tensor, known: Tensor | None = None) -> Moments:
        return Moments(4 * F.pixel_unshuffle(without_hidden(images, known), self.factor), None)

    def encode(self, images: Tensor, known: Tensor | None = None) -> Tensor:
        return self.moments(images, known).mean

    def decode(self, latents: Tensor, known: Tensor | None = None) -> Tensor:
        images = F.pixel_shuffle(latents / 4, self.factor)
        return images if known is None else images + 10 * (~known[:, None])

    def save(self, folder: Path) -> None:
        raise AssertionError("no test saves it")


def model_of(patchify: Patchify, latents: LatentScale | None) -> Pretrained:
    config = DiTConfig(patchify.grid, patchify.token_dim, width=8, depth=1, heads=1)
    return Pretrained(DiT(config), patchify, (), "raw", latents)


SCALE = LatentScale(tuple(float(k) for k in range(12)), tuple(2.0 ** (k % 3) for k in range(12)))
"""Powers of two, so that nothing is rounded where the means allow it."""


def test_a_model_sees_standardised_latents_and_its_own_become_pixels() -> None:
    codec, of = Blocks(), model_of(Patchify(4, 6, 12, 2), SCALE)
    assert isinstance(codec, Codec)
    images = IMAGES.double()
    mean, std = (torch.tensor(values).double()[:, None, None] for values in (SCALE.mean, SCALE.std))
    seen = to_latents(codec, of, images)
    assert torch.equal(seen, (4 * F.pixel_unshuffle(images, 2) - mean) / std)
    torch.testing.assert_close(to_pixels(codec, of, seen), images, rtol=0, atol=1e-15)
    made = torch.randn(3, 12, 4, 6, generator=Generator().manual_seed(2), dtype=torch.float64)
    assert torch.equal(to_pixels(codec, of, made), F.pixel_shuffle((std * made + mean) / 4, 2))
    assert torch.equal(of.patchify.to_images(of.patchify.to_tokens(seen)), seen)


def test_what_is_hidden_is_told_to_the_codec() -> None:
    codec, of = Blocks(), model_of(Patchify(4, 6, 12, 2), SCALE)
    known = torch.rand(3, 8, 12, generator=Generator().manual_seed(3)) > 0.3
    assert torch.equal(to_latents(codec, of, IMAGES, known), SCALE.standardise(codec.encode(IMAGES, known)))
    made = to_latents(codec, of, IMAGES)
    assert torch.equal(to_pixels(codec, of, made, known), codec.decode(SCALE.restore(made), known))
    assert not torch.equal(to_pixels(codec, of, made, known), to_pixels(codec, of, made))
    assert not torch.equal(to_latents(codec, of, IMAGES, known), made)


def test_a_model_is_of_the_latents_of_one_autoencoder() -> None:
    """Where its folder says of which, any other is refused, however alike."""
    codec, of = Blocks(), model_of(Patchify(4, 6, 12, 2), replace(SCALE, codec="blocks"))
    check_codec(codec, of)
    check_codec(replace(codec, digest="other"), replace(of, latents=SCALE))
    latents = to_latents(codec, of, IMAGES)
    other = replace(codec, digest="0123456789abcdef")
    for call in (
        lambda: check_codec(other, of),
        lambda: to_latents(other, of, IMAGES),
        lambda: to_pixels(other, of, latents),
    ):
        with pytest.raises(CodecError, match=r"another autoencoder: that has the digest blocks…, .* 0123456789ab…$"):
            call()


def test_the_statistics_of_a_set_travel_with_the_model(folder: Path, network: Any, tmp_path: Path) -> None:
    """From images to the folder of a model and back: standardised, each channel; decoded, as without any of it."""
    codec = autoencoder_kl(folder)
    raw = network.encode(IMAGES).latent_dist.mean
    std, mean = torch.std_mean(raw, (0, 2, 3))
    assert not torch.allclose(std, torch.ones(4), rtol=0.05)
    made = model_of(Patchify(2, 3, 4, 1), LatentScale(tuple(mean.tolist()), tuple(std.tolist())))
    save_pretrained(tmp_path / "model", made.model, made.patchify, (), "raw", made.latents)
    loaded = from_pretrained(tmp_path / "model")
    seen = to_latents(codec, loaded, IMAGES)
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-5)
    expected = network.decode(raw).sample
    torch.testing.assert_close(to_pixels(codec, loaded, seen), expected, rtol=0, atol=1e-4)


def test_tokens_lie_on_pixels() -> None:
    """A token is known where all the pixels that its cells stand for are."""
    latents = Patchify(4, 6, 12, 2)
    on = image_patchify(Blocks(), latents)
    assert on == Patchify(8, 12, 3, 4)
    assert on.grid == latents.grid
    known = torch.ones(8, 12, dtype=torch.bool)
    known[3, 11] = False
    assert on.known_tokens(known)[:, 0].tolist() == [True, True, False, True, True, True]


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    codec, of = Blocks(), model_of(Patchify(4, 6, 12, 2), SCALE)
    with pytest.raises(CodecError, match=r"take images of 3×8×12, got 3×8×8$"):
        to_latents(codec, of, torch.zeros(1, 3, 8, 8))
    with pytest.raises(CodecError, match=r"take images of 3×8×12, got 1×8×12$"):
        to_latents(codec, of, torch.zeros(1, 1, 8, 12))
    with pytest.raises(CodecError, match=r"makes latents of 12×4×6, got 12×4×4$"):
        to_pixels(codec, of, torch.zeros(1, 12, 4, 4))
    pixels = replace(of, latents=None)
    other = replace(codec, channels=16)
    for call, argument in ((to_latents, IMAGES), (to_pixels, torch.zeros(1, 12, 4, 6))):
        with pytest.raises(CodecError, match="does not say that it is one of latents"):
            call(codec, pixels, argument)
        with pytest.raises(CodecError, match=r"makes latents of 16 channels, and the model is of 12: take"):
            call(other, of, argument)


def test_a_scale_of_each_channel_is_divided_by_the_factor_that_diffusers_multiplies_by() -> None:
    said = {"latents_mean": [0.5, -1.0], "latents_std": [2.0, 3.0], "scaling_factor": 0.5}
    assert _stats(said, 2) == LatentScale((0.5, -1.0), (4.0, 6.0))
    assert _stats({**said, "scaling_factor": None}, 2) == LatentScale((0.5, -1.0), (2.0, 3.0))
