"""What every codec keeps: nothing in the place of hidden pixels changes a latent by a bit, no mask is the same as one
that hides nothing, it comes back from its folder, and has a digest of its own."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor

from apd_models import (
    AutoencoderConfig,
    Codec,
    CodecError,
    as_codec,
    autoencoder_dc,
    autoencoder_kl,
    identity,
    load_codec,
)
from codec_cases import dc_network, kl_network, masks, noise, our_network
from long_runs import unchecked

SIDES = (24, 32)


def ours(codes: int | None, image_channels: int = 3) -> Codec:
    config = AutoencoderConfig(image_channels, 4, widths=(8, 8, 16), blocks=(1, 1, 1), codes=codes)
    return as_codec(our_network(config))


def of_diffusers(network: Callable[[], object], load: Callable[[Path], Codec]) -> Callable[[Path], Codec]:
    def made(folder: Path) -> Codec:
        network().save_pretrained(folder)  # pyrefly: ignore
        return load(folder)

    return made


CODECS: dict[str, Callable[[Path], Codec]] = {
    "ours": lambda _: ours(None),
    "ours, grey": lambda _: ours(None, 1),
    "ours with a codebook": lambda _: ours(16),
    "identity": lambda _: identity(),
    "AutoencoderKL": of_diffusers(kl_network, autoencoder_kl),
    "AutoencoderDC": of_diffusers(dc_network, autoencoder_dc),
}


@pytest.fixture(params=CODECS, scope="module")
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return CODECS[request.param](tmp_path_factory.mktemp("codec"))


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """To the bit: the sign of a zero, and which NaN it is, count."""
    if a is None or b is None:
        return a is b
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def pictures(codec: Codec, known: Tensor, seed: int) -> Tensor:
    return noise(len(known), codec.image_channels, *known.shape[1:], seed=seed)


def in_hidden(images: Tensor, known: Tensor, other: Tensor | float) -> Tensor:
    return torch.where(known[:, None], images, other)


def test_no_latent_knows_of_a_hidden_pixel(codec: Codec) -> None:
    """Under masks of each family, boxes, single pixels, with nothing hidden and with all."""
    known = masks(*SIDES)
    images = pictures(codec, known, 1)
    seen = codec.encode(images, known)
    assert seen.isfinite().all()
    for other in (pictures(codec, known, 2), -images, 0.0, 1e30, float("inf"), float("nan")):
        changed = in_hidden(images, known, other)
        assert same(codec.encode(changed, known), seen)
        for a, b in zip(codec.moments(changed, known), codec.moments(images, known), strict=True):
            assert same(a, b)


@given(data=st.data())
def test_nor_of_any_other_set_of_them(data: st.DataObject) -> None:
    """Of our own, under masks without any structure."""
    share, seed = data.draw(st.sampled_from([0.02, 0.5, 0.98])), data.draw(st.integers(0, 2**32))
    generator = Generator().manual_seed(seed)
    known = torch.rand(2, 8, 12, generator=generator) < share
    images, other = 2 * torch.rand(2, 2, 3, 8, 12, generator=generator) - 1
    assert same(OURS.encode(images, known), OURS.encode(in_hidden(images, known, other), known))


OURS = ours(None)


def test_what_is_known_is_seen(codec: Codec) -> None:
    """The test above is of something: one known pixel changes latents, and a hidden one does where no mask says so."""
    known = masks(*SIDES)[:1]
    images = pictures(codec, known, 1)
    row, column = known[0].nonzero()[7].tolist()
    changed = images.clone()
    changed[0, :, row, column] += 0.5
    assert not same(codec.encode(changed, known), codec.encode(images, known))
    assert not same(codec.encode(in_hidden(images, known, 0.3)), codec.encode(images))


def test_all_known_is_the_same_as_no_mask(codec: Codec) -> None:
    images = noise(3, codec.image_channels, *SIDES)
    known = torch.ones(3, *SIDES, dtype=torch.bool)
    latents = codec.encode(images)
    assert same(codec.encode(images, known), latents)
    for a, b in zip(codec.moments(images, known), codec.moments(images), strict=True):
        assert same(a, b)
    assert same(codec.decode(latents, known), codec.decode(latents))
    assert same(codec.moments(images).mean, latents)


def test_what_is_hidden_in_one_image_is_seen_in_another(codec: Codec) -> None:
    """Each image has its mask: the latents of one do not depend on which others are beside it, but by rounding."""
    known = masks(*SIDES)[[0, 9]]
    images = pictures(codec, known, 1)
    together = codec.encode(images, known)
    alone = torch.cat([codec.encode(images[k : k + 1], known[k : k + 1]) for k in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(codec.encode(images, known.flip(0)), together, rtol=1e-2, atol=1e-3)


# ---------------------------------------------------------------------------------------------------- files and digests


def test_it_comes_back_from_its_folder(codec: Codec, tmp_path: Path) -> None:
    codec.save(tmp_path / "one" / "two")
    again = load_codec(tmp_path / "one" / "two")
    images, known = noise(3, codec.image_channels, *SIDES), masks(*SIDES)[:3]
    latents = codec.encode(images, known)
    assert same(again.encode(images, known), latents)
    assert same(again.decode(latents, known), codec.decode(latents, known))
    assert again.digest == codec.digest
    assert again.config == codec.config
    assert again.stats == codec.stats
    assert (again.factor, again.channels, again.image_channels) == (codec.factor, codec.channels, codec.image_channels)


def test_a_digest_for_each(tmp_path: Path) -> None:
    digests = {name: make(tmp_path / name).digest for name, make in CODECS.items()}
    assert len({*digests.values(), identity(1).digest}) == len(CODECS) + 1
    for digest in digests.values():
        assert len(digest) == 64
        assert set(digest) <= set("0123456789abcdef")


SETTINGS = {
    "groups": (kl_network, autoencoder_kl, {"norm_num_groups": 2}),
    "activation": (kl_network, autoencoder_kl, {"act_fn": "relu"}),
    "shortcut": (dc_network, autoencoder_dc, {"encoder_out_shortcut": False}),
    "scale": (kl_network, autoencoder_kl, {"scaling_factor": 9.0, "shift_factor": 1.0, "sample_size": 8}),
    "scale of the other": (dc_network, autoencoder_dc, {"scaling_factor": 9.0}),
}


@pytest.mark.parametrize(("network", "load", "options"), SETTINGS.values(), ids=SETTINGS.keys())
def test_settings_that_no_weight_shows(
    network: Callable[..., object], load: Callable[[Path], Codec], options: dict[str, object], tmp_path: Path
) -> None:
    """They are in the digest where they change latents, and only there."""
    plain = of_diffusers(network, load)(tmp_path / "plain")
    other = of_diffusers(lambda: network(**options), load)(tmp_path / "other")
    images = noise(1, 3, *SIDES)
    assert (other.digest == plain.digest) == same(other.encode(images), plain.encode(images))


# --------------------------------------------------------------------------------------------------------- what is none


def folder_with(config: str) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        (folder / "config.json").write_text(config)
        return folder

    return made


def model_folder(folder: Path) -> Path:
    """With its autoencoder inside, which is what was meant."""
    identity().save(folder / "codec")
    return folder_with('{"format": "apd-models/dit"}')(folder)


NONE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (
        lambda folder: folder / "a",
        "a is no autoencoder: expected a folder with one, .*and there is nothing$",
    ),
    "an empty folder": (lambda folder: folder, "is no autoencoder: expected a folder with config.json and"),
    "no JSON": (folder_with("{"), "cannot be read: Expecting"),
    "no object": (folder_with("[]"), "is no autoencoder"),
    "a model": (model_folder, "is no autoencoder: .*; try .*codec$"),
    "a name that is too long": (lambda folder: folder / ("a" * 300), "cannot be read: .*name too long"),
    "identity of nothing": (
        folder_with('{"format": "apd-models/identity", "version": 1}'),
        "does not say image_channels",
    ),
    "identity of another version": (
        folder_with('{"format": "apd-models/identity", "version": 2, "image_channels": 3}'),
        "is not of version 1",
    ),
    "identity of no channels": (
        folder_with('{"format": "apd-models/identity", "version": 1, "image_channels": 0}'),
        "1 channel at least, got 0",
    ),
}


@pytest.mark.parametrize(("make", "message"), NONE.values(), ids=NONE.keys())
def test_what_is_none_is_refused_in_one_line(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(CodecError, match=message) as refusal:
        load_codec(make(tmp_path))
    assert "\n" not in str(refusal.value)


def test_can_be_pickled(codec: Codec) -> None:
    """As processes that are spawned do."""
    images = noise(1, codec.image_channels, *SIDES)
    other = pickle.loads(pickle.dumps(codec))
    assert same(other.encode(images), codec.encode(images))
    assert other.digest == codec.digest


def test_computes_in_its_own_precision(codec: Codec) -> None:
    """Whatever that of the images, and under autocast."""
    images = noise(2, codec.image_channels, *SIDES).bfloat16()
    latents = codec.encode(images.float())
    assert latents.dtype == torch.float32
    assert same(codec.encode(images), latents)
    assert same(codec.encode(images.double()), latents)
    decoded = codec.decode(latents)
    assert same(codec.decode(latents.double()), decoded)
    with torch.autocast("cpu", torch.bfloat16):
        assert same(codec.encode(images), latents)
        assert same(codec.decode(latents), decoded)


def test_what_is_neither_an_image_nor_a_mask_is_refused(codec: Codec) -> None:
    images, known = noise(2, codec.image_channels, *SIDES), torch.ones(2, *SIDES, dtype=torch.bool)
    latents = codec.encode(images)
    with unchecked():
        with pytest.raises(CodecError, match=r"a batch of images, \(b, c, h, w\): got \("):
            codec.encode(images[0])
        with pytest.raises(CodecError, match=r"values in \[-1, 1\], in float32: got torch.uint8"):
            codec.encode(images.to(torch.uint8))
        with pytest.raises(CodecError, match=r"\(b, \d+, i, j\), in float32: got \("):
            codec.decode(latents[0])
        for wrong in (known.to(torch.uint8), known[:1], known[:, 1:]):
            with pytest.raises(CodecError, match=r"known is said in booleans for each of \(2, 24, 32\): got \("):
                codec.encode(images, wrong)
            with pytest.raises(CodecError, match=r"known is said in booleans for each of \(2, 24, 32\): got \("):
                codec.decode(latents, wrong)


def test_networks_in_half_precision_are_refused() -> None:
    config = AutoencoderConfig(1, 4, (8, 8), (1, 1))
    with pytest.raises(CodecError, match=r"weights are in float32, and \S+ is in torch.bfloat16: network.float\(\)"):
        as_codec(our_network(config).bfloat16())


def test_one_in_double_precision_is_itself_again(tmp_path: Path) -> None:
    codec = as_codec(our_network(AutoencoderConfig(1, 4, (8, 8), (1, 1))).double())
    codec.save(tmp_path)
    assert load_codec(tmp_path).digest == codec.digest
