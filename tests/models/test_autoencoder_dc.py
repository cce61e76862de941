"""The deep compression autoencoder: diffusers' to the bit."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from apd_models import Codec, CodecError, LatentScale, autoencoder_dc, load_codec
from codec_cases import dc_network, kl_network, noise

WEIGHTS = "diffusion_pytorch_model.safetensors"
IMAGES = noise(3, 3, 8, 12)


@pytest.fixture(scope="module")
def network() -> Any:
    return dc_network()


@pytest.fixture
def folder(network: Any, tmp_path: Path) -> Path:
    network.save_pretrained(tmp_path / "dc")
    return tmp_path / "dc"


def assert_same(codec: Codec, network: Any) -> None:
    latents = network.encode(IMAGES).latent
    assert torch.equal(codec.encode(IMAGES), latents)
    assert torch.equal(codec.decode(latents), network.decode(latents).sample)
    assert torch.equal(codec.moments(IMAGES).mean, latents)
    assert codec.moments(IMAGES).log_var is None


def test_it_is_diffusers_own_to_the_bit_and_unscaled(folder: Path, network: Any) -> None:
    before = torch.get_rng_state()
    codec = autoencoder_dc(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(codec, Codec)
    assert codec.encode(IMAGES).shape == (3, 4, 4, 6)
    assert_same(codec, network)
    assert not codec.decode(codec.encode(IMAGES)).requires_grad
    assert codec.stats == LatentScale((0.0,) * 4, (2.5,) * 4)
    assert repr(codec) == "AutoencoderDC(factor=2, channels=4, image_channels=3)"


def test_its_factor_with_and_without_a_convolution_before_the_first_halving(tmp_path: Path) -> None:
    """Three resolutions, the first of which may have no layers, as in the published ones of 64 and 128."""
    for layers in ((1, 1, 1), (0, 1, 1)):
        stages = {"block_types": "ResBlock", "block_out_channels": (8, 8, 8), "qkv_multiscales": ((), (), ())}
        stages |= {"layers_per_block": layers}
        network = dc_network(**{f"{way}_{k}": v for way in ("encoder", "decoder") for k, v in stages.items()})
        network.save_pretrained(tmp_path)
        codec = autoencoder_dc(tmp_path)
        assert codec.factor == 4
        assert codec.encode(IMAGES).shape == (3, 4, 2, 3)
        assert codec.decode(codec.encode(IMAGES)).shape == IMAGES.shape


def test_a_file_of_half_precision_beside_its_configuration(folder: Path) -> None:
    halves = {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()}
    (folder / WEIGHTS).unlink()
    file = folder / "dc-ae.safetensors"
    save_file(halves, file)
    rounded = dc_network()
    rounded.load_state_dict({name: tensor.float() for name, tensor in halves.items()})
    assert_same(autoencoder_dc(file), rounded)
    assert_same(load_codec(file), rounded)
    with pytest.raises(CodecError, match="is no autoencoder: expected a folder with"):
        autoencoder_dc(folder)


def test_it_needs_its_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()
    for source in (folder, folder / WEIGHTS):
        with pytest.raises(CodecError, match=r"or a \.safetensors with config\.json beside it$"):
            autoencoder_dc(source)


def test_without_diffusers_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for load in (autoencoder_dc, load_codec):
        with pytest.raises(CodecError, match=r"an AutoencoderDC needs .*: pip install \"apd-models\[latents\]\"$"):
            load(folder)


def _edit(**changes: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return spoil


SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
    "another kind": (lambda folder: kl_network().save_pretrained(folder), "_class_name is 'AutoencoderKL'"),
    "impossible": (_edit(encoder_block_out_channels=7), "does not describe an AutoencoderDC"),
    "other shape": (_edit(latent_channels=8), "does not hold the weights of this AutoencoderDC: .* size mismatch"),
    "cut short": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:999]),
        "does not hold the weights of this AutoencoderDC",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILS.values(), ids=SPOILS.keys())
def test_what_is_no_autoencoder_is_refused_in_one_line(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(CodecError, match=message) as refusal:
        autoencoder_dc(folder)
    assert "\n" not in str(refusal.value)
