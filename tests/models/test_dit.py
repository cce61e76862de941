"""The transformer: what it must and must not depend on, and the price of a level per token."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from apd_models import DiT, DiTConfig
from apd_models._conventions import CONVENTIONS
from apd_models._dit import Block
from apd_models._modulation import LevelEmbedding, Modulation, distinct_levels
from apd_schedules import NoiseMap, RectifiedFlow
from strategies import seeds

CONFIG = DiTConfig((2, 3), token_dim=4, width=32, depth=2, heads=4, classes=3, data_std=0.8)
N = 6


def random_model(config: DiTConfig = CONFIG, seed: int = 0) -> DiT:
    """Weights at random, the zero-initialised ones too: at initialisation the model is blind to everything."""
    model = DiT(config).eval()
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs(batch: int, seed: int = 0) -> tuple[Tensor, NoiseMap, Tensor]:
    generator = Generator().manual_seed(seed)
    z = torch.randn(batch, N, 4, generator=generator)
    levels = torch.rand(batch, N, 1, generator=generator)
    return z, NoiseMap(RectifiedFlow()(levels)), torch.randint(4, (batch,), generator=generator)


def test_starts_by_predicting_no_velocity() -> None:
    """Zero-initialised head: x̂ = z / (alpha + sigma), whatever the label."""
    z, noise, label = inputs(3)
    mean = DiT(CONFIG)(z, noise, label=label).mean
    torch.testing.assert_close(mean, z / (noise.alpha + noise.sigma))


@settings(max_examples=20)
@given(seeds, st.integers(1, 4))
def test_samples_do_not_see_each_other(seed: int, batch: int) -> None:
    model = random_model()
    z, noise, label = inputs(batch, seed)
    together = model(z, noise, label=label).mean
    alone = torch.cat(
        [model(z[i : i + 1], NoiseMap(noise.log_snr[i : i + 1]), label=label[i : i + 1]).mean for i in range(batch)]
    )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@settings(max_examples=20)
@given(seeds)
def test_tokens_are_a_set_once_they_carry_their_positions(seed: int) -> None:
    model = random_model()
    z, noise, label = inputs(2, seed)
    order = torch.randperm(N, generator=Generator().manual_seed(seed))
    straight = model(z, noise, label=label).mean
    assert model.position is not None
    model.position.data = model.position.data[order]
    mixed = model(z[:, order], NoiseMap(noise.log_snr[:, order]), label=label).mean
    torch.testing.assert_close(mixed, straight[:, order], rtol=1e-4, atol=1e-5)


def test_every_output_sees_every_token_every_level_and_the_label() -> None:
    model = random_model()
    z, noise, label = inputs(1)
    z, log_snr = z.requires_grad_(), noise.log_snr.requires_grad_()
    mean = model(z, NoiseMap(log_snr), label=label).mean
    for i in range(N):
        by_z, by_level = torch.autograd.grad(mean[0, i].sum(), (z, log_snr), retain_graph=True)
        assert (by_z[0].abs().sum(-1) > 0).all()
        assert (by_level[0].abs().sum(-1) > 0).all()
    other = model(z, NoiseMap(log_snr), label=(label + 1) % 3).mean
    assert not torch.allclose(mean, other)


def test_one_map_for_all_samples_is_the_same_map_for_each() -> None:
    model = random_model()
    z, noise, label = inputs(3)
    one = NoiseMap(noise.log_snr[0])
    each = NoiseMap(noise.log_snr[:1].expand(3, N, 1))
    torch.testing.assert_close(model(z, one, label=label).mean, model(z, each, label=label).mean)


def test_equal_levels_said_token_by_token_are_one_level() -> None:
    """The short cut for synchronous maps changes nothing: break it by a level that is equal but for its last bit."""
    model = random_model().double()
    z, _, label = inputs(3)
    same = torch.full((3, N, 1), 0.3, dtype=torch.float64)
    nearly = same.clone()
    nearly[0, 0, 0] += 1e-15
    a = model(z.double(), NoiseMap(same), label=label).mean
    b = model(z.double(), NoiseMap(nearly), label=label).mean
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_without_a_label_is_the_null_label() -> None:
    model = random_model()
    z, noise, _ = inputs(3)
    null = torch.full((3,), model.null_label)
    assert torch.equal(model(z, noise).mean, model(z, noise, label=null).mean)
    free = random_model(dataclasses.replace(CONFIG, classes=0))
    assert free.null_label == 0
    free(z, noise)


def test_the_table_of_levels_is_the_product_for_each_token() -> None:
    """Gathered modulation against a D → 6D product per token, in float64, values and gradients."""
    torch.manual_seed(0)
    embed, modulation = LevelEmbedding(8, CONVENTIONS["flow"]).double(), Modulation(8, 6).double()
    torch.nn.init.normal_(modulation.linear.weight)
    level = torch.randint(5, (4, 7)).double() / 5
    levels = distinct_levels(level)
    assert len(levels.log_snr) == len(level.unique())
    rows = modulation(F.silu(embed(levels.log_snr)), levels.index)
    got = torch.cat([rows.part(k) for k in range(6)], -1)
    naive = modulation.linear(F.silu(embed(level.flatten())).unflatten(0, (4, 7)))
    torch.testing.assert_close(got, naive, rtol=1e-12, atol=1e-12)
    weights = [*embed.parameters(), *modulation.parameters()]
    probe = torch.randn_like(got)
    for a, b in zip(torch.autograd.grad(got, weights, probe), torch.autograd.grad(naive, weights, probe), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_arithmetic_grows_with_distinct_levels_not_with_tokens() -> None:
    """256 tokens of two levels cost the products of two rows more than one level does, not of 256."""
    config = DiTConfig((16, 16), token_dim=4, width=64, depth=2, heads=4)
    model, z = random_model(config), torch.zeros(1, 256, 4)

    def flops(level: Tensor) -> int:
        with FlopCounterMode(display=False) as counter:
            model(z, NoiseMap(level))
        return counter.get_total_flops()

    one, two = flops(torch.zeros(1, 256, 1)), flops((torch.arange(256) % 2).float().reshape(1, 256, 1))
    row = 2 * (2 * 64 * 6 * 64 + 64 * 2 * 64 + 128 * 64 + 64 * 64)  # two blocks, the head, the embedding
    assert two - one == row


def test_unit_variance_in_at_every_level() -> None:
    model = DiT(dataclasses.replace(CONFIG, data_std=0.5))
    entered: list[Tensor] = []
    model.embed.register_forward_pre_hook(lambda module, arguments: entered.append(arguments[0]))
    generator = Generator().manual_seed(0)
    noise = NoiseMap(torch.linspace(-8, 8, N)[:, None])
    x, eps = torch.randn(2, 20_000, N, 4, generator=generator)
    model(noise.alpha * 0.5 * x + noise.sigma * eps, noise)
    torch.testing.assert_close(entered[0].var((0, 2)), torch.ones(N), rtol=0.02, atol=0)


def test_float32_where_it_matters_under_autocast() -> None:
    model = random_model()
    z, noise, label = inputs(2)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(z, noise, label=label).mean
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, model(z, noise, label=label).mean, rtol=0.1, atol=0.1)


def test_levels_of_elements_are_refused() -> None:
    z, _, label = inputs(2)
    with pytest.raises(ValueError, match="one level a token, got 4"):
        DiT(CONFIG)(z, NoiseMap(torch.zeros(2, N, 4)), label=label)


@pytest.mark.parametrize(
    "change", [{"width": 30}, {"heads": 5}, {"depth": 0}, {"classes": -1}, {"data_std": 0.0}, {"mlp_ratio": -1.0}]
)
def test_impossible_shapes_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|at least|or more"):
        dataclasses.replace(CONFIG, **change)  # pyrefly: ignore


def test_a_block_is_adaln_zero_written_out() -> None:
    """x + gate f(LN(x) scale + shift), for attention and then for the feed-forward network, each with its own three."""
    torch.manual_seed(0)
    block = Block(DiTConfig((1, 5), 1, width=8, heads=2, mlp_ratio=2.0)).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    of_level, index = torch.randn(3, 8, dtype=torch.float64), torch.randint(3, (2, 5))
    rows = block.modulation.linear(of_level)[index]
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = rows.split(8, -1)
    norm = lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    q, k, v = block.attention.qkv(norm(x) * scale_a + shift_a).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    assert block.attention.q_norm is not None
    q = norm(q) * block.attention.q_norm.weight + block.attention.q_norm.bias
    mixed = (q @ norm(k).mT / 2).softmax(-1) @ v
    x_a = x + gate_a * block.attention.out(mixed.transpose(1, 2).flatten(2))
    hidden = block.feed_forward.hidden(norm(x_a) * scale_f + shift_f)
    gelu = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    expected = x_a + gate_f * block.feed_forward.out(gelu)
    torch.testing.assert_close(block(x, block.modulation(of_level, index)), expected, rtol=1e-9, atol=1e-9)
