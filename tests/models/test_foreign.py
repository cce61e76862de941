"""Foreign weights: the converted model computes what the original does, written here from the papers' formulas, and
what diffusers does; what cannot be converted is refused in one line."""

import json
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from apd_models import ModelFolderError, from_foreign, from_pretrained, save_pretrained
from apd_samplers import DDIM, FollowPath, Progress, sample
from apd_schedules import NoiseMap, synchronous

BETA = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHA_SQUARED = (1 - BETA).cumprod(0)
LOG_SNR = (ALPHA_SQUARED / (1 - ALPHA_SQUARED)).log()
"""Of the timesteps of DDPM."""
DEPTH, WIDTH, HEADS, SIDE, PATCH, CHANNELS, CLASSES, HIDDEN = 2, 16, 2, 3, 2, 3, 5, 40

# ------------------------------------------------------------------------------------------------------ DiT and SiT


def original_weights(
    variance: bool = True, seed: int = 0, width: int = WIDTH, hidden: int = HIDDEN, at_random: bool = True
) -> dict[str, Tensor]:
    """At random, or zeros that take no place, in the layout of DiT and SiT."""
    outputs = PATCH**2 * CHANNELS * (2 if variance else 1)
    linear = {
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
        "final_layer.linear": (outputs, width),
    }
    for i in range(DEPTH):
        linear |= {
            f"blocks.{i}.adaLN_modulation.1": (6 * width, width),
            f"blocks.{i}.attn.qkv": (3 * width, width),
            f"blocks.{i}.attn.proj": (width, width),
            f"blocks.{i}.mlp.fc1": (hidden, width),
            f"blocks.{i}.mlp.fc2": (width, hidden),
        }
    shapes = {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    shapes |= {
        "x_embedder.proj.weight": (width, CHANNELS, PATCH, PATCH),
        "x_embedder.proj.bias": (width,),
        "pos_embed": (1, SIDE**2, width),
        "y_embedder.embedding_table.weight": (CLASSES + 1, width),
    }
    if not at_random:
        return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    generator = Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) / max(1, shape[-1]) ** 0.5
        for name, shape in shapes.items()
    }


