"""Images, small autoencoders and the sets of latents that these make of them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from apd_models import Autoencoder, AutoencoderConfig, Codec, as_codec
from apd_train import ImageFolder, ImageSet, ToEncode, encode_set, load_to_encode
from image_files import encoded, pixels, write_folder

BROKEN = 4
"""Number of the image that cannot be read."""


def tiny_codec(seed: int = 0, codes: int | None = None, image_channels: int = 3, scale: float = 1.0) -> Codec:
    """Latents of 2 channels, half as large as images; each depends on pixels around it, and is its own mirror image
    nowhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Autoencoder(AutoencoderConfig(image_channels, 2, (4, 4), (0, 1), codes))
        for parameter in network.parameters():
            parameter.data = scale * (parameter + 0.1 * torch.randn_like(parameter))
    return as_codec(network)


def write_images(root: Path, count: int = 10, broken: bool = True) -> ImageSet:
    """In two classes, of 8×8 pixels and more: the second is also the last, one is oblong, one may be broken."""
    names = [f"{'ab'[k >= count // 2]}/{k:03d}.png" for k in range(count)]
    write_folder(root, names)
    (root / names[-1]).write_bytes(encoded(pixels(1)))
    (root / names[2]).write_bytes(encoded(pixels(2, 8, 13, 3)))
    if broken:
        (root / names[BROKEN]).write_bytes(b"no image")
    return load_to_encode(ImageFolder(root), 8)


def made(images: ImageSet, folder: Path, codec: Any = None, **options: Any) -> Path:
    """A set in float32 and of four images a file, unless said otherwise, by the tiny autoencoder."""
    wanted: dict[str, Any] = {"dtype": "float32", "shard": 4}
    wanted |= {name: options.pop(name) for name in ("mirror", "dtype", "shard") if name in options}
    options.setdefault("batch", 3)
    encode_set(ToEncode(images, codec or tiny_codec(), **wanted), folder, **options)
    return folder


def contents(folder: Path) -> dict[str, Tensor]:
    """All tensors of a set."""
    files = sorted(folder.glob("*.safetensors"))
    return {f"{file.name}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def assert_same_set(one: Path, other: Path) -> None:
    """The same files, with the same tensors and the same records."""
    here, there = contents(one), contents(other)
    assert here.keys() == there.keys()
    assert [name for name in here if not torch.equal(here[name], there[name])] == []
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in other.iterdir())
    for name in ("encoding.json", "latents.json"):
        assert json.loads((one / name).read_text()) == json.loads((other / name).read_text())
