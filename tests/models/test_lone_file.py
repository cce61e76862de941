"""A file of weights alone says by its names and shapes what it is."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import save_file
from torch import Tensor

from apd_models import Codec, CodecError, autoencoder_kl, load_codec
from codec_cases import dc_network, kl_network, noise

WIDTHS = (32, 32, 64)
IMAGES = noise(2, 3, 8, 16)


def network_of(**options: Any) -> Any:
    return kl_network(**{"block_out_channels": WIDTHS, "norm_num_groups": 32, **options})


def original_names(network: Any) -> dict[str, Tensor]:
    """As the code of latent diffusion calls them: what is inside ``Encoder`` and ``Decoder`` of its
    ``ldm/modules/diffusionmodules/model.py``, written down anew from the names of diffusers' modules."""
    resolutions = len(network.config["block_out_channels"])
    found = {}
    for name, tensor in network.state_dict().items():
        coder, *rest = name.split(".")
        match rest:
            case ["down_blocks", level, "resnets", block, *rest]:
                rest = ["down", level, "block", block, *rest]
            case ["down_blocks", level, "downsamplers", "0", *rest]:
                rest = ["down", level, "downsample", *rest]
            case ["up_blocks", level, "resnets", block, *rest]:
                rest = ["up", str(resolutions - 1 - int(level)), "block", block, *rest]
            case ["up_blocks", level, "upsamplers", "0", *rest]:
                rest = ["up", str(resolutions - 1 - int(level)), "upsample", *rest]
            case ["mid_block", "resnets", block, *rest]:
                rest = ["mid", f"block_{int(block) + 1}", *rest]
            case ["mid_block", "attentions", "0", layer, *rest]:
                layers = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
                rest = ["mid", "attn_1", layers[layer], rest[-1]]
                tensor = tensor if tensor.ndim == 1 else tensor[:, :, None, None]
            case ["conv_norm_out", *rest]:
                rest = ["norm_out", *rest]
        rest = ["nin_shortcut" if each == "conv_shortcut" else each for each in rest]
        found[".".join([coder, *rest])] = tensor.contiguous()
    assert len(found) == len(network.state_dict())
    return found


def assert_same(codec: Codec, network: Any) -> None:
    images = IMAGES[:, : network.config["in_channels"]]
    latents = network.encode(images).latent_dist
    assert torch.equal(codec.encode(images), latents.mean)
    assert torch.equal(codec.moments(images).log_var, latents.logvar)  # pyrefly: ignore
    assert torch.equal(codec.decode(latents.mean), network.decode(latents.mean).sample)