def original(w: dict[str, Tensor], images: Tensor, time: Tensor, label: Tensor) -> Tensor:
    """DiT on images, with the formulas of Peebles & Xie 2023; of the output, what is no variance."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift

    angle = time[:, None] * 10_000 ** (-torch.arange(128, dtype=torch.float64) / 128)
    features = torch.cat([angle.cos(), angle.sin()], -1)
    of_time = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", features)))
    c = F.silu(of_time + w["y_embedder.embedding_table.weight"][label])[:, None]
    x = F.conv2d(images, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=PATCH).flatten(2).mT
    x = x + w["pos_embed"]
    for i in range(DEPTH):
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = linear(f"blocks.{i}.adaLN_modulation.1", c).chunk(6, -1)
        qkv = linear(f"blocks.{i}.attn.qkv", norm(x, shift_a, scale_a))
        q, k, v = rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=HEADS)
        mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + gate_a * linear(f"blocks.{i}.attn.proj", rearrange(mixed, "b h n d -> b n (h d)"))
        hidden = linear(f"blocks.{i}.mlp.fc1", norm(x, shift_f, scale_f))
        x = x + gate_f * linear(f"blocks.{i}.mlp.fc2", F.gelu(hidden, approximate="tanh"))
    x = linear("final_layer.linear", norm(x, *linear("final_layer.adaLN_modulation.1", c).chunk(2, -1)))
    return rearrange(x, "b (i j) (p q c) -> b c (i p) (j q)", i=SIDE, p=PATCH, q=PATCH)[:, :CHANNELS]


def some_images(batch: int, side: int = SIDE * PATCH, channels: int = CHANNELS) -> Tensor:
    return torch.randn(batch, channels, side, side, generator=Generator().manual_seed(1), dtype=torch.float64)


def same_level(log_snr: Tensor, tokens: int = SIDE**2) -> NoiseMap:
    return NoiseMap(log_snr[:, None, None].expand(-1, tokens, 1))


SAVERS: dict[str, Callable[[dict[str, Tensor], Path], object]] = {
    "weights.safetensors": save_file,
    "weights.pt": torch.save,
    "ema.pth": lambda w, file: torch.save(
        {"ema": w, "model": original_weights(seed=9), "opt": {"state": {}}, "args": Namespace(lr=1e-4)}, file
    ),
    "compiled.ckpt": lambda w, file: torch.save(
        {"model": {f"module._orig_mod.{name}": tensor for name, tensor in w.items()}}, file
    ),
}


@pytest.mark.parametrize("name", SAVERS)
@pytest.mark.parametrize("variance", [True, False])
def test_dit_predicts_the_noise_that_it_did(name: str, variance: bool, tmp_path: Path) -> None:
    w = original_weights(variance)
    SAVERS[name](w, tmp_path / name)
    found = from_foreign(tmp_path / name, "dit", heads=HEADS)
    timestep, label = torch.tensor([0.0, 1.0, 250.0, 500.0, 998.0, 999.0]).double(), torch.arange(6)
    z = some_images(6)
    noise, tokens = same_level(LOG_SNR[timestep.long()]), found.patchify.to_tokens(z)
    eps = found.patchify.to_tokens(original(w, z, timestep, label))
    got = (tokens - noise.alpha * found.model(tokens, noise, label=label).mean) / noise.sigma
    torch.testing.assert_close(got, eps, rtol=0, atol=1e-9)
    none = found.model(tokens[5:], NoiseMap(noise.log_snr[5:])).mean  # the last label is none
    torch.testing.assert_close((tokens[5:] - noise.alpha[5:] * none) / noise.sigma[5:], eps[5:], rtol=0, atol=1e-9)
    assert ("variance left out" in found.weights) == variance


@pytest.mark.parametrize("variance", [True, False])
def test_sit_steers_to_the_data_that_it_did(variance: bool, tmp_path: Path) -> None:
    """On the line ``x_t = t x + (1 - t) eps`` its velocity is ``x - eps``: the data are ``x_t + (1 - t) v``."""
    w = original_weights(variance)
    torch.save({"ema": w, "args": Namespace(path_type="Linear", prediction="velocity")}, tmp_path / "sit.pt")
    found = from_foreign(tmp_path / "sit.pt", "sit", heads=HEADS)
    t, label = torch.tensor([0.001, 0.1, 0.5, 0.8, 0.999]).double(), torch.arange(5)
    x_t = some_images(5)
    data = x_t + (1 - t)[:, None, None, None] * original(w, x_t, t, label)
    noise = same_level(2 * (t / (1 - t)).log())
    z = found.patchify.to_tokens(x_t) / (t.square() + (1 - t).square()).sqrt()[:, None, None]
    got = found.model(z, noise, label=label).mean
    torch.testing.assert_close(got, found.patchify.to_tokens(data), rtol=0, atol=1e-10)


def test_between_two_timesteps_dit_is_asked_between_them(tmp_path: Path) -> None:
    w = original_weights()
    save_file(w, tmp_path / "dit.safetensors")
    found = from_foreign(tmp_path / "dit.safetensors", "dit", heads=HEADS)
    z, label = some_images(1), torch.tensor([2])
    noise, tokens = same_level(0.3 * LOG_SNR[400:401] + 0.7 * LOG_SNR[401:402]), found.patchify.to_tokens(z)
    eps = original(w, z, torch.tensor([400.7], dtype=torch.float64), label)
    got = (tokens - noise.alpha * found.model(tokens, noise, label=label).mean) / noise.sigma
    torch.testing.assert_close(got, found.patchify.to_tokens(eps), rtol=0, atol=1e-9)


def test_a_level_for_each_token_at_once(tmp_path: Path) -> None:
    """One token's level is heard by all, and equal levels said one by one are one level; all weights can learn."""
    save_file(original_weights(), tmp_path / "dit.safetensors")
    for convention in ("dit", "sit"):
        model = from_foreign(tmp_path / "dit.safetensors", convention, heads=HEADS).model
        z, label = (
            torch.randn(2, 9, 12, generator=Generator().manual_seed(2), dtype=torch.float64),
            torch.tensor([0, 3]),
        )
        one, each = NoiseMap(torch.full((1, 1, 1), 0.5).double()), torch.full((2, 9, 1), 0.5).double()
        same = model(z, NoiseMap(each), label=label).mean
        torch.testing.assert_close(same, model(z, NoiseMap(one.log_snr.expand(1, 9, 1)), label=label).mean)
        each[0, 4] = -1.0
        other = model(z, NoiseMap(each), label=label).mean
        assert ((other - same)[0].abs().amax(-1) > 1e-6).all()
        torch.testing.assert_close(other[1], same[1])
        model.requires_grad_(True).train()
        model(z, NoiseMap(each), label=label).mean.square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_a_converted_model_is_saved_and_loaded_as_any(tmp_path: Path) -> None:
    weights = {name: tensor.float() for name, tensor in original_weights().items()}
    save_file(weights, tmp_path / "dit.safetensors")
    found = from_foreign(tmp_path / "dit.safetensors", "dit", heads=HEADS, class_names=list("abcde"))
    save_pretrained(tmp_path / "out", found.model, found.patchify, found.class_names, found.weights)
    again = from_pretrained(tmp_path / "out")
    assert (again.patchify, again.class_names, again.weights) == (found.patchify, tuple("abcde"), found.weights)
    assert again.model.config == found.model.config
    z, noise = found.patchify.to_tokens(some_images(2).float()), same_level(torch.tensor([3.0, -4.0]))
    assert torch.equal(again.model(z, noise).mean, found.model(z, noise).mean)


