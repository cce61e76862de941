"""Models with random weights, inputs, and the transformer written out token by token."""

import math
from typing import Any

import torch
from torch import Generator, Tensor

from apd_models import DiT, DiTConfig
from apd_schedules import NoiseMap, RectifiedFlow

GRID, N, D = (2, 3), 6, 4


def random_model(seed: int = 0, **options: Any) -> DiT:
    """In float64, with all weights at random: at initialisation the model is blind to everything."""
    fields: dict[str, Any] = {"grid": GRID, "token_dim": D, "width": 32, "depth": 2, "heads": 2, "classes": 3}
    model = DiT(DiTConfig(**(fields | options))).eval().double()
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs(batch: int = 3, seed: int = 0, elements: int = 1, few: int | None = None) -> tuple[Tensor, NoiseMap, Tensor]:
    """Noisy tokens, a map of distinct levels (or of ``few``), and labels, of which one may be none."""
    generator = Generator().manual_seed(seed)
    z = torch.randn(batch, N, D, generator=generator, dtype=torch.float64)
    levels = torch.rand(batch, N, elements, generator=generator, dtype=torch.float64)
    if few is not None:
        levels = (levels * few).ceil() / few
    return z, NoiseMap(RectifiedFlow()(levels)), torch.randint(4, (batch,), generator=generator)


def written_out(model: DiT, z: Tensor, noise: NoiseMap, label: Tensor) -> Tensor:
    """The flow that ``model`` predicts, by the textbook: one modulation a token, attention by hand, no table."""
    of, w = model.config, dict(model.named_parameters())
    flow_level = (-0.5 * noise.log_snr[..., 0]).sigmoid()
    angle = flow_level[..., None] * 1000 ** (torch.arange(64, dtype=torch.float64) / 63)
    features = torch.cat([angle.sin(), angle.cos()], -1)
    silu = lambda x: x * torch.sigmoid(x)
    linear = lambda x, name: x @ w[f"{name}.weight"].T + (w[f"{name}.bias"] if f"{name}.bias" in w else 0)
    level = linear(silu(linear(features, "level.hidden")), "level.out")
    named = w["label.weight"][label][:, None]
    norm = lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()

    def parts(name: str, k: int) -> tuple[Tensor, ...]:
        if of.conditioning == "joint":
            rows = linear(silu(level + named), f"{name}.linear")
        else:
            rows = linear(silu(level), f"{name}.linear")
            if of.conditioning == "separable":
                rows = rows + silu(named) @ w[f"{name}.of_label.weight"].T
        return rows.chunk(k, -1)

    def gelu(x: Tensor) -> Tensor:
        if of.gelu == "erf":
            return 0.5 * x * (1 + torch.erf(x / 2**0.5))
        return 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))

    size = (noise.alpha.square() * of.data_std**2 + noise.sigma.square()).rsqrt()
    x = linear(z * size, "embed") + w["position"]
    if of.conditioning == "token":
        x = x + named
    for i in range(of.depth):
        block = f"blocks.{i}"
        shift, scale, gate, shift_f, scale_f, gate_f = parts(f"{block}.modulation", 6)
        q, k, v = linear(norm(x) * scale + shift, f"{block}.attention.qkv").unflatten(-1, (3, of.heads, -1)).unbind(-3)
        if of.qk_norm:
            q = norm(q) * w[f"{block}.attention.q_norm.weight"] + w[f"{block}.attention.q_norm.bias"]
            k = norm(k)
        scores = torch.einsum("bihc,bjhc->bhij", q, k) / q.shape[-1] ** 0.5
        mixed = torch.einsum("bhij,bjhc->bihc", scores.softmax(-1), v).flatten(-2)
        x = x + gate * linear(mixed, f"{block}.attention.out")
        hidden = gelu(linear(norm(x) * scale_f + shift_f, f"{block}.feed_forward.hidden"))
        x = x + gate_f * linear(hidden, f"{block}.feed_forward.out")
    shift, scale = parts("head_modulation", 2)
    return linear(norm(x) * scale + shift, "head")
