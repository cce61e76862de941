"""A tiny model, a few images, and features that take no time."""

import dataclasses
import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor, nn

from apd_metrics import Extractor, Features
from apd_models import DiT, DiTConfig, Patchify, save_pretrained
from app_runner import ROOT

KINDS = ("cats", "dogs")


def make_model(
    folder: Path,
    names: tuple[str, ...] = KINDS,
    size: int = 8,
    channels: int = 1,
    trained: bool = True,
    error_head: bool = False,
) -> Path:
    """A tiny model; untrained it predicts no flow, else something that depends on all it is given."""
    torch.manual_seed(0)
    patchify = Patchify(size, size, channels, size // 4)
    shape = DiTConfig(patchify.grid, patchify.token_dim, 8, 1, 2, classes=len(names), data_std=0.6)
    model = DiT(dataclasses.replace(shape, error_head=error_head))
    if trained:
        nn.init.normal_(model.head.weight, std=0.2)
        nn.init.normal_(model.label.weight)
    save_pretrained(folder, model, patchify, names, "made up")
    return folder


def make_images(folder: Path, names: tuple[str, ...] = ("dogs",), count: int = 20, mode: str = "L") -> Path:
    rng = np.random.default_rng(0)
    shape = (8, 8) if mode == "L" else (8, 8, 3)
    for name in names:
        (folder / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name / f"{k:02}.png")
    return folder


class TinyNetwork(nn.Module):
    """Two stages of filters that are drawn once and for all."""

    def __init__(self) -> None:
        super().__init__()
        generator = Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(5, 3, 3, 3, generator=generator))
        self.second = nn.Parameter(torch.randn(6, 5, 2, 2, generator=generator))

    def forward(self, pixels: Tensor, maps: bool) -> Features:
        x = torch.conv2d(pixels / 127.5 - 1, self.first).relu()
        y = torch.conv2d(x, self.second, stride=2).relu()
        return Features(y.mean((2, 3)), (x, y) if maps else ())


def unchanged(pixels: Tensor, side: int) -> Tensor:
    assert pixels.shape[2:] == (side, side)
    return pixels


def tiny_extractor(name: str = "tiny", size: int = 8) -> Extractor:
    return Extractor(name=name, size=size, dims=6, resize=unchanged, sha256="f" * 64, network=TinyNetwork())


def app_module(name: str, patch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the app, as the app itself will find it."""
    patch.syspath_prepend(str(ROOT / "apps" / "evaluate"))
    return importlib.import_module(name)


def with_tiny_features(patch: pytest.MonkeyPatch, name: str = "tiny") -> None:
    """Instead of EfficientNet's: the app's own, but for the network."""
    features = app_module("evaluate_features", patch)
    patch.setattr(features, "efficientnet_lite0", lambda side, device: tiny_extractor(name))