def test_the_model_does_not_lean_on_the_file_any_more(tmp_path: Path) -> None:
    """Checkpoints are mapped into memory; overwritten in place, they must not change the model."""
    weights = {name: tensor.float() for name, tensor in original_weights().items()}
    torch.save(weights, tmp_path / "dit.pt")
    model = from_foreign(tmp_path / "dit.pt", "dit", heads=HEADS).model
    with (tmp_path / "dit.pt").open("r+b") as file:
        file.write(bytes((tmp_path / "dit.pt").stat().st_size))
    found = model.state_dict()["blocks.1.attention.out.weight"]
    assert torch.equal(found, weights["blocks.1.attn.proj.weight"])


def test_half_precision_becomes_float32_of_the_same_values(tmp_path: Path) -> None:
    weights = original_weights()
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, tmp_path / "dit.safetensors")
    model = from_foreign(tmp_path / "dit.safetensors", "dit", heads=HEADS).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    expected = weights["blocks.1.mlp.fc1.weight"].bfloat16().float()
    assert torch.equal(model.state_dict()["blocks.1.feed_forward.hidden.weight"], expected)


def test_heads_of_published_widths_are_known(tmp_path: Path) -> None:
    """XL has heads of 72, the others of 64."""
    for width, heads in {384: 6, 768: 12, 1024: 16, 1152: 16}.items():
        torch.save(original_weights(width=width, at_random=False), tmp_path / "dit.pt")
        assert from_foreign(tmp_path / "dit.pt", "dit").model.config.heads == heads


def test_a_hidden_width_that_no_ratio_gives_in_floating_point(tmp_path: Path) -> None:
    assert int(28 * (61 / 28)) == 60
    save_file(original_weights(width=28, hidden=61), tmp_path / "dit.safetensors")
    model = from_foreign(tmp_path / "dit.safetensors", "dit", heads=7).model
    assert model.state_dict()["blocks.0.feed_forward.hidden.weight"].shape == (61, 28)
    model(torch.zeros(1, 9, 12).double(), same_level(torch.zeros(1)))


# --------------------------------------------------------------------------------------------------------- diffusers


class Exactly(nn.Module):
    """Diffusers' features of the timestep, which it rounds to float32, in float64."""

    def forward(self, timestep: Tensor) -> Tensor:
        angle = timestep[:, None] * 10_000 ** (-torch.arange(128, dtype=torch.float64) / 127)
        return torch.cat([angle.cos(), angle.sin()], -1)


def of_diffusers(norm_eps: float = 1e-5, shared: bool = False, gelu: str = "gelu-approximate") -> Any:
    """All weights at random, the gates too, those of its embeddings in each block others or the same."""
    model: Any = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=5,
        activation_fn=gelu,
        norm_eps=norm_eps,
    )
    generator = Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else WIDTH
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator) / fan**0.5)
        if shared:
            first, *others = model.transformer_blocks
            for block in others:
                block.norm1.emb.load_state_dict(first.norm1.emb.state_dict())
    return model.eval()


