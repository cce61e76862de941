"""Our own autoencoder: its sizes, its codebook, how it is told what is hidden, and its folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from apd_models import (
    Autoencoder,
    AutoencoderConfig,
    Codec,
    CodecError,
    LatentScale,
    as_codec,
    autoencoder,
    load_codec,
)
from apd_models._codecs._codec import digest_of
from codec_cases import masks, noise, our_network

KL = AutoencoderConfig(3, 4, widths=(8, 8, 16), blocks=(1, 1, 1))
VQ = AutoencoderConfig(1, 3, widths=(8, 16), blocks=(1, 0), codes=7)
SCALE = LatentScale((0.1, -3.0, 1 / 3, 0.0), (1 / 3, 2e-9, 1.0, 7.0))
each_config = pytest.mark.parametrize("config", [KL, VQ], ids=["normal", "codebook"])


def test_a_file_is_taken_for_itself_alone(tmp_path: Path) -> None:
    codec = as_codec(our_network(KL))
    codec.save(tmp_path / "ae")
    weights = tmp_path / "ae" / "model.safetensors"
    assert weights.stat().st_mode & 0o777 == 0o644
    assert load_codec(weights).digest == codec.digest
    for name in ("other.safetensors", "nothing"):
        with pytest.raises(CodecError, match=rf"{name} is no autoencoder; .*ae is the folder of one"):
            load_codec(tmp_path / "ae" / name)


def test_weights_of_half_precision_compute_in_float32(tmp_path: Path) -> None:
    as_codec(our_network(KL)).save(tmp_path)
    halves = {name: tensor.half() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(halves, tmp_path / "model.safetensors")
    assert load_codec(tmp_path).encode(torch.zeros(1, 3, 8, 8)).dtype == torch.float32


# --------------------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("resolutions", [2, 3, 4])
def test_latents_are_smaller_by_a_factor(resolutions: int) -> None:
    config = AutoencoderConfig(1, 5, widths=(4, 6, 8, 4)[:resolutions], blocks=(1, 0, 2, 1)[:resolutions])
    factor = 2 ** (resolutions - 1)
    codec = as_codec(our_network(config))
    assert (codec.factor, codec.channels, codec.image_channels) == (factor, 5, 1) == (config.factor, 5, 1)
    images = noise(2, 1, 3 * factor, 5 * factor)
    assert codec.encode(images).shape == (2, 5, 3, 5)
    assert codec.decode(codec.encode(images)).shape == images.shape
    with pytest.raises(CodecError, match=f"1 channels, height and width multiples of {factor}: got 1×{factor + 1}×"):
        codec.encode(noise(2, 1, factor + 1, factor))
    with pytest.raises(CodecError, match=r"takes latents of 5 channels, .*: got \(2, 4, 3, 5\)"):
        codec.decode(noise(2, 4, 3, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (8,), "blocks": (1,)}, "2 to 4 resolutions, got 1 widths"),
        ({"widths": (8,) * 5, "blocks": (1,) * 5}, "2 to 4 resolutions, got 5 widths"),
        ({"widths": (8, 8), "blocks": (1, 1, 1)}, "each of 2 resolutions, got 3"),
        ({"channels": 0}, "channels and widths are at least 1"),
        ({"widths": (8, 0, 8)}, "channels and widths are at least 1"),
        ({"image_channels": 0}, "channels and widths are at least 1"),
        ({"blocks": (1, -1, 1)}, "blocks at least 0"),
        ({"codes": 1}, "a codebook has 2 codes at least, got 1"),
    ],
)
def test_impossible_configurations(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoencoderConfig(**options)


@each_config
def test_every_weight_has_a_part_in_it(config: AutoencoderConfig) -> None:
    """A gradient reaches each, of both ways and their masks; of the codebook's, the codes in use."""
    model, known = our_network(config), masks(24, 32)[:2]
    latents = model.moments(noise(2, config.image_channels, 24, 32), known)
    code = model.quantised(latents.mean) + latents.mean
    images = model.decode(code, known)
    (images.square().sum() + (0 if latents.log_var is None else latents.log_var.sum())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_the_log_variance_is_cut_off() -> None:
    model = our_network(KL)
    model.encoder_out[2].bias.data[4:] = torch.tensor([-100.0, 100.0, 0.0, 0.0])  # pyrefly: ignore
    log_var = model.moments(noise(1, 3, 8, 8)).log_var
    assert log_var is not None
    assert torch.equal(log_var[:, 0], torch.full((1, 2, 2), -30.0))
    assert torch.equal(log_var[:, 1], torch.full((1, 2, 2), 20.0))
    assert -20 < log_var[:, 2:].min() < log_var[:, 2:].max() < 20


@each_config
def test_both_ways_are_told_what_is_hidden(config: AutoencoderConfig) -> None:
    """Hidden grey is not visible grey, and latents of a part are not those of the whole."""
    codec, known = as_codec(our_network(config)), masks(24, 32)[:1]
    grey = torch.zeros(1, config.image_channels, 24, 32)
    assert not torch.equal(codec.encode(grey, known), codec.encode(grey))
    latents = codec.encode(grey)
    assert not torch.equal(codec.decode(latents, known), codec.decode(latents))


def test_as_it_begins_its_blocks_change_nothing() -> None:
    """Convolutions that add nothing and a mask that modulates nothing: with grey in the place of what is hidden, the
    mask makes no difference."""
    torch.manual_seed(0)
    codec = as_codec(Autoencoder(KL))
    images, known = noise(2, 3, 24, 32), masks(24, 32)[:2]
    assert torch.equal(codec.encode(images, known), codec.encode(torch.where(known[:, None], images, 0.0)))


# ----------------------------------------------------------------------------------------------------------- codebooks


def test_each_cell_becomes_its_nearest_code() -> None:
    model = our_network(VQ)
    assert model.codebook is not None
    latents = 2 * noise(3, 3, 5, 4)
    apart = (latents.movedim(1, -1)[..., None, :].double() - model.codebook.double()).square().sum(-1)
    assert torch.equal(model.nearest(latents), apart.argmin(-1))
    assert len(apart.argmin(-1).unique()) > 3
    quantised = model.quantised(latents)
    assert torch.equal(quantised.movedim(1, -1), model.codebook[apart.argmin(-1)])
    assert torch.equal(model.quantised(quantised), quantised)
    plain = our_network(KL)
    assert plain.quantised(noise(1, 4, 2, 2)) is not None
    assert torch.equal(plain.quantised(noise(1, 4, 2, 2)), noise(1, 4, 2, 2))


def test_latents_are_quantised_before_they_are_decoded_not_before() -> None:
    """What is diffused is what the encoder gives (Rombach et al. 2022, section 3.2)."""
    model = our_network(VQ)
    codec, images = as_codec(model), noise(2, 1, 8, 12)
    latents = codec.encode(images)
    assert codec.moments(images).log_var is None
    assert not torch.equal(model.quantised(latents), latents)
    assert torch.equal(codec.decode(latents), codec.decode(model.quantised(latents)))
    with torch.no_grad():
        assert torch.equal(codec.decode(latents), model.decode(model.quantised(latents)))


def test_a_codebook_is_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """More cells than are compared at once."""
    model, latents = our_network(VQ), noise(3, 3, 160, 160)
    rows = torch.cat([model.nearest(latents[k : k + 1]) for k in range(3)])
    assert latents[:, 0].numel() > 65_536
    assert torch.equal(model.nearest(latents), rows)


# ---------------------------------------------------------------------------------------------------------- its folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    as_codec(our_network(KL), SCALE).save(tmp_path / "codec")
    return tmp_path / "codec"


def test_what_is_saved_comes_back(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    before = torch.get_rng_state()
    codec = autoencoder(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(codec, Codec)
    assert codec.stats == SCALE
    assert codec.config["kind"] == "autoencoder"
    assert json.loads(json.dumps(dict(codec.config))) == dict(codec.config)
    images = noise(1, 3, 8, 8)
    assert torch.equal(codec.encode(images), as_codec(our_network(KL)).encode(images))
    assert not codec.encode(images).requires_grad
    for source in (folder, str(folder), folder / "model.safetensors"):
        assert load_codec(source).digest == codec.digest


def test_a_digest_is_of_the_weights_not_of_their_file(folder: Path) -> None:
    digest = autoencoder(folder).digest
    tensors = load_file(folder / "model.safetensors")
    reordered = {name: tensors[name] for name in reversed([*tensors])}
    save_file(reordered, folder / "model.safetensors", metadata={"by": "another"})
    assert autoencoder(folder).digest == digest
    assert as_codec(our_network(KL)).digest == digest


def test_a_digest_is_of_names_kinds_shapes_and_numbers_in_any_order() -> None:
    a, b = torch.zeros(2, 3), torch.ones(4)
    digest = digest_of({"x": 1, "y": 2}, {"a": a, "b": b})
    assert digest_of({"y": 2, "x": 1}, {"b": b, "a": a}) == digest
    others = [
        digest_of({"x": 1, "y": 3}, {"a": a, "b": b}),
        digest_of({"x": 1, "y": 2}, {"b": a, "a": b}),
        digest_of({"x": 1, "y": 2}, {"a": a.view(3, 2), "b": b}),
        digest_of({"x": 1, "y": 2}, {"a": a.int(), "b": b}),
        digest_of({"x": 1, "y": 2}, {"a": a, "b": b.nextafter(a[0, 0])}),
    ]
    assert len({digest, *others}) == 6


@each_config
def test_any_weight_changes_the_digest(config: AutoencoderConfig) -> None:
    """Its last bit will do."""
    model = our_network(config)
    digests = {as_codec(model).digest}
    parameters = [*model.parameters()]
    for parameter in parameters:
        last = parameter.data.view(-1)[-1:]
        last.copy_(last.nextafter(last + 1))
        digests.add(as_codec(model).digest)
    assert len(digests) == len(parameters) + 1


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def _tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return spoil


def _cut_short(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) - 100])


SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "cannot be read: "),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read: "),
    "no text": (lambda folder: (folder / "config.json").write_bytes(b"\xff"), "cannot be read: "),
    "too deep": (lambda folder: (folder / "config.json").write_text("[" * 99_999), "cannot be read: "),
    "too wide": (_edit(lambda said: said["autoencoder"].update(widths=[10**9] * 3)), "does not describe an autoenc"),
    "no object": (lambda folder: (folder / "config.json").write_text("[]"), "is not of an autoencoder of this kind"),
    "another kind": (_edit(lambda said: said.update(format="apd-models/dit")), "is not of an autoencoder of this kind"),
    "another version": (_edit(lambda said: said.update(version=2)), "apd-models/autoencoder of version 1$"),
    "no shape": (
        _edit(lambda said: said.pop("autoencoder")),
        "does not describe an autoencoder: it lacks 'autoencoder'",
    ),
    "shape of nothing": (_edit(lambda said: said.update(autoencoder=3)), "does not describe an autoencoder"),
    "unknown field": (_edit(lambda said: said["autoencoder"].update(depth=3)), "does not describe .*depth"),
    "impossible": (_edit(lambda said: said["autoencoder"].update(channels=0)), "does not describe .*at least 1"),
    "half a scale": (
        _edit(lambda said: said["latents"].pop("std")),
        "does not describe an autoencoder: it lacks 'std'",
    ),
    "impossible scale": (_edit(lambda said: said["latents"].update(std=[0, 1, 1, 1])), "does not describe .*more than"),
    "other shape": (_edit(lambda said: said["autoencoder"].update(widths=[8, 8, 8])), "does not hold .*size mismatch"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "does not hold the weights"),
    "cut short": (_cut_short, "does not hold the weights"),
    "no safetensors": (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 40), "does not hold"),
    "tensor missing": (_tensors(lambda tensors: tensors.pop("decoder_in.bias")), "does not hold .*decoder_in.bias"),
    "tensor unknown": (_tensors(lambda tensors: tensors.update(ema=torch.zeros(1))), "does not hold .*ema"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILS.values(), ids=SPOILS.keys())
def test_what_is_none_is_refused_in_one_line(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)
    with pytest.raises(CodecError, match=message) as refusal:
        autoencoder(folder)
    assert "\n" not in str(refusal.value)
    assert folder.name in str(refusal.value)
