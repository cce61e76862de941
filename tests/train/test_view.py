"""Pictures of latents: decoded where their autoencoder is at hand."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator

from apd_models import identity
from apd_train import ImageFolder, ToEncode, encode_set, load_to_encode, source_of
from apd_train._view import View, view_of
from image_files import write_folder
from latent_sets import tiny_codec


def test_latents_are_decoded_at_their_own_scale(tmp_path: Path) -> None:
    write_folder(tmp_path / "raw", [f"a/{k}.png" for k in range(3)])
    raw = load_to_encode(ImageFolder(tmp_path / "raw"), 8)
    encode_set(ToEncode(raw, identity(3), dtype="float32"), tmp_path / "set")
    latents = source_of(tmp_path / "set").load(8)
    seen = view_of(latents)(latents.squares())
    torch.testing.assert_close(seen, raw.squares(), atol=1e-6, rtol=0)
    assert view_of(latents)(latents.squares()[None, :2]).shape == (1, 2, 3, 8, 8)


def test_without_their_autoencoder_three_channels_are_colours(tmp_path: Path) -> None:
    write_folder(tmp_path / "raw", [f"a/{k}.png" for k in range(3)])
    raw = load_to_encode(ImageFolder(tmp_path / "raw"), 8)
    encode_set(ToEncode(raw, tiny_codec()), tmp_path / "set")
    latents = source_of(tmp_path / "set").load(4)
    assert latents.codec is not None
    z = torch.randn(2, 2, 4, 4, generator=Generator().manual_seed(0))
    assert view_of(latents)(z).shape == (2, 3, 8, 8)
    assert view_of(replace(latents, codec=None))(z).shape == (2, 1, 4, 4)
    (latents.codec / "model.safetensors").write_bytes(b"")
    assert torch.equal(view_of(latents)(z), z[:, :1] / 3)
    tiny_codec(seed=1).save(latents.codec)  # another one
    assert torch.equal(view_of(latents)(z), z[:, :1] / 3)


def test_masks_are_as_large_as_what_is_shown() -> None:
    mask = torch.tensor([[True, False]])
    assert torch.equal(View().known(mask), mask)
    assert View(codec=tiny_codec()).known(mask).tolist() == [[True, True, False, False]] * 2
    pixels = torch.randn(1, 3, 4, 4)
    assert torch.equal(View()(pixels), pixels)