def noise_of_theirs(model: Any, z: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
    with torch.no_grad():
        return model(z, timestep, label).sample[:, :4]


@pytest.mark.parametrize(("shared", "gelu"), [(False, "gelu-approximate"), (True, "gelu-approximate"), (True, "gelu")])
def test_diffusers_in_float64(shared: bool, gelu: str, tmp_path: Path) -> None:
    theirs = of_diffusers(norm_eps=1e-6, shared=shared, gelu=gelu).double()
    theirs.save_pretrained(tmp_path)
    found = from_foreign(tmp_path, "diffusers")
    assert found.model.config.embedders == ("shared" if shared else "per_block")
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj = Exactly()
    timestep, label, z = torch.tensor([0, 1, 250, 500, 998, 999]), torch.arange(6), some_images(6, 8, 4)
    noise, tokens = same_level(LOG_SNR[timestep], 16), found.patchify.to_tokens(z)
    got = (tokens - noise.alpha * found.model(tokens, noise, label=label).mean) / noise.sigma
    eps = found.patchify.to_tokens(noise_of_theirs(theirs, z, timestep, label))
    torch.testing.assert_close(got, eps, rtol=0, atol=1e-9)


def test_diffusers_in_float32(tmp_path: Path) -> None:
    theirs = of_diffusers()
    theirs.save_pretrained(tmp_path)
    found = from_foreign(tmp_path, "diffusers")
    timestep, label, z = torch.tensor([30, 100, 250, 500, 998, 999]), torch.arange(6), some_images(6, 8, 4).float()
    noise, tokens = same_level(LOG_SNR[timestep].float(), 16), found.patchify.to_tokens(z)
    eps = found.patchify.to_tokens(noise_of_theirs(theirs, z, timestep, label))
    got = (tokens - noise.alpha * found.model(tokens, noise, label=label).mean) / noise.sigma
    torch.testing.assert_close(got, eps, rtol=0, atol=1e-5)


def test_ddim_takes_the_trajectory_that_it_takes_in_diffusers(tmp_path: Path) -> None:
    """From timestep 900 down to 0 in steps of 100; diffusers' last step goes nowhere."""
    theirs = of_diffusers()
    theirs.save_pretrained(tmp_path)
    found = from_foreign(tmp_path, "diffusers")
    scheduler: Any = DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(10)
    label, z = torch.tensor([1, 5, 0]), some_images(3, 8, 4).float()
    states = [z]
    for timestep in scheduler.timesteps:
        eps = noise_of_theirs(theirs, states[-1], timestep.expand(3), label)
        states.append(scheduler.step(eps, int(timestep), states[-1], eta=0.0).prev_sample)
    ours: list[Tensor] = []

    def keep(progress: Progress) -> None:
        ours.append(found.patchify.to_images(progress.tokens))

    walk = FollowPath(synchronous(16), lambda t: LOG_SNR[(900 * t).round().long()], 9)
    sample(found.model, DDIM(), walk, found.patchify.to_tokens(z), on_step=keep, label=label)
    assert len(ours) == 9
    for a, b in zip(ours, states[1:10], strict=True):
        torch.testing.assert_close(a / b.std(), b / b.std(), rtol=0, atol=1e-5)
    assert not torch.allclose(ours[-1] / ours[-1].std(), z, atol=0.1)


def test_weights_in_shards_and_whole_pipelines(tmp_path: Path) -> None:
    theirs = of_diffusers(shared=True)
    theirs.save_pretrained(tmp_path / "one")
    one = from_foreign(tmp_path / "one", "diffusers")
    assert one.class_names == ("0", "1", "2", "3", "4")
    theirs.save_pretrained(tmp_path / "pipeline" / "transformer", max_shard_size="20KB")
    assert len(list((tmp_path / "pipeline" / "transformer").glob("*.safetensors"))) > 1
    names = {"0": "tench, Tinca tinca", "1": "goldfish", "2": "shark", "3": "ray", "4": "cock"}
    (tmp_path / "pipeline" / "model_index.json").write_text(json.dumps({"id2label": names}))
    (tmp_path / "pipeline" / "scheduler").mkdir()
    scheduler: Any = DDIMScheduler()
    scheduler.save_config(tmp_path / "pipeline" / "scheduler")
    many = from_foreign(tmp_path / "pipeline", "diffusers")
    assert many.class_names == tuple(names.values())
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, many.model.state_dict()[name])


def test_an_older_diffusers_saved_positions_that_all_of_them_compute(tmp_path: Path) -> None:
    theirs = of_diffusers(shared=True)
    theirs.save_pretrained(tmp_path)
    found = from_foreign(tmp_path, "diffusers")
    torch.testing.assert_close(found.model.state_dict()["position"], theirs.pos_embed.pos_embed[0], rtol=0, atol=1e-7)
    weights = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    save_file(
        weights | {"pos_embed.pos_embed": torch.zeros(1, 16, 16)}, tmp_path / "diffusion_pytorch_model.safetensors"
    )
    again = from_foreign(tmp_path, "diffusers")
    assert torch.equal(again.model.state_dict()["position"], found.model.state_dict()["position"])