OPTIONS: dict[str, dict[str, Any]] = {
    "as Stable Diffusion": {},
    "as Flux": {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
    "two layers, grey": {"layers_per_block": 2, "in_channels": 1, "out_channels": 1},
    "no attention": {"mid_block_add_attention": False},
    "four resolutions": {"block_out_channels": (32, 64, 64, 32)},
}
each_network = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


@each_network
def test_the_names_of_latent_diffusion(options: dict[str, Any], tmp_path: Path) -> None:
    """There and back: the same network, to the bit; saved, a folder as any other."""
    network, file = network_of(**options), tmp_path / "vae.safetensors"
    save_file(original_names(network), file)
    codec = autoencoder_kl(file)
    assert_same(codec, network)
    assert codec.stats is None
    codec.save(tmp_path / "plain")
    again = load_codec(tmp_path / "plain")
    assert_same(again, network)
    assert again.digest == codec.digest == load_codec(file).digest
    assert again.stats is None
    assert {**again.config, "block_out_channels": 0} == {**codec.config, "block_out_channels": 0}


@each_network
def test_the_names_of_diffusers(options: dict[str, Any], tmp_path: Path) -> None:
    network, file = network_of(**options), tmp_path / "vae.safetensors"
    save_file(network.state_dict(), file)
    assert_same(autoencoder_kl(file), network)


def test_the_older_names_of_diffusers(tmp_path: Path) -> None:
    tensors = {}
    for name, tensor in network_of().state_dict().items():
        for now, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(now, before)
        tensors[name] = tensor
    save_file(tensors, tmp_path / "vae.safetensors")
    assert_same(autoencoder_kl(tmp_path / "vae.safetensors"), network_of())


@each_network
def test_diffusers_reads_the_names_of_these_tests_alike(options: dict[str, Any]) -> None:
    """Its own conversion, which is not public, is the witness that the names above are the original ones."""
    network = network_of(**options)
    converted = convert_ldm_vae_checkpoint(original_names(network), network.config)
    assert converted.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(converted[name], tensor)


@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae."])
def test_the_autoencoder_in_a_checkpoint_of_a_whole_model(prefix: str, tmp_path: Path) -> None:
    tensors = {prefix + name: tensor.half() for name, tensor in original_names(network_of()).items()}
    tensors |= {"model.diffusion_model.out.2.bias": torch.zeros(4), "encoder.conv_in.weight": torch.zeros(1)}
    save_file(tensors, tmp_path / "v1-5.safetensors")
    rounded = network_of()
    rounded.load_state_dict({name: tensor.half().float() for name, tensor in rounded.state_dict().items()})
    assert_same(autoencoder_kl(tmp_path / "v1-5.safetensors"), rounded)


@pytest.mark.parametrize("offline", [None, "1"])
def test_nothing_is_asked_of_a_network(offline: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    if offline:
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    network = network_of()
    save_file(original_names(network), tmp_path / "vae.safetensors")
    load_codec(tmp_path / "vae.safetensors").save(tmp_path / "kl")
    assert_same(load_codec(tmp_path / "kl"), network)
    dc_network().save_pretrained(tmp_path / "dc")
    load_codec(tmp_path / "dc")
    for missing in ("stabilityai/sd-vae-ft-mse", tmp_path / "nothing"):
        with pytest.raises(CodecError, match="is no autoencoder: expected a folder with"):
            load_codec(missing)


def _without(*parts: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: [tensors.pop(name) for name in [*tensors] if any(part in name for part in parts)]


SPOILS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "nothing of it": (_without("coder"), r"is no AutoencoderKL: it has no tensor 'encoder\.conv_in\.weight"),
    "no decoder": (_without("decoder"), r"is no AutoencoderKL: it has no tensor 'decoder\.conv_out\.weight"),
    "no resolutions": (_without("encoder.down."), r"it has no tensor 'encoder\.down_blocks\.0\.resnets\.0\.conv1"),
    "tensor missing": (
        _without("encoder.down.1.block.0.norm1.bias"),
        "does not hold the weights .*resnets.0.norm1.bi",
    ),
    "tensor unknown": (lambda tensors: tensors.update(ema=torch.zeros(1)), 'does not hold the weights .*"ema'),
    "a codebook": (
        lambda tensors: tensors.update({"quantize.embedding.weight": torch.zeros(9, 4)}),
        "does not hold the weights .*quantize",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILS.values(), ids=SPOILS.keys())
def test_what_is_none_is_refused_in_one_line(
    spoil: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    tensors, file = original_names(network_of()), tmp_path / "vae.safetensors"
    spoil(tensors)
    save_file(tensors, file)
    with pytest.raises(CodecError, match=message) as refusal:
        load_codec(file)
    assert "\n" not in str(refusal.value)


def test_widths_that_the_usual_groups_do_not_divide(tmp_path: Path) -> None:
    """How many groups the normalisation has is in no shape."""
    save_file(original_names(kl_network()), tmp_path / "vae.safetensors")
    with pytest.raises(CodecError, match=r"vae\.safetensors does not describe an AutoencoderKL: .*divisible"):
        load_codec(tmp_path / "vae.safetensors")


def test_a_damaged_file_and_no_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "vae.safetensors"
    save_file(original_names(network_of()), file)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(CodecError, match=r"an AutoencoderKL needs .*: pip install \"apd-models\[latents\]\"$"):
        load_codec(file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CodecError, match="does not hold the weights of this AutoencoderKL"):
        load_codec(file)