def test_dit_in_the_layout_of_diffusers_is_asked_as_dit(tmp_path: Path) -> None:
    """Diffusers asks with the frequencies of its own; DiT's differ by one part in 127."""
    of_diffusers(shared=True).save_pretrained(tmp_path)
    models = [from_foreign(tmp_path, convention).model for convention in ("dit", "diffusers")]
    z, noise = some_images(1, 4, 16).float().reshape(1, 16, 16), same_level(LOG_SNR[300:301].float(), 16)
    a, b = (model(z, noise).mean for model in models)
    assert not torch.allclose(a, b, atol=1e-3)
    assert [model.config.convention for model in models] == ["dit", "diffusers"]


# ---------------------------------------------------------------------------------------------------------- refusals


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("inside", [False, True])
def test_code_in_a_pickle_is_not_run(inside: bool, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    content = {"ema": original_weights() | ({"trap": trap} if inside else {}), "opt": trap}
    torch.save(content, tmp_path / "trap.pt")
    with pytest.raises(
        ModelFolderError, match=r"cannot be loaded as weights only .*save its state dict as safetensors"
    ):
        from_foreign(tmp_path / "trap.pt", "dit", heads=HEADS)
    assert not trap.folder.exists()
    torch.load(tmp_path / "trap.pt", weights_only=False)
    assert trap.folder.exists()  # it would have


def original_with(**changes: Tensor | None) -> Callable[[Path], Path]:
    """A checkpoint of which some weights are others, or none."""

    def write(folder: Path) -> Path:
        weights = original_weights() | {name.replace("__", "."): tensor for name, tensor in changes.items()}
        torch.save({name: tensor for name, tensor in weights.items() if tensor is not None}, folder / "w.pt")
        return folder / "w.pt"

    return write


def pickled(content: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.save(content, folder / "w.pt")
        return folder / "w.pt"

    return write


def file_of(name: str, content: bytes = b"no weights") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def two_files(folder: Path) -> Path:
    for name in ("a.pt", "b.safetensors"):
        (folder / name).touch()
    return folder


def own_model(folder: Path) -> Path:
    save_file(original_weights(), folder / "dit.safetensors")
    found = from_foreign(folder / "dit.safetensors", "dit", heads=HEADS)
    save_pretrained(folder / "own", found.model, found.patchify, found.class_names, found.weights)
    return folder / "own"


def diffusers_with(**changes: object) -> Callable[[Path], Path]:
    """A folder of diffusers with another configuration; without one, if nothing is said."""

    def write(folder: Path) -> Path:
        of_diffusers().save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config if changes else {}))
        return folder

    return write


def pipeline_with(**scheduler: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        of_diffusers().save_pretrained(folder / "transformer")
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
        (folder / "model_index.json").write_text("{}")
        return folder

    return write


def shard_lost(folder: Path) -> Path:
    of_diffusers().save_pretrained(folder, max_shard_size="20KB")
    next(folder.glob("*.safetensors")).unlink()
    return folder


SIT_ARGUMENTS = Namespace(path_type="GVP", prediction="velocity")
REFUSED: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "nothing": (lambda folder: folder / "nowhere", {}, "nowhere does not exist"),
    "empty folder": (lambda folder: folder, {}, "holds 0 files of weights"),
    "two files": (two_files, {}, "holds 2 files of weights .*name one"),
    "our own": (own_model, {}, "is a model of this library already"),
    "other ending": (file_of("w.onnx"), {}, r"none of \.safetensors, \.pt"),
    "no pickle": (file_of("w.pt"), {}, "cannot be loaded as weights only"),
    "empty pickle": (file_of("w.pt", b""), {}, "cannot be loaded as weights only"),
    "no safetensors": (file_of("w.safetensors"), {}, "cannot be read as safetensors"),
    "a whole module": (pickled(nn.Linear(1, 1)), {}, r"it asks for torch\.nn\.modules\.linear\.Linear"),
    "a list": (pickled([torch.zeros(1)]), {}, "holds a list, not a checkpoint"),
    "another network": (pickled({"conv1.weight": torch.zeros(1)}), {}, r"x_embedder.* expected, found conv1\.weight"),
    "no weights": (pickled({"ema": {}}), {}, "found nothing"),
    "an optimiser's state": (pickled({"state_dict": {0: torch.zeros(1)}}), {}, "found 0$"),
    "lacking": (original_with(blocks__1__mlp__fc2__bias=None), {}, r"lack blocks\.1\.mlp\.fc2\.bias$"),
    "no blocks": (
        original_with(**{name.replace(".", "__"): None for name in original_weights() if name.startswith("blocks")}),
        {},
        r"lack blocks\.0\..* and 7 more",
    ),
    "more": (original_with(blocks__0__attn__q_norm__weight=torch.ones(8)), {}, r"besides .* blocks\.0\.attn\.q_norm"),
    "no tensor": (original_with(pos_embed=3), {}, "pos_embed .*but int"),  # pyrefly: ignore
    "integers": (original_with(pos_embed=torch.zeros(1, 9, 16, dtype=torch.int8)), {}, r"pos_embed .*but torch\.int8"),
    "no convolution": (
        original_with(x_embedder__proj__weight=torch.zeros(16, 12)),
        {},
        r"x_embedder\.proj\.weight has shape \(16, 12\), which no DiT has",
    ),
    "oblong patches": (
        original_with(x_embedder__proj__weight=torch.zeros(16, 3, 2, 1)),
        {},
        r"x_embedder\.proj\.weight has shape \(16, 3, 2, 1\), expected \(16, 3, 2, 2\)",
    ),
    "oblong grid": (
        original_with(pos_embed=torch.zeros(1, 8, 16)),
        {},
        r"pos_embed has shape \(1, 8, 16\), expected \(1, 4, 16\)",
    ),
    "three outputs": (
        original_with(final_layer__linear__weight=torch.zeros(36, 16)),
        {},
        r"final_layer\.linear\.weight predicts 9 numbers a pixel of 3 channels",
    ),
    "one shape": (
        original_with(blocks__1__attn__qkv__bias=torch.zeros(47)),
        {},
        r"blocks\.1\.attn\.qkv\.bias has shape \(47,\), expected \(48,\)",
    ),
    "unknown heads": (original_with(), {"heads": None}, "width 16 is not published .*: give heads"),
    "impossible heads": (original_with(), {"heads": 5}, "5 heads do not divide a width of 16"),
    "negative heads": (original_with(), {"heads": -2}, "heads must be at least 1, got -2"),
    "class names": (original_with(), {"class_names": ["a"]}, "1 class names for a model of 5 classes"),
    "as diffusers": (original_with(), {"convention": "diffusers"}, "converted as dit or sit, not as diffusers"),
    "SiT's path": (
        pickled({"ema": original_weights(), "args": SIT_ARGUMENTS}),
        {"convention": "sit"},
        "predicts the velocity on the path GVP; known is",
    ),
    "SiT as DiT": (
        pickled({"ema": original_weights(), "args": SIT_ARGUMENTS}),
        {},
        "trained by SiT.*convert it as sit",
    ),
    "diffusers as SiT": (diffusers_with(a=1), {"convention": "sit"}, "converted as diffusers or dit, not as sit"),
    "no configuration": (diffusers_with(), {}, "says how large images are, in sample_size; got None"),
    "no multiple": (diffusers_with(sample_size=7), {}, "in sample_size; got 7"),
    "other norm": (diffusers_with(norm_type="ada_norm"), {}, "has norm_type 'ada_norm'; known is 'ada_norm_zero'"),
    "other epsilon": (diffusers_with(norm_eps=1e-3), {}, r"has norm_eps 0\.001; known is 1e-05 or 1e-06"),
    "other schedule": (pipeline_with(beta_schedule="scaled_linear"), {}, "has beta_schedule 'scaled_linear'"),
    "shard lost": (shard_lost, {}, "cannot be read as safetensors"),
    "no JSON": (lambda folder: file_of("config.json", b"{")(diffusers_with()(folder)).parent, {}, "read as JSON"),
    "no object": (lambda folder: file_of("config.json", b"1")(diffusers_with()(folder)).parent, {}, "a JSON object"),
}


@pytest.mark.parametrize(("write", "options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_converted_is_refused_in_one_line(
    write: Callable[[Path], Path], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = write(tmp_path)
    given: dict[str, Any] = {
        "convention": "diffusers" if (tmp_path / "config.json").exists() else "dit",
        "heads": HEADS,
        **options,
    }
    with pytest.raises(ModelFolderError, match=message) as refusal:
        from_foreign(source, **given)
    assert "\n" not in str(refusal.value)
